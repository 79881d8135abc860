//! MULTI, WATCH and EXEC of a router's clients.
//!
//! What a transaction is stands in [`kvorum_clients::transaction`]: it is gathered here, at the client's
//! connection, and leaves as requests that rest on no connection. WATCH asks for versions, a read like
//! others; EXEC is one write to one slot, with the versions in it, and waits, is redirected and ends as any
//! write. So the clients of a link have nothing to do with each other's transactions.
//!
//! Keys in several slots are refused at EXEC, before anything is sent: no two shards agree on one moment.

use kvorum_base::ConnId;
use kvorum_clients::transaction::{self, Step, Transaction};
use kvorum_kv::{NodeCommand, Spec, keys_of, slot_of_keys};
use kvorum_resp::{Args, ArgsBuf, Replies};

use crate::answers::Answer;
use crate::clients::Client;
use crate::pieces::Owner;
use crate::planted::Bug;
use crate::router::Router;

const SEVERAL_SLOTS: &[u8] =
    b"CROSSSLOT Keys in request don't hash to the same slot: all keys of a transaction, \
     watched ones too, must have the same {tag}; nothing was executed";

impl Router {
    /// Runs one of these commands.
    pub(crate) fn transact(
        &mut self,
        client: &mut Client,
        seq: u32,
        command: NodeCommand,
        args: Args<'_>,
    ) {
        let Client {
            connection,
            watches,
            ..
        } = client;
        match transaction::step(connection, watches, command, args) {
            Step::Done => {
                client.connection.reply(seq, |replies| replies.ok());
            }
            Step::Refused(text) => self.refuse_request(client, seq, text.as_bytes()),
            Step::Watch => self.watch(client, seq, args),
            Step::Exec => self.exec(client, seq),
        }
    }

    /// Queues a command of a transaction.
    pub(crate) fn queue(
        &mut self,
        client: &mut Client,
        seq: u32,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        let refusal = (!spec.may_be_queued()).then(|| transaction::NOT_ALLOWED.to_owned());
        match transaction::queue(&mut client.connection, args, refusal) {
            Ok(()) => {
                (client.connection).reply(seq, |replies| replies.simple("QUEUED"));
            }
            Err(text) => self.refuse_request(client, seq, text.as_bytes()),
        }
    }

    /// Asks for the versions of the keys. What the client sends behind it waits for the answer.
    fn watch(&mut self, client: &mut Client, seq: u32, args: Args<'_>) {
        let spec = transaction::versions_spec();
        let words = [spec.name.as_bytes()].into_iter();
        let request: ArgsBuf = words.chain(args.iter().skip(1)).collect();
        let Ok(Some(slot)) = slot_of_keys(keys_of(spec, args)) else {
            return self.refuse_request(client, seq, SEVERAL_SLOTS);
        };
        client.watches.ask(seq, args);
        let owner = (Owner::Watch(seq), client.connection.version(seq));
        self.submit(client, slot, owner, spec, request.as_args());
    }

    /// The versions have come, or will not.
    pub(crate) fn watch_answered(&mut self, conn: ConnId, seq: u32, answer: &Answer<'_>) {
        let answer = match answer {
            Answer::Reply(reply) => reply.to_vec(),
            Answer::Refused(text) | Answer::Unknown(text) => [b"-", &text[..]].concat(),
        };
        let Some(client) = self.clients.get_mut(conn) else {
            return;
        };
        let mut watches = std::mem::take(&mut client.watches);
        self.clients
            .reply(conn, seq, |replies| watches.answered(&answer, replies));
        if let Some(client) = self.clients.get_mut(conn) {
            client.watches = watches;
        }
    }

    fn exec(&mut self, client: &mut Client, seq: u32) {
        let Client {
            connection,
            watches,
            profile,
            ..
        } = client;
        if self.config.planted.has(Bug::WatchForgotten) {
            watches.forget();
        }
        let answer = |command, args: Args<'_>, replies: &mut Replies<'_>| {
            self.answer(profile, command, args, replies);
        };
        match transaction::take(connection, watches, answer) {
            Err(text) => self.refuse_request(client, seq, text.as_bytes()),
            Ok(Transaction::Answered(answers)) => {
                (client.connection).reply(seq, |replies| {
                    transaction::reply_answered(&answers, replies);
                });
            }
            Ok(Transaction::Request(request)) => {
                let (spec, args) = (transaction::exec_spec(), request.as_args());
                match slot_of_keys(keys_of(spec, args)) {
                    Ok(_) => self.route(client, seq, spec, args),
                    Err(_) => self.refuse_request(client, seq, SEVERAL_SLOTS),
                }
            }
        }
    }
}
