//! What a command is answered with. A refused command has changed nothing.

use std::fmt;

use kvorum_base::{GroupId, Index, NodeId, ReplicaId, Slot};

use crate::numbers::{ConfigNumber, IssuerId, MoveId, OrderNumber};

/// The answer to a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Done, or it was so already.
    Done,
    /// The node's id.
    Node(NodeId),
    /// The number of the newest config, which this command made unless nothing had to change.
    Config(ConfigNumber),
    /// The shards have joined.
    Joined {
        /// The config that this made.
        config: ConfigNumber,
        /// Their groups, in the order of the command.
        groups: Vec<GroupId>,
    },
    /// The move is open.
    MoveOpened(MoveId),
    /// The order is given.
    Ordered(OrderNumber),
    /// Session ids from the first on, so many.
    Sessions {
        /// The first.
        first: u64,
        /// How many.
        count: u64,
    },
    /// The issuer's id.
    Issuer(IssuerId),
    /// Not done, and never will be by this command.
    Refused(Refusal),
}

/// Why a command was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The node was told to join another cluster.
    OtherCluster,
    /// A text is empty or too long, or a number out of its range.
    Malformed,
    /// A limit is reached.
    TooMany,
    /// There never was such a node.
    NoSuchNode(NodeId),
    /// The node was removed, or damaged, and never comes back.
    NodeGone(NodeId),
    /// The node has another data directory.
    OtherDirectory(NodeId),
    /// The node is not in: draining, dead, damaged or gone.
    NodeNotIn(NodeId),
    /// The node is in: drain it first.
    NodeIn(NodeId),
    /// The node has replicas, or orders about some are outstanding.
    HoldsReplicas(NodeId),
    /// Not enough primaries bear witness.
    Unproven {
        /// So many do.
        have: u32,
        /// So many must.
        need: u32,
    },
    /// There is no such shard.
    NoSuchShard,
    /// Another shard has this name.
    NameTaken,
    /// The replicas cannot be placed like this: none, too many, two on one node, or fewer wanted.
    BadReplicas,
    /// The last shards cannot leave: the slots would be nobody's.
    LastShard,
    /// The shard is not founded yet, or retired already.
    NotServing(GroupId),
    /// The shard is one of the newest config, or still has slots or open moves.
    StillNeeded(GroupId),
    /// The slots of a command: none, too many, or not there.
    BadSlots,
    /// The slot is not where the command says.
    NotOwner(Slot),
    /// The slot is not wanted where the command says.
    NotWanted(Slot),
    /// The slot is in an open move.
    SlotMoving(Slot),
    /// As many moves are open, or groups changing, as the settings allow.
    Busy,
    /// The move is not open: closed already, or never was.
    NoSuchMove(MoveId),
    /// Who says so may not, or says what does not belong here.
    WrongEvidence,
    /// The group is changing its replicas already.
    Changing(GroupId),
    /// The group is not changing its replicas.
    NotChanging(GroupId),
    /// The group has other members than the command expects; this is their id.
    OtherMembers(Index),
    /// The group has no such replica, or it is no voter.
    NoSuchReplica(ReplicaId),
    /// The node has, or had, a replica of the group.
    NodeTaken(NodeId),
    /// Fewer replicas than wanted would be left.
    BelowWanted,
    /// Another node is being replaced.
    OneNodeAtATime(NodeId),
    /// The order is not outstanding: closed already, or never given.
    NoSuchOrder(OrderNumber),
    /// An order of this kind is outstanding.
    OrderOutstanding(OrderNumber),
    /// The issuer is not known, or not any more. This command was not applied; whether earlier
    /// ones of it were is not known.
    NoSuchIssuer,
    /// The issuer's later command was applied already, and this one's answer is forgotten.
    Outdated,
    /// A majority of the group's voters is there: nothing is to be recovered.
    HasMajority(GroupId),
    /// The replica cannot go on alone: it is not there, has no whole state, or is in a newer term.
    CannotRecover(GroupId),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherCluster => write!(f, "this is another cluster"),
            Self::Malformed => write!(f, "a name or number is out of its range"),
            Self::TooMany => write!(f, "a limit is reached"),
            Self::NoSuchNode(node) => write!(f, "there is no node {node}"),
            Self::NodeGone(node) => write!(f, "node {node} is gone for ever"),
            Self::OtherDirectory(node) => write!(f, "node {node} has another data directory"),
            Self::NodeNotIn(node) => write!(f, "node {node} is not in"),
            Self::NodeIn(node) => write!(f, "node {node} is in; drain it first"),
            Self::HoldsReplicas(node) => write!(f, "node {node} has replicas"),
            Self::Unproven { have, need } => {
                write!(f, "{have} primaries miss the node, {need} must")
            }
            Self::NoSuchShard => write!(f, "there is no such shard"),
            Self::NameTaken => write!(f, "another shard has this name"),
            Self::BadReplicas => write!(f, "replicas cannot be placed like this"),
            Self::LastShard => write!(f, "the last shard cannot leave"),
            Self::NotServing(group) => write!(f, "shard {group} does not serve"),
            Self::StillNeeded(group) => write!(f, "shard {group} is still needed"),
            Self::BadSlots => write!(f, "no slots, too many, or not there"),
            Self::NotOwner(slot) => write!(f, "slot {slot} belongs to another shard"),
            Self::NotWanted(slot) => write!(f, "slot {slot} is not wanted there"),
            Self::SlotMoving(slot) => write!(f, "slot {slot} is moving"),
            Self::Busy => write!(f, "as many moves or changes are open as may be"),
            Self::NoSuchMove(id) => write!(f, "move {id} is not open"),
            Self::WrongEvidence => write!(f, "this proves nothing here"),
            Self::Changing(group) => write!(f, "group {group} is changing its replicas"),
            Self::NotChanging(group) => write!(f, "group {group} is not changing its replicas"),
            Self::OtherMembers(id) => write!(f, "the present members have id {id}"),
            Self::NoSuchReplica(replica) => write!(f, "there is no such replica: {replica}"),
            Self::NodeTaken(node) => write!(f, "node {node} has a replica of the group"),
            Self::BelowWanted => write!(f, "too few replicas would be left"),
            Self::OneNodeAtATime(node) => write!(f, "node {node} is being replaced first"),
            Self::NoSuchOrder(order) => write!(f, "order {order} is not outstanding"),
            Self::OrderOutstanding(order) => write!(f, "order {order} is outstanding"),
            Self::NoSuchIssuer => write!(f, "the issuer is not known"),
            Self::Outdated => write!(f, "a later command was applied already"),
            Self::HasMajority(group) => {
                write!(f, "group {group} has a majority: nothing to recover")
            }
            Self::CannotRecover(group) => write!(
                f,
                "the replica of group {group} there cannot go on alone: it is gone, has no whole state, or \
                 has changed since it was looked at"
            ),
        }
    }
}

impl std::error::Error for Refusal {}
