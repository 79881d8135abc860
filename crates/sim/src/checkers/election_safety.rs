//! At most one leader in a term (Raft paper, figure 3: election safety).

use std::collections::BTreeMap;

use kvorum_base::{ReplicaId, Term};
use kvorum_raft::Raft;

/// Who was ever seen to lead, by term.
#[derive(Default, Debug)]
pub struct ElectionSafety {
    leaders: BTreeMap<Term, ReplicaId>,
}

impl ElectionSafety {
    /// Looks at a replica after a turn. True if it leads in a term that had no leader before.
    ///
    /// # Errors
    /// If another one led in its term.
    pub fn observe(&mut self, raft: &Raft) -> Result<bool, String> {
        if !raft.is_leader() {
            return Ok(false);
        }
        let (term, id) = (raft.term(), raft.id());
        match self.leaders.insert(term, id) {
            None => Ok(true),
            Some(before) if before == id => Ok(false),
            Some(before) => Err(format!(
                "replicas {before} and {id} both lead in term {term}"
            )),
        }
    }

    /// The newest term that had a leader.
    #[must_use]
    pub fn newest(&self) -> Term {
        self.leaders.keys().next_back().copied().unwrap_or_default()
    }
}
