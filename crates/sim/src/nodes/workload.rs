//! Clients at work: commands on a few hot keys, whose history is judged when the run is over.
//!
//! No value is written twice, so that a read says which write it saw. Some clients work in sessions: they
//! repeat a write whose outcome they do not know, and it must have happened once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::client::{Answer, Client, Reply};
use super::cluster::Cluster;
use crate::checkers::strings::{Input, KeyInput, Output, Ttl, Value};
use crate::history::{History, Outcome};

/// The history of a run.
pub type Operations = History<KeyInput, Output>;

/// What all clients of a run share.
#[derive(Clone)]
pub struct Workload {
    cluster: Cluster,
    history: Rc<RefCell<Operations>>,
    stop: Rc<Cell<bool>>,
    next_value: Rc<Cell<u64>>,
    /// The longest pause between two operations of a client, in milliseconds.
    think_max_ms: u64,
}

const TEXT_KEYS: [&str; 3] = ["text:0", "text:1", "text:2"];
const COUNTER_KEYS: [&str; 2] = ["count:0", "count:1"];
const EXPIRING_KEYS: [&str; 2] = ["brief:0", "brief:1"];

/// How often a write is repeated in a session until its client gives up.
const REPEATS: usize = 6;

/// A session, and the number of the next write in it.
struct Session {
    token: Vec<u8>,
    next: u64,
}

impl Workload {
    /// A workload that nobody works on yet.
    #[must_use]
    pub fn new(cluster: &Cluster, think_max_ms: u64) -> Self {
        Self {
            cluster: cluster.clone(),
            history: Rc::default(),
            stop: Rc::default(),
            next_value: Rc::default(),
            think_max_ms,
        }
    }

    /// Tells all clients to stop after their present operation.
    pub fn stop(&self) {
        self.stop.set(true);
    }

    /// What was asked and answered.
    #[must_use]
    pub fn history(&self) -> Rc<RefCell<Operations>> {
        Rc::clone(&self.history)
    }

    /// Works until told to stop.
    pub async fn client(self, number: usize) {
        let mut client = Client::new(&self.cluster);
        let mut session = None;
        let has_session = number % 2 == 1;
        while !self.stop.get() {
            match self.cluster.below(20) {
                0 => self.pipelined(&mut client, number).await,
                1 => self.ask_version(&mut client).await,
                _ => {
                    let (key, input) = self.draw();
                    let in_session = has_session && self.cluster.chance(3, 4);
                    let session = in_session.then_some(&mut session);
                    self.operate(&mut client, number, key, input, session).await;
                }
            }
            if self.cluster.chance(1, 20) {
                client.turn_elsewhere();
            }
            let think = Duration::from_micros(self.cluster.below(self.think_max_ms * 1000 + 1));
            self.cluster.world().sleep(think).await;
        }
    }

    /// Reads every key once more, so that nothing acknowledged can be missing.
    pub async fn read_all(&self) {
        let mut client = Client::new(&self.cluster);
        for key in TEXT_KEYS.iter().chain(&COUNTER_KEYS).chain(&EXPIRING_KEYS) {
            self.operate(&mut client, usize::MAX, key, Input::Get, None)
                .await;
        }
    }

    fn pick(&self, keys: &'static [&'static str]) -> &'static str {
        keys[self.cluster.below(keys.len() as u64) as usize]
    }

    fn fresh_value(&self) -> Value {
        let number = self.next_value.get();
        self.next_value.set(number + 1);
        // Some fill several sectors of the log, a few with zeros, as real values have them.
        let mut value = format!("<{number}>").into_bytes();
        if self.cluster.chance(1, 2) {
            let fill = if self.cluster.chance(1, 3) {
                0
            } else {
                b'a' + (number % 26) as u8
            };
            value.resize(value.len() + self.cluster.below(2500) as usize, fill);
        }
        value.into()
    }

    fn draw(&self) -> (&'static str, Input) {
        let set = |exists, get, ttl| Input::Set {
            value: self.fresh_value(),
            exists,
            get,
            ttl,
        };
        let brief = || Duration::from_millis(200 + self.cluster.below(5000));
        match self.cluster.below(40) {
            0..9 => (self.pick(&TEXT_KEYS), Input::Get),
            9..13 => (self.pick(&TEXT_KEYS), set(None, false, Ttl::None)),
            13..16 => (self.pick(&TEXT_KEYS), Input::Append(self.fresh_value())),
            16 => (self.pick(&TEXT_KEYS), set(Some(false), false, Ttl::None)),
            17 => (self.pick(&TEXT_KEYS), set(Some(true), false, Ttl::None)),
            18 => (self.pick(&TEXT_KEYS), set(None, true, Ttl::None)),
            19 => (self.pick(&TEXT_KEYS), Input::Del),
            20 => (self.pick(&TEXT_KEYS), Input::GetDel),
            21 => (self.pick(&TEXT_KEYS), Input::StrLen),
            22 => (self.pick(&TEXT_KEYS), Input::Exists),
            23..28 => (
                self.pick(&COUNTER_KEYS),
                Input::IncrBy(1 + self.cluster.below(3) as i64),
            ),
            28..32 => (self.pick(&COUNTER_KEYS), Input::Get),
            32 => (self.pick(&EXPIRING_KEYS), set(None, false, Ttl::Keep)),
            33..35 => (
                self.pick(&EXPIRING_KEYS),
                set(None, false, Ttl::Set(brief())),
            ),
            35 => (self.pick(&EXPIRING_KEYS), Input::Expire(brief())),
            36 => (self.pick(&EXPIRING_KEYS), Input::Persist),
            _ => (self.pick(&EXPIRING_KEYS), Input::Get),
        }
    }

    /// One operation from its call to its end.
    async fn operate(
        &self,
        client: &mut Client,
        number: usize,
        key: &str,
        input: Input,
        session: Option<&mut Option<Session>>,
    ) {
        let command = encode(key, &input);
        let is_write = !matches!(input, Input::Get | Input::StrLen | Input::Exists);
        let world = self.cluster.world();
        let key_input = KeyInput {
            key: key.as_bytes().into(),
            input: input.clone(),
        };
        let id = self
            .history
            .borrow_mut()
            .called(number, key_input, world.now());
        let answer = match session {
            Some(session) if is_write => self.ask_once(client, &command, session).await,
            _ => client.ask(&parts(&command)).await,
        };
        let outcome = match answer {
            Answer::Refused => Outcome::Refused,
            Answer::Unknown => Outcome::Unknown,
            Answer::Done(reply) => Outcome::Done(output_of(&input, reply)),
        };
        self.cluster.count(|coverage| match outcome {
            Outcome::Done(_) => coverage.done += 1,
            Outcome::Refused => coverage.refused += 1,
            Outcome::Unknown => coverage.unknown += 1,
        });
        self.history.borrow_mut().returned(id, outcome, world.now());
    }

    /// A write in a session: repeated until its outcome is known.
    async fn ask_once(
        &self,
        client: &mut Client,
        command: &[Vec<u8>],
        session: &mut Option<Session>,
    ) -> Answer {
        if session.is_none() {
            match client.ask(&[b"KVORUM.SESSION"]).await {
                Answer::Done(Reply::Bulk(Some(token))) => {
                    *session = Some(Session { token, next: 1 });
                }
                Answer::Done(other) => panic!("a session: {other:?}"),
                // The write itself was not sent.
                Answer::Refused | Answer::Unknown => return Answer::Refused,
            }
        }
        let Session { token, next } = session.as_mut().expect("just opened");
        let sequence = next.to_string().into_bytes();
        *next += 1;
        let mut args: Vec<&[u8]> = vec![b"KVORUM.ONCE", token, &sequence];
        args.extend(parts(command));
        let mut may_have_happened = false;
        for _ in 0..REPEATS {
            match client.ask(&args).await {
                Answer::Done(reply) => return Answer::Done(reply),
                Answer::Unknown => {
                    may_have_happened = true;
                    self.cluster.count(|coverage| coverage.repeated += 1);
                }
                Answer::Refused if may_have_happened => {}
                Answer::Refused => return Answer::Refused,
            }
        }
        // The number is used up: the next write takes another one.
        if may_have_happened {
            Answer::Unknown
        } else {
            Answer::Refused
        }
    }

    /// A connection's read must see the write that the same connection sent just before.
    async fn pipelined(&self, client: &mut Client, number: usize) {
        let value = self.fresh_value();
        // A key of its own: a write of an earlier attempt may still be on its way.
        let key = format!("own:{number}:{}", self.next_value.get()).into_bytes();
        let set: Vec<&[u8]> = vec![b"SET", &key, &value];
        let get: Vec<&[u8]> = vec![b"GET", &key];
        let replies = client.pipeline(&[set, get, vec![b"DEL", &key]]).await;
        if let (Some(Reply::Simple(_)), Some(Reply::Bulk(read))) = (&replies[0], &replies[1]) {
            let read = read.as_deref();
            assert_eq!(
                read,
                Some(&value[..]),
                "a read overtook the write before it"
            );
        }
    }

    async fn ask_version(&self, client: &mut Client) {
        let key = self.pick(&TEXT_KEYS).as_bytes();
        let floor = self.cluster.with_watch(|watch| watch.versions.floor(key));
        let Answer::Done(reply) = client.ask(&[b"KVORUM.VERSIONS", key]).await else {
            return;
        };
        let Reply::Array(versions) = &reply else {
            panic!("versions: {reply:?}");
        };
        let [Reply::Int(version)] = versions[..] else {
            panic!("versions: {reply:?}");
        };
        self.cluster
            .with_watch(|watch| watch.versions.returned(key, floor, version));
    }
}

fn parts(command: &[Vec<u8>]) -> Vec<&[u8]> {
    command.iter().map(Vec::as_slice).collect()
}

fn encode(key: &str, input: &Input) -> Vec<Vec<u8>> {
    let key = key.as_bytes();
    let words = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect();
    let millis = |duration: &Duration| duration.as_millis().to_string().into_bytes();
    match input {
        Input::Get => words(&[b"GET", key]),
        Input::GetDel => words(&[b"GETDEL", key]),
        Input::Del => words(&[b"DEL", key]),
        Input::Exists => words(&[b"EXISTS", key]),
        Input::StrLen => words(&[b"STRLEN", key]),
        Input::Append(value) => words(&[b"APPEND", key, value]),
        Input::IncrBy(by) => words(&[b"INCRBY", key, by.to_string().as_bytes()]),
        Input::Expire(ttl) => words(&[b"PEXPIRE", key, &millis(ttl)]),
        Input::Persist => words(&[b"PERSIST", key]),
        Input::Set {
            value,
            exists,
            get,
            ttl,
        } => {
            let mut command: Vec<Vec<u8>> = words(&[b"SET", key, value]);
            match exists {
                Some(true) => command.push(b"XX".to_vec()),
                Some(false) => command.push(b"NX".to_vec()),
                None => {}
            }
            if *get {
                command.push(b"GET".to_vec());
            }
            match ttl {
                Ttl::None => {}
                Ttl::Keep => command.push(b"KEEPTTL".to_vec()),
                Ttl::Set(ttl) => command.extend([b"PX".to_vec(), millis(ttl)]),
            }
            command
        }
    }
}

fn output_of(input: &Input, reply: Reply) -> Output {
    match reply {
        Reply::Simple(text) if text == "OK" => Output::Ok,
        Reply::Int(number) => Output::Int(number),
        Reply::Bulk(value) => Output::Value(value.map(Into::into)),
        Reply::Error(text) if matches!(input, Input::IncrBy(_)) && text.starts_with("ERR ") => {
            Output::NotAnInteger
        }
        other => panic!("{input:?} was answered by {other:?}"),
    }
}
