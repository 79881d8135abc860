//! From a directory to a core that can run: read the log, read the snapshots that it refers to, judge.
//!
//! The judgement is the core's ([`Recovery`]); what is added here is what an operator should do about it.
//! A log that lost anything synced has lost promises, and a node that breaks promises is worse than one
//! that is gone. It starts all the same, and says "lost" to whoever asks, and nothing else: a process that
//! ended would be started again and again, and what is wrong would stand in its log alone. A snapshot that
//! cannot be read is no broken promise: the replica takes another one from its primary.
//!
//! A snapshot that the log does not name any more stays until the log has started. What was read may be
//! only in the page cache:
//!
//! 1. The log on the disk names snapshot 7. The record that names 8 is written, and the process is killed.
//! 2. The next process reads that record, loads 8, and removes 7.
//! 3. Power is cut before the record is written again and synced. The log names 7, and it is gone, and with
//!    it every write that it stood for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use kvorum_base::{GroupId, NodeId};
use kvorum_node::format::chunk::{ChunkReader, Loaded};
use kvorum_node::log::{LogOptions, Recovered, Recovery};
use kvorum_node::start::Snapshots;
use kvorum_node::{Config, Effect, Member, Node};

use super::bulk;
use super::segments::SegmentFiles;
use crate::config::Settings;
use crate::control::remembered::recall;
use crate::identity::Manifest;
use crate::lane::TICK;
use kvorum_secret::{from_hex, random_id};

/// Read at once from a snapshot file.
const READ_BYTES: usize = 1 << 20;
/// How long a request may wait for its outcome, in milliseconds.
const DEADLINE_MS: u64 = 5_000;
/// How often the replicas compare their states, in milliseconds.
const CHECKPOINT_MS: u64 = 10_000;
/// How far a wall clock may be off the median before its node stops leading, in milliseconds.
const CLOCK_SKEW_MS_MAX: u64 = 1_000;
/// Heartbeats in a shortest election timeout, and the ordinary time between them in milliseconds.
const HEARTBEATS_MIN: u64 = 5;
const HEARTBEAT_MS: u64 = 100;

/// A core that can run, and what is left to be done for it.
#[derive(Debug)]
pub struct Started {
    /// The core.
    pub node: Node,
    /// What it wants done first.
    pub effects: Vec<Effect>,
    /// Snapshots that are of no use once the log has started, and must stay until then.
    pub stale_snapshots: Vec<(GroupId, u64)>,
}

/// How this directory's log is laid out.
#[must_use]
pub fn log_options(manifest: &Manifest) -> LogOptions {
    let small = std::env::var("KVORUM_TEST_SEGMENT_BYTES")
        .ok()
        .and_then(|text| text.parse().ok());
    LogOptions {
        salt: manifest.log_salt,
        ..small.map_or_else(LogOptions::default, LogOptions::small)
    }
}

/// Makes the core of what the directory holds.
///
/// # Errors
/// With a text that says what to do.
pub fn start(
    settings: &Settings,
    manifest: &Manifest,
    log: LogOptions,
    files: &SegmentFiles,
    snapshot_dir: &Path,
) -> Result<Started, String> {
    let begin = std::time::Instant::now();
    let recovered = match recover(manifest, &log, files)? {
        Ok(recovered) => recovered,
        Err(damage) => return lost(settings, manifest, log, &damage),
    };
    let wanted = snapshots_of(recovered.as_ref());
    let stale_snapshots = stale_snapshots(&wanted, snapshot_dir)?;
    let snapshots = load_snapshots(manifest, &wanted, snapshot_dir);
    let incarnation = recovered
        .as_ref()
        .map_or(0, |recovered| recovered.incarnation)
        + 1;
    let config = node_config(settings, manifest, log, incarnation)?;
    let mut effects = Vec::new();
    if let Some(cut) = recovered.as_ref().and_then(|recovered| recovered.cut) {
        tracing::info!(segment = %cut.segment, offset = cut.offset, "cut an unfinished batch off the log");
    }
    let node = Node::start(config, recovered, snapshots, random_id(), &mut effects);
    tracing::info!(
        incarnation,
        millis = begin.elapsed().as_millis() as u64,
        "loaded"
    );
    Ok(Started {
        node,
        effects,
        stale_snapshots,
    })
}

/// A node that answers for itself and for nothing that it ever promised.
fn lost(
    settings: &Settings,
    manifest: &Manifest,
    log: LogOptions,
    damage: &str,
) -> Result<Started, String> {
    tracing::error!(
        "the log in {} is damaged: {damage}. What this node promised may be lost, so it must not take \
         part again under its identity. If other nodes have replicas: move the whole directory aside \
         and replace this node. If not: restore the directory from a backup",
        settings.dir.display()
    );
    let config = node_config(settings, manifest, log, 0)?;
    let reason = format!(
        "its log is damaged ({damage}), and what it promised may be lost: its directory is to be moved \
         aside, and the node replaced"
    );
    Ok(Started {
        node: Node::start_lost(config, &reason),
        effects: Vec::new(),
        // Whoever looks into the directory may want them.
        stale_snapshots: Vec::new(),
    })
}

/// What the log says, or how it is damaged.
///
/// # Errors
/// If it cannot be read: another attempt may do better.
fn recover(
    manifest: &Manifest,
    log: &LogOptions,
    files: &SegmentFiles,
) -> Result<Result<Option<Recovered>, String>, String> {
    let segments = files.in_use();
    if segments.is_empty() && !manifest.log_begun {
        return Ok(Ok(None));
    }
    let mut recovery = Recovery::new(log, manifest.log_begun);
    let mut bytes = Vec::new();
    for segment in segments {
        files
            .read_into(segment, &mut bytes)
            .map_err(|error| format!("cannot read segment {segment} of the log: {error}"))?;
        recovery.feed(segment, &bytes);
    }
    let recovered = recovery.finish().map(Some);
    Ok(recovered.map_err(|damage| damage.to_string()))
}

/// The snapshots that the log refers to.
fn snapshots_of(recovered: Option<&Recovered>) -> BTreeMap<GroupId, u64> {
    let groups = recovered.into_iter().flat_map(|found| &found.groups);
    groups
        .filter(|(_, group)| group.snapshot.number > 0)
        .map(|(id, group)| (*id, group.snapshot.number))
        .collect()
}

/// The snapshots in the directory that the log does not refer to. Of these a newer one than the log knows
/// is removed at once: its process died before the log could name it, so no log can.
fn stale_snapshots(
    wanted: &BTreeMap<GroupId, u64>,
    dir: &Path,
) -> Result<Vec<(GroupId, u64)>, String> {
    let mut stale =
        bulk::list(dir).map_err(|error| format!("cannot read {}: {error}", dir.display()))?;
    stale.retain(|(group, number)| match wanted.get(group) {
        Some(known) if number > known => {
            let _ = std::fs::remove_file(bulk::path_of(dir, *group, *number));
            false
        }
        Some(known) => number < known,
        None => true,
    });
    Ok(stale)
}

fn load_snapshots(manifest: &Manifest, wanted: &BTreeMap<GroupId, u64>, dir: &Path) -> Snapshots {
    let load = |(group, number): (&GroupId, &u64)| {
        let path = bulk::path_of(dir, *group, *number);
        (*group, load(manifest, *group, &path))
    };
    wanted.iter().map(load).collect()
}

fn load(manifest: &Manifest, group: GroupId, path: &Path) -> Result<Loaded, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(failed)?;
    let mut reader = ChunkReader::new(group, hash_key(manifest));
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let len = file.read(&mut bytes).map_err(failed)?;
        if len == 0 {
            break;
        }
        reader
            .feed(&bytes[..len])
            .map_err(|malformed| format!("{}: {malformed}", path.display()))?;
    }
    reader
        .finish()
        .map_err(|malformed| format!("{}: {malformed}", path.display()))
}

fn hash_key(manifest: &Manifest) -> [u8; 16] {
    from_hex(&manifest.plan.hash_key).expect("a manifest's hash key was checked when it was read")
}

fn node_config(
    settings: &Settings,
    manifest: &Manifest,
    log: LogOptions,
    incarnation: u64,
) -> Result<Config, String> {
    let tick_ms = TICK.as_millis() as u64;
    let ticks = |ms: u64| u32::try_from(ms.div_ceil(tick_ms)).unwrap_or(u32::MAX);
    let heartbeat_ms = HEARTBEAT_MS.min(settings.election_ms / HEARTBEATS_MIN);
    let (groups, founding) = manifest.groups()?;
    let nodes = founding.nodes.iter();
    let members = nodes.map(|(id, node)| (*id, Member::from(&node.addresses)));
    let members = members.collect();
    Ok(Config {
        node: NodeId(manifest.node),
        cluster: manifest.cluster(),
        incarnation,
        hash_key: hash_key(manifest),
        members,
        announces_replicas: !settings.hide_replicas,
        groups,
        founding: Some(Arc::new(founding)),
        known: recall(&settings.dir, manifest.cluster()),
        move_bytes_per_tick: settings
            .move_bandwidth
            .map(|bytes| (bytes * tick_ms / 1000).max(1)),
        node_dead_ticks: u64::from(ticks(settings.node_dead_ms)),
        password: settings.password.clone(),
        tick_ms,
        heartbeat_ticks: ticks(heartbeat_ms).max(1),
        election_ticks_min: ticks(settings.election_ms),
        election_ticks_max: ticks(2 * settings.election_ms),
        deadline_ticks: u64::from(ticks(DEADLINE_MS)),
        checkpoint_ticks: u64::from(ticks(CHECKPOINT_MS)),
        memory_bytes_max: settings.max_memory,
        clock_skew_ms_max: CLOCK_SKEW_MS_MAX,
        log,
        snapshot_after_log_bytes: kvorum_node::limits::SNAPSHOT_AFTER_LOG_BYTES,
        append_bytes_max: kvorum_node::limits::ENTRY_BYTES_TARGET,
        chunk_bytes: kvorum_node::limits::CHUNK_BYTES,
        log_cache_bytes: kvorum_node::limits::LOG_CACHE_BYTES,
        planted: kvorum_base::Planted::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn an_older_snapshot_stays_until_the_log_has_started() {
        let dir = TempDir::new("startup");
        for (group, number) in [(1, 6), (1, 7), (1, 8), (2, 3)] {
            std::fs::write(bulk::path_of(dir.path(), GroupId(group), number), b"state")
                .expect("written");
        }
        let wanted = BTreeMap::from([(GroupId(1), 7)]);
        let stale = stale_snapshots(&wanted, dir.path()).expect("listed");
        assert_eq!(stale, [(GroupId(1), 6), (GroupId(2), 3)]);
        let left = bulk::list(dir.path()).expect("listed");
        assert_eq!(
            left,
            [(GroupId(1), 6), (GroupId(1), 7), (GroupId(2), 3)],
            "8 was never named"
        );
    }
}
