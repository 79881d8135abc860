//! What the cluster is made with: the first replicas of its groups, and the plan that its shard manager
//! begins with.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{ClusterId, GroupId, NodeId, ReplicaId, SlotSet};
use kvorum_cluster::limits::REPLICAS_MAX;
use kvorum_cluster::{Capacity, MANAGER, Plan, PlannedGroup, PlannedNode, Settings, State};
use kvorum_node::GroupSpec;

use super::options::{Options, addresses_of, node_id};

/// The cluster that is simulated.
pub const CLUSTER: ClusterId = ClusterId(7);

/// The number of a machine's directory.
#[must_use]
pub fn directory_of(machine: usize) -> u64 {
    1000 + machine as u64
}

impl Options {
    /// The shards that it begins with.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        (1..=self.shards).map(GroupId)
    }

    /// The groups that the nodes are made members of when the cluster is made. What slots they begin with is
    /// said by the shard manager's state.
    pub(super) fn specs(&self) -> Vec<GroupSpec> {
        let plan = self.plan();
        let state = State::initial(&plan).expect("a sound plan");
        let manager = self.seats().then(|| GroupSpec {
            group: MANAGER,
            slots: Arc::default(),
            replicas: plan.manager.replicas.clone(),
            preferred: None,
        });
        let shards = plan.shards.iter().map(|(group, planned)| {
            let slots = state.slots_of(*group);
            let preferred = planned.preferred.map(|replica| planned.replicas[&replica]);
            GroupSpec {
                group: *group,
                slots: Arc::new(SlotSet::of_runs(slots.runs().iter().copied())),
                replicas: planned.replicas.clone(),
                preferred,
            }
        });
        manager.into_iter().chain(shards).collect()
    }

    /// One replica on each node of the beginning, for the group with this place among all. (Labs with more
    /// nodes than a group has replicas bring groups of their own.)
    fn replicas_at(&self, place: u64) -> BTreeMap<ReplicaId, NodeId> {
        let nodes = self.nodes as u64;
        let replica = |node: u64| (ReplicaId(place * nodes + node), NodeId(node));
        (1..=nodes.min(REPLICAS_MAX as u64)).map(replica).collect()
    }

    /// The cluster as it begins.
    pub(crate) fn plan(&self) -> Plan {
        let nodes = (0..self.nodes).map(|machine| {
            let node = PlannedNode {
                directory: directory_of(machine),
                addresses: addresses_of(node_id(machine)),
                capacity: Capacity::default(),
            };
            (node_id(machine), node)
        });
        let shard = |group: GroupId| {
            let place = group.get() - 1;
            let replicas = self.replicas_at(place);
            let preferred = replicas.keys().nth(place as usize % self.nodes).copied();
            PlannedGroup {
                name: format!("shard {group}"),
                wanted: replicas.len() as u8,
                preferred: preferred.filter(|_| self.is_managed()),
                replicas,
            }
        };
        let managers = match self.seats() {
            true => self.replicas_at(self.shards),
            // Kept beside the nodes it has no replicas, and is never asked to do anything about them.
            false => BTreeMap::from([(ReplicaId(100), node_id(0))]),
        };
        let manager = PlannedGroup {
            name: String::new(),
            wanted: managers.len() as u8,
            replicas: managers,
            preferred: None,
        };
        Plan {
            cluster: CLUSTER,
            slot_count: SLOT_COUNT,
            last_shard_may_leave: false,
            settings: Settings {
                moves_open_max: 3,
                changes_open_max: 3,
            },
            nodes: nodes.collect(),
            manager,
            shards: self.groups().map(|group| (group, shard(group))).collect(),
        }
    }
}
