//! A leader has everything that was committed in earlier terms (Raft paper, figure 3, "leader
//! completeness"), as far as lengths tell: what is in the entries is compared by state machine safety.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::GroupId;
use kvorum_node::status::GroupStatus;

/// What was seen committed, and who was judged.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    /// By group and term: the highest index that a replica in that term knew as committed.
    committed: BTreeMap<GroupId, BTreeMap<u64, u64>>,
    judged: BTreeSet<(GroupId, u64)>,
}

impl LeaderCompleteness {
    /// Looks at a replica.
    ///
    /// # Panics
    /// If it leads and its log is shorter than what was committed before its term.
    pub fn observe(&mut self, machine: usize, group: &GroupStatus) {
        let committed = self.committed.entry(group.group).or_default();
        if group.leading && self.judged.insert((group.group, group.term)) {
            let before = committed.range(..group.term).map(|(_, index)| *index).max();
            let before = before.unwrap_or(0);
            assert!(
                group.last >= before,
                "leader completeness: machine {machine} leads group {} in term {} with entries up to \
                 {}, and {before} was committed",
                group.group,
                group.term,
                group.last
            );
        }
        let highest = committed.entry(group.term).or_default();
        *highest = (*highest).max(group.commit);
    }
}
