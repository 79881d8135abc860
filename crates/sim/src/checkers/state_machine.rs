//! Two replicas that applied the same entries hold the same state (Raft paper, figure 3, "state machine
//! safety"). The states are compared by their hashes at every applied index at which two replicas, or
//! two lives of one, were seen.

use std::collections::BTreeMap;

use kvorum_base::GroupId;
use kvorum_node::status::GroupStatus;

/// The state hashes seen.
#[derive(Debug, Default)]
pub struct StateMachineSafety {
    hashes: BTreeMap<(GroupId, u64), (u64, usize)>,
    applied: BTreeMap<(GroupId, usize, u64), u64>,
}

impl StateMachineSafety {
    /// Looks at a replica in one life of its node.
    ///
    /// # Panics
    /// If its state differs from another's at the same index, or went back.
    pub fn observe(&mut self, life: (usize, u64), group: &GroupStatus) {
        // Without a state there is nothing to compare; it takes one from the leader.
        if group.role == "waiting" {
            return;
        }
        let (machine, number) = life;
        let applied = self
            .applied
            .entry((group.group, machine, number))
            .or_default();
        assert!(
            group.applied >= *applied && group.applied <= group.commit,
            "state machine safety: machine {machine} applied {} after {applied}, committed is {}",
            group.applied,
            group.commit
        );
        *applied = group.applied;
        let seen = (group.state_hash, machine);
        let first = *self
            .hashes
            .entry((group.group, group.applied))
            .or_insert(seen);
        assert_eq!(
            first.0, group.state_hash,
            "state machine safety: machines {} and {machine} differ in group {} at index {}",
            first.1, group.group, group.applied
        );
    }
}
