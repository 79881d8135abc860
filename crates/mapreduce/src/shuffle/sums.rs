//! Numbers by key, added up in memory: the combiner of everything that counts.
//!
//! An open hash table with linear probing. What is compared first is the first bytes of a key as one number:
//! for keys of up to eight bytes that is the whole key, and most words of most languages are that short.
//! Longer keys lie one after the other in an arena as well.
//!
//! Short keys are not looked up one by one but in batches. The look-up of a word nearly always misses the
//! nearest caches, and where words end is what a processor cannot guess: if the two alternate, every wrong
//! guess also throws away the look-ups that were begun. In a batch the misses overlap.
//!
//! The table's order never gets out: what leaves it is sorted.

/// Slots at the start; always a power of two.
const SLOTS_MIN: usize = 1 << 10;
const SLOT_BYTES: usize = std::mem::size_of::<Slot>();
/// Short keys that are looked up together: few enough to stay in the nearest cache.
const BATCH: usize = 256;

#[derive(Clone, Copy, Default)]
struct Slot {
    /// What [`word_of`] makes of the key.
    word: u64,
    /// Place of the key in the arena.
    at: u32,
    /// Length of the key plus one; zero: the slot is free.
    len_and_one: u32,
    sum: u64,
}

/// A short key that was not looked up yet.
#[derive(Clone, Copy)]
struct Pending {
    word: u64,
    len: u32,
    hash: u32,
    amount: u64,
}

/// Sums by key.
pub(crate) struct Sums {
    slots: Vec<Slot>,
    used: usize,
    arena: Vec<u8>,
    pending: Vec<Pending>,
}

impl Sums {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            used: 0,
            arena: Vec::new(),
            pending: Vec::new(),
        }
    }

    /// Bytes that the table holds.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.len() * SLOT_BYTES + self.arena.len()
    }

    /// Adds to a key's sum; saturates. Returns whether the table may have grown.
    pub(crate) fn add(&mut self, key: &[u8], amount: u64) -> bool {
        let word = word_of(key);
        let len = key.len() as u32;
        let hash = hash(key, word);
        if key.len() > 8 {
            self.look_up(
                Pending {
                    word,
                    len,
                    hash,
                    amount,
                },
                key,
            );
            return true;
        }
        self.pending.push(Pending {
            word,
            len,
            hash,
            amount,
        });
        if self.pending.len() < BATCH {
            return false;
        }
        self.settle();
        true
    }

    /// Looks up what waits for it.
    pub(crate) fn settle(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        for one in &pending {
            self.look_up(*one, &[]);
        }
        pending.clear();
        self.pending = pending;
    }

    /// `key` is given for long keys alone.
    fn look_up(&mut self, one: Pending, key: &[u8]) {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let len_and_one = one.len + 1;
        let mut place = one.hash as usize & mask;
        loop {
            let slot = &mut self.slots[place];
            if slot.word == one.word && slot.len_and_one == len_and_one {
                let at = slot.at as usize;
                if key.is_empty() || &self.arena[at..at + key.len()] == key {
                    slot.sum = slot.sum.saturating_add(one.amount);
                    return;
                }
            }
            if slot.len_and_one == 0 {
                break;
            }
            place = (place + 1) & mask;
        }
        let at = self.arena.len() as u32;
        if key.is_empty() {
            put_word(&mut self.arena, one.word, one.len as usize);
        } else {
            self.arena.extend_from_slice(key);
        }
        self.slots[place] = Slot {
            word: one.word,
            at,
            len_and_one,
            sum: one.amount,
        };
        self.used += 1;
    }

    /// Keys and sums, in no order, once everything is settled.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        debug_assert!(self.pending.is_empty(), "unsettled sums");
        self.slots
            .iter()
            .filter(|slot| slot.len_and_one > 0)
            .map(|slot| (self.key_of(slot), slot.sum))
    }

    fn key_of(&self, slot: &Slot) -> &[u8] {
        let at = slot.at as usize;
        &self.arena[at..at + slot.len_and_one as usize - 1]
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); slots]);
        let mask = slots - 1;
        for slot in old.into_iter().filter(|slot| slot.len_and_one > 0) {
            let mut place = hash(self.key_of(&slot), slot.word) as usize & mask;
            while self.slots[place].len_and_one > 0 {
                place = (place + 1) & mask;
            }
            self.slots[place] = slot;
        }
    }
}

fn four(key: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes([
        key[at],
        key[at + 1],
        key[at + 2],
        key[at + 3],
    ]))
}

/// The first eight bytes of a key, as two words of four that overlap in shorter ones, or as three bytes of
/// which some are the same. Of two keys of one length up to eight, different ones have different words.
fn word_of(key: &[u8]) -> u64 {
    match key.len() {
        0 => 0,
        len @ 1..4 => {
            u64::from(key[0]) | u64::from(key[len / 2]) << 8 | u64::from(key[len - 1]) << 16
        }
        len => four(key, 0) | four(key, len.min(8) - 4) << 32,
    }
}

/// Appends the key of up to eight bytes that has this word.
fn put_word(arena: &mut Vec<u8>, word: u64, len: usize) {
    let bytes = word.to_le_bytes();
    match len {
        0 => {}
        1 => arena.push(bytes[0]),
        2 => arena.extend_from_slice(&bytes[..2]),
        3 => arena.extend_from_slice(&bytes[..3]),
        _ => {
            arena.extend_from_slice(&bytes[..4]);
            arena.extend_from_slice(&bytes[12 - len..]);
        }
    }
}

/// Eight bytes at a time, each folded in by a wide multiplication. Not for hostile keys: those cost time,
/// nothing else.
fn hash(key: &[u8], word: u64) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |state: u64, word: u64| {
        let wide = u128::from(state ^ word) * u128::from(K);
        (wide as u64) ^ (wide >> 64) as u64
    };
    let mut state = fold(K ^ key.len() as u64, word);
    if key.len() > 8 {
        for chunk in key[8..].chunks(8) {
            state = fold(state, word_of(chunk) ^ chunk.len() as u64);
        }
    }
    (state ^ (state >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kvorum_base::Prng;

    use super::*;

    #[test]
    fn short_keys_come_back_from_their_words() {
        for len in 0..=8 {
            let key = &b"abcdefgh"[..len];
            let mut arena = Vec::new();
            put_word(&mut arena, word_of(key), len);
            assert_eq!(arena, key);
        }
    }

    #[test]
    fn sums_are_those_of_a_map() {
        let mut prng = Prng::new(5);
        let (mut sums, mut twin) = (Sums::new(), BTreeMap::<Vec<u8>, u64>::new());
        for _ in 0..50_000 {
            let len = prng.below(20) as usize;
            let key: Vec<u8> = (0..len).map(|_| b'a' + prng.below(3) as u8).collect();
            let amount = prng.below(9);
            sums.add(&key, amount);
            *twin.entry(key).or_insert(0) += amount;
        }
        sums.settle();
        let found: BTreeMap<Vec<u8>, u64> =
            sums.iter().map(|(key, sum)| (key.to_vec(), sum)).collect();
        assert_eq!(found, twin);
    }
}
