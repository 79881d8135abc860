//! Making a cluster with real processes: once, whole, and also after crashes in the middle.

use kvorum_server::control::client::post;
use kvorum_server::control::init::{Commit, Prepare};
use kvorum_server::identity::{Plan, Shape};
use serde_json::Value;

use crate::nodes::Node;
use crate::process::{TempDir, free_port, my_turn, refused, succeeds};

const SHAPE: Shape = Shape {
    shards: 1,
    replicas: 3,
};

fn three(dir: &TempDir) -> Vec<Node> {
    let port = free_port(3);
    (0..3)
        .map(|number| Node::start(dir.path().join(format!("node-{number}")), port + number))
        .collect()
}

fn addresses(nodes: &[Node]) -> String {
    nodes.iter().map(Node::http).collect::<Vec<_>>().join(",")
}

#[test]
fn fresh_nodes_become_one_cluster_once() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = three(&dir);
    let all = addresses(&nodes);
    assert!(succeeds(&["ctl", "init", "--nodes", &all]).contains("is made of 3 nodes"));
    let plans: Vec<_> = nodes.iter().map(|node| node.init_state().plan).collect();
    assert!(
        plans[0].is_some() && plans.iter().all(|plan| *plan == plans[0]),
        "{plans:?}"
    );
    assert!(succeeds(&["ctl", "init", "--nodes", &all]).contains("nothing was done"));
    let fewer = addresses(&nodes[..2]);
    assert!(refused(&["ctl", "init", "--nodes", &fewer]).contains("of 3 nodes"));

    // The same directory without its contents is a new node, and not one of this cluster.
    nodes[2].kill();
    std::fs::remove_dir_all(&nodes[2].dir).expect("removed");
    nodes[2].restart();
    assert_eq!(nodes[2].init_state().state, "uninitialised");
    assert!(refused(&["ctl", "init", "--nodes", &all]).contains("lost its directory"));
    assert_eq!(nodes[2].init_state().state, "uninitialised");
}

#[test]
fn nothing_starts_while_a_node_is_missing() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = three(&dir);
    nodes[2].kill();
    let said = refused(&["ctl", "init", "--nodes", &addresses(&nodes)]);
    assert!(said.contains("must be running"), "{said}");
    assert_eq!(nodes[0].init_state().state, "uninitialised");
}

/// 1. The operator's command has prepared two of three nodes, then its machine dies. 2. So do the nodes.
/// 3. The same command runs again.
#[test]
fn an_attempt_that_died_between_the_steps_is_finished_by_the_next() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = three(&dir);
    let plan = Plan::draw(
        nodes
            .iter()
            .map(|node| node.init_state().addresses)
            .collect(),
        SHAPE,
    );
    for (node, number) in nodes[..2].iter().zip(1..) {
        let request = Prepare {
            node: number,
            plan: plan.clone(),
            secret: Some("5a".repeat(32)),
        };
        post::<Value>(&node.http(), "/api/v1/admin/init/prepare", &request, None)
            .expect("prepared");
    }
    for node in &mut nodes {
        node.kill();
    }
    for node in &mut nodes {
        node.restart();
    }
    let states: Vec<_> = nodes.iter().map(|node| node.init_state().state).collect();
    assert_eq!(states, ["prepared", "prepared", "uninitialised"]);
    succeeds(&["ctl", "init", "--nodes", &addresses(&nodes)]);
    for node in &nodes {
        let state = node.init_state();
        let started = state.plan.expect("a plan");
        assert_eq!(
            (state.state.as_str(), started.cluster),
            ("started", plan.cluster)
        );
        assert_eq!(started.hash_key, "", "told to nobody any more");
        let manifest = std::fs::read_to_string(node.dir.join("MANIFEST")).expect("a manifest");
        assert!(
            manifest.contains(&"5a".repeat(32)),
            "all have the first attempt's secret"
        );
    }
}

#[test]
fn an_attempt_that_died_while_starting_is_finished_by_the_next() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = three(&dir);
    let plan = Plan::draw(
        nodes
            .iter()
            .map(|node| node.init_state().addresses)
            .collect(),
        SHAPE,
    );
    for (node, number) in nodes.iter().zip(1..) {
        let request = Prepare {
            node: number,
            plan: plan.clone(),
            secret: Some("5a".repeat(32)),
        };
        post::<Value>(&node.http(), "/api/v1/admin/init/prepare", &request, None)
            .expect("prepared");
    }
    let commit = Commit {
        cluster: plan.cluster,
    };
    post::<Value>(&nodes[0].http(), "/api/v1/admin/init/commit", &commit, None).expect("started");
    succeeds(&["ctl", "init", "--nodes", &addresses(&nodes)]);
    assert!(
        nodes
            .iter()
            .all(|node| node.init_state().state == "started")
    );
}

#[test]
fn two_attempts_at_once_make_one_cluster_or_none() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = three(&dir);
    let addresses: Vec<_> = nodes
        .iter()
        .map(|node| node.init_state().addresses)
        .collect();
    let (one, other) = (
        Plan::draw(addresses.clone(), SHAPE),
        Plan::draw(addresses, SHAPE),
    );
    let prepare = |node: usize, plan: &Plan| {
        let request = Prepare {
            node: node as u64 + 1,
            plan: plan.clone(),
            secret: Some("5a".repeat(32)),
        };
        post::<Value>(
            &nodes[node].http(),
            "/api/v1/admin/init/prepare",
            &request,
            None,
        )
    };
    prepare(0, &one).expect("prepared");
    prepare(1, &other).expect("prepared");
    assert!(
        prepare(1, &one)
            .expect_err("refused")
            .to_string()
            .contains("already belongs")
    );
    assert!(
        prepare(0, &other)
            .expect_err("refused")
            .to_string()
            .contains("already belongs")
    );
    let said = refused(&["ctl", "init", "--nodes", &super::init::addresses(&nodes)]);
    assert!(said.contains("different clusters"), "{said}");
}
