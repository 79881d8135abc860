//! Nodes as processes of the test itself: each can be killed, stopped, looked at and started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use kvorum_server::control::client::get;
use kvorum_server::control::init::InitState;
use kvorum_server::control::status::{GroupStatus, ProcessStatus};

use crate::process::{Running, TempDir, free_port, kvorum, succeeds, wait_for};

/// A node, and how to start it again.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    running: Option<Running>,
}

impl Node {
    /// Starts it and waits until it answers.
    pub(crate) fn start(dir: PathBuf, port: u16) -> Self {
        Self::start_with(dir, port, &[], &[])
    }

    pub(crate) fn start_with(
        dir: PathBuf,
        port: u16,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let owned = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
        let mut node = Self {
            dir,
            port,
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            environment: environment.iter().map(owned).collect(),
            running: None,
        };
        node.restart();
        node
    }

    pub(crate) fn http(&self) -> String {
        format!("127.0.0.1:{}", self.port + 200)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Starts it and waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.spawn();
        let address = self.http();
        wait_for("a node's answer", || {
            get::<InitState>(&address, "/api/v1/init").ok()
        });
    }

    /// Starts it.
    pub(crate) fn spawn(&mut self) {
        self.running = None;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.with_extension("log"))
            .expect("a log file");
        let listen = format!("127.0.0.1:{}", self.port);
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        let child = kvorum(&["node", "--listen", &listen, "--dir"])
            .arg(&self.dir)
            .args(&self.arguments)
            .env("KVORUM_TEST_FAULTS", faults_of(&self.dir))
            .envs(environment)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("started");
        self.running = Some(Running { child });
    }

    fn process(&mut self) -> &mut Running {
        self.running.as_mut().expect("it was started")
    }

    pub(crate) fn pid(&self) -> u32 {
        let running = self.running.as_ref().expect("it was started");
        running.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.pid());
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process().child.try_wait().expect("a status")
    }

    /// How it ends.
    pub(crate) fn end(&mut self) -> ExitStatus {
        wait_for("its end", || self.ended())
    }

    pub(crate) fn init_state(&self) -> InitState {
        get(&self.http(), "/api/v1/init").expect("an answer")
    }

    pub(crate) fn status(&self) -> Option<ProcessStatus> {
        get(&self.http(), "/api/v1/status").ok()
    }

    pub(crate) fn group(&self) -> Option<GroupStatus> {
        self.status()?.status?.groups.into_iter().next()
    }

    pub(crate) fn wait_until_ready(&self) {
        wait_for("ready", || self.status().filter(|status| status.ready));
    }

    pub(crate) fn leads(&self) -> bool {
        self.group().is_some_and(|group| group.role == "leader")
    }

    /// Has its disk misbehave from now on.
    pub(crate) fn fault(&self, text: &str) {
        fs::write(faults_of(&self.dir), text).expect("written");
    }

    /// Everything that it has logged.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.dir.with_extension("log")).expect("a log")
    }
}

fn faults_of(dir: &Path) -> PathBuf {
    dir.with_extension("faults")
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(name: &str, pid: u32) {
    let status = Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .expect("kill");
    assert!(status.success());
}

/// A cluster of new nodes, ready.
pub(crate) fn cluster(dir: &TempDir, count: u16) -> Vec<Node> {
    cluster_with(dir, count, |_| Vec::new(), &[])
}

/// The same, with arguments for each node (told its client port) and environment for all of them.
pub(crate) fn cluster_with(
    dir: &TempDir,
    count: u16,
    arguments: impl Fn(u16) -> Vec<String>,
    environment: &[(&str, &str)],
) -> Vec<Node> {
    cluster_of(dir, count, 1, arguments, environment)
}

/// The same with so many shards.
pub(crate) fn cluster_of(
    dir: &TempDir,
    count: u16,
    shards: u16,
    arguments: impl Fn(u16) -> Vec<String>,
    environment: &[(&str, &str)],
) -> Vec<Node> {
    let port = free_port(count);
    let start = |number: u16| {
        let arguments = arguments(port + number);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let dir = dir.path().join(format!("node-{number}"));
        Node::start_with(dir, port + number, &arguments, environment)
    };
    let nodes: Vec<Node> = (0..count).map(start).collect();
    let all: Vec<String> = nodes.iter().map(Node::http).collect();
    let (all, shards) = (all.join(","), shards.to_string());
    succeeds(&["ctl", "init", "--nodes", &all, "--shards", &shards]);
    for node in &nodes {
        node.wait_until_ready();
    }
    nodes
}

/// Which node leads, by its own word; only those are asked that `may` says so of.
pub(crate) fn primary_among(nodes: &[Node], may: impl Fn(usize) -> bool) -> usize {
    wait_for("a primary", || {
        (0..nodes.len()).find(|at| may(*at) && nodes[*at].leads())
    })
}

pub(crate) fn primary(nodes: &[Node]) -> usize {
    primary_among(nodes, |_| true)
}

/// Waits until all have applied the same, and it has the same hash.
pub(crate) fn wait_for_one_state(nodes: &[Node]) {
    wait_for("one state on all nodes", || {
        let state = |node: &Node| node.group().map(|group| (group.applied, group.state_hash));
        let first = state(&nodes[0])?;
        let same = nodes
            .iter()
            .all(|node| state(node).as_ref() == Some(&first));
        if !same {
            std::thread::sleep(Duration::from_millis(100));
        }
        same.then_some(())
    });
}
