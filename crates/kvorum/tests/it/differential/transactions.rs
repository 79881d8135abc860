//! Random transactions: what may stand before MULTI, between it and EXEC, and in the place of EXEC.
//!
//! Not sent, since kvorum means to differ:
//!
//! - commands that are not about keys they name and change something, or wait (FLUSHALL, SCAN, HELLO, WAIT,
//!   ...), which kvorum does not queue;
//! - WATCH of a key in another slot than the commands', which one node of Redis can compare and one shard of
//!   kvorum cannot;
//! - a removal in the slot of a watched key that is not there: to kvorum it may have been that key's.

use super::requests::{Args, KEYS, KEYS_OF_ONE_SLOT, Maker, words};

/// About no key.
const KEYLESS: &[&str] = &[
    "PING",
    "PING hello",
    "PING a b",
    "ECHO hello",
    "SELECT 0",
    "SELECT 1",
    "UNWATCH",
    "CLUSTER KEYSLOT {a}",
];

/// Refused while it is queued, or always.
const WRONG: &[&str] = &[
    "GET",
    "SET {a}1",
    "INCRBY {a}1",
    "NONE {a}1",
    "MULTI",
    "MULTI x",
    "WATCH {a}1",
    "WATCH",
    "UNWATCH x",
    "DISCARD x",
    "EXEC x",
    "MGET {a}1 {b}1",
];

impl Maker {
    /// The requests of one transaction.
    pub(super) fn transaction(&mut self) -> Vec<Args> {
        let mut requests = Vec::new();
        let is_watched = self.prng.chance(1, 2);
        if is_watched {
            self.watch(&mut requests);
        }
        // Without it a watch would outlive its transaction.
        if is_watched || self.prng.chance(7, 8) {
            requests.push(words("MULTI"));
        }
        // Where a command is refused, Redis still looks at the slots of the others first.
        let others = match self.prng.below(3) {
            0 if !is_watched => &["GET {b}1", "SET {b}1 x"],
            1 => KEYLESS,
            _ => WRONG,
        };
        for _ in 0..self.prng.below(6) {
            let request = match self.prng.chance(1, 8) {
                true => words(self.one(others)),
                false => self.of_one_slot(true),
            };
            requests.push(request);
        }
        let end = self.one(&[
            "EXEC", "EXEC", "EXEC", "EXEC", "EXEC", "exec", "DISCARD", "RESET",
        ]);
        requests.push(words(end));
        requests
    }

    /// WATCH and what happens behind it: of keys that are there, or of such that are not and may come to be.
    fn watch(&mut self, requests: &mut Vec<Args>) {
        let (keys, is_there) = (self.watched(), self.prng.chance(1, 2));
        for key in &keys {
            requests.push(match is_there {
                true => vec![b"SET".to_vec(), key.clone(), b"5".to_vec()],
                false => vec![b"DEL".to_vec(), key.clone()],
            });
        }
        requests.push([vec![b"WATCH".to_vec()], keys].concat());
        for _ in 0..self.prng.below(3) {
            let request = self.of_one_slot(is_there);
            requests.push(request);
        }
        if self.prng.chance(1, 8) {
            requests.push(words("UNWATCH"));
        }
    }

    fn watched(&mut self) -> Args {
        let count = self.prng.range(1, 3);
        (0..count).map(|_| self.key_of_one_slot()).collect()
    }

    fn key_of_one_slot(&mut self) -> Vec<u8> {
        KEYS[self.prng.index(KEYS_OF_ONE_SLOT)].to_vec()
    }

    /// A command on keys of one slot, which may remove them or not; its values may be wrong.
    fn of_one_slot(&mut self, may_remove: bool) -> Args {
        let key = self.key_of_one_slot();
        let name = |name: &str| name.as_bytes().to_vec();
        match self.prng.below(14) {
            0..=2 => vec![name("SET"), key, self.value()],
            3 => {
                // None that ends while the two servers are asked.
                let seconds = self.one(&["0", "-1", "100000", "abc", "", "9223372036854775807"]);
                vec![name("SET"), key, self.value(), name("EX"), name(seconds)]
            }
            4 => vec![name("SET"), key, self.value(), name("GET")],
            5 => vec![name("GET"), key],
            6 => [vec![name("MGET")], self.watched()].concat(),
            7 if may_remove => [vec![name("DEL")], self.watched()].concat(),
            8 => vec![name("INCRBY"), key, self.number()],
            9 => vec![name("INCR"), key],
            10 => vec![name("APPEND"), key, self.value()],
            11 if may_remove => vec![name("GETDEL"), key],
            12 => vec![name("STRLEN"), key],
            _ => vec![name("SETRANGE"), key, self.number(), name("x")],
        }
    }
}
