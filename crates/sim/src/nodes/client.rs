//! A client: RESP over a simulated connection, redirects followed, and three outcomes kept apart.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvorum_base::ConnId;

use super::cluster::Cluster;
use crate::world::{Sleep, ms};

/// The client's end of a connection: what has arrived and was not read yet.
#[derive(Default)]
pub struct Incoming {
    bytes: RefCell<Vec<u8>>,
    closed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Incoming {
    /// Bytes arrive.
    pub fn receive(&self, bytes: &[u8]) {
        self.bytes.borrow_mut().extend_from_slice(bytes);
        self.wake();
    }

    /// Nothing more will arrive.
    pub fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A reply, as far as the workloads need replies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A status.
    Simple(String),
    /// An error with its prefix.
    Error(String),
    /// A number.
    Int(i64),
    /// A value, or null.
    Bulk(Option<Vec<u8>>),
    /// An array.
    Array(Vec<Reply>),
}

/// Takes one whole reply off the front.
fn take_reply(bytes: &mut Vec<u8>) -> Option<Reply> {
    let mut at = 0;
    let reply = parse(bytes, &mut at)?;
    bytes.drain(..at);
    Some(reply)
}

fn parse(bytes: &[u8], at: &mut usize) -> Option<Reply> {
    let rest = &bytes[*at..];
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    let line = String::from_utf8_lossy(&rest[1..end]).into_owned();
    let kind = rest[0];
    *at += end + 2;
    let number = || {
        line.parse::<i64>()
            .unwrap_or_else(|_| panic!("not a number: {line}"))
    };
    Some(match kind {
        b'+' => Reply::Simple(line),
        b'-' => Reply::Error(line),
        b':' => Reply::Int(number()),
        b'$' if number() < 0 => Reply::Bulk(None),
        b'$' => {
            let len = number() as usize;
            let value = bytes.get(*at..*at + len + 2)?[..len].to_vec();
            *at += len + 2;
            Reply::Bulk(Some(value))
        }
        b'*' => {
            let items = (0..number().max(0)).map(|_| parse(bytes, at));
            Reply::Array(items.collect::<Option<_>>()?)
        }
        other => panic!("a reply that begins with {:?}", char::from(other)),
    })
}

/// Encodes a request.
#[must_use]
pub fn encode(args: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend(format!("${}\r\n", arg.len()).into_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

struct Connection {
    machine: usize,
    life: u64,
    conn: ConnId,
    incoming: Rc<Incoming>,
}

/// Waits for a reply; `None` if the connection ends or the time is up.
struct NextReply<'a> {
    incoming: &'a Incoming,
    sleep: Pin<Box<Sleep>>,
}

impl Future for NextReply<'_> {
    type Output = Option<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Reply>> {
        if let Some(reply) = take_reply(&mut self.incoming.bytes.borrow_mut()) {
            return Poll::Ready(Some(reply));
        }
        if self.incoming.closed.get() || self.sleep.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        *self.incoming.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It was done; this is what it returned, be it an error of the command's own.
    Done(Reply),
    /// It certainly did not happen.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// Prefixes that say that the command was not executed.
const REFUSALS: [&str; 8] = [
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MISCONF",
    "OOM",
    "LOADING",
    "READONLY",
    "SESSIONLIMIT",
    "NOREPLICAS",
];

/// Longer than a node keeps a request.
const REPLY_TIMEOUT: Duration = Duration::from_secs(7);
/// How often a refused request is tried elsewhere.
const TRIES: usize = 12;
/// The port of the first node for clients.
pub const PORT_BASE: u16 = 7001;

/// A client with at most one connection.
pub struct Client {
    cluster: Cluster,
    connection: Option<Connection>,
    /// The machine to ask next.
    target: usize,
}

impl Client {
    /// A client without a connection.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Self {
        let target = cluster.below(cluster.size() as u64) as usize;
        Self {
            cluster: cluster.clone(),
            connection: None,
            target,
        }
    }

    /// Drops the connection.
    fn disconnect(&mut self) {
        if let Some(Connection {
            machine,
            life,
            conn,
            ..
        }) = self.connection.take()
        {
            self.cluster.client_closes(machine, life, conn);
        }
    }

    /// Asks some other machine from now on.
    pub fn turn_elsewhere(&mut self) {
        self.disconnect();
        self.target = self.cluster.below(self.cluster.size() as u64) as usize;
    }

    fn connect(&mut self) -> bool {
        let fits = |connection: &Connection| {
            connection.machine == self.target && !connection.incoming.closed.get()
        };
        if self.connection.as_ref().is_some_and(fits) {
            return true;
        }
        self.disconnect();
        self.connection = self
            .cluster
            .open(self.target)
            .map(|(conn, life, incoming)| Connection {
                machine: self.target,
                life,
                conn,
                incoming,
            });
        self.connection.is_some()
    }

    fn write(&self, bytes: &[u8]) {
        if let Some(Connection {
            machine,
            life,
            conn,
            ..
        }) = &self.connection
        {
            self.cluster.client_writes(*machine, *life, *conn, bytes);
        }
    }

    async fn next_reply(&mut self) -> Option<Reply> {
        let connection = self.connection.as_ref()?;
        let sleep = Box::pin(self.cluster.world().sleep(REPLY_TIMEOUT));
        NextReply {
            incoming: &connection.incoming,
            sleep,
        }
        .await
    }

    /// Sends a request where it belongs and waits for its end.
    pub async fn ask(&mut self, args: &[&[u8]]) -> Answer {
        let request = encode(args);
        for _ in 0..TRIES {
            if !self.connect() {
                self.turn_elsewhere();
                self.cluster
                    .world()
                    .sleep(ms(50 + self.cluster.below(100)))
                    .await;
                continue;
            }
            self.write(&request);
            let Some(reply) = self.next_reply().await else {
                self.turn_elsewhere();
                return Answer::Unknown;
            };
            let Reply::Error(text) = &reply else {
                return Answer::Done(reply);
            };
            if text.starts_with("UNKNOWN") {
                return Answer::Unknown;
            }
            if let Some(place) = text.strip_prefix("MOVED ") {
                self.target = machine_of(place, self.cluster.size());
                continue;
            }
            if !REFUSALS.iter().any(|prefix| text.starts_with(prefix)) {
                return Answer::Done(reply);
            }
            self.turn_elsewhere();
            self.cluster
                .world()
                .sleep(ms(50 + self.cluster.below(150)))
                .await;
        }
        Answer::Refused
    }

    /// Sends several requests at once to one machine, without trying again. `None` where a reply did
    /// not come.
    pub async fn pipeline(&mut self, requests: &[Vec<&[u8]>]) -> Vec<Option<Reply>> {
        if !self.connect() {
            self.turn_elsewhere();
            return vec![None; requests.len()];
        }
        let bytes: Vec<u8> = requests.iter().flat_map(|args| encode(args)).collect();
        self.write(&bytes);
        let mut replies = Vec::new();
        for _ in requests {
            replies.push(self.next_reply().await);
        }
        if replies.contains(&None) {
            self.turn_elsewhere();
        } else if let Some(Some(Reply::Error(text))) = replies.first()
            && let Some(place) = text.strip_prefix("MOVED ")
        {
            self.target = machine_of(place, self.cluster.size());
        }
        replies
    }
}

/// The machine that a redirect names.
fn machine_of(place: &str, size: usize) -> usize {
    let port = place
        .rsplit(':')
        .next()
        .and_then(|port| port.parse::<u16>().ok());
    let machine = port
        .and_then(|port| port.checked_sub(PORT_BASE))
        .map(usize::from);
    machine
        .filter(|machine| *machine < size)
        .unwrap_or_else(|| panic!("MOVED {place}"))
}
