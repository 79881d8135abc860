//! Every byte layout of a node, side by side: what lies on the disk and what travels between nodes.
//!
//! - [`entry`]: one entry of a group's log. Encoded once by whoever proposes it; the same bytes lie
//!   in memory, in the log, on the wire and before apply;
//! - [`wal`]: the records of the write-ahead log (the batches that carry them are `log::frame`'s);
//! - [`peer`]: what nodes say to each other;
//! - [`chunk`]: a group's whole state, piece by piece;
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
pub mod entry;
pub mod membership;
pub mod peer;
pub mod wal;

use kvorum_base::{Index, Malformed, Reader, Term};

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
