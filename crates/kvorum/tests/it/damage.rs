//! A flipped bit on the disk of a node that is down.

use std::fs;
use std::path::{Path, PathBuf};

use crate::nodes::{Node, cluster, cluster_with, primary, primary_among, wait_for_one_state};
use crate::process::{TempDir, my_turn, wait_for};
use crate::resp::{Client, Reply, ask, bulk, ok};

/// Writes `count` values of `bytes` each.
fn write(node: &Node, count: usize, bytes: usize) {
    let mut client = Client::connect(node.port).expect("connected");
    let value = "v".repeat(bytes);
    for number in 0..count {
        let key = format!("key-{number}");
        assert_eq!(client.ask(&["SET", &key, &value]).expect("a reply"), ok());
    }
}

/// Flips a bit in the middle of what is written of a file.
fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("something");
    bytes[used / 2] ^= 0x10;
    fs::write(path, bytes).expect("written");
}

fn files_in(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .collect();
    files.sort();
    files
}

/// A node that is neither the primary nor anything else of importance.
fn follower(nodes: &[Node]) -> usize {
    (primary(nodes) + 1) % nodes.len()
}

/// What it had promised may be among what cannot be read. Nobody may count on it again, and everybody is
/// told so; whoever has intact logs goes on.
#[test]
fn a_node_whose_log_is_damaged_is_silent_and_says_why() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    write(&nodes[primary(&nodes)], 200, 100);
    wait_for_one_state(&nodes);
    let damaged = follower(&nodes);
    nodes[damaged].kill();
    let segments = files_in(&nodes[damaged].dir.join("lane-0"), "wal-");
    flip_a_bit(&segments[0]);
    for _ in 0..2 {
        nodes[damaged].restart();
        let status = wait_for("its judgement", || {
            nodes[damaged]
                .status()
                .filter(|status| status.status.is_some())
        });
        let reason = status.reason.expect("it is not ready");
        assert!(
            reason.contains("out of service") && reason.contains("damaged"),
            "{reason}"
        );
        let said = nodes[damaged].said();
        assert!(
            said.contains("move the whole directory aside and replace"),
            "{said}"
        );
        match ask(nodes[damaged].port, &["GET", "key-0"]).expect("a reply") {
            Reply::Error(text) => {
                assert!(text.starts_with("CLUSTERDOWN this node is out"), "{text}");
            }
            reply => panic!("{reply:?} of a node that has lost its promises"),
        }
        let name = "lost what it had promised";
        wait_for("another node to be told", || {
            nodes
                .iter()
                .any(|node| node.said().contains(name))
                .then_some(())
        });
        let leading = primary_among(&nodes, |node| node != damaged);
        assert_eq!(
            ask(nodes[leading].port, &["SET", "after", "1"]).expect("a reply"),
            ok()
        );
        nodes[damaged].signal("-TERM");
        assert!(nodes[damaged].end().success());
    }

    // Two intact nodes of three are a majority; one and a lost one are none.
    nodes[damaged].restart();
    let leading = primary_among(&nodes, |node| node != damaged);
    let other = (0..3)
        .find(|node| ![leading, damaged].contains(node))
        .expect("a third");
    nodes[other].kill();
    let reply = ask(nodes[leading].port, &["SET", "alone", "1"]).expect("a reply");
    assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
    nodes[other].restart();
    wait_for("a write", || {
        let reply = ask(nodes[other].port, &["SET", "together", "1"]).ok()?;
        (reply == ok()).then_some(())
    });
}

/// Whether this process of the node was elected, if it leads still or not.
fn elected(node: &Node) -> Option<()> {
    let status = node.status()?.status?;
    (status.counters.get("elected").copied()? > 0).then_some(())
}

/// Three nodes of which one had a damaged snapshot, and has a state from its primary again.
fn with_a_repaired_one() -> (TempDir, Vec<Node>, usize) {
    let dir = TempDir::new();
    let small = [("KVORUM_TEST_SEGMENT_BYTES", "262144")];
    let mut nodes = cluster_with(&dir, 3, |_| Vec::new(), &small);
    let leading = primary(&nodes);
    write(&nodes[leading], 500, 10_000);
    let damaged = follower(&nodes);
    wait_for("a snapshot", || {
        nodes[damaged]
            .group()
            .filter(|group| group.snapshot_index > 0)
    });
    wait_for_one_state(&nodes);
    nodes[damaged].kill();
    let snapshots = files_in(&nodes[damaged].dir.join("snapshots"), "group-1-snapshot-");
    flip_a_bit(snapshots.last().expect("a snapshot"));
    nodes[damaged].restart();
    wait_for_one_state(&nodes);
    (dir, nodes, damaged)
}

/// A state is no promise: the replica goes on voting and acknowledging, and asks its primary for another.
#[test]
fn a_damaged_snapshot_is_repaired_from_the_primary() {
    let _turn = my_turn();
    let (_dir, mut nodes, damaged) = with_a_repaired_one();
    let leading = primary(&nodes);

    // And the repaired one counts: without it there is no majority.
    let other = (0..3)
        .find(|node| ![leading, damaged].contains(node))
        .expect("a third");
    nodes[other].kill();
    let leading = primary_among(&nodes, |node| node != other);
    wait_for("a write", || {
        let reply = ask(nodes[leading].port, &["SET", "after", "1"]).ok()?;
        (reply == ok()).then_some(())
    });
    nodes[other].restart();
    wait_for_one_state(&nodes);
    let leading = primary(&nodes);
    assert_eq!(
        ask(nodes[leading].port, &["GET", "after"]).expect("a reply"),
        bulk("1")
    );
    let last = bulk(&"v".repeat(10_000));
    assert_eq!(
        ask(nodes[leading].port, &["GET", "key-499"]).expect("a reply"),
        last
    );
}

/// With the third one away the primary has nobody else to hand over to.
#[test]
fn a_repaired_replica_can_lead() {
    let _turn = my_turn();
    let (_dir, mut nodes, damaged) = with_a_repaired_one();
    let leading = primary(&nodes);
    if leading != damaged {
        let third = (0..3)
            .find(|node| ![leading, damaged].contains(node))
            .expect("a third");
        nodes[third].kill();
        nodes[leading].signal("-TERM");
        wait_for("the repaired one to lead", || elected(&nodes[damaged]));
        wait_for("the other's end", || nodes[leading].ended());
        for node in [third, leading] {
            nodes[node].restart();
        }
        wait_for_one_state(&nodes);
    }
}
