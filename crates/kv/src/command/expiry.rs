//! When keys end.

use kvorum_base::UnixMillis;
use kvorum_base::cursor::Reader;
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Replies};

use crate::command::encode::{Encoder, Ends, RELATIVE_MS_MAX};
use crate::command::refusal::{NOT_AN_INTEGER, Refusal, invalid_expire, printed};
use crate::command::spec::{Categories, Flags, Group, ONE_KEY, Resolve, Spec};
use crate::keyspace::Keyspace;

const EXPIRE: u16 = 64;
const PERSIST: u16 = 65;
const TTL: u16 = 66;
const PTTL: u16 = 67;
const EXPIRETIME: u16 = 68;
const PEXPIRETIME: u16 = 69;

/// The commands.
pub(super) const SPECS: &[Spec] = &[
    expire(EXPIRE, "expire", resolve_expire).docs(
        Group::Generic,
        "1.0.0",
        "Lets a key end so many seconds from now.",
    ),
    expire(0, "pexpire", resolve_pexpire).docs(
        Group::Generic,
        "2.6.0",
        "Lets a key end so many milliseconds from now.",
    ),
    expire(0, "expireat", resolve_expireat).docs(
        Group::Generic,
        "1.2.0",
        "Lets a key end at a Unix time in seconds.",
    ),
    expire(0, "pexpireat", resolve_pexpireat).docs(
        Group::Generic,
        "2.6.0",
        "Lets a key end at a Unix time in milliseconds.",
    ),
    keyspace(Spec::write(
        PERSIST,
        "persist",
        2,
        resolve_persist,
        apply_persist,
    ))
    .keys(ONE_KEY, &["RW", "update"])
    .docs(Group::Generic, "2.2.0", "Lets a key no longer end."),
    keyspace(Spec::read(TTL, "ttl", 2, ttl))
        .keys(ONE_KEY, &["RO", "access"])
        .tips(&["nondeterministic_output"])
        .docs(
            Group::Generic,
            "1.0.0",
            "Tells in how many seconds a key ends.",
        ),
    keyspace(Spec::read(PTTL, "pttl", 2, pttl))
        .keys(ONE_KEY, &["RO", "access"])
        .tips(&["nondeterministic_output"])
        .docs(
            Group::Generic,
            "2.6.0",
            "Tells in how many milliseconds a key ends.",
        ),
    keyspace(Spec::read(EXPIRETIME, "expiretime", 2, expiretime))
        .keys(ONE_KEY, &["RO", "access"])
        .docs(
            Group::Generic,
            "7.0.0",
            "Tells the Unix time in seconds at which a key ends.",
        ),
    keyspace(Spec::read(PEXPIRETIME, "pexpiretime", 2, pexpiretime))
        .keys(ONE_KEY, &["RO", "access"])
        .docs(
            Group::Generic,
            "7.0.0",
            "Tells the Unix time in milliseconds at which a key ends.",
        ),
];

const fn keyspace(spec: Spec) -> Spec {
    spec.categories(Categories::KEYSPACE).flags(Flags::FAST)
}

/// All four are encoded as EXPIRE.
const fn expire(operation: u16, name: &'static str, resolve: Resolve) -> Spec {
    keyspace(Spec::write(operation, name, -3, resolve, apply_expire))
        .keys(ONE_KEY, &["RW", "update"])
}

/// How a time is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
    UnixSeconds,
    UnixMilliseconds,
}

impl Unit {
    /// The one that an option of SET or GETEX names.
    pub(super) fn of(option: &[u8]) -> Option<Self> {
        [
            (&b"ex"[..], Unit::Seconds),
            (b"px", Unit::Milliseconds),
            (b"exat", Unit::UnixSeconds),
            (b"pxat", Unit::UnixMilliseconds),
        ]
        .into_iter()
        .find(|(name, _)| option.eq_ignore_ascii_case(name))
        .map(|(_, unit)| unit)
    }

    /// A time that must be positive, as SET's and GETEX's.
    pub(super) fn ends_of(self, value: &[u8], command: &str) -> Result<Ends, Refusal> {
        let value = parse_integer(value).ok_or(NOT_AN_INTEGER)?;
        if value <= 0 {
            return Err(invalid_expire(command));
        }
        self.ends(value, command)
    }

    /// Any time that 64 bits can hold in milliseconds, with the clock added.
    fn ends(self, value: i64, command: &str) -> Result<Ends, Refusal> {
        let ms = match self {
            Unit::Milliseconds | Unit::UnixMilliseconds => Some(value),
            Unit::Seconds | Unit::UnixSeconds => value.checked_mul(1000),
        };
        match (self, ms) {
            (Unit::UnixSeconds | Unit::UnixMilliseconds, Some(ms)) => Ok(Ends::At(ms)),
            (_, Some(ms)) if ms <= RELATIVE_MS_MAX => Ok(Ends::After(ms)),
            _ => Err(invalid_expire(command)),
        }
    }
}

/// Conditions on the deadline that a key has.
mod conditions {
    /// It has none.
    pub(super) const NX: u8 = 1;
    /// It has one.
    pub(super) const XX: u8 = 2;
    /// The new one is later; none is later than any.
    pub(super) const GT: u8 = 4;
    /// The new one is earlier.
    pub(super) const LT: u8 = 8;
}
use conditions::{GT, LT, NX, XX};

fn resolve_expire(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    encode_expire(Unit::Seconds, "expire", args, out)
}

fn resolve_pexpire(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    encode_expire(Unit::Milliseconds, "pexpire", args, out)
}

fn resolve_expireat(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    encode_expire(Unit::UnixSeconds, "expireat", args, out)
}

fn resolve_pexpireat(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    encode_expire(Unit::UnixMilliseconds, "pexpireat", args, out)
}

/// Key, and conditions with the end.
fn encode_expire(
    unit: Unit,
    name: &str,
    args: Args<'_>,
    out: &mut Encoder<'_>,
) -> Result<(), Refusal> {
    let conditions = parse_conditions(args)?;
    let value = parse_integer(args.get(2)).ok_or(NOT_AN_INTEGER)?;
    let mut change = vec![conditions];
    unit.ends(value, name)?.put(&mut change);
    out.begin(EXPIRE, 2).argument(args.get(1)).argument(&change);
    Ok(())
}

fn parse_conditions(args: Args<'_>) -> Result<u8, Refusal> {
    let mut conditions = 0;
    for word in args.iter().skip(3) {
        let known = [(&b"nx"[..], NX), (b"xx", XX), (b"gt", GT), (b"lt", LT)];
        let Some((_, condition)) = known
            .into_iter()
            .find(|(name, _)| word.eq_ignore_ascii_case(name))
        else {
            return Err(Refusal::new(
                [&b"ERR Unsupported option "[..], printed(word)].concat(),
            ));
        };
        conditions |= condition;
    }
    if conditions & NX != 0 && conditions != NX {
        return Err(Refusal::new(
            "ERR NX and XX, GT or LT options at the same time are not compatible",
        ));
    }
    if conditions & (GT | LT) == GT | LT {
        return Err(Refusal::new(
            "ERR GT and LT options at the same time are not compatible",
        ));
    }
    Ok(conditions)
}

fn apply_expire(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let at = keyspace.locate(args.get(0));
    let mut change = Reader::new(args.get(1));
    let conditions = change.u8("conditions").unwrap_or(0);
    let clock = keyspace.clock();
    let Some(deadline) = Ends::logged(&mut change).deadline(clock) else {
        panic!("a logged EXPIRE has no time");
    };
    let Some(found) = keyspace.settled(at) else {
        return replies.integer(0);
    };
    let old = found.deadline;
    let is_met = (conditions & NX == 0 || old.is_none())
        && (conditions & XX == 0 || old.is_some())
        && (conditions & GT == 0 || old.is_some_and(|old| deadline > old))
        && (conditions & LT == 0 || old.is_none_or(|old| deadline < old));
    if is_met && deadline <= clock {
        keyspace.remove(at);
    } else if is_met {
        keyspace.set_deadline(at, Some(deadline));
    }
    replies.integer(i64::from(is_met));
}

fn resolve_persist(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    out.begin(PERSIST, 1).argument(args.get(1));
    Ok(())
}

fn apply_persist(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let at = keyspace.locate(args.get(0));
    let ends = keyspace
        .settled(at)
        .is_some_and(|found| found.deadline.is_some());
    if ends {
        keyspace.set_deadline(at, None);
    }
    replies.integer(i64::from(ends));
}

const ABSENT: i64 = -2;
const ENDLESS: i64 = -1;

/// Tells something of a key's deadline, or which of the two it lacks.
fn tell(
    keyspace: &Keyspace,
    args: Args<'_>,
    replies: &mut Replies<'_>,
    what: impl FnOnce(UnixMillis) -> u64,
) {
    replies.integer(match keyspace.get(args.get(1)) {
        None => ABSENT,
        Some(found) => found
            .deadline
            .map_or(ENDLESS, |deadline| what(deadline) as i64),
    });
}

fn ttl(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let clock = keyspace.reading_clock();
    tell(keyspace, args, replies, |deadline| {
        ((deadline - clock) + 500) / 1000
    });
}

fn pttl(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let clock = keyspace.reading_clock();
    tell(keyspace, args, replies, |deadline| deadline - clock);
}

fn expiretime(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    tell(keyspace, args, replies, |deadline| {
        (deadline.get() + 500) / 1000
    });
}

fn pexpiretime(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    tell(keyspace, args, replies, UnixMillis::get);
}
