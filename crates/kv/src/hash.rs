//! The hash by which replicas compare their states.
//!
//! It is additive: the hash of a slot is the wrapping sum of the hashes of what is in it, so a
//! change costs one subtraction and one addition, and a slot that moves carries its proof with it.
//! It guards against accidents (a forgotten snapshot field, a diverging apply, a flipped bit in
//! memory), not against an enemy, so it is chosen for speed: two 64-bit words a multiplication,
//! high and low half folded together. Integers in little-endian order only: the same everywhere.

use std::ops::Range;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const KEYS: [u64; 4] = [
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
    0x8ebc_6af0_9c88_c6e3,
    0x5899_65cc_7537_4cc3,
];

/// The 128-bit product of two words, folded to 64 bits.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

fn whole_word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// The hash of a byte string, its length included.
pub(crate) fn bytes(data: &[u8]) -> u64 {
    let mut state = SEED ^ data.len() as u64;
    let mut second = KEYS[3];
    let mut blocks = data.chunks_exact(32);
    for block in &mut blocks {
        // Two chains, so that the next multiplication need not wait for the last.
        state = fold(
            whole_word(&block[..8]) ^ KEYS[0] ^ state,
            whole_word(&block[8..16]) ^ KEYS[1],
        );
        second = fold(
            whole_word(&block[16..24]) ^ KEYS[2] ^ second,
            whole_word(&block[24..]) ^ KEYS[0],
        );
    }
    for pair in blocks.remainder().chunks(16) {
        let (low, high) = pair.split_at(pair.len().min(8));
        state = fold(word(low) ^ KEYS[0] ^ state, word(high) ^ KEYS[1]);
    }
    fold(state ^ KEYS[2], second ^ KEYS[1])
}

/// How much of a value is hashed on its own.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// The hash of a value: the sum over its blocks, so that a change of a long value costs as much as
/// what it touches.
pub(crate) fn value(data: &[u8]) -> u64 {
    blocks(data, 0..usize::MAX)
}

/// The part of [`value`] that some blocks have in it. Blocks that are not there have none.
pub(crate) fn blocks(data: &[u8], numbers_of: Range<usize>) -> u64 {
    data.chunks(BLOCK_BYTES)
        .enumerate()
        .take(numbers_of.end)
        .skip(numbers_of.start)
        .map(|(number, block)| match number {
            0 => bytes(block),
            _ => numbers([number as u64, bytes(block)]),
        })
        .fold(0, u64::wrapping_add)
}

/// The hash of some numbers in their order.
pub(crate) fn numbers<const N: usize>(numbers: [u64; N]) -> u64 {
    numbers
        .iter()
        .zip(KEYS.iter().cycle())
        .fold(SEED, |state, (number, key)| {
            fold(state ^ KEYS[1], number ^ key).rotate_left(23) ^ state
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_length_and_every_bit_counts() {
        let base: Vec<u8> = (0..200u8).collect();
        let mut seen = BTreeSet::new();
        for len in 0..=base.len() {
            assert!(seen.insert(bytes(&base[..len])), "length {len}");
        }
        for bit in 0..base.len() * 8 {
            let mut changed = base.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(bytes(&changed)), "bit {bit}");
        }
    }

    #[test]
    fn zeros_are_not_all_alike() {
        let zeros = [0u8; 100];
        let hashes: BTreeSet<u64> = (0..100).map(|len| bytes(&zeros[..len])).collect();
        assert_eq!(hashes.len(), 100);
    }

    #[test]
    fn the_place_of_a_number_counts() {
        assert_ne!(numbers([1, 2]), numbers([2, 1]));
        assert_ne!(numbers([0, 1]), numbers([1, 0]));
        assert_ne!(numbers([0]), numbers([0, 0]));
    }

    #[test]
    fn the_hash_is_fixed_for_ever() {
        // Replicas of different builds compare it.
        assert_eq!(bytes(b"kvorum"), GOLDEN.0);
        assert_eq!(numbers([1, 2, 3]), GOLDEN.1);
        assert_eq!(value(&[7; 5000]), GOLDEN.2);
    }

    const GOLDEN: (u64, u64, u64) = (
        17_094_960_809_243_461_722,
        4_719_318_978_349_187_267,
        56_237_200_986_213_458,
    );
}
