//! Slots that move between shards at an operator's word, under load, while nodes and routers are killed.

use kvorum_base::Prng;
use kvorum_server::control::client::get;
use kvorum_server::control::cluster::Picture;

use crate::clients::redis_cli;
use crate::load::{Load, Manner};
use crate::nodes::{Node, cluster_of};
use crate::process::{TempDir, kvorum, my_turn, refused, succeeds, wait_for};
use crate::resp::{Reply, ask, bulk};
use crate::routers::Router;

/// How often slots are ordered to other shards.
const ROUNDS: u64 = 24;

/// The last slot.
const LAST: u64 = 16383;

pub(crate) fn picture(node: &Node) -> Option<Picture> {
    get(&node.http(), "/api/v1/cluster").ok()
}

/// `kvorum ctl`, asked of any of these nodes.
pub(crate) fn ctl(nodes: &[Node], words: &[&str]) -> Vec<String> {
    let addresses: Vec<String> = nodes.iter().map(Node::http).collect();
    let words = words.iter().map(|&word| word.to_owned());
    let cluster = [
        "ctl".to_owned(),
        "--cluster".to_owned(),
        addresses.join(","),
    ];
    cluster.into_iter().chain(words).collect()
}

pub(crate) fn orders(nodes: &[Node], words: &[&str]) -> String {
    let words = ctl(nodes, words);
    succeeds(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Waits until every node knows that all slots are where they should be. It takes as long as it takes, if
/// only something moves.
pub(crate) fn wait_until_settled(nodes: &[Node]) {
    let mut last = 0;
    while !wait_for("slots to get on", || {
        let pictures: Option<Vec<Picture>> = nodes.iter().map(picture).collect();
        let pictures = pictures?;
        let placed = |picture: &Picture| {
            let mut shards = picture.shards.iter();
            picture.moves.is_empty() && shards.all(|shard| shard.slots == shard.slots_wanted)
        };
        let settled = pictures.iter().all(placed);
        let applied = pictures.iter().map(|picture| picture.applied);
        let same = applied.clone().all(|other| other == pictures[0].applied);
        let newest = applied.max().unwrap_or(0);
        let gets_on = newest >= last + 50;
        last = last.max(newest);
        (settled && same || gets_on).then_some(settled && same)
    }) {}
}

#[test]
fn nothing_acknowledged_is_lost_while_slots_move_and_processes_are_killed() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster_of(&dir, 3, 3, |_| Vec::new(), &[]);
    let routers = [
        Router::start(&dir, &nodes, &[]),
        Router::start(&dir, &nodes[1..], &[]),
    ];
    let mut ports: Vec<u16> = routers.iter().map(|router| router.port).collect();
    ports.extend(nodes.iter().map(|node| node.port));
    let load = Load::start(&ports, &[Manner::default()]);
    let mut prng = Prng::new(11);
    for round in 0..ROUNDS {
        let first = prng.below(LAST);
        let last = (first + prng.below(LAST / 3)).min(LAST);
        let (slots, shard) = (
            format!("{first}-{last}"),
            format!("shard-{}", prng.range(1, 3)),
        );
        let words = ctl(&nodes, &["shards", "move", &slots, &shard]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // The manager may be without a primary at this very moment: then it says so.
        wait_for("an order that is taken", || {
            let output = kvorum(&words).output().expect("it runs");
            output.status.success().then_some(())
        });
        load.wait_for_more(100);
        if round % 3 == 2 {
            let victim = prng.below(3) as usize;
            nodes[victim].kill();
            load.wait_for_more(50);
            nodes[victim].restart();
        }
    }
    load.wait_for_more(200);
    wait_until_settled(&nodes);
    let told = load.finish();
    assert!(
        told.unknown() > 0,
        "kills leave some outcomes open: {told:?}"
    );
    told.judge(&ports);
    let moved = picture(&nodes[0]).expect("a picture");
    assert!(moved.config > ROUNDS / 2, "{moved:?}");
}

#[test]
fn slots_move_at_an_operators_word_and_every_client_finds_them() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster_of(&dir, 3, 3, |_| Vec::new(), &[]);
    let router = Router::start(&dir, &nodes, &[]);
    for key in 0..300 {
        let key = key.to_string();
        let reply = ask(router.port, &["SET", &key, &key]);
        assert!(matches!(reply, Ok(Reply::Simple(_))), "{key}: {reply:?}");
    }
    assert_eq!(
        orders(&nodes, &["shards", "move", "0-8000,16000", "2"]).trim(),
        "config 2"
    );
    wait_until_settled(&nodes);
    let held = |shard: usize| picture(&nodes[0]).expect("a picture").shards[shard].slots;
    assert_eq!((held(0), held(1), held(2)), (0, 10924, 5460));
    let asked = |words: &[&str]| ask(router.port, words).expect("a reply");
    assert_eq!(asked(&["DBSIZE"]), Reply::Integer(300));
    for key in 0..300 {
        let key = key.to_string();
        assert_eq!(asked(&["GET", &key]), bulk(&key));
    }
    let followed = redis_cli(nodes[0].port, &["-c", "GET", "7"]);
    assert_eq!(followed.as_deref(), Ok("7"));
    let config = orders(&nodes, &["config", "query", "1"]);
    assert!(
        config.contains("shard-1  0-5461"),
        "an earlier config: {config}"
    );
    orders(&nodes, &["shards", "rebalance"]);
    wait_until_settled(&nodes);
    let mut even = [held(0), held(1), held(2)];
    even.sort_unstable();
    assert_eq!(even, [5461, 5461, 5462]);
    let shards = orders(&nodes, &["shards", "list"]);
    assert_eq!(shards.lines().count(), 3, "{shards}");
}

#[test]
fn orders_that_cannot_be_are_refused_with_what_to_do() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster_of(&dir, 3, 1, |_| Vec::new(), &[]);
    for (words, says) in [
        (&["shards", "move", "0-9", "nowhere"][..], "no such shard"),
        (&["shards", "move", "9-0", "shard-1"], "write slots as in"),
        (&["shards", "remove", "shard-1"], "last shard"),
        (&["shards", "add", "--replicas", "4"], "add nodes"),
        (&["nodes", "remove", "1"], "drain it first"),
        (&["moves", "cancel", "9"], "not open"),
        (&["primary", "transfer", "shard-1", "7"], "no replica"),
        (&["config", "query", "9"], "newest config"),
    ] {
        let all = ctl(&nodes, words);
        let said = refused(&all.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(said.contains(says), "{words:?}: {said}");
    }
}
