//! What the logs of this node's groups have decided and the shard manager does not know yet.
//!
//! Evidence is told by the primary of the group whose log has it, once that has applied it, and told
//! again until the manager's state shows it. Told twice it is refused the second time: no harm.

use kvorum_base::{Bug, MoveId, Planted};
use kvorum_cluster::{Command, Evidence, OrderNumber};

use super::ask::Who;
use crate::group::Group;
use crate::limits::EVIDENCE_TICKS;
use crate::moves::state::Ended;
use crate::node::Node;
use crate::pace::Pace;

/// When what was last told.
#[derive(Debug, Default)]
pub(super) struct Evidences {
    moves: Pace<MoveId>,
    orders: Pace<OrderNumber>,
    /// Not before this tick again.
    recoveries: u64,
}

impl Node {
    /// Tells what is known of open moves and of orders.
    pub(super) fn tell_evidence(&mut self) {
        self.tell_evidence_of_orders();
        self.tell_evidence_of_moves();
        self.tell_recoveries();
    }

    fn tell_recoveries(&mut self) {
        let now = self.shared.now_tick;
        let told = &mut self.shared.manager.evidences.recoveries;
        if now < *told {
            return;
        }
        *told = now + EVIDENCE_TICKS;
        for command in self.recoveries() {
            self.manage(command.into(), Who::Nobody);
        }
    }

    fn tell_evidence_of_orders(&mut self) {
        let now = self.shared.now_tick;
        let evidence = self.evidence();
        let told = &mut self.shared.manager.evidences.orders;
        told.retain(|order| evidence.iter().any(|(known, _)| known == order));
        for (order, outcome) in evidence {
            let told = &mut self.shared.manager.evidences.orders;
            if told.is_due(order, now, EVIDENCE_TICKS) {
                self.manage(Command::CloseOrder { order, outcome }.into(), Who::Nobody);
            }
        }
    }

    fn tell_evidence_of_moves(&mut self) {
        let Some(cluster) = self.shared.cluster.clone() else {
            return;
        };
        let now = self.shared.now_tick;
        let told = &mut self.shared.manager.evidences.moves;
        told.retain(|id| cluster.moves().contains_key(id));
        for (id, open) in cluster.moves() {
            let of = |group| self.groups.iter().find(|own| own.id == group);
            let planted = self.shared.config.planted;
            let target = of(open.to).and_then(|group| group.evidence_as_target(*id, planted));
            let source = open.from.and_then(of);
            let source = source.and_then(|group| group.evidence_as_source(*id));
            let told = &mut self.shared.manager.evidences.moves;
            if let Some(evidence) = target.or(source)
                && told.is_due(*id, now, EVIDENCE_TICKS)
            {
                let close = Command::CloseMove { id: *id, evidence };
                self.manage(close.into(), Who::Nobody);
            }
        }
    }
}

impl Group {
    /// How a move to this group ended, if its log has decided.
    fn evidence_as_target(&self, id: MoveId, planted: Planted) -> Option<Evidence> {
        let (by, at) = (self.id, self.may_drive().then(|| self.raft.applied())?);
        let is_staged = self.moves().incoming.contains_key(&id);
        if is_staged && planted.has(Bug::MoveClosedTooEarly) {
            return Some(Evidence::Received { by, at });
        }
        match self.moves().ended.get(&id)? {
            Ended::Received => Some(Evidence::Received { by, at }),
            Ended::Refused => Some(Evidence::Refused { by, at }),
            Ended::Cancelled | Ended::Dropped | Ended::Returned => None,
        }
    }

    /// Whether a move from this group was cancelled before it was sealed.
    fn evidence_as_source(&self, id: MoveId) -> Option<Evidence> {
        let (by, at) = (self.id, self.may_drive().then(|| self.raft.applied())?);
        let cancelled = self.moves().ended.get(&id) == Some(&Ended::Cancelled);
        cancelled.then_some(Evidence::Cancelled { by, at })
    }
}
