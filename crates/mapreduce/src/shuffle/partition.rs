//! Which partition a key falls to.

use serde::{Deserialize, Serialize};

/// How keys are spread over the reduces.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Partitioner {
    /// By hash: even, in no order.
    Hash(u32),
    /// By ranges: partition *i* has the keys from bound *i - 1* up to, not including, bound *i*; so the
    /// outputs one after the other are in order.
    Ranges(Vec<Vec<u8>>),
}

impl Partitioner {
    /// How many partitions there are.
    pub(crate) fn count(&self) -> u32 {
        match self {
            Self::Hash(count) => *count,
            Self::Ranges(bounds) => bounds.len() as u32 + 1,
        }
    }

    pub(crate) fn of(&self, key: &[u8]) -> u32 {
        match self {
            Self::Hash(1) => 0,
            Self::Hash(count) => hash(key) % count,
            Self::Ranges(bounds) => bounds.partition_point(|bound| bound.as_slice() <= key) as u32,
        }
    }
}

/// FNV-1a of 32 bits (Fowler, Noll, Vo) without its top bit: the hash of the 6.824 course.
fn hash(key: &[u8]) -> u32 {
    let hash = key.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    hash & 0x7fff_ffff
}

/// At most `count - 1` bounds that cut these keys into parts of like size. Equal bounds are merged: a key
/// that is very frequent gets one partition.
pub(crate) fn bounds_of(mut keys: Vec<Vec<u8>>, count: u32) -> Vec<Vec<u8>> {
    keys.sort_unstable();
    let mut bounds: Vec<Vec<u8>> = (1..count as usize)
        .filter_map(|part| keys.get(part * keys.len() / count as usize).cloned())
        .collect();
    bounds.dedup();
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_fall_where_the_course_says() {
        let partitioner = Partitioner::Hash(10);
        let places: Vec<u32> = (b'a'..=b'j')
            .map(|letter| partitioner.of(&[letter]))
            .collect();
        assert_eq!(places, [2, 9, 0, 5, 6, 3, 4, 3, 4, 1]);
    }

    #[test]
    fn ranges_are_in_order_and_even() {
        let keys: Vec<Vec<u8>> = (0..1000u32)
            .map(|n| format!("{n:04}").into_bytes())
            .collect();
        let partitioner = Partitioner::Ranges(bounds_of(keys.clone(), 4));
        assert_eq!(partitioner.count(), 4);
        let places: Vec<u32> = keys.iter().map(|key| partitioner.of(key)).collect();
        assert!(places.is_sorted());
        assert_eq!(places.iter().filter(|place| **place == 2).count(), 250);
        assert_eq!(bounds_of(vec![vec![7]; 100], 5), [vec![7]]);
        assert!(bounds_of(Vec::new(), 5).is_empty());
    }
}
