//! The coordinator in a world that goes wrong: whatever happens, the output is that of a single process,
//! counters are exact, no task has two winners, and once the storm is over the job ends.

use kvorum_mapreduce::planted::Planted;

use crate::world::World;

const SEEDS: u64 = 600;

#[test]
fn whatever_happens_the_output_is_the_same() {
    let (mut crashes, mut deaths, mut losses, mut repeats, mut refused) = (0, 0, 0, 0, 0);
    let (mut backups, mut deposed) = (0, 0);
    for seed in 1..=SEEDS {
        let mut world = World::new(seed, Planted::default());
        if let Err(reason) = world.run() {
            panic!("seed {seed}: {reason}");
        }
        crashes += world.crashes;
        deaths += world.deaths;
        losses += world.losses;
        repeats += world.repeats;
        refused += world.refused;
        backups += world.backups();
        deposed += world.deposed;
    }
    // What never came to pass was not tested.
    for (what, count) in [
        ("coordinators that died", crashes),
        ("workers that died", deaths),
        ("outputs that vanished", losses),
        ("reports said twice", repeats),
        ("late reports refused", refused),
        ("backup attempts", backups),
        ("coordinators that were replaced and lived", deposed),
    ] {
        assert!(count > SEEDS / 10, "only {count} {what}");
    }
}

#[cfg(feature = "planted")]
mod planted {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use kvorum_mapreduce::planted::{Bug, Planted};

    use crate::world::World;

    #[test]
    fn every_planted_bug_is_caught() {
        for bug in Bug::ALL {
            let caught = (1..=super::SEEDS).find_map(|seed| {
                let mut world = World::new(seed, Planted::with(*bug));
                let verdict = catch_unwind(AssertUnwindSafe(|| world.run()));
                match verdict {
                    Ok(Ok(())) => None,
                    Ok(Err(reason)) => Some((seed, reason)),
                    Err(_) => Some((seed, "an invariant".to_owned())),
                }
            });
            let (seed, reason) = caught.unwrap_or_else(|| panic!("{bug:?} was not caught"));
            println!("{bug:?}: seed {seed}: {reason}");
        }
    }
}
