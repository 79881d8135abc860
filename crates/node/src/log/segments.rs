//! The writer of the log: collects records, seals batches, opens segments and gives them back.
//!
//! # One batch at a time
//!
//! A batch is sealed at the end of a turn if none is on its way; while one is, records collect. So
//! batches grow with the load by themselves, and since a batch is written only after the one before
//! is durable, only the last one can ever be torn.
//!
//! # Heads, and what may be freed
//!
//! The first batch of every segment opens with a *head* and one *checkpoint* for each group, made of
//! what the records before amount to ([`super::mirror`]). A durable head makes all hard states,
//! memberships and references in older segments superfluous; what remains needed there are live
//! entries: those above a group's newest *durable* snapshot of which a durable record says so. The
//! oldest segment is freed when no group has live entries in it, and never a younger one before it:
//! an older append would come back to life behind the truncation that a younger one was.
//!
//! A group that rests keeps its few entries in an old segment and all younger ones with it. When the
//! log grows above its target, [`Log::blockers`] names such groups; the node takes a snapshot of them,
//! or has them carried ([`Log::carry`]): the whole live state in one record, so that nothing depends
//! on where the rest of it stands.
//!
//! # A full disk
//!
//! One segment is made ahead. A disk can be full only where a segment is made, so that is the only
//! place where it is noticed: then there is [`Room::None`] and clients' writes are refused, while what
//! is left of the present segment serves elections, memberships, and what frees space. Asking again
//! changes nothing of that; only a segment that was made does. Making one takes its time on any disk,
//! and where writers are faster than that they have to wait ([`Room::Soon`]), but nobody is refused.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kvorum_base::{Bug, GroupId, Index};
use kvorum_cluster::OrderNumber;
use kvorum_raft::{Membership, PersistSeq};

use super::frame::{self, Spot};
use super::mirror::Mirror;
use super::recover::Recovered;
use super::{BatchSeq, LogOptions, SegmentId};
use crate::effect::Effect;
use crate::format::wal::{Checkpoint, Record, SnapshotRef};

/// Something has become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durable {
    /// What recovery found is on the disk again: from here on promises may be made. The first thing
    /// that a log ever reports. Snapshot files with lower numbers than the recovered ones are not
    /// needed any more; up to here they were.
    Started,
    /// Everything that this group asked for up to this number ([`Log::record`]).
    Persisted {
        /// The group.
        group: GroupId,
        /// The number.
        seq: PersistSeq,
    },
    /// The log refers to this snapshot of the group: files with lower numbers are not needed.
    Snapshot {
        /// The group.
        group: GroupId,
        /// The number of the file.
        number: u64,
    },
    /// The group's creation. Whoever asked for a replica here can be told that there is one.
    Created {
        /// The group.
        group: GroupId,
    },
    /// The group's removal: its snapshot files are not needed, not before.
    Removed {
        /// The group.
        group: GroupId,
    },
    /// All orders to this node up to this one are over, and stay so.
    Orders(OrderNumber),
}

/// A group whose live entries keep the oldest segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocker {
    /// The group.
    pub group: GroupId,
    /// The first live entry that a carry would have to write again.
    pub first: Index,
    /// The last one: the last recorded, whether it has been written or waits.
    pub last: Index,
}

/// What was recorded of a group, written or not: what the mirror will be when the queue is empty.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    /// The newest snapshot.
    pub(super) snapshot: SnapshotRef,
    /// The membership there.
    pub(super) membership: Arc<Membership>,
    pub(super) last: Index,
}

/// A record that waits for the next batch.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) group: GroupId,
    pub(super) record: Record,
    pub(super) len: usize,
    /// What the group is told when this is durable.
    pub(super) seq: Option<PersistSeq>,
}

/// Whether there is room for more entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// There is.
    Ready,
    /// The next segment is being made and little is left of the present one: new writes should wait.
    /// What others have proposed may still be recorded; it waits here, and a primary sends only so much
    /// ahead of the acknowledgements.
    Soon,
    /// No next segment could be made, so new writes have to be refused, until one has been made. Also
    /// of a log that is closed.
    None,
}

/// The segment after the present one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ahead {
    /// To be asked for.
    Wanted,
    Asked,
    Ready,
    /// There was no room, and it is not being asked for at the moment.
    Refused,
}

/// Where the log is being written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) segment: SegmentId,
    /// Where the next batch goes, in bytes.
    pub(super) at: u32,
}

/// The writer of a node's log.
#[derive(Debug)]
pub struct Log {
    pub(super) options: LogOptions,
    pub(super) incarnation: u64,
    /// The state as of the last sealed batch; durable whenever no batch is outstanding.
    pub(super) mirror: Mirror,
    pub(super) pending: VecDeque<Pending>,
    pub(super) pending_bytes: usize,
    /// Commit indexes that were noted and not yet written.
    pub(super) commits: BTreeMap<GroupId, Index>,
    pub(super) recorded: BTreeMap<GroupId, Recorded>,
    /// The highest order to this node that is over.
    pub(super) orders: OrderNumber,
    pub(super) next: BatchSeq,
    /// Where the batch before the next one stands.
    pub(super) previous: Spot,
    pub(super) outstanding: Option<BatchSeq>,
    /// What the outstanding batch makes durable.
    pub(super) outcome: Vec<Durable>,
    /// How many pending records are recovered ones to be written again.
    pub(super) recovered_left: usize,
    pub(super) started: bool,
    /// Nothing is ever written.
    pub(super) closed: bool,
    /// All segments that hold something, the present one last.
    pub(super) segments: VecDeque<SegmentId>,
    pub(super) current: Option<Current>,
    pub(super) next_segment: SegmentId,
    pub(super) ahead: Ahead,
    /// The last segment asked for was refused, and none has been ready since.
    pub(super) refused: bool,
    pub(super) scratch: Vec<u8>,
}

impl Log {
    /// The log of a directory that never had one.
    #[must_use]
    pub fn create(options: LogOptions) -> Self {
        Self::restart(options, Recovered::nothing())
    }

    /// The log of a node whose log is damaged: it never writes and never starts. A new log must not be
    /// begun in its place, since its first batch would supersede the damaged ones, and the next start
    /// would find a log without fault, and without the promises that were lost.
    #[must_use]
    pub fn closed(options: LogOptions) -> Self {
        let mut log = Self::create(options);
        log.closed = true;
        log
    }

    /// Goes on with a log that was read. What is not provably on the disk is written again, into
    /// a segment of its own; [`Durable::Started`] says when that is done, and until then the node
    /// makes no promise: it sends no vote, no acknowledgement and no reply.
    #[must_use]
    pub fn restart(options: LogOptions, recovered: Recovered) -> Self {
        options.check();
        let resume = recovered.resume;
        let mut log = Self {
            incarnation: recovered.incarnation + 1,
            mirror: resume.mirror,
            pending: VecDeque::new(),
            pending_bytes: 0,
            commits: BTreeMap::new(),
            recorded: BTreeMap::new(),
            orders: recovered.orders,
            next: resume.next,
            previous: resume.previous,
            outstanding: None,
            outcome: Vec::new(),
            recovered_left: 0,
            started: false,
            closed: false,
            segments: resume.segments.into(),
            current: None,
            next_segment: resume.next_segment,
            ahead: Ahead::Wanted,
            refused: false,
            scratch: Vec::new(),
            options,
        };
        log.mirror.lenient = log.options.checkpoints_lie();
        for (group, mirror) in &log.mirror.groups {
            let Checkpoint {
                snapshot,
                membership,
                last,
                ..
            } = mirror.checkpoint();
            let recorded = Recorded {
                snapshot,
                membership,
                last,
            };
            log.recorded.insert(*group, recorded);
        }
        for (segment, placed) in resume.tail {
            if log.options.planted.has(Bug::RecoveredTailNotSynced) {
                log.note_recorded(placed.group, &placed.record);
                log.mirror
                    .apply(segment, &placed)
                    .expect("recovery has applied it");
                (log.next, log.previous) = (resume.end, resume.last);
            } else {
                log.push(placed.group, placed.record, None);
            }
        }
        log.recovered_left = log.pending.len();
        log
    }

    /// Which life of the node this is, from 1. Durable before [`Durable::Started`] is reported.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Whether promises may be made: [`Durable::Started`] was reported.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Frees what is not needed. The mirror tells, since nothing is outstanding, what is durable; and
    /// the head of the present segment is.
    pub(super) fn free(&mut self, effects: &mut Vec<Effect>) {
        let needed = self.mirror.oldest_needed();
        while self.segments.len() > 1 {
            let oldest = self.segments[0];
            if needed.is_some_and(|needed| needed <= oldest) {
                return;
            }
            self.segments.pop_front();
            effects.push(Effect::FreeSegment { segment: oldest });
            if self.ahead == Ahead::Refused {
                self.ahead = Ahead::Wanted;
            }
        }
    }

    /// The segment asked for can be written. Any other number is ignored.
    pub fn segment_ready(&mut self, segment: SegmentId) {
        if segment == self.next_segment {
            self.ahead = Ahead::Ready;
            self.refused = false;
        }
    }

    /// There is no room to make the segment. Asked again when a segment is freed, or by
    /// [`Self::ask_again`].
    pub fn segment_refused(&mut self, segment: SegmentId) {
        if segment == self.next_segment && self.ahead == Ahead::Asked {
            self.ahead = Ahead::Refused;
            self.refused = true;
        }
    }

    /// Asks for a refused segment once more, with the next [`Self::seal`]. Room can appear at any time,
    /// so the node does this every second or so. Until the answer the disk counts as full: otherwise
    /// each question would let writes in, at the cost of what is kept for elections.
    pub fn ask_again(&mut self) {
        if self.ahead == Ahead::Refused {
            self.ahead = Ahead::Wanted;
        }
    }

    /// Whether there is room for more entries. What is queued counts as written.
    #[must_use]
    pub fn room(&self) -> Room {
        if self.refused || self.closed {
            return Room::None;
        }
        let written = self.current.map_or(self.options.segment_bytes, |c| c.at) as usize;
        let enough =
            written + self.pending_bytes + self.reserve() <= self.options.segment_bytes as usize;
        if self.ahead == Ahead::Ready || enough {
            Room::Ready
        } else {
            Room::Soon
        }
    }

    /// Whether the disk is not known to be full.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.room() != Room::None
    }

    /// Whether the disk is known to be full: a log that has not started yet has not asked.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_started() && !self.writable()
    }

    /// The bytes at the end of a segment that are kept for elections and for cleaning while no next
    /// segment is ready.
    fn reserve(&self) -> usize {
        self.options.segment_bytes as usize / 8
    }

    /// The groups whose live entries keep the oldest segment, if the log is above its target or the
    /// disk is full. Each should be carried ([`Self::carry`]) or have a snapshot taken. One that waits
    /// for the disk to take such a record is not named again, and none is while a segment is being
    /// made: whether a carry has a place is known when that is.
    #[must_use]
    pub fn blockers(&self) -> Vec<Blocker> {
        let above = self.bytes() > self.options.target_bytes && self.ahead == Ahead::Ready;
        let oldest = match self.segments.front() {
            Some(oldest) if (above || self.refused) && self.segments.len() > 1 => *oldest,
            _ => return Vec::new(),
        };
        let needs_oldest = self.mirror.groups.iter().filter(|(group, mirror)| {
            let needed = mirror.oldest_needed();
            needed.is_some_and(|needed| needed <= oldest) && !self.is_cleaning(**group)
        });
        needs_oldest
            .filter_map(|(group, _)| {
                let recorded = self.recorded.get(group)?;
                Some(Blocker {
                    group: *group,
                    first: recorded.snapshot.index.next(),
                    last: recorded.last,
                })
            })
            .collect()
    }

    /// Whether a record waits that frees segments of this group.
    fn is_cleaning(&self, group: GroupId) -> bool {
        let of_group = self.pending.iter().filter(|pending| pending.group == group);
        of_group.map(|pending| &pending.record).any(|record| {
            matches!(
                record,
                Record::Carry { .. }
                    | Record::Snapshot { .. }
                    | Record::Reset { .. }
                    | Record::Removed
            )
        })
    }

    /// Whether a record of this size is sure to be written with the next batch, whatever becomes of the
    /// next segment. While that is not ready, half of what is left is for others: a carry that found no
    /// place would keep everything behind it off the disk, votes too.
    pub(super) fn has_place_for(&self, len: usize) -> bool {
        let mut most = self.options.batch_bytes_max as usize;
        if self.ahead != Ahead::Ready {
            let written = self.current.map_or(self.options.segment_bytes, |c| c.at);
            let rest = (self.options.segment_bytes - written) as usize;
            let fits = frame::records_that_fit(rest, self.options.sector_bytes as usize);
            most = most.min(fits / 2);
        }
        self.pending_bytes + len <= most
    }

    /// The bytes of all segments that hold something.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.len() as u64 * u64::from(self.options.segment_bytes)
    }

    /// The bytes of records that wait for the next batch.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// The batch that is on its way, if one is.
    #[must_use]
    pub fn outstanding(&self) -> Option<BatchSeq> {
        self.outstanding
    }

    /// About how many bytes of the group's entries a restart would have to read and apply: those
    /// written since its newest snapshot. 0 for an unknown group.
    #[must_use]
    pub fn bytes_since_snapshot(&self, group: GroupId) -> u64 {
        let mirror = self.mirror.groups.get(&group);
        mirror.map_or(0, |mirror| mirror.bytes_since_snapshot())
    }

    /// Whether records wait for nothing but the next segment, which is being made. For those who wait that
    /// is a disk that does not answer, though no batch is on its way.
    #[must_use]
    pub fn waits_for_segment(&self) -> bool {
        let being_made = matches!(self.ahead, Ahead::Wanted | Ahead::Asked) && !self.refused;
        self.started && being_made && self.outstanding.is_none() && !self.pending.is_empty()
    }

    /// The snapshot that the log refers to, as of the last batch written.
    #[must_use]
    pub fn snapshot(&self, group: GroupId) -> Option<SnapshotRef> {
        self.mirror
            .groups
            .get(&group)
            .map(|mirror| mirror.snapshot())
    }

    /// What must hold at any time; for tests and the simulator.
    ///
    /// # Panics
    /// If it does not.
    pub fn check(&self) {
        if self.started {
            self.mirror.check();
        }
        let bytes: usize = self.pending.iter().map(|pending| pending.len).sum();
        assert_eq!(bytes, self.pending_bytes, "bytes of pending records");
        for (group, recorded) in &self.recorded {
            let Some(mirror) = self.mirror.groups.get(group) else {
                continue;
            };
            let (now, then) = (
                (mirror.snapshot(), mirror.last()),
                (recorded.snapshot, recorded.last),
            );
            let waits = self.pending.iter().any(|pending| pending.group == *group);
            assert!(
                waits || now == then,
                "group {group}: {now:?} is written, {then:?} recorded"
            );
        }
        let current = self.current.map(|current| current.segment);
        assert!(
            current.is_none() || self.segments.back() == current.as_ref(),
            "the present segment is {current:?}, the last one {:?}",
            self.segments.back()
        );
        let ascending = self
            .segments
            .iter()
            .is_sorted_by(|left, right| left < right);
        assert!(ascending, "segments {:?}", self.segments);
        let needed = self.mirror.oldest_needed();
        assert!(
            needed.is_none() || needed >= self.segments.front().copied(),
            "segment {needed:?} is needed and was freed"
        );
    }
}
