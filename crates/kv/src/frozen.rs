//! Some slots as they were at one moment: what a slot move compares two of.
//!
//! It holds the pieces of the two directories that the slots lie in, and the counters of all slots.
//! Nothing is copied for it but, while it lives, each of those buckets before its first write; a write
//! to another slot copies at most a page of counters, once. So it may be held for as long as a round of
//! a move takes, and dropping the last holder of many buckets costs as dropping a
//! [`View`](crate::View) does.
//!
//! The sums over slots are here too: by them both sides of a move learn that they hold the same.

use std::sync::Arc;

use kvorum_base::{Slot, SlotSet};

use crate::directory::Span;
use crate::entry::Entry;
use crate::keyspace::Keyspace;
use crate::position::Position;
use crate::session::SessionRow;
use crate::slots::{SlotState, Slots};

/// The view. Cloning it costs a few counts for each run of slots; it can be sent to another thread.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub(crate) slots: Slots,
    /// One for each run of slots, in order.
    pub(crate) stretches: Vec<Stretch>,
}

/// Slots in a row, and what is in them.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) rows: Span<Arc<SessionRow>>,
    pub(crate) keys: Span<Entry>,
}

impl Keyspace {
    /// Takes a consistent view of these slots, served or hidden, as they are now. O(1) for each run of
    /// them, however much is in them.
    #[must_use]
    pub fn freeze(&self, slots: &SlotSet) -> Frozen {
        let stretch = |(first, last): (u16, u16)| {
            let (from, _) = Position::range_of(Slot(first));
            let (_, to) = Position::range_of(Slot(last));
            Stretch {
                first,
                last,
                rows: self.rows.span(from, to),
                keys: self.keys.span(from, to),
            }
        };
        Frozen {
            slots: self.slots.clone(),
            stretches: slots.runs().map(stretch).collect(),
        }
    }

    /// The hash of these slots: keys, session rows and counters, and nothing of the group that holds
    /// them. Two keyspaces that give the same hold the same in them, up to chance. The hash of two sets
    /// without a common slot is the wrapping sum of theirs. O(slots).
    #[must_use]
    pub fn slots_hash(&self, slots: &SlotSet) -> u64 {
        self.touched_of(slots)
            .map(|(slot, state)| state.hash(slot))
            .fold(0, u64::wrapping_add)
    }

    /// The logical bytes of these slots: what keys and session rows are charged with. O(slots).
    #[must_use]
    pub fn slots_bytes(&self, slots: &SlotSet) -> u64 {
        self.bytes_by_slot(slots).map(|(_, bytes)| bytes).sum()
    }

    /// The logical bytes of each of these slots that holds something.
    pub fn bytes_by_slot<'a>(
        &'a self,
        slots: &'a SlotSet,
    ) -> impl Iterator<Item = (Slot, u64)> + 'a {
        self.touched_of(slots)
            .map(|(slot, state)| (slot, state.bytes + state.row_bytes))
    }

    fn touched_of<'a>(&'a self, slots: &'a SlotSet) -> impl Iterator<Item = (Slot, &'a SlotState)> {
        slots.runs().flat_map(|(first, last)| {
            self.slots
                .touched_from(first)
                .take_while(move |(slot, _)| slot.get() <= last)
        })
    }
}
