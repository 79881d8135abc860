//! Strings.

use kvorum_base::cursor::Reader;
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Replies};

use crate::command::encode::{Encoder, Ends, number};
use crate::command::expiry::Unit;
use crate::command::refusal::{
    NOT_AN_INTEGER, OFFSET_OUT_OF_RANGE, Refusal, STRING_TOO_LONG, SYNTAX, invalid_expire,
    wrong_arity,
};
use crate::command::spec::{ALL_KEYS, Categories, Flags, Group, KEYS_AND_VALUES, ONE_KEY, Spec};
use crate::keyspace::{Found, Keyspace, Lifetime};
use crate::limits::VALUE_BYTES_MAX;
use crate::value::{Fresh, Text, ValueRef};

const GET: u16 = 1;
const SET: u16 = 2;
const GETEX: u16 = 3;
const GETDEL: u16 = 4;
const MGET: u16 = 5;
const MSET: u16 = 6;
const MSETNX: u16 = 7;
const APPEND: u16 = 8;
const STRLEN: u16 = 9;
// 10 and 11 are those of counting.
const GETRANGE: u16 = 12;
const SETRANGE: u16 = 13;
const SUBSTR: u16 = 14;

pub(super) const READ_WRITE: &[&str] = &["RW", "access", "update"];

/// The commands.
pub(super) const SPECS: &[Spec] = &[
    string(Spec::read(GET, "get", 2, get))
        .flags(Flags::FAST)
        .keys(ONE_KEY, &["RO", "access"])
        .docs(Group::String, "1.0.0", "Tells the string that a key holds."),
    string(Spec::write(SET, "set", -3, resolve_set, apply_set))
        .flags(Flags::DENYOOM)
        .keys(ONE_KEY, &["RW", "access", "update", "variable_flags"])
        .access_notes("RW and ACCESS due to the optional `GET` argument")
        .docs(
            Group::String,
            "1.0.0",
            "Makes a key hold a string, whatever it held.",
        ),
    string(alias("setnx", 3, resolve_setnx))
        .flags(Flags::DENYOOM.with(Flags::FAST))
        .keys(ONE_KEY, &["OW", "insert"])
        .deprecated("2.6.12", "`SET` with the `NX` argument")
        .docs(
            Group::String,
            "1.0.0",
            "Makes a key hold a string if it is absent.",
        ),
    string(alias("setex", 4, resolve_setex))
        .flags(Flags::DENYOOM)
        .keys(ONE_KEY, &["OW", "update"])
        .deprecated("2.6.12", "`SET` with the `EX` argument")
        .docs(
            Group::String,
            "2.0.0",
            "Makes a key hold a string for so many seconds.",
        ),
    string(alias("psetex", 4, resolve_psetex))
        .flags(Flags::DENYOOM)
        .keys(ONE_KEY, &["OW", "update"])
        .deprecated("2.6.12", "`SET` with the `PX` argument")
        .docs(
            Group::String,
            "2.6.0",
            "Makes a key hold a string for so many milliseconds.",
        ),
    string(alias("getset", 3, resolve_getset))
        .flags(Flags::DENYOOM.with(Flags::FAST))
        .keys(ONE_KEY, READ_WRITE)
        .deprecated("6.2.0", "`SET` with the `!GET` argument")
        .docs(
            Group::String,
            "1.0.0",
            "Makes a key hold a string and tells the old one.",
        ),
    string(Spec::write(GETEX, "getex", -2, resolve_getex, apply_getex))
        .flags(Flags::FAST)
        .keys(ONE_KEY, READ_WRITE)
        .access_notes("RW and UPDATE because it changes the TTL")
        .docs(
            Group::String,
            "6.2.0",
            "Tells a key's string and changes when the key ends.",
        ),
    string(Spec::write(
        GETDEL,
        "getdel",
        2,
        resolve_getdel,
        apply_getdel,
    ))
    .flags(Flags::FAST)
    .keys(ONE_KEY, &["RW", "access", "delete"])
    .docs(
        Group::String,
        "6.2.0",
        "Tells a key's string and removes the key.",
    ),
    string(Spec::read(MGET, "mget", -2, mget))
        .flags(Flags::FAST)
        .keys(ALL_KEYS, &["RO", "access"])
        .tips(&["request_policy:multi_shard"])
        .docs(
            Group::String,
            "1.0.0",
            "Tells the strings that some keys hold.",
        )
        .complexity("O(N) in the number of keys"),
    string(Spec::write(MSET, "mset", -3, resolve_mset, apply_mset))
        .flags(Flags::DENYOOM)
        .keys(KEYS_AND_VALUES, &["OW", "update"])
        .tips(&[
            "request_policy:multi_shard",
            "response_policy:all_succeeded",
        ])
        .docs(
            Group::String,
            "1.0.1",
            "Makes some keys hold strings, all at once.",
        )
        .complexity("O(N) in the number of keys"),
    string(Spec::write(
        MSETNX,
        "msetnx",
        -3,
        resolve_msetnx,
        apply_msetnx,
    ))
    .flags(Flags::DENYOOM)
    .keys(KEYS_AND_VALUES, &["OW", "insert"])
    .tips(&["request_policy:multi_shard", "response_policy:agg_min"])
    .docs(
        Group::String,
        "1.0.1",
        "Makes some keys hold strings if all are absent.",
    )
    .complexity("O(N) in the number of keys"),
    string(Spec::write(
        APPEND,
        "append",
        3,
        resolve_append,
        apply_append,
    ))
    .flags(Flags::DENYOOM.with(Flags::FAST))
    .keys(ONE_KEY, &["RW", "insert"])
    .docs(Group::String, "2.0.0", "Puts more behind a key's string.")
    .complexity("O(N) in the length of the result"),
    string(Spec::read(STRLEN, "strlen", 2, strlen))
        .flags(Flags::FAST)
        .keys(ONE_KEY, &["RO"])
        .docs(Group::String, "2.2.0", "Tells how long a key's string is."),
    string(Spec::read(GETRANGE, "getrange", 4, getrange))
        .keys(ONE_KEY, &["RO", "access"])
        .docs(Group::String, "2.4.0", "Tells a part of a key's string.")
        .complexity("O(N) in the length of the part"),
    string(Spec::read(SUBSTR, "substr", 4, getrange))
        .keys(ONE_KEY, &["RO", "access"])
        .deprecated("2.0.0", "`GETRANGE`")
        .docs(
            Group::String,
            "1.0.0",
            "Tells a part of a key's string: GETRANGE's old name.",
        )
        .complexity("O(N) in the length of the part"),
    string(Spec::write(
        SETRANGE,
        "setrange",
        4,
        resolve_setrange,
        apply_setrange,
    ))
    .flags(Flags::DENYOOM)
    .keys(ONE_KEY, &["RW", "update"])
    .docs(
        Group::String,
        "2.2.0",
        "Writes over a part of a key's string.",
    )
    .complexity("O(N) in the length of the result"),
];

const fn string(spec: Spec) -> Spec {
    spec.categories(Categories::STRING)
}

/// Another way to say SET; it is encoded as one.
const fn alias(name: &'static str, arity: i32, resolve: super::spec::Resolve) -> Spec {
    Spec::write(0, name, arity, resolve, apply_set)
}

/// The key holds something that is no string.
#[derive(Clone, Copy, Debug)]
struct WrongType;

/// The string of a key that was looked up; nothing if it is absent.
fn text(found: Option<Found<'_>>) -> Result<Option<Text<'_>>, WrongType> {
    match found.map(|found| found.value) {
        None => Ok(None),
        Some(ValueRef::String(text)) => Ok(Some(text)),
    }
}

/// The same; a wrong type is answered here, and gives `None`.
pub(super) fn text_or_reply<'a>(
    found: Option<Found<'a>>,
    replies: &mut Replies<'_>,
) -> Option<Option<Text<'a>>> {
    match text(found) {
        Ok(text) => Some(text),
        Err(WrongType) => {
            super::refusal::WRONG_TYPE.reply(replies);
            None
        }
    }
}

fn reply_text(text: Option<Text<'_>>, replies: &mut Replies<'_>) {
    match text {
        None => replies.null(),
        Some(Text::Inline(bytes)) => replies.bulk(bytes),
        Some(Text::Counted(bytes)) => replies.bulk_shared(bytes),
    }
}

fn check_len(len: usize) -> Result<(), Refusal> {
    if len > VALUE_BYTES_MAX {
        Err(STRING_TOO_LONG)
    } else {
        Ok(())
    }
}

fn get(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    if let Some(text) = text_or_reply(keyspace.get(args.get(1)), replies) {
        reply_text(text, replies);
    }
}

fn mget(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    replies.array(args.len() - 1);
    for key in args.iter().skip(1) {
        reply_text(text(keyspace.get(key)).unwrap_or(None), replies);
    }
}

fn strlen(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    if let Some(text) = text_or_reply(keyspace.get(args.get(1)), replies) {
        replies.integer(text.map_or(0, |text| text.as_bytes().len() as i64));
    }
}

fn getrange(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let (Some(start), Some(end)) = (parse_integer(args.get(2)), parse_integer(args.get(3))) else {
        return NOT_AN_INTEGER.reply(replies);
    };
    let Some(text) = text_or_reply(keyspace.get(args.get(1)), replies) else {
        return;
    };
    let bytes = text.map_or(&b""[..], Text::as_bytes);
    replies.bulk(part(bytes, start, end));
}

/// The bytes between two positions, both included; negative ones count from the end.
fn part(bytes: &[u8], start: i64, end: i64) -> &[u8] {
    let len = bytes.len() as i64;
    if start < 0 && end < 0 && start > end {
        return b"";
    }
    let from_end = |position: i64| {
        if position < 0 {
            len.saturating_add(position).max(0)
        } else {
            position
        }
    };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if start > end {
        return b"";
    }
    &bytes[start as usize..=end as usize]
}

/// When a key is to be written, and what is replied.
mod set_flags {
    /// Only if the key is absent.
    pub(super) const IF_ABSENT: u8 = 1;
    /// Only if it is there.
    pub(super) const IF_PRESENT: u8 = 2;
    /// Reply the old value.
    pub(super) const TELL_OLD: u8 = 4;
    /// Reply 1 or 0, as SETNX does.
    pub(super) const TELL_NUMBER: u8 = 8;
}
use set_flags::{IF_ABSENT, IF_PRESENT, TELL_NUMBER, TELL_OLD};

/// Key, value, and (empty for a plain SET) flags and end.
fn encode_set(
    out: &mut Encoder<'_>,
    key: &[u8],
    value: &[u8],
    flags: u8,
    ends: Ends,
) -> Result<(), Refusal> {
    check_len(value.len())?;
    let mut options = Vec::new();
    if flags != 0 || ends != Ends::Never {
        options.push(flags);
        ends.put(&mut options);
    }
    out.begin(SET, 3)
        .argument(key)
        .argument(value)
        .argument(&options);
    Ok(())
}

/// What may follow a key and a value, or GETEX's key.
#[derive(Default)]
struct Options<'a> {
    flags: u8,
    time: Option<(Unit, &'a [u8])>,
    keep: bool,
    persist: bool,
}

impl<'a> Options<'a> {
    /// Reads them all before any number in them, so that errors come in Redis's order.
    fn parse(args: Args<'a>, from: usize, is_set: bool) -> Result<Self, Refusal> {
        let mut options = Self::default();
        let mut rest = args.iter().skip(from);
        while let Some(word) = rest.next() {
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            let no_time = options.time.is_none();
            if is_set && is(b"nx") && options.flags & IF_PRESENT == 0 {
                options.flags |= IF_ABSENT;
            } else if is_set && is(b"xx") && options.flags & IF_ABSENT == 0 {
                options.flags |= IF_PRESENT;
            } else if is_set && is(b"get") {
                options.flags |= TELL_OLD;
            } else if is_set && is(b"keepttl") && no_time {
                options.keep = true;
            } else if !is_set && is(b"persist") && no_time {
                options.persist = true;
            } else if let Some(unit) = Unit::of(word)
                && !options.keep
                && !options.persist
                && options.time.is_none_or(|(other, _)| other == unit)
                && let Some(value) = rest.next()
            {
                options.time = Some((unit, value));
            } else {
                return Err(SYNTAX);
            }
        }
        Ok(options)
    }
}

fn resolve_set(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let options = Options::parse(args, 3, true)?;
    let ends = match options.time {
        Some((unit, value)) => unit.ends_of(value, "set")?,
        None if options.keep => Ends::AsBefore,
        None => Ends::Never,
    };
    encode_set(out, args.get(1), args.get(2), options.flags, ends)
}

fn resolve_setnx(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let flags = IF_ABSENT | TELL_NUMBER;
    encode_set(out, args.get(1), args.get(2), flags, Ends::Never)
}

fn resolve_setex(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let ends = Unit::Seconds.ends_of(args.get(2), "setex")?;
    encode_set(out, args.get(1), args.get(3), 0, ends)
}

fn resolve_psetex(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let ends = Unit::Milliseconds.ends_of(args.get(2), "psetex")?;
    encode_set(out, args.get(1), args.get(3), 0, ends)
}

fn resolve_getset(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    encode_set(out, args.get(1), args.get(2), TELL_OLD, Ends::Never)
}

fn apply_set(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let at = keyspace.locate(args.get(0));
    let (value, mut options) = (Fresh::Text(args.get(1)), Reader::new(args.get(2)));
    let flags = options.u8("flags").unwrap_or(0);
    let ends = Ends::logged(&mut options);
    if flags == 0 && ends != Ends::AsBefore {
        keyspace.put(at, value, lifetime(keyspace, ends));
        return replies.ok();
    }
    let old = keyspace.settled(at);
    let is_met = match old {
        Some(_) => flags & IF_ABSENT == 0,
        None => flags & IF_PRESENT == 0,
    };
    if flags & TELL_OLD != 0 {
        let Some(text) = text_or_reply(old, replies) else {
            return;
        };
        reply_text(text, replies);
    } else if flags & TELL_NUMBER != 0 {
        replies.integer(i64::from(is_met));
    } else if is_met {
        replies.ok();
    } else {
        replies.null();
    }
    if is_met {
        keyspace.put(at, value, lifetime(keyspace, ends));
    }
}

fn lifetime(keyspace: &Keyspace, ends: Ends) -> Lifetime {
    match ends.deadline(keyspace.clock()) {
        Some(deadline) => Lifetime::Until(deadline),
        None if ends == Ends::AsBefore => Lifetime::AsBefore,
        None => Lifetime::Endless,
    }
}

/// What GETEX does besides telling the value.
mod getex {
    /// The key ends at another time from now on, which follows.
    pub(super) const CHANGE: u8 = 1;
    /// The time that was given is no number.
    pub(super) const NO_NUMBER: u8 = 2;
}

/// Key, and (empty to change nothing) when it is to end from now on; `Never` for PERSIST.
fn resolve_getex(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let options = Options::parse(args, 2, false)?;
    let mut change = Vec::new();
    if let Some((unit, value)) = options.time {
        // Redis looks at the time only if the key is there.
        match unit.ends_of(value, "getex") {
            Ok(ends) => {
                change.push(getex::CHANGE);
                ends.put(&mut change);
            }
            Err(refusal) if refusal == NOT_AN_INTEGER => change.push(getex::NO_NUMBER),
            Err(_) => {
                change.push(getex::CHANGE);
                Ends::Invalid.put(&mut change);
            }
        }
    } else if options.persist {
        change.push(getex::CHANGE);
    }
    out.begin(GETEX, 2).argument(args.get(1)).argument(&change);
    Ok(())
}

fn apply_getex(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let at = keyspace.locate(args.get(0));
    let found = keyspace.settled(at);
    let old_deadline = found.and_then(|found| found.deadline);
    let Some(text) = text_or_reply(found, replies) else {
        return;
    };
    let mut change = Reader::new(args.get(1));
    let kind = change.u8("what is to be done").ok();
    let ends = Ends::logged(&mut change);
    if text.is_some() && kind == Some(getex::NO_NUMBER) {
        return NOT_AN_INTEGER.reply(replies);
    }
    if text.is_some() && ends == Ends::Invalid {
        return invalid_expire("getex").reply(replies);
    }
    reply_text(text, replies);
    if text.is_none() || kind != Some(getex::CHANGE) {
        return;
    }
    let deadline = ends.deadline(keyspace.clock());
    if deadline.is_some_and(|deadline| deadline <= keyspace.clock()) {
        keyspace.remove(at);
    } else if deadline != old_deadline {
        keyspace.set_deadline(at, deadline);
    }
}

fn resolve_getdel(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    out.begin(GETDEL, 1).argument(args.get(1));
    Ok(())
}

fn apply_getdel(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let at = keyspace.locate(args.get(0));
    let Some(text) = text_or_reply(keyspace.settled(at), replies) else {
        return;
    };
    reply_text(text, replies);
    if text.is_some() {
        keyspace.remove(at);
    }
}

fn resolve_mset(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    encode_pairs(MSET, "mset", args, out)
}

fn resolve_msetnx(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    encode_pairs(MSETNX, "msetnx", args, out)
}

fn encode_pairs(
    operation: u16,
    name: &str,
    args: Args<'_>,
    out: &mut Encoder<'_>,
) -> Result<(), Refusal> {
    if args.len().is_multiple_of(2) {
        return Err(wrong_arity(name));
    }
    for value in args.iter().skip(2).step_by(2) {
        check_len(value.len())?;
    }
    out.begin(operation, args.len() - 1);
    out.arguments(args, 1);
    Ok(())
}

fn apply_mset(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    put_pairs(keyspace, args);
    replies.ok();
}

fn apply_msetnx(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let any_there = args.iter().step_by(2).any(|key| {
        let at = keyspace.locate(key);
        keyspace.settled(at).is_some()
    });
    if !any_there {
        put_pairs(keyspace, args);
    }
    replies.integer(i64::from(!any_there));
}

fn put_pairs(keyspace: &mut Keyspace, args: Args<'_>) {
    let mut rest = args.iter();
    while let (Some(key), Some(value)) = (rest.next(), rest.next()) {
        keyspace.put(keyspace.locate(key), Fresh::Text(value), Lifetime::Endless);
    }
}

fn resolve_append(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    check_len(args.get(2).len())?;
    out.begin(APPEND, 2);
    out.arguments(args, 1);
    Ok(())
}

fn apply_append(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let (at, more) = (keyspace.locate(args.get(0)), args.get(1));
    let Some(old) = text_or_reply(keyspace.settled(at), replies) else {
        return;
    };
    let old_len = old.map(|text| text.as_bytes().len());
    let len = old_len.unwrap_or(0) + more.len();
    if let Err(refusal) = check_len(len) {
        return refusal.reply(replies);
    }
    match old_len {
        Some(old_len) => keyspace.edit(at, old_len..len, |text| text.extend_from_slice(more)),
        None => keyspace.put(at, Fresh::Text(more), Lifetime::Endless),
    }
    replies.integer(len as i64);
}

fn resolve_setrange(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let offset = parse_integer(args.get(2)).ok_or(NOT_AN_INTEGER)?;
    if offset < 0 {
        return Err(OFFSET_OUT_OF_RANGE);
    }
    check_len(args.get(3).len())?;
    out.begin(SETRANGE, 3)
        .argument(args.get(1))
        .argument(&offset.to_le_bytes())
        .argument(args.get(3));
    Ok(())
}

fn apply_setrange(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let (at, piece) = (keyspace.locate(args.get(0)), args.get(2));
    let offset = usize::try_from(number(args.get(1))).unwrap_or(usize::MAX);
    let Some(old) = text_or_reply(keyspace.settled(at), replies) else {
        return;
    };
    let old_len = old.map(|text| text.as_bytes().len());
    if piece.is_empty() {
        return replies.integer(old_len.unwrap_or(0) as i64);
    }
    let end = offset.saturating_add(piece.len());
    if let Err(refusal) = check_len(end) {
        return refusal.reply(replies);
    }
    let Some(old_len) = old_len else {
        let mut text = vec![0; end];
        text[offset..].copy_from_slice(piece);
        keyspace.put(at, Fresh::Text(&text), Lifetime::Endless);
        return replies.integer(end as i64);
    };
    // A gap that is filled with zeros is a change too.
    keyspace.edit(at, offset.min(old_len)..end, |text| {
        if text.len() < end {
            text.resize(end, 0);
        }
        text[offset..end].copy_from_slice(piece);
    });
    replies.integer(end.max(old_len) as i64);
}
