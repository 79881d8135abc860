//! A keyspace that is driven as a replica drives one.

use kvorum_base::{Prng, UnixMillis};
use kvorum_kv::{Keyspace, Loader, Run, apply, find, read, resolve};
use kvorum_resp::{ArgsBuf, Replies};

/// The secret of all tests.
pub(crate) const SECRET: [u8; 16] = *b"0123456789abcdef";

/// One request to its stored reply: a read at once, a write by way of its encoded form. Nothing that
/// is expired is removed besides.
pub(crate) fn request(keyspace: &mut Keyspace, args: &ArgsBuf) -> Vec<u8> {
    let mut stored = Vec::new();
    let mut replies = Replies::stored(&mut stored);
    let args = args.as_args();
    match find(args) {
        Err(refusal) => refusal.reply(&mut replies),
        Ok(spec) => match spec.run {
            Run::Write { .. } => {
                let mut command = Vec::new();
                match resolve(spec, args, &mut command) {
                    Err(refusal) => refusal.reply(&mut replies),
                    Ok(()) => apply(keyspace, &command, &mut replies),
                }
            }
            _ => read(spec, args, keyspace, &mut replies),
        },
    }
    assert!(replies.is_whole(), "a reply to {args:?} is not whole");
    stored
}

/// A new keyspace at a clock.
pub(crate) fn keyspace_at(clock: u64) -> Keyspace {
    let mut keyspace = Keyspace::new(SECRET);
    keyspace.advance_clock(UnixMillis(clock));
    keyspace
}

/// The keyspace that a view of this one becomes.
pub(crate) fn view_and_load(keyspace: &Keyspace) -> Keyspace {
    let mut view = keyspace.view();
    let mut loader = Loader::new(SECRET);
    while let Some(item) = view.next_item() {
        loader.load(item).expect("an item of a view");
    }
    let loaded = loader.finish().expect("a whole view");
    loaded.check();
    loaded
}

/// Draws requests: few keys, so that they meet; all kinds; sessions with repeated numbers.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    keys: u64,
    tokens: Vec<String>,
    sequence: u64,
}

impl Requests {
    pub(crate) fn new(keys: u64) -> Self {
        Self {
            keys,
            tokens: Vec::new(),
            sequence: 1,
        }
    }

    /// Some keys share a slot, some have a slot of their own.
    pub(crate) fn key(&self, prng: &mut Prng) -> String {
        let number = prng.below(self.keys);
        if number.is_multiple_of(3) {
            format!("{{tag}}{number}")
        } else {
            format!("key:{number}")
        }
    }

    /// Notes the tokens of sessions that were opened.
    pub(crate) fn learn(&mut self, replies: &[Vec<u8>]) {
        for reply in replies {
            let text = String::from_utf8_lossy(reply);
            if let Some(token) = text.split("\r\n").nth(1)
                && kvorum_kv::Token::parse(token.as_bytes()).is_some()
            {
                self.tokens.push(token.to_owned());
            }
        }
    }

    pub(crate) fn draw(&mut self, prng: &mut Prng) -> ArgsBuf {
        let mut words = self.words(prng);
        let first_key = words.get(1).cloned().unwrap_or_default();
        let can_wrap = !words[0].starts_with("FLUSH") && !words[0].starts_with("KVORUM");
        if can_wrap && words[0] != "MSET" && prng.chance(1, 5) && !self.tokens.is_empty() {
            // Mostly new numbers, some repeated, some long past; few commands, so that a repeated
            // number often meets its own.
            let token = self.tokens[prng.index(self.tokens.len())].clone();
            self.sequence += prng.below(3);
            let sequence = self
                .sequence
                .saturating_sub(prng.below(5) * prng.below(12))
                .max(1);
            if prng.chance(1, 2) {
                words = vec!["INCR".to_owned(), first_key];
            }
            let wrapped = ["KVORUM.ONCE".to_owned(), token, sequence.to_string()];
            words = wrapped.into_iter().chain(words).collect();
        }
        words.iter().collect()
    }

    /// The same, and transactions: some that find their versions, some that do not.
    pub(crate) fn draw_more(&mut self, prng: &mut Prng) -> ArgsBuf {
        if prng.chance(3, 4) {
            return self.draw(prng);
        }
        let key = |prng: &mut Prng| format!("{{tag}}{}", 3 * prng.below(self.keys.div_ceil(3)));
        let watched = match prng.below(3) {
            0 => format!("1 {} {}", key(prng), prng.below(200)),
            // Never there: its slot's last removal is early in the test, or not yet.
            1 => format!("1 {{tag}}none {}", prng.below(2)),
            _ => "0".to_owned(),
        };
        let count = 1 + prng.below(4);
        let mut text = format!("KVORUM.EXEC {watched} {count}");
        for _ in 0..count {
            let key = key(prng);
            text += &match prng.below(7) {
                0 => format!(" 3 SET {key} {}", prng.below(100)),
                1 => format!(" 5 SET {key} v PX {}", prng.below(400)),
                2 => format!(" 3 INCRBY {key} {}", prng.below(100)),
                3 => format!(" 2 DEL {key}"),
                4 => format!(" 2 GETDEL {key}"),
                5 => format!(" 3 PEXPIRE {key} {}", prng.below(400)),
                _ => format!(" 2 GET {key}"),
            };
        }
        if prng.chance(1, 4) && !self.tokens.is_empty() {
            self.sequence += prng.below(3);
            let token = &self.tokens[prng.index(self.tokens.len())];
            text = format!("KVORUM.ONCE {token} {} {text}", self.sequence.max(1));
        }
        text.split(' ').collect()
    }

    fn words(&self, prng: &mut Prng) -> Vec<String> {
        let key = self.key(prng);
        let value = match prng.below(12) {
            0 => "x".repeat(prng.below(3000) as usize),
            1 => String::new(),
            _ => prng.below(1000).to_string(),
        };
        let ms = prng.below(400).to_string();
        let text = match prng.below(24) {
            0..6 => return vec!["SET".to_owned(), key, value],
            6 => format!("SET {key} v PX {}", prng.below(400) + 1),
            7 => format!("SET {key} w KEEPTTL GET"),
            8 => format!("SET {key} n NX"),
            9 => format!("SET {key} p XX EX 1"),
            10 => format!("DEL {key} {key}"),
            11 | 12 => format!("INCRBY {key} {}", prng.below(100)),
            13 => format!("APPEND {key} more"),
            14 => format!("SETRANGE {key} {} piece", prng.below(40)),
            15 | 16 => format!("PEXPIRE {key} {ms}"),
            17 => format!("PEXPIRE {key} -1 LT"),
            18 => format!("PERSIST {key}"),
            19 => format!("GETEX {key} PX {}", prng.below(400) + 1),
            20 => format!("GETDEL {key}"),
            21 => format!("INCRBYFLOAT {key} 0.{}", prng.below(1000)),
            22 if prng.chance(1, 8) => "FLUSHALL".to_owned(),
            22 => format!("MSET {{tag}}0 {ms} {{tag}}3 {ms}"),
            _ => format!("KVORUM.SESSION {}", prng.below(20) + 1),
        };
        text.split(' ').map(str::to_owned).collect()
    }
}
