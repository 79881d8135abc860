//! One thing that changed in a slot, on its way from the group that holds the slot to the one that
//! takes it over. Whatever carries changes puts one behind the other, and has the version, the lengths
//! and the checksum: a change is no format of its own but a part of others.
//!
//! A change opens with its kind. Kinds and fields are those of the items of a snapshot
//! ([`chunk`](super::chunk)) where both tell the same; the rest is what a whole state never tells.
//!
//! | kind | change | fields |
//! |---|---|---|
//! | 3 | slot | slot 2, version, last removal, sessions, keys (varints), hash 8 |
//! | 4 | session | id, end, last sequence, count (varints), per reply: sequence varint, hash 8, block; |
//! | | | slot 2 |
//! | 5 | string | version varint, key block, value block |
//! | 6 | string with a deadline | the same with the deadline (varint) behind the version |
//! | 8 | key gone | key block |
//! | 9 | session gone | slot 2, id varint |
//!
//! Kinds 1, 2 and 7 stand for what belongs to a snapshot as a whole, and are refused here. Slots are
//! within the slots that there are; whether a keyspace can hold the rest, and where the slot is
//! hidden, is judged when the change is applied.

use std::borrow::Cow;

use kvorum_base::cursor::{put_block, put_varint};
use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{Malformed, Reader, SessionId, Slot};
use kvorum_kv::{Change, Item, SessionChange, SessionItem, SlotItem};

use super::chunk::{put_item, read_session, read_slot, read_string};

/// Appends a change.
pub fn put_change(out: &mut Vec<u8>, change: &Change<'_>) {
    match change {
        Change::Slot(item) => put_item(out, Item::Slot(*item)),
        Change::Session(SessionChange {
            slot,
            session,
            end,
            last_sequence,
            replies,
        }) => {
            let item = SessionItem {
                session: *session,
                end: *end,
                last_sequence: *last_sequence,
                replies,
            };
            put_item(out, Item::Session(item));
            out.extend_from_slice(&slot.get().to_le_bytes());
        }
        Change::SessionGone { slot, session } => {
            out.push(9);
            out.extend_from_slice(&slot.get().to_le_bytes());
            put_varint(out, session.get());
        }
        Change::Key(item) => put_item(out, Item::Key(*item)),
        Change::KeyGone { key } => {
            out.push(8);
            put_block(out, key);
        }
    }
}

/// Reads a change; what follows it is left.
///
/// # Errors
/// If no change starts here.
pub fn read_change<'a>(reader: &mut Reader<'a>) -> Result<Change<'a>, Malformed> {
    let kind = reader.clone();
    match reader.u8("kind of change")? {
        3 => {
            let item = read_slot(reader)?;
            let slot = checked(item.slot, reader)?;
            Ok(Change::Slot(SlotItem { slot, ..item }))
        }
        4 => {
            let (item, replies) = read_session(reader)?;
            let SessionItem {
                session,
                end,
                last_sequence,
                replies: _,
            } = item;
            Ok(Change::Session(SessionChange {
                slot: read_slot_number(reader)?,
                session,
                end,
                last_sequence,
                replies: Cow::Owned(replies),
            }))
        }
        timed @ (5 | 6) => Ok(Change::Key(read_string(reader, timed == 6)?)),
        8 => Ok(Change::KeyGone {
            key: reader.block("key")?,
        }),
        9 => Ok(Change::SessionGone {
            slot: read_slot_number(reader)?,
            session: SessionId(reader.varint("session")?),
        }),
        _ => Err(kind.malformed("kind of change")),
    }
}

fn read_slot_number(reader: &mut Reader<'_>) -> Result<Slot, Malformed> {
    let slot = Slot(reader.u16("slot")?);
    checked(slot, reader)
}

fn checked(slot: Slot, reader: &Reader<'_>) -> Result<Slot, Malformed> {
    if slot.get() < SLOT_COUNT {
        Ok(slot)
    } else {
        Err(reader.malformed("slot"))
    }
}

/// Any bytes are changes or are refused, and changes that were read are the bytes that they are
/// written as.
///
/// # Panics
/// If not.
pub fn fuzz(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let mut out = Vec::new();
    while !reader.is_empty() {
        let from = reader.position();
        let Ok(change) = read_change(&mut reader) else {
            return;
        };
        out.clear();
        put_change(&mut out, &change);
        assert_eq!(out, bytes[from..reader.position()]);
    }
}
