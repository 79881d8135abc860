//! The log against a disk that loses, tears and flips.

mod disk;
mod model;
mod scenes;
mod world;

use kvorum_base::{Planted, Prng};
use kvorum_node::log::{self, LogOptions};

use crate::formats::rounds;
use world::{World, recover};

/// Lives and deaths: what was synced is there exactly, and what was not is there as a prefix.
fn lives(seed: u64, planted: Planted) {
    let mut world = World::new(seed, planted);
    for _ in 0..1 + seed % 6 {
        world.run(400);
        let power = world.prng.chance(1, 2);
        world.crash(power);
        world.restart();
        // Sometimes again before anything was written, or in the midst of it.
        while world.prng.chance(1, 3) {
            world.run(6);
            let power = world.prng.chance(1, 2);
            world.crash(power);
            world.restart();
        }
    }
    world.settle();
    world.crash(true);
    world.restart();
}

#[test]
fn what_was_synced_survives() {
    for seed in 0..rounds(150) {
        run_seed(seed, || lives(seed, Planted::default()));
    }
}

/// Runs one seed, and names it if it fails.
fn run_seed(seed: u64, run: impl FnOnce()) {
    struct Name(u64);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}", self.0);
            }
        }
    }
    let name = Name(seed);
    run();
    drop(name);
}

/// A flipped bit in what was synced is damage, wherever it is.
#[test]
fn a_flipped_bit_is_damage() {
    for seed in 0..rounds(60) {
        run_seed(seed, || flip(seed, Planted::default()));
    }
}

fn aged(seed: u64) -> World {
    let mut world = World::new(seed, Planted::default());
    world.run(400);
    if !seed.is_multiple_of(3) {
        world.crash(seed.is_multiple_of(2));
        world.restart();
        world.run(400);
    }
    world.seal();
    world
}

fn flip(seed: u64, planted: Planted) {
    let mut world = aged(seed);
    world.options.planted = planted;
    world.crash(seed % 4 < 2);
    let files = world.disk.list();
    let synced: Vec<_> = world.disk.written.iter().filter(|w| w.synced).collect();
    for _ in 0..20 {
        let Some(batch) = world.prng.pick(&synced) else {
            return;
        };
        let mut files = files.clone();
        let (_, bytes) = files
            .iter_mut()
            .find(|(segment, _)| *segment == batch.segment)
            .expect("its file");
        let at = batch.offset + world.prng.index(batch.len);
        bytes[at] ^= 1 << world.prng.below(8);
        let read = recover(&world.options, true, &files);
        assert!(read.is_err(), "{batch:?} changed at byte {at}: {read:?}");
    }
}

/// A flipped bit anywhere else is damage or does no harm.
#[test]
fn a_flipped_bit_elsewhere_loses_nothing() {
    for seed in 0..rounds(60) {
        run_seed(seed, || {
            let mut world = aged(seed);
            world.crash(seed % 4 < 2);
            let mut files = world.disk.list();
            let at = world.prng.index(files.len().max(1));
            let Some((_, bytes)) = files.get_mut(at) else {
                return;
            };
            if !bytes.is_empty() {
                let at = world.prng.index(bytes.len());
                bytes[at] ^= 1 << world.prng.below(8);
            }
            if let Ok(recovered) = recover(&world.options, false, &files) {
                world.model.recovered(&recovered);
            }
        });
    }
}

/// A sector that was confirmed and is not there is damage, if anything later says so.
#[test]
fn a_lost_write_is_damage() {
    let mut found = 0;
    for seed in 0..rounds(60) {
        run_seed(seed, || {
            let mut world = aged(seed);
            world.crash(false);
            let mut files = world.disk.list();
            let synced = world.disk.written.iter().filter(|w| w.synced);
            // Nothing may be left that says of the very last one that it was synced.
            let proven: Vec<_> = synced.rev().skip(1).collect();
            let Some(batch) = world.prng.pick(&proven) else {
                return;
            };
            let (_, bytes) = files
                .iter_mut()
                .find(|(segment, _)| *segment == batch.segment)
                .expect("its file");
            let sector = world.options.sector_bytes as usize;
            let at = batch.offset + sector * world.prng.index(batch.len / sector);
            bytes[at..at + sector].fill(0);
            let read = recover(&world.options, true, &files);
            assert!(read.is_err(), "{batch:?} without {at}");
            found += 1;
        });
    }
    assert!(found > 0);
}

/// A segment that is not there is damage, unless nothing in it was needed.
#[test]
fn a_missing_segment_is_damage_or_was_not_needed() {
    for seed in 0..rounds(60) {
        run_seed(seed, || {
            let mut world = aged(seed);
            world.crash(seed % 4 < 2);
            let files = world.disk.list();
            let last = world.disk.written.last().map(|last| last.segment);
            for gone in 0..files.len() {
                let mut files = files.clone();
                let (segment, _) = files.remove(gone);
                if Some(segment) >= last {
                    continue;
                }
                if let Ok(recovered) = recover(&world.options, true, &files) {
                    world.model.recovered(&recovered);
                }
            }
        });
    }
}

#[test]
fn any_bytes_as_segments() {
    let mut prng = Prng::new(5);
    for seed in 0..rounds(60) {
        let mut world = aged(seed);
        world.options = LogOptions {
            salt: 0,
            ..world.options.clone()
        };
        let mut bytes: Vec<u8> = world
            .disk
            .list()
            .into_iter()
            .flat_map(|(_, bytes)| bytes)
            .collect();
        bytes.truncate(64 << 10);
        for _ in 0..prng.below(8) {
            if !bytes.is_empty() {
                let at = prng.index(bytes.len());
                bytes[at] = prng.next_u64() as u8;
            }
        }
        log::fuzz(&bytes);
    }
}

/// Each planted bug of the log is noticed by the same lives.
#[cfg(feature = "planted")]
#[test]
fn planted_bugs_are_noticed() {
    use kvorum_base::Bug;
    for bug in [
        Bug::VoteFreedWithSegment,
        Bug::CarryTruncates,
        Bug::ResetMissing,
        Bug::TornTakenForDamage,
        Bug::RecoveredTailNotSynced,
    ] {
        let noticed = (0..400)
            .any(|seed| std::panic::catch_unwind(|| lives(seed, Planted::with(bug))).is_err());
        assert!(noticed, "{bug:?} was not noticed");
    }
    let planted = Planted::with(Bug::DamageTakenForTorn);
    let noticed = (0..100).any(|seed| std::panic::catch_unwind(|| flip(seed, planted)).is_err());
    assert!(noticed, "damage taken for torn was not noticed");
}
