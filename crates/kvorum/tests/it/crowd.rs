//! Very many clients at once, and clients that never read.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::nodes::{Node, cluster, primary};
use crate::process::{TempDir, my_turn, wait_for};
use crate::resp::{Client, Reply, bulk, ok, request};

/// Connections at once.
const CLIENTS: usize = 5_000;
/// What a process has open besides them.
const BESIDE: u64 = 500;

/// Raises the limit of open files for this process; whether the system allows as many as are needed.
fn may_open(files: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < files) {
        return false;
    }
    let wanted = Rlimit {
        current: Some(files.max(limit.current.unwrap_or(files))),
        ..limit
    };
    setrlimit(Resource::Nofile, wanted).is_ok()
}

/// The node is started with the low limit that shells have, and raises it by itself.
fn with_a_low_limit(start: impl FnOnce() -> Vec<Node>) -> Vec<Node> {
    let limit = getrlimit(Resource::Nofile);
    let low = Rlimit {
        current: Some(1024),
        ..limit
    };
    setrlimit(Resource::Nofile, low).expect("lowered");
    let nodes = start();
    setrlimit(Resource::Nofile, limit).expect("as before");
    nodes
}

#[test]
fn five_thousand_clients_at_once_are_all_served() {
    let _turn = my_turn();
    let dir = TempDir::new();
    if !may_open(CLIENTS as u64 + BESIDE) {
        println!("ignored: this system does not let a process open {CLIENTS} files (ulimit -Hn)");
        return;
    }
    let nodes = with_a_low_limit(|| cluster(&dir, 3));
    let port = nodes[primary(&nodes)].port;
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| Client::connect(port).expect("connected"))
        .collect();
    // All of them ask before anybody is answered.
    for round in 0..2 {
        for (number, client) in clients.iter_mut().enumerate() {
            let (key, value) = (format!("key-{number}"), format!("{number}-{round}"));
            client.send(&["SET", &key, &value]).expect("sent");
            client.send(&["GET", &key]).expect("sent");
        }
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.reply().expect("a reply"), ok());
            let value = bulk(&format!("{number}-{round}"));
            assert_eq!(client.reply().expect("a reply"), value);
        }
    }
    assert_eq!(connected(&mut clients[0]), Some(CLIENTS));
}

/// How many clients a node has, by its own word.
fn connected(client: &mut Client) -> Option<usize> {
    let Ok(Reply::Bulk(Some(info))) = client.ask(&["INFO", "clients"]) else {
        return None;
    };
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("connected_clients:"))?;
    line.parse().ok()
}

/// Bytes of memory that a process holds.
fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.expect("a number") << 10
}

/// How many clients never read.
const DEAF: usize = 8;
const VALUE_BYTES: usize = 1 << 20;
/// What they ask for, and how often each of them does: little enough to wait for, or far too much.
const ASKED: [(&[&str], usize, bool); 4] = [
    (&["GET", "big"], 100, true),
    (&["GET", "big"], 1_000, false),
    // Its replies are copies, not parts of what is stored.
    (&["GETRANGE", "big", "0", "-1"], 20, true),
    (&["GETRANGE", "big", "0", "-1"], 4_000, false),
];
/// What a node may take above what it had: much less than the copies that are asked for, eight
/// gigabytes, and more than what may be kept for all of these clients.
const MEMORY_BYTES_MAX: u64 = 2 << 30;

/// Their requests are not read beyond a limit. Who goes on without reading has to wait, and who has
/// asked for too much is cut off.
#[test]
fn clients_that_never_read_take_little_and_nothing_from_others() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let leading = primary(&nodes);
    let (port, pid) = (nodes[leading].port, nodes[leading].pid());
    let mut client = Client::connect(port).expect("connected");
    let value = "v".repeat(VALUE_BYTES);
    assert_eq!(client.ask(&["SET", "big", &value]).expect("a reply"), ok());
    let before = resident_bytes(pid);

    let mut deaf = Vec::new();
    for (words, times, _) in ASKED.into_iter().cycle().take(DEAF) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        // In one piece: all of it is read before anybody looks what it makes.
        stream
            .write_all(&request(words).repeat(times))
            .expect("sent");
        deaf.push(stream);
    }
    let stay = DEAF / ASKED.len() * ASKED.iter().filter(|(_, _, stays)| *stays).count();
    let mut most = before;
    wait_for("the greedy ones to be cut off", || {
        most = most.max(resident_bytes(pid));
        client.ask(&["INCR", "counter"]).expect("others go on");
        connected(&mut client).filter(|count| *count == stay + 1)
    });
    println!("{} MiB before, {} MiB at most", before >> 20, most >> 20);
    assert!(
        most - before < MEMORY_BYTES_MAX,
        "{before} bytes became {most}"
    );
    drop(deaf);
    wait_for("the others to be forgotten", || {
        connected(&mut client).filter(|count| *count == 1)
    });
    assert_eq!(nodes[leading].ended(), None);
}

#[test]
fn a_client_that_sends_no_more_is_answered() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3);
    everything_is_answered_after_the_end(nodes[primary(&nodes)].port);
}

/// Sends requests, ends the sending side, and reads all replies, and then the end.
pub(crate) fn everything_is_answered_after_the_end(port: u16) {
    const REQUESTS: usize = 2_000;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    let mut requests = Vec::new();
    for number in 0..REQUESTS {
        requests.extend(request(&["SET", &format!("key:{number}"), "v"]));
        requests.extend(request(&["GET", &format!("key:{number}")]));
    }
    stream.write_all(&requests).expect("sent");
    stream.shutdown(Shutdown::Write).expect("no more is sent");
    let mut replies = String::new();
    stream
        .read_to_string(&mut replies)
        .expect("all replies, and then the end");
    assert_eq!(replies, "+OK\r\n$1\r\nv\r\n".repeat(REQUESTS));
}
