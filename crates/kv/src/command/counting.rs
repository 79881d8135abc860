//! Counting: strings that are numbers.
//!
//! A counter's increment is in the log, not its result: the proposer of pipelined entries does not
//! know the value. So what can go wrong with the value is a reply of apply.

use kvorum_resp::number::{parse_integer, put_integer};
use kvorum_resp::{Args, Replies};

use crate::command::encode::{Encoder, number};
use crate::command::refusal::{
    DECREMENT_OVERFLOW, NAN_OR_INFINITY, NOT_A_FLOAT, NOT_AN_INTEGER, OVERFLOW, Refusal,
};
use crate::command::spec::{Categories, Flags, Group, ONE_KEY, Resolve, Spec};
use crate::command::strings::{READ_WRITE, text_or_reply};
use crate::decimal::Decimal;
use crate::keyspace::{Keyspace, Lifetime};
use crate::value::Fresh;

const INCRBY: u16 = 10;
const INCRBYFLOAT: u16 = 11;

/// The commands.
pub(super) const SPECS: &[Spec] = &[
    counting(alias("incr", 2, resolve_incr)).docs(
        Group::String,
        "1.0.0",
        "Adds one to the integer that a key holds.",
    ),
    counting(alias("decr", 2, resolve_decr)).docs(
        Group::String,
        "1.0.0",
        "Takes one from the integer that a key holds.",
    ),
    counting(Spec::write(
        INCRBY,
        "incrby",
        3,
        resolve_incrby,
        apply_incrby,
    ))
    .docs(
        Group::String,
        "1.0.0",
        "Adds to the integer that a key holds.",
    ),
    counting(alias("decrby", 3, resolve_decrby)).docs(
        Group::String,
        "1.0.0",
        "Takes from the integer that a key holds.",
    ),
    counting(Spec::write(
        INCRBYFLOAT,
        "incrbyfloat",
        3,
        resolve_incrbyfloat,
        apply_incrbyfloat,
    ))
    .docs(
        Group::String,
        "2.6.0",
        "Adds to the decimal number that a key holds.",
    ),
];

const fn counting(spec: Spec) -> Spec {
    spec.flags(Flags::DENYOOM.with(Flags::FAST))
        .categories(Categories::STRING)
        .keys(ONE_KEY, READ_WRITE)
}

/// Another way to say INCRBY; it is encoded as one.
const fn alias(name: &'static str, arity: i32, resolve: Resolve) -> Spec {
    Spec::write(0, name, arity, resolve, apply_incrby)
}

fn resolve_incr(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    encode_incrby(args.get(1), 1, out)
}

fn resolve_decr(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    encode_incrby(args.get(1), -1, out)
}

fn resolve_incrby(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let increment = parse_integer(args.get(2)).ok_or(NOT_AN_INTEGER)?;
    encode_incrby(args.get(1), increment, out)
}

fn resolve_decrby(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let decrement = parse_integer(args.get(2)).ok_or(NOT_AN_INTEGER)?;
    let increment = decrement.checked_neg().ok_or(DECREMENT_OVERFLOW)?;
    encode_incrby(args.get(1), increment, out)
}

fn encode_incrby(key: &[u8], increment: i64, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    out.begin(INCRBY, 2)
        .argument(key)
        .argument(&increment.to_le_bytes());
    Ok(())
}

fn apply_incrby(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let at = keyspace.locate(args.get(0));
    let increment = number(args.get(1)) as i64;
    let Some(old) = text_or_reply(keyspace.settled(at), replies) else {
        return;
    };
    let Some(old) = old.map_or(Some(0), |text| parse_integer(text.as_bytes())) else {
        return NOT_AN_INTEGER.reply(replies);
    };
    let Some(new) = old.checked_add(increment) else {
        return OVERFLOW.reply(replies);
    };
    let mut digits = Vec::with_capacity(20);
    put_integer(&mut digits, new);
    keyspace.put(at, Fresh::Text(&digits), Lifetime::AsBefore);
    replies.integer(new);
}

fn resolve_incrbyfloat(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    // An infinite one is refused at apply: Redis looks at the old value before.
    Decimal::parse(args.get(2)).ok_or(NOT_A_FLOAT)?;
    out.begin(INCRBYFLOAT, 2);
    out.arguments(args, 1);
    Ok(())
}

fn apply_incrbyfloat(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let at = keyspace.locate(args.get(0));
    let Some(old) = text_or_reply(keyspace.settled(at), replies) else {
        return;
    };
    let old = old.map_or(Some(Decimal::ZERO), |text| Decimal::parse(text.as_bytes()));
    let (Some(old), Some(increment)) = (old, Decimal::parse(args.get(1))) else {
        return NOT_A_FLOAT.reply(replies);
    };
    let Some(sum) = old.plus(&increment) else {
        return NAN_OR_INFINITY.reply(replies);
    };
    let sum = sum.to_text();
    keyspace.put(at, Fresh::Text(&sum), Lifetime::AsBefore);
    replies.bulk(&sum);
}
