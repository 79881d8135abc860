//! Orders: what the shard manager wants a group or a node to do.
//!
//! Every order is made by an entry of the shard manager's log and has a number that grows. A group
//! takes the orders for it in the order of their numbers, writes the highest it has taken into its
//! own log, and refuses lower ones. Why:
//! 1. the manager orders "put a replica on node 4 in the place of the one on node 3", and the message
//!    is held up;
//! 2. the manager learns that node 3 is back, withdraws the order and gives another;
//! 3. the late message arrives. Its number is below the one that the group has taken: nothing happens.
//!
//! An order is outstanding until it is closed by evidence of what became of it; silence closes
//! nothing. An order that should not be carried out any more is marked as withdrawn. That asks the group
//! to refuse it, also if it has taken it and waits for something, such as a learner that never catches up
//! because its node died. Done or refused is for the group's log to decide, once.

use std::collections::BTreeMap;
use std::fmt;

use kvorum_base::{GroupId, Index, NodeId, ReplicaId, Term};

use crate::numbers::MoveId;
use crate::shards::Members;

/// Who has to carry an order out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressee {
    /// A group, by its log.
    Group(GroupId),
    /// A node, beside any group.
    Node(NodeId),
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Task {
    /// Make a replica, once. The only thing that ever makes one.
    CreateReplica {
        /// The replica.
        replica: ReplicaId,
        /// Where.
        node: NodeId,
        /// The first voters of a new group, this one among them; empty if the group is there
        /// already and will send what it has.
        founders: BTreeMap<ReplicaId, NodeId>,
    },
    /// Take a replica in as a learner.
    AddLearner {
        /// The replica.
        replica: ReplicaId,
        /// Where it lives.
        node: NodeId,
        /// The id of the members that the order was made for.
        expected: Index,
    },
    /// Make a learner a voter once it has caught up, and another no voter, in one change.
    Promote {
        /// The learner.
        replica: ReplicaId,
        /// Who goes.
        removing: Option<ReplicaId>,
        /// The id of the members that the order was made for.
        expected: Index,
    },
    /// Take a voter or learner out.
    Remove {
        /// The replica.
        replica: ReplicaId,
        /// The id of the members that the order was made for.
        expected: Index,
    },
    /// Hand the primary's role over. Comes to nothing if something is in the way.
    TransferPrimary {
        /// To whom.
        to: ReplicaId,
    },
    /// Begin an open move: for its source, or, where nobody ever had the slots, for its target.
    StartMove {
        /// The move.
        id: MoveId,
    },
    /// Delete a replica, and remember that it is gone. Given only after its group committed members
    /// without it, or is retired as a whole.
    DeleteReplica {
        /// The replica.
        replica: ReplicaId,
        /// Where it lives.
        node: NodeId,
    },
    /// Decide alone from now on, since an operator says that the majority is lost for good. To the replica's
    /// node; it is refused where a majority is heard. What the group's log then says ends it
    /// (`RecordRecovery`).
    Recover {
        /// The replica.
        replica: ReplicaId,
        /// The highest term that was seen at any replica.
        term: Term,
        /// Ids below it, other than this replica's, are let go.
        floor: ReplicaId,
    },
}

/// An order that is outstanding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// Who has to carry it out.
    pub to: Addressee,
    /// The group that it is about.
    pub group: GroupId,
    /// What is to be done.
    pub task: Task,
    /// Whether it should not be carried out any more.
    pub withdrawn: bool,
}

/// What became of an order: the evidence that closes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The node made the replica, durably.
    Created,
    /// The node deleted the replica, and remembers that it is gone.
    Deleted,
    /// The group committed these members.
    Members(Members),
    /// The replica leads.
    Transferred,
    /// The order was not and will not be carried out: the group's log has refused it or taken a higher
    /// one before it, or the node has the replica deleted.
    Refused,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateReplica { replica, node, .. } => {
                write!(f, "make replica {replica} on node {node}")
            }
            Self::AddLearner { replica, node, .. } => {
                write!(f, "add learner {replica} on node {node}")
            }
            Self::Promote {
                replica, removing, ..
            } => match removing {
                Some(removed) => write!(f, "replace replica {removed} by {replica}"),
                None => write!(f, "promote replica {replica}"),
            },
            Self::Remove { replica, .. } => write!(f, "remove replica {replica}"),
            Self::TransferPrimary { to } => write!(f, "transfer primary to replica {to}"),
            Self::StartMove { id } => write!(f, "start move {id}"),
            Self::Recover { replica, .. } => write!(f, "recover with replica {replica} alone"),
            Self::DeleteReplica { replica, node } => {
                write!(f, "delete replica {replica} on node {node}")
            }
        }
    }
}
