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
//! place where it is noticed: then [`Log::writable`] is false and clients' writes are refused, while
//! what is left of the present segment serves elections, memberships, and what frees space.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kvorum_base::{Bug, GroupId, Index, ReplicaId};
use kvorum_raft::{Entry, HardState, Membership, Persist, PersistSeq};

use super::frame::{self, FrameWriter, Place, Spot};
use super::mirror::Mirror;
use super::recover::Recovered;
use super::{BatchSeq, LogOptions, SegmentId};
use crate::effect::Effect;
use crate::format::wal::{Checkpoint, Placed, RECORD_HEADER_BYTES, Record, SnapshotRef};

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
    /// The group's creation.
    Created {
        /// The group.
        group: GroupId,
    },
    /// The group's removal: its snapshot files are not needed.
    Removed {
        /// The group.
        group: GroupId,
    },
}

/// A group whose live entries keep the oldest segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocker {
    /// The group.
    pub group: GroupId,
    /// The first live entry that a carry would have to write again.
    pub first: Index,
    /// The last one.
    pub last: Index,
}

#[derive(Debug)]
struct Pending {
    group: GroupId,
    record: Record,
    len: usize,
    /// What the group is told when this is durable.
    seq: Option<PersistSeq>,
}

/// The segment after the present one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ahead {
    /// To be asked for.
    Wanted,
    Asked,
    Ready,
    /// There was no room.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    segment: SegmentId,
    /// Where the next batch goes, in bytes.
    at: u32,
}

/// The writer of a node's log.
#[derive(Debug)]
pub struct Log {
    options: LogOptions,
    incarnation: u64,
    /// The state as of the last sealed batch; durable whenever no batch is outstanding.
    mirror: Mirror,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    /// Commit indexes that were noted and not yet written.
    commits: BTreeMap<GroupId, Index>,
    /// The newest snapshot of each group and the membership there, pending records included.
    covered: BTreeMap<GroupId, (Index, Arc<Membership>)>,
    next: BatchSeq,
    /// Where the batch before the next one stands.
    previous: Spot,
    outstanding: Option<BatchSeq>,
    /// What the outstanding batch makes durable.
    outcome: Vec<Durable>,
    /// How many pending records are recovered ones to be written again.
    recovered_left: usize,
    started: bool,
    /// All segments that hold something, the present one last.
    segments: VecDeque<SegmentId>,
    current: Option<Current>,
    next_segment: SegmentId,
    ahead: Ahead,
    scratch: Vec<u8>,
}

impl Log {
    /// The log of a directory that never had one.
    #[must_use]
    pub fn create(options: LogOptions) -> Self {
        Self::restart(options, Recovered::nothing())
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
            covered: BTreeMap::new(),
            next: resume.next,
            previous: resume.previous,
            outstanding: None,
            outcome: Vec::new(),
            recovered_left: 0,
            started: false,
            segments: resume.segments.into(),
            current: None,
            next_segment: resume.next_segment,
            ahead: Ahead::Wanted,
            scratch: Vec::new(),
            options,
        };
        log.mirror.lenient = log.options.checkpoints_lie();
        for (group, mirror) in &log.mirror.groups {
            let Checkpoint {
                snapshot,
                membership,
                ..
            } = mirror.checkpoint();
            log.covered.insert(*group, (snapshot.index, membership));
        }
        for (segment, placed) in resume.tail {
            log.note_covered(placed.group, &placed.record);
            if log.options.planted.has(Bug::RecoveredTailNotSynced) {
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
            !self.covered.contains_key(&group),
            "group {group} is created twice"
        );
        let record = Record::Created {
            replica,
            membership,
        };
        self.note_covered(group, &record);
        self.push(group, record, None);
    }

    /// Forgets a group: its replica was taken out of it for good.
    pub fn remove_group(&mut self, group: GroupId) {
        if self.covered.contains_key(&group) {
            self.note_covered(group, &Record::Removed);
            self.push(group, Record::Removed, None);
        }
    }

    /// Takes what a group's consensus wants durable. `covering` is the number of the durable snapshot
    /// file that a reset rests on; of other requests it is ignored.
    ///
    /// # Panics
    /// If the group is unknown, or an entry is larger than the options allow.
    pub fn record(&mut self, group: GroupId, seq: PersistSeq, what: Persist, covering: u64) {
        assert!(
            self.covered.contains_key(&group),
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
        self.note_covered(group, &record);
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

    /// A snapshot of the group's own state is durable and was read back. Returns whether the log will
    /// refer to it: not if it is older than what the log refers to already (another one was installed
    /// meanwhile) or if the group is gone; the file is then of no use.
    pub fn snapshot_stored(
        &mut self,
        group: GroupId,
        snapshot: SnapshotRef,
        membership: Arc<Membership>,
    ) -> bool {
        let newer = self
            .covered
            .get(&group)
            .is_some_and(|(covered, _)| *covered < snapshot.index);
        if newer {
            let record = Record::Snapshot {
                snapshot,
                membership,
            };
            self.note_covered(group, &record);
            self.push(group, record, None);
        }
        newer
    }

    /// Writes a group's whole live state again, so that older segments need not be kept for it.
    /// `entries` are all entries that the group has above its snapshot (older ones are left out), up
    /// to the last one recorded. Returns false if they do not reach back to the snapshot or do not fit
    /// one record: then only a snapshot helps.
    pub fn carry(&mut self, group: GroupId, mut entries: Vec<Entry>) -> bool {
        let Some((covered, membership)) = self.covered.get(&group) else {
            return false;
        };
        entries.retain(|entry| entry.index > *covered);
        let reaches_back = entries
            .first()
            .is_some_and(|entry| entry.index == covered.next());
        // What the checkpoint says is filled in when the record's place in the stream is known; its
        // size is known now.
        let checkpoint = Checkpoint {
            replica: ReplicaId::default(),
            hard_state: HardState::default(),
            snapshot: SnapshotRef::default(),
            last: Index::ZERO,
            commit: Index::ZERO,
            membership: Arc::clone(membership),
        };
        let record = Record::Carry {
            checkpoint,
            entries,
        };
        let fits = record.encoded_len() <= self.options.batch_bytes_max as usize;
        if reaches_back && fits {
            self.push(group, record, None);
        }
        reaches_back && fits
    }

    /// Keeps `covered` in step with what is queued.
    fn note_covered(&mut self, group: GroupId, record: &Record) {
        match record {
            Record::Created { membership, .. } => {
                let none = (Index::ZERO, Arc::clone(membership));
                self.covered.insert(group, none);
            }
            Record::Reset {
                snapshot,
                membership,
            }
            | Record::Snapshot {
                snapshot,
                membership,
            } => {
                let covered = (snapshot.index, Arc::clone(membership));
                self.covered.insert(group, covered);
            }
            Record::Removed => {
                self.covered.remove(&group);
                self.commits.remove(&group);
            }
            _ => {}
        }
    }

    fn push(&mut self, group: GroupId, record: Record, seq: Option<PersistSeq>) {
        let len = record.encoded_len();
        self.pending_bytes += len;
        self.pending.push_back(Pending {
            group,
            record,
            len,
            seq,
        });
    }

    /// The end of a turn: if no batch is on its way and something waits, writes one batch. Emits at
    /// most one `Effect::Append`.
    ///
    /// # Panics
    /// If a record cannot follow those before it: consensus or this log is broken.
    pub fn seal(&mut self, effects: &mut Vec<Effect>) {
        let waiting = !self.pending.is_empty() || self.current.is_none();
        let free = self.outstanding.is_none();
        if let Some((current, room)) = (free && waiting).then(|| self.choose_place()).flatten() {
            self.write(current, room, effects);
        }
        if self.ahead == Ahead::Wanted {
            self.ahead = Ahead::Asked;
            effects.push(Effect::PrepareSegment {
                segment: self.next_segment,
            });
        }
    }

    /// Where the next batch goes, and how many bytes of pending records it takes there at most.
    fn choose_place(&mut self) -> Option<(Current, usize)> {
        let first = self.pending.front().map_or(0, |pending| pending.len);
        let room = first.max(self.options.batch_bytes_max as usize);
        let wanted = self.pending_bytes.min(room);
        if let Some(current) = self.current {
            let rest = (self.options.segment_bytes - current.at) as usize;
            let fits = frame::records_that_fit(rest, self.options.sector_bytes as usize);
            // Where no next segment is ready, what fits goes on its way.
            if wanted <= fits || (self.ahead != Ahead::Ready && first <= fits) {
                return Some((current, fits.min(room)));
            }
        }
        if self.ahead != Ahead::Ready {
            return None;
        }
        let segment = self.next_segment;
        self.next_segment = segment.next();
        self.ahead = Ahead::Wanted;
        Some((Current { segment, at: 0 }, room))
    }

    fn write(&mut self, current: Current, room: usize, effects: &mut Vec<Effect>) {
        let place = Place {
            salt: self.options.salt,
            segment: current.segment,
            offset: current.at,
            sector: self.options.sector_bytes as usize,
        };
        let mut writer = FrameWriter::new(place, self.pending_bytes.min(room) + COMMITS_HINT_BYTES);
        if current.at == 0 {
            self.write_head(&mut writer, current.segment);
            self.segments.push_back(current.segment);
        }
        let mut left = room;
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.len <= left) {
            left -= pending.len;
            self.pending_bytes -= pending.len;
            self.write_pending(&mut writer, current.segment, pending);
        }
        if self.pending.is_empty() {
            self.write_commits(&mut writer, current.segment, left);
        }
        let (seq, synced) = (self.next, BatchSeq(self.next.0 - 1));
        let frame = writer.finish(seq, synced, self.previous);
        let end = current.at as usize + frame.len();
        assert!(
            end <= self.options.segment_bytes as usize,
            "batch {seq} ends at byte {end} of a segment of {}",
            self.options.segment_bytes
        );
        self.current = Some(Current {
            at: end as u32,
            ..current
        });
        self.outstanding = Some(seq);
        self.next = BatchSeq(seq.0 + 1);
        self.previous = (current.segment, current.at);
        effects.push(Effect::Append {
            segment: current.segment,
            offset: current.at,
            upto: seq,
            frame,
        });
    }

    fn write_head(&mut self, writer: &mut FrameWriter, segment: SegmentId) {
        let head = Record::Head {
            incarnation: self.incarnation,
            groups: self.mirror.groups.len() as u32,
        };
        let mut bytes = head.encoded_len();
        writer.push(GroupId(0), 0, &head, &mut self.scratch);
        let checkpoints: Vec<(GroupId, Checkpoint)> = self
            .mirror
            .groups
            .iter()
            .map(|(group, mirror)| (*group, mirror.checkpoint()))
            .collect();
        for (group, mut checkpoint) in checkpoints {
            if self.options.planted.has(Bug::VoteFreedWithSegment) {
                checkpoint.hard_state = HardState::default();
            }
            let record = Record::Checkpoint(checkpoint);
            bytes += record.encoded_len();
            self.write_record(writer, segment, group, record);
        }
        assert!(
            bytes <= self.options.checkpoint_bytes_max as usize,
            "the head of segment {segment} takes {bytes} bytes"
        );
    }

    fn write_pending(&mut self, writer: &mut FrameWriter, segment: SegmentId, pending: Pending) {
        let Pending {
            group,
            mut record,
            seq,
            ..
        } = pending;
        if let Record::Carry {
            checkpoint,
            entries,
        } = &mut record
        {
            let mirror = &self.mirror.groups[&group];
            *checkpoint = mirror.checkpoint();
            let last = entries.last().map(|entry| entry.index);
            assert_eq!(
                last,
                Some(mirror.last()),
                "group {group}: the last entry that is carried"
            );
        }
        if self.recovered_left > 0 {
            // All of these are reported together, as the start.
            self.recovered_left -= 1;
        } else {
            self.note_outcome(group, &record, seq);
        }
        self.write_record(writer, segment, group, record);
    }

    fn note_outcome(&mut self, group: GroupId, record: &Record, seq: Option<PersistSeq>) {
        let of_record = match record {
            Record::Reset { snapshot, .. } | Record::Snapshot { snapshot, .. } => {
                let number = snapshot.number;
                Some(Durable::Snapshot { group, number })
            }
            Record::Created { .. } => Some(Durable::Created { group }),
            Record::Removed => Some(Durable::Removed { group }),
            _ => None,
        };
        self.outcome.extend(of_record);
        let of_group = seq.map(|seq| Durable::Persisted { group, seq });
        self.outcome.extend(of_group);
    }

    /// The one place where a record gets its number, its bytes and its effect on the mirror.
    fn write_record(
        &mut self,
        writer: &mut FrameWriter,
        segment: SegmentId,
        group: GroupId,
        record: Record,
    ) {
        let known = self.mirror.groups.get(&group);
        let sequence = known.map_or(1, |mirror| mirror.sequence_of(&record));
        if let Some(append) = self.planted_carry(group, &record) {
            writer.push(group, sequence, &append, &mut self.scratch);
        } else {
            writer.push(group, sequence, &record, &mut self.scratch);
        }
        let placed = Placed {
            group,
            sequence,
            record,
        };
        if let Err(broken) = self.mirror.apply(segment, &placed) {
            panic!("{broken}: {placed}");
        }
    }

    /// The bug: only what stands in the oldest segment is written again, as an append.
    fn planted_carry(&self, group: GroupId, record: &Record) -> Option<Record> {
        let Record::Carry { entries, .. } = record else {
            return None;
        };
        if !self.options.planted.has(Bug::CarryTruncates) {
            return None;
        }
        let mirror = &self.mirror.groups[&group];
        let last = mirror.last_in(mirror.oldest_needed()?)?;
        let old = entries.iter().filter(|entry| entry.index <= last);
        Some(Record::Append(old.cloned().collect()))
    }

    /// Writes the commit indexes noted. Only with nothing pending: a commit index speaks of the log as
    /// the group has it now, and where a pending append replaces entries 17 and 18, "committed up to 18"
    /// in front of it would make the old ones applied after a crash between the two.
    fn write_commits(&mut self, writer: &mut FrameWriter, segment: SegmentId, mut left: usize) {
        while let Some((group, index)) = self.commits.pop_first() {
            let Some(mirror) = self.mirror.groups.get(&group) else {
                continue;
            };
            let record = Record::Commit(index.min(mirror.last()));
            if index.min(mirror.last()) <= mirror.commit() {
                continue;
            }
            if record.encoded_len() > left {
                self.commits.insert(group, index);
                return;
            }
            left -= record.encoded_len();
            self.write_record(writer, segment, group, record);
        }
    }

    /// Every batch up to this one is durable. Appends what that means to `done`, in the order in which
    /// it was asked for, and frees segments.
    ///
    /// # Panics
    /// If that batch was never written.
    pub fn synced(&mut self, upto: BatchSeq, done: &mut Vec<Durable>, effects: &mut Vec<Effect>) {
        assert!(
            upto < self.next,
            "batch {upto} is said to be synced, the next one is {}",
            self.next
        );
        if self
            .outstanding
            .is_none_or(|outstanding| outstanding > upto)
        {
            return;
        }
        self.outstanding = None;
        if !self.started && self.recovered_left == 0 {
            self.started = true;
            done.push(Durable::Started);
        }
        done.append(&mut self.outcome);
        if self.started {
            self.free(effects);
        }
    }

    /// Frees what is not needed. The mirror tells, since nothing is outstanding, what is durable; and
    /// the head of the present segment is.
    fn free(&mut self, effects: &mut Vec<Effect>) {
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
        }
    }

    /// There is no room to make the segment. Asked again when a segment is freed, or by
    /// [`Self::ask_again`].
    pub fn segment_refused(&mut self, segment: SegmentId) {
        if segment == self.next_segment && self.ahead == Ahead::Asked {
            self.ahead = Ahead::Refused;
        }
    }

    /// Asks for a refused segment once more, with the next [`Self::seal`]. Room can appear at any time,
    /// so the node does this every second or so.
    pub fn ask_again(&mut self) {
        if self.ahead == Ahead::Refused {
            self.ahead = Ahead::Wanted;
        }
    }

    /// Whether clients' writes may be taken. Not while no next segment can be made, so that what is
    /// left of the present one is kept for elections and for cleaning.
    #[must_use]
    pub fn writable(&self) -> bool {
        match (self.ahead, self.current) {
            (Ahead::Ready, _) => true,
            (Ahead::Refused, _) | (_, None) => false,
            (Ahead::Wanted | Ahead::Asked, Some(current)) => {
                self.options.segment_bytes - current.at >= self.options.segment_bytes / 8
            }
        }
    }

    /// The groups whose live entries keep the oldest segment, if the log is above its target or the
    /// disk is full. Each should be carried ([`Self::carry`]) or have a snapshot taken; one that is
    /// being carried is not named again.
    #[must_use]
    pub fn blockers(&self) -> Vec<Blocker> {
        let above = self.bytes() > self.options.target_bytes || self.ahead == Ahead::Refused;
        let oldest = match self.segments.front() {
            Some(oldest) if above && self.segments.len() > 1 => *oldest,
            _ => return Vec::new(),
        };
        let carried = |group| {
            self.pending.iter().any(|pending| {
                pending.group == group && matches!(pending.record, Record::Carry { .. })
            })
        };
        self.mirror
            .groups
            .iter()
            .filter(|(_, mirror)| {
                mirror
                    .oldest_needed()
                    .is_some_and(|needed| needed <= oldest)
            })
            .filter(|(group, _)| !carried(**group))
            .map(|(group, mirror)| Blocker {
                group: *group,
                first: mirror.snapshot().index.next(),
                last: mirror.last(),
            })
            .collect()
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

/// Room for commit notes in a batch's memory, so that it is not moved for them.
const COMMITS_HINT_BYTES: usize = 512;
