//! From queued records to one batch: sealing, and what a sync makes of it.
//!
//! Every record passes through one place that gives it its number and its bytes and tells the mirror,
//! in this order and for all kinds alike; so what the next head says is what stands before it.

use kvorum_base::{Bug, GroupId};
use kvorum_cluster::OrderNumber;
use kvorum_raft::{HardState, PersistSeq};

use super::frame::{self, FrameWriter, Place};
use super::segments::{Ahead, Current, Durable, Log, Pending};
use super::{BatchSeq, SegmentId};
use crate::effect::Effect;
use crate::format::wal::{Checkpoint, Placed, Record};

/// Room for commit notes in a batch's memory, so that it is not moved for them.
const COMMITS_HINT_BYTES: usize = 512;

impl Log {
    /// The end of a turn: if no batch is on its way and something waits, writes one batch. Emits at
    /// most one `Effect::Append`.
    ///
    /// # Panics
    /// If a record cannot follow those before it: consensus or this log is broken.
    pub fn seal(&mut self, effects: &mut Vec<Effect>) {
        if self.closed {
            return;
        }
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
        if self.mirror.orders > OrderNumber::default() {
            let record = Record::Orders(self.mirror.orders);
            bytes += record.encoded_len();
            self.write_record(writer, segment, GroupId(0), record);
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
            Record::Orders(upto) => Some(Durable::Orders(*upto)),
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
        let sequence = match record.is_of_node() {
            true => 0,
            false => known.map_or(1, |mirror| mirror.sequence_of(&record)),
        };
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
}
