//! Commands: from a request to its reply.
//!
//! 1. [`find`] takes a request to its [`Spec`], with Redis's own words where the name, the number of
//!    arguments or a key's length is wrong.
//! 2. A read is answered from the keyspace by [`read`].
//! 3. A write is turned by [`resolve`] into an encoded command, which says facts and no wishes, and
//!    goes through the log; every replica decodes it ([`Command::decode`]) and applies it
//!    ([`Command::apply`]). Apply cannot fail: what is refused there is a reply, the same everywhere.
//! 4. What is about the connection, the node or the cluster is the client layer's:
//!    [`Run::Node`](spec::Run::Node).

mod connection;
mod counting;
mod encode;
mod expiry;
mod introspect;
mod keys;
mod refusal;
pub(crate) mod scan;
mod session;
pub mod spec;
mod strings;
mod sweep;
pub mod table;
mod transaction;

use kvorum_base::slot::slot_of;
use kvorum_base::{Slot, SlotSet};
use kvorum_resp::{Args, Replies};

use crate::command::encode::Decoded;
use crate::command::spec::{Keys, Run, Spec};
use crate::keyspace::Keyspace;
use crate::limits::KEY_BYTES_MAX;

pub use crate::command::encode::{Encoder, fuzz};
pub use crate::command::refusal::{Refusal, printed};
pub use crate::command::sweep::{cursor_of, narrow_sweep, slot_of_cursor, swept_slots};
pub use crate::command::transaction::needs_memory;

/// The command of a request: the subcommand, where it has one. Name, number of arguments and lengths
/// of keys are right.
///
/// # Errors
/// The reply to give instead.
///
/// # Panics
/// If the request is empty, which the protocol's parser does not deliver.
pub fn find(args: Args<'_>) -> Result<&'static Spec, Refusal> {
    let Some(mut spec) = table::lookup(args.get(0)) else {
        return Err(refusal::unknown_command(args));
    };
    if !spec.subcommands.is_empty() && args.len() > 1 {
        let Some(subcommand) = table::lookup_subcommand(spec, args.get(1)) else {
            return Err(refusal::unknown_subcommand(spec, args.get(1)));
        };
        spec = subcommand;
    }
    if !spec.takes(args.len()) || matches!(spec.run, Run::Container) {
        return Err(refusal::wrong_arity(spec.name));
    }
    if keys_of(spec, args).any(|key| key.len() > KEY_BYTES_MAX) {
        return Err(refusal::key_too_long());
    }
    Ok(spec)
}

/// The keys of a request, in order.
#[must_use]
pub fn keys_of<'a>(spec: &Spec, args: Args<'a>) -> KeysOf<'a> {
    match spec.keys {
        Keys::Wrapped { at } if args.len() > at => {
            let wrapped = args.skip(at);
            match table::lookup(wrapped.get(0)) {
                Some(inner) if !matches!(inner.keys, Keys::Wrapped { .. }) => {
                    KeysOf::new(inner.keys, wrapped, 0)
                }
                _ => KeysOf::new(Keys::None, wrapped, 0),
            }
        }
        keys => KeysOf::new(keys, args, 0),
    }
}

/// The slot of a request's keys, if it has any and they share one; `Err` if they do not.
///
/// # Errors
/// If keys lie in different slots.
pub fn slot_of_keys<'a>(
    keys: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Option<Slot>, CrossSlot> {
    let mut keys = keys.into_iter().map(slot_of);
    let Some(first) = keys.next() else {
        return Ok(None);
    };
    if keys.all(|slot| slot == first) {
        Ok(Some(first))
    } else {
        Err(CrossSlot)
    }
}

/// The keys of a request lie in different slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrossSlot;

impl CrossSlot {
    /// How such a request is refused, in Redis' words.
    pub const TEXT: &'static str = "CROSSSLOT Keys in request don't hash to the same slot";
}

/// Appends the encoded form of a write, or of a read that is to run at its place in the log.
///
/// # Errors
/// The reply to give instead; then nothing was appended. Also for commands that never go through
/// the log.
pub fn resolve(spec: &Spec, args: Args<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let before = out.len();
    let result = resolve_into(spec, args, &mut Encoder::new(out));
    if result.is_err() {
        out.truncate(before);
    }
    result
}

fn resolve_into(spec: &Spec, args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    match spec.run {
        Run::Write { resolve, .. } => resolve(args, out),
        Run::Read(_) => {
            out.begin(spec.operation, args.len()).argument(b"");
            out.arguments(args, 1);
            Ok(())
        }
        Run::Pure(_) | Run::Node(_) | Run::Container => Err(Refusal::new(format!(
            "ERR '{}' does not go through the log",
            spec.name
        ))),
    }
}

/// Answers a read. Anything else is answered with an error.
pub fn read(spec: &Spec, args: Args<'_>, keyspace: &Keyspace, replies: &mut Replies<'_>) {
    match spec.run {
        Run::Read(read) => read(keyspace, args, replies),
        Run::Pure(pure) => pure(args, replies),
        Run::Write { .. } | Run::Node(_) | Run::Container => {
            replies.error(&format!("ERR '{}' is no read", spec.name));
        }
    }
}

/// One encoded command, ready to be checked and applied.
#[derive(Debug)]
pub struct Command<'a> {
    spec: &'static Spec,
    decoded: Decoded<'a>,
}

impl<'a> Command<'a> {
    /// Decodes a command.
    ///
    /// # Panics
    /// If the bytes are not one, or of an operation that this version does not know. Entries carry a
    /// checksum and a group's level keeps new operations out until every replica knows them, so this
    /// is a broken invariant; and to skip the command would be to part from the other replicas
    /// silently.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Self {
        let decoded = match Decoded::new(bytes) {
            Ok(decoded) => decoded,
            Err(error) => panic!("a logged command of {} bytes: {error}", bytes.len()),
        };
        let Some(spec) = table::by_operation(decoded.operation) else {
            panic!(
                "a logged command of unknown operation {}",
                decoded.operation
            );
        };
        Self { spec, decoded }
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &'static Spec {
        self.spec
    }

    /// Its keys, in order: of a session's command, those of the command in it.
    #[must_use]
    pub fn keys(&self) -> KeysOf<'_> {
        let args = self.decoded.args();
        match self.spec.keys {
            Keys::Wrapped { .. } => {
                let inner = session::wrapped(args).1;
                KeysOf::new(inner.keys, args.skip(1), name_of(inner))
            }
            keys => KeysOf::new(keys, args, name_of(self.spec)),
        }
    }

    /// The slots that it is about as a whole, if it has them instead of keys.
    #[must_use]
    pub fn swept_slots(&self) -> Option<SlotSet> {
        let args = self.decoded.args();
        if self.spec.is_write() {
            let is_flush = self.spec.name == "kvorum.slots|flush";
            return is_flush.then(|| sweep::flushed_slots(args));
        }
        sweep::swept_slots(self.spec, args)?.ok()
    }

    /// Applies it and writes its reply.
    pub fn apply(&self, keyspace: &mut Keyspace, replies: &mut Replies<'_>) {
        run(self.spec, keyspace, self.decoded.args(), replies);
    }
}

fn run(spec: &Spec, keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    match spec.run {
        Run::Write { apply, .. } => apply(keyspace, args, replies),
        Run::Read(read) => read(keyspace, args, replies),
        Run::Pure(_) | Run::Node(_) | Run::Container => {
            panic!("'{}' is in the log", spec.name);
        }
    }
}

/// By how much positions of encoded arguments differ from those of a request: a write has no name.
fn name_of(spec: &Spec) -> i32 {
    i32::from(spec.is_write())
}

/// Decodes and applies one encoded command.
///
/// # Panics
/// As [`Command::decode`].
pub fn apply(keyspace: &mut Keyspace, command: &[u8], replies: &mut Replies<'_>) {
    Command::decode(command).apply(keyspace, replies);
}

/// The keys of one encoded command. Whoever also applies it decodes it once ([`Command`]).
///
/// # Panics
/// As [`Command::decode`].
#[must_use]
pub fn keys_of_encoded(command: &[u8]) -> Vec<Vec<u8>> {
    Command::decode(command)
        .keys()
        .map(<[u8]>::to_vec)
        .collect()
}

/// The keys of a request of KVORUM.EXEC.
fn keys_of_transaction(args: Args<'_>) -> KeysOf<'_> {
    KeysOf::new(Keys::Transaction, args, 0)
}

/// The positions of the keys among so many arguments: the first, the one behind the last, and the distance.
fn range_of(keys: Keys, len: usize, name: i32) -> (usize, usize, usize) {
    let Keys::Range { first, last, step } = keys else {
        return (0, 0, 1);
    };
    let len = len as i32;
    let last = if last < 0 { len + last } else { last - name };
    let end = (last + 1).clamp(0, len) as usize;
    ((first - name) as usize, end, step as usize)
}

/// The keys among arguments.
#[derive(Clone, Debug)]
pub struct KeysOf<'a> {
    args: Args<'a>,
    next: usize,
    end: usize,
    step: usize,
    /// Those of a transaction, the last one first.
    listed: Vec<&'a [u8]>,
}

impl<'a> KeysOf<'a> {
    fn new(keys: Keys, args: Args<'a>, name: i32) -> Self {
        let (next, end, step) = range_of(keys, args.len(), name);
        let mut listed = match keys {
            Keys::Transaction if name == 0 => transaction::keys_of_request(args),
            Keys::Transaction => transaction::keys_of_logged(args),
            _ => Vec::new(),
        };
        listed.reverse();
        Self {
            args,
            next,
            end,
            step,
            listed,
        }
    }
}

impl<'a> Iterator for KeysOf<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let at = self.next;
        if at >= self.end {
            return self.listed.pop();
        }
        self.next += self.step;
        Some(self.args.get(at))
    }
}
