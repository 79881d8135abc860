//! Requests that cannot go on yet: their shard has no known primary at the moment.
//!
//! Nothing of them has been proposed, so they can be sent anywhere once a primary is known: here, or to
//! another node by a redirect. A client sees a failover as a pause instead of an error. Behind a held
//! request everything that its connection sends later waits too, unparsed: a read must not overtake a
//! write.

use kvorum_base::ConnId;
use kvorum_kv::Spec;
use kvorum_resp::{Args, ArgsBuf};

use super::connections::Table;
use super::links::NO_PRIMARY;

/// A request with its own copy of the arguments.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) conn: ConnId,
    pub(crate) seq: u32,
    pub(crate) spec: &'static Spec,
    pub(crate) args: ArgsBuf,
    pub(crate) since_tick: u64,
}

impl Held {
    pub(crate) fn new(
        conn: ConnId,
        seq: u32,
        spec: &'static Spec,
        args: Args<'_>,
        since_tick: u64,
    ) -> Self {
        Self {
            conn,
            seq,
            spec,
            args: ArgsBuf::from(args),
            since_tick,
        }
    }
}

/// All held requests of a node.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    held: Vec<Held>,
}

impl Waiting {
    pub(crate) fn push(&mut self, held: Held) {
        self.held.push(held);
    }

    /// Holds a request whose connection is in the table.
    pub(crate) fn hold(&mut self, held: Held, table: &mut Table) {
        let Some(client) = table.get_mut(held.conn) else {
            return;
        };
        client.unanswered_reads = client.unanswered_reads.saturating_sub(1);
        if client.is_router {
            return table.reply(held.conn, held.seq, |replies| replies.error(NO_PRIMARY));
        }
        client.is_held = true;
        self.held.push(held);
    }

    /// Whether a request of this connection is held.
    pub(crate) fn holds(&self, conn: ConnId) -> bool {
        self.held.iter().any(|held| held.conn == conn)
    }

    pub(crate) fn len(&self) -> u64 {
        self.held.len() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Takes all, in the order of their connections' requests, to be tried again.
    pub(crate) fn take(&mut self) -> Vec<Held> {
        // A read that came back from a lost round may stand behind a later request.
        self.held.sort_by_key(|held| (held.conn, held.seq));
        std::mem::take(&mut self.held)
    }

    /// Takes those that came at or before this tick.
    pub(crate) fn take_overdue(&mut self, tick: u64) -> Vec<Held> {
        self.held
            .extract_if(.., |held| held.since_tick <= tick)
            .collect()
    }
}
