//! What a follower asks its primary, so that it may answer reads itself.
//!
//! A follower does not know what is committed just now. It asks the primary, which has a majority confirm
//! that it leads and then tells its commit index of the moment when the question came; once the follower
//! has applied that much, its state may be read: whatever was acknowledged before the read came is in it.
//! The primary does no more work for it than for a read of its own, and for all reads that gathered at
//! the follower meanwhile only once.
//!
//! A question names the life of the node and a number in it. If an answer of an earlier life counted:
//!
//! 1. B follows, asks with number 1; the answer "index 50" is long on its way. B restarts.
//! 2. A write is committed at 60 by the others and acknowledged.
//! 3. A client reads at B, which asks with number 1 again. The old answer arrives.
//! 4. B has applied 50 and reads: the write is missing.
//!
//! A change of the primary voids every question; the reads go back to the door and are asked anew. An
//! answer that gets lost is asked for again, under the same number: it is never true for less than when
//! the reads came.

use kvorum_base::{Bug, Index, NodeId};

use super::Group;
use super::reads::By;
use crate::format::peer::{Ask, Wish};
use crate::shared::Shared;

/// A follower's questions.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// The number of the last one; the next is higher.
    number: u64,
    /// When it was last sent.
    sent_tick: u64,
}

impl Group {
    /// Whether this replica, on that node, follows a primary elsewhere and has a state to be read.
    pub(crate) fn follows(&self, own: NodeId) -> bool {
        let has_primary = self.primary().is_some_and(|primary| primary != own);
        has_primary && !self.raft.is_leader() && self.state.is_some()
    }

    /// Asks the primary about the gathered reads.
    pub(super) fn ask_for_read_index(&mut self, shared: &mut Shared) {
        self.asking.number += 1;
        let number = self.asking.number;
        self.reads.asked(By::Primary, number);
        if shared.config.planted.has(Bug::FollowerReadsUnasked) {
            let nobody = |_, _| {};
            return (self.reads).confirmed((By::Primary, number), Index::ZERO, nobody);
        }
        self.ask(Wish::ReadIndex, shared);
    }

    /// Asks once more if the question or its answer may be lost.
    pub(super) fn ask_again(&mut self, shared: &mut Shared) {
        let due_tick = self.asking.sent_tick + u64::from(shared.config.heartbeat_ticks);
        if self.reads.awaits_primary() && shared.now_tick >= due_tick {
            self.ask(Wish::ReadIndex, shared);
        }
    }

    /// Asks the primary to hand its leadership over to this replica; it does if it can.
    pub(crate) fn ask_to_lead(&mut self, shared: &mut Shared) {
        self.ask(Wish::Leadership, shared);
    }

    /// Sends the primary a question, under the number of the last one.
    fn ask(&mut self, wish: Wish, shared: &mut Shared) {
        let Some(primary) = self.primary() else {
            return;
        };
        self.asking.sent_tick = shared.now_tick;
        let ask = Ask {
            group: self.id,
            replica: self.replica,
            incarnation: shared.log.incarnation(),
            number: self.asking.number,
        };
        shared.peers.ask(primary, ask, wish);
    }

    /// A member asks. Who does not lead says nothing: the asker hears of the new primary, and asks that.
    pub(crate) fn asked_by_follower(&mut self, from: NodeId, ask: Ask, wish: Wish, now_tick: u64) {
        if !self.leading() {
            return;
        }
        match wish {
            Wish::ReadIndex => self.reads.push_ask(from, ask, now_tick),
            Wish::Leadership => {
                // A refusal changes nothing; whether it worked shows in the status.
                let _ = self.raft.transfer(Some(ask.replica));
            }
        }
    }

    /// The primary has answered.
    pub(crate) fn read_index_told(&mut self, ask: &Ask, index: Index, shared: &Shared) {
        let is_own = ask.replica == self.replica && ask.incarnation == shared.log.incarnation();
        if is_own {
            let nobody = |_, _| {};
            (self.reads).confirmed((By::Primary, ask.number), index, nobody);
        }
    }
}
