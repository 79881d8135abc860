//! At most one leader in a term (Raft paper, figure 3, "election safety").

use std::collections::BTreeMap;

use kvorum_base::GroupId;
use kvorum_node::status::GroupStatus;

/// Who was seen to lead.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<(GroupId, u64), usize>,
}

impl ElectionSafety {
    /// Looks at a replica.
    ///
    /// # Panics
    /// If it leads in a term in which another one led.
    pub fn observe(&mut self, machine: usize, group: &GroupStatus) {
        if group.leading {
            let leader = *self
                .leaders
                .entry((group.group, group.term))
                .or_insert(machine);
            assert_eq!(
                leader, machine,
                "election safety: machines {leader} and {machine} lead group {} in term {}",
                group.group, group.term
            );
        }
    }
}
