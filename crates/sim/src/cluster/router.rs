//! A router and the machine under it: the real brain with a fake shell around it.
//!
//! Its clients are clients like those of nodes, and its links to nodes are connections like theirs. It has
//! no disk: a killed one comes back knowing nothing, and what it had taken is answered by nobody.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use kvorum_base::{ConnId, Prng, UnixMillis};
use kvorum_router::planted::Planted;
use kvorum_router::{Config, Effect, Event, LinkId, Router};

use super::Cluster;
use super::client::{Connection, Heard, Server, Unread};
use super::coverage::Mark;
use super::options::{WALL_START_MS, addresses_of, door_at, node_id};
use crate::world::ms;

/// One thing that waits for the next turn.
enum Incoming {
    Opened(ConnId),
    Closed(ConnId),
    Bytes(ConnId, Vec<u8>),
    LinkUp(LinkId),
    LinkDown(LinkId),
    LinkBytes(LinkId, Vec<u8>),
    Tick,
    Shutdown,
}

struct Process {
    router: Router,
    life: u64,
    inbox: VecDeque<Incoming>,
    is_turn_due: bool,
    is_paused: bool,
    connections: BTreeMap<ConnId, Rc<Connection>>,
    unread: Unread,
    links: BTreeMap<LinkId, Rc<Connection>>,
    next_index: u32,
}

struct State {
    prng: Prng,
    process: Option<Process>,
    lives: u64,
}

impl State {
    /// The process, if it is still in this life.
    fn in_life(&mut self, life: u64) -> Option<&mut Process> {
        let process = self.process.as_mut();
        process.filter(|process| process.life == life)
    }
}

/// One router's machine.
pub struct RouterHost {
    index: usize,
    cluster: Weak<Cluster>,
    state: RefCell<State>,
}

impl Server for RouterHost {
    fn received(self: Rc<Self>, life: u64, conn: ConnId, bytes: Vec<u8>) {
        self.deliver(life, Incoming::Bytes(conn, bytes));
    }

    fn closed(self: Rc<Self>, life: u64, conn: ConnId) {
        self.deliver(life, Incoming::Closed(conn));
    }
}

impl RouterHost {
    pub(super) fn new(index: usize, cluster: &Rc<Cluster>) -> Self {
        // Chances of its own: without routers a seed is what it is without this file.
        let seed = cluster.options.seed ^ 0x526F_7574_6572_0002;
        Self {
            index,
            cluster: Rc::downgrade(cluster),
            state: RefCell::new(State {
                prng: Prng::new(seed.wrapping_add(index as u64)),
                process: None,
                lives: 0,
            }),
        }
    }

    fn cluster(&self) -> Rc<Cluster> {
        self.cluster
            .upgrade()
            .expect("routers live in their cluster")
    }

    /// Starts a process. Nothing happens if one runs.
    pub fn start(self: &Rc<Self>) {
        let cluster = self.cluster();
        let mut state = self.state.borrow_mut();
        if state.process.is_some() {
            return;
        }
        state.lives += 1;
        let life = state.lives;
        let options = &cluster.options;
        let seeds = (0..options.nodes).map(|node| addresses_of(node_id(node)).client.to_string());
        let router = Router::new(Config {
            seeds: seeds.collect(),
            password: None,
            deadline_ticks: options.deadline_ms / options.tick_ms,
            port: 7379,
            run_id: "0".repeat(40),
            planted: Planted::default(),
        });
        state.process = Some(Process {
            router,
            life,
            inbox: VecDeque::new(),
            is_turn_due: false,
            is_paused: false,
            connections: BTreeMap::new(),
            unread: Unread::default(),
            links: BTreeMap::new(),
            next_index: 0,
        });
        drop(state);
        cluster.trace(|| format!("router {}: life {life} begins", self.index));
        self.keep_time(life);
    }

    fn keep_time(self: &Rc<Self>, life: u64) {
        let cluster = self.cluster();
        let (world, tick) = (cluster.world.clone(), ms(cluster.options.tick_ms));
        let host = Rc::clone(self);
        drop(cluster.world.spawn(async move {
            while host.is_in_life(life) {
                host.deliver(life, Incoming::Tick);
                world.sleep(tick).await;
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

    /// Kills it, stops it for a while, or ends it in good order, now and then, as long as the storm lasts.
    pub fn meet_misfortunes(self: &Rc<Self>) {
        let cluster = self.cluster();
        if cluster.options.dangers.is_empty() {
            return;
        }
        let (host, mut prng) = (Rc::clone(self), self.state.borrow_mut().prng.fork());
        let world = cluster.world.clone();
        drop(cluster.world.clone().spawn(async move {
            loop {
                world.sleep(ms(prng.range(500, 20_000))).await;
                if cluster.is_calm.get() {
                    return;
                }
                match prng.below(3) {
                    0 => {
                        cluster.hit(Mark::RoutersKilled);
                        host.end();
                    }
                    1 => {
                        cluster.hit(Mark::RoutersPaused);
                        host.pause();
                    }
                    _ => host.shut_down(),
                }
                world.sleep(ms(prng.range(5, 3_000))).await;
                host.resume();
                host.start();
            }
        }));
    }

    /// The process is gone: clients are told by the system, and so are the nodes.
    fn end(&self) {
        let Some(process) = self.state.borrow_mut().process.take() else {
            return;
        };
        self.cluster()
            .trace(|| format!("router {}: ends", self.index));
        for connection in process.connections.into_values() {
            connection.broken_by_server();
        }
        for link in process.links.into_values() {
            link.close();
        }
    }

    fn pause(&self) {
        if let Some(process) = &mut self.state.borrow_mut().process {
            process.is_paused = true;
        }
    }

    fn shut_down(self: &Rc<Self>) {
        let life = self
            .state
            .borrow()
            .process
            .as_ref()
            .map(|process| process.life);
        if let Some(life) = life {
            self.deliver(life, Incoming::Shutdown);
        }
    }

    /// Lets a paused process go on; missed ticks are one.
    pub fn resume(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        let Some(process) = state.process.as_mut().filter(|process| process.is_paused) else {
            return;
        };
        process.is_paused = false;
        process
            .inbox
            .retain(|incoming| !matches!(incoming, Incoming::Tick));
        process.inbox.push_back(Incoming::Tick);
        self.schedule_turn(&mut state);
    }

    /// Opens a connection for a client; `None` if nobody listens.
    pub(super) fn connect(self: &Rc<Self>) -> Option<Rc<Connection>> {
        let mut state = self.state.borrow_mut();
        let process = state.process.as_mut()?;
        let conn = ConnId {
            index: process.next_index,
            generation: 0,
        };
        process.next_index += 1;
        let server: Weak<dyn Server> = Rc::<Self>::downgrade(self);
        let connection = Connection::new(&self.cluster(), server, process.life, conn, None);
        let connection = Rc::new(connection);
        process.connections.insert(conn, Rc::clone(&connection));
        process.inbox.push_back(Incoming::Opened(conn));
        self.schedule_turn(&mut state);
        Some(connection)
    }

    fn deliver(self: &Rc<Self>, life: u64, incoming: Incoming) {
        let mut state = self.state.borrow_mut();
        let Some(process) = state.in_life(life) else {
            return;
        };
        process.inbox.push_back(incoming);
        self.schedule_turn(&mut state);
    }

    fn schedule_turn(self: &Rc<Self>, state: &mut State) {
        let State { process, prng, .. } = state;
        let Some(process) = process else { return };
        if process.is_paused || process.is_turn_due {
            return;
        }
        process.is_turn_due = true;
        let cluster = self.cluster();
        let (host, life) = (Rc::clone(self), process.life);
        let delay = prng.below(cluster.options.turn_delay_max.as_micros() as u64 + 1);
        let delay = Duration::from_micros(delay);
        cluster.world.after(delay, move || host.turn(life));
    }

    /// Takes in what waits, and carries out what the router asks for.
    fn turn(self: &Rc<Self>, life: u64) {
        let cluster = self.cluster();
        let mut state = self.state.borrow_mut();
        let Some(process) = state.in_life(life) else {
            return;
        };
        process.is_turn_due = false;
        if process.is_paused {
            return;
        }
        let mut effects = Vec::new();
        let wall = UnixMillis(WALL_START_MS + cluster.world.now().as_millis());
        process.router.step(Event::Wall(wall), &mut effects);
        for incoming in std::mem::take(&mut process.inbox) {
            process.take_in(incoming, &mut effects);
        }
        process.router.step(Event::EndOfTurn, &mut effects);
        process.router.check();
        let is_over = self.carry_out(process, effects, &cluster);
        if !process.inbox.is_empty() {
            self.schedule_turn(&mut state);
        }
        drop(state);
        if is_over {
            cluster.hit(Mark::RoutersStopped);
            self.end();
        }
    }

    /// Carries out effects in order; true if the process ends by its own will.
    fn carry_out(
        self: &Rc<Self>,
        process: &mut Process,
        effects: Vec<Effect>,
        cluster: &Rc<Cluster>,
    ) -> bool {
        for effect in effects {
            match effect {
                Effect::Output(conn) => process.write_out(conn),
                Effect::Close(conn) => {
                    process.write_out(conn);
                    process.unread.take(conn);
                    if let Some(connection) = process.connections.remove(&conn) {
                        connection.broken_by_server();
                    }
                }
                Effect::Pause(conn) => process.unread.stop(conn),
                Effect::Resume(conn) => {
                    for bytes in process.unread.take(conn) {
                        process.inbox.push_back(Incoming::Bytes(conn, bytes));
                    }
                }
                Effect::Dial { link, address } => self.dial(process.life, link, &address),
                Effect::LinkOutput(link) => process.write_to_node(link),
                Effect::HangUp(link) => {
                    if let Some(connection) = process.links.remove(&link) {
                        connection.close();
                    }
                }
                Effect::Note(text) => cluster.trace(|| format!("router {}: {text}", self.index)),
                Effect::Stop => return true,
            }
        }
        false
    }

    /// Connects to a node, a while later.
    fn dial(self: &Rc<Self>, life: u64, link: LinkId, address: &str) {
        let cluster = self.cluster();
        let (node, door) = door_at(address);
        let (host, latency) = (Rc::clone(self), cluster.options.latency);
        cluster.world.clone().after(latency, move || {
            let listener = Rc::clone(&host);
            let listener = Box::new(move |heard| match heard {
                Heard::Bytes(bytes) => listener.deliver(life, Incoming::LinkBytes(link, bytes)),
                Heard::Broken => listener.deliver(life, Incoming::LinkDown(link)),
            });
            let mut state = host.state.borrow_mut();
            let Some(process) = state.in_life(life) else {
                return;
            };
            let connection = cluster.hosts()[node].connect(door, Some(listener));
            let incoming = match connection {
                Some(connection) => {
                    process.links.insert(link, connection);
                    Incoming::LinkUp(link)
                }
                None => Incoming::LinkDown(link),
            };
            drop(state);
            host.deliver(life, incoming);
        });
    }
}

impl Process {
    fn take_in(&mut self, incoming: Incoming, effects: &mut Vec<Effect>) {
        let event = match incoming {
            Incoming::Opened(conn) => Event::Opened {
                conn,
                address: "127.0.0.1:1",
            },
            Incoming::Closed(conn) => {
                self.unread.take(conn);
                if self.connections.remove(&conn).is_none() {
                    return;
                }
                Event::Closed { conn }
            }
            Incoming::Bytes(conn, data) => {
                if !self.connections.contains_key(&conn) {
                    return;
                }
                let Some(data) = self.unread.arrived(conn, data) else {
                    return;
                };
                return self
                    .router
                    .step(Event::Bytes { conn, data: &data }, effects);
            }
            Incoming::LinkUp(link) => Event::LinkUp { link },
            Incoming::LinkDown(link) => {
                self.links.remove(&link);
                let reason = "the node closed it";
                Event::LinkDown { link, reason }
            }
            Incoming::LinkBytes(link, data) => {
                return self
                    .router
                    .step(Event::LinkBytes { link, data: &data }, effects);
            }
            Incoming::Tick => Event::Tick,
            Incoming::Shutdown => Event::Shutdown,
        };
        self.router.step(event, effects);
    }

    fn write_out(&mut self, conn: ConnId) {
        let Some(output) = self.router.output(conn) else {
            return;
        };
        let bytes = output.to_vec();
        output.advance(bytes.len());
        if let Some(connection) = self.connections.get(&conn) {
            connection.answered(bytes);
        }
    }

    fn write_to_node(&mut self, link: LinkId) {
        let Some(output) = self.router.link_output(link) else {
            return;
        };
        let bytes = output.to_vec();
        output.advance(bytes.len());
        if let Some(connection) = self.links.get(&link) {
            connection.send(&bytes);
        }
    }
}
