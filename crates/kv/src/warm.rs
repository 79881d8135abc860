//! Memory fetched ahead of its use.
//!
//! A command on a large keyspace waits for memory half a dozen times, one wait after the other: the
//! bucket, its items, the entry at either end, the slot's counters. Commands come in batches, and the
//! waits of different commands do not depend on each other. So before a group of commands is run, what
//! they will look at is looked at once for all of them, stage by stage: within a stage nothing depends
//! on anything, and the processor waits for many lines at a time instead of one.
//!
//! Nothing is changed, decided or kept: without it all results are the same, and later.

use std::hint::black_box;

use crate::entry::Entry;
use crate::keyspace::Keyspace;

/// How many keys are looked at together: more than a processor fetches at a time, few enough to be
/// still in its caches when they are used.
pub const WARM_KEYS_MAX: usize = 32;

/// With fewer keys everything is in the processor's caches anyhow.
const WORTHWHILE_KEYS: u64 = 4096;

impl Keyspace {
    /// Fetches what commands on these keys will look at; at most [`WARM_KEYS_MAX`] keys count.
    pub fn warm<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) {
        if self.keys.len() < WORTHWHILE_KEYS {
            return;
        }
        let mut guesses = [const { None }; WARM_KEYS_MAX];
        for (guess, key) in guesses.iter_mut().zip(keys) {
            *guess = Some(self.keys.guess(self.locator.key(key).position));
        }
        let mut seen = 0;
        for guess in guesses.iter().flatten() {
            seen ^= guess.near().0 ^ self.slots.get(guess.at().slot()).version;
        }
        for guess in guesses.iter().flatten() {
            seen ^= guess.item().map_or(0, Entry::look);
        }
        black_box(seen);
    }
}

#[cfg(test)]
mod tests {
    use kvorum_resp::{ArgsBuf, Replies};

    use super::*;
    use crate::{Command, find, resolve};

    fn set(keyspace: &mut Keyspace, key: &[u8], value: &[u8]) {
        let args: ArgsBuf = [b"SET", key, value].into_iter().collect();
        let mut encoded = Vec::new();
        let spec = find(args.as_args()).expect("a command");
        resolve(spec, args.as_args(), &mut encoded).expect("a right one");
        Command::decode(&encoded).apply(keyspace, &mut Replies::nobody());
    }

    #[test]
    fn any_keys_can_be_asked_for() {
        let mut keyspace = Keyspace::new([1; 16]);
        for number in 0..2 * WORTHWHILE_KEYS {
            let long = number.is_multiple_of(100);
            let value = vec![b'v'; if long { 5000 } else { 10 }];
            set(&mut keyspace, number.to_string().as_bytes(), &value);
        }
        let hash = keyspace.state_hash();
        // Of one group: keys that are there and that are not, and more of them than count.
        for first in (0..3 * WORTHWHILE_KEYS).step_by(100) {
            let keys: Vec<_> = (first..first + 40)
                .map(|number| number.to_string())
                .collect();
            keyspace.warm(keys.iter().map(String::as_bytes));
        }
        keyspace.warm([&b""[..]]);
        keyspace.warm([]);
        assert_eq!(keyspace.state_hash(), hash);
    }
}
