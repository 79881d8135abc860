//! Stock clients that know clusters, unchanged and with the settings they come with, while slots move from
//! shard to shard and a primary is killed.
//!
//! Moves they must not notice: a redirect is followed by the library itself. A failover they may notice, as
//! errors for a while. What was acknowledged must be there at any time.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use redis::cluster::ClusterClient;

use crate::clients::{converse, ignored, node_js, python, redis_cli, run};
use crate::moves::{orders, picture, wait_until_settled};
use crate::nodes::{Node, cluster_of};
use crate::process::{PATIENCE, Running, TempDir, my_turn, wait_for};

/// What is moved, and back.
const SLOTS: &str = "0-4000";
/// Keys of a client that writes all of them again and again.
const KEYS: usize = 200;

/// Three nodes with three shards, and what is done to them.
struct Stage {
    nodes: Vec<Node>,
    /// The shard that the slots go to next.
    next: usize,
    killed: Option<usize>,
}

impl Stage {
    fn new(dir: &TempDir) -> Self {
        let nodes = cluster_of(dir, 3, 3, |_| Vec::new(), &[]);
        Self {
            nodes,
            next: 1,
            killed: None,
        }
    }

    fn ports(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| node.port.to_string())
            .collect()
    }

    /// Has slots move; does not wait.
    fn begin_a_move(&mut self) {
        let shard = format!("shard-{}", self.next + 1);
        orders(&self.nodes, &["shards", "move", SLOTS, &shard]);
        self.next = (self.next + 1) % 3;
    }

    fn is_moved(&self) -> bool {
        picture(&self.nodes[0]).is_some_and(|picture| {
            let mut shards = picture.shards.iter();
            picture.moves.is_empty() && shards.all(|shard| shard.slots == shard.slots_wanted)
        })
    }

    /// Kills the primary of the shard that got the slots.
    fn kill_a_primary(&mut self) {
        wait_until_settled(&self.nodes);
        let shard = wait_for("a shard with the slots", || {
            let shards = picture(&self.nodes[0])?.shards;
            let has = shards
                .iter()
                .find(|shard| shard.runs.iter().any(|run| run.0 == 0));
            has.map(|shard| shard.shard)
        });
        let leads = |node: &Node| {
            let groups = node
                .status()
                .and_then(|status| status.status)
                .map(|status| status.groups);
            let mut groups = groups.unwrap_or_default().into_iter();
            groups.any(|group| group.group == shard && group.role == "leader")
        };
        let at = wait_for("a primary", || self.nodes.iter().position(leads));
        self.nodes[at].kill();
        self.killed = Some(at);
    }

    /// One line of a script; what it is answered.
    fn answer(&mut self, line: &str) -> Option<&'static str> {
        match line {
            "move slots" => {
                self.begin_a_move();
                Some("moving")
            }
            "are they moved" => Some(if self.is_moved() { "moved" } else { "not yet" }),
            "kill a primary" => {
                self.kill_a_primary();
                Some("killed")
            }
            _ => None,
        }
    }
}

fn scripted(script: Result<Command, String>) {
    let _turn = my_turn();
    let mut script = match script {
        Ok(script) => script,
        Err(reason) => return ignored(&reason),
    };
    let dir = TempDir::new();
    let mut stage = Stage::new(&dir);
    script.args(stage.ports());
    let said = converse(&mut script, |line| stage.answer(line));
    assert!(stage.killed.is_some(), "{said}");
}

#[test]
fn redis_py_through_a_move_and_a_failover() {
    scripted(python("redis_py_moves.py"));
}

#[test]
fn ioredis_through_a_move_and_a_failover() {
    scripted(node_js("ioredis_moves.js"));
}

/// What each key may hold, and a client that asks.
struct Writer<A: FnMut(&str, Option<&str>) -> Result<Option<String>, String>> {
    ask: A,
    may: Vec<BTreeSet<Option<String>>>,
    round: usize,
    failures: usize,
}

impl<A: FnMut(&str, Option<&str>) -> Result<Option<String>, String>> Writer<A> {
    /// `ask` sets a key, or gets it if there is no value.
    fn new(ask: A) -> Self {
        Self {
            ask,
            may: vec![BTreeSet::from([None]); KEYS],
            round: 0,
            failures: 0,
        }
    }

    /// Writes and reads every key once.
    fn once_more(&mut self, is_patient: bool) {
        self.round += 1;
        let value = self.round.to_string();
        for number in 0..KEYS {
            self.may[number].insert(Some(value.clone()));
            self.attempt(number, Some(&value), is_patient);
            self.may[number] = BTreeSet::from([Some(value.clone())]);
        }
        for number in 0..KEYS {
            let found = self.attempt(number, None, is_patient);
            assert!(
                self.may[number].contains(&found),
                "key {number}: {found:?} {:?}",
                self.may[number]
            );
        }
    }

    fn attempt(&mut self, number: usize, value: Option<&str>, is_patient: bool) -> Option<String> {
        let begin = Instant::now();
        loop {
            match (self.ask)(&format!("key:{number}"), value) {
                Ok(found) => return found,
                Err(error) => {
                    assert!(
                        is_patient && begin.elapsed() < PATIENCE,
                        "key {number}: {error}"
                    );
                    self.failures += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    fn through_a_move_and_a_failover(&mut self, stage: &mut Stage) {
        self.once_more(false);
        stage.begin_a_move();
        self.once_more(false);
        while !stage.is_moved() {
            self.once_more(false);
        }
        assert_eq!(self.failures, 0, "a move is nothing to notice");
        stage.kill_a_primary();
        self.once_more(true);
        self.once_more(true);
    }
}

#[test]
fn redis_rs_through_a_move_and_a_failover() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut stage = Stage::new(&dir);
    let seeds: Vec<String> = stage
        .nodes
        .iter()
        .map(|node| format!("redis://127.0.0.1:{}", node.port))
        .collect();
    let client = ClusterClient::new(seeds).expect("addresses");
    let mut connection = client.get_connection().expect("connected");
    let mut writer = Writer::new(|key, value| {
        let mut command = redis::cmd(if value.is_some() { "SET" } else { "GET" });
        command.arg(key).arg(value);
        let reply: redis::RedisResult<Option<String>> = command.query(&mut connection);
        if reply.is_err() {
            // When a node is gone this library goes on asking for it: it has to be made anew.
            connection = client.get_connection().map_err(|error| error.to_string())?;
        }
        reply.map_err(|error| error.to_string())
    });
    writer.through_a_move_and_a_failover(&mut stage);
}

#[test]
fn redis_cli_through_a_move_and_a_failover() {
    let _turn = my_turn();
    if let Err(reason) = run(Command::new("redis-cli").arg("--version")) {
        return ignored(&reason);
    }
    let dir = TempDir::new();
    let mut stage = Stage::new(&dir);
    // A new process for each request, and each asks the next node: every redirect is followed once more.
    let ports: Vec<u16> = stage.nodes.iter().map(|node| node.port).collect();
    let mut next = 0;
    let mut writer = Writer::new(|key, value| {
        next += 1;
        let port = ports[next % ports.len()];
        let said = match value {
            Some(value) => redis_cli(port, &["-e", "-c", "SET", key, value])?,
            None => redis_cli(port, &["-e", "-c", "GET", key])?,
        };
        match (said.as_str(), value) {
            ("OK", Some(_)) => Ok(None),
            (found, None)
                if !found.is_empty() && found.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                Ok(Some(found.to_owned()))
            }
            _ => Err(said),
        }
    });
    writer.through_a_move_and_a_failover(&mut stage);
}

/// redis-benchmark ends when a connection of its breaks; so it is run through the move, and again after the
/// failover.
#[test]
fn redis_benchmark_through_a_move_and_after_a_failover() {
    let _turn = my_turn();
    if let Err(reason) = run(Command::new("redis-benchmark").arg("--version")) {
        return ignored(&reason);
    }
    let dir = TempDir::new();
    let mut stage = Stage::new(&dir);
    let benchmark = |port: u16, requests: &str| {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &port.to_string(), "--cluster", "-q", "-r", "10000"]);
        command.args(["-t", "set,get", "-n", requests]);
        command
    };
    let good = |said: &str| {
        for test in ["SET", "GET"] {
            let done = |line: &str| {
                line.contains(&format!("{test}: ")) && line.contains("requests per second")
            };
            assert!(said.lines().any(done), "{said}");
        }
        // It ends at the first error that is no redirect.
        assert!(!said.to_lowercase().contains("error"), "{said}");
    };
    let mut moves = 0;
    let mut running = Running {
        child: benchmark(stage.nodes[0].port, "100000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started"),
    };
    let status = loop {
        if let Some(status) = running.child.try_wait().expect("a status") {
            break status;
        }
        if stage.is_moved() {
            stage.begin_a_move();
            moves += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    for pipe in [
        running
            .child
            .stdout
            .as_mut()
            .map(|pipe| pipe as &mut dyn std::io::Read),
        running
            .child
            .stderr
            .as_mut()
            .map(|pipe| pipe as &mut dyn std::io::Read),
    ] {
        pipe.expect("a pipe")
            .read_to_string(&mut said)
            .expect("text");
    }
    assert!(status.success(), "{status}: {said}");
    good(&said);
    assert!(moves > 1, "the slots moved while it ran");
    stage.kill_a_primary();
    let alive = (0..3)
        .find(|at| Some(*at) != stage.killed)
        .expect("two are left");
    wait_for("a cluster that is whole again", || {
        let info = redis_cli(stage.nodes[alive].port, &["CLUSTER", "INFO"]).ok()?;
        info.contains("cluster_state:ok").then_some(())
    });
    let said = run(&mut benchmark(stage.nodes[alive].port, "20000")).expect("a result");
    good(&said);
}
