//! Counting and removing the keys of some slots: what DBSIZE and FLUSHALL are for all of them.

use kvorum_base::{Slot, SlotSet};

use crate::keyspace::Keyspace;
use crate::position::Position;

impl Keyspace {
    /// How many keys these slots hold, expired ones not counted. O(slots), and in the number of keys that
    /// are expired and not removed yet.
    #[must_use]
    pub fn len_in(&self, slots: &SlotSet) -> u64 {
        if self.holds_only(slots) {
            return self.len();
        }
        let held = self.slots.touched_from(0);
        let keys: u64 = held
            .filter(|(slot, _)| slots.contains(*slot))
            .map(|(_, state)| state.keys)
            .sum();
        let is_in = |at: Position| slots.contains(at.slot());
        keys - self.deadlines.passed_where(self.expiry_clock(), is_in)
    }

    /// Removes all keys of these slots. At once if no other slot holds any, else key by key.
    pub(crate) fn clear_in(&mut self, slots: &SlotSet) {
        if self.holds_only(slots) {
            return self.clear();
        }
        let held: Vec<Slot> = self
            .slots
            .touched_from(0)
            .filter(|(slot, state)| state.keys > 0 && slots.contains(*slot))
            .map(|(slot, _)| slot)
            .collect();
        for slot in held {
            let first = Position::first_of(slot);
            let in_slot = self.keys.range(first);
            let keys: Vec<Vec<u8>> = in_slot
                .take_while(|item| item.position.slot() == slot)
                .map(|item| item.value.key().to_vec())
                .collect();
            for key in keys {
                self.remove(self.locate(&key));
            }
        }
    }

    /// Whether no other slot than these holds a key.
    fn holds_only(&self, slots: &SlotSet) -> bool {
        let mut held = self.slots.touched_from(0);
        held.all(|(slot, state)| state.keys == 0 || slots.contains(slot))
    }
}
