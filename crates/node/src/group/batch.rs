//! Writes on their way into the log: gathered in a batch, proposed as one entry, answered when the
//! entry is applied.
//!
//! A batch is sealed at the end of a turn if no other batch of the group is unacknowledged, or if
//! enough waits in it, or if it has waited for a tick. So an idle group answers a lone write at once,
//! a busy one makes few large entries, and a slow link is kept full. (Sealing at every turn makes
//! tiny entries under load: each costs a message, a record and a wake-up on every replica.)
//!
//! A proposed batch stays pending when this replica is deposed. Only the log decides: if the entry is
//! applied in its term the clients get their replies, if another entry is applied at its index the
//! batch certainly did not happen, and in between nobody knows.

use std::collections::VecDeque;

use kvorum_base::{ConnId, Index, Slot, Term};

use crate::format::entry::EntryBuilder;
use crate::limits::BATCH_BYTES_EAGER;

/// Who waits for the reply of one command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReplyTo {
    /// The connection.
    pub(crate) conn: ConnId,
    /// The request's number on it.
    pub(crate) seq: u32,
    /// The slot of its keys, for a redirect.
    pub(crate) slot: Slot,
    /// Whether it only reads, in its place among the writes of its connection.
    pub(crate) is_read: bool,
    /// Whether other groups answer other parts of the request.
    pub(crate) is_part: bool,
}

/// Numbers a group's batches, from 1, in the order of their commands.
pub(crate) type BatchNumber = u64;

/// Commands gathered for one entry.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    pub(crate) builder: EntryBuilder,
    /// Who waits, in the order of the commands.
    pub(crate) replies: Vec<ReplyTo>,
    pub(crate) number: BatchNumber,
    /// When the first command came.
    since_tick: u64,
}

/// A proposed entry whose fate is not known yet.
#[derive(Debug)]
pub(crate) struct PendingBatch {
    pub(crate) index: Index,
    pub(crate) term: Term,
    /// Emptied once the deadline has answered them.
    pub(crate) replies: Vec<ReplyTo>,
    number: BatchNumber,
    proposed_tick: u64,
}

/// All batches of a group that have not come to an end.
///
/// Invariants: numbers rise from the pending ones over the closed ones to the open one, with gaps
/// where a batch was refused; the pending ones are all of one term, and their indexes rise.
#[derive(Debug)]
pub(crate) struct Batches {
    open: OpenBatch,
    /// Full, waiting for the end of the turn.
    closed: VecDeque<OpenBatch>,
    pending: VecDeque<PendingBatch>,
    /// Proposed in earlier terms of this replica and not decided yet. A later one may stand at the
    /// same index, or before them: the log in between was another's.
    orphans: Vec<PendingBatch>,
    /// A batch with so many bytes is full.
    full_bytes: usize,
    /// Emptied reply lists, to be used again.
    spare: Vec<Vec<ReplyTo>>,
}

impl OpenBatch {
    fn new(number: BatchNumber, replies: Vec<ReplyTo>) -> Self {
        Self {
            builder: EntryBuilder::new(),
            replies,
            number,
            since_tick: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }
}

impl Batches {
    pub(crate) fn new(full_bytes: usize) -> Self {
        Self {
            open: OpenBatch::new(1, Vec::new()),
            closed: VecDeque::new(),
            pending: VecDeque::new(),
            orphans: Vec::new(),
            full_bytes,
            spare: Vec::new(),
        }
    }

    /// The batch that takes the next command. A full one is closed first.
    pub(crate) fn open(&mut self, now_tick: u64) -> &mut EntryBuilder {
        if self.open.builder.bytes() >= self.full_bytes {
            let full = self.take_open();
            self.closed.push_back(full);
        }
        if self.open.is_empty() {
            self.open.since_tick = now_tick;
        }
        &mut self.open.builder
    }

    /// Notes who waits for the command just added; returns the batch that it is in.
    pub(crate) fn added(&mut self, reply_to: ReplyTo) -> BatchNumber {
        self.open.replies.push(reply_to);
        self.open.number
    }

    fn take_open(&mut self) -> OpenBatch {
        let next = OpenBatch::new(self.open.number + 1, self.spare.pop().unwrap_or_default());
        std::mem::replace(&mut self.open, next)
    }

    /// The number up to which all batches have come to an end.
    pub(crate) fn resolved(&self) -> BatchNumber {
        let oldest = match (self.pending.front(), self.closed.front()) {
            (Some(pending), _) => pending.number,
            (None, Some(closed)) => closed.number,
            (None, None) => self.open.number,
        };
        oldest - 1
    }

    /// Whether nothing was proposed or is about to be.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.nothing_unproposed()
    }

    /// Whether a client waits for any of it.
    pub(crate) fn somebody_waits(&self) -> bool {
        let proposed = self.pending.iter().chain(&self.orphans);
        !self.nothing_unproposed() || proposed.into_iter().any(|batch| !batch.replies.is_empty())
    }

    fn nothing_unproposed(&self) -> bool {
        self.closed.is_empty() && self.open.is_empty()
    }

    /// When the first command came that is not proposed yet.
    pub(crate) fn open_since(&self) -> Option<u64> {
        let first = self.closed.front().unwrap_or(&self.open);
        (!first.is_empty()).then_some(first.since_tick)
    }

    /// Bytes of commands that are not proposed yet.
    pub(crate) fn unproposed_bytes(&self) -> usize {
        let closed: usize = self.closed.iter().map(|batch| batch.builder.bytes()).sum();
        closed + self.open.builder.bytes()
    }

    /// The next batch to propose at the end of a turn, by the sealing rule. What is committed is
    /// acknowledged, also before it is applied.
    pub(crate) fn take_due(&mut self, commit: Index, now_tick: u64) -> Option<OpenBatch> {
        if let Some(full) = self.closed.pop_front() {
            return Some(full);
        }
        let due = (self.pending.back().is_none_or(|last| last.index <= commit))
            || self.open.builder.bytes() >= BATCH_BYTES_EAGER
            || self.open.since_tick < now_tick;
        if self.open.is_empty() || !due {
            return None;
        }
        Some(self.take_open())
    }

    /// The batch that [`Self::take_due`] gave is in the log.
    pub(crate) fn proposed(
        &mut self,
        number: BatchNumber,
        index: Index,
        term: Term,
        replies: Vec<ReplyTo>,
        now_tick: u64,
    ) {
        if let Some(last) = self.pending.back() {
            assert!(last.index < index, "proposed {index} after {}", last.index);
        }
        let proposed_tick = now_tick;
        self.pending.push_back(PendingBatch {
            index,
            term,
            replies,
            number,
            proposed_tick,
        });
    }

    /// This replica leads a new term: what it proposed in earlier ones is not decided by it any more.
    pub(crate) fn begin_term(&mut self) {
        self.orphans.extend(self.pending.drain(..));
    }

    /// The batch whose entry is applied at this index in this term, if it is one of ours.
    pub(crate) fn take_applied(&mut self, index: Index, term: Term) -> Option<PendingBatch> {
        let is_this = |batch: &PendingBatch| batch.index == index && batch.term == term;
        if self.pending.front().is_some_and(is_this) {
            return self.pending.pop_front();
        }
        let at = self.orphans.iter().position(is_this)?;
        Some(self.orphans.swap_remove(at))
    }

    /// A batch with this index that was not applied there: another entry has its place for good.
    pub(crate) fn take_replaced(&mut self, index: Index) -> Option<PendingBatch> {
        self.take_where(|batch| batch.index == index)
    }

    /// A batch that a snapshot up to `index` has jumped over: its outcome is unknown.
    pub(crate) fn take_jumped(&mut self, index: Index) -> Option<PendingBatch> {
        self.take_where(|batch| batch.index <= index)
    }

    fn take_where(&mut self, is_wanted: impl Fn(&PendingBatch) -> bool) -> Option<PendingBatch> {
        if self.pending.front().is_some_and(&is_wanted) {
            return self.pending.pop_front();
        }
        let at = self.orphans.iter().position(is_wanted)?;
        Some(self.orphans.swap_remove(at))
    }

    /// Takes a batch that was never proposed, because this replica does not lead: it did not happen.
    pub(crate) fn take_unproposed(&mut self) -> Option<OpenBatch> {
        if let Some(closed) = self.closed.pop_front() {
            return Some(closed);
        }
        (!self.open.is_empty()).then(|| self.take_open())
    }

    /// The reply lists of pending batches proposed at or before `tick`; their outcome is unknown to
    /// the clients from now on.
    pub(crate) fn take_overdue(&mut self, tick: u64) -> Vec<ReplyTo> {
        let mut overdue = Vec::new();
        for batch in self.pending.iter_mut().chain(&mut self.orphans) {
            if batch.proposed_tick <= tick {
                overdue.append(&mut batch.replies);
            }
        }
        overdue
    }

    /// All reply lists of pending batches: the process ends and will not learn their outcome.
    pub(crate) fn take_all_pending(&mut self) -> Vec<ReplyTo> {
        self.take_overdue(u64::MAX)
    }

    /// Gives an emptied reply list back for reuse.
    pub(crate) fn recycle(&mut self, mut replies: Vec<ReplyTo>) {
        const SPARE_MAX: usize = 8;
        replies.clear();
        if self.spare.len() < SPARE_MAX {
            self.spare.push(replies);
        }
    }
}
