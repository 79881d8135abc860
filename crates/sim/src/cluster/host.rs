//! One simulated machine: a disk that outlives its processes, and at most one process, which is a
//! real [`Node`] with a fake shell around it.
//!
//! What the shell leaves to chance is drawn here. Events wait in an inbox and a turn takes what is
//! there; a sync comes back at a random later moment and gets a random place among the other events;
//! a pause lets the inbox fill, and when it ends the frames of peers come first and all missed ticks
//! are one.
//!
//! The disk's misfortunes end the process as the real shell does: after the first failed sync nothing
//! is reported any more.

mod damage;
mod storage;
mod turn;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_base::{Bug, ConnId, Epoch, GroupId, NodeId, Prng};
use kvorum_node::log::Recovery;
use kvorum_node::start::Snapshots;
use kvorum_node::status::Counters;
use kvorum_node::{BatchSeq, Config, Control, Door, Effect, Node, SegmentId};

use super::Cluster;
use super::client::{Connection, Listener, Server, Unread};
use super::coverage::Mark;
use super::options::node_id;
use crate::disk::{Disk, FileName};
use crate::world::{Time, ms};
use storage::read_snapshots;

/// How often a process looks at its wall clock.
const WALL_EVERY: Duration = ms(500);

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Killed: the page cache stays, and whoever was connected is told by the system.
    Killed,
    /// The power failed: what was not synced may be gone, and nobody is told.
    PowerCut,
}

/// One thing that waits for the next turn.
pub(super) enum Incoming {
    Opened(ConnId, Door),
    Closed(ConnId),
    Bytes(ConnId, Vec<u8>),
    Drained(ConnId),
    Peer { from: NodeId, frame: Bytes },
    PeerReset(NodeId),
    Synced(BatchSeq),
    SegmentReady(SegmentId),
    SegmentRefused(SegmentId),
    SnapshotStored(GroupId, u64, Result<u64, String>),
    Tick,
    Wall,
    Control(Control),
}

/// A frame of the log that a sync has confirmed.
struct SyncedFrame {
    segment: SegmentId,
    offset: usize,
    len: usize,
}

struct Process {
    node: Node,
    life: u64,
    inbox: VecDeque<Incoming>,
    is_turn_due: bool,
    is_paused: bool,
    connections: BTreeMap<ConnId, Rc<Connection>>,
    unread: Unread,
    free: Vec<ConnId>,
    next_index: u32,
    /// Already in the coverage.
    counted: Counters,
    /// The newest state of the shard manager that is to be remembered.
    written: Epoch,
}

struct State {
    disk: Disk,
    prng: Prng,
    process: Option<Process>,
    lives: u64,
    /// The log was begun: an empty one would be damage.
    is_begun: bool,
    synced: VecDeque<SyncedFrame>,
    /// A bit of the synced log was flipped: the next start must notice.
    is_flipped: bool,
    is_lost: bool,
    /// Its directory was emptied: what starts there is another node.
    is_wiped: bool,
    /// Syncs come back no earlier.
    hangs_until: Time,
    wall_offset_ms: i64,
    /// What its directory says of the cluster: the newest state of the shard manager that was written down.
    remembered: Option<Arc<kvorum_cluster::State>>,
    /// What happens around the next sync.
    ambush: Option<End>,
}

/// One machine.
pub struct Host {
    index: usize,
    cluster: Weak<Cluster>,
    state: RefCell<State>,
    /// A snapshot that was flipped and is still there: a state that was installed in its place is lost
    /// again by a restart before it is durable.
    awaits_repair: RefCell<Option<FileName>>,
}

impl Server for Host {
    fn received(self: Rc<Self>, life: u64, conn: ConnId, bytes: Vec<u8>) {
        self.deliver(life, Incoming::Bytes(conn, bytes));
    }

    fn closed(self: Rc<Self>, life: u64, conn: ConnId) {
        self.deliver(life, Incoming::Closed(conn));
    }
}

impl Host {
    pub(super) fn new(
        index: usize,
        cluster: Weak<Cluster>,
        segment_bytes: u32,
        prng: Prng,
    ) -> Self {
        let mut prng = prng;
        Self {
            index,
            cluster,
            state: RefCell::new(State {
                disk: Disk::new(prng.fork(), segment_bytes as usize),
                prng,
                process: None,
                lives: 0,
                is_begun: false,
                synced: VecDeque::new(),
                is_flipped: false,
                is_lost: false,
                is_wiped: false,
                hangs_until: Time(0),
                wall_offset_ms: 0,
                remembered: None,
                ambush: None,
            }),
            awaits_repair: RefCell::default(),
        }
    }

    /// Which machine this is, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    fn cluster(&self) -> Rc<Cluster> {
        self.cluster.upgrade().expect("hosts live in their cluster")
    }

    /// Whether a process runs, be it paused.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state.borrow().process.is_some()
    }

    /// Whether the process stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        let state = self.state.borrow();
        state
            .process
            .as_ref()
            .is_some_and(|process| process.is_paused)
    }

    /// Whether its log was found damaged or is gone: it has no part in anything any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.state.borrow().is_lost
    }

    /// Whether it is of no use to a quorum that needs a state.
    #[must_use]
    pub fn is_impaired(&self) -> bool {
        self.is_lost() || self.awaits_repair.borrow().is_some()
    }

    /// Runs `look` on the node if there is one.
    pub fn with_node<T>(&self, look: impl FnOnce(&Node) -> T) -> Option<T> {
        let state = self.state.borrow();
        state.process.as_ref().map(|process| look(&process.node))
    }

    /// The groups that have a replica here.
    #[must_use]
    pub fn hosted(&self) -> Vec<GroupId> {
        let hosted = self.with_node(|node| node.hosted().collect());
        hosted.unwrap_or_default()
    }

    /// What the disk does wrong, and the size of what it holds.
    pub fn with_disk<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        change(&mut self.state.borrow_mut().disk)
    }

    /// Syncs that are under way or begin before this moment do not come back before it.
    pub fn hang_disk(&self, until: Time) {
        self.state.borrow_mut().hangs_until = until;
    }

    /// Ends the process like this around its next sync, when there is most to lose; it rises later.
    pub fn lie_in_wait(&self, end: End) {
        self.state.borrow_mut().ambush = Some(end);
    }

    /// Nothing happens around the next sync.
    pub fn forget_ambush(&self) {
        self.state.borrow_mut().ambush = None;
    }

    /// Moves the wall clock to this distance from the true time.
    pub fn set_wall_offset(self: &Rc<Self>, offset_ms: i64) {
        self.state.borrow_mut().wall_offset_ms = offset_ms;
        self.deliver_now(Incoming::Wall);
    }

    /// Starts a process from what the disk holds. Nothing happens if one runs.
    pub fn start(self: &Rc<Self>) {
        let cluster = self.cluster();
        let mut state = self.state.borrow_mut();
        let returns = cluster.options.planted.has(Bug::WipedNodeReturns);
        if state.process.is_some() || (state.is_wiped && !returns) {
            return;
        }
        state.lives += 1;
        let life = state.lives;
        let mut config = cluster.config(self.index, life);
        if cluster.options.seats() {
            config.known.clone_from(&state.remembered);
        }
        let seed = state.prng.next_u64();
        let mut effects = Vec::new();
        state.disk.sync_directory();
        let node = self.load(&mut state, config, seed, &mut effects);
        cluster.trace(|| format!("node {}: life {life} begins", node_id(self.index)));
        state.process = Some(Process {
            node,
            life,
            inbox: VecDeque::new(),
            is_turn_due: false,
            is_paused: false,
            connections: BTreeMap::new(),
            unread: Unread::default(),
            free: Vec::new(),
            next_index: 0,
            counted: Counters::default(),
            written: Epoch::ZERO,
        });
        cluster.judge.borrow_mut().restarted(self.index);
        self.carry_out(&mut state, effects, &cluster);
        drop(state);
        cluster.serve(self, life);
        self.deliver(life, Incoming::Wall);
        self.keep_time(life);
    }

    /// A node from the bytes of its directory, as the real shell does it.
    fn load(
        &self,
        state: &mut State,
        config: Config,
        seed: u64,
        effects: &mut Vec<Effect>,
    ) -> Node {
        let cluster = self.cluster();
        let planted = config.planted;
        let mut recovery = Recovery::new(&config.log, state.is_begun);
        for segment in state.disk.segments() {
            let bytes = state.disk.read(&FileName::Segment(segment));
            recovery.feed(SegmentId(segment), bytes.expect("a listed segment"));
        }
        let recovered = match recovery.finish() {
            Ok(recovered) => recovered,
            Err(damage) => {
                let text = damage.to_string();
                cluster.trace(|| format!("node {}: damage: {text}", node_id(self.index)));
                if !state.is_flipped {
                    cluster.fail(
                        "intact-log",
                        format!(
                            "node {} finds damage where no bit was flipped: {text}",
                            node_id(self.index)
                        ),
                    );
                }
                if planted.has(Bug::DamagedReplicaAcks) {
                    state.is_flipped = false;
                    state.synced.clear();
                    for segment in state.disk.segments().collect::<Vec<_>>() {
                        state.disk.remove(&FileName::Segment(segment));
                    }
                    return Node::start(config, None, Snapshots::new(), seed, effects);
                }
                if !state.is_lost {
                    cluster.hit(Mark::LostNodes);
                }
                state.is_lost = true;
                return Node::start_lost(config, &text);
            }
        };
        if state.is_flipped {
            cluster.fail(
                "damage-seen",
                format!(
                    "node {} comes up although a synced bit of its log was flipped",
                    node_id(self.index)
                ),
            );
        }
        if recovered.cut.is_some() {
            cluster.hit(Mark::TornTails);
        }
        // The last frames may be superseded by this life's first ones: a flip there would be no damage.
        let kept = state.synced.len().saturating_sub(2);
        state.synced.truncate(kept);
        let snapshots = read_snapshots(&state.disk, &config, &recovered);
        Node::start(config, Some(recovered), snapshots, seed, effects)
    }

    /// Ends the process, if one runs.
    pub fn end(self: &Rc<Self>, end: End) {
        let cluster = self.cluster();
        let process = {
            let mut state = self.state.borrow_mut();
            let process = state.process.take();
            if end == End::PowerCut {
                state.disk.power_cut();
            }
            process
        };
        let Some(process) = process else { return };
        cluster.trace(|| format!("node {}: {end:?}", node_id(self.index)));
        cluster.count(&process.counted, process.node.counters());
        cluster.unserve(self.index);
        if end == End::Killed {
            for connection in process.connections.into_values() {
                connection.broken_by_server();
            }
            cluster.tell_peers_of_reset(self.index);
        }
    }

    /// Ends the process for good and empties its directory.
    pub(super) fn wipe(self: &Rc<Self>) {
        self.end(End::PowerCut);
        let state = &mut *self.state.borrow_mut();
        let names: Vec<FileName> = state.disk.names().cloned().collect();
        for name in names {
            state.disk.remove(&name);
        }
        state.disk.sync_directory();
        state.synced.clear();
        state.is_begun = false;
        state.remembered = None;
        (state.is_wiped, state.is_lost) = (true, true);
    }

    /// Stops the process where it stands.
    pub fn pause(&self) {
        if let Some(process) = &mut self.state.borrow_mut().process {
            process.is_paused = true;
        }
    }

    /// Lets a paused process go on: what peers sent comes first, and the missed ticks are one.
    pub fn resume(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let Some(process) = state.process.as_mut().filter(|process| process.is_paused) else {
            return;
        };
        process.is_paused = false;
        let (peers, mut others): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut process.inbox)
            .into_iter()
            .partition(|incoming| matches!(incoming, Incoming::Peer { .. }));
        let ticks = others.len();
        others.retain(|incoming| !matches!(incoming, Incoming::Tick));
        process.inbox = peers;
        process.inbox.append(&mut others);
        if ticks > 0 {
            process.inbox.push_back(Incoming::Tick);
        }
        self.schedule_turn(&mut state);
    }

    /// Opens a connection for a client, or for a router that listens to it; `None` if nobody is here.
    pub(crate) fn connect(
        self: &Rc<Self>,
        door: Door,
        listener: Option<Listener>,
    ) -> Option<Rc<Connection>> {
        let mut state = self.state.borrow_mut();
        let process = state.process.as_mut()?;
        let conn = process.free.pop().unwrap_or_else(|| {
            process.next_index += 1;
            ConnId {
                index: process.next_index - 1,
                generation: 0,
            }
        });
        let life = process.life;
        let server: Weak<dyn Server> = Rc::<Self>::downgrade(self);
        let connection = Connection::new(&self.cluster(), server, life, conn, listener);
        let connection = Rc::new(connection);
        process.connections.insert(conn, Rc::clone(&connection));
        process.inbox.push_back(Incoming::Opened(conn, door));
        self.schedule_turn(&mut state);
        Some(connection)
    }

    /// Breaks some connection under its client.
    pub(super) fn disconnect_one(self: &Rc<Self>) -> bool {
        let connection = {
            let mut state = self.state.borrow_mut();
            let State { process, prng, .. } = &mut *state;
            let Some(process) = process else { return false };
            let open: Vec<_> = process.connections.values().cloned().collect();
            let Some(connection) = prng.pick(&open) else {
                return false;
            };
            Rc::clone(connection)
        };
        connection.broken_by_server();
        self.deliver(connection.life(), Incoming::Closed(connection.id()));
        true
    }

    /// Hands an event to the process, whichever life it is in.
    pub(super) fn deliver_now(self: &Rc<Self>, incoming: Incoming) {
        let life = self
            .state
            .borrow()
            .process
            .as_ref()
            .map(|process| process.life);
        if let Some(life) = life {
            self.deliver(life, incoming);
        }
    }

    /// Hands an event to the process if it is still in this life.
    pub(super) fn deliver(self: &Rc<Self>, life: u64, incoming: Incoming) {
        let mut state = self.state.borrow_mut();
        let State { process, prng, .. } = &mut *state;
        let Some(process) = process.as_mut().filter(|process| process.life == life) else {
            return;
        };
        let place = match incoming {
            // What a disk reports comes at any place among the rest.
            Incoming::Synced(_) => prng.index(process.inbox.len() + 1),
            _ => process.inbox.len(),
        };
        process.inbox.insert(place, incoming);
        self.schedule_turn(&mut state);
    }
}
