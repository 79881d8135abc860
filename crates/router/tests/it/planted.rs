//! Judging the judge: each bug on purpose must be found, and the same seeds pass without it.

#![cfg(feature = "planted")]

use kvorum_router::planted::{Bug, Planted};

use crate::histories::storm;
use crate::scenes::flush_while_slots_move;

#[test]
fn planted_a_write_that_overtakes_is_found() {
    let found = (1..=60).any(|seed| {
        storm(seed, 6000, Planted::with(Bug::WriteOvertakesParked))
            .is_err_and(|text| text.contains("overtaken") || text.contains("behind a write"))
    });
    assert!(found, "nobody noticed");
}

#[test]
fn planted_a_write_that_is_sent_twice_is_found() {
    let found = (1..=60).any(|seed| {
        storm(seed, 6000, Planted::with(Bug::UnknownResent))
            .is_err_and(|text| text.contains("twice"))
    });
    assert!(found, "nobody noticed");
}

#[test]
fn planted_a_moving_slot_that_is_missed_is_found() {
    let bug = Planted::with(Bug::MovingSlotMissed);
    let found = (1..=60).any(|seed| flush_while_slots_move(seed, bug).is_err());
    assert!(found, "nobody noticed");
}

#[test]
fn planted_a_watch_that_is_forgotten_is_found() {
    let found = (1..=60).any(|seed| {
        storm(seed, 6000, Planted::with(Bug::WatchForgotten))
            .is_err_and(|text| text.contains("is lost"))
    });
    assert!(found, "nobody noticed");
}
