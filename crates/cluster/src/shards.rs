//! Shards: which replicas a group has, where, and what is being changed about them.
//!
//! What is written here of a group's members is what the group itself committed, told as evidence
//! for an order. The shard manager never decides that a replica votes; it orders, the group's log
//! does, and the answer is recorded. Group 0, the shard manager itself, is kept like a shard that
//! never has slots.
//!
//! A replica comes in steps, each of them an order that is closed before the next is given: made on
//! its node, learner, voter; in the last step the one that it replaces stops being a voter, and only then
//! is told to delete itself. So a group never has fewer voters than before, and a majority never
//! counts a replica that holds nothing.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{GroupId, Index, NodeId, ReplicaId};

use crate::config::Founding;
use crate::numbers::OrderNumber;

/// The group of the shard manager.
pub const MANAGER: GroupId = GroupId(0);

/// What a replica is in its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It counts in majorities.
    Voter,
    /// It is on its way to that: not made yet, or catching up.
    Joining,
}

/// A replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replica {
    /// Where it lives, for life.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
}

/// Where a shard is in its life. Whether it is to have slots is said by the newest config alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Its replicas are being made; it has no majority yet.
    Founding,
    /// It works.
    Serving,
    /// It had to leave and has no slots left; its replicas are being deleted.
    Retired,
}

/// A change of a group's replicas that is under way.
///
/// Invariant: `order` is outstanding; it is the next step of the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The replica that is to become a voter.
    pub add: Option<ReplicaId>,
    /// The replica that is to go.
    pub remove: Option<ReplicaId>,
    /// The order that is being carried out.
    pub order: OrderNumber,
}

/// The members of a group, as the group committed them; never those of a joint phase, which ends by
/// itself and under another id.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Members {
    /// The index of the entry that brought them; 0 for the first ones.
    pub id: Index,
    /// Those that count.
    pub voters: BTreeSet<ReplicaId>,
    /// Those that only receive.
    pub learners: BTreeSet<ReplicaId>,
}

impl Members {
    /// Whether a replica takes part.
    #[must_use]
    pub fn has(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.learners.contains(&replica)
    }
}

/// A shard: one group.
///
/// Invariants: replicas live on different nodes; those in `change` are among the replicas; there is a
/// voter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    /// Its name, and where it began.
    pub founding: Founding,
    /// Its replicas.
    pub replicas: BTreeMap<ReplicaId, Replica>,
    /// How many it should have.
    pub wanted: u8,
    /// The id of the newest members that are known.
    pub membership: Index,
    /// Where it is in its life.
    pub stage: Stage,
    /// The replica that should lead, if any is better than another.
    pub preferred: Option<ReplicaId>,
    /// The change that is under way.
    pub change: Option<Change>,
    /// Replica ids below it that are not among the replicas were let go by a recovery; 0 if there never was
    /// one.
    pub floor: ReplicaId,
}

impl Shard {
    /// The replica on a node.
    #[must_use]
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.replicas
            .iter()
            .find(|(_, replica)| replica.node == node)
            .map(|(id, _)| *id)
    }

    /// Its voters.
    pub fn voters(&self) -> impl Iterator<Item = (ReplicaId, NodeId)> + '_ {
        self.replicas
            .iter()
            .filter(|(_, replica)| replica.role == Role::Voter)
            .map(|(id, replica)| (*id, replica.node))
    }

    /// Whether a replica is a voter of it.
    #[must_use]
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.replicas
            .get(&replica)
            .is_some_and(|replica| replica.role == Role::Voter)
    }

    /// Whether a replica was let go when the group was recovered without it: whatever it still says is void.
    #[must_use]
    pub fn has_let_go(&self, replica: ReplicaId) -> bool {
        replica < self.floor && !self.replicas.contains_key(&replica)
    }

    /// How many replicas it will have once its change is done.
    #[must_use]
    pub fn replicas_to_be(&self) -> usize {
        let leaving = self.change.and_then(|change| change.remove);
        self.replicas.len() - usize::from(leaving.is_some())
    }
}
