//! A node that is reached elsewhere than the cluster knows says so.
//!
//! After a restart with other addresses, or another memory limit, the links may lead nowhere: nodes with
//! lower ids dial this one, at its old address. So it asks the other nodes over HTTP, whose addresses it
//! remembers, to have the shard manager note the new ones; from there every node learns them, and dials
//! again. It needs a majority of the manager's replicas in its place: nodes move one after the other, not
//! all at once.

use std::sync::Arc;
use std::time::Duration;

use kvorum_base::NodeId;
use kvorum_cluster::{Addresses, Capacity, Command, Refusal, Reply};
use serde::{Deserialize, Serialize};

use super::cluster::{Failure, unexpected};
use super::{Shared, client};
use crate::config::Advertised;
use crate::identity::Manifest;

/// The path for it.
pub(super) const PATH: &str = "/api/v1/admin/announce";
/// Between two looks at what the cluster knows.
const LOOK: Duration = Duration::from_secs(1);

/// Where a node is reached, and what it takes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Announcement {
    /// The node.
    pub node: u64,
    /// The number of its directory.
    pub directory: u64,
    /// Where it is reached.
    pub addresses: Advertised,
    /// The most bytes of data that it takes; 0 for no limit.
    pub memory: u64,
}

/// The shard manager has it, or never will.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Announced {
    /// Why it refuses.
    pub refused: Option<String>,
}

impl Shared {
    /// Has the shard manager note where a node is.
    ///
    /// # Errors
    /// If nobody knows whether it has.
    pub async fn note_announced(&self, said: &Announcement) -> Result<Announced, Failure> {
        let command = Command::UpdateNode {
            node: NodeId(said.node),
            directory: said.directory,
            addresses: said.addresses.to_cluster()?,
            capacity: capacity(said.memory),
        };
        match self.manage(command).await? {
            Reply::Done => Ok(Announced { refused: None }),
            Reply::Refused(refusal @ (Refusal::NodeGone(_) | Refusal::NoSuchNode(_))) => {
                let refused = Some(refusal.to_string());
                Ok(Announced { refused })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Watches that the cluster knows where this node is, on a thread of its own, until the process ends.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn announce_itself(self: &Arc<Self>, manifest: &Manifest) -> Result<(), String> {
        let Some(member) = manifest.plan.member(manifest.node) else {
            return Ok(());
        };
        let said = Announcement {
            node: manifest.node,
            directory: member.directory,
            addresses: self.settings.advertised.clone(),
            memory: self.settings.max_memory.unwrap_or(0),
        };
        let addresses = said.addresses.to_cluster()?;
        let (shared, manifest) = (Arc::clone(self), manifest.clone());
        std::thread::Builder::new()
            .name("kvorum-announce".to_owned())
            .spawn(move || shared.keep_announcing(&manifest, &said, &addresses))
            .map(drop)
            .map_err(|error| format!("cannot start a thread: {error}"))
    }

    fn keep_announcing(&self, manifest: &Manifest, said: &Announcement, addresses: &Addresses) {
        let node = NodeId(said.node);
        let mut complaint = String::new();
        loop {
            std::thread::sleep(LOOK);
            let Some(state) = self.cluster() else {
                continue;
            };
            let is_known = state.nodes().get(&node).is_none_or(|known| {
                known.addresses == *addresses && known.capacity == capacity(said.memory)
            });
            if is_known {
                continue;
            }
            let others = state.nodes().iter().filter(|(id, _)| **id != node);
            let others = others.map(|(_, known)| known.addresses.http.to_string());
            // By the links that there are, and then by others'.
            let asked: Vec<String> = [said.addresses.http.clone()]
                .into_iter()
                .chain(others)
                .collect();
            let secret = manifest.secret();
            let ask = |node: &str| client::post(node, PATH, said, Some(&secret));
            match client::ask_any(&asked, ask) {
                Ok(Announced { refused: None }) => {
                    complaint.clear();
                    tracing::info!("the cluster knows this node at its present addresses");
                }
                Ok(Announced {
                    refused: Some(reason),
                }) => return tracing::error!("the cluster does not take this node back: {reason}"),
                Err(error) if error != complaint => {
                    tracing::warn!(
                        "cannot tell the cluster where this node is, trying on: {error}"
                    );
                    complaint = error;
                }
                Err(_) => {}
            }
        }
    }
}

/// What a node can hold that takes so many bytes of data; 0 for no limit.
pub(super) fn capacity(memory_bytes: u64) -> Capacity {
    Capacity {
        memory_bytes,
        disk_bytes: 0,
    }
}
