//! The invariants of the state, asked for by tests and simulations after every step.

use std::collections::BTreeSet;

use kvorum_base::NodeId;

use crate::limits::ISSUERS_MAX;
use crate::numbers::{MoveId, OrderNumber};
use crate::orders::{Addressee, Order, Task};
use crate::shards::{MANAGER, Shard, Stage};
use crate::state::State;

impl State {
    /// Whether all invariants hold.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        self.configs.check()?;
        self.check_ids()?;
        self.check_slots()?;
        self.check_shards()?;
        self.check_orders()
    }

    fn check_ids(&self) -> Result<(), String> {
        let above = |what: &str, last: Option<u64>, next: u64| match last {
            Some(last) if last >= next => Err(format!("{what} {last} is not below {next}")),
            _ if next >= 1 << 62 => Err(format!("{what} {next} is out of range")),
            _ => Ok(()),
        };
        let next = &self.next;
        let node = self.nodes.keys().last().map(|id| id.get());
        above("node", node, next.node.get())?;
        let group = self.shards.keys().last().map(|id| id.get());
        above("group", group, next.group.get())?;
        let order = self.orders.keys().last().map(|id| id.get());
        above("order", order, next.order.get())?;
        let replicas = self.shards.values().flat_map(|shard| shard.replicas.keys());
        above(
            "replica",
            replicas.max().map(|id| id.get()),
            next.replica.get(),
        )?;
        above("session", None, next.session)?;
        above("epoch", None, self.epoch.get())?;
        if self.generation >> 20 != 0 || self.applied.get() >> 40 != 0 {
            return Err("more recoveries or entries than there can be".to_owned());
        }
        let newness = self.newness().get();
        let opened = self.moves.keys().last().map(|id| id.get());
        above("move", opened, newness + 1)?;
        let directories: BTreeSet<u64> = self.nodes.values().map(|node| node.directory).collect();
        if directories.len() != self.nodes.len() {
            return Err("two nodes have one directory".to_owned());
        }
        if self.issuers.known.len() > ISSUERS_MAX {
            return Err("more issuers than may be remembered".to_owned());
        }
        Ok(())
    }

    fn check_slots(&self) -> Result<(), String> {
        if self.slots.slot_count() != self.configs.newest().slots.slot_count() {
            return Err("the two maps differ in their number of slots".to_owned());
        }
        let mut moving = 0_i64;
        for (id, open) in &self.moves {
            moving += i64::from(open.slots.len());
            for slot in open.slots.slots() {
                let owned = self.slots.get(slot).ok_or("a move of no slot")?;
                if owned.open != *id || owned.owner != open.from {
                    return Err(format!("slot {slot} of move {id} is {owned:?}"));
                }
            }
            for group in open.from.iter().chain([&open.to]) {
                let stage = self.shards.get(group).map(|shard| shard.stage);
                if stage != Some(Stage::Serving) {
                    return Err(format!("move {id} of group {group}, which is {stage:?}"));
                }
            }
            let order = self.orders.get(&open.order).map(|order| &order.task);
            if order != Some(&Task::StartMove { id: *id }) {
                return Err(format!("the order of move {id} is {order:?}"));
            }
        }
        for (slot, owned) in self.slots.cells().iter().enumerate() {
            moving -= i64::from(owned.open != MoveId::default());
            if owned.by.get() > self.newness().get() {
                return Err(format!("slot {slot} came by a move to be: {owned:?}"));
            }
            if let Some(owner) = owned.owner {
                let stage = self.shards.get(&owner).map(|shard| shard.stage);
                if stage != Some(Stage::Serving) || owner == MANAGER {
                    return Err(format!(
                        "slot {slot} is of group {owner}, which is {stage:?}"
                    ));
                }
            }
        }
        match moving {
            0 => Ok(()),
            _ => Err("slots in more than one open move".to_owned()),
        }
    }

    fn check_shards(&self) -> Result<(), String> {
        let members = self.configs.newest().shards.keys();
        for group in members.chain([&MANAGER]) {
            let stage = self.shards.get(group).map(|shard| shard.stage);
            if stage.is_none() || stage == Some(Stage::Retired) {
                return Err(format!("group {group} is needed and {stage:?}"));
            }
        }
        for (group, shard) in &self.shards {
            let nodes: BTreeSet<NodeId> = shard.replicas.values().map(|one| one.node).collect();
            if nodes.len() != shard.replicas.len() {
                return Err(format!("group {group} has two replicas on one node"));
            }
            if let Some(stranger) = nodes.iter().find(|node| !self.nodes.contains_key(node)) {
                return Err(format!(
                    "group {group} is on node {stranger}, which is gone"
                ));
            }
            if (shard.stage == Stage::Retired) != shard.replicas.is_empty() {
                return Err(format!(
                    "group {group} is {:?}: {:?}",
                    shard.stage, shard.replicas
                ));
            }
            if shard.stage != Stage::Retired && shard.voters().next().is_none() {
                return Err(format!("group {group} has no voter"));
            }
            if shard.floor > self.next.replica {
                return Err(format!(
                    "group {group} lets ids go that are to be given out"
                ));
            }
            let joining = shard.replicas.len() - shard.voters().count();
            if joining > usize::from(shard.change.is_some()) {
                return Err(format!("group {group} has a learner for no reason"));
            }
            if shard
                .preferred
                .is_some_and(|id| !shard.replicas.contains_key(&id))
            {
                return Err(format!("group {group} prefers a stranger"));
            }
        }
        Ok(())
    }

    fn check_task(&self, number: OrderNumber, order: &Order, shard: &Shard) -> Result<(), String> {
        let right = match &order.task {
            Task::CreateReplica { replica, node, .. } => {
                let lives = shard.replicas.get(replica).map(|replica| replica.node);
                lives == Some(*node) && order.to == Addressee::Node(*node)
            }
            Task::DeleteReplica { replica, node } => {
                !shard.replicas.contains_key(replica) && order.to == Addressee::Node(*node)
            }
            Task::StartMove { id } => {
                let open = self.moves.get(id);
                open.is_some_and(|open| open.order == number)
            }
            Task::AddLearner { replica, .. }
            | Task::Promote { replica, .. }
            | Task::Remove { replica, .. } => {
                let known = shard.replicas.contains_key(replica);
                known && order.to == Addressee::Group(order.group)
            }
            Task::TransferPrimary { .. } => order.to == Addressee::Group(order.group),
            Task::Recover { replica, .. } => {
                let lives = shard.replicas.get(replica);
                lives.is_some_and(|lives| order.to == Addressee::Node(lives.node))
            }
        };
        if right {
            Ok(())
        } else {
            Err(format!("order {number} does not fit: {order:?}"))
        }
    }

    fn check_orders(&self) -> Result<(), String> {
        for (number, order) in &self.orders {
            let Some(shard) = self.shards.get(&order.group) else {
                return Err(format!("order {number} is about a group that is gone"));
            };
            if let Addressee::Node(node) = order.to
                && !self.nodes.contains_key(&node)
            {
                return Err(format!("order {number} is for node {node}, which is gone"));
            }
            self.check_task(*number, order, shard)?;
            let step = matches!(
                order.task,
                Task::AddLearner { .. } | Task::Promote { .. } | Task::Remove { .. }
            );
            if step && shard.change.map(|change| change.order) != Some(*number) {
                return Err(format!("order {number} is no step of a change"));
            }
        }
        for (group, shard) in &self.shards {
            if let Some(change) = shard.change {
                let about = [change.add, change.remove].into_iter().flatten();
                let known = about.filter(|id| shard.replicas.contains_key(id)).count();
                if known == 0 || !self.orders.contains_key(&change.order) {
                    return Err(format!("group {group} has a change of nothing: {change:?}"));
                }
            }
            if shard.stage == Stage::Retired
                && !self.orders.values().any(|order| order.group == *group)
            {
                return Err(format!("group {group} is not buried"));
            }
        }
        Ok(())
    }
}
