//! What an operator does when a group's majority is lost for good, and what stays of it.
//!
//! A shard is recovered by an order to one node: its replica decides alone from then on. As with every order
//! the group's log has the last word, and what it says is recorded here: all other replicas are let go, and
//! the shard is filled up again like any that lacks replicas. It also ends what was under way with its
//! replicas; moves go on, since both logs know how far they are.
//!
//! Group 0 cannot be ordered to do anything without its majority. Its own log has an entry for it, and
//! applying that is the record. What only the lost replicas had of that log is forgotten, and may have been
//! told to nodes and groups before:
//!
//! 1. Nodes 2 and 3 commit "make replica 12 on node 4", node 4 makes it, and both are lost for good.
//! 2. Node 1 goes on alone. It knows of no replica 12, and makes one on node 5.
//! 3. Two replicas of one group have one id. Either can vote in the other's name.
//!
//! So a recovered manager gives out no id that could have been given out before: all counters skip many. A
//! state also says how often that happened, since the number of entries alone does not tell any more which of
//! two states is newer.

use kvorum_base::{Epoch, GroupId, Index, NodeId, ReplicaId, Term};

use crate::limits::RECOVERIES_KEPT_MAX;
use crate::nodes::Health;
use crate::numbers::OrderNumber;
use crate::orders::{Addressee, Task};
use crate::reply::{Refusal, Reply};
use crate::shards::{MANAGER, Members};
use crate::state::State;

/// So many node and group ids a recovered manager leaves out: more than one order gives out at once, and few
/// enough that people can still read them.
const PLACES_SKIPPED: u64 = 10_000;
/// So many numbers of orders and replicas.
const NUMBERS_SKIPPED: u64 = 1_000_000;
/// So many session ids, and versions of what clients are shown.
const FAR: u64 = 1 << 32;
/// Entries that a manager's log never has between two recoveries.
const ENTRIES_BITS: u32 = 40;
/// No id or term of a recovery is as high as two to this.
const NUMBER_BITS: u32 = 60;

/// A group that went on with one replica because its majority was lost. What only the others had is gone,
/// acknowledged or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// The group.
    pub group: GroupId,
    /// The replica that it went on with.
    pub replica: ReplicaId,
    /// The node that it was on.
    pub node: NodeId,
    /// The entry of the group's log from which on it decided alone.
    pub at: Index,
}

impl State {
    /// How new this state is: of two of one cluster the one with the higher number. Counts the entries, and
    /// before them how often the manager lost some.
    #[must_use]
    pub fn newness(&self) -> Index {
        Index((self.generation << ENTRIES_BITS) + self.applied.get())
    }

    /// The newest recoveries, the last one last.
    #[must_use]
    pub fn recoveries(&self) -> &[Recovery] {
        &self.recoveries
    }

    /// The lowest id that group 0 can have as its floor if it is recovered now: far above all that the lost
    /// replicas can have given out.
    #[must_use]
    pub fn manager_floor(&self) -> ReplicaId {
        ReplicaId(self.next.replica.get() + NUMBERS_SKIPPED)
    }

    /// The order to recover a group that is outstanding.
    pub(crate) fn recovery_ordered(&self, group: GroupId) -> Option<OrderNumber> {
        let recovers = |task: &Task| matches!(task, Task::Recover { .. });
        let mut orders = self.orders.iter();
        let found = orders.find(|(_, order)| order.group == group && recovers(&order.task));
        found.map(|(number, _)| *number)
    }

    /// Orders a replica to go on alone. Whether the majority is really silent only nodes can tell.
    pub(crate) fn recover(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        term: Term,
    ) -> Result<Reply, Refusal> {
        let shard = self.serving(group)?;
        if group == MANAGER {
            // Whoever applies this has one.
            return Err(Refusal::HasMajority(group));
        }
        if term.get() >> NUMBER_BITS != 0 {
            return Err(Refusal::Malformed);
        }
        let known = shard.replicas.get(&replica);
        let node = known.ok_or(Refusal::NoSuchReplica(replica))?.node;
        let makes = |task: &Task| match task {
            Task::CreateReplica { replica: made, .. } => *made == replica,
            _ => false,
        };
        if self.orders.values().any(|order| makes(&order.task)) {
            return Err(Refusal::NoSuchReplica(replica));
        }
        if self.nodes[&node].health == Health::Damaged {
            return Err(Refusal::NodeGone(node));
        }
        if let Some(order) = self.recovery_ordered(group) {
            return Err(Refusal::OrderOutstanding(order));
        }
        let task = Task::Recover {
            replica,
            term,
            floor: self.next.replica,
        };
        Ok(Reply::Ordered(self.order(
            Addressee::Node(node),
            group,
            task,
        )))
    }

    /// A group's log says that it went on alone. Said twice it is refused: its floor is known then.
    pub(crate) fn record_recovery(
        &mut self,
        group: GroupId,
        members: &Members,
        floor: ReplicaId,
    ) -> Result<Reply, Refusal> {
        let shard = self.serving(group)?;
        let alone = members.voters.first().filter(|_| members.voters.len() == 1);
        let survivor = alone.and_then(|id| Some((*id, shard.replicas.get(id)?.node)));
        let is_new = floor > shard.floor && floor.get() >> NUMBER_BITS == 0;
        let Some((replica, node)) = survivor.filter(|_| is_new && members.learners.is_empty())
        else {
            return Err(Refusal::WrongEvidence);
        };
        let kept =
            |task: &Task| matches!(task, Task::StartMove { .. } | Task::DeleteReplica { .. });
        self.orders
            .retain(|_, order| order.group != group || kept(&order.task));
        // Before anything is ordered: the others' orders are forgotten, too.
        self.next.replica = self.next.replica.max(floor);
        if group == MANAGER {
            self.skip_what_may_be_taken();
        }
        let shard = self.shard_mut(group);
        shard.change = None;
        shard.floor = floor;
        let others = shard.replicas.keys().filter(|id| **id != replica);
        let lost: Vec<ReplicaId> = others.copied().collect();
        self.absorb(group, members);
        for replica in lost {
            self.drop_replica(group, replica);
        }
        if self.recoveries.len() >= RECOVERIES_KEPT_MAX {
            self.recoveries.remove(0);
        }
        self.recoveries.push(Recovery {
            group,
            replica,
            node,
            at: members.id,
        });
        Ok(Reply::Done)
    }

    fn skip_what_may_be_taken(&mut self) {
        self.generation += 1;
        let next = &mut self.next;
        next.node = NodeId(next.node.get() + PLACES_SKIPPED);
        next.group = GroupId(next.group.get() + PLACES_SKIPPED);
        next.replica = ReplicaId(next.replica.get() + NUMBERS_SKIPPED);
        next.order = OrderNumber(next.order.get() + NUMBERS_SKIPPED);
        next.session += FAR;
        self.epoch = Epoch(self.epoch.get() + FAR);
    }
}
