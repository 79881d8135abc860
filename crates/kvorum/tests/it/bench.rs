//! `kvorum bench run` against real nodes.

use kvorum_base::slot::slot_of;
use serde_json::Value;

use crate::nodes::{Node, cluster, cluster_of, primary};
use crate::process::{TempDir, my_turn, refused, succeeds};
use crate::resp::{Reply, ask};

/// One run; its result.
fn measured(addresses: &str, more: &[&str]) -> Value {
    let mut words = vec!["bench", "run", "--json", "--address", addresses];
    words.extend(["--seconds", "1", "--clients", "20", "--keys", "3000"]);
    words.extend(more);
    serde_json::from_str(&succeeds(&words)).expect("JSON")
}

fn requests(result: &Value, class: &str) -> u64 {
    result[class]["requests"].as_u64().expect("a number")
}

fn nothing_went_wrong(result: &Value) {
    assert_eq!(result["errors"], serde_json::json!({}), "{result}");
    assert_eq!(result["misses"], 0, "{result}");
}

#[test]
fn a_node_is_loaded_in_closed_and_in_open_loop() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster(&dir, 1);
    let address = format!("127.0.0.1:{}", nodes[primary(&nodes)].port);
    let closed = measured(&address, &["--fill", "--pipeline", "4"]);
    nothing_went_wrong(&closed);
    assert!(requests(&closed, "reads") > 0 && requests(&closed, "writes") > 0);
    let size = ask(nodes[0].port, &["DBSIZE"]).expect("a reply");
    assert_eq!(size, Reply::Integer(3000));
    let open = measured(&address, &["--rate", "500", "--reads", "100"]);
    nothing_went_wrong(&open);
    // What is due after the end is not asked for, and nothing is asked for twice.
    assert!((1..=500).contains(&requests(&open, "reads")), "{open}");
    assert_eq!(requests(&open, "writes"), 0);
}

#[test]
fn the_owners_of_slots_are_found_in_a_cluster() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster_of(&dir, 3, 3, |_| Vec::new(), &[]);
    let all: Vec<String> = nodes
        .iter()
        .map(|node| format!("127.0.0.1:{}", node.port))
        .collect();
    let all = all.join(",");
    let result = measured(&all, &["--cluster", "--fill", "--slots", "0-9000"]);
    nothing_went_wrong(&result);
    // Primaries are counted, wherever they are by now: each key has one.
    let size = |node: &Node| match ask(node.port, &["DBSIZE"]) {
        Ok(Reply::Integer(size)) => size,
        other => panic!("no size: {other:?}"),
    };
    let in_slots = |number: &u32| slot_of(format!("key:{number:012}").as_bytes()).get() <= 9000;
    let expected = (0..3000).filter(in_slots).count() as i64;
    assert_eq!(nodes.iter().map(size).sum::<i64>(), expected);
    // Without asking who owns what, most is redirected, and the result says so.
    let lost = measured(&all, &[]);
    assert!(
        lost["errors"]["MOVED"]
            .as_u64()
            .is_some_and(|count| count > 0),
        "{lost}"
    );
    let said = refused(&["bench", "run", "--address", "127.0.0.1:1", "--seconds", "1"]);
    assert!(said.contains("cannot connect to 127.0.0.1:1"), "{said}");
}
