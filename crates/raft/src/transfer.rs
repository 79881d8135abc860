//! Handing the leadership over (Raft thesis, section 3.10).
//!
//! The leader stops taking proposals, brings the successor up to its last entry, and tells it to
//! stand at once; voters give it their votes although they hear a leader, since the request says
//! why. If nothing has come of it after an election timeout the leader goes on as before, and says so
//! to the caller, who may have a reason to try again: the next choice is another one. A late
//! [`Body::TimeoutNow`] does no harm: it starts an election as any timeout could.

use std::cmp::Reverse;
use std::fmt;

use kvorum_base::ReplicaId;

use crate::effect::Effect;
use crate::message::Body;
use crate::progress::Progress;
use crate::raft::{Raft, Role};

/// So many of the longest election timeouts one that did not take over is chosen only if all others
/// did not either.
const PASSED_OVER_ELECTIONS: u64 = 10;

/// A hand-over under way.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) to: ReplicaId,
    started_at: u64,
}

/// Why the leadership is not handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferRefused {
    /// Ask the leader.
    NotLeader,
    /// The replica is not a voter of the membership in force, or leads already.
    NotVoter(ReplicaId),
    /// No other voter was heard lately.
    Nobody,
}

impl fmt::Display for TransferRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader => write!(f, "not the leader"),
            Self::NotVoter(id) => write!(f, "replica {id} cannot take over"),
            Self::Nobody => write!(f, "no other voter was heard lately"),
        }
    }
}

impl std::error::Error for TransferRefused {}

impl Raft {
    /// Hands the leadership to a voter; `None` for the one that holds most, of those that have not
    /// failed to take over lately. [`Effect::RoleChanged`] or [`Effect::TransferFailed`] says how it
    /// ended. A second call replaces the first.
    ///
    /// # Errors
    /// If this replica does not lead or nobody can take over.
    pub fn transfer(&mut self, to: Option<ReplicaId>) -> Result<(), TransferRefused> {
        let best = self.best_successor();
        let Role::Leader(leader) = &mut self.role else {
            return Err(TransferRefused::NotLeader);
        };
        let to = match to {
            Some(to) if self.history.newest().voters.contains(&to) && to != self.config.id => to,
            Some(to) => return Err(TransferRefused::NotVoter(to)),
            None => best.ok_or(TransferRefused::Nobody)?,
        };
        leader.transfer = Some(Transfer {
            to,
            started_at: self.now,
        });
        self.send_appends(to);
        self.maybe_hand_over();
        Ok(())
    }

    /// Whether the leadership is being handed over.
    #[must_use]
    pub fn transferring(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.transfer.is_some())
    }

    /// The voter that holds most, of those heard lately. One that needs a snapshot could not stand yet;
    /// one that should have taken over and did not
    /// comes last for a while, whatever the reason: asking it again and again would be no hand-over.
    pub(crate) fn best_successor(&self) -> Option<ReplicaId> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let lately = u64::from(self.config.election_ticks_min);
        let passed_over = PASSED_OVER_ELECTIONS * u64::from(self.config.election_ticks_max);
        let failed_at = |peer: &Progress| {
            peer.transfer_failed_at
                .filter(|at| self.now - at < passed_over)
        };
        leader
            .peers
            .iter()
            .filter(|(id, peer)| {
                self.history.newest().voters.contains(id) && self.now - peer.heard_at < lately
            })
            .max_by_key(|(id, peer)| {
                let whole = peer.sending.is_none();
                let failed_at = Reverse(failed_at(peer));
                (whole, failed_at, peer.matched, Reverse(**id))
            })
            .map(|(id, _)| *id)
    }

    /// Tells the successor to stand, once it holds everything. Repeated at heartbeats, since a
    /// message may be lost.
    pub(crate) fn maybe_hand_over(&mut self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let Some(transfer) = &leader.transfer else {
            return;
        };
        let to = transfer.to;
        let holds_all = |matched| matched == self.log.last_index();
        if leader
            .peers
            .get(&to)
            .is_some_and(|peer| holds_all(peer.matched))
        {
            self.reply(to, Body::TimeoutNow);
        }
    }

    /// Gives a hand-over up after an election timeout, or when its successor left.
    pub(crate) fn tick_transfer(&mut self) {
        let patience = u64::from(self.config.election_ticks_max);
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let peers = &mut leader.peers;
        let over = leader.transfer.take_if(|transfer| {
            now - transfer.started_at >= patience || !peers.contains_key(&transfer.to)
        });
        if let Some(Transfer { to, .. }) = over {
            if let Some(peer) = peers.get_mut(&to) {
                peer.transfer_failed_at = Some(now);
            }
            self.out.emit(Effect::TransferFailed { to });
        }
    }
}
