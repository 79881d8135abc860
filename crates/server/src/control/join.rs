//! A new node joins a running cluster: `kvorum node --join ADDR,...`.
//!
//! ```text
//! new node: draws a number for its directory, keeps it in a file
//!   ── join ──► any node ── RegisterNode ──► shard manager: an id, the same for the same directory
//!   ◄── id, plan ──
//! new node: writes its manifest, and takes part
//! ```
//!
//! The number is durable before anybody hears of it. So a node that dies on the way asks again under the
//! same number and gets the same id; and an empty directory is always another node, whatever flags it is
//! started with. Once there is a manifest `--join` says nothing any more.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use kvorum_base::NodeId;
use kvorum_cluster::{Command, Reply};
use serde::{Deserialize, Serialize};

use super::announce::capacity;
use super::cluster::{Failure, unexpected};
use super::init::{Commit, Prepare};
use super::{Phase, Shared, client};
use crate::config::Advertised;
use crate::disk::replace_file;
use crate::identity::{Plan, PlannedNode};
use kvorum_secret::random_id;

/// Name of the file with the directory's number, until there is a manifest.
const NUMBER_FILE: &str = "JOINING";
/// Between two tries.
const RETRY: Duration = Duration::from_secs(1);

/// A new node asks to be taken in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Join {
    /// The number of its directory.
    pub directory: u64,
    /// Where it is reached.
    pub addresses: Advertised,
    /// The most bytes of data that it takes; 0 for no limit.
    pub memory: u64,
    /// Whether it has no secret of its own.
    pub needs_secret: bool,
}

/// It is taken in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Joined {
    /// Its id.
    pub node: u64,
    /// The cluster as it was made, with the nodes that it has now.
    pub plan: Plan,
    /// The cluster's secret, for a node of the same machine that has none.
    pub secret: Option<String>,
}

impl Shared {
    /// Takes a new node in.
    ///
    /// # Errors
    /// With the reason why not, or why that is not known.
    pub async fn take_in(&self, from: IpAddr, join: &Join) -> Result<Joined, Failure> {
        let Phase::Started(manifest) = self.phase() else {
            let reason = "this node belongs to no cluster yet".to_owned();
            return Err(reason.into());
        };
        if join.needs_secret && !from.to_canonical().is_loopback() {
            let reason =
                "the secret never leaves this machine: start the new node with --secret-file";
            return Err(reason.to_owned().into());
        }
        let command = Command::RegisterNode {
            cluster: manifest.cluster(),
            directory: join.directory,
            addresses: join.addresses.to_cluster()?,
            capacity: capacity(join.memory),
        };
        let node = match self.manage(command).await? {
            Reply::Node(node) => node,
            Reply::Refused(refusal) => return Err(format!("refused: {refusal}").into()),
            other => return Err(unexpected(&other)),
        };
        let mut plan = manifest.plan.clone();
        if let Some(state) = self.cluster() {
            for (id, known) in state.nodes() {
                let addresses = Advertised::from_cluster(&known.addresses);
                add(&mut plan, *id, known.directory, addresses);
            }
        }
        add(&mut plan, node, join.directory, join.addresses.clone());
        Ok(Joined {
            node: node.get(),
            plan,
            secret: join.needs_secret.then_some(manifest.secret),
        })
    }

    /// Asks nodes of a cluster to be taken in, until one does, and takes part.
    ///
    /// # Errors
    /// If the directory cannot be written, or what was said cannot be believed.
    pub fn join(&self, nodes: &[String]) -> Result<(), String> {
        let directory = directory_number(&self.dir)
            .map_err(|error| format!("cannot write to {}: {error}", self.dir.display()))?;
        let join = Join {
            directory,
            addresses: self.settings.advertised.clone(),
            memory: self.settings.max_memory.unwrap_or(0),
            needs_secret: self.settings.secret.is_none(),
        };
        let path = "/api/v1/admin/join";
        let secret = self.settings.secret.as_ref();
        let mut said = String::new();
        let joined: Joined = loop {
            match client::ask_any(nodes, |node| client::post(node, path, &join, secret)) {
                Ok(joined) => break joined,
                Err(errors) if errors != said => {
                    tracing::warn!("cannot join yet, trying on: {errors}");
                    said = errors;
                }
                Err(_) => {}
            }
            std::thread::sleep(RETRY);
        };
        let cluster = joined.plan.cluster;
        self.prepare(Prepare {
            node: joined.node,
            plan: joined.plan,
            secret: joined.secret,
        })?;
        self.commit(&Commit { cluster })?;
        // The manifest has the number from here on.
        let _ = std::fs::remove_file(self.dir.join(NUMBER_FILE));
        Ok(())
    }
}

fn add(plan: &mut Plan, node: NodeId, directory: u64, addresses: Advertised) {
    match plan
        .members
        .iter_mut()
        .find(|member| member.node == node.get())
    {
        Some(member) => member.addresses = addresses,
        None => plan.members.push(PlannedNode {
            node: node.get(),
            directory,
            addresses,
        }),
    }
}

/// The directory's number: drawn once.
fn directory_number(dir: &Path) -> io::Result<u64> {
    let path = dir.join(NUMBER_FILE);
    let known = match std::fs::read_to_string(&path) {
        Ok(text) => u64::from_str_radix(text.trim(), 16).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(number) = known.filter(|number| *number != 0) {
        return Ok(number);
    }
    let number = random_id();
    replace_file(&path, format!("{number:016x}\n").as_bytes())?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_directory_draws_its_number_once() {
        let (dir, other) = (TempDir::new("join"), TempDir::new("join"));
        let number = directory_number(dir.path()).expect("written");
        assert_eq!(directory_number(dir.path()).expect("read"), number);
        assert_ne!(directory_number(other.path()).expect("written"), number);
    }
}
