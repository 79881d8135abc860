//! The face of a Redis Cluster: what CLUSTER answers, and where redirects point.
//!
//! Cluster-aware clients ask any node for the map, then talk to each slot's primary. Clients cannot
//! understand one address in two roles, and a node here may be primary of some shards and replica of
//! others: whoever is primary of anything is announced as that alone. Whoever is primary of nothing is
//! announced as a replica, since some clients (redis-py) remember only those whom the last map named: when
//! the only primary they know of dies, they find nobody to ask. Reads that they send there are redirected.
//!
//! Who is primary is soft state: the highest term heard of wins, and nothing is ever decided by it.
//! A wrong answer costs the client one redirect.

use std::sync::Arc;

use kvorum_base::slot::{SLOT_COUNT, slot_of};
use kvorum_base::{ClusterId, GroupId, NodeId, Slot, SlotSet};
use kvorum_kv::{Keyspace, NodeCommand, printed};
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Replies};

use crate::config::{Config, Member};

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
    /// The state that has a slot here, if one has.
    pub(crate) keyspace: &'a dyn Fn(Slot) -> Option<&'a Keyspace>,
}

/// A node's name as Redis writes it: 40 hexadecimal digits.
pub(crate) fn node_name(cluster: ClusterId, node: NodeId) -> String {
    format!("{:016x}{:024x}", cluster.get(), node.get())
}

/// A shard's name in the same form.
fn shard_name(cluster: ClusterId, group: GroupId) -> String {
    format!("{:016x}ffff{:020x}", cluster.get(), group.get())
}

/// Answers a CLUSTER command that says how the cluster is.
pub(crate) fn cluster(
    facts: &Facts<'_>,
    command: NodeCommand,
    args: Args<'_>,
    replies: &mut Replies<'_>,
) {
    match command {
        NodeCommand::ClusterSlots => slots(facts, replies),
        NodeCommand::ClusterShards => shards(facts, replies),
        NodeCommand::ClusterNodes => replies.verbatim("txt", &nodes(facts)),
        NodeCommand::ClusterInfo => replies.verbatim("txt", &info(facts)),
        NodeCommand::ClusterMyid => replies.bulk(my_name(facts).as_bytes()),
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
    let is_named = |node: &&NodeId| node_name(cluster, **node).as_bytes() == name;
    let Some(named) = facts.config.members.keys().find(is_named) else {
        return replies.error_bytes(&[b"ERR Unknown node ", printed(name)].concat());
    };
    if primary_of(facts, *named).is_some() {
        return replies.error("ERR The specified node is not a master");
    }
    let members = facts.config.members.iter();
    let of_it = members.filter(|(node, _)| primary_of(facts, **node) == Some(*named));
    let lines: Vec<String> = of_it
        .map(|(node, member)| node_line(facts, *node, member))
        .collect();
    replies.array(lines.len());
    for line in lines {
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

fn my_name(facts: &Facts<'_>) -> String {
    node_name(facts.config.cluster, facts.config.node)
}

/// The node to name for a shard: its primary, or one of its members where none is known, which will
/// know more by the time it is asked.
fn shard_node<'a>(facts: &'a Facts<'_>, shard: &ShardFacts) -> Option<(NodeId, &'a Member)> {
    let node = shard.primary.unwrap_or(facts.config.node);
    Some((node, facts.config.members.get(&node)?))
}

/// Whom to name as a shard's replicas: those of its nodes that are primary of nothing.
fn replicas_of<'a>(facts: &'a Facts<'_>, shard: &ShardFacts) -> Vec<(NodeId, &'a Member)> {
    let spec = facts
        .config
        .groups
        .iter()
        .find(|spec| spec.group == shard.group);
    let mut nodes: Vec<NodeId> =
        spec.map_or(Vec::new(), |spec| spec.replicas.values().copied().collect());
    nodes.retain(|node| {
        let named = |shard| shard_node(facts, shard).is_some_and(|(primary, _)| primary == *node);
        !facts.shards.iter().any(named)
    });
    let with_member = |node: NodeId| Some((node, facts.config.members.get(&node)?));
    nodes.into_iter().filter_map(with_member).collect()
}

/// CLUSTER SLOTS: ranges with the address and name of who serves them, and of their replicas.
fn slots(facts: &Facts<'_>, replies: &mut Replies<'_>) {
    let with_primary = |shard| Some((shard, shard_node(facts, shard)?));
    let shards = facts.shards.iter().filter_map(with_primary);
    let mut runs: Vec<_> = shards
        .flat_map(|(shard, primary)| shard.slots.runs().map(move |run| (run, shard, primary)))
        .collect();
    runs.sort_by_key(|(run, _, _)| *run);
    replies.array(runs.len());
    for ((first, last), shard, primary) in runs {
        let replicas = replicas_of(facts, shard);
        replies.array(3 + replicas.len());
        replies.integer(i64::from(first));
        replies.integer(i64::from(last));
        for (node, member) in std::iter::once(primary).chain(replicas) {
            replies.array(4);
            replies.bulk(member.host.as_bytes());
            replies.integer(i64::from(member.port));
            replies.bulk(node_name(facts.config.cluster, node).as_bytes());
            // Other names of the node: none.
            replies.map(0);
        }
    }
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
        let primary = shard_node(facts, shard).map(|node| (node, "master"));
        let replicas = replicas_of(facts, shard);
        let replicas = replicas.into_iter().map(|node| (node, "replica"));
        let nodes: Vec<_> = primary.into_iter().chain(replicas).collect();
        replies.array(nodes.len());
        for ((node, member), role) in nodes {
            shard_member(facts, shard, node, member, role, replies);
        }
    }
}

/// One node of a shard in CLUSTER SHARDS.
fn shard_member(
    facts: &Facts<'_>,
    shard: &ShardFacts,
    node: NodeId,
    member: &Member,
    role: &str,
    replies: &mut Replies<'_>,
) {
    // Of a replica it is not known here how it does: it is asked, and then answers or does not.
    let online = shard.primary_known || role == "replica";
    replies.map(7);
    replies.bulk(b"id");
    replies.bulk(node_name(facts.config.cluster, node).as_bytes());
    replies.bulk(b"port");
    replies.integer(i64::from(member.port));
    replies.bulk(b"ip");
    replies.bulk(member.host.as_bytes());
    replies.bulk(b"endpoint");
    replies.bulk(member.host.as_bytes());
    replies.bulk(b"role");
    replies.bulk(role.as_bytes());
    replies.bulk(b"replication-offset");
    replies.integer(i64::try_from(shard.applied).unwrap_or(i64::MAX));
    replies.bulk(b"health");
    replies.bulk(if online { &b"online"[..] } else { &b"fail"[..] });
}

/// Whose replica a node is named as, if it is.
fn primary_of(facts: &Facts<'_>, node: NodeId) -> Option<NodeId> {
    let is_replica = |shard: &&ShardFacts| {
        let mut replicas = replicas_of(facts, shard).into_iter();
        replicas.any(|(replica, _)| replica == node)
    };
    let shard = facts.shards.iter().find(is_replica)?;
    shard_node(facts, shard).map(|(primary, _)| primary)
}

/// CLUSTER NODES: one line a node.
fn nodes(facts: &Facts<'_>) -> String {
    let lines = facts.config.members.iter();
    lines
        .map(|(node, member)| node_line(facts, *node, member) + "\n")
        .collect()
}

/// `id host:port@bus flags primary ping pong epoch link slots`.
fn node_line(facts: &Facts<'_>, node: NodeId, member: &Member) -> String {
    let cluster = facts.config.cluster;
    let terms = facts.shards.iter().map(|shard| shard.term);
    let myself = if node == facts.config.node {
        "myself,"
    } else {
        ""
    };
    let (role, primary) = match primary_of(facts, node) {
        Some(primary) => ("slave", node_name(cluster, primary)),
        None => ("master", "-".to_owned()),
    };
    let mut line = format!(
        "{} {}:{}@{} {myself}{role} {primary} 0 0 {} connected",
        node_name(cluster, node),
        member.host,
        member.port,
        member.peer_port,
        terms.max().unwrap_or(0),
    );
    for shard in facts.shards {
        if shard_node(facts, shard).is_some_and(|(serves, _)| serves == node) {
            line.extend(shard.slots.runs().map(range_text));
        }
    }
    line
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
    let mine = facts
        .shards
        .iter()
        .find(|shard| shard.primary == Some(facts.config.node));
    match mine.or(facts.shards.first()) {
        Some(shard) => replies.bulk(shard_name(facts.config.cluster, shard.group).as_bytes()),
        None => replies.error("ERR this node holds no shard"),
    }
}
