//! Sets of slots: what a group serves, what a move takes along.

use std::fmt;

use crate::ids::Slot;
use crate::slot::SLOT_COUNT;

const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = SLOT_COUNT as usize / WORD_BITS;

/// A set of slots: one bit for each, so that asking costs one look at two kilobytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet {
    words: Box<[u64; WORDS]>,
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::none()
    }
}

impl SlotSet {
    /// The set without slots.
    #[must_use]
    pub fn none() -> Self {
        Self {
            words: Box::new([0; WORDS]),
        }
    }

    /// The set of all slots.
    #[must_use]
    pub fn all() -> Self {
        Self {
            words: Box::new([u64::MAX; WORDS]),
        }
    }

    /// The slots of these runs, each from its first to its last slot.
    ///
    /// # Panics
    /// If a run ends behind the last slot there is.
    #[must_use]
    pub fn of_runs(runs: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut set = Self::none();
        for (first, last) in runs {
            for slot in first..=last {
                set.insert(Slot(slot));
            }
        }
        set
    }

    /// Whether a slot is in it.
    ///
    /// # Panics
    /// If there is no such slot, here and below.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        let (word, bit) = place_of(slot);
        self.words[word] & bit != 0
    }

    /// Puts a slot in; says whether it was not there.
    pub fn insert(&mut self, slot: Slot) -> bool {
        let (word, bit) = place_of(slot);
        let was_there = self.words[word] & bit != 0;
        self.words[word] |= bit;
        !was_there
    }

    /// Takes a slot out; says whether it was there.
    pub fn remove(&mut self, slot: Slot) -> bool {
        let (word, bit) = place_of(slot);
        let was_there = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        was_there
    }

    /// Whether a slot is in both.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let mut pairs = self.words.iter().zip(other.words.iter());
        pairs.any(|(one, other)| one & other != 0)
    }

    /// How many slots it has.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The first slot in it from one on.
    #[must_use]
    pub fn next_from(&self, from: u16) -> Option<Slot> {
        next_from(&self.words, from, false).map(Slot)
    }

    /// Its slots in order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> {
        self.runs()
            .flat_map(|(first, last)| (first..=last).map(Slot))
    }

    /// Its runs in order: first and last slot of each longest stretch without a gap.
    #[must_use]
    pub fn runs(&self) -> Runs<'_> {
        Runs {
            words: &self.words,
            from: 0,
        }
    }

    /// The last slot of the run that a slot of the set is in.
    #[must_use]
    pub fn end_of_run(&self, slot: Slot) -> Slot {
        let gap = next_from(&self.words, slot.get(), true).unwrap_or(SLOT_COUNT);
        Slot(gap.saturating_sub(1).max(slot.get()))
    }

    /// Whether all slots from one to another are in it.
    #[must_use]
    pub fn covers(&self, first: u16, last: u16) -> bool {
        next_from(&self.words, first, true).is_none_or(|gap| gap > last)
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

/// The runs of a set.
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    words: &'a [u64; WORDS],
    from: u16,
}

impl Iterator for Runs<'_> {
    type Item = (u16, u16);

    fn next(&mut self) -> Option<(u16, u16)> {
        let first = next_from(self.words, self.from, false)?;
        let gap = next_from(self.words, first, true).unwrap_or(SLOT_COUNT);
        self.from = gap;
        Some((first, gap - 1))
    }
}

/// The first slot from one on that is in the set, or, inverted, that is not.
fn next_from(words: &[u64; WORDS], from: u16, inverted: bool) -> Option<u16> {
    let (mut at, shift) = (usize::from(from) / WORD_BITS, u32::from(from) % u64::BITS);
    let look = |word: u64| if inverted { !word } else { word };
    let mut word = look(*words.get(at)?) >> shift << shift;
    while word == 0 {
        at += 1;
        word = look(*words.get(at)?);
    }
    Some((at * WORD_BITS) as u16 + word.trailing_zeros() as u16)
}

fn place_of(slot: Slot) -> (usize, u64) {
    let slot = usize::from(slot.get());
    (slot / WORD_BITS, 1 << (slot % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prng;
    use std::collections::BTreeSet;

    #[test]
    fn it_is_what_a_plain_set_is() {
        let mut prng = Prng::new(1);
        for dense in [3, 50, 5000] {
            let (mut set, mut twin) = (SlotSet::none(), BTreeSet::new());
            for _ in 0..20_000 {
                let slot = Slot(prng.below(u64::from(SLOT_COUNT)) as u16 / dense);
                if prng.below(3) > 0 {
                    assert_eq!(set.insert(slot), twin.insert(slot.get()));
                } else {
                    assert_eq!(set.remove(slot), twin.remove(&slot.get()));
                }
            }
            assert_eq!(set.len() as usize, twin.len());
            assert!(set.iter().map(Slot::get).eq(twin.iter().copied()));
            assert_eq!(SlotSet::of_runs(set.runs()), set);
            for _ in 0..1000 {
                let from = prng.below(u64::from(SLOT_COUNT)) as u16;
                let next = twin.range(from..).next().copied();
                assert_eq!(set.next_from(from).map(Slot::get), next);
                let last = from + (prng.below(5) as u16).min(SLOT_COUNT - 1 - from);
                let all = (from..=last).all(|slot| twin.contains(&slot));
                assert_eq!(set.covers(from, last), all);
            }
        }
    }

    #[test]
    fn runs_at_the_edges() {
        let last = SLOT_COUNT - 1;
        assert_eq!(SlotSet::all().runs().collect::<Vec<_>>(), [(0, last)]);
        assert_eq!(SlotSet::none().runs().next(), None);
        let set = SlotSet::of_runs([(0, 0), (63, 64), (last, last)]);
        let runs: Vec<_> = set.runs().collect();
        assert_eq!(runs, [(0, 0), (63, 64), (last, last)]);
        assert_eq!(set.end_of_run(Slot(63)), Slot(64));
        assert_eq!(set.end_of_run(Slot(last)), Slot(last));
        assert!(SlotSet::all().covers(0, last));
    }
}
