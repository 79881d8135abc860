//! The keyspace against a twin too simple to be wrong: ordered maps, no buckets, no index, no sums.

use std::collections::BTreeMap;

use kvorum_base::slot::slot_of;
use kvorum_base::{Prng, UnixMillis};
use kvorum_resp::ArgsBuf;

use crate::support::{Requests, keyspace_at, request, view_and_load};

#[derive(Clone, Debug)]
struct Held {
    value: Vec<u8>,
    deadline: Option<u64>,
    version: u64,
}

#[derive(Default)]
struct Row {
    last: u64,
    replies: BTreeMap<u64, (Vec<String>, String)>,
}

#[derive(Default)]
struct Model {
    clock: u64,
    keys: BTreeMap<String, Held>,
    /// Per slot: version, last removal.
    slots: BTreeMap<u16, (u64, u64)>,
    sessions: u64,
    rows: BTreeMap<(u16, String), Row>,
}

fn integer(value: i64) -> String {
    format!(":{value}\r\n")
}

fn bulk(value: &[u8]) -> String {
    format!("${}\r\n{}\r\n", value.len(), String::from_utf8_lossy(value))
}

fn told(held: Option<&Held>) -> String {
    held.map_or("_\r\n".to_owned(), |held| bulk(&held.value))
}

const OK: &str = "+OK\r\n";
const NOT_AN_INTEGER: &str = "-ERR value is not an integer or out of range\r\n";
const NOT_A_FLOAT: &str = "-ERR value is not a valid float\r\n";

impl Model {
    fn slot(&mut self, key: &str) -> &mut (u64, u64) {
        self.slots.entry(slot_of(key.as_bytes()).get()).or_default()
    }

    fn write(&mut self, key: &str, value: &[u8], deadline: Option<u64>) {
        let slot = self.slot(key);
        slot.0 += 1;
        let held = Held {
            value: value.to_vec(),
            deadline,
            version: slot.0,
        };
        self.keys.insert(key.to_owned(), held);
    }

    fn remove(&mut self, key: &str) -> bool {
        if self.keys.remove(key).is_none() {
            return false;
        }
        let slot = self.slot(key);
        slot.0 += 1;
        slot.1 = slot.0;
        true
    }

    fn advance(&mut self, clock: u64) {
        self.clock = clock;
        let past = |held: &Held| held.deadline.is_some_and(|deadline| deadline < clock);
        let due: Vec<String> = self
            .keys
            .iter()
            .filter(|(_, held)| past(held))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.remove(&key);
        }
        let end = |token: &str| {
            token
                .split('-')
                .nth(1)
                .and_then(|end| end.parse::<u64>().ok())
        };
        self.rows.retain(|(_, token), _| end(token) >= Some(clock));
    }

    fn version(&mut self, key: &str) -> u64 {
        match self.keys.get(key) {
            Some(held) => held.version,
            None => self.slot(key).1,
        }
    }

    fn run(&mut self, words: &[&str]) -> String {
        let number = |at: usize| words[at].parse::<i64>().expect("a number");
        let key = words.get(1).copied().unwrap_or_default();
        let old = self.keys.get(key).cloned();
        let after = |clock: u64, ms: i64| clock.saturating_add_signed(ms);
        match words[0] {
            "SET" => self.set(key, words, old.as_ref()),
            "MSET" => {
                for pair in words[1..].chunks(2) {
                    self.write(pair[0], pair[1].as_bytes(), None);
                }
                OK.to_owned()
            }
            "DEL" => integer(words[1..].iter().filter(|key| self.remove(key)).count() as i64),
            "INCRBY" => {
                let before = old
                    .as_ref()
                    .map_or(b"0".to_vec(), |held| held.value.clone());
                let text = String::from_utf8_lossy(&before).into_owned();
                match text.parse::<i64>() {
                    Ok(value) if value.to_string() == text => {
                        let sum = value + number(2);
                        let deadline = old.and_then(|held| held.deadline);
                        self.write(key, sum.to_string().as_bytes(), deadline);
                        integer(sum)
                    }
                    _ => NOT_AN_INTEGER.to_owned(),
                }
            }
            "INCR" => self.run(&["INCRBY", key, "1"]),
            "INCRBYFLOAT" => self.add_float(key, words[2], old.as_ref()),
            "APPEND" => {
                let deadline = old.as_ref().and_then(|held| held.deadline);
                let mut value = old.map_or_else(Vec::new, |held| held.value);
                value.extend_from_slice(words[2].as_bytes());
                self.write(key, &value, deadline);
                integer(value.len() as i64)
            }
            "SETRANGE" => {
                let deadline = old.as_ref().and_then(|held| held.deadline);
                let mut value = old.map_or_else(Vec::new, |held| held.value);
                let (start, piece) = (number(2) as usize, words[3].as_bytes());
                value.resize(value.len().max(start + piece.len()), 0);
                value[start..start + piece.len()].copy_from_slice(piece);
                self.write(key, &value, deadline);
                integer(value.len() as i64)
            }
            "PEXPIRE" => self.expire(
                key,
                after(self.clock, number(2)),
                words.get(3),
                old.as_ref(),
            ),
            "PERSIST" => match old {
                Some(held) if held.deadline.is_some() => {
                    self.write(key, &held.value, None);
                    integer(1)
                }
                _ => integer(0),
            },
            "GETEX" => {
                if let Some(held) = &old {
                    let deadline = after(self.clock, number(3));
                    if held.deadline != Some(deadline) {
                        self.write(key, &held.value, Some(deadline));
                    }
                }
                told(old.as_ref())
            }
            "GETDEL" => {
                self.remove(key);
                told(old.as_ref())
            }
            "FLUSHALL" => {
                let keys: Vec<String> = self.keys.keys().cloned().collect();
                let mut slots: Vec<u16> =
                    keys.iter().map(|k| slot_of(k.as_bytes()).get()).collect();
                slots.sort_unstable();
                slots.dedup();
                for slot in slots {
                    let state = self.slots.entry(slot).or_default();
                    *state = (state.0 + 1, state.0 + 1);
                }
                self.keys.clear();
                OK.to_owned()
            }
            "KVORUM.SESSION" => {
                self.sessions += 1;
                let end = (self.clock + 1000 * number(1) as u64).next_multiple_of(1000);
                bulk(format!("{}-{end}", self.sessions).as_bytes())
            }
            "KVORUM.ONCE" => self.once(words),
            other => panic!("the model does not know {other}"),
        }
    }

    fn set(&mut self, key: &str, words: &[&str], old: Option<&Held>) -> String {
        let has = |word: &str| words[3..].contains(&word);
        let deadline = match words.get(4) {
            Some(time) if has("PX") => Some(self.clock + time.parse::<u64>().expect("ms")),
            _ if has("EX") => Some(self.clock + 1000),
            _ if has("KEEPTTL") => old.and_then(|held| held.deadline),
            _ => None,
        };
        let is_met = !(has("NX") && old.is_some() || has("XX") && old.is_none());
        if is_met {
            self.write(key, words[2].as_bytes(), deadline);
        }
        if has("GET") {
            told(old)
        } else if is_met {
            OK.to_owned()
        } else {
            "_\r\n".to_owned()
        }
    }

    /// Thousandths only, in whole numbers.
    fn add_float(&mut self, key: &str, increment: &str, old: Option<&Held>) -> String {
        let parse = |text: &str| -> Option<i64> {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            let thousandths = format!("{fraction:0<3}");
            let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            (!whole.is_empty() && all_digits(whole) && all_digits(fraction) && fraction.len() <= 3)
                .then(|| {
                    Some(whole.parse::<i64>().ok()? * 1000 + thousandths.parse::<i64>().ok()?)
                })?
        };
        let before = old.map_or(b"0".to_vec(), |held| held.value.clone());
        let (Some(left), Some(right)) =
            (parse(&String::from_utf8_lossy(&before)), parse(increment))
        else {
            return NOT_A_FLOAT.to_owned();
        };
        let sum = left + right;
        let mut text = format!("{}.{:03}", sum / 1000, sum % 1000);
        text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
        self.write(key, text.as_bytes(), old.and_then(|held| held.deadline));
        bulk(text.as_bytes())
    }

    fn expire(
        &mut self,
        key: &str,
        deadline: u64,
        condition: Option<&&str>,
        old: Option<&Held>,
    ) -> String {
        let Some(old) = old else {
            return integer(0);
        };
        if condition == Some(&"LT") && old.deadline.is_some_and(|old| deadline >= old) {
            return integer(0);
        }
        if deadline <= self.clock {
            self.remove(key);
        } else {
            self.write(key, &old.value, Some(deadline));
        }
        integer(1)
    }

    fn once(&mut self, words: &[&str]) -> String {
        let (token, command) = (words[1].to_owned(), &words[3..]);
        let sequence: u64 = words[2].parse().expect("a number");
        let end: u64 = token
            .split('-')
            .nth(1)
            .expect("an end")
            .parse()
            .expect("a time");
        if end < self.clock {
            return format!(
                "-SESSIONEXPIRED session {token} had ended at {}: this attempt did not happen, \
                 earlier ones are unknown\r\n",
                self.clock
            );
        }
        let at = (slot_of(command[1].as_bytes()).get(), token.clone());
        let said: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        if let Some(row) = self.rows.get(&at) {
            match row.replies.get(&sequence) {
                Some((same, reply)) if *same == said => return reply.clone(),
                Some(_) => {
                    return format!(
                        "-ERR sequence number {sequence} belongs to another command of session \
                         {token}\r\n"
                    );
                }
                None if sequence + 32 <= row.last => {
                    return format!(
                        "-SESSIONWINDOW sequence number {sequence} was answered long ago: its \
                         reply is forgotten, and this attempt did not happen\r\n"
                    );
                }
                None => {}
            }
        }
        let reply = self.run(command);
        let row = self.rows.entry(at).or_default();
        row.last = row.last.max(sequence);
        row.replies.insert(sequence, (said, reply.clone()));
        let last = row.last;
        row.replies.retain(|sequence, _| sequence + 32 > last);
        reply
    }
}

#[test]
fn the_keyspace_is_its_model() {
    for seed in 0..6 {
        let mut prng = Prng::new(1000 + seed);
        let mut requests = Requests::new(if seed % 2 == 0 { 12 } else { 600 });
        let (mut keyspace, mut model) = (keyspace_at(0), Model::default());
        let mut clock = 0;
        for step in 0..6000 {
            if prng.chance(1, 4) {
                clock += prng.below(120);
                keyspace.advance_clock(UnixMillis(clock));
                while keyspace.remove_expired(3) > 0 {}
                model.advance(clock);
            }
            let drawn = requests.draw(&mut prng);
            let words: Vec<&str> = drawn
                .as_args()
                .iter()
                .map(|word| std::str::from_utf8(word).expect("text"))
                .collect();
            let reply = request(&mut keyspace, &drawn);
            let expected = model.run(&words);
            let shown = String::from_utf8_lossy(&reply);
            assert_eq!(shown, expected, "step {step} of seed {seed}: {drawn:?}");
            requests.learn(&[reply]);
            if step % 500 == 0 {
                compare(&keyspace, &mut model, &requests);
                keyspace.check();
            }
            if prng.chance(1, 300) {
                keyspace = view_and_load(&keyspace);
            }
        }
        compare(&keyspace, &mut model, &requests);
    }
}

fn compare(keyspace: &kvorum_kv::Keyspace, model: &mut Model, requests: &Requests) {
    assert_eq!(keyspace.len(), model.keys.len() as u64);
    assert_eq!(keyspace.session_rows(), model.rows.len() as u64);
    let mut prng = Prng::new(5);
    for _ in 0..300 {
        let key = requests.key(&mut prng);
        let found = keyspace.get(key.as_bytes());
        let held = model.keys.get(&key);
        assert_eq!(
            found.and_then(|found| found.deadline).map(UnixMillis::get),
            held.and_then(|held| held.deadline),
            "the deadline of {key}"
        );
        assert_eq!(
            keyspace.version_of(key.as_bytes()),
            model.version(&key),
            "{key}"
        );
    }
}

#[test]
fn a_scan_finds_every_key_that_stays_once() {
    let mut prng = Prng::new(11);
    let mut keyspace = keyspace_at(0);
    let key = |number: u64| format!("stay:{number}");
    for number in 0..3000 {
        request(&mut keyspace, &["SET", &key(number), "v"].iter().collect());
    }
    let (mut cursor, mut seen) = ("0".to_owned(), BTreeMap::<String, u64>::new());
    loop {
        let count = (prng.below(60) + 1).to_string();
        let scan: ArgsBuf = ["SCAN", &cursor, "COUNT", &count].iter().collect();
        let reply = String::from_utf8(request(&mut keyspace, &scan)).expect("text");
        let mut words = reply
            .split("\r\n")
            .filter(|word| !word.starts_with(['*', '$']));
        cursor = words.next().expect("a cursor").to_owned();
        for word in words.filter(|word| word.starts_with("stay")) {
            *seen.entry(word.to_owned()).or_default() += 1;
        }
        if cursor == "0" {
            break;
        }
        // Buckets split and join, and the walk goes on in another replica.
        for _ in 0..40 {
            let passing = format!("go:{}", prng.below(20_000));
            let verb = if prng.chance(3, 5) {
                "APPEND"
            } else {
                "SETRANGE"
            };
            let write: ArgsBuf = match verb {
                "APPEND" => [verb, &passing, "v"].iter().collect(),
                _ => ["DEL", &passing].iter().collect(),
            };
            request(&mut keyspace, &write);
        }
        if prng.chance(1, 20) {
            keyspace = view_and_load(&keyspace);
        }
    }
    assert_eq!(seen.len(), 3000);
    assert!(seen.values().all(|&times| times == 1));
}
