//! Who a node is: the file `MANIFEST` in its directory.
//!
//! An identity is made once, by `kvorum ctl init`, and is never given to another directory: a node that
//! came back with an empty memory would vote again in terms it has voted in. So a directory without a
//! manifest is always a new node, and one that has lost other things beside an intact manifest is
//! reported, not repaired.
//!
//! The file is text, for people to read in an emergency:
//!
//! ```text
//! kvorum manifest 1              the format; a newer one is refused
//! crc32c 1a2b3c4d                over all bytes after this line
//! { "state": "started", ... }    JSON: Manifest
//! ```
//!
//! A node is *prepared* before it is *started*. Between the two lies the decision that every named node
//! is prepared; only a started node ever takes part in anything.

use std::io;
use std::path::Path;

use kvorum_base::crc::crc32c;
use kvorum_base::{ClusterId, GroupId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::config::Advertised;
use crate::disk::replace_file;
use crate::peers::dial::PeerAddress;
use crate::secret::{Secret, from_hex, random, random_id, to_hex};

/// Name of the manifest in the data directory.
pub const MANIFEST_FILE: &str = "MANIFEST";
/// The format written, and the newest that is read.
const FORMAT: u32 = 1;
const TITLE: &str = "kvorum manifest ";
const CHECKSUM: &str = "crc32c ";

/// One cluster as it is made: the same on all of its nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster's id; drawn at random, so it also names the attempt to make it.
    pub cluster: u64,
    /// The key of the keyspace's hash, in hexadecimal digits.
    pub hash_key: String,
    /// The one group of this version.
    pub group: u64,
    /// Its members.
    pub members: Vec<PlannedNode>,
}

/// One node of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedNode {
    /// The node's id, from 1.
    pub node: u64,
    /// The id of its replica.
    pub replica: u64,
    /// Where it is reached.
    pub addresses: Advertised,
}

impl Plan {
    /// A new cluster of these nodes.
    #[must_use]
    pub fn draw(nodes: Vec<Advertised>) -> Self {
        Self {
            cluster: random_id(),
            hash_key: to_hex(&random::<16>()),
            group: 1,
            members: (1..)
                .zip(nodes)
                .map(|(number, addresses)| PlannedNode {
                    node: number,
                    replica: number,
                    addresses,
                })
                .collect(),
        }
    }

    /// Checks what came from outside.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.cluster == 0 || from_hex::<16>(&self.hash_key).is_none() {
            return Err("the plan has no valid cluster id or hash key".to_owned());
        }
        let ids = |id: fn(&PlannedNode) -> u64| {
            let mut ids: Vec<u64> = self.members.iter().map(id).collect();
            ids.sort_unstable();
            ids.dedup();
            ids.len() == self.members.len() && ids.first().is_some_and(|first| *first > 0)
        };
        if !ids(|member| member.node) || !ids(|member| member.replica) {
            return Err("the plan has no nodes, or an id twice".to_owned());
        }
        for member in &self.members {
            for address in [
                &member.addresses.client,
                &member.addresses.peer,
                &member.addresses.http,
            ] {
                split_address(address)?;
            }
        }
        Ok(())
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, node: u64) -> Option<&PlannedNode> {
        self.members.iter().find(|member| member.node == node)
    }

    /// The cluster's id in the form that operators see.
    #[must_use]
    pub fn cluster_name(&self) -> String {
        format!("{:016x}", self.cluster)
    }
}

/// Host and port of `host:port`; brackets of an IPv6 address are taken off.
///
/// # Errors
/// If it is not of that form.
pub fn split_address(text: &str) -> Result<(&str, u16), String> {
    text.rsplit_once(':')
        .and_then(|(host, port)| Some((host.trim_matches(['[', ']']), port.parse().ok()?)))
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| format!("{text} is not HOST:PORT"))
}

/// How far a node has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has agreed to be this node of this cluster, and does nothing yet.
    Prepared,
    /// It takes part.
    Started,
}

/// What a node's directory says about the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// How far it has come.
    pub state: State,
    /// Whether its log was begun: a started node without one has lost its promises. Set after the log's
    /// first sync and before anything is promised on it.
    pub log_begun: bool,
    /// Which of the plan's nodes it is.
    pub node: u64,
    /// Mixed into the checksums of its log: another directory's segments are not taken for its own.
    pub log_salt: u64,
    /// The cluster's secret, 64 hexadecimal digits.
    pub secret: String,
    /// The cluster.
    pub plan: Plan,
}

/// Why a directory cannot be used. The text says what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(pub String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Manifest {
    /// A node that has agreed to be `node` of this plan.
    #[must_use]
    pub fn prepared(node: u64, plan: Plan, secret: &Secret) -> Self {
        Self {
            state: State::Prepared,
            log_begun: false,
            node,
            log_salt: random_id(),
            secret: to_hex(secret.bytes()),
            plan,
        }
    }

    /// Reads the directory's manifest; `None` for a new node.
    ///
    /// # Errors
    /// If there is one that cannot be used, or data without one.
    pub fn load(dir: &Path) -> Result<Option<Self>, Refusal> {
        let path = dir.join(MANIFEST_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return no_data(dir).map(|()| None);
            }
            Err(error) => {
                return Err(Refusal(format!("cannot read {}: {error}", path.display())));
            }
        };
        Self::parse(&text)
            .map(Some)
            .map_err(|reason| Refusal(format!("{}: {reason}", path.display())))
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// As the system says.
    pub fn store(&self, dir: &Path) -> io::Result<()> {
        replace_file(&dir.join(MANIFEST_FILE), &self.encode())
    }

    /// The secret.
    #[must_use]
    pub fn secret(&self) -> Secret {
        // Checked when it was read or made.
        Secret::from_hex(&self.secret).expect("a manifest's secret has 64 hexadecimal digits")
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        ClusterId(self.plan.cluster)
    }

    /// All other nodes and where they are.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerAddress> {
        let others = self
            .plan
            .members
            .iter()
            .filter(|member| member.node != self.node);
        others
            .map(|member| PeerAddress {
                node: NodeId(member.node),
                address: member.addresses.peer.clone(),
            })
            .collect()
    }

    /// The group and its replicas.
    #[must_use]
    pub fn replicas(&self) -> (GroupId, Vec<(ReplicaId, NodeId)>) {
        let members = self.plan.members.iter();
        let replicas = members.map(|member| (ReplicaId(member.replica), NodeId(member.node)));
        (GroupId(self.plan.group), replicas.collect())
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = serde_json::to_vec_pretty(self).expect("a manifest can be written as JSON");
        body.push(b'\n');
        let mut text = format!("{TITLE}{FORMAT}\n{CHECKSUM}{:08x}\n", crc32c(&body)).into_bytes();
        text.extend_from_slice(&body);
        text
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let damaged = "it is damaged: do not edit or remove it. If this node is one of several, move the \
                       whole directory aside and replace the node; if it is the only one, restore the \
                       directory from a backup";
        let (title, rest) = split_line(text).ok_or(damaged)?;
        let format: u32 = title
            .strip_prefix(TITLE)
            .and_then(|number| number.parse().ok())
            .ok_or(damaged)?;
        if format > FORMAT {
            return Err(format!(
                "it was written by a newer kvorum (format {format}, this one reads up to {FORMAT}): \
                 start that version again"
            ));
        }
        let (checksum, body) = split_line(rest).ok_or(damaged)?;
        let expected = format!("{CHECKSUM}{:08x}", crc32c(body));
        if checksum != expected {
            return Err(damaged.to_owned());
        }
        let manifest: Self = serde_json::from_slice(body).map_err(|_| damaged)?;
        let whole = manifest.plan.check().is_ok()
            && manifest.plan.member(manifest.node).is_some()
            && Secret::from_hex(&manifest.secret).is_some();
        if whole {
            Ok(manifest)
        } else {
            Err(damaged.to_owned())
        }
    }
}

fn split_line(text: &[u8]) -> Option<(&str, &[u8])> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&text[..end]).ok()?, &text[end + 1..]))
}

/// Insists that a directory without a manifest holds nothing of a node.
fn no_data(dir: &Path) -> Result<(), Refusal> {
    let entries = std::fs::read_dir(dir)
        .map_err(|error| Refusal(format!("cannot read {}: {error}", dir.display())))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("lane-") || name == "snapshots")
        {
            return Err(Refusal(format!(
                "{} holds a node's data and no {MANIFEST_FILE}: who it is is lost, and with it every \
                 promise it made. Move the directory aside and replace the node, or restore the whole \
                 directory from a backup",
                dir.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn addresses(port: u16) -> Advertised {
        Advertised {
            client: format!("127.0.0.1:{port}"),
            replica: format!("127.0.0.1:{}", port + 50),
            peer: format!("127.0.0.1:{}", port + 100),
            http: format!("127.0.0.1:{}", port + 200),
        }
    }

    fn manifest() -> Manifest {
        let plan = Plan::draw(vec![addresses(7001), addresses(7002)]);
        Manifest::prepared(2, plan, &Secret::new([7; 32]))
    }

    #[test]
    fn a_manifest_comes_back() {
        let dir = TempDir::new("identity");
        assert_eq!(Manifest::load(dir.path()), Ok(None));
        let manifest = manifest();
        manifest.store(dir.path()).expect("stored");
        assert_eq!(Manifest::load(dir.path()), Ok(Some(manifest.clone())));
        assert_eq!(manifest.peers().len(), 1);
        assert_eq!(manifest.peers()[0].address, "127.0.0.1:7101");
    }

    #[test]
    fn any_changed_byte_is_damage_and_says_what_to_do() {
        let text = manifest().encode();
        for place in 0..text.len() {
            let mut changed = text.clone();
            changed[place] ^= 1;
            // The format's digit may become that of an older format, which has the same checksum.
            if let Ok(read) = Manifest::parse(&changed) {
                assert_eq!((read, place), (manifest_of(&text), TITLE.len()));
            }
        }
        let refused = Manifest::parse(&text[..text.len() - 1]).expect_err("cut");
        assert!(refused.contains("aside"), "{refused}");
    }

    fn manifest_of(text: &[u8]) -> Manifest {
        Manifest::parse(text).expect("whole")
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let text = String::from_utf8(manifest().encode()).expect("text");
        let newer = text.replacen("manifest 1", "manifest 2", 1);
        let refused = Manifest::parse(newer.as_bytes()).expect_err("refused");
        assert!(refused.contains("newer"), "{refused}");
    }

    #[test]
    fn data_without_a_manifest_is_no_new_node() {
        let dir = TempDir::new("identity");
        std::fs::create_dir(dir.path().join("lane-0")).expect("made");
        let refused = Manifest::load(dir.path()).expect_err("refused");
        assert!(refused.0.contains("promise"), "{refused}");
    }

    #[test]
    fn a_plan_with_an_id_twice_is_refused() {
        let mut plan = manifest().plan;
        plan.check().expect("good");
        plan.members[1].node = 1;
        plan.check().expect_err("refused");
        plan.members.clear();
        plan.check().expect_err("refused");
    }
}
