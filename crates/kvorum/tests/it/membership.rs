//! Shards and nodes come and go at an operator's word, under load.

use std::time::Duration;

use crate::load::{Load, Manner};
use crate::moves::{orders, picture, wait_until_settled};
use crate::nodes::{Node, cluster_of};
use crate::process::{TempDir, free_port, my_turn, wait_for};
use crate::routers::Router;

/// What behind a router a client may be told while nothing is killed: nothing but answers.
fn nobody_noticed(load: Load, ports: &[u16]) {
    let told = load.finish();
    assert!(told.complaints().is_empty(), "{told:?}");
    told.judge(ports);
}

/// Starts one more node, which joins.
pub(crate) fn join(dir: &TempDir, nodes: &[Node], name: &str, more: &[&str]) -> Node {
    let others: Vec<String> = nodes.iter().map(Node::http).collect();
    let others = others.join(",");
    let mut arguments = vec!["--join", &others];
    arguments.extend(more);
    let node = Node::start_with(dir.path().join(name), free_port(1), &arguments, &[]);
    wait_for("the new node to be known", || {
        let http = node.http();
        let known = picture(&nodes[0])?.nodes;
        known.iter().any(|known| known.http == http).then_some(())
    });
    node
}

/// How many replicas each node has, as a node knows it.
fn replicas(node: &Node) -> Vec<(u64, usize)> {
    let nodes = picture(node).map(|picture| picture.nodes);
    nodes
        .unwrap_or_default()
        .iter()
        .map(|node| (node.node, node.replicas))
        .collect()
}

#[test]
fn shards_are_added_and_removed_and_clients_go_on() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster_of(&dir, 3, 1, |_| Vec::new(), &[]);
    let router = Router::start(&dir, &nodes, &[]);
    let ports = [router.port];
    let load = Load::start(&ports, &[Manner::default()]);
    load.wait_for_more(200);
    orders(&nodes, &["shards", "add", "second", "third"]);
    wait_until_settled(&nodes);
    load.wait_for_more(200);
    let shards = picture(&nodes[0]).expect("a picture").shards;
    let mut slots: Vec<u32> = shards.iter().map(|shard| shard.slots).collect();
    slots.sort_unstable();
    assert_eq!(slots, [5461, 5461, 5462], "{shards:?}");
    assert!(
        shards.iter().all(|shard| shard.nodes.len() == 3),
        "{shards:?}"
    );
    orders(&nodes, &["shards", "remove", "shard-1"]);
    orders(&nodes, &["shards", "remove", "second"]);
    wait_until_settled(&nodes);
    wait_for("the shards to be gone", || {
        let shards = picture(&nodes[0])?.shards;
        (shards.len() == 1 && shards[0].name == "third" && shards[0].slots == 16384).then_some(())
    });
    load.wait_for_more(200);
    nobody_noticed(load, &ports);
}

#[test]
fn a_node_joins_another_is_drained_and_clients_go_on() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster_of(&dir, 3, 3, |_| Vec::new(), &[]);
    let router = Router::start(&dir, &nodes, &[]);
    let ports = [router.port];
    let load = Load::start(&ports, &[Manner::default()]);
    nodes.push(join(&dir, &nodes, "node-4", &[]));
    wait_for("replicas on the new node", || {
        let all = replicas(&nodes[0]);
        (all.len() == 4 && all.iter().all(|(_, count)| (2..=3).contains(count))).then_some(())
    });
    load.wait_for_more(200);
    orders(&nodes, &["nodes", "drain", "1"]);
    wait_for("an empty node", || {
        replicas(&nodes[1]).contains(&(1, 0)).then_some(())
    });
    wait_for("its leave", || {
        let all = picture(&nodes[1])?;
        all.settled.then_some(())
    });
    load.wait_for_more(200);
    orders(&nodes[1..], &["nodes", "remove", "1"]);
    nodes[0].signal("-TERM");
    assert!(nodes[0].end().success());
    load.wait_for_more(200);
    nobody_noticed(load, &ports);
    assert_eq!(replicas(&nodes[1]).len(), 3);
}

#[test]
fn all_nodes_are_restarted_one_after_the_other_and_clients_go_on() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster_of(&dir, 3, 3, |_| Vec::new(), &[]);
    let router = Router::start(&dir, &nodes, &[]);
    let ports = [router.port];
    let load = Load::start(&ports, &[Manner::default()]);
    for node in &mut nodes {
        load.wait_for_more(200);
        node.signal("-TERM");
        assert!(node.end().success());
        load.wait_for_more(50);
        node.restart();
        node.wait_until_ready();
    }
    load.wait_for_more(200);
    nobody_noticed(load, &ports);
}

#[test]
fn the_replicas_of_a_dead_node_are_made_on_another() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let dead = ["--node-dead-ms", "5000"];
    let own = |_| dead.iter().map(|&word| word.to_owned()).collect();
    let mut nodes = cluster_of(&dir, 3, 3, own, &[]);
    nodes.push(join(&dir, &nodes, "node-4", &dead));
    let ports: Vec<u16> = nodes[1..].iter().map(|node| node.port).collect();
    let load = Load::start(&ports, &[Manner::default()]);
    load.wait_for_more(200);
    nodes[0].kill();
    wait_for("all shards on the three that are left", || {
        let shards = picture(&nodes[1])?.shards;
        let healed = |nodes: &[u64]| nodes.len() == 3 && !nodes.contains(&1);
        let healed = shards.iter().all(|shard| healed(&shard.nodes));
        if !healed {
            std::thread::sleep(Duration::from_millis(200));
        }
        healed.then_some(())
    });
    load.wait_for_more(200);
    // It comes back, finds that it is needed no more, and does no harm.
    nodes[0].restart();
    load.wait_for_more(400);
    load.finish().judge(&ports);
}
