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
//! kvorum manifest 3              the format; a newer one is refused
//! crc32c 1a2b3c4d                over all bytes after this line
//! { "state": "started", ... }    JSON: Manifest
//! ```
//!
//! A node is *prepared* before it is *started*. Between the two lies the decision that every named node
//! is prepared; only a started node ever takes part in anything.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use kvorum_base::crc::crc32c;
use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{ClusterId, GroupId, NodeId, ReplicaId, SlotSet};
use kvorum_cluster as founding;
use kvorum_cluster::MANAGER;
use kvorum_node::GroupSpec;
use serde::{Deserialize, Serialize};

use crate::config::Advertised;
use crate::disk::replace_file;
use crate::peers::dial::PeerAddress;
use kvorum_secret::{Secret, from_hex, random, random_id, to_hex};

/// Name of the manifest in the data directory.
pub const MANIFEST_FILE: &str = "MANIFEST";
/// The format written, and the newest that is read.
const FORMAT: u32 = 3;
const TITLE: &str = "kvorum manifest ";
const CHECKSUM: &str = "crc32c ";

/// One cluster as it is made: the same on all of its nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The cluster's id; drawn at random, so it also names the attempt to make it.
    pub cluster: u64,
    /// The key of the keyspace's hash, in hexadecimal digits.
    pub hash_key: String,
    /// Its nodes.
    pub members: Vec<PlannedNode>,
    /// The replicas of its shard manager.
    pub manager: Vec<PlannedReplica>,
    /// Its shards; each is one group.
    pub shards: Vec<PlannedShard>,
}

/// One node of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedNode {
    /// The node's id, from 1.
    pub node: u64,
    /// The number of its data directory, drawn at random: another directory is never this node.
    pub directory: u64,
    /// Where it is reached.
    pub addresses: Advertised,
}

/// One shard of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedShard {
    /// The group's id, from 1.
    pub group: u64,
    /// Its replicas.
    pub replicas: Vec<PlannedReplica>,
    /// The node where its primary should be when all are well, if that matters.
    pub preferred: Option<u64>,
}

/// One replica of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedReplica {
    /// Its id; no other replica of the cluster has it.
    pub replica: u64,
    /// Where it lives.
    pub node: u64,
}

/// How many shards a new cluster has, and on how many nodes each of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Shards.
    pub shards: u16,
    /// Replicas of each, on different nodes.
    pub replicas: u16,
}

impl Shape {
    /// The most shards of a new cluster.
    pub const SHARDS_MAX: u16 = 1024;

    /// Whether so many nodes can be given this shape.
    ///
    /// # Errors
    /// If not, with the reason.
    pub fn check(self, nodes: usize) -> Result<(), String> {
        if self.shards == 0 || self.shards > Self::SHARDS_MAX {
            return Err(format!(
                "{} shards: a new cluster has 1 to {}",
                self.shards,
                Self::SHARDS_MAX
            ));
        }
        if self.replicas == 0 || usize::from(self.replicas) > nodes {
            return Err(format!(
                "{} replicas of each shard: there are {nodes} nodes, and no node has two of one shard",
                self.replicas
            ));
        }
        Ok(())
    }

    /// The replicas of the shard manager, on as many nodes as make it survive one or two of them.
    fn manager(self, nodes: u64) -> Vec<PlannedReplica> {
        let count = match nodes {
            0..=4 => nodes.min(3),
            _ => 5,
        };
        let first = u64::from(self.shards) * u64::from(self.replicas) + 1;
        (0..count)
            .map(|number| PlannedReplica {
                replica: first + number,
                node: number + 1,
            })
            .collect()
    }

    /// Replicas and primaries as even as the numbers allow.
    fn shards(self, nodes: u64) -> Vec<PlannedShard> {
        let (shards, replicas) = (u32::from(self.shards), u64::from(self.replicas));
        let of_shard = |shard: u32| PlannedShard {
            group: u64::from(shard) + 1,
            replicas: (0..replicas)
                .map(|number| PlannedReplica {
                    replica: u64::from(shard) * replicas + number + 1,
                    node: (u64::from(shard) + number) % nodes + 1,
                })
                .collect(),
            preferred: (shards > 1).then_some(u64::from(shard) % nodes + 1),
        };
        (0..shards).map(of_shard).collect()
    }
}

impl Plan {
    /// A new cluster of these nodes.
    #[must_use]
    pub fn draw(nodes: Vec<Advertised>, shape: Shape) -> Self {
        Self {
            cluster: random_id(),
            hash_key: to_hex(&random::<16>()),
            manager: shape.manager(nodes.len() as u64),
            shards: shape.shards(nodes.len() as u64),
            members: (1..)
                .zip(nodes)
                .map(|(node, addresses)| PlannedNode {
                    node,
                    directory: random_id(),
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
        let nodes = self.members.iter().map(|member| member.node);
        let groups = self.shards.iter().map(|shard| shard.group);
        let replicas = self.shards.iter().flat_map(|shard| &shard.replicas);
        let replicas = replicas.chain(&self.manager);
        let directories = self.members.iter().map(|member| member.directory);
        let replicas = replicas.map(|replica| replica.replica);
        let unique = are_ids(nodes) && are_ids(groups) && are_ids(replicas) && are_ids(directories);
        if !unique {
            return Err("the plan has no nodes, no shards, or an id twice".to_owned());
        }
        for shard in &self.shards {
            let places = shard.replicas.iter().map(|replica| replica.node);
            let known = |node| self.member(node).is_some();
            if !are_ids(places.clone()) || !places.chain(shard.preferred).all(known) {
                return Err(format!(
                    "the plan's shard {} has no good place",
                    shard.group
                ));
            }
        }
        let places = self.manager.iter().map(|replica| replica.node);
        if !are_ids(places.clone()) || !places.into_iter().all(|node| self.member(node).is_some()) {
            return Err("the plan's shard manager has no good place".to_owned());
        }
        for member in &self.members {
            for address in [
                &member.addresses.client,
                &member.addresses.replica,
                &member.addresses.peer,
                &member.addresses.http,
            ] {
                split_address(address)?;
            }
        }
        let state = founding::State::initial(&self.founding()?);
        state.map_err(|refusal| format!("the plan is none: {refusal}"))?;
        Ok(())
    }

    /// What the shard manager begins with.
    ///
    /// # Errors
    /// If an address cannot be read.
    pub fn founding(&self) -> Result<founding::Plan, String> {
        let wanted = |replicas: &[PlannedReplica]| replicas.len() as u8;
        let shard_of = |shard: &PlannedShard| {
            let home = |replica: &&PlannedReplica| Some(replica.node) == shard.preferred;
            let preferred = shard.replicas.iter().find(home);
            let planned = founding::PlannedGroup {
                name: format!("shard-{}", shard.group),
                replicas: replicas_of(&shard.replicas),
                preferred: preferred.map(|replica| ReplicaId(replica.replica)),
                wanted: wanted(&shard.replicas),
            };
            (GroupId(shard.group), planned)
        };
        let node_of = |member: &PlannedNode| {
            let planned = founding::PlannedNode {
                directory: member.directory,
                addresses: member.addresses.to_cluster()?,
                capacity: founding::Capacity::default(),
            };
            Ok((NodeId(member.node), planned))
        };
        let nodes: Result<_, String> = self.members.iter().map(node_of).collect();
        Ok(founding::Plan {
            cluster: ClusterId(self.cluster),
            slot_count: SLOT_COUNT,
            last_shard_may_leave: false,
            settings: founding::Settings::default(),
            nodes: nodes?,
            manager: founding::PlannedGroup {
                name: String::new(),
                replicas: replicas_of(&self.manager),
                preferred: None,
                wanted: wanted(&self.manager),
            },
            shards: self.shards.iter().map(shard_of).collect(),
        })
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

fn replicas_of(planned: &[PlannedReplica]) -> BTreeMap<ReplicaId, NodeId> {
    let place = |replica: &PlannedReplica| (ReplicaId(replica.replica), NodeId(replica.node));
    planned.iter().map(place).collect()
}

/// Whether there are any, none of them is 0 and none is there twice.
fn are_ids(ids: impl Iterator<Item = u64>) -> bool {
    let mut ids: Vec<u64> = ids.collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    ids.len() == count && ids.first().is_some_and(|first| *first > 0)
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
            secret: secret.to_hex(),
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

    /// The cluster's groups, and what its shard manager begins with: that says which slots each has.
    ///
    /// # Errors
    /// If the plan is none.
    pub fn groups(&self) -> Result<(Vec<GroupSpec>, founding::Plan), String> {
        let plan = self.plan.founding()?;
        let state = founding::State::initial(&plan).map_err(|refusal| refusal.to_string())?;
        let shards = self.plan.shards.iter();
        let specs = shards.map(|shard| GroupSpec {
            group: GroupId(shard.group),
            slots: Arc::new(SlotSet::of_runs(
                state.slots_of(GroupId(shard.group)).runs().iter().copied(),
            )),
            replicas: replicas_of(&shard.replicas),
            preferred: shard.preferred.map(NodeId),
        });
        let manager = GroupSpec {
            group: MANAGER,
            slots: Arc::default(),
            replicas: replicas_of(&self.plan.manager),
            preferred: None,
        };
        Ok((specs.chain([manager]).collect(), plan))
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
        if format < FORMAT {
            return Err(format!(
                "it was written by a kvorum before the first release (format {format}, this one reads \
                 {FORMAT}): take the data out with the version that wrote it"
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
        let shape = Shape {
            shards: 3,
            replicas: 2,
        };
        let plan = Plan::draw(vec![addresses(7001), addresses(7002)], shape);
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
            Manifest::parse(&changed).expect_err("changed");
        }
        let refused = Manifest::parse(&text[..text.len() - 1]).expect_err("cut");
        assert!(refused.contains("aside"), "{refused}");
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let text = String::from_utf8(manifest().encode()).expect("text");
        for (other, word) in [("manifest 4", "newer"), ("manifest 2", "before")] {
            let other = text.replacen("manifest 3", other, 1);
            let refused = Manifest::parse(other.as_bytes()).expect_err("refused");
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn data_without_a_manifest_is_no_new_node() {
        let dir = TempDir::new("identity");
        std::fs::create_dir(dir.path().join("lane-0")).expect("made");
        let refused = Manifest::load(dir.path()).expect_err("refused");
        assert!(refused.0.contains("promise"), "{refused}");
    }

    #[test]
    fn a_new_cluster_is_even() {
        for (nodes, shards, replicas) in [(1, 1, 1), (3, 1, 3), (3, 3, 3), (5, 7, 3), (4, 1024, 2)]
        {
            let addresses = (0..nodes).map(|node| addresses(7001 + node)).collect();
            let shape = Shape { shards, replicas };
            shape.check(usize::from(nodes)).expect("fits");
            let plan = Plan::draw(addresses, shape);
            plan.check().expect("good");
            let manifest = Manifest::prepared(1, plan.clone(), &Secret::new([7; 32]));
            let (groups, _) = manifest.groups().expect("good");
            let slots: Vec<u32> = groups.iter().map(|group| group.slots.len()).collect();
            let (manager, slots) = slots.split_last().expect("the manager is the last");
            assert_eq!(*manager, 0);
            assert_eq!(slots.iter().sum::<u32>(), u32::from(SLOT_COUNT));
            assert!(slots.iter().max() <= slots.iter().min().map(|least| least + 1).as_ref());
            for node in 1..=u64::from(nodes) {
                let primaries = plan
                    .shards
                    .iter()
                    .filter(|shard| shard.preferred == Some(node));
                let share = usize::from(shards / nodes);
                assert!((share..=share + 1).contains(&primaries.count()) || shards == 1);
            }
        }
        let none = Shape {
            shards: 0,
            replicas: 1,
        };
        none.check(3).expect_err("refused");
        let many = Shape {
            shards: 1,
            replicas: 4,
        };
        many.check(3).expect_err("refused");
    }

    #[test]
    fn a_plan_with_an_id_twice_is_refused() {
        let mut plan = manifest().plan;
        plan.check().expect("good");
        plan.members[1].node = 1;
        plan.check().expect_err("refused");
        plan.members[1].node = 2;
        plan.shards[0].replicas[1].node = 1;
        plan.check().expect_err("refused");
        plan.members.clear();
        plan.check().expect_err("refused");
    }
}
