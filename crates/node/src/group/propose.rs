//! What a primary appends, and when: batches of writes, clock advances, checkpoints.

use bytes::Bytes;
use kvorum_base::{Index, Term, UnixMillis};
use kvorum_cluster::Request;
use kvorum_raft::ProposeRefused;

use super::Group;
use super::batch::ReplyTo;
use crate::clients::face;
use crate::clients::gate::BUSY;
use crate::format::entry::{EntryBuilder, encode_checkpoint, encode_level, encode_request};
use crate::peers::LEVEL_MAX;
use crate::shared::Shared;

impl Group {
    /// Proposes every batch that is due, or refuses them all if this replica does not lead.
    pub(super) fn propose_due(&mut self, shared: &mut Shared) {
        if !self.leading() {
            // With the next primary unknown the batch waits for it, or for the deadline.
            if self.primary().is_some() {
                self.refuse_unproposed(shared);
            }
            return;
        }
        // While the leadership is handed over they wait as well: soon it is clear who leads.
        while !self.raft.transferring()
            && let Some(batch) = self.batches.take_due(self.raft.commit(), shared.now_tick)
        {
            let number = batch.number;
            match self.propose(batch.builder, shared) {
                Ok(index) => {
                    let term = self.raft.term();
                    self.batches
                        .proposed(number, index, term, batch.replies, shared.now_tick);
                }
                Err(ProposeRefused::Busy) => refuse_busy(&batch.replies, shared),
                Err(_) => self.refuse(&batch.replies, shared),
            }
        }
    }

    fn propose(&mut self, builder: EntryBuilder, shared: &Shared) -> Result<Index, ProposeRefused> {
        self.propose_entry(shared, |term, index, clock| {
            builder.seal(term, index, clock)
        })
    }

    /// Appends the entry that is made for the next place in the log, with the time of now.
    pub(crate) fn propose_entry(
        &mut self,
        shared: &Shared,
        encode: impl FnOnce(Term, Index, UnixMillis) -> Bytes,
    ) -> Result<Index, ProposeRefused> {
        let clock = self.entry_clock(shared);
        let data = encode(self.raft.term(), self.raft.next_index(), clock);
        self.raft.propose(data)
    }

    /// Proposes a request to the shard manager; `None` if it was not taken, and never will be.
    pub(crate) fn propose_request(&mut self, request: &Request, shared: &Shared) -> Option<Index> {
        if !shared.log.writable() {
            return None;
        }
        let entry = |term, index, clock| encode_request(term, index, clock, request);
        self.propose_entry(shared, entry).ok()
    }

    /// The clock of the next entry: the median of the voters' clocks; zero, which moves nothing,
    /// while too few are known. That it never steps back is seen to at apply.
    pub(super) fn entry_clock(&self, shared: &Shared) -> UnixMillis {
        let membership = self.raft.membership();
        let voters = membership
            .voters
            .iter()
            .filter_map(|voter| membership.nodes.get(voter));
        shared
            .clocks
            .median(voters.copied(), shared.now_tick)
            .unwrap_or_default()
    }

    /// Logs the time while keys are due: expired is what the logged clock has passed, so on an idle
    /// shard somebody has to say that time goes on.
    pub(super) fn propose_clock(&mut self, shared: &Shared) {
        if !self.leading() || !self.unlogged() || !shared.log.writable() {
            return;
        }
        let Some(state) = &self.state else { return };
        let due = state.keyspace.next_deadline();
        if due.is_some_and(|deadline| deadline <= self.entry_clock(shared)) {
            // A refusal means that others are being appended: they carry the time as well.
            let _ = self.propose(EntryBuilder::new(), shared);
        }
    }

    /// Logs a checkpoint now and then, if anything has changed.
    pub(super) fn propose_checkpoint(&mut self, shared: &Shared) {
        let now = shared.now_tick;
        if !self.leading() || self.unchanged || now < self.next_checkpoint_tick {
            return;
        }
        if !shared.log.writable() {
            return;
        }
        self.next_checkpoint_tick = now + shared.config.checkpoint_ticks;
        // A refused one is made up for by the next.
        let _ = self.propose_entry(shared, encode_checkpoint);
    }

    /// Raises the level by which entries are applied once every voter's program can follow.
    pub(super) fn propose_level(&mut self, shared: &Shared) {
        let Some(state) = &self.state else { return };
        let (membership, level) = (self.raft.membership(), state.keyspace.level());
        let room = shared.log.writable();
        if !self.leading() || level >= u32::from(LEVEL_MAX) || !self.unlogged() || !room {
            return;
        }
        let common = shared
            .peers
            .common_level(membership.nodes.values().copied());
        if let Some(common) = common.filter(|common| u32::from(*common) > level) {
            let entry = |term, index, clock| encode_level(term, index, clock, common);
            // A refused one is made up for at the next tick.
            let _ = self.propose_entry(shared, entry);
        }
    }

    /// Whether nothing is on its way through the log.
    fn unlogged(&self) -> bool {
        self.batches.is_idle() && self.raft.commit() == self.raft.last_index()
    }

    /// Refuses everything that was never proposed.
    pub(crate) fn refuse_unproposed(&mut self, shared: &mut Shared) {
        while let Some(batch) = self.batches.take_unproposed() {
            self.refuse(&batch.replies, shared);
            self.batches.recycle(batch.replies);
        }
    }

    /// Tells these clients that their commands certainly did not happen, and where to go.
    pub(super) fn refuse(&self, refused: &[ReplyTo], shared: &mut Shared) {
        let primary = self.primary();
        shared.counters.redirects += refused.len() as u64;
        for write in refused {
            let text = face::redirect(&shared.config, write.slot, primary);
            shared.table.answer(*write, |replies| replies.error(&text));
        }
    }
}

/// Tells these clients that their commands did not happen and may be sent again.
fn refuse_busy(refused: &[ReplyTo], shared: &mut Shared) {
    for write in refused {
        shared.table.answer(*write, |replies| replies.error(BUSY));
    }
}
