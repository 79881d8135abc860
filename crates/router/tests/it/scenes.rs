//! Scenes that a storm rarely plays: each says in its name what must be.

use kvorum_base::{ConnId, SlotSet};
use kvorum_router::Event;
use kvorum_router::limits::CLIENT_REQUESTS_MAX;
use kvorum_router::planted::Planted;

use crate::world::{DEADLINE_TICKS, Reply, World};

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Sends one request and runs the world until it is answered.
pub(crate) fn ask(world: &mut World, conn: ConnId, text: &str) -> Reply {
    let before = world.replies(conn).len();
    world.send(conn, &[words(text)]);
    run_until(world, |world| world.replies(conn).len() > before);
    world.replies(conn)[before].clone()
}

pub(crate) fn run_until(world: &mut World, is_done: impl Fn(&World) -> bool) {
    for _ in 0..4 * DEADLINE_TICKS {
        for _ in 0..20 {
            world.network();
            if is_done(world) {
                return;
            }
        }
        world.step(Event::Tick);
    }
    panic!("it did not come to that: {:?}", world.notes);
}

pub(crate) fn ok() -> Reply {
    Reply::Simple("OK".to_owned())
}

pub(crate) fn bulk(text: &str) -> Reply {
    Reply::Bulk(Some(text.as_bytes().to_vec()))
}

fn run_of(first: u16, last: u16) -> SlotSet {
    SlotSet::of_runs([(first, last)])
}

/// FLUSHALL while slots move between shards: what was there before it is gone after it.
pub(crate) fn flush_while_slots_move(seed: u64, planted: Planted) -> Result<(), String> {
    let mut world = World::with_bug(seed, 3, 3, planted);
    let conn = world.open(0);
    for number in 0..60 {
        assert_eq!(ask(&mut world, conn, &format!("SET key-{number} x")), ok());
    }
    world.send(conn, &[words("FLUSHALL")]);
    let before = world.replies(conn).len();
    for _ in 0..4 * DEADLINE_TICKS {
        for _ in 0..5 {
            world.network();
            if world.prng.chance(1, 10) {
                let (first, to) = (world.prng.below(16000) as u16, world.prng.below(3) as usize);
                world.cluster.begin_move(run_of(first, first + 300), to);
            }
            if world.prng.chance(1, 10) {
                world.cluster.end_move(true);
            }
        }
        if world.replies(conn).len() > before {
            break;
        }
        if world.prng.chance(1, 3) {
            world.step(Event::Tick);
        }
    }
    world.calm();
    if world.replies(conn)[before] == ok() && world.cluster.len() > 0 {
        return Err(format!(
            "seed {seed}: {} keys are left",
            world.cluster.len()
        ));
    }
    Ok(())
}

#[test]
fn flushall_leaves_nothing_behind_while_slots_move() {
    for seed in 1..=60 {
        flush_while_slots_move(seed, Planted::default()).expect("nothing is left");
    }
}

#[test]
fn a_quiet_cluster_is_counted_and_walked_whole() {
    let mut world = World::new(1, 4, 9);
    let conn = world.open(0);
    for number in 0..200 {
        assert_eq!(ask(&mut world, conn, &format!("SET key-{number} x")), ok());
    }
    // Owned in many pieces.
    for slot in (0..16000).step_by(700) {
        world
            .cluster
            .begin_move(run_of(slot, slot + 90), usize::from(slot) % 9);
        world.cluster.end_move(true);
    }
    assert_eq!(ask(&mut world, conn, "DBSIZE"), Reply::Integer(200));
    let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
    loop {
        let Reply::Array(parts) = ask(&mut world, conn, &format!("SCAN {cursor} COUNT 20")) else {
            panic!("no reply to SCAN");
        };
        let [Reply::Bulk(Some(next)), Reply::Array(keys)] = &parts[..] else {
            panic!("{parts:?}");
        };
        found.extend(keys.iter().map(|key| format!("{key:?}")));
        cursor = String::from_utf8(next.clone()).expect("digits");
        if cursor == "0" {
            break;
        }
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 200);
    assert_eq!(ask(&mut world, conn, "FLUSHDB"), ok());
    assert_eq!(ask(&mut world, conn, "DBSIZE"), Reply::Integer(0));
}

#[test]
fn wrong_requests_over_the_keyspace_get_redis_s_words() {
    let mut world = World::new(1, 3, 3);
    let conn = world.open(0);
    let error = |text: &str| Reply::Error(text.to_owned());
    assert_eq!(ask(&mut world, conn, "SCAN x"), error("ERR invalid cursor"));
    assert_eq!(
        ask(&mut world, conn, "SCAN 0 COUNT 0"),
        error("ERR syntax error")
    );
    assert_eq!(
        ask(&mut world, conn, "FLUSHALL NOW"),
        error("ERR syntax error")
    );
    assert_eq!(
        ask(&mut world, conn, "MSET a 1 b"),
        error("ERR wrong number of arguments for 'mset' command")
    );
}

#[test]
fn keys_of_several_slots_are_split_and_put_together() {
    let mut world = World::new(2, 3, 3);
    let conn = world.open(0);
    assert_eq!(ask(&mut world, conn, "MSET a 1 b 2 c 3 {a}d 4"), ok());
    let values = Reply::Array(vec![bulk("3"), Reply::Bulk(None), bulk("1"), bulk("4")]);
    assert_eq!(ask(&mut world, conn, "MGET c x a {a}d"), values);
    assert_eq!(ask(&mut world, conn, "EXISTS a b x a"), Reply::Integer(3));
    assert_eq!(ask(&mut world, conn, "TOUCH a b x"), Reply::Integer(2));
    assert_eq!(ask(&mut world, conn, "DEL a b x"), Reply::Integer(2));
    assert_eq!(ask(&mut world, conn, "UNLINK c {a}d a"), Reply::Integer(2));
    let Reply::Error(text) = ask(&mut world, conn, "MSETNX a 1 b 2") else {
        panic!("MSETNX over two slots");
    };
    assert!(text.starts_with("CROSSSLOT"), "{text}");
}

#[test]
fn a_client_of_version_3_gets_that_version() {
    let mut world = World::new(3, 3, 3);
    let conn = world.open(0);
    world.send(conn, &[words("CLIENT REPLY SKIP"), words("HELLO 3")]);
    assert_eq!(ask(&mut world, conn, "GET nothing"), Reply::Bulk(None));
    assert_eq!(ask(&mut world, conn, "SET a 1"), ok());
    let values = Reply::Array(vec![bulk("1"), Reply::Bulk(None)]);
    assert_eq!(ask(&mut world, conn, "MGET a b"), values);
}

/// A slot that stays sealed holds up its own requests and those behind them, and nobody else's.
#[test]
fn a_sealed_slot_is_waited_for_alone_and_refused_in_the_end() {
    let mut world = World::new(4, 3, 3);
    let (slow, other) = (world.open(0), world.open(1));
    assert_eq!(ask(&mut world, slow, "SET a 0"), ok());
    let slot = kvorum_base::slot::slot_of(b"a");
    world.cluster.begin_move(run_of(slot.get(), slot.get()), 0);
    world.send(
        slow,
        &[words("APPEND a 1"), words("APPEND a 2"), words("SET b 1")],
    );
    for number in 0..20 {
        assert_eq!(ask(&mut world, other, &format!("SET b {number}")), ok());
    }
    // The slot serves again before the deadline: both happen, in their order.
    world.cluster.end_move(true);
    run_until(&mut world, |world| world.replies(slow).len() == 4);
    assert_eq!(
        world.replies(slow)[1..],
        [Reply::Integer(2), Reply::Integer(3), ok()]
    );
    assert_eq!(ask(&mut world, slow, "GET a"), bulk("012"));

    world.cluster.begin_move(run_of(slot.get(), slot.get()), 1);
    let Reply::Error(text) = ask(&mut world, slow, "APPEND a 3") else {
        panic!("a sealed slot took a write");
    };
    assert!(text.starts_with("TRYAGAIN"), "{text}");
    world.cluster.end_move(false);
    assert_eq!(ask(&mut world, slow, "GET a"), bulk("012"));
}

/// Without any node everything waits, then is refused; nothing is called unknown that cannot have happened.
#[test]
fn without_nodes_requests_are_refused_at_their_deadline() {
    let mut world = World::new(5, 3, 3);
    world.down.fill(true);
    let conn = world.open(0);
    let Reply::Error(text) = ask(&mut world, conn, "SET a 1") else {
        panic!("nobody could have done that");
    };
    assert!(
        text.starts_with("CLUSTERDOWN") && text.contains("connection refused"),
        "{text}"
    );
    let Reply::Error(text) = ask(&mut world, conn, "DBSIZE") else {
        panic!("nobody could have counted that");
    };
    assert!(text.starts_with("CLUSTERDOWN"), "{text}");
    world.down.fill(false);
    assert_eq!(ask(&mut world, conn, "SET a 1"), ok());
}

/// What is outstanding is finished, also what waits behind a walk; then the clients are closed.
#[test]
fn a_router_that_is_asked_to_stop_finishes_what_it_took() {
    let mut world = World::new(6, 3, 3);
    let (busy, idle) = (world.open(0), world.open(1));
    assert_eq!(ask(&mut world, busy, "SET a 1"), ok());
    world.send(
        busy,
        &[
            words("SET b 2"),
            words("DBSIZE"),
            words("GET a"),
            words("GET b"),
        ],
    );
    world.step(Event::Shutdown);
    assert!(world.is_closed(idle));
    assert!(!world.stopped);
    run_until(&mut world, |world| world.stopped);
    assert_eq!(
        world.replies(busy)[1..],
        [ok(), Reply::Integer(2), bulk("1"), bulk("2")]
    );
    assert!(world.is_closed(busy));
}

/// A client that is gone has still sent what it sent.
#[test]
fn requests_of_a_client_that_is_gone_go_on() {
    let mut world = World::new(7, 3, 3);
    let (gone, other) = (world.open(0), world.open(1));
    world.send(gone, &[words("SET a 1"), words("SET a 2")]);
    world.step(Event::Closed { conn: gone });
    world.calm();
    assert_eq!(ask(&mut world, other, "GET a"), bulk("2"));
}

/// A node that is stopped says nothing, and its links stay. Others know who took its place.
#[test]
fn a_node_that_falls_silent_holds_up_nobody_but_who_wrote_to_it() {
    let mut world = World::new(11, 3, 3);
    let (writer, reader, other) = (world.open(0), world.open(1), world.open(2));
    assert_eq!(ask(&mut world, writer, "SET a 0"), ok());
    let shard = world.cluster.truth.owner[usize::from(kvorum_base::slot::slot_of(b"a").get())];
    let old = world.cluster.truth.primary[shard].expect("a primary");
    world.silent[old] = true;
    world.send(writer, &[words("APPEND a 1")]);
    world.send(reader, &[words("GET a")]);
    for _ in 0..200 {
        world.network();
    }
    world.cluster.truth.primary[shard] = Some((old + 1) % 3);
    world.cluster.tell_all();
    run_until(&mut world, |world| world.replies(reader).len() == 1);
    assert_eq!(world.replies(reader)[0], bulk("0"));
    assert_eq!(ask(&mut world, other, "APPEND a 2"), Reply::Integer(2));
    assert_eq!(
        world.replies(writer).len(),
        1,
        "nobody knows about that one yet"
    );
    run_until(&mut world, |world| world.replies(writer).len() == 2);
    assert!(
        matches!(&world.replies(writer)[1], Reply::Error(text) if text.starts_with("UNKNOWN")),
        "{:?}",
        world.replies(writer)
    );
}

/// A client that sends without reading on is kept waiting, and gets everything in its order.
#[test]
fn a_client_that_sends_too_much_at_once_is_held_up_and_served() {
    const MANY: usize = 3 * CLIENT_REQUESTS_MAX as usize;
    let mut world = World::new(9, 3, 3);
    let conn = world.open(0);
    assert_eq!(ask(&mut world, conn, "SET key-0 0"), ok());
    let requests: Vec<Vec<String>> = (0..MANY)
        .map(|number| words(&format!("SET key-{number} {number}")))
        .collect();
    world.send(conn, &requests);
    assert_eq!(
        world.router.status().pieces,
        CLIENT_REQUESTS_MAX as usize,
        "no more are looked at"
    );
    for _ in 0..100 * DEADLINE_TICKS {
        world.network();
    }
    run_until(&mut world, |world| world.replies(conn).len() == MANY + 1);
    assert!(world.replies(conn).iter().all(|reply| *reply == ok()));
    let last = MANY - 1;
    let get = format!("GET key-{last}");
    assert_eq!(ask(&mut world, conn, &get), bulk(&last.to_string()));
}

/// A command of a session is sent again whatever happened to its link, and happens once.
#[test]
fn what_is_sent_through_a_session_happens_once_over_broken_links() {
    let mut world = World::new(10, 3, 1);
    let conn = world.open(0);
    let Reply::Bulk(Some(token)) = ask(&mut world, conn, "KVORUM.SESSION") else {
        panic!("no session");
    };
    let token = String::from_utf8(token).expect("text");
    for number in 1..=200 {
        let before = world.replies(conn).len();
        let request = format!("KVORUM.ONCE {token} {number} INCR counter");
        world.send(conn, &[words(&request)]);
        for _ in 0..30 {
            world.network();
            if world.prng.chance(1, 15) {
                world.break_links(None);
            }
        }
        run_until(&mut world, |world| world.replies(conn).len() > before);
        assert_eq!(world.replies(conn)[before], Reply::Integer(number));
    }
    let counters = world.router.status().counters;
    assert!(counters.links_broken > 20, "{counters:?}");
    assert!(counters.sent > 220, "some were sent again: {counters:?}");
    assert_eq!(ask(&mut world, conn, "GET counter"), bulk("200"));
}

#[test]
fn reads_are_spread_over_replicas_where_a_client_wants_that() {
    let mut world = World::new(15, 4, 1);
    let conn = world.open(0);
    assert_eq!(ask(&mut world, conn, "SET k v"), ok());
    assert_eq!(ask(&mut world, conn, "READONLY"), ok());
    let read = |world: &mut World, times: u64| {
        world.cluster.replica_reads.fill(0);
        for _ in 0..times {
            assert_eq!(ask(world, conn, "GET k"), bulk("v"));
        }
        world.cluster.replica_reads.clone()
    };
    // Until there are links to the replicas the primary answers.
    read(&mut world, 100);
    assert_eq!(read(&mut world, 300), [0, 100, 100, 100]);
    // Writes and watches go to the primary.
    for text in ["SET k v", "WATCH k", "UNWATCH"] {
        assert_eq!(ask(&mut world, conn, text), ok());
    }
    assert_eq!(world.cluster.replica_reads, [0, 100, 100, 100]);
    // One that says nothing: what is there goes to the primary, and what comes later to the others.
    world.silent[2] = true;
    read(&mut world, 20);
    assert_eq!(read(&mut world, 20), [0, 10, 0, 10]);
    for node in 1..4 {
        world.down[node] = true;
        world.break_links(Some(node));
    }
    assert_eq!(read(&mut world, 20), [0, 0, 0, 0]);
    assert_eq!(ask(&mut world, conn, "READWRITE"), ok());
    world.silent.fill(false);
    world.down.fill(false);
    read(&mut world, 20);
    assert_eq!(read(&mut world, 20), [0, 0, 0, 0]);
}

#[test]
fn what_only_a_cluster_knows_is_refused_as_by_a_redis_alone() {
    let mut world = World::new(8, 3, 3);
    let conn = world.open(0);
    for text in ["CLUSTER SLOTS", "CLUSTER NODES"] {
        let refused = "ERR This instance has cluster support disabled".to_owned();
        assert_eq!(ask(&mut world, conn, text), Reply::Error(refused));
    }
    assert!(matches!(
        ask(&mut world, conn, "KVORUM.LINK ROUTER"),
        Reply::Error(_)
    ));
    assert!(matches!(
        ask(&mut world, conn, "KVORUM.SLOTS COUNT 0 1"),
        Reply::Error(_)
    ));
    assert_eq!(ask(&mut world, conn, "SELECT 0"), ok());
    let Reply::Bulk(Some(info)) = ask(&mut world, conn, "INFO cluster") else {
        panic!("no INFO");
    };
    assert_eq!(info, b"# Cluster\r\ncluster_enabled:0\r\n");
}
