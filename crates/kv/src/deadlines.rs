//! Which keys end when: derived from the keys, never part of a snapshot.

use std::collections::BTreeMap;

use kvorum_base::UnixMillis;

use crate::position::Position;

/// The deadlines in order; for each and each position, how many keys (two only if hashes collide).
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Deadlines {
    at: BTreeMap<(UnixMillis, Position), u32>,
    len: u64,
}

impl Deadlines {
    /// How many keys have a deadline.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn first(&self) -> Option<(UnixMillis, Position)> {
        self.at.first_key_value().map(|(&first, _)| first)
    }

    /// How many deadlines a clock has passed. O(passed), which bounded removal keeps small but after
    /// a moment at which very many keys end.
    pub(crate) fn passed(&self, clock: UnixMillis) -> u64 {
        self.at
            .range(..(clock, Position(0)))
            .map(|(_, &count)| u64::from(count))
            .sum()
    }

    /// How many of them are of keys at such positions.
    pub(crate) fn passed_where(&self, clock: UnixMillis, is_in: impl Fn(Position) -> bool) -> u64 {
        self.at
            .range(..(clock, Position(0)))
            .filter(|((_, at), _)| is_in(*at))
            .map(|(_, &count)| u64::from(count))
            .sum()
    }

    pub(crate) fn change(
        &mut self,
        at: Position,
        old: Option<UnixMillis>,
        new: Option<UnixMillis>,
    ) {
        if old == new {
            return;
        }
        if let Some(deadline) = old {
            let count = self.at.get_mut(&(deadline, at)).unwrap_or_else(|| {
                panic!("the deadline {deadline} at {at:?} is not in the index");
            });
            *count -= 1;
            if *count == 0 {
                self.at.remove(&(deadline, at));
            }
            self.len -= 1;
        }
        if let Some(deadline) = new {
            *self.at.entry((deadline, at)).or_insert(0) += 1;
            self.len += 1;
        }
    }

    /// Takes some out without order or meaning, to free them in bounded steps.
    pub(crate) fn discard(&mut self, limit: usize) {
        for _ in 0..limit {
            if self.at.pop_first().is_none() {
                break;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }
}
