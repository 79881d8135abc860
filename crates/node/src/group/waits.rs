//! WAIT: how far the writes of a connection have got.
//!
//! Every acknowledged write is on the disks of a majority already, so WAIT is never needed for safety;
//! programs written for Redis ask it all the same, and get a true answer.

use kvorum_base::Index;

use super::Group;
use super::batch::{BatchNumber, ReplyTo};
use crate::shared::Shared;

/// One WAIT.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) reply_to: ReplyTo,
    /// The connection's last write.
    pub(crate) after: BatchNumber,
    /// How many replicas besides this one must have it.
    pub(crate) wanted: u64,
    /// When to answer with what there is; `None` for never.
    pub(crate) until_tick: Option<u64>,
}

impl Group {
    /// Answers every WAIT that has what it wants, or has waited long enough.
    pub(super) fn answer_waits(&mut self, shared: &mut Shared) {
        if self.waits.is_empty() {
            return;
        }
        // The writes are somewhere at or below the commit index once their batches have ended.
        let written = self.raft.commit();
        let have = self.followers_with(written);
        let (resolved, leading) = (self.batches.resolved(), self.leading());
        self.waits.retain(|wait| {
            let due = wait.until_tick.is_some_and(|tick| tick <= shared.now_tick);
            let done = wait.after <= resolved && have >= wait.wanted;
            if due || done || !leading {
                let count = if wait.after <= resolved { have } else { 0 };
                shared
                    .table
                    .answer(wait.reply_to, |replies| replies.integer(count as i64));
            }
            !(due || done || !leading)
        });
    }

    fn followers_with(&self, index: Index) -> u64 {
        let status = self.raft.status();
        status
            .peers
            .iter()
            .filter(|peer| peer.matched >= index)
            .count() as u64
    }
}
