//! One seed: requests in batches to both servers, and the differences between their replies.
//!
//! After a difference both servers are emptied and get new connections, so that it is not told a second
//! time by everything that follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::permitted::Agree;
use super::requests::{KEYS, Maker, Request, SUM_KEYS};
use super::servers::{Came, Link, Servers, Value, encoded};
use crate::process::{PATIENCE, wait_for};

/// Differences of one kind are told once; more kinds than this are not told.
const KINDS_MAX: usize = 60;

/// How long bytes that stop in the middle of a request are waited for.
const QUIET: Duration = Duration::from_millis(60);

/// One seed's run.
pub(super) struct Run<'a> {
    servers: &'a Servers,
    links: [Link; 2],
    maker: Maker,
    seed: u64,
    sent: u64,
    /// By kind, so that a thousand of one do not hide another.
    differences: BTreeMap<String, String>,
}

impl<'a> Run<'a> {
    pub(super) fn new(servers: &'a Servers, seed: u64) -> Self {
        let mut run = Self {
            servers,
            links: servers.ports.map(Link::connect),
            maker: Maker::new(seed),
            seed,
            sent: 0,
            differences: BTreeMap::new(),
        };
        run.start_anew();
        run
    }

    pub(super) fn into_differences(self) -> BTreeMap<String, String> {
        self.differences
    }

    /// Sends at least so many requests.
    pub(super) fn requests(&mut self, count: u64) {
        while self.sent < count && self.differences.len() < KINDS_MAX {
            match self.maker.prng.below(40) {
                0..=3 => self.scan(),
                4..=6 => self.counts(),
                7..=12 => self.raw(),
                13..=14 => self.without_replies(),
                15 => self.moments(),
                17..=19 => self.transactions(),
                16 => self.links = self.servers.ports.map(Link::connect),
                _ => self.batch(),
            }
        }
    }

    fn start_anew(&mut self) {
        self.links = self.servers.ports.map(Link::connect);
        for link in &mut self.links {
            assert_eq!(link.ask(&["FLUSHALL"]), b"+OK\r\n");
        }
    }

    fn differs(&mut self, name: &[u8], request: &[u8], redis: &[u8], kvorum: &[u8]) {
        let shown = |bytes: &[u8]| bytes[..bytes.len().min(400)].escape_ascii().to_string();
        let kind = |bytes: &[u8]| {
            let text = shown(&bytes[..bytes.len().min(24)]);
            text.replace(|letter: char| letter.is_ascii_digit(), "#")
        };
        let name = shown(&name.to_ascii_lowercase());
        let key = format!("{name} {} {}", kind(redis), kind(kvorum));
        let text = format!(
            "seed {} after {}: {}\n    redis  {}\n    kvorum {}",
            self.seed,
            self.sent,
            shown(request),
            shown(redis),
            shown(kvorum)
        );
        self.differences.entry(key).or_insert(text);
        self.start_anew();
    }

    /// Pipelined requests, each with its reply.
    fn batch(&mut self) {
        let count = self.maker.prng.range(1, 120);
        let requests: Vec<Request> = (0..count).map(|_| self.maker.request()).collect();
        let bytes: Vec<u8> = requests
            .iter()
            .flat_map(|request| encoded(&request.args))
            .collect();
        for link in &mut self.links {
            link.send(&bytes);
        }
        self.sent += count;
        for Request { args, agree } in requests {
            let [redis, kvorum] = self.links.each_mut().map(|link| link.next(PATIENCE));
            let (Came::Reply(redis), Came::Reply(kvorum)) = (&redis, &kvorum) else {
                let came = [&redis, &kvorum].map(|came| format!("{came:?}").into_bytes());
                return self.differs(&args[0], &encoded(&args), &came[0], &came[1]);
            };
            if !agree.holds(redis, kvorum) {
                return self.differs(&args[0], &encoded(&args), redis, kvorum);
            }
        }
    }

    /// CLIENT REPLY OFF and SKIP: what is left of the replies.
    fn without_replies(&mut self) {
        let mut bytes = Vec::new();
        for _ in 0..self.maker.prng.range(1, 30) {
            let mode = ["OFF", "SKIP", "ON", "x"][self.maker.prng.index(4)];
            if self.maker.prng.chance(1, 4) {
                bytes.extend(encoded(&["CLIENT", "REPLY", mode]));
            } else {
                bytes.extend(encoded(&self.maker.exact().args));
            }
            self.sent += 1;
        }
        bytes.extend(encoded(&["CLIENT", "REPLY", "ON"]));
        self.links = self.servers.ports.map(Link::connect);
        self.send_and_compare(b"(replies off)", &bytes);
    }

    /// Transactions of every kind, one after the other on one connection.
    fn transactions(&mut self) {
        let mut bytes = Vec::new();
        if self.maker.prng.chance(1, 3) {
            bytes.extend(encoded(&["CLIENT", "REPLY", "SKIP"]));
            bytes.extend(encoded(&["HELLO", "3"]));
        }
        for _ in 0..self.maker.prng.range(1, 12) {
            for request in self.maker.transaction() {
                bytes.extend(encoded(&request));
                self.sent += 1;
            }
        }
        // What is still being queued would take in the mark.
        bytes.extend(encoded(&["RESET"]));
        self.links = self.servers.ports.map(Link::connect);
        self.send_and_compare(b"(transactions)", &bytes);
    }

    /// Bytes of any kind on connections of their own.
    fn raw(&mut self) {
        self.links = self.servers.ports.map(Link::connect);
        let bytes = self.maker.raw();
        self.sent += 1;
        self.send_and_compare(b"(bytes)", &bytes);
        self.links = self.servers.ports.map(Link::connect);
    }

    /// Sends bytes, and a mark behind them; what comes up to the mark, the end or a silence must be the
    /// same.
    fn send_and_compare(&mut self, name: &[u8], bytes: &[u8]) {
        const MARK: &[u8] = b"$8\r\nthe-mark\r\n";
        let marked = [bytes, &encoded(&["ECHO", "the-mark"])].concat();
        for link in &mut self.links {
            link.send(&marked);
        }
        let mut patience = QUIET;
        let mut came = [Vec::new(), Vec::new()];
        for (link, came) in self.links.iter_mut().zip(&mut came) {
            loop {
                let next = link.next(patience);
                let is_last = !matches!(&next, Came::Reply(reply) if reply != MARK);
                came.push(next);
                if is_last {
                    break;
                }
            }
            // Where Redis says nothing more, kvorum must not either; where it does, kvorum may be slow.
            if came.last() != Some(&Came::Nothing) {
                patience = PATIENCE;
            }
        }
        if came[0] != came[1] {
            let mut places = 0..came[0].len().max(came[1].len());
            let differs = |at: &usize| came[0].get(*at) != came[1].get(*at);
            let first = places.find(differs).unwrap_or_default();
            let [redis, kvorum] = came.each_ref().map(|came| match came.get(first) {
                Some(Came::Reply(reply)) => reply.clone(),
                other => format!("{other:?}").into_bytes(),
            });
            self.differs(name, bytes, &redis, &kvorum);
        }
    }

    /// A whole SCAN: order and cursors are each server's own, the keys must be the same.
    fn scan(&mut self) {
        let options = self.maker.scan_options();
        let keys = self.links.each_mut().map(|link| scan_all(link, &options));
        self.sent += 1;
        if keys[0] != keys[1] {
            let shown = keys.map(|keys| format!("{keys:?}").into_bytes());
            self.differs(b"scan", &options.join(&b' '), &shown[0], &shown[1]);
        }
    }

    /// Counts of keys. Redis counts keys that have ended until somebody looks at them, so all are looked
    /// at before.
    fn counts(&mut self) {
        let of_slot = |name: &str, more: &str, slot: u64| format!("CLUSTER {name} {slot}{more}");
        let slot = [15495, 3300, 0][self.maker.prng.index(3)];
        let requests = [
            "DBSIZE".to_owned(),
            of_slot("COUNTKEYSINSLOT", "", slot),
            of_slot("GETKEYSINSLOT", " 100", slot),
        ];
        for link in &mut self.links {
            for key in KEYS.iter().chain(SUM_KEYS) {
                link.ask(&[b"EXISTS", *key]);
            }
        }
        for request in requests {
            let args: Vec<&str> = request.split(' ').collect();
            let replies = self.links.each_mut().map(|link| link.ask(&args));
            self.sent += 1;
            let sorted = replies.clone().map(|reply| {
                let mut elements = Value::of(&reply).elements().to_vec();
                elements.sort();
                elements
            });
            if sorted[0] != sorted[1] || sorted[0].is_empty() && replies[0] != replies[1] {
                return self.differs(b"counts", request.as_bytes(), &replies[0], &replies[1]);
            }
        }
    }

    /// Keys that end in a moment have ended in both servers a little later.
    fn moments(&mut self) {
        for link in &mut self.links {
            link.ask(&["SET", "{a}1", "v", "PX", "3"]);
            link.ask(&["SET", "{a}2", "v"]);
            link.ask(&["PEXPIRE", "{a}2", "5"]);
            link.ask(&["SET", "{a}3", "v"]);
            link.ask(&["GETEX", "{a}3", "PX", "1"]);
        }
        std::thread::sleep(Duration::from_millis(20));
        // The clock that decides here is that of the log, which follows the machine's.
        wait_for("the end of three keys", || {
            let ended = self.links[1].ask(&["EXISTS", "{a}1", "{a}2", "{a}3"]) == b":0\r\n";
            ended.then_some(())
        });
        for args in [
            &["MGET", "{a}1", "{a}2", "{a}3"][..],
            &["TTL", "{a}1"],
            &["SET", "{a}2", "w", "GET", "XX"],
            &["APPEND", "{a}3", "x"],
            &["PTTL", "{a}3"],
        ] {
            let [redis, kvorum] = self.links.each_mut().map(|link| link.ask(args));
            self.sent += 1;
            if !Agree::Exact.holds(&redis, &kvorum) {
                return self.differs(b"moments", args.join(" ").as_bytes(), &redis, &kvorum);
            }
        }
    }
}

fn scan_all(link: &mut Link, options: &[Vec<u8>]) -> Vec<Value> {
    let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
    loop {
        let args = [&[b"SCAN".to_vec(), cursor.into_bytes()], options].concat();
        let reply = Value::of(&link.ask(&args));
        let [next, more] = reply.elements() else {
            panic!("SCAN answered {reply:?}");
        };
        keys.extend(more.elements().to_vec());
        cursor = next.text();
        if cursor == "0" {
            // Redis may give a key twice.
            keys.sort();
            keys.dedup();
            return keys;
        }
    }
}
