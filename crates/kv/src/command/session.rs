//! Sessions and versions: what Redis does not have.
//!
//! `KVORUM.SESSION [seconds]` opens a session and replies its token. `KVORUM.ONCE <token> <number>
//! <command...>` runs a command at most once and repeats its reply to whoever sends it again, over any
//! connection; a read in it is run each time. `KVORUM.VERSIONS key...` tells what writes are guarded
//! by.
//!
//! ```text
//! ONCE in the log: | session 8 | end 8 | number 8 | command hash 8 | operation 2 | , then the
//! arguments of the wrapped command
//! ```

use bytes::Bytes;
use kvorum_base::cursor::Reader;
use kvorum_base::{Malformed, SessionId, UnixMillis};
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Replies, replay_stored};

use crate::command::encode::{Encoder, number};
use crate::command::refusal::{CROSSSLOT, NOT_AN_INTEGER, Refusal};
use crate::command::spec::{ALL_KEYS, Categories, Flags, Group, Keys, Run, Spec};
use crate::command::{KeysOf, find, keys_of, resolve_into, run, slot_of_keys, table};
use crate::hash;
use crate::keyspace::Keyspace;
use crate::limits::{SESSION_LIFE_MS_DEFAULT, SESSION_LIFE_MS_MAX, SESSIONS_MAX};
use crate::rows::{NotRun, Once};
use crate::session::Token;

const SESSION: u16 = 160;
const ONCE: u16 = 161;
const VERSIONS: u16 = 162;

/// The position of the wrapped command in a request.
const WRAPPED_AT: usize = 3;

/// The commands.
pub(super) const SPECS: &[Spec] = &[
    Spec::write(
        SESSION,
        "kvorum.session",
        -1,
        resolve_session,
        apply_session,
    )
    .flags(Flags::FAST.with(Flags::DENYOOM))
    .docs(
        Group::Kvorum,
        "kvorum",
        "Opens a session for KVORUM.ONCE and replies its token.",
    ),
    Spec::write(ONCE, "kvorum.once", -4, resolve_once, apply_once)
        .flags(Flags::DENYOOM.with(Flags::MOVABLEKEYS))
        .keys(
            Keys::Wrapped { at: WRAPPED_AT },
            &["RW", "access", "update"],
        )
        .docs(
            Group::Kvorum,
            "kvorum",
            "Runs a command at most once in a session, and repeats its reply.",
        )
        .complexity("That of the command"),
    Spec::read(VERSIONS, "kvorum.versions", -2, versions)
        .flags(Flags::FAST)
        .categories(Categories::KEYSPACE)
        .keys(ALL_KEYS, &["RO"])
        .docs(
            Group::Kvorum,
            "kvorum",
            "Tells the versions of keys, present or absent.",
        )
        .complexity("O(N) in the number of keys"),
];

fn resolve_session(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let life_ms = match args.len() {
        1 => SESSION_LIFE_MS_DEFAULT,
        2 => parse_integer(args.get(1))
            .and_then(|seconds| u64::try_from(seconds).ok()?.checked_mul(1000))
            .filter(|ms| (1..=SESSION_LIFE_MS_MAX).contains(ms))
            .ok_or_else(|| {
                let most = SESSION_LIFE_MS_MAX / 1000;
                Refusal::new(format!("ERR a session lasts 1 to {most} seconds"))
            })?,
        _ => return Err(super::refusal::wrong_arity("kvorum.session")),
    };
    out.begin(SESSION, 1).argument(&life_ms.to_le_bytes());
    Ok(())
}

fn apply_session(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    match keyspace.open_session(number(args.get(0))) {
        Some(token) => replies.bulk(token.to_string().as_bytes()),
        None => replies.error(&format!(
            "SESSIONLIMIT {SESSIONS_MAX} sessions are open, no more until some end"
        )),
    }
}

fn resolve_once(args: Args<'_>, out: &mut Encoder<'_>) -> Result<(), Refusal> {
    let token = Token::parse(args.get(1)).ok_or_else(wrong_token)?;
    let sequence = parse_integer(args.get(2)).ok_or(NOT_AN_INTEGER)?;
    if sequence < 1 {
        return Err(Refusal::new("ERR sequence numbers begin at 1"));
    }
    let command = args.skip(WRAPPED_AT);
    let inner = find(command)?;
    let has_keys = keys_of(inner, command).next().is_some();
    if !has_keys || !matches!(inner.run, Run::Read(_) | Run::Write { .. }) {
        return Err(Refusal::new(format!(
            "ERR '{}' cannot run in a session: it has no key",
            inner.name
        )));
    }
    if matches!(inner.keys, Keys::Wrapped { .. }) {
        return Err(Refusal::new("ERR a session's command cannot wrap another"));
    }
    if slot_of_keys(keys_of(inner, command)).is_err() {
        return Err(CROSSSLOT);
    }
    let mut head = Vec::with_capacity(34);
    for number in [
        token.session.get(),
        token.end.get(),
        sequence as u64,
        hash_of(command),
    ] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    resolve_into(inner, command, &mut out.wrapped_in(ONCE, &head))
}

/// The hash that tells one command from another under the same number. Of the request, not of its
/// encoded form, which another version may write differently.
fn hash_of(command: Args<'_>) -> u64 {
    let name = hash::bytes(&command.get(0).to_ascii_lowercase());
    command.iter().skip(1).fold(name, |state, argument| {
        hash::numbers([state, hash::bytes(argument)])
    })
}

fn wrong_token() -> Refusal {
    Refusal::new("ERR that is no session token")
}

/// What a logged ONCE is about, and the command in it.
pub(super) fn wrapped(args: Args<'_>) -> (Head, &'static Spec) {
    let head = match Head::read(&mut Reader::new(args.get(0))) {
        Ok(head) => head,
        Err(error) => panic!("a logged session command: {error}"),
    };
    let Some(inner) = table::by_operation(head.operation) else {
        panic!("a logged command of unknown operation {}", head.operation);
    };
    (head, inner)
}

/// The first argument of a logged ONCE.
pub(super) struct Head {
    token: Token,
    sequence: u64,
    command_hash: u64,
    operation: u16,
}

impl Head {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let head = Self {
            token: Token {
                session: SessionId(reader.u64("session")?),
                end: UnixMillis(reader.u64("end of the session")?),
            },
            sequence: reader.u64("sequence number")?,
            command_hash: reader.u64("command hash")?,
            operation: reader.u16("wrapped operation")?,
        };
        reader.end("session command")?;
        Ok(head)
    }
}

fn apply_once(keyspace: &mut Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    let (head, inner) = wrapped(args);
    let inner_args = args.skip(1);
    let mut keys = KeysOf::new(inner.keys, inner_args, super::name_of(inner));
    let Some(key) = keys.next() else {
        panic!("a session's command without a key: '{}'", inner.name);
    };
    let once = Once {
        slot: keyspace.locate(key).position.slot(),
        token: head.token,
        sequence: head.sequence,
        command_hash: head.command_hash,
    };
    if inner.is_read() && head.token.end >= keyspace.clock() {
        return run(inner, keyspace, inner_args, replies);
    }
    match keyspace.judge(once) {
        Ok(()) => {
            let mut stored = Vec::new();
            run(
                inner,
                keyspace,
                inner_args,
                &mut Replies::stored(&mut stored),
            );
            let stored = kept(stored);
            keyspace.record(once, stored.clone());
            replay(&stored, replies);
        }
        Err(NotRun::Answered(reply)) => replay(&reply, replies),
        Err(not_run) => refuse(&not_run, once, keyspace.clock(), replies),
    }
}

/// A reply to be kept, without spare room; the commonest one takes none at all.
fn kept(stored: Vec<u8>) -> Bytes {
    const OK: &[u8] = b"+OK\r\n";
    if stored == OK {
        Bytes::from_static(OK)
    } else {
        Bytes::from(stored.into_boxed_slice())
    }
}

fn replay(stored: &[u8], replies: &mut Replies<'_>) {
    if let Err(error) = replay_stored(stored, replies) {
        panic!("a stored reply: {error}");
    }
}

fn refuse(not_run: &NotRun, once: Once, clock: UnixMillis, replies: &mut Replies<'_>) {
    let Once {
        token, sequence, ..
    } = once;
    let text = match not_run {
        NotRun::Answered(_) => return,
        NotRun::Ended => format!(
            "SESSIONEXPIRED session {token} had ended at {clock}: this attempt did not happen, \
             earlier ones are unknown"
        ),
        NotRun::Forgotten => format!(
            "SESSIONWINDOW sequence number {sequence} was answered long ago: its reply is \
             forgotten, and this attempt did not happen"
        ),
        NotRun::OtherCommand => {
            format!("ERR sequence number {sequence} belongs to another command of session {token}")
        }
        NotRun::WrongToken => return wrong_token().reply(replies),
        NotRun::TooManyRows => "SESSIONLIMIT there is no room for another session's replies, \
                                this attempt did not happen"
            .to_owned(),
    };
    replies.error(&text);
}

fn versions(keyspace: &Keyspace, args: Args<'_>, replies: &mut Replies<'_>) {
    replies.array(args.len() - 1);
    for key in args.iter().skip(1) {
        replies.integer(keyspace.version_of(key) as i64);
    }
}
