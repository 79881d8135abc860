//! The values that consensus is about: entries, memberships and what must survive a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Index, NodeId, ReplicaId, Term};

/// What an entry is for. Consensus looks at memberships only; everything else is the caller's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// The empty entry that every leader appends first: without an entry of its own term it may not
    /// count older ones as committed (Raft paper, section 5.4.2).
    Empty,
    /// A command of the caller.
    Command,
    /// A new set of members, in force as soon as it is in the log.
    Membership(Arc<Membership>),
}

/// One entry of the replicated log.
///
/// Invariants: `index` is at least 1; `data` is the whole encoded entry, made once by whoever
/// proposed it, so that the same bytes lie in the log, on the disk and on the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The position in the log.
    pub index: Index,
    /// The term of the leader that appended it.
    pub term: Term,
    /// What it is for.
    pub payload: Payload,
    /// The encoded entry. Opaque here.
    pub data: Bytes,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.payload {
            Payload::Empty => "empty",
            Payload::Command => "command",
            Payload::Membership(_) => "membership",
        };
        write!(f, "{}@{}:{kind}", self.index, self.term)
    }
}

/// The promises that a restart must not forget (Raft paper, figure 2, "persistent state").
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HardState {
    /// The highest term this replica has seen.
    pub term: Term,
    /// Who got its vote in that term.
    pub vote: Option<ReplicaId>,
}

/// Who takes part in a group.
///
/// Invariants: `voters` is never empty; `outgoing` is empty except in a joint phase (Raft thesis,
/// section 4.3), in which every decision needs a majority of both; learners are in neither; `nodes`
/// has exactly the replicas of the three sets.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Membership {
    /// The index of the entry that brought this membership; 0 for the first one. A change names the
    /// id it expects, so that two plans cannot mix.
    pub id: Index,
    /// The voters; in a joint phase the new ones.
    pub voters: BTreeSet<ReplicaId>,
    /// The old voters in a joint phase; else empty.
    pub outgoing: BTreeSet<ReplicaId>,
    /// Replicas that receive the log and count for nothing.
    pub learners: BTreeSet<ReplicaId>,
    /// Where each replica lives.
    pub nodes: BTreeMap<ReplicaId, NodeId>,
    /// Ids below it that are not among the replicas were let go by a recovery (`recovery.rs`) and are
    /// not heard any more; 0 if there never was one. It never goes back.
    pub floor: ReplicaId,
}

impl Membership {
    /// The first membership of a group: these voters and nobody else.
    #[must_use]
    pub fn initial(voters: impl IntoIterator<Item = (ReplicaId, NodeId)>) -> Self {
        let nodes: BTreeMap<ReplicaId, NodeId> = voters.into_iter().collect();
        Self {
            voters: nodes.keys().copied().collect(),
            nodes,
            ..Self::default()
        }
    }

    /// Whether two majorities are needed.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether this replica's vote counts in either set.
    #[must_use]
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.outgoing.contains(&replica)
    }

    /// Everyone that receives the log, in order.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.nodes.keys().copied()
    }
}
