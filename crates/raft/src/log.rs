//! The log in memory: entries after a base, and three cursors over them.
//!
//! ```text
//!   gone | base | entries ...
//!            <= applied <= commit <= last
//!                          persisted <= last
//! ```
//! `applied` is what the caller's state covers, `commit` what a quorum holds for good, `persisted`
//! what this replica's disk holds *of the present entries*. Commit may be ahead of the own disk: the
//! others' disks are enough. The base stays known after its entry is gone, since the entry after it
//! is sent with its term.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use kvorum_base::{Index, Term};

use crate::effect::PersistSeq;
use crate::types::Entry;

/// A write on its way to the disk: once durable, the present entries up to `last` are.
#[derive(Clone, Copy, Debug)]
struct Pending {
    seq: PersistSeq,
    last: Index,
}

/// The log.
///
/// Invariants: entries are consecutive from `base + 1`, their terms never fall; `base <= applied <=
/// commit <= last`; `persisted <= last`; `pending` is ordered by number; `uncommitted_bytes` is the
/// sum over the entries after `commit`.
#[derive(Debug)]
pub(crate) struct Log {
    base_index: Index,
    base_term: Term,
    entries: VecDeque<Entry>,
    commit: Index,
    applied: Index,
    persisted: Index,
    pending: VecDeque<Pending>,
    uncommitted_bytes: usize,
}

impl Log {
    /// A log as found on the disk.
    pub(crate) fn new(
        base_index: Index,
        base_term: Term,
        entries: Vec<Entry>,
        commit: Index,
    ) -> Self {
        let last = base_index + entries.len() as u64;
        let mut log = Self {
            base_index,
            base_term,
            uncommitted_bytes: entries.iter().map(|entry| entry.data.len()).sum(),
            entries: entries.into(),
            commit: base_index,
            applied: base_index,
            persisted: last,
            pending: VecDeque::new(),
        };
        log.check();
        log.commit_to(commit.max(base_index).min(last));
        log
    }

    pub(crate) fn base_index(&self) -> Index {
        self.base_index
    }

    pub(crate) fn last_index(&self) -> Index {
        self.base_index + self.entries.len() as u64
    }

    pub(crate) fn last_term(&self) -> Term {
        self.entries
            .back()
            .map_or(self.base_term, |entry| entry.term)
    }

    pub(crate) fn commit(&self) -> Index {
        self.commit
    }

    pub(crate) fn applied(&self) -> Index {
        self.applied
    }

    pub(crate) fn persisted(&self) -> Index {
        self.persisted
    }

    pub(crate) fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    pub(crate) fn entry(&self, index: Index) -> Option<&Entry> {
        let offset = index.get().checked_sub(self.base_index.get() + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The entries of a range; those that are gone or not there yet are left out.
    pub(crate) fn entries(&self, range: RangeInclusive<Index>) -> impl Iterator<Item = &Entry> {
        let (first, last) = range.into_inner();
        let low = (first - self.base_index.next()) as usize;
        let high = (last - self.base_index) as usize;
        let high = high.min(self.entries.len());
        self.entries.range(low.min(high)..high)
    }

    /// The term of the entry there, or of the base; `None` before the base and after the end.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base_index {
            Some(self.base_term)
        } else {
            self.entry(index).map(|entry| entry.term)
        }
    }

    /// Whether the entry there has that term; index 0 agrees with everybody.
    pub(crate) fn matches(&self, index: Index, term: Term) -> bool {
        self.term_at(index) == Some(term)
    }

    /// Whether a log that ends like this has everything that a vote must insist on (Raft paper,
    /// section 5.4.1).
    pub(crate) fn is_up_to_date(&self, last_index: Index, last_term: Term) -> bool {
        (last_term, last_index) >= (self.last_term(), self.last_index())
    }

    /// The last place at or before `index` with an entry of `term` or older: where two logs of which
    /// one has that entry may still agree. `None` if it lies before the base.
    pub(crate) fn last_not_newer(&self, index: Index, term: Term) -> Option<Index> {
        if index < self.base_index || self.base_term > term {
            return None;
        }
        let not_newer = self.entries.partition_point(|entry| entry.term <= term);
        Some(index.min(self.base_index + not_newer as u64))
    }

    /// How many entries in front are held already with the same term.
    pub(crate) fn count_held(&self, entries: &[Entry]) -> usize {
        entries
            .iter()
            .take_while(|entry| {
                entry.index <= self.base_index || self.matches(entry.index, entry.term)
            })
            .count()
    }

    /// Puts entries in, which is the truncation of everything from the first of them on. `seq` is
    /// the write that makes them durable.
    pub(crate) fn append(&mut self, seq: PersistSeq, entries: impl IntoIterator<Item = Entry>) {
        let mut entries = entries.into_iter().peekable();
        let Some(first) = entries.peek().map(|entry| entry.index) else {
            return;
        };
        self.truncate(first);
        for entry in entries {
            assert_eq!(entry.index, self.last_index().next(), "a gap in the log");
            assert!(
                entry.term >= self.last_term(),
                "terms fall from {} to {entry:?}",
                self.last_term()
            );
            self.uncommitted_bytes += entry.data.len();
            self.entries.push_back(entry);
        }
        self.pending.push_back(Pending {
            seq,
            last: self.last_index(),
        });
    }

    /// Drops everything from `first` on. A write that is still on its way to the disk then counts for
    /// what is left of it only: the entries that take the place of the dropped ones come with a write
    /// of their own.
    fn truncate(&mut self, first: Index) {
        let keep = first.prev();
        assert!(
            keep >= self.base_index && keep <= self.last_index(),
            "an append at {first} leaves a gap: the log is {}..={}",
            self.base_index,
            self.last_index()
        );
        let kept = (keep - self.base_index) as usize;
        for dropped in self.entries.drain(kept..) {
            self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(dropped.data.len());
        }
        self.persisted = self.persisted.min(keep);
        for pending in &mut self.pending {
            pending.last = pending.last.min(keep);
        }
        // Only a planted bug comes here with less than what is committed.
        self.commit = self.commit.min(keep);
        self.applied = self.applied.min(keep);
    }

    /// Replaces everything by a snapshot's end. `seq` is the write that makes it so on the disk.
    pub(crate) fn reset(&mut self, seq: Option<PersistSeq>, index: Index, term: Term) {
        assert!(
            index > self.commit,
            "a snapshot at {index} under commit {}",
            self.commit
        );
        self.base_index = index;
        self.base_term = term;
        self.entries.clear();
        self.pending.clear();
        self.uncommitted_bytes = 0;
        self.commit = index;
        self.applied = index;
        match seq {
            // Until then the disk holds the old log, and nothing of this one.
            Some(seq) => {
                self.persisted = Index::ZERO;
                self.pending.push_back(Pending { seq, last: index });
            }
            None => self.persisted = index,
        }
    }

    /// Notes that all writes up to `seq` are durable.
    pub(crate) fn persisted_to(&mut self, seq: PersistSeq) {
        while let Some(pending) = self.pending.pop_front_if(|pending| pending.seq <= seq) {
            self.persisted = self.persisted.max(pending.last);
        }
    }

    /// The write that makes everything up to `index` durable; 0 if it is.
    pub(crate) fn durable_with(&self, index: Index) -> PersistSeq {
        if index <= self.persisted {
            return 0;
        }
        let covering = self.pending.iter().find(|pending| pending.last >= index);
        covering
            .unwrap_or_else(|| {
                panic!("entry {index} is in the log, but nobody writes it: {self:?}")
            })
            .seq
    }

    pub(crate) fn commit_to(&mut self, index: Index) {
        assert!(
            index <= self.last_index(),
            "commit {index} after the last entry {}",
            self.last_index()
        );
        if index <= self.commit {
            return;
        }
        let newly: usize = self
            .entries(self.commit.next()..=index)
            .map(|entry| entry.data.len())
            .sum();
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(newly);
        self.commit = index;
    }

    pub(crate) fn applied_to(&mut self, index: Index) {
        assert!(
            self.applied <= index && index <= self.commit,
            "applied {index} outside of {}..={}",
            self.applied,
            self.commit
        );
        self.applied = index;
    }

    /// Puts the applied cursor where a newly loaded state ends.
    pub(crate) fn state_replaced(&mut self, index: Index) {
        assert!(self.base_index <= index && index <= self.last_index());
        self.commit_to(index);
        self.applied = index;
    }

    /// Lets go of the entries up to `upto`.
    pub(crate) fn compact(&mut self, upto: Index) {
        assert!(
            upto <= self.applied,
            "entry {upto} is not applied yet, only {}",
            self.applied
        );
        if upto <= self.base_index {
            return;
        }
        assert!(
            upto <= self.persisted,
            "entry {upto} is not durable yet, only {}",
            self.persisted
        );
        self.base_term = self.term_at(upto).expect("an applied entry has a term");
        self.entries.drain(..(upto - self.base_index) as usize);
        self.base_index = upto;
    }

    pub(crate) fn check(&self) {
        let last = self.last_index();
        assert!(
            self.base_index <= self.applied && self.applied <= self.commit && self.commit <= last,
            "base {} applied {} commit {} last {last}",
            self.base_index,
            self.applied,
            self.commit
        );
        assert!(
            self.persisted <= last,
            "persisted {} last {last}",
            self.persisted
        );
        let mut before = (self.base_index, self.base_term);
        for entry in &self.entries {
            assert!(
                entry.index == before.0.next() && entry.term >= before.1 && entry.term > Term::ZERO,
                "{entry:?} after {}@{}",
                before.0,
                before.1
            );
            before = (entry.index, entry.term);
        }
        let mut seq = 0;
        for pending in &self.pending {
            assert!(seq < pending.seq && pending.last <= last, "{pending:?}");
            seq = pending.seq;
        }
        let newest = self.pending.iter().map(|pending| pending.last).max();
        assert_eq!(
            newest.unwrap_or(self.persisted).max(self.persisted),
            last,
            "entries that nobody writes"
        );
    }

    /// The sum that `uncommitted_bytes` keeps; for checks.
    pub(crate) fn uncommitted_bytes_counted(&self) -> usize {
        self.entries(self.commit.next()..=self.last_index())
            .map(|entry| entry.data.len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::Payload;

    fn entries(from: u64, terms: &[u64]) -> Vec<Entry> {
        terms
            .iter()
            .zip(from..)
            .map(|(term, index)| Entry {
                index: Index(index),
                term: Term(*term),
                payload: Payload::Command,
                data: Bytes::from_static(b"x"),
            })
            .collect()
    }

    fn log(terms: &[u64]) -> Log {
        Log::new(Index::ZERO, Term::ZERO, entries(1, terms), Index::ZERO)
    }

    #[test]
    fn an_acknowledged_write_counts_only_for_what_is_left_of_it() {
        let mut log = log(&[1]);
        log.append(1, entries(2, &[1, 1]));
        log.append(2, entries(3, &[2]));
        log.persisted_to(1);
        assert_eq!(log.persisted(), Index(2));
        assert_eq!(log.durable_with(Index(3)), 2);
        log.check();
        log.persisted_to(2);
        assert_eq!(log.persisted(), Index(3));
    }

    #[test]
    fn places_where_logs_may_agree() {
        let log = log(&[1, 1, 3, 3, 5]);
        for (index, term, expected) in [(5, 4, 4), (5, 2, 2), (3, 3, 3), (5, 9, 5), (2, 0, 0)] {
            let place = log.last_not_newer(Index(index), Term(term));
            assert_eq!(place, Some(Index(expected)), "{index} {term}");
        }
        assert_eq!(
            Log::new(Index(4), Term(3), Vec::new(), Index::ZERO).last_not_newer(Index(9), Term(2)),
            None
        );
    }

    #[test]
    fn compaction_keeps_the_term_of_the_base() {
        let mut log = log(&[1, 2, 2]);
        log.commit_to(Index(3));
        log.applied_to(Index(2));
        log.compact(Index(2));
        log.check();
        assert_eq!(log.term_at(Index(2)), Some(Term(2)));
        assert_eq!(log.term_at(Index(1)), None);
        assert_eq!(log.entries(Index(1)..=Index(9)).count(), 1);
    }

    #[test]
    fn held_entries_are_counted_up_to_the_first_other_term() {
        let log = log(&[1, 1, 2]);
        assert_eq!(log.count_held(&entries(2, &[1, 2, 2])), 2);
        assert_eq!(log.count_held(&entries(2, &[1, 3])), 1);
        assert_eq!(log.count_held(&entries(4, &[3])), 0);
    }

    #[test]
    #[should_panic(expected = "not applied yet")]
    fn what_is_not_applied_cannot_be_dropped() {
        log(&[1]).compact(Index(1));
    }

    #[test]
    #[should_panic(expected = "not durable yet")]
    fn what_is_not_durable_cannot_be_dropped() {
        let mut log = log(&[1]);
        log.append(1, entries(2, &[1]));
        log.state_replaced(Index(2));
        log.compact(Index(2));
    }
}
