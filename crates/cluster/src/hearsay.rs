//! Hearsay: what nodes have said and what may be late, lost or over by now.
//!
//! Who is primary, how far a move is, how large a shard is: useful for showing and planning, and never
//! for deciding. None of it is in the state, in its hash or in the log; every node keeps what it heard.
//! Losing it costs a moment of ignorance. What a plan draws from it becomes a fact by the command that
//! is proposed, and is checked against the state when it is applied.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{GroupId, Malformed, NodeId, Slot, Term};

use crate::codec::{open, seal};
use crate::numbers::MoveId;
use crate::state::State;

/// Who leads a group, as far as is heard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Primary {
    /// In which term. A higher one wins.
    pub term: Term,
    /// On which node.
    pub node: NodeId,
}

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Phase {
    /// The source has not begun.
    #[default]
    Opened,
    /// The source serves and sends.
    Sending,
    /// The source does not serve the slots any more; the target decides.
    Sealed,
    /// The target, or the source, has decided.
    Decided,
}

/// How far a move is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Progress {
    /// Which attempt of the source this is; a higher one wins, and in one the further one.
    pub attempt: u64,
    /// Where it is.
    pub phase: Phase,
    /// Slots that were sent once as a whole.
    pub slots_done: u32,
    /// Bytes sent.
    pub bytes_done: u64,
    /// Bytes to be sent, as far as is known.
    pub bytes_total: u64,
}

/// What was heard.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hearsay {
    /// Who leads which group.
    pub primaries: BTreeMap<GroupId, Primary>,
    /// How far open moves are.
    pub moves: BTreeMap<MoveId, Progress>,
    /// Logical bytes of each shard.
    pub group_bytes: BTreeMap<GroupId, u64>,
    /// Logical bytes of slots, where they were told.
    pub slot_bytes: BTreeMap<Slot, u64>,
    /// Nodes whose disks have no room: nothing can be put there.
    pub full: BTreeSet<NodeId>,
}

impl Hearsay {
    /// Hears who leads a group; says whether it is news.
    pub fn hear_primary(&mut self, group: GroupId, term: Term, node: NodeId) -> bool {
        let said = Primary { term, node };
        let known = self.primaries.get(&group);
        let news = known.is_none_or(|known| said.term > known.term);
        if news {
            self.primaries.insert(group, said);
        }
        news
    }

    /// Hears how far a move is.
    pub fn hear_progress(&mut self, id: MoveId, said: Progress) {
        let known = self.moves.entry(id).or_default();
        *known = said.max(*known);
    }

    /// Hears how large a shard is, and some of its slots.
    pub fn hear_sizes(
        &mut self,
        group: GroupId,
        bytes: u64,
        slots: impl IntoIterator<Item = (Slot, u64)>,
    ) {
        self.group_bytes.insert(group, bytes);
        self.slot_bytes.extend(slots);
    }

    /// Takes over what somebody else has heard.
    pub fn merge(&mut self, other: &Self) {
        for (group, primary) in &other.primaries {
            self.hear_primary(*group, primary.term, primary.node);
        }
        for (id, progress) in &other.moves {
            self.hear_progress(*id, *progress);
        }
        for (group, bytes) in &other.group_bytes {
            self.group_bytes.insert(*group, *bytes);
        }
        self.slot_bytes
            .extend(other.slot_bytes.iter().map(|(slot, bytes)| (*slot, *bytes)));
        self.full.extend(&other.full);
    }

    /// Forgets what is about moves and groups that are over.
    pub fn forget_what_is_over(&mut self, state: &State) {
        self.moves.retain(|id, _| state.moves().contains_key(id));
        let there = |group: &GroupId| state.shards().contains_key(group);
        self.primaries.retain(|group, _| there(group));
        self.group_bytes.retain(|group, _| there(group));
    }

    /// Who leads a group, as far as is heard.
    #[must_use]
    pub fn primary(&self, group: GroupId) -> Option<NodeId> {
        self.primaries.get(&group).map(|primary| primary.node)
    }

    /// It as bytes, in the layout of `codec.rs`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        seal(self)
    }

    /// What these bytes say.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        open(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_term_wins() {
        let mut hearsay = Hearsay::default();
        assert!(hearsay.hear_primary(GroupId(1), Term(4), NodeId(1)));
        assert!(!hearsay.hear_primary(GroupId(1), Term(3), NodeId(2)));
        assert!(!hearsay.hear_primary(GroupId(1), Term(4), NodeId(1)));
        assert_eq!(hearsay.primary(GroupId(1)), Some(NodeId(1)));
        let mut other = Hearsay::default();
        other.hear_primary(GroupId(1), Term(5), NodeId(3));
        hearsay.merge(&other);
        assert_eq!(hearsay.primary(GroupId(1)), Some(NodeId(3)));
    }

    #[test]
    fn a_later_attempt_begins_again() {
        let mut hearsay = Hearsay::default();
        let at = |attempt, phase, bytes_done| Progress {
            attempt,
            phase,
            bytes_done,
            ..Progress::default()
        };
        hearsay.hear_progress(MoveId(1), at(1, Phase::Sealed, 900));
        hearsay.hear_progress(MoveId(1), at(1, Phase::Sending, 500));
        assert_eq!(hearsay.moves[&MoveId(1)], at(1, Phase::Sealed, 900));
        hearsay.hear_progress(MoveId(1), at(2, Phase::Sending, 100));
        assert_eq!(hearsay.moves[&MoveId(1)], at(2, Phase::Sending, 100));
        assert_eq!(Hearsay::decode(&hearsay.encode()), Ok(hearsay));
    }
}
