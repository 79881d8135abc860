//! KVORUM.SLOTS: commands on all keys of some slots, for those who go over the whole keyspace of many
//! shards piece by piece.
//!
//! DBSIZE, FLUSHALL and SCAN of one shard are not enough for that. While slots move, a shard that is asked
//! first may lose a slot to one that was asked before, or give one that is counted twice. So whoever goes
//! over the keyspace names the slots that are still to be covered, and each reply says which of them it
//! covers:
//!
//! ```text
//! KVORUM.SLOTS COUNT first last [first last ...]        -> [[[first, last], ...], keys]
//! KVORUM.SLOTS FLUSH first last [first last ...]        -> [[[first, last], ...], OK]
//! KVORUM.SLOTS SCAN  first last cursor [MATCH pattern] [COUNT count] [TYPE type]
//!                                                       -> [[[first, last]], [cursor, [key, ...]]]
//! ```
//!
//! A node narrows the request to what the shard of the first named slot owns, before anything else
//! ([`narrow_sweep`]); here they are all covered. A cursor is that of SCAN; 0 says that the covered slots
//! are at their end.

use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{Slot, SlotSet};
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, ArgsBuf, Replies};

use crate::command::encode::Encoder;
use crate::command::refusal::Refusal;
use crate::command::scan;
use crate::command::spec::{Categories, Flags, Group, Spec};
use crate::keyspace::Keyspace;
use crate::position::Position;

const COUNT: u16 = 168;
const FLUSH: u16 = 169;
const SCAN: u16 = 170;

/// Where the runs begin in a request.
const RUNS_AT: usize = 2;
/// Where SCAN's own arguments begin, the cursor first.
const SCAN_AT: usize = RUNS_AT + 2;

const WRONG_RUNS: &str = "ERR runs of slots are pairs of numbers up to 16383 in ascending order";

/// The commands.
pub(super) const SPECS: &[Spec] = &[Spec::container("kvorum.slots", SWEEPS).docs(
    Group::Kvorum,
    "kvorum",
    "Commands on all keys of some slots.",
)];

const SWEEPS: &[Spec] = &[
    sweep(Spec::read(COUNT, "kvorum.slots|count", -4, count))
        .docs(Group::Kvorum, "kvorum", "Counts the keys of slots.")
        .complexity("O(N) in the number of slots"),
    sweep(Spec::write(
        FLUSH,
        "kvorum.slots|flush",
        -4,
        resolve_flush,
        apply_flush,
    ))
    .categories(Categories::DANGEROUS)
    .docs(Group::Kvorum, "kvorum", "Removes all keys of slots.")
    .complexity("O(N) in the number of keys; in that of slots where nothing else is held"),
    sweep(Spec::read(SCAN, "kvorum.slots|scan", -5, scan_slots))
        .docs(
            Group::Kvorum,
            "kvorum",
            "Walks over the keys of slots, some at a time.",
        )
        .complexity("O(COUNT) for a call"),
];

const fn sweep(spec: Spec) -> Spec {
    spec.flags(Flags::ADMIN).categories(Categories::KEYSPACE)
}

/// The slots that a request names, if it is one of these commands.
///
/// # Errors
/// The text of the reply, if they are not runs of slots.
#[must_use]
pub fn swept_slots(spec: &Spec, args: Args<'_>) -> Option<Result<SlotSet, &'static str>> {
    let runs_max = match spec.operation {
        COUNT | FLUSH => usize::MAX,
        SCAN => 1,
        _ => return None,
    };
    Some(parse_runs(args.skip(RUNS_AT), runs_max).ok_or(WRONG_RUNS))
}

/// The same request for those of its slots that are owned; `None` if none is.
#[must_use]
pub fn narrow_sweep(spec: &Spec, args: Args<'_>, owned: &SlotSet) -> Option<ArgsBuf> {
    let named = swept_slots(spec, args)?.ok()?;
    let mut covered = SlotSet::none();
    for slot in named.iter().filter(|slot| owned.contains(*slot)) {
        covered.insert(slot);
    }
    let first = covered.next_from(0)?;
    let mut narrowed: ArgsBuf = args.iter().take(RUNS_AT).collect();
    let mut push = |slot: u16| narrowed.push(slot.to_string().as_bytes());
    if spec.operation == SCAN {
        // A walk goes from slot to slot: it ends at the first gap.
        push(first.get());
        push(covered.end_of_run(first).get());
        for argument in args.skip(SCAN_AT).iter() {
            narrowed.push(argument);
        }
    } else {
        for (first, last) in covered.runs() {
            push(first);
            push(last);
        }
    }
    Some(narrowed)
}

/// Reads pairs of slots, at most so many.
fn parse_runs(args: Args<'_>, runs_max: usize) -> Option<SlotSet> {
    let mut set = SlotSet::none();
    let mut next = 0;
    let pairs = (0..args.len()).step_by(2).take(runs_max);
    for at in pairs {
        if at + 1 == args.len() {
            return None;
        }
        let (first, last) = (slot_number(args.get(at))?, slot_number(args.get(at + 1))?);
        if first < next || last < first {
            return None;
        }
        next = last + 1;
        for slot in first..=last {
            set.insert(Slot(slot));
        }
    }
    Some(set)
}

pub(super) fn slot_number(text: &[u8]) -> Option<u16> {
    let number = u16::try_from(parse_integer(text)?).ok()?;
    (number < SLOT_COUNT).then_some(number)
}

/// Opens a reply: the runs that are covered. The result follows.
fn covers(slots: &SlotSet, replies: &mut Replies<'_>) {
    replies.array(2);
    replies.array(slots.runs().count());
    for (first, last) in slots.runs() {
        replies.array(2);
        replies.integer(i64::from(first));
        replies.integer(i64::from(last));
    }
}

fn count(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let Some(slots) = parse_runs(args.skip(RUNS_AT), usize::MAX) else {
        return replies.error(WRONG_RUNS);
    };
    let keys = keyspace.len_in(&slots);
    covers(&slots, replies);
    replies.integer(i64::try_from(keys).unwrap_or(i64::MAX));
}

fn resolve_flush(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let slots =
        parse_runs(args.skip(RUNS_AT), usize::MAX).ok_or_else(|| Refusal::new(WRONG_RUNS))?;
    let mut bytes = Vec::new();
    for (first, last) in slots.runs() {
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&last.to_le_bytes());
    }
    out.begin(FLUSH, 1).argument(&bytes);
    Ok(())
}

/// The slots of a logged FLUSH: pairs of slots as two bytes each, first and last.
pub(super) fn flushed_slots(args: Args<'_>) -> SlotSet {
    let number = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    let runs = args.get(0).chunks_exact(4);
    SlotSet::of_runs(runs.map(|run| (number(&run[..2]), number(&run[2..]))))
}

fn apply_flush(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let slots = flushed_slots(args);
    keyspace.clear_in(&slots);
    covers(&slots, replies);
    replies.ok();
}

fn scan_slots(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let runs = parse_runs(args.skip(RUNS_AT), 1);
    let Some((slots, last)) = runs.and_then(|slots| {
        let (_, last) = slots.runs().last()?;
        Some((slots, last))
    }) else {
        return replies.error(WRONG_RUNS);
    };
    match scan::Request::parse(args.skip(SCAN_AT)) {
        Err(refusal) => refusal.reply(replies),
        Ok(mut request) => {
            covers(&slots, replies);
            request.last_slot = Slot(last);
            scan::walk(keyspace, &request, replies);
        }
    }
}

/// The cursor at which a walk enters a slot.
#[must_use]
pub fn cursor_of(slot: Slot) -> u64 {
    Position::first_of(slot).0
}

/// The slot that a cursor stands in.
#[must_use]
pub fn slot_of_cursor(cursor: u64) -> Slot {
    Position(cursor).slot()
}
