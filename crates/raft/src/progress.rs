//! What a leader knows about one follower, and how it sends to it.
//!
//! ```text
//!              an answer that agrees
//!      Probe ------------------------> Replicate
//!      ^   ^                            |     |
//!      |   +----------------------------+     |
//!      |     a refusal, or a reset link       |
//!      |                                      | entries are gone
//!      +-------------- Snapshot <-------------+   (from Probe too)
//!         installed, caught up
//! ```
//! A probe looks for the place where the logs agree, one message at a time. Replication runs ahead
//! of the answers, within a window of so many appends and so many bytes: without the latter, what a
//! follower is behind would leave all at once, faster than any link takes it. Losses are noticed by
//! heartbeats that are answered while an append is not: silence alone is no reason to send again,
//! since a dead follower does not need it.
//!
//! A snapshot on its way is a thing of its own beside the flow. To a follower that lost its state and
//! not its log it runs along with the entries: its acknowledgements may be what a majority needs.

use std::collections::VecDeque;

use kvorum_base::Index;

use crate::config::Config;
use crate::message::SnapshotId;
use crate::snapshot::Sending;

/// How entries go to the follower at present.
#[derive(Debug)]
pub(crate) enum Flow {
    /// One append at a time, until one agrees.
    Probe {
        /// The tick at which the present one left; `None` to send at the next occasion.
        sent_at: Option<u64>,
    },
    /// A stream of appends.
    Replicate(Window),
    /// Entries wait until a snapshot has come over.
    Snapshot,
}

/// An append that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    /// Its last entry.
    last: Index,
    /// What its entries weigh.
    bytes: usize,
    /// The tick at which it left.
    sent_at: u64,
}

/// Appends that are not answered yet.
///
/// Invariant: `bytes` is the sum over `in_flight`.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// In the order of their entries.
    in_flight: VecDeque<InFlight>,
    bytes: usize,
    /// The tick at which an empty append last asked whether something got lost.
    asked_at: Option<u64>,
}

impl Window {
    pub(crate) fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// How many bytes the next append may have, if it can leave now. `first` is the size of its first
    /// entry, which always fits when nothing else is on the way.
    pub(crate) fn room(&self, first: usize, limits: &Config) -> Option<usize> {
        let most = limits.append_bytes();
        if self.in_flight.is_empty() {
            return Some(most);
        }
        let room = limits.bytes_in_flight_max.saturating_sub(self.bytes);
        let fits = self.in_flight.len() < limits.appends_in_flight_max && first <= room;
        fits.then_some(most.min(room))
    }

    /// Notes an append that leaves at the tick `now`.
    pub(crate) fn sent(&mut self, last: Index, bytes: usize, now: u64) {
        self.bytes += bytes;
        self.in_flight.push_back(InFlight {
            last,
            bytes,
            sent_at: now,
        });
    }

    /// Drops those whose entries have all arrived.
    fn arrived(&mut self, matched: Index) {
        while let Some(append) = self.in_flight.pop_front_if(|append| append.last <= matched) {
            self.bytes -= append.bytes;
        }
    }

    /// Whether it is time to ask if something got lost: the oldest append, and the last time it was
    /// asked, are that many ticks ago.
    pub(crate) fn asks(&mut self, now: u64, patience: u64) -> bool {
        let Some(oldest) = self.in_flight.front().map(|append| append.sent_at) else {
            return false;
        };
        let since = self.asked_at.map_or(oldest, |asked| asked.max(oldest));
        if now - since < patience {
            return false;
        }
        self.asked_at = Some(now);
        true
    }

    pub(crate) fn check(&self, matched: Index, next: Index, limits: &Config) {
        let mut before = matched;
        for InFlight { last, .. } in &self.in_flight {
            assert!(*last > before, "{before} before {last} in {self:?}");
            before = *last;
        }
        assert_eq!(before.next(), next, "after {matched} in {self:?}");
        let bytes: usize = self.in_flight.iter().map(|append| append.bytes).sum();
        assert_eq!(bytes, self.bytes, "{self:?}");
        let within_limits =
            self.len() <= limits.appends_in_flight_max && self.bytes <= limits.bytes_in_flight_max;
        assert!(self.len() <= 1 || within_limits, "{self:?}");
    }
}

/// What the leader knows about one follower.
///
/// Invariants: `matched < next <= last index + 1`; in `Replicate` the newest append in flight ends
/// at `next - 1`; `read` is at most the newest round; a snapshot is on its way exactly while entries wait
/// for it or the state is lost.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Everything up to here is the same as the leader's, and synced.
    pub(crate) matched: Index,
    /// The next entry to send.
    pub(crate) next: Index,
    /// How.
    pub(crate) flow: Flow,
    /// The tick of the last message from it.
    pub(crate) heard_at: u64,
    /// The newest read round that it answered.
    pub(crate) read: u64,
    /// The commit index that it was last told.
    pub(crate) commit_sent: Index,
    /// The snapshot on its way to it.
    pub(crate) sending: Option<Sending>,
    /// It lost its state and needs a snapshot although it has the log.
    pub(crate) state_lost: bool,
    /// What it has to hold before it may become a voter, noted when that was last asked for.
    pub(crate) promotion: Option<Index>,
    /// The tick at which a hand-over to it was last given up.
    pub(crate) transfer_failed_at: Option<u64>,
}

impl Progress {
    /// A follower of which nothing is known, to be sent `next` first.
    pub(crate) fn new(next: Index, now: u64) -> Self {
        Self {
            matched: Index::ZERO,
            next,
            flow: Flow::Probe { sent_at: None },
            heard_at: now,
            read: 0,
            commit_sent: Index::ZERO,
            sending: None,
            state_lost: false,
            promotion: None,
            transfer_failed_at: None,
        }
    }

    /// Starts to look for agreement again, after what is certain.
    pub(crate) fn probe(&mut self) {
        self.next = self.matched.next();
        self.flow = Flow::Probe { sent_at: None };
    }

    /// The snapshot whose pieces are moving: the caller keeps a view for it.
    pub(crate) fn running(&self) -> Option<SnapshotId> {
        match &self.sending {
            Some(Sending::Running(running)) => Some(running.id),
            _ => None,
        }
    }

    /// Sends no snapshot any more; entries that waited for one have to find their place. Returns the
    /// one whose view is not needed any more.
    pub(crate) fn end_sending(&mut self) -> Option<SnapshotId> {
        let running = self.running();
        self.sending = None;
        self.state_lost = false;
        if matches!(self.flow, Flow::Snapshot) {
            self.probe();
        }
        running
    }

    /// Notes that the follower holds everything up to `index`; whether that is news.
    pub(crate) fn advance(&mut self, index: Index) -> bool {
        let news = index > self.matched;
        self.matched = self.matched.max(index);
        self.next = self.next.max(self.matched.next());
        if let Flow::Replicate(window) = &mut self.flow {
            window.arrived(self.matched);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_asked_for_once_per_patience() {
        let mut window = Window::default();
        assert!(!window.asks(100, 20));
        window.sent(Index(5), 9, 100);
        assert!(!window.asks(119, 20));
        assert!(window.asks(120, 20));
        assert!(!window.asks(139, 20));
        assert!(window.asks(140, 20));
        window.arrived(Index(5));
        assert!(!window.asks(999, 20));
    }

    #[test]
    fn an_answer_frees_everything_it_covers() {
        let mut progress = Progress::new(Index(4), 0);
        let mut window = Window::default();
        for last in [5, 7, 9] {
            window.sent(Index(last), 9, 0);
        }
        progress.next = Index(10);
        progress.flow = Flow::Replicate(window);
        assert!(progress.advance(Index(8)));
        assert!(!progress.advance(Index(6)));
        let Flow::Replicate(window) = &progress.flow else {
            panic!("still replicating");
        };
        assert_eq!((window.len(), progress.next), (1, Index(10)));
    }
}
