//! What was committed in a term is in the log of every leader of a later one (Raft paper, figure 3:
//! leader completeness).

use std::collections::BTreeMap;

use kvorum_base::Index;
use kvorum_raft::Raft;

use super::state_machine::Committed;

/// Looks at a replica that was just elected.
///
/// # Errors
/// If it lacks an entry, or holds another one in its place.
pub fn check(raft: &Raft, committed: &BTreeMap<Index, Committed>) -> Result<(), String> {
    for (index, entry) in committed.range(raft.base_index().next()..) {
        // A leader that is elected late, in an old term, need not know what newer terms did.
        if entry.since >= raft.term() {
            continue;
        }
        let held = raft.term_at(*index);
        if held != Some(entry.term) {
            return Err(format!(
                "replica {} leads in term {} and holds {held:?} at {index}, where {entry:?} is \
                 committed",
                raft.id(),
                raft.term()
            ));
        }
    }
    Ok(())
}
