//! Changes of the members: which are allowed, what they look like, and which one is in force where.
//!
//! A membership is in force as soon as its entry is in the log, committed or not (Raft paper,
//! section 6), so a truncation can take it back, and a snapshot must carry the one of its own index
//! and not the newest. Any change of the voters goes through a joint phase; learners come and go in
//! one step, since they count for nothing.
//!
//! A voter cannot be made a learner: remove it and add a new replica. Replica ids are never reused,
//! and nobody has needed the short cut.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use kvorum_base::{Index, NodeId, ReplicaId};

use crate::types::Membership;

/// The members that a change should end with.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Target {
    /// The voters and where they live.
    pub voters: BTreeMap<ReplicaId, NodeId>,
    /// The learners and where they live.
    pub learners: BTreeMap<ReplicaId, NodeId>,
}

impl Target {
    /// The members as they are, to be changed a little. In a joint phase: what it leads to.
    #[must_use]
    pub fn of(membership: &Membership) -> Self {
        let places = |replicas: &BTreeSet<ReplicaId>| {
            replicas
                .iter()
                .filter_map(|id| Some((*id, *membership.nodes.get(id)?)))
                .collect()
        };
        Self {
            voters: places(&membership.voters),
            learners: places(&membership.learners),
        }
    }
}

/// Why a change of the members was not even proposed. It did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MembershipRefused {
    /// Ask the leader.
    NotLeader,
    /// An earlier change is not finished, or this leader has not committed an entry of its own yet.
    InProgress,
    /// The plan was made for another membership; this is the present one's id.
    Stale(Index),
    /// The leadership is being handed over.
    Transferring,
    /// A group cannot be without voters.
    NoVoters,
    /// A replica cannot be both.
    VoterAndLearner(ReplicaId),
    /// A replica stays on its node for life.
    Moved(ReplicaId),
    /// A new voter has to be a learner first, or it would count before it holds anything.
    NotLearner(ReplicaId),
    /// A voter cannot become a learner.
    Demoted(ReplicaId),
    /// The learner does not hold synced what was committed when it was last asked for. Ask again.
    NotCaughtUp {
        /// The learner.
        replica: ReplicaId,
        /// What it is known to hold, synced.
        matched: Index,
        /// What it needs to hold at the next asking.
        needed: Index,
    },
    /// Nothing would change.
    Same,
}

impl fmt::Display for MembershipRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader => write!(f, "not the leader"),
            Self::InProgress => write!(f, "an earlier change is not finished"),
            Self::Stale(present) => write!(f, "the present membership is {present}"),
            Self::Transferring => write!(f, "the leadership is being handed over"),
            Self::NoVoters => write!(f, "no voters would be left"),
            Self::VoterAndLearner(id) => write!(f, "replica {id} would be voter and learner"),
            Self::Moved(id) => write!(f, "replica {id} lives on another node"),
            Self::NotLearner(id) => write!(f, "replica {id} is not a learner yet"),
            Self::Demoted(id) => write!(f, "replica {id} is a voter and cannot become a learner"),
            Self::NotCaughtUp {
                replica,
                matched,
                needed,
            } => write!(f, "replica {replica} holds {matched}, needs {needed}"),
            Self::Same => write!(f, "nothing would change"),
        }
    }
}

impl std::error::Error for MembershipRefused {}

/// The membership that begins a change, with the id 0 still to be filled in. Whether new voters have
/// caught up is for the leader to say.
pub(crate) fn begin(
    present: &Membership,
    expected: Index,
    target: &Target,
) -> Result<Membership, MembershipRefused> {
    if present.is_joint() {
        return Err(MembershipRefused::InProgress);
    }
    if present.id != expected {
        return Err(MembershipRefused::Stale(present.id));
    }
    if target.voters.is_empty() {
        return Err(MembershipRefused::NoVoters);
    }
    for (id, node) in target.voters.iter().chain(&target.learners) {
        if present.nodes.get(id).is_some_and(|lives| lives != node) {
            return Err(MembershipRefused::Moved(*id));
        }
    }
    for id in target.learners.keys() {
        if target.voters.contains_key(id) {
            return Err(MembershipRefused::VoterAndLearner(*id));
        }
        if present.is_voter(*id) {
            return Err(MembershipRefused::Demoted(*id));
        }
    }
    let voters: BTreeSet<ReplicaId> = target.voters.keys().copied().collect();
    for id in &voters {
        if !present.is_voter(*id) && !present.learners.contains(id) {
            return Err(MembershipRefused::NotLearner(*id));
        }
    }
    let outgoing = if voters == present.voters {
        BTreeSet::new()
    } else {
        present.voters.clone()
    };
    let next = with_nodes(present, target, voters, outgoing);
    if next.voters == present.voters && next.learners == present.learners {
        return Err(MembershipRefused::Same);
    }
    Ok(next)
}

fn with_nodes(
    present: &Membership,
    target: &Target,
    voters: BTreeSet<ReplicaId>,
    outgoing: BTreeSet<ReplicaId>,
) -> Membership {
    let mut nodes: BTreeMap<ReplicaId, NodeId> = outgoing
        .iter()
        .filter_map(|id| Some((*id, *present.nodes.get(id)?)))
        .collect();
    nodes.extend(&target.voters);
    nodes.extend(&target.learners);
    Membership {
        id: Index::ZERO,
        voters,
        outgoing,
        learners: target.learners.keys().copied().collect(),
        nodes,
        floor: present.floor,
    }
}

/// The membership that ends a joint phase, with the id 0 still to be filled in.
pub(crate) fn leave(joint: &Membership) -> Membership {
    let mut next = Membership {
        id: Index::ZERO,
        outgoing: BTreeSet::new(),
        ..joint.clone()
    };
    next.nodes
        .retain(|id, _| next.voters.contains(id) || next.learners.contains(id));
    next
}

/// Whether a membership from outside is one: the invariants of the type.
pub(crate) fn is_sound(membership: &Membership) -> bool {
    let learners_apart = membership
        .learners
        .iter()
        .all(|id| !membership.is_voter(*id));
    let replicas: BTreeSet<&ReplicaId> = membership
        .voters
        .iter()
        .chain(&membership.outgoing)
        .chain(&membership.learners)
        .collect();
    !membership.voters.is_empty() && learners_apart && membership.nodes.keys().eq(replicas)
}

/// Which membership is in force where: the one of the log's base, and those of the entries after it.
///
/// Invariants: never empty; indexes rise; all but the first belong to entries of the log.
#[derive(Debug)]
pub(crate) struct History {
    changes: Vec<(Index, Arc<Membership>)>,
}

impl History {
    pub(crate) fn new(index: Index, membership: Arc<Membership>) -> Self {
        Self {
            changes: vec![(index, membership)],
        }
    }

    /// The one in force for decisions: the newest in the log.
    pub(crate) fn newest(&self) -> &Arc<Membership> {
        &self.changes.last().expect("never empty").1
    }

    /// The one as of an index at or after the base.
    pub(crate) fn at(&self, index: Index) -> &Arc<Membership> {
        let after = self.changes.partition_point(|(from, _)| *from <= index);
        &self.changes[after.max(1) - 1].1
    }

    /// Those that may be in force once all is known, given what is committed: the one as of there and
    /// those after it.
    pub(crate) fn possible_after(&self, commit: Index) -> impl Iterator<Item = &Membership> {
        let after = self.changes.partition_point(|(from, _)| *from <= commit);
        self.changes[after.max(1) - 1..]
            .iter()
            .map(|(_, membership)| membership.as_ref())
    }

    pub(crate) fn push(&mut self, index: Index, membership: Arc<Membership>) {
        self.changes.push((index, membership));
    }

    /// Takes back those of the entries from `first` on.
    pub(crate) fn truncate(&mut self, first: Index) {
        let keep = self.changes.partition_point(|(from, _)| *from < first);
        self.changes.truncate(keep.max(1));
    }

    /// Forgets those that were over before `upto`.
    pub(crate) fn compact(&mut self, upto: Index) {
        let after = self.changes.partition_point(|(from, _)| *from <= upto);
        self.changes.drain(..after.max(1) - 1);
    }

    pub(crate) fn changes(&self) -> &[(Index, Arc<Membership>)] {
        &self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(ids: &[u64]) -> BTreeMap<ReplicaId, NodeId> {
        ids.iter().map(|id| (ReplicaId(*id), NodeId(*id))).collect()
    }

    fn target(voters: &[u64], learners: &[u64]) -> Target {
        Target {
            voters: places(voters),
            learners: places(learners),
        }
    }

    fn group(voters: &[u64], learners: &[u64]) -> Membership {
        let mut membership = Membership::initial(places(voters));
        membership.learners = places(learners).into_keys().collect();
        membership.nodes.extend(places(learners));
        membership
    }

    #[test]
    fn learners_change_in_one_step_and_voters_in_two() {
        let present = group(&[1, 2, 3], &[4]);
        let next = begin(&present, Index::ZERO, &target(&[1, 2, 3], &[5])).expect("allowed");
        assert_eq!(next, group(&[1, 2, 3], &[5]));

        let joint = begin(&present, Index::ZERO, &target(&[1, 2, 4], &[])).expect("allowed");
        assert!(joint.is_joint() && is_sound(&joint));
        assert_eq!(joint.outgoing, present.voters);
        assert_eq!(joint.nodes.len(), 4);
        assert_eq!(leave(&joint), group(&[1, 2, 4], &[]));
    }

    #[test]
    fn refusals() {
        let present = group(&[1, 2, 3], &[4]);
        let refused = |expected, target| begin(&present, Index(expected), &target).unwrap_err();
        assert_eq!(
            refused(7, target(&[1], &[])),
            MembershipRefused::Stale(Index(0))
        );
        assert_eq!(refused(0, target(&[], &[1])), MembershipRefused::NoVoters);
        assert_eq!(
            refused(0, target(&[1, 5], &[])),
            MembershipRefused::NotLearner(ReplicaId(5))
        );
        assert_eq!(
            refused(0, target(&[1, 2], &[3])),
            MembershipRefused::Demoted(ReplicaId(3))
        );
        assert_eq!(
            refused(0, target(&[1, 4], &[4])),
            MembershipRefused::VoterAndLearner(ReplicaId(4))
        );
        assert_eq!(refused(0, Target::of(&present)), MembershipRefused::Same);
        let mut moved = Target::of(&present);
        moved.voters.insert(ReplicaId(2), NodeId(9));
        assert_eq!(refused(0, moved), MembershipRefused::Moved(ReplicaId(2)));
        let joint = begin(&present, Index::ZERO, &target(&[1], &[])).expect("allowed");
        assert_eq!(
            begin(&joint, Index::ZERO, &target(&[1, 2], &[])),
            Err(MembershipRefused::InProgress)
        );
    }

    #[test]
    fn a_truncation_takes_memberships_back() {
        let of = |voters: &[u64]| Arc::new(group(voters, &[]));
        let mut history = History::new(Index(3), of(&[1]));
        history.push(Index(5), of(&[1, 2]));
        history.push(Index(9), of(&[1, 2, 3]));
        assert_eq!(history.at(Index(8)).voters.len(), 2);
        assert_eq!(history.at(Index(3)).voters.len(), 1);
        history.truncate(Index(9));
        assert_eq!(history.newest().voters.len(), 2);
        history.compact(Index(7));
        assert_eq!(history.changes().len(), 1);
        assert_eq!(history.newest().voters.len(), 2);
    }
}
