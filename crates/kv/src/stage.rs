//! Taking in what another group sends of a slot that is on its way here.
//!
//! A change is put into a hidden slot exactly as it is: version, deadline and counters are the
//! source's, and nothing here counts it as a change of its own. So a slot that took in all changes is
//! bit by bit the source's, which [`Keyspace::slots_hash`] proves; until it is shown, no command and no
//! clock gets at it. To begin anew, the slot is dropped first.
//!
//! Taking in is a part of apply: it cannot fail and is the same on every replica. What is not for a
//! hidden slot, or is nothing that a keyspace can hold, changes nothing. A change that was lost,
//! repeated out of turn or wrong leaves a keyspace that is sound (a snapshot of it can be loaded), and
//! a hash that is not the source's.

use std::sync::Arc;

use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{SessionId, Slot};

use crate::delta::{Change, SessionChange};
use crate::entry::Entry;
use crate::keyspace::Keyspace;
use crate::session::SessionRow;
use crate::view::{KeyItem, SlotItem};

impl Keyspace {
    /// Takes in a change of a hidden slot: puts in or replaces what is said to be there, takes out what
    /// is said to be gone (nothing, if it is not here). Its counts and hash are this keyspace's own sums,
    /// whatever a slot's change says of them. Only in apply.
    ///
    /// False, and nothing changed, if the slot is not hidden or does not exist; if no keyspace can hold
    /// this; if a key is newer than its slot, or a slot older than it was here.
    pub fn stage(&mut self, change: Change<'_>) -> bool {
        match change {
            Change::Slot(item) => self.stage_slot(item),
            Change::Session(session) => self.stage_row(session),
            Change::SessionGone { slot, session } => {
                let hidden = self.is_hidden(slot);
                if hidden {
                    self.take_row(slot, session);
                }
                hidden
            }
            Change::Key(item) => self.stage_key(item),
            Change::KeyGone { key } => {
                let at = self.locate(key);
                let hidden = self.is_hidden(at.position.slot());
                if hidden {
                    self.take_out(at);
                }
                hidden
            }
        }
    }

    /// Counts the changes of a slot by those of its keys that are left: a bug, for the simulator.
    #[cfg(feature = "planted")]
    pub fn recount_versions(&mut self, slot: Slot) {
        let first = crate::position::Position::first_of(slot);
        let keys = self.keys.range(first);
        let keys = keys.take_while(|item| item.position.slot() == slot);
        let newest = keys.map(|item| item.value.version()).max();
        let state = self.slots.get_mut(slot);
        state.version = newest.unwrap_or(0);
        state.last_removal = 0;
    }

    fn is_hidden(&self, slot: Slot) -> bool {
        slot.get() < SLOT_COUNT && !self.served.contains(slot)
    }

    fn stage_slot(&mut self, item: SlotItem) -> bool {
        let fits = item.is_holdable()
            && self.is_hidden(item.slot)
            && item.version >= self.slots.get(item.slot).version;
        if fits {
            let state = self.slots.get_mut(item.slot);
            state.version = item.version;
            state.last_removal = item.last_removal;
        }
        fits
    }

    fn stage_key(&mut self, item: KeyItem<'_>) -> bool {
        let at = self.locate(item.key);
        let slot = at.position.slot();
        let fits = self.is_hidden(slot)
            && item.is_holdable()
            && item.version <= self.slots.get(slot).version;
        if !fits {
            return false;
        }
        let entry = Entry::of_item(item);
        let order = |entry: &Entry| entry.compare(at.key);
        if let Some(old) = self.keys.find_mut(at.position, order) {
            let (before, after) = (old.weight(), entry.weight());
            *old = entry;
            self.weigh(slot, before, after);
        } else {
            self.put_new(at, entry);
        }
        true
    }

    fn stage_row(&mut self, change: SessionChange<'_>) -> bool {
        let SessionChange {
            slot,
            session,
            end,
            last_sequence,
            replies,
        } = change;
        let row = SessionRow {
            session,
            end,
            last_sequence,
            replies: replies.into_owned(),
        };
        let fits = self.is_hidden(slot) && row.is_holdable();
        if fits {
            self.replace_row(slot, session, row);
        }
        fits
    }

    fn replace_row(&mut self, slot: Slot, session: SessionId, row: SessionRow) {
        let at = self.row_position(slot, session);
        let order = |row: &Arc<SessionRow>| row.session.cmp(&session);
        if let Some(old) = self.rows.find_mut(at, order) {
            let (before, after) = (old.weight(slot), row.weight(slot));
            *old = Arc::new(row);
            self.weigh_row(slot, before, after);
        } else {
            self.put_row(slot, row);
        }
    }
}
