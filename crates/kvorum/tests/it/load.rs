//! Clients that write and read all the time, remember what they were told, and a judge of that.
//!
//! A reply is an outcome. An error is one too: a refusal, which is believed (what was refused and
//! happened all the same would be seen), or `-UNKNOWN`. A connection that ends, or a reply that does
//! not come in time, leaves the outcome open for ever.
//!
//! Nothing is repeated: after a refusal, whatever the text, the next operation is another one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvorum_base::Prng;
use kvorum_sim::checkers::linearizable::BUDGET;
use kvorum_sim::checkers::strings::{Input, KeyInput, Output, Strings, check_keys};
use kvorum_sim::history::{Operation, Outcome};
use kvorum_sim::world::Time;

use crate::process::{PATIENCE, wait_for};
use crate::resp::{Client, Reply, ask, moved_to};

/// Keys that hold text, and as many that hold a number. Few, so that clients meet.
const KEYS: u64 = 12;

/// How long the same keys are used. Outcomes that stay open make the search for an order of all operations of
/// a key longer and longer.
const CHAPTER: Duration = Duration::from_secs(20);

/// How the clients behave.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) clients: usize,
    /// Between two operations of a client.
    pub(crate) pause: Duration,
    /// How long a client waits for a reply before it goes elsewhere.
    pub(crate) patience: Duration,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            clients: 16,
            pause: Duration::from_millis(4),
            patience: PATIENCE,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
enum Ask {
    Get,
    Set(String),
    Append(String),
    Delete,
    Increment(i64),
}

/// One operation; times in microseconds since the start of the load.
#[derive(Clone, Debug)]
struct Record {
    client: usize,
    key: String,
    ask: Ask,
    called: u64,
    returned: u64,
    reply: Option<Reply>,
}

/// Clients at work.
pub(crate) struct Load {
    begin: Instant,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Told>>,
}

impl Load {
    /// Starts clients of the nodes at these ports.
    pub(crate) fn start(ports: &[u16], manners: &[Manner]) -> Self {
        let begin = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let thread = |(number, manner): (usize, Manner)| {
            let worker = Worker {
                number,
                ports: ports.to_vec(),
                at: number,
                port: None,
                client: None,
                manner,
                begin,
                prng: Prng::new(number as u64),
                count: 0,
                told: Told::default(),
            };
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            std::thread::spawn(move || worker.run(&stop, &acknowledged))
        };
        let clients = manners
            .iter()
            .flat_map(|manner| std::iter::repeat_n(*manner, manner.clients));
        let threads = clients.enumerate().map(thread).collect();
        Self {
            begin,
            stop,
            acknowledged,
            threads,
        }
    }

    /// Waits until so many more operations were done.
    pub(crate) fn wait_for_more(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        wait_for("clients to get on", || {
            (self.acknowledged.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    /// Has all clients end; what they were told.
    pub(crate) fn finish(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let mut told = Told::default();
        for thread in self.threads {
            let more = thread.join().expect("a client that does not panic");
            told.records.extend(more.records);
            told.kept.extend(more.kept);
            for (kind, count) in more.complaints {
                *told.complaints.entry(kind).or_default() += count;
            }
        }
        told.end = micros_since(self.begin);
        told
    }
}

/// What clients were told.
#[derive(Default)]
pub(crate) struct Told {
    records: Vec<Record>,
    /// Keys that were written once, and acknowledged.
    kept: Vec<String>,
    /// Refusals by their first word, and what became of connections.
    complaints: BTreeMap<String, u64>,
    end: u64,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            records,
            kept,
            complaints,
            ..
        } = self;
        let (all, kept) = (records.len(), kept.len());
        write!(f, "{all} operations, {kept} kept keys, {complaints:?}")
    }
}

/// The complaint about a connection that ended with a request under way.
pub(crate) const CLOSED: &str = "closed";

impl Told {
    /// How many outcomes are not known.
    pub(crate) fn unknown(&self) -> u64 {
        let count = |kind| self.complaints.get(kind).copied().unwrap_or_default();
        count(CLOSED) + count("UNKNOWN")
    }

    /// The kinds of complaints.
    pub(crate) fn complaints(&self) -> Vec<&str> {
        self.complaints.keys().map(String::as_str).collect()
    }

    /// Reads everything once more: what was acknowledged must be there, and the histories of all keys
    /// must each have an order that explains them.
    pub(crate) fn judge(mut self, ports: &[u16]) {
        println!("{self:?}");
        let read = |key: &str| {
            wait_for("a last read", || {
                ports
                    .iter()
                    .find_map(|port| match ask(*port, &["GET", key]) {
                        Ok(Reply::Bulk(value)) => Some(value),
                        _ => None,
                    })
            })
        };
        for key in &self.kept {
            assert_eq!(read(key).as_deref(), Some("kept"), "{key} was acknowledged");
        }
        let all_keys: BTreeSet<String> = self
            .records
            .iter()
            .map(|record| record.key.clone())
            .collect();
        for key in all_keys {
            let called = self.end;
            let reply = Some(Reply::Bulk(read(&key)));
            self.end += 1;
            self.records.push(Record {
                client: usize::MAX,
                key,
                ask: Ask::Get,
                called,
                returned: self.end,
                reply,
            });
        }
        self.records.sort_by_key(|record| record.called);
        let operations: Vec<_> = self.records.iter().map(operation_of).collect();
        let model = Strings {
            early: Duration::ZERO,
            late: Duration::ZERO,
        };
        if let Err(why) = check_keys(&model, &operations, BUDGET) {
            panic!("{why}");
        }
    }
}

fn operation_of(record: &Record) -> Operation<KeyInput, Output> {
    let input = match &record.ask {
        Ask::Get => Input::Get,
        Ask::Set(value) => Input::set(value.as_bytes()),
        Ask::Append(piece) => Input::Append(piece.as_bytes().into()),
        Ask::Delete => Input::Del,
        Ask::Increment(by) => Input::IncrBy(*by),
    };
    let outcome = match &record.reply {
        None => Outcome::Unknown,
        Some(Reply::Error(text)) if text.starts_with("UNKNOWN ") => Outcome::Unknown,
        Some(Reply::Error(_)) => Outcome::Refused,
        Some(Reply::Simple(text)) => {
            assert_eq!(text, "OK");
            Outcome::Done(Output::Ok)
        }
        Some(Reply::Integer(number)) => Outcome::Done(Output::Int(*number)),
        Some(Reply::Bulk(value)) => {
            let value = value.as_ref().map(|value| value.as_bytes().into());
            Outcome::Done(Output::Value(value))
        }
    };
    let returned = match outcome {
        Outcome::Unknown => Time::NEVER,
        _ => Time(record.returned),
    };
    Operation {
        client: record.client,
        input: KeyInput {
            key: record.key.as_bytes().into(),
            input,
        },
        called: Time(record.called),
        returned,
        outcome,
    }
}

fn micros_since(begin: Instant) -> u64 {
    begin.elapsed().as_micros() as u64
}

/// One client.
struct Worker {
    number: usize,
    ports: Vec<u16>,
    /// Whom to try when nobody was named.
    at: usize,
    /// Whom a redirect named.
    port: Option<u16>,
    client: Option<Client>,
    manner: Manner,
    begin: Instant,
    prng: Prng,
    count: u64,
    told: Told,
}

impl Worker {
    fn run(mut self, stop: &AtomicBool, acknowledged: &AtomicU64) -> Told {
        while !stop.load(Ordering::Relaxed) {
            if self.connect() && self.operate() {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(self.manner.pause);
        }
        self.told
    }

    fn connect(&mut self) -> bool {
        if self.client.is_none() {
            let port = self.port.unwrap_or(self.ports[self.at % self.ports.len()]);
            match Client::connect_patient(port, self.manner.patience) {
                Ok(client) => self.client = Some(client),
                Err(_) => self.go_elsewhere(),
            }
        }
        self.client.is_some()
    }

    fn go_elsewhere(&mut self) {
        self.client = None;
        self.port = None;
        self.at += 1;
    }

    /// One operation; whether it was done.
    fn operate(&mut self) -> bool {
        self.count += 1;
        if self.prng.chance(1, 8) {
            let key = format!("kept-{}-{}", self.number, self.count);
            let reply = self.exchange(&["SET", &key, "kept"]);
            let done = reply == Some(Reply::Simple("OK".to_owned()));
            if done {
                self.told.kept.push(key);
            }
            return done;
        }
        let chapter = self.begin.elapsed().as_secs() / CHAPTER.as_secs();
        let number = self.prng.below(KEYS);
        let (text_key, number_key) = (
            format!("text-{chapter}-{number}"),
            format!("number-{chapter}-{number}"),
        );
        let text = format!("{}-{}", self.number, self.count);
        let (key, ask) = match self.prng.below(12) {
            0..=2 => (text_key, Ask::Get),
            3..=5 => (text_key, Ask::Set(text)),
            6 => (text_key, Ask::Append(format!(" {text}"))),
            7 => (text_key, Ask::Delete),
            8..=9 => (number_key, Ask::Get),
            _ => (number_key, Ask::Increment(self.prng.range(1, 9) as i64)),
        };
        let called = micros_since(self.begin);
        let reply = match &ask {
            Ask::Get => self.exchange(&["GET", &key]),
            Ask::Set(value) => self.exchange(&["SET", &key, value]),
            Ask::Append(piece) => self.exchange(&["APPEND", &key, piece]),
            Ask::Delete => self.exchange(&["DEL", &key]),
            Ask::Increment(by) => self.exchange(&["INCRBY", &key, &by.to_string()]),
        };
        let done = !matches!(reply, None | Some(Reply::Error(_)));
        self.told.records.push(Record {
            client: self.number,
            key,
            ask,
            called,
            returned: micros_since(self.begin),
            reply,
        });
        done
    }

    /// Asks, and follows what the answer says about where to ask next.
    fn exchange(&mut self, words: &[&str]) -> Option<Reply> {
        let client = self.client.as_mut().expect("connected");
        let Ok(reply) = client.ask(words) else {
            self.complain(CLOSED);
            self.go_elsewhere();
            return None;
        };
        if let Reply::Error(text) = &reply {
            self.complain(text.split(' ').next().unwrap_or_default());
            if let Some(port) = moved_to(text) {
                self.client = None;
                self.port = Some(port);
            } else if text.starts_with("CLUSTERDOWN ") {
                self.go_elsewhere();
            }
        }
        Some(reply)
    }

    fn complain(&mut self, kind: &str) {
        *self.told.complaints.entry(kind.to_owned()).or_default() += 1;
    }
}
