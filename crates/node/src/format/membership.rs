//! Who takes part in a group, as bytes.
//!
//! | field | size | |
//! |---|---|---|
//! | id | 8 | the index of the entry that brought this membership; 0 for the first one |
//! | count | 2 | how many replicas follow; 32768 more if a floor comes first |
//! | floor | 0 or 8 | ids below it that do not follow were let go; only there if it is not 0 |
//! | per replica: replica | 8 | strictly ascending |
//! | node | 8 | where it lives |
//! | role | 1 | 1 voter, 2 outgoing voter of a joint phase, 3 both, 4 learner |
//!
//! A membership has at least one voter. Only the base of a log that does not know its members yet (a
//! replica made for a group it has heard nothing from) is empty, and only where that is said.

use kvorum_base::{Index, Malformed, NodeId, Reader, ReplicaId};
use kvorum_raft::Membership;

const VOTER: u8 = 1;
const OUTGOING: u8 = 2;
const LEARNER: u8 = 4;
/// In the count: a floor comes first.
const HAS_FLOOR: u16 = 1 << 15;

/// The most replicas that a membership can have here. Far above what a group is good for.
pub const REPLICAS_MAX: usize = 1024;

/// Appends the membership.
///
/// # Panics
/// If it has more than [`REPLICAS_MAX`] replicas, or one without a role or with contradicting ones.
pub fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    let count = membership.nodes.len();
    assert!(count <= REPLICAS_MAX, "a membership of {count} replicas");
    out.extend_from_slice(&membership.id.get().to_le_bytes());
    let has_floor = membership.floor > ReplicaId::default();
    let flag = if has_floor { HAS_FLOOR } else { 0 };
    out.extend_from_slice(&(count as u16 | flag).to_le_bytes());
    if has_floor {
        out.extend_from_slice(&membership.floor.get().to_le_bytes());
    }
    for (replica, node) in &membership.nodes {
        let mut role = 0;
        for (set, bit) in [
            (&membership.voters, VOTER),
            (&membership.outgoing, OUTGOING),
            (&membership.learners, LEARNER),
        ] {
            if set.contains(replica) {
                role |= bit;
            }
        }
        assert!(is_role(role), "replica {replica} has the roles {role:#b}");
        out.extend_from_slice(&replica.get().to_le_bytes());
        out.extend_from_slice(&node.get().to_le_bytes());
        out.push(role);
    }
}

/// How many bytes [`put_membership`] appends.
#[must_use]
pub fn membership_len(membership: &Membership) -> usize {
    let has_floor = membership.floor > ReplicaId::default();
    10 + 8 * usize::from(has_floor) + 17 * membership.nodes.len()
}

fn is_role(role: u8) -> bool {
    matches!(role, VOTER | OUTGOING | 3 | LEARNER)
}

/// Reads a membership with at least one voter.
///
/// # Errors
/// If the bytes are not one.
pub fn read_membership(reader: &mut Reader<'_>) -> Result<Membership, Malformed> {
    let membership = read_base_membership(reader)?;
    if membership.voters.is_empty() {
        return Err(reader.malformed("membership without voters"));
    }
    Ok(membership)
}

/// Reads the membership at the base of a log, which may also be wholly empty.
///
/// # Errors
/// If the bytes are not one.
pub fn read_base_membership(reader: &mut Reader<'_>) -> Result<Membership, Malformed> {
    let mut membership = Membership {
        id: super::read_index(reader)?,
        ..Membership::default()
    };
    let count = reader.u16("membership count")?;
    if count & HAS_FLOOR != 0 {
        membership.floor = ReplicaId(reader.u64("membership floor")?);
        if membership.floor == ReplicaId::default() {
            return Err(reader.malformed("membership floor"));
        }
    }
    let count = usize::from(count & !HAS_FLOOR);
    if count > REPLICAS_MAX {
        return Err(reader.malformed("membership count"));
    }
    let mut previous = None;
    for _ in 0..count {
        let replica = ReplicaId(reader.u64("replica")?);
        let node = NodeId(reader.u64("node")?);
        let role = reader.u8("role")?;
        if !is_role(role) || previous >= Some(replica) {
            return Err(reader.malformed("membership replica"));
        }
        previous = Some(replica);
        membership.nodes.insert(replica, node);
        for (set, bit) in [
            (&mut membership.voters, VOTER),
            (&mut membership.outgoing, OUTGOING),
            (&mut membership.learners, LEARNER),
        ] {
            if role & bit != 0 {
                set.insert(replica);
            }
        }
    }
    if count > 0 && membership.voters.is_empty() {
        return Err(reader.malformed("membership without voters"));
    }
    let is_new = (membership.id, membership.floor) == (Index::ZERO, ReplicaId::default());
    if count == 0 && !is_new {
        return Err(reader.malformed("empty membership with an id"));
    }
    Ok(membership)
}
