//! Moves of slots, as bytes: what a group's log says of them, and what its snapshots hold.
//!
//! An entry of kind 6 is a kind and its fields. Numbers are varints, unless a size is given; a set of
//! slots is how many runs it has, and of each the first and the last slot, 2 bytes each. The changes of a
//! move are one stream of blocks, each as in `delta`, cut into pieces wherever the cut falls: one large
//! value does not make one large entry.
//!
//! | kind (1 byte) | | |
//! |---|---|---|
//! | 1 | sending | move, attempt, target group, slots |
//! | 2 | stage | move, attempt, number of the piece, source group, slots (in piece 0), bytes to the end |
//! | 3 | sealed | move, attempt |
//! | 4 | received | move, attempt, pieces, hash 8, clock 8 |
//! | 5 | refused | move |
//! | 6 | returned | move |
//! | 7 | cancelled | move |
//! | 8 | dropped | move |
//! | 9 | forget | the moves below this one |
//!
//! Between the primaries of the two groups, in a frame: source of the message, its target (groups), a kind
//! and its fields.
//!
//! | kind (1 byte) | | |
//! |---|---|---|
//! | 1 | piece | bytes of the slots, block: a piece as in kind 2 above |
//! | 2 | finish | as kind 4 above |
//! | 3 | ask | move, 1 byte: refuse? |
//! | 4 | state | move, 1 byte: unknown 0; staging 1, then attempt, next; broken 2, then attempt; |
//! | | | received 3; refused 4 |
//!
//! All moves of a group, in the header of a snapshot:
//!
//! | field | |
//! |---|---|
//! | outgoing: count, per move | move, target group, attempt, slots, 1 byte: sealed?, then hash 8, clock 8 |
//! | incoming: count, per move | move, source group, attempt, next piece, 1 byte: broken?, slots, |
//! | | block: the beginning of a change |
//! | ended: count, per move | move, 1 byte: received 1, refused 2, cancelled 3, dropped 4, returned 5 |
//! | floor | move |
//! | given: count, per slot | slot 2, move, group |
//! | sealed before? | 1 byte |

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_base::cursor::{put_block, put_varint};
use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{GroupId, Malformed, MoveId, Reader, Slot, SlotSet, UnixMillis};

use super::{put_slots, read_flag, read_slots};
use crate::moves::state::{Ended, Incoming, Moves, Outgoing, Sealed};

/// A piece of the stream from the source to the target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece<'a> {
    /// The move.
    pub id: MoveId,
    /// The stream.
    pub attempt: u32,
    /// The number of the piece in it, from 0.
    pub number: u64,
    /// The source.
    pub from: GroupId,
    /// The slots of the move; in the first piece.
    pub slots: Option<SlotSet>,
    /// Its part of the stream.
    pub bytes: &'a [u8],
}

/// A whole stream, and what must come of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Whole {
    /// The move.
    pub id: MoveId,
    /// The stream.
    pub attempt: u32,
    /// How many pieces it had.
    pub pieces: u64,
    /// The hash of the slots at the source.
    pub hash: u64,
    /// The clock of the source when it sealed them.
    pub clock: UnixMillis,
}

/// What a group's log says of a move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MoveEntry<'a> {
    /// The source streams the slots to the target.
    Sending {
        /// The move.
        id: MoveId,
        /// The stream.
        attempt: u32,
        /// The target.
        to: GroupId,
        /// The slots.
        slots: SlotSet,
    },
    /// The target keeps a piece.
    Stage(Piece<'a>),
    /// The source serves the slots no more.
    Sealed {
        /// The move.
        id: MoveId,
        /// The stream.
        attempt: u32,
    },
    /// The target serves the slots, if all of the stream is there.
    Received(Whole),
    /// The target will never have them by this move.
    Refused {
        /// The move.
        id: MoveId,
    },
    /// The target has refused: the source serves them again.
    Returned {
        /// The move.
        id: MoveId,
    },
    /// The source has ended the move before it sealed anything.
    Cancelled {
        /// The move.
        id: MoveId,
    },
    /// The target has them: the source frees what it had.
    Dropped {
        /// The move.
        id: MoveId,
    },
    /// Moves below this one are over everywhere.
    Forget {
        /// The first one that may not be.
        below: MoveId,
    },
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        put_varint(out, *number);
    }
}

/// Appends an entry's payload.
pub fn put_entry(out: &mut Vec<u8>, entry: &MoveEntry<'_>) {
    match entry {
        MoveEntry::Sending {
            id,
            attempt,
            to,
            slots,
        } => {
            out.push(1);
            put_numbers(out, &[id.0, u64::from(*attempt), to.0]);
            put_slots(out, slots);
        }
        MoveEntry::Stage(piece) => {
            out.push(2);
            put_piece(out, piece);
        }
        MoveEntry::Sealed { id, attempt } => {
            out.push(3);
            put_numbers(out, &[id.0, u64::from(*attempt)]);
        }
        MoveEntry::Received(whole) => {
            out.push(4);
            put_whole(out, whole);
        }
        MoveEntry::Refused { id } => put_lone(out, 5, *id),
        MoveEntry::Returned { id } => put_lone(out, 6, *id),
        MoveEntry::Cancelled { id } => put_lone(out, 7, *id),
        MoveEntry::Dropped { id } => put_lone(out, 8, *id),
        MoveEntry::Forget { below } => put_lone(out, 9, *below),
    }
}

fn put_lone(out: &mut Vec<u8>, kind: u8, id: MoveId) {
    out.push(kind);
    put_varint(out, id.0);
}

fn put_whole(out: &mut Vec<u8>, whole: &Whole) {
    let Whole {
        id,
        attempt,
        pieces,
        hash,
        clock,
    } = whole;
    put_numbers(out, &[id.0, u64::from(*attempt), *pieces]);
    out.extend_from_slice(&hash.to_le_bytes());
    out.extend_from_slice(&clock.get().to_le_bytes());
}

fn read_whole(reader: &mut Reader<'_>) -> Result<Whole, Malformed> {
    Ok(Whole {
        id: read_move(reader)?,
        attempt: read_attempt(reader)?,
        pieces: super::read_count(reader, "pieces")?,
        hash: reader.u64("hash")?,
        clock: read_clock(reader)?,
    })
}

/// Appends a piece: to an entry, or to a message that carries it there.
pub fn put_piece(out: &mut Vec<u8>, piece: &Piece<'_>) {
    let Piece {
        id,
        attempt,
        number,
        from,
        slots,
        bytes,
    } = piece;
    put_numbers(out, &[id.0, u64::from(*attempt), *number, from.0]);
    if let Some(slots) = slots {
        put_slots(out, slots);
    }
    out.extend_from_slice(bytes);
}

/// Reads a piece up to the reader's end.
///
/// # Errors
/// If the bytes are no piece.
pub fn read_piece<'a>(reader: &mut Reader<'a>) -> Result<Piece<'a>, Malformed> {
    let id = read_move(reader)?;
    let attempt = read_attempt(reader)?;
    let number = super::read_count(reader, "number of the piece")?;
    let from = GroupId(reader.varint("source group")?);
    let slots = match number {
        0 => Some(read_slots(reader)?),
        _ => None,
    };
    let bytes = reader.take(reader.remaining(), "bytes of the piece")?;
    Ok(Piece {
        id,
        attempt,
        number,
        from,
        slots,
        bytes,
    })
}

fn read_move(reader: &mut Reader<'_>) -> Result<MoveId, Malformed> {
    super::read_count(reader, "move").map(MoveId)
}

fn read_attempt(reader: &mut Reader<'_>) -> Result<u32, Malformed> {
    let attempt = reader.varint("attempt")?;
    u32::try_from(attempt).map_err(|_| reader.malformed("attempt"))
}

/// Reads an entry's payload, up to the reader's end.
///
/// # Errors
/// If the bytes are none.
pub fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<MoveEntry<'a>, Malformed> {
    Ok(match reader.u8("kind of a move's entry")? {
        1 => MoveEntry::Sending {
            id: read_move(reader)?,
            attempt: read_attempt(reader)?,
            to: GroupId(reader.varint("target group")?),
            slots: read_slots(reader)?,
        },
        2 => MoveEntry::Stage(read_piece(reader)?),
        3 => MoveEntry::Sealed {
            id: read_move(reader)?,
            attempt: read_attempt(reader)?,
        },
        4 => MoveEntry::Received(read_whole(reader)?),
        5 => MoveEntry::Refused {
            id: read_move(reader)?,
        },
        6 => MoveEntry::Returned {
            id: read_move(reader)?,
        },
        7 => MoveEntry::Cancelled {
            id: read_move(reader)?,
        },
        8 => MoveEntry::Dropped {
            id: read_move(reader)?,
        },
        9 => MoveEntry::Forget {
            below: read_move(reader)?,
        },
        _ => return Err(reader.malformed("kind of a move's entry")),
    })
}

fn read_clock(reader: &mut Reader<'_>) -> Result<UnixMillis, Malformed> {
    let clock = reader.u64("clock")?;
    super::bounded(clock, reader, "clock").map(UnixMillis)
}

/// What the primaries of two groups say to each other about a move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveMessage {
    /// The group whose primary says it.
    pub from: GroupId,
    /// The group whose primary it is for.
    pub to: GroupId,
    /// What it says.
    pub note: MoveNote,
}

/// What it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MoveNote {
    /// The next piece of the stream.
    Piece {
        /// How many bytes all of the slots have.
        room: u64,
        /// The piece, encoded.
        bytes: Bytes,
    },
    /// That was all.
    Finish(Whole),
    /// How far are you?
    Ask {
        /// The move.
        id: MoveId,
        /// If you have not decided: do not take it.
        refuse: bool,
    },
    /// So far.
    State {
        /// The move.
        id: MoveId,
        /// What was applied.
        progress: Progress,
    },
}

/// How far the target of a move is, as its log says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It knows nothing of it.
    Unknown,
    /// Pieces are staged.
    Staging {
        /// The stream.
        attempt: u32,
        /// The piece that it wants next.
        next: u64,
    },
    /// A whole stream was staged and is not what the source has.
    Broken {
        /// The stream.
        attempt: u32,
    },
    /// It has the slots.
    Received,
    /// It never will.
    Refused,
}

/// How many bytes a message takes, at most; few more than it does.
#[must_use]
pub fn message_bytes(message: &MoveMessage) -> usize {
    const NUMBERS_BYTES: usize = 64;
    match &message.note {
        MoveNote::Piece { bytes, .. } => NUMBERS_BYTES + bytes.len(),
        _ => NUMBERS_BYTES,
    }
}

/// Appends a message.
pub fn put_message(out: &mut Vec<u8>, message: &MoveMessage) {
    put_numbers(out, &[message.from.0, message.to.0]);
    match &message.note {
        MoveNote::Piece { room, bytes } => {
            out.push(1);
            put_varint(out, *room);
            put_block(out, bytes);
        }
        MoveNote::Finish(whole) => {
            out.push(2);
            put_whole(out, whole);
        }
        MoveNote::Ask { id, refuse } => {
            put_lone(out, 3, *id);
            out.push(u8::from(*refuse));
        }
        MoveNote::State { id, progress } => {
            put_lone(out, 4, *id);
            match progress {
                Progress::Unknown => out.push(0),
                Progress::Staging { attempt, next } => {
                    out.push(1);
                    put_numbers(out, &[u64::from(*attempt), *next]);
                }
                Progress::Broken { attempt } => {
                    out.push(2);
                    put_varint(out, u64::from(*attempt));
                }
                Progress::Received => out.push(3),
                Progress::Refused => out.push(4),
            }
        }
    }
}

/// Reads a message.
///
/// # Errors
/// If the bytes are none.
pub fn read_message(reader: &mut Reader<'_>) -> Result<MoveMessage, Malformed> {
    let from = GroupId(reader.varint("source of the message")?);
    let to = GroupId(reader.varint("target of the message")?);
    let note = match reader.u8("kind of a move's message")? {
        1 => MoveNote::Piece {
            room: reader.varint("bytes of the slots")?,
            bytes: Bytes::copy_from_slice(reader.block("piece")?),
        },
        2 => MoveNote::Finish(read_whole(reader)?),
        3 => MoveNote::Ask {
            id: read_move(reader)?,
            refuse: read_flag(reader, "refuse")?,
        },
        4 => MoveNote::State {
            id: read_move(reader)?,
            progress: read_progress(reader)?,
        },
        _ => return Err(reader.malformed("kind of a move's message")),
    };
    Ok(MoveMessage { from, to, note })
}

fn read_progress(reader: &mut Reader<'_>) -> Result<Progress, Malformed> {
    Ok(match reader.u8("progress")? {
        0 => Progress::Unknown,
        1 => Progress::Staging {
            attempt: read_attempt(reader)?,
            next: super::read_count(reader, "next piece")?,
        },
        2 => Progress::Broken {
            attempt: read_attempt(reader)?,
        },
        3 => Progress::Received,
        4 => Progress::Refused,
        _ => return Err(reader.malformed("progress")),
    })
}

/// Appends all moves of a group. Every field is taken apart by name, so that a new one cannot be forgotten.
pub fn put_moves(out: &mut Vec<u8>, moves: &Moves) {
    let Moves {
        outgoing,
        incoming,
        ended,
        floor,
        given,
        has_sealed,
    } = moves;
    put_varint(out, outgoing.len() as u64);
    for (id, move_out) in outgoing {
        let Outgoing {
            slots,
            to,
            attempt,
            sealed,
        } = move_out;
        put_numbers(out, &[id.0, to.0, u64::from(*attempt)]);
        put_slots(out, slots);
        out.push(u8::from(sealed.is_some()));
        if let Some(Sealed { hash, clock }) = sealed {
            out.extend_from_slice(&hash.to_le_bytes());
            out.extend_from_slice(&clock.get().to_le_bytes());
        }
    }
    put_varint(out, incoming.len() as u64);
    for (id, move_in) in incoming {
        let Incoming {
            slots,
            from,
            attempt,
            next,
            partial,
            broken,
        } = move_in;
        put_numbers(out, &[id.0, from.0, u64::from(*attempt), *next]);
        out.push(u8::from(*broken));
        put_slots(out, slots);
        put_block(out, partial);
    }
    put_varint(out, ended.len() as u64);
    for (id, how) in ended {
        put_varint(out, id.0);
        out.push(match how {
            Ended::Received => 1,
            Ended::Refused => 2,
            Ended::Cancelled => 3,
            Ended::Dropped => 4,
            Ended::Returned => 5,
        });
    }
    put_varint(out, floor.0);
    put_varint(out, given.len() as u64);
    for (slot, (id, to)) in given {
        out.extend_from_slice(&slot.get().to_le_bytes());
        put_numbers(out, &[id.0, to.0]);
    }
    out.push(u8::from(*has_sealed));
}

fn read_outgoing(reader: &mut Reader<'_>) -> Result<(MoveId, Outgoing), Malformed> {
    let id = read_move(reader)?;
    let to = GroupId(reader.varint("target group")?);
    let attempt = read_attempt(reader)?;
    let slots = read_slots(reader)?;
    let sealed = match read_flag(reader, "sealed")? {
        true => Some(Sealed {
            hash: reader.u64("hash")?,
            clock: read_clock(reader)?,
        }),
        false => None,
    };
    let out = Outgoing {
        slots,
        to,
        attempt,
        sealed,
    };
    Ok((id, out))
}

fn read_incoming(reader: &mut Reader<'_>) -> Result<(MoveId, Incoming), Malformed> {
    let id = read_move(reader)?;
    let into = Incoming {
        from: GroupId(reader.varint("source group")?),
        attempt: read_attempt(reader)?,
        next: super::read_count(reader, "next piece")?,
        broken: read_flag(reader, "broken")?,
        slots: read_slots(reader)?,
        partial: reader.block("beginning of a change")?.to_vec(),
    };
    Ok((id, into))
}

fn read_ended(reader: &mut Reader<'_>) -> Result<(MoveId, Ended), Malformed> {
    let id = read_move(reader)?;
    let how = match reader.u8("end of a move")? {
        1 => Ended::Received,
        2 => Ended::Refused,
        3 => Ended::Cancelled,
        4 => Ended::Dropped,
        5 => Ended::Returned,
        _ => return Err(reader.malformed("end of a move")),
    };
    Ok((id, how))
}

fn read_given(reader: &mut Reader<'_>) -> Result<(Slot, (MoveId, GroupId)), Malformed> {
    let slot = reader.u16("given slot")?;
    if slot >= SLOT_COUNT {
        return Err(reader.malformed("given slot"));
    }
    let to = (read_move(reader)?, GroupId(reader.varint("group")?));
    Ok((Slot(slot), to))
}

/// How many there are, and then as many. They stand in order, so that a map has one encoding.
fn read_map<K: Ord + Copy, V>(
    reader: &mut Reader<'_>,
    read: fn(&mut Reader<'_>) -> Result<(K, V), Malformed>,
) -> Result<BTreeMap<K, V>, Malformed> {
    let mut map = BTreeMap::new();
    for _ in 0..reader.varint("count of a map")? {
        let (key, value) = read(reader)?;
        if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
            return Err(reader.malformed("order of a map"));
        }
        map.insert(key, value);
    }
    Ok(map)
}

/// Reads all moves of a group.
///
/// # Errors
/// If the bytes are none.
pub fn read_moves(reader: &mut Reader<'_>) -> Result<Moves, Malformed> {
    Ok(Moves {
        outgoing: read_map(reader, read_outgoing)?,
        incoming: read_map(reader, read_incoming)?,
        ended: read_map(reader, read_ended)?,
        floor: read_move(reader)?,
        given: read_map(reader, read_given)?,
        has_sealed: read_flag(reader, "sealed before")?,
    })
}

/// Any bytes are an entry, a message or a group's moves, or are refused; what was read is written as it was.
///
/// # Panics
/// If not.
pub fn fuzz(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    if let Ok(entry) = read_entry(&mut reader) {
        let mut out = Vec::new();
        put_entry(&mut out, &entry);
        assert_eq!(out, bytes[..bytes.len() - reader.remaining()]);
    }
    let mut reader = Reader::new(bytes);
    if let Ok(message) = read_message(&mut reader) {
        let mut out = Vec::new();
        put_message(&mut out, &message);
        assert_eq!(out, bytes[..bytes.len() - reader.remaining()]);
    }
    let mut reader = Reader::new(bytes);
    if let Ok(moves) = read_moves(&mut reader) {
        let mut out = Vec::new();
        put_moves(&mut out, &moves);
        assert_eq!(out, bytes[..bytes.len() - reader.remaining()]);
    }
}
