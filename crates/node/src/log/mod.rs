//! The write-ahead log as pure bytes: one stream of batches for all groups of a lane.
//!
//! All groups of a lane share one log, so that one write and one sync serve whatever all of them have
//! to make durable in a turn. The log is a chain of *segments*, files of equal size that are recycled;
//! each is filled with *batches* ([`frame`], what one sync makes durable), which hold *records*
//! (`format::wal`).
//!
//! - [`segments`]: the writer as a whole; it opens new segments and gives old ones back. [`record`] is
//!   where it collects what it is asked to keep, [`seal`] where that becomes a batch;
//! - [`mirror`]: what the records amount to, group by group;
//! - [`recover`]: the reader at a start: bytes of all segments in, groups out, or damage;
//! - [`dump`]: the reader for people.
//!
//! Nothing here touches a file. The shell carries out `Effect::Append`, `Effect::PrepareSegment` and
//! `Effect::FreeSegment`, and hands in what it reads.
//!
//! # What is promised
//!
//! What was synced is read back exactly, or recovery says *damage*: then every promise of this node
//! may be lost, and it must not go on under its identity. What was not synced is read back as a
//! prefix: a batch whole or not at all, none after one that is missing. After a restart nothing is
//! promised before the part of the log that is not provably on the disk has been written again:
//! a killed process leaves it in the page cache, where it can be read, and lost with the next power cut.
//!
//! # What is asked of the shell
//!
//! - A segment is reported ready when the file has its full size and its directory entry is durable.
//! - The directory is synced before its segments are listed at a start.
//! - After the first failed write or sync nothing is reported as synced any more; the process ends.
//! - A segment is freed by renaming or removing its file, in the order of the effects.

use std::fmt;

use kvorum_base::{Bug, Planted};

mod dump;
mod frame;
mod mirror;
mod record;
mod recover;
mod seal;
mod segments;

pub use dump::{Dump, DumpLine, dump};
pub use recover::{Cut, Damage, Recovered, RecoveredGroup, Recovery, fuzz};
pub use segments::{Blocker, Durable, Log, Room};

/// Numbers the batches of a node's log, from 1; never reused except for what was never promised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BatchSeq(pub u64);

impl fmt::Display for BatchSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for BatchSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names a segment, and is the use number stamped into each of its sectors: a recycled file gets a
/// new one. From 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentId(pub u32);

impl SegmentId {
    fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("2^32 segments were used"))
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How a log is laid out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// The size of every segment file; a multiple of the sector size.
    pub segment_bytes: u32,
    /// What the disk writes whole or not at all: 512, or 4096 where that is certain.
    pub sector_bytes: u32,
    /// The most bytes of records in one batch, checkpoints not counted; also of one record.
    pub batch_bytes_max: u32,
    /// The largest encoded entry that will be recorded. [`Log::record`] only asserts it, since an entry
    /// that consensus has taken can be refused no more. So it is checked where entries come in: a
    /// client's command at the door, before it is proposed; a peer's entries when its message is read.
    /// What a node proposes by itself is far smaller.
    pub entry_bytes_max: u32,
    /// Room in each segment for its head: about 80 bytes and 17 per member, for each group.
    pub checkpoint_bytes_max: u32,
    /// Above this many bytes of segments idle groups are asked to make room ([`Log::blockers`]).
    pub target_bytes: u64,
    /// Mixed into every checksum; drawn when the directory is made and kept in its manifest.
    pub salt: u64,
    /// A bug on purpose, for the simulator.
    pub planted: Planted,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            sector_bytes: 512,
            batch_bytes_max: 48 << 20,
            entry_bytes_max: 40 << 20,
            checkpoint_bytes_max: 8 << 20,
            target_bytes: 512 << 20,
            salt: 0,
            planted: Planted::default(),
        }
    }
}

impl LogOptions {
    /// A log of small segments, with everything else in proportion; entries can be as large as
    /// a segment allows.
    ///
    /// # Panics
    /// Below 8 KiB, or if it is not a multiple of 512.
    #[must_use]
    pub fn small(segment_bytes: u32) -> Self {
        let fits = frame::records_that_fit(segment_bytes as usize, 512) as u32;
        let checkpoint_bytes_max = fits / 4;
        let options = Self {
            segment_bytes,
            sector_bytes: 512,
            batch_bytes_max: fits - checkpoint_bytes_max,
            entry_bytes_max: fits / 2,
            checkpoint_bytes_max,
            target_bytes: 8 * u64::from(segment_bytes),
            ..Self::default()
        };
        options.check();
        options
    }

    /// Whether a planted bug makes checkpoints say what is not so.
    fn checkpoints_lie(&self) -> bool {
        self.planted.has(Bug::VoteFreedWithSegment) || self.planted.has(Bug::CarryTruncates)
    }

    /// The relations on which the log rests: the largest batch fits a fresh segment behind the
    /// largest head, and the largest entry fits a batch. (A group whose entries do not fit one carry
    /// record has a snapshot taken instead.)
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        let sector = self.sector_bytes;
        assert!(
            sector == 512 || sector == 4096,
            "sectors of {sector} bytes: 512 or 4096"
        );
        assert!(
            self.segment_bytes.is_multiple_of(sector) && self.segment_bytes >= 8 << 10,
            "a segment of {} bytes",
            self.segment_bytes
        );
        let fits = frame::records_that_fit(self.segment_bytes as usize, sector as usize) as u64;
        let asked = u64::from(self.batch_bytes_max) + u64::from(self.checkpoint_bytes_max);
        assert!(
            asked <= fits,
            "a segment holds {fits} bytes of records, a batch and its head take {asked}"
        );
        assert!(
            self.entry_bytes_max + RECORD_OVERHEAD_BYTES <= self.batch_bytes_max,
            "an entry of {} bytes does not fit a batch of {}",
            self.entry_bytes_max,
            self.batch_bytes_max
        );
        assert!(
            self.target_bytes >= 3 * u64::from(self.segment_bytes),
            "a log of {} bytes is less than three segments",
            self.target_bytes
        );
    }
}

/// What an append adds to its entries, generously.
const RECORD_OVERHEAD_BYTES: u32 = 64;
