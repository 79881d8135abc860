//! After the storm: all live nodes come to the same state.

use kvorum_base::{GroupId, Index};
use kvorum_node::Node;

/// What a node must agree on with the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Everything up to here is in its state.
    pub applied: Index,
    /// Its log ends here.
    pub last: Index,
    /// Its state.
    pub hash: u64,
    /// Whether it knows who leads.
    pub has_leader: bool,
}

/// Where a node stands with a group; `None` if it has no state.
#[must_use]
pub fn position(node: &Node, group: GroupId) -> Option<Position> {
    let replica = node.inspect(group)?;
    let (applied, keyspace) = replica.state?;
    Some(Position {
        applied,
        last: replica.raft.last_index(),
        hash: keyspace.state_hash(),
        has_leader: replica.raft.leader().is_some(),
    })
}

/// Whether these nodes stand at the same place with nothing left to do.
#[must_use]
pub fn has_converged(positions: &[Option<Position>]) -> bool {
    let Some(Some(first)) = positions.first() else {
        return false;
    };
    first.has_leader
        && first.applied == first.last
        && positions.iter().all(|position| *position == Some(*first))
}
