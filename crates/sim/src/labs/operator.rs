//! The labs' client of the controller: an operator of the shard manager, who never gives up.
//!
//! It asks any server, which hands the order on to the primary of the manager's group. Its orders are
//! numbered by an issuer, so that one that is asked for again, because its answer was lost, happens once.
//! In the labs a configuration is written only if nobody wrote a newer one; here an order says what it
//! wants changed, and is put after those of others by the manager's log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use kvorum_cluster::{Command, IssuerId, Reply, Request};
use kvorum_node::format::manager::Answer;

use super::kv_cluster::KvCluster;
use crate::net::{EndId, Net, Payload, ServerId};
use crate::world::{ms, promise};

/// How long one server is waited for. A server hands an order on once; if that is lost it waits for its
/// deadline before it says so.
const PATIENCE: Duration = ms(500);
/// The longest pause before the next server is asked, in milliseconds.
const PAUSE_MS_MAX: u64 = 20;

impl Payload for Request {
    fn size(&self) -> usize {
        self.encode().len()
    }
}

impl Payload for Answer {
    fn size(&self) -> usize {
        16
    }
}

/// The operators' network.
pub(super) type Operators = Net<Request, Answer>;

/// An operator.
pub struct Operator {
    kv: KvCluster,
    net: Operators,
    /// By server.
    ends: Vec<EndId>,
    /// The order in which servers are asked, and which of them is asked next.
    order: Vec<usize>,
    turn: Cell<usize>,
    issuer: Cell<Option<IssuerId>>,
    /// The last number that was given to an order.
    number: Cell<u64>,
    /// The last order, as it was sent.
    last: RefCell<Option<Request>>,
}

impl Operator {
    /// An operator that reaches all servers.
    pub(super) fn new(kv: &KvCluster, net: &Operators, order: Vec<usize>) -> Self {
        let ends = (0..kv.size()).map(|server| net.make_end(ServerId(server)));
        let operator = Self {
            kv: kv.clone(),
            net: net.clone(),
            ends: ends.collect(),
            order,
            turn: Cell::new(0),
            issuer: Cell::new(None),
            number: Cell::new(0),
            last: RefCell::default(),
        };
        operator.set_connected(true);
        operator
    }

    /// Whether it reaches the servers from now on.
    pub fn set_connected(&self, is_connected: bool) {
        for end in &self.ends {
            self.net.enable(*end, is_connected);
        }
    }

    /// Has something done once; says what the manager said.
    ///
    /// # Panics
    /// If the manager does not know the issuer any more.
    pub async fn order(&self, command: Command) -> Reply {
        let issuer = self.issuer().await;
        self.number.set(self.number.get() + 1);
        let request = Request {
            once: Some((issuer, self.number.get())),
            command,
        };
        *self.last.borrow_mut() = Some(request.clone());
        self.ask(request).await
    }

    /// Sends the last order once more, as somebody who was away when it was answered.
    ///
    /// # Panics
    /// If it never gave one.
    pub async fn repeat(&self) -> Reply {
        let last = self.last.borrow().clone();
        self.ask(last.expect("an order was given")).await
    }

    /// Its issuer, opened when it is first needed. Opened twice, one is never used.
    async fn issuer(&self) -> IssuerId {
        if let Some(issuer) = self.issuer.get() {
            return issuer;
        }
        let reply = self.ask(Command::OpenIssuer.into()).await;
        let Reply::Issuer(issuer) = reply else {
            panic!("no issuer: {reply:?}")
        };
        self.issuer.set(Some(issuer));
        issuer
    }

    /// Asks one server after the other until one has an answer of the manager.
    async fn ask(&self, request: Request) -> Reply {
        loop {
            let server = self.order[self.turn.get()];
            let answer = self.ask_server(server, request.clone()).await;
            let cluster = self.kv.cluster();
            cluster.trace(|| format!("operator: {request:?} at server {server}: {answer:?}"));
            if let Some(Answer::Replied(reply)) = answer {
                return reply;
            }
            self.turn.set((self.turn.get() + 1) % self.order.len());
            let pause = 1 + self.kv.below(PAUSE_MS_MAX);
            self.kv.sleep(ms(pause)).await;
        }
    }
    /// Asks one server, and waits for it only so long.
    async fn ask_server(&self, server: usize, request: Request) -> Option<Answer> {
        let (promise, joining) = promise();
        let waiting = Rc::new(Cell::new(Some(promise)));
        let given_up = Rc::clone(&waiting);
        self.net.call(self.ends[server], request, move |answer| {
            if let Some(promise) = waiting.take() {
                promise.keep(answer);
            }
        });
        self.kv.world().after(PATIENCE, move || {
            given_up.take();
        });
        joining.await.flatten()
    }
}
