//! Slots by the run: sets of slots, and tables that give each slot something.
//!
//! A cluster has 16384 slots and a few hundred runs of them. Sets are kept as runs. A table is kept
//! slot by slot, since 16384 small cells are cheap and looking one up is an index; it is shown,
//! compared and written by the run.

use std::fmt;

use kvorum_base::Slot;

/// A set of slots as its runs, each from its first to its last slot.
///
/// Invariants: runs rise and do not touch each other, so that a set has one form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SlotRuns(Vec<(u16, u16)>);

impl SlotRuns {
    /// The set without slots.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The slots from one to another, both included.
    #[must_use]
    pub fn run(first: u16, last: u16) -> Self {
        Self::of_runs([(first, last)])
    }

    /// The slots of these runs, in any order, overlapping or not. A run that ends before it begins
    /// is empty.
    #[must_use]
    pub fn of_runs(runs: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut sorted: Vec<(u16, u16)> = runs
            .into_iter()
            .filter(|(first, last)| first <= last)
            .collect();
        sorted.sort_unstable();
        let mut set = Self::none();
        for (first, last) in sorted {
            match set.0.last_mut() {
                Some(open) if u32::from(first) <= u32::from(open.1) + 1 => {
                    open.1 = open.1.max(last);
                }
                _ => set.0.push((first, last)),
            }
        }
        set
    }

    /// These slots, in any order.
    #[must_use]
    pub fn of_slots(slots: impl IntoIterator<Item = Slot>) -> Self {
        Self::of_runs(slots.into_iter().map(|slot| (slot.get(), slot.get())))
    }

    /// Puts in a run that begins behind all others.
    ///
    /// # Panics
    /// If it does not.
    pub(crate) fn push(&mut self, first: u16, last: u16) {
        assert!(first <= last, "a run from {first} to {last}");
        match self.0.last_mut() {
            Some(open) => {
                assert!(open.1 < first, "{first} is not behind {}", open.1);
                if open.1 + 1 == first {
                    open.1 = last;
                } else {
                    self.0.push((first, last));
                }
            }
            None => self.0.push((first, last)),
        }
    }

    /// The runs in order.
    #[must_use]
    pub fn runs(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// The slots in order.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.0
            .iter()
            .flat_map(|(first, last)| (*first..=*last).map(Slot))
    }

    /// How many slots it has.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0
            .iter()
            .map(|(first, last)| u32::from(last - first) + 1)
            .sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a slot is in it.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        let before = self.0.partition_point(|(first, _)| *first <= slot.get());
        before > 0 && self.0[before - 1].1 >= slot.get()
    }

    /// The last slot of all.
    #[must_use]
    pub fn last(&self) -> Option<Slot> {
        self.0.last().map(|(_, last)| Slot(*last))
    }
}

impl fmt::Display for SlotRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SlotRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// Something for each slot.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotTable<T> {
    cells: Vec<T>,
}

impl<T: Clone + PartialEq> SlotTable<T> {
    /// The same for all of so many slots.
    #[must_use]
    pub fn filled(slot_count: u16, value: T) -> Self {
        Self {
            cells: vec![value; usize::from(slot_count)],
        }
    }

    /// One for each slot.
    ///
    /// # Panics
    /// If there are more than slots can be.
    #[must_use]
    pub fn of_cells(cells: Vec<T>) -> Self {
        assert!(u16::try_from(cells.len()).is_ok(), "too many slots");
        Self { cells }
    }

    /// How many slots there are.
    #[must_use]
    pub fn slot_count(&self) -> u16 {
        self.cells.len() as u16
    }

    /// What a slot has; nothing if there is no such slot.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&T> {
        self.cells.get(usize::from(slot.get()))
    }

    /// All cells, by slot.
    #[must_use]
    pub fn cells(&self) -> &[T] {
        &self.cells
    }

    /// Gives the slots of a set something else.
    ///
    /// # Panics
    /// If there is no such slot.
    pub(crate) fn set(&mut self, slots: &SlotRuns, value: &T) {
        for (first, last) in slots.runs() {
            self.cells[usize::from(*first)..=usize::from(*last)].fill(value.clone());
        }
    }

    /// What changes the cells of a set one by one.
    pub(crate) fn cells_mut(&mut self, first: u16, last: u16) -> &mut [T] {
        &mut self.cells[usize::from(first)..=usize::from(last)]
    }

    /// The runs in order: first slot, last slot, and what all slots between have.
    pub fn runs(&self) -> impl Iterator<Item = (u16, u16, &T)> {
        self.runs_by(|a, b| a == b)
    }

    /// The runs in order, of cells that are alike in what is asked for.
    pub fn runs_by<'a>(
        &'a self,
        alike: impl Fn(&T, &T) -> bool + 'a,
    ) -> impl Iterator<Item = (u16, u16, &'a T)> {
        let mut first = 0;
        std::iter::from_fn(move || {
            let value = self.cells.get(first)?;
            let same = self.cells[first..]
                .iter()
                .take_while(|cell| alike(cell, value));
            let run = (first as u16, (first + same.count() - 1) as u16, value);
            first = usize::from(run.1) + 1;
            Some(run)
        })
    }

    /// The slots of which something holds.
    #[must_use]
    pub fn slots_where(&self, holds: impl Fn(&T) -> bool) -> SlotRuns {
        let mut set = SlotRuns::none();
        for (slot, cell) in self.cells.iter().enumerate() {
            if holds(cell) {
                set.push(slot as u16, slot as u16);
            }
        }
        set
    }
}

impl<T: Clone + PartialEq + fmt::Debug> fmt::Debug for SlotTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (first, last, value) in self.runs() {
            map.entry(&format_args!("{first}-{last}"), value);
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_form() {
        let set = SlotRuns::of_runs([(7, 9), (1, 2), (3, 3), (8, 12), (5, 4)]);
        assert_eq!(set.runs(), [(1, 3), (7, 12)]);
        assert_eq!(SlotRuns::of_slots(set.slots()), set);
        assert_eq!(set.len(), 9);
        assert_eq!(set.to_string(), "1-3,7-12");
        for slot in 0..20 {
            let inside = (1..=3).contains(&slot) || (7..=12).contains(&slot);
            assert_eq!(set.contains(Slot(slot)), inside, "{slot}");
        }
        let mut pushed = SlotRuns::none();
        pushed.push(1, 1);
        pushed.push(2, 3);
        pushed.push(7, 12);
        assert_eq!(pushed, set);
    }

    #[test]
    fn a_table_by_its_runs() {
        let mut table = SlotTable::filled(10, 'a');
        table.set(&SlotRuns::of_runs([(0, 0), (4, 6)]), &'b');
        let runs: Vec<_> = table.runs().collect();
        assert_eq!(
            runs,
            [(0, 0, &'b'), (1, 3, &'a'), (4, 6, &'b'), (7, 9, &'a')]
        );
        assert_eq!(table.slots_where(|cell| *cell == 'b').to_string(), "0,4-6");
        assert_eq!(table.get(Slot(10)), None);
    }
}
