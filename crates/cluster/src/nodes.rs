//! Nodes: who they are, where they are reached, and whether replicas may live on them.
//!
//! A node's id dies with its data directory. The directory has a number of its own, drawn when it was
//! made; a node is believed to be itself only with the right one. So an empty directory with an old
//! node's flags and addresses is always a new node, and cannot vote with an empty memory under an old
//! id. Addresses are only where a node is reached just now: they change with restarts, the node is
//! the same.
//!
//! A dead node is one that was silent for long; its replicas are put elsewhere, and if it comes back
//! first, it is simply there again. A damaged one has lost promises: it never comes back under its
//! id. A node that was removed is gone, and is told so whenever it asks.

use std::fmt;

/// A host name or address, and a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Address {
    /// Host name or address, as others can use it.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Where a node is reached: what it announces, which may differ from what it listens on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Addresses {
    /// For clients: the node as primary.
    pub client: Address,
    /// For clients that read from replicas. A port of its own, since clients cannot understand one
    /// address in two roles.
    pub replica: Address,
    /// For the other nodes.
    pub peer: Address,
    /// The HTTP interface.
    pub http: Address,
    /// Other names of the host that clients may use.
    pub other_names: Vec<String>,
}

impl Addresses {
    /// All texts in it, for the limit on their length.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        [&self.client, &self.replica, &self.peer, &self.http]
            .into_iter()
            .map(|address| address.host.as_str())
            .chain(self.other_names.iter().map(String::as_str))
    }
}

/// What a node can hold, as it reports it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Capacity {
    /// Memory for keys in bytes; 0 for no limit.
    pub memory_bytes: u64,
    /// Disk in bytes; 0 if unknown.
    pub disk_bytes: u64,
}

/// Whether a node is heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// As far as is known it works.
    Alive,
    /// It was not heard for long, by the shard manager and by most of those who talk to it.
    Dead,
    /// Its disk lost what was synced: it has lost promises and never comes back under its id.
    Damaged,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The number of its data directory, drawn when that was made.
    pub directory: u64,
    /// Where it is reached.
    pub addresses: Addresses,
    /// What it can hold.
    pub capacity: Capacity,
    /// Whether it is heard.
    pub health: Health,
    /// Whether an operator wants it empty.
    pub draining: bool,
}

/// What a node is to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NodeState {
    /// It holds replicas and may get more.
    In,
    /// It works, gives its replicas away and gets no more.
    Draining,
    /// Its replicas are put elsewhere; it may come back before that is done.
    Dead,
    /// Its replicas are put elsewhere; it never comes back.
    Damaged,
    /// It was a node once, and is not any more.
    Gone,
}

impl Node {
    /// What it is to the cluster.
    #[must_use]
    pub fn state(&self) -> NodeState {
        match (self.health, self.draining) {
            (Health::Damaged, _) => NodeState::Damaged,
            (Health::Dead, _) => NodeState::Dead,
            (Health::Alive, true) => NodeState::Draining,
            (Health::Alive, false) => NodeState::In,
        }
    }

    /// Whether replicas may be put on it.
    #[must_use]
    pub fn is_in(&self) -> bool {
        self.state() == NodeState::In
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Draining => "draining",
            Self::Dead => "dead",
            Self::Damaged => "damaged",
            Self::Gone => "gone",
        })
    }
}
