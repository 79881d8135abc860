//! Which group of this node serves a slot, so that the door looks once. A replica without a state serves
//! none.

use std::sync::Arc;

use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{Slot, SlotSet};

use crate::group::Group;

/// Served by no group here.
const NOWHERE: u16 = u16::MAX;

/// Of a slot that has moved, a follower of its old group may not know yet; whoever leads does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rank {
    Stateless,
    Follows,
    Leads,
}

fn rank(group: &Group) -> Rank {
    match (group.leading(), group.state.is_some()) {
        (true, _) => Rank::Leads,
        (false, true) => Rank::Follows,
        (false, false) => Rank::Stateless,
    }
}

/// By slot: the place of the group that serves it. Derived from the groups; made anew when one of their
/// sets has changed.
#[derive(Debug)]
pub(crate) struct Places {
    groups: Box<[u16]>,
    made_of: Vec<(Rank, Arc<SlotSet>)>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            groups: vec![NOWHERE; usize::from(SLOT_COUNT)].into(),
            made_of: Vec::new(),
        }
    }
}

impl Places {
    /// The place of the group that serves this slot, among the node's groups.
    pub(crate) fn group_of(&self, slot: Slot) -> Option<usize> {
        let group = self.groups[usize::from(slot.get())];
        (group != NOWHERE).then_some(usize::from(group))
    }

    /// Looks at the groups again.
    pub(crate) fn update(&mut self, groups: &[Group]) {
        let is_same = |(group, (known, set)): (&Group, &(Rank, Arc<SlotSet>))| {
            // A set is never changed while another holds it: the same place in memory is the same set.
            rank(group) == *known && Arc::ptr_eq(group.served(), set)
        };
        if self.made_of.len() == groups.len() && groups.iter().zip(&self.made_of).all(is_same) {
            return;
        }
        let made_of = groups
            .iter()
            .map(|group| (rank(group), Arc::clone(group.served())));
        self.made_of = made_of.collect();
        self.groups.fill(NOWHERE);
        for rank in [Rank::Follows, Rank::Leads] {
            let sets = self.made_of.iter().enumerate();
            for (place, (_, set)) in sets.filter(|(_, (known, _))| *known == rank) {
                for (first, last) in set.runs() {
                    self.groups[usize::from(first)..=usize::from(last)].fill(place as u16);
                }
            }
        }
    }
}
