//! Reading the log at a start: what is there, and whether anything that was promised is missing.
//!
//! Segments are fed in the order of their numbers and read once. A batch is *proven* when a later
//! header says that it had been synced; only the last batches of the log can be without proof, and
//! they are held back until it comes. At the end what has no proof is the *tail*: valid, so it counts,
//! but maybe only in the page cache, so it is written again before anything is promised on it.
//!
//! # Where the log ends
//!
//! Reading a segment stops at the first place without a valid batch. That is the end of the log, or of
//! the segment, unless
//!
//! - what stands there lacks no sector and is wrong (`frame` tells): damage;
//! - a later header, in this segment or another, says that it follows a batch there: damage;
//! - batches follow in a later segment: then that one must go on where this one stopped.
//!
//! # Superseding
//!
//! A restarted node writes the tail again into a fresh segment, under the same batch numbers. So the
//! first batch of a segment takes the place of all batches of its number and above in older segments,
//! torn and damaged ones included. They had no proof when it was written; if one of them has, the log
//! contradicts itself, and that is damage.
//!
//! 1. Batch 7 is written, the process is killed, batch 7 lies in the page cache only.
//! 2. A second process finds it, writes it again as batch 7 of segment 3, syncs, promises, goes on
//!    with batch 8.
//! 3. Power is cut. In segment 2 batch 7 was never on the disk. Segment 3 has it.
//!
//! # Missing segments
//!
//! Segments are freed oldest first, but a removal may reach the disk before an earlier one does: an old
//! segment can reappear below a gap. So what stands below a gap in the numbers is forgotten, and the
//! head above the gap is the beginning: it says which entries of each group are live, and if the
//! segments from there on do not hold them all, a segment was lost that was needed: damage. Above
//! the last batch there is no head to tell, and no removal either: a gap there is damage.
//!
//! A segment that was made ready and never written holds no sector of its use. It does not count, and
//! its number is used again.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use kvorum_base::{Bug, GroupId, Index, ReplicaId};
use kvorum_cluster::OrderNumber;
use kvorum_raft::{Entry, HardState, Membership};

use super::frame::{Batch, Proofs, SegmentReader, Spot, Stop};
use super::mirror::Mirror;
use super::{BatchSeq, LogOptions, SegmentId};
use crate::format::wal::{Placed, Record, SnapshotRef};

/// The log is not what was synced: promises may be lost. The node must not go on under its identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where, if at one place.
    pub segment: Option<SegmentId>,
    /// What, for the operator.
    pub text: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.segment {
            Some(segment) => write!(f, "segment {segment}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl std::error::Error for Damage {}

/// Where a torn batch was cut off: nobody was promised anything on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The segment.
    pub segment: SegmentId,
    /// Where the batch would have begun, in bytes.
    pub offset: u32,
}

/// What the log knows of one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredGroup {
    /// This node's replica.
    pub replica: ReplicaId,
    /// Term and vote; the term is at least that of the last entry and of the snapshot.
    pub hard_state: HardState,
    /// The snapshot that the entries follow. Number 0 is the empty state, which has no file.
    pub snapshot: SnapshotRef,
    /// The membership as of the snapshot's index; empty if not known yet.
    pub membership: Arc<Membership>,
    /// The entries above the snapshot, without a gap.
    pub entries: Vec<Entry>,
    /// Everything up to here is committed, at least; never above the last entry.
    pub commit: Index,
}

/// A log that was read without damage.
#[derive(Debug)]
pub struct Recovered {
    /// The groups.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// The highest order to this node that is over.
    pub orders: OrderNumber,
    /// The last life of this node that wrote a segment; 0 if none did.
    pub incarnation: u64,
    /// A torn batch that was cut off, if there was one.
    pub cut: Option<Cut>,
    pub(super) resume: Resume,
}

/// What the writer needs to go on.
#[derive(Debug)]
pub(super) struct Resume {
    /// The state up to the last proven batch.
    pub(super) mirror: Mirror,
    /// The records after it, without heads and checkpoints, and where they stand.
    pub(super) tail: Vec<(SegmentId, Placed)>,
    /// The number of the next batch: the tail's first, if there is a tail.
    pub(super) next: BatchSeq,
    /// The number after the last batch found.
    pub(super) end: BatchSeq,
    /// Where the batch before `next` stands.
    pub(super) previous: Spot,
    /// Where the batch before `end` stands.
    pub(super) last: Spot,
    /// All segments up to the last one that was written.
    pub(super) segments: Vec<SegmentId>,
    pub(super) next_segment: SegmentId,
}

impl Recovered {
    /// A directory without a log.
    pub(super) fn nothing() -> Self {
        Self {
            groups: BTreeMap::new(),
            orders: OrderNumber::default(),
            incarnation: 0,
            cut: None,
            resume: Resume {
                mirror: Mirror::default(),
                tail: Vec::new(),
                next: BatchSeq(1),
                end: BatchSeq(1),
                previous: Spot::default(),
                last: Spot::default(),
                segments: Vec::new(),
                next_segment: SegmentId(1),
            },
        }
    }
}

/// The groups while the log is being read.
#[derive(Debug, Default)]
struct Image {
    mirror: Mirror,
    entries: BTreeMap<GroupId, VecDeque<Entry>>,
}

impl Image {
    fn apply(&mut self, segment: SegmentId, placed: Placed) -> Result<(), String> {
        self.mirror
            .apply(segment, &placed)
            .map_err(|broken| format!("{broken}: {placed}"))?;
        let group = placed.group;
        match placed.record {
            Record::Append(entries) => {
                let live = self.entries.entry(group).or_default();
                let first = entries[0].index;
                while live.back().is_some_and(|entry| entry.index >= first) {
                    live.pop_back();
                }
                live.extend(entries);
            }
            Record::Carry { entries, .. } => {
                self.entries.insert(group, entries.into());
            }
            Record::Reset { .. } | Record::Created { .. } | Record::Removed => {
                self.entries.remove(&group);
            }
            Record::Snapshot { snapshot, .. } => {
                let live = self.entries.entry(group).or_default();
                while live.front().is_some_and(|e| e.index <= snapshot.index) {
                    live.pop_front();
                }
            }
            Record::Head { .. }
            | Record::Checkpoint(_)
            | Record::HardState(_)
            | Record::Orders(_)
            | Record::Commit(_) => {}
        }
        Ok(())
    }

    fn into_groups(mut self) -> Result<BTreeMap<GroupId, RecoveredGroup>, String> {
        let mut groups = BTreeMap::new();
        for (group, mirror) in &self.mirror.groups {
            let state = mirror.checkpoint();
            let entries: Vec<Entry> = self.entries.remove(group).unwrap_or_default().into();
            let (mut next, mut term) = (state.snapshot.index.next(), state.snapshot.term);
            for entry in &entries {
                if entry.index != next {
                    return Err(format!("group {group}: entry {next} is missing"));
                }
                if entry.term < term {
                    // Such as a tail that a newer snapshot replaced: it must not count in a vote.
                    let fallen = entry.term;
                    return Err(format!(
                        "group {group}: entry {next} of term {fallen} after {term}"
                    ));
                }
                (next, term) = (next.next(), entry.term);
            }
            if next != state.last.next() {
                return Err(format!(
                    "group {group}: entries {next} to {} are missing",
                    state.last
                ));
            }
            let mut hard_state = state.hard_state;
            if hard_state.term < term {
                hard_state = HardState { term, vote: None };
            }
            let recovered = RecoveredGroup {
                replica: state.replica,
                hard_state,
                snapshot: state.snapshot,
                membership: state.membership,
                commit: state.commit.min(state.last),
                entries,
            };
            groups.insert(*group, recovered);
        }
        Ok(groups)
    }
}

/// Reads a log, segment by segment.
#[derive(Debug)]
pub struct Recovery {
    options: LogOptions,
    started: bool,
    image: Image,
    /// Batches without proof, in order.
    held: VecDeque<(SegmentId, Batch)>,
    /// The number after the last batch of the chain; `None` before the first.
    next: Option<BatchSeq>,
    /// Where the last proven batch stands; before one is, what the first says of the one before it.
    proven: Spot,
    proofs: Proofs,
    /// Where segments stopped since the chain last went on, and the batch expected there.
    stops: Vec<(SegmentId, BatchSeq, Stop)>,
    incarnation: u64,
    last_fed: Option<SegmentId>,
    /// The first segment above a gap in the numbers, if no head has followed yet.
    gap: Option<SegmentId>,
    segments: Vec<SegmentId>,
    /// How many of them there are up to the last one that was written.
    written: usize,
    damage: Option<Damage>,
}

impl Recovery {
    /// `started` says whether the directory's manifest knows of a log: then an empty one is damage.
    /// Of the options only the salt counts; segments of any size can be read.
    #[must_use]
    pub fn new(options: &LogOptions, started: bool) -> Self {
        let mut image = Image::default();
        image.mirror.lenient = options.checkpoints_lie();
        Self {
            options: options.clone(),
            started,
            image,
            held: VecDeque::new(),
            next: None,
            proven: Spot::default(),
            proofs: Proofs::default(),
            stops: Vec::new(),
            incarnation: 0,
            last_fed: None,
            gap: None,
            segments: Vec::new(),
            written: 0,
            damage: None,
        }
    }

    /// Reads a segment: its whole file, of whatever length. To be called for every segment file of the
    /// directory, in the order of their numbers.
    ///
    /// # Panics
    /// If the order is wrong.
    pub fn feed(&mut self, segment: SegmentId, bytes: &[u8]) {
        assert!(
            self.last_fed < Some(segment),
            "segment {segment} is fed after {:?}",
            self.last_fed
        );
        if self.last_fed.is_some_and(|last| last.next() != segment) {
            self.gap = Some(segment);
        }
        self.last_fed = Some(segment);
        let bytes = &bytes[..bytes.len().min(u32::MAX as usize)];
        let mut reader = SegmentReader::new(self.options.salt, segment, bytes);
        while let Some(batch) = reader.next_batch() {
            if let Err(text) = self.take(segment, batch) {
                self.damage.get_or_insert(Damage {
                    segment: Some(segment),
                    text,
                });
            }
        }
        reader.search_claims();
        self.proofs.add(&reader.proofs);
        let stop = reader.stop();
        self.segments.push(segment);
        if stop.offset > 0 || stop.begun {
            self.written = self.segments.len();
        }
        let expected = self.next.unwrap_or(BatchSeq(1));
        self.stops.push((segment, expected, stop.clone()));
    }

    /// Begins anew above a gap in the numbers.
    fn forget_below(&mut self, gap: SegmentId) {
        self.image = Image::default();
        self.image.mirror.lenient = self.options.checkpoints_lie();
        self.held.clear();
        self.next = None;
        self.proofs = Proofs::default();
        self.stops.retain(|(segment, ..)| *segment >= gap);
        self.damage.take_if(|damage| damage.segment < Some(gap));
    }

    /// Takes the next batch of a segment.
    fn take(&mut self, segment: SegmentId, mut batch: Batch) -> Result<(), String> {
        let seq = batch.header.seq;
        check_shape(&batch)?;
        if let Some(gap) = self.gap.take() {
            self.forget_below(gap);
        }
        self.proofs.synced = self.proofs.synced.max(batch.header.synced);
        self.apply_proven()?;
        if batch.offset == 0 {
            while self
                .held
                .back()
                .is_some_and(|(_, old)| old.header.seq >= seq)
            {
                self.held.pop_back();
                self.next = self.next.map(|next| BatchSeq(next.0 - 1));
            }
        }
        match self.next {
            None if self
                .stops
                .iter()
                .any(|(segment, ..)| *segment == batch.header.previous.0) =>
            {
                return Err(self.chain_broken(BatchSeq(seq.0 - 1), seq));
            }
            None => self.begin(&mut batch),
            Some(next) if next == seq => {
                let last = self.last_spot();
                if batch.header.previous != last {
                    return Err(format!(
                        "batch {seq} follows one at {:?}, and the last one read is at {last:?}",
                        batch.header.previous
                    ));
                }
            }
            Some(next) => return Err(self.chain_broken(next, seq)),
        }
        self.stops.clear();
        self.next = Some(BatchSeq(seq.0 + 1));
        self.held.push_back((segment, batch));
        Ok(())
    }

    /// Where the last batch of the chain stands.
    fn last_spot(&self) -> Spot {
        let last = self.held.back();
        last.map_or(self.proven, |(segment, batch)| (*segment, batch.offset))
    }

    fn chain_broken(&self, next: BatchSeq, found: BatchSeq) -> String {
        let mut text = format!("batch {next} was expected and batch {found} follows");
        if let Some((segment, _, stop)) = self.stops.iter().find(|(_, _, stop)| stop.begun) {
            let why = stop.damage.as_deref().unwrap_or("it lacks a sector");
            text += &format!(
                "; segment {segment} could not be read from byte {} on: {why}",
                stop.offset
            );
        }
        text
    }

    /// The first batch of the chain: its head is the state to begin with, proven or not (had it not
    /// been durable, the segments before would not have been freed).
    fn begin(&mut self, batch: &mut Batch) {
        self.proven = batch.header.previous;
        batch.records.retain(|placed| {
            if let Record::Checkpoint(checkpoint) = &placed.record {
                self.image
                    .mirror
                    .begin_with(placed.group, placed.sequence, checkpoint);
            }
            if let Record::Head { incarnation, .. } = &placed.record {
                self.incarnation = *incarnation;
            }
            !matches!(placed.record, Record::Head { .. } | Record::Checkpoint(_))
        });
    }

    fn apply_proven(&mut self) -> Result<(), String> {
        while let Some((segment, batch)) = self
            .held
            .pop_front_if(|(_, batch)| batch.header.seq <= self.proofs.synced)
        {
            self.proven = (segment, batch.offset);
            self.apply(segment, batch)?;
        }
        Ok(())
    }

    fn apply(&mut self, segment: SegmentId, batch: Batch) -> Result<(), String> {
        for placed in batch.records {
            if let Record::Head {
                incarnation,
                groups,
            } = placed.record
            {
                let known = self.image.mirror.groups.len();
                if groups as usize != known || incarnation < self.incarnation {
                    return Err(format!("{placed}, where {known} groups are known"));
                }
                self.incarnation = incarnation;
            }
            self.image.apply(segment, placed)?;
        }
        Ok(())
    }

    /// The verdict.
    ///
    /// # Errors
    /// If what was read is not what was synced.
    pub fn finish(mut self) -> Result<Recovered, Damage> {
        if let Some(damage) = self.damage.take() {
            return Err(damage);
        }
        let anywhere = |text: String| Damage {
            segment: None,
            text,
        };
        if self.gap.is_some() {
            let text = "segments are missing before the last ones".to_owned();
            return Err(anywhere(text));
        }
        self.judge_stops()?;
        if self.next.is_none() && self.started {
            return Err(anywhere("the log is gone".to_owned()));
        }
        self.apply_proven().map_err(anywhere)?;
        let end = self.next.unwrap_or(BatchSeq(1));
        let next = self.held.front().map_or(end, |(_, batch)| batch.header.seq);
        let (previous, last) = (self.proven, self.last_spot());
        let mirror = self.image.mirror.clone();
        let mut tail = Vec::new();
        for (segment, batch) in std::mem::take(&mut self.held) {
            let records = batch.records.iter();
            let kept = records.filter(|placed| {
                !matches!(placed.record, Record::Head { .. } | Record::Checkpoint(_))
            });
            tail.extend(kept.map(|placed| (segment, placed.clone())));
            self.apply(segment, batch).map_err(anywhere)?;
        }
        let cut = self.stops.iter().find(|(_, _, stop)| stop.begun);
        let first = self.segments.first().copied().unwrap_or(SegmentId(1));
        self.segments.truncate(self.written);
        let next_segment = self.segments.last().map_or(first, |last| last.next());
        Ok(Recovered {
            orders: self.image.mirror.orders,
            cut: cut.map(|(segment, _, stop)| Cut {
                segment: *segment,
                offset: stop.offset,
            }),
            groups: self.image.into_groups().map_err(anywhere)?,
            incarnation: self.incarnation,
            resume: Resume {
                mirror,
                tail,
                next,
                end,
                previous,
                last,
                segments: self.segments,
                next_segment,
            },
        })
    }

    /// Whether where the log ends is an end: see "Where the log ends" above.
    fn judge_stops(&self) -> Result<(), Damage> {
        let planted = self.options.planted;
        for (segment, expected, stop) in &self.stops {
            let damage = |why: &str| Damage {
                segment: Some(*segment),
                text: format!("batch {expected} at byte {}: {why}", stop.offset),
            };
            if planted.has(Bug::TornTakenForDamage) && stop.begun {
                return Err(damage("it is torn"));
            }
            if planted.has(Bug::DamageTakenForTorn) {
                continue;
            }
            if let Some(why) = &stop.damage {
                return Err(damage(why));
            }
            if self.proofs.cover((*segment, stop.offset)) {
                return Err(damage(
                    "a later batch says that something synced stood here",
                ));
            }
        }
        Ok(())
    }
}

/// A segment's first batch opens with a head and its checkpoints, and no other batch has any.
fn check_shape(batch: &Batch) -> Result<(), String> {
    let heads = match batch.records.first().map(|placed| &placed.record) {
        Some(Record::Head { groups, .. }) if batch.offset == 0 => 1 + *groups as usize,
        None | Some(_) if batch.offset == 0 => {
            return Err("a segment that does not open with a head".to_owned());
        }
        _ => 0,
    };
    let is_head =
        |placed: &Placed| matches!(placed.record, Record::Head { .. } | Record::Checkpoint(_));
    let leading = batch.records.iter().take_while(|p| is_head(p)).count();
    let all = batch.records.iter().filter(|p| is_head(p)).count();
    if leading != heads || all != heads {
        return Err(format!(
            "batch {} has {all} head records, {heads} are announced",
            batch.header.seq
        ));
    }
    Ok(())
}

/// Any bytes in any number of segments are read as a log or are damage.
pub fn fuzz(bytes: &[u8]) {
    let options = LogOptions::small(8 << 10);
    let mut recovery = Recovery::new(&options, false);
    for (at, chunk) in bytes.chunks(8 << 10).enumerate() {
        recovery.feed(SegmentId(1 + at as u32), chunk);
    }
    if let Ok(recovered) = recovery.finish() {
        let _ = super::Log::restart(options, recovered);
    }
    for line in super::dump(0, SegmentId(1), bytes) {
        let _ = line.to_string();
    }
}
