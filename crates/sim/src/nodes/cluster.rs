//! Machines, the links between them, and the clients' connections.
//!
//! Links are what TCP makes of a bad network: in order on each of the two links between a pair of
//! nodes, late, and lost when they are cut. A killed process resets its links at once; a machine
//! without power says nothing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_base::{Bug, ConnId, GroupId, NodeId, Planted, Prng, UnixMillis};
use kvorum_node::group::snapshot::SnapshotWriter;
use kvorum_node::{BatchSeq, Config, Control, Effect, Link, SegmentId};

use super::client::Incoming;
use super::coverage::Coverage;
use super::machine::{Input, Machine, Started};
use crate::checkers::Watch;
use crate::disk::FileName;
use crate::world::{Time, World, ms};

/// A tick of the nodes.
pub const TICK: Duration = ms(10);
/// How often a node is told the time.
const WALL_INTERVAL: Duration = ms(200);
/// What the wall clocks say when the simulation begins.
const WALL_BASE_MS: u64 = 1_700_000_000_000;
/// A write takes at most this long to reach the other end of a link.
const LATENCY_MAX_US: u64 = 800;
/// Segment calls of the file system.
const PREPARE_MAX_US: u64 = 4000;
/// Writing a snapshot file.
const STORE_MAX_MS: u64 = 60;

/// What is told of an input's way, for `--trace`.
type Trace = Option<Box<dyn Fn(Time, &str)>>;

struct Inner {
    world: World,
    machines: Vec<RefCell<Machine>>,
    prng: RefCell<Prng>,
    /// Cut links, by sender and receiver.
    cut: RefCell<BTreeSet<(usize, usize)>>,
    /// When the last frame of each link arrives.
    arrivals: RefCell<BTreeMap<(usize, usize, Link), Time>>,
    clients: RefCell<BTreeMap<(usize, u64, ConnId), Rc<Incoming>>>,
    coverage: RefCell<Coverage>,
    watch: RefCell<Watch>,
    planted: Planted,
    trace: Trace,
    turns: Cell<u64>,
}

/// A cluster of simulated machines. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    inner: Rc<Inner>,
}

impl Cluster {
    /// Machines with empty disks, all started.
    #[must_use]
    pub fn new(world: &World, configs: Vec<Config>, trace: Trace) -> Self {
        let mut prng = world.fork_prng();
        let planted = configs
            .first()
            .map(|config| config.planted)
            .unwrap_or_default();
        let machines = configs.into_iter().map(|config| {
            let machine = Machine::new(config, prng.fork());
            RefCell::new(machine)
        });
        let cluster = Self {
            inner: Rc::new(Inner {
                world: world.clone(),
                machines: machines.collect(),
                prng: RefCell::new(prng),
                cut: RefCell::default(),
                arrivals: RefCell::default(),
                clients: RefCell::default(),
                coverage: RefCell::default(),
                watch: RefCell::default(),
                planted,
                trace,
                turns: Cell::new(0),
            }),
        };
        (0..cluster.size()).for_each(|machine| cluster.start(machine));
        cluster
    }

    /// How many machines there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.machines.len()
    }

    /// The world that it is in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.inner.world
    }

    /// A draw in `0..bound`.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.inner.prng.borrow_mut().below(bound)
    }

    /// True `numerator` times out of `denominator`.
    #[must_use]
    pub fn chance(&self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// Counts something that happened.
    pub fn count(&self, what: impl FnOnce(&mut Coverage)) {
        what(&mut self.inner.coverage.borrow_mut());
    }

    /// What happened so far.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.inner.coverage.borrow().clone()
    }

    /// Tells whoever traces.
    pub fn trace(&self, text: impl FnOnce() -> String) {
        if let Some(trace) = &self.inner.trace {
            trace(self.inner.world.now(), &text());
        }
    }

    /// Looks at a machine, or changes it.
    pub fn with<T>(&self, machine: usize, act: impl FnOnce(&mut Machine) -> T) -> T {
        act(&mut self.inner.machines[machine].borrow_mut())
    }

    /// A machine whose node leads, if any does.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let leads = |machine: &usize| {
            self.with(*machine, |machine| {
                let status = machine
                    .process
                    .as_ref()
                    .map(|process| process.node.status());
                status.is_some_and(|status| status.groups.iter().any(|group| group.leading))
            })
        };
        (0..self.size()).find(leads)
    }

    /// Whether a process runs there.
    #[must_use]
    pub fn is_up(&self, machine: usize) -> bool {
        self.with(machine, |machine| machine.process.is_some())
    }

    /// Starts the machine's process.
    ///
    /// # Panics
    /// If a node says that its log is damaged though nobody touched it.
    pub fn start(&self, at: usize) {
        let mut effects = Vec::new();
        let (started, life, tampered) = self.with(at, |machine| {
            let started = machine.start(&mut effects);
            (started, machine.life, machine.tampered)
        });
        self.trace(|| format!("machine {at} starts: {started:?}"));
        match started {
            Started::Whole => {}
            Started::Cut => self.count(|coverage| coverage.torn_batches += 1),
            Started::Lost => {
                assert!(tampered, "machine {at} takes a power cut for damage");
                self.count(|coverage| coverage.lost_nodes += 1);
            }
        }
        self.carry_out(at, effects);
        self.wall_tick(at, life);
        let offset = Duration::from_micros(self.below(TICK.as_micros() as u64));
        self.tick_after(offset, at, life);
        // The others notice a new process on the links that they still had to the old one.
        self.reset_links(at);
    }

    fn wall_tick(&self, at: usize, life: u64) {
        if self.with(at, |machine| {
            machine.life != life || machine.process.is_none()
        }) {
            return;
        }
        let error = self.with(at, |machine| machine.clock_error_ms);
        let now = WALL_BASE_MS + self.inner.world.now().as_millis();
        self.push(
            at,
            life,
            Input::Wall(UnixMillis(now.saturating_add_signed(error))),
        );
        let cluster = self.clone();
        self.inner
            .world
            .after(WALL_INTERVAL, move || cluster.wall_tick(at, life));
    }

    fn tick_after(&self, delay: Duration, at: usize, life: u64) {
        let cluster = self.clone();
        self.inner.world.after(delay, move || {
            let alive = cluster.with(at, |machine| {
                let process = machine.process.as_mut().filter(|_| machine.life == life);
                process.map(crate::nodes::machine::Process::tick).is_some()
            });
            if alive {
                cluster.turn_soon(at, life);
                cluster.tick_after(TICK, at, life);
            }
        });
    }

    /// Puts something into a node's next turn, if that life of it is not over.
    pub fn push(&self, at: usize, life: u64, input: Input) {
        let alive = self.with(at, |machine| {
            let process = machine.process.as_mut().filter(|_| machine.life == life);
            process
                .map(|process| process.push(input, &mut self.inner.prng.borrow_mut()))
                .is_some()
        });
        if alive {
            self.turn_soon(at, life);
        }
    }

    fn turn_soon(&self, at: usize, life: u64) {
        let due = self.with(at, |machine| {
            let paused = machine.paused;
            let process = machine.process.as_mut();
            process.is_some_and(|process| {
                let due = !paused && !process.turn_due && process.has_input();
                process.turn_due |= due;
                due
            })
        });
        if due {
            let delay = Duration::from_micros(self.below(100));
            let cluster = self.clone();
            self.inner
                .world
                .after(delay, move || cluster.turn(at, life));
        }
    }

    fn turn(&self, at: usize, life: u64) {
        let mut effects = Vec::new();
        let status = self.with(at, |machine| {
            if machine.life != life {
                return None;
            }
            let paused = machine.paused;
            let process = machine.process.as_mut()?;
            process.turn_due = false;
            if paused {
                return None;
            }
            process.turn(&mut effects);
            Some(process.node.status())
        });
        let Some(status) = status else {
            return;
        };
        let turns = self.inner.turns.get() + 1;
        self.inner.turns.set(turns);
        if turns.is_multiple_of(32) {
            self.with(at, |machine| {
                machine.process.as_ref().expect("it runs").node.check();
            });
        }
        self.inner.watch.borrow_mut().observe(at, life, &status);
        self.count(|coverage| coverage.observe((at, life), &status));
        self.carry_out(at, effects);
    }

    fn carry_out(&self, at: usize, effects: Vec<Effect>) {
        let life = self.with(at, |machine| machine.life);
        for effect in effects {
            match effect {
                Effect::Append {
                    segment,
                    offset,
                    upto,
                    frame,
                } => {
                    self.append(at, life, segment, offset, upto, &frame);
                }
                Effect::PrepareSegment { segment } => self.prepare_segment(at, life, segment),
                Effect::FreeSegment { segment } => {
                    self.with(at, |machine| machine.disk.free_segment(segment.0));
                    self.count(|coverage| coverage.segments_freed += 1);
                }
                Effect::Send { to, link, frame } => self.send(at, to, link, &frame),
                Effect::Output(conn) => self.output(at, life, conn),
                Effect::Close(conn) => self.hang_up(at, life, conn),
                Effect::Pause(conn) => self.with_process(at, |process| process.hold(conn)),
                Effect::Resume(conn) => {
                    self.with_process(at, |process| process.release(conn));
                    self.turn_soon(at, life);
                }
                Effect::StoreSnapshot {
                    group,
                    number,
                    writer,
                } => {
                    self.store_snapshot(at, life, group, number, *writer);
                }
                Effect::DropSnapshot { group, number } => {
                    let name = FileName::Snapshot {
                        group: group.get(),
                        number,
                    };
                    self.with(at, |machine| machine.disk.remove(&name));
                }
                Effect::Continue => {
                    let cluster = self.clone();
                    let again = move || cluster.turn(at, life);
                    self.inner.world.after(Duration::ZERO, again);
                }
                Effect::Note(note) => self.trace(|| format!("machine {at}: {}", note.text)),
                Effect::Stop(reason) => {
                    self.trace(|| format!("machine {at} stops: {reason:?}"));
                    self.kill(at);
                }
            }
        }
    }

    fn with_process(&self, at: usize, act: impl FnOnce(&mut super::machine::Process)) {
        self.with(at, |machine| machine.process.as_mut().map(act));
    }

    fn append(
        &self,
        at: usize,
        life: u64,
        segment: SegmentId,
        offset: u32,
        upto: BatchSeq,
        frame: &Bytes,
    ) {
        let delay = self.with(at, |machine| {
            machine
                .disk
                .write_segment(segment.0, offset as usize, frame);
            machine.disk.sync_time()
        });
        let cluster = self.clone();
        self.inner
            .world
            .after(delay, move || cluster.sync(at, life, upto));
    }

    fn sync(&self, at: usize, life: u64, upto: BatchSeq) {
        let synced = self.with(at, |machine| {
            let alive = machine.life == life && machine.process.is_some();
            alive.then(|| machine.disk.sync_segments())
        });
        match synced {
            None => {}
            Some(Ok(())) => {
                self.with(at, Machine::note_log_begun);
                self.push(at, life, Input::Synced(upto));
            }
            Some(Err(_)) => {
                self.count(|coverage| coverage.failed_syncs += 1);
                if self.inner.planted.has(Bug::SyncedAfterFailure) {
                    // Tries again, and believes it.
                    self.sync(at, life, upto);
                } else {
                    self.trace(|| format!("machine {at}: a sync failed, the process ends"));
                    self.kill(at);
                }
            }
        }
    }

    fn prepare_segment(&self, at: usize, life: u64, segment: SegmentId) {
        let delay = Duration::from_micros(self.below(PREPARE_MAX_US));
        let cluster = self.clone();
        self.inner.world.after(delay, move || {
            let alive = |machine: &Machine| machine.life == life && machine.process.is_some();
            let made = cluster.with(at, |machine| {
                alive(machine).then(|| machine.disk.prepare_segment(segment.0))
            });
            let input = match made {
                None => return,
                Some(Ok(())) => Input::SegmentReady(segment),
                Some(Err(_)) => {
                    cluster.count(|coverage| coverage.segments_refused += 1);
                    Input::SegmentRefused(segment)
                }
            };
            cluster.push(at, life, input);
        });
    }

    /// Writes the file, and a while later syncs it, names it, syncs the directory, reads it back.
    fn store_snapshot(
        &self,
        at: usize,
        life: u64,
        group: GroupId,
        number: u64,
        mut writer: SnapshotWriter,
    ) {
        let bytes: Vec<u8> = std::iter::from_fn(|| writer.next_piece())
            .flatten()
            .collect();
        let draft = FileName::Unfinished {
            group: group.get(),
            number,
        };
        let name = FileName::Snapshot {
            group: group.get(),
            number,
        };
        let delay = ms(self.below(STORE_MAX_MS));
        let cluster = self.clone();
        self.inner.world.after(delay, move || {
            let alive = move |machine: &Machine| machine.life == life && machine.process.is_some();
            let written = cluster.with(at, |machine| {
                alive(machine).then(|| machine.disk.write_file(draft.clone(), &bytes))
            });
            let Some(written) = written else {
                return;
            };
            let again = cluster.clone();
            let delay = ms(cluster.below(STORE_MAX_MS));
            cluster.inner.world.after(delay, move || {
                let finish = |machine: &mut Machine| -> Option<Result<u64, String>> {
                    if !alive(machine) {
                        return None;
                    }
                    if written.is_err() {
                        return Some(Err("no room".to_owned()));
                    }
                    if machine.disk.sync_file(&draft).is_err() {
                        machine.disk.remove(&draft);
                        return Some(Err("the sync failed".to_owned()));
                    }
                    machine.disk.rename(&draft, name.clone());
                    machine.disk.sync_directory();
                    let is_same = machine.disk.read(&name) == Some(&bytes[..]);
                    let len = bytes.len() as u64;
                    Some(if is_same {
                        Ok(len)
                    } else {
                        Err("it reads otherwise".to_owned())
                    })
                };
                if let Some(result) = again.with(at, finish) {
                    again.push(
                        at,
                        life,
                        Input::SnapshotStored {
                            group,
                            number,
                            result,
                        },
                    );
                }
            });
        });
    }

    fn send(&self, from: usize, to: NodeId, link: Link, pieces: &[Bytes]) {
        let to = to.get() as usize - 1;
        let now = self.inner.world.now();
        if to >= self.size() || self.inner.cut.borrow().contains(&(from, to)) {
            return;
        }
        let earliest = now + Duration::from_micros(50 + self.below(LATENCY_MAX_US));
        let mut arrivals = self.inner.arrivals.borrow_mut();
        let arrival = arrivals.entry((from, to, link)).or_default();
        *arrival = earliest.max(*arrival);
        let delay = *arrival - now;
        drop(arrivals);
        let frame = Bytes::from(pieces.concat()).slice(4..);
        let life = self.with(to, |machine| machine.life);
        let cluster = self.clone();
        self.inner.world.after(delay, move || {
            // What was on its way when the link was cut is lost with it.
            if !cluster.inner.cut.borrow().contains(&(from, to)) {
                cluster.push(to, life, Input::Peer(node_of(from), frame));
            }
        });
    }

    /// Cuts or heals the links from one machine to another.
    pub fn set_cut(&self, from: usize, to: usize, is_cut: bool) {
        let mut cut = self.inner.cut.borrow_mut();
        if is_cut {
            cut.insert((from, to));
        } else {
            cut.remove(&(from, to));
        }
    }

    /// Heals all links.
    pub fn heal(&self) {
        self.inner.cut.borrow_mut().clear();
    }

    fn reset_links(&self, at: usize) {
        for other in (0..self.size()).filter(|other| *other != at) {
            if self.inner.cut.borrow().contains(&(at, other)) {
                continue;
            }
            let life = self.with(other, |machine| machine.life);
            let delay = Duration::from_micros(self.below(3000));
            let cluster = self.clone();
            self.inner.world.after(delay, move || {
                cluster.push(other, life, Input::PeerReset(node_of(at)));
            });
        }
    }

    /// Kills the process: kill -9, or its own end. The page cache stays.
    pub fn kill(&self, at: usize) {
        if self.end_process(at) {
            self.trace(|| format!("machine {at} is killed"));
            self.count(|coverage| coverage.kills += 1);
            self.reset_links(at);
        }
    }

    /// Cuts the machine's power.
    pub fn power_cut(&self, at: usize) {
        if self.end_process(at) {
            self.trace(|| format!("machine {at} loses power"));
            self.count(|coverage| coverage.power_cuts += 1);
        }
        self.with(at, |machine| machine.disk.power_cut());
    }

    fn end_process(&self, at: usize) -> bool {
        let was_up = self.with(at, |machine| machine.process.take().is_some());
        let mut clients = self.inner.clients.borrow_mut();
        for (_, incoming) in clients.extract_if(.., |(machine, ..), _| *machine == at) {
            incoming.close();
        }
        was_up
    }

    /// Stops the process or lets it go on, as a debugger does.
    pub fn set_paused(&self, at: usize, paused: bool) {
        let life = self.with(at, |machine| {
            machine.paused = paused;
            machine.life
        });
        if !paused {
            self.turn_soon(at, life);
        }
    }

    /// Passes an operator's request on.
    pub fn control(&self, at: usize, control: Control) {
        let life = self.with(at, |machine| machine.life);
        self.push(at, life, Input::Control(control));
    }

    /// Connects a client; `None` if no process listens.
    #[must_use]
    pub fn open(&self, at: usize) -> Option<(ConnId, u64, Rc<Incoming>)> {
        let (conn, life) = self.with(at, |machine| {
            let conn = machine
                .process
                .as_mut()
                .map(super::machine::Process::new_conn)?;
            Some((conn, machine.life))
        })?;
        let incoming = Rc::new(Incoming::default());
        self.inner
            .clients
            .borrow_mut()
            .insert((at, life, conn), Rc::clone(&incoming));
        self.push(at, life, Input::Opened(conn));
        Some((conn, life, incoming))
    }

    /// A client writes. The node reads it in pieces, wherever they are cut.
    pub fn client_writes(&self, at: usize, life: u64, conn: ConnId, bytes: &[u8]) {
        let mut rest = bytes;
        let mut delay = Duration::from_micros(self.below(300));
        while !rest.is_empty() {
            let whole = self.chance(3, 4);
            let len = if whole {
                rest.len()
            } else {
                1 + self.below(rest.len() as u64) as usize
            };
            let (piece, after) = rest.split_at(len);
            rest = after;
            let (cluster, piece) = (self.clone(), piece.to_vec());
            self.inner.world.after(delay, move || {
                cluster.push(at, life, Input::Bytes(conn, piece));
            });
            delay += Duration::from_micros(self.below(300));
        }
    }

    /// A client goes away.
    pub fn client_closes(&self, at: usize, life: u64, conn: ConnId) {
        if self
            .inner
            .clients
            .borrow_mut()
            .remove(&(at, life, conn))
            .is_some()
        {
            self.push(at, life, Input::Closed(conn));
        }
    }

    fn output(&self, at: usize, life: u64, conn: ConnId) {
        let blocks = self.chance(1, 20);
        let part = self.below(64) as usize;
        let (bytes, left) = self.with(at, |machine| {
            let output = machine
                .process
                .as_mut()
                .and_then(|process| process.node.output(conn));
            let Some(output) = output else {
                return (Vec::new(), false);
            };
            let mut bytes = output.to_vec();
            if blocks {
                bytes.truncate(part);
            }
            output.advance(bytes.len());
            (bytes, !output.is_empty())
        });
        let incoming = self.inner.clients.borrow().get(&(at, life, conn)).cloned();
        if let Some(incoming) = incoming {
            incoming.receive(&bytes);
        }
        if left {
            let cluster = self.clone();
            self.inner.world.after(ms(1), move || {
                if cluster.with(at, |machine| machine.life == life) {
                    cluster.output(at, life, conn);
                    cluster.push(at, life, Input::Drained(conn));
                }
            });
        }
    }

    fn hang_up(&self, at: usize, life: u64, conn: ConnId) {
        self.output(at, life, conn);
        if let Some(incoming) = self.inner.clients.borrow_mut().remove(&(at, life, conn)) {
            incoming.close();
        }
    }

    /// The judge's notes on the replicas.
    pub fn with_watch<T>(&self, act: impl FnOnce(&mut Watch) -> T) -> T {
        act(&mut self.inner.watch.borrow_mut())
    }
}

/// The node on a machine.
#[must_use]
pub fn node_of(machine: usize) -> NodeId {
    NodeId(machine as u64 + 1)
}
