//! A lane: one thread with its loop, its connections, its groups and its log.
//!
//! The shape of the loop is its speed. All sockets that one wait of the kernel found ready are read
//! first, each read stepping the core at once; then the **driver** runs once: it hands in what the disk
//! threads reported and what time it is, ends the turn, and carries out the effects. So a turn carries
//! what all clients sent meanwhile, makes one batch of the log for all of them, and writes once to each.
//!
//! That the driver runs last follows from the order of tokio's run queue, which is first in, first out:
//! a reading task wakes the driver, and so puts it behind every socket found ready with its own. For
//! this the runtime must be a `LocalRuntime` (a `LocalSet` is a second scheduler, which stops after 61
//! tasks) and must not look for new events in the middle of a turn (`event_interval`). A test counts
//! turns, so that a tokio that behaves otherwise is noticed.
//!
//! A wake-up from another thread is different: tokio puts such a task into a second queue, which it
//! looks at now and then. A driver in there would come in the middle of a turn, or too late: a busy socket's
//! task would be run many times before it. So other threads wake a task of their own, which wakes the
//! driver from within.
//!
//! Nothing else may live on this thread: HTTP, metrics, signals and log lines have their own.
//!
//! The order of events matters in one place. A process that was stopped for a while (SIGSTOP, a
//! suspended machine) finds frames of its peers waiting, and its own clock far ahead. Handing in the
//! ticks first would make it stand for election after every pause. So missed ticks are one tick, and it
//! comes behind what the sockets delivered.

use std::cell::{RefCell, RefMut};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, SystemTime};

use kvorum_base::{ConnId, GroupId, NodeId, UnixMillis};
use kvorum_node::format::manager::Answer;
use kvorum_node::status::Process;
use kvorum_node::{BatchSeq, Door, Effect, Event, Level, Link, Node, Note, StopReason};
use kvorum_resp::OutBuf;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::clients::accept::{Bound, accept_clients};
use crate::clients::keeper::{Keeper, Kept};
use crate::clients::read::read_client;
use crate::clients::{Clients, write};
use crate::disk::startup::Started;
use crate::disk::sync_policy::Turn;
use crate::disk::{Append, Disk};
use crate::mail::{DiskReport, Mail};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::peers::dial::{PeerAddress, accept_peers};
use crate::peers::frames::Frames;
use crate::peers::handshake::Identity;
use crate::peers::mesh::Mesh;
use crate::usage;

/// Length of a tick.
pub const TICK: Duration = Duration::from_millis(10);
/// The buffer that all sockets are read into.
pub(crate) const SCRATCH_BYTES: usize = 256 << 10;
/// Tasks that tokio runs before it looks for new events by itself: more than a turn has.
const EVENT_INTERVAL: u32 = 1024;
/// How often the status is published.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// To be done after the log's first sync and before anything is promised on it. An error ends the lane.
pub type FirstSync = Box<dyn FnOnce() -> Result<(), String>>;

/// Why a lane ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It was asked to, and has handed over.
    Shutdown,
    /// Nothing it would say could be believed; the text is for the operator.
    Broken(String),
}

/// What a lane is made of.
pub struct Parts {
    /// The core.
    pub started: Started,
    /// The disk threads.
    pub disk: Disk,
    /// What other threads send.
    pub mail: Receiver<Mail>,
    /// Told by the mailbox that there is mail.
    pub mail_wake: Arc<Notify>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// For clients.
    pub clients: Bound,
    /// For clients that read from replicas.
    pub replicas: Bound,
    /// For the other nodes.
    pub peers: Bound,
    /// Most client connections at a time.
    pub max_clients: u32,
    /// What this node proves to its peers.
    pub identity: Identity,
    /// All other nodes.
    pub members: Vec<PeerAddress>,
    /// Shows the core to the control thread, once a second.
    pub publish: Box<dyn Fn(&Node)>,
    /// Passes the shard manager's answers on.
    pub managed: Box<dyn Fn(u64, Answer)>,
    /// Notes durably that the log was begun: to be done before anything is promised on it.
    pub first_sync: Option<FirstSync>,
}

/// One lane, shared by its tasks on its one thread.
pub(crate) struct Lane {
    core: RefCell<Core>,
    /// Wakes the driver.
    wake: Rc<Notify>,
    metrics: Arc<Metrics>,
    max_clients: u32,
}

/// What a lane's tasks work on, one at a time.
pub(crate) struct Core {
    pub(crate) node: Node,
    effects: Vec<Effect>,
    pub(crate) scratch: Box<[u8]>,
    pub(crate) clients: Clients,
    pub(crate) peers: Peers,
    pub(crate) mesh: Mesh,
    pub(crate) metrics: Arc<Metrics>,
    /// Connections paused although all of their output was taken.
    drained: Vec<ConnId>,
    /// Connections that failed while effects were carried out.
    pub(crate) dead: Vec<ConnId>,
    /// Links that did.
    pub(crate) broken_links: Vec<(NodeId, Link, u64, String)>,
    disk: Disk,
    /// To be removed once the log has started.
    stale_snapshots: Vec<(GroupId, u64)>,
    mail: Receiver<Mail>,
    wake: Rc<Notify>,
    tick_due: bool,
    /// The turn is to be ended once more.
    ends_again: bool,
    /// The core has more to do than fits one turn.
    goes_on: bool,
    synced_in_turn: bool,
    /// Whether other nodes hold replicas of what is here.
    wall: UnixMillis,
    max_clients: u32,
    published: Instant,
    publish_to: Box<dyn Fn(&Node)>,
    managed: Box<dyn Fn(u64, Answer)>,
    first_sync: Option<FirstSync>,
    end: Option<End>,
}

/// Runs a lane to its end on the calling thread.
///
/// # Errors
/// If the runtime or the listeners cannot be started.
pub fn run(parts: Parts) -> io::Result<End> {
    let runtime = runtime()?;
    let end = runtime.block_on(async {
        let lane = Lane::start(parts)?;
        Ok(lane.drive().await)
    });
    // Tasks hold sockets; whoever waits on them is told by their closing, not before the end is known.
    runtime.shutdown_background();
    end
}

/// A runtime of the shape that the loop needs.
pub(crate) fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build_local(LocalOptions::default())
}

impl Lane {
    /// Starts listening, dialling and ticking.
    fn start(parts: Parts) -> io::Result<Rc<Self>> {
        let wake = Rc::new(Notify::new());
        let identity = Rc::new(parts.identity);
        let core = Core {
            node: parts.started.node,
            effects: parts.started.effects,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            clients: Clients::new(),
            peers: Peers::new(),
            mesh: Mesh::new(identity.clone()),
            metrics: parts.metrics.clone(),
            drained: Vec::new(),
            dead: Vec::new(),
            broken_links: Vec::new(),
            disk: parts.disk,
            stale_snapshots: parts.started.stale_snapshots,
            mail: parts.mail,
            wake: wake.clone(),
            tick_due: false,
            ends_again: false,
            goes_on: false,
            synced_in_turn: false,
            wall: UnixMillis::ZERO,
            max_clients: parts.max_clients,
            published: Instant::now(),
            publish_to: parts.publish,
            managed: parts.managed,
            first_sync: parts.first_sync,
            end: None,
        };
        let lane = Rc::new(Self {
            core: RefCell::new(core),
            wake,
            metrics: parts.metrics,
            max_clients: parts.max_clients,
        });
        lane.core().tell_time();
        lane.core().publish();

        lane.core().follow_peers(&lane, parts.members);
        let listener = parts.peers.listen()?;
        for (door, bound) in [
            (Door::Primary, parts.clients),
            (Door::Replica, parts.replicas),
        ] {
            tokio::task::spawn_local(accept_clients(lane.clone(), bound.listen()?, door));
        }
        tokio::task::spawn_local(accept_peers(lane.clone(), identity, listener));
        tokio::task::spawn_local(tick(lane.clone()));
        tokio::task::spawn_local(relay(lane.clone(), parts.mail_wake));
        Ok(lane)
    }

    pub(crate) fn core(&self) -> RefMut<'_, Core> {
        self.core.borrow_mut()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn max_clients(&self) -> u32 {
        self.max_clients
    }

    pub(crate) fn clients_open(&self) -> u32 {
        self.core().clients.open()
    }

    /// Takes a client's connection over.
    pub(crate) fn admit(self: &Rc<Self>, stream: TcpStream, from: SocketAddr, door: Door) {
        let (read, write) = stream.into_split();
        let conn = self.core().clients.insert(write);
        let task = tokio::task::spawn_local(read_client(self.clone(), conn, read));
        let mut core = self.core();
        core.clients.set_reader(conn, task.abort_handle());
        core.metrics
            .clients_open
            .set(u64::from(core.clients.open()));
        core.step(Event::Opened {
            conn,
            address: &from.to_string(),
            door,
        });
    }

    /// The driver: a turn for each wake-up, until the end.
    async fn drive(self: &Rc<Self>) -> End {
        loop {
            self.wake.notified().await;
            if let Some(end) = self.core().turn(self) {
                return end;
            }
            if std::mem::take(&mut self.core().goes_on) {
                // A wake-up that is there already would be taken without a pause: no socket would be read
                // and no tick come before all is done, and a primary with much to apply be voted out.
                tokio::task::yield_now().await;
                self.wake.notify_one();
            }
        }
    }
}

async fn tick(lane: Rc<Lane>) {
    let mut interval = tokio::time::interval(TICK);
    // However many were missed, what comes next is one.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        lane.core().tick_due = true;
        lane.wake.notify_one();
    }
}

/// Wakes the driver for what other threads sent.
async fn relay(lane: Rc<Lane>, mail_wake: Arc<Notify>) {
    loop {
        mail_wake.notified().await;
        lane.wake.notify_one();
    }
}

impl Keeper for Lane {
    type Core = Core;

    fn kept(&self) -> RefMut<'_, Core> {
        self.core()
    }
}

impl Kept for Core {
    fn clients(&mut self) -> &mut Clients {
        &mut self.clients
    }

    fn scratch(&mut self) -> &mut [u8] {
        &mut self.scratch
    }

    fn took(&mut self, conn: ConnId, len: usize) {
        self.metrics.client_reads.one();
        self.metrics.client_bytes_in.add(len as u64);
        let data = &self.scratch[..len];
        self.node
            .step(Event::Bytes { conn, data }, &mut self.effects);
        self.wake.notify_one();
    }

    fn ended(&mut self, conn: ConnId) {
        self.step(Event::Ended { conn });
    }

    fn drained(&mut self, conn: ConnId) {
        self.step(Event::Drained { conn });
    }

    fn close(&mut self, conn: ConnId) {
        if self.clients.remove(conn) {
            let open = u64::from(self.clients.open());
            self.metrics.clients_open.set(open);
            self.step(Event::Closed { conn });
        }
    }

    fn died(&mut self, conn: ConnId) {
        self.dead.push(conn);
    }

    fn was_drained(&mut self, conn: ConnId) {
        self.drained.push(conn);
    }

    fn socket_and_output(
        &mut self,
        conn: ConnId,
    ) -> Option<(&OwnedWriteHalf, Option<&mut OutBuf>)> {
        let client = self.clients.get(conn)?;
        Some((&client.socket, self.node.output(conn)))
    }

    fn wrote(&mut self, bytes: u64) {
        self.metrics.client_bytes_out.add(bytes);
    }
}

impl Core {
    /// Hands an event to the core and has the driver run.
    pub(crate) fn step(&mut self, event: Event<'_>) {
        self.node.step(event, &mut self.effects);
        self.wake.notify_one();
    }

    /// Hands in the frames that the first `len` bytes of the scratch complete.
    pub(crate) fn peer_bytes(
        &mut self,
        from: NodeId,
        frames: &mut Frames,
        len: usize,
    ) -> Result<(), String> {
        self.metrics.peer_bytes_in.add(len as u64);
        self.wake.notify_one();
        let (node, effects, metrics) = (&mut self.node, &mut self.effects, &self.metrics);
        frames.feed(&self.scratch[..len], |frame| {
            metrics.peer_frames_in.one();
            node.step(Event::Peer { from, frame }, effects);
        })
    }

    /// One turn; `Some` if it was the last.
    fn turn(&mut self, lane: &Rc<Lane>) -> Option<End> {
        self.metrics.turns.one();
        self.synced_in_turn = false;
        self.tell_time();
        while let Ok(mail) = self.mail.try_recv() {
            self.take(mail);
            if self.end.is_some() {
                // A failed sync: nothing that waits may leave, not even what looks harmless.
                return self.end.take();
            }
        }
        if std::mem::take(&mut self.tick_due) {
            self.node.step(Event::Tick, &mut self.effects);
            if self.published.elapsed() >= PUBLISH_INTERVAL {
                self.publish();
            }
        }
        loop {
            self.node.step(Event::EndOfTurn, &mut self.effects);
            if !self.carry_out_all(lane) {
                break;
            }
        }
        self.end.take()
    }

    /// The wall clock, once for each millisecond in which something happens.
    fn tell_time(&mut self) {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now = UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        if now != self.wall {
            self.wall = now;
            self.node.step(Event::Wall(now), &mut self.effects);
        }
    }

    fn take(&mut self, mail: Mail) {
        let event = match mail {
            Mail::Disk(DiskReport::Synced(upto)) => {
                self.disk.reported();
                return self.synced(upto);
            }
            Mail::Disk(DiskReport::SegmentReady(segment)) => Event::SegmentReady { segment },
            Mail::Disk(DiskReport::SegmentRefused(segment)) => {
                tracing::error!(%segment, "the disk is full: there is no room for the next log segment");
                Event::SegmentRefused { segment }
            }
            Mail::Disk(DiskReport::SnapshotStored {
                group,
                number,
                result,
            }) => Event::SnapshotStored {
                group,
                number,
                result,
            },
            Mail::Disk(DiskReport::Failed(error)) => {
                self.end = Some(End::Broken(error));
                return;
            }
            Mail::Control(control) => Event::Control(control),
            Mail::Publish => return self.publish(),
        };
        self.node.step(event, &mut self.effects);
    }

    /// Hands in that a batch is durable.
    fn synced(&mut self, upto: BatchSeq) {
        self.synced_in_turn = true;
        if let Some(Err(error)) = self.first_sync.take().map(|note| note()) {
            self.end = Some(End::Broken(error));
            return;
        }
        self.node.step(Event::Synced { upto }, &mut self.effects);
        if !self.stale_snapshots.is_empty() && self.node.wal().is_started() {
            for (group, number) in std::mem::take(&mut self.stale_snapshots) {
                self.disk.drop_snapshot(group, number);
            }
        }
    }

    /// Carries out the effects in order; says whether that made new events, so that the turn has to be
    /// ended again.
    fn carry_out_all(&mut self, lane: &Rc<Lane>) -> bool {
        // Only a sync releases the replies to writes: what is answered without one is a read.
        let answers = self
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Output(_)));
        if answers && !self.synced_in_turn {
            self.disk.saw_reads();
        }
        let mut inline = None;
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            if let Effect::Append {
                segment,
                offset,
                upto,
                frame,
            } = effect
            {
                let turn = Turn {
                    peers: !self.mesh.is_empty(),
                    ..Turn::default()
                };
                let append = Append {
                    segment,
                    offset,
                    upto,
                    frame,
                };
                // An inline sync holds up everything: what leaves now, leaves before it.
                inline = inline.or(self.disk.begin(append, turn));
            } else {
                self.carry_out(lane, effect);
            }
            if self.end.is_some() {
                return false;
            }
        }
        // The queue is used again; effects that came meanwhile go first into the next round.
        if self.effects.is_empty() {
            self.effects = effects;
        }
        let mut again = std::mem::take(&mut self.ends_again) || !self.effects.is_empty();
        if let Some(append) = inline {
            match self.disk.append_here(&append) {
                Ok(upto) => self.synced(upto),
                Err(error) => self.end = Some(End::Broken(error)),
            }
            if self.end.is_some() {
                return false;
            }
            again = true;
        }
        for conn in std::mem::take(&mut self.drained) {
            self.step(Event::Drained { conn });
            again = true;
        }
        for conn in std::mem::take(&mut self.dead) {
            self.close(conn);
            again = true;
        }
        for (node, link, serial, reason) in std::mem::take(&mut self.broken_links) {
            self.link_down(node, link, serial, &reason);
            again = true;
        }
        again
    }

    fn carry_out(&mut self, lane: &Rc<Lane>, effect: Effect) {
        match effect {
            Effect::Append { .. } => unreachable!("appends are carried out by the caller"),
            Effect::PrepareSegment { segment } => self.disk.prepare(segment),
            Effect::FreeSegment { segment } => self.disk.free(segment),
            Effect::Send { to, link, frame } => self.send(lane, to, link, frame),
            Effect::Output(conn) => write::output(self, lane, conn),
            Effect::Close(conn) => write::close_after_output(self, lane, conn),
            Effect::Pause(conn) => self.pause(conn),
            Effect::Resume(conn) => self.resume(conn),
            Effect::StoreSnapshot {
                group,
                number,
                writer,
            } => {
                self.disk.store_snapshot(group, number, writer);
            }
            Effect::DropSnapshot { group, number } => self.disk.drop_snapshot(group, number),
            Effect::Peers(peers) => self.follow_peers(lane, addresses(&peers)),
            Effect::Again => self.ends_again = true,
            Effect::Continue => self.goes_on = true,
            Effect::Managed { token, answer } => (self.managed)(token, *answer),
            Effect::Note(note) => log_note(&note),
            Effect::Stop(reason) => {
                self.end = Some(match *reason {
                    StopReason::Shutdown => End::Shutdown,
                    StopReason::Broken(text) => End::Broken(text),
                });
            }
        }
    }

    /// Tells the core how the process does, and others how the core does.
    fn publish(&mut self) {
        self.published = Instant::now();
        let usage = usage::now();
        let process = Process {
            id: std::process::id(),
            memory_bytes: usage.memory_bytes,
            cpu_user_us: usage.cpu_user_us,
            cpu_system_us: usage.cpu_system_us,
            connections_max: u64::from(self.max_clients),
            connections_refused: self.metrics.clients_refused.get(),
            output_bytes: self.metrics.client_bytes_out.get(),
        };
        self.node.step(Event::Process(process), &mut self.effects);
        (self.publish_to)(&self.node);
    }
}

fn addresses(peers: &[(NodeId, String)]) -> Vec<PeerAddress> {
    let peer = |(node, address): &(NodeId, String)| PeerAddress {
        node: *node,
        address: address.clone(),
    };
    peers.iter().map(peer).collect()
}

fn log_note(note: &Note) {
    let group = note.group.map(|group| group.0);
    match note.level {
        Level::Info => tracing::info!(group, "{}", note.text),
        Level::Warn => tracing::warn!(group, "{}", note.text),
        Level::Error => tracing::error!(group, "{}", note.text),
    }
}

#[cfg(test)]
mod tests;
