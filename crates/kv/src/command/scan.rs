//! SCAN: a walk over all keys in the order of their positions.
//!
//! The cursor is the position to go on from, the same on every replica and owner, so it outlives
//! splits of buckets, failovers and moves. Keys that are there all the time come out exactly once;
//! those of one position come out together, since no cursor points between them.
//!
//! A node serves stretches of slots, of several shards: whoever sends a walk from one to the next inserts
//! `KVORUM.WITHIN <last slot> <cursor>`: how far it may go here, and what it goes on with.

use kvorum_base::Slot;
use kvorum_base::slot::SLOT_COUNT;
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, ArgsBuf, Replies};

use crate::command::refusal::{INVALID_CURSOR, NOT_AN_INTEGER, Refusal, SYNTAX};
use crate::command::spec::{Categories, Group, Spec};
use crate::command::sweep;
use crate::glob;
use crate::keyspace::Keyspace;
use crate::limits::SCAN_COUNT_MAX;
use crate::position::Position;

const SCAN: u16 = 128;

/// How many keys are looked at if the client does not say.
const COUNT_DEFAULT: u64 = 10;

/// The commands.
pub(super) const SPECS: &[Spec] = &[Spec::read(SCAN, "scan", -2, scan)
    .categories(Categories::KEYSPACE)
    .tips(&["nondeterministic_output", "request_policy:special"])
    .docs(
        Group::Generic,
        "2.8.0",
        "Walks over the keys, some at a time.",
    )
    .complexity("O(COUNT) for a call")];

/// What a walk is asked for.
pub(super) struct Request<'a> {
    from: Position,
    pattern: Option<&'a [u8]>,
    count: u64,
    type_name: Option<&'a [u8]>,
    /// The last slot to look at.
    pub(super) last_slot: Slot,
    /// The cursor for what comes after it.
    beyond: u64,
}

/// The name of the option that bounds a walk.
const WITHIN: &[u8] = b"kvorum.within";

/// The cursor of a walk and the slot that it points into; `None` if it is no cursor.
#[must_use]
pub fn cursor_in(args: Args<'_>) -> Option<(u64, Slot)> {
    let digits = std::str::from_utf8(args.get(1)).ok()?;
    let cursor = digits.parse().ok()?;
    Some((cursor, Position(cursor).slot()))
}

/// The same walk from this cursor on, and up to the last position of a slot. After that comes `beyond`.
#[must_use]
pub fn scan_within(args: Args<'_>, cursor: u64, last: Slot, beyond: u64) -> ArgsBuf {
    let is_bounded = args.len() >= 5 && args.get(2).eq_ignore_ascii_case(WITHIN);
    let options = if is_bounded { 5 } else { 2 };
    let (cursor, last, beyond) = (cursor.to_string(), last.to_string(), beyond.to_string());
    // In front of the other options, so that an incomplete one stays what it is.
    let bound = [WITHIN, last.as_bytes(), beyond.as_bytes()];
    let mut bounded = vec![args.get(0), cursor.as_bytes()];
    bounded.extend(bound.into_iter().chain(args.iter().skip(options)));
    bounded.iter().collect()
}

impl<'a> Request<'a> {
    /// Reads the cursor and the options behind it.
    pub(super) fn parse(args: Args<'a>) -> Result<Self, Refusal> {
        let cursor = std::str::from_utf8(args.get(0)).ok();
        let from = cursor
            .and_then(|digits| digits.parse().ok())
            .ok_or(INVALID_CURSOR)?;
        let mut request = Self {
            from: Position(from),
            pattern: None,
            count: COUNT_DEFAULT,
            type_name: None,
            last_slot: Slot(SLOT_COUNT - 1),
            beyond: 0,
        };
        let mut rest = args.iter().skip(1);
        while let Some(word) = rest.next() {
            let value = rest.next().ok_or(SYNTAX)?;
            if word.eq_ignore_ascii_case(b"match") {
                request.pattern = (value != b"*").then_some(value);
            } else if word.eq_ignore_ascii_case(b"count") {
                let count = parse_integer(value).ok_or(NOT_AN_INTEGER)?;
                if count < 1 {
                    return Err(SYNTAX);
                }
                request.count = (count as u64).min(SCAN_COUNT_MAX);
            } else if word.eq_ignore_ascii_case(b"type") {
                request.type_name = Some(value);
            } else if word.eq_ignore_ascii_case(WITHIN) {
                let slot = sweep::slot_number(value).ok_or(SYNTAX)?;
                request.last_slot = Slot(slot);
                let beyond = rest.next().and_then(|text| std::str::from_utf8(text).ok());
                let beyond = beyond.and_then(|digits| digits.parse().ok());
                request.beyond = beyond.ok_or(INVALID_CURSOR)?;
            } else {
                return Err(SYNTAX);
            }
        }
        Ok(request)
    }
}

fn scan(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    match Request::parse(args.skip(1)) {
        Ok(request) => walk(keyspace, &request, replies),
        Err(refusal) => refusal.reply(replies),
    }
}

/// Walks up to the end of the last slot and replies the next cursor, 0 at the end, and the keys.
pub(super) fn walk(keyspace: &Keyspace, request: &Request<'_>, replies: &mut Replies<'_>) {
    let mut keys: Vec<&[u8]> = Vec::new();
    let (mut looked_at, mut last, mut next) = (0, request.from, request.beyond);
    for item in keyspace.keys.range(request.from) {
        if item.position.slot() > request.last_slot {
            break;
        }
        if looked_at >= request.count && item.position != last {
            next = item.position.0;
            break;
        }
        (looked_at, last) = (looked_at + 1, item.position);
        let entry = &item.value;
        let is_wanted = keyspace.served().contains(item.position.slot())
            && !keyspace.is_expired(entry)
            && request.type_name.is_none_or(|name| {
                entry
                    .value()
                    .type_name()
                    .as_bytes()
                    .eq_ignore_ascii_case(name)
            })
            && request
                .pattern
                .is_none_or(|pattern| glob::matches(pattern, entry.key()));
        if is_wanted {
            keys.push(entry.key());
        }
    }
    replies.array(2);
    replies.bulk(next.to_string().as_bytes());
    replies.array(keys.len());
    for key in keys {
        replies.bulk(key);
    }
}
