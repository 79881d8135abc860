//! Messages that no correct replica sends: they may confuse, but they must not stop a replica.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Index, NodeId, Planted, Prng, ReplicaId, Term};
use kvorum_raft::{AppendOutcome, Body, Chunk, Entry, Membership, Message, Payload, SnapshotId};

use crate::cluster::{Cluster, members, small_config};

fn small(prng: &mut Prng) -> u64 {
    match prng.below(20) {
        0 => u64::MAX - prng.below(3),
        1 => (1 << 62) - prng.below(2),
        _ => prng.below(8),
    }
}

fn membership(prng: &mut Prng) -> Arc<Membership> {
    let mut set = || {
        (0..prng.below(4))
            .map(|_| ReplicaId(prng.range(1, 4)))
            .collect()
    };
    let (voters, outgoing, learners) = (set(), set(), set());
    let nodes = (1..=4).map(|id| (ReplicaId(id), NodeId(id)));
    let mut membership = Membership {
        id: Index(prng.below(9)),
        voters,
        outgoing,
        learners,
        nodes: nodes.collect(),
        floor: ReplicaId(prng.below(3)),
    };
    if prng.chance(1, 2) {
        membership = members(1..=prng.range(1, 4));
    }
    Arc::new(membership)
}

fn entry(prng: &mut Prng, index: u64, term: u64) -> Entry {
    let payload = match prng.below(6) {
        0 => Payload::Empty,
        1 => Payload::Membership(membership(prng)),
        _ => Payload::Command,
    };
    Entry {
        index: Index(index),
        term: Term(term),
        payload,
        data: Bytes::from_static(b"?"),
    }
}

fn body(prng: &mut Prng) -> Body {
    let index = Index(small(prng));
    let term = Term(small(prng));
    let yes = prng.chance(1, 2);
    let snapshot = SnapshotId {
        index,
        term,
        sender: ReplicaId(prng.range(1, 4)),
        number: prng.below(3),
    };
    match prng.below(11) {
        0 => Body::PreVote {
            last_index: index,
            last_term: term,
        },
        1 => Body::PreVoteReply { granted: yes },
        2 => Body::Vote {
            last_index: index,
            last_term: term,
            transfer: yes,
        },
        3 => Body::VoteReply { granted: yes },
        4 => {
            let mut at = index.get();
            let mut of = term.get();
            let count = prng.below(4);
            let entries = (0..count).map(|_| {
                at = at.wrapping_add(1);
                of = of.wrapping_add(prng.below(2));
                entry(prng, at, of)
            });
            Body::Append {
                prev_index: index,
                prev_term: term,
                entries: entries.collect(),
                commit: Index(small(prng)),
            }
        }
        5 => Body::AppendReply {
            prev_index: index,
            outcome: if yes {
                AppendOutcome::Matched(Index(small(prng)))
            } else {
                let index = Index(small(prng));
                AppendOutcome::Conflict { index, term }
            },
        },
        6 => Body::Heartbeat {
            commit: index,
            read: small(prng),
        },
        7 => Body::HeartbeatReply { read: small(prng) },
        8 => Body::TimeoutNow,
        9 => Body::Chunk(Chunk {
            snapshot,
            membership: membership(prng),
            seq: prng.below(3),
            last: yes,
            data: Bytes::new(),
        }),
        _ => Body::ChunkReply {
            snapshot,
            next: small(prng),
        },
    }
}

/// One replica among liars. The judge of a real cluster has nothing to say here; the replica's own
/// invariants have.
#[test]
fn nothing_that_is_said_stops_a_replica() {
    for seed in 0..2000 {
        let mut prng = Prng::new(seed);
        let mut cluster = Cluster::new(3, small_config(Planted::default()), prng.fork());
        let id = ReplicaId(1);
        let host = cluster.hosts.get_mut(&id).expect("a replica");
        let mut effects = Vec::new();
        for _ in 0..150 {
            match prng.below(10) {
                0 => host.raft.tick(),
                1 => host.raft.campaign(),
                2 => drop(host.raft.propose(Bytes::from_static(b"command"))),
                3 => drop(host.raft.read()),
                4 if host.raft.commit() > Index::ZERO => {
                    host.raft.applied_to(host.raft.commit());
                    let most = host.raft.applied().min(host.raft.persisted_index());
                    host.raft.compact(Index(prng.below(most.get() + 1)));
                }
                _ => {
                    let near = host.raft.term().get() + prng.below(2);
                    let term = if prng.chance(3, 4) {
                        near
                    } else {
                        small(&mut prng)
                    };
                    let message = Message {
                        term: Term(term),
                        body: body(&mut prng),
                    };
                    host.raft.step(ReplicaId(prng.range(1, 4)), message);
                }
            }
            host.raft.effects(&mut effects);
            let writes = effects.iter().filter_map(|effect| match effect {
                kvorum_raft::Effect::Persist { seq, .. } => Some(*seq),
                _ => None,
            });
            if let Some(seq) = writes.max()
                && prng.chance(1, 2)
            {
                host.raft.persisted(seq);
                effects.clear();
            }
            host.raft.check();
        }
    }
}
