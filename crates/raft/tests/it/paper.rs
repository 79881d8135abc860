//! The Raft paper ("In Search of an Understandable Consensus Algorithm", extended version) walked
//! section by section: each test is a sentence or two of it, in our words.

use bytes::Bytes;
use kvorum_base::{Index, Planted, Prng, ReplicaId, Term};
use kvorum_raft::{
    AppendOutcome, Body, Effect, Entry, HardState, Message, Payload, Persist, Raft, Restored,
    RoleName,
};

use crate::cluster::{Cluster, members, small_config};
use crate::host::encode;

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(2);
const C: ReplicaId = ReplicaId(3);

fn entries(terms: &[u64]) -> Vec<Entry> {
    let numbered = terms.iter().zip(1..);
    let entry = |(term, index): (&u64, u64)| Entry {
        index: Index(index),
        term: Term(*term),
        payload: Payload::Command,
        data: Bytes::from(format!("{index}@{term}")),
    };
    numbered.map(entry).collect()
}

/// Replica A of three, with this log, in this term.
fn replica(term: u64, terms: &[u64]) -> Raft {
    let restored = Restored {
        hard_state: HardState {
            term: Term(term),
            vote: None,
        },
        entries: entries(terms),
        ..Restored::fresh(members(1..=3))
    };
    let config = kvorum_raft::Config {
        id: A,
        ..small_config(Planted::default())
    };
    Raft::new(config, restored, Prng::new(7))
}

fn message(term: u64, body: Body) -> Message {
    Message {
        term: Term(term),
        body,
    }
}

fn vote(last_index: u64, last_term: u64) -> Body {
    Body::Vote {
        last_index: Index(last_index),
        last_term: Term(last_term),
        transfer: false,
    }
}

fn append(prev_index: u64, prev_term: u64, entries: &[Entry], commit: u64) -> Body {
    Body::Append {
        prev_index: Index(prev_index),
        prev_term: Term(prev_term),
        entries: entries.to_vec(),
        commit: Index(commit),
    }
}

/// Everything asked for so far, made durable, and what is sent because of it.
fn effects(raft: &mut Raft) -> Vec<Effect> {
    let mut effects = Vec::new();
    raft.effects(&mut effects);
    let written = effects.iter().filter_map(|effect| match effect {
        Effect::Persist { seq, .. } => Some(*seq),
        _ => None,
    });
    if let Some(seq) = written.max() {
        raft.persisted(seq);
        raft.effects(&mut effects);
    }
    raft.check();
    effects
}

fn sent(raft: &mut Raft) -> Vec<(ReplicaId, Message)> {
    let effects = effects(raft).into_iter().filter_map(|effect| match effect {
        Effect::Send { to, message } => Some((to, message)),
        _ => None,
    });
    effects.collect()
}

fn terms(raft: &Raft) -> Vec<u64> {
    let entries = raft.entries(Index(1)..=raft.last_index());
    entries.map(|entry| entry.term.get()).collect()
}

/// A as the leader of a term in which B voted for it.
fn leader(term: u64, log: &[u64]) -> Raft {
    let mut raft = replica(term - 1, log);
    raft.campaign();
    sent(&mut raft);
    raft.step(B, message(term, Body::PreVoteReply { granted: true }));
    sent(&mut raft);
    raft.step(B, message(term, Body::VoteReply { granted: true }));
    assert!(raft.is_leader(), "{:?}", raft.status());
    raft
}

/// Section 5.1: a replica that hears of a newer term moves to it, and if it was a candidate or
/// leader it is a follower again.
#[test]
fn section_5_1_a_newer_term_makes_followers() {
    let mut raft = leader(2, &[1]);
    sent(&mut raft);
    raft.step(C, message(5, Body::HeartbeatReply { read: 0 }));
    assert_eq!(
        (raft.term(), raft.role_name()),
        (Term(5), RoleName::Follower)
    );
}

/// Section 5.1: a request with an older term is refused.
#[test]
fn section_5_1_older_terms_are_refused() {
    let mut raft = replica(3, &[1]);
    raft.step(B, message(2, append(1, 1, &[], 1)));
    raft.step(B, message(2, vote(9, 2)));
    let sent = sent(&mut raft);
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|(_, message)| message.term == Term(3)));
    assert!(matches!(sent[1].1.body, Body::VoteReply { granted: false }));
    assert_eq!((raft.leader(), raft.commit()), (None, Index(0)));
}

/// Section 5.2: a follower that hears nothing over an election timeout begins an election; to do so
/// it increments its term, votes for itself and asks all others in parallel.
#[test]
fn section_5_2_an_election_begins_after_a_timeout() {
    let mut raft = replica(1, &[1]);
    let mut asked = Vec::new();
    for _ in 0..20 {
        raft.tick();
        if asked.is_empty() {
            asked = sent(&mut raft);
        }
    }
    sent(&mut raft);
    assert_eq!(asked.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [B, C]);
    assert_eq!(raft.term(), Term(1), "a pre-vote changes nothing");
    raft.step(B, message(2, Body::PreVoteReply { granted: true }));
    let asked = sent(&mut raft);
    assert_eq!(asked.iter().map(|(to, _)| *to).collect::<Vec<_>>(), [B, C]);
    assert_eq!(raft.hard_state().vote, Some(A));
    assert_eq!(raft.term(), Term(2));
}

/// Section 5.2: each replica votes for at most one candidate in a term, first come first served.
#[test]
fn section_5_2_one_vote_in_a_term() {
    let mut raft = replica(1, &[1]);
    raft.step(B, message(2, vote(1, 1)));
    raft.step(C, message(2, vote(1, 1)));
    raft.step(B, message(2, vote(1, 1)));
    let granted: Vec<_> = sent(&mut raft)
        .into_iter()
        .map(|(to, message)| (to, message.body == Body::VoteReply { granted: true }))
        .collect();
    assert_eq!(granted, [(B, true), (C, false), (B, true)]);
}

/// Section 5.2: a candidate that hears a leader of its term or a newer one recognises it.
#[test]
fn section_5_2_a_candidate_follows_a_legitimate_leader() {
    for newer in [0, 1] {
        let mut raft = replica(1, &[1]);
        raft.campaign();
        raft.step(B, message(2, Body::PreVoteReply { granted: true }));
        sent(&mut raft);
        assert_eq!(raft.role_name(), RoleName::Candidate);
        raft.step(C, message(2 + newer, append(1, 1, &[], 0)));
        assert_eq!(
            (raft.role_name(), raft.leader()),
            (RoleName::Follower, Some(C))
        );
    }
}

/// Section 5.2: if nobody wins, candidates time out and try again in a new term; timeouts are drawn
/// anew, so that ties do not repeat for ever.
#[test]
fn section_5_2_split_votes_end() {
    for seed in 0..50 {
        let mut cluster = Cluster::new(4, small_config(Planted::default()), Prng::new(seed));
        cluster.run_ticks(200, |_| true);
        assert!(cluster.leader().is_some(), "seed {seed}");
    }
}

/// Section 5.3: an append names the entry before its own; a follower without that entry refuses.
#[test]
fn section_5_3_the_consistency_check() {
    for (prev_index, prev_term) in [(3, 1), (2, 2), (9, 3)] {
        let mut raft = replica(3, &[1, 1]);
        raft.step(B, message(3, append(prev_index, prev_term, &[], 0)));
        let sent = sent(&mut raft);
        let Body::AppendReply { outcome, .. } = sent[0].1.body else {
            panic!("{sent:?}");
        };
        assert!(
            matches!(outcome, AppendOutcome::Conflict { .. }),
            "{outcome:?}"
        );
    }
}

/// Section 5.3, figure 7: whatever a follower misses or has too much, a leader makes its log its own.
#[test]
fn section_5_3_figure_7_logs_are_brought_together() {
    let of_leader = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for log in followers {
        let mut leader = leader(8, &of_leader);
        let mut follower = replica_as(B, 7, log);
        let mut rounds = 0;
        while follower.last_index() != leader.last_index() || terms(&follower) != terms(&leader) {
            rounds += 1;
            assert!(rounds < 8, "{log:?}: {:?}", follower.status());
            for (to, message) in sent(&mut leader) {
                if to == B {
                    follower.step(A, message);
                }
            }
            for (_, message) in sent(&mut follower) {
                leader.step(B, message);
            }
        }
    }
}

fn replica_as(id: ReplicaId, term: u64, log: &[u64]) -> Raft {
    let restored = Restored {
        hard_state: HardState {
            term: Term(term),
            vote: None,
        },
        entries: entries(log),
        ..Restored::fresh(members(1..=3))
    };
    let config = kvorum_raft::Config {
        id,
        ..kvorum_raft::Config::new(id, encode)
    };
    Raft::new(config, restored, Prng::new(9))
}

/// Section 5.3: a follower drops what conflicts, appends what it lacks, and nothing else: an append
/// that it has already changes nothing and is not written again.
#[test]
fn section_5_3_only_conflicts_are_dropped() {
    let mut raft = replica(2, &[1, 1, 1]);
    raft.step(B, message(2, append(0, 0, &entries(&[1, 1]), 0)));
    let written = |effects: &[Effect]| {
        let writes = effects.iter().filter_map(|effect| match effect {
            Effect::Persist {
                what: Persist::Append(entries),
                ..
            } => Some(entries.len()),
            _ => None,
        });
        writes.collect::<Vec<_>>()
    };
    assert_eq!(written(&effects(&mut raft)), [] as [usize; 0]);
    assert_eq!(terms(&raft), [1, 1, 1]);
    raft.step(B, message(2, append(0, 0, &entries(&[1, 2]), 0)));
    assert_eq!(written(&effects(&mut raft)), [1]);
    assert_eq!(terms(&raft), [1, 2]);
}

/// Section 5.3: a follower's commit index is the leader's, but not beyond the last entry that this
/// append is known to agree on.
#[test]
fn section_5_3_commit_is_cut_to_what_agrees() {
    let mut raft = replica(1, &[1, 1, 1]);
    raft.step(B, message(1, append(1, 1, &[], 3)));
    assert_eq!(raft.commit(), Index(1));
    raft.step(B, message(1, append(1, 1, &entries(&[1, 1])[1..], 3)));
    assert_eq!(raft.commit(), Index(2));
}

/// Section 5.4.1: a vote is refused to a candidate whose log is less up to date: the later last term
/// wins, then the longer log.
#[test]
fn section_5_4_1_only_up_to_date_candidates_get_votes() {
    for (last_index, last_term, expected) in [
        (3, 2, true),
        (4, 2, true),
        (1, 3, true),
        (2, 2, false),
        (9, 1, false),
    ] {
        let mut raft = replica(3, &[1, 1, 2]);
        raft.step(B, message(4, vote(last_index, last_term)));
        let granted = Body::VoteReply { granted: expected };
        assert_eq!(
            sent(&mut raft)[0].1.body,
            granted,
            "{last_index}@{last_term}"
        );
    }
}

/// Section 5.4.2: entries of earlier terms are never committed by counting, only with an entry of the
/// leader's own term after them.
#[test]
fn section_5_4_2_old_entries_are_committed_indirectly() {
    let mut raft = leader(3, &[1, 2]);
    sent(&mut raft);
    let matched = |index| Body::AppendReply {
        prev_index: Index(0),
        outcome: AppendOutcome::Matched(Index(index)),
    };
    raft.step(B, message(3, matched(2)));
    assert_eq!(raft.commit(), Index(0));
    raft.step(B, message(3, matched(3)));
    assert_eq!(raft.commit(), Index(3));
}

/// Section 5.5: requests may come twice without harm.
#[test]
fn section_5_5_requests_are_idempotent() {
    let mut raft = replica(2, &[1]);
    let first = message(2, append(1, 1, &entries(&[1, 2])[1..], 2));
    raft.step(B, first.clone());
    let one = sent(&mut raft);
    raft.step(B, first);
    assert_eq!(sent(&mut raft), one);
    assert_eq!(terms(&raft), [1, 2]);
}

/// Figure 2: term and vote are on stable storage before an answer.
#[test]
fn figure_2_answers_wait_for_the_disk() {
    let mut raft = replica(1, &[1]);
    raft.step(B, message(2, vote(1, 1)));
    let mut effects = Vec::new();
    raft.effects(&mut effects);
    let is_send = |effect: &Effect| matches!(effect, Effect::Send { .. });
    assert!(!effects.iter().any(is_send), "{effects:?}");
    raft.persisted(1);
    raft.effects(&mut effects);
    assert!(effects.iter().any(is_send), "{effects:?}");
}

/// Section 6: a replica uses the newest membership in its log, committed or not, and a leader that
/// is not in it goes when it is committed.
#[test]
fn section_6_a_leader_that_left_goes() {
    let mut cluster = Cluster::new(3, small_config(Planted::default()), Prng::new(3));
    cluster.with(A, |host| host.raft.campaign());
    cluster.run_ticks(1, |_| true);
    let mut target = kvorum_raft::Target::of(cluster.host(A).raft.membership());
    target.voters.remove(&A);
    let proposed = cluster.with(A, |host| host.raft.propose_membership(Index(0), &target));
    assert!(matches!(proposed, Some(Ok(_))));
    assert!(
        cluster.host(A).raft.membership().is_joint(),
        "in force at once"
    );
    cluster.run_ticks(2, |_| true);
    assert!(!cluster.host(A).raft.is_leader());
    assert!(cluster.leader().is_some_and(|leader| leader != A));
}

/// Section 7: a snapshot replaces the log that it covers, and an entry after it that agrees is kept.
#[test]
fn section_7_a_snapshot_of_what_is_held_changes_nothing() {
    let mut raft = replica(2, &[1, 1, 2]);
    let snapshot = kvorum_raft::SnapshotId {
        index: Index(2),
        term: Term(1),
        sender: B,
        number: 1,
    };
    let chunk = kvorum_raft::Chunk {
        snapshot,
        membership: std::sync::Arc::new(members(1..=3)),
        seq: 0,
        last: true,
        data: Bytes::from_static(b"state"),
    };
    raft.step(B, message(2, Body::Chunk(chunk)));
    let effects = effects(&mut raft);
    let staged = |effect: &Effect| matches!(effect, Effect::StageChunk { .. });
    assert!(!effects.iter().any(staged), "{effects:?}");
    assert_eq!((terms(&raft), raft.commit()), (vec![1, 1, 2], Index(2)));
}

/// Section 8: a leader commits an entry of its own term first, and confirms itself by heartbeats
/// before each read.
#[test]
fn section_8_reads_need_a_majority_of_heartbeats() {
    let mut raft = leader(2, &[1]);
    sent(&mut raft);
    let number = raft.read().expect("it leads");
    let confirmed = |raft: &mut Raft| {
        let mut effects = effects(raft).into_iter();
        effects.find_map(|effect| match effect {
            Effect::ReadConfirmed { number, index } => Some((number, index)),
            _ => None,
        })
    };
    raft.step(B, message(2, Body::HeartbeatReply { read: number }));
    assert_eq!(
        confirmed(&mut raft),
        None,
        "nothing of its term is committed"
    );
    let outcome = AppendOutcome::Matched(Index(2));
    let prev_index = Index(1);
    let body = Body::AppendReply {
        prev_index,
        outcome,
    };
    raft.step(B, message(2, body));
    assert_eq!(confirmed(&mut raft), Some((number, Index(2))));
}
