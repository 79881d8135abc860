//! Moves: how they are planned, what opens them, what closes them.

use kvorum_base::{GroupId, Index, Slot};
use kvorum_cluster::{
    Command, Evidence, MoveId, NewShard, Phase, Progress, Refusal, Reply, Settings, ShardRef,
    SlotRuns, State, next_commands, place,
};

use crate::support::{World, plan};

const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);
const C: GroupId = GroupId(3);

fn three() -> World {
    let mut world = World::new(&plan(300, 3, 3, 3));
    world.settle();
    assert_eq!(world.state.slots_of(A), SlotRuns::run(0, 99));
    world
}

fn wish(world: &mut World, first: u16, last: u16, shard: GroupId) {
    let reply = world.apply(Command::Assign {
        slots: SlotRuns::run(first, last),
        shard: ShardRef::Group(shard),
    });
    assert!(matches!(reply, Reply::Config(_)), "{reply:?}");
}

fn open(world: &mut World, from: GroupId, to: GroupId, first: u16, last: u16) -> Reply {
    world.apply(Command::OpenMove {
        from: Some(from),
        to,
        slots: SlotRuns::run(first, last),
    })
}

fn opened(reply: &Reply) -> MoveId {
    match reply {
        Reply::MoveOpened(id) => *id,
        other => panic!("{other:?}"),
    }
}

fn received(by: GroupId) -> Evidence {
    Evidence::Received { by, at: Index(7) }
}

fn refused(by: GroupId) -> Evidence {
    Evidence::Refused { by, at: Index(7) }
}

fn cancelled(by: GroupId) -> Evidence {
    Evidence::Cancelled { by, at: Index(7) }
}

#[test]
fn a_move_is_what_both_maps_say_and_nothing_else() {
    let mut world = three();
    let no = |refusal| Reply::Refused(refusal);
    assert_eq!(
        open(&mut world, A, B, 0, 9),
        no(Refusal::NotWanted(Slot(0)))
    );
    wish(&mut world, 0, 99, B);
    assert_eq!(open(&mut world, C, B, 0, 9), no(Refusal::NotOwner(Slot(0))));
    assert_eq!(
        open(&mut world, A, B, 90, 109),
        no(Refusal::NotOwner(Slot(100)))
    );
    assert_eq!(
        open(&mut world, A, B, 0, 64),
        no(Refusal::BadSlots),
        "65 slots"
    );
    assert_eq!(open(&mut world, A, A, 0, 9), no(Refusal::BadSlots));
    assert_eq!(open(&mut world, A, B, 290, 300), no(Refusal::BadSlots));
    assert_eq!(
        open(&mut world, A, GroupId(0), 0, 9),
        no(Refusal::NotWanted(Slot(0)))
    );
    let id = opened(&open(&mut world, A, B, 0, 63));
    assert_eq!(
        id.get(),
        world.state.applied().get(),
        "the index of its entry"
    );
    assert_eq!(
        open(&mut world, A, B, 60, 70),
        no(Refusal::SlotMoving(Slot(60)))
    );
    let order = world.state.orders_for(A).next().expect("an order to begin");
    assert_eq!(world.state.moves()[&id].order, order.0);
    assert_eq!(world.state.orders_for(B).count(), 0);
}

#[test]
fn only_the_log_of_who_decides_closes_a_move() {
    let mut world = three();
    wish(&mut world, 0, 99, B);
    let id = opened(&open(&mut world, A, B, 0, 9));
    let nobody = Evidence::Received {
        by: B,
        at: Index::ZERO,
    };
    for evidence in [received(A), received(C), refused(A), cancelled(B), nobody] {
        let reply = world.apply(Command::CloseMove { id, evidence });
        assert_eq!(
            reply,
            Reply::Refused(Refusal::WrongEvidence),
            "{evidence:?}"
        );
    }
    let order = world.state.moves()[&id].order;
    let closed = world.apply(Command::CloseOrder {
        order,
        outcome: kvorum_cluster::Outcome::Refused,
    });
    assert_eq!(closed, Reply::Refused(Refusal::WrongEvidence));
    let epoch = world.state.epoch();
    let evidence = received(B);
    assert_eq!(
        world.apply(Command::CloseMove { id, evidence }),
        Reply::Done
    );
    assert!(world.state.epoch() > epoch);
    assert_eq!(world.state.owner(Slot(9)), Some(B));
    assert_eq!(world.state.slots().cells()[9].by, id);
    // The same news again, and other news that comes too late, change nothing.
    for evidence in [received(B), refused(B), cancelled(A)] {
        let reply = world.apply(Command::CloseMove { id, evidence });
        assert_eq!(reply, Reply::Refused(Refusal::NoSuchMove(id)));
    }
    assert_eq!(world.state.owner(Slot(9)), Some(B));
}

#[test]
fn cancelling_is_a_request_and_may_come_too_late() {
    let mut world = three();
    wish(&mut world, 0, 99, B);
    let id = opened(&open(&mut world, A, B, 0, 9));
    let later = opened(&open(&mut world, A, B, 10, 19));
    for id in [id, later] {
        assert_eq!(world.apply(Command::CancelMove { id }), Reply::Done);
        assert!(world.state.moves()[&id].cancel_requested);
    }
    assert_eq!(world.state.moves().len(), 2, "both are still open");
    assert!(world.state.orders_for(A).all(|(_, order)| order.withdrawn));
    // The target had received the first one already.
    let evidence = received(B);
    world.apply(Command::CloseMove { id, evidence });
    assert_eq!(world.state.owner(Slot(5)), Some(B));
    // The second one ends, and its slots are wanted where they are; the others are not touched.
    let number = world.state.newest().number;
    let evidence = cancelled(A);
    world.apply(Command::CloseMove {
        id: later,
        evidence,
    });
    assert_eq!(world.state.newest().number, number.next());
    assert_eq!(world.state.newest().slots_of(A), SlotRuns::run(10, 19));
    world.settle();
    assert_eq!(world.state.slots_of(A), SlotRuns::run(10, 19));
    world.apply(Command::Rebalance);
    world.settle();
    assert_eq!(world.state.slots_of(A).len(), 100);
}

#[test]
fn a_move_that_the_target_refused_is_tried_again() {
    let mut world = three();
    wish(&mut world, 0, 9, B);
    let id = opened(&open(&mut world, A, B, 0, 9));
    let number = world.state.newest().number;
    let evidence = refused(B);
    assert_eq!(
        world.apply(Command::CloseMove { id, evidence }),
        Reply::Done
    );
    assert_eq!(world.state.owner(Slot(0)), Some(A));
    assert_eq!(
        world.state.newest().number,
        number,
        "nobody has changed his mind"
    );
    world.settle();
    assert_eq!(world.state.slots_of(B).len(), 110);
}

#[test]
fn the_next_move_of_a_slot_begins_when_the_last_was_closed() {
    let mut world = three();
    wish(&mut world, 0, 9, B);
    let id = opened(&open(&mut world, A, B, 0, 9));
    // Now they are wanted in C, while they are on their way to B.
    wish(&mut world, 0, 9, C);
    assert_eq!(next_commands(&world.state, &world.hearsay), []);
    let refusal = Refusal::SlotMoving(Slot(0));
    assert_eq!(open(&mut world, A, C, 0, 9), Reply::Refused(refusal));
    let evidence = received(B);
    world.apply(Command::CloseMove { id, evidence });
    let next = next_commands(&world.state, &world.hearsay);
    let expected = Command::OpenMove {
        from: Some(B),
        to: C,
        slots: SlotRuns::run(0, 9),
    };
    assert_eq!(next, [expected]);
}

#[test]
fn moves_are_small_and_no_more_than_may_be_open() {
    let mut world = three();
    let settings = Settings {
        moves_open_max: 3,
        changes_open_max: 1,
    };
    world.apply(Command::Configure { settings });
    wish(&mut world, 0, 99, B);
    wish(&mut world, 250, 299, A);
    // One slot has 40 MB and goes alone; the others have 10 MB each, so three go together.
    let megabytes = |slot: u16| if slot == 4 { 40 } else { 10 };
    let sizes = (0..300).map(|slot| (Slot(slot), megabytes(slot) << 20));
    world.hearsay.hear_sizes(A, 1 << 30, sizes);
    let plan = next_commands(&world.state, &world.hearsay);
    let planned: Vec<(GroupId, String)> = plan
        .iter()
        .map(|command| match command {
            Command::OpenMove { to, slots, .. } => (*to, slots.to_string()),
            other => panic!("{other:?}"),
        })
        .collect();
    let text = |slots: &str| slots.to_owned();
    assert_eq!(planned[0], (B, text("0-2")));
    assert_eq!(planned[1], (A, text("250-252")), "two pairs take turns");
    assert_eq!(
        planned[2],
        (B, text("3")),
        "the next slot is too large to go along"
    );
    assert_eq!(planned.len(), 3);
    for command in plan {
        assert!(matches!(world.apply(command), Reply::MoveOpened(_)));
    }
    assert_eq!(next_commands(&world.state, &world.hearsay), []);
    assert_eq!(open(&mut world, A, B, 4, 4), Reply::Refused(Refusal::Busy));
    world.receive();
    let next = next_commands(&world.state, &world.hearsay);
    assert!(matches!(&next[0], Command::OpenMove { slots, .. } if slots.to_string() == "4"));
}

#[test]
fn without_sizes_a_move_takes_64_slots_over_gaps() {
    let mut world = three();
    wish(&mut world, 0, 9, B);
    wish(&mut world, 20, 99, B);
    let plan = next_commands(&world.state, &world.hearsay);
    let slots: Vec<String> = plan
        .iter()
        .map(|command| match command {
            Command::OpenMove { slots, .. } => slots.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(slots, ["0-9,20-73", "74-99"]);
}

/// A cluster that began without shards: its slots are nobody's until they are granted, once.
#[test]
fn a_slot_is_granted_without_a_source_only_if_nobody_ever_had_it() {
    let mut world = World::new(&plan(300, 3, 0, 3));
    let nodes = place(&world.state, 1, 3).remove(0);
    let shard = |name: &str| NewShard {
        name: name.to_owned(),
        nodes: nodes.clone(),
        wanted: 3,
    };
    world.apply(Command::Join {
        shards: vec![shard("a"), shard("b")],
    });
    assert_eq!(world.state.owner(Slot(0)), None);
    while world.obey() {}
    world.elect();
    let plan = next_commands(&world.state, &world.hearsay);
    let grant = Command::OpenMove {
        from: None,
        to: A,
        slots: SlotRuns::run(0, 149),
    };
    assert_eq!(plan[0], grant);
    let id = opened(&world.apply(grant));
    assert_eq!(world.state.orders_for(A).count(), 1, "the target begins");
    let evidence = cancelled(A);
    let reply = world.apply(Command::CloseMove { id, evidence });
    assert_eq!(reply, Reply::Refused(Refusal::WrongEvidence));
    world.settle();
    assert_eq!(world.state.slots_of(A).len(), 150);
    wish(&mut world, 0, 9, B);
    let again = world.apply(Command::OpenMove {
        from: None,
        to: B,
        slots: SlotRuns::run(0, 9),
    });
    assert_eq!(again, Reply::Refused(Refusal::NotOwner(Slot(0))));
}

#[test]
fn the_last_shard_stays_and_a_shard_that_is_not_founded_can_leave() {
    let mut world = World::new(&plan(300, 3, 1, 3));
    let leave = |group| Command::Leave {
        shards: vec![ShardRef::Group(group)],
    };
    assert_eq!(world.apply(leave(A)), Reply::Refused(Refusal::LastShard));
    let nodes = place(&world.state, 1, 3).remove(0);
    world.apply(Command::Join {
        shards: vec![NewShard {
            name: "b".to_owned(),
            nodes,
            wanted: 3,
        }],
    });
    assert!(matches!(world.apply(leave(B)), Reply::Config(_)));
    let late = world
        .state
        .orders()
        .keys()
        .next()
        .copied()
        .expect("to be made");
    world.settle();
    assert!(world.state.is_gone(B));
    let outcome = kvorum_cluster::Outcome::Created;
    let reply = world.apply(Command::CloseOrder {
        order: late,
        outcome,
    });
    assert_eq!(reply, Reply::Refused(Refusal::NoSuchOrder(late)));
}

#[test]
fn what_is_over_is_forgotten() {
    let mut world = three();
    wish(&mut world, 0, 9, B);
    let id = opened(&open(&mut world, A, B, 0, 9));
    let progress = Progress {
        attempt: 1,
        phase: Phase::Sending,
        ..Progress::default()
    };
    world.hearsay.hear_progress(id, progress);
    world.hearsay.forget_what_is_over(&world.state);
    assert_eq!(world.hearsay.moves.len(), 1);
    world.receive();
    world.hearsay.forget_what_is_over(&world.state);
    assert_eq!(world.hearsay.moves.len(), 0);
    assert!(world.hearsay.primary(A).is_some());
    assert!(State::is_shard(A));
}
