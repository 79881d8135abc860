//! The arithmetic of majorities, with nothing of consensus in it.
//!
//! In a joint phase a decision needs a majority of the old voters and one of the new (Raft thesis,
//! section 4.3), so both questions here ask both sets. A set without members never agrees: a
//! replica that does not know its group yet must not decide anything alone.

use std::collections::BTreeSet;

use kvorum_base::ReplicaId;

use crate::types::Membership;

/// How a ballot stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ballot {
    /// A quorum said yes.
    Won,
    /// So many said no that no quorum can say yes any more.
    Lost,
    /// Neither yet.
    Open,
}

/// The largest number that a quorum has acknowledged, where each replica acknowledges everything up
/// to its own: the commit index of matches, the newest confirmed read of round numbers, the latest
/// tick by which a quorum was heard.
pub(crate) fn acknowledged(membership: &Membership, by: impl Fn(ReplicaId) -> u64) -> u64 {
    let first = acknowledged_in(&membership.voters, &by);
    if membership.is_joint() {
        first.min(acknowledged_in(&membership.outgoing, &by))
    } else {
        first
    }
}

/// The largest of the voters' numbers that a majority reaches. Quadratic without a copy: groups have
/// three to seven voters, and this runs for every acknowledgement.
fn acknowledged_in(voters: &BTreeSet<ReplicaId>, by: &impl Fn(ReplicaId) -> u64) -> u64 {
    let majority = voters.len() / 2 + 1;
    let reached_by_majority =
        |number: u64| voters.iter().filter(|id| by(**id) >= number).count() >= majority;
    voters
        .iter()
        .map(|id| by(*id))
        .filter(|number| reached_by_majority(*number))
        .max()
        .unwrap_or(0)
}

/// How a ballot stands, given each replica's answer if it gave one.
pub(crate) fn ballot(
    membership: &Membership,
    answer: impl Fn(ReplicaId) -> Option<bool>,
) -> Ballot {
    let first = ballot_in(&membership.voters, &answer);
    if !membership.is_joint() {
        return first;
    }
    match (first, ballot_in(&membership.outgoing, &answer)) {
        (Ballot::Lost, _) | (_, Ballot::Lost) => Ballot::Lost,
        (Ballot::Won, Ballot::Won) => Ballot::Won,
        _ => Ballot::Open,
    }
}

fn ballot_in(voters: &BTreeSet<ReplicaId>, answer: &impl Fn(ReplicaId) -> Option<bool>) -> Ballot {
    let majority = voters.len() / 2 + 1;
    let count = |wanted: bool| {
        voters
            .iter()
            .filter(|id| answer(**id) == Some(wanted))
            .count()
    };
    if count(true) >= majority {
        Ballot::Won
    } else if voters.len() - count(false) < majority {
        Ballot::Lost
    } else {
        Ballot::Open
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kvorum_base::Prng;

    use super::*;

    /// All subsets of a set that hold more than half of it.
    fn majorities(voters: &BTreeSet<ReplicaId>) -> Vec<BTreeSet<ReplicaId>> {
        let voters: Vec<ReplicaId> = voters.iter().copied().collect();
        (0u32..1 << voters.len())
            .filter(|bits| bits.count_ones() as usize * 2 > voters.len())
            .map(|bits| {
                (0..voters.len())
                    .filter(|place| bits >> place & 1 == 1)
                    .map(|place| voters[place])
                    .collect()
            })
            .collect()
    }

    /// All sets that contain a majority of both: the definition, written out.
    fn quorums(membership: &Membership) -> Vec<BTreeSet<ReplicaId>> {
        let new = majorities(&membership.voters);
        if !membership.is_joint() {
            return new;
        }
        let old = majorities(&membership.outgoing);
        new.iter()
            .flat_map(|n| old.iter().map(move |o| n | o))
            .collect()
    }

    fn draw_set(prng: &mut Prng) -> BTreeSet<ReplicaId> {
        (0..prng.below(6))
            .map(|_| ReplicaId(prng.range(1, 7)))
            .collect()
    }

    #[test]
    fn equal_to_trying_every_quorum() {
        let mut prng = Prng::new(0x9_0e11);
        for _ in 0..4000 {
            let membership = Membership {
                voters: draw_set(&mut prng),
                outgoing: draw_set(&mut prng),
                ..Membership::default()
            };
            let numbers: BTreeMap<ReplicaId, u64> =
                (1..=7).map(|id| (ReplicaId(id), prng.below(5))).collect();
            let answers: BTreeMap<ReplicaId, Option<bool>> = (1..=7)
                .map(|id| {
                    let answer = (!prng.chance(1, 3)).then(|| prng.chance(1, 2));
                    (ReplicaId(id), answer)
                })
                .collect();
            let quorums = quorums(&membership);

            let lowest = |quorum: &BTreeSet<ReplicaId>| {
                quorum.iter().map(|id| numbers[id]).min().unwrap_or(0)
            };
            let expected = quorums.iter().map(lowest).max().unwrap_or(0);
            assert_eq!(
                acknowledged(&membership, |id| numbers[&id]),
                expected,
                "{membership:?} {numbers:?}"
            );

            let all = |quorum: &BTreeSet<ReplicaId>, allowed: &[Option<bool>]| {
                quorum.iter().all(|id| allowed.contains(&answers[id]))
            };
            let expected = if quorums.iter().any(|q| all(q, &[Some(true)])) {
                Ballot::Won
            } else if quorums.iter().any(|q| all(q, &[Some(true), None])) {
                Ballot::Open
            } else {
                Ballot::Lost
            };
            assert_eq!(
                ballot(&membership, |id| answers[&id]),
                expected,
                "{membership:?} {answers:?}"
            );
        }
    }

    #[test]
    fn nobody_decides_for_an_unknown_group() {
        let nobody = Membership::default();
        assert_eq!(acknowledged(&nobody, |_| 9), 0);
        assert_ne!(ballot(&nobody, |_| Some(true)), Ballot::Won);
    }
}
