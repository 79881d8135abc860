//! INFO: the facts that Redis tools read, with the names they know.
//!
//! What only the nodes know (memory of the data, keys, persistence) is left out rather than said wrong:
//! DBSIZE asks them, and each of them has its own INFO.

use std::fmt::Write as _;

use kvorum_clients::handshake::REDIS_VERSION;

use crate::status::Status;

const SECTIONS: &[&str] = &[
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "cpu",
    "modules",
    "errorstats",
    "cluster",
    "router",
];

/// The text of INFO for these section names; none means all.
pub(crate) fn info(status: &Status, wanted: &[String]) -> String {
    let everything = ["all", "everything", "default"];
    let all = wanted.is_empty() || wanted.iter().any(|name| everything.contains(&&**name));
    let mut text = String::new();
    for section in SECTIONS {
        if !all && !wanted.iter().any(|name| name == section) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        write_section(status, section, &mut text);
    }
    text
}

/// Writes `name:value` lines.
macro_rules! lines {
    ($text:expr, $title:literal, $($name:literal: $value:expr),* $(,)?) => {
        $text.push_str(concat!("# ", $title, "\r\n"));
        $(let _ = write!($text, concat!($name, ":{}\r\n"), $value);)*
    };
}

fn write_section(status: &Status, section: &str, text: &mut String) {
    let (counters, process) = (&status.counters, &status.process);
    let seconds = |us: u64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    match section {
        "server" => server(status, text),
        "clients" => {
            lines!(text, "Clients",
                "connected_clients": status.clients,
                "maxclients": process.connections_max,
                "blocked_clients": 0,
                "tracking_clients": 0,
            );
        }
        "memory" => {
            lines!(text, "Memory",
                "used_memory": process.memory_bytes,
                "used_memory_rss": process.memory_bytes,
                "maxmemory": 0,
                "maxmemory_policy": "noeviction",
                "number_of_cached_scripts": 0,
            );
        }
        "persistence" => {
            lines!(text, "Persistence", "loading": 0, "async_loading": 0, "aof_enabled": 1);
        }
        "stats" => {
            lines!(text, "Stats",
                "total_connections_received": status.clients_opened,
                "total_commands_processed": counters.commands,
                "total_net_input_bytes": counters.input_bytes,
                "total_net_output_bytes": process.output_bytes,
                "rejected_connections": process.connections_refused,
                "pubsub_channels": 0,
                "pubsub_patterns": 0,
                "total_error_replies": status.errors,
            );
        }
        "replication" => {
            lines!(text, "Replication",
                "role": "master",
                "connected_slaves": 0,
                "master_failover_state": "no-failover",
                "master_replid": status.run_id,
                "master_replid2": "0000000000000000000000000000000000000000",
                "master_repl_offset": 0,
                "second_repl_offset": -1,
            );
        }
        "cpu" => {
            lines!(text, "CPU",
                "used_cpu_sys": seconds(process.cpu_system_us),
                "used_cpu_user": seconds(process.cpu_user_us),
            );
        }
        "modules" => text.push_str("# Modules\r\n"),
        "errorstats" => text.push_str("# Errorstats\r\n"),
        "cluster" => text.push_str("# Cluster\r\ncluster_enabled:0\r\n"),
        "router" => router(status, text),
        other => unreachable!("no section {other}"),
    }
}

fn server(status: &Status, text: &mut String) {
    lines!(text, "Server",
        "redis_version": REDIS_VERSION,
        "server_name": "kvorum",
        "kvorum_version": env!("CARGO_PKG_VERSION"),
        "redis_mode": "standalone",
        "os": "Linux",
        "arch_bits": usize::BITS,
        "process_id": status.process.id,
        "run_id": status.run_id,
        "tcp_port": status.port,
        "uptime_in_seconds": status.uptime_ms / 1000,
        "uptime_in_days": status.uptime_ms / 86_400_000,
        "io_threads_active": 0,
    );
}

fn router(status: &Status, text: &mut String) {
    let counters = &status.counters;
    lines!(text, "Router",
        "nodes": status.nodes.len(),
        "slots_known": status.slots_known,
        "requests_waiting": status.pieces,
        "request_bytes_waiting": status.piece_bytes,
        "redirects": counters.redirects,
        "requests_split": counters.splits,
        "outcomes_unknown": counters.unknown,
    );
    for (number, node) in status.nodes.iter().enumerate() {
        let (up, unanswered) = (node.links_up, node.unanswered);
        let address = &node.address;
        let _ = write!(
            text,
            "node{number}:address={address},links={up},unanswered={unanswered}\r\n"
        );
    }
}
