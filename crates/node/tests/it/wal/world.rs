//! A log, its disk and its model, driven by chance.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{GroupId, Index, NodeId, Planted, Prng, ReplicaId, Term, UnixMillis};
use kvorum_node::format::entry::{self, EntryBuilder};
use kvorum_node::format::wal::SnapshotRef;
use kvorum_node::log::{Damage, Log, LogOptions, Recovered, Recovery, Room};
use kvorum_node::{BatchSeq, Effect, SegmentId};
use kvorum_raft::{Entry, HardState, Membership, Persist};

use super::disk::Disk;
use super::model::{Model, Op};

pub(crate) struct World {
    pub(crate) prng: Prng,
    pub(crate) options: LogOptions,
    pub(crate) disk: Disk,
    pub(crate) model: Model,
    pub(crate) log: Log,
    effects: Vec<Effect>,
    unsynced: Option<BatchSeq>,
    preparing: Option<SegmentId>,
    next_seq: u64,
    next_number: u64,
    next_group: u64,
    /// Committed indexes, which are never truncated.
    committed: std::collections::BTreeMap<GroupId, Index>,
    /// Whether an operation may be due to a bad disk.
    full: bool,
    /// Whether the last segment asked for was refused, so that writes must be.
    refused: bool,
    /// Bytes that look like a part of the log, for values that pretend to be one.
    forgery: Bytes,
}

pub(crate) fn made_entry(term: u64, index: u64, value: &[u8]) -> Entry {
    let mut builder = EntryBuilder::new();
    let pushed = builder.push_command(|out| -> Result<(), ()> {
        out.extend_from_slice(value);
        Ok(())
    });
    assert_eq!(pushed, Ok(()));
    let data = builder.seal(Term(term), Index(index), UnixMillis(1));
    entry::decode(data).expect("a valid entry")
}

pub(crate) fn recover(
    options: &LogOptions,
    started: bool,
    files: &[(SegmentId, Vec<u8>)],
) -> Result<Recovered, Damage> {
    let mut recovery = Recovery::new(options, started);
    for (segment, bytes) in files {
        recovery.feed(*segment, bytes);
    }
    recovery.finish()
}

impl World {
    pub(crate) fn new(seed: u64, planted: Planted) -> Self {
        let mut prng = Prng::new(seed);
        let segment_bytes = [8, 16, 32, 64][prng.index(4)] << 10;
        let options = LogOptions {
            sector_bytes: if prng.chance(1, 6) { 4096 } else { 512 },
            target_bytes: u64::from(segment_bytes) * prng.range(3, 6),
            salt: prng.next_u64(),
            planted,
            ..LogOptions::small(segment_bytes)
        };
        Self {
            disk: Disk::new(segment_bytes as usize, options.sector_bytes as usize),
            model: Model::new(),
            log: Log::create(options.clone()),
            effects: Vec::new(),
            unsynced: None,
            preparing: None,
            next_seq: 1,
            next_number: 1,
            next_group: 1,
            committed: std::collections::BTreeMap::new(),
            full: false,
            refused: false,
            forgery: Bytes::new(),
            options,
            prng,
        }
    }

    /// A random number of random steps.
    pub(crate) fn run(&mut self, steps: u64) {
        for _ in 0..self.prng.below(steps) {
            self.step();
            self.log.check();
            assert_eq!(self.log.room() == Room::None, self.refused);
        }
    }

    fn step(&mut self) {
        match self.prng.below(24) {
            0 => self.create_group(),
            1 => self.snapshot(),
            2 => self.reset(),
            3 => self.carry(),
            4 if self.prng.chance(1, 10) => self.remove_group(),
            4 | 5 => self.hard_state(),
            6..12 => self.append(),
            12 => self.commit(),
            13 => self.clean(),
            14 => self.full = self.prng.chance(1, 8),
            15..17 => self.prepared(),
            17..20 => self.synced(),
            _ => self.seal(),
        }
    }

    fn pick(&mut self) -> Option<GroupId> {
        let groups: Vec<GroupId> = self.model.now().keys().copied().collect();
        self.prng.pick(&groups).copied()
    }

    fn do_op(&mut self, op: &Op) {
        match op.clone() {
            Op::Created(group, replica, membership) => {
                self.log.create_group(group, replica, membership);
            }
            Op::Removed(group) => self.log.remove_group(group),
            Op::Persist(group, seq, what, covering) => {
                self.log.record(group, seq, what, covering);
            }
            Op::Snapshot(group, snapshot, membership) => {
                assert!(self.log.snapshot_stored(group, snapshot, membership));
            }
        }
        self.model.push(op);
    }

    fn persist(&mut self, group: GroupId, what: Persist) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let covering = self.next_number;
        self.next_number += 1;
        self.do_op(&Op::Persist(group, seq, what, covering));
    }

    fn membership(&mut self) -> Arc<Membership> {
        let voters = 1 + self.prng.below(4);
        let replicas = (1..=voters).map(|n| (ReplicaId(n), NodeId(n)));
        Arc::new(Membership::initial(replicas))
    }

    pub(crate) fn create_group(&mut self) {
        if self.model.now().len() < 6 {
            let group = GroupId(self.next_group);
            self.next_group += 1;
            let membership = match self.prng.below(3) {
                0 => Arc::default(),
                _ => self.membership(),
            };
            let replica = ReplicaId(self.prng.below(4));
            self.committed.insert(group, Index::ZERO);
            self.do_op(&Op::Created(group, replica, membership));
        }
    }

    fn remove_group(&mut self) {
        if let Some(group) = self.pick() {
            self.do_op(&Op::Removed(group));
        }
    }

    fn hard_state(&mut self) {
        let Some(group) = self.pick() else { return };
        let mut hard_state = self.model.now()[&group].hard_state;
        let vote = Some(ReplicaId(1 + self.prng.below(3)));
        if hard_state.vote.is_none() && self.prng.chance(1, 2) {
            hard_state.vote = vote;
        } else {
            hard_state = HardState {
                term: hard_state.term + 1 + self.prng.below(2),
                vote: vote.filter(|_| self.prng.chance(1, 2)),
            };
        }
        self.persist(group, Persist::HardState(hard_state));
    }

    fn value(&mut self) -> Vec<u8> {
        let max = self.options.entry_bytes_max as usize - 64;
        let len = match self.prng.below(40) {
            0 => max,
            1 => self.prng.index(max),
            2..8 => self.prng.index(3000),
            _ => self.prng.index(100),
        };
        match self.prng.below(4) {
            0 => vec![0; len.min(max)],
            1 if !self.forgery.is_empty() => {
                let from = self.prng.index(self.forgery.len());
                let end = self.forgery.len().min(from + len);
                self.forgery[from..end].to_vec()
            }
            _ => (0..len).map(|_| self.prng.next_u64() as u8).collect(),
        }
    }

    fn append(&mut self) {
        let Some(id) = self.pick() else { return };
        let group = self.model.now()[&id].clone();
        let committed = self.committed[&id].max(group.snapshot.index);
        let mut index = group.last().next();
        if self.prng.chance(1, 8) {
            index = Index(self.prng.range(committed.get() + 1, index.get()));
        }
        let mut term = group.term_at(index.prev());
        let mut entries = Vec::new();
        for _ in 0..=self.prng.below(5) {
            if self.prng.chance(1, 6) {
                term = term.max(group.hard_state.term);
            }
            let value = self.value();
            entries.push(made_entry(term.get(), index.get(), &value));
            index = index.next();
        }
        self.persist(id, Persist::Append(entries));
    }

    fn commit(&mut self) {
        let Some(id) = self.pick() else { return };
        let group = &self.model.now()[&id];
        let low = self.committed[&id].max(group.snapshot.index).get();
        let index = Index(self.prng.range(low, group.last().get().max(low)));
        self.committed.insert(id, index);
        self.log.hint_commit(id, index);
    }

    fn snapshot(&mut self) {
        if let Some(group) = self.pick() {
            self.snapshot_of(group);
        }
    }

    fn snapshot_of(&mut self, id: GroupId) {
        let group = self.model.now()[&id].clone();
        let committed = self.committed[&id];
        let mut low = group.snapshot.index + 1;
        if group.snapshot.number > 0 && self.prng.chance(1, 4) {
            // The file went bad: another one of the same state.
            low = group.snapshot.index;
        }
        if committed < low {
            return;
        }
        let index = Index(self.prng.range(low.get(), committed.get()));
        let snapshot = SnapshotRef {
            number: self.next_number,
            index,
            term: group.term_at(index),
        };
        self.next_number += 1;
        let membership = self.membership();
        self.do_op(&Op::Snapshot(id, snapshot, membership));
    }

    fn reset(&mut self) {
        let Some(id) = self.pick() else { return };
        if self.prng.chance(2, 3) {
            return;
        }
        let group = &self.model.now()[&id];
        let index = self.committed[&id].max(group.snapshot.index) + 1 + self.prng.below(10);
        let term = group.hard_state.term.max(group.term_at(group.last()));
        let membership = self.membership();
        self.committed.insert(id, index);
        self.persist(
            id,
            Persist::Reset {
                index,
                term,
                membership,
            },
        );
    }

    fn carry(&mut self) {
        if let Some(group) = self.pick() {
            self.carry_of(group);
        }
    }

    fn carry_of(&mut self, group: GroupId) -> bool {
        let mut entries = self.model.now()[&group].entries.clone();
        let end = self.prng.index(entries.len() + 1);
        if self.prng.chance(1, 8) && end < entries.len() {
            entries.truncate(end);
            assert!(!self.log.carry(group, entries), "without the last entries");
            return false;
        }
        self.log.carry(group, entries)
    }

    /// What a node does about groups that keep old segments.
    fn clean(&mut self) {
        for blocker in self.log.blockers() {
            let Some(group) = self.model.now().get(&blocker.group) else {
                continue;
            };
            let last = group.last();
            assert_eq!(blocker.first, group.snapshot.index.next(), "{blocker:?}");
            assert_eq!(blocker.last, last, "{blocker:?}");
            if self.prng.chance(1, 2) || !self.carry_of(blocker.group) {
                self.committed.insert(blocker.group, last);
                self.snapshot_of(blocker.group);
            }
        }
        self.log.ask_again();
    }

    pub(crate) fn seal(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        self.log.seal(&mut effects);
        let appends = effects
            .iter()
            .filter(|e| matches!(e, Effect::Append { .. }));
        assert!(appends.count() <= 1, "more than one append in a turn");
        self.carry_out(&mut effects);
    }

    fn carry_out(&mut self, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Append {
                    segment,
                    offset,
                    upto,
                    frame,
                } => {
                    assert_eq!(self.unsynced, None, "two batches on their way");
                    self.disk.write(segment, offset, upto, &frame);
                    self.unsynced = Some(upto);
                    self.forgery = frame;
                }
                Effect::PrepareSegment { segment } => {
                    assert_eq!(self.preparing, None, "two segments asked for");
                    self.preparing = Some(segment);
                }
                Effect::FreeSegment { segment } => self.disk.free(segment),
                other => panic!("an effect of another room: {other:?}"),
            }
        }
        self.effects = std::mem::take(effects);
    }

    pub(crate) fn prepared(&mut self) {
        let Some(segment) = self.preparing.take() else {
            return;
        };
        if self.full {
            self.log.segment_refused(segment);
            self.refused = true;
            return;
        }
        self.disk.prepare(segment, &mut self.prng);
        if self.prng.chance(1, 10) {
            // Made and not reported yet: a crash may come between.
            self.preparing = Some(segment);
            return;
        }
        self.disk.sync_directory();
        self.log.segment_ready(segment);
        self.refused = false;
    }

    pub(crate) fn synced(&mut self) {
        let Some(upto) = self.unsynced.take() else {
            return;
        };
        self.disk.sync();
        let mut done = Vec::new();
        let mut effects = std::mem::take(&mut self.effects);
        self.log.synced(upto, &mut done, &mut effects);
        self.model.durable(&done);
        self.carry_out(&mut effects);
    }

    /// Writes and syncs until nothing waits.
    pub(crate) fn settle(&mut self) {
        self.full = false;
        for _ in 0..1000 {
            self.seal();
            self.prepared();
            self.synced();
            self.log.ask_again();
            if self.log.pending_bytes() == 0
                && self.log.outstanding().is_none()
                && self.log.is_started()
            {
                return;
            }
        }
        panic!("the log does not settle: {:?}", self.log);
    }

    pub(crate) fn crash(&mut self, power: bool) {
        if power {
            self.disk.cut_power(&mut self.prng);
        } else {
            self.disk.kill(&mut self.prng);
        }
        self.unsynced = None;
        self.preparing = None;
        self.effects.clear();
        self.full = false;
        self.refused = false;
    }

    /// Reads the disk; it must be what the model says.
    pub(crate) fn restart(&mut self) {
        let files = self.disk.list();
        let recovered = recover(&self.options, false, &files)
            .unwrap_or_else(|damage| panic!("nothing is damaged: {damage}"));
        self.model.recovered(&recovered);
        for (id, group) in &recovered.groups {
            let committed = self.committed[id].max(group.snapshot.index);
            assert!(group.commit <= committed, "{id}: {group:?}");
        }
        // What was lost was not committed.
        for (id, group) in self.model.now() {
            let committed = self.committed.get_mut(id).expect("a known group");
            *committed = (*committed).min(group.last()).max(group.snapshot.index);
        }
        let life = self.log.incarnation();
        self.log = Log::restart(self.options.clone(), recovered);
        assert!(self.log.incarnation() <= life + 1);
        let known = self.disk.segments();
        assert!(known.is_sorted());
    }
}
