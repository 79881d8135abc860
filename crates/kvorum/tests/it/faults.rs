//! A disk that fails, hangs, is slow or is full.

use std::io;

use crate::load::{Load, Manner};
use crate::nodes::{Node, cluster, cluster_with, primary, primary_among, wait_for_one_state};
use crate::process::{TempDir, my_turn, wait_for};
use crate::resp::{Client, Reply, ask, bulk, ok};

/// Nobody may be told anything that rests on a sync that failed: no reply, not even an error.
#[test]
fn a_failed_sync_ends_the_node_without_another_word() {
    let _turn = my_turn();
    for fault in ["sync-fail", "write-fail"] {
        let dir = TempDir::new();
        let mut node = cluster(&dir, 1).remove(0);
        let mut client = Client::connect(node.port).expect("connected");
        assert_eq!(client.ask(&["SET", "before", "1"]).expect("a reply"), ok());
        node.fault(fault);
        let error = client.ask(&["SET", "after", "1"]).expect_err("no reply");
        let closed = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
        assert!(closed.contains(&error.kind()), "{error}");
        let status = node.end();
        assert!(!status.success(), "{fault}: {status}");
        assert!(node.said().contains("failed"), "{}", node.said());

        node.fault("");
        node.restart();
        node.wait_until_ready();
        let value = ask(node.port, &["GET", "before"]).expect("a reply");
        assert_eq!(value, bulk("1"));
    }
}

/// Its heartbeats would go on for ever: the shard would live at the speed of a disk that hangs.
#[test]
fn a_primary_whose_disk_hangs_hands_over() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3);
    let old = primary(&nodes);
    nodes[old].fault("sync-hang");
    let mut client = Client::connect(nodes[old].port).expect("connected");
    // Two of three have it: it may well be acknowledged.
    let _ = client.ask(&["SET", "a", "1"]);
    let new = primary_among(&nodes, |node| node != old);
    wait_for("a write", || {
        let reply = ask(nodes[new].port, &["SET", "b", "1"]).ok()?;
        (reply == ok()).then_some(())
    });
    nodes[old].fault("");
    wait_for_one_state(&nodes);
}

/// Slow is not hung: nothing is handed over, refused or lost, it only takes its time.
#[test]
fn slow_disks_make_slow_writes_and_nothing_else() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3);
    for node in &nodes {
        node.fault("sync-delay-ms 100");
    }
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    let load = Load::start(&ports, &[Manner::default()]);
    load.wait_for_more(100);
    // One slow disk of three is none: a majority of the others is enough.
    for (at, node) in nodes.iter().enumerate() {
        node.fault(if at == 0 { "sync-delay-ms 100" } else { "" });
    }
    load.wait_for_more(1000);
    for node in &nodes {
        node.fault("");
    }
    let told = load.finish();
    assert_eq!(told.unknown(), 0, "{told:?}");
    told.judge(&ports);
    wait_for_one_state(&nodes);
}

/// Writes until that is refused; how many fitted, and the refusal.
fn fill(node: &Node, value: &str) -> (usize, String) {
    let mut client = Client::connect(node.port).expect("connected");
    for number in 0..10_000 {
        let key = format!("key-{number}");
        match client.ask(&["SET", &key, value]).expect("a reply") {
            Reply::Error(text) => return (number, text),
            reply => assert_eq!(reply, ok()),
        }
    }
    panic!("a disk of three megabytes takes a hundred");
}

/// A full disk refuses writes. It does not end the node, and it does not stop reads. A restart needs
/// some room, since it promises nothing before it has written what it found once more: it says so, ends
/// when it is told to, and has everything once there is room.
#[test]
fn a_full_disk_refuses_writes_serves_reads_and_passes() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let segment: u32 = 1 << 20;
    let (segment, room) = (segment.to_string(), (3 * segment).to_string());
    let environment = [
        ("KVORUM_TEST_SEGMENT_BYTES", segment.as_str()),
        ("KVORUM_TEST_DISK_BYTES", room.as_str()),
    ];
    let mut node = cluster_with(&dir, 1, |_| Vec::new(), &environment).remove(0);
    let value = "v".repeat(10_000);
    let (written, refusal) = fill(&node, &value);
    assert!(written > 50, "{written} values fit");
    assert!(refusal.starts_with("MISCONF the disk"), "{refusal}");
    let last = format!("key-{}", written - 1);
    let reads = |node: &Node| ask(node.port, &["GET", &last]).expect("a reply");
    assert_eq!(reads(&node), bulk(&value));
    assert_eq!(node.ended(), None, "it runs");
    let is_full = |node: &Node| {
        wait_for("the status to say so", || {
            node.status()?.status.filter(|status| status.disk_full)
        });
    };
    is_full(&node);
    node.fault("more-disk-bytes 2000000");
    wait_for("a write", || {
        (ask(node.port, &["SET", "after", &value]).ok()? == ok()).then_some(())
    });
    assert!(fill(&node, &value).0 > 0, "it takes what fits");

    for ending in ["-KILL", "-TERM"] {
        node.signal(ending);
        node.end();
        node.restart();
        let ready = wait_for("it to be ready, or to say why not", || {
            let status = node.status()?;
            let reason = status.reason.unwrap_or_default();
            (status.ready || reason.contains("disk is full")).then_some(status.ready)
        });
        // A snapshot may have freed a segment in time; mostly there is no room at all.
        if ready {
            assert_eq!(reads(&node), bulk(&value));
        }
    }
    node.fault("more-disk-bytes 100000000");
    node.wait_until_ready();
    assert_eq!(
        ask(node.port, &["SET", "after", "x"]).expect("a reply"),
        ok()
    );
    assert_eq!(reads(&node), bulk(&value));
}
