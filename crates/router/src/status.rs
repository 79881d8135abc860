//! What a router says of itself, for INFO and metrics.

use crate::event::Process;
use crate::nodes::Node;
use crate::router::Router;

/// What has been counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Requests of clients.
    pub commands: u64,
    /// Bytes from clients.
    pub input_bytes: u64,
    /// Requests and parts of requests sent to nodes, each attempt counted.
    pub sent: u64,
    /// Those of them that went to replicas.
    pub at_replicas: u64,
    /// Redirects followed.
    pub redirects: u64,
    /// Times that a request had to wait after a refusal, or for a node that cannot be reached.
    pub parked: u64,
    /// Requests that were split.
    pub splits: u64,
    /// Requests over the whole keyspace.
    pub sweeps: u64,
    /// Requests, and parts, whose outcome is unknown.
    pub unknown: u64,
    /// Requests, and parts, that were refused since they were not done in time.
    pub timeouts: u64,
    /// Maps of the cluster that were learnt.
    pub maps: u64,
    /// Links that broke.
    pub links_broken: u64,
}

/// A node as the router sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    /// `host:port`.
    pub address: String,
    /// Links to it that are up.
    pub links_up: usize,
    /// Requests on them that have no reply yet.
    pub unanswered: usize,
}

/// A router at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name: 40 hexadecimal digits.
    pub run_id: String,
    /// The port that clients reach it on.
    pub port: u16,
    /// How long it has run, in milliseconds.
    pub uptime_ms: u64,
    /// Clients that are connected.
    pub clients: u64,
    /// Clients that have ever connected.
    pub clients_opened: u64,
    /// Error replies to clients.
    pub errors: u64,
    /// Requests, and parts, that are on their way or wait.
    pub pieces: usize,
    /// Their bytes.
    pub piece_bytes: usize,
    /// Slots whose owner is known.
    pub slots_known: usize,
    /// Whether any node can be asked.
    pub connected: bool,
    /// The nodes that it knows.
    pub nodes: Vec<NodeStatus>,
    /// What has been counted.
    pub counters: Counters,
    /// What the shell said of the process.
    pub process: Process,
}

impl Router {
    /// What it says of itself now.
    #[must_use]
    pub fn status(&self) -> Status {
        /// How long a tick is.
        const TICK_MS: u64 = 10;
        // A port for replicas that nobody has read at is another name of a node, and no more.
        let is_used = |node: &&Node| {
            let mut links = node.links.iter().map(|link| &self.links[*link as usize]);
            !node.is_replica || links.any(|link| link.id.generation > 0)
        };
        let nodes = self.nodes.iter().filter(is_used).map(|node| {
            let links = || node.links.iter().map(|link| &self.links[*link as usize]);
            NodeStatus {
                address: node.address.clone(),
                links_up: links().filter(|link| link.is_up()).count(),
                unanswered: links().map(|link| link.unanswered()).sum(),
            }
        });
        Status {
            run_id: self.config.run_id.clone(),
            port: self.config.port,
            uptime_ms: self.now_tick * TICK_MS,
            clients: self.clients.count(),
            clients_opened: self.clients.opened(),
            errors: self.clients.errors,
            pieces: self.pieces.len(),
            piece_bytes: self.pieces.bytes(),
            slots_known: self.map.known(),
            connected: self.is_connected(),
            nodes: nodes.collect(),
            counters: self.counters,
            process: self.process,
        }
    }
}
