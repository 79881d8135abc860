//! Handing the leadership over (Raft thesis, section 3.10).
//!
//! The leader stops taking proposals, brings the successor up to its last entry, and tells it to
//! stand at once; voters give it their votes although they hear a leader, since the request says
//! why. If nothing has come of it after an election timeout the leader goes on as before. A late
//! [`Body::TimeoutNow`] does no harm: it starts an election as any timeout could.

use std::fmt;

use kvorum_base::ReplicaId;

use crate::message::Body;
use crate::raft::{Raft, Role};

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
    /// Hands the leadership to a voter; `None` for the one that holds most. Whether it worked shows
    /// in [`crate::Effect::RoleChanged`]. A second call replaces the first.
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

    /// The voter that holds most, of those heard lately.
    pub(crate) fn best_successor(&self) -> Option<ReplicaId> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let lately = u64::from(self.config.election_ticks_min);
        leader
            .peers
            .iter()
            .filter(|(id, peer)| {
                self.history.newest().voters.contains(id) && self.now - peer.heard_at < lately
            })
            .max_by_key(|(id, peer)| (peer.matched, std::cmp::Reverse(**id)))
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
        if let Role::Leader(leader) = &mut self.role {
            let peers = &leader.peers;
            leader.transfer.take_if(|transfer| {
                now - transfer.started_at >= patience || !peers.contains_key(&transfer.to)
            });
        }
    }
}
