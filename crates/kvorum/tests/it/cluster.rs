//! A whole cluster under `kvorum up`, through restarts and kills.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use kvorum_server::control::client::get;
use kvorum_server::control::status::ProcessStatus;

use crate::nodes::signal;
use crate::process::{Running, TempDir, free_port, kvorum, my_turn, wait_for};
use crate::resp::{Reply, ask, bulk};

/// A running `kvorum up`.
struct Up {
    running: Running,
    output: std::path::PathBuf,
    port: u16,
    nodes: u16,
}

impl Up {
    fn start(dir: &TempDir, port: u16, nodes: u16) -> Self {
        Self::start_with(dir, port, nodes, &[])
    }

    fn start_with(dir: &TempDir, port: u16, nodes: u16, more: &[&str]) -> Self {
        let output = dir.path().join("up.out");
        let file = fs::File::create(&output).expect("a file");
        let (port_text, nodes_text) = (port.to_string(), nodes.to_string());
        let data = dir.path().join("data");
        let arguments = [
            "up",
            "--shards",
            "1",
            "--router-port",
            "0",
            "--port",
            &port_text,
            "--nodes",
            &nodes_text,
            "--dir",
        ];
        let child = kvorum(&arguments)
            .arg(data)
            .args(more)
            .stdout(file.try_clone().expect("a file"))
            .stderr(file)
            .spawn()
            .expect("started");
        let mut up = Self {
            running: Running { child },
            output,
            port,
            nodes,
        };
        wait_for("ready", || {
            assert!(
                up.running.child.try_wait().expect("a status").is_none(),
                "{}",
                up.said()
            );
            up.said().lines().any(|line| line == "ready").then_some(())
        });
        up
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).expect("its output")
    }

    /// Ctrl-C.
    fn interrupt(mut self) {
        signal("-INT", self.running.child.id());
        let status = wait_for("the end", || {
            self.running.child.try_wait().expect("a status")
        });
        assert!(status.success(), "{status}: {}", self.said());
    }

    fn status(&self, node: u16) -> Option<ProcessStatus> {
        get(
            &format!("127.0.0.1:{}", self.port + 200 + node),
            "/api/v1/status",
        )
        .ok()
    }

    /// The node that leads, by its own word, and its process.
    fn primary(&self) -> (u16, u32) {
        wait_for("a primary", || {
            let leads = |status: &ProcessStatus| {
                let groups = status.status.as_ref().map(|status| &status.groups);
                groups.is_some_and(|groups| groups.iter().any(|group| group.role == "leader"))
            };
            (1..=self.nodes).find_map(|node| {
                let status = self.status(node).filter(leads)?;
                Some((node, status.pid))
            })
        })
    }

    /// The hash of each replica's state, by how much it has applied.
    fn hashes(&self) -> BTreeMap<u64, Vec<String>> {
        let mut hashes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for status in (1..=self.nodes).filter_map(|node| self.status(node)) {
            for group in status.status.into_iter().flat_map(|status| status.groups) {
                hashes
                    .entry(group.applied)
                    .or_default()
                    .push(group.state_hash);
            }
        }
        hashes
    }
}

/// Asks until something other than a refusal comes; the port is of any node.
fn eventually(port: u16, words: &[&str]) -> Reply {
    wait_for("a reply", || match ask(port, words) {
        Ok(Reply::Error(_)) | Err(_) => None,
        Ok(reply) => Some(reply),
    })
}

#[test]
fn up_is_ready_serves_on_every_port_and_has_the_data_again() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let port = free_port(3);
    let up = Up::start(&dir, port, 3);
    assert_eq!(
        up.said()
            .lines()
            .filter(|line| line.contains("  pid "))
            .count(),
        3
    );
    assert_eq!(
        ask(port + 1, &["SET", "a", "1"]).expect("a reply"),
        Reply::Simple("OK".to_owned())
    );
    for node in 1..=3 {
        assert_eq!(ask(port + node, &["GET", "a"]).expect("a reply"), bulk("1"));
    }
    up.interrupt();
    let up = Up::start(&dir, port, 3);
    assert_eq!(eventually(port + 2, &["GET", "a"]), bulk("1"));
    up.interrupt();
}

#[test]
fn one_node_alone_is_a_cluster_too() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let port = free_port(1);
    for round in 1..=3 {
        let up = Up::start(&dir, port, 1);
        assert_eq!(eventually(port + 1, &["INCR", "n"]), Reply::Integer(round));
        up.interrupt();
    }
}

#[test]
fn a_killed_primary_is_replaced_and_comes_back() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let port = free_port(3);
    let up = Up::start(&dir, port, 3);
    for number in 0..200 {
        let key = format!("key-{number}");
        assert_eq!(
            ask(port + 1, &["SET", &key, "x"]).expect("a reply"),
            Reply::Simple("OK".to_owned())
        );
    }
    let (old, pid) = up.primary();
    signal("-KILL", pid);
    let other = if old == 1 { port + 2 } else { port + 1 };
    assert_eq!(
        eventually(other, &["SET", "after", "y"]),
        Reply::Simple("OK".to_owned())
    );
    for number in 0..200 {
        let key = format!("key-{number}");
        assert_eq!(
            eventually(other, &["GET", &key]),
            bulk("x"),
            "{key} was acknowledged"
        );
    }
    let command = wait_for("the command that starts it again", || {
        let said = up.said();
        let line = said
            .lines()
            .find_map(|line| line.split_once("start it again with: "));
        line.map(|(_, command)| command.to_owned())
    });
    let mut words = command.split(' ');
    let again = Command::new(words.next().expect("a program"))
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let _again = Running { child: again };
    wait_for("three replicas with one state", || {
        up.hashes()
            .values()
            .find(|hashes| hashes.len() == 3 && hashes.iter().all(|hash| *hash == hashes[0]))?;
        Some(())
    });
}

/// Whoever stops a node in good order loses no more than a redirect.
#[test]
fn a_primary_that_is_asked_to_stop_hands_over_first() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let port = free_port(3);
    let up = Up::start(&dir, port, 3);
    assert_eq!(
        eventually(port + 1, &["SET", "a", "1"]),
        Reply::Simple("OK".to_owned())
    );
    let (old, pid) = up.primary();
    signal("-TERM", pid);
    wait_for("its end", || {
        up.said().contains("ended (exit status: 0)").then_some(())
    });
    let log = dir.path().join(format!("data/node-{old}.log"));
    let log = fs::read_to_string(log).expect("a log");
    assert!(
        log.contains("handing over") && log.contains("stopped"),
        "{log}"
    );
    let other = if old == 1 { port + 2 } else { port + 1 };
    assert_eq!(eventually(other, &["GET", "a"]), bulk("1"));
    assert_ne!(up.primary().0, old);
}

#[test]
fn all_killed_at_once_come_back_with_everything() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let port = free_port(3);
    let mut up = Up::start(&dir, port, 3);
    for number in 1..=100 {
        assert_eq!(eventually(port + 1, &["INCR", "n"]), Reply::Integer(number));
    }
    let pids: Vec<u32> = (1..=3)
        .filter_map(|node| up.status(node))
        .map(|status| status.pid)
        .collect();
    assert_eq!(pids.len(), 3);
    up.running.child.kill().expect("killed");
    for pid in pids {
        // It may have ended by itself when its parent did.
        let _ = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .stderr(Stdio::null())
            .status();
    }
    up.running.child.wait().expect("ended");
    let up = Up::start(&dir, port, 3);
    assert_eq!(eventually(port + 3, &["GET", "n"]), bulk("100"));
    up.interrupt();
}

#[test]
fn a_supervised_node_is_started_again() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let port = free_port(1);
    let up = Up::start_with(&dir, port, 1, &["--supervise"]);
    let pid = || {
        up.status(1)
            .filter(|status| status.ready)
            .map(|status| status.pid)
    };
    let first = wait_for("a node", pid);
    signal("-KILL", first);
    wait_for("another process", || pid().filter(|pid| *pid != first));
}
