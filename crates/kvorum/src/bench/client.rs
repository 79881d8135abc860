//! One client: takes requests as they become due, sends them, waits for the replies, follows redirects.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use kvorum_base::Prng;
use kvorum_resp::answer::{NoReply, Scanner};
use kvorum_resp::request::put_words;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};

use super::run::Shared;
use super::tally::Class;

/// Requests of a filling client for which it waits together.
const FILL_PIPELINE: usize = 64;
/// How long a connection may take, and a reply.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
const REPLY_PATIENCE: Duration = Duration::from_secs(30);
/// Before something that did not happen is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Timers wake up to this much too late by their nature; that is the generator's time, not the server's.
const TIMER_GRAIN: Duration = Duration::from_millis(1);
/// Room for replies that arrive together.
const READ_BYTES: usize = 16 << 10;

/// What a read is answered with that finds nothing.
const NULL: &[u8] = b"$-1\r\n";
const NO_REPLY: &str = "the server sends what is no reply of this protocol";

/// One request.
#[derive(Clone, Copy, Debug)]
struct Job {
    due: Instant,
    class: Class,
    key: u64,
}

/// Where a client's requests come from.
pub(crate) enum Source {
    /// Every key of a share once.
    Fill { next: u64, step: u64 },
    /// As soon as the last ones are answered.
    Closed,
    /// At fixed moments.
    Open { next: Instant, step: Duration },
}

struct Link {
    socket: TcpStream,
    /// What was read, and not dropped yet.
    held: Vec<u8>,
    /// So much of it has been taken.
    taken: usize,
    /// How far the reply behind that is understood.
    scanner: Scanner,
}

impl Link {
    /// The next reply, if it has been read whole.
    fn next_reply(&mut self) -> Result<Option<&[u8]>, NoReply> {
        let begin = self.taken;
        let Some(len) = self.scanner.advance(&self.held[begin..])? else {
            return Ok(None);
        };
        self.scanner = Scanner::default();
        self.taken += len;
        Ok(Some(&self.held[begin..self.taken]))
    }

    /// Reads what has come, or waits for it.
    async fn read(&mut self) -> Result<(), String> {
        self.held.drain(..self.taken);
        self.taken = 0;
        self.held.reserve(READ_BYTES);
        match timeout(REPLY_PATIENCE, self.socket.read_buf(&mut self.held)).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(Ok(0)) => Err("the connection was closed".into()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no reply".into()),
        }
    }
}

/// How a batch ended.
enum Ended {
    Answered,
    /// The connection broke; the number of requests that were answered before.
    Broke(usize),
}

/// A client and its connections.
pub(crate) struct Client {
    shared: Rc<Shared>,
    source: Source,
    prng: Prng,
    /// Due, and not sent, or to be sent again.
    queue: VecDeque<Job>,
    links: BTreeMap<u16, Link>,
    /// Which of the named servers this client uses while it knows no owner.
    seed: usize,
    out: Vec<u8>,
}

impl Client {
    pub(crate) fn new(shared: Rc<Shared>, source: Source, number: usize, prng: Prng) -> Self {
        Self {
            shared,
            source,
            prng,
            queue: VecDeque::new(),
            links: BTreeMap::new(),
            seed: number,
            out: Vec::new(),
        }
    }

    /// Connects to the first server, so that the measurement begins with everybody there.
    pub(crate) async fn connect(&mut self) -> Result<(), String> {
        let server = self.shared.places.borrow().seed(self.seed);
        self.link(server).await.map(|_| ())
    }

    /// From now on requests are due at fixed moments.
    pub(crate) fn become_open(&mut self, first: Instant, step: Duration) {
        self.source = Source::Open { next: first, step };
    }

    /// Works until the end, or until all is filled.
    pub(crate) async fn work(mut self) {
        loop {
            self.draw().await;
            let (server, batch) = self.take_batch();
            if batch.is_empty() || Instant::now() >= self.shared.end.get() {
                break;
            }
            self.serve(server, batch).await;
        }
    }

    fn is_filling(&self) -> bool {
        matches!(self.source, Source::Fill { .. })
    }

    fn pipeline(&self) -> usize {
        match self.source {
            Source::Fill { .. } => FILL_PIPELINE,
            _ => self.shared.options.pipeline as usize,
        }
    }

    /// Puts what is due into the queue; waits if nothing is.
    async fn draw(&mut self) {
        match self.source {
            Source::Fill { .. } => self.draw_fill(),
            Source::Closed => self.draw_closed(),
            Source::Open { next, step } => self.draw_open(next, step).await,
        }
    }

    fn draw_fill(&mut self) {
        let Source::Fill { next, step } = &mut self.source else {
            return;
        };
        let keys = &self.shared.keys;
        // More than one batch: with many servers the queue is split among them.
        while self.queue.len() < 4 * FILL_PIPELINE && *next < keys.count() {
            if keys.has(*next) {
                let due = Instant::now();
                let class = Class::Write;
                self.queue.push_back(Job {
                    due,
                    class,
                    key: *next,
                });
            }
            *next += *step;
        }
    }

    fn draw_closed(&mut self) {
        if !self.queue.is_empty() {
            return; // redirected ones go first
        }
        let due = Instant::now();
        let mut place = None;
        while self.queue.len() < self.pipeline() {
            let job = self.job(due);
            // A pipeline goes to one server: a client of a cluster has one for each.
            let server = self.server_of(job.key);
            if *place.get_or_insert(server) == server {
                self.queue.push_back(job);
            }
        }
    }

    async fn draw_open(&mut self, mut next: Instant, step: Duration) {
        let mut now = Instant::now();
        if self.queue.is_empty() && next > now {
            sleep_until(next.min(self.shared.end.get()).into()).await;
            now = Instant::now();
            // Nobody was kept waiting by the server: the timer's own delay is not its latency.
            if now >= next {
                let due = now.min(next + TIMER_GRAIN);
                let job = self.job(due);
                self.queue.push_back(job);
                next += step;
            }
        }
        while next <= now && self.queue.len() < self.pipeline() {
            let job = self.job(next);
            self.queue.push_back(job);
            next += step;
        }
        self.source = Source::Open { next, step };
    }

    fn job(&mut self, due: Instant) -> Job {
        let class = if self.prng.below(100) < u64::from(self.shared.options.reads) {
            Class::Read
        } else {
            Class::Write
        };
        let key = self.shared.keys.draw(&mut self.prng);
        Job { due, class, key }
    }

    fn server_of(&self, key: u64) -> u16 {
        let places = self.shared.places.borrow();
        let owner = self
            .shared
            .options
            .cluster
            .then(|| places.owner(self.shared.keys.slot(key)));
        owner.flatten().unwrap_or_else(|| places.seed(self.seed))
    }

    /// The first request's server, and what of the queue goes there with it.
    fn take_batch(&mut self) -> (u16, Vec<Job>) {
        let Some(first) = self.queue.front() else {
            return (0, Vec::new());
        };
        let server = self.server_of(first.key);
        let mut batch = Vec::with_capacity(self.pipeline());
        let mut rest = VecDeque::new();
        while let Some(job) = self.queue.pop_front() {
            if batch.len() < self.pipeline() && self.server_of(job.key) == server {
                batch.push(job);
            } else {
                rest.push_back(job);
            }
        }
        self.queue = rest;
        (server, batch)
    }

    async fn serve(&mut self, server: u16, batch: Vec<Job>) {
        if let Err(error) = self.link(server).await {
            // Not sent: whoever is tried next may answer.
            self.shared.note_trouble(&error);
            self.leave(server);
            self.queue.extend(batch);
            sleep(RETRY_PAUSE).await;
            return;
        }
        self.out.clear();
        for job in &batch {
            put_request(&self.shared, *job, &mut self.out);
        }
        if let Ended::Broke(answered) = self.exchange(server, &batch).await {
            self.leave(server);
            for job in &batch[answered..] {
                // A read, and a write that says the same twice, may be sent again; another one is lost.
                if job.class == Class::Read || self.is_filling() {
                    self.queue.push_back(*job);
                } else {
                    self.shared.tally.borrow_mut().failed("LOST");
                }
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// That server does not answer: forget it, and use another one meanwhile.
    fn leave(&mut self, server: u16) {
        self.links.remove(&server);
        self.shared.places.borrow_mut().lost(server);
        self.seed += 1;
    }

    async fn exchange(&mut self, server: u16, batch: &[Job]) -> Ended {
        let link = self.links.get_mut(&server).expect("it was connected");
        if link.socket.write_all(&self.out).await.is_err() {
            return Ended::Broke(0);
        }
        let mut answered = 0;
        let mut is_refused = false;
        while answered < batch.len() {
            let reply = match link.next_reply() {
                Ok(Some(reply)) => reply,
                Ok(None) => match link.read().await {
                    Ok(()) => continue,
                    Err(_) => return Ended::Broke(answered),
                },
                Err(NoReply) => {
                    self.shared.note_trouble(NO_REPLY);
                    return Ended::Broke(answered);
                }
            };
            match settle(&self.shared, batch[answered], reply) {
                Settled::Over => {}
                Settled::Again {
                    is_refused: refused,
                } => {
                    is_refused |= refused;
                    self.queue.push_back(batch[answered]);
                }
            }
            answered += 1;
        }
        if is_refused {
            sleep(RETRY_PAUSE).await;
        }
        Ended::Answered
    }

    async fn link(&mut self, server: u16) -> Result<&mut Link, String> {
        if !self.links.contains_key(&server) {
            let address = self.shared.places.borrow().address(server).to_owned();
            let link = connect(&address, self.shared.options.password.as_deref()).await?;
            self.links.insert(server, link);
        }
        Ok(self.links.get_mut(&server).expect("it was put there"))
    }
}

async fn connect(address: &str, password: Option<&str>) -> Result<Link, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("cannot connect to {address}: {error}");
    let socket = timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await;
    let socket = socket
        .map_err(|_| wrong(&"it takes too long"))?
        .map_err(|error| wrong(&error))?;
    socket.set_nodelay(true).map_err(|error| wrong(&error))?;
    let mut link = Link {
        socket,
        held: Vec::new(),
        taken: 0,
        scanner: Scanner::default(),
    };
    if let Some(password) = password {
        let answer = ask(&mut link, &[b"AUTH", password.as_bytes()])
            .await
            .map_err(|error| wrong(&error))?;
        if let Some(error) = answer.strip_prefix(b"-") {
            return Err(wrong(&String::from_utf8_lossy(error).trim_end()));
        }
    }
    Ok(link)
}

/// Asks a server one thing, before the load.
pub(crate) async fn ask_once(
    address: &str,
    password: Option<&str>,
    words: &[&[u8]],
) -> Result<Vec<u8>, String> {
    let mut link = connect(address, password).await?;
    ask(&mut link, words)
        .await
        .map_err(|error| format!("{address}: {error}"))
}

async fn ask(link: &mut Link, words: &[&[u8]]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    put_words(&mut out, words);
    link.socket
        .write_all(&out)
        .await
        .map_err(|error| error.to_string())?;
    loop {
        match link.next_reply() {
            Ok(Some(reply)) => return Ok(reply.to_vec()),
            Ok(None) => link.read().await?,
            Err(NoReply) => return Err(NO_REPLY.into()),
        }
    }
}

fn put_request(shared: &Shared, job: Job, out: &mut Vec<u8>) {
    let mut key = Vec::with_capacity(shared.options.key_size as usize);
    shared.keys.put(job.key, &mut key);
    match job.class {
        Class::Read => put_words(out, &[b"GET", &key]),
        Class::Write => put_words(out, &[b"SET", &key, &shared.value]),
    }
}

enum Settled {
    Over,
    /// It did not happen; at once, or after a pause if the server only said "not now".
    Again {
        is_refused: bool,
    },
}

/// Counts a reply, or says that the request has to be sent again.
fn settle(shared: &Shared, job: Job, reply: &[u8]) -> Settled {
    let mut tally = shared.tally.borrow_mut();
    if let Some(text) = reply.strip_prefix(b"-") {
        let text = String::from_utf8_lossy(text);
        let text = text.trim_end();
        if shared.options.cluster {
            if shared.places.borrow_mut().moved(text).is_some() {
                tally.redirected();
                return Settled::Again { is_refused: false };
            }
            if ["TRYAGAIN", "CLUSTERDOWN"]
                .iter()
                .any(|word| text.starts_with(word))
            {
                tally.redirected();
                return Settled::Again { is_refused: true };
            }
        }
        shared.note_trouble(text);
        tally.failed(text);
        return Settled::Over;
    }
    if job.class == Class::Read && reply == NULL {
        tally.missed();
    }
    tally.answered(job.class, job.due, Instant::now());
    Settled::Over
}
