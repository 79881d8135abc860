//! Transactions: several commands in one step, if nobody has changed what they rest on.
//!
//! MULTI, WATCH and EXEC are about a connection, so the client layer gathers them. What it then sends through
//! the log, once and whole, is one command:
//!
//! ```text
//! KVORUM.EXEC <keys> [<key> <version> ...] <commands> [<words> <word> ...] ...
//! ```
//!
//! The versions are what `KVORUM.VERSIONS` told of the watched keys. They are compared when the command is
//! applied, in its place among all writes of the slot: if one differs nothing is done, and the reply is
//! that of no list. Otherwise the commands are run one after the other, and the reply is the list of their
//! replies. A command that fails has its error there, and the others are run all the same, as in Redis. All
//! keys, of watches and commands, are in one slot: no other group need agree, and the slot moves as a
//! whole.
//!
//! A command of no words stands for one that is not about keys and was answered before (PING): its reply
//! follows, in the stored form.
//!
//! ```text
//! in the log: | watched keys, 8 | , for each | key | version, 8 | , then for each command one argument: the
//! command as it would stand in the log alone, or operation 0 with a reply that is known already, and keys
//! ```

use kvorum_base::Malformed;
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Replies, check_stored, replay_stored};

use crate::command::encode::{Decoded, Encoder, number};
use crate::command::refusal::{CROSSSLOT, Refusal};
use crate::command::spec::{ALL_KEYS, Categories, Flags, Group, Keys, NodeCommand, Run, Spec};
use crate::command::{
    KeysOf, find, keys_of_transaction, name_of, resolve, run, slot_of_keys, table,
};
use crate::keyspace::Keyspace;
use crate::limits::{KEPT_REPLY_BYTES_MAX, TRANSACTION_COMMANDS_MAX};

const EXEC: u16 = 163;

/// In place of an operation: the reply is known already.
const ANSWERED: u16 = 0;

const ABOUT_A_CONNECTION: Flags = Flags::NOSCRIPT.with(Flags::LOADING).with(Flags::STALE);

/// The commands.
pub(super) const SPECS: &[Spec] = &[
    transaction(Spec::node("multi", 1, NodeCommand::Multi))
        .flags(Flags::FAST.with(Flags::ALLOW_BUSY))
        .docs(Group::Transactions, "1.2.0", "Begins a transaction."),
    transaction(Spec::node("exec", 1, NodeCommand::Exec))
        .flags(Flags::SKIP_SLOWLOG)
        .docs(
            Group::Transactions,
            "1.2.0",
            "Runs the commands since MULTI in one step. Their keys are in one slot.",
        )
        .complexity("That of the commands"),
    transaction(Spec::node("discard", 1, NodeCommand::Discard))
        .flags(Flags::FAST.with(Flags::ALLOW_BUSY))
        .docs(
            Group::Transactions,
            "2.0.0",
            "Forgets the commands since MULTI.",
        )
        .complexity("O(N) in the number of commands"),
    transaction(Spec::node("watch", -2, NodeCommand::Watch))
        .flags(Flags::FAST.with(Flags::ALLOW_BUSY))
        .keys(ALL_KEYS, &["RO"])
        .docs(
            Group::Transactions,
            "2.2.0",
            "Has the next EXEC do nothing if one of the keys changes before.",
        )
        .complexity("O(N) in the number of keys"),
    transaction(Spec::node("unwatch", 1, NodeCommand::Unwatch))
        .flags(Flags::FAST.with(Flags::ALLOW_BUSY))
        .docs(Group::Transactions, "2.2.0", "Forgets the watched keys."),
    Spec::write(EXEC, "kvorum.exec", -3, resolve_exec, apply_exec)
        .flags(Flags::DENYOOM.with(Flags::MOVABLEKEYS))
        .categories(Categories::TRANSACTION)
        .keys(Keys::Transaction, &["RW", "access", "update"])
        .docs(
            Group::Kvorum,
            "kvorum",
            "A whole transaction: runs commands on keys of one slot in one step, if the watched keys have \
             the versions that KVORUM.VERSIONS told. Arguments: how many keys are watched, each with its \
             version; how many commands, each as the number of its words and the words.",
        )
        .complexity("That of the commands"),
];

const fn transaction(spec: Spec) -> Spec {
    spec.flags(ABOUT_A_CONNECTION)
        .categories(Categories::TRANSACTION)
}

/// What is in the place of a command.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// Its words.
    Command(Args<'a>),
    /// Its reply in the stored form.
    Answered(&'a [u8]),
}

/// A request of KVORUM.EXEC, taken apart.
struct Parts<'a> {
    /// Keys and versions in turn.
    watched: Args<'a>,
    commands: Vec<Part<'a>>,
}

impl<'a> Parts<'a> {
    /// `None` if the numbers do not fit the arguments.
    fn of(args: Args<'a>) -> Option<Self> {
        let mut at = 1;
        let mut take = |len: usize| {
            let part = args.part(at, len)?;
            at += len;
            Some(part)
        };
        let watched = count(take(1)?.get(0))?;
        let watched = take(watched.checked_mul(2)?)?;
        let len = count(take(1)?.get(0))?;
        let mut commands = Vec::new();
        for _ in 0..len {
            commands.push(match count(take(1)?.get(0))? {
                0 => Part::Answered(take(1)?.get(0)),
                words => Part::Command(take(words)?),
            });
        }
        (at == args.len()).then_some(Self { watched, commands })
    }

    fn watched(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let watched = self.watched;
        let pairs = (0..watched.len()).step_by(2);
        pairs.map(move |at| (watched.get(at), watched.get(at + 1)))
    }

    fn commands(&self) -> impl Iterator<Item = Args<'a>> {
        self.commands.iter().filter_map(|part| match part {
            Part::Command(words) => Some(*words),
            Part::Answered(_) => None,
        })
    }
}

fn count(text: &[u8]) -> Option<usize> {
    usize::try_from(parse_integer(text)?).ok()
}

/// The keys of a request, those that are watched first. None if it is malformed: then whoever resolves it
/// refuses it.
pub(super) fn keys_of_request(args: Args<'_>) -> Vec<&[u8]> {
    let Some(parts) = Parts::of(args) else {
        return Vec::new();
    };
    let mut keys: Vec<&[u8]> = parts.watched().map(|(key, _)| key).collect();
    for words in parts.commands() {
        if let Some(spec) = table::lookup(words.get(0)).filter(|spec| is_keyed(spec)) {
            keys.extend(KeysOf::new(spec.keys, words, 0));
        }
    }
    keys
}

/// The keys of a logged transaction, in the same order.
pub(super) fn keys_of_logged(args: Args<'_>) -> Vec<&[u8]> {
    let watched = number(args.get(0)) as usize;
    let mut keys: Vec<&[u8]> = (0..watched).map(|pair| args.get(1 + 2 * pair)).collect();
    for command in args.skip(1 + 2 * watched).iter() {
        match Logged::of(command) {
            Logged::Command(spec, decoded) => {
                keys.extend(decoded.keys(spec.keys, name_of(spec)));
            }
            // Behind the reply.
            Logged::Answered(decoded) => keys.extend(decoded.keys(ALL_KEYS, 0)),
        }
    }
    keys
}

/// Whether a command is about keys that its words name.
fn is_keyed(spec: &Spec) -> bool {
    spec.may_be_queued() && matches!(spec.run, Run::Read(_) | Run::Write { .. })
}

/// Whether a request needs memory, so that it is refused where there is none.
#[must_use]
pub fn needs_memory(spec: &Spec, args: Args<'_>) -> bool {
    let needs = |spec: &Spec| spec.flags.has(Flags::DENYOOM);
    if spec.keys != Keys::Transaction {
        return needs(spec);
    }
    Parts::of(args).is_some_and(|parts| {
        let mut specs = parts
            .commands()
            .filter_map(|words| table::lookup(words.get(0)));
        specs.any(needs)
    })
}

fn resolve_exec(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let parts = Parts::of(args).ok_or_else(|| {
        Refusal::new("ERR the numbers of keys, commands and words do not fit the arguments")
    })?;
    match slot_of_keys(keys_of_transaction(args)) {
        Err(_) => return Err(CROSSSLOT),
        Ok(None) => return Err(Refusal::new("ERR a transaction has no slot without a key")),
        Ok(Some(_)) => {}
    }
    if parts.commands.len() > TRANSACTION_COMMANDS_MAX {
        return Err(Refusal::new(format!(
            "ERR a transaction has at most {TRANSACTION_COMMANDS_MAX} commands"
        )));
    }
    let watched = parts.watched.len() / 2;
    out.begin(EXEC, 1 + 2 * watched + parts.commands.len());
    out.argument(&(watched as u64).to_le_bytes());
    for (key, version) in parts.watched() {
        let version = parse_integer(version).ok_or(super::refusal::NOT_AN_INTEGER)?;
        out.argument(key).argument(&version.to_le_bytes());
    }
    let mut command = Vec::new();
    for part in parts.commands {
        command.clear();
        encode_part(part, &mut command)?;
        out.argument(&command);
    }
    Ok(())
}

/// A command as it would stand in the log alone. One whose arguments are wrong does not fail the others: its
/// error is a fact, and is logged as one, with the keys, which say in which slot all of this is.
fn encode_part(part: Part<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let words = match part {
        Part::Command(words) => words,
        Part::Answered(reply) => {
            check_stored(reply).map_err(|Malformed { .. }| {
                Refusal::new("ERR what stands for a command is no reply in the stored form")
            })?;
            put_answer(reply, &[], out);
            return Ok(());
        }
    };
    let spec = find(words)?;
    if !is_keyed(spec) {
        return Err(Refusal::new(format!(
            "ERR '{}' cannot be in a transaction",
            spec.name
        )));
    }
    if let Err(refusal) = resolve(spec, words, out) {
        let mut reply = Vec::new();
        refusal.reply(&mut Replies::stored(&mut reply));
        let keys: Vec<&[u8]> = KeysOf::new(spec.keys, words, 0).collect();
        put_answer(&reply, &keys, out);
    }
    Ok(())
}

fn put_answer(reply: &[u8], keys: &[&[u8]], out: &mut Vec<u8>) {
    let mut encoder = Encoder::new(out);
    encoder.begin(ANSWERED, 1 + keys.len()).argument(reply);
    for key in keys {
        encoder.argument(key);
    }
}

/// A command in a logged transaction.
enum Logged<'a> {
    Command(&'static Spec, Decoded<'a>),
    Answered(Decoded<'a>),
}

impl<'a> Logged<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let decoded = match Decoded::new(bytes) {
            Ok(decoded) => decoded,
            Err(error) => panic!("a logged transaction's command: {error}"),
        };
        if decoded.operation == ANSWERED {
            return Self::Answered(decoded);
        }
        let Some(spec) = table::by_operation(decoded.operation) else {
            panic!(
                "a logged command of unknown operation {}",
                decoded.operation
            );
        };
        Self::Command(spec, decoded)
    }
}

fn apply_exec(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let watched = number(args.get(0)) as usize;
    let is_untouched = |pair: usize| {
        let (key, version) = (args.get(1 + 2 * pair), args.get(2 + 2 * pair));
        keyspace.version_of(key) == number(version)
    };
    if !(0..watched).all(is_untouched) {
        return replies.null_array();
    }
    let commands = args.skip(1 + 2 * watched);
    replies.array(commands.len());
    let mut kept_bytes = 0;
    for command in commands.iter() {
        match Logged::of(command) {
            Logged::Answered(decoded) => replay(decoded.args().get(0), replies),
            Logged::Command(spec, decoded) if replies.is_kept() => {
                kept_bytes += run_to_keep(spec, keyspace, decoded.args(), kept_bytes, replies);
            }
            Logged::Command(spec, decoded) => run(spec, keyspace, decoded.args(), replies),
        }
    }
}

/// Runs a command whose reply a session will keep, and gives the length of it. What the replies before it
/// leave no room for is done and not kept: reads of large values would fill the memory of every replica.
fn run_to_keep(
    spec: &'static Spec,
    keyspace: &mut Keyspace,
    args: Args<'_>,
    kept_bytes: usize,
    replies: &mut Replies<'_>,
) -> usize {
    let mut reply = Vec::new();
    run(spec, keyspace, args, &mut Replies::stored(&mut reply));
    if kept_bytes + reply.len() > KEPT_REPLY_BYTES_MAX {
        replies.error(
            "ERR it was done, and its reply is more than a session keeps of one transaction",
        );
        return 0;
    }
    replay(&reply, replies);
    reply.len()
}

fn replay(reply: &[u8], replies: &mut Replies<'_>) {
    if let Err(error) = replay_stored(reply, replies) {
        panic!("a stored reply in a transaction: {error}");
    }
}
