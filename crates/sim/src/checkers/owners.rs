//! A slot has one owner at most, whatever moves where and whoever fails meanwhile; and for each slot the
//! logged clock goes on where it was.
//!
//! What counts is what a group has decided as far as anybody has applied it: a replica that is behind may
//! still believe that it serves a slot, and nothing comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvorum_base::{GroupId, Index, Slot, SlotSet, UnixMillis};
use kvorum_node::moves::state::Moves;

/// What the newest state of each group says.
#[derive(Default, Debug)]
pub struct Owners {
    groups: BTreeMap<GroupId, (Index, Arc<SlotSet>)>,
    /// The clock at which a slot was sealed by the group that gives it away.
    given: BTreeMap<Slot, UnixMillis>,
}

impl Owners {
    /// A replica of a group has applied this much, and then serves these slots.
    ///
    /// # Errors
    /// If another group serves one of them too, or the clock of one steps back.
    pub fn observe(
        &mut self,
        group: GroupId,
        applied: Index,
        served: &Arc<SlotSet>,
        clock: UnixMillis,
        moves: &Moves,
    ) -> Result<(), String> {
        let (newest, known) = self.groups.entry(group).or_default();
        if applied <= *newest {
            return Ok(());
        }
        *newest = applied;
        for out in moves.outgoing.values() {
            if let Some(sealed) = out.sealed {
                let slots = out.slots.iter();
                self.given.extend(slots.map(|slot| (slot, sealed.clock)));
            }
        }
        if Arc::ptr_eq(known, served) {
            return Ok(());
        }
        let before = std::mem::replace(known, Arc::clone(served));
        for slot in served.iter().filter(|slot| !before.contains(*slot)) {
            if let Some(then) = self.given.remove(&slot)
                && clock < then
            {
                return Err(format!(
                    "the clock of slot {slot} steps back from {then} to {clock}"
                ));
            }
        }
        for (other, (_, others)) in &self.groups {
            if *other != group && others.meets(served) {
                let slot = served.iter().find(|slot| others.contains(*slot));
                return Err(format!(
                    "groups {group} and {other} both serve slot {slot:?}"
                ));
            }
        }
        Ok(())
    }
}
