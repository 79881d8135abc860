//! Shards come and go, and slots are wanted here or there: what makes the next config.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{GroupId, Index, NodeId, ReplicaId};

use crate::command::{NewShard, ShardRef};
use crate::config::Founding;
use crate::limits::{NAME_BYTES_MAX, REPLICAS_MAX, SHARDS_AT_ONCE_MAX, SHARDS_MAX};
use crate::orders::{Addressee, Task};
use crate::reply::{Refusal, Reply};
use crate::runs::SlotRuns;
use crate::shards::{MANAGER, Replica, Role, Shard, Stage};
use crate::state::State;

/// Whether a shard may be called this.
pub(crate) fn name_is_sound(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX
}

impl State {
    pub(crate) fn join(&mut self, shards: &[NewShard]) -> Result<Reply, Refusal> {
        if shards.is_empty()
            || shards.len() > SHARDS_AT_ONCE_MAX
            || self.shards.len() + shards.len() > SHARDS_MAX
        {
            return Err(Refusal::TooMany);
        }
        let present = &self.configs.newest().shards;
        let mut names: BTreeSet<&str> = present.values().map(|shard| shard.name.as_str()).collect();
        for shard in shards {
            if !name_is_sound(&shard.name) {
                return Err(Refusal::Malformed);
            }
            if !names.insert(&shard.name) {
                return Err(Refusal::NameTaken);
            }
            self.may_place(shard)?;
        }
        let groups: Vec<GroupId> = shards.iter().map(|shard| self.found(shard)).collect();
        let joined: BTreeMap<GroupId, Founding> = groups
            .iter()
            .map(|group| (*group, self.shards[group].founding.clone()))
            .collect();
        self.configs.join(joined);
        let config = self.configs.newest().number;
        Ok(Reply::Joined { config, groups })
    }

    fn may_place(&self, shard: &NewShard) -> Result<(), Refusal> {
        let mut nodes = BTreeSet::new();
        for id in &shard.nodes {
            if !self.node(*id)?.is_in() {
                return Err(Refusal::NodeNotIn(*id));
            }
            nodes.insert(*id);
        }
        let count = shard.nodes.len();
        let in_range = (count..=REPLICAS_MAX).contains(&usize::from(shard.wanted));
        if count == 0 || nodes.len() != count || !in_range {
            return Err(Refusal::BadReplicas);
        }
        Ok(())
    }

    /// Makes the record of a shard, and orders its replicas to be made.
    fn found(&mut self, shard: &NewShard) -> GroupId {
        let group = self.next.group;
        self.next.group = GroupId(group.get() + 1);
        let founders: BTreeMap<ReplicaId, NodeId> = shard
            .nodes
            .iter()
            .map(|node| (self.next_replica(), *node))
            .collect();
        for (replica, node) in &founders {
            let task = Task::CreateReplica {
                replica: *replica,
                node: *node,
                founders: founders.clone(),
            };
            self.order(Addressee::Node(*node), group, task);
        }
        let voter = |node: &NodeId| Replica {
            node: *node,
            role: Role::Voter,
        };
        let record = Shard {
            founding: Founding {
                name: shard.name.clone(),
                nodes: shard.nodes.clone(),
            },
            replicas: founders
                .iter()
                .map(|(replica, node)| (*replica, voter(node)))
                .collect(),
            wanted: shard.wanted,
            membership: Index::ZERO,
            stage: Stage::Founding,
            preferred: founders.keys().next().copied(),
            change: None,
            floor: ReplicaId::default(),
        };
        self.shards.insert(group, record);
        group
    }

    /// An id that no replica ever had.
    pub(crate) fn next_replica(&mut self) -> ReplicaId {
        let replica = self.next.replica;
        self.next.replica = ReplicaId(replica.get() + 1);
        replica
    }

    pub(crate) fn leave(&mut self, shards: &[ShardRef]) -> Result<Reply, Refusal> {
        if shards.is_empty() || shards.len() > SHARDS_AT_ONCE_MAX {
            return Err(Refusal::TooMany);
        }
        let leaving = shards
            .iter()
            .map(|shard| self.find(shard))
            .collect::<Result<BTreeSet<GroupId>, Refusal>>()?;
        let all = leaving.len() == self.configs.newest().shards.len();
        if all && !self.last_shard_may_leave {
            return Err(Refusal::LastShard);
        }
        self.configs.leave(leaving);
        Ok(Reply::Config(self.configs.newest().number))
    }

    pub(crate) fn assign(&mut self, slots: &SlotRuns, shard: &ShardRef) -> Result<Reply, Refusal> {
        self.slots_exist(slots)?;
        let group = self.find(shard)?;
        self.configs.assign(slots, group);
        Ok(Reply::Config(self.configs.newest().number))
    }

    pub(crate) fn even_out(&mut self) -> Reply {
        self.configs.even_out();
        Reply::Config(self.configs.newest().number)
    }

    pub(crate) fn slots_exist(&self, slots: &SlotRuns) -> Result<(), Refusal> {
        let exist = |last: kvorum_base::Slot| last.get() < self.slots.slot_count();
        if slots.last().is_some_and(exist) {
            Ok(())
        } else {
            Err(Refusal::BadSlots)
        }
    }

    /// Orders all replicas of a shard to be deleted. What was ordered before and is not done is
    /// dropped: whoever carries it out late meets a deleted replica.
    pub(crate) fn retire(&mut self, group: GroupId) -> Result<Reply, Refusal> {
        let shard = self.shards.get(&group).ok_or(Refusal::NoSuchShard)?;
        if shard.stage == Stage::Retired {
            return Ok(Reply::Done);
        }
        let has_slots = self
            .slots
            .cells()
            .iter()
            .any(|slot| slot.owner == Some(group));
        let moving = self.moves_of(group).next().is_some();
        if group == MANAGER || self.is_member(group) || has_slots || moving {
            return Err(Refusal::StillNeeded(group));
        }
        let deleting = |task: &Task| matches!(task, Task::DeleteReplica { .. });
        self.orders
            .retain(|_, order| order.group != group || deleting(&order.task));
        let shard = self.shards.get_mut(&group).expect("it is there");
        shard.stage = Stage::Retired;
        shard.change = None;
        shard.preferred = None;
        let replicas = std::mem::take(&mut shard.replicas);
        for (replica, Replica { node, .. }) in replicas {
            self.order(
                Addressee::Node(node),
                group,
                Task::DeleteReplica { replica, node },
            );
        }
        self.bury(group);
        Ok(Reply::Done)
    }

    /// Forgets a retired shard once nobody has to delete a replica of it any more.
    pub(crate) fn bury(&mut self, group: GroupId) {
        let retired = self
            .shards
            .get(&group)
            .is_some_and(|shard| shard.stage == Stage::Retired);
        if retired && !self.orders.values().any(|order| order.group == group) {
            self.shards.remove(&group);
        }
    }
}
