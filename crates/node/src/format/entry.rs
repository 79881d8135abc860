//! One entry of a group's log, as bytes that are made once.
//!
//! The proposer builds these bytes while it reads the commands, and from then on they are only
//! shared: the leader's log on disk, the frames to all followers, their logs, their memory and the
//! walk of apply use the same encoding. The checksum is computed once and checked by everyone who
//! receives or re-reads the entry, so it covers the way from the proposer to apply, at rest too.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 4 | length | of the whole entry, these four bytes included |
//! | 4 | 4 | checksum | CRC32C of all other bytes: the length, then everything after this field |
//! | 8 | 8 | term | |
//! | 16 | 8 | index | at least 1 |
//! | 24 | 8 | clock | milliseconds; 0 in kinds 1 and 3, which say nothing about time |
//! | 32 | 1 | kind | see below |
//! | 33 | - | payload | |
//!
//! | kind | | payload |
//! |---|---|---|
//! | 1 | empty: opens a leader's term | - |
//! | 2 | commands: any number; with none it only moves the clock on | per command: varint length, bytes |
//! | 3 | membership | as in `membership` |
//! | 4 | checkpoint: every replica notes the hash of its state here | - |
//! | 5 | level: what later entries mean is decided by this feature level | 2 bytes |
//! | 6 | move: of slots, to or from this group | as in `moves` |
//! | 7 | request to the shard manager, in its own group only | as in the `cluster` crate |
//! | 8 | order: the group takes an order to change its members, or refuses it | number 8, refused 1 |
//!
//! The format has no version of its own: its carriers (log, peer frame) have. A new kind may be
//! proposed only at a feature level that all replicas of the group understand.
//!
//! What a command's bytes mean is not known here.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::crc::{crc32c, crc32c_from};
use kvorum_base::{Index, Malformed, Reader, Term, UnixMillis};
use kvorum_cluster::{OrderNumber, Request};
use kvorum_raft::{Entry, Payload};

use super::membership::{put_membership, read_membership};
use super::moves::{self, MoveEntry};
use crate::replicas::Taken;

/// The bytes before the payload.
pub const HEADER_BYTES: usize = 33;

const CHECKSUM_AT: usize = 4;
const TERM_AT: usize = 8;
const CLOCK_AT: usize = 24;
const KIND_AT: usize = 32;

const EMPTY: u8 = 1;
const COMMANDS: u8 = 2;
const MEMBERSHIP: u8 = 3;
const CHECKPOINT: u8 = 4;
const LEVEL: u8 = 5;
const MOVE: u8 = 6;
const MANAGER: u8 = 7;
const ORDER: u8 = 8;

/// A batch of commands that becomes one entry. The header is left open until the place in the log is
/// known.
#[derive(Debug)]
pub struct EntryBuilder {
    bytes: Vec<u8>,
    count: usize,
    /// How many bytes the last command's length took. Commands of one batch are much alike, so the
    /// next command is written behind a gap of that size and hardly ever has to be moved.
    length_bytes: usize,
}

impl Default for EntryBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl EntryBuilder {
    /// An entry without commands.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: vec![0; HEADER_BYTES],
            count: 0,
            length_bytes: 1,
        }
    }

    /// Appends the command that `write` appends to the vector it is given. If it fails, the entry is
    /// as before.
    ///
    /// # Errors
    /// Whatever `write` says.
    pub fn push_command<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        let gap = self.length_bytes;
        self.bytes.resize(start + gap, 0);
        if let Err(refusal) = write(&mut self.bytes) {
            self.bytes.truncate(start);
            return Err(refusal);
        }
        assert!(
            self.bytes.len() >= start + gap,
            "a command may only append to the entry"
        );
        let len = self.bytes.len() - start - gap;
        let (length, used) = varint(len);
        if used > gap {
            self.bytes.resize(start + used + len, 0);
        }
        if used != gap {
            self.bytes
                .copy_within(start + gap..start + gap + len, start + used);
            self.bytes.truncate(start + used + len);
        }
        self.bytes[start..start + used].copy_from_slice(&length[..used]);
        self.length_bytes = used;
        self.count += 1;
        Ok(())
    }

    /// How many bytes the entry has by now, header included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many commands it has by now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Fills in the header and gives the entry away.
    #[must_use]
    pub fn seal(self, term: Term, index: Index, clock: UnixMillis) -> Bytes {
        seal(self.bytes, term, index, clock, COMMANDS)
    }
}

/// A varint on the stack: its bytes and how many of them count.
fn varint(value: usize) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut rest = value as u64;
    let mut used = 0;
    loop {
        bytes[used] = rest as u8 & 0x7f;
        rest >>= 7;
        if rest == 0 {
            return (bytes, used + 1);
        }
        bytes[used] |= 0x80;
        used += 1;
    }
}

/// An entry at which every replica notes the hash of its state, to be compared.
#[must_use]
pub fn encode_checkpoint(term: Term, index: Index, clock: UnixMillis) -> Bytes {
    seal(vec![0; HEADER_BYTES], term, index, clock, CHECKPOINT)
}

/// An entry that raises the group's feature level.
#[must_use]
pub fn encode_level(term: Term, index: Index, clock: UnixMillis, level: u16) -> Bytes {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(&level.to_le_bytes());
    seal(bytes, term, index, clock, LEVEL)
}

/// An entry about a move of slots.
#[must_use]
pub fn encode_move(term: Term, index: Index, clock: UnixMillis, entry: &MoveEntry<'_>) -> Bytes {
    let mut bytes = vec![0; HEADER_BYTES];
    moves::put_entry(&mut bytes, entry);
    seal(bytes, term, index, clock, MOVE)
}

/// An entry that takes an order, or refuses it.
#[must_use]
pub fn encode_order(term: Term, index: Index, clock: UnixMillis, taken: Taken) -> Bytes {
    let mut bytes = vec![0; HEADER_BYTES];
    put_taken(&mut bytes, taken);
    seal(bytes, term, index, clock, ORDER)
}

/// Appends the order that a group took or refused last: number 8, refused 1.
pub(crate) fn put_taken(out: &mut Vec<u8>, taken: Taken) {
    out.extend_from_slice(&taken.order.get().to_le_bytes());
    out.push(u8::from(taken.refused));
}

pub(crate) fn read_taken(reader: &mut Reader<'_>) -> Result<Taken, Malformed> {
    let order = OrderNumber(reader.u64("order")?);
    let refused = super::read_flag(reader, "refused")?;
    Ok(Taken { order, refused })
}

/// A request to the shard manager.
#[must_use]
pub fn encode_request(term: Term, index: Index, clock: UnixMillis, request: &Request) -> Bytes {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes.extend_from_slice(&request.encode());
    seal(bytes, term, index, clock, MANAGER)
}

/// An entry that consensus makes by itself. It says nothing about time.
///
/// # Panics
/// If the payload is a command: those are made by [`EntryBuilder`] and the functions beside it.
#[must_use]
pub fn encode_raft(term: Term, index: Index, payload: &Payload) -> Bytes {
    let mut bytes = vec![0; HEADER_BYTES];
    let kind = match payload {
        Payload::Empty => EMPTY,
        Payload::Membership(membership) => {
            put_membership(&mut bytes, membership);
            MEMBERSHIP
        }
        Payload::Command => panic!("consensus makes no commands"),
    };
    seal(bytes, term, index, UnixMillis::ZERO, kind)
}

fn seal(mut bytes: Vec<u8>, term: Term, index: Index, clock: UnixMillis, kind: u8) -> Bytes {
    assert!(index > Index::ZERO, "an entry at index 0");
    let len = u32::try_from(bytes.len())
        .unwrap_or_else(|_| panic!("an entry of {} bytes", bytes.len()))
        .to_le_bytes();
    bytes[..CHECKSUM_AT].copy_from_slice(&len);
    bytes[TERM_AT..16].copy_from_slice(&term.get().to_le_bytes());
    bytes[16..CLOCK_AT].copy_from_slice(&index.get().to_le_bytes());
    bytes[CLOCK_AT..KIND_AT].copy_from_slice(&clock.get().to_le_bytes());
    bytes[KIND_AT] = kind;
    let checksum = checksum(&bytes).to_le_bytes();
    bytes[CHECKSUM_AT..TERM_AT].copy_from_slice(&checksum);
    Bytes::from(bytes)
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c_from(crc32c(&bytes[..CHECKSUM_AT]), &bytes[TERM_AT..])
}

/// The length of the entry that starts here, from its first four bytes.
///
/// # Errors
/// If fewer than four are left, or no entry has that length.
pub fn peek_len(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut reader = Reader::new(bytes);
    let len = reader.u32("entry length")? as usize;
    if len < HEADER_BYTES {
        return Err(reader.malformed("entry length"));
    }
    Ok(len)
}

/// Checks the bytes of exactly one entry and makes it a value.
///
/// # Errors
/// If the length, the checksum, a field or the payload is not as the format says.
pub fn decode(data: Bytes) -> Result<Entry, Malformed> {
    let mut reader = Reader::new(&data);
    let len = reader.u32("entry length")? as usize;
    if len != data.len() || len < HEADER_BYTES {
        return Err(reader.malformed("entry length"));
    }
    if reader.u32("entry checksum")? != checksum(&data) {
        return Err(reader.malformed("entry checksum"));
    }
    let term = super::read_term(&mut reader)?;
    let index = super::read_index(&mut reader)?;
    if index == Index::ZERO {
        return Err(reader.malformed("entry index"));
    }
    let clock = reader.u64("entry clock")?;
    super::bounded(clock, &reader, "entry clock")?;
    let kind = reader.u8("entry kind")?;
    if matches!(kind, EMPTY | MEMBERSHIP) && clock != 0 {
        return Err(reader.malformed("entry clock"));
    }
    let payload = match kind {
        EMPTY => Payload::Empty,
        COMMANDS => {
            while !reader.is_empty() {
                reader.block("command")?;
            }
            Payload::Command
        }
        MEMBERSHIP => Payload::Membership(Arc::new(read_membership(&mut reader)?)),
        CHECKPOINT => Payload::Command,
        LEVEL => {
            reader.u16("feature level")?;
            Payload::Command
        }
        MOVE => {
            moves::read_entry(&mut reader)?;
            Payload::Command
        }
        ORDER => {
            read_taken(&mut reader)?;
            Payload::Command
        }
        MANAGER => {
            Request::decode(reader.take(reader.remaining(), "request")?)?;
            Payload::Command
        }
        _ => return Err(reader.malformed("entry kind")),
    };
    reader.end("entry payload")?;
    Ok(Entry {
        index,
        term,
        payload,
        data,
    })
}

/// What an entry says, for apply.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// Nothing: it opens a term.
    Empty,
    /// Commands, in order; maybe none.
    Commands(Commands<'a>),
    /// A membership, which consensus has already taken note of.
    Membership,
    /// The place to note the state's hash.
    Checkpoint,
    /// The feature level from here on.
    Level(u16),
    /// A step of a move of slots.
    Move(MoveEntry<'a>),
    /// An order to change the members is taken, or refused.
    Order(Taken),
    /// A request to the shard manager.
    Request(Box<Request>),
}

/// What this entry says. The entry was checked when it was decoded, or made here.
///
/// # Panics
/// If its data is not an encoded entry.
#[must_use]
pub fn content(entry: &Entry) -> Content<'_> {
    let payload = &entry.data[HEADER_BYTES..];
    match entry.data[KIND_AT] {
        EMPTY => Content::Empty,
        COMMANDS => Content::Commands(Commands {
            reader: Reader::new(payload),
        }),
        MEMBERSHIP => Content::Membership,
        CHECKPOINT => Content::Checkpoint,
        LEVEL => Content::Level(u16::from_le_bytes([payload[0], payload[1]])),
        MOVE => {
            let entry = moves::read_entry(&mut Reader::new(payload));
            Content::Move(entry.expect("a move's entry was read when it was decoded"))
        }
        ORDER => {
            let taken = read_taken(&mut Reader::new(payload));
            Content::Order(taken.expect("an order was read when it was decoded"))
        }
        MANAGER => {
            let request = Request::decode(payload);
            Content::Request(Box::new(request.expect("read when it was decoded")))
        }
        kind => panic!("an entry of kind {kind} was let in"),
    }
}

/// The clock that this entry carries; zero if it says nothing about time.
///
/// # Panics
/// If its data is not an encoded entry.
#[must_use]
pub fn clock(entry: &Entry) -> UnixMillis {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&entry.data[CLOCK_AT..KIND_AT]);
    UnixMillis(u64::from_le_bytes(bytes))
}

/// The commands of this entry; none if it is of another kind.
///
/// # Panics
/// If its data is not an encoded entry.
#[must_use]
pub fn commands(entry: &Entry) -> Commands<'_> {
    match content(entry) {
        Content::Commands(commands) => commands,
        _ => Commands {
            reader: Reader::new(&[]),
        },
    }
}

/// The commands of one entry, in order, each as its encoded bytes.
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Commands<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.reader.is_empty() {
            return None;
        }
        let command = self.reader.block("command");
        Some(command.expect("an entry's commands were walked when it was decoded"))
    }
}

/// A slice of something received, made independent if it would keep more than four times its size
/// alive: a log cache is accounted by what it holds, not by what it pins.
#[must_use]
pub fn unpinned(slice: Bytes, backing: usize) -> Bytes {
    if slice.len() < backing / 4 {
        Bytes::copy_from_slice(&slice)
    } else {
        slice
    }
}

/// Any bytes are an entry or are refused, and an entry read and walked is the entry written.
///
/// # Panics
/// If not.
pub fn fuzz(bytes: &[u8]) {
    let Ok(entry) = decode(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let again = match content(&entry) {
        Content::Commands(commands) => {
            let mut builder = EntryBuilder::new();
            for command in commands {
                let pushed = builder.push_command(|out| -> Result<(), ()> {
                    out.extend_from_slice(command);
                    Ok(())
                });
                assert_eq!(pushed, Ok(()));
            }
            builder.seal(entry.term, entry.index, clock(&entry))
        }
        Content::Checkpoint => encode_checkpoint(entry.term, entry.index, clock(&entry)),
        Content::Level(level) => encode_level(entry.term, entry.index, clock(&entry), level),
        Content::Move(step) => encode_move(entry.term, entry.index, clock(&entry), &step),
        Content::Order(taken) => encode_order(entry.term, entry.index, clock(&entry), taken),
        Content::Request(request) => {
            encode_request(entry.term, entry.index, clock(&entry), &request)
        }
        Content::Empty | Content::Membership => {
            encode_raft(entry.term, entry.index, &entry.payload)
        }
    };
    assert_eq!(again, entry.data);
}
