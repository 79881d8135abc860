//! What the log is asked to keep, on its way to the next batch.
//!
//! Nothing is encoded here: a record's checksum depends on where it will stand, and a checkpoint on
//! what stands before it. The queue holds values, entries as shared bytes.

use std::sync::Arc;

use kvorum_base::{Bug, GroupId, Index, ReplicaId};
use kvorum_cluster::OrderNumber;
use kvorum_raft::{Entry, HardState, Membership, Persist, PersistSeq};

use super::segments::{Log, Pending, Recorded};
use crate::format::wal::{Checkpoint, RECORD_HEADER_BYTES, Record, SnapshotRef};

impl Log {
    /// Makes room for a group whose replica lives here from now on.
    ///
    /// # Panics
    /// If the group is there already.
    pub fn create_group(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        membership: Arc<Membership>,
    ) {
        assert!(
            !self.recorded.contains_key(&group),
            "group {group} is created twice"
        );
        let record = Record::Created {
            replica,
            membership,
        };
        self.push(group, record, None);
    }

    /// Forgets a group: its replica was taken out of it for good.
    pub fn remove_group(&mut self, group: GroupId) {
        if self.recorded.contains_key(&group) {
            self.push(group, Record::Removed, None);
        }
    }

    /// Notes that all orders to this node up to this one are over, as of what was asked for before.
    pub fn orders_over(&mut self, upto: OrderNumber) {
        self.orders = self.orders.max(upto);
        self.push(GroupId(0), Record::Orders(upto), None);
    }

    /// The highest order to this node that is over, written or not.
    #[must_use]
    pub fn orders(&self) -> OrderNumber {
        self.orders
    }

    /// Takes what a group's consensus wants durable. `covering` is the number of the durable snapshot
    /// file that a reset rests on; of other requests it is ignored.
    ///
    /// # Panics
    /// If the group is unknown, or an entry is larger than the options allow.
    pub fn record(&mut self, group: GroupId, seq: PersistSeq, what: Persist, covering: u64) {
        assert!(
            self.recorded.contains_key(&group),
            "a record of the unknown group {group}"
        );
        let record = match what {
            Persist::HardState(hard_state) => Record::HardState(hard_state),
            Persist::Append(entries) => return self.push_append(group, seq, entries),
            Persist::Reset {
                index,
                term,
                membership,
            } => self.reset_record(
                SnapshotRef {
                    number: covering,
                    index,
                    term,
                },
                membership,
            ),
        };
        self.push(group, record, Some(seq));
    }

    fn reset_record(&self, snapshot: SnapshotRef, membership: Arc<Membership>) -> Record {
        if self.options.planted.has(Bug::ResetMissing) {
            return Record::Snapshot {
                snapshot,
                membership,
            };
        }
        Record::Reset {
            snapshot,
            membership,
        }
    }

    /// Queues an append, in several records where one would not fit a batch. A torn one leaves a
    /// prefix of the entries, which is what a slower disk would have left.
    fn push_append(&mut self, group: GroupId, seq: PersistSeq, mut entries: Vec<Entry>) {
        assert!(!entries.is_empty(), "group {group}: an append of nothing");
        let room = self.options.batch_bytes_max as usize - RECORD_HEADER_BYTES;
        loop {
            let mut bytes = 0;
            let fitting = entries.iter().take_while(|entry| {
                bytes += entry.data.len();
                bytes <= room
            });
            let count = fitting.count();
            let first = &entries[0];
            assert!(
                first.data.len() <= self.options.entry_bytes_max as usize,
                "group {group}: entry {first:?} has {} bytes",
                first.data.len()
            );
            if count == entries.len() {
                return self.push(group, Record::Append(entries), Some(seq));
            }
            let later = entries.split_off(count);
            self.push(group, Record::Append(entries), None);
            entries = later;
        }
    }

    /// Notes how far a group is known to be committed. Written with the next batch that is written
    /// anyway; after a restart that much can be applied at once.
    pub fn hint_commit(&mut self, group: GroupId, index: Index) {
        self.commits.insert(group, index);
    }

    /// A snapshot file of the group is durable and was read back. Returns whether the log will refer to
    /// it: not if it covers less than what the log refers to already (another one was installed
    /// meanwhile), if its number is not above that one's, or if the group is gone; the file is then of
    /// no use.
    ///
    /// One that covers the same is taken. The older file may have gone bad, and this is what came in
    /// its place: were it refused, each restart would find the bad one again.
    pub fn snapshot_stored(
        &mut self,
        group: GroupId,
        snapshot: SnapshotRef,
        membership: Arc<Membership>,
    ) -> bool {
        let newer = self
            .recorded
            .get(&group)
            .is_some_and(|recorded| snapshot.replaces(&recorded.snapshot));
        if newer {
            let record = Record::Snapshot {
                snapshot,
                membership,
            };
            self.push(group, record, None);
        }
        newer
    }

    /// Writes a group's whole live state again, so that older segments need not be kept for it.
    /// `entries` are all entries that the group has above its snapshot (older ones are left out), up
    /// to the last one recorded. Returns false if they are not, if they do not fit one batch with what
    /// waits, or if the disk is full and little is left: then only a snapshot helps.
    ///
    /// The carry takes its place behind what waits, so when it is written the group's log ends at the
    /// last entry recorded so far, which is where these end. Some may be newer than those recorded, if
    /// consensus has replaced entries and not said so yet. That is no harm: they are recorded next, and
    /// having an entry early promises nothing.
    pub fn carry(&mut self, group: GroupId, mut entries: Vec<Entry>) -> bool {
        let Some(recorded) = self.recorded.get(&group) else {
            return false;
        };
        let covered = recorded.snapshot.index;
        entries.retain(|entry| entry.index > covered);
        let ends = (
            entries.first().map(|entry| entry.index),
            entries.last().map(|entry| entry.index),
        );
        let whole = ends == (Some(covered.next()), Some(recorded.last))
            && entries.len() as u64 == recorded.last - covered;
        // What the checkpoint says is filled in when the record's place in the stream is known; its
        // size is known now.
        let checkpoint = Checkpoint {
            replica: ReplicaId::default(),
            hard_state: HardState::default(),
            snapshot: SnapshotRef::default(),
            last: Index::ZERO,
            commit: Index::ZERO,
            membership: Arc::clone(&recorded.membership),
        };
        let record = Record::Carry {
            checkpoint,
            entries,
        };
        let taken = whole && self.has_place_for(record.encoded_len());
        if taken {
            self.push(group, record, None);
        }
        taken
    }

    /// Keeps `recorded` in step with what is queued: as the mirror does with what is written.
    pub(super) fn note_recorded(&mut self, group: GroupId, record: &Record) {
        if record.is_of_node() {
            return;
        }
        if let Record::Created { membership, .. } = record {
            let created = Recorded {
                snapshot: SnapshotRef::default(),
                membership: Arc::clone(membership),
                last: Index::ZERO,
            };
            self.recorded.insert(group, created);
        }
        let Some(recorded) = self.recorded.get_mut(&group) else {
            return;
        };
        match record {
            Record::Append(entries) => {
                recorded.last = entries.last().map_or(recorded.last, |entry| entry.index);
            }
            Record::Reset {
                snapshot,
                membership,
            } => {
                recorded.snapshot = *snapshot;
                recorded.membership = Arc::clone(membership);
                recorded.last = snapshot.index;
            }
            Record::Snapshot {
                snapshot,
                membership,
            } => {
                recorded.snapshot = *snapshot;
                recorded.membership = Arc::clone(membership);
                recorded.last = recorded.last.max(snapshot.index);
            }
            Record::Removed => {
                self.recorded.remove(&group);
                self.commits.remove(&group);
            }
            Record::Head { .. }
            | Record::Checkpoint(_)
            | Record::Created { .. }
            | Record::HardState(_)
            | Record::Carry { .. }
            | Record::Orders(_)
            | Record::Commit(_) => {}
        }
    }

    pub(super) fn push(&mut self, group: GroupId, record: Record, seq: Option<PersistSeq>) {
        self.note_recorded(group, &record);
        let len = record.encoded_len();
        self.pending_bytes += len;
        self.pending.push_back(Pending {
            group,
            record,
            len,
            seq,
        });
    }
}
