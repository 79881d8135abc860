//! `kvorum up`: a whole cluster on this machine, every node a process of its own.
//!
//! The nodes are ordinary `kvorum node` processes, made a cluster by an ordinary `kvorum ctl init`:
//! nothing works here that would not work on three machines. They stop when this process does, however
//! that ends: each holds the other end of a pipe as its standard input.

mod router;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use kvorum_server::config::{HTTP_PORT_OFFSET, PEER_PORT_OFFSET, REPLICA_PORT_OFFSET};
use kvorum_server::control::client::get;
use kvorum_server::control::status::ProcessStatus;
use kvorum_server::identity::{Manifest, Plan, Shape};
use tokio::signal::unix::{SignalKind, signal};

use self::router::RouterProcess;
use crate::ctl::init::make_cluster;

/// Shards of a new cluster: with three nodes each is primary of one.
const SHARDS_DEFAULT: u16 = 3;
/// Replicas of a shard, where there are as many nodes: one may be lost without being missed.
pub(crate) const REPLICAS_DEFAULT: u16 = 3;
/// How long the nodes may take to answer at all.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// How long until there is a primary; loading a large directory takes its time.
const READY_PATIENCE: Duration = Duration::from_secs(600);
/// How long the nodes may take to end before they are killed.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How long the router may take to end before it is killed: a little more than a request may.
const ROUTER_STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Pause before a dead node is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct Options {
    /// Nodes, each its own process
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=49))]
    nodes: u16,
    /// Shards of a new cluster [default: 3]
    #[arg(long, value_name = "N")]
    shards: Option<u16>,
    /// Replicas of each shard, each on another node [default: 3, or as many as there are nodes]
    #[arg(long, value_name = "N")]
    replicas: Option<u16>,
    /// Directory for everything: data in DIR/node-<i>, log lines in DIR/node-<i>.log
    #[arg(long, value_name = "DIR", default_value = "./kvorum-data")]
    dir: PathBuf,
    /// Node i (from 1) serves clients on PORT + i, replica reads on PORT + 50 + i, the other nodes on
    /// PORT + 100 + i, and HTTP on PORT + 200 + i
    #[arg(long, value_name = "PORT", default_value_t = 7000)]
    port: u16,
    /// Port of a router, to whose clients the cluster is one Redis; its HTTP is on the next port. 0: no
    /// router
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 7379,
        value_parser = clap::value_parser!(u16).range(0..=65534)
    )]
    router_port: u16,
    /// Start a node again when it dies, or the router
    #[arg(long)]
    supervise: bool,
}

impl Options {
    fn shape(&self) -> Shape {
        Shape {
            shards: self.shards.unwrap_or(SHARDS_DEFAULT),
            replicas: self.replicas.unwrap_or(self.nodes.min(REPLICAS_DEFAULT)),
        }
    }

    /// What a directory was made with and these options say differently.
    fn contradicts(&self, plan: &Plan) -> Option<String> {
        let shards = plan.shards.len();
        let replicas = plan.shards.first().map_or(0, |shard| shard.replicas.len());
        if self
            .shards
            .is_some_and(|asked| usize::from(asked) != shards)
        {
            return Some(format!("{shards} shards: start it without --shards"));
        }
        let other = |asked: u16| usize::from(asked) != replicas;
        (self.replicas.is_some_and(other))
            .then(|| format!("{replicas} replicas of each shard: start it without --replicas"))
    }
}

/// One node's process.
struct Node {
    number: u16,
    port: u16,
    dir: PathBuf,
    /// `None` once it has ended.
    child: Option<Child>,
    /// When to start it again.
    restart_at: Option<Instant>,
}

pub(crate) fn run(options: Options) -> Result<(), String> {
    check(&options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let mut cluster = Cluster::new(options)?;
        let result = tokio::select! {
            result = cluster.live() => result,
            () = asked_to_stop() => Ok(()),
        };
        cluster.stop().await;
        result
    })
}

async fn asked_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hang_up)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hang_up.recv() => {}
    }
}

/// What can be refused before anything is started.
fn check(options: &Options) -> Result<(), String> {
    options.shape().check(usize::from(options.nodes))?;
    if options
        .port
        .checked_add(HTTP_PORT_OFFSET + options.nodes)
        .is_none()
    {
        return Err(format!(
            "--port {} is too large: ports up to + 200 + nodes are used",
            options.port
        ));
    }
    for number in 1..=options.nodes + 1 {
        let dir = node_dir(&options.dir, number);
        if number > options.nodes {
            if dir.join(kvorum_server::identity::MANIFEST_FILE).exists() {
                return Err(format!(
                    "{} holds a cluster of more than {} nodes: start it with its own --nodes",
                    options.dir.display(),
                    options.nodes
                ));
            }
            continue;
        }
        if !dir.exists() {
            continue;
        }
        let manifest = Manifest::load(&dir).map_err(|refusal| refusal.to_string())?;
        let Some(manifest) = manifest else { continue };
        let made_with = manifest.plan.members.len();
        if made_with != usize::from(options.nodes) {
            return Err(format!(
                "{} holds a cluster of {made_with} nodes: start it with --nodes {made_with}",
                options.dir.display()
            ));
        }
        if let Some(text) = options.contradicts(&manifest.plan) {
            return Err(format!(
                "{} holds a cluster with {text}",
                options.dir.display()
            ));
        }
        let client = manifest
            .plan
            .member(manifest.node)
            .map(|member| member.addresses.client.clone());
        let now = format!("127.0.0.1:{}", options.port + number);
        if client.as_deref() != Some(&now) {
            return Err(format!(
                "{} was made with another --port: its node {number} is at {}, and would be at {now}",
                options.dir.display(),
                client.unwrap_or_default()
            ));
        }
    }
    Ok(())
}

fn node_dir(dir: &Path, number: u16) -> PathBuf {
    dir.join(format!("node-{number}"))
}

/// All processes.
struct Cluster {
    options: Options,
    program: PathBuf,
    nodes: Vec<Node>,
    router: Option<RouterProcess>,
}

impl Cluster {
    fn new(options: Options) -> Result<Self, String> {
        let program = std::env::current_exe()
            .map_err(|error| format!("cannot find this program to start nodes with: {error}"))?;
        kvorum_server::disk::make_dir(&options.dir)
            .map_err(|error| format!("cannot make {}: {error}", options.dir.display()))?;
        let nodes: Vec<Node> = (1..=options.nodes)
            .map(|number| Node {
                number,
                port: options.port + number,
                dir: node_dir(&options.dir, number),
                child: None,
                restart_at: None,
            })
            .collect();
        let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
        let port = Some(options.router_port).filter(|port| *port > 0);
        Ok(Self {
            router: port.map(|port| RouterProcess::new(port, &ports)),
            options,
            program,
            nodes,
        })
    }

    /// Starts everything and watches it, until it fails.
    async fn live(&mut self) -> Result<(), String> {
        for place in 0..self.nodes.len() {
            self.start(place)?;
        }
        if let Some(router) = &mut self.router {
            router.start(&self.program, &self.options.dir)?;
        }
        self.wait_for_answers().await?;
        let http: Vec<String> = self.nodes.iter().map(Node::http).collect();
        // One machine, and the nodes answer at once: this does not hold the loop for long.
        make_cluster(&http, self.options.shape(), None)?;
        self.wait_until_ready().await?;
        println!("ready");
        let client = match self.options.router_port {
            0 => format!("redis-cli -c -p {}", self.options.port + 1),
            port => format!("redis-cli -p {port}"),
        };
        println!(
            "{client}   talks to it; kvorum ctl status --cluster {}   says how it does",
            http[0]
        );
        loop {
            tokio::time::sleep(LOOK).await;
            self.look()?;
        }
    }

    fn start(&mut self, place: usize) -> Result<(), String> {
        let node = &mut self.nodes[place];
        let log_path = self.options.dir.join(format!("node-{}.log", node.number));
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.map_err(|error| format!("cannot write {}: {error}", log_path.display()))?;
        let log_too = log.try_clone().map_err(|error| error.to_string())?;
        let child = Command::new(&self.program)
            .args(node.arguments())
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(|error| format!("cannot start node {}: {error}", node.number))?;
        println!(
            "node {}  pid {}  clients 127.0.0.1:{}  replica reads :{}  peers :{}  http :{}",
            node.number,
            child.id(),
            node.port,
            node.port + REPLICA_PORT_OFFSET,
            node.port + PEER_PORT_OFFSET,
            node.port + HTTP_PORT_OFFSET,
        );
        node.child = Some(child);
        node.restart_at = None;
        Ok(())
    }

    async fn wait_for_answers(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        for place in 0..self.nodes.len() {
            // An answer of somebody else's process, left over on the same ports, is none.
            while !self.nodes[place].answers() {
                if begin.elapsed() > ANSWER_PATIENCE {
                    return Err(format!("node {} does not answer", self.nodes[place].number));
                }
                self.nobody_may_end()?;
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    async fn wait_until_ready(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        for place in 0..self.nodes.len() {
            loop {
                let status = get::<ProcessStatus>(&self.nodes[place].http(), "/api/v1/status");
                if status.as_ref().is_ok_and(|status| status.ready) {
                    break;
                }
                if let Some(reason) = status.as_ref().ok().and_then(lost) {
                    // It never will be. The others are a cluster without it.
                    println!(
                        "node {} is out of service: {reason}",
                        self.nodes[place].number
                    );
                    break;
                }
                if begin.elapsed() > READY_PATIENCE {
                    let reason = status
                        .map_or_else(String::from, |status| status.reason.unwrap_or_default());
                    return Err(format!(
                        "node {} is not ready: {reason}",
                        self.nodes[place].number
                    ));
                }
                self.nobody_may_end()?;
                tokio::time::sleep(LOOK).await;
            }
        }
        while let Some(Err(reason)) = self.router.as_ref().map(RouterProcess::ready) {
            if begin.elapsed() > READY_PATIENCE {
                return Err(format!("the router is not ready: {reason}"));
            }
            self.nobody_may_end()?;
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// While the cluster is starting a process that ends has something to say.
    fn nobody_may_end(&mut self) -> Result<(), String> {
        let ended = self.nodes.iter_mut().find_map(|node| {
            let status = node.ended()?;
            Some((
                format!("node {}", node.number),
                format!("node-{}.log", node.number),
                status,
            ))
        });
        let router = || {
            let status = self.router.as_mut()?.ended()?;
            Some(("the router".to_owned(), "router.log".to_owned(), status))
        };
        let Some((name, log, status)) = ended.or_else(router) else {
            return Ok(());
        };
        let log = self.options.dir.join(log);
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let last = text.lines().last().unwrap_or_default();
        Err(format!(
            "{name} ended ({status}): {last}\n(see {})",
            log.display()
        ))
    }

    /// Notices nodes that died, and starts them again if that was asked for.
    fn look(&mut self) -> Result<(), String> {
        for place in 0..self.nodes.len() {
            let node = &mut self.nodes[place];
            if let Some(status) = node.ended() {
                println!("node {} ended ({status})", node.number);
                if self.options.supervise {
                    node.restart_at = Some(Instant::now() + RESTART_PAUSE);
                } else {
                    println!("start it again with: {}", node.command_line(&self.program));
                }
            }
            if self.nodes[place]
                .restart_at
                .is_some_and(|at| at <= Instant::now())
            {
                self.start(place)?;
            }
        }
        self.look_at_router()
    }

    fn look_at_router(&mut self) -> Result<(), String> {
        let Some(router) = &mut self.router else {
            return Ok(());
        };
        if let Some(status) = router.ended() {
            println!("router ended ({status})");
            if self.options.supervise {
                router.restart_at = Some(Instant::now() + RESTART_PAUSE);
            } else {
                let line = command_line(&self.program, router.arguments());
                println!("start it again with: {line}");
            }
        }
        if router.restart_at.is_some_and(|at| at <= Instant::now()) {
            router.start(&self.program, &self.options.dir)?;
        }
        Ok(())
    }

    /// Closes the standard inputs of the processes, which they take as a SIGTERM, and waits for them: for the
    /// router first, since what it has taken is for the nodes to answer.
    async fn stop(&mut self) {
        println!("stopping");
        if let Some(router) = &mut self.router {
            router.ask_to_stop();
            let begin = Instant::now();
            while router.is_running() {
                if begin.elapsed() > ROUTER_STOP_PATIENCE {
                    router.kill();
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                drop(child.stdin.take());
            }
        }
        let begin = Instant::now();
        while self.nodes.iter_mut().any(Node::is_running) {
            if begin.elapsed() > STOP_PATIENCE {
                for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
                    let _ = child.kill();
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        println!("stopped");
    }
}

impl Node {
    fn http(&self) -> String {
        format!("127.0.0.1:{}", self.port + HTTP_PORT_OFFSET)
    }

    /// Whether our own process answers.
    fn answers(&self) -> bool {
        let pid = self.child.as_ref().map(Child::id);
        let status = get::<ProcessStatus>(&self.http(), "/api/v1/status");
        status.is_ok_and(|status| Some(status.pid) == pid)
    }

    /// The arguments with which anybody can start this node.
    fn arguments(&self) -> Vec<String> {
        let dir = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        [
            "node".to_owned(),
            "--dir".to_owned(),
            dir.display().to_string(),
            "--listen".to_owned(),
        ]
        .into_iter()
        .chain([format!("127.0.0.1:{}", self.port)])
        .collect()
    }

    fn command_line(&self, program: &Path) -> String {
        command_line(program, self.arguments())
    }

    /// How it ended, once.
    fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    fn is_running(&mut self) -> bool {
        self.ended();
        self.child.is_some()
    }
}

/// Why a node has lost its promises, if it has.
fn lost(status: &ProcessStatus) -> Option<&str> {
    status.status.as_ref()?.lost.as_deref()
}

/// A command as somebody can type it.
fn command_line(program: &Path, arguments: impl IntoIterator<Item = String>) -> String {
    std::iter::once(program.display().to_string())
        .chain(arguments)
        .map(|word| quoted(&word))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quoted("/a/b-1"), "/a/b-1");
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
