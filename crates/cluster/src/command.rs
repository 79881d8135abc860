//! Commands: everything that changes the shard manager's state.
//!
//! A command is a fact or a decision, made by whoever proposed it: which nodes were chosen for a shard,
//! which slots a move takes along, who was not heard. So applying it needs no clock and no chance.
//! What a command was decided on may have changed before it is applied; each says what it expects, is
//! checked at apply, and is refused as a whole if that does not hold any more.

use kvorum_base::{ClusterId, GroupId, Index, NodeId, ReplicaId, Term};

use crate::maps::Evidence;
use crate::nodes::{Addresses, Capacity};
use crate::numbers::{IssuerId, MoveId, OrderNumber};
use crate::orders::Outcome;
use crate::runs::SlotRuns;
use crate::shards::Members;

/// A shard, as an operator or a program names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShardRef {
    /// By its group.
    Group(GroupId),
    /// By its name, among the shards of the newest config.
    Name(String),
}

/// A shard to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewShard {
    /// Its name; no other shard of the newest config may have it.
    pub name: String,
    /// Where its replicas go, each on another node; the first is its preferred primary. May be fewer
    /// than wanted: then it starts under-replicated.
    pub nodes: Vec<NodeId>,
    /// How many replicas it should have.
    pub wanted: u8,
}

/// A primary that has not heard a node for as long as makes one dead. Where most voters of a group are as
/// silent nobody can speak for it as its primary, and the shard manager's own primary does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Witness {
    /// The group that it is primary of; one that has a replica on the silent node.
    pub group: GroupId,
    /// The node that the one who speaks for it is on.
    pub node: NodeId,
}

/// What can be set while the cluster works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How many moves may be open at once, those of groups without a majority not counted.
    pub moves_open_max: u32,
    /// How many groups may change their replicas at once, those without a majority not counted.
    pub changes_open_max: u32,
}

/// A change of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// A data directory becomes a node. The same directory gets the same id, however often it asks.
    RegisterNode {
        /// The cluster that it was told to join.
        cluster: ClusterId,
        /// The directory's number; not 0.
        directory: u64,
        /// Where it is reached.
        addresses: Addresses,
        /// What it can hold.
        capacity: Capacity,
    },
    /// A node was started again, perhaps elsewhere.
    UpdateNode {
        /// The node.
        node: NodeId,
        /// Its directory's number.
        directory: u64,
        /// Where it is reached now.
        addresses: Addresses,
        /// What it can hold.
        capacity: Capacity,
    },
    /// A node was silent for long. The proposer, the shard manager's primary, says so of itself, and
    /// brings witnesses: a majority of the primaries of the groups that have a replica there. One
    /// partition between two machines is no death.
    ReportDead {
        /// The node.
        node: NodeId,
        /// Who else has not heard it.
        witnesses: Vec<Witness>,
    },
    /// A node that was called dead is heard.
    ReportAlive {
        /// The node.
        node: NodeId,
        /// Its directory's number.
        directory: u64,
    },
    /// A node says that it has lost promises.
    ReportDamaged {
        /// The node.
        node: NodeId,
        /// Its directory's number.
        directory: u64,
    },
    /// A node should give its replicas away and get no more, or may have some again.
    DrainNode {
        /// The node.
        node: NodeId,
        /// Whether it should.
        draining: bool,
    },
    /// A node that is draining, dead or damaged and has no replica any more is removed for ever.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// Adds shards, and makes the next config.
    Join {
        /// The shards.
        shards: Vec<NewShard>,
    },
    /// Takes shards away, and makes the next config. They go on serving what they have until it
    /// has moved away.
    Leave {
        /// The shards.
        shards: Vec<ShardRef>,
    },
    /// Wants slots in a shard, and makes the next config. The wish holds until the next one of
    /// `Join`, `Leave` and `Rebalance`. (The course's "Move".)
    Assign {
        /// The slots.
        slots: SlotRuns,
        /// The shard.
        shard: ShardRef,
    },
    /// Evens the slots out; makes the next config if they are not even.
    Rebalance,
    /// Deletes a shard that had to leave and has no slots left.
    Retire {
        /// Its group.
        group: GroupId,
    },
    /// Opens a move. Its id is the index of this command, far higher after a recovery of the manager.
    OpenMove {
        /// Who has the slots; none only if nobody ever had.
        from: Option<GroupId>,
        /// Who should have them by the newest config.
        to: GroupId,
        /// The slots.
        slots: SlotRuns,
    },
    /// Asks that a move ends without moving. If it does, the slots are wanted where they are.
    CancelMove {
        /// The move.
        id: MoveId,
    },
    /// Closes a move by what a group's log says of it.
    CloseMove {
        /// The move.
        id: MoveId,
        /// The proof.
        evidence: Evidence,
    },
    /// Begins to put a replica on a node, to take one away, or the one in the place of the other.
    ChangeReplicas {
        /// The group.
        group: GroupId,
        /// The id of the members that this was decided on.
        expected: Index,
        /// Where a replica is to be made.
        add: Option<NodeId>,
        /// The replica that is to go.
        remove: Option<ReplicaId>,
    },
    /// Asks that a change of replicas ends without having happened.
    AbandonChange {
        /// The group.
        group: GroupId,
    },
    /// Sets how many replicas a shard should have.
    SetReplicas {
        /// The group.
        group: GroupId,
        /// How many.
        wanted: u8,
    },
    /// Makes a voter the preferred primary, and orders the hand-over to it.
    Transfer {
        /// The group.
        group: GroupId,
        /// The voter.
        to: ReplicaId,
    },
    /// Closes an order by what became of it.
    CloseOrder {
        /// The order.
        order: OrderNumber,
        /// The evidence.
        outcome: Outcome,
    },
    /// A group has newer members than are known, and is not carrying out a change: what it says after
    /// it refused an order that was made for other members.
    ReportMembers {
        /// The group.
        group: GroupId,
        /// Its members.
        members: Members,
    },
    /// A shard lost its majority for good, and an operator accepts the loss: one of its replicas is to decide
    /// alone.
    Recover {
        /// The shard.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// The highest term that was seen at any of its replicas.
        term: Term,
    },
    /// A group was recovered: its log says that this replica is its only member. Records it; a change that
    /// was under way is given up, and all other replicas are let go.
    RecordRecovery {
        /// The group.
        group: GroupId,
        /// Its members now.
        members: Members,
        /// Ids below it, other than the member's, are let go.
        floor: ReplicaId,
    },
    /// Sets what can be set.
    Configure {
        /// All settings.
        settings: Settings,
    },
    /// Issues a block of ids for clients' sessions, to be given out by a node.
    IssueSessions {
        /// How many.
        count: u64,
    },
    /// Lets somebody number its commands; the reply has its id.
    OpenIssuer,
}

/// A command as it stands in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Who numbered it, and its number: applied at most once, and repeated with the same reply. An
    /// issuer has one command outstanding, and numbers rise. Without it a command that is
    /// repeated is applied again.
    pub once: Option<(IssuerId, u64)>,
    /// The command.
    pub command: Command,
}

impl From<Command> for Request {
    fn from(command: Command) -> Self {
        Self {
            once: None,
            command,
        }
    }
}
