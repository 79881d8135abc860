//! Do all replicas hold the same state? Compared, not believed.
//!
//! The state has an additive hash. Replicas take snapshots at different indexes, so there is no moment
//! at which they could compare by chance: the primary logs a checkpoint entry now and then, each
//! replica notes its hash when it applies it and reports it to the primary. The replica that disagrees
//! with a majority is the wrong one, whoever it is: it drops its state (its log and its votes are
//! fine) and takes a snapshot. Without a majority nobody can say who is right, and it stays an alarm.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{Index, ReplicaId};

/// How many checkpoints are remembered; later ones will tell as much as older ones.
const KEPT: usize = 4;

/// What the reports of a checkpoint say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// All that reported agree, or too few have.
    Open,
    /// These replicas disagree with a majority.
    Wrong(Vec<ReplicaId>),
    /// They disagree and no value has a majority.
    Undecided,
}

/// The hashes noted at recent checkpoints.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    reports: BTreeMap<Index, BTreeMap<ReplicaId, u64>>,
    /// The last checkpoint judged wrong or undecided, so that one alarm is raised for each.
    judged: Index,
}

impl Checkpoints {
    /// A replica, this one or another, applied the checkpoint at `index` and has this hash.
    pub(crate) fn report(&mut self, index: Index, replica: ReplicaId, hash: u64) {
        self.reports.entry(index).or_default().insert(replica, hash);
        while self.reports.len() > KEPT {
            self.reports.pop_first();
        }
    }

    /// What is known of the checkpoint at `index`; only these voters count. A verdict other than open
    /// is given once.
    pub(crate) fn judge(&mut self, index: Index, voters: &BTreeSet<ReplicaId>) -> Verdict {
        let Some(reports) = self.reports.get(&index) else {
            return Verdict::Open;
        };
        let of_voters = || {
            reports
                .iter()
                .filter(|(replica, _)| voters.contains(replica))
        };
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for (_, hash) in of_voters() {
            *counts.entry(*hash).or_default() += 1;
        }
        if counts.len() <= 1 || self.judged >= index {
            return Verdict::Open;
        }
        let right = counts
            .iter()
            .find(|(_, count)| **count * 2 > voters.len())
            .map(|(hash, _)| *hash);
        if right.is_none() && of_voters().count() < voters.len() {
            return Verdict::Open;
        }
        self.judged = index;
        match right {
            None => Verdict::Undecided,
            Some(right) => Verdict::Wrong(
                of_voters()
                    .filter(|(_, hash)| **hash != right)
                    .map(|(id, _)| *id)
                    .collect(),
            ),
        }
    }

    /// The hash that a replica reported for a checkpoint.
    pub(crate) fn hash_of(&self, index: Index, replica: ReplicaId) -> Option<u64> {
        self.reports.get(&index)?.get(&replica).copied()
    }

    /// Forgets everything: the state was replaced.
    pub(crate) fn clear(&mut self) {
        self.reports.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports(hashes: &[u64]) -> Checkpoints {
        let mut checkpoints = Checkpoints::default();
        for (replica, hash) in (1..).zip(hashes) {
            checkpoints.report(Index(9), ReplicaId(replica), *hash);
        }
        checkpoints
    }

    fn voters(count: u64) -> BTreeSet<ReplicaId> {
        (1..=count).map(ReplicaId).collect()
    }

    #[test]
    fn the_one_against_two_is_wrong() {
        let mut checkpoints = reports(&[7, 8, 7]);
        assert_eq!(
            checkpoints.judge(Index(9), &voters(3)),
            Verdict::Wrong(vec![ReplicaId(2)])
        );
        assert_eq!(
            checkpoints.judge(Index(9), &voters(3)),
            Verdict::Open,
            "said once"
        );
    }

    #[test]
    fn two_that_differ_wait_for_the_third() {
        assert_eq!(reports(&[7, 8]).judge(Index(9), &voters(3)), Verdict::Open);
        assert_eq!(
            reports(&[7, 8, 9]).judge(Index(9), &voters(3)),
            Verdict::Undecided
        );
        assert_eq!(
            reports(&[7, 8]).judge(Index(9), &voters(2)),
            Verdict::Undecided
        );
    }

    #[test]
    fn who_is_no_voter_does_not_count() {
        let verdict = reports(&[7, 8, 7, 8, 8]).judge(Index(9), &voters(3));
        assert_eq!(verdict, Verdict::Wrong(vec![ReplicaId(2)]));
    }

    #[test]
    fn agreement_is_silent() {
        assert_eq!(
            reports(&[7, 7, 7]).judge(Index(9), &voters(3)),
            Verdict::Open
        );
        assert_eq!(
            Checkpoints::default().judge(Index(9), &voters(3)),
            Verdict::Open
        );
    }
}
