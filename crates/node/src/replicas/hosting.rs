//! A node's own part: replicas are made and deleted, and what is told of the cluster is followed.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvorum_base::{Bug, GroupId, NodeId, ReplicaId, SlotSet};
use kvorum_cluster::{Order, OrderNumber, Stage, State, Task};
use kvorum_raft::Membership;

use crate::effect::{Effect, Level};
use crate::node::Node;
use crate::start::{Hosted, start_group};

/// What a node is on the way to with the replicas on it.
#[derive(Debug, Default)]
pub(crate) struct Hosting {
    /// Orders to this node up to here are over, durably.
    pub(crate) over: OrderNumber,
    /// Replicas whose removal is on its way to the disk, and the snapshot files that go after it.
    leaving: BTreeMap<GroupId, Vec<u64>>,
}

impl Node {
    /// Carries out the orders to this node that are not over, in the order of their numbers.
    pub(crate) fn carry_out_orders(&mut self) {
        let Some(cluster) = self.shared.cluster.clone() else {
            return;
        };
        self.follow(&cluster);
        let repeats = self.shared.config.planted.has(Bug::DeletedReplicaMadeAgain);
        for (number, order) in cluster.orders_for_node(self.shared.config.node) {
            let is_over = number <= self.shared.log.orders();
            if is_over && !repeats && !self.is_half_done(order) {
                continue;
            }
            // What the log says of this group would be mixed up with what it says of its next replica.
            if self.hosting.leaving.contains_key(&order.group) {
                return;
            }
            // A new replica waits for room, and so does an entry; deleting one makes some.
            let writes = matches!(
                order.task,
                Task::CreateReplica { .. } | Task::Recover { .. }
            );
            if writes && !self.shared.log.writable() {
                return;
            }
            if !is_over {
                // First that it is over. Were the replica gone before, and the power cut between the two,
                // then nothing would say any more that this one must not be made.
                self.shared.log.orders_over(number);
            }
            self.carry_out_order(order);
        }
    }

    /// Whether the log says that a replica's end was ordered, and the replica is here all the same. An id is
    /// never given twice, so it can be deleted as often as it is found.
    fn is_half_done(&self, order: &Order) -> bool {
        match order.task {
            Task::DeleteReplica { replica, .. } => self.hosts(order.group, replica),
            _ => false,
        }
    }

    /// Whether this very replica is here.
    pub(super) fn hosts(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.group(group).is_some_and(|own| own.replica == replica)
    }

    fn carry_out_order(&mut self, order: &Order) {
        let group = order.group;
        match &order.task {
            Task::CreateReplica {
                replica, founders, ..
            } => self.make_replica(group, *replica, founders),
            Task::DeleteReplica { replica, .. } => self.delete_replica(group, *replica),
            Task::Recover {
                replica,
                term,
                floor,
            } if self.hosts(group, *replica) => {
                if let Err(refusal) = self.recover_group(group, *term, *floor) {
                    let text = format!("an order to go on alone is refused: {refusal}");
                    self.shared.note(Level::Warn, Some(group), text);
                }
            }
            _ => {}
        }
    }

    /// Makes a replica, unless there is one of its group here: a node has one at most.
    fn make_replica(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        founders: &BTreeMap<ReplicaId, NodeId>,
    ) {
        let own = self.shared.config.node;
        let is_odd = !founders.is_empty() && founders.get(&replica) != Some(&own);
        if self.has_group(group) || is_odd {
            return;
        }
        let members = founders.iter().map(|(replica, node)| (*replica, *node));
        let membership = if founders.is_empty() {
            // It learns who they are from the primary.
            Arc::default()
        } else {
            Arc::new(Membership::initial(members))
        };
        let created = Arc::clone(&membership);
        self.shared.log.create_group(group, replica, created);
        let hosted = Hosted {
            group,
            replica,
            slots: Arc::new(SlotSet::none()),
            preferred: None,
            membership,
            recovered: None,
        };
        let made = start_group(hosted, None, &mut self.shared, self.seed);
        let at = self.groups.partition_point(|own| own.id < group);
        self.groups.insert(at, made);
        self.places.update(&self.groups);
        self.shared.counters.replicas_made += 1;
        let text = format!("replica {replica} is made, as ordered");
        self.shared.note(Level::Info, Some(group), text);
    }

    /// Deletes a replica, if it is here. Its files go when the log says durably that it is gone.
    fn delete_replica(&mut self, id: GroupId, replica: ReplicaId) {
        let is_it = |group: &crate::group::Group| (group.id, group.replica) == (id, replica);
        let Some(at) = self.groups.iter().position(is_it) else {
            return;
        };
        let mut group = self.groups.remove(at);
        group.dismiss(&mut self.shared);
        self.shared.log.remove_group(id);
        self.hosting.leaving.insert(id, group.take_files());
        self.places.update(&self.groups);
        self.shared.counters.replicas_deleted += 1;
        let text = format!("replica {replica} is deleted, as ordered");
        self.shared.note(Level::Info, Some(id), text);
    }

    /// A replica's removal is durable: what it left behind can go.
    pub(crate) fn group_removed(&mut self, group: GroupId, effects: &mut Vec<Effect>) {
        let files = self.hosting.leaving.remove(&group).unwrap_or_default();
        let drop = |number| Effect::DropSnapshot { group, number };
        effects.extend(files.into_iter().map(drop));
    }

    /// Takes over what the shard manager's state says about replicas here.
    fn follow(&mut self, cluster: &State) {
        for group in &mut self.groups {
            let shard = cluster.shards().get(&group.id);
            let preferred = shard.and_then(|shard| {
                let replica = shard.replicas.get(&shard.preferred?)?;
                Some(replica.node)
            });
            if shard.is_some() {
                group.set_preferred(preferred);
            }
            let is_wanted = match shard {
                Some(shard) => {
                    shard.stage != Stage::Retired && shard.replicas.contains_key(&group.replica)
                }
                None => !cluster.is_gone(group.id),
            };
            group.set_wanted(is_wanted);
            if shard.is_some_and(|shard| shard.has_let_go(group.replica)) {
                group.let_go();
            }
        }
    }
}
