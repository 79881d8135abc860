//! The router: dispatch, ticks, and the end of a turn.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{ConnId, UnixMillis};
use kvorum_resp::{OutBuf, Scratch, Version};

use crate::clients::Clients;
use crate::event::{Effect, Event, LinkId, Process};
use crate::gather::Gather;
use crate::limits::{LINK_DOUBT_TICKS, LINK_SILENCE_TICKS};
use crate::links::Link;
use crate::map::Map;
use crate::nodes::Node;
use crate::pieces::{PieceId, Pieces};
use crate::planted::Planted;
use crate::status::Counters;
use crate::sweeps::Sweep;

/// Ticks between two looks at deadlines.
const DEADLINE_LOOK_TICKS: u64 = 5;

/// What a router is told at its start. Times are in ticks of 10 ms.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to look for the cluster first: `host:port` of nodes.
    pub seeds: Vec<String>,
    /// The password of the default user, for clients and for the nodes alike; `None` for none.
    pub password: Option<String>,
    /// How long a request may take before it is refused or its outcome is called unknown.
    pub deadline_ticks: u64,
    /// The port that clients reach it on, for INFO.
    pub port: u16,
    /// Its name for INFO: 40 hexadecimal digits.
    pub run_id: String,
    /// The bug of this router, in a build for tests.
    pub planted: Planted,
}

/// All clients, links and requests on their way.
#[derive(Debug)]
pub struct Router {
    pub(crate) config: Config,
    pub(crate) now_tick: u64,
    pub(crate) wall: UnixMillis,
    pub(crate) process: Process,
    pub(crate) clients: Clients,
    pub(crate) pieces: Pieces,
    /// Refused pieces by the tick at which they are sent again.
    pub(crate) parked: BTreeSet<(u64, PieceId)>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: Vec<Link>,
    pub(crate) map: Map,
    /// When the map was last asked for, and at which link the question is.
    pub(crate) map_asked_tick: u64,
    pub(crate) map_asked_at: Option<u32>,
    pub(crate) map_wanted: bool,
    /// The link that is asked next.
    pub(crate) map_turn: usize,
    pub(crate) gathers: BTreeMap<u64, Gather>,
    pub(crate) next_gather: u64,
    /// Whose turn it is among the replicas of a slot.
    pub(crate) replica_turn: usize,
    pub(crate) sweeps: BTreeMap<ConnId, Sweep>,
    pub(crate) counters: Counters,
    pub(crate) touched_links: Vec<u32>,
    pub(crate) scratch: Scratch,
    pub(crate) effects: Vec<Effect>,
    pub(crate) stopping: Option<u64>,
    stopped: bool,
}

impl Router {
    /// A router that knows nobody yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut router = Self {
            now_tick: 0,
            wall: UnixMillis::ZERO,
            process: Process::default(),
            clients: Clients::default(),
            pieces: Pieces::default(),
            parked: BTreeSet::new(),
            nodes: Vec::new(),
            links: Vec::new(),
            map: Map::new(),
            map_asked_tick: 0,
            map_asked_at: None,
            map_wanted: true,
            map_turn: 0,
            gathers: BTreeMap::new(),
            next_gather: 0,
            replica_turn: 0,
            sweeps: BTreeMap::new(),
            counters: Counters::default(),
            touched_links: Vec::new(),
            scratch: Scratch::new(),
            effects: Vec::new(),
            stopping: None,
            stopped: false,
            config,
        };
        for seed in router.config.seeds.clone() {
            router.node_at(&seed);
        }
        router
    }

    /// Takes an event in and appends what is to be done to `effects`. Deterministic: the same events give
    /// the same effects.
    pub fn step(&mut self, event: Event<'_>, effects: &mut Vec<Effect>) {
        std::mem::swap(&mut self.effects, effects);
        match event {
            Event::Opened { conn, address } => {
                let open_to_all = self.config.password.is_none();
                self.clients.open(conn, address, open_to_all, self.now_tick);
            }
            Event::Closed { conn } => {
                self.clients.close(conn);
                self.sweep_closed(conn);
            }
            Event::Ended { conn } => {
                if let Some(client) = self.clients.get_mut(conn) {
                    client.has_ended = true;
                    self.clients.touch(conn);
                }
            }
            Event::Bytes { conn, data } => self.client_bytes(conn, data),
            Event::Drained { conn } => self.clients.touch(conn),
            Event::LinkUp { link } => self.link_up(link),
            Event::LinkDown { link, reason } => self.link_down(link, reason),
            Event::LinkBytes { link, data } => self.link_bytes(link, data),
            Event::LinkDrained { link } => {
                if self.link(link).is_some() {
                    self.pump_link(link.index);
                }
            }
            Event::Tick => self.tick(),
            Event::Wall(wall) => self.wall = wall,
            Event::Process(process) => self.process = process,
            Event::Shutdown => {
                self.stopping.get_or_insert(self.now_tick);
                self.clients.touch_all();
            }
            Event::EndOfTurn => self.end_of_turn(),
        }
        std::mem::swap(&mut self.effects, effects);
    }

    /// What is to be written to this client. `None` for one that is closed.
    pub fn output(&mut self, conn: ConnId) -> Option<&mut OutBuf> {
        Some(self.clients.get_mut(conn)?.connection.output())
    }

    /// What is to be written to this link. `None` for one that has ended.
    pub fn link_output(&mut self, link: LinkId) -> Option<&mut OutBuf> {
        self.link(link).map(|link| &mut link.out)
    }

    /// Whether some node can be asked: without one everything waits.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.links.iter().any(Link::is_up)
    }

    /// Verifies the invariants; for tests.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        self.pieces.check();
        for client in self.clients.iter() {
            client.connection.check();
        }
    }

    fn tick(&mut self) {
        self.now_tick += 1;
        let now_tick = self.now_tick;
        while let Some((until_tick, id)) = self.parked.first().copied()
            && until_tick <= now_tick
        {
            self.parked.pop_first();
            self.retry(vec![id]);
        }
        if now_tick.is_multiple_of(DEADLINE_LOOK_TICKS) {
            self.refuse_overdue();
        }
        for index in 0..self.links.len() as u32 {
            let link = &self.links[index as usize];
            let is_to_replica = self.is_to_replica(link);
            if link.is_silent(now_tick, LINK_SILENCE_TICKS) {
                self.hang_up(index, "it owes replies and says nothing");
            } else if link.is_silent(now_tick, LINK_DOUBT_TICKS) {
                // Its node may be stopped, and another one primary meanwhile.
                self.map_wanted = true;
                if is_to_replica {
                    self.take_back_from_replica(index);
                }
            } else if link.version == Version::Resp2 && link.may_dial(now_tick) && !is_to_replica {
                // Whoever may know the map, or may be needed when somebody else is gone.
                self.dial(index);
            }
        }
        self.maybe_ask_map();
        self.maybe_stop();
    }

    fn end_of_turn(&mut self) {
        loop {
            let touched = self.clients.take_touched();
            if touched.is_empty() {
                break;
            }
            for conn in touched {
                self.maybe_start_sweep(conn);
                self.go_on_with_held(conn);
                if let Some(client) = self.clients.get_mut(conn)
                    && (self.stopping.is_some() || client.has_ended)
                    && !client.is_held()
                    && !client.connection.is_closing()
                {
                    client.connection.close_when_answered();
                }
                self.clients.flush(conn, &mut self.effects);
            }
        }
        for index in std::mem::take(&mut self.touched_links) {
            let link = &mut self.links[index as usize];
            link.touched = false;
            if !link.out.is_empty() {
                self.effects.push(Effect::LinkOutput(link.id));
            }
        }
        self.maybe_stop();
    }

    /// Ends once everybody has an answer, or nobody will any more.
    fn maybe_stop(&mut self) {
        let Some(since) = self.stopping else { return };
        let is_done = self.clients.count() == 0 && self.pieces.len() == 0;
        let patience = self.config.deadline_ticks + DEADLINE_LOOK_TICKS * 20;
        if !self.stopped && (is_done || self.now_tick - since > patience) {
            self.stopped = true;
            self.effects.push(Effect::Stop);
        }
    }
}
