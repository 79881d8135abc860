//! If two logs hold an entry of the same index and term, it is the same entry, and so are all before
//! it (Raft paper, figure 3: log matching).
//!
//! By induction it is enough that an (index, term) has one content and one predecessor's term
//! everywhere. Only what is new in a log is looked at: a replica's own log is followed by a view,
//! which also tells when a newer leader replaced entries.

use std::collections::{BTreeMap, HashMap};

use kvorum_base::crc::crc32c;
use kvorum_base::{Index, ReplicaId, Term};
use kvorum_raft::{Entry, Raft};

/// What an entry is, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Print {
    content: u32,
    previous: Option<Term>,
}

/// The entries of all logs.
#[derive(Default, Debug)]
pub struct LogMatching {
    entries: HashMap<(Index, Term), Print>,
    /// By replica: what its log was seen to hold.
    views: BTreeMap<ReplicaId, BTreeMap<Index, Term>>,
}

/// A short word for the content of an entry.
#[must_use]
pub fn print_of(entry: &Entry) -> u32 {
    crc32c(&entry.data)
}

impl LogMatching {
    /// The replica begins another life: its log is what its disk kept.
    pub fn restarted(&mut self, replica: ReplicaId) {
        self.views.remove(&replica);
    }

    /// Looks at a replica's log after a turn. Returns whether entries were replaced by others.
    ///
    /// # Errors
    /// If an entry differs from that of another log.
    pub fn observe(&mut self, raft: &Raft) -> Result<bool, String> {
        let view = self.views.entry(raft.id()).or_default();
        let (base, last) = (raft.base_index(), raft.last_index());
        let mut is_truncated = false;
        while let Some((seen, _)) = view.last_key_value().filter(|(index, _)| **index > last) {
            let seen = *seen;
            view.remove(&seen);
            is_truncated = true;
        }
        let mut at = last;
        while at > base {
            let entry = raft
                .entry(at)
                .ok_or_else(|| format!("entry {at} is missing"))?;
            match view.insert(at, entry.term) {
                Some(term) if term == entry.term => break,
                before => is_truncated |= before.is_some(),
            }
            let previous = Index(at.get() - 1);
            let print = Print {
                content: print_of(entry),
                previous: raft.term_at(previous),
            };
            let key = (at, entry.term);
            let known = *self.entries.entry(key).or_insert(print);
            let differs = known.content != print.content
                || (known.previous.is_some()
                    && print.previous.is_some()
                    && known.previous != print.previous);
            if differs {
                return Err(format!(
                    "entry {at} of term {}: {print:?} at replica {}, {known:?} elsewhere",
                    entry.term,
                    raft.id()
                ));
            }
            at = previous;
        }
        Ok(is_truncated)
    }
}
