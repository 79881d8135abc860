//! Replicas are put somewhere, taken away, replaced; primaries are handed over.
//!
//! A change goes by one order at a time; what closes one gives the next:
//!
//! ```text
//! create ──► add learner ──► promote (and remove the other) ──► delete the other
//!    │            │              │
//!    │ refused    │ refused      │ refused
//!    └─► delete ◄─┘              └─► remove the learner ──► delete it
//! ```
//!
//! At most one change per group, and of nodes that should be rid of their replicas one at a time: if
//! half of the machines lose power, copying everything at once would take the rest down, too.

use kvorum_base::{GroupId, Index, NodeId, ReplicaId};

use crate::limits::REPLICAS_MAX;
use crate::nodes::Health;
use crate::numbers::OrderNumber;
use crate::orders::{Addressee, Order, Outcome, Task};
use crate::reply::{Refusal, Reply};
use crate::shards::{Change, Members, Replica, Role, Shard, Stage};
use crate::state::State;

impl State {
    pub(crate) fn change_replicas(
        &mut self,
        group: GroupId,
        expected: Index,
        add: Option<NodeId>,
        remove: Option<ReplicaId>,
    ) -> Result<Reply, Refusal> {
        let shard = self.serving(group)?;
        if shard.change.is_some() {
            return Err(Refusal::Changing(group));
        }
        if shard.membership != expected {
            return Err(Refusal::OtherMembers(shard.membership));
        }
        if let Some(order) = self.recovery_ordered(group) {
            return Err(Refusal::OrderOutstanding(order));
        }
        self.may_change(group, shard, add, remove)?;
        if self.changes_open() >= self.settings.changes_open_max as usize {
            return Err(Refusal::Busy);
        }
        let order = match (add, remove) {
            (Some(node), _) => {
                let replica = self.next_replica();
                let joining = Replica {
                    node,
                    role: Role::Joining,
                };
                self.shard_mut(group).replicas.insert(replica, joining);
                let task = Task::CreateReplica {
                    replica,
                    node,
                    founders: std::collections::BTreeMap::new(),
                };
                let order = self.order(Addressee::Node(node), group, task);
                self.set_change(group, Some(replica), remove, order);
                order
            }
            (None, Some(replica)) => self.begin_removal(group, replica),
            (None, None) => return Err(Refusal::BadReplicas),
        };
        Ok(Reply::Ordered(order))
    }

    fn may_change(
        &self,
        group: GroupId,
        shard: &Shard,
        add: Option<NodeId>,
        remove: Option<ReplicaId>,
    ) -> Result<(), Refusal> {
        if let Some(node) = add {
            if !self.node(node)?.is_in() {
                return Err(Refusal::NodeNotIn(node));
            }
            if self.hosts(node, group) {
                return Err(Refusal::NodeTaken(node));
            }
        }
        let count = shard.replicas.len();
        match remove {
            Some(replica) => {
                let leaving = shard.replicas.get(&replica);
                let leaving = leaving.ok_or(Refusal::NoSuchReplica(replica))?;
                if add.is_none() && (count <= usize::from(shard.wanted) || count < 2) {
                    return Err(Refusal::BelowWanted);
                }
                self.one_node_at_a_time(leaving.node)
            }
            None if count >= usize::from(shard.wanted) || count >= REPLICAS_MAX => {
                Err(Refusal::BadReplicas)
            }
            None => Ok(()),
        }
    }

    /// Whether a majority of a group's voters is heard. One without can change nothing, so what it was
    /// about to change must not keep others from being repaired.
    pub(crate) fn can_decide(&self, shard: &Shard) -> bool {
        let heard = |node: NodeId| self.nodes[&node].health == Health::Alive;
        let alive = shard.voters().filter(|(_, node)| heard(*node)).count();
        alive > shard.voters().count() / 2
    }

    /// How many groups are changing their replicas.
    pub(crate) fn changes_open(&self) -> usize {
        let changing = self.shards.values().filter(|shard| shard.change.is_some());
        changing.filter(|shard| self.can_decide(shard)).count()
    }

    /// Of the nodes that should lose all replicas, which one's are being replaced now.
    pub(crate) fn node_being_replaced(&self) -> Option<NodeId> {
        let mut working = self.shards.values().filter(|shard| self.can_decide(shard));
        working.find_map(|shard| {
            let leaving = shard.replicas.get(&shard.change?.remove?)?;
            (!self.nodes[&leaving.node].is_in()).then_some(leaving.node)
        })
    }

    fn one_node_at_a_time(&self, node: NodeId) -> Result<(), Refusal> {
        match self.node_being_replaced() {
            Some(other) if other != node && !self.nodes[&node].is_in() => {
                Err(Refusal::OneNodeAtATime(other))
            }
            _ => Ok(()),
        }
    }

    /// A change whose new replica is only ordered to be made ends at once; its group knows nothing of
    /// it. Else the group's log has the word.
    pub(crate) fn abandon_change(&mut self, group: GroupId) -> Result<Reply, Refusal> {
        let shard = self.shards.get(&group).ok_or(Refusal::NoSuchShard)?;
        let change = shard.change.ok_or(Refusal::NotChanging(group))?;
        let order = self.orders.get_mut(&change.order);
        let order = order.expect("a change has its order");
        order.withdrawn = true;
        if let Task::CreateReplica { replica, .. } = order.task {
            self.orders.remove(&change.order);
            self.drop_replica(group, replica);
        }
        Ok(Reply::Done)
    }

    pub(crate) fn set_replicas(&mut self, group: GroupId, wanted: u8) -> Result<Reply, Refusal> {
        if wanted == 0 || usize::from(wanted) > REPLICAS_MAX {
            return Err(Refusal::BadReplicas);
        }
        self.shards.get(&group).ok_or(Refusal::NoSuchShard)?;
        self.shard_mut(group).wanted = wanted;
        Ok(Reply::Done)
    }

    pub(crate) fn transfer(&mut self, group: GroupId, to: ReplicaId) -> Result<Reply, Refusal> {
        let shard = self.serving(group)?;
        if !shard.is_voter(to) {
            return Err(Refusal::NoSuchReplica(to));
        }
        let node = shard.replicas[&to].node;
        if !self.nodes[&node].is_in() {
            return Err(Refusal::NodeNotIn(node));
        }
        let outstanding = self
            .orders_for(group)
            .find(|(_, order)| matches!(order.task, Task::TransferPrimary { .. }));
        if let Some((number, _)) = outstanding {
            return Err(Refusal::OrderOutstanding(number));
        }
        self.shard_mut(group).preferred = Some(to);
        let task = Task::TransferPrimary { to };
        Ok(Reply::Ordered(self.order(
            Addressee::Group(group),
            group,
            task,
        )))
    }

    pub(crate) fn close_order(
        &mut self,
        number: OrderNumber,
        outcome: &Outcome,
    ) -> Result<Reply, Refusal> {
        let order = self
            .orders
            .get(&number)
            .ok_or(Refusal::NoSuchOrder(number))?
            .clone();
        match &order.task {
            Task::CreateReplica { replica, .. } => {
                self.close_create(number, &order, *replica, outcome)
            }
            Task::AddLearner {
                replica, expected, ..
            } => self.close_add(number, &order, *replica, *expected, outcome),
            Task::Promote {
                replica,
                removing,
                expected,
            } => self.close_promote(
                number,
                order.group,
                (*replica, *removing),
                *expected,
                outcome,
            ),
            Task::Remove { replica, expected } => {
                self.close_remove(number, order.group, *replica, *expected, outcome)
            }
            Task::TransferPrimary { .. } => match outcome {
                Outcome::Transferred | Outcome::Refused => {
                    self.orders.remove(&number);
                    Ok(Reply::Done)
                }
                _ => Err(Refusal::WrongEvidence),
            },
            Task::Recover { .. } if *outcome == Outcome::Refused => {
                self.orders.remove(&number);
                Ok(Reply::Done)
            }
            // What became of these is said otherwise.
            Task::StartMove { .. } | Task::Recover { .. } => Err(Refusal::WrongEvidence),
            Task::DeleteReplica { .. } => {
                if *outcome != Outcome::Deleted {
                    return Err(Refusal::WrongEvidence);
                }
                self.orders.remove(&number);
                self.bury(order.group);
                Ok(Reply::Done)
            }
        }
    }

    fn close_create(
        &mut self,
        number: OrderNumber,
        order: &Order,
        replica: ReplicaId,
        outcome: &Outcome,
    ) -> Result<Reply, Refusal> {
        let group = order.group;
        let shard = &self.shards[&group];
        let joining = shard.change.filter(|change| change.order == number);
        match (outcome, joining) {
            (Outcome::Created, Some(change)) => {
                self.orders.remove(&number);
                let task = Task::AddLearner {
                    replica,
                    node: self.shards[&group].replicas[&replica].node,
                    expected: self.shards[&group].membership,
                };
                self.next_step(group, change, task);
            }
            (Outcome::Created, None) => {
                self.orders.remove(&number);
                self.maybe_founded(group);
            }
            (Outcome::Refused, Some(_)) => {
                self.orders.remove(&number);
                self.drop_replica(group, replica);
            }
            (Outcome::Refused, None) => {
                self.orders.remove(&number);
            }
            _ => return Err(Refusal::WrongEvidence),
        }
        Ok(Reply::Done)
    }

    /// A new group serves as soon as a majority of its founders is there.
    fn maybe_founded(&mut self, group: GroupId) {
        let waiting = |order: &&Order| {
            order.group == group && matches!(order.task, Task::CreateReplica { .. })
        };
        let missing = self.orders.values().filter(waiting).count();
        let shard = self.shard_mut(group);
        let founders = shard.replicas.len();
        if shard.stage == Stage::Founding && founders - missing > founders / 2 {
            shard.stage = Stage::Serving;
        }
    }

    fn close_add(
        &mut self,
        number: OrderNumber,
        order: &Order,
        replica: ReplicaId,
        expected: Index,
        outcome: &Outcome,
    ) -> Result<Reply, Refusal> {
        let group = order.group;
        let change = self.shards[&group]
            .change
            .expect("the order is a step of one");
        match outcome {
            Outcome::Members(members) => {
                self.believe(group, members, expected)?;
                if !members.learners.contains(&replica) {
                    return Err(Refusal::WrongEvidence);
                }
                self.orders.remove(&number);
                self.absorb(group, members);
                if order.withdrawn {
                    self.begin_removal(group, replica);
                } else {
                    let task = Task::Promote {
                        replica,
                        removing: change.remove,
                        expected: members.id,
                    };
                    self.next_step(group, change, task);
                }
            }
            Outcome::Refused => {
                self.orders.remove(&number);
                self.drop_replica(group, replica);
            }
            _ => return Err(Refusal::WrongEvidence),
        }
        Ok(Reply::Done)
    }

    fn close_promote(
        &mut self,
        number: OrderNumber,
        group: GroupId,
        (replica, removing): (ReplicaId, Option<ReplicaId>),
        expected: Index,
        outcome: &Outcome,
    ) -> Result<Reply, Refusal> {
        match outcome {
            Outcome::Members(members) => {
                self.believe(group, members, expected)?;
                let gone = removing.is_none_or(|removed| !members.has(removed));
                if !members.voters.contains(&replica) || !gone {
                    return Err(Refusal::WrongEvidence);
                }
                self.orders.remove(&number);
                self.shard_mut(group).change = None;
                self.absorb(group, members);
            }
            Outcome::Refused => {
                self.orders.remove(&number);
                self.begin_removal(group, replica);
            }
            _ => return Err(Refusal::WrongEvidence),
        }
        Ok(Reply::Done)
    }

    fn close_remove(
        &mut self,
        number: OrderNumber,
        group: GroupId,
        replica: ReplicaId,
        expected: Index,
        outcome: &Outcome,
    ) -> Result<Reply, Refusal> {
        match outcome {
            Outcome::Members(members) => {
                self.believe(group, members, expected)?;
                if members.has(replica) {
                    return Err(Refusal::WrongEvidence);
                }
                self.orders.remove(&number);
                self.shard_mut(group).change = None;
                self.absorb(group, members);
                self.drop_replica(group, replica);
            }
            Outcome::Refused => {
                self.orders.remove(&number);
                // A learner that nobody wants is no use to anyone: it has to go.
                if self.shards[&group].is_voter(replica) {
                    self.shard_mut(group).change = None;
                } else {
                    self.begin_removal(group, replica);
                }
            }
            _ => return Err(Refusal::WrongEvidence),
        }
        Ok(Reply::Done)
    }

    /// What a group says of its members beside any order.
    pub(crate) fn report_members(
        &mut self,
        group: GroupId,
        members: &Members,
    ) -> Result<Reply, Refusal> {
        let shard = self.serving(group)?;
        if shard.change.is_some() {
            return Err(Refusal::Changing(group));
        }
        self.believe(group, members, shard.membership)?;
        self.absorb(group, members);
        Ok(Reply::Done)
    }

    /// Whether members can be those of a group: newer than expected, with voters, all of them known.
    fn believe(&self, group: GroupId, members: &Members, expected: Index) -> Result<(), Refusal> {
        let shard = &self.shards[&group];
        let known = |replica: &ReplicaId| shard.replicas.contains_key(replica);
        let all_known = members.voters.iter().all(known) && members.learners.iter().all(known);
        let apart = members.voters.is_disjoint(&members.learners);
        let newer = members.id > expected && members.id >= shard.membership;
        if members.voters.is_empty() || !all_known || !apart || !newer {
            return Err(Refusal::WrongEvidence);
        }
        Ok(())
    }

    /// Takes over what a group says of its members. Voters that it has no more are to be deleted.
    pub(crate) fn absorb(&mut self, group: GroupId, members: &Members) {
        let shard = self.shard_mut(group);
        shard.membership = members.id;
        let voters_before: Vec<ReplicaId> = shard.voters().map(|(replica, _)| replica).collect();
        for (id, replica) in &mut shard.replicas {
            if members.voters.contains(id) {
                replica.role = Role::Voter;
            }
        }
        for replica in &voters_before {
            if !members.voters.contains(replica) {
                self.drop_replica(group, *replica);
            }
        }
        let voters = self.shards[&group].voters().map(|(replica, _)| replica);
        if !voters.eq(voters_before) {
            self.touch();
        }
    }

    /// A replica is no member any more: it is forgotten here, and ordered to delete itself. Ends the
    /// change that was about it.
    pub(crate) fn drop_replica(&mut self, group: GroupId, replica: ReplicaId) {
        let shard = self.shard_mut(group);
        if shard
            .change
            .is_some_and(|change| change.add == Some(replica))
        {
            shard.change = None;
        }
        if shard.preferred == Some(replica) {
            shard.preferred = None;
        }
        let Some(Replica { node, .. }) = shard.replicas.remove(&replica) else {
            return;
        };
        // It may not even have been made.
        let needs_it = |task: &Task| match task {
            Task::CreateReplica { replica: made, .. } => *made == replica,
            Task::Recover { replica: alone, .. } => *alone == replica,
            _ => false,
        };
        self.orders
            .retain(|_, order| order.group != group || !needs_it(&order.task));
        let task = Task::DeleteReplica { replica, node };
        self.order(Addressee::Node(node), group, task);
    }

    fn begin_removal(&mut self, group: GroupId, replica: ReplicaId) -> OrderNumber {
        let expected = self.shards[&group].membership;
        let task = Task::Remove { replica, expected };
        let order = self.order(Addressee::Group(group), group, task);
        self.set_change(group, None, Some(replica), order);
        order
    }

    fn next_step(&mut self, group: GroupId, change: Change, task: Task) {
        let order = self.order(Addressee::Group(group), group, task);
        self.set_change(group, change.add, change.remove, order);
    }

    fn set_change(
        &mut self,
        group: GroupId,
        add: Option<ReplicaId>,
        remove: Option<ReplicaId>,
        order: OrderNumber,
    ) {
        self.shard_mut(group).change = Some(Change { add, remove, order });
    }

    pub(crate) fn serving(&self, group: GroupId) -> Result<&Shard, Refusal> {
        let shard = self.shards.get(&group).ok_or(Refusal::NoSuchShard)?;
        if shard.stage != Stage::Serving {
            return Err(Refusal::NotServing(group));
        }
        Ok(shard)
    }

    pub(crate) fn shard_mut(&mut self, group: GroupId) -> &mut Shard {
        self.shards.get_mut(&group).expect("the group is there")
    }
}
