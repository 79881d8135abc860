//! What became of orders, as far as this node can prove it now.
//!
//! All of it stays true: what a log has applied, and what this node has on its disk. So it can be told late
//! and twice.

use kvorum_base::{GroupId, ReplicaId};
use kvorum_cluster::{Members, Order, OrderNumber, Outcome, Task};
use kvorum_raft::Membership;

use super::members::{expected_of, is_done};
use crate::group::Group;
use crate::node::Node;

impl Node {
    /// The outstanding orders, as far as this node knows, of which it can prove what became of them; with
    /// the proof.
    #[must_use]
    pub fn evidence(&self) -> Vec<(OrderNumber, Outcome)> {
        let Some(cluster) = self.shared.cluster.as_ref().filter(|_| self.serving()) else {
            return Vec::new();
        };
        let here = cluster.orders_for_node(self.shared.config.node);
        let here = here.filter(|(number, _)| *number <= self.hosting.over);
        let mut evidence: Vec<_> = here
            .filter_map(|(number, order)| Some((number, self.outcome_here(order)?)))
            .collect();
        for group in &self.groups {
            let orders = cluster.orders_for(group.id);
            evidence.extend(
                orders.filter_map(|(number, order)| Some((number, group.outcome(number, order)?))),
            );
        }
        evidence
    }

    /// What became of an order to this node that is over.
    fn outcome_here(&self, order: &Order) -> Option<Outcome> {
        let is_here = |replica| self.hosts(order.group, replica);
        match order.task {
            Task::CreateReplica { replica, .. } if is_here(replica) => Some(Outcome::Created),
            Task::CreateReplica { .. } => Some(Outcome::Refused),
            Task::DeleteReplica { replica, .. } if is_here(replica) => None,
            Task::DeleteReplica { .. } => Some(Outcome::Deleted),
            // What it led to is told by the group's primary.
            Task::Recover { floor, .. } if self.has_floor(order.group, floor) => None,
            Task::Recover { .. } => Some(Outcome::Refused),
            _ => None,
        }
    }
}

impl Node {
    /// Whether the replica here knows of a recovery with this floor.
    fn has_floor(&self, group: GroupId, floor: ReplicaId) -> bool {
        self.group(group)
            .is_some_and(|own| own.raft.membership().floor >= floor)
    }
}

impl Group {
    /// What became of an order to this group, if it leads and knows.
    fn outcome(&self, number: OrderNumber, order: &Order) -> Option<Outcome> {
        if !self.may_drive() {
            return None;
        }
        if let Task::TransferPrimary { to } = order.task {
            return self.outcome_of_transfer(number, to);
        }
        let expected = expected_of(&order.task)?;
        let state = self.state.as_ref()?;
        if state.taken.order != number {
            // It is not taken yet; or it is over, and whoever told of it does not know.
            return None;
        }
        if state.taken.refused {
            return Some(Outcome::Refused);
        }
        let members = &state.membership;
        let is_settled = !members.is_joint() && members.id > expected;
        (is_settled && is_done(&order.task, members)).then(|| Outcome::Members(members_of(members)))
    }
}

/// The members that are told: those of no joint phase.
pub(crate) fn members_of(membership: &Membership) -> Members {
    Members {
        id: membership.id,
        voters: membership.voters.clone(),
        learners: membership.learners.clone(),
    }
}
