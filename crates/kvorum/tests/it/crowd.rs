//! Very many clients at once, and clients that never read.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

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
    let info = clients[0].ask(&["INFO", "clients"]).expect("a reply");
    let Reply::Bulk(Some(info)) = info else {
        panic!("{info:?}");
    };
    assert!(
        info.contains(&format!("connected_clients:{CLIENTS}")),
        "{info}"
    );
}

/// Bytes of memory that a process holds.
fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.expect("a number") << 10
}

/// How many never read, and what each asks for again and again.
const DEAF: usize = 20;
const VALUE_BYTES: usize = 1 << 20;
/// Requests of each: the replies would be 20 GB.
const REQUESTS: usize = 1_000;
/// What a node may take above what it had. One reply is shared by all that wait for it, so the bound is
/// far below what the limits of all these connections add up to.
const MEMORY_BYTES_MAX: u64 = 512 << 20;

/// Their requests are not read beyond a limit; who goes on without reading has to wait, or is cut off.
#[test]
fn clients_that_never_read_take_little_and_nothing_from_others() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let leading = primary(&nodes);
    let (port, pid) = (nodes[leading].port, nodes[leading].pid());
    let mut client = Client::connect(port).expect("connected");
    assert_eq!(
        client
            .ask(&["SET", "big", &"v".repeat(VALUE_BYTES)])
            .expect("a reply"),
        ok()
    );
    let before = resident_bytes(pid);

    let requests = request(&["GET", "big"]).repeat(REQUESTS);
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        stream
            .set_write_timeout(Some(Duration::from_millis(200)))
            .expect("set");
        match stream.write_all(&requests) {
            Ok(()) => {}
            // Not read any more, or cut off.
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    ErrorKind::WouldBlock
                        | ErrorKind::TimedOut
                        | ErrorKind::BrokenPipe
                        | ErrorKind::ConnectionReset
                ),
                "{error}"
            ),
        }
        deaf.push(stream);
    }
    let begin = Instant::now();
    let mut most = before;
    while begin.elapsed() < Duration::from_secs(3) {
        assert_eq!(client.ask(&["INCR", "counter"]).map(|_| ()).ok(), Some(()));
        most = most.max(resident_bytes(pid));
    }
    println!("{} MiB before, {} MiB at most", before >> 20, most >> 20);
    assert!(
        most - before < MEMORY_BYTES_MAX,
        "{before} bytes became {most}"
    );
    drop(deaf);
    wait_for("them to be forgotten", || {
        let Reply::Bulk(Some(info)) = client.ask(&["INFO", "clients"]).ok()? else {
            return None;
        };
        info.contains("connected_clients:1\r").then_some(())
    });
    assert_eq!(nodes[leading].ended(), None);
}
