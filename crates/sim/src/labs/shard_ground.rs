//! The ground of the sharding labs: which servers there are, what the cluster begins with, and which key is
//! in which shard.
//!
//! The labs' controller is the shard manager's own group, on three servers that hold nothing else. Each of
//! the labs' groups has three servers of its own. Servers that are not of the beginning run from the start
//! and hold nothing until their group joins.
//!
//! The labs have ten shards, later twelve. Here that is how many slots the cluster has. A key's slot is a
//! hash of its tag, so keys of shard *n* have a tag that falls into slot *n*. A cluster with data is never
//! without a shard, so the group that joins first in a scenario is there from its beginning.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use kvorum_base::slot::slot_of;
use kvorum_base::{ClusterId, GroupId, NodeId, ReplicaId, SlotSet};
use kvorum_cluster::{
    Capacity, Command, MANAGER, NewShard, Plan, PlannedGroup, PlannedNode, Settings, State,
};
use kvorum_node::{Config, GroupSpec};

use crate::cluster::options::{addresses_of, node_id};

/// How many servers each group has, the controller's among them.
pub const SERVERS: usize = 3;

/// The servers and what they begin with.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The labs' groups, counted from 0.
    groups: usize,
    shards: u16,
    plan: Arc<Plan>,
    specs: Vec<GroupSpec>,
    /// By shard.
    tags: Vec<String>,
}

impl Ground {
    /// So many groups and shards; the first `founders` groups have the shards between them at first.
    ///
    /// # Panics
    /// If that is no cluster.
    #[must_use]
    pub fn new(groups: usize, shards: u16, founders: usize) -> Self {
        let plan = plan_of(groups, shards, founders);
        let state = State::initial(&plan).expect("a sound plan");
        let shards_of = plan.shards.iter().map(|(id, group)| GroupSpec {
            group: *id,
            slots: Arc::new(SlotSet::of_runs(state.slots_of(*id).runs().iter().copied())),
            replicas: group.replicas.clone(),
            preferred: group.preferred.map(|replica| group.replicas[&replica]),
        });
        let manager = GroupSpec {
            group: MANAGER,
            slots: Arc::default(),
            replicas: plan.manager.replicas.clone(),
            preferred: None,
        };
        let specs = shards_of.chain([manager]).collect();
        Self {
            groups,
            shards,
            plan: Arc::new(plan),
            specs,
            tags: tags(shards),
        }
    }

    /// What the cluster begins with.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How many servers there are.
    #[must_use]
    pub fn servers(&self) -> usize {
        SERVERS * (1 + self.groups)
    }

    /// The labs' groups.
    #[must_use]
    pub fn groups(&self) -> Range<usize> {
        0..self.groups
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The servers of the controller.
    #[must_use]
    pub fn controllers(&self) -> Range<usize> {
        0..SERVERS
    }

    /// The servers of a group.
    #[must_use]
    pub fn servers_of(&self, group: usize) -> Range<usize> {
        servers_of(group)
    }

    /// The key that is called this, in this shard.
    #[must_use]
    pub fn key(&self, shard: u16, name: &str) -> String {
        format!("{{{}}}{name}", self.tags[usize::from(shard)])
    }

    /// The order that has groups join.
    #[must_use]
    pub fn joining(&self, groups: &[usize]) -> Command {
        let shard = |group: &usize| NewShard {
            name: name_of(*group),
            nodes: servers_of(*group).map(node_id).collect(),
            wanted: SERVERS as u8,
        };
        Command::Join {
            shards: groups.iter().map(shard).collect(),
        }
    }

    /// What a server is told at its start.
    pub(super) fn configure(&self, config: Config) -> Config {
        Config {
            groups: self.specs.clone(),
            founding: Some(Arc::clone(&self.plan)),
            ..config
        }
    }
}

/// What the shard of a group is called.
#[must_use]
pub fn name_of(group: usize) -> String {
    format!("group {group}")
}

fn servers_of(group: usize) -> Range<usize> {
    let first = SERVERS * (1 + group);
    first..first + SERVERS
}

/// The cluster as it begins.
fn plan_of(groups: usize, shards: u16, founders: usize) -> Plan {
    let mut replicas_made = 0;
    let mut group_on = |name: String, servers: Range<usize>| {
        let replicas = servers.map(|server| {
            replicas_made += 1;
            (ReplicaId(replicas_made), node_id(server))
        });
        let replicas: BTreeMap<ReplicaId, NodeId> = replicas.collect();
        PlannedGroup {
            name,
            preferred: replicas.keys().next().copied(),
            wanted: replicas.len() as u8,
            replicas,
        }
    };
    let manager = group_on(String::new(), 0..SERVERS);
    let founded = (0..founders).map(|group| {
        let id = GroupId(1 + group as u64);
        (id, group_on(name_of(group), servers_of(group)))
    });
    let shards_of = founded.collect();
    let nodes = (0..SERVERS * (1 + groups)).map(|server| {
        let node = PlannedNode {
            directory: 1 + server as u64,
            addresses: addresses_of(node_id(server)),
            capacity: Capacity::default(),
        };
        (node_id(server), node)
    });
    Plan {
        cluster: ClusterId(7),
        slot_count: shards,
        last_shard_may_leave: false,
        settings: Settings::default(),
        nodes: nodes.collect(),
        manager: PlannedGroup {
            preferred: None,
            ..manager
        },
        shards: shards_of,
    }
}

/// A tag for each of the first slots.
fn tags(shards: u16) -> Vec<String> {
    let mut tags: Vec<Option<String>> = vec![None; usize::from(shards)];
    let mut missing = shards;
    for number in 0_u32.. {
        if missing == 0 {
            break;
        }
        let tag = number.to_string();
        let slot = usize::from(slot_of(tag.as_bytes()).get());
        if let Some(place @ None) = tags.get_mut(slot) {
            *place = Some(tag);
            missing -= 1;
        }
    }
    tags.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_its_shard_and_groups_have_servers_of_their_own() {
        let ground = Ground::new(3, 10, 2);
        for shard in 0..10 {
            let key = ground.key(shard, "any");
            assert_eq!(slot_of(key.as_bytes()).get(), shard);
        }
        let mut servers: Vec<usize> = ground.controllers().collect();
        servers.extend(ground.groups().flat_map(|group| ground.servers_of(group)));
        assert_eq!(servers, (0..ground.servers()).collect::<Vec<_>>());
        let mut slots: Vec<u32> = ground.specs.iter().map(|spec| spec.slots.len()).collect();
        slots.sort_unstable();
        assert_eq!(slots, [0, 5, 5]);
    }
}
