//! The state as a whole: what it holds, how it begins, how a command changes it, what can be asked.
//!
//! [`State::apply`] is the only way to change it. It sees the entry and the state and nothing else, cannot
//! fail, and changes nothing when it refuses; so two replicas that applied the same entries hold the
//! same bytes. The verbs stand with what they are about: nodes (`registry.rs`), configs (`sharding.rs`),
//! moves (`moving.rs`), replicas and their orders (`replicas.rs`).
//!
//! Ids come from counters that only grow. The counters are part of the state, so that no id is given
//! out twice, whoever is primary and however often it changes.

use std::collections::BTreeMap;

use kvorum_base::{ClusterId, Epoch, GroupId, Index, NodeId, ReplicaId, Slot};

use crate::command::{Command, Request, Settings, ShardRef};
use crate::config::{Config, Configs};
use crate::issuers::Issuers;
use crate::limits::{CHANGES_OPEN_DEFAULT, MOVES_OPEN_DEFAULT};
use crate::maps::{Move, Owned};
use crate::nodes::{Node, NodeState};
use crate::numbers::{MoveId, OrderNumber};
use crate::orders::{Addressee, Order, Task};
use crate::recovery::Recovery;
use crate::reply::{Refusal, Reply};
use crate::runs::{SlotRuns, SlotTable};
use crate::shards::{MANAGER, Shard, Stage};

/// The ids to be given out next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counters {
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) order: OrderNumber,
    pub(crate) session: u64,
}

/// Everything that the shard manager knows.
///
/// Invariants are in `check.rs`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// The entry that was applied last.
    pub(crate) applied: Index,
    /// The version of what clients are shown.
    pub(crate) epoch: Epoch,
    /// Whether all shards may leave, so that the slots are wanted nowhere.
    pub(crate) last_shard_may_leave: bool,
    pub(crate) settings: Settings,
    pub(crate) next: Counters,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// All groups that are not gone, group 0 among them.
    pub(crate) shards: BTreeMap<GroupId, Shard>,
    pub(crate) configs: Configs,
    /// The actual map.
    pub(crate) slots: SlotTable<Owned>,
    pub(crate) moves: BTreeMap<MoveId, Move>,
    pub(crate) orders: BTreeMap<OrderNumber, Order>,
    pub(crate) issuers: Issuers,
    /// The newest recoveries of groups.
    pub(crate) recoveries: Vec<Recovery>,
    /// How often group 0 was recovered, and may have forgotten entries.
    pub(crate) generation: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            moves_open_max: MOVES_OPEN_DEFAULT,
            changes_open_max: CHANGES_OPEN_DEFAULT,
        }
    }
}

impl State {
    /// Applies one entry of the shard manager's log.
    ///
    /// # Panics
    /// If the index is not higher than the last one: an entry would be applied twice.
    pub fn apply(&mut self, index: Index, request: &Request) -> Reply {
        assert!(
            index > self.applied,
            "entry {index} after {} was applied",
            self.applied
        );
        self.applied = index;
        // What is named after its entry: indexes alone come again when entries were lost.
        let index = self.newness();
        if let Some((issuer, sequence)) = request.once
            && let Some(reply) = self.issuers.answered(issuer, sequence, index)
        {
            return reply;
        }
        let reply = self
            .execute(index, &request.command)
            .unwrap_or_else(Reply::Refused);
        if let Some((issuer, sequence)) = request.once {
            self.issuers.remember(issuer, sequence, &reply);
        }
        reply
    }

    fn execute(&mut self, index: Index, command: &Command) -> Result<Reply, Refusal> {
        match command {
            Command::RegisterNode {
                cluster,
                directory,
                addresses,
                capacity,
            } => self.register_node(*cluster, *directory, addresses, *capacity),
            Command::UpdateNode {
                node,
                directory,
                addresses,
                capacity,
            } => self.update_node(*node, *directory, addresses, *capacity),
            Command::ReportDead { node, witnesses } => self.report_dead(*node, witnesses),
            Command::ReportAlive { node, directory } => self.report_alive(*node, *directory),
            Command::ReportDamaged { node, directory } => self.report_damaged(*node, *directory),
            Command::DrainNode { node, draining } => self.drain_node(*node, *draining),
            Command::RemoveNode { node } => self.remove_node(*node),
            Command::Join { shards } => self.join(shards),
            Command::Leave { shards } => self.leave(shards),
            Command::Assign { slots, shard } => self.assign(slots, shard),
            Command::Rebalance => Ok(self.even_out()),
            Command::Retire { group } => self.retire(*group),
            Command::OpenMove { from, to, slots } => self.open_move(index, *from, *to, slots),
            Command::CancelMove { id } => self.cancel_move(*id),
            Command::CloseMove { id, evidence } => self.close_move(*id, *evidence),
            Command::ChangeReplicas {
                group,
                expected,
                add,
                remove,
            } => self.change_replicas(*group, *expected, *add, *remove),
            Command::AbandonChange { group } => self.abandon_change(*group),
            Command::SetReplicas { group, wanted } => self.set_replicas(*group, *wanted),
            Command::Transfer { group, to } => self.transfer(*group, *to),
            Command::CloseOrder { order, outcome } => self.close_order(*order, outcome),
            Command::ReportMembers { group, members } => self.report_members(*group, members),
            Command::Recover {
                group,
                replica,
                term,
            } => self.recover(*group, *replica, *term),
            Command::RecordRecovery {
                group,
                members,
                floor,
            } => self.record_recovery(*group, members, *floor),
            Command::Configure { settings } => self.configure(*settings),
            Command::IssueSessions { count } => self.issue_sessions(*count),
            Command::OpenIssuer => Ok(Reply::Issuer(self.issuers.open(index))),
        }
    }

    /// Says that what clients are shown has changed.
    pub(crate) fn touch(&mut self) {
        self.epoch = self.epoch.next();
    }

    /// Gives an order.
    pub(crate) fn order(&mut self, to: Addressee, group: GroupId, task: Task) -> OrderNumber {
        let number = self.next.order;
        self.next.order = number.next();
        let order = Order {
            to,
            group,
            task,
            withdrawn: false,
        };
        self.orders.insert(number, order);
        number
    }

    /// The shard that is meant, if it is one of the newest config.
    pub(crate) fn find(&self, shard: &ShardRef) -> Result<GroupId, Refusal> {
        let shards = &self.configs.newest().shards;
        let found = match shard {
            ShardRef::Group(group) => shards.contains_key(group).then_some(*group),
            ShardRef::Name(name) => shards
                .iter()
                .find(|(_, founding)| founding.name == *name)
                .map(|(group, _)| *group),
        };
        found.ok_or(Refusal::NoSuchShard)
    }
}

/// Questions.
impl State {
    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The index of the entry that was applied last.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The version of what clients are shown: who has which slot, on which nodes the voters are, and
    /// what is known of these nodes. Who is primary is not part of it; that changes without the
    /// shard manager.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What can be set.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// All nodes that are not gone.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// What a node is; nothing if its id was never given out.
    #[must_use]
    pub fn node_state(&self, node: NodeId) -> Option<NodeState> {
        match self.nodes.get(&node) {
            Some(node) => Some(node.state()),
            None => (node < self.next.node && node.get() > 0).then_some(NodeState::Gone),
        }
    }

    /// All groups that are not gone: those of the newest config, those that are leaving, and group 0.
    #[must_use]
    pub fn shards(&self) -> &BTreeMap<GroupId, Shard> {
        &self.shards
    }

    /// Whether a shard is to have slots.
    #[must_use]
    pub fn is_member(&self, group: GroupId) -> bool {
        self.configs.newest().shards.contains_key(&group)
    }

    /// Whether a group was there once and is not any more.
    #[must_use]
    pub fn is_gone(&self, group: GroupId) -> bool {
        group < self.next.group && !self.shards.contains_key(&group)
    }

    /// Whether a shard has been retired: its log can be asked no more. Never after a recovery of the shard
    /// manager, which may have forgotten shards that are there.
    #[must_use]
    pub fn is_retired(&self, group: GroupId) -> bool {
        let shard = self.shards.get(&group);
        let is_retired = shard.map_or(self.is_gone(group), |shard| shard.stage == Stage::Retired);
        let mut recoveries = self.recoveries().iter();
        is_retired && !recoveries.any(|recovery| recovery.group == MANAGER)
    }

    /// The numbered configs, the newest of which is the desired map.
    #[must_use]
    pub fn configs(&self) -> &Configs {
        &self.configs
    }

    /// The newest config.
    #[must_use]
    pub fn newest(&self) -> &Config {
        self.configs.newest()
    }

    /// The actual map: who has each slot, and by which move.
    #[must_use]
    pub fn slots(&self) -> &SlotTable<Owned> {
        &self.slots
    }

    /// Who has a slot; nobody if nobody ever had, or there is no such slot.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<GroupId> {
        self.slots.get(slot).and_then(|owned| owned.owner)
    }

    /// The move that brought a slot to who has it; 0 if none did.
    #[must_use]
    pub fn brought_by(&self, slot: Slot) -> MoveId {
        self.slots.get(slot).map_or(MoveId::ZERO, |owned| owned.by)
    }

    /// The actual map by its runs: first slot, last slot, who has them.
    pub fn owners(&self) -> impl Iterator<Item = (u16, u16, Option<GroupId>)> + '_ {
        self.slots
            .runs_by(|a, b| a.owner == b.owner)
            .map(|(first, last, owned)| (first, last, owned.owner))
    }

    /// The slots that a shard has.
    #[must_use]
    pub fn slots_of(&self, group: GroupId) -> SlotRuns {
        self.slots.slots_where(|owned| owned.owner == Some(group))
    }

    /// The open moves.
    #[must_use]
    pub fn moves(&self) -> &BTreeMap<MoveId, Move> {
        &self.moves
    }

    /// The open moves that a group has a part in, as source or as target.
    pub fn moves_of(&self, group: GroupId) -> impl Iterator<Item = (MoveId, &Move)> + '_ {
        self.moves
            .iter()
            .filter(move |(_, open)| open.from == Some(group) || open.to == group)
            .map(|(id, open)| (*id, open))
    }

    /// The orders that are outstanding.
    #[must_use]
    pub fn orders(&self) -> &BTreeMap<OrderNumber, Order> {
        &self.orders
    }

    /// The orders that a group has to carry out, in the order in which it has to take them.
    pub fn orders_for(&self, group: GroupId) -> impl Iterator<Item = (OrderNumber, &Order)> + '_ {
        self.orders_to(Addressee::Group(group))
    }

    /// The orders that a node has to carry out: replicas to make and to delete.
    pub fn orders_for_node(
        &self,
        node: NodeId,
    ) -> impl Iterator<Item = (OrderNumber, &Order)> + '_ {
        self.orders_to(Addressee::Node(node))
    }

    fn orders_to(&self, to: Addressee) -> impl Iterator<Item = (OrderNumber, &Order)> + '_ {
        self.orders
            .iter()
            .filter(move |(_, order)| order.to == to)
            .map(|(number, order)| (*number, order))
    }

    /// The groups that have fewer voters on living nodes than they should have replicas: with so
    /// many, and so many wanted.
    pub fn under_replicated(&self) -> impl Iterator<Item = (GroupId, usize, usize)> + '_ {
        self.shards.iter().filter_map(|(group, shard)| {
            let alive = |node: &NodeId| {
                let state = self.nodes.get(node).map(Node::state);
                matches!(state, Some(NodeState::In | NodeState::Draining))
            };
            let have = shard.voters().filter(|(_, node)| alive(node)).count();
            let wanted = usize::from(shard.wanted);
            (have < wanted).then_some((*group, have, wanted))
        })
    }

    /// Whether a node has a replica of a group, or still has to delete one.
    #[must_use]
    pub fn hosts(&self, node: NodeId, group: GroupId) -> bool {
        let shard = self.shards.get(&group);
        let has = shard.is_some_and(|shard| shard.replica_on(node).is_some());
        has || self
            .orders_for_node(node)
            .any(|(_, order)| order.group == group)
    }

    /// Whether a group is a shard, and not the shard manager.
    #[must_use]
    pub fn is_shard(group: GroupId) -> bool {
        group != MANAGER
    }
}
