//! How a cluster begins: from a plan that whoever makes it hands to every node of the shard manager.
//!
//! All of them make the same state of it, before the first entry. The groups of the plan are founded by
//! the plan, so there are no orders yet, and their slots are theirs from the beginning, in even and
//! contiguous runs. Config 0 has no shards, config 1 has those of the plan.

use std::collections::BTreeMap;

use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{ClusterId, Epoch, GroupId, Index, NodeId, ReplicaId};

use crate::command::Settings;
use crate::config::{Configs, Founding};
use crate::issuers::Issuers;
use crate::limits::{NODES_MAX, REPLICAS_MAX, SHARDS_MAX};
use crate::maps::Owned;
use crate::nodes::{Addresses, Capacity, Health, Node};
use crate::numbers::OrderNumber;
use crate::registry::addresses_are_sound;
use crate::reply::Refusal;
use crate::runs::SlotTable;
use crate::sharding::name_is_sound;
use crate::shards::{MANAGER, Replica, Role, Shard, Stage};
use crate::state::{Counters, State};

/// A node of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedNode {
    /// The number of its data directory; not 0.
    pub directory: u64,
    /// Where it is reached.
    pub addresses: Addresses,
    /// What it can hold.
    pub capacity: Capacity,
}

/// A group of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedGroup {
    /// The shard's name; ignored for the shard manager.
    pub name: String,
    /// Its replicas, each on another node.
    pub replicas: BTreeMap<ReplicaId, NodeId>,
    /// The replica that should lead.
    pub preferred: Option<ReplicaId>,
    /// How many replicas it should have; at least as many as it begins with.
    pub wanted: u8,
}

/// A cluster to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Its id, drawn at random.
    pub cluster: ClusterId,
    /// How many slots there are: 16384, or fewer in tests.
    pub slot_count: u16,
    /// Whether all shards may leave, so that the slots are wanted nowhere. The course's
    /// scenarios want it; a cluster with data does not.
    pub last_shard_may_leave: bool,
    /// What can be set.
    pub settings: Settings,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, PlannedNode>,
    /// The shard manager's group.
    pub manager: PlannedGroup,
    /// The shards.
    pub shards: BTreeMap<GroupId, PlannedGroup>,
}

impl State {
    /// The state in which a cluster begins.
    ///
    /// # Errors
    /// If the plan is none: no nodes, doubled directories or names, replicas on nodes that it does not
    /// have, or two of a group on one.
    pub fn initial(plan: &Plan) -> Result<Self, Refusal> {
        if plan.slot_count == 0 || plan.slot_count > SLOT_COUNT {
            return Err(Refusal::BadSlots);
        }
        let nodes = planned_nodes(plan)?;
        let mut manager = planned_group(plan, &plan.manager)?;
        manager.founding.name.clear();
        let mut shards = BTreeMap::from([(MANAGER, manager)]);
        for (group, planned) in &plan.shards {
            if *group == MANAGER || !name_is_sound(&planned.name) {
                return Err(Refusal::Malformed);
            }
            let shard = planned_group(plan, planned)?;
            let names = shards.values().map(|shard| &shard.founding.name);
            if names.into_iter().any(|name| *name == planned.name) {
                return Err(Refusal::NameTaken);
            }
            shards.insert(*group, shard);
        }
        if shards.len() > SHARDS_MAX {
            return Err(Refusal::TooMany);
        }
        let mut state = Self {
            cluster: plan.cluster,
            applied: Index::ZERO,
            epoch: Epoch::ZERO.next(),
            last_shard_may_leave: plan.last_shard_may_leave,
            settings: Settings::default(),
            next: counters(&nodes, &shards),
            nodes,
            configs: configs(plan.slot_count, &shards),
            shards,
            slots: SlotTable::filled(plan.slot_count, Owned::default()),
            moves: BTreeMap::new(),
            orders: BTreeMap::new(),
            issuers: Issuers::default(),
            recoveries: Vec::new(),
            generation: 0,
        };
        state.configure(plan.settings)?;
        for (first, last, owner) in state.configs.newest().slots.runs() {
            for owned in state.slots.cells_mut(first, last) {
                owned.owner = *owner;
            }
        }
        Ok(state)
    }
}

fn planned_nodes(plan: &Plan) -> Result<BTreeMap<NodeId, Node>, Refusal> {
    if plan.nodes.is_empty() || plan.nodes.len() > NODES_MAX {
        return Err(Refusal::TooMany);
    }
    let mut nodes: BTreeMap<NodeId, Node> = BTreeMap::new();
    for (id, planned) in &plan.nodes {
        let doubled = nodes
            .values()
            .any(|node| node.directory == planned.directory);
        let sound = addresses_are_sound(&planned.addresses);
        if id.get() == 0 || planned.directory == 0 || doubled || !sound {
            return Err(Refusal::Malformed);
        }
        let node = Node {
            directory: planned.directory,
            addresses: planned.addresses.clone(),
            capacity: planned.capacity,
            health: Health::Alive,
            draining: false,
        };
        nodes.insert(*id, node);
    }
    Ok(nodes)
}

fn planned_group(plan: &Plan, planned: &PlannedGroup) -> Result<Shard, Refusal> {
    let count = planned.replicas.len();
    let wanted = usize::from(planned.wanted);
    let mut nodes: Vec<NodeId> = planned.replicas.values().copied().collect();
    nodes.sort_unstable();
    nodes.dedup();
    let known = nodes.iter().all(|node| plan.nodes.contains_key(node));
    let led = planned
        .preferred
        .is_none_or(|replica| planned.replicas.contains_key(&replica));
    let in_range = (count..=REPLICAS_MAX).contains(&wanted);
    if count == 0 || nodes.len() != count || !known || !led || !in_range {
        return Err(Refusal::BadReplicas);
    }
    let voter = |node: &NodeId| Replica {
        node: *node,
        role: Role::Voter,
    };
    Ok(Shard {
        founding: Founding {
            name: planned.name.clone(),
            nodes: planned.replicas.values().copied().collect(),
        },
        replicas: planned
            .replicas
            .iter()
            .map(|(id, node)| (*id, voter(node)))
            .collect(),
        wanted: planned.wanted,
        membership: Index::ZERO,
        stage: Stage::Serving,
        preferred: planned.preferred,
        change: None,
        floor: ReplicaId::default(),
    })
}

fn configs(slot_count: u16, shards: &BTreeMap<GroupId, Shard>) -> Configs {
    let mut configs = Configs::new(slot_count);
    let founding: BTreeMap<GroupId, Founding> = shards
        .iter()
        .filter(|(group, _)| **group != MANAGER)
        .map(|(group, shard)| (*group, shard.founding.clone()))
        .collect();
    if !founding.is_empty() {
        configs.join(founding);
    }
    configs
}

fn counters(nodes: &BTreeMap<NodeId, Node>, shards: &BTreeMap<GroupId, Shard>) -> Counters {
    let node = nodes.keys().last().map_or(0, |node| node.get());
    let group = shards.keys().last().map_or(0, |group| group.get());
    let replicas = shards.values().flat_map(|shard| shard.replicas.keys());
    let replica = replicas.max().map_or(0, |replica| replica.get());
    Counters {
        node: NodeId(node + 1),
        group: GroupId(group + 1),
        replica: ReplicaId(replica + 1),
        order: OrderNumber(1),
        session: 1,
    }
}
