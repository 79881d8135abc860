//! The labs' client: it holds a way to every server, asks one after the other, and never gives up.
//!
//! Where keys are in several groups it remembers for each slot who served it last, as clients of a cluster
//! do; who is asked next when nobody answers does not depend on that.
//!
//! Put and append go through a session of the clerk's own, so that the one that is asked for again
//! happens once. A get changes nothing and is simply asked for again. A redirect is followed; who
//! does not answer, or says that it cannot, is left for the next in turn. The get of a missing key
//! is the empty string.
//!
//! Every operation goes into the cluster's history with its call and its return, and with exactly
//! what the node replied: an append's length and a get's null are judged too.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use kvorum_base::Slot;
use kvorum_base::slot::slot_of;

use super::kv_cluster::KvCluster;
use crate::checkers::strings::{Input, KeyInput, Output, Ttl};
use crate::cluster::client::{Answer, Request, redirected_to};
use crate::cluster::reply::Reply;
use crate::history::Outcome;
use crate::net::EndId;
use crate::world::ms;

/// The shortest time between two operations of one clerk.
const STEP: Duration = Duration::from_micros(1);
/// The longest pause before the next server is asked, in milliseconds.
const PAUSE_MS_MAX: u64 = 20;
/// After so many redirects in a row it looks around: two servers may each take the other for the owner.
const REDIRECTS_MAX: u32 = 5;

struct Session {
    token: String,
    /// The last number that was given to a command.
    number: u64,
}

/// A client.
pub struct Clerk {
    kv: KvCluster,
    number: usize,
    /// By server.
    ends: Vec<EndId>,
    /// The order in which servers are asked, and which of them is asked next.
    order: Vec<usize>,
    turn: Cell<usize>,
    /// Who serves a slot, as far as it knows. Where there is one group all slots are one.
    places: RefCell<BTreeMap<Slot, usize>>,
    session: RefCell<Option<Session>>,
}

impl Clerk {
    /// A clerk that reaches nobody yet.
    pub(super) fn new(kv: &KvCluster, number: usize, order: Vec<usize>) -> Self {
        Self {
            kv: kv.clone(),
            number,
            ends: (0..kv.size()).map(|server| kv.clerk_end(server)).collect(),
            order,
            turn: Cell::new(0),
            places: RefCell::default(),
            session: RefCell::default(),
        }
    }

    /// Which clerk of its cluster, from 0.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// From now on it reaches these servers and no others.
    pub fn reach(&self, servers: &[usize]) {
        for (server, end) in self.ends.iter().enumerate() {
            self.kv.clerks().enable(*end, servers.contains(&server));
        }
    }

    /// Opens the session, if that was not done before.
    pub async fn open_session(&self) {
        if self.session.borrow().is_some() {
            return;
        }
        let open = request(&["KVORUM.SESSION", "86400"]);
        let reply = self.ask(Slot::default(), &open).await;
        let Reply::Bulk(Some(token)) = reply else {
            panic!("no session: {reply:?}")
        };
        let token = String::from_utf8_lossy(&token).into_owned();
        *self.session.borrow_mut() = Some(Session { token, number: 0 });
    }

    /// Reads a key.
    pub async fn get(&self, key: &str) -> String {
        let reply = self.run(key, Input::Get, request(&["GET", key])).await;
        match reply {
            Reply::Bulk(Some(value)) => String::from_utf8_lossy(&value).into_owned(),
            _ => String::new(),
        }
    }

    /// Sets a key.
    pub async fn put(&self, key: &str, value: &str) {
        let input = Input::set(value.as_bytes());
        self.write(key, input, &["SET", key, value]).await;
    }

    /// Sets a key that does not exist; false if it does.
    pub async fn put_new(&self, key: &str, value: &str) -> bool {
        let input = Input::Set {
            value: value.as_bytes().into(),
            exists: Some(false),
            get: false,
            ttl: Ttl::None,
        };
        let reply = self.write(key, input, &["SET", key, value, "NX"]).await;
        !matches!(reply, Reply::Bulk(None))
    }

    /// Adds to the end of what a key holds.
    pub async fn append(&self, key: &str, value: &str) {
        let input = Input::Append(value.as_bytes().into());
        self.write(key, input, &["APPEND", key, value]).await;
    }

    async fn write(&self, key: &str, input: Input, words: &[&str]) -> Reply {
        self.open_session().await;
        let mut once = {
            let mut session = self.session.borrow_mut();
            let session = session.as_mut().expect("it was opened");
            session.number += 1;
            let number = session.number.to_string();
            request(&["KVORUM.ONCE", &session.token, &number])
        };
        once.extend(request(words));
        self.run(key, input, once).await
    }

    /// Runs one operation and notes it in the history.
    async fn run(&self, key: &str, input: Input, request: Request) -> Reply {
        let cluster = self.kv.cluster();
        let part = KeyInput {
            key: key.as_bytes().into(),
            input,
        };
        // At one instant a call comes before a return: without a step of time between them, an
        // operation could be judged as if this clerk had not waited for the one before.
        self.kv.sleep(STEP).await;
        let begun = cluster.world.now();
        let id = {
            let mut history = cluster.history.borrow_mut();
            history.called(self.number, part.clone(), begun)
        };
        let slot = match self.kv.is_sharded() {
            true => slot_of(key.as_bytes()),
            false => Slot::default(),
        };
        let reply = self.ask(slot, &request).await;
        let now = cluster.world.now();
        cluster.trace(|| {
            let number = self.number;
            format!("clerk {number}: {part:?} -> {reply:?} since {begun}")
        });
        let output = match &reply {
            Reply::Simple(text) if text == "OK" => Output::Ok,
            Reply::Int(number) => Output::Int(*number),
            Reply::Bulk(value) => Output::Value(value.clone()),
            _ => panic!("clerk {}: {part:?} -> {reply:?}", self.number),
        };
        let mut history = cluster.history.borrow_mut();
        history.returned(id, Outcome::Done(output), now);
        drop(history);
        reply
    }

    /// Asks one server after the other until one has done it.
    async fn ask(&self, slot: Slot, request: &Request) -> Reply {
        let mut redirects = 0;
        loop {
            let place = self.places.borrow().get(&slot).copied();
            let server = place.unwrap_or(self.order[self.turn.get()]);
            let calling = self.kv.clerks().ask(self.ends[server], request.clone());
            let reply = calling.await;
            let redirect = reply.as_ref().and_then(redirected_to);
            if let Some(Answer::Done(reply)) = reply.map(Answer::of) {
                self.places.borrow_mut().insert(slot, server);
                return reply;
            }
            redirects += 1;
            let redirect = redirect.filter(|node| *node != server);
            match redirect.filter(|_| redirects <= REDIRECTS_MAX) {
                Some(node) => {
                    self.places.borrow_mut().insert(slot, node);
                }
                None => {
                    redirects = 0;
                    self.places.borrow_mut().remove(&slot);
                    self.turn.set((self.turn.get() + 1) % self.order.len());
                    let pause = 1 + self.kv.below(PAUSE_MS_MAX);
                    self.kv.sleep(ms(pause)).await;
                }
            }
        }
    }
}

fn request(words: &[&str]) -> Request {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}
