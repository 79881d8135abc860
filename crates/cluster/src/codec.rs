//! The state, commands and replies as bytes: for snapshots, for nodes that watch, for the log.
//!
//! # Layout
//!
//! Everything is made of four things; `layout.rs` says which in which order.
//!
//! | what | bytes |
//! |---|---|
//! | number, id | varint (LEB128, shortest form) |
//! | flag | 1: 0 or 1 |
//! | choice | 1: which; then the fields of that one |
//! | text | varint length, UTF-8 |
//! | list, set, map | varint count, then the items (key, value), rising where the order is not given |
//! | slots of a set | varint count of runs; of each, first slot less the last before it, slots less one |
//! | slots of a table | per run of equal cells: varint length less one, the cell; until all slots are told |
//!
//! A file of it is: version (1 byte, now 2), body, CRC32C of both (4 bytes, little-endian). A state of a
//! thousand shards with no two slots in a row alike takes about 200 KiB.
//!
//! Bytes from outside are checked whole before they are believed: order, ranges, UTF-8, no byte left over,
//! and for a state all of its invariants. One value has one encoding, so that equal states are equal
//! bytes and a hash of the bytes is a hash of the state.
//!
//! # Versions
//!
//! A change of the layout raises the version; a reader of version n reads n only. What must survive an
//! upgrade is read by the old layout, kept beside the new one.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::crc::crc32c;
use kvorum_base::cursor::{put_block, put_varint};
use kvorum_base::{Malformed, Reader, Slot};

use crate::command::Request;
use crate::hearsay::Hearsay;
use crate::plan::next_commands;
use crate::reply::Reply;
use crate::runs::{SlotRuns, SlotTable};
use crate::state::State;

/// The version of the layout.
pub const VERSION: u8 = 2;

/// What can be written and read.
pub(crate) trait Wire: Sized {
    /// Appends its bytes.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads them back.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed>;
}

impl State {
    /// The state as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        seal(self)
    }

    /// The state that these bytes are.
    ///
    /// # Errors
    /// If they are none, or one that cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let state: Self = open(bytes)?;
        match state.check() {
            Ok(()) => Ok(state),
            Err(_) => Err(Malformed {
                what: "a state that cannot be",
                at: 0,
            }),
        }
    }

    /// A hash of the state, for comparing replicas at the same entry: FNV-1a over its bytes, eight at
    /// a time, and mixed at the end. Not for secrets.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut body = Vec::new();
        self.put(&mut body);
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for chunk in body.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
            hash ^= hash >> 29;
        }
        hash = (hash ^ body.len() as u64).wrapping_mul(0x0100_0000_01b3);
        hash ^ (hash >> 32)
    }
}

impl Request {
    /// The request as bytes: the body of an entry of the shard manager's log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        seal(self)
    }

    /// The request that these bytes are.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        open(bytes)
    }

    /// Whether its bytes can be read back. What cannot must not come into a log: no replica could apply it,
    /// and none could start with it.
    #[must_use]
    pub fn reads_back(&self) -> bool {
        Self::decode(&self.encode()).as_ref() == Ok(self)
    }
}

impl Reply {
    /// The reply as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        seal(self)
    }

    /// The reply that these bytes are.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        open(bytes)
    }
}

/// Reads these bytes as the body of everything that has a layout: whatever reads at all has to read
/// whole, and to be written as the same bytes again.
///
/// # Panics
/// If not.
pub fn fuzz(bytes: &[u8]) {
    fn one<T: Wire>(bytes: &[u8]) -> Option<T> {
        let mut reader = Reader::new(bytes);
        let value = T::read(&mut reader).ok()?;
        let mut again = Vec::new();
        value.put(&mut again);
        assert_eq!(again, bytes[..reader.position()]);
        Some(value)
    }
    one::<Request>(bytes);
    one::<Reply>(bytes);
    one::<Hearsay>(bytes);
    if let Some(state) = one::<State>(bytes)
        && state.check().is_ok()
    {
        // What is believed can be asked and planned with.
        let commands = next_commands(&state, &Hearsay::default());
        let index = state.applied().next();
        for command in commands {
            let mut next = state.clone();
            next.apply(index, &command.into());
            assert_eq!(next.check(), Ok(()));
        }
    }
}

/// Version, body, CRC.
pub(crate) fn seal<T: Wire>(value: &T) -> Vec<u8> {
    let mut out = vec![VERSION];
    value.put(&mut out);
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

pub(crate) fn open<T: Wire>(bytes: &[u8]) -> Result<T, Malformed> {
    let malformed = |what| Malformed {
        what,
        at: bytes.len(),
    };
    let body_len = bytes.len().checked_sub(4).ok_or(malformed("length"))?;
    let (body, crc) = bytes.split_at(body_len);
    if crc32c(body).to_le_bytes() != crc {
        return Err(malformed("checksum"));
    }
    let mut reader = Reader::new(body);
    if reader.u8("version")? != VERSION {
        return Err(reader.malformed("version"));
    }
    let value = T::read(&mut reader)?;
    reader.end("what follows the value")?;
    Ok(value)
}

/// A count of items that each take at least a byte: never more than bytes are left, so that a lie
/// reserves no memory.
fn read_count(reader: &mut Reader<'_>) -> Result<usize, Malformed> {
    let count = reader.varint("count")?;
    match usize::try_from(count) {
        Ok(count) if count <= reader.remaining() => Ok(count),
        _ => Err(reader.malformed("count")),
    }
}

impl Wire for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, *self);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        reader.varint("number")
    }
}

macro_rules! small_number {
    ($($number:ty),*) => {$(
        impl Wire for $number {
            fn put(&self, out: &mut Vec<u8>) {
                put_varint(out, u64::from(*self));
            }

            fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
                let number = reader.varint("number")?;
                Self::try_from(number).map_err(|_| reader.malformed("number"))
            }
        }
    )*};
}

small_number!(u8, u16, u32);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u8("flag")? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(reader.malformed("flag")),
        }
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_block(out, self.as_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bytes = reader.block("text")?;
        let text = std::str::from_utf8(bytes).map_err(|_| reader.malformed("text"))?;
        Ok(text.to_owned())
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        bool::read(reader)?.then(|| T::read(reader)).transpose()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok((A::read(reader)?, B::read(reader)?))
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.len() as u64);
        for item in self {
            item.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = read_count(reader)?;
        (0..count).map(|_| T::read(reader)).collect()
    }
}

impl<T: Wire + Ord + Copy> Wire for BTreeSet<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.len() as u64);
        for item in self {
            item.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut set = Self::new();
        for _ in 0..read_count(reader)? {
            let item = T::read(reader)?;
            if set.last().is_some_and(|last| *last >= item) {
                return Err(reader.malformed("order of a set"));
            }
            set.insert(item);
        }
        Ok(set)
    }
}

impl<K: Wire + Ord + Copy, V: Wire> Wire for BTreeMap<K, V> {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.len() as u64);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut map = Self::new();
        for _ in 0..read_count(reader)? {
            let key = K::read(reader)?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(reader.malformed("order of a map"));
            }
            map.insert(key, V::read(reader)?);
        }
        Ok(map)
    }
}

impl Wire for SlotRuns {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.runs().len() as u64);
        let mut end = 0;
        for (first, last) in self.runs() {
            put_varint(out, u64::from(*first - end));
            put_varint(out, u64::from(last - first));
            end = *last;
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut set = Self::none();
        let mut end: u16 = 0;
        for place in 0..read_count(reader)? {
            let gap = u16::read(reader)?;
            let len = u16::read(reader)?;
            let first = end.checked_add(gap);
            let last = first.and_then(|first| first.checked_add(len));
            // Runs that touch would be one run.
            let (Some(first), Some(last), true) = (first, last, place == 0 || gap > 1) else {
                return Err(reader.malformed("run of slots"));
            };
            set.push(first, last);
            end = last;
        }
        Ok(set)
    }
}

impl<T: Wire + Clone + PartialEq> Wire for SlotTable<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.slot_count()));
        for (first, last, cell) in self.runs() {
            put_varint(out, u64::from(last - first));
            cell.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let slot_count = u16::read(reader)?;
        if slot_count == 0 || slot_count > kvorum_base::slot::SLOT_COUNT {
            return Err(reader.malformed("number of slots"));
        }
        let mut cells: Vec<T> = Vec::with_capacity(usize::from(slot_count));
        while cells.len() < usize::from(slot_count) {
            let len = usize::from(u16::read(reader)?) + 1;
            let cell = T::read(reader)?;
            let longer = cells.last() == Some(&cell);
            if longer || cells.len() + len > usize::from(slot_count) {
                return Err(reader.malformed("run of a table"));
            }
            cells.resize(cells.len() + len, cell);
        }
        Ok(Self::of_cells(cells))
    }
}

impl Wire for Slot {
    fn put(&self, out: &mut Vec<u8>) {
        self.get().put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        u16::read(reader).map(Slot)
    }
}
