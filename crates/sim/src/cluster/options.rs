//! What one seed is about: the size of the cluster, its limits, and which dangers it meets.
//!
//! Every seed leaves most dangers out. A run in which everything fails all the time never gets deep
//! into any one of them: nodes that are always being killed never fill a log, and a full disk hides
//! what a failed sync would have shown.

use std::sync::Arc;
use std::time::Duration;

use kvorum_base::{GroupId, NodeId, Planted, Prng};
use kvorum_cluster::{Address, Addresses};
use kvorum_node::log::LogOptions;
use kvorum_node::{Config, Door, Member};

use super::founding::CLUSTER;
use crate::world::ms;

/// The first group of the simulated cluster; often the only one.
pub const GROUP: GroupId = GroupId(1);

/// The port of node 0; a redirect names the node by it.
pub const PORT_BASE: u16 = 7000;

/// The wall clock at the start of every simulation, in Unix milliseconds.
pub const WALL_START_MS: u64 = 1_700_000_000_000;

/// How long a node may be silent before its replicas are put elsewhere: not so long that it never happens.
const NODE_DEAD_MS: u64 = 3_000;

/// A kind of misfortune.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Danger {
    /// Links between nodes are cut: one node off, a split, one direction, a bridge.
    Partition,
    /// The leader is cut off from the other nodes, and not from clients.
    LonelyLeader,
    /// Frames are lost, delayed, mixed up and repeated.
    Weather,
    /// A process stands still, and goes on.
    Pause,
    /// A process is killed; what it wrote stays readable.
    Kill,
    /// One node loses its power.
    PowerCut,
    /// All nodes lose their power at once.
    PowerCutOfAll,
    /// Several leaders in a row are killed soon after they were elected.
    FallingLeaders,
    /// A process is killed, restarts, and soon the power fails.
    KillThenPowerCut,
    /// A bit of the synced log flips.
    FlipLog,
    /// A bit of a snapshot flips.
    FlipSnapshot,
    /// Syncs take long.
    SlowDisk,
    /// A sync does not come back for seconds.
    HangingDisk,
    /// There is no room.
    FullDisk,
    /// A sync fails.
    FailedSync,
    /// A wall clock jumps.
    ClockJump,
    /// An operator hands leadership over.
    Transfer,
    /// An operator asks for a snapshot.
    Snapshot,
    /// An operator restarts a node in good order.
    Shutdown,
    /// A node's directory is emptied.
    Wipe,
    /// Clients' connections break.
    Disconnect,
}

impl Danger {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Partition,
        Self::LonelyLeader,
        Self::Weather,
        Self::Pause,
        Self::Kill,
        Self::PowerCut,
        Self::PowerCutOfAll,
        Self::FallingLeaders,
        Self::KillThenPowerCut,
        Self::FlipLog,
        Self::FlipSnapshot,
        Self::SlowDisk,
        Self::HangingDisk,
        Self::FullDisk,
        Self::FailedSync,
        Self::ClockJump,
        Self::Transfer,
        Self::Snapshot,
        Self::Shutdown,
        Self::Wipe,
        Self::Disconnect,
    ];

    /// Whether a cluster of one node can meet it and come back.
    pub(crate) fn suits_one_node(self) -> bool {
        !matches!(
            self,
            Self::Partition
                | Self::LonelyLeader
                | Self::Weather
                | Self::FlipLog
                | Self::FlipSnapshot
                | Self::Wipe
                | Self::Transfer
        )
    }
}

/// What one simulation is about.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed; everything else follows from it.
    pub seed: u64,
    /// How many nodes the cluster begins with.
    pub nodes: usize,
    /// How many more there are, which hold nothing at first.
    pub spares: usize,
    /// Whether replicas, shards and nodes come and go.
    pub changes: bool,
    /// How many shards it begins with; each has a replica on every node of the beginning.
    pub shards: u64,
    /// Whether a shard manager, if there is anything for it to do, is a group of the nodes. See
    /// [`Options::seats`].
    pub is_seated: bool,
    /// How many routers there are.
    pub routers: usize,
    /// The dangers that it meets.
    pub dangers: Vec<Danger>,
    /// How long the storm lasts at least.
    pub storm: Duration,
    /// How many operations clients ask for at least.
    pub operations_min: u64,
    /// How many clients there are.
    pub clients: usize,
    /// The longest pause of a client between two requests.
    pub think_max: Duration,
    /// The longest time between two misfortunes.
    pub calm_max: Duration,
    /// How long a frame between two nodes takes in good weather.
    pub latency: Duration,
    /// The longest time from an event to the turn that takes it in.
    pub turn_delay_max: Duration,
    /// Length of a tick.
    pub tick_ms: u64,
    /// Size of a log segment in bytes.
    pub segment_bytes: u32,
    /// Above this many bytes of segments a node makes room in its log.
    pub log_bytes_target: u64,
    /// After how many bytes of log a snapshot is taken.
    pub snapshot_after: u64,
    /// Bytes of entries in one message.
    pub append_bytes: usize,
    /// Bytes of a snapshot in one message.
    pub chunk_bytes: usize,
    /// Bytes of entries kept in memory.
    pub log_cache_bytes: u64,
    /// How long a request waits before it is refused or unknown.
    pub deadline_ms: u64,
    /// The longest big value in bytes.
    pub big_value_max: u64,
    /// The bug of every node, in a build for that.
    pub planted: Planted,
}

impl Options {
    /// What this seed is about.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut prng = Prng::new(seed ^ 0x5377_6172_6d00_0001);
        let nodes = *prng.pick(&[1, 3, 3, 3, 3, 3, 3, 5, 5]).expect("a choice");
        let per_mille = prng.range(150, 700);
        let dangers = Danger::ALL
            .iter()
            .copied()
            .filter(|danger| nodes > 1 || danger.suits_one_node())
            .filter(|_| prng.chance(per_mille, 1000))
            .collect();
        let changes = nodes > 1 && draw_changes(seed);
        let segment_bytes = *prng.pick(&[32 << 10, 64 << 10, 256 << 10]).expect("one");
        Self {
            seed,
            nodes,
            spares: if changes { 3 } else { 0 },
            changes,
            shards: draw_shards(seed),
            is_seated: draw_seated(seed),
            routers: draw_routers(seed),
            dangers,
            storm: Duration::from_secs(60),
            operations_min: 2_000,
            clients: prng.range(4, 8) as usize,
            think_max: ms(prng.range(40, 120)),
            calm_max: ms(*prng.pick(&[500, 2_000, 5_000]).expect("one")),
            latency: Duration::from_micros(prng.range(50, 3_000)),
            turn_delay_max: Duration::from_micros(prng.range(1, 400)),
            tick_ms: *prng.pick(&[10, 10, 20, 5]).expect("one"),
            segment_bytes,
            log_bytes_target: 8 * u64::from(segment_bytes),
            snapshot_after: *prng
                .pick(&[u64::from(segment_bytes), 128 << 10, 1 << 20])
                .expect("one"),
            append_bytes: *prng.pick(&[1, 2 << 10, 64 << 10]).expect("one"),
            chunk_bytes: *prng.pick(&[600, 4 << 10, 256 << 10]).expect("one"),
            log_cache_bytes: *prng.pick(&[512, 8 << 10, 64 << 10, 1 << 20]).expect("one"),
            deadline_ms: prng.range(1_000, 5_000),
            big_value_max: u64::from(segment_bytes) / 24,
            planted: Planted::default(),
        }
    }

    /// How many machines there are.
    #[must_use]
    pub fn machines(&self) -> usize {
        self.nodes + self.spares
    }

    /// Whether a shard manager has anything to do.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.shards > 1 || self.changes
    }

    /// Whether the nodes hold the shard manager's group. If not, its state is kept beside them.
    #[must_use]
    pub fn seats(&self) -> bool {
        self.is_seated && self.is_managed()
    }

    /// Replicas, shards and nodes come and go, if there are nodes for it.
    pub fn make_changes(&mut self) {
        if self.nodes > 1 {
            (self.changes, self.spares) = (true, 3);
        }
    }

    /// Whether this danger is met.
    #[must_use]
    pub fn has(&self, danger: Danger) -> bool {
        self.dangers.contains(&danger)
    }

    /// What node `node` (from 0) is told in its life number `life`.
    #[must_use]
    pub fn config(&self, node: usize, life: u64) -> Config {
        // Of nodes that come later one learns later.
        let ids = (1..=self.nodes as u64).filter(|id| NodeId(*id) != node_id(node));
        let ids = ids.chain([node_id(node).get()]);
        Config {
            node: node_id(node),
            cluster: CLUSTER,
            incarnation: life,
            hash_key: [7; 16],
            members: ids
                .map(|id| (NodeId(id), Member::from(&addresses_of(NodeId(id)))))
                .collect(),
            groups: self.specs(),
            announces_replicas: true,
            founding: self.seats().then(|| Arc::new(self.plan())),
            known: None,
            node_dead_ticks: NODE_DEAD_MS / self.tick_ms,
            move_bytes_per_tick: None,
            password: None,
            tick_ms: self.tick_ms,
            heartbeat_ticks: (100 / self.tick_ms) as u32,
            election_ticks_min: (500 / self.tick_ms) as u32,
            election_ticks_max: (1000 / self.tick_ms) as u32,
            deadline_ticks: self.deadline_ms / self.tick_ms,
            checkpoint_ticks: 1000 / self.tick_ms,
            memory_bytes_max: None,
            clock_skew_ms_max: 1_000,
            log: LogOptions {
                salt: node as u64,
                target_bytes: self.log_bytes_target,
                planted: self.planted,
                ..LogOptions::small(self.segment_bytes)
            },
            snapshot_after_log_bytes: self.snapshot_after,
            append_bytes_max: self.append_bytes,
            chunk_bytes: self.chunk_bytes,
            log_cache_bytes: self.log_cache_bytes,
            planted: self.planted,
        }
    }
}

/// Half of the seeds are about one shard: there misfortunes get deepest.
fn draw_shards(seed: u64) -> u64 {
    let mut prng = Prng::new(seed ^ 0x5368_6172_6473_0001);
    *prng.pick(&[1, 1, 1, 2, 2, 3]).expect("a choice")
}

/// In half of the seeds replicas come and go; in the others misfortunes get deepest.
fn draw_changes(seed: u64) -> bool {
    Prng::new(seed ^ 0x4368_616e_6765_0001).chance(1, 2)
}

/// In half of the seeds with a shard manager it is a group like others, with all that this brings; in the
/// others orders are stranger than any plan, since chance gives them.
fn draw_seated(seed: u64) -> bool {
    Prng::new(seed ^ 0x5365_6174_6564_0001).chance(1, 2)
}

/// In half of the seeds there are routers, and half of the clients use them.
fn draw_routers(seed: u64) -> usize {
    let mut prng = Prng::new(seed ^ 0x526F_7574_6572_0001);
    *prng.pick(&[0, 0, 1, 2]).expect("a choice")
}

/// The id of node `node`, counted from 0.
#[must_use]
pub fn node_id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

/// The node whose port this is, from 0, and which of its ports it is.
pub(super) fn door_at(address: &str) -> (usize, Door) {
    let port = address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let port: u16 = port.expect("addresses have ports");
    match port - PORT_BASE - 1 {
        node @ 0..50 => (usize::from(node), Door::Primary),
        node => (usize::from(node - 50), Door::Replica),
    }
}

/// Where a node is reached.
#[must_use]
pub fn addresses_of(node: NodeId) -> Addresses {
    let port = PORT_BASE + node.get() as u16;
    let at = |port| Address {
        host: "127.0.0.1".to_owned(),
        port,
    };
    Addresses {
        client: at(port),
        replica: at(port + 50),
        peer: at(port + 100),
        http: at(port + 200),
        other_names: Vec::new(),
    }
}
