//! What clients ask for.
//!
//! Every activity is there for a checker: shared keys for linearizability, keys that are written once for
//! durability, counters through sessions for exactly-once, keys of one client for the order in a pipeline,
//! keys with a time to live for expiry; transactions are in [`super::transactions`]. Refused requests are
//! tried again, as every client does; those with an unknown outcome never are, except through a session.
//!
//! Shared keys change their names every few seconds, so that no key's history grows until the search
//! for an order gives up; all are read again at the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use kvorum_node::Door;

use super::Cluster;
use super::client::{Answer, Client, Request};
use super::coverage::Mark;
use super::reply::Reply;
use crate::checkers::durability::Fate;
use crate::checkers::pipelines::OwnKey;
use crate::checkers::sessions;
use crate::checkers::strings::{Input, KeyInput, Output, Ttl, Value};
use crate::history::Outcome;
use crate::world::{Joining, Time, ms};

/// How long some keys may take to be read when all is well: each of them may be asked for in vain for a
/// whole deadline or two, by a client that has gone to the wrong place.
const READ_PATIENCE: Duration = Duration::from_secs(120);

/// How long a shared key keeps its name, in seconds.
const KEY_LIFE_SECONDS: u64 = 4;

/// One request, and what it means for the keys in it.
#[derive(Clone)]
struct Call {
    request: Request,
    parts: Vec<KeyInput>,
}

struct Session {
    token: String,
    /// The last number that was answered.
    answered: u64,
    key: String,
}

pub(super) struct Worker {
    pub(super) client: Client,
    /// Numbers everything that must be unique.
    made: u64,
    session: Option<Session>,
    own: Option<(String, OwnKey)>,
}

/// Starts all clients. Each ends when the cluster closes.
pub fn start(cluster: &Rc<Cluster>) -> Vec<Joining<()>> {
    (0..cluster.options.clients)
        .map(|number| {
            let worker = Worker {
                client: Client::new(cluster, number),
                made: 0,
                session: None,
                own: None,
            };
            cluster.world.spawn(worker.run())
        })
        .collect()
}

pub(super) fn request(words: &[&str]) -> Request {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn call(words: &[&str], input: Input) -> Call {
    let key = words[1].as_bytes().into();
    Call {
        request: request(words),
        parts: vec![KeyInput { key, input }],
    }
}

impl Worker {
    async fn run(mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        while !cluster.is_closing.get() {
            let think = self
                .client
                .below(cluster.options.think_max.as_micros() as u64);
            cluster.world.sleep(Duration::from_micros(think)).await;
            if let Some(lonely) = cluster.lonely.get()
                && self.client.chance(300)
            {
                self.client.go_to(lonely, Door::Primary);
                self.glances().await;
                continue;
            }
            match self.client.below(100) {
                0..30 => {
                    let call = self.shared();
                    self.try_calls(vec![call]).await;
                }
                30..41 => {
                    let count = 2 + self.client.below(5);
                    let calls = (0..count).map(|_| self.shared()).collect();
                    self.try_calls(calls).await;
                }
                41..46 => self.transaction().await,
                46..57 => self.pipeline().await,
                57..67 => self.once().await,
                67..79 => self.ledger().await,
                79..89 => {
                    let call = self.short_lived();
                    self.try_calls(vec![call]).await;
                }
                89..92 => self.several().await,
                92..94 => self.big().await,
                94..97 => self.version().await,
                97 => self.scan().await,
                98 => match self.client.chance(500) {
                    true => self.glances().await,
                    false => self.far_reads().await,
                },
                _ => self.client.disconnect(),
            }
        }
    }

    /// A value that nobody else writes.
    pub(super) fn unique(&mut self) -> String {
        self.made += 1;
        format!("c{}-{}", self.client.number, self.made)
    }

    /// The present name of one of `count` shared keys, or an older one now and then.
    pub(super) fn key(&self, kind: &str, count: u64) -> String {
        let seconds = self.client.cluster.world.now().as_millis() / 1000;
        let mut age = seconds / KEY_LIFE_SECONDS;
        if self.client.chance(30) {
            age = self.client.below(age + 1);
        }
        format!("{kind}{}.{age}", self.client.below(count))
    }

    fn shared(&mut self) -> Call {
        if self.client.chance(250) {
            return self.count();
        }
        let key = self.key("k", 5);
        let value = self.unique();
        let set = |exists, get| Input::Set {
            value: value.as_bytes().into(),
            exists,
            get,
            ttl: Ttl::None,
        };
        match self.client.below(20) {
            0..7 => call(&["GET", &key], Input::Get),
            7..12 => call(&["SET", &key, &value], set(None, false)),
            12 => call(&["SET", &key, &value, "NX"], set(Some(false), false)),
            13 => call(&["SET", &key, &value, "XX"], set(Some(true), false)),
            14 => call(&["SET", &key, &value, "GET"], set(None, true)),
            15 => call(&["DEL", &key], Input::Del),
            16 => call(&["GETDEL", &key], Input::GetDel),
            17 => call(&["EXISTS", &key], Input::Exists),
            18 => call(&["STRLEN", &key], Input::StrLen),
            _ => {
                let piece = format!("{value};");
                call(
                    &["APPEND", &key, &piece],
                    Input::Append(piece.as_bytes().into()),
                )
            }
        }
    }

    fn count(&self) -> Call {
        let key = self.key("n", 3);
        let by = 1 + self.client.below(9) as i64;
        match self.client.below(8) {
            0..3 => call(&["INCR", &key], Input::IncrBy(1)),
            3 => call(&["INCRBY", &key, &by.to_string()], Input::IncrBy(by)),
            4 => call(&["DECRBY", &key, &by.to_string()], Input::IncrBy(-by)),
            5 => call(&["DEL", &key], Input::Del),
            _ => call(&["GET", &key], Input::Get),
        }
    }

    fn short_lived(&mut self) -> Call {
        let key = self.key("t", 2);
        let value = self.unique();
        let life = 10 + self.client.below(2_500);
        let millis = life.to_string();
        let set = |exists, ttl| Input::Set {
            value: value.as_bytes().into(),
            exists,
            get: false,
            ttl,
        };
        let anew = Ttl::Set(ms(life));
        match self.client.below(16) {
            0..7 => call(&["GET", &key], Input::Get),
            7..10 => call(&["SET", &key, &value, "PX", &millis], set(None, anew)),
            10..12 => call(
                &["SET", &key, &value, "NX", "PX", &millis],
                set(Some(false), anew),
            ),
            12 => call(&["SET", &key, &value, "KEEPTTL"], set(None, Ttl::Keep)),
            13 => call(&["PEXPIRE", &key, &millis], Input::Expire(ms(life))),
            14 => call(&["PERSIST", &key], Input::Persist),
            _ => call(&["EXISTS", &key], Input::Exists),
        }
    }

    /// Several keys of one slot in one command.
    async fn several(&mut self) {
        let tag = self.key("m", 2);
        let keys: Vec<String> = (0..3).map(|part| format!("{{{tag}}}{part}")).collect();
        let mut request: Request = Vec::new();
        let mut parts = Vec::new();
        let reads = self.client.chance(500);
        request.push(if reads {
            b"MGET".to_vec()
        } else {
            b"MSET".to_vec()
        });
        for key in keys {
            request.push(key.as_bytes().to_vec());
            let mut input = Input::Get;
            if !reads {
                let value = self.unique();
                request.push(value.as_bytes().to_vec());
                input = Input::set(value.as_bytes());
            }
            let key = key.as_bytes().into();
            parts.push(KeyInput { key, input });
        }
        self.try_calls(vec![Call { request, parts }]).await;
    }

    /// A value of many sectors, half of them full of zeros.
    async fn big(&mut self) {
        let key = self.key("b", 1);
        let mut value = self.unique().into_bytes();
        let len = self.client.below(self.client.cluster.options.big_value_max) as usize;
        let fill = if self.client.chance(500) { 0 } else { b'x' };
        value.resize(value.len() + len, fill);
        let mut set = call(&["SET", &key], Input::set(&value));
        set.request.push(value);
        let get = call(&["GET", &key], Input::Get);
        let calls = match self.client.below(3) {
            0 => vec![set],
            1 => vec![get],
            _ => vec![set, get],
        };
        self.try_calls(calls).await;
    }

    /// Runs calls in one pipeline, and tries the refused ones again a few times.
    async fn try_calls(&self, mut calls: Vec<Call>) {
        for _ in 0..3 {
            calls = self.run_calls(calls, None).await;
            if calls.is_empty() || self.client.chance(200) {
                return;
            }
            self.back_off().await;
        }
    }

    /// Time passes before the rest is tried again: where nobody listens, an attempt itself takes none.
    async fn back_off_unless(&self, is_done: bool) {
        if !is_done {
            self.back_off().await;
        }
    }

    async fn back_off(&self) {
        let pause = ms(5 + self.client.below(100));
        self.client.cluster.world.sleep(pause).await;
    }

    /// Runs calls in one pipeline, once; returns the refused ones. With a patience it hangs up after it.
    async fn run_calls(&self, calls: Vec<Call>, patience: Option<Duration>) -> Vec<Call> {
        let cluster = &self.client.cluster;
        let begun = cluster.world.now();
        let mut ids = Vec::new();
        for part in calls.iter().flat_map(|call| &call.parts) {
            let mut history = cluster.history.borrow_mut();
            ids.push(history.called(self.client.number, part.clone(), begun));
        }
        let requests: Vec<Request> = calls.iter().map(|call| call.request.clone()).collect();
        let answers = match patience {
            Some(patience) => self.client.ask_within(&requests, patience).await,
            None => self.client.ask(&requests).await,
        };
        let now = cluster.world.now();
        let mut ids = ids.into_iter();
        let mut refused = Vec::new();
        for (call, answer) in calls.into_iter().zip(answers) {
            cluster.trace(|| {
                let number = self.client.number;
                let name = String::from_utf8_lossy(&call.request.concat()).into_owned();
                format!("client {number}: {name:.40} -> {answer:.80?} since {begun}")
            });
            for (part, id) in ids.by_ref().take(call.parts.len()).enumerate() {
                let outcome = match &answer {
                    Answer::Done(reply) => match output_of(reply, part, call.parts.len()) {
                        Some(output) => Outcome::Done(output),
                        None => {
                            cluster.fail("replies", format!("{:?} -> {reply:?}", call.parts));
                            Outcome::Unknown
                        }
                    },
                    Answer::Refused => Outcome::Refused,
                    Answer::Unknown => Outcome::Unknown,
                };
                cluster.history.borrow_mut().returned(id, outcome, now);
            }
            if answer == Answer::Refused {
                refused.push(call);
            }
        }
        refused
    }

    /// A pipeline on a key that nobody else touches.
    async fn pipeline(&mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        let (name, mut model) = match self.own.take() {
            Some(own) => own,
            None => (format!("p{}", self.unique()), OwnKey::default()),
        };
        let mut calls = Vec::new();
        for _ in 0..3 + self.client.below(6) {
            let value = self.unique();
            calls.push(match self.client.below(8) {
                0..2 => call(&["SET", &name, &value], Input::set(value.as_bytes())),
                2..4 => call(
                    &["APPEND", &name, &value],
                    Input::Append(value.as_bytes().into()),
                ),
                4 => call(&["DEL", &name], Input::Del),
                5 => call(&["STRLEN", &name], Input::StrLen),
                _ => call(&["GET", &name], Input::Get),
            });
        }
        cluster.hit(Mark::MixedPipelines);
        let requests: Vec<Request> = calls.iter().map(|call| call.request.clone()).collect();
        let answers = self.client.ask(&requests).await;
        let mut steps = Vec::new();
        for (call, answer) in calls.into_iter().zip(&answers) {
            let Answer::Done(reply) = answer else {
                // From here on the key holds nobody knows what: the next pipeline takes another.
                return;
            };
            let input = call.parts.into_iter().next().expect("one part").input;
            let output = output_of(reply, 0, 1).expect("a reply of a pipeline");
            steps.push((input, output));
        }
        match model.check(&name, steps.into_iter()) {
            Ok(()) => self.own = Some((name, model)),
            Err(text) => cluster.fail("pipeline-order", text),
        }
    }

    /// The next increment of this client's session, repeated until it is answered.
    async fn once(&mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        if self.session.is_none() || self.client.chance(30) {
            self.open_session().await;
        }
        let Some(session) = &mut self.session else {
            return;
        };
        let number = session.answered + 1;
        let text = number.to_string();
        let words = ["KVORUM.ONCE", &session.token, &text, "INCR", &session.key];
        let once = [request(&words)];
        loop {
            let answer = self.client.ask(&once).await.remove(0);
            cluster.trace(|| {
                let client = self.client.number;
                format!(
                    "client {client}: session {} number {number} -> {answer:?}",
                    session.token
                )
            });
            match answer {
                Answer::Done(Reply::Int(answered)) => {
                    session.answered = number;
                    if let Err(text) = sessions::check(&session.token, number, answered) {
                        cluster.fail("exactly-once", text);
                    }
                    return;
                }
                Answer::Done(Reply::Error(text)) if text.starts_with("SESSIONEXPIRED ") => {
                    self.session = None;
                    return;
                }
                Answer::Done(other) => {
                    let text = format!("session {} number {number} -> {other:?}", session.token);
                    return cluster.fail("exactly-once", text);
                }
                Answer::Refused | Answer::Unknown => {
                    cluster.world.sleep(ms(5 + self.client.below(100))).await;
                }
            }
            if cluster.failure().is_some() {
                return;
            }
        }
    }

    async fn open_session(&mut self) {
        let open = [request(&["KVORUM.SESSION", "86400"])];
        let answer = self.client.ask(&open).await.remove(0);
        self.session = match answer {
            Answer::Done(Reply::Bulk(Some(token))) => {
                let token = String::from_utf8_lossy(&token).into_owned();
                // All in one slot: rows of many sessions are beside each other.
                let key = format!("{{s}}{token}");
                Some(Session {
                    token,
                    answered: 0,
                    key,
                })
            }
            _ => None,
        };
    }

    /// A key that is written once.
    async fn ledger(&mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        let value = self.unique();
        let key = format!("l{{{}}}:{value}", self.client.number);
        let set = [request(&["SET", &key, &value])];
        let mut was_unknown = false;
        let fate = loop {
            match self.client.ask(&set).await.remove(0) {
                Answer::Done(Reply::Simple(_)) => break Fate::Written,
                Answer::Done(other) => {
                    cluster.fail("replies", format!("SET {key} -> {other:?}"));
                    break Fate::Unknown;
                }
                Answer::Unknown => {
                    was_unknown = true;
                    break Fate::Unknown;
                }
                Answer::Refused if self.client.chance(300) => break Fate::Refused,
                Answer::Refused => self.back_off().await,
            }
        };
        cluster.trace(|| format!("client {}: SET {key} -> {fate:?}", self.client.number));
        debug_assert!(!was_unknown || fate == Fate::Unknown);
        let mut judge = cluster.judge.borrow_mut();
        judge.ledger.wrote(key.as_bytes(), value.as_bytes(), fate);
    }

    /// Changes a key of this client's own, or asks for its version.
    async fn version(&mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        let key = format!("v{}", self.client.number);
        let value = self.unique();
        let ask = request(&["KVORUM.VERSIONS", &key]);
        let change = match self.client.chance(500) {
            true => request(&["SET", &key, &value]),
            false => request(&["DEL", &key]),
        };
        for request in [ask.clone(), change, ask] {
            let answer = self.client.ask(&[request]).await.remove(0);
            let mut judge = cluster.judge.borrow_mut();
            let verdict = match answer {
                Answer::Done(Reply::Simple(_) | Reply::Int(1)) => {
                    judge.versions.changed(key.as_bytes());
                    Ok(())
                }
                Answer::Done(Reply::Array(versions)) => {
                    let [Reply::Int(version)] = versions[..] else {
                        panic!("no version: {versions:?}")
                    };
                    let now = cluster.world.now();
                    judge.versions.read(key.as_bytes(), version as u64, now)
                }
                _ => Ok(()),
            };
            if let Err(text) = verdict {
                cluster.fail("versions", text);
            }
        }
    }

    /// Reads again and again at one node, without waiting long for an answer: somebody must be there
    /// when a leader that was cut off still thinks that it leads.
    async fn glances(&mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        let until = cluster.world.now() + ms(2_000);
        while cluster.world.now() < until && !cluster.is_closing.get() {
            let key = self.key("k", 5);
            let patience = ms(5 + self.client.below(80));
            let calls = vec![call(&["GET", &key], Input::Get)];
            if !self.run_calls(calls, Some(patience)).await.is_empty() {
                // Nobody listens, or nobody leads here.
                self.back_off().await;
            }
        }
    }

    /// Reads at one node, from whatever replica is there, for a while; what it asks for later begins on that
    /// connection, too.
    async fn far_reads(&mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        let node = self.client.below(cluster.options.nodes as u64) as usize;
        let has_own_port = self.client.chance(700);
        self.client.go_to(
            node,
            match has_own_port {
                true => Door::Replica,
                false => Door::Primary,
            },
        );
        let readonly = [request(&["READONLY"])];
        if !has_own_port
            && self.client.ask(&readonly).await != [Answer::Done(Reply::Simple("OK".to_owned()))]
        {
            return;
        }
        let until = cluster.world.now() + ms(self.client.below(3_000));
        while cluster.world.now() < until && !cluster.is_closing.get() {
            let count = 1 + self.client.below(3);
            let calls = (0..count).map(|_| self.shared_read()).collect();
            if self.run_calls(calls, None).await.is_empty() {
                cluster.hit(Mark::ReplicaReads);
                let think = ms(self.client.below(20));
                cluster.world.sleep(think).await;
            } else {
                self.back_off().await;
                if self.client.chance(300) {
                    return;
                }
            }
        }
    }

    fn shared_read(&self) -> Call {
        let key = self.key("k", 5);
        match self.client.below(8) {
            0..5 => call(&["GET", &key], Input::Get),
            5 => call(&["STRLEN", &key], Input::StrLen),
            6 => call(&["EXISTS", &key], Input::Exists),
            _ => call(&["GET", &self.key("n", 3)], Input::Get),
        }
    }

    /// Scans for the keys that this client has written once: all are there.
    async fn scan(&mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        let router = self.client.router();
        if cluster.options.is_managed() && router.is_none() {
            // One node's walk shows what it is primary of, and that changes.
            return;
        }
        let prefix = format!("l{{{}}}:", self.client.number);
        let wanted: Vec<Vec<u8>> = {
            let judge = cluster.judge.borrow();
            judge.ledger.written(prefix.as_bytes()).cloned().collect()
        };
        let pattern = format!("{prefix}*");
        let (mut cursor, mut is_whole) = ("0".to_owned(), false);
        let found = RefCell::new(std::collections::BTreeSet::new());
        for _ in 0..200 {
            let scan = [request(&[
                "SCAN", &cursor, "MATCH", &pattern, "COUNT", "100",
            ])];
            match self.client.ask(&scan).await.remove(0) {
                Answer::Done(Reply::Array(parts)) => {
                    let [Reply::Bulk(Some(next)), Reply::Array(keys)] = &parts[..] else {
                        panic!("no page of a scan: {parts:?}")
                    };
                    let names = keys.iter().filter_map(|key| match key {
                        Reply::Bulk(Some(key)) => Some(key.to_vec()),
                        _ => None,
                    });
                    found.borrow_mut().extend(names);
                    cursor = String::from_utf8_lossy(next).into_owned();
                    is_whole = cursor == "0";
                    if is_whole {
                        break;
                    }
                }
                Answer::Done(other) => {
                    return cluster.fail("replies", format!("SCAN -> {other:?}"));
                }
                Answer::Refused | Answer::Unknown => self.back_off().await,
            }
            if self.client.router() != router {
                // A cursor of a node is none of a router.
                return;
            }
        }
        if !is_whole {
            return;
        }
        if router.is_some() {
            cluster.hit(Mark::ScansThroughRouters);
        }
        let found = found.into_inner();
        if let Some(missing) = wanted.iter().find(|key| !found.contains(*key)) {
            let name = String::from_utf8_lossy(missing).into_owned();
            cluster.fail("scan", format!("a whole scan does not show {name}"));
        }
    }
}

/// What a reply says about one part of a call.
fn output_of(reply: &Reply, part: usize, parts: usize) -> Option<Output> {
    Some(match reply {
        Reply::Simple(text) if text == "OK" => Output::Ok,
        Reply::Int(number) => Output::Int(*number),
        Reply::Bulk(value) => Output::Value(value.clone()),
        Reply::Error(text) if text.starts_with("ERR value is not an integer") => {
            Output::NotAnInteger
        }
        Reply::Array(values) if values.len() == parts => output_of(&values[part], 0, 1)?,
        _ => return None,
    })
}

/// Whether to go on asking; a cluster in which all is well answers in time.
fn may_go_on(cluster: &Cluster, end: Time) -> bool {
    if cluster.world.now() >= end && cluster.failure().is_none() {
        cluster.trace_status();
        let text = format!("waited {READ_PATIENCE:?} for some keys to be read");
        cluster.fail("liveness", text);
    }
    cluster.failure().is_none()
}

/// Reads every key that was ever used, when all is calm: what was lost shows at the latest here.
pub async fn read_everything(cluster: &Rc<Cluster>) {
    let worker = Worker {
        client: Client::new(cluster, cluster.options.clients),
        made: 0,
        session: None,
        own: None,
    };
    let operations = cluster.history.borrow().operations().to_vec();
    let shared: std::collections::BTreeSet<Value> = operations
        .into_iter()
        .map(|operation| operation.input.key)
        .collect();
    let shared: Vec<Value> = shared.into_iter().collect();
    for keys in shared.chunks(20) {
        let mut calls: Vec<Call> = keys
            .iter()
            .map(|key| Call {
                request: vec![b"GET".to_vec(), key.to_vec()],
                parts: vec![KeyInput {
                    key: Rc::clone(key),
                    input: Input::Get,
                }],
            })
            .collect();
        let end = cluster.world.now() + READ_PATIENCE;
        while !calls.is_empty() && may_go_on(cluster, end) {
            calls = worker.run_calls(calls, None).await;
            worker.back_off_unless(calls.is_empty()).await;
        }
    }
    let ledger = cluster.judge.borrow().ledger.keys();
    for keys in ledger.chunks(20) {
        let gets: Vec<Request> = keys
            .iter()
            .map(|key| vec![b"GET".to_vec(), key.clone()])
            .collect();
        let mut left: Vec<(Request, Vec<u8>)> =
            gets.into_iter().zip(keys.iter().cloned()).collect();
        let end = cluster.world.now() + READ_PATIENCE;
        while !left.is_empty() && may_go_on(cluster, end) {
            let requests: Vec<Request> = left.iter().map(|(request, _)| request.clone()).collect();
            let answers = worker.client.ask(&requests).await;
            cluster.trace(|| format!("{} keys of the ledger -> {answers:.120?}", left.len()));
            let mut again = Vec::new();
            for ((request, key), answer) in left.into_iter().zip(answers) {
                if let Answer::Done(Reply::Bulk(found)) = answer {
                    if let Err(text) = cluster.judge.borrow().ledger.check(&key, found.as_ref()) {
                        cluster.fail("durability", text);
                    }
                } else {
                    again.push((request, key));
                }
            }
            left = again;
            worker.back_off_unless(left.is_empty()).await;
        }
    }
}
