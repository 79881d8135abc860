//! Storms: clients append, read, split and walk while slots move, primaries change and links break. What
//! they were told is then compared with what happened.
//!
//! Each write appends a token of its own, so the final values say what was executed, how often and in which
//! order. A token that was acknowledged is there once, where the reply said; one that was refused is not; one
//! that is unknown is there at most once.
//!
//! A transaction appends its token to two keys of one slot: both have it or neither has, in the same order.
//! One that watched a key, read it and was run comes right behind what it had read.

use std::collections::BTreeSet;

use kvorum_base::{ConnId, Slot, SlotSet};
use kvorum_router::planted::Planted;

use crate::world::{Reply, World};

const KEYS: u64 = 12;
/// All tokens are as long as this.
const TOKEN_BYTES: usize = 8;
/// Keys that are there all the time, for walks.
const FIXED: u64 = 40;

/// What a client asked for.
#[derive(Clone, Debug)]
enum Asked {
    Append {
        key: String,
        token: String,
    },
    Get {
        key: String,
    },
    Watch,
    Multi,
    Queued,
    /// Appends to the key and its twin. If it is guarded, WATCH and GET of the key stand before its MULTI.
    Exec {
        key: String,
        token: String,
        guarded: bool,
    },
    MultiSet {
        keys: Vec<String>,
        value: String,
    },
    MultiGet {
        keys: Vec<String>,
    },
    Walk,
    Count,
    Ping,
}

struct Asker {
    conn: ConnId,
    asked: Vec<Asked>,
    /// The cursor of its walk, and the keys that it has found; `None` while a reply is awaited.
    cursor: Option<String>,
    found: Vec<Vec<u8>>,
    seen: usize,
    walks: usize,
}

/// A storm, from a seed.
pub(crate) struct Storm {
    pub(crate) world: World,
    askers: Vec<Asker>,
    next_token: u64,
}

/// What went wrong, in words.
pub(crate) type Verdict = Result<(), String>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Storm {
    pub(crate) fn new(seed: u64, planted: Planted) -> Self {
        let mut world = World::with_bug(seed, 5, 4, planted);
        let mut askers = Vec::new();
        for index in 0..6 {
            let conn = world.open(index);
            if index % 2 == 1 {
                // Over the links of the other version.
                let unanswered = words(&["CLIENT", "REPLY", "SKIP"]);
                world.send(conn, &[unanswered, words(&["HELLO", "3"])]);
            }
            if index < 3 {
                let unanswered = words(&["CLIENT", "REPLY", "SKIP"]);
                world.send(conn, &[unanswered, words(&["READONLY"])]);
            }
            askers.push(Asker {
                conn,
                asked: Vec::new(),
                cursor: Some("0".to_owned()),
                found: Vec::new(),
                seen: 0,
                walks: 0,
            });
        }
        let setter = world.open(100);
        for number in 0..FIXED {
            world.send(setter, &[words(&["SET", &format!("fixed-{number}"), "x"])]);
        }
        world.calm();
        assert_eq!(world.replies(setter).len() as u64, FIXED);
        world.cluster.whims = 10;
        Self {
            world,
            askers,
            next_token: 0,
        }
    }

    pub(crate) fn run(mut self, steps: u64) -> Verdict {
        for _ in 0..steps {
            match self.world.prng.below(100) {
                0..12 => self.ask(),
                12..15 => self.trouble(),
                15..20 => self.world.step(kvorum_router::Event::Tick),
                _ => self.world.network(),
            }
        }
        self.world.calm();
        self.judge()
    }

    fn key(&mut self) -> String {
        format!("key-{}", self.world.prng.below(KEYS))
    }

    fn token(&mut self) -> String {
        self.next_token += 1;
        format!("{:07};", self.next_token)
    }

    /// A client sends some requests in one piece, if it has not too many on their way.
    fn ask(&mut self) {
        let at = self.world.prng.below(self.askers.len() as u64) as usize;
        let conn = self.askers[at].conn;
        if self.askers[at].asked.len() > self.world.replies(conn).len() + 20 {
            return;
        }
        let is_walker = at >= self.askers.len() - 2;
        self.take_walk(at);
        if is_walker && self.askers[at].cursor.is_none() {
            return;
        }
        let mut requests = Vec::new();
        let more = if is_walker {
            0
        } else {
            self.world.prng.below(4)
        };
        for _ in 0..=more {
            if !is_walker && self.world.prng.chance(1, 8) {
                requests.extend(self.transaction(at));
                continue;
            }
            let asked = self.draw(at);
            requests.push(self.request(at, &asked));
            self.askers[at].asked.push(asked);
        }
        self.world.send(conn, &requests);
    }

    /// The requests of a transaction, in one piece.
    fn transaction(&mut self, at: usize) -> Vec<Vec<String>> {
        let (key, token) = (self.key(), self.token());
        let twin = twin_of(&key);
        let guarded = self.world.prng.chance(2, 3);
        let mut requests = Vec::new();
        let asked = &mut self.askers[at].asked;
        if guarded {
            requests.extend([words(&["WATCH", &key]), words(&["GET", &key])]);
            asked.extend([Asked::Watch, Asked::Get { key: key.clone() }]);
        }
        requests.extend([
            words(&["MULTI"]),
            words(&["APPEND", &key, &token]),
            words(&["APPEND", &twin, &token]),
            words(&["EXEC"]),
        ]);
        asked.extend([Asked::Multi, Asked::Queued, Asked::Queued]);
        asked.push(Asked::Exec {
            key,
            token,
            guarded,
        });
        requests
    }

    fn draw(&mut self, at: usize) -> Asked {
        // The last clients walk and count; the others never wait for such.
        if at >= self.askers.len() - 2 {
            let walks = self.askers[at].cursor.is_some() && self.world.prng.chance(9, 10);
            return match self.world.prng.below(4) {
                _ if walks => Asked::Walk,
                0 => Asked::Count,
                _ => Asked::Ping,
            };
        }
        let key = self.key();
        match self.world.prng.below(20) {
            0..10 => Asked::Append {
                key,
                token: self.token(),
            },
            10..16 => Asked::Get { key },
            16..18 => {
                let token = self.token();
                let keys = (0..3).map(|number| format!("multi-{token}-{number}"));
                Asked::MultiSet {
                    keys: keys.collect(),
                    value: token,
                }
            }
            18 => Asked::MultiGet {
                keys: (0..4).map(|_| self.key()).collect(),
            },
            _ => Asked::Ping,
        }
    }

    fn request(&mut self, at: usize, asked: &Asked) -> Vec<String> {
        match asked {
            Asked::Append { key, token } => words(&["APPEND", key, token]),
            Asked::Get { key } => words(&["GET", key]),
            Asked::MultiSet { keys, value } => {
                let mut request = words(&["MSET"]);
                for key in keys {
                    request.extend([key.clone(), value.clone()]);
                }
                request
            }
            Asked::MultiGet { keys } => {
                let mut request = words(&["MGET"]);
                request.extend(keys.iter().cloned());
                request
            }
            Asked::Walk => {
                let cursor = self.askers[at].cursor.take().expect("a cursor");
                words(&["SCAN", &cursor, "MATCH", "fixed-*", "COUNT", "60"])
            }
            Asked::Count => words(&["DBSIZE"]),
            Asked::Ping => words(&["PING"]),
            Asked::Watch | Asked::Multi | Asked::Queued | Asked::Exec { .. } => {
                unreachable!("a transaction is drawn as a whole")
            }
        }
    }

    /// Takes in what a walk has got.
    fn take_walk(&mut self, at: usize) {
        let asker = &mut self.askers[at];
        let replies = self.world.replies(asker.conn);
        for (asked, reply) in asker.asked.iter().zip(replies).skip(asker.seen) {
            asker.seen += 1;
            if !matches!(asked, Asked::Walk) {
                continue;
            }
            match reply {
                Reply::Array(parts) => {
                    let (Reply::Bulk(Some(cursor)), Reply::Array(keys)) = (&parts[0], &parts[1])
                    else {
                        panic!("a reply to SCAN: {parts:?}");
                    };
                    for key in keys {
                        let Reply::Bulk(Some(key)) = key else {
                            panic!("a key: {key:?}")
                        };
                        asker.found.push(key.clone());
                    }
                    let cursor = String::from_utf8(cursor.clone()).expect("digits");
                    if cursor == "0" {
                        let found = std::mem::take(&mut asker.found);
                        let unique: BTreeSet<_> = found.iter().collect();
                        assert_eq!(
                            (found.len() as u64, unique.len() as u64),
                            (FIXED, FIXED),
                            "a walk finds each key once"
                        );
                        asker.walks += 1;
                    }
                    asker.cursor = Some(cursor);
                }
                _ => {
                    // Refused: from the beginning.
                    asker.cursor = Some("0".to_owned());
                    asker.found.clear();
                }
            }
        }
    }

    fn trouble(&mut self) {
        let cluster = &mut self.world.cluster;
        let prng = &mut self.world.prng;
        let (nodes, shards) = (cluster.nodes() as u64, cluster.truth.primary.len() as u64);
        let shard = prng.below(shards) as usize;
        match prng.below(12) {
            0 => self.world.break_links(None),
            // A node dies, and comes back some time.
            1 => {
                let node = prng.below(nodes) as usize;
                self.world.down[node] = true;
                for primary in &mut cluster.truth.primary {
                    if *primary == Some(node) {
                        *primary = None;
                    }
                }
                self.world.break_links(Some(node));
            }
            2 | 3 => {
                let node = prng.below(nodes) as usize;
                self.world.down[node] = false;
            }
            4..7 => {
                let node = prng.below(nodes) as usize;
                if !self.world.down[node] {
                    cluster.truth.primary[shard] = Some(node);
                }
            }
            7 | 8 => {
                let node = prng.below(nodes) as usize;
                cluster.views[node] = cluster.truth.clone();
            }
            9 => {
                let key = format!("key-{}", prng.below(KEYS));
                let slot = kvorum_base::slot::slot_of(key.as_bytes());
                let mut slots = SlotSet::none();
                slots.insert(slot);
                let more = prng.below(2000) as u16;
                for near in slot.get()..(slot.get() + more).min(16383) {
                    slots.insert(Slot(near));
                }
                cluster.begin_move(slots, shard);
            }
            _ => {
                let happens = prng.chance(3, 4);
                cluster.end_move(happens);
            }
        }
    }

    fn judge(&mut self) -> Verdict {
        for at in 0..self.askers.len() {
            let asker = &self.askers[at];
            let replies = self.world.replies(asker.conn);
            ensure!(
                asker.asked.len() == replies.len(),
                "client {at}: {} requests, {} replies",
                asker.asked.len(),
                replies.len()
            );
            self.take_walk(at);
        }
        for key in (0..KEYS).map(|number| format!("key-{number}")) {
            self.judge_key(&key)?;
        }
        self.judge_splits()
    }

    /// The tokens of a key, in their order, and what each client was told of it.
    fn judge_key(&self, key: &str) -> Verdict {
        let value = self.world.cluster.final_value(key).unwrap_or_default();
        let tokens: Vec<&str> = value
            .chunks(TOKEN_BYTES)
            .map(|token| std::str::from_utf8(token).expect("text"))
            .collect();
        self.judge_twin(key, &tokens)?;
        let unique: BTreeSet<&str> = tokens.iter().copied().collect();
        ensure!(
            unique.len() == tokens.len(),
            "{key}: a token is there twice: {tokens:?}"
        );
        for (at, asker) in self.askers.iter().enumerate() {
            let mut done_before: Vec<usize> = Vec::new();
            let replies = self.world.replies(asker.conn);
            for (number, (asked, reply)) in asker.asked.iter().zip(replies).enumerate() {
                match asked {
                    Asked::Exec {
                        key: of,
                        token,
                        guarded,
                    } if of == key => {
                        let before = &replies[number.saturating_sub(5)..number];
                        let before = guarded.then_some(before);
                        let place = judge_exec(key, &tokens, token, reply, before)?;
                        if let Some(place) = place {
                            ensure!(
                                done_before.last().is_none_or(|last| *last < place),
                                "{key}: client {at}'s {token} has overtaken"
                            );
                            done_before.push(place);
                        }
                    }
                    Asked::Append { key: of, token } if of == key => {
                        let place = tokens.iter().position(|other| other == token);
                        match (reply, place) {
                            (Reply::Integer(len), Some(place)) => {
                                ensure!(
                                    *len == ((place + 1) * TOKEN_BYTES) as i64,
                                    "{key}: {token} was told {len} and is at {place}"
                                );
                                ensure!(
                                    done_before.last().is_none_or(|last| *last < place),
                                    "{key}: client {at}'s {token} has overtaken"
                                );
                                done_before.push(place);
                            }
                            (Reply::Integer(_), None) => {
                                return Err(format!("{key}: {token} was acknowledged and is lost"));
                            }
                            (Reply::Error(text), place) if !text.starts_with("UNKNOWN") => {
                                ensure!(place.is_none(), "{key}: {token} happened: {text}");
                            }
                            _ => {}
                        }
                    }
                    Asked::Get { key: of } if of == key => {
                        judge_read(key, reply, &value, &done_before)?;
                    }
                    Asked::MultiGet { keys } => {
                        let Reply::Array(values) = reply else {
                            continue;
                        };
                        ensure!(values.len() == keys.len(), "{} values", values.len());
                        for (of, read) in keys.iter().zip(values) {
                            if of == key {
                                judge_read(key, read, &value, &done_before)?;
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The twin of a key has the tokens of the transactions on it, in their order, and no other.
    fn judge_twin(&self, key: &str, tokens: &[&str]) -> Verdict {
        let value = self.world.cluster.final_value(&twin_of(key));
        let twin = String::from_utf8(value.unwrap_or_default()).expect("text");
        let asked = self.askers.iter().flat_map(|asker| &asker.asked);
        let of_transactions: BTreeSet<&str> = asked
            .filter_map(|asked| match asked {
                Asked::Exec { token, .. } => Some(token.as_str()),
                _ => None,
            })
            .collect();
        let both: String = (tokens.iter().copied())
            .filter(|token| of_transactions.contains(token))
            .collect();
        ensure!(
            twin == both,
            "{key}: {both:?} is in it, {twin:?} in its twin"
        );
        Ok(())
    }

    fn judge_splits(&self) -> Verdict {
        for asker in &self.askers {
            for (asked, reply) in asker.asked.iter().zip(self.world.replies(asker.conn)) {
                let Asked::MultiSet { keys, value } = asked else {
                    continue;
                };
                let is_there = |key: &&String| {
                    let now = self.world.cluster.final_value(key);
                    now.as_deref() == Some(value.as_bytes())
                };
                let there = keys.iter().filter(is_there).count();
                match reply {
                    Reply::Simple(_) => {
                        ensure!(there == keys.len(), "{keys:?}: {there} of an OK are there");
                    }
                    Reply::Error(text) if text.starts_with("UNKNOWN") => {
                        // Those that it does not name are there.
                        for key in keys.iter().filter(|key| !text.contains(key.as_str())) {
                            ensure!(
                                is_there(&key) || !text.contains("by key:"),
                                "{key} is not there: {text}"
                            );
                        }
                    }
                    _ => ensure!(
                        there == 0,
                        "{keys:?}: {there} of a refusal are there: {reply:?}"
                    ),
                }
            }
        }
        Ok(())
    }

    /// Walks that came to their end, and requests that were answered with a result.
    pub(crate) fn walks(&self) -> usize {
        self.askers.iter().map(|asker| asker.walks).sum()
    }
}

/// A key of the same slot.
fn twin_of(key: &str) -> String {
    format!("{{{key}}}twin")
}

/// Judges what a transaction was told, with the replies before it if it was guarded. Gives its token's place
/// if it was acknowledged.
fn judge_exec(
    key: &str,
    tokens: &[&str],
    token: &str,
    reply: &Reply,
    before: Option<&[Reply]>,
) -> Result<Option<usize>, String> {
    let place = tokens.iter().position(|other| *other == token);
    match (reply, place) {
        (Reply::Array(lens), Some(place)) => {
            let is_told = lens.first() == Some(&Reply::Integer(((place + 1) * TOKEN_BYTES) as i64));
            ensure!(
                is_told && lens.len() == 2,
                "{key}: {token} was told {lens:?} and is at {place}"
            );
            if let Some([Reply::Simple(_), Reply::Bulk(read), ..]) = before {
                let read = read.as_ref().map_or(0, Vec::len);
                ensure!(
                    read == place * TOKEN_BYTES,
                    "{key}: {token} is at {place}, an update behind the {read} bytes read is lost"
                );
            }
            Ok(Some(place))
        }
        (Reply::Array(_), None) => Err(format!("{key}: {token} was acknowledged and is lost")),
        (Reply::Error(text), _) if text.starts_with("UNKNOWN") => Ok(None),
        (Reply::Error(text), place) => {
            ensure!(place.is_none(), "{key}: {token} happened: {text}");
            Ok(None)
        }
        (Reply::Bulk(None), place) => {
            ensure!(
                place.is_none() && before.is_some(),
                "{key}: {token} happened, or was not guarded"
            );
            Ok(None)
        }
        (other, _) => Err(format!("{key}: {token} was told {other:?}")),
    }
}

/// A read sees a beginning of the final value, with everything that its client was told was done before.
fn judge_read(key: &str, reply: &Reply, value: &[u8], done_before: &[usize]) -> Verdict {
    let read = match reply {
        Reply::Bulk(read) => read.as_deref().unwrap_or_default(),
        _ => return Ok(()),
    };
    ensure!(value.starts_with(read), "{key}: a value that never was");
    let least = done_before
        .last()
        .map_or(0, |last| (last + 1) * TOKEN_BYTES);
    ensure!(
        read.len() >= least,
        "{key}: a read of {} bytes behind a write at {least}",
        read.len()
    );
    Ok(())
}

/// Runs one storm to its verdict.
pub(crate) fn storm(seed: u64, steps: u64, planted: Planted) -> Verdict {
    Storm::new(seed, planted).run(steps)
}

#[test]
fn storms_keep_every_promise() {
    for seed in 1..=60 {
        storm(seed, 6000, Planted::default()).unwrap_or_else(|text| panic!("seed {seed}: {text}"));
    }
}

/// A storm in which nothing gets through would keep every promise as well.
#[test]
fn storms_let_enough_through() {
    let mut storm = Storm::new(1000, Planted::default());
    for _ in 0..200_000 {
        match storm.world.prng.below(200) {
            0..24 => storm.ask(),
            24 => storm.trouble(),
            25..35 => storm.world.step(kvorum_router::Event::Tick),
            _ => storm.world.network(),
        }
    }
    storm.world.calm();
    storm.judge().expect("the promises");
    let counters = storm.world.router.status().counters;
    assert!(counters.redirects > 20, "{counters:?}");
    assert!(counters.parked > 100, "{counters:?}");
    assert!(counters.unknown > 0, "{counters:?}");
    assert!(counters.links_broken > 10, "{counters:?}");
    assert!(counters.splits > 100, "{counters:?}");
    assert!(counters.at_replicas > 100, "{counters:?}");
    let told = |wanted: fn(&Reply) -> bool| {
        let all = storm.askers.iter().flat_map(|asker| {
            let replies = storm.world.replies(asker.conn);
            asker.asked.iter().zip(replies)
        });
        all.filter(|(asked, reply)| matches!(asked, Asked::Exec { .. }) && wanted(reply))
            .count()
    };
    let (run, not_run) = (
        told(|reply| matches!(reply, Reply::Array(_))),
        told(|reply| *reply == Reply::Bulk(None)),
    );
    assert!(run > 50 && not_run > 20, "{run} were run, {not_run} not");
    assert!(
        storm.walks() > 5,
        "{} walks came to their end",
        storm.walks()
    );
    let mut results = 0;
    let mut errors = 0;
    for asker in &storm.askers {
        for reply in storm.world.replies(asker.conn) {
            if matches!(reply, Reply::Error(_)) {
                errors += 1;
            } else {
                results += 1;
            }
        }
    }
    assert!(results > 5 * errors, "{results} results, {errors} errors");
}
