//! Judging the judge: each planted bug must be caught, and by the checker that is meant for it.
//!
//! A checker that never spoke proves nothing. For every bug the simulator runs seeds until a failure
//! and looks who found it. The same seeds pass without the bug: that is the other half of the proof.

use kvorum_base::Bug;

use crate::cluster::options::{Danger, Options};
use crate::world::ms;

/// Within this many seeds a bug must be caught.
pub const SEEDS_MAX: u64 = 400;

/// The checkers of which one must catch the bug. (A replica's own assertions may come first where a
/// bug breaks an invariant of its own.)
#[must_use]
pub fn meant_for(bug: Bug) -> &'static [&'static str] {
    match bug {
        Bug::ReplyBeforeSync => &[
            "durability",
            "state-machine-safety",
            "leader-completeness",
            "promises",
        ],
        Bug::VoteNotSaved | Bug::VoteFreedWithSegment => &["promises", "election-safety"],
        Bug::OldTermCommit => &[
            "state-machine-safety",
            "leader-completeness",
            "linearizability",
        ],
        Bug::ReadWithoutQuorum
        | Bug::ReadNumberReused
        | Bug::ReadBeforeOwnTerm
        | Bug::FollowerReadsUnasked => &["linearizability"],
        Bug::SessionsNotInSnapshot => &["exactly-once", "replica-equality"],
        Bug::CommittedTruncated => &[
            "state-machine-safety",
            "log-matching",
            "leader-completeness",
        ],
        Bug::SnapshotMissesLast | Bug::AppliedTwice => &["replica-equality"],
        Bug::ExpiryByLocalClock => &["expiry", "replica-equality"],
        Bug::DuplicateAppendWritten | Bug::DamagedReplicaAcks | Bug::DamageTakenForTorn => {
            &["promises", "damage-seen"]
        }
        Bug::CarryTruncates | Bug::ResetMissing => &["promises", "intact-log"],
        Bug::RecoveredTailNotSynced | Bug::SyncedAfterFailure => &[
            "promises",
            "durability",
            "leader-completeness",
            "state-machine-safety",
            "intact-log",
        ],
        Bug::TornTakenForDamage => &["intact-log"],
        Bug::DeposedRedirects => &["linearizability", "durability"],
        Bug::SessionEvicted => &["exactly-once"],
        Bug::AbsentVersionZero | Bug::VersionsNotMoved => &["versions", "transactions"],
        Bug::ReadOvertakesWrite => &["pipeline-order"],
        Bug::ForeignChunkResumed => &["snapshot-transfer", "replica-equality"],
        Bug::SnapshotNewestMembership => &["replica-equality"],
        Bug::WriteAfterSealed => &["linearizability", "durability", "snapshot-transfer"],
        Bug::ReceivedUnchecked => &["linearizability", "durability", "exactly-once", "versions"],
        Bug::StagingNotInSnapshot => &["replica-equality", "assertion"],
        Bug::ClockStepsBack => &["one-owner", "expiry", "linearizability"],
        Bug::SealedCancelled => &["one-owner"],
        Bug::StaleOrderExecuted | Bug::PromotedTooEarly => &["members"],
        Bug::DeletedReplicaMadeAgain => &["replica-once"],
        Bug::OrderRepeated | Bug::ManagerNotInSnapshot => &["manager-equality", "issuers"],
        Bug::MoveClosedTooEarly => &["evidence"],
        Bug::WipedNodeReturns => &[
            "promises",
            "election-safety",
            "leader-completeness",
            "state-machine-safety",
        ],
    }
}

/// The dangers without which the bug does no harm; they are met in every seed of its hunt.
#[must_use]
pub fn needs(bug: Bug) -> &'static [Danger] {
    match bug {
        Bug::ReplyBeforeSync | Bug::VoteNotSaved => &[Danger::PowerCutOfAll, Danger::PowerCut],
        Bug::OldTermCommit => &[Danger::FallingLeaders],
        Bug::SessionsNotInSnapshot | Bug::SnapshotMissesLast => {
            &[Danger::Snapshot, Danger::FlipSnapshot]
        }
        Bug::ForeignChunkResumed => &[
            Danger::Snapshot,
            Danger::LonelyLeader,
            Danger::FallingLeaders,
            Danger::Weather,
        ],
        Bug::ExpiryByLocalClock => &[Danger::ClockJump],
        Bug::DamagedReplicaAcks | Bug::DamageTakenForTorn => &[Danger::FlipLog],
        Bug::TornTakenForDamage => &[Danger::PowerCutOfAll],
        Bug::RecoveredTailNotSynced => &[Danger::KillThenPowerCut],
        Bug::SyncedAfterFailure => &[Danger::FailedSync, Danger::PowerCutOfAll],
        Bug::AppliedTwice | Bug::VoteFreedWithSegment | Bug::CarryTruncates => &[Danger::Kill],
        Bug::DuplicateAppendWritten => &[Danger::Kill, Danger::Weather],
        Bug::ResetMissing => &[Danger::LonelyLeader, Danger::Snapshot, Danger::Kill],
        Bug::ReadWithoutQuorum | Bug::ReadNumberReused => &[Danger::LonelyLeader],
        Bug::DeposedRedirects => &[Danger::LonelyLeader, Danger::Partition],
        Bug::ReceivedUnchecked => &[Danger::Weather, Danger::FallingLeaders],
        Bug::StagingNotInSnapshot => &[Danger::Snapshot, Danger::Kill],
        Bug::ClockStepsBack => &[Danger::ClockJump],
        Bug::StaleOrderExecuted => &[Danger::Kill, Danger::FallingLeaders],
        Bug::DeletedReplicaMadeAgain => &[Danger::Kill],
        Bug::WipedNodeReturns => &[Danger::Wipe],
        Bug::ManagerNotInSnapshot => &[Danger::Snapshot, Danger::Kill],
        _ => &[],
    }
}

/// Whether whole nodes come to do harm by it often enough. One wants a snapshot to be sent in the very moment
/// of a change of members: it is hunted by the walks over `kvorum-raft`, which have nothing else to do.
#[cfg(feature = "planted")]
fn can_do_harm(bug: &Bug) -> bool {
    *bug != Bug::SnapshotNewestMembership
}

/// The bug of this name.
///
/// # Errors
/// If there is none.
pub fn named(name: &str) -> Result<Bug, String> {
    let is_it = |bug: &&Bug| bug.name() == name;
    let bug = Bug::ALL.iter().find(is_it).copied();
    bug.ok_or_else(|| {
        let names: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        format!("no bug is called {name}; there are {}", names.join(", "))
    })
}

/// What seed `seed` is about when it hunts for `bug`.
#[must_use]
pub fn options(seed: u64, bug: Bug) -> Options {
    let mut options = Options::draw(seed);
    // Misfortunes get deepest where nothing else happens.
    (options.changes, options.spares) = (false, 0);
    (options.is_seated, options.routers) = (false, 0);
    for danger in needs(bug) {
        if !options.has(*danger) && (options.nodes > 1 || danger.suits_one_node()) {
            options.dangers.push(*danger);
        }
    }
    match bug {
        // With the new leader's own entry in the same message there is nothing to count.
        Bug::OldTermCommit => options.append_bytes = 1,
        // Who was away for a second already needs a snapshot.
        Bug::ResetMissing => (options.log_cache_bytes, options.calm_max) = (512, ms(500)),
        // Leaders must change while pieces are on their way.
        Bug::ForeignChunkResumed => (options.log_cache_bytes, options.chunk_bytes) = (512, 600),
        Bug::WriteAfterSealed
        | Bug::ReceivedUnchecked
        | Bug::StagingNotInSnapshot
        | Bug::ClockStepsBack
        | Bug::SealedCancelled => options.shards = options.shards.max(2),
        // A slot must move between a removal in it and the next question for a version there.
        Bug::VersionsNotMoved => {
            (options.shards, options.think_max) = (options.shards.max(2), ms(10));
        }
        // Leaders must change while orders are withdrawn.
        Bug::StaleOrderExecuted => {
            options.make_changes();
            (options.shards, options.calm_max) = (1, ms(500));
        }
        Bug::OrderRepeated | Bug::ManagerNotInSnapshot | Bug::MoveClosedTooEarly => {
            (options.is_seated, options.shards) = (true, options.shards.max(2));
        }
        Bug::PromotedTooEarly | Bug::DeletedReplicaMadeAgain | Bug::WipedNodeReturns => {
            options.make_changes();
        }
        _ => {}
    }
    options
}

/// Hunts for one bug, or for `all`; tells of each as it goes.
///
/// # Errors
/// If a bug was not caught, or by a checker that is not meant for it, or a seed fails without it;
/// or if this build has no planted bugs.
#[cfg(feature = "planted")]
pub fn hunt(name: &str, first: u64, jobs: usize, mut tell: impl FnMut(&str)) -> Result<(), String> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    let bugs = match name {
        "all" => Bug::ALL.iter().copied().filter(can_do_harm).collect(),
        _ => vec![named(name)?],
    };
    let (bugs, jobs) = (&bugs, jobs.clamp(1, bugs.len()));
    let (next, (verdicts, received)) = (AtomicUsize::new(0), mpsc::channel());
    let mut escaped = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (next, verdicts) = (&next, verdicts.clone());
            scope.spawn(move || {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _ = verdicts.send((*bug, hunt_one(*bug, first)));
                }
            });
        }
        drop(verdicts);
        for (bug, verdict) in received {
            match verdict {
                Ok(text) => tell(&format!("{:28} {text}", bug.name())),
                Err(text) => {
                    tell(&format!("{:28} NOT CAUGHT: {text}", bug.name()));
                    escaped.push(bug.name());
                }
            }
        }
    });
    match escaped.is_empty() {
        true => Ok(()),
        false => Err(format!("not caught: {}", escaped.join(", "))),
    }
}

/// Without the feature there is nothing to hunt.
///
/// # Errors
/// Always.
#[cfg(not(feature = "planted"))]
pub fn hunt(_: &str, _: u64, _: usize, _: impl FnMut(&str)) -> Result<(), String> {
    Err("this build has no planted bugs: build with --features planted".to_owned())
}

#[cfg(feature = "planted")]
fn hunt_one(bug: Bug, first: u64) -> Result<String, String> {
    use crate::cluster::scenario::run;
    use kvorum_base::Planted;

    let begun = std::time::Instant::now();
    let mut others = String::new();
    for seed in first..first + SEEDS_MAX {
        let options = options(seed, bug);
        let with_bug = Options {
            planted: Planted::with(bug),
            ..options.clone()
        };
        let Some(failure) = run(with_bug, false).failure else {
            continue;
        };
        if let Some(own) = run(options, false).failure {
            return Err(format!(
                "seed {seed} fails without it: {}: {} (--seed {seed} --dangers-of {})",
                own.checker,
                own.text,
                bug.name()
            ));
        }
        let seconds = begun.elapsed().as_secs_f64();
        if meant_for(bug).contains(&failure.checker) {
            let text: String = failure
                .text
                .lines()
                .next()
                .unwrap_or("")
                .chars()
                .take(90)
                .collect();
            return Ok(format!(
                "caught by {} on seed {seed} after {seconds:.0} s: {text}{others}",
                failure.checker
            ));
        }
        others = format!(" (first noticed by {} on seed {seed})", failure.checker);
    }
    Err(format!("{SEEDS_MAX} seeds{others}"))
}
