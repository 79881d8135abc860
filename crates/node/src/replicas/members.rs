//! A group's own part: its primary takes orders to change the members, in the order of their numbers, and
//! carries them out one at a time.
//!
//! A learner becomes a voter when two things are known of it. Its *synced* log has reached what was
//! committed when it was last asked for: consensus sees to that. And it has a state: it has shown, for a
//! checkpoint that was logged after it was asked for, the hash that the primary has there. A majority that
//! counts a replica without one could commit, and nobody of it could lead.

use std::collections::BTreeMap;

use kvorum_base::{Bug, Index, ReplicaId};
use kvorum_cluster::{Order, OrderNumber, Outcome, Task};
use kvorum_raft::{Membership, MembershipRefused, Target};

use super::Taken;
use crate::format::entry::{encode_checkpoint, encode_order};
use crate::group::Group;
use crate::limits::TRANSFER_ELECTIONS;
use crate::shared::Shared;

/// What a primary remembers of the orders that it carries out. Lost with the leadership.
#[derive(Debug, Default)]
pub(crate) struct Changing {
    /// Its last word about an order: nothing more is said before that is applied.
    said: Index,
    /// The first checkpoint after the learner of this order was asked for, and when the last one was logged.
    asked: Option<(OrderNumber, Index, u64)>,
    /// The last checkpoint for which a learner has shown the right hash.
    shown: BTreeMap<ReplicaId, Index>,
    /// Not before this tick is a change tried again.
    next_try_tick: u64,
    /// The hand-over that was ordered, and when it began.
    transfer: Option<(OrderNumber, u64)>,
    /// It is known by now that nothing comes of it.
    transfer_failed: bool,
}

/// The id of the members for which an order was made, if it is to change them.
pub(super) fn expected_of(task: &Task) -> Option<Index> {
    match task {
        Task::AddLearner { expected, .. }
        | Task::Promote { expected, .. }
        | Task::Remove { expected, .. } => Some(*expected),
        Task::CreateReplica { .. }
        | Task::TransferPrimary { .. }
        | Task::StartMove { .. }
        | Task::DeleteReplica { .. }
        | Task::Recover { .. } => None,
    }
}

/// Whether these members, which are none of a joint phase, are what an order wants.
pub(super) fn is_done(task: &Task, members: &Membership) -> bool {
    let has = |replica| members.voters.contains(replica) || members.learners.contains(replica);
    match task {
        Task::AddLearner { replica, .. } => members.learners.contains(replica),
        Task::Promote {
            replica, removing, ..
        } => {
            let is_gone = removing.as_ref().is_none_or(|removed| !has(removed));
            members.voters.contains(replica) && is_gone
        }
        Task::Remove { replica, .. } => !has(replica),
        _ => false,
    }
}

/// The members that an order leads to.
fn target_of(task: &Task, members: &Membership) -> Target {
    let mut target = Target::of(members);
    match task {
        Task::AddLearner { replica, node, .. } => {
            target.learners.insert(*replica, *node);
        }
        Task::Promote {
            replica, removing, ..
        } => {
            if let Some(node) = target.learners.remove(replica) {
                target.voters.insert(*replica, node);
            }
            if let Some(removed) = removing {
                target.voters.remove(removed);
                target.learners.remove(removed);
            }
        }
        Task::Remove { replica, .. } => {
            target.voters.remove(replica);
            target.learners.remove(replica);
        }
        _ => {}
    }
    target
}

impl Group {
    /// Brings the orders to this group as far as they go.
    pub(crate) fn drive_orders(&mut self, shared: &mut Shared) {
        let Some(cluster) = shared.cluster.clone() else {
            return;
        };
        if !self.may_drive() || !shared.log.writable() || !self.is_recorded(&cluster) {
            return;
        }
        for (number, order) in cluster.orders_for(self.id) {
            if let Task::TransferPrimary { to } = order.task {
                self.try_transfer(number, to, shared);
            } else if expected_of(&order.task).is_some() && self.is_settled() {
                self.drive_order(number, order, shared);
            }
        }
    }

    /// Whether what this primary knows of orders and members is all that is in the log.
    fn is_settled(&self) -> bool {
        let members = self.raft.membership();
        let applied = self.raft.applied();
        !members.is_joint() && members.id <= applied && self.changing.said <= applied
    }

    fn drive_order(&mut self, number: OrderNumber, order: &Order, shared: &mut Shared) {
        let Some(expected) = expected_of(&order.task) else {
            return;
        };
        let state = self.state.as_ref().expect("a primary has a state");
        let (taken, members) = (state.taken, &state.membership);
        let is_stale = number < taken.order || (number == taken.order && taken.refused);
        if is_stale && !shared.config.planted.has(Bug::StaleOrderExecuted) {
            return;
        }
        let can_be = !order.withdrawn && members.id == expected;
        if number > taken.order {
            return self.say(number, !can_be, shared);
        }
        if is_done(&order.task, members) && members.id > expected {
            return;
        }
        if !can_be {
            return self.say(number, true, shared);
        }
        if self.changing.next_try_tick > shared.now_tick {
            return;
        }
        self.changing.next_try_tick = shared.now_tick + u64::from(shared.config.heartbeat_ticks);
        self.try_change(number, &order.task, expected, shared);
    }

    /// Writes into the log that an order is taken, or refused.
    fn say(&mut self, order: OrderNumber, refused: bool, shared: &Shared) {
        let taken = Taken { order, refused };
        let entry = |term, index, clock| encode_order(term, index, clock, taken);
        // What is refused now is said later: nobody else may say it.
        if let Ok(index) = self.propose_entry(shared, entry) {
            self.changing.said = index;
        }
    }

    fn try_change(
        &mut self,
        number: OrderNumber,
        task: &Task,
        expected: Index,
        shared: &mut Shared,
    ) {
        if let Task::Promote { replica, .. } = task
            && !self.has_state(number, *replica, shared)
            && !shared.config.planted.has(Bug::PromotedTooEarly)
        {
            return;
        }
        let target = target_of(task, self.raft.membership());
        match self.raft.propose_membership(expected, &target) {
            Ok(_) => {}
            // In time.
            Err(
                MembershipRefused::NotLeader
                | MembershipRefused::InProgress
                | MembershipRefused::Transferring
                | MembershipRefused::NotCaughtUp { .. },
            ) => {}
            // Never.
            Err(
                MembershipRefused::Stale(_)
                | MembershipRefused::NoVoters
                | MembershipRefused::VoterAndLearner(_)
                | MembershipRefused::Moved(_)
                | MembershipRefused::NotLearner(_)
                | MembershipRefused::Demoted(_)
                | MembershipRefused::Same,
            ) => self.say(number, true, shared),
        }
    }

    /// Whether a learner has shown its state since it was asked for; if not, asks it to.
    fn has_state(&mut self, number: OrderNumber, replica: ReplicaId, shared: &mut Shared) -> bool {
        let now = shared.now_tick;
        let asked = self.changing.asked.filter(|(order, ..)| *order == number);
        let first = asked.map(|(_, index, _)| index);
        let shown = self.changing.shown.get(&replica);
        if shown
            .zip(first)
            .is_some_and(|(shown, first)| *shown >= first)
        {
            return true;
        }
        let pause = shared.config.checkpoint_ticks;
        if asked.is_some_and(|(_, _, tick)| now < tick + pause) {
            return false;
        }
        if let Ok(index) = self.propose_entry(shared, encode_checkpoint) {
            self.changing.asked = Some((number, first.unwrap_or(index), now));
        }
        false
    }

    /// A learner has this hash at a checkpoint.
    pub(crate) fn learner_reported(
        &mut self,
        index: Index,
        replica: ReplicaId,
        hash: u64,
        shared: &mut Shared,
    ) {
        let Some(own) = self.checkpoints.hash_of(index, self.replica) else {
            return;
        };
        if own == hash {
            let shown = self.changing.shown.entry(replica).or_default();
            *shown = index.max(*shown);
        } else if let Some(node) = self.node_of(replica) {
            let peers = &mut shared.peers;
            peers.report_divergence(node, self.id, replica, index, hash);
        }
    }

    /// Hands over once, as ordered. Whoever is preferred gets the leadership later all the same.
    fn try_transfer(&mut self, number: OrderNumber, to: ReplicaId, shared: &Shared) {
        let changing = &mut self.changing;
        match changing.transfer {
            Some((order, since)) if order == number => {
                let patience = TRANSFER_ELECTIONS * u64::from(shared.config.election_ticks_max);
                changing.transfer_failed |= shared.now_tick >= since + patience;
            }
            _ => {
                changing.transfer = Some((number, shared.now_tick));
                let refused = to != self.replica && self.raft.transfer(Some(to)).is_err();
                self.changing.transfer_failed = refused;
            }
        }
    }

    pub(super) fn outcome_of_transfer(
        &self,
        number: OrderNumber,
        to: ReplicaId,
    ) -> Option<Outcome> {
        if to == self.replica {
            return Some(Outcome::Transferred);
        }
        let changing = &self.changing;
        let tried = changing.transfer.is_some_and(|(order, _)| order == number);
        (tried && changing.transfer_failed).then_some(Outcome::Refused)
    }
}
