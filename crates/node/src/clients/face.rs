//! The face of a Redis Cluster: what CLUSTER answers, and where redirects point.
//!
//! Cluster-aware clients ask any node for the map, then talk to each slot's primary. Clients cannot
//! understand one address in two roles (redis-py gives an address the role under which it is named first,
//! and then counts the keys of one primary of three), and a node here may be primary of some shards and
//! replica of others. So each node has two ports: one is announced as primary and nothing else, the other
//! as replica and nothing else. In CLUSTER NODES a line has one role and one primary: there a node is one
//! line as primary, and one more for each shard that it follows, under a name of that replica's own.
//!
//! Replicas may be left out ([`Config::announces_replicas`]). Some clients remember only those whom the last
//! map named; they then find nobody to ask when the only primary dies.
//!
//! Who is primary is soft state: the highest term heard of wins, and nothing is ever decided by it.
//! A wrong answer costs the client one redirect.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvorum_base::slot::{SLOT_COUNT, slot_of};
use kvorum_base::{ClusterId, GroupId, NodeId, ReplicaId, Slot, SlotSet};
use kvorum_kv::{Keyspace, NodeCommand, printed};
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, OutBuf, Replies, Version};

use crate::config::{Config, Member};
use crate::event::Door;

/// Said for a shard whose primary nobody knows. Nothing was proposed.
pub(crate) const NO_PRIMARY: &str = "CLUSTERDOWN The cluster is down";

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// Where a command for this slot should go; it certainly did not happen here.
pub(crate) fn redirect(config: &Config, slot: Slot, primary: Option<NodeId>) -> String {
    match primary.and_then(|node| config.members.get(&node)) {
        Some(member) => format!("MOVED {slot} {}:{}", member.host, member.port),
        None => NO_PRIMARY.to_owned(),
    }
}

/// What the face says of one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ShardFacts {
    pub(crate) group: GroupId,
    pub(crate) slots: Arc<SlotSet>,
    /// Its replicas, that of the primary included.
    pub(crate) replicas: BTreeMap<ReplicaId, NodeId>,
    /// The last node that was heard to be its primary.
    pub(crate) primary: Option<NodeId>,
    /// Whether that is so now, as far as known.
    pub(crate) primary_known: bool,
    pub(crate) applied: u64,
    pub(crate) term: u64,
}

/// What the face is made of.
pub(crate) struct Facts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) shards: &'a [ShardFacts],
    /// Through which port it is looked at: that says which of its roles the node answers for.
    pub(crate) door: Door,
    /// The state that has a slot here, if one has.
    pub(crate) keyspace: &'a dyn Fn(Slot) -> Option<&'a Keyspace>,
}

/// A node's name as Redis writes it: 40 hexadecimal digits.
pub(crate) fn node_name(cluster: ClusterId, node: NodeId) -> String {
    format!("{:016x}{:024x}", cluster.get(), node.get())
}

/// A replica's name in the same form.
fn replica_name(cluster: ClusterId, group: GroupId, replica: ReplicaId) -> String {
    let (group, replica) = (group.get() & 0xffff_ffff, replica.get() & 0xffff_ffff_ffff);
    format!("{:016x}fffe{group:08x}{replica:012x}", cluster.get())
}

/// A shard's name in the same form.
fn shard_name(cluster: ClusterId, group: GroupId) -> String {
    format!("{:016x}ffff{:020x}", cluster.get(), group.get())
}

/// Answers a CLUSTER command that says how the cluster is, those of [`Faces`] excepted.
pub(crate) fn cluster(
    facts: &Facts<'_>,
    command: NodeCommand,
    args: Args<'_>,
    replies: &mut Replies<'_>,
) {
    match command {
        NodeCommand::ClusterShards => shards(facts, replies),
        NodeCommand::ClusterInfo => replies.verbatim("txt", &info(facts)),
        NodeCommand::ClusterMyid => replies.bulk(facts.my_name().as_bytes()),
        NodeCommand::ClusterMyshardid => my_shard(facts, replies),
        NodeCommand::ClusterKeyslot => replies.integer(i64::from(slot_of(args.get(2)).get())),
        NodeCommand::ClusterGetkeysinslot => get_keys_in_slot(facts, args, replies),
        NodeCommand::ClusterCountkeysinslot => count_keys_in_slot(facts, args, replies),
        NodeCommand::ClusterReplicas => replicas(facts, args, replies),
        // Links are not made of Redis's bus.
        NodeCommand::ClusterLinks => replies.array(0),
        other => unreachable!("{other:?} is not of the cluster's face"),
    }
}

/// CLUSTER REPLICAS: the lines of CLUSTER NODES of those whose primary is named.
fn replicas(facts: &Facts<'_>, args: Args<'_>, replies: &mut Replies<'_>) {
    let (cluster, name) = (facts.config.cluster, args.get(2));
    let is_named = |node: &NodeId| node_name(cluster, *node).as_bytes() == name;
    let all = facts
        .shards
        .iter()
        .flat_map(|shard| facts.replicas_of(shard));
    if !facts.config.members.keys().any(is_named) {
        if all
            .into_iter()
            .any(|replica| replica.name.as_bytes() == name)
        {
            return replies.error("ERR The specified node is not a master");
        }
        return replies.error_bytes(&[b"ERR Unknown node ", printed(name)].concat());
    }
    let of_it: Vec<String> = all
        .filter(|replica| is_named(&replica.primary))
        .map(|replica| facts.replica_line(&replica))
        .collect();
    replies.array(of_it.len());
    for line in of_it {
        replies.bulk(line.as_bytes());
    }
}

/// CLUSTER COUNTKEYSINSLOT, of the state of this node.
fn count_keys_in_slot(facts: &Facts<'_>, args: Args<'_>, replies: &mut Replies<'_>) {
    let Some(number) = parse_integer(args.get(2)) else {
        return replies.error(NOT_AN_INTEGER);
    };
    let Some(slot) = slot_of_number(number) else {
        return replies.error("ERR Invalid slot");
    };
    let count = (facts.keyspace)(slot).map_or(0, |keyspace| keyspace.slot_len(slot));
    replies.integer(i64::try_from(count).unwrap_or(i64::MAX));
}

/// CLUSTER GETKEYSINSLOT, a bounded look at the state of this node.
fn get_keys_in_slot(facts: &Facts<'_>, args: Args<'_>, replies: &mut Replies<'_>) {
    const KEYS_MAX: usize = 10_000;
    let numbers = (parse_integer(args.get(2)), parse_integer(args.get(3)));
    let (Some(slot), Some(limit)) = numbers else {
        return replies.error(NOT_AN_INTEGER);
    };
    let (Some(slot), Ok(limit)) = (slot_of_number(slot), usize::try_from(limit)) else {
        return replies.error("ERR Invalid slot or number of keys");
    };
    let keyspace = (facts.keyspace)(slot);
    let keys = keyspace.map_or(Vec::new(), |keyspace| {
        keyspace.keys_in_slot(slot, limit.min(KEYS_MAX))
    });
    replies.array(keys.len());
    for key in keys {
        replies.bulk(key);
    }
}

fn slot_of_number(number: i64) -> Option<Slot> {
    u16::try_from(number)
        .ok()
        .filter(|slot| *slot < SLOT_COUNT)
        .map(Slot)
}

/// A replica as it is announced.
struct Replica<'a> {
    name: String,
    node: NodeId,
    member: &'a Member,
    /// The node of its shard's primary.
    primary: NodeId,
    term: u64,
}

impl Facts<'_> {
    /// The node to name for a shard: its primary, or one of its members where none is known, which will
    /// know more by the time it is asked.
    fn primary_of(&self, shard: &ShardFacts) -> Option<(NodeId, &Member)> {
        let node = shard.primary.unwrap_or(self.config.node);
        Some((node, self.config.members.get(&node)?))
    }

    /// Whom to name as a shard's replicas: those on other nodes than its primary.
    fn replicas_of(&self, shard: &ShardFacts) -> Vec<Replica<'_>> {
        let Some((primary, _)) = self.primary_of(shard) else {
            return Vec::new();
        };
        if !self.config.announces_replicas {
            return Vec::new();
        }
        let others = shard.replicas.iter().filter(|(_, node)| **node != primary);
        let replica = |(replica, node): (&ReplicaId, &NodeId)| {
            Some(Replica {
                name: replica_name(self.config.cluster, shard.group, *replica),
                node: *node,
                member: self.config.members.get(node)?,
                primary,
                term: shard.term,
            })
        };
        others.filter_map(replica).collect()
    }

    /// The first replica of this node that is announced, and its shard.
    fn own_replica(&self) -> Option<(&ShardFacts, Replica<'_>)> {
        self.shards.iter().find_map(|shard| {
            let mut replicas = self.replicas_of(shard).into_iter();
            let own = replicas.find(|replica| replica.node == self.config.node)?;
            Some((shard, own))
        })
    }

    /// The name of what answers at this port: the node, or its first replica.
    fn my_name(&self) -> String {
        let replica = (self.door == Door::Replica).then(|| self.own_replica());
        match replica.flatten() {
            Some((_, replica)) => replica.name,
            None => node_name(self.config.cluster, self.config.node),
        }
    }

    /// `myself,` in the line of what answers at this port.
    fn myself(&self, name: &str) -> &'static str {
        if self.my_name() == name {
            "myself,"
        } else {
            ""
        }
    }

    /// `id host:port@bus flags primary ping pong epoch link slots`.
    fn node_line(&self, node: NodeId, member: &Member) -> String {
        let name = node_name(self.config.cluster, node);
        let terms = self.shards.iter().map(|shard| shard.term);
        let mut line = format!(
            "{name} {}:{}@{} {}master - 0 0 {} connected",
            member.host,
            member.port,
            member.peer_port,
            self.myself(&name),
            terms.max().unwrap_or(0),
        );
        for shard in self.shards {
            if self
                .primary_of(shard)
                .is_some_and(|(serves, _)| serves == node)
            {
                line.extend(shard.slots.runs().map(range_text));
            }
        }
        line
    }

    /// The same for a replica, which has no slots of its own.
    fn replica_line(&self, replica: &Replica<'_>) -> String {
        let (name, member) = (&replica.name, replica.member);
        format!(
            "{name} {}:{}@{} {}slave {} 0 0 {} connected",
            member.replica_host,
            member.replica_port,
            member.peer_port,
            self.myself(name),
            node_name(self.config.cluster, replica.primary),
            replica.term,
        )
    }
}

/// The answers of CLUSTER SLOTS and NODES, encoded once for as long as nothing changes that is in them. Many
/// clients ask at the same time when a primary falls, and a map can have thousands of ranges.
#[derive(Default, Debug)]
pub(crate) struct Faces {
    made_of: Vec<ShardFacts>,
    replies: BTreeMap<(NodeCommand, Door, u8), Vec<u8>>,
}

impl Faces {
    /// The encoded answer.
    pub(crate) fn reply(
        &mut self,
        facts: &Facts<'_>,
        command: NodeCommand,
        version: Version,
    ) -> &[u8] {
        // How far a shard has applied is in neither of them.
        let shards = facts.shards.iter().cloned();
        let made_of: Vec<_> = shards
            .map(|shard| ShardFacts {
                applied: 0,
                ..shard
            })
            .collect();
        if made_of != self.made_of {
            self.replies.clear();
            self.made_of = made_of;
        }
        let key = (command, facts.door, version.number());
        self.replies.entry(key).or_insert_with(|| {
            let mut out = OutBuf::new();
            let mut replies = Replies::client(&mut out, version);
            match command {
                NodeCommand::ClusterSlots => slots(facts, &mut replies),
                _ => replies.verbatim("txt", &nodes(facts)),
            }
            out.to_vec()
        })
    }
}

/// CLUSTER SLOTS: ranges with the address and name of who serves them, and of their replicas.
fn slots(facts: &Facts<'_>, replies: &mut Replies<'_>) {
    let with_primary = |shard| Some((shard, facts.primary_of(shard)?));
    let shards = facts.shards.iter().filter_map(with_primary);
    let mut runs: Vec<_> = shards
        .flat_map(|(shard, primary)| shard.slots.runs().map(move |run| (run, shard, primary)))
        .collect();
    runs.sort_by_key(|(run, _, _)| *run);
    replies.array(runs.len());
    for ((first, last), shard, (node, member)) in runs {
        let replicas = facts.replicas_of(shard);
        replies.array(3 + replicas.len());
        replies.integer(i64::from(first));
        replies.integer(i64::from(last));
        let name = node_name(facts.config.cluster, node);
        endpoint(&member.host, member.port, &name, replies);
        for Replica { name, member, .. } in &replicas {
            endpoint(&member.replica_host, member.replica_port, name, replies);
        }
    }
}

/// A node in CLUSTER SLOTS.
fn endpoint(host: &str, port: u16, name: &str, replies: &mut Replies<'_>) {
    replies.array(4);
    replies.bulk(host.as_bytes());
    replies.integer(i64::from(port));
    replies.bulk(name.as_bytes());
    // Other names of the node: none.
    replies.map(0);
}

/// CLUSTER SHARDS: the same by shard, with roles and health.
fn shards(facts: &Facts<'_>, replies: &mut Replies<'_>) {
    replies.array(facts.shards.len());
    for shard in facts.shards {
        replies.map(2);
        replies.bulk(b"slots");
        replies.array(2 * shard.slots.runs().count());
        for (first, last) in shard.slots.runs() {
            replies.integer(i64::from(first));
            replies.integer(i64::from(last));
        }
        replies.bulk(b"nodes");
        let (primary, replicas) = (facts.primary_of(shard), facts.replicas_of(shard));
        replies.array(usize::from(primary.is_some()) + replicas.len());
        if let Some((node, member)) = primary {
            let name = node_name(facts.config.cluster, node);
            let is_online = shard.primary_known;
            let about = (&*name, "master", is_online);
            shard_member(shard, about, &member.host, member.port, replies);
        }
        for Replica { name, member, .. } in &replicas {
            // Of a replica it is not known here how it does: it is asked, and then answers or does not.
            let about = (&**name, "replica", true);
            let (host, port) = (&member.replica_host, member.replica_port);
            shard_member(shard, about, host, port, replies);
        }
    }
}

/// One node of a shard in CLUSTER SHARDS.
fn shard_member(
    shard: &ShardFacts,
    (name, role, is_online): (&str, &str, bool),
    host: &str,
    port: u16,
    replies: &mut Replies<'_>,
) {
    replies.map(7);
    replies.bulk(b"id");
    replies.bulk(name.as_bytes());
    replies.bulk(b"port");
    replies.integer(i64::from(port));
    replies.bulk(b"ip");
    replies.bulk(host.as_bytes());
    replies.bulk(b"endpoint");
    replies.bulk(host.as_bytes());
    replies.bulk(b"role");
    replies.bulk(role.as_bytes());
    replies.bulk(b"replication-offset");
    replies.integer(i64::try_from(shard.applied).unwrap_or(i64::MAX));
    replies.bulk(b"health");
    replies.bulk(if is_online {
        &b"online"[..]
    } else {
        &b"fail"[..]
    });
}

/// CLUSTER NODES: one line a node, and one a replica.
fn nodes(facts: &Facts<'_>) -> String {
    let members = facts.config.members.iter();
    let mut text = String::new();
    for (node, member) in members {
        text.push_str(&facts.node_line(*node, member));
        text.push('\n');
    }
    for replica in facts
        .shards
        .iter()
        .flat_map(|shard| facts.replicas_of(shard))
    {
        text.push_str(&facts.replica_line(&replica));
        text.push('\n');
    }
    text
}

fn range_text((first, last): (u16, u16)) -> String {
    if first == last {
        format!(" {first}")
    } else {
        format!(" {first}-{last}")
    }
}

/// CLUSTER INFO.
fn info(facts: &Facts<'_>) -> String {
    let width = |shard: &ShardFacts| u64::from(shard.slots.len());
    let assigned: u64 = facts.shards.iter().map(width).sum();
    let served = facts.shards.iter().filter(|shard| shard.primary_known);
    let ok: u64 = served.map(width).sum();
    let epoch = facts
        .shards
        .iter()
        .map(|shard| shard.term)
        .max()
        .unwrap_or(0);
    let state = if ok == u64::from(SLOT_COUNT) {
        "ok"
    } else {
        "fail"
    };
    format!(
        "cluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\n\
         cluster_slots_ok:{ok}\r\ncluster_slots_pfail:0\r\ncluster_slots_fail:{}\r\n\
         cluster_known_nodes:{}\r\ncluster_size:{}\r\ncluster_current_epoch:{epoch}\r\n\
         cluster_my_epoch:{epoch}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n",
        assigned - ok,
        facts.config.members.len(),
        facts.shards.len(),
    )
}

fn my_shard(facts: &Facts<'_>, replies: &mut Replies<'_>) {
    let mut shards = facts.shards.iter();
    let mine = match facts.door {
        Door::Primary => shards.find(|shard| shard.primary == Some(facts.config.node)),
        Door::Replica => facts.own_replica().map(|(shard, _)| shard),
    };
    match mine.or(facts.shards.first()) {
        Some(shard) => replies.bulk(shard_name(facts.config.cluster, shard.group).as_bytes()),
        None => replies.error("ERR this node holds no shard"),
    }
}
