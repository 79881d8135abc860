//! A primary that is stopped for a while (SIGSTOP, a suspended machine) and does not know it.

use std::time::{Duration, Instant};

use crate::load::{Load, Manner};
use crate::nodes::{Node, cluster, primary, primary_among, wait_for_one_state};
use crate::process::{TempDir, my_turn, wait_for};
use crate::relay::{Relayed, id, others, relayed};
use crate::resp::{Client, Reply, ask, ok};

const PAUSE: Duration = Duration::from_secs(3);

/// A client that is still connected to the old primary.
const READERS: usize = 20;

/// 1. The primary stops.
/// 2. Another one is elected and acknowledges a write.
/// 3. Reads are sent to the old one, on connections that it had accepted and on new ones; they wait in
///    its sockets.
/// 4. It goes on: these reads come in the same turn as the news that it is deposed, or before.
#[test]
fn a_primary_that_was_stopped_reads_nothing_stale() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3);
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    // Half of the clients give a stopped node up, the others wait for what it has to say.
    let hasty = Manner {
        clients: 8,
        patience: Duration::from_millis(500),
        ..Manner::default()
    };
    let patient = Manner {
        clients: 8,
        ..Manner::default()
    };
    let load = Load::start(&ports, &[hasty, patient]);
    for round in 0..3 {
        let value = format!("new-{round}");
        stop_and_read(&nodes, &value, &load);
        load.wait_for_more(100);
    }
    load.finish().judge(&ports);
    wait_for_one_state(&nodes);
}

fn stop_and_read(nodes: &[Node], value: &str, load: &Load) {
    let old = write_old(nodes);
    let connect = |_| Client::connect(nodes[old].port).expect("connected");
    let mut readers: Vec<Client> = (0..READERS / 2).map(connect).collect();
    load.wait_for_more(100);

    nodes[old].signal("-STOP");
    let stopped = Instant::now();
    write_new(nodes, old, value);
    readers.extend((0..READERS / 2).map(connect));
    for reader in &mut readers {
        reader.send(&["GET", "watched"]).expect("sent");
    }
    std::thread::sleep(PAUSE.saturating_sub(stopped.elapsed()));
    nodes[old].signal("-CONT");
    for reader in &mut readers {
        not_stale(&reader.reply().expect("a reply"), value);
    }
}

/// The same without the news: 4. it goes on, hears of no other primary, and has no reason to believe
/// that it leads no more. Only that nobody confirms its reads keeps it from answering them.
#[test]
fn a_primary_that_was_stopped_and_is_cut_off_reads_nothing_stale() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let Relayed { nodes, network, .. } = relayed(&dir);
    for round in 0..3 {
        let value = format!("new-{round}");
        let old = write_old(&nodes);
        nodes[old].signal("-STOP");
        for other in others(old) {
            network.cut(id(old), id(other));
            network.cut(id(other), id(old));
        }
        write_new(&nodes, old, &value);
        let mut readers: Vec<Client> = (0..READERS)
            .map(|_| Client::connect(nodes[old].port).expect("connected"))
            .collect();
        for reader in &mut readers {
            reader.send(&["GET", "watched"]).expect("sent");
        }
        nodes[old].signal("-CONT");
        std::thread::sleep(PAUSE / 10);
        network.heal();
        for reader in &mut readers {
            not_stale(&reader.reply().expect("a reply"), &value);
        }
        wait_for_one_state(&nodes);
    }
}

/// Has the primary acknowledge the old value; which node that is.
fn write_old(nodes: &[Node]) -> usize {
    wait_for("an old value", || {
        let old = primary(nodes);
        let reply = Client::connect(nodes[old].port)
            .ok()?
            .ask(&["SET", "watched", "old"]);
        (reply.ok()? == ok()).then_some(old)
    })
}

/// Has another primary acknowledge the new one.
fn write_new(nodes: &[Node], old: usize, value: &str) {
    let new = primary_among(nodes, |node| node != old);
    wait_for("a new value", || {
        (ask(nodes[new].port, &["SET", "watched", value]).ok()? == ok()).then_some(())
    });
}

/// What the old primary may say to a read that was sent after the new value was acknowledged.
fn not_stale(reply: &Reply, value: &str) {
    match reply {
        Reply::Bulk(Some(text)) => assert_eq!(text, value, "a stale read"),
        Reply::Error(text) => {
            let known = ["MOVED", "CLUSTERDOWN"]
                .iter()
                .any(|word| text.starts_with(word));
            assert!(known, "{text}");
        }
        reply => panic!("{reply:?}"),
    }
}
