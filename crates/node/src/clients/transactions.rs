//! MULTI, WATCH and EXEC on a connection to a node.
//!
//! What a transaction is stands in [`kvorum_clients::transaction`]. Here is what a node of a cluster adds:
//! a command is queued only where its slot is served, since cluster clients look for the redirect there;
//! one whose slot is on its way is queued, and EXEC waits for it as any write does. A transaction of reads
//! goes through the log like others: it is then one moment, and needs no second way. So transactions run at
//! primaries only.

use kvorum_base::Slot;
use kvorum_clients::transaction::{self, Step, Transaction};
use kvorum_kv::{CrossSlot, NodeCommand, Spec, keys_of, slot_of_keys};
use kvorum_resp::{Args, Replies};

use super::connections::Client;
use super::gate::{Elsewhere, Passed};
use super::{face, local};
use crate::event::Door;
use crate::node::Node;

impl Node {
    /// Runs one of these commands.
    pub(super) fn transact(
        &mut self,
        client: &mut Client,
        seq: u32,
        command: NodeCommand,
        args: Args<'_>,
    ) -> Passed {
        let Client {
            connection,
            watches,
            ..
        } = client;
        match transaction::step(connection, watches, command, args) {
            Step::Done => {
                client.reply(seq, |replies| replies.ok());
            }
            Step::Refused(text) => self.refuse_request(client, seq, text.as_bytes()),
            Step::Watch => {
                watches.ask(seq, args);
                return self.pass_to_group(client, seq, transaction::versions_spec(), args);
            }
            Step::Exec => self.exec(client, seq),
        }
        Passed::Yes
    }

    /// Queues a command of a transaction.
    pub(super) fn queue(
        &mut self,
        client: &mut Client,
        seq: u32,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        let refusal = match slot_of_keys(keys_of(spec, args)) {
            _ if !spec.may_be_queued() => Some(transaction::NOT_ALLOWED.to_owned()),
            Err(CrossSlot) => Some(CrossSlot::TEXT.to_owned()),
            Ok(slot) => slot.and_then(|slot| self.redirection(client.door, slot)),
        };
        match transaction::queue(&mut client.connection, args, refusal) {
            Ok(()) => {
                client.reply(seq, |replies| replies.simple("QUEUED"));
            }
            Err(text) => self.refuse_request(client, seq, text.as_bytes()),
        }
    }

    /// Where a transaction on this slot has to be sent, if that is known and is not here.
    fn redirection(&mut self, door: Door, slot: Slot) -> Option<String> {
        if !self.serving() {
            return None;
        }
        let own = self.shared.config.node;
        let node = match self.places.group_of(slot).map(|at| &self.groups[at]) {
            // The port for replicas takes no transactions, whoever leads.
            Some(group) => group
                .primary()
                .filter(|primary| *primary != own || door == Door::Replica),
            None => match self.elsewhere(slot) {
                Elsewhere::At(node) => Some(node),
                Elsewhere::Unknown | Elsewhere::Nowhere => None,
            },
        };
        self.shared.counters.redirects += u64::from(node.is_some());
        node.map(|node| face::redirect(&self.shared.config, slot, Some(node)))
    }

    fn exec(&mut self, client: &mut Client, seq: u32) {
        let Client {
            connection,
            watches,
            profile,
            door,
            ..
        } = client;
        let answer = |command, args: Args<'_>, replies: &mut Replies<'_>| {
            local::answer(self, (profile, *door), command, args, replies);
        };
        match transaction::take(connection, watches, answer) {
            Err(text) => self.refuse_request(client, seq, text.as_bytes()),
            Ok(Transaction::Answered(answers)) => {
                client.reply(seq, |replies| {
                    transaction::reply_answered(&answers, replies);
                });
            }
            Ok(Transaction::Request(request)) => {
                let (spec, args) = (transaction::exec_spec(), request.as_args());
                if self.pass_to_group(client, seq, spec, args) == Passed::Wait {
                    self.hold(client, seq, spec, args);
                }
            }
        }
    }
}
