//! MULTI, WATCH and EXEC: what a connection gathers until all of it is sent through the log as one command.
//!
//! Nothing of a transaction is anywhere but here before EXEC: commands are queued by the connection, and of
//! watched keys the versions are kept that a linearizable read gave. So there is nothing to be lost or
//! moved with a slot, and a connection that ends leaves nothing behind. EXEC makes one `KVORUM.EXEC` of it,
//! which is as safe as any write: its shard decides at one moment whether the versions still hold.
//!
//! A connection has one WATCH on its way at most: what it sends behind one waits, so that the versions are
//! older than all that its client reads next.

use kvorum_kv::command::table;
use kvorum_kv::{NodeCommand, Run, Spec, keys_of};
use kvorum_resp::{Args, ArgsBuf, Connection, Replies, TransactionLimits, replay_stored};

/// Said to EXEC where a command was refused when it was queued.
pub const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";
/// Said to a command that cannot be queued.
pub const NOT_ALLOWED: &str = "ERR Command not allowed inside a transaction";
const NESTED: &str = "ERR MULTI calls can not be nested";
const WATCH_INSIDE: &str = "ERR WATCH inside MULTI is not allowed";
const NOT_BEGUN: &str = "ERR EXEC without MULTI";
const NOTHING_TO_DISCARD: &str = "ERR DISCARD without MULTI";
const TOO_LARGE: &str = "ERR the transaction has too many commands or bytes";
const TOO_MANY_WATCHED: &str = "ERR too many keys or bytes of keys are watched";
const NO_VERSIONS: &[u8] = b"ERR the versions of the watched keys could not be read";

/// Keys that one connection watches. Each is looked for among the others, and compared in one step with all
/// of them when EXEC is applied. Beyond it WATCH is refused.
pub const WATCHED_KEYS_MAX: usize = 4096;

/// Bytes of the keys that one connection watches: they are kept for as long as the client likes. Beyond it
/// WATCH is refused.
pub const WATCHED_BYTES_MAX: usize = 1 << 20;

/// The watched keys of a connection.
#[derive(Clone, Default, Debug)]
pub struct Watches {
    /// With the version that each had.
    known: Vec<(Vec<u8>, u64)>,
    /// The number of the WATCH that is on its way, and its keys.
    asked: Option<(u32, Vec<Vec<u8>>)>,
}

impl Watches {
    /// WATCH is on its way: the reply to its number will be that of `KVORUM.VERSIONS`.
    pub fn ask(&mut self, seq: u32, args: Args<'_>) {
        let keys = args.iter().skip(1).map(<[u8]>::to_vec).collect();
        self.asked = Some((seq, keys));
    }

    /// Whether a WATCH is on its way.
    #[must_use]
    pub fn awaits(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether this number is that of the WATCH on its way.
    #[must_use]
    pub fn asked_as(&self, seq: u32) -> bool {
        self.asked.as_ref().is_some_and(|(asked, _)| *asked == seq)
    }

    /// The question is answered, in any version of the protocol: notes the versions, and replies what WATCH
    /// does. A key that is watched already keeps the older version.
    pub fn answered(&mut self, answer: &[u8], replies: &mut Replies<'_>) {
        let Some((_, keys)) = self.asked.take() else {
            return replies.ok();
        };
        if let Some(text) = answer.strip_prefix(b"-") {
            return replies.error_bytes(text);
        }
        let Some(versions) = versions_of(answer).filter(|all| all.len() == keys.len()) else {
            return replies.error_bytes(NO_VERSIONS);
        };
        for (key, version) in keys.into_iter().zip(versions) {
            if self.known.iter().all(|(known, _)| *known != key) {
                self.known.push((key, version));
            }
        }
        replies.ok();
    }

    /// UNWATCH, and whatever ends a transaction.
    pub fn forget(&mut self) {
        self.known = Vec::new();
    }
}

/// The numbers of a list of integers, which is written alike in all versions.
fn versions_of(reply: &[u8]) -> Option<Vec<u64>> {
    let text = std::str::from_utf8(reply).ok()?;
    let mut lines = text.strip_suffix("\r\n")?.split("\r\n");
    let count: usize = lines.next()?.strip_prefix('*')?.parse().ok()?;
    let versions = lines.map(|line| line.strip_prefix(':')?.parse().ok());
    let versions = versions.collect::<Option<Vec<u64>>>()?;
    (versions.len() == count).then_some(versions)
}

/// A request is refused before it is run: a transaction that is being queued will be refused as well. Gives
/// the text to refuse it with, which is another for EXEC: that ends the transaction.
pub fn refused(
    connection: &mut Connection,
    watches: &mut Watches,
    name: &[u8],
    text: &[u8],
) -> Vec<u8> {
    if name.eq_ignore_ascii_case(b"exec") {
        connection.take_transaction();
        watches.forget();
        let why = text.strip_prefix(b"ERR ").unwrap_or(text);
        return [b"EXECABORT Transaction discarded because of: ", why].concat();
    }
    if let Some(transaction) = connection.transaction() {
        transaction.refuse();
    }
    text.to_vec()
}

/// Whether a connection that queues runs this at once.
#[must_use]
pub fn is_run_at_once(spec: &Spec) -> bool {
    matches!(spec.run, Run::Node(command) if command.ends_queueing())
}

/// Queues a command, or refuses it for this reason, and the whole transaction with it.
///
/// # Errors
/// The reply to give instead.
pub fn queue(
    connection: &mut Connection,
    args: Args<'_>,
    refusal: Option<String>,
) -> Result<(), String> {
    let Some(transaction) = connection.transaction() else {
        return Err(NOT_BEGUN.to_owned());
    };
    if let Some(text) = refusal {
        transaction.refuse();
        return Err(text);
    }
    let queued = transaction.queue(args, &TransactionLimits::default());
    queued.map_err(|_| TOO_LARGE.to_owned())
}

/// What one of the commands about transactions comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is done: OK.
    Done,
    /// It is not, and this is the reply.
    Refused(&'static str),
    /// WATCH has to ask for versions.
    Watch,
    /// EXEC has to be run ([`take`]).
    Exec,
}

/// Runs one of the commands about transactions, as far as it concerns the connection alone.
///
/// # Panics
/// If the command is another.
pub fn step(
    connection: &mut Connection,
    watches: &mut Watches,
    command: NodeCommand,
    args: Args<'_>,
) -> Step {
    let done = match command {
        NodeCommand::Multi => begin(connection),
        NodeCommand::Discard => discard(connection, watches),
        NodeCommand::Unwatch => {
            watches.forget();
            Ok(())
        }
        NodeCommand::Watch => match may_watch(connection, watches, args) {
            Ok(()) => return Step::Watch,
            refused => refused,
        },
        NodeCommand::Exec => return Step::Exec,
        other => panic!("{other:?} is not about transactions"),
    };
    done.map_or_else(Step::Refused, |()| Step::Done)
}

/// MULTI.
fn begin(connection: &mut Connection) -> Result<(), &'static str> {
    match connection.begin_transaction() {
        true => Ok(()),
        false => Err(NESTED),
    }
}

/// DISCARD.
fn discard(connection: &mut Connection, watches: &mut Watches) -> Result<(), &'static str> {
    if connection.take_transaction().is_none() {
        return Err(NOTHING_TO_DISCARD);
    }
    watches.forget();
    Ok(())
}

/// Whether WATCH may be sent now.
fn may_watch(
    connection: &mut Connection,
    watches: &Watches,
    args: Args<'_>,
) -> Result<(), &'static str> {
    if connection.transaction().is_some() {
        return Err(WATCH_INSIDE);
    }
    let known_bytes: usize = watches.known.iter().map(|(key, _)| key.len()).sum();
    let keys = watches.known.len() + args.len() - 1;
    if keys > WATCHED_KEYS_MAX || known_bytes + args.payload_bytes() > WATCHED_BYTES_MAX {
        return Err(TOO_MANY_WATCHED);
    }
    Ok(())
}

/// The command that tells what WATCH has to know: of the same keys.
///
/// # Panics
/// If there is none, which a test would show.
#[must_use]
pub fn versions_spec() -> &'static Spec {
    table::lookup(b"kvorum.versions").expect("a command of the table")
}

/// The command that runs a transaction.
///
/// # Panics
/// If there is none, which a test would show.
#[must_use]
pub fn exec_spec() -> &'static Spec {
    table::lookup(b"kvorum.exec").expect("a command of the table")
}

/// What EXEC is to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transaction {
    /// The request of [`exec_spec`].
    Request(ArgsBuf),
    /// It is about no key: the replies of its commands, in the stored form.
    Answered(Vec<Vec<u8>>),
}

/// EXEC: ends the queueing and the watching. What is not about keys is answered now, in the stored form and
/// by `answer` where it is about the node: it changes nothing, so nobody sees that it was early.
///
/// # Errors
/// The reply to give instead.
pub fn take(
    connection: &mut Connection,
    watches: &mut Watches,
    mut answer: impl FnMut(NodeCommand, Args<'_>, &mut Replies<'_>),
) -> Result<Transaction, &'static str> {
    let transaction = connection.take_transaction().ok_or(NOT_BEGUN)?;
    let watched = std::mem::take(&mut watches.known);
    if transaction.is_dirty() {
        return Err(ABORTED);
    }
    let mut request = ArgsBuf::new();
    request.push(exec_spec().name.as_bytes());
    push_number(&mut request, watched.len() as u64);
    for (key, version) in &watched {
        request.push(key);
        push_number(&mut request, *version);
    }
    let queued = transaction.into_queued();
    push_number(&mut request, queued.len() as u64);
    let mut answers = Vec::new();
    for args in queued.iter().map(ArgsBuf::as_args) {
        let spec = kvorum_kv::find(args).map_err(|_| ABORTED)?;
        if spec.is_read() || spec.is_write() {
            push_number(&mut request, args.len() as u64);
            args.iter().for_each(|word| request.push(word));
        } else {
            let mut reply = Vec::new();
            let mut replies = Replies::stored(&mut reply);
            match spec.run {
                Run::Pure(run) => run(args, &mut replies),
                Run::Node(command) => answer(command, args, &mut replies),
                Run::Read(_) | Run::Write { .. } | Run::Container => replies.error(NOT_ALLOWED),
            }
            push_number(&mut request, 0);
            request.push(&reply);
            answers.push(reply);
        }
    }
    let has_keys = keys_of(exec_spec(), request.as_args()).next().is_some();
    Ok(if has_keys {
        Transaction::Request(request)
    } else {
        Transaction::Answered(answers)
    })
}

fn push_number(request: &mut ArgsBuf, number: u64) {
    request.push(number.to_string().as_bytes());
}

/// Replies to an EXEC that is about no key.
pub fn reply_answered(answers: &[Vec<u8>], replies: &mut Replies<'_>) {
    replies.array(answers.len());
    for answer in answers {
        if replay_stored(answer, replies).is_err() {
            replies.error(NOT_ALLOWED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> ArgsBuf {
        text.split(' ').collect()
    }

    fn reply(write: impl FnOnce(&mut Replies<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Replies::stored(&mut out));
        String::from_utf8(out).expect("text")
    }

    fn pong(command: NodeCommand, _: Args<'_>, replies: &mut Replies<'_>) {
        assert_eq!(command, NodeCommand::Ping);
        replies.simple("PONG");
    }

    #[test]
    fn a_transaction_becomes_one_request() {
        let (mut connection, mut watches) = (Connection::new(), Watches::default());
        for text in ["WATCH {t}a {t}b", "WATCH {t}b {t}c"] {
            watches.ask(7, words(text).as_args());
            assert!(watches.asked_as(7) && !watches.asked_as(8));
            assert_eq!(
                reply(|out| watches.answered(b"*2\r\n:5\r\n:9\r\n", out)),
                "+OK\r\n"
            );
        }
        begin(&mut connection).expect("the first");
        assert_eq!(begin(&mut connection), Err(NESTED));
        let watch = words("WATCH k");
        let told = may_watch(&mut connection, &watches, watch.as_args());
        assert_eq!(told, Err(WATCH_INSIDE));
        for text in ["SET {t}a 1", "PING", "GET {t}b"] {
            queue(&mut connection, words(text).as_args(), None).expect("queued");
        }
        let taken = take(&mut connection, &mut watches, pong);
        let request = "kvorum.exec 3 {t}a 5 {t}b 9 {t}c 9 3 3 SET {t}a 1 0 +PONG\r\n 2 GET {t}b";
        assert_eq!(taken, Ok(Transaction::Request(words(request))));
        assert_eq!(take(&mut connection, &mut watches, pong), Err(NOT_BEGUN));

        begin(&mut connection).expect("another");
        queue(&mut connection, words("PING").as_args(), None).expect("queued");
        let taken = take(&mut connection, &mut watches, pong);
        assert_eq!(
            taken,
            Ok(Transaction::Answered(vec![b"+PONG\r\n".to_vec()]))
        );
    }

    #[test]
    fn what_is_refused_while_queueing_aborts_the_whole() {
        let (mut connection, mut watches) = (Connection::new(), Watches::default());
        begin(&mut connection).expect("the first");
        let refusal = Some("MOVED 1 a:1".to_owned());
        let told = queue(&mut connection, words("GET a").as_args(), refusal);
        assert_eq!(told, Err("MOVED 1 a:1".to_owned()));
        queue(&mut connection, words("GET b").as_args(), None).expect("said to be queued");
        assert_eq!(take(&mut connection, &mut watches, pong), Err(ABORTED));

        begin(&mut connection).expect("another");
        let told = refused(&mut connection, &mut watches, b"foo", b"ERR unknown");
        assert_eq!(told, b"ERR unknown");
        let told = refused(&mut connection, &mut watches, b"Exec", b"ERR wrong");
        let aborted = b"EXECABORT Transaction discarded because of: wrong";
        assert_eq!(told, aborted);
        assert_eq!(
            discard(&mut connection, &mut watches),
            Err(NOTHING_TO_DISCARD)
        );
    }

    #[test]
    fn only_so_much_is_watched() {
        let (mut connection, mut watches) = (Connection::new(), Watches::default());
        let mut may = |watches: &Watches, keys: usize, bytes: usize| {
            let words: Vec<Vec<u8>> = (0..=keys).map(|_| vec![b'k'; bytes]).collect();
            let args: ArgsBuf = words.iter().collect();
            may_watch(&mut connection, watches, args.as_args()).is_ok()
        };
        assert!(may(&watches, WATCHED_KEYS_MAX, 1));
        assert!(!may(&watches, WATCHED_KEYS_MAX + 1, 1));
        assert!(!may(&watches, 1, WATCHED_BYTES_MAX));
        watches.ask(1, words("WATCH k").as_args());
        reply(|out| watches.answered(b"*1\r\n:1\r\n", out));
        assert!(!may(&watches, WATCHED_KEYS_MAX, 1));
        watches.forget();
        assert!(may(&watches, WATCHED_KEYS_MAX, 1));
    }

    #[test]
    fn a_watch_that_failed_watches_nothing() {
        let (mut connection, mut watches) = (Connection::new(), Watches::default());
        for answer in [
            &b"-TRYAGAIN soon\r\n"[..],
            b"*2\r\n:1\r\n",
            b"*1\r\n:1\r\n",
            b"+OK\r\n",
        ] {
            watches.ask(1, words("WATCH a b").as_args());
            assert!(reply(|out| watches.answered(answer, out)).starts_with('-'));
            assert!(!watches.awaits());
        }
        begin(&mut connection).expect("the first");
        let taken = take(&mut connection, &mut watches, pong);
        assert_eq!(taken, Ok(Transaction::Answered(Vec::new())));
    }
}
