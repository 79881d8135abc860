//! The judge: simulated network and disk, schedules, workloads, checkers, lab scenarios.
//!
//! One seed gives one course of events, on one thread, in virtual time. Everything that production
//! leaves to chance (when a message arrives, which sectors a power cut spares, when a sync returns)
//! is drawn here from the seed, so that a failure can be looked at as often as one likes. The fakes
//! implement no logic of the store's own: what is judged is what ships.
//!
//! - [`world`]: virtual clock, event queue, tasks;
//! - [`net`]: a network of calls that loses, delays and reorders;
//! - [`disk`]: a disk that keeps only what was synced, and not always that;
//! - [`history`]: what clients asked, what they were told, and when;
//! - [`checkers`]: the properties, one file each;
//! - [`cluster`]: whole nodes judged entry by entry, and [`planted`]: is the judge any good?
//! - [`labs`]: the scenarios of the 6.824 course.

pub mod checkers;
pub mod cluster;
pub mod disk;
pub mod history;
pub mod labs;
pub mod net;
pub mod planted;
pub mod world;

/// Runs a scenario on many seeds, one after the other, and names the seed of one that fails.
///
/// With `KVORUM_SEED` in the environment only that seed is run; with `KVORUM_SEEDS`, that many.
///
/// # Panics
/// Whatever the scenario panics with, after the seed was printed.
pub fn on_seeds(count: u64, scenario: impl Fn(u64)) {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect(name))
    };
    let seeds = match (number("KVORUM_SEED"), number("KVORUM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..seeds.unwrap_or(count),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scenario(seed)));
        if let Err(panic) = outcome {
            eprintln!("failed on seed {seed}; KVORUM_SEED={seed} repeats it");
            std::panic::resume_unwind(panic);
        }
    }
}
