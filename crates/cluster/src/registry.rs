//! Nodes come, change, fall silent and go.

use std::collections::BTreeSet;

use kvorum_base::{ClusterId, GroupId, NodeId};

use crate::command::{Settings, Witness};
use crate::limits::{MOVES_OPEN_MAX, NAME_BYTES_MAX, NODES_MAX, SESSION_BLOCK_MAX, SHARDS_MAX};
use crate::nodes::{Addresses, Capacity, Health, Node, NodeState};
use crate::orders::{Addressee, Task};
use crate::reply::{Refusal, Reply};
use crate::shards::MANAGER;
use crate::state::State;

/// The most names that a node may have beside its address.
const OTHER_NAMES_MAX: usize = 16;

/// Whether addresses can be told to others.
pub(crate) fn addresses_are_sound(addresses: &Addresses) -> bool {
    let short = |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX;
    addresses.other_names.len() <= OTHER_NAMES_MAX && addresses.texts().all(short)
}

impl State {
    pub(crate) fn register_node(
        &mut self,
        cluster: ClusterId,
        directory: u64,
        addresses: &Addresses,
        capacity: Capacity,
    ) -> Result<Reply, Refusal> {
        if cluster != self.cluster {
            return Err(Refusal::OtherCluster);
        }
        if directory == 0 || !addresses_are_sound(addresses) {
            return Err(Refusal::Malformed);
        }
        let known = self
            .nodes
            .iter()
            .find(|(_, node)| node.directory == directory);
        if let Some((id, _)) = known {
            let id = *id;
            self.update_node(id, directory, addresses, capacity)?;
            return Ok(Reply::Node(id));
        }
        if self.nodes.len() >= NODES_MAX {
            return Err(Refusal::TooMany);
        }
        let id = self.next.node;
        self.next.node = NodeId(id.get() + 1);
        let node = Node {
            directory,
            addresses: addresses.clone(),
            capacity,
            health: Health::Alive,
            draining: false,
        };
        self.nodes.insert(id, node);
        self.touch();
        Ok(Reply::Node(id))
    }

    pub(crate) fn update_node(
        &mut self,
        id: NodeId,
        directory: u64,
        addresses: &Addresses,
        capacity: Capacity,
    ) -> Result<Reply, Refusal> {
        if !addresses_are_sound(addresses) {
            return Err(Refusal::Malformed);
        }
        let node = self.itself(id, directory)?;
        if node.health == Health::Damaged {
            return Err(Refusal::NodeGone(id));
        }
        let shown = node.addresses != *addresses || node.health != Health::Alive;
        node.addresses = addresses.clone();
        node.capacity = capacity;
        node.health = Health::Alive;
        if shown {
            self.touch();
        }
        Ok(Reply::Done)
    }

    /// The rule for a death: of the groups that have a voter on the node, a majority brings a primary,
    /// elsewhere, that misses it. Group 0 does not count; its primary is the one who says so. A replica that
    /// is still joining does not count either: its group's primary may not talk to it yet.
    pub(crate) fn report_dead(
        &mut self,
        id: NodeId,
        witnesses: &[Witness],
    ) -> Result<Reply, Refusal> {
        let node = self.node(id)?;
        if node.health != Health::Alive {
            return Ok(Reply::Done);
        }
        let sharing: BTreeSet<GroupId> = (self.shards.keys().copied())
            .filter(|group| *group != MANAGER && self.has_voter_on(*group, id))
            .collect();
        let missing: BTreeSet<GroupId> = witnesses
            .iter()
            .filter(|witness| witness.node != id && sharing.contains(&witness.group))
            .filter(|witness| {
                let mut shards = [witness.group, MANAGER].into_iter();
                shards.any(|group| self.has_voter_on(group, witness.node))
            })
            .map(|witness| witness.group)
            .collect();
        let need = match sharing.len() {
            0 => 0,
            groups => groups as u32 / 2 + 1,
        };
        let have = missing.len() as u32;
        if have < need {
            return Err(Refusal::Unproven { have, need });
        }
        self.set_health(id, Health::Dead);
        Ok(Reply::Done)
    }

    fn has_voter_on(&self, group: GroupId, node: NodeId) -> bool {
        let shard = self.shards.get(&group);
        shard.is_some_and(|shard| {
            let replica = shard.replica_on(node);
            replica.is_some_and(|replica| shard.is_voter(replica))
        })
    }

    pub(crate) fn report_alive(&mut self, id: NodeId, directory: u64) -> Result<Reply, Refusal> {
        match self.itself(id, directory)?.health {
            Health::Alive => {}
            Health::Dead => self.set_health(id, Health::Alive),
            Health::Damaged => return Err(Refusal::NodeGone(id)),
        }
        Ok(Reply::Done)
    }

    pub(crate) fn report_damaged(&mut self, id: NodeId, directory: u64) -> Result<Reply, Refusal> {
        if self.itself(id, directory)?.health != Health::Damaged {
            self.set_health(id, Health::Damaged);
        }
        Ok(Reply::Done)
    }

    pub(crate) fn drain_node(&mut self, id: NodeId, draining: bool) -> Result<Reply, Refusal> {
        self.node(id)?;
        let node = self.nodes.get_mut(&id).expect("it is there");
        if node.draining != draining {
            node.draining = draining;
            self.touch();
        }
        Ok(Reply::Done)
    }

    /// A node that works has to delete its replicas first. One that does not is not waited for: if it
    /// comes back it is told that it is gone, and so is all that it holds.
    pub(crate) fn remove_node(&mut self, id: NodeId) -> Result<Reply, Refusal> {
        let state = self.node(id)?.state();
        if state == NodeState::In {
            return Err(Refusal::NodeIn(id));
        }
        let holds = self
            .shards
            .values()
            .any(|shard| shard.replica_on(id).is_some());
        let works = state == NodeState::Draining;
        if holds || (works && self.orders_for_node(id).next().is_some()) {
            return Err(Refusal::HoldsReplicas(id));
        }
        let left: Vec<_> = self.orders_for_node(id).map(|(number, _)| number).collect();
        let mut groups = BTreeSet::new();
        for number in left {
            let order = self.orders.remove(&number).expect("it is outstanding");
            assert!(
                matches!(order.task, Task::DeleteReplica { .. }),
                "order {number} is for a replica that nobody has"
            );
            assert_eq!(order.to, Addressee::Node(id), "order {number}");
            groups.insert(order.group);
        }
        for group in groups {
            self.bury(group);
        }
        self.nodes.remove(&id);
        self.touch();
        Ok(Reply::Done)
    }

    pub(crate) fn configure(&mut self, settings: Settings) -> Result<Reply, Refusal> {
        let moves = 1..=MOVES_OPEN_MAX;
        let changes = 1..=SHARDS_MAX as u32;
        if !moves.contains(&settings.moves_open_max)
            || !changes.contains(&settings.changes_open_max)
        {
            return Err(Refusal::Malformed);
        }
        self.settings = settings;
        Ok(Reply::Done)
    }

    pub(crate) fn issue_sessions(&mut self, count: u64) -> Result<Reply, Refusal> {
        if count == 0 || count > SESSION_BLOCK_MAX {
            return Err(Refusal::Malformed);
        }
        let first = self.next.session;
        self.next.session += count;
        Ok(Reply::Sessions { first, count })
    }

    fn set_health(&mut self, id: NodeId, health: Health) {
        let node = self.nodes.get_mut(&id).expect("it was looked up");
        node.health = health;
        self.touch();
    }

    /// A node that was not removed.
    pub(crate) fn node(&self, id: NodeId) -> Result<&Node, Refusal> {
        match self.node_state(id) {
            None => Err(Refusal::NoSuchNode(id)),
            Some(NodeState::Gone) => Err(Refusal::NodeGone(id)),
            Some(_) => Ok(&self.nodes[&id]),
        }
    }

    /// A node, if it is the one with this directory.
    fn itself(&mut self, id: NodeId, directory: u64) -> Result<&mut Node, Refusal> {
        self.node(id)?;
        let node = self.nodes.get_mut(&id).expect("it is there");
        if node.directory != directory {
            return Err(Refusal::OtherDirectory(id));
        }
        Ok(node)
    }
}
