//! The other nodes: two links to each, one for votes and heartbeats, one for everything that can be
//! large.
//!
//! Of two nodes the one with the lower id dials, so that a pair never has two links of a kind. A link
//! carries frames both ways. It promises nothing: a frame is dropped if there is no link or its queue is
//! full, and the core repeats what matters. What it does report is its own end, since a process that was
//! killed resets its connections at once, long before its silence would be noticed.

pub mod dial;
pub(crate) mod frames;
pub mod handshake;
pub mod link;
pub(crate) mod mesh;

use std::collections::BTreeMap;

use kvorum_base::NodeId;
use kvorum_node::Link;

use handshake::link_number;
use link::LinkOut;

/// The links to all other nodes.
#[derive(Debug)]
pub(crate) struct Peers {
    links: BTreeMap<(NodeId, u8), LinkOut>,
    /// Tells a link from the one that replaced it.
    next_serial: u64,
}

impl Peers {
    pub(crate) fn new() -> Self {
        Self {
            links: BTreeMap::new(),
            next_serial: 1,
        }
    }

    pub(crate) fn get(&mut self, node: NodeId, link: Link) -> Option<&mut LinkOut> {
        self.links.get_mut(&(node, link_number(link)))
    }

    fn next_serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }
}
