//! Every byte layout of a node, side by side: what lies on the disk and what travels between nodes.
//!
//! - [`entry`]: one entry of a group's log. Encoded once by whoever proposes it; the same bytes lie
//!   in memory, in the log, on the wire and before apply;
//! - [`wal`]: the records of the write-ahead log (the batches that carry them are `log::frame`'s);
//! - [`peer`]: what nodes say to each other;
//! - [`chunk`]: a group's whole state, piece by piece;
//! - [`manager`]: what nodes and the shard manager say to each other;
//! - [`delta`]: one thing that changed in a slot that moves to another group;
//! - [`membership`]: who takes part in a group, a part of several of the above.
//!
//! The identity of a data directory is a text file for people, and the shell's.
//!
//! Each file holds the byte table, the encoder and the strict decoder of one format, and a `fuzz`
//! function that must not panic on any input. All integers are little-endian. A decoder takes
//! exactly one encoding of a value, so that decoding and encoding again gives the same bytes.
//!
//! A format opens with its version. A reader refuses versions it does not know; a change that old
//! readers cannot follow gets a new version, and a new writer goes on writing the old one until
//! every reader of the group has been replaced.

pub mod chunk;
pub mod delta;
pub mod entry;
pub mod manager;
pub mod membership;
pub mod moves;
pub mod peer;
pub mod wal;

use kvorum_base::cursor::put_varint;
use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{Index, Malformed, Reader, SlotSet, Term};

/// No term or index of a real log comes near this; larger ones from outside are refused, so that
/// arithmetic inside cannot overflow.
pub const NUMBER_MAX: u64 = 1 << 62;

fn bounded(number: u64, reader: &Reader<'_>, what: &'static str) -> Result<u64, Malformed> {
    if number > NUMBER_MAX {
        return Err(reader.malformed(what));
    }
    Ok(number)
}

/// A term in eight bytes.
pub(crate) fn read_term(reader: &mut Reader<'_>) -> Result<Term, Malformed> {
    let number = reader.u64("term")?;
    bounded(number, reader, "term").map(Term)
}

/// An index in eight bytes.
pub(crate) fn read_index(reader: &mut Reader<'_>) -> Result<Index, Malformed> {
    let number = reader.u64("index")?;
    bounded(number, reader, "index").map(Index)
}

/// A number that is counted on: a varint within [`NUMBER_MAX`].
pub(crate) fn read_count(reader: &mut Reader<'_>, what: &'static str) -> Result<u64, Malformed> {
    let number = reader.varint(what)?;
    bounded(number, reader, what)
}

/// Yes or no in a byte.
pub(crate) fn read_flag(reader: &mut Reader<'_>, what: &'static str) -> Result<bool, Malformed> {
    match reader.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.malformed(what)),
    }
}

/// A set of slots: how many runs it has, a varint, and of each the first and the last slot, two bytes
/// each.
pub(crate) fn put_slots(out: &mut Vec<u8>, slots: &SlotSet) {
    put_varint(out, slots.runs().count() as u64);
    for (first, last) in slots.runs() {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
    }
}

/// The other way round. Runs stand in order and do not touch, so that a set has one encoding.
pub(crate) fn read_slots(reader: &mut Reader<'_>) -> Result<SlotSet, Malformed> {
    let mut runs = Vec::new();
    // Behind the last slot and the gap that must follow it.
    let mut from = 0;
    for _ in 0..reader.varint("runs of slots")? {
        let (first, last) = (reader.u16("first slot")?, reader.u16("last slot")?);
        if first < from || last < first || last >= SLOT_COUNT {
            return Err(reader.malformed("run of slots"));
        }
        from = last + 2;
        runs.push((first, last));
    }
    Ok(SlotSet::of_runs(runs))
}
