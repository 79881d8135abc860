//! A disk that fails, hangs or is full.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kvorum_server::control::client::get;
use kvorum_server::control::status::ProcessStatus;

use crate::process::{Running, TempDir, free_port, kvorum, my_turn, succeeds, wait_for};
use crate::resp::{Client, Reply, ask};

/// A node whose disk does what a file says.
struct Faulty {
    running: Running,
    dir: PathBuf,
    port: u16,
}

impl Faulty {
    fn start(dir: PathBuf, port: u16, environment: &[(&str, &str)]) -> Self {
        let listen = format!("127.0.0.1:{port}");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.with_extension("log"))
            .expect("a log file");
        let child = kvorum(&["node", "--listen", &listen, "--dir"])
            .arg(&dir)
            .env("KVORUM_TEST_FAULTS", faults_of(&dir))
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        let node = Self {
            running: Running { child },
            dir,
            port,
        };
        wait_for("an answer", || node.status());
        node
    }

    fn http(&self) -> String {
        format!("127.0.0.1:{}", self.port + 200)
    }

    fn status(&self) -> Option<ProcessStatus> {
        get(&self.http(), "/api/v1/status").ok()
    }

    fn wait_until_ready(&self) {
        wait_for("ready", || self.status().filter(|status| status.ready));
    }

    fn leads(&self) -> bool {
        let groups = self
            .status()
            .and_then(|status| status.status)
            .map(|status| status.groups);
        groups.is_some_and(|groups| groups.iter().any(|group| group.role == "leader"))
    }

    fn fault(&self, text: &str) {
        fs::write(faults_of(&self.dir), text).expect("written");
    }
}

fn faults_of(dir: &Path) -> PathBuf {
    dir.with_extension("faults")
}

fn cluster(dir: &TempDir, count: u16, environment: &[(&str, &str)]) -> Vec<Faulty> {
    let port = free_port(count);
    let nodes: Vec<Faulty> = (0..count)
        .map(|number| {
            Faulty::start(
                dir.path().join(format!("node-{number}")),
                port + number,
                environment,
            )
        })
        .collect();
    let all: Vec<String> = nodes.iter().map(Faulty::http).collect();
    succeeds(&["ctl", "init", "--nodes", &all.join(",")]);
    for node in &nodes {
        node.wait_until_ready();
    }
    nodes
}

fn ok() -> Reply {
    Reply::Simple("OK".to_owned())
}

/// Nobody may be told anything that rests on a sync that failed: no reply, not even an error.
#[test]
fn a_failed_sync_ends_the_node_without_another_word() {
    let _turn = my_turn();
    for fault in ["sync-fail", "write-fail"] {
        let dir = TempDir::new();
        let mut node = cluster(&dir, 1, &[]).remove(0);
        let mut client = Client::connect(node.port).expect("connected");
        assert_eq!(client.ask(&["SET", "before", "1"]).expect("a reply"), ok());
        node.fault(fault);
        let error = client.ask(&["SET", "after", "1"]).expect_err("no reply");
        let closed = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
        assert!(closed.contains(&error.kind()), "{error}");
        let status = wait_for("its end", || {
            node.running.child.try_wait().expect("a status")
        });
        assert!(!status.success(), "{fault}: {status}");
        let said = fs::read_to_string(node.dir.with_extension("log")).expect("a log");
        assert!(said.contains("failed"), "{said}");

        node.fault("");
        let node = Faulty::start(node.dir.clone(), node.port, &[]);
        node.wait_until_ready();
        let value = ask(node.port, &["GET", "before"]).expect("a reply");
        assert_eq!(value, Reply::Bulk(Some("1".to_owned())));
    }
}

/// Its heartbeats would go on for ever: the shard would live at the speed of a disk that hangs.
#[test]
fn a_primary_whose_disk_hangs_hands_over() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3, &[]);
    let old = wait_for("a primary", || nodes.iter().position(Faulty::leads));
    nodes[old].fault("sync-hang");
    let mut client = Client::connect(nodes[old].port).expect("connected");
    // Two of three have it: it may well be acknowledged.
    let _ = client.ask(&["SET", "a", "1"]);
    let new = wait_for("another primary", || {
        nodes
            .iter()
            .position(Faulty::leads)
            .filter(|primary| *primary != old)
    });
    assert_eq!(
        ask(nodes[new].port, &["SET", "b", "1"]).expect("a reply"),
        ok()
    );
    nodes[old].fault("");
    wait_for("one state", || {
        let groups = |node: &Faulty| {
            let group = node.status()?.status?.groups.into_iter().next()?;
            Some((group.applied, group.state_hash))
        };
        let first = groups(&nodes[0])?;
        nodes
            .iter()
            .all(|node| groups(node).as_ref() == Some(&first))
            .then_some(())
    });
}

/// A full disk refuses writes; it does not end the node, and it does not stop reads.
#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let segment: u32 = 1 << 20;
    let (segment, room) = (segment.to_string(), (3 * segment).to_string());
    let environment = [
        ("KVORUM_TEST_SEGMENT_BYTES", segment.as_str()),
        ("KVORUM_TEST_DISK_BYTES", room.as_str()),
    ];
    let mut node = cluster(&dir, 1, &environment).remove(0);
    let value = "v".repeat(10_000);
    let mut client = Client::connect(node.port).expect("connected");
    let mut written = 0;
    let refusal = loop {
        match client
            .ask(&["SET", &format!("key-{written}"), &value])
            .expect("a reply")
        {
            Reply::Error(text) => break text,
            reply => assert_eq!(reply, ok()),
        }
        written += 1;
        assert!(
            written < 10_000,
            "a disk of three megabytes takes a hundred"
        );
    };
    assert!(written > 50, "{written} values fit");
    println!("{written} values, then: {refusal}");
    let last = format!("key-{}", written - 1);
    assert_eq!(
        client.ask(&["GET", &last]).expect("a reply"),
        Reply::Bulk(Some(value.clone()))
    );
    assert!(
        node.running.child.try_wait().expect("a status").is_none(),
        "it runs"
    );
    wait_for("the status to say so", || {
        node.status()?.status.filter(|status| status.disk_full)
    });
}
