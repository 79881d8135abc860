//! A segment as lines for people: what stands where, batch by batch, and why it ends.
//!
//! Reads whatever is readable, changes nothing and judges nothing: whether a log is damaged is a
//! question to all of its segments together ([`super::Recovery`]).

use std::collections::VecDeque;
use std::fmt;

use super::frame::SegmentReader;
use super::{BatchSeq, SegmentId};
use crate::format::wal::Placed;

/// One line of a dump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DumpLine {
    /// A batch begins.
    Batch {
        /// Where in the segment, in bytes.
        offset: u32,
        /// Its number.
        seq: BatchSeq,
        /// The last batch that was durable when it was written.
        synced: BatchSeq,
        /// How many bytes its records take.
        length: usize,
    },
    /// A record of that batch.
    Record(Placed),
    /// The last line.
    End {
        /// Where no further batch stands, in bytes.
        offset: u32,
        /// Why.
        text: String,
    },
}

impl fmt::Display for DumpLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch {
                offset,
                seq,
                synced,
                length,
            } => write!(
                f,
                "{offset:>9} batch {seq}, {length} bytes, synced up to {synced}"
            ),
            Self::Record(placed) => write!(f, "          {placed}"),
            Self::End { offset, text } => write!(f, "{offset:>9} {text}"),
        }
    }
}

/// The lines of one segment.
#[derive(Debug)]
pub struct Dump<'a> {
    reader: SegmentReader<'a>,
    lines: VecDeque<DumpLine>,
    ended: bool,
}

/// Dumps the file of a segment. The salt is the log's, from the directory's manifest.
#[must_use]
pub fn dump(salt: u64, segment: SegmentId, bytes: &[u8]) -> Dump<'_> {
    let bytes = &bytes[..bytes.len().min(u32::MAX as usize)];
    Dump {
        reader: SegmentReader::new(salt, segment, bytes),
        lines: VecDeque::new(),
        ended: false,
    }
}

impl Iterator for Dump<'_> {
    type Item = DumpLine;

    fn next(&mut self) -> Option<DumpLine> {
        if let Some(line) = self.lines.pop_front() {
            return Some(line);
        }
        if self.ended {
            return None;
        }
        if let Some(batch) = self.reader.next_batch() {
            let records = batch.records.into_iter();
            self.lines.extend(records.map(DumpLine::Record));
            return Some(DumpLine::Batch {
                offset: batch.offset,
                seq: batch.header.seq,
                synced: batch.header.synced,
                length: batch.header.length,
            });
        }
        self.ended = true;
        let stop = self.reader.stop();
        let text = match (&stop.damage, stop.begun) {
            (Some(damage), _) => format!("a batch that cannot be read: {damage}"),
            (None, true) => "a batch that lacks a sector".to_owned(),
            (None, false) => "the end".to_owned(),
        };
        Some(DumpLine::End {
            offset: stop.offset,
            text,
        })
    }
}
