//! The control thread: HTTP, signals, and the making of a cluster.
//!
//! It has a runtime of its own, so that a scrape of the metrics never stands in a lane's queue. What it
//! knows of the lane is what the lane published, at most a second ago; what it wants from it goes through
//! the lane's mailbox.

pub mod admin;
pub mod announce;
pub mod client;
pub mod cluster;
pub mod http;
pub mod init;
pub mod join;
pub mod recover;
pub mod remembered;
pub mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kvorum_node::Control;
use kvorum_node::format::manager::Answer;
use tokio::sync::oneshot;

use crate::config::Settings;
use crate::identity::{Manifest, State};
use crate::mail::{Mail, Mailbox};
use crate::metrics::Metrics;
use remembered::Memory;
use status::NodeStatus;

/// A status that is not older than this is passed on; so however many ask, the lane is asked this often.
const STATUS_AGE: Duration = Duration::from_millis(50);
/// How often and how long a newer one is waited for.
const STATUS_LOOK: Duration = Duration::from_millis(1);
const STATUS_LOOKS: u32 = 50;

/// What the control thread and the rest of the process share.
#[derive(Debug)]
pub struct Shared {
    /// The settings.
    pub settings: Settings,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The data directory.
    pub dir: PathBuf,
    phase: Mutex<Phase>,
    published: Mutex<Option<(Instant, Arc<NodeStatus>)>>,
    cluster: Mutex<Option<Arc<kvorum_cluster::State>>>,
    /// What is kept for the next life; from when this node takes part.
    memory: OnceLock<Memory>,
    orders: Mutex<Orders>,
    started: Sender<Manifest>,
    /// What stops the process: the first message wins.
    stop: Mutex<StopState>,
}

/// Orders to the shard manager that wait for their answers.
#[derive(Debug, Default)]
struct Orders {
    next: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
}

#[derive(Debug, Default)]
struct StopState {
    asked: bool,
    mailbox: Option<Mailbox>,
}

/// How far this process has come.
#[derive(Clone, Debug)]
pub enum Phase {
    /// A new node that belongs to no cluster.
    Uninitialised,
    /// It has agreed to a plan and waits for the decision.
    Prepared(Manifest),
    /// It takes part.
    Started(Manifest),
}

impl Shared {
    /// For a process that has just read its directory. The receiver gets the manifest once the node may
    /// take part: at once, or when `kvorum ctl init` decides.
    #[must_use]
    pub fn new(settings: Settings, manifest: Option<Manifest>) -> (Arc<Self>, Receiver<Manifest>) {
        let (started, starts) = channel();
        let phase = match manifest {
            None => Phase::Uninitialised,
            Some(manifest) if manifest.state == State::Prepared => Phase::Prepared(manifest),
            Some(manifest) => {
                let _ = started.send(manifest.clone());
                Phase::Started(manifest)
            }
        };
        let shared = Self {
            dir: settings.dir.clone(),
            settings,
            metrics: Arc::default(),
            phase: Mutex::new(phase),
            published: Mutex::new(None),
            cluster: Mutex::default(),
            memory: OnceLock::new(),
            orders: Mutex::default(),
            started,
            stop: Mutex::default(),
        };
        (Arc::new(shared), starts)
    }

    /// How far the process has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        lock(&self.phase).clone()
    }

    /// Publishes what the lane says of itself.
    pub fn publish(&self, status: NodeStatus, cluster: Option<&Arc<kvorum_cluster::State>>) {
        if let (Some(memory), Some(cluster)) = (self.memory.get(), cluster) {
            memory.keep(cluster);
        }
        *lock(&self.cluster) = cluster.cloned();
        *lock(&self.published) = Some((Instant::now(), Arc::new(status)));
    }

    /// From now on this node remembers what is published of the cluster.
    ///
    /// # Errors
    /// If it cannot.
    pub fn begin_to_remember(&self) -> Result<(), String> {
        let memory = Memory::start(&self.dir);
        let memory = memory.map_err(|error| format!("cannot start a thread: {error}"))?;
        let _ = self.memory.set(memory);
        Ok(())
    }

    /// What the lane last published, and when.
    #[must_use]
    pub fn published(&self) -> Option<(Instant, Arc<NodeStatus>)> {
        lock(&self.published).clone()
    }

    /// What the lane says of itself now, or said lately if it is busy.
    pub async fn status_now(&self) -> Option<(Instant, Arc<NodeStatus>)> {
        self.status_not_older(STATUS_AGE).await
    }

    /// The same, and nothing that was said before this call: whoever has just heard that an order was carried
    /// out finds it so, at the node that did.
    pub async fn status_from_now(&self) -> Option<(Instant, Arc<NodeStatus>)> {
        self.status_not_older(Duration::ZERO).await
    }

    async fn status_not_older(&self, age: Duration) -> Option<(Instant, Arc<NodeStatus>)> {
        let asked = Instant::now();
        let known = self.published();
        if known.as_ref().is_none_or(|(when, _)| when.elapsed() < age) {
            return known;
        }
        let sent = lock(&self.stop)
            .mailbox
            .as_ref()
            .is_some_and(|lane| lane.try_send(Mail::Publish));
        for _ in 0..STATUS_LOOKS {
            if !sent || self.published().is_some_and(|(when, _)| when >= asked) {
                break;
            }
            tokio::time::sleep(STATUS_LOOK).await;
        }
        self.published()
    }

    /// Tells where the lane takes messages. If a stop was asked for meanwhile, it is passed on.
    pub fn lane_runs(&self, mailbox: &Mailbox) {
        let mut stop = lock(&self.stop);
        stop.mailbox = Some(mailbox.clone());
        if stop.asked {
            let _ = mailbox.try_send(Mail::Control(Control::Shutdown));
        }
    }

    /// Passes an operator's request to the lane; says whether there is one with room for it.
    #[must_use]
    pub fn ask(&self, control: Control) -> bool {
        let stop = lock(&self.stop);
        stop.mailbox
            .as_ref()
            .is_some_and(|mailbox| mailbox.try_send(Mail::Control(control)))
    }

    /// Asks the process to end; what it should do about it at once.
    fn ask_to_stop(&self) -> Asked {
        let mut stop = lock(&self.stop);
        if std::mem::replace(&mut stop.asked, true) {
            return Asked::Again;
        }
        match &stop.mailbox {
            Some(mailbox) if mailbox.try_send(Mail::Control(Control::Shutdown)) => Asked::Passed,
            _ => Asked::NothingRuns,
        }
    }
}

/// What came of asking the process to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    /// The lane will hand over and end.
    Passed,
    /// No lane runs: there is nothing to hand over.
    NothingRuns,
    /// It was asked before.
    Again,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
