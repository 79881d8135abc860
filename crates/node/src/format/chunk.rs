//! A group's whole state as a stream of pieces: a snapshot file, a snapshot on its way to a follower,
//! and whatever else needs a consistent copy.
//!
//! The state is a sequence of items, as a view of the keyspace gives them, behind a header. Their
//! bytes are one stream, cut into pieces of equal size wherever the cut falls, so that one large
//! value does not make one large piece: pieces are what is written and synced at once, and what a
//! frame to a follower holds. A file is its pieces, one behind the other.
//!
//! | offset | size | field of a piece | |
//! |---|---|---|---|
//! | 0 | 4 | magic | `KVSN` |
//! | 4 | 1 | version | 1 |
//! | 5 | 1 | oldest | the oldest version whose readers understand this: 1 |
//! | 6 | 1 | last | 1 in the last piece, else 0 |
//! | 7 | 1 | reserved | 0 |
//! | 8 | 4 | length | of the whole piece |
//! | 12 | 4 | checksum | CRC32C of all other bytes: 0 to 12, then 16 to the end |
//! | 16 | 8 | number | of the piece, from 0 |
//! | 24 | 4 | previous | the checksum of the piece before; 0 in the first |
//! | 28 | - | bytes | of the stream |
//!
//! Each item of the stream is a varint length and that many bytes: a kind and its fields.
//!
//! | kind | item | fields |
//! |---|---|---|
//! | 1 | header | group 8, index 8, term 8, membership, order 8, refused 1, moves as in `moves`, block: the
//! | | | shard manager as in the `cluster` crate, empty in all groups but its own |
//! | 2 | meta | clock 8, level 4, next session, count (varints), per end: end 8, count varint; count |
//! | | | (varint) of runs of served slots, per run: first 2, last 2 |
//! | 3 | slot | slot 2, version, last removal, sessions, keys (varints), hash 8 |
//! | 4 | session | id, end, last sequence, count (varints), per reply: sequence varint, hash 8, block |
//! | 5 | string | version varint, key block, value block |
//! | 6 | string with a deadline | the same with the deadline (varint) behind the version |
//! | 7 | end | items before it varint, hash 8: the sum of the slots' hashes |
//!
//! What breaks is noticed in three ways. A flipped bit: the checksum of its piece. A piece left out,
//! repeated, or of another snapshot, however valid by itself: its number, and the checksum of the piece
//! before it. An end that is missing: the last piece says that it is the last, and the end item says
//! how many items there were. That the state is the right one is then proved by the hashes of the
//! slots, which the keyspace computes anew while it loads.
//!
//! Assumed of the disk: nothing. A file is read back whole before the log refers to it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::crc::{crc32c, crc32c_from};
use kvorum_base::cursor::{put_block, put_varint};
use kvorum_base::{GroupId, Index, Malformed, Reader, SessionId, Slot, Term, UnixMillis};
use kvorum_kv::value::Text;
use kvorum_kv::{
    Item, KeyItem, Keyspace, LoadError, Loader, MetaItem, Recorded, SessionItem, SlotItem,
    ValueRef, View,
};
use kvorum_raft::Membership;

use super::entry::{put_taken, read_taken};
use super::membership::{put_membership, read_membership};
use super::moves::{put_moves, read_moves};
use super::{put_slots, read_slots};
use crate::moves::state::Moves;
use crate::replicas::Taken;

const MAGIC: &[u8; 4] = b"KVSN";
const VERSION: u8 = 1;
const OLDEST: u8 = 1;

/// The bytes of a piece before its part of the stream.
pub const PIECE_HEADER_BYTES: usize = 28;

/// No item is longer: the largest key and value, with room to spare.
const ITEM_BYTES_MAX: u64 = 64 << 20;

/// What a snapshot says beside the keyspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHeader {
    /// The group.
    pub group: GroupId,
    /// The last entry that was applied.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// The members as of `index`, not as last appended.
    pub membership: Arc<Membership>,
    /// The order that the group took or refused last.
    pub taken: Taken,
    /// What was decided about moves of slots.
    pub moves: Arc<Moves>,
    /// The shard manager's state, in its own group.
    pub manager: Option<Arc<kvorum_cluster::State>>,
}

/// Why pieces are not a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkError {
    /// Bytes that are not as the format says.
    Malformed(Malformed),
    /// A piece that does not follow the one before.
    OutOfOrder {
        /// The piece that should come.
        expected: u64,
        /// The piece that came.
        found: u64,
    },
    /// The last piece is missing.
    Truncated,
    /// The items are not a keyspace.
    Keyspace(LoadError),
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::OutOfOrder { expected, found } => {
                write!(f, "piece {found} does not follow, {expected} is next")
            }
            Self::Truncated => f.write_str("the last piece is missing"),
            Self::Keyspace(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChunkError {}

impl From<Malformed> for ChunkError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Makes the pieces of a snapshot out of a view, one at a time, on whatever thread has time. The view
/// is let go as it is passed.
#[derive(Debug)]
pub struct ChunkWriter {
    header: SnapshotHeader,
    view: View,
    piece_bytes: usize,
    /// Encoded items; those before `given` are in pieces already.
    stream: Vec<u8>,
    given: usize,
    scratch: Vec<u8>,
    items: u64,
    hash: u64,
    ended: bool,
    number: u64,
    previous: u32,
    finished: bool,
}

impl ChunkWriter {
    /// Pieces of `piece_bytes` (the last one may be shorter), for this view.
    ///
    /// # Panics
    /// If a piece of that size has no room for anything.
    #[must_use]
    pub fn new(header: SnapshotHeader, view: View, piece_bytes: usize) -> Self {
        assert!(
            piece_bytes > PIECE_HEADER_BYTES && u32::try_from(piece_bytes).is_ok(),
            "pieces of {piece_bytes} bytes"
        );
        let mut writer = Self {
            header,
            view,
            piece_bytes,
            stream: Vec::new(),
            given: 0,
            scratch: Vec::new(),
            items: 0,
            hash: 0,
            ended: false,
            number: 0,
            previous: 0,
            finished: false,
        };
        put_header(&mut writer.scratch, &writer.header);
        writer.push_item();
        writer
    }

    /// What the snapshot says beside the keyspace.
    #[must_use]
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Whether the last piece has been made.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.finished
    }

    /// The next piece; `None` after the last.
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        if self.finished {
            return None;
        }
        let room = self.piece_bytes - PIECE_HEADER_BYTES;
        while !self.ended && self.stream.len() - self.given < room {
            self.encode_next();
        }
        let waiting = self.stream.len() - self.given;
        let taken = waiting.min(room);
        self.finished = self.ended && taken == waiting;
        let mut piece = Vec::with_capacity(PIECE_HEADER_BYTES + taken);
        piece.extend_from_slice(MAGIC);
        piece.extend_from_slice(&[VERSION, OLDEST, u8::from(self.finished), 0]);
        piece.extend_from_slice(&((PIECE_HEADER_BYTES + taken) as u32).to_le_bytes());
        piece.extend_from_slice(&[0; 4]);
        piece.extend_from_slice(&self.number.to_le_bytes());
        piece.extend_from_slice(&self.previous.to_le_bytes());
        piece.extend_from_slice(&self.stream[self.given..self.given + taken]);
        let checksum = checksum(&piece);
        piece[12..16].copy_from_slice(&checksum.to_le_bytes());
        self.given += taken;
        if self.given == self.stream.len() {
            self.stream.clear();
            self.given = 0;
        }
        self.previous = checksum;
        self.number += 1;
        Some(piece)
    }

    fn encode_next(&mut self) {
        self.scratch.clear();
        match self.view.next_item() {
            Some(item) => {
                if let Item::Slot(slot) = item {
                    self.hash = self.hash.wrapping_add(slot.hash);
                }
                put_item(&mut self.scratch, item);
            }
            None => {
                self.ended = true;
                self.scratch.push(7);
                put_varint(&mut self.scratch, self.items);
                self.scratch.extend_from_slice(&self.hash.to_le_bytes());
            }
        }
        self.push_item();
    }

    fn push_item(&mut self) {
        self.items += 1;
        if self.given > self.piece_bytes {
            self.stream.drain(..self.given);
            self.given = 0;
        }
        put_block(&mut self.stream, &self.scratch);
    }
}

fn checksum(piece: &[u8]) -> u32 {
    crc32c_from(crc32c(&piece[..12]), &piece[16..])
}

fn put_header(out: &mut Vec<u8>, header: &SnapshotHeader) {
    let SnapshotHeader {
        group,
        index,
        term,
        membership,
        taken,
        moves,
        manager,
    } = header;
    out.push(1);
    for number in [group.0, index.0, term.0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    put_membership(out, membership);
    put_taken(out, *taken);
    put_moves(out, moves);
    let manager = manager.as_ref().map(|manager| manager.encode());
    put_block(out, &manager.unwrap_or_default());
}

/// Appends an item. Every item and every field is taken apart by name, so that a new one cannot be
/// forgotten here.
pub(super) fn put_item(out: &mut Vec<u8>, item: Item<'_>) {
    match item {
        Item::Meta(MetaItem {
            clock,
            level,
            next_session,
            open_sessions,
            served,
        }) => {
            out.push(2);
            out.extend_from_slice(&clock.get().to_le_bytes());
            out.extend_from_slice(&level.to_le_bytes());
            put_varint(out, next_session.get());
            put_varint(out, open_sessions.len() as u64);
            for (end, count) in open_sessions {
                out.extend_from_slice(&end.get().to_le_bytes());
                put_varint(out, *count);
            }
            put_slots(out, served);
        }
        Item::Slot(SlotItem {
            slot,
            version,
            last_removal,
            sessions,
            keys,
            hash,
        }) => {
            out.push(3);
            out.extend_from_slice(&slot.get().to_le_bytes());
            for number in [version, last_removal, sessions, keys] {
                put_varint(out, number);
            }
            out.extend_from_slice(&hash.to_le_bytes());
        }
        Item::Session(item) => put_session(out, item),
        Item::Key(KeyItem {
            key,
            value: ValueRef::String(text),
            deadline,
            version,
        }) => {
            out.push(5 + u8::from(deadline.is_some()));
            put_varint(out, version);
            if let Some(deadline) = deadline {
                put_varint(out, deadline.get());
            }
            put_block(out, key);
            put_block(out, text.as_bytes());
        }
    }
}

fn put_session(out: &mut Vec<u8>, item: SessionItem<'_>) {
    let SessionItem {
        session,
        end,
        last_sequence,
        replies,
    } = item;
    out.push(4);
    for number in [
        session.get(),
        end.get(),
        last_sequence,
        replies.len() as u64,
    ] {
        put_varint(out, number);
    }
    for Recorded {
        sequence,
        command_hash,
        reply,
    } in replies
    {
        put_varint(out, *sequence);
        out.extend_from_slice(&command_hash.to_le_bytes());
        put_block(out, reply);
    }
}

/// How long the piece that starts here is; `None` while that cannot be said. For cutting a file into
/// its pieces.
///
/// # Errors
/// If no piece starts like that.
pub fn piece_len(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    if bytes.len() < 12 {
        return Ok(None);
    }
    let mut reader = Reader::new(bytes);
    if reader.take(4, "piece magic")? != MAGIC {
        return Err(reader.malformed("piece magic"));
    }
    reader.take(4, "piece version")?;
    let len = reader.u32("piece length")? as usize;
    if len < PIECE_HEADER_BYTES {
        return Err(reader.malformed("piece length"));
    }
    Ok(Some(len))
}

/// Checks that pieces are whole and in order, without looking at what they say: enough to read a
/// file back.
#[derive(Debug, Default)]
pub struct PieceChecker {
    next: u64,
    previous: u32,
    finished: bool,
}

impl PieceChecker {
    /// Before the first piece.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the last piece has been checked.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Checks the next piece, and returns its part of the stream.
    ///
    /// # Errors
    /// If the bytes are not exactly one piece, or not the next one.
    pub fn check<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], ChunkError> {
        let mut reader = Reader::new(piece);
        if piece_len(piece)? != Some(piece.len()) {
            return Err(reader.malformed("piece length").into());
        }
        reader.take(4, "piece magic")?;
        let versions = [reader.u8("piece version")?, reader.u8("oldest version")?];
        if versions != [VERSION, OLDEST] {
            return Err(reader.malformed("piece version").into());
        }
        let last = match (reader.u8("last piece")?, reader.u8("reserved")?) {
            (last @ (0 | 1), 0) => last == 1,
            _ => return Err(reader.malformed("last piece").into()),
        };
        reader.u32("piece length")?;
        let found = reader.u32("piece checksum")?;
        if found != checksum(piece) {
            return Err(reader.malformed("piece checksum").into());
        }
        let number = reader.u64("piece number")?;
        let previous = reader.u32("previous checksum")?;
        if self.finished || number != self.next || previous != self.previous {
            return Err(ChunkError::OutOfOrder {
                expected: self.next,
                found: number,
            });
        }
        self.next += 1;
        self.previous = found;
        self.finished = last;
        Ok(reader.rest())
    }
}

/// A state that was read.
#[derive(Debug)]
pub struct Loaded {
    /// What it says beside the keyspace.
    pub header: SnapshotHeader,
    /// The keyspace.
    pub keyspace: Keyspace,
    /// How many bytes its pieces have together.
    pub bytes: u64,
}

/// Puts a state together again out of its pieces.
#[derive(Debug)]
pub struct ChunkReader {
    group: GroupId,
    checker: PieceChecker,
    /// The beginning of a piece.
    partial: Vec<u8>,
    /// The part of the stream that is not an item yet.
    stream: Vec<u8>,
    /// Fewer bytes than this cannot be an item.
    needed: usize,
    header: Option<SnapshotHeader>,
    loader: Loader,
    /// Taken in so far.
    bytes: u64,
    items: u64,
    hash: u64,
    ended: bool,
}

impl ChunkReader {
    /// Before the first piece of a snapshot of this group. The secret is the cluster's.
    #[must_use]
    pub fn new(group: GroupId, secret: [u8; 16]) -> Self {
        Self {
            group,
            checker: PieceChecker::new(),
            partial: Vec::new(),
            stream: Vec::new(),
            needed: 1,
            header: None,
            loader: Loader::new(secret),
            bytes: 0,
            items: 0,
            hash: 0,
            ended: false,
        }
    }

    /// The header, as soon as it has come.
    #[must_use]
    pub fn header(&self) -> Option<&SnapshotHeader> {
        self.header.as_ref()
    }

    /// Takes the next bytes: a piece, or a part of a file, wherever it was cut.
    ///
    /// # Errors
    /// If they are not what must come here. Nothing can be fed after that.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ChunkError> {
        self.bytes += bytes.len() as u64;
        let mut bytes = bytes;
        let joined;
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.partial);
            bytes = &joined;
        }
        while let Some((piece, rest)) =
            piece_len(bytes)?.and_then(|len| bytes.split_at_checked(len))
        {
            self.take_piece(piece)?;
            bytes = rest;
        }
        self.partial = bytes.to_vec();
        Ok(())
    }

    fn take_piece(&mut self, piece: &[u8]) -> Result<(), ChunkError> {
        let bytes = self.checker.check(piece)?;
        self.stream.extend_from_slice(bytes);
        if self.stream.len() < self.needed {
            return Ok(());
        }
        let stream = std::mem::take(&mut self.stream);
        let mut reader = Reader::new(&stream);
        while let Some(item) = self.next_block(&mut reader)? {
            self.load(item)?;
        }
        self.stream = reader.rest().to_vec();
        Ok(())
    }

    /// The next whole item of the stream, or `None` if more bytes are needed.
    fn next_block<'a>(&mut self, reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, ChunkError> {
        let mut ahead = reader.clone();
        let len = match ahead.varint("item length") {
            Ok(len) if len <= ITEM_BYTES_MAX => len as usize,
            Err(_) if reader.remaining() < 10 => {
                self.needed = reader.remaining() + 1;
                return Ok(None);
            }
            _ => return Err(reader.malformed("item length").into()),
        };
        if ahead.remaining() < len {
            self.needed = reader.remaining() - ahead.remaining() + len;
            return Ok(None);
        }
        let item = ahead.take(len, "item")?;
        *reader = ahead;
        self.needed = 1;
        Ok(Some(item))
    }

    fn load(&mut self, item: &[u8]) -> Result<(), ChunkError> {
        let mut reader = Reader::new(item);
        let kind = reader.u8("item kind")?;
        let is_header = kind == 1;
        if self.ended || is_header != self.header.is_none() {
            return Err(reader.malformed("order of items").into());
        }
        match kind {
            1 => {
                let header = read_header(&mut reader)?;
                if header.group != self.group {
                    return Err(reader.malformed("the snapshot's group").into());
                }
                self.header = Some(header);
            }
            2 => self.read_meta(&mut reader)?,
            3 => self.read_slot(&mut reader)?,
            4 => {
                let (session, replies) = read_session(&mut reader)?;
                let replies = &replies;
                self.take(Item::Session(SessionItem { replies, ..session }))?;
            }
            5 | 6 => self.take(Item::Key(read_string(&mut reader, kind == 6)?))?,
            7 => {
                let items = reader.varint("item count")?;
                let hash = reader.u64("state hash")?;
                if (items, hash) != (self.items, self.hash) {
                    return Err(reader.malformed("end item").into());
                }
                self.ended = true;
            }
            _ => return Err(reader.malformed("item kind").into()),
        }
        reader.end("item")?;
        self.items += 1;
        Ok(())
    }

    fn take(&mut self, item: Item<'_>) -> Result<(), ChunkError> {
        self.loader.load(item).map_err(ChunkError::Keyspace)
    }

    fn read_meta(&mut self, reader: &mut Reader<'_>) -> Result<(), ChunkError> {
        let mut meta = MetaItem {
            clock: UnixMillis(reader.u64("clock")?),
            level: reader.u32("level")?,
            next_session: SessionId(reader.varint("next session")?),
            open_sessions: Vec::new(),
            served: Arc::default(),
        };
        for _ in 0..reader.varint("open sessions")? {
            let end = UnixMillis(reader.u64("end of sessions")?);
            meta.open_sessions
                .push((end, reader.varint("open sessions")?));
        }
        meta.served = Arc::new(read_slots(reader)?);
        self.take(Item::Meta(&meta))
    }

    fn read_slot(&mut self, reader: &mut Reader<'_>) -> Result<(), ChunkError> {
        let slot = read_slot(reader)?;
        self.hash = self.hash.wrapping_add(slot.hash);
        self.take(Item::Slot(slot))
    }

    /// The state, once all pieces are in.
    ///
    /// # Errors
    /// If some are missing, or what they say does not hold together.
    pub fn finish(self) -> Result<Loaded, ChunkError> {
        let whole = self.checker.is_finished() && self.partial.is_empty();
        let Some(header) = self.header.filter(|_| whole) else {
            return Err(ChunkError::Truncated);
        };
        if !self.ended || !self.stream.is_empty() {
            return Err(ChunkError::Malformed(Malformed {
                what: "end of the items",
                at: self.stream.len(),
            }));
        }
        let keyspace = self.loader.finish().map_err(ChunkError::Keyspace)?;
        Ok(Loaded {
            header,
            keyspace,
            bytes: self.bytes,
        })
    }
}

fn read_header(reader: &mut Reader<'_>) -> Result<SnapshotHeader, Malformed> {
    Ok(SnapshotHeader {
        group: GroupId(reader.u64("group")?),
        index: super::read_index(reader)?,
        term: super::read_term(reader)?,
        membership: Arc::new(read_membership(reader)?),
        taken: read_taken(reader)?,
        moves: Arc::new(read_moves(reader)?),
        manager: match reader.block("shard manager")? {
            [] => None,
            bytes => Some(Arc::new(kvorum_cluster::State::decode(bytes)?)),
        },
    })
}

/// The fields of a slot.
pub(super) fn read_slot(reader: &mut Reader<'_>) -> Result<SlotItem, Malformed> {
    Ok(SlotItem {
        slot: Slot(reader.u16("slot")?),
        version: reader.varint("slot version")?,
        last_removal: reader.varint("last removal")?,
        sessions: reader.varint("session count")?,
        keys: reader.varint("key count")?,
        hash: reader.u64("slot hash")?,
    })
}

/// The fields of a session; its replies are handed out beside it, since they are borrowed by it.
pub(super) fn read_session(
    reader: &mut Reader<'_>,
) -> Result<(SessionItem<'static>, Vec<Recorded>), Malformed> {
    let session = SessionItem {
        session: SessionId(reader.varint("session")?),
        end: UnixMillis(reader.varint("session end")?),
        last_sequence: reader.varint("last sequence")?,
        replies: &[],
    };
    let mut replies = Vec::new();
    for _ in 0..reader.varint("reply count")? {
        replies.push(Recorded {
            sequence: reader.varint("sequence")?,
            command_hash: reader.u64("command hash")?,
            reply: Bytes::copy_from_slice(reader.block("reply")?),
        });
    }
    Ok((session, replies))
}

/// The fields of a string, with a deadline or without.
pub(super) fn read_string<'a>(
    reader: &mut Reader<'a>,
    timed: bool,
) -> Result<KeyItem<'a>, Malformed> {
    let version = reader.varint("version")?;
    let deadline = match timed {
        true => Some(UnixMillis(reader.varint("deadline")?)),
        false => None,
    };
    Ok(KeyItem {
        key: reader.block("key")?,
        value: ValueRef::String(Text::Inline(reader.block("value")?)),
        deadline,
        version,
    })
}

/// Any bytes are a snapshot or are refused, and a snapshot that was read can be written and read again.
///
/// # Panics
/// If not.
pub fn fuzz(bytes: &[u8]) {
    const SECRET: [u8; 16] = [3; 16];
    // The checksum would refuse nearly everything: the bytes as the stream of one whole piece.
    let mut piece = MAGIC.to_vec();
    piece.extend_from_slice(&[VERSION, OLDEST, 1, 0]);
    piece.extend_from_slice(&((PIECE_HEADER_BYTES + bytes.len()) as u32).to_le_bytes());
    piece.extend_from_slice(&[0; 16]);
    piece.extend_from_slice(bytes);
    let checksum = checksum(&piece);
    piece[12..16].copy_from_slice(&checksum.to_le_bytes());
    for input in [bytes, &piece] {
        let mut reader = ChunkReader::new(GroupId(1), SECRET);
        if reader.feed(input).is_err() {
            continue;
        }
        if let Ok(loaded) = reader.finish() {
            let Loaded {
                header, keyspace, ..
            } = loaded;
            keyspace.check();
            let mut writer = ChunkWriter::new(header.clone(), keyspace.view(), 100);
            let mut reader = ChunkReader::new(GroupId(1), SECRET);
            while let Some(piece) = writer.next_piece() {
                assert_eq!(reader.feed(&piece), Ok(()));
            }
            let again = reader.finish().expect("what was just written");
            assert_eq!(again.header, header);
            assert_eq!(again.keyspace.state_hash(), keyspace.state_hash());
        }
    }
}
