//! Numbers by key, added up in memory: the combiner of everything that counts.
//!
//! An open hash table with linear probing. Keys lie one after the other in an arena; a slot holds the hash,
//! so that nearly every comparison of a wrong key ends at one number. The table's order never gets out: what
//! leaves it is sorted.

/// Slots at the start; always a power of two.
const SLOTS_MIN: usize = 1 << 10;
/// What a slot takes: the hash, the place of the key, the number.
const SLOT_BYTES: usize = std::mem::size_of::<Slot>();

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// Place of the key in the arena.
    at: u32,
    /// Length of the key plus one; zero: the slot is free.
    len_and_one: u32,
    sum: u64,
}

/// Sums by key.
pub(crate) struct Sums {
    slots: Vec<Slot>,
    used: usize,
    arena: Vec<u8>,
}

impl Sums {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            used: 0,
            arena: Vec::new(),
        }
    }

    /// Bytes that the table holds.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.len() * SLOT_BYTES + self.arena.len()
    }

    /// Adds to a key's sum; saturates. Returns whether the key is new, so that the table has grown.
    pub(crate) fn add(&mut self, key: &[u8], amount: u64) -> bool {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
        let hash = hash(key);
        let mask = self.slots.len() - 1;
        let wanted = key.len() as u32 + 1;
        let mut place = hash as usize & mask;
        loop {
            let slot = &mut self.slots[place];
            if slot.len_and_one == 0 {
                *slot = Slot {
                    hash,
                    at: self.arena.len() as u32,
                    len_and_one: wanted,
                    sum: amount,
                };
                self.arena.extend_from_slice(key);
                self.used += 1;
                return true;
            }
            if slot.hash == hash && slot.len_and_one == wanted {
                let at = slot.at as usize;
                if &self.arena[at..at + key.len()] == key {
                    slot.sum = slot.sum.saturating_add(amount);
                    return false;
                }
            }
            place = (place + 1) & mask;
        }
    }

    /// Keys and sums, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.slots
            .iter()
            .filter(|slot| slot.len_and_one > 0)
            .map(|slot| {
                let at = slot.at as usize;
                (
                    &self.arena[at..at + slot.len_and_one as usize - 1],
                    slot.sum,
                )
            })
    }

    /// Forgets everything and gives its memory back.
    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); slots]);
        let mask = slots - 1;
        for slot in old.into_iter().filter(|slot| slot.len_and_one > 0) {
            let mut place = slot.hash as usize & mask;
            while self.slots[place].len_and_one > 0 {
                place = (place + 1) & mask;
            }
            self.slots[place] = slot;
        }
    }
}

/// Eight bytes at a time, each folded in by a wide multiplication. Not for hostile keys: those cost time,
/// nothing else.
fn hash(key: &[u8]) -> u32 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |state: u64, word: u64| {
        let wide = u128::from(state ^ word) * u128::from(K);
        (wide as u64) ^ (wide >> 64) as u64
    };
    let four = |at: usize| {
        u64::from(u32::from_le_bytes([
            key[at],
            key[at + 1],
            key[at + 2],
            key[at + 3],
        ]))
    };
    let len = key.len();
    let mut state = K ^ len as u64;
    if len >= 4 {
        let mut at = 0;
        while at + 8 < len {
            state = fold(state, four(at) | four(at + 4) << 32);
            at += 8;
        }
        // The last bytes, up to eight: two words that may overlap.
        let low = if len - at >= 4 {
            four(at)
        } else {
            four(len - 4)
        };
        state = fold(state, low | four(len - 4) << 32);
    } else if len > 0 {
        let word = u64::from(key[0]) | u64::from(key[len / 2]) << 8 | u64::from(key[len - 1]) << 16;
        state = fold(state, word);
    }
    (state ^ (state >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kvorum_base::Prng;

    use super::*;

    #[test]
    fn sums_are_those_of_a_map() {
        let mut prng = Prng::new(5);
        let (mut sums, mut twin) = (Sums::new(), BTreeMap::<Vec<u8>, u64>::new());
        for _ in 0..50_000 {
            let len = prng.below(20) as usize;
            let key: Vec<u8> = (0..len).map(|_| b'a' + prng.below(3) as u8).collect();
            let amount = prng.below(9);
            assert_eq!(sums.add(&key, amount), !twin.contains_key(&key));
            *twin.entry(key).or_insert(0) += amount;
        }
        let found: BTreeMap<Vec<u8>, u64> =
            sums.iter().map(|(key, sum)| (key.to_vec(), sum)).collect();
        assert_eq!(found, twin);
    }
}
