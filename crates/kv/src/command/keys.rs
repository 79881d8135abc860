//! Keys, whatever they hold.

use kvorum_resp::{Args, Replies};

use crate::command::encode::Encoder;
use crate::command::refusal::{Refusal, SYNTAX};
use crate::command::spec::{ALL_KEYS, Categories, Flags, Group, ONE_KEY, Spec};
use crate::keyspace::Keyspace;

const DEL: u16 = 96;
const EXISTS: u16 = 97;
const TYPE: u16 = 98;
const TOUCH: u16 = 99;
const DBSIZE: u16 = 100;
const FLUSHALL: u16 = 101;

const SUM: &[&str] = &["request_policy:multi_shard", "response_policy:agg_sum"];
const EVERYWHERE: &[&str] = &["request_policy:all_shards", "response_policy:all_succeeded"];

/// The commands.
pub(super) const SPECS: &[Spec] = &[
    keyspace(Spec::write(DEL, "del", -2, resolve_del, apply_del))
        .keys(ALL_KEYS, &["RM", "delete"])
        .tips(SUM)
        .docs(Group::Generic, "1.0.0", "Removes keys.")
        .complexity("O(N) in the number of keys"),
    keyspace(Spec::write(0, "unlink", -2, resolve_del, apply_del))
        .flags(Flags::FAST)
        .keys(ALL_KEYS, &["RM", "delete"])
        .tips(SUM)
        .docs(Group::Generic, "4.0.0", "Removes keys, as DEL does.")
        .complexity("O(N) in the number of keys"),
    keyspace(Spec::read(EXISTS, "exists", -2, exists))
        .flags(Flags::FAST)
        .keys(ALL_KEYS, &["RO"])
        .tips(SUM)
        .docs(
            Group::Generic,
            "1.0.0",
            "Counts how many of the keys are there.",
        )
        .complexity("O(N) in the number of keys"),
    keyspace(Spec::read(TOUCH, "touch", -2, exists))
        .flags(Flags::FAST)
        .keys(ALL_KEYS, &["RO"])
        .tips(SUM)
        .docs(
            Group::Generic,
            "3.2.1",
            "Counts how many of the keys are there.",
        )
        .complexity("O(N) in the number of keys"),
    keyspace(Spec::read(TYPE, "type", 2, type_of))
        .flags(Flags::FAST)
        .keys(ONE_KEY, &["RO"])
        .docs(
            Group::Generic,
            "1.0.0",
            "Tells the type of what a key holds.",
        ),
    keyspace(Spec::read(DBSIZE, "dbsize", 1, dbsize))
        .flags(Flags::FAST)
        .tips(&["request_policy:all_shards", "response_policy:agg_sum"])
        .docs(Group::Server, "1.0.0", "Counts the keys."),
    flush(Spec::write(
        FLUSHALL,
        "flushall",
        -1,
        resolve_flushall,
        apply_flushall,
    ))
    .docs(Group::Server, "1.0.0", "Removes all keys."),
    flush(Spec::write(
        0,
        "flushdb",
        -1,
        resolve_flushall,
        apply_flushall,
    ))
    .docs(
        Group::Server,
        "1.0.0",
        "Removes all keys: there is one database.",
    ),
];

const fn keyspace(spec: Spec) -> Spec {
    spec.categories(Categories::KEYSPACE)
}

const fn flush(spec: Spec) -> Spec {
    keyspace(spec)
        .categories(Categories::DANGEROUS)
        .tips(EVERYWHERE)
        .complexity("O(N) in the number of slots; memory is freed later")
}

fn resolve_del(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    out.begin(DEL, args.len() - 1);
    out.arguments(args, 1);
    Ok(())
}

fn apply_del(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let mut removed = 0;
    for key in args.iter() {
        let at = keyspace.locate(key);
        if keyspace.settled(at).is_some() {
            keyspace.remove(at);
            removed += 1;
        }
    }
    replies.integer(removed);
}

fn exists(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let there = args
        .iter()
        .skip(1)
        .filter(|key| keyspace.get(key).is_some())
        .count();
    replies.integer(there as i64);
}

fn type_of(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    replies.simple(match keyspace.get(args.get(1)) {
        None => "none",
        Some(found) => found.value.type_name(),
    });
}

fn dbsize(keyspace: &Keyspace, _: Args<'_>, replies: &mut Replies<'_>) {
    replies.integer(keyspace.len() as i64);
}

fn resolve_flushall(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let known =
        |word: &[u8]| word.eq_ignore_ascii_case(b"sync") || word.eq_ignore_ascii_case(b"async");
    if args.len() > 2 || args.iter().skip(1).any(|word| !known(word)) {
        return Err(SYNTAX);
    }
    out.begin(FLUSHALL, 0);
    Ok(())
}

fn apply_flushall(keyspace: &mut Keyspace, _: Args<'_>, replies: &mut Replies<'_>) {
    keyspace.clear();
    replies.ok();
}
