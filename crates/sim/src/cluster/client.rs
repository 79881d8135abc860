//! A client's end: one connection to one node, and the rules by which a client goes on when it is
//! redirected, refused, or not answered.
//!
//! A connection is a stream in both directions: bytes arrive in order, cut wherever chance cuts them.
//! When it breaks, what was sent and not answered has an unknown outcome, and only what goes through
//! a session is sent again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use kvorum_base::{ConnId, Prng};
use kvorum_node::Door;

use super::Cluster;
use super::coverage::Mark;
use super::options::PORT_BASE;
use super::reply::Reply;
use crate::world::{Promise, Time, World, ms, promise};

/// The longest time that bytes of a client are on their way.
const TRAVEL_US_MAX: u64 = 600;

/// Whoever takes connections: a node's machine, or a router's.
pub(super) trait Server {
    /// Bytes of a client have arrived.
    fn received(self: Rc<Self>, life: u64, conn: ConnId, bytes: Vec<u8>);
    /// A client's end is closed.
    fn closed(self: Rc<Self>, life: u64, conn: ConnId);
}

/// What came for connections that a server does not want to read.
#[derive(Default)]
pub(super) struct Unread(BTreeMap<ConnId, Vec<Vec<u8>>>);

impl Unread {
    /// What comes for this connection waits from now on.
    pub(super) fn stop(&mut self, conn: ConnId) {
        self.0.entry(conn).or_default();
    }

    /// Bytes have come: they are handed back if they are to be read now.
    pub(super) fn arrived(&mut self, conn: ConnId, bytes: Vec<u8>) -> Option<Vec<u8>> {
        match self.0.get_mut(&conn) {
            Some(waiting) => {
                waiting.push(bytes);
                None
            }
            None => Some(bytes),
        }
    }

    /// The connection is read again, or gone; what has waited.
    pub(super) fn take(&mut self, conn: ConnId) -> Vec<Vec<u8>> {
        self.0.remove(&conn).unwrap_or_default()
    }
}

/// What comes back on a connection.
pub(crate) enum Heard {
    Bytes(Vec<u8>),
    /// It was closed from the other side.
    Broken,
}

pub(crate) type Listener = Box<dyn Fn(Heard)>;

struct Waiting {
    /// Replies still to come.
    missing: usize,
    promise: Promise<()>,
}

/// One connection, as the client holds it.
pub struct Connection {
    world: World,
    server: Weak<dyn Server>,
    life: u64,
    id: ConnId,
    prng: RefCell<Prng>,
    /// When the last bytes that were sent arrive, each way.
    to_node: Cell<Time>,
    to_client: Cell<Time>,
    bytes: RefCell<Vec<u8>>,
    replies: RefCell<Vec<Reply>>,
    waiting: RefCell<Option<Waiting>>,
    /// Who reads, if it is not a client that waits for replies.
    listener: Option<Listener>,
    is_broken: Cell<bool>,
    exchanges: Cell<u64>,
}

impl Connection {
    pub(super) fn new(
        cluster: &Cluster,
        server: Weak<dyn Server>,
        life: u64,
        id: ConnId,
        listener: Option<Listener>,
    ) -> Self {
        Self {
            world: cluster.world.clone(),
            server,
            life,
            id,
            prng: RefCell::new(cluster.world.fork_prng()),
            to_node: Cell::new(Time(0)),
            to_client: Cell::new(Time(0)),
            bytes: RefCell::default(),
            replies: RefCell::default(),
            waiting: RefCell::default(),
            listener,
            is_broken: Cell::new(false),
            exchanges: Cell::new(0),
        }
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }

    pub(super) fn id(&self) -> ConnId {
        self.id
    }

    /// When what is sent now arrives: never before what was sent earlier.
    fn arrival(&self, last: &Cell<Time>) -> Duration {
        let travel = self.prng.borrow_mut().range(20, TRAVEL_US_MAX);
        let due = (self.world.now() + Duration::from_micros(travel)).max(last.get());
        last.set(due);
        due - self.world.now()
    }

    /// Sends bytes, cut at random places.
    pub(super) fn send(self: &Rc<Self>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut prng = self.prng.borrow_mut();
            let len = match prng.below(4) {
                0 => 1 + prng.index(bytes.len()),
                _ => bytes.len(),
            };
            drop(prng);
            let (piece, rest) = bytes.split_at(len);
            bytes = rest;
            let (connection, piece) = (Rc::clone(self), piece.to_vec());
            self.world.after(self.arrival(&self.to_node), move || {
                if let Some(server) = connection.server.upgrade() {
                    server.received(connection.life, connection.id, piece);
                }
            });
        }
    }

    /// The node writes.
    pub(super) fn answered(self: &Rc<Self>, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let connection = Rc::clone(self);
        self.world.after(self.arrival(&self.to_client), move || {
            if let Some(listener) = &connection.listener {
                return listener(Heard::Bytes(bytes));
            }
            connection.bytes.borrow_mut().extend_from_slice(&bytes);
            connection.read();
        });
    }

    fn read(&self) {
        let mut bytes = self.bytes.borrow_mut();
        while let Some((reply, taken)) = Reply::parse(&bytes) {
            bytes.drain(..taken);
            self.replies.borrow_mut().push(reply);
            let mut waiting = self.waiting.borrow_mut();
            if let Some(open) = waiting.as_mut() {
                open.missing -= 1;
                if open.missing == 0 {
                    waiting.take().expect("just seen").promise.keep(());
                }
            }
        }
    }

    /// The connection is closed from the node's side: what was written before still arrives.
    pub(super) fn broken_by_server(self: &Rc<Self>) {
        let connection = Rc::clone(self);
        self.world.after(self.arrival(&self.to_client), move || {
            connection.is_broken.set(true);
            connection.waiting.borrow_mut().take();
            if let Some(listener) = &connection.listener {
                listener(Heard::Broken);
            }
        });
    }

    /// Sends requests and waits for as many replies; fewer come back if the connection breaks or the
    /// time is over. Then it must not be used again.
    pub(crate) async fn exchange(
        self: &Rc<Self>,
        requests: &[Request],
        patience: Duration,
    ) -> Vec<Reply> {
        let mut bytes = Vec::new();
        for request in requests {
            encode(request, &mut bytes);
        }
        let (promise, joining) = promise();
        *self.waiting.borrow_mut() = Some(Waiting {
            missing: requests.len(),
            promise,
        });
        let number = self.exchanges.get() + 1;
        self.exchanges.set(number);
        self.send(&bytes);
        let connection = Rc::downgrade(self);
        self.world.after(patience, move || {
            // A later exchange has a time of its own.
            if let Some(connection) = connection.upgrade()
                && connection.exchanges.get() == number
            {
                connection.waiting.borrow_mut().take();
            }
        });
        joining.await;
        std::mem::take(&mut *self.replies.borrow_mut())
    }

    /// The client closes it: behind what is still on its way, as a stream does it.
    pub(crate) fn close(self: &Rc<Self>) {
        let closed = Rc::clone(self);
        self.world.after(self.arrival(&self.to_node), move || {
            if let Some(server) = closed.server.upgrade() {
                server.closed(closed.life, closed.id);
            }
        });
    }
}

/// The arguments of one request, its name first.
pub type Request = Vec<Vec<u8>>;

/// How one attempt ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It was carried out, with this reply; an error that is a result is one as well.
    Done(Reply),
    /// It certainly was not carried out.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Answer {
    /// What a reply says of the request.
    #[must_use]
    pub fn of(reply: Reply) -> Self {
        let Reply::Error(text) = &reply else {
            return Self::Done(reply);
        };
        if text.starts_with("UNKNOWN ") {
            return Self::Unknown;
        }
        match REFUSALS.iter().any(|prefix| text.starts_with(prefix)) {
            true => Self::Refused,
            false => Self::Done(reply),
        }
    }
}

/// The node that a redirect names, from 0; `None` if the reply is none.
///
/// # Panics
/// If it names no node of the simulation.
#[must_use]
pub fn redirected_to(reply: &Reply) -> Option<usize> {
    let Reply::Error(text) = reply else {
        return None;
    };
    let port = text.strip_prefix("MOVED ")?.rsplit(':').next()?;
    let port: u16 = port.parse().expect("a redirect names a port");
    Some(usize::from(port - PORT_BASE - 1))
}

/// The errors that say: this did not happen.
const REFUSALS: &[&str] = &[
    "MOVED ",
    "TRYAGAIN ",
    "CLUSTERDOWN ",
    "LOADING ",
    "MISCONF ",
    "OOM ",
    "SESSIONLIMIT ",
    "READONLY ",
];

/// One client: at most one connection, and an idea of where to go with the next one.
pub struct Client {
    /// The cluster that it talks to.
    pub cluster: Rc<Cluster>,
    /// Which client, from 0.
    pub number: usize,
    /// Its chances.
    pub prng: RefCell<Prng>,
    connection: RefCell<Option<Rc<Connection>>>,
    /// A machine, or behind those a router.
    target: Cell<usize>,
    /// To which port of the target.
    door: Cell<Door>,
}

impl Client {
    /// A client without a connection.
    #[must_use]
    pub fn new(cluster: &Rc<Cluster>, number: usize) -> Self {
        let options = &cluster.options;
        let target = match options.routers {
            1.. if number.is_multiple_of(2) => options.machines() + number / 2 % options.routers,
            _ => number % options.nodes,
        };
        Self {
            cluster: Rc::clone(cluster),
            number,
            prng: RefCell::new(cluster.world.fork_prng()),
            connection: RefCell::default(),
            target: Cell::new(target),
            door: Cell::new(Door::Primary),
        }
    }

    /// A draw in `0..bound`.
    pub fn below(&self, bound: u64) -> u64 {
        self.prng.borrow_mut().below(bound)
    }

    /// True this many times of a thousand.
    pub fn chance(&self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// Sends requests in one pipeline, once. Says what became of each.
    pub async fn ask(&self, requests: &[Request]) -> Vec<Answer> {
        let patience = ms(500 + self.below(self.cluster.options.deadline_ms + 2_000));
        let answers = self.ask_within(requests, patience).await;
        if self.connection.borrow().is_none() {
            self.try_elsewhere();
        }
        answers
    }

    /// Asks and hangs up if that takes longer than `patience`; the next request goes to the same node.
    pub async fn ask_within(&self, requests: &[Request], patience: Duration) -> Vec<Answer> {
        let Some(connection) = self.connection() else {
            return vec![Answer::Refused; requests.len()];
        };
        let is_router = self.router().is_some();
        let replies = connection.exchange(requests, patience).await;
        if is_router {
            self.judge_router(&replies);
        }
        let mut answers: Vec<Answer> = replies.into_iter().map(|reply| self.judge(reply)).collect();
        if answers.len() < requests.len() {
            self.disconnect();
        }
        answers.resize(requests.len(), Answer::Unknown);
        self.cluster.asked(&answers);
        answers
    }

    /// The router that it talks to, if it is one.
    #[must_use]
    pub fn router(&self) -> Option<usize> {
        self.target
            .get()
            .checked_sub(self.cluster.options.machines())
    }

    fn connection(&self) -> Option<Rc<Connection>> {
        let open = self.connection.borrow().clone();
        if let Some(connection) = open.filter(|connection| !connection.is_broken.get()) {
            return Some(connection);
        }
        let connection = match self.router() {
            Some(router) => self.cluster.routers()[router].connect(),
            None => self.cluster.hosts()[self.target.get()].connect(self.door.get(), None),
        };
        self.connection.borrow_mut().clone_from(&connection);
        connection
    }

    /// Whether the next request goes over the connection that the last one went over.
    pub fn is_connected(&self) -> bool {
        let connection = self.connection.borrow();
        (connection.as_ref()).is_some_and(|connection| !connection.is_broken.get())
    }

    /// Closes the connection, if there is one.
    pub fn disconnect(&self) {
        if let Some(connection) = self.connection.borrow_mut().take() {
            connection.close();
        }
    }

    /// Goes on at this port of this node.
    pub fn go_to(&self, node: usize, door: Door) {
        self.disconnect();
        self.target.set(node);
        self.door.set(door);
    }

    fn try_elsewhere(&self) {
        let nodes = self.cluster.options.nodes;
        self.target.set(self.below(nodes as u64) as usize);
        self.door.set(Door::Primary);
        let machines = self.cluster.options.machines();
        self.target.set(self.below(machines as u64) as usize);
        let routers = self.cluster.options.routers;
        if routers > 0 && self.chance(500) {
            self.target
                .set(machines + self.below(routers as u64) as usize);
        }
    }

    /// Redirects are a router's own business.
    fn judge_router(&self, replies: &[Reply]) {
        for reply in replies {
            self.cluster.hit(Mark::ThroughRouters);
            if redirected_to(reply).is_some() {
                let text = format!("a client of a router is told {reply:?}");
                self.cluster.fail("one-redis", text);
            }
        }
    }

    fn judge(&self, reply: Reply) -> Answer {
        let redirect = redirected_to(&reply);
        let answer = Answer::of(reply);
        if let Some(node) = redirect {
            if (node, Door::Primary) != (self.target.get(), self.door.get()) {
                self.cluster.hit(Mark::Redirects);
                self.go_to(node, Door::Primary);
            }
        } else if answer == Answer::Refused && self.chance(300) {
            self.disconnect();
            self.try_elsewhere();
        }
        answer
    }
}

fn encode(request: &[Vec<u8>], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", request.len()).as_bytes());
    for argument in request {
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}
