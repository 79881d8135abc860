//! Bugs on purpose, so that the simulation of the coordinator can be judged.
//!
//! A check that never spoke proves nothing. With the feature `planted` a coordinator can be given one
//! [`Bug`], and the simulation must then fail. Without the feature [`Planted`] has no size and `has`
//! is the constant `false`.

/// One planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A task that has a winner takes a second one.
    LateAttemptCommits,
    /// An attempt whose lease ran out, and whose files are gone, is still taken when it reports.
    LeaseNotFenced,
    /// What a lost attempt had counted so far stays in the totals.
    LostCountersKept,
    /// Reduces start when the maps are handed out, not when they are committed.
    ReduceBeforeMaps,
    /// An output is published before the record that says so is durable.
    PublishBeforeRecord,
    /// A coordinator that takes over gives out the numbers of its predecessor again.
    AttemptNumbersReused,
    /// A coordinator that was replaced takes its refused records for durable.
    DeposedGoesOn,
}

impl Bug {
    /// All of them.
    pub const ALL: &[Bug] = &[
        Bug::LateAttemptCommits,
        Bug::LeaseNotFenced,
        Bug::LostCountersKept,
        Bug::ReduceBeforeMaps,
        Bug::PublishBeforeRecord,
        Bug::AttemptNumbersReused,
        Bug::DeposedGoesOn,
    ];
}

/// Which bug a coordinator has, if any.
pub type Planted = kvorum_base::Planted<Bug>;
