//! What the records so far amount to, for each group: all that a segment's head must say, and which
//! segments hold entries that are still needed.
//!
//! Writer and recovery use the same [`Mirror::apply`], record by record in stream order, so that a
//! checkpoint can be made from the one and checked against the other. The entries themselves are not
//! kept here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kvorum_base::{GroupId, Index, ReplicaId};
use kvorum_cluster::OrderNumber;
use kvorum_raft::{Entry, HardState, Membership};

use super::SegmentId;
use crate::format::wal::{Checkpoint, Placed, Record, SnapshotRef};

/// How exactly the bytes since a snapshot are known.
const MARK_BYTES: u64 = 64 << 10;

/// Consecutive entries of a group in one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    segment: SegmentId,
    first: Index,
    last: Index,
}

/// One group.
///
/// Invariants: spans are ascending, without overlap, and end at `last`; together they are the live
/// entries, those above the snapshot, except that recovery may begin with some of them missing.
#[derive(Clone, Debug)]
pub(crate) struct GroupMirror {
    replica: ReplicaId,
    sequence: u64,
    hard_state: HardState,
    snapshot: SnapshotRef,
    membership: Arc<Membership>,
    last: Index,
    commit: Index,
    spans: VecDeque<Span>,
    /// Record bytes of all entries ever written, and where that count stood at some indexes.
    bytes: u64,
    bytes_at_snapshot: u64,
    marks: VecDeque<(Index, u64)>,
}

impl GroupMirror {
    fn new(replica: ReplicaId, membership: Arc<Membership>) -> Self {
        Self {
            replica,
            sequence: 0,
            hard_state: HardState::default(),
            snapshot: SnapshotRef::default(),
            membership,
            last: Index::ZERO,
            commit: Index::ZERO,
            spans: VecDeque::new(),
            bytes: 0,
            bytes_at_snapshot: 0,
            marks: VecDeque::new(),
        }
    }

    fn from_checkpoint(checkpoint: &Checkpoint) -> Self {
        let mut mirror = Self::new(checkpoint.replica, Arc::clone(&checkpoint.membership));
        mirror.hard_state = checkpoint.hard_state;
        mirror.snapshot = checkpoint.snapshot;
        mirror.last = checkpoint.last;
        mirror.commit = checkpoint.commit;
        mirror
    }

    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            replica: self.replica,
            hard_state: self.hard_state,
            snapshot: self.snapshot,
            last: self.last,
            commit: self.commit,
            membership: Arc::clone(&self.membership),
        }
    }

    pub(crate) fn snapshot(&self) -> SnapshotRef {
        self.snapshot
    }

    pub(crate) fn last(&self) -> Index {
        self.last
    }

    pub(crate) fn commit(&self) -> Index {
        self.commit
    }

    /// The number that this record gets as the group's next one. A checkpoint says nothing new and
    /// repeats the last number: the same log can have more or fewer heads, since a restart writes one.
    pub(crate) fn sequence_of(&self, record: &Record) -> u64 {
        match record {
            Record::Checkpoint(_) => self.sequence,
            _ => self.sequence + 1,
        }
    }

    /// The oldest segment that holds a live entry.
    pub(crate) fn oldest_needed(&self) -> Option<SegmentId> {
        self.spans.front().map(|span| span.segment)
    }

    /// The live entries that lie in this segment; for the bug that moves only those.
    pub(crate) fn last_in(&self, segment: SegmentId) -> Option<Index> {
        self.spans
            .iter()
            .rev()
            .find(|span| span.segment == segment)
            .map(|span| span.last)
    }

    /// About how many record bytes were written for entries above the newest snapshot.
    pub(crate) fn bytes_since_snapshot(&self) -> u64 {
        self.bytes - self.bytes_at_snapshot
    }

    fn set_hard_state(&mut self, new: HardState) -> Result<(), &'static str> {
        let old = self.hard_state;
        if new.term < old.term {
            return Err("a term steps back");
        }
        if new.term == old.term && old.vote.is_some() && new.vote != old.vote {
            return Err("a vote changes within its term");
        }
        self.hard_state = new;
        Ok(())
    }

    fn append(&mut self, segment: SegmentId, entries: &[Entry]) -> Result<(), &'static str> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err("an append without entries");
        };
        if first.index <= self.snapshot.index {
            return Err("an append into the snapshot");
        }
        if first.index > self.last.next() {
            return Err("an append leaves a gap");
        }
        self.truncate(first.index.prev());
        self.push_span(segment, first.index, last.index);
        self.count(last.index, entries);
        Ok(())
    }

    fn push_span(&mut self, segment: SegmentId, first: Index, last: Index) {
        match self.spans.back_mut() {
            Some(span) if span.segment == segment && span.last.next() == first => span.last = last,
            _ => self.spans.push_back(Span {
                segment,
                first,
                last,
            }),
        }
        self.last = last;
    }

    fn truncate(&mut self, last: Index) {
        while self.spans.back().is_some_and(|span| span.first > last) {
            self.spans.pop_back();
        }
        if let Some(span) = self.spans.back_mut() {
            span.last = span.last.min(last);
        }
        while self.marks.back().is_some_and(|(index, _)| *index > last) {
            self.marks.pop_back();
        }
        self.last = last;
    }

    fn count(&mut self, last: Index, entries: &[Entry]) {
        self.bytes += entries
            .iter()
            .map(|entry| entry.data.len() as u64)
            .sum::<u64>();
        let marked = self
            .marks
            .back()
            .map_or(self.bytes_at_snapshot, |(_, bytes)| *bytes);
        if self.bytes - marked >= MARK_BYTES {
            self.marks.push_back((last, self.bytes));
        }
    }

    fn set_snapshot(&mut self, snapshot: SnapshotRef, membership: &Arc<Membership>) {
        self.snapshot = snapshot;
        self.membership = Arc::clone(membership);
        while self
            .spans
            .front()
            .is_some_and(|span| span.last <= snapshot.index)
        {
            self.spans.pop_front();
        }
        if let Some(span) = self.spans.front_mut() {
            span.first = span.first.max(snapshot.index.next());
        }
        while let Some(&(_, bytes)) = self
            .marks
            .front()
            .filter(|(index, _)| *index <= snapshot.index)
        {
            self.bytes_at_snapshot = bytes;
            self.marks.pop_front();
        }
        if self.last <= snapshot.index {
            self.last = snapshot.index;
            self.bytes_at_snapshot = self.bytes;
        }
        self.commit = self.commit.max(snapshot.index);
    }

    fn reset(&mut self, snapshot: SnapshotRef, membership: &Arc<Membership>) {
        self.truncate(Index::ZERO);
        self.set_snapshot(snapshot, membership);
    }

    fn carry(
        &mut self,
        segment: SegmentId,
        checkpoint: &Checkpoint,
        entries: &[Entry],
    ) -> Result<(), &'static str> {
        if *checkpoint != self.checkpoint() {
            return Err("a carry that is not the group's state");
        }
        self.spans.clear();
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            self.push_span(segment, first.index, last.index);
            self.count(last.index, entries);
        }
        Ok(())
    }
}

/// All groups of a log.
#[derive(Clone, Default, Debug)]
pub(crate) struct Mirror {
    pub(crate) groups: BTreeMap<GroupId, GroupMirror>,
    /// The highest order to this node that is over.
    pub(crate) orders: OrderNumber,
    /// Checkpoints are not compared: two planted bugs write wrong ones, which must do their harm.
    pub(crate) lenient: bool,
}

impl Mirror {
    /// Takes note of a record that stands in this segment. Heads are no group's and do nothing.
    ///
    /// # Errors
    /// If the record cannot follow the ones before. Of the writer's own records that is a bug; of
    /// records read it is damage.
    pub(crate) fn apply(
        &mut self,
        segment: SegmentId,
        placed: &Placed,
    ) -> Result<(), &'static str> {
        let Placed {
            group,
            sequence,
            record,
        } = placed;
        match record {
            Record::Head { .. } => return Ok(()),
            Record::Orders(upto) => {
                self.orders = self.orders.max(*upto);
                return Ok(());
            }
            _ => {}
        }
        if let Record::Created {
            replica,
            membership,
        } = record
        {
            if self.groups.contains_key(group) {
                return Err("a group is created twice");
            }
            let created = GroupMirror::new(*replica, Arc::clone(membership));
            self.groups.insert(*group, created);
        }
        let Some(mirror) = self.groups.get_mut(group) else {
            return Err("a record of an unknown group");
        };
        if *sequence != mirror.sequence_of(record) {
            return Err("a record of the group is missing");
        }
        mirror.sequence = *sequence;
        match record {
            Record::Head { .. } | Record::Orders(_) | Record::Created { .. } => {}
            Record::Checkpoint(checkpoint) => {
                if !self.lenient && *checkpoint != mirror.checkpoint() {
                    return Err("a checkpoint that is not the group's state");
                }
            }
            Record::HardState(hard_state) => mirror.set_hard_state(*hard_state)?,
            Record::Append(entries) => mirror.append(segment, entries)?,
            Record::Reset {
                snapshot,
                membership,
            } => mirror.reset(*snapshot, membership),
            Record::Snapshot {
                snapshot,
                membership,
            } => {
                if !snapshot.replaces(&mirror.snapshot) {
                    return Err("a snapshot older than the last");
                }
                mirror.set_snapshot(*snapshot, membership);
            }
            Record::Carry {
                checkpoint,
                entries,
            } => mirror.carry(segment, checkpoint, entries)?,
            Record::Commit(index) => mirror.commit = mirror.commit.max(*index),
            Record::Removed => {
                self.groups.remove(group);
            }
        }
        Ok(())
    }

    /// Begins with a group as the head of the oldest segment describes it; its live entries, if any,
    /// are missing until a record makes them unnecessary.
    pub(crate) fn begin_with(&mut self, group: GroupId, sequence: u64, checkpoint: &Checkpoint) {
        let mut mirror = GroupMirror::from_checkpoint(checkpoint);
        mirror.sequence = sequence;
        self.groups.insert(group, mirror);
    }

    /// The oldest segment that any group needs.
    pub(crate) fn oldest_needed(&self) -> Option<SegmentId> {
        self.groups
            .values()
            .filter_map(GroupMirror::oldest_needed)
            .min()
    }

    /// What must hold at any time.
    ///
    /// # Panics
    /// If it does not.
    pub(crate) fn check(&self) {
        for (group, mirror) in &self.groups {
            let mut next = mirror.snapshot.index.next();
            let mut segment = SegmentId::default();
            for span in &mirror.spans {
                assert_eq!(span.first, next, "group {group}: a gap between spans");
                assert!(span.segment >= segment, "group {group}: spans step back");
                next = span.last.next();
                segment = span.segment;
            }
            assert_eq!(mirror.last.next(), next, "group {group}: last entry");
        }
    }
}
