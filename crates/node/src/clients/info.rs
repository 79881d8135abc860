//! INFO: the facts that Redis tools read, with the names they know.

use std::fmt::Write as _;

use crate::config::Member;
use crate::status::{GroupStatus, Status};

use kvorum_clients::handshake::REDIS_VERSION;

/// The sections, in order, and whether plain INFO shows them.
const SECTIONS: &[(&str, bool)] = &[
    ("server", true),
    ("clients", true),
    ("memory", true),
    ("persistence", true),
    ("stats", true),
    ("replication", true),
    ("cpu", true),
    ("modules", true),
    ("errorstats", true),
    ("cluster", true),
    ("keyspace", true),
    ("raft", true),
];

/// The text of INFO for these section names; none means the default ones. At the port for replicas, `primary`
/// is where the primary of what it answers for is.
pub(crate) fn info(status: &Status, primary: Option<(&Member, u64)>, wanted: &[String]) -> String {
    let all = wanted
        .iter()
        .any(|name| name == "all" || name == "everything");
    let default = wanted.is_empty() || wanted.iter().any(|name| name == "default");
    let mut text = String::new();
    for (section, in_default) in SECTIONS {
        let named = wanted.iter().any(|name| name == section);
        if !(named || all || (default && *in_default)) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        match (*section, primary) {
            ("replication", Some((primary, applied))) => {
                replica_replication(status, primary, applied, &mut text);
            }
            _ => write_section(status, section, &mut text),
        }
    }
    text
}

fn write_section(status: &Status, section: &str, text: &mut String) {
    match section {
        "server" => server(status, text),
        "clients" => clients(status, text),
        "memory" => memory(status, text),
        "persistence" => persistence(status, text),
        "stats" => stats(status, text),
        "replication" => replication(status, text),
        "cpu" => cpu(status, text),
        "modules" => text.push_str("# Modules\r\n"),
        "errorstats" => text.push_str("# Errorstats\r\n"),
        "cluster" => text.push_str("# Cluster\r\ncluster_enabled:1\r\n"),
        "keyspace" => keyspace(status, text),
        "raft" => raft(status, text),
        other => unreachable!("no section {other}"),
    }
}

/// Writes `name:value` lines.
macro_rules! lines {
    ($text:expr, $title:literal, $($name:literal: $value:expr),* $(,)?) => {
        $text.push_str(concat!("# ", $title, "\r\n"));
        $(let _ = write!($text, concat!($name, ":{}\r\n"), $value);)*
    };
}

fn server(status: &Status, text: &mut String) {
    lines!(text, "Server",
        "redis_version": REDIS_VERSION,
        "server_name": "kvorum",
        "kvorum_version": env!("CARGO_PKG_VERSION"),
        "redis_mode": "cluster",
        "os": "Linux",
        "arch_bits": usize::BITS,
        "process_id": status.process.id,
        "run_id": status.name,
        "tcp_port": status.port,
        "uptime_in_seconds": status.uptime_ms / 1000,
        "uptime_in_days": status.uptime_ms / 86_400_000,
        "io_threads_active": 0,
    );
}

fn clients(status: &Status, text: &mut String) {
    lines!(text, "Clients",
        "connected_clients": status.connections,
        "cluster_connections": 0,
        "maxclients": status.process.connections_max,
        "blocked_clients": status.held,
        "tracking_clients": 0,
    );
}

fn memory(status: &Status, text: &mut String) {
    let dataset: u64 = status.groups.iter().map(|group| group.logical_bytes).sum();
    lines!(text, "Memory",
        "used_memory": dataset,
        "used_memory_rss": status.process.memory_bytes,
        "used_memory_dataset": dataset,
        "maxmemory": status.memory_bytes_max.unwrap_or(0),
        "maxmemory_policy": "noeviction",
        "number_of_cached_scripts": 0,
    );
}

fn persistence(status: &Status, text: &mut String) {
    let running = status.groups.iter().any(|group| group.snapshot_running);
    lines!(text, "Persistence",
        "loading": 0,
        "async_loading": 0,
        "rdb_bgsave_in_progress": u8::from(running),
        "rdb_last_save_time": status.last_snapshot_ms / 1000,
        "rdb_last_bgsave_status": if status.snapshot_failed { "err" } else { "ok" },
        "aof_enabled": 1,
        "aof_last_write_status": if status.disk_full { "err" } else { "ok" },
    );
}

fn stats(status: &Status, text: &mut String) {
    let counters = &status.counters;
    lines!(text, "Stats",
        "total_connections_received": counters.connections_opened,
        "total_commands_processed": counters.commands,
        "instantaneous_ops_per_sec": status.commands_per_second,
        "total_net_input_bytes": counters.input_bytes,
        "total_net_output_bytes": status.process.output_bytes,
        "rejected_connections": status.process.connections_refused,
        "expired_keys": counters.expired_keys,
        "evicted_keys": 0,
        "pubsub_channels": 0,
        "pubsub_patterns": 0,
        "total_error_replies": counters.errors,
    );
}

fn replication(status: &Status, text: &mut String) {
    let led = status.groups.iter().find(|group| group.leading);
    let offset = status
        .groups
        .iter()
        .map(|group| group.applied)
        .max()
        .unwrap_or(0);
    lines!(text, "Replication",
        "role": "master",
        "connected_slaves": led.map_or(0, |group| group.followers.len()),
        "master_failover_state": "no-failover",
        "master_replid": status.name,
        "master_replid2": "0000000000000000000000000000000000000000",
        "master_repl_offset": offset,
        "second_repl_offset": -1,
    );
}

fn replica_replication(status: &Status, primary: &Member, applied: u64, text: &mut String) {
    lines!(text, "Replication",
        "role": "slave",
        "master_host": primary.host,
        "master_port": primary.port,
        "master_link_status": "up",
        "master_last_io_seconds_ago": 0,
        "master_sync_in_progress": 0,
        "slave_repl_offset": applied,
        "slave_priority": 100,
        "slave_read_only": 1,
        "connected_slaves": 0,
        "master_replid": status.name,
        "master_replid2": "0000000000000000000000000000000000000000",
        "master_repl_offset": applied,
        "second_repl_offset": -1,
    );
}

fn cpu(status: &Status, text: &mut String) {
    let seconds = |us: u64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    lines!(text, "CPU",
        "used_cpu_sys": seconds(status.process.cpu_system_us),
        "used_cpu_user": seconds(status.process.cpu_user_us),
    );
}

fn keyspace(status: &Status, text: &mut String) {
    text.push_str("# Keyspace\r\n");
    let led = || status.groups.iter().filter(|group| group.leading);
    let keys: u64 = led().map(|group| group.keys).sum();
    let expires: u64 = led().map(|group| group.expiring_keys).sum();
    if keys > 0 {
        let _ = write!(text, "db0:keys={keys},expires={expires},avg_ttl=0\r\n");
    }
}

fn raft(status: &Status, text: &mut String) {
    lines!(text, "Raft", "node_id": status.node, "groups": status.groups.len());
    for group in &status.groups {
        let _ = write!(text, "group{}:{}\r\n", group.group, group_line(group));
    }
}

fn group_line(group: &GroupStatus) -> String {
    let leader = group
        .primary
        .map_or("none".to_owned(), |node| node.to_string());
    format!(
        "replica={},role={},primary={leader},term={},commit={},applied={},last={}",
        group.replica, group.role, group.term, group.commit, group.applied, group.last
    )
}
