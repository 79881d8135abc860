//! Which nodes there are, and the tasks that keep links to those that this one dials.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use kvorum_base::NodeId;
use kvorum_node::Link;
use tokio::task::AbortHandle;

use super::dial::{PeerAddress, dial_for_ever};
use super::handshake::Identity;
use crate::lane::Lane;

/// A node that is dialled.
#[derive(Debug)]
struct Dialled {
    address: String,
    tasks: [AbortHandle; 2],
}

/// The other nodes, as the core last named them.
#[derive(Debug)]
pub(crate) struct Mesh {
    identity: Rc<Identity>,
    known: BTreeSet<NodeId>,
    dialled: BTreeMap<NodeId, Dialled>,
}

impl Mesh {
    pub(crate) fn new(identity: Rc<Identity>) -> Self {
        Self {
            identity,
            known: BTreeSet::new(),
            dialled: BTreeMap::new(),
        }
    }

    /// Whether there is such a node, besides this one.
    pub(crate) fn knows(&self, node: NodeId) -> bool {
        self.known.contains(&node)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// These are all other nodes from now on. Nodes that are new, or elsewhere, are dialled, if that is
    /// for this one to do; returns those that are gone.
    pub(crate) fn follow(&mut self, lane: &Rc<Lane>, peers: Vec<PeerAddress>) -> Vec<NodeId> {
        let now: BTreeSet<NodeId> = peers.iter().map(|peer| peer.node).collect();
        let gone: Vec<NodeId> = self.known.difference(&now).copied().collect();
        for node in &gone {
            self.stop_dialling(*node);
        }
        self.known = now;
        for peer in peers {
            let dialled = self.dialled.get(&peer.node);
            let is_same = dialled.is_some_and(|dialled| dialled.address == peer.address);
            if peer.node <= self.identity.node || is_same {
                continue;
            }
            self.stop_dialling(peer.node);
            let dial = |link| {
                let (lane, identity) = (Rc::clone(lane), Rc::clone(&self.identity));
                let dialling = dial_for_ever(lane, identity, peer.clone(), link);
                tokio::task::spawn_local(dialling).abort_handle()
            };
            let tasks = [dial(Link::Urgent), dial(Link::Bulk)];
            let address = peer.address.clone();
            self.dialled.insert(peer.node, Dialled { address, tasks });
        }
        gone
    }

    fn stop_dialling(&mut self, node: NodeId) {
        for task in self
            .dialled
            .remove(&node)
            .map(|dialled| dialled.tasks)
            .iter()
            .flatten()
        {
            task.abort();
        }
    }
}
