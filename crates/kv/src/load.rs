//! A keyspace out of the items of a view. Items come from a file or from another node, so nothing
//! about them is believed: what does not fit is refused, and every slot's counts and hash must come
//! out as the slot item said.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::entry::Entry;
use crate::keyspace::Keyspace;
use crate::session::SessionRow;
use crate::view::{Item, KeyItem, MetaItem, SessionItem, SlotItem};

/// The items are not those of a view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadError {
    what: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a keyspace: {}", self.what)
    }
}

impl std::error::Error for LoadError {}

fn refuse<T>(what: impl Into<String>) -> Result<T, LoadError> {
    Err(LoadError { what: what.into() })
}

/// Builds a keyspace from the items of a view, in their order.
#[derive(Debug)]
pub struct Loader {
    keyspace: Keyspace,
    has_meta: bool,
    /// The slot that items belong to, as announced.
    slot: Option<SlotItem>,
}

impl Loader {
    /// Nothing loaded yet. The secret is the cluster's.
    #[must_use]
    pub fn new(secret: [u8; 16]) -> Self {
        Self {
            keyspace: Keyspace::new(secret),
            has_meta: false,
            slot: None,
        }
    }

    /// Takes the next item.
    ///
    /// # Errors
    /// If it is not what a view gives here. The loader is of no use any more then.
    pub fn load(&mut self, item: Item<'_>) -> Result<(), LoadError> {
        match item {
            Item::Meta(meta) => self.load_meta(meta),
            Item::Slot(slot) => self.load_slot(slot),
            Item::Session(session) => self.load_session(session),
            Item::Key(key) => self.load_key(key),
        }
    }

    /// The keyspace, once all items are in.
    ///
    /// # Errors
    /// If some are missing.
    pub fn finish(mut self) -> Result<Keyspace, LoadError> {
        if !self.has_meta {
            return refuse("no meta item");
        }
        self.close_slot()?;
        Ok(self.keyspace)
    }

    fn load_meta(&mut self, meta: &MetaItem) -> Result<(), LoadError> {
        let MetaItem {
            clock,
            level,
            next_session,
            open_sessions,
            served,
        } = meta;
        if std::mem::replace(&mut self.has_meta, true) {
            return refuse("two meta items");
        }
        let ends: BTreeMap<_, _> = open_sessions.iter().copied().collect();
        if ends.len() != open_sessions.len() {
            return refuse("two counts of sessions for one end");
        }
        self.keyspace.clock = *clock;
        self.keyspace.level = *level;
        self.keyspace.next_session = *next_session;
        self.keyspace.open_sessions = Arc::new(ends);
        self.keyspace.served = Arc::clone(served);
        Ok(())
    }

    fn load_slot(&mut self, item: SlotItem) -> Result<(), LoadError> {
        self.close_slot()?;
        let in_order = self
            .slot
            .is_none_or(|last| last.slot.get() < item.slot.get());
        if !self.has_meta || !in_order {
            return refuse(format!("slot {} does not follow", item.slot));
        }
        if !item.is_holdable() {
            return refuse(format!("what is said of slot {}", item.slot));
        }
        let state = self.keyspace.slots.get_mut(item.slot);
        state.version = item.version;
        state.last_removal = item.last_removal;
        self.slot = Some(item);
        Ok(())
    }

    fn load_session(&mut self, item: SessionItem<'_>) -> Result<(), LoadError> {
        let SessionItem {
            session,
            end,
            last_sequence,
            replies,
        } = item;
        let slot = self.open_slot()?.slot;
        let row = SessionRow {
            session,
            end,
            last_sequence,
            replies: replies.to_vec(),
        };
        if !row.is_holdable() {
            return refuse(format!("the row of session {session} in slot {slot}"));
        }
        if self.keyspace.has_row(slot, session) {
            return refuse(format!("two rows of session {session} in slot {slot}"));
        }
        self.keyspace.put_row(slot, row);
        Ok(())
    }

    fn load_key(&mut self, item: KeyItem<'_>) -> Result<(), LoadError> {
        let slot = self.open_slot()?;
        let at = self.keyspace.locate(item.key);
        let fits =
            item.is_holdable() && item.version <= slot.version && at.position.slot() == slot.slot;
        if !fits {
            return refuse(format!("a key in slot {}", slot.slot));
        }
        let entry = Entry::of_item(item);
        if self.keyspace.put_new(at, entry) {
            Ok(())
        } else {
            refuse(format!("a key twice in slot {}", slot.slot))
        }
    }

    fn open_slot(&self) -> Result<SlotItem, LoadError> {
        match self.slot {
            Some(slot) => Ok(slot),
            None => refuse("an item before the first slot"),
        }
    }

    /// Compares what came in for the last slot with what was announced.
    fn close_slot(&mut self) -> Result<(), LoadError> {
        let Some(SlotItem {
            slot,
            version: _,
            last_removal: _,
            sessions,
            keys,
            hash,
        }) = self.slot
        else {
            return Ok(());
        };
        let state = self.keyspace.slots.get(slot);
        let loaded = (state.rows, state.keys, self.keyspace.slot_hash(slot));
        if loaded == (sessions, keys, hash) {
            Ok(())
        } else {
            refuse(format!("slot {slot} is not what it was said to be"))
        }
    }
}
