//! What a node is told at its start.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvorum_base::{ClusterId, GroupId, NodeId, Planted, ReplicaId, SlotSet};
use kvorum_cluster::Addresses;

/// Everything that a node is told at its start. Times are in ticks.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// How often this node was started; part of its boot identity.
    pub incarnation: u64,
    /// The key of the cluster's hash, the same on every replica: with a public one anybody could
    /// make keys that all fall into one bucket.
    pub hash_key: [u8; 16],
    /// All nodes, this one included.
    pub members: BTreeMap<NodeId, Member>,
    /// The groups that this node was made a member of when the cluster was made.
    pub groups: Vec<GroupSpec>,
    /// Whether clients are told where replicas are, for reads.
    pub announces_replicas: bool,
    /// The cluster as it was made, for the nodes that hold a replica of the shard manager from the beginning.
    pub founding: Option<Arc<kvorum_cluster::Plan>>,
    /// The shard manager's state that this node knew in its last life. As good as told late.
    pub known: Option<Arc<kvorum_cluster::State>>,
    /// How long a node may be silent before its replicas are put elsewhere.
    pub node_dead_ticks: u64,
    /// The password of the default user; `None` for none.
    pub password: Option<String>,
    /// How long a tick is, in milliseconds.
    pub tick_ms: u64,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: u32,
    /// The shortest time without a primary after which a replica stands for election.
    pub election_ticks_min: u32,
    /// The longest such time.
    pub election_ticks_max: u32,
    /// How long a request may wait before it is refused or its outcome is called unknown.
    pub deadline_ticks: u64,
    /// Ticks between state checkpoints of a group that has changed.
    pub checkpoint_ticks: u64,
    /// The memory limit of the keyspace in logical bytes; `None` for none.
    pub memory_bytes_max: Option<u64>,
    /// How far this node's wall clock may be from the median before it refuses to lead, in
    /// milliseconds.
    pub clock_skew_ms_max: u64,
    /// The write-ahead log's options.
    pub log: crate::log::LogOptions,
    /// Replaces [`crate::limits::SNAPSHOT_AFTER_LOG_BYTES`].
    pub snapshot_after_log_bytes: u64,
    /// Bytes of entries in one message to a follower; one entry larger than this travels alone.
    pub append_bytes_max: usize,
    /// Bytes of a snapshot in one message to a follower.
    pub chunk_bytes: usize,
    /// Replaces [`crate::limits::LOG_CACHE_BYTES`].
    pub log_cache_bytes: u64,
    /// How many bytes of moves are sent in a tick by all groups here; `None` for as many as the targets take.
    pub move_bytes_per_tick: Option<u64>,
    /// The bug of this node, in a build for the simulator.
    pub planted: Planted,
}

/// A node as the others know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Where clients reach it: host name or address.
    pub host: String,
    /// The port for clients: the node as primary.
    pub port: u16,
    /// Where clients reach its replicas: host name or address.
    pub replica_host: String,
    /// The port for clients that read from replicas.
    pub replica_port: u16,
    /// The port for the other nodes.
    pub peer_port: u16,
    /// The port of the HTTP interface.
    pub http_port: u16,
}

impl From<&Addresses> for Member {
    fn from(addresses: &Addresses) -> Self {
        let Addresses {
            client,
            replica,
            peer,
            http,
            other_names: _,
        } = addresses;
        Self {
            host: client.host.clone(),
            port: client.port,
            replica_host: replica.host.clone(),
            replica_port: replica.port,
            peer_port: peer.port,
            http_port: http.port,
        }
    }
}

/// A group at the making of its cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    /// The group.
    pub group: GroupId,
    /// The slots that it serves from its beginning on.
    pub slots: Arc<SlotSet>,
    /// Its replicas and where they live.
    pub replicas: BTreeMap<ReplicaId, NodeId>,
    /// Where its primary should be when all are well, so that primaries are spread evenly; `None` if it
    /// does not matter.
    pub preferred: Option<NodeId>,
}

impl GroupSpec {
    /// The replica of this group on that node.
    #[must_use]
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.replicas
            .iter()
            .find(|(_, on)| **on == node)
            .map(|(replica, _)| *replica)
    }
}
