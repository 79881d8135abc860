//! Replicas come and go by order, and only so: one that was deleted never comes back, one that was let go is
//! never a member again, and one becomes a voter only when it holds what was committed when that was
//! ordered, and a state.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{Index, ReplicaId};
use kvorum_raft::{Membership, Raft};

/// What a replica was seen to have.
#[derive(Clone, Copy, Default, Debug)]
struct Held {
    /// Its disk holds everything up to here.
    persisted: Index,
    has_had_state: bool,
}

/// What is known of the members of one group.
#[derive(Default, Debug)]
pub struct Members {
    held: BTreeMap<ReplicaId, Held>,
    /// What was committed when a learner was ordered to become a voter.
    needed: BTreeMap<ReplicaId, Index>,
    /// Those that are never voters: the group refused to make them such.
    refused: BTreeSet<ReplicaId>,
    /// Those that were ordered to be deleted, since the group went on without them.
    let_go: BTreeSet<ReplicaId>,
    /// Those of which it is proven that they are deleted.
    deleted: BTreeSet<ReplicaId>,
    /// The voters of the last membership.
    voters: BTreeSet<ReplicaId>,
}

impl Members {
    /// A learner is ordered to become a voter, when so much is committed.
    pub fn promoted(&mut self, replica: ReplicaId, commit: Index) {
        self.needed.insert(replica, commit);
    }

    /// It is proven that a learner does not become a voter: its group refused the order.
    pub fn not_promoted(&mut self, replica: ReplicaId) {
        self.refused.insert(replica);
    }

    /// A replica is ordered to be deleted, since its group committed members without it.
    pub fn let_go(&mut self, replica: ReplicaId) {
        self.let_go.insert(replica);
    }

    /// It is proven that a replica is deleted.
    pub fn deleted(&mut self, replica: ReplicaId) {
        self.deleted.insert(replica);
    }

    /// Looks at a replica after a turn.
    ///
    /// # Errors
    /// If it was deleted once.
    pub fn looked_at(&mut self, raft: &Raft, has_state: bool) -> Result<(), String> {
        let replica = raft.id();
        if self.deleted.contains(&replica) {
            return Err(format!("replica {replica} was deleted, and is here again"));
        }
        let held = self.held.entry(replica).or_default();
        held.persisted = held.persisted.max(raft.persisted_index());
        held.has_had_state |= has_state;
        Ok(())
    }

    /// These members were committed, for the first time that anybody saw.
    ///
    /// # Errors
    /// If one of them must not be what it is.
    pub fn committed(&mut self, membership: &Membership) -> Result<(), String> {
        let id = membership.id;
        if let Some(replica) = membership.replicas().find(|id| self.let_go.contains(id)) {
            return Err(format!(
                "replica {replica} was let go, and is a member by {id}"
            ));
        }
        if let Some(replica) = membership.voters.intersection(&self.refused).next() {
            return Err(format!(
                "replica {replica} is a voter by {id}, which its group had refused"
            ));
        }
        let before = std::mem::replace(&mut self.voters, membership.voters.clone());
        for replica in membership.voters.difference(&before) {
            let Some(needed) = self.needed.get(replica) else {
                continue;
            };
            let held = self.held.get(replica).copied().unwrap_or_default();
            if held.persisted < *needed || !held.has_had_state {
                return Err(format!(
                    "replica {replica} is a voter by {id} with {held:?}, and {needed} was committed"
                ));
            }
        }
        Ok(())
    }
}
