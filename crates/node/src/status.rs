//! What a node says of itself, as plain data: for INFO, the HTTP interface and the simulator.

use kvorum_base::{GroupId, MoveId, NodeId, ReplicaId};

/// A picture of a node at one moment.
#[derive(Clone, Default, Debug)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its name in the form of Redis: 40 hexadecimal digits.
    pub name: String,
    /// How often it was started.
    pub incarnation: u64,
    /// What the shell last said of the process.
    pub process: Process,
    /// The port for clients.
    pub port: u16,
    /// Milliseconds since its start, by ticks.
    pub uptime_ms: u64,
    /// Whether the node lost promises and stays silent; then why.
    pub lost: Option<String>,
    /// Whether it is handing over in order to end.
    pub stopping: bool,
    /// Whether writes are refused because the log has no room.
    pub disk_full: bool,
    /// Ticks for which the oldest sync has been outstanding.
    pub sync_outstanding_ticks: u64,
    /// Open client connections.
    pub connections: u64,
    /// Requests that wait for a primary.
    pub held: u64,
    /// The memory limit in logical bytes.
    pub memory_bytes_max: Option<u64>,
    /// When the last snapshot was stored, in Unix milliseconds; 0 for never.
    pub last_snapshot_ms: u64,
    /// The last attempt to store a snapshot failed.
    pub snapshot_failed: bool,
    /// Commands in the last full second.
    pub commands_per_second: u64,
    /// What only ever grows.
    pub counters: Counters,
    /// Moves from groups that this node leads.
    pub moves: Vec<MoveStatus>,
    /// The replica of the shard manager, if one is here.
    pub manager: Option<GroupStatus>,
    /// The shards that have a replica here.
    pub groups: Vec<GroupStatus>,
}

/// What only the shell knows of the process.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Process {
    /// The process id.
    pub id: u32,
    /// Its resident memory in bytes.
    pub memory_bytes: u64,
    /// Processor time in user mode, in microseconds.
    pub cpu_user_us: u64,
    /// Processor time in the kernel, in microseconds.
    pub cpu_system_us: u64,
    /// How many client connections are admitted.
    pub connections_max: u64,
    /// How many were turned away.
    pub connections_refused: u64,
    /// Bytes written to clients.
    pub output_bytes: u64,
}

/// What only ever grows.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Connections opened.
    pub connections_opened: u64,
    /// Requests taken.
    pub commands: u64,
    /// Of these, reads of the keyspace.
    pub reads: u64,
    /// Of these, writes.
    pub writes: u64,
    /// Error replies.
    pub errors: u64,
    /// Requests answered by a redirect.
    pub redirects: u64,
    /// Writes whose outcome was called unknown.
    pub unknown: u64,
    /// Bytes read from clients.
    pub input_bytes: u64,
    /// Keys removed after their time.
    pub expired_keys: u64,
    /// Entries applied.
    pub entries_applied: u64,
    /// Commands applied.
    pub commands_applied: u64,
    /// Log batches written.
    pub log_batches: u64,
    /// Log bytes written.
    pub log_bytes: u64,
    /// Terms that began while this node ran, over all groups.
    pub elections: u64,
    /// Times that this node became a primary.
    pub elected: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Frames sent to peers.
    pub frames_sent: u64,
    /// Frames taken from peers.
    pub frames_received: u64,
    /// Frames of peers that could not be read.
    pub frames_malformed: u64,
    /// Snapshots stored.
    pub snapshots_stored: u64,
    /// Snapshots of others installed.
    pub snapshots_installed: u64,
    /// Pieces of leaders' snapshots, but for the first of each.
    pub snapshot_pieces: u64,
    /// Snapshots that a leader sent and that could not be read.
    pub snapshots_unreadable: u64,
    /// Uncommitted entries dropped because a newer leader had others.
    pub truncations: u64,
    /// Checkpoints at which a replica disagreed.
    pub divergences: u64,
    /// Bytes of pieces sent for moves.
    pub move_bytes: u64,
    /// Streams that arrived and were not what the source had.
    pub moves_broken: u64,
    /// Streams that were begun anew, under a higher number.
    pub streams_anew: u64,
    /// Steps of moves that were applied.
    pub move_steps: u64,
    /// Commands that were refused when they were applied, since their slot was not served any more.
    pub refused_at_apply: u64,
    /// Live entries of idle groups that were carried to the head of the log.
    pub carries: u64,
    /// Replicas made here by order.
    pub replicas_made: u64,
    /// Replicas deleted here by order.
    pub replicas_deleted: u64,
    /// Orders whose refusal was applied.
    pub orders_refused: u64,
}

/// How far a move is, as its source's primary knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveStatus {
    /// The move.
    pub id: MoveId,
    /// The group that has the slots.
    pub from: GroupId,
    /// The group that gets the slots.
    pub to: GroupId,
    /// How many slots.
    pub slots: u32,
    /// Which stream this is; each primary begins one.
    pub attempt: u32,
    /// Whether the slots are sealed: the end is near.
    pub is_sealed: bool,
    /// Bytes sent in this stream.
    pub sent_bytes: u64,
    /// Logical bytes of the slots as they are now.
    pub bytes: u64,
    /// For how long the stream has been running, in milliseconds.
    pub since_ms: u64,
}

/// A picture of one replica.
#[derive(Clone, Default, Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// This replica.
    pub replica: ReplicaId,
    /// Its role: leader, follower, candidate, learner, or waiting for a snapshot.
    pub role: &'static str,
    /// Whether it leads.
    pub leading: bool,
    /// The node of the leader, as far as known.
    pub primary: Option<NodeId>,
    /// The slots that it serves: first and last of each run.
    pub slots: Vec<(u16, u16)>,
    /// The term.
    pub term: u64,
    /// The commit index.
    pub commit: u64,
    /// The applied index.
    pub applied: u64,
    /// The last index of the log.
    pub last: u64,
    /// The term of the entry there.
    pub last_term: u64,
    /// The nodes of its voters, as its log has them.
    pub voters: Vec<NodeId>,
    /// Whether it once went on with one replica, since its majority was lost.
    pub is_recovered: bool,
    /// Keys, expired ones that are not removed yet included.
    pub keys: u64,
    /// Keys with a time to live.
    pub expiring_keys: u64,
    /// Bytes of keys and values.
    pub logical_bytes: u64,
    /// The hash of the whole state.
    pub state_hash: u64,
    /// The logged clock, in Unix milliseconds.
    pub clock_ms: u64,
    /// Whether a snapshot file is being written.
    pub snapshot_running: bool,
    /// The last entry that the newest durable snapshot covers.
    pub snapshot_index: u64,
    /// If it leads: what it knows of the others.
    pub followers: Vec<FollowerStatus>,
}

/// What a leader knows of a follower.
#[derive(Clone, Debug)]
pub struct FollowerStatus {
    /// The replica.
    pub replica: ReplicaId,
    /// Its node.
    pub node: NodeId,
    /// The last entry known to be on its disk.
    pub matched: u64,
    /// Ticks since it was last heard.
    pub silent_ticks: u64,
}
