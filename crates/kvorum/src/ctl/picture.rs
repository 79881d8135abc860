//! The cluster on one screen: the shard manager, the shards, the nodes.

use std::collections::BTreeMap;

use kvorum_server::control::cluster::Picture;
use kvorum_server::control::status::{FollowerStatus, GroupStatus};

use super::MANAGER;
use super::status::Answer;

/// A replica that was not heard from for so long is not called in step.
const SILENT_MS: u64 = 1000;

/// Prints what the nodes' answers and the shard manager's state say together.
pub(super) fn print(answers: &[Answer], manager: Option<&Picture>) {
    print_header(answers, manager);
    let mut groups: BTreeMap<u64, Vec<&GroupStatus>> = BTreeMap::new();
    for status in answers.iter().filter_map(|answer| answer.status.as_ref()) {
        let node = status.status.iter();
        for group in node.flat_map(|node| node.manager.iter().chain(&node.groups)) {
            groups.entry(group.group).or_default().push(group);
        }
    }
    for (id, replicas) in &groups {
        println!("  {}", line_of(*id, replicas, manager));
    }
    let is_led = |replicas: &Vec<&GroupStatus>| replicas.iter().any(|one| one.role == "leader");
    if !groups.values().all(is_led) {
        println!(
            "  what has no primary for long may have lost its majority: see kvorum ctl recover"
        );
    }
    for answer in answers {
        println!("  {}", node_of(answer, manager));
    }
}

fn print_header(answers: &[Answer], manager: Option<&Picture>) {
    let statuses = || answers.iter().filter_map(|answer| answer.status.as_ref());
    let Some(cluster) = statuses().find_map(|status| status.cluster.as_ref()) else {
        println!("no cluster yet");
        return;
    };
    let Some(manager) = manager else {
        println!("cluster {cluster}: no node knows the shard manager's state");
        return;
    };
    let down = answers
        .iter()
        .filter(|answer| answer.status.is_none())
        .count();
    let doing = match (manager.moves.len(), manager.orders.len()) {
        (0, 0) if down > 0 => format!("{down} DOWN"),
        (0, 0) if manager.settled => "everything is where it should be".to_owned(),
        (0, 0) => "something is missing".to_owned(),
        (0, orders) => format!("open orders: {orders}"),
        (moves, orders) => format!("open moves: {moves}, other open orders: {orders}"),
    };
    println!(
        "cluster {cluster}: {} nodes, {} shards, config {}, {doing}",
        manager.nodes.len(),
        manager.shards.len(),
        manager.config
    );
}

/// A group: what it has, and who has it.
fn line_of(id: u64, replicas: &[&GroupStatus], manager: Option<&Picture>) -> String {
    // A deposed primary may not know it yet: the one with the highest term is.
    let leading = replicas.iter().filter(|replica| replica.role == "leader");
    let leader = leading.max_by_key(|replica| replica.term);
    let shard = manager.and_then(|manager| manager.shards.iter().find(|shard| shard.shard == id));
    let mut line = match (id, shard) {
        (MANAGER, _) => "shard manager".to_owned(),
        (_, Some(shard)) if shard.state == "serving" => format!("shard {id} {}", shard.name),
        (_, Some(shard)) => format!("shard {id} {} ({})", shard.name, shard.state),
        (_, None) => format!("shard {id}"),
    };
    let newest = leader.or_else(|| replicas.iter().max_by_key(|replica| replica.applied));
    if id != MANAGER {
        let slots = shard.map_or(0, |shard| shard.slots);
        let (keys, bytes) = newest.map_or((0, 0), |newest| (newest.keys, newest.logical_bytes));
        line.push_str(&format!("  {slots} slots  {keys} keys  {}", amount(bytes)));
    }
    match leader {
        None => line.push_str("  NO PRIMARY"),
        Some(leader) => {
            let primary = leader
                .primary
                .map_or_else(String::new, |node| format!(" on node {node}"));
            line.push_str(&format!("  primary{primary}"));
            if !leader.followers.is_empty() {
                let followers: Vec<String> = leader
                    .followers
                    .iter()
                    .map(|follower| follower_of(leader, follower))
                    .collect();
                line.push_str(&format!(", replicas on {}", followers.join(", ")));
            }
        }
    }
    if newest.is_some_and(|newest| newest.recovered) {
        line.push_str("  once recovered without its majority");
    }
    line
}

fn follower_of(leader: &GroupStatus, follower: &FollowerStatus) -> String {
    let lag = leader.last.saturating_sub(follower.matched);
    let how = match (follower.silent_ms, lag) {
        (SILENT_MS.., _) => format!(" (silent for {} s)", follower.silent_ms / 1000),
        (_, 0) => String::new(),
        (_, lag) => format!(" ({lag} entries behind)"),
    };
    format!("{}{how}", follower.node)
}

fn node_of(answer: &Answer, manager: Option<&Picture>) -> String {
    let row =
        manager.and_then(|manager| manager.nodes.iter().find(|node| node.http == answer.http));
    let named = |id: Option<u64>| id.map_or_else(|| "node ?".to_owned(), |id| format!("node {id}"));
    match &answer.status {
        None => {
            let why = answer.error.as_deref().unwrap_or_default();
            format!(
                "{}  http {}  DOWN: {why}",
                named(row.map(|row| row.node)),
                answer.http
            )
        }
        Some(status) => {
            let id = status.status.as_ref().map(|node| node.node);
            let state = row.map_or("", |row| row.state.as_str());
            let state = if matches!(state, "in" | "") {
                String::new()
            } else {
                format!("  {state}")
            };
            let health = match &status.reason {
                None => "ready".to_owned(),
                Some(reason) => format!("not ready: {reason}"),
            };
            let (client, http, pid) =
                (&status.addresses.client, &status.addresses.http, status.pid);
            format!(
                "{}  {client}  http {http}  pid {pid}{state}  {health}",
                named(id)
            )
        }
    }
}

/// Bytes for a reader.
fn amount(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
