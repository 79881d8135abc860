//! Random walks: anything may happen next, and after each step the properties must hold. In the end
//! the network is healed and the group has to agree again soon.
//!
//! `KVORUM_SEEDS=5000` walks more seeds, `KVORUM_SEED=17` only that one.

use std::collections::BTreeMap;

use kvorum_base::{Index, NodeId, Planted, Prng, ReplicaId};
use kvorum_raft::{Config, Membership, SnapshotId, Target};

use crate::cluster::{Cluster, Envelope, small_config};

/// Things that happen in one walk.
const STEPS: u64 = 12_000;

/// Ids of replicas that may ever exist in a walk.
const REPLICAS: u64 = 7;

/// Something that may happen, and how often compared with the rest.
type Weighted = (u64, fn(&mut Walk));

struct Walk {
    cluster: Cluster,
    prng: Prng,
    /// Percent of messages that are lost, and delivered twice.
    loss: u64,
    duplicates: u64,
    /// Replicas that cannot be reached at present.
    cut: Vec<ReplicaId>,
    /// How fast each clock runs, in quarters.
    speeds: Vec<u64>,
    proposals: u64,
    /// What may happen, and how often compared with the rest; other for each walk, since what is
    /// always a little likely together is never likely enough alone.
    weights: Vec<Weighted>,
}

const ACTIONS: [Weighted; 18] = [
    (460, Walk::deliver_one),
    (280, Walk::tick),
    (90, Walk::sync),
    (50, Walk::propose),
    (15, Walk::read),
    (25, Walk::apply),
    (12, Walk::crash_or_restart),
    (16, Walk::restart_in_election),
    (8, Walk::cut_or_heal),
    (12, Walk::compact),
    (12, Walk::change_members),
    (4, Walk::reset_link),
    (4, Walk::transfer),
    (3, Walk::permit),
    (10, Walk::campaign),
    (2, Walk::change_weather),
    (2, Walk::lose_or_send_state),
    (2, Walk::spoil_a_piece),
];

fn draw_config(prng: &mut Prng, planted: Planted) -> Config {
    Config {
        append_bytes_max: prng.range(1, 60) as usize,
        appends_in_flight_max: prng.range(1, 4) as usize,
        bytes_in_flight_max: prng.range(1, 100) as usize,
        chunks_in_flight_max: prng.range(1, 3),
        uncommitted_bytes_max: prng.range(50, 400) as usize,
        heartbeat_ticks: prng.range(1, 3) as u32,
        ..small_config(planted)
    }
}

impl Walk {
    fn new(seed: u64, planted: Planted) -> Self {
        let mut prng = Prng::new(seed);
        let config = draw_config(&mut prng, planted);
        let voters = [1, 2, 3, 3, 3, 4, 5][prng.index(7)];
        let mut cluster = Cluster::new(voters, config, prng.fork());
        cluster.sync_at_once = prng.chance(1, 5);
        cluster.apply_at_once = prng.chance(1, 2);
        Self {
            cluster,
            loss: [0, 2, 10, 30][prng.index(4)],
            duplicates: [0, 5, 20][prng.index(3)],
            cut: Vec::new(),
            speeds: vec![4; REPLICAS as usize + 1],
            proposals: 0,
            weights: ACTIONS
                .iter()
                .map(|(weight, action)| {
                    (
                        weight * [0, 1, 1, 4, 20][prng.index(5)].max(u64::from(*weight > 80)),
                        *action,
                    )
                })
                .collect(),
            prng,
        }
    }

    fn any(&mut self) -> ReplicaId {
        let ids: Vec<ReplicaId> = self.cluster.hosts.keys().copied().collect();
        *self.prng.pick(&ids).expect("a replica")
    }

    fn step(&mut self) {
        let total = self.weights.iter().map(|(weight, _)| weight).sum();
        let mut draw = self.prng.below(total);
        for place in 0..self.weights.len() {
            let (weight, action) = self.weights[place];
            if draw < weight {
                action(self);
                return;
            }
            draw -= weight;
        }
    }

    fn tick(&mut self) {
        // Clocks run at different speeds; one that stands still makes a leader of the past.
        let id = self.any();
        let speed = self.speeds[id.get() as usize];
        if self.prng.chance(speed, 4) {
            self.cluster.tick(id);
        }
    }

    fn change_weather(&mut self) {
        self.loss = [0, 2, 10, 30][self.prng.index(4)];
        for speed in &mut self.speeds {
            *speed = [0, 1, 4, 4, 4][self.prng.index(5)];
        }
    }

    fn sync(&mut self) {
        let (id, count) = (self.any(), self.prng.range(1, 4) as usize);
        self.cluster.sync(id, count);
    }

    fn apply(&mut self) {
        let (id, count) = (self.any(), self.prng.range(1, 9) as usize);
        self.cluster.with(id, |host| host.apply(count));
    }

    /// Everyone that believes to lead is asked.
    fn read(&mut self) {
        let ids: Vec<ReplicaId> = self.cluster.hosts.keys().copied().collect();
        for id in ids {
            if self.prng.chance(1, 2) {
                self.cluster.read(id);
            }
        }
    }

    fn compact(&mut self) {
        let id = self.any();
        let keep = self.prng.below(8);
        self.cluster.with(id, |host| {
            let upto = host.raft.applied().get().saturating_sub(keep);
            host.compact(Index(upto));
        });
    }

    fn reset_link(&mut self) {
        let (id, other) = (self.any(), self.any());
        self.cluster.with(id, |host| host.raft.link_reset(other));
    }

    fn transfer(&mut self) {
        let (id, other) = (self.any(), self.any());
        let to = self.prng.chance(1, 2).then_some(other);
        self.cluster.with(id, |host| host.raft.transfer(to).is_ok());
    }

    fn permit(&mut self) {
        let (id, can) = (self.any(), self.prng.chance(3, 4));
        self.cluster.with(id, |host| {
            host.raft.set_can_vote(can);
            host.raft.set_can_campaign(can);
        });
    }

    fn campaign(&mut self) {
        let id = self.any();
        self.cluster.with(id, |host| host.raft.campaign());
    }

    fn leader_or_any(&mut self) -> Option<ReplicaId> {
        if self.prng.chance(1, 4) {
            Some(self.any())
        } else {
            self.cluster.leader()
        }
    }

    fn deliver_one(&mut self) {
        if self.cluster.messages.is_empty() {
            return;
        }
        // Mostly in order, sometimes not, so that streams get somewhere.
        let place = if self.prng.chance(3, 4) {
            0
        } else {
            self.prng.index(self.cluster.messages.len())
        };
        let envelope = self.cluster.messages.remove(place);
        let lost = self.prng.chance(self.loss, 100) || self.is_cut(&envelope);
        if self.prng.chance(self.duplicates, 100) {
            self.cluster.messages.push(envelope.clone());
        }
        if !lost {
            self.cluster.deliver(envelope);
        }
    }

    fn is_cut(&self, envelope: &Envelope) -> bool {
        self.cut.contains(&envelope.from) != self.cut.contains(&envelope.to)
    }

    fn propose(&mut self) {
        for _ in 0..self.prng.range(1, 3) {
            self.proposals += 1;
            let text = format!("c{}", self.proposals);
            if let Some(id) = self.leader_or_any() {
                self.cluster.propose(id, &text);
            }
        }
    }

    fn crash_or_restart(&mut self) {
        let id = self.any();
        if self.cluster.host(id).up {
            let unsynced = self.cluster.host(id).unsynced.len();
            let keep = self.prng.below(unsynced as u64 + 1) as usize;
            self.cluster.crash(id, keep);
            if self.prng.chance(1, 2) {
                self.cluster.restart(id);
            }
        } else {
            self.cluster.restart(id);
        }
    }

    /// One replica at a time may have a state that cannot be used.
    fn lose_or_send_state(&mut self) {
        let lost = self.cluster.hosts.values().find(|host| host.state_lost);
        if let Some(id) = lost.map(|host| host.id) {
            if let Some(leader) = self.cluster.leader() {
                self.cluster
                    .with(leader, |host| host.raft.send_snapshot(id));
            }
        } else {
            let id = self.any();
            if !self.cluster.host(id).raft.is_leader() {
                self.cluster.with(id, crate::host::Host::lose_state);
            }
        }
    }

    fn spoil_a_piece(&mut self) {
        let id = self.any();
        self.cluster.with(id, |host| host.staging_fails = true);
    }

    /// A restart where it hurts most: of a replica that just gave its vote to another.
    fn restart_in_election(&mut self) {
        let voted = self.cluster.hosts.values().find(|host| {
            let vote = host.raft.hard_state().vote;
            host.up && host.raft.leader().is_none() && vote.is_some_and(|vote| vote != host.id)
        });
        if let Some(id) = voted.map(|host| host.id) {
            self.cluster.crash(id, 0);
            self.cluster.restart(id);
        }
    }

    fn cut_or_heal(&mut self) {
        self.cut.clear();
        if self.prng.chance(1, 2) {
            let ids: Vec<ReplicaId> = self.cluster.hosts.keys().copied().collect();
            self.cut = ids.into_iter().filter(|_| self.prng.chance(1, 2)).collect();
        }
    }

    /// Some change of the members, sensible or not, asked of somebody.
    fn change_members(&mut self) {
        let Some(leader) = self.leader_or_any() else {
            return;
        };
        let host = self.cluster.host(leader);
        let mut target = Target::of(host.raft.membership());
        let expected = host.raft.membership().id;
        let id = ReplicaId(self.prng.range(1, REPLICAS));
        let node = NodeId(id.get());
        match self.prng.below(4) {
            0 | 1 if target.learners.contains_key(&id) => {
                target.learners.remove(&id);
                target.voters.insert(id, node);
                if self.prng.chance(1, 3) {
                    let others: Vec<ReplicaId> = target.voters.keys().copied().collect();
                    let other = *self.prng.pick(&others).expect("a voter");
                    target.voters.remove(&other);
                }
            }
            0..=2 if !target.voters.contains_key(&id) => {
                target.learners.insert(id, node);
                // One that was removed may come back with the disk it had; it is the same one.
                if !self.cluster.hosts.contains_key(&id) {
                    let first = self.cluster.judge.memberships[&Index::ZERO]
                        .as_ref()
                        .clone();
                    let known = self.prng.chance(1, 2);
                    let first = if known { first } else { Membership::default() };
                    self.cluster.add(id, first);
                }
            }
            _ => {
                target.voters.remove(&id);
                target.learners.remove(&id);
            }
        }
        self.cluster.with(leader, |host| {
            host.raft.propose_membership(expected, &target).is_ok()
        });
    }

    /// The end: everybody is up, nothing is lost, and the group has to agree soon.
    fn converge(&mut self) {
        self.cut.clear();
        self.cluster.sync_at_once = true;
        self.cluster.apply_at_once = true;
        let ids: Vec<ReplicaId> = self.cluster.hosts.keys().copied().collect();
        for id in ids {
            self.cluster.restart(id);
            self.cluster.sync(id, usize::MAX);
            self.cluster.with(id, |host| {
                host.raft.set_can_vote(true);
                host.raft.set_can_campaign(true);
            });
        }
        let mut proposed = None;
        for round in 0..60 {
            self.cluster.run_ticks(10, |_| true);
            if round == 20 && self.cluster.leader().is_none() {
                self.repair_state_by_hand();
            }
            if self.cluster.hosts.values().any(|host| host.state_lost) {
                self.lose_or_send_state();
            }
            if self.agrees(proposed) {
                self.cluster.judge.compare_logs(self.cluster.hosts.values());
                return;
            }
            if let Some(leader) = self.cluster.leader()
                && proposed.is_none()
            {
                proposed = self.cluster.propose(leader, "last");
            }
        }
        for host in self.cluster.hosts.values() {
            eprintln!("{:?}", host.raft.status());
            eprintln!("{:?}", host.raft.membership());
        }
        panic!("the group does not agree after 600 quiet ticks");
    }

    /// A replica without a state does not stand for election. If nobody else has its log, it is for
    /// an operator to give it one.
    fn repair_state_by_hand(&mut self) {
        let lost = self.cluster.hosts.values().find(|host| host.state_lost);
        if let Some(id) = lost.map(|host| host.id) {
            self.cluster.crash(id, usize::MAX);
            self.cluster.restart(id);
        }
    }

    /// Whether all members hold the same, the last proposal included.
    fn agrees(&self, proposed: Option<Index>) -> bool {
        let (Some(leader), Some(proposed)) = (self.cluster.leader(), proposed) else {
            return false;
        };
        let leader = &self.cluster.host(leader).raft;
        let states: BTreeMap<_, _> = leader
            .membership()
            .replicas()
            .map(|id| (id, self.cluster.host(id).raft.commit()))
            .collect();
        !leader.membership().is_joint()
            && leader.commit() >= proposed
            && states.values().all(|commit| *commit == leader.commit())
    }
}

/// One walk; panics if something does not hold.
pub(crate) fn walk(seed: u64, steps: u64, planted: Planted) -> u64 {
    let mut walk = Walk::new(seed, planted);
    for count in 0..steps {
        walk.step();
        if count % 64 == 0 {
            walk.cluster.judge.compare_logs(walk.cluster.hosts.values());
        }
    }
    walk.converge();
    if number_from_environment("KVORUM_SEED").is_some() {
        let leaders = walk.cluster.judge.leaders();
        let reads = walk.cluster.judge.reads_confirmed;
        eprintln!("{leaders} leaders, {reads} reads");
    }
    walk.cluster.judge.committed.len() as u64
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn random_walks_hold() {
    if let Some(seed) = number_from_environment("KVORUM_SEED") {
        walk(seed, STEPS, Planted::default());
        return;
    }
    let seeds = number_from_environment("KVORUM_SEEDS").unwrap_or(60);
    let mut committed = 0;
    for seed in 0..seeds {
        let result = std::panic::catch_unwind(|| walk(seed, STEPS, Planted::default()));
        match result {
            Ok(count) => committed += count,
            Err(panic) => {
                eprintln!("seed {seed} fails");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(
        committed > seeds * 20,
        "the walks get nowhere: {committed} entries"
    );
}

/// Names of snapshots are compared whole; here only so that a change of their order is noticed.
#[test]
fn snapshots_are_told_apart_by_every_part_of_their_name() {
    let id = SnapshotId {
        index: Index(5),
        term: kvorum_base::Term(2),
        sender: ReplicaId(1),
        number: 7,
    };
    assert_ne!(id, SnapshotId { number: 8, ..id });
    assert_ne!(
        id,
        SnapshotId {
            sender: ReplicaId(2),
            ..id
        }
    );
}

/// A walk that never fails proves nothing: with each bug that lives in this crate, one must.
#[cfg(feature = "planted")]
#[test]
fn planted_bugs_are_caught() {
    use kvorum_base::Bug;
    let seeds = number_from_environment("KVORUM_SEEDS").unwrap_or(4000);
    let bugs = [
        Bug::VoteNotSaved,
        Bug::OldTermCommit,
        Bug::ReadWithoutQuorum,
        Bug::ReadNumberReused,
        Bug::ReadBeforeOwnTerm,
        Bug::CommittedTruncated,
        Bug::ReplyBeforeSync,
        Bug::DuplicateAppendWritten,
        Bug::ResetMissing,
        Bug::ForeignChunkResumed,
        Bug::SnapshotNewestMembership,
    ];
    let mut missed = Vec::new();
    std::panic::set_hook(Box::new(|_| {}));
    for bug in bugs {
        let fails = |seed: &u64| {
            std::panic::catch_unwind(|| walk(*seed, STEPS, Planted::with(bug))).is_err()
        };
        match (0..seeds).find(fails) {
            Some(seed) => {
                let panic = std::panic::catch_unwind(|| walk(seed, STEPS, Planted::with(bug)));
                let panic = panic.expect_err("the same seed fails again");
                let text = panic.downcast_ref::<String>().map_or("", String::as_str);
                eprintln!("{}: seed {seed}: {text}", bug.name());
            }
            None => missed.push(bug.name()),
        }
    }
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "nothing notices {missed:?}");
}
