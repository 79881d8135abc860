//! Nodes are found again: those that joined later, and those that are elsewhere after a restart.

use kvorum_base::ClusterId;
use kvorum_server::control::remembered::recall;

use crate::membership::join;
use crate::moves::{orders, picture, wait_until_settled};
use crate::nodes::{Node, cluster};
use crate::process::{TempDir, free_port, my_turn, wait_for};
use crate::resp::{ask, bulk, ok};

#[test]
fn a_node_remembers_those_that_joined() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let joined = join(&dir, &nodes, "four", &[]);
    nodes.push(joined);
    wait_until_settled(&nodes);
    let plan = nodes[0].init_state().plan.expect("a plan");
    let cluster_id = ClusterId(plan.cluster);
    wait_for("all to remember all", || {
        let remembers = |node: &Node| {
            let state = recall(&node.dir, cluster_id);
            state.is_some_and(|state| state.nodes().len() == 4)
        };
        nodes.iter().all(remembers).then_some(())
    });
    for node in &mut nodes {
        node.kill();
    }
    // Of three replicas of the shard manager one is back: nobody can tell the two anything new.
    for node in &mut nodes[2..] {
        node.restart();
        let known = wait_for("what it remembers", || picture(node));
        assert_eq!(known.nodes.len(), 4, "{known:?}");
    }
    for node in &mut nodes[..2] {
        node.restart();
    }
    // The fourth has no replica, and is never ready.
    for node in &nodes[..3] {
        node.wait_until_ready();
    }
}

#[test]
fn nodes_move_one_after_the_other_and_take_the_cluster_along() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    for at in 0..3 {
        nodes[at].kill();
        nodes[at].port = free_port(1);
        nodes[at].restart();
        let (http, client) = (nodes[at].http(), format!("127.0.0.1:{}", nodes[at].port));
        for node in &nodes {
            wait_for("its new addresses to be known", || {
                let known = picture(node)?.nodes;
                let known = known.iter().find(|known| known.http == http)?;
                (known.client == client).then_some(())
            });
        }
        for node in &nodes {
            node.wait_until_ready();
        }
    }
    wait_for("a write", || {
        let reply = ask(nodes[0].port, &["SET", "moved", "house"]).ok()?;
        (reply == ok()).then_some(())
    });
    for node in &nodes {
        let reply = ask(node.port, &["GET", "moved"]).expect("a reply, here or where it leads");
        assert_eq!(reply, bulk("house"));
    }
    let shown = orders(&nodes, &["nodes", "list"]);
    for node in &nodes {
        assert!(shown.contains(&node.port.to_string()), "{shown}");
    }
}
