//! What nodes say to each other: one frame carries what a turn has for one peer, of all groups.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 4 | length | of what follows these four bytes |
//! | 4 | 4 | checksum | CRC32C of bytes 8 to the end of the head |
//! | 8 | 1 | version | 1 |
//! | 9 | 1 | oldest | the oldest version whose readers understand this frame: 1 |
//! | 10 | 2 | level | the highest feature level that the sender understands |
//! | 12 | 4 | head length | from byte 16 |
//! | 16 | - | head | below |
//! | - | - | body | the entries and snapshot pieces that the head announces, in order, nothing between |
//!
//! The head: wall clock 8, memory limit 8, memory used 8, incarnation 8, then messages up to its end. All
//! numbers in a message are varints, unless a size is given.
//!
//! | kind (1 byte) | | |
//! |---|---|---|
//! | 1 | raft | group, from, to, term, body kind (1 byte), body |
//! | 2 | lost | - |
//! | 3 | gone | group, replica |
//! | 4 | hash | group, replica, index, hash 8 |
//! | 5 | state wanted | group, replica |
//! | 6 | diverged | group, replica, index, hash 8 |
//! | 7 | leads | group, term |
//! | 8 | move | as in `moves` |
//! | 9 | asked | group, replica, incarnation 8, number, wish (1 byte: 0 a read index, 1 the leadership) |
//! | 10 | read index | group, replica, incarnation 8, number, index |
//! | 11 | manager | as in `manager` |
//!
//! | body kind | | |
//! |---|---|---|
//! | 1 | pre-vote | last index, last term |
//! | 2, 3 | pre-vote refused, granted | - |
//! | 4, 5 | vote, vote in a transfer | last index, last term |
//! | 6, 7 | vote refused, granted | - |
//! | 8 | append | previous index, previous term, commit, count, per entry its length |
//! | 9 | append matched | previous index, matched index |
//! | 10 | append conflicts | previous index, index, term |
//! | 11 | heartbeat | commit, read round |
//! | 12 | heartbeat reply | read round |
//! | 13 | stand for election now | - |
//! | 14, 15 | piece of a snapshot, its last piece | snapshot, number of the piece, length, membership |
//! | 16 | snapshot reply | snapshot, piece wanted next |
//!
//! A snapshot is index, term, sender, number. A membership is as in `membership`.
//!
//! Entries and pieces have checksums of their own, made by whoever made them, so the frame's covers
//! only the rest, and the bytes of an entry go out as they lie in the log, once for all followers.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::crc::crc32c;
use kvorum_base::cursor::put_varint;
use kvorum_base::{GroupId, Index, Malformed, Reader, ReplicaId, Term, UnixMillis};
use kvorum_raft::{AppendOutcome, Body, Chunk, Entry, Message, SnapshotId};

use super::entry;
use super::manager::{self, ManagerMessage};
use super::membership::{membership_len, put_membership, read_membership};
use super::moves::{self, MoveMessage};

const VERSION: u8 = 1;
const OLDEST: u8 = 1;

/// The bytes of the length prefix.
pub const PREFIX_BYTES: usize = 4;

/// The bytes between the prefix and the head.
const FIXED_BYTES: usize = 12;

/// What a frame says about its sender.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PeerHeader {
    /// The highest feature level that the sender understands.
    pub level: u16,
    /// The sender's wall clock.
    pub wall: UnixMillis,
    /// How many logical bytes the sender has room for; 0 for no limit.
    pub memory_limit: u64,
    /// How many logical bytes the sender's groups have.
    pub memory_used: u64,
    /// Which life of the sender this is: tells a restart from a link that was cut.
    pub incarnation: u64,
}

/// One message of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    /// From one replica of a group to another.
    Raft {
        /// The group.
        group: GroupId,
        /// The sender.
        from: ReplicaId,
        /// The receiver.
        to: ReplicaId,
        /// What it says.
        message: Message,
    },
    /// The sender lost what it had promised: it answers nothing any more and has to be replaced.
    Lost,
    /// A message came for a replica that the sender does not have (any more, or yet). For replicas that
    /// are removed: one that is not told so would stand for election for ever.
    Gone {
        /// The group.
        group: GroupId,
        /// The replica that is not there.
        replica: ReplicaId,
    },
    /// The hash of a replica's state at a checkpoint entry.
    Hash {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// The checkpoint entry.
        index: Index,
        /// The hash.
        hash: u64,
    },
    /// A replica has its log and lost its state: it asks its primary for a snapshot.
    StateWanted {
        /// The group.
        group: GroupId,
        /// The replica that asks.
        replica: ReplicaId,
    },
    /// The state of a replica is not that of the majority: it has to drop it.
    Diverged {
        /// The group.
        group: GroupId,
        /// The replica that is wrong.
        replica: ReplicaId,
        /// The checkpoint entry at which it was found.
        index: Index,
        /// The hash that it had reported.
        hash: u64,
    },
    /// The sender leads a group of which the receiver has no replica: where to send clients.
    Leads {
        /// The group.
        group: GroupId,
        /// The term in which it leads.
        term: Term,
    },
    /// From the primary of one group to that of another, about slots that move between them.
    Move(MoveMessage),
    /// A replica wants something of its primary.
    Asked(Ask, Wish),
    /// To [`Wish::ReadIndex`]: all that was committed when it came is at or below this index.
    ReadIndex(Ask, Index),
    /// To the shard manager's primary, or from it.
    Manager(ManagerMessage),
}

/// Names what a replica asked, in the question and in the answer.
///
/// The number alone would not do: a replica counts anew after a restart, and an answer to a question of
/// its earlier life may come late.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The group.
    pub group: GroupId,
    /// The replica that asks.
    pub replica: ReplicaId,
    /// Which life of its node it asks in.
    pub incarnation: u64,
    /// Counts its questions in that life.
    pub number: u64,
}

/// What a replica asks its primary for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// From which index on its state may be read.
    ReadIndex,
    /// To lead in the primary's place.
    Leadership,
}

/// How many bytes the message takes in a frame, at most; few more than it does. For cutting frames, so
/// it is cheap.
#[must_use]
pub fn bytes(message: &PeerMessage) -> usize {
    /// Two kinds, the numbers of a replica's message, and of the longest body.
    const NUMBERS_BYTES: usize = 1 + 4 * VARINT_BYTES_MAX + 1 + 6 * VARINT_BYTES_MAX;
    const VARINT_BYTES_MAX: usize = 10;
    let message = match message {
        PeerMessage::Raft { message, .. } => message,
        PeerMessage::Move(message) => return moves::message_bytes(message),
        PeerMessage::Manager(message) => return manager::message_bytes(message),
        _ => return NUMBERS_BYTES,
    };
    let more = match &message.body {
        Body::Append { entries, .. } => {
            let of_entry = |entry: &Entry| VARINT_BYTES_MAX + entry.data.len();
            entries.iter().map(of_entry).sum()
        }
        Body::Chunk(chunk) => membership_len(&chunk.membership) + chunk.data.len(),
        _ => 0,
    };
    NUMBERS_BYTES + more
}

/// Makes a frame, as consecutive pieces, length prefix included. The bytes of entries and snapshot
/// pieces are shared, not copied.
///
/// # Panics
/// If the frame would have 4 GiB or more.
#[must_use]
pub fn encode(header: &PeerHeader, messages: &[PeerMessage]) -> Vec<Bytes> {
    let mut head = vec![0; PREFIX_BYTES + FIXED_BYTES];
    let mut pieces = vec![Bytes::new()];
    let (limit, used) = (header.memory_limit, header.memory_used);
    for number in [header.wall.get(), limit, used, header.incarnation] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    for message in messages {
        put_message(&mut head, &mut pieces, message);
    }
    let body: usize = pieces.iter().map(Bytes::len).sum();
    let total = head.len() + body - PREFIX_BYTES;
    let len = u32::try_from(total).unwrap_or_else(|_| panic!("a frame of {total} bytes"));
    let head_len = (head.len() - PREFIX_BYTES - FIXED_BYTES) as u32;
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[8] = VERSION;
    head[9] = OLDEST;
    head[10..12].copy_from_slice(&header.level.to_le_bytes());
    head[12..16].copy_from_slice(&head_len.to_le_bytes());
    let checksum = crc32c(&head[8..]);
    head[4..8].copy_from_slice(&checksum.to_le_bytes());
    pieces[0] = Bytes::from(head);
    pieces
}

fn put_message(head: &mut Vec<u8>, body: &mut Vec<Bytes>, message: &PeerMessage) {
    match message {
        PeerMessage::Raft {
            group,
            from,
            to,
            message,
        } => {
            head.push(1);
            put_numbers(head, &[group.0, from.0, to.0, message.term.0]);
            put_body(head, body, &message.body);
        }
        PeerMessage::Lost => head.push(2),
        PeerMessage::Gone { group, replica } => {
            head.push(3);
            put_numbers(head, &[group.0, replica.0]);
        }
        PeerMessage::Hash {
            group,
            replica,
            index,
            hash,
        } => {
            head.push(4);
            put_numbers(head, &[group.0, replica.0, index.0]);
            head.extend_from_slice(&hash.to_le_bytes());
        }
        PeerMessage::StateWanted { group, replica } => {
            head.push(5);
            put_numbers(head, &[group.0, replica.0]);
        }
        PeerMessage::Diverged {
            group,
            replica,
            index,
            hash,
        } => {
            head.push(6);
            put_numbers(head, &[group.0, replica.0, index.0]);
            head.extend_from_slice(&hash.to_le_bytes());
        }
        PeerMessage::Leads { group, term } => {
            head.push(7);
            put_numbers(head, &[group.0, term.0]);
        }
        PeerMessage::Move(message) => {
            head.push(8);
            moves::put_message(head, message);
        }
        PeerMessage::Asked(ask, wish) => {
            head.push(9);
            put_ask(head, ask);
            head.push(u8::from(*wish == Wish::Leadership));
        }
        PeerMessage::ReadIndex(ask, index) => {
            head.push(10);
            put_ask(head, ask);
            put_varint(head, index.0);
        }
        PeerMessage::Manager(message) => {
            head.push(11);
            manager::put_message(head, message);
        }
    }
}

fn put_ask(head: &mut Vec<u8>, ask: &Ask) {
    put_numbers(head, &[ask.group.0, ask.replica.0]);
    head.extend_from_slice(&ask.incarnation.to_le_bytes());
    put_varint(head, ask.number);
}

fn put_numbers(head: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        put_varint(head, *number);
    }
}

fn put_body(head: &mut Vec<u8>, pieces: &mut Vec<Bytes>, body: &Body) {
    match body {
        Body::PreVote {
            last_index,
            last_term,
        } => {
            head.push(1);
            put_numbers(head, &[last_index.0, last_term.0]);
        }
        Body::PreVoteReply { granted } => head.push(2 + u8::from(*granted)),
        Body::Vote {
            last_index,
            last_term,
            transfer,
        } => {
            head.push(4 + u8::from(*transfer));
            put_numbers(head, &[last_index.0, last_term.0]);
        }
        Body::VoteReply { granted } => head.push(6 + u8::from(*granted)),
        Body::Append {
            prev_index,
            prev_term,
            entries,
            commit,
        } => {
            head.push(8);
            put_numbers(head, &[prev_index.0, prev_term.0, commit.0]);
            put_varint(head, entries.len() as u64);
            for entry in entries {
                put_varint(head, entry.data.len() as u64);
                pieces.push(entry.data.clone());
            }
        }
        Body::AppendReply {
            prev_index,
            outcome,
        } => match outcome {
            AppendOutcome::Matched(index) => {
                head.push(9);
                put_numbers(head, &[prev_index.0, index.0]);
            }
            AppendOutcome::Conflict { index, term } => {
                head.push(10);
                put_numbers(head, &[prev_index.0, index.0, term.0]);
            }
        },
        Body::Heartbeat { commit, read } => {
            head.push(11);
            put_numbers(head, &[commit.0, *read]);
        }
        Body::HeartbeatReply { read } => {
            head.push(12);
            put_varint(head, *read);
        }
        Body::TimeoutNow => head.push(13),
        Body::Chunk(chunk) => {
            head.push(14 + u8::from(chunk.last));
            put_snapshot(head, &chunk.snapshot);
            put_numbers(head, &[chunk.seq, chunk.data.len() as u64]);
            put_membership(head, &chunk.membership);
            pieces.push(chunk.data.clone());
        }
        Body::ChunkReply { snapshot, next } => {
            head.push(16);
            put_snapshot(head, snapshot);
            put_varint(head, *next);
        }
    }
}

fn put_snapshot(head: &mut Vec<u8>, snapshot: &SnapshotId) {
    let SnapshotId {
        index,
        term,
        sender,
        number,
    } = snapshot;
    put_numbers(head, &[index.0, term.0, sender.0, *number]);
}

/// How long the frame that starts here is, prefix included; `None` while the prefix is not there yet.
///
/// # Errors
/// If no frame has that length, or it is above `max`.
pub fn frame_len(bytes: &[u8], max: usize) -> Result<Option<usize>, Malformed> {
    if bytes.len() < PREFIX_BYTES {
        return Ok(None);
    }
    let mut reader = Reader::new(bytes);
    let len = reader.u32("frame length")? as usize;
    if len < FIXED_BYTES || len > max.saturating_sub(PREFIX_BYTES) {
        return Err(reader.malformed("frame length"));
    }
    Ok(Some(PREFIX_BYTES + len))
}

/// Reads a frame without its length prefix. Entries are slices of it, or copies where a slice would
/// keep too much of it alive.
///
/// # Errors
/// If the bytes are not a frame, or of a version that this reader does not know.
pub fn decode(frame: &Bytes) -> Result<(PeerHeader, Vec<PeerMessage>), Malformed> {
    let mut reader = Reader::new(frame);
    let checksum = reader.u32("frame checksum")?;
    let checked = reader.rest();
    let (version, oldest) = (
        reader.u8("frame version")?,
        reader.u8("oldest frame version")?,
    );
    if version != VERSION || oldest != OLDEST {
        return Err(reader.malformed("frame version"));
    }
    let level = reader.u16("feature level")?;
    let head_len = reader.u32("head length")? as usize;
    let head = reader.take(head_len, "head length")?;
    if checksum != crc32c(&checked[..FIXED_BYTES - 4 + head_len]) {
        return Err(reader.malformed("frame checksum"));
    }
    let mut body = FrameBody {
        frame,
        reader: reader.clone(),
    };
    let mut head = Reader::new(head);
    let header = PeerHeader {
        level,
        wall: UnixMillis(head.u64("wall clock")?),
        memory_limit: head.u64("memory limit")?,
        memory_used: head.u64("memory used")?,
        incarnation: head.u64("incarnation")?,
    };
    super::bounded(header.wall.get(), &head, "wall clock")?;
    let mut messages = Vec::new();
    while !head.is_empty() {
        messages.push(read_message(&mut head, &mut body)?);
    }
    body.reader.end("frame body")?;
    Ok((header, messages))
}

/// The rest of the frame, out of which entries and pieces are cut.
struct FrameBody<'a> {
    frame: &'a Bytes,
    reader: Reader<'a>,
}

impl FrameBody<'_> {
    fn take(&mut self, len: u64) -> Result<Bytes, Malformed> {
        let len = usize::try_from(len).map_err(|_| self.reader.malformed("frame body"))?;
        let slice = self.frame.slice_ref(self.reader.take(len, "frame body")?);
        Ok(entry::unpinned(slice, self.frame.len()))
    }
}

fn read_message(head: &mut Reader<'_>, body: &mut FrameBody<'_>) -> Result<PeerMessage, Malformed> {
    Ok(match head.u8("message kind")? {
        1 => PeerMessage::Raft {
            group: GroupId(head.varint("group")?),
            from: ReplicaId(head.varint("sender")?),
            to: ReplicaId(head.varint("receiver")?),
            message: Message {
                term: term(head)?,
                body: read_body(head, body)?,
            },
        },
        2 => PeerMessage::Lost,
        3 => PeerMessage::Gone {
            group: GroupId(head.varint("group")?),
            replica: ReplicaId(head.varint("replica")?),
        },
        4 => PeerMessage::Hash {
            group: GroupId(head.varint("group")?),
            replica: ReplicaId(head.varint("replica")?),
            index: index(head)?,
            hash: head.u64("hash")?,
        },
        5 => PeerMessage::StateWanted {
            group: GroupId(head.varint("group")?),
            replica: ReplicaId(head.varint("replica")?),
        },
        6 => PeerMessage::Diverged {
            group: GroupId(head.varint("group")?),
            replica: ReplicaId(head.varint("replica")?),
            index: index(head)?,
            hash: head.u64("hash")?,
        },
        7 => PeerMessage::Leads {
            group: GroupId(head.varint("group")?),
            term: term(head)?,
        },
        8 => PeerMessage::Move(moves::read_message(head)?),
        9 => PeerMessage::Asked(read_ask(head)?, read_wish(head)?),
        10 => PeerMessage::ReadIndex(read_ask(head)?, index(head)?),
        11 => PeerMessage::Manager(manager::read_message(head)?),
        _ => return Err(head.malformed("message kind")),
    })
}

fn read_ask(head: &mut Reader<'_>) -> Result<Ask, Malformed> {
    Ok(Ask {
        group: GroupId(head.varint("group")?),
        replica: ReplicaId(head.varint("replica")?),
        incarnation: head.u64("incarnation")?,
        number: head.varint("number")?,
    })
}

fn read_wish(head: &mut Reader<'_>) -> Result<Wish, Malformed> {
    match head.u8("wish")? {
        0 => Ok(Wish::ReadIndex),
        1 => Ok(Wish::Leadership),
        _ => Err(head.malformed("wish")),
    }
}

fn term(head: &mut Reader<'_>) -> Result<Term, Malformed> {
    super::read_count(head, "term").map(Term)
}

fn index(head: &mut Reader<'_>) -> Result<Index, Malformed> {
    super::read_count(head, "index").map(Index)
}

fn read_body(head: &mut Reader<'_>, body: &mut FrameBody<'_>) -> Result<Body, Malformed> {
    let kind = head.u8("body kind")?;
    Ok(match kind {
        1 => Body::PreVote {
            last_index: index(head)?,
            last_term: term(head)?,
        },
        2 | 3 => Body::PreVoteReply { granted: kind == 3 },
        4 | 5 => Body::Vote {
            last_index: index(head)?,
            last_term: term(head)?,
            transfer: kind == 5,
        },
        6 | 7 => Body::VoteReply { granted: kind == 7 },
        8 => read_append(head, body)?,
        9 => Body::AppendReply {
            prev_index: index(head)?,
            outcome: AppendOutcome::Matched(index(head)?),
        },
        10 => Body::AppendReply {
            prev_index: index(head)?,
            outcome: AppendOutcome::Conflict {
                index: index(head)?,
                term: term(head)?,
            },
        },
        11 => Body::Heartbeat {
            commit: index(head)?,
            read: super::read_count(head, "read round")?,
        },
        12 => Body::HeartbeatReply {
            read: super::read_count(head, "read round")?,
        },
        13 => Body::TimeoutNow,
        14 | 15 => {
            let snapshot = read_snapshot(head)?;
            let seq = super::read_count(head, "piece")?;
            let len = head.varint("piece length")?;
            let membership = Arc::new(read_membership(head)?);
            Body::Chunk(Chunk {
                snapshot,
                membership,
                seq,
                last: kind == 15,
                data: body.take(len)?,
            })
        }
        16 => Body::ChunkReply {
            snapshot: read_snapshot(head)?,
            next: super::read_count(head, "piece")?,
        },
        _ => return Err(head.malformed("body kind")),
    })
}

/// An append whose entries are each valid and follow one another; else consensus would have to
/// mistrust every one of them.
fn read_append(head: &mut Reader<'_>, body: &mut FrameBody<'_>) -> Result<Body, Malformed> {
    let (prev_index, prev_term, commit) = (index(head)?, term(head)?, index(head)?);
    let count = head.varint("entry count")?;
    let mut entries: Vec<Entry> = Vec::new();
    let (mut last_index, mut last_term) = (prev_index, prev_term);
    for _ in 0..count {
        let len = head.varint("entry length")?;
        let entry = entry::decode(body.take(len)?)?;
        if entry.index != last_index.next() || entry.term < last_term {
            return Err(head.malformed("order of entries"));
        }
        (last_index, last_term) = (entry.index, entry.term);
        entries.push(entry);
    }
    Ok(Body::Append {
        prev_index,
        prev_term,
        entries,
        commit,
    })
}

fn read_snapshot(head: &mut Reader<'_>) -> Result<SnapshotId, Malformed> {
    Ok(SnapshotId {
        index: index(head)?,
        term: term(head)?,
        sender: ReplicaId(head.varint("snapshot sender")?),
        number: head.varint("snapshot number")?,
    })
}

/// Any bytes are a frame or are refused, and a frame is the same bytes again.
///
/// # Panics
/// If not.
pub fn fuzz(bytes: &[u8]) {
    let _ = frame_len(bytes, 1 << 20);
    // The checksum would refuse nearly everything: mend it, so that the rest is reached.
    let mut mended = bytes.to_vec();
    if mended.len() > 4 + FIXED_BYTES {
        mended[4] = VERSION;
        mended[5] = OLDEST;
        let head = u32::from(mended[8]).min((mended.len() - FIXED_BYTES) as u32);
        mended[8..12].copy_from_slice(&head.to_le_bytes());
        let checksum = crc32c(&mended[4..FIXED_BYTES + head as usize]);
        mended[..4].copy_from_slice(&checksum.to_le_bytes());
    }
    for input in [bytes, &mended] {
        if let Ok((header, messages)) = decode(&Bytes::copy_from_slice(input)) {
            let again = encode(&header, &messages).concat();
            assert_eq!(&again[PREFIX_BYTES..], input);
        }
    }
}
