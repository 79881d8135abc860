//! One process of a cluster: what `kvorum node` does, from its settings to its end.
//!
//! The order of a start is the order in which it may be refused: settings, directory lock, ports,
//! identity, recovery. Nothing is written before all of those that another process could contradict. A new
//! node then waits, reachable by HTTP only, until `kvorum ctl init` makes it part of a cluster.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use kvorum_node::Node;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

use crate::clients::accept::{Bound, bind};
use crate::config::{NodeOptions, Settings};
use crate::control::status::NodeStatus;
use crate::control::{Shared, http};
use crate::disk::bulk::SNAPSHOT_DIR;
use crate::disk::faults::Faults;
use crate::disk::segments::SegmentFiles;
use crate::disk::{Disk, DiskOptions, startup};
use crate::identity::{Manifest, State};
use crate::lane::{End, FirstSync, Parts, run};
use crate::lock::DirectoryLock;
use crate::logs::Logs;
use crate::mail::Mailbox;
use crate::peers::handshake::Identity;

/// Descriptors that are not clients: files of the log, links, listeners.
const DESCRIPTORS_BESIDE_CLIENTS: u64 = 256;

/// Runs a node to its end.
#[must_use]
pub fn run_node(options: NodeOptions) -> ExitCode {
    let settings = match options.settle() {
        Ok(settings) => settings,
        Err(error) => return refuse(&error),
    };
    die_of_panics();
    let logs = match Logs::start(settings.log_level, settings.log_format) {
        Ok(logs) => logs,
        Err(error) => return refuse(&format!("cannot start a thread: {error}")),
    };
    let end = start(settings, &logs);
    let code = match end {
        Ok(End::Shutdown) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Ok(End::Broken(text)) => {
            tracing::error!("{text}");
            logs.flush();
            refuse(&text)
        }
        Err(error) => {
            logs.flush();
            refuse(&error)
        }
    };
    logs.flush();
    code
}

/// A broken invariant ends the process, on whatever thread and in whatever task it shows. A runtime
/// that catches the panic of a task would go on with a core that stopped between two statements, and
/// which then votes and acknowledges.
pub(crate) fn die_of_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

pub(crate) fn refuse(text: &str) -> ExitCode {
    eprintln!("kvorum: {text}");
    ExitCode::FAILURE
}

fn start(settings: Settings, logs: &Logs) -> Result<End, String> {
    let _lock = DirectoryLock::take(&settings.dir)?;
    let ports = Ports::bind(&settings)?;
    let manifest = Manifest::load(&settings.dir).map_err(|refusal| refusal.0)?;
    check_secret(&settings, manifest.as_ref())?;
    let clients_max = raise_descriptors(settings.max_clients);

    let (shared, starts) = Shared::new(settings, manifest.clone());
    http::start(shared.clone(), ports.http, logs.clone())
        .map_err(|error| format!("cannot start the HTTP interface: {error}"))?;
    if manifest.is_none() && !shared.settings.join.is_empty() {
        shared.join(&shared.settings.join)?;
    } else if manifest.is_none_or(|manifest| manifest.state == State::Prepared) {
        let (dir, http) = (shared.dir.display(), shared.settings.http);
        tracing::info!("{dir} is a new node: waiting for `kvorum ctl init --nodes {http},...`");
    }
    // The sender lives as long as `shared`, which the control thread keeps.
    let manifest = starts
        .recv()
        .map_err(|_| "the control thread has ended".to_owned())?;
    run_lane(
        &shared,
        &manifest,
        (ports.clients, ports.replicas),
        ports.peers,
        clients_max,
    )
}

/// The addresses of a node, taken and not yet listened on.
struct Ports {
    clients: Bound,
    replicas: Bound,
    peers: Bound,
    http: Bound,
}

impl Ports {
    fn bind(settings: &Settings) -> Result<Self, String> {
        Ok(Self {
            clients: bind(settings.listen, "listen")?,
            replicas: bind(settings.replica_listen, "replica-listen")?,
            peers: bind(settings.peer_listen, "peer-listen")?,
            http: bind(settings.http, "http")?,
        })
    }
}

/// Whoever reaches the peer port of a node whose secret he knows is a peer.
fn check_secret(settings: &Settings, manifest: Option<&Manifest>) -> Result<(), String> {
    match (&settings.secret, manifest) {
        (Some(given), Some(manifest)) if *given != manifest.secret() => Err(format!(
            "--secret-file is not the secret of this directory's cluster {}: the directory belongs to \
             another cluster, or the file does. Give the right one, or leave it out to use the \
             directory's own",
            manifest.plan.cluster_name()
        )),
        (None, None) if settings.beyond_loopback() => Err(format!(
            "refusing to listen on {} and {} (--peer-listen, --http) without a secret: anyone who \
             reaches them could make this node part of his cluster. Give all nodes the same \
             --secret-file (make one: openssl rand -hex 32), or listen on 127.0.0.1",
            settings.peer_listen, settings.http
        )),
        _ => Ok(()),
    }
}

/// Raises the limit of open descriptors as far as the clients need and the system allows; the clients
/// that there is room for.
pub fn raise_descriptors(clients: u32) -> u32 {
    let wanted = u64::from(clients) + DESCRIPTORS_BESIDE_CLIENTS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(current),
                ..limit
            },
        );
    }
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if now >= wanted {
        return clients;
    }
    let room = now.saturating_sub(DESCRIPTORS_BESIDE_CLIENTS).max(1);
    tracing::warn!(
        "only {now} open files are allowed: {room} clients instead of {clients} (ulimit -n)"
    );
    u32::try_from(room).unwrap_or(clients)
}

fn run_lane(
    shared: &Arc<Shared>,
    manifest: &Manifest,
    (clients, replicas): (Bound, Bound),
    peers: Bound,
    max_clients: u32,
) -> Result<End, String> {
    let settings = &shared.settings;
    let mail_wake = Arc::new(Notify::new());
    let (mailbox, mail) = Mailbox::new(mail_wake.clone());
    let faults = Faults::from_env();
    let log = startup::log_options(manifest);
    let files = SegmentFiles::open(
        &settings.dir,
        0,
        u64::from(log.segment_bytes),
        faults.clone(),
    )
    .map_err(|error| format!("cannot open the log: {error}"))?;
    let snapshots = settings.dir.join(SNAPSHOT_DIR);
    let started = startup::start(settings, manifest, log, &files, &snapshots)?;
    give_memory_back();
    let options = DiskOptions {
        sync: settings.sync,
        snapshot_bandwidth: settings.snapshot_bandwidth,
        faults,
    };
    let disk = Disk::start(files, &snapshots, options, shared.metrics.clone(), &mailbox)
        .map_err(|error| format!("cannot start the disk threads: {error}"))?;
    shared.begin_to_remember()?;
    shared.lane_runs(&mailbox);
    shared.announce_itself(manifest)?;
    let (publish_to, answer_to) = (shared.clone(), shared.clone());
    let parts = Parts {
        started,
        disk,
        mail,
        mail_wake,
        metrics: shared.metrics.clone(),
        clients,
        replicas,
        peers,
        max_clients,
        identity: Identity {
            cluster: manifest.cluster(),
            node: kvorum_base::NodeId(manifest.node),
            secret: manifest.secret(),
        },
        members: manifest.peers(),
        publish: Box::new(move |node: &Node| {
            publish_to.publish(NodeStatus::from(&node.status()), node.cluster());
        }),
        managed: Box::new(move |token, answer| answer_to.managed(token, answer)),
        first_sync: note_log_begun(&settings.dir, manifest),
    };
    run(parts).map_err(|error| format!("the lane cannot start: {error}"))
}

/// Has the allocator look at what loading has freed: whole segments and snapshots. It keeps freed memory for
/// a while, in case it is needed again, and then looks only when something else of that size is freed; in a
/// node that idles from its start on, never.
fn give_memory_back() {
    let nudge = || {
        std::thread::sleep(Duration::from_secs(1));
        drop(std::hint::black_box(Vec::<u8>::with_capacity(8 << 20)));
    };
    let _ = std::thread::Builder::new().spawn(nudge);
}

/// What remembers that there is a log from now on, if the manifest does not know it yet.
fn note_log_begun(dir: &Path, manifest: &Manifest) -> Option<FirstSync> {
    if manifest.log_begun {
        return None;
    }
    let begun = Manifest {
        log_begun: true,
        ..manifest.clone()
    };
    let dir = dir.to_owned();
    Some(Box::new(move || {
        begun
            .store(&dir)
            .map_err(|error| format!("cannot write the manifest: {error}"))
    }))
}
