//! What is kept for each of the 16384 slots.
//!
//! Counters lie in pages of 64 slots, copied on write, so that a view takes them by one count and a
//! write under it copies one page. A page exists once something in it was ever changed.

use std::sync::Arc;

use kvorum_base::Slot;
use kvorum_base::slot::SLOT_COUNT;

use crate::hash;

const PAGE_SLOTS: usize = 64;
const PAGES: usize = SLOT_COUNT as usize / PAGE_SLOTS;

/// One slot's counters.
///
/// Invariants: `last_removal <= version`; every version of a key in the slot is at most `version`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotState {
    /// How many changes were applied to the slot. A changed key takes it as its version.
    pub(crate) version: u64,
    /// The version at the last removal of a key: what an absent key has. If it had none, a key that
    /// was set and deleted between two looks would seem untouched.
    pub(crate) last_removal: u64,
    /// Keys, those included that are expired and not removed yet.
    pub(crate) keys: u64,
    /// Session rows.
    pub(crate) rows: u64,
    /// Logical bytes of the keys.
    pub(crate) bytes: u64,
    /// Logical bytes of the session rows.
    pub(crate) row_bytes: u64,
    /// The sum of the keys' hashes.
    pub(crate) keys_hash: u64,
    /// The sum of the session rows' hashes.
    pub(crate) rows_hash: u64,
}

const UNTOUCHED: SlotState = SlotState {
    version: 0,
    last_removal: 0,
    keys: 0,
    rows: 0,
    bytes: 0,
    row_bytes: 0,
    keys_hash: 0,
    rows_hash: 0,
};

impl SlotState {
    /// The hash of the slot: its counters, keys and session rows.
    pub(crate) fn hash(&self, slot: Slot) -> u64 {
        hash::numbers([
            3,
            u64::from(slot.get()),
            self.version,
            self.last_removal,
            self.keys_hash.wrapping_add(self.rows_hash),
        ])
    }
}

type Page = [SlotState; PAGE_SLOTS];

/// All slots. Cloning is one count.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    pages: Arc<Vec<Option<Arc<Page>>>>,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            pages: Arc::new(vec![None; PAGES]),
        }
    }

    pub(crate) fn get(&self, slot: Slot) -> &SlotState {
        let (page, place) = place_of(slot);
        match &self.pages[page] {
            Some(page) => &page[place],
            None => &UNTOUCHED,
        }
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut SlotState {
        let (page, place) = place_of(slot);
        let page = Arc::make_mut(&mut self.pages)[page]
            .get_or_insert_with(|| Arc::new([UNTOUCHED; PAGE_SLOTS]));
        &mut Arc::make_mut(page)[place]
    }

    /// Forgets a slot: as if it had never changed.
    pub(crate) fn reset(&mut self, slot: Slot) {
        if self.get(slot) != &UNTOUCHED {
            *self.get_mut(slot) = UNTOUCHED;
        }
    }

    /// The slots that ever changed, from one on, in order.
    pub(crate) fn touched_from(&self, from: u16) -> impl Iterator<Item = (Slot, &SlotState)> {
        let first_page = usize::from(from) / PAGE_SLOTS;
        self.pages
            .iter()
            .enumerate()
            .skip(first_page)
            .filter_map(|(number, page)| page.as_ref().map(|page| (number, page)))
            .flat_map(|(number, page)| {
                page.iter()
                    .enumerate()
                    .map(move |(place, state)| ((number * PAGE_SLOTS + place) as u16, state))
            })
            .filter(move |(slot, state)| *slot >= from && **state != UNTOUCHED)
            .map(|(slot, state)| (Slot(slot), state))
    }
}

fn place_of(slot: Slot) -> (usize, usize) {
    let slot = usize::from(slot.get());
    (slot / PAGE_SLOTS, slot % PAGE_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_of_the_slots_stays_as_it_was() {
        let mut slots = Slots::new();
        slots.get_mut(Slot(0)).version = 1;
        slots.get_mut(Slot(16383)).version = 2;
        let view = slots.clone();
        slots.get_mut(Slot(0)).version = 3;
        slots.get_mut(Slot(100)).version = 4;
        let versions = |slots: &Slots, from| {
            slots
                .touched_from(from)
                .map(|(slot, state)| (slot.get(), state.version))
                .collect::<Vec<_>>()
        };
        assert_eq!(versions(&view, 0), [(0, 1), (16383, 2)]);
        assert_eq!(versions(&slots, 1), [(100, 4), (16383, 2)]);
        assert_eq!(slots.get(Slot(5)), &UNTOUCHED);
    }
}
