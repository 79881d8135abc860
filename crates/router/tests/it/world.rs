//! A router, its clients and a cluster, with a network between them that cuts, delays and breaks as a seed
//! says. Bytes in flight when a link breaks may still reach the node: it reads what its socket has got.

use std::collections::{BTreeMap, VecDeque};

use kvorum_base::{ConnId, Prng};
use kvorum_resp::{ArgsBuf, Connection, InputLimits, Scratch};
use kvorum_router::planted::Planted;
use kvorum_router::{Config, Effect, Event, LinkId, Router};

use crate::cluster::{Cluster, address};

/// Ticks until a request is given up.
pub(crate) const DEADLINE_TICKS: u64 = 300;

/// One link as the network sees it.
struct NetLink {
    node: usize,
    /// To its port for replicas.
    is_replica: bool,
    /// The node's side.
    connection: Connection,
    /// On its way to the node.
    to_node: VecDeque<u8>,
    /// The router has bytes that the socket did not take.
    blocked: bool,
}

/// What a client got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<Reply>),
}

#[derive(Default)]
struct NetClient {
    received: Vec<u8>,
    replies: Vec<Reply>,
    closed: bool,
}

pub(crate) struct World {
    pub(crate) prng: Prng,
    pub(crate) router: Router,
    pub(crate) cluster: Cluster,
    links: BTreeMap<LinkId, NetLink>,
    /// Links whose router side is gone and whose node side still reads.
    orphans: Vec<NetLink>,
    dialled: Vec<(LinkId, usize, bool)>,
    /// Nodes that take no connections.
    pub(crate) down: Vec<bool>,
    /// Nodes that neither read nor write.
    pub(crate) silent: Vec<bool>,
    clients: BTreeMap<ConnId, NetClient>,
    effects: Vec<Effect>,
    /// A bug breaks invariants; it must show in what clients are told as well.
    checks: bool,
    pub(crate) stopped: bool,
    pub(crate) notes: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: usize, shards: usize) -> Self {
        Self::with_bug(seed, nodes, shards, Planted::default())
    }

    pub(crate) fn with_bug(seed: u64, nodes: usize, shards: usize, planted: Planted) -> Self {
        let config = Config {
            seeds: vec![address(0), address(1)],
            password: None,
            deadline_ticks: DEADLINE_TICKS,
            port: 7379,
            run_id: "0".repeat(40),
            planted,
        };
        Self {
            prng: Prng::new(seed),
            router: Router::new(config),
            cluster: Cluster::new(nodes, shards),
            links: BTreeMap::new(),
            orphans: Vec::new(),
            dialled: Vec::new(),
            down: vec![false; nodes],
            silent: vec![false; nodes],
            clients: BTreeMap::new(),
            effects: Vec::new(),
            checks: planted == Planted::default(),
            stopped: false,
            notes: Vec::new(),
        }
    }

    pub(crate) fn open(&mut self, index: u32) -> ConnId {
        let conn = ConnId {
            index,
            generation: 1,
        };
        let address = "test:1";
        self.clients.insert(conn, NetClient::default());
        self.step(Event::Opened { conn, address });
        conn
    }

    /// A client sends requests in one piece.
    pub(crate) fn send(&mut self, conn: ConnId, requests: &[Vec<String>]) {
        let mut bytes = Vec::new();
        for words in requests {
            bytes.extend(format!("*{}\r\n", words.len()).bytes());
            for word in words {
                bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
            }
        }
        self.step(Event::Bytes { conn, data: &bytes });
    }

    pub(crate) fn replies(&self, conn: ConnId) -> &[Reply] {
        &self.clients[&conn].replies
    }

    pub(crate) fn is_closed(&self, conn: ConnId) -> bool {
        self.clients[&conn].closed
    }

    /// Hands in an event, ends the turn and carries the effects out.
    pub(crate) fn step(&mut self, event: Event<'_>) {
        self.router.step(event, &mut self.effects);
        self.router.step(Event::EndOfTurn, &mut self.effects);
        if self.checks {
            self.router.check();
        }
        for effect in std::mem::take(&mut self.effects) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Output(conn) => {
                if let Some(out) = self.router.output(conn) {
                    let bytes = out.to_vec();
                    out.advance(bytes.len());
                    let client = self.clients.get_mut(&conn).expect("a client");
                    client.received.extend(bytes);
                    while let Some((reply, len)) = parse(&client.received) {
                        client.replies.push(reply);
                        client.received.drain(..len);
                    }
                }
            }
            Effect::Close(conn) => {
                self.clients.get_mut(&conn).expect("a client").closed = true;
                self.router.step(Event::Closed { conn }, &mut self.effects);
            }
            Effect::Pause(_) | Effect::Resume(_) => {}
            Effect::Dial { link, address } => {
                let (node, port) = address.split_once(':').expect("a port");
                let node = node.trim_start_matches("node-");
                let node = node.parse().expect("a node");
                self.dialled.push((link, node, port == "7050"));
            }
            Effect::LinkOutput(link) => self.take_output(link),
            Effect::HangUp(link) => {
                self.dialled.retain(|(dialled, ..)| *dialled != link);
                if let Some(net) = self.links.remove(&link) {
                    self.orphans.push(net);
                }
            }
            Effect::Note(text) => self.notes.push(text),
            Effect::Stop => self.stopped = true,
        }
    }

    /// The socket takes a part of a link's output, or all of it.
    fn take_output(&mut self, link: LinkId) {
        let Some(net) = self.links.get_mut(&link) else {
            return;
        };
        let Some(out) = self.router.link_output(link) else {
            return;
        };
        let bytes = out.to_vec();
        let len = if self.prng.chance(1, 4) {
            self.prng.below(bytes.len() as u64 + 1) as usize
        } else {
            bytes.len()
        };
        net.to_node.extend(&bytes[..len]);
        out.advance(len);
        net.blocked = len < bytes.len();
    }

    fn any_link(&mut self) -> Option<LinkId> {
        let count = self.links.len() as u64;
        if count == 0 {
            return None;
        }
        let at = self.prng.below(count) as usize;
        self.links.keys().nth(at).copied()
    }

    /// Something moves in the network.
    pub(crate) fn network(&mut self) {
        match self.prng.below(10) {
            0 => self.answer_dial(),
            1 => {
                if let Some(link) = self.any_link()
                    && self.links[&link].blocked
                {
                    self.take_output(link);
                    if !self.links[&link].blocked {
                        self.step(Event::LinkDrained { link });
                    }
                }
            }
            2..6 => self.node_reads(),
            _ => self.router_reads(),
        }
    }

    fn answer_dial(&mut self) {
        if self.dialled.is_empty() {
            return;
        }
        let at = self.prng.below(self.dialled.len() as u64) as usize;
        let (link, node, is_replica) = self.dialled.remove(at);
        if self.down[node] {
            let reason = "connection refused";
            return self.step(Event::LinkDown { link, reason });
        }
        let net = NetLink {
            node,
            is_replica,
            connection: Connection::new(),
            to_node: VecDeque::new(),
            blocked: false,
        };
        self.links.insert(link, net);
        self.step(Event::LinkUp { link });
    }

    fn node_reads(&mut self) {
        if let Some(link) = self.any_link()
            && !self.silent[self.links[&link].node]
        {
            let net = self.links.get_mut(&link).expect("a link");
            read_some(net, &mut self.cluster, &mut self.prng);
        }
        if self.prng.chance(1, 4) && !self.orphans.is_empty() {
            let at = self.prng.below(self.orphans.len() as u64) as usize;
            read_some(&mut self.orphans[at], &mut self.cluster, &mut self.prng);
            if self.orphans[at].to_node.is_empty() {
                self.orphans.swap_remove(at);
            }
        }
    }

    fn router_reads(&mut self) {
        let Some(link) = self.any_link() else { return };
        if self.silent[self.links[&link].node] {
            return;
        }
        let out = self
            .links
            .get_mut(&link)
            .expect("a link")
            .connection
            .output();
        if out.is_empty() {
            return;
        }
        let bytes = out.to_vec();
        let len = 1 + self.prng.below(bytes.len() as u64) as usize;
        out.advance(len);
        let data = &bytes[..len];
        self.step(Event::LinkBytes { link, data });
    }

    /// Breaks a link, or all links of a node.
    pub(crate) fn break_links(&mut self, node: Option<usize>) {
        let broken: Vec<LinkId> = match node {
            None => self.any_link().into_iter().collect(),
            Some(node) => {
                let of_node = self.links.iter().filter(|(_, net)| net.node == node);
                of_node.map(|(link, _)| *link).collect()
            }
        };
        for link in broken {
            let net = self.links.remove(&link).expect("a link");
            // A node that is alive may have got the bytes, and works on them; a dead one does not.
            if node.is_none() && self.prng.chance(1, 2) {
                self.orphans.push(net);
            }
            let reason = "reset by peer";
            self.step(Event::LinkDown { link, reason });
        }
    }

    /// Lets everything run without faults until nothing is on its way, and for long enough that every
    /// deadline is over.
    pub(crate) fn calm(&mut self) {
        self.cluster.whims = 0;
        while !self.cluster.moving.is_empty() {
            self.cluster.end_move(true);
        }
        for shard in 0..self.cluster.truth.primary.len() {
            let primary = &mut self.cluster.truth.primary[shard];
            primary.get_or_insert(shard % self.down.len());
        }
        self.down.fill(false);
        self.cluster.tell_all();
        for _ in 0..3 * DEADLINE_TICKS {
            for _ in 0..20 {
                self.network();
            }
            self.step(Event::Tick);
        }
        // What is left in broken links reaches its node now or never.
        self.orphans.clear();
        let status = self.router.status();
        assert_eq!(status.pieces, 0, "requests are left: {:?}", self.notes);
    }
}

/// A node reads and answers a part of what has come.
fn read_some(net: &mut NetLink, cluster: &mut Cluster, prng: &mut Prng) {
    let len = prng.below(net.to_node.len() as u64 + 1) as usize;
    let bytes: Vec<u8> = net.to_node.drain(..len).collect();
    let (mut data, mut scratch) = (&bytes[..], Scratch::new());
    loop {
        let request =
            net.connection
                .next_request_or_reply(&InputLimits::default(), &mut data, &mut scratch);
        let Some(request) = request else { return };
        net.connection.set_authenticated(true);
        let (seq, args) = (request.seq, ArgsBuf::from(request.args));
        let at = (net.node, net.is_replica);
        cluster.serve(at, &mut net.connection, seq, args.as_args(), prng);
    }
}

/// The first reply in these bytes, and its length.
fn parse(bytes: &[u8]) -> Option<(Reply, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&bytes[1..end]).expect("text");
    let body = end + 2;
    Some(match bytes[0] {
        b'+' => (Reply::Simple(line.to_owned()), body),
        b'-' => (Reply::Error(line.to_owned()), body),
        b':' => (Reply::Integer(line.parse().expect("a number")), body),
        b'$' if line == "-1" => (Reply::Bulk(None), body),
        b'_' => (Reply::Bulk(None), body),
        b'*' if line == "-1" => (Reply::Bulk(None), body),
        b'$' => {
            let len: usize = line.parse().expect("a length");
            let value = bytes.get(body..body + len)?.to_vec();
            bytes.get(body + len + 1)?;
            (Reply::Bulk(Some(value)), body + len + 2)
        }
        b'*' => {
            let mut at = body;
            let mut elements = Vec::new();
            for _ in 0..line.parse().expect("a count") {
                let (element, len) = parse(&bytes[at..])?;
                elements.push(element);
                at += len;
            }
            (Reply::Array(elements), at)
        }
        other => panic!("a reply of type {other}"),
    })
}
