//! Scenes of transactions behind a router.

use kvorum_base::SlotSet;
use kvorum_base::slot::slot_of;
use kvorum_router::Event;

use crate::scenes::{ask, bulk, ok, run_until, words};
use crate::world::{Reply, World};

fn array(replies: &[Reply]) -> Reply {
    Reply::Array(replies.to_vec())
}

/// The slot of the keys with the tag `t`.
fn tagged() -> (u16, SlotSet) {
    let slot = slot_of(b"t").get();
    (slot, SlotSet::of_runs([(slot, slot)]))
}

#[test]
fn a_transaction_is_run_in_one_step_wherever_its_slot_is() {
    let mut world = World::new(11, 3, 3);
    let (one, other) = (world.open(0), world.open(1));
    let queued = Reply::Simple("QUEUED".to_owned());
    let value = |number: i64| match number {
        0 => Reply::Bulk(None),
        number => bulk(&number.to_string()),
    };
    for round in 1..=6i64 {
        assert_eq!(ask(&mut world, one, "MULTI"), ok());
        assert_eq!(ask(&mut world, one, "INCR {t}n"), queued);
        assert_eq!(ask(&mut world, one, "PING"), queued);
        assert_eq!(ask(&mut world, one, "GET {t}n"), queued);
        // Another client of the same links is not in it.
        assert_eq!(ask(&mut world, other, "GET {t}n"), value(round - 1));
        let pong = Reply::Simple("PONG".to_owned());
        let replies = array(&[Reply::Integer(round), pong, value(round)]);
        assert_eq!(ask(&mut world, one, "EXEC"), replies);
        // To another shard, of which the router does not know.
        world.cluster.begin_move(tagged().1, round as usize % 3);
        world.cluster.end_move(true);
    }
}

#[test]
fn a_watched_key_that_changes_keeps_a_transaction_from_being_run() {
    let mut world = World::new(12, 3, 3);
    let (one, other) = (world.open(0), world.open(1));
    let changes = [
        ("GET {t}k", true),
        ("SET {t}k x", false),
        ("DEL {t}k", false),
    ];
    for (change, is_run) in changes {
        assert_eq!(ask(&mut world, one, "WATCH {t}k {t}none"), ok());
        ask(&mut world, other, change);
        let to = world.prng.below(3) as usize;
        world.cluster.begin_move(tagged().1, to);
        world.cluster.end_move(true);
        ask(&mut world, one, "MULTI");
        ask(&mut world, one, "SET {t}done 1");
        let expected = match is_run {
            true => array(&[ok()]),
            false => Reply::Bulk(None),
        };
        assert_eq!(ask(&mut world, one, "EXEC"), expected, "{change}");
    }
}

#[test]
fn a_transaction_of_several_slots_is_refused_before_anything_is_sent() {
    let mut world = World::new(13, 3, 3);
    let conn = world.open(0);
    for requests in [
        &["MULTI", "SET {t}a 1", "SET {u}a 1", "EXEC"][..],
        &["MULTI", "MSET {t}a 1 {u}a 1", "EXEC"],
        &["WATCH {u}a", "MULTI", "SET {t}a 1", "EXEC"],
        &["WATCH {u}a {t}a"],
    ] {
        let replies = requests.iter().map(|text| ask(&mut world, conn, text));
        let Some(Reply::Error(text)) = replies.last() else {
            panic!("{requests:?} was not refused");
        };
        assert!(text.starts_with("CROSSSLOT"), "{text}");
    }
    let count = ask(&mut world, conn, "EXISTS {t}a {u}a");
    assert_eq!(count, Reply::Integer(0));
    let refused = "ERR Command not allowed inside a transaction".to_owned();
    ask(&mut world, conn, "MULTI");
    assert_eq!(ask(&mut world, conn, "FLUSHALL"), Reply::Error(refused));
    let aborted = "EXECABORT Transaction discarded because of previous errors.".to_owned();
    assert_eq!(ask(&mut world, conn, "EXEC"), Reply::Error(aborted));
}

#[test]
fn a_transaction_waits_for_its_slot_and_for_a_primary() {
    let mut world = World::new(14, 3, 3);
    let conn = world.open(0);
    assert_eq!(ask(&mut world, conn, "SET {t}n 5"), ok());
    let (slot, slots) = tagged();
    let to = (world.cluster.truth.owner[usize::from(slot)] + 1) % 3;
    world.cluster.begin_move(slots, to);
    world.cluster.truth.primary[to] = None;
    let before = world.replies(conn).len();
    let requests = ["WATCH {t}n", "MULTI", "INCR {t}n", "EXEC"];
    world.send(conn, &requests.map(words));
    for _ in 0..100 {
        for _ in 0..20 {
            world.network();
        }
        world.step(Event::Tick);
    }
    assert_eq!(world.replies(conn).len(), before, "the slot is sealed");
    world.cluster.end_move(true);
    world.cluster.truth.primary[to] = Some(2);
    world.cluster.tell_all();
    run_until(&mut world, |world| world.replies(conn).len() == before + 4);
    let last = world.replies(conn)[before + 3].clone();
    assert_eq!(last, array(&[Reply::Integer(6)]));
}
