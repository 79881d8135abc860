//! What a node says of itself over HTTP: the JSON of `/api/v1/status`.

use std::collections::BTreeMap;

use kvorum_node::status::{Counters, Status};
use serde::{Deserialize, Serialize};

use crate::config::Advertised;
use crate::lane::TICK;
use crate::metrics::Page;

/// One node.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its id.
    pub node: u64,
    /// How often it was started.
    pub incarnation: u64,
    /// Milliseconds since its start.
    pub uptime_ms: u64,
    /// Why it is out of service for good, if it is.
    pub lost: Option<String>,
    /// Whether it is handing over in order to end.
    pub stopping: bool,
    /// Whether writes are refused since the log has no room.
    pub disk_full: bool,
    /// For how long the oldest sync has been outstanding, in milliseconds.
    pub sync_outstanding_ms: u64,
    /// Open client connections.
    pub connections: u64,
    /// Commands in the last full second.
    pub commands_per_second: u64,
    /// Moves from shards that this node leads.
    pub moves: Vec<MoveStatus>,
    /// The replica of the shard manager, if one is here.
    pub manager: Option<GroupStatus>,
    /// The shards that have a replica here.
    pub groups: Vec<GroupStatus>,
    /// What only ever grows, by name.
    pub counters: BTreeMap<String, u64>,
}

/// A move of slots, as the node knows it that sends them.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveStatus {
    /// Its number.
    pub id: u64,
    /// From this shard.
    pub from: u64,
    /// To this one.
    pub to: u64,
    /// So many slots.
    pub slots: u32,
    /// The number of the stream: each primary begins one.
    pub attempt: u32,
    /// `sending` or `sealed`.
    pub phase: String,
    /// Bytes sent in this stream.
    pub sent_bytes: u64,
    /// Bytes of the slots now.
    pub bytes: u64,
    /// For how long it has been sending, in milliseconds.
    pub since_ms: u64,
}

impl From<&kvorum_node::status::MoveStatus> for MoveStatus {
    fn from(moving: &kvorum_node::status::MoveStatus) -> Self {
        Self {
            id: moving.id.get(),
            from: moving.from.get(),
            to: moving.to.get(),
            slots: moving.slots,
            attempt: moving.attempt,
            phase: if moving.is_sealed {
                "sealed"
            } else {
                "sending"
            }
            .to_owned(),
            sent_bytes: moving.sent_bytes,
            bytes: moving.bytes,
            since_ms: moving.since_ms,
        }
    }
}

impl MoveStatus {
    /// Bytes a second, since it began.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.sent_bytes * 1000 / self.since_ms.max(1)
    }

    /// Seconds until all is sent once, at that rate; nothing while there is none.
    #[must_use]
    pub fn left_s(&self) -> Option<u64> {
        let left = self.bytes.saturating_sub(self.sent_bytes);
        left.checked_div(self.rate())
    }
}

/// One replica.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupStatus {
    /// The group.
    pub group: u64,
    /// This replica.
    pub replica: u64,
    /// Its role.
    pub role: String,
    /// The node of the primary, as far as known here.
    pub primary: Option<u64>,
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
    pub voters: Vec<u64>,
    /// Whether it once went on with one replica, since its majority was lost.
    pub recovered: bool,
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub logical_bytes: u64,
    /// The hash of the whole state, in hexadecimal digits.
    pub state_hash: String,
    /// The last entry that the newest durable snapshot covers.
    pub snapshot_index: u64,
    /// If it leads: the others.
    pub followers: Vec<FollowerStatus>,
}

/// One number of a replica.
type GroupValue = fn(&GroupStatus) -> u64;

/// What a primary knows of another replica.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct FollowerStatus {
    /// The replica.
    pub replica: u64,
    /// Its node.
    pub node: u64,
    /// The last entry known to be on its disk.
    pub matched: u64,
    /// Milliseconds since it was last heard from.
    pub silent_ms: u64,
}

impl From<&Status> for NodeStatus {
    fn from(status: &Status) -> Self {
        let tick_ms = TICK.as_millis() as u64;
        Self {
            node: status.node.get(),
            incarnation: status.incarnation,
            uptime_ms: status.uptime_ms,
            lost: status.lost.clone(),
            stopping: status.stopping,
            disk_full: status.disk_full,
            sync_outstanding_ms: status.sync_outstanding_ticks * tick_ms,
            connections: status.connections,
            commands_per_second: status.commands_per_second,
            moves: status.moves.iter().map(MoveStatus::from).collect(),
            manager: status.manager.as_ref().map(GroupStatus::from),
            groups: status.groups.iter().map(GroupStatus::from).collect(),
            counters: counters(&status.counters),
        }
    }
}

fn counters(counters: &Counters) -> BTreeMap<String, u64> {
    [
        ("connections", counters.connections_opened),
        ("commands", counters.commands),
        ("reads", counters.reads),
        ("writes", counters.writes),
        ("errors", counters.errors),
        ("redirects", counters.redirects),
        ("unknown", counters.unknown),
        ("expired_keys", counters.expired_keys),
        ("entries_applied", counters.entries_applied),
        ("commands_applied", counters.commands_applied),
        ("log_batches", counters.log_batches),
        ("elections", counters.elections),
        ("elected", counters.elected),
        ("frames_malformed", counters.frames_malformed),
        ("snapshots_installed", counters.snapshots_installed),
        ("truncations", counters.truncations),
        ("divergences", counters.divergences),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

impl From<&kvorum_node::status::GroupStatus> for GroupStatus {
    fn from(group: &kvorum_node::status::GroupStatus) -> Self {
        let follower = |follower: &kvorum_node::status::FollowerStatus| FollowerStatus {
            replica: follower.replica.get(),
            node: follower.node.get(),
            matched: follower.matched,
            silent_ms: follower.silent_ticks * TICK.as_millis() as u64,
        };
        Self {
            group: group.group.get(),
            replica: group.replica.get(),
            role: group.role.to_owned(),
            primary: group.primary.map(kvorum_base::NodeId::get),
            slots: group.slots.clone(),
            term: group.term,
            commit: group.commit,
            applied: group.applied,
            last: group.last,
            last_term: group.last_term,
            voters: group.voters.iter().map(|node| node.get()).collect(),
            recovered: group.is_recovered,
            keys: group.keys,
            logical_bytes: group.logical_bytes,
            state_hash: format!("{:016x}", group.state_hash),
            snapshot_index: group.snapshot_index,
            followers: group.followers.iter().map(follower).collect(),
        }
    }
}

impl NodeStatus {
    /// Whether clients get answers here: directly, or a redirect to a primary.
    ///
    /// # Errors
    /// With the reason why not.
    pub fn ready(&self) -> Result<(), String> {
        if let Some(reason) = &self.lost {
            return Err(format!("out of service: {reason}"));
        }
        if self.stopping {
            return Err("stopping".to_owned());
        }
        if self.groups.is_empty() {
            return Err("no group has a replica here yet".to_owned());
        }
        match self.groups.iter().find(|group| group.primary.is_none()) {
            // A start writes what it found once more before it promises anything.
            Some(_) if self.disk_full => Err("the disk is full".to_owned()),
            Some(group) => Err(format!("group {} has no primary", group.group)),
            None => Ok(()),
        }
    }
}

impl NodeStatus {
    /// Writes it for Prometheus.
    pub fn write_metrics(&self, page: &mut Page) {
        for (name, value) in &self.counters {
            let name = format!("{name}_total");
            page.family(&name, "Counted by the core.", "counter");
            page.sample(&name, &[], value);
        }
        let gauges: [(&str, &str, u64); 5] = [
            (
                "uptime_seconds",
                "Seconds since the start.",
                self.uptime_ms / 1000,
            ),
            (
                "commands_per_second",
                "Commands in the last second.",
                self.commands_per_second,
            ),
            (
                "disk_full",
                "Whether the log has no room.",
                u64::from(self.disk_full),
            ),
            (
                "lost",
                "Whether the node is out of service for good.",
                u64::from(self.lost.is_some()),
            ),
            (
                "sync_outstanding_ms",
                "Age of the oldest sync.",
                self.sync_outstanding_ms,
            ),
        ];
        for (name, help, value) in gauges {
            page.family(name, help, "gauge");
            page.sample(name, &[], value);
        }
        self.write_moves(page);
        self.write_groups(page);
    }

    fn write_moves(&self, page: &mut Page) {
        page.family("moves_open", "Moves that send from here.", "gauge");
        page.sample("moves_open", &[], self.moves.len());
        page.family(
            "move_sent_bytes",
            "Bytes sent of the moves that send from here.",
            "gauge",
        );
        let sent: u64 = self.moves.iter().map(|moving| moving.sent_bytes).sum();
        page.sample("move_sent_bytes", &[], sent);
    }

    fn write_groups(&self, page: &mut Page) {
        let by_group: [(&str, &str, GroupValue); 8] = [
            ("group_leading", "Whether this replica leads.", |group| {
                u64::from(group.role == "leader")
            }),
            (
                "group_has_primary",
                "Whether a primary is known.",
                |group| u64::from(group.primary.is_some()),
            ),
            ("group_term", "The term.", |group| group.term),
            ("group_commit_index", "The commit index.", |group| {
                group.commit
            }),
            ("group_applied_index", "The applied index.", |group| {
                group.applied
            }),
            ("group_last_index", "The last index of the log.", |group| {
                group.last
            }),
            ("group_keys", "Keys.", |group| group.keys),
            (
                "group_logical_bytes",
                "Bytes of keys and values.",
                |group| group.logical_bytes,
            ),
        ];
        for (name, help, value) in by_group {
            page.family(name, help, "gauge");
            for group in &self.groups {
                page.sample(name, &[("group", &group.group.to_string())], value(group));
            }
        }
    }
}

/// One process: the answer of `/api/v1/status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// `uninitialised`, `prepared`, `starting` or `started`.
    pub state: String,
    /// The version of the program.
    pub version: String,
    /// The process id.
    pub pid: u32,
    /// The cluster's id, if it belongs to one.
    pub cluster: Option<String>,
    /// All nodes of the cluster.
    pub members: Vec<Member>,
    /// Where this one is reached.
    pub addresses: Advertised,
    /// Whether clients get answers here.
    pub ready: bool,
    /// If not, why.
    pub reason: Option<String>,
    /// What the lane last said of itself.
    pub status: Option<NodeStatus>,
}

/// One node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub node: u64,
    /// Where it is reached.
    pub addresses: Advertised,
}
