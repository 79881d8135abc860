//! The router: dispatch, links, and the end of a turn.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{ConnId, Slot, UnixMillis};
use kvorum_resp::{OutBuf, Scratch, Version};

use crate::clients::Clients;
use crate::event::{Effect, Event, LinkId, Process};
use crate::gather::Gather;
use crate::limits::{
    BACK_OFF_TICKS_MAX, LINK_SILENCE_TICKS, MAP_TICKS_MAX, MAP_TICKS_MIN, NODES_MAX,
    REPLY_BYTES_MAX,
};
use crate::links::{Broken, Link, State, Waiting};
use crate::map::{Map, NodeAt, parse_slots};
use crate::pieces::{Class, PieceId, Pieces, Place, QueueKey, Ticket};
use crate::planted::{Bug, Planted};
use crate::reply::Scanner;
use crate::request::encode_words;
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

/// A node as the router knows it: its address and its two links, of versions 2 and 3.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) links: [u32; 2],
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
    parked: BTreeSet<(u64, PieceId)>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: Vec<Link>,
    pub(crate) map: Map,
    /// When the map was last asked for, and at which link the question is.
    map_asked_tick: u64,
    map_asked_at: Option<u32>,
    pub(crate) map_wanted: bool,
    /// The link that is asked next.
    map_turn: usize,
    pub(crate) gathers: BTreeMap<u64, Gather>,
    pub(crate) next_gather: u64,
    pub(crate) sweeps: BTreeMap<ConnId, Sweep>,
    pub(crate) counters: Counters,
    touched_links: Vec<u32>,
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

    fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links
            .get_mut(id.index as usize)
            .filter(|link| link.id == id && !matches!(link.state, State::Down { .. }))
    }

    /// The node at an address, which is noted if it is new. The first one if there are too many.
    pub(crate) fn node_at(&mut self, address: &str) -> NodeAt {
        let known = self.nodes.iter().position(|node| node.address == address);
        if let Some(at) = known {
            return NodeAt(at as u16);
        }
        if self.nodes.len() >= NODES_MAX {
            return NodeAt(0);
        }
        let node = NodeAt(self.nodes.len() as u16);
        let first = self.links.len() as u32;
        for (index, version) in [Version::Resp2, Version::Resp3].into_iter().enumerate() {
            self.links
                .push(Link::new(first + index as u32, node, version));
        }
        self.nodes.push(Node {
            address: address.to_owned(),
            links: [first, first + 1],
        });
        node
    }

    fn link_of(&self, node: NodeAt, version: Version) -> u32 {
        self.nodes[usize::from(node.0)].links[usize::from(version == Version::Resp3)]
    }

    /// The link for a slot: that to its owner, or, where none is known, to anybody, who will know more.
    /// `Err`: why there is none now.
    fn link_for(&mut self, slot: Slot, version: Version) -> Result<u32, String> {
        let node = self.map.owner(slot).or_else(|| {
            let up = self.links.iter().find(|link| link.is_up());
            up.map(|link| link.node)
        });
        let Some(node) = node else {
            self.map_wanted = true;
            let reason = self.links.first().map_or("", |link| &link.reason);
            return Err(format!(
                "CLUSTERDOWN no node of the cluster can be reached: {reason}"
            ));
        };
        let index = self.link_of(node, version);
        let now_tick = self.now_tick;
        let link = &mut self.links[index as usize];
        match link.state {
            State::Down { .. } if link.may_dial(now_tick) => {
                self.dial(index);
                Ok(index)
            }
            State::Down { .. } => {
                let (address, reason) = (&self.nodes[usize::from(node.0)].address, &link.reason);
                let text = format!("CLUSTERDOWN {address} cannot be reached: {reason}");
                self.map_wanted = true;
                Err(text)
            }
            State::Dialling | State::Greeting(_) | State::Up => Ok(index),
        }
    }

    fn dial(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        let address = self.nodes[usize::from(link.node.0)].address.clone();
        let link = link.dial();
        self.effects.push(Effect::Dial { link, address });
    }

    fn link_up(&mut self, id: LinkId) {
        let password = self.config.password.clone();
        let now_tick = self.now_tick;
        if let Some(link) = self.link(id).filter(|link| link.state == State::Dialling) {
            link.greet(password.as_deref(), now_tick);
            self.touch_link(id.index);
        }
    }

    fn link_down(&mut self, id: LinkId, reason: &str) {
        if self.link(id).is_none() {
            return;
        }
        let link = &mut self.links[id.index as usize];
        let was_up = link.is_up();
        let broken = link.broke(reason, self.now_tick);
        if was_up {
            let node = &self.nodes[usize::from(link.node.0)];
            let text = format!("the link to {} broke: {reason}", node.address);
            self.effects.push(Effect::Note(text));
            self.counters.links_broken += 1;
        }
        if self.map_asked_at == Some(id.index) {
            self.map_asked_at = None;
        }
        self.map_wanted = true;
        self.take_back(broken);
    }

    /// Ends a link from this side.
    fn hang_up(&mut self, index: u32, reason: &str) {
        let id = self.links[index as usize].id;
        self.effects.push(Effect::HangUp(id));
        self.link_down(id, reason);
    }

    /// Sends again what may be, and says of the rest that nobody knows.
    fn take_back(&mut self, broken: Vec<Broken>) {
        let mut queues = BTreeSet::new();
        let mut unknown = Vec::new();
        for broken in broken {
            let (ticket, in_doubt) = match broken {
                Broken::Unsent(ticket) => (ticket, false),
                Broken::InDoubt(ticket) => (ticket, true),
            };
            let resends = self.config.planted.has(Bug::UnknownResent);
            let Some(piece) = self.pieces.holder(ticket) else {
                continue;
            };
            if in_doubt && piece.class == Class::Write && !resends {
                unknown.push(ticket.piece);
                continue;
            }
            piece.is_in_doubt |= in_doubt && piece.class == Class::Once;
            piece.place = Place::Queued;
            piece.attempt += 1;
            queues.insert(piece.queue());
        }
        for piece in unknown {
            self.finish_unknown(piece, "the link to the node broke before it answered");
        }
        for queue in queues {
            self.pump(queue);
        }
    }

    fn link_bytes(&mut self, id: LinkId, data: &[u8]) {
        let Some(link) = self.link(id) else { return };
        let mut scanner = link.scanner;
        let mut kept = std::mem::take(&mut link.partial);
        let input = if kept.is_empty() {
            data
        } else {
            kept.extend_from_slice(data);
            &kept
        };
        let mut at = 0;
        let failure = loop {
            match scanner.advance(&input[at..]) {
                Ok(Some(len)) => {
                    self.link_replied(id, &input[at..at + len]);
                    at += len;
                    scanner = Scanner::default();
                    if self.link(id).is_none() {
                        return;
                    }
                }
                Ok(None) if input.len() - at > REPLY_BYTES_MAX => {
                    break Some("a reply is too long");
                }
                Ok(None) => break None,
                Err(_) => break Some("what came is no reply"),
            }
        };
        if let Some(reason) = failure {
            return self.hang_up(id.index, reason);
        }
        let rest = input[at..].to_vec();
        if let Some(link) = self.link(id) {
            link.scanner = scanner;
            link.partial = rest;
        }
        self.pump_link(id.index);
    }

    /// One whole reply has come over a link.
    fn link_replied(&mut self, id: LinkId, reply: &[u8]) {
        if reply.first() == Some(&b'>') {
            // Something that nobody asked for.
            return;
        }
        let now_tick = self.now_tick;
        let Some(link) = self.link(id) else { return };
        match link.replied(now_tick) {
            Some(Waiting::Piece(ticket)) => self.answered(ticket, reply),
            Some(Waiting::Map) => self.map_told(reply),
            Some(Waiting::Greeting) => self.greeting_replied(id.index, reply),
            None => {
                let text = String::from_utf8_lossy(reply).trim_end().to_owned();
                self.hang_up(id.index, &format!("it said unasked: {text}"));
            }
        }
    }

    fn greeting_replied(&mut self, index: u32, reply: &[u8]) {
        if reply.first() == Some(&b'-') {
            let text = String::from_utf8_lossy(&reply[1..]).trim_end().to_owned();
            let node = self.links[index as usize].node;
            let address = &self.nodes[usize::from(node.0)].address;
            let note = format!("{address} refuses a router's link: {text}");
            self.effects.push(Effect::Note(note));
            return self.hang_up(index, &text);
        }
        if self.links[index as usize].greeted() {
            self.map_wanted |= self.map.known() == 0;
            self.pump_link(index);
            self.retry_parked();
        }
    }

    /// Puts on a link what waits for it, as far as it has room.
    fn pump_link(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        while link.has_room()
            && let Some(ticket) = link.backlog.pop_front()
        {
            let Some(piece) = self.pieces.holder(ticket) else {
                continue;
            };
            piece.place = Place::AtLink {
                link: index,
                handed: true,
            };
            link.put(&piece.request, Waiting::Piece(ticket), self.now_tick);
            self.counters.sent += 1;
        }
        self.touch_link(index);
    }

    fn touch_link(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        if !link.touched && !link.out.is_empty() {
            link.touched = true;
            self.touched_links.push(index);
        }
    }

    /// Sends what a queue may send now.
    pub(crate) fn pump(&mut self, key: QueueKey) {
        let mut ahead = None;
        let mut position = 0;
        while let Some(id) = self.pieces.at(key, position) {
            let Some(piece) = self.pieces.get_mut(id) else {
                return;
            };
            let is_read = piece.class == Class::Read;
            if piece.place != Place::Queued || position > 0 && !is_read {
                return;
            }
            if !self.send(id, ahead) || !is_read {
                return;
            }
            let Some(Place::AtLink { link, .. }) = self.pieces.get_mut(id).map(|piece| piece.place)
            else {
                return;
            };
            ahead = Some(link);
            position += 1;
        }
    }

    /// Sends a piece that was put at the end of its queue, behind another one or nothing.
    pub(crate) fn send_new(&mut self, id: PieceId, before: Option<PieceId>) {
        let Some(before) = before else {
            self.send(id, None);
            return;
        };
        let overtakes = self.config.planted.has(Bug::WriteOvertakesParked);
        let Some(before) = self.pieces.get_mut(before) else {
            return;
        };
        let (place, before_reads) = (before.place, before.class == Class::Read);
        let reads = self
            .pieces
            .get_mut(id)
            .is_some_and(|piece| piece.class == Class::Read);
        match place {
            Place::AtLink { link, .. } if before_reads && reads => {
                self.send(id, Some(link));
            }
            Place::Parked { .. } if overtakes => {
                self.send(id, None);
            }
            _ => {}
        }
    }

    /// Gives a piece to the link of its slot, or parks it. With other pieces of its queue ahead it goes only
    /// where they are. Says whether it is at a link now.
    fn send(&mut self, id: PieceId, ahead: Option<u32>) -> bool {
        let Some(piece) = self.pieces.get_mut(id) else {
            return false;
        };
        let (slot, version) = (piece.slot, piece.version);
        let index = match self.link_for(slot, version) {
            Ok(index) => index,
            Err(_) if ahead.is_some() => return false,
            Err(text) => {
                self.park(id, text.as_bytes());
                return false;
            }
        };
        if ahead.is_some_and(|ahead| ahead != index) {
            return false;
        }
        let link = &mut self.links[index as usize];
        let Some(piece) = self.pieces.get_mut(id) else {
            return false;
        };
        let ticket = Ticket {
            piece: id,
            attempt: piece.attempt,
        };
        let handed = link.backlog.is_empty() && link.has_room();
        piece.place = Place::AtLink {
            link: index,
            handed,
        };
        if handed {
            link.put(&piece.request, Waiting::Piece(ticket), self.now_tick);
            self.counters.sent += 1;
            self.touch_link(index);
        } else {
            link.backlog.push_back(ticket);
        }
        true
    }

    /// Lets a piece that did not happen wait for a while.
    pub(crate) fn park(&mut self, id: PieceId, refusal: &[u8]) {
        let now_tick = self.now_tick;
        let Some(piece) = self.pieces.get_mut(id) else {
            return;
        };
        let pause = (1 << piece.waits.min(10)).min(BACK_OFF_TICKS_MAX);
        let until_tick = now_tick + pause;
        piece.waits += 1;
        piece.redirects = 0;
        piece.refusal = Some(refusal.to_vec());
        piece.place = Place::Parked { until_tick };
        self.parked.insert((until_tick, id));
        self.counters.parked += 1;
        self.map_wanted = true;
    }

    /// A parked piece is parked no more.
    pub(crate) fn unpark(&mut self, place: Place, id: PieceId) {
        if let Place::Parked { until_tick } = place {
            self.parked.remove(&(until_tick, id));
        }
    }

    /// Sends everything again that waits: somebody may know more now.
    fn retry_parked(&mut self) {
        let parked = std::mem::take(&mut self.parked);
        self.retry(parked.into_iter().map(|(_, id)| id).collect());
    }

    fn retry(&mut self, ids: Vec<PieceId>) {
        for id in ids {
            if let Some(piece) = self.pieces.get_mut(id) {
                piece.place = Place::Queued;
                let queue = piece.queue();
                self.pump(queue);
            }
        }
    }

    fn map_told(&mut self, reply: &[u8]) {
        self.map_asked_at = None;
        let Some(ranges) = parse_slots(reply) else {
            self.map_wanted = true;
            return;
        };
        let before = self.map.changes;
        for (range, address) in ranges {
            let node = self.node_at(&address);
            self.map.told(range, node, self.map_asked_tick);
        }
        self.counters.maps += 1;
        if self.map.changes != before {
            self.retry_parked();
        }
    }

    /// Asks some node for the map, if it is time.
    fn maybe_ask_map(&mut self) {
        let since = self.now_tick - self.map_asked_tick;
        let due = self.map_wanted && since >= MAP_TICKS_MIN || since >= MAP_TICKS_MAX;
        if !due || self.map_asked_at.is_some() {
            return;
        }
        let count = self.links.len();
        let order = (0..count).map(|offset| (self.map_turn + offset) % count);
        let asked = order
            .map(|at| &self.links[at])
            .find(|link| link.version == Version::Resp2 && link.has_room());
        let Some(index) = asked.map(|link| link.id.index) else {
            return;
        };
        let request = encode_words(&[b"CLUSTER", b"SLOTS"]);
        self.links[index as usize].put(&request, Waiting::Map, self.now_tick);
        self.touch_link(index);
        self.map_turn = index as usize + 1;
        self.map_asked_at = Some(index);
        self.map_asked_tick = self.now_tick;
        self.map_wanted = false;
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
            if link.is_silent(now_tick, LINK_SILENCE_TICKS) {
                self.hang_up(index, "it owes replies and says nothing");
            } else if link.version == Version::Resp2 && link.may_dial(now_tick) {
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
                if self.stopping.is_some()
                    && let Some(client) = self.clients.get_mut(conn)
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
