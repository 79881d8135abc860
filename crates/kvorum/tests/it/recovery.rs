//! A majority is lost for good, and one node goes on at an operator's word.

use std::collections::BTreeSet;
use std::fs;

use kvorum_server::control::cluster::Picture;
use kvorum_server::control::status::GroupStatus;

use crate::membership::join;
use crate::moves::{ctl, orders, picture};
use crate::nodes::{Node, cluster_of};
use crate::process::{TempDir, my_turn, refused, wait_for};
use crate::resp::{ask, bulk, ok};

/// Keys in all shards.
const KEYS: usize = 60;

/// When a node is called dead: its replicas are then made elsewhere, where its shard can decide.
const DEAD: [&str; 2] = ["--node-dead-ms", "15000"];

fn key(number: usize) -> String {
    format!("key-{number}")
}

fn write_all(node: &Node, value: &str) {
    for number in 0..KEYS {
        wait_for("a write", || {
            let reply = ask(node.port, &["SET", &key(number), value]).ok()?;
            (reply == ok()).then_some(())
        });
    }
}

fn read_all(node: &Node, value: &str) {
    for number in 0..KEYS {
        wait_for("a key to have its value", || {
            let reply = ask(node.port, &["GET", &key(number)]).ok()?;
            (reply == bulk(value)).then_some(())
        });
    }
}

fn known(node: &Node) -> Picture {
    wait_for("what a node knows", || picture(node))
}

fn groups(node: &Node) -> Option<Vec<GroupStatus>> {
    let status = node.status()?.status?;
    Some(status.manager.into_iter().chain(status.groups).collect())
}

/// Waits until these nodes hold the same of every group, so that whoever is left has all of it.
fn wait_until_even(nodes: &[Node]) {
    wait_for("the same on all nodes", || {
        let mut held = BTreeSet::new();
        for node in nodes {
            let groups = groups(node)?;
            held.insert(
                groups
                    .into_iter()
                    .map(|group| (group.group, group.last, group.state_hash))
                    .collect::<Vec<_>>(),
            );
        }
        (held.len() == 1).then_some(())
    });
}

/// Waits until each shard has three replicas, none of them on these nodes.
fn wait_until_healed(node: &Node, without: &[u64]) {
    wait_for("three replicas of all shards", || {
        let shards = picture(node)?.shards;
        let healed =
            |nodes: &[u64]| nodes.len() == 3 && !nodes.iter().any(|node| without.contains(node));
        let healed = shards.iter().all(|shard| healed(&shard.nodes));
        if !healed {
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        healed.then_some(())
    });
}

fn is_refused(nodes: &[Node], words: &[&str]) -> String {
    let words = ctl(nodes, words);
    refused(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn one_node_of_three_goes_on_alone_and_new_ones_join_it() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let own = |_| DEAD.iter().map(|&word| word.to_owned()).collect();
    let mut nodes = cluster_of(&dir, 3, 3, own, &[]);
    write_all(&nodes[0], "kept");
    let recover = ["recover", "--from-node", "1", "--i-accept-loss"];
    let said = is_refused(&nodes, &recover);
    assert!(said.contains("nothing to recover"), "{said}");

    nodes[2].kill();
    let said = is_refused(&nodes[..2], &recover);
    assert!(said.contains("nothing to recover"), "{said}");
    let one = [
        "recover",
        "--shard",
        "1",
        "--from-node",
        "1",
        "--i-accept-loss",
    ];
    let said = is_refused(&nodes[..2], &one);
    assert!(said.contains("shard 1 (shard-1) has a majority"), "{said}");

    wait_until_even(&nodes[..2]);
    nodes[1].kill();
    for node in &nodes[1..] {
        fs::remove_dir_all(&node.dir).expect("removed");
    }
    let left = &nodes[..1];
    let said = is_refused(left, &["recover"]);
    assert!(
        said.contains("nothing was done") && said.contains("--from-node 1"),
        "{said}"
    );
    let said = is_refused(left, &["recover", "--from-node", "1"]);
    assert!(
        said.contains("nothing was done") && said.contains("--i-accept-loss"),
        "{said}"
    );
    let said = is_refused(left, &["recover", "--from-node", "2", "--i-accept-loss"]);
    assert!(said.contains("nothing was done"), "{said}");

    let said = orders(left, &recover);
    for what in ["the shard manager", "shard 1", "shard 2", "shard 3"] {
        assert!(
            said.contains(&format!("{what} ")) && said.contains("goes on"),
            "{said}"
        );
    }
    read_all(&nodes[0], "kept");
    write_all(&nodes[0], "alone");
    let said = is_refused(left, &recover);
    assert!(said.contains("nothing to recover"), "{said}");

    for name in ["node-4", "node-5"] {
        let next = join(&dir, &nodes[..1], name, &DEAD);
        nodes.push(next);
    }
    wait_until_healed(&nodes[0], &[2, 3]);
    for lost in ["2", "3"] {
        wait_for("a lost node to be called dead", || {
            let known = picture(&nodes[0])?.nodes;
            let known = known.iter().find(|node| node.node.to_string() == lost)?;
            (known.state == "dead").then_some(())
        });
        orders(left_of(&nodes), &["nodes", "remove", lost]);
    }
    wait_for("peace", || picture(&nodes[0])?.settled.then_some(()));
    read_all(&nodes[4], "alone");
    write_all(&nodes[3], "together");

    // It is on record, and survives a restart of all.
    for node in [0, 3, 4] {
        nodes[node].kill();
    }
    for node in [0, 3, 4] {
        nodes[node].restart();
    }
    read_all(&nodes[4], "together");
    // It may remember an older state until it hears the manager.
    let recoveries = wait_for("the record", || {
        let recoveries = picture(&nodes[3])?.recoveries;
        (recoveries.len() == 4).then_some(recoveries)
    });
    assert!(
        recoveries.iter().all(|recovery| recovery.node == 1),
        "{recoveries:?}"
    );
}

fn left_of(nodes: &[Node]) -> &[Node] {
    &nodes[..1]
}

#[test]
fn those_who_were_let_go_come_back_and_do_no_harm() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster_of(&dir, 3, 2, |_| Vec::new(), &[]);
    write_all(&nodes[0], "before");
    wait_until_even(&nodes);
    nodes[1].kill();
    nodes[2].kill();
    orders(
        &nodes[..1],
        &["recover", "--from-node", "1", "--i-accept-loss"],
    );
    write_all(&nodes[0], "after");
    // Together they are a majority of what they remember.
    nodes[1].restart();
    nodes[2].restart();
    for node in &nodes[1..] {
        wait_for("it to hear of it", || {
            let recoveries = picture(node)?.recoveries;
            (recoveries.len() == 3).then_some(())
        });
    }
    // Their old replicas are deleted and new ones made.
    wait_until_healed(&nodes[0], &[]);
    wait_for("peace", || picture(&nodes[0])?.settled.then_some(()));
    for node in &nodes {
        read_all(node, "after");
    }
    wait_until_even(&nodes);
    let replicas = |node: &Node| wait_for("its groups", || groups(node));
    for group in nodes.iter().flat_map(replicas) {
        assert!(group.recovered, "{group:?}");
    }
}

#[test]
fn shards_are_recovered_while_the_manager_works() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let own = |_| DEAD.iter().map(|&word| word.to_owned()).collect();
    // As many shards as nodes: no replica has to move to make all even.
    let mut nodes = cluster_of(&dir, 5, 5, own, &[]);
    write_all(&nodes[0], "kept");
    let shards = known(&nodes[0]).shards;
    for shard in &shards {
        let holds = |id: &u64| {
            let mut groups = groups(&nodes[*id as usize - 1])?.into_iter();
            let group = groups.find(|group| group.group == shard.shard)?;
            Some((group.last, group.state_hash))
        };
        wait_for("the same on all of its nodes", || {
            let held: Vec<_> = shard.nodes.iter().map(holds).collect();
            let same = held.iter().all(|one| one.is_some() && *one == held[0]);
            same.then_some(())
        });
    }
    // With two of the first shard's nodes others may lose their majority, too.
    let gone = shards[0].nodes[1..].to_vec();
    for lost in &gone {
        nodes[*lost as usize - 1].kill();
    }
    let is_left = |id: &&u64| !gone.contains(*id);
    let lost: Vec<(u64, u64)> = shards
        .iter()
        .filter(|shard| shard.nodes.iter().filter(is_left).count() == 1)
        .filter_map(|shard| Some((shard.shard, *shard.nodes.iter().find(is_left)?)))
        .collect();
    let left: Vec<Node> = (1..)
        .zip(nodes)
        .filter(|(id, _)| is_left(&id))
        .map(|(_, node)| node)
        .collect();
    let said = is_refused(&left, &["recover", "--shard", "manager", "--i-accept-loss"]);
    assert!(said.contains("the shard manager has a majority"), "{said}");
    for (shard, node) in &lost {
        let hint = format!("kvorum ctl recover --shard {shard} --from-node {node}");
        wait_for("a word about it", || {
            left.iter()
                .any(|node| node.said().contains(&hint))
                .then_some(())
        });
        let (shard, node) = (shard.to_string(), node.to_string());
        let words = [
            "recover",
            "--shard",
            &shard,
            "--from-node",
            &node,
            "--i-accept-loss",
        ];
        let said = orders(&left, &words);
        assert!(
            said.contains(&format!("shard {shard} (shard-{shard}) goes on")),
            "{said}"
        );
    }
    read_all(&left[0], "kept");
    // All that are left get a replica of each shard.
    wait_until_healed(&left[0], &gone);
    write_all(&left[1], "after");
    let recoveries = known(&left[0]).recoveries;
    assert_eq!(recoveries.len(), lost.len(), "{recoveries:?}");
}
