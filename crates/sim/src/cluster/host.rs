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

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use kvorum_base::{Bug, ConnId, GroupId, NodeId, Prng, UnixMillis};
use kvorum_node::format::chunk::{ChunkReader, Loaded};
use kvorum_node::format::peer;
use kvorum_node::group::snapshot::SnapshotWriter;
use kvorum_node::log::{Recovered, Recovery};
use kvorum_node::start::Snapshots;
use kvorum_node::status::Counters;
use kvorum_node::{BatchSeq, Config, Control, Effect, Event, Node, SegmentId, StopReason};

use super::Cluster;
use super::client::Connection;
use super::coverage::Mark;
use super::options::{GROUP, WALL_START_MS, node_id};
use crate::disk::{Disk, FileName, SECTOR};
use crate::world::{Time, ms};

/// How often a process looks at its wall clock.
const WALL_EVERY: Duration = ms(500);

/// The bytes of a sector's stamp and of a batch's header in the log, to aim bit flips at what counts.
const STAMP_BYTES: usize = 8;
const BATCH_HEADER_BYTES: usize = 40;
/// Where in a batch's content the length of its records stands.
const RECORDS_LEN_AT: usize = 32;

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
    Opened(ConnId),
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
    /// What came for connections that the node does not want to read.
    unread: BTreeMap<ConnId, Vec<Vec<u8>>>,
    free: Vec<ConnId>,
    next_index: u32,
    /// Already in the coverage.
    counted: Counters,
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
    /// Syncs come back no earlier.
    hangs_until: Time,
    wall_offset_ms: i64,
}

/// One machine.
pub struct Host {
    index: usize,
    cluster: Weak<Cluster>,
    state: RefCell<State>,
    /// A snapshot was flipped, and its replica has not been repaired since.
    awaits_repair: Cell<bool>,
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
                hangs_until: Time(0),
                wall_offset_ms: 0,
            }),
            awaits_repair: Cell::new(false),
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

    /// Whether its log was found damaged: it has no part in anything any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.state.borrow().is_lost
    }

    /// Whether it is of no use to a quorum that needs a state.
    #[must_use]
    pub fn is_impaired(&self) -> bool {
        self.is_lost() || self.awaits_repair.get()
    }

    /// Runs `look` on the node if there is one.
    pub fn with_node<T>(&self, look: impl FnOnce(&Node) -> T) -> Option<T> {
        let state = self.state.borrow();
        state.process.as_ref().map(|process| look(&process.node))
    }

    /// What the disk does wrong, and the size of what it holds.
    pub fn with_disk<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        change(&mut self.state.borrow_mut().disk)
    }

    /// Syncs that are under way or begin before this moment do not come back before it.
    pub fn hang_disk(&self, until: Time) {
        self.state.borrow_mut().hangs_until = until;
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
        if state.process.is_some() {
            return;
        }
        state.lives += 1;
        let life = state.lives;
        let config = cluster.options.config(self.index, life);
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
            unread: BTreeMap::new(),
            free: Vec::new(),
            next_index: 0,
            counted: Counters::default(),
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

    /// Opens a connection for a client; `None` if nobody listens.
    pub(super) fn connect(self: &Rc<Self>) -> Option<Rc<Connection>> {
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
        let connection = Rc::new(Connection::new(&self.cluster(), self, life, conn));
        process.connections.insert(conn, Rc::clone(&connection));
        process.inbox.push_back(Incoming::Opened(conn));
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
        self.client_closed(connection.life(), connection.id());
        true
    }

    /// A client's end is closed.
    pub(super) fn client_closed(self: &Rc<Self>, life: u64, conn: ConnId) {
        self.deliver(life, Incoming::Closed(conn));
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

    fn schedule_turn(self: &Rc<Self>, state: &mut State) {
        let cluster = self.cluster();
        let State { process, prng, .. } = state;
        let Some(process) = process else { return };
        if process.is_paused || process.is_turn_due {
            return;
        }
        process.is_turn_due = true;
        let life = process.life;
        let delay = prng.below(cluster.options.turn_delay_max.as_micros() as u64 + 1);
        let host = Rc::clone(self);
        cluster
            .world
            .after(Duration::from_micros(delay), move || host.turn(life));
    }

    /// Takes in what waits, and carries out what the node asks for.
    fn turn(self: &Rc<Self>, life: u64) {
        let cluster = self.cluster();
        let mut state = self.state.borrow_mut();
        let wall = self.wall(&state, cluster.world.now());
        let State { process, .. } = &mut *state;
        let Some(process) = process.as_mut().filter(|process| process.life == life) else {
            return;
        };
        process.is_turn_due = false;
        if process.is_paused {
            return;
        }
        let mut effects = Vec::new();
        for incoming in std::mem::take(&mut process.inbox) {
            process.take_in(incoming, wall, &mut effects);
        }
        process.node.step(Event::EndOfTurn, &mut effects);
        let reads_before = process.counted.reads;
        let counters = *process.node.counters();
        cluster.count(&process.counted, &counters);
        process.counted = counters;
        let mut judge = cluster.judge.borrow_mut();
        let seen = judge.observe(
            self.index,
            &process.node,
            counters.reads > reads_before,
            cluster.world.now(),
        );
        drop(judge);
        cluster.saw(seen);
        if self.awaits_repair.get()
            && process
                .node
                .inspect(GROUP)
                .is_some_and(|i| i.state.is_some())
        {
            self.awaits_repair.set(false);
            cluster.hit(Mark::Repairs);
        }
        let is_over = self.carry_out(&mut state, effects, &cluster);
        drop(state);
        if is_over {
            self.end(End::Killed);
            cluster.rise_later(self);
        }
    }

    fn wall(&self, state: &State, now: Time) -> UnixMillis {
        let wall = WALL_START_MS + now.as_millis();
        UnixMillis(wall.saturating_add_signed(state.wall_offset_ms))
    }

    /// Ticks and looks at the wall clock for one life.
    fn keep_time(self: &Rc<Self>, life: u64) {
        let cluster = self.cluster();
        let tick = ms(cluster.options.tick_ms);
        let world = cluster.world.clone();
        let host = Rc::clone(self);
        drop(cluster.world.spawn(async move {
            let mut next_wall = world.now() + WALL_EVERY;
            loop {
                world.sleep(tick).await;
                if !host.is_in_life(life) {
                    return;
                }
                if world.now() >= next_wall {
                    next_wall = next_wall + WALL_EVERY;
                    host.deliver(life, Incoming::Wall);
                }
                host.deliver(life, Incoming::Tick);
            }
        }));
    }

    fn is_in_life(&self, life: u64) -> bool {
        let state = self.state.borrow();
        state
            .process
            .as_ref()
            .is_some_and(|process| process.life == life)
    }

    /// Carries out effects in order; true if the process ends by its own will.
    fn carry_out(
        self: &Rc<Self>,
        state: &mut State,
        effects: Vec<Effect>,
        cluster: &Rc<Cluster>,
    ) -> bool {
        for effect in effects {
            match effect {
                Effect::Append {
                    segment,
                    offset,
                    upto,
                    frame,
                } => {
                    state.disk.write_segment(segment.0, offset as usize, &frame);
                    self.sync_later(
                        state,
                        upto,
                        SyncedFrame {
                            segment,
                            offset: offset as usize,
                            len: frame.len(),
                        },
                    );
                }
                Effect::PrepareSegment { segment } => self.prepare_later(state, segment),
                Effect::FreeSegment { segment } => {
                    cluster.hit(Mark::Recycled);
                    state.disk.free_segment(segment.0);
                    state.synced.retain(|frame| frame.segment != segment);
                }
                Effect::Send { to, frame, .. } => {
                    let frame = Bytes::from(frame.concat());
                    if state.is_lost {
                        self.check_silence(&frame);
                    }
                    cluster.send(self.index, to, &frame);
                }
                Effect::Output(conn) => state.write_out(conn),
                Effect::Close(conn) => {
                    state.write_out(conn);
                    let process = state.process.as_mut().expect("it runs");
                    if let Some(connection) = process.close(conn) {
                        connection.broken_by_server();
                    }
                }
                Effect::Pause(conn) => {
                    let process = state.process.as_mut().expect("it runs");
                    process.unread.entry(conn).or_default();
                }
                Effect::Resume(conn) => {
                    let process = state.process.as_mut().expect("it runs");
                    for bytes in process.unread.remove(&conn).unwrap_or_default() {
                        process.inbox.push_back(Incoming::Bytes(conn, bytes));
                    }
                    self.schedule_turn(state);
                }
                Effect::StoreSnapshot {
                    group,
                    number,
                    writer,
                } => self.store_snapshot(state, group, number, writer),
                Effect::DropSnapshot { group, number } => {
                    let group = group.get();
                    state.disk.remove(&FileName::Snapshot { group, number });
                }
                Effect::Continue => self.schedule_turn(state),
                Effect::Note(note) => {
                    cluster.trace(|| format!("node {}: {}", node_id(self.index), note.text));
                }
                Effect::Stop(reason) => {
                    match *reason {
                        StopReason::Shutdown => cluster.hit(Mark::Shutdowns),
                        StopReason::Broken(text) => cluster.fail(
                            "no-broken-node",
                            format!("node {} stops: {text}", node_id(self.index)),
                        ),
                    }
                    return true;
                }
            }
        }
        false
    }

    fn sync_later(self: &Rc<Self>, state: &mut State, upto: BatchSeq, frame: SyncedFrame) {
        let cluster = self.cluster();
        let now = cluster.world.now();
        let due = (now + state.disk.sync_time()).max(state.hangs_until);
        let (host, life) = (Rc::clone(self), state.lives);
        cluster
            .world
            .after(due - now, move || host.sync(life, upto, frame));
    }

    /// The sync that began earlier comes back, well or not.
    fn sync(self: &Rc<Self>, life: u64, upto: BatchSeq, frame: SyncedFrame) {
        let cluster = self.cluster();
        let now = cluster.world.now();
        let mut state = self.state.borrow_mut();
        let runs = state
            .process
            .as_ref()
            .is_some_and(|process| process.life == life);
        if !runs {
            return;
        }
        if state.hangs_until > now {
            let (host, again) = (Rc::clone(self), state.hangs_until - now);
            cluster
                .world
                .after(again, move || host.sync(life, upto, frame));
            return;
        }
        let result = state.disk.sync_segments();
        if result.is_err() {
            cluster.hit(Mark::FailedSyncs);
            cluster.trace(|| format!("node {}: a sync fails", node_id(self.index)));
            if !cluster.options.planted.has(Bug::SyncedAfterFailure) {
                drop(state);
                self.end(End::Killed);
                cluster.rise_later(self);
                return;
            }
        } else {
            state.synced.push_back(frame);
        }
        state.is_begun = true;
        drop(state);
        self.deliver(life, Incoming::Synced(upto));
    }

    fn prepare_later(self: &Rc<Self>, state: &mut State, segment: SegmentId) {
        let cluster = self.cluster();
        let delay = Duration::from_micros(state.prng.range(100, 5_000));
        let (host, life) = (Rc::clone(self), state.lives);
        cluster.world.after(delay, move || {
            if !host.is_in_life(life) {
                return;
            }
            let made = {
                let mut state = host.state.borrow_mut();
                let is_there = state.disk.segments().any(|made| made == segment.0);
                is_there || state.disk.prepare_segment(segment.0).is_ok()
            };
            if made {
                host.deliver(life, Incoming::SegmentReady(segment));
            } else {
                host.cluster().hit(Mark::FullDisks);
                host.deliver(life, Incoming::SegmentRefused(segment));
            }
        });
    }

    /// Writes a snapshot file as the bulk thread does: pieces, sync, rename, sync of the directory,
    /// and a look whether it can be read.
    fn store_snapshot(
        self: &Rc<Self>,
        state: &mut State,
        group: GroupId,
        number: u64,
        mut writer: Box<SnapshotWriter>,
    ) {
        let cluster = self.cluster();
        let world = cluster.world.clone();
        let (host, life) = (Rc::clone(self), state.lives);
        let mut prng = state.prng.fork();
        drop(cluster.world.spawn(async move {
            let mut bytes = Vec::new();
            while let Some(piece) = writer.next_piece() {
                bytes.extend_from_slice(&piece);
                world
                    .sleep(Duration::from_micros(prng.range(100, 3_000)))
                    .await;
                if !host.is_in_life(life) {
                    return;
                }
            }
            let names = (
                FileName::Unfinished {
                    group: group.get(),
                    number,
                },
                FileName::Snapshot {
                    group: group.get(),
                    number,
                },
            );
            for step in 0..4 {
                if host.snapshot_step(step, &names, &bytes).is_err() {
                    host.cluster().hit(Mark::FullDisks);
                    let full = Err("no room".to_owned());
                    host.deliver(life, Incoming::SnapshotStored(group, number, full));
                    return;
                }
                world
                    .sleep(Duration::from_micros(prng.range(50, 5_000)))
                    .await;
                if !host.is_in_life(life) {
                    return;
                }
            }
            let stored = Ok(bytes.len() as u64);
            host.deliver(life, Incoming::SnapshotStored(group, number, stored));
        }));
    }

    fn snapshot_step(
        &self,
        step: u32,
        (draft, name): &(FileName, FileName),
        bytes: &[u8],
    ) -> Result<(), ()> {
        let disk = &mut self.state.borrow_mut().disk;
        match step {
            0 => disk.write_file(draft.clone(), bytes).map_err(|_| ()),
            1 => disk.sync_file(draft).map_err(|_| ()),
            2 => {
                disk.rename(draft, name.clone());
                Ok(())
            }
            _ => {
                disk.sync_directory();
                assert_eq!(disk.read(name), Some(bytes), "a snapshot read back");
                Ok(())
            }
        }
    }

    /// Flips a bit of the synced log, in a byte that is covered by a checksum. The process must not
    /// run. False if there is nothing to flip.
    pub fn flip_log(&self) -> bool {
        let mut state = self.state.borrow_mut();
        assert!(state.process.is_none(), "flips are seen at a start");
        let State {
            disk, prng, synced, ..
        } = &mut *state;
        // The newest frames matter most: they hold what was promised last.
        let newest = prng.below(4).min(synced.len() as u64) as usize;
        let at = match prng.chance(1, 2) {
            true => synced.len().checked_sub(1 + newest),
            false => (!synced.is_empty()).then(|| prng.index(synced.len())),
        };
        let Some(frame) = at.and_then(|at| synced.get(at)) else {
            return false;
        };
        let name = FileName::Segment(frame.segment.0);
        let Some(bytes) = disk.read(&name) else {
            return false;
        };
        let frame_bytes = &bytes[frame.offset..frame.offset + frame.len];
        let len_at = STAMP_BYTES + RECORDS_LEN_AT;
        let len = u32::from_le_bytes(frame_bytes[len_at..len_at + 4].try_into().expect("four"));
        let content = prng.index(BATCH_HEADER_BYTES + len as usize);
        let room = SECTOR - STAMP_BYTES;
        let at = frame.offset + content / room * SECTOR + STAMP_BYTES + content % room;
        let wanted = name.clone();
        let flipped = disk.flip_bit(|name, _| (*name == wanted).then_some(at..at + 1));
        state.is_flipped = flipped.is_some();
        flipped.is_some()
    }

    /// Flips a bit of the newest snapshot file. The process must not run. False if there is none.
    pub fn flip_snapshot(&self) -> bool {
        let mut state = self.state.borrow_mut();
        assert!(state.process.is_none(), "flips are seen at a start");
        let is_snapshot = |name: &&FileName| matches!(name, FileName::Snapshot { .. });
        let newest = state.disk.names().filter(is_snapshot).last().cloned();
        let flipped = state
            .disk
            .flip_bit(|name, bytes| (Some(name) == newest.as_ref()).then_some(0..bytes.len()));
        if flipped.is_some() {
            self.awaits_repair.set(true);
        }
        flipped.is_some()
    }

    /// A node that lost its promises may say so, and nothing else.
    fn check_silence(&self, frame: &Bytes) {
        let (_, messages) = peer::decode(&frame.slice(peer::PREFIX_BYTES..))
            .expect("a node's own frame can be read");
        for message in messages {
            let is_harmless = matches!(
                message,
                peer::PeerMessage::Lost | peer::PeerMessage::Gone { .. }
            );
            if !is_harmless {
                self.cluster().fail(
                    "silence",
                    format!(
                        "node {} lost its promises and says {message:?}",
                        node_id(self.index)
                    ),
                );
            }
        }
    }
}

impl State {
    /// Takes what is to be written to a connection, sometimes not all at once.
    fn write_out(&mut self, conn: ConnId) {
        let Some(process) = &mut self.process else {
            return;
        };
        let Some(output) = process.node.output(conn) else {
            return;
        };
        let bytes = output.to_vec();
        output.advance(bytes.len());
        if let Some(connection) = process.connections.get(&conn) {
            connection.answered(bytes);
        }
        if self.prng.chance(1, 20) {
            process.inbox.push_back(Incoming::Drained(conn));
        }
    }
}

impl Process {
    fn take_in(&mut self, incoming: Incoming, wall: UnixMillis, effects: &mut Vec<Effect>) {
        let event = match incoming {
            Incoming::Opened(conn) => Event::Opened {
                conn,
                address: "127.0.0.1:1",
            },
            Incoming::Closed(conn) => {
                if self.close(conn).is_none() {
                    return;
                }
                Event::Closed { conn }
            }
            Incoming::Bytes(conn, data) => {
                if !self.connections.contains_key(&conn) {
                    return;
                }
                if let Some(unread) = self.unread.get_mut(&conn) {
                    unread.push(data);
                    return;
                }
                return self.node.step(Event::Bytes { conn, data: &data }, effects);
            }
            Incoming::Drained(conn) => Event::Drained { conn },
            Incoming::Peer { from, frame } => Event::Peer { from, frame },
            Incoming::PeerReset(node) => Event::PeerReset { node },
            Incoming::Synced(upto) => Event::Synced { upto },
            Incoming::SegmentReady(segment) => Event::SegmentReady { segment },
            Incoming::SegmentRefused(segment) => Event::SegmentRefused { segment },
            Incoming::SnapshotStored(group, number, result) => Event::SnapshotStored {
                group,
                number,
                result,
            },
            Incoming::Tick => Event::Tick,
            Incoming::Wall => Event::Wall(wall),
            Incoming::Control(control) => Event::Control(control),
        };
        self.node.step(event, effects);
    }

    /// Forgets a connection; its place is used again under the next generation.
    fn close(&mut self, conn: ConnId) -> Option<Rc<Connection>> {
        let connection = self.connections.remove(&conn)?;
        self.unread.remove(&conn);
        self.free.push(ConnId {
            generation: conn.generation + 1,
            ..conn
        });
        Some(connection)
    }
}

fn read_snapshots(disk: &Disk, config: &Config, recovered: &Recovered) -> Snapshots {
    let mut snapshots = Snapshots::new();
    for (group, state) in &recovered.groups {
        let number = state.snapshot.number;
        if number == 0 {
            continue;
        }
        let name = FileName::Snapshot {
            group: group.get(),
            number,
        };
        let read = || -> Result<Loaded, String> {
            let bytes = disk.read(&name).ok_or("it is not there")?;
            let mut reader = ChunkReader::new(*group, config.hash_key);
            reader.feed(bytes).map_err(|error| error.to_string())?;
            reader.finish().map_err(|error| error.to_string())
        };
        snapshots.insert(*group, read());
    }
    snapshots
}
