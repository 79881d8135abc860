//! A consistent view of a keyspace, as it is at one applied index.
//!
//! Taking one costs a few counts, whatever the size; while it lives, the first write to a bucket
//! copies that bucket. It is handed out item by item in the order of slots: what belongs to the whole,
//! then each slot with its session rows and its keys. Buckets are let go as they are passed, so a view
//! is best consumed (or dropped) on another thread: dropping many buckets that nobody else holds any
//! more costs milliseconds.
//!
//! Everything that apply can see is among the items; whatever is not (deadline index, order of
//! removal, sums) is derived again by [`Loader`](crate::Loader).

use std::sync::Arc;

use kvorum_base::planted::{Bug, Planted};
use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{SessionId, Slot, SlotSet, UnixMillis};

use crate::directory::{Bucket, Walk};
use crate::entry::{Entry, VERSION_MAX};
use crate::keyspace::Keyspace;
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::session::{Recorded, SessionRow};
use crate::slots::{SlotState, Slots};
use crate::value::ValueRef;

/// One piece of the state. The order is: the meta item; then for each slot that ever changed, in
/// order, its slot item, its sessions, its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// What belongs to the whole.
    Meta(&'a MetaItem),
    /// A slot.
    Slot(SlotItem),
    /// A session's row in the last slot.
    Session(SessionItem<'a>),
    /// A key of the last slot.
    Key(KeyItem<'a>),
}

/// What belongs to no slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaItem {
    /// The logged clock.
    pub clock: UnixMillis,
    /// The level that decides how commands are applied.
    pub level: u32,
    /// The next session to be opened.
    pub next_session: SessionId,
    /// How many sessions end when, in order.
    pub open_sessions: Vec<(UnixMillis, u64)>,
    /// The slots whose keys commands see; what else follows is hidden.
    pub served: Arc<SlotSet>,
}

/// What is kept for a slot. Counts and hash are what its sessions and keys come to: checked when they
/// are loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotItem {
    /// The slot.
    pub slot: Slot,
    /// How many changes were applied to it.
    pub version: u64,
    /// The version at the last removal of a key.
    pub last_removal: u64,
    /// How many session items follow.
    pub sessions: u64,
    /// How many key items follow these.
    pub keys: u64,
    /// The sum of the hashes of them all.
    pub hash: u64,
}

/// What a slot remembers of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionItem<'a> {
    /// The session.
    pub session: SessionId,
    /// When it ends.
    pub end: UnixMillis,
    /// The largest sequence number seen in this slot.
    pub last_sequence: u64,
    /// The replies that may be asked for again, by rising sequence number.
    pub replies: &'a [Recorded],
}

/// A key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyItem<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What it holds.
    pub value: ValueRef<'a>,
    /// When it ends, if it does.
    pub deadline: Option<UnixMillis>,
    /// Its version.
    pub version: u64,
}

impl SlotItem {
    /// Whether there is such a slot and it can have such versions.
    pub(crate) fn is_holdable(&self) -> bool {
        self.slot.get() < SLOT_COUNT
            && self.last_removal <= self.version
            && self.version <= VERSION_MAX
    }
}

impl KeyItem<'_> {
    /// Whether a keyspace can hold such a key, in a slot that is as new as it.
    pub(crate) fn is_holdable(&self) -> bool {
        let ValueRef::String(text) = self.value;
        self.key.len() <= KEY_BYTES_MAX
            && text.as_bytes().len() <= VALUE_BYTES_MAX
            && self.version <= VERSION_MAX
    }
}

/// The view. It can be sent to another thread.
#[derive(Debug)]
pub struct View {
    meta: MetaItem,
    meta_is_due: bool,
    slots: Slots,
    /// The next slot to look for.
    next_slot: u32,
    /// What of the current slot is still to come.
    sessions_due: u64,
    keys_due: u64,
    rows: Passage<Arc<SessionRow>>,
    keys: Passage<Entry>,
    planted: Planted,
}

/// A walk with a place in its current bucket.
#[derive(Debug)]
struct Passage<T> {
    walk: Walk<T>,
    bucket: Option<Arc<Bucket<T>>>,
    next: usize,
}

impl<T: Clone> Passage<T> {
    fn new(walk: Walk<T>) -> Self {
        Self {
            walk,
            bucket: None,
            next: 0,
        }
    }

    /// Moves on to the next one; buckets that are done are let go.
    fn advance(&mut self) -> &T {
        loop {
            if self
                .bucket
                .as_ref()
                .is_some_and(|bucket| self.next < bucket.items().len())
            {
                break;
            }
            self.bucket = self.walk.next_bucket();
            self.next = 0;
            assert!(self.bucket.is_some(), "a slot counts more than there is");
        }
        let Some(bucket) = &self.bucket else {
            unreachable!("found above");
        };
        self.next += 1;
        &bucket.items()[self.next - 1].value
    }
}

impl Keyspace {
    /// Takes a view of everything as it is now. Microseconds.
    ///
    /// Every field of the keyspace is either in the view or named as derived here: a new one does
    /// not compile until somebody has thought of it.
    #[must_use]
    pub fn view(&self) -> View {
        let Self {
            locator: _,
            keys,
            rows,
            slots,
            served,
            hidden_keys: _,
            deadlines: _,
            row_ends: _,
            clock,
            since_clock: _,
            level,
            next_session,
            open_sessions,
            key_bytes: _,
            row_bytes: _,
            garbage: _,
            planted,
            #[cfg(feature = "planted")]
                local_clock: _,
        } = self;
        let ends = open_sessions.iter().map(|(&end, &count)| (end, count));
        View {
            meta: MetaItem {
                clock: *clock,
                level: *level,
                next_session: *next_session,
                open_sessions: ends.collect(),
                served: Arc::clone(served),
            },
            meta_is_due: true,
            slots: slots.clone(),
            next_slot: 0,
            sessions_due: 0,
            keys_due: 0,
            rows: Passage::new(rows.walk()),
            keys: Passage::new(keys.walk()),
            planted: *planted,
        }
    }
}

impl View {
    /// What belongs to the whole.
    #[must_use]
    pub fn meta(&self) -> &MetaItem {
        &self.meta
    }

    /// The next item. Each is borrowed until the next call.
    pub fn next_item(&mut self) -> Option<Item<'_>> {
        if self.meta_is_due {
            self.meta_is_due = false;
            return Some(Item::Meta(&self.meta));
        }
        if self.sessions_due > 0 {
            self.sessions_due -= 1;
            return Some(Item::Session(session_item(self.rows.advance())));
        }
        if self.keys_due > 0 {
            self.keys_due -= 1;
            return Some(Item::Key(key_item(self.keys.advance())));
        }
        let from = u16::try_from(self.next_slot).ok()?;
        let (slot, state) = self.slots.touched_from(from).next()?;
        self.next_slot = u32::from(slot.get()) + 1;
        let mut item = slot_item(slot, state);
        if self.planted.has(Bug::SessionsNotInSnapshot) {
            item.sessions = 0;
            item.hash = item.hash.wrapping_sub(state.rows_hash);
        }
        (self.sessions_due, self.keys_due) = (item.sessions, item.keys);
        Some(Item::Slot(item))
    }
}

pub(crate) fn slot_item(slot: Slot, state: &SlotState) -> SlotItem {
    let SlotState {
        version,
        last_removal,
        keys,
        rows,
        bytes: _,
        row_bytes: _,
        keys_hash,
        rows_hash,
    } = *state;
    SlotItem {
        slot,
        version,
        last_removal,
        sessions: rows,
        keys,
        hash: keys_hash.wrapping_add(rows_hash),
    }
}

pub(crate) fn session_item(row: &SessionRow) -> SessionItem<'_> {
    let SessionRow {
        session,
        end,
        last_sequence,
        replies,
    } = row;
    SessionItem {
        session: *session,
        end: *end,
        last_sequence: *last_sequence,
        replies,
    }
}

pub(crate) fn key_item(entry: &Entry) -> KeyItem<'_> {
    let (key, value, deadline, version) = entry.parts();
    KeyItem {
        key,
        value,
        deadline,
        version,
    }
}
