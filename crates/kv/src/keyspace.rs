//! The state that commands work on: keys, slots, sessions and the logged clock of one group.
//!
//! Everything here is a function of the applied commands and their clocks. What two replicas may
//! differ in (how buckets are cut, what is garbage, how long ago the clock was logged) never shows in
//! a reply, a version or the hash.
//!
//! Commands reach it through few verbs: look ([`Keyspace::get`]), look in order to write
//! ([`Keyspace::settled`]), put, edit, set a deadline, remove. Each write counts up its slot's
//! version, moves the sums and the deadline index along, and copies at most one bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;
use kvorum_base::planted::{Bug, Planted};
use kvorum_base::{SessionId, Slot, SlotSet, UnixMillis};

use crate::deadlines::Deadlines;
use crate::directory::{Directory, Walk};
use crate::entry::{Entry, Weight};
use crate::hash;
use crate::limits::GARBAGE_BUCKETS_AT_ONCE;
use crate::position::{Located, Locator, Position};
use crate::session::SessionRow;
use crate::slots::Slots;
use crate::value::{Fresh, ValueRef};

/// Set in the version of a key that is expired and not removed yet: neither its own version, which
/// it had while it was there, nor that of the last removal, which it had before it was set.
const EXPIRED_VERSION: u64 = 1 << 62;

/// The keys of one group and everything that is replicated with them.
#[derive(Debug)]
pub struct Keyspace {
    pub(crate) locator: Locator,
    pub(crate) keys: Directory<Entry>,
    pub(crate) rows: Directory<Arc<SessionRow>>,
    pub(crate) slots: Slots,
    /// The slots whose keys commands see and change; what else is here is hidden.
    pub(crate) served: Arc<SlotSet>,
    /// How many keys are hidden: derived.
    pub(crate) hidden_keys: u64,
    /// Of the keys of served slots: derived.
    pub(crate) deadlines: Deadlines,
    /// When the rows of served slots end, in order: derived, as the deadlines are.
    pub(crate) row_ends: BTreeSet<(UnixMillis, Position, SessionId)>,
    /// The largest clock of any applied entry.
    pub(crate) clock: UnixMillis,
    /// Milliseconds since the clock was logged, by this replica's own reckoning: for TTL only.
    pub(crate) since_clock: u64,
    /// What the behaviour of apply depends on, never on the binary.
    pub(crate) level: u32,
    pub(crate) next_session: SessionId,
    /// How many sessions end at each whole second; those of the past may linger.
    pub(crate) open_sessions: Arc<BTreeMap<UnixMillis, u64>>,
    pub(crate) key_bytes: u64,
    pub(crate) row_bytes: u64,
    pub(crate) garbage: Vec<Garbage>,
    pub(crate) planted: Planted,
    #[cfg(feature = "planted")]
    pub(crate) local_clock: UnixMillis,
}

/// What was dropped as a whole and is freed in bounded steps.
#[derive(Debug)]
pub struct Garbage {
    keys: Vec<Walk<Entry>>,
    deadlines: Deadlines,
}

/// A key as a read finds it.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The value.
    pub value: ValueRef<'a>,
    /// When it ends, if it does.
    pub deadline: Option<UnixMillis>,
    /// Its version.
    pub version: u64,
}

/// What becomes of a key's deadline when its value is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lifetime {
    Endless,
    Until(UnixMillis),
    AsBefore,
}

impl Keyspace {
    /// An empty keyspace that serves all slots. The secret is the cluster's: the same on every replica,
    /// and for ever.
    #[must_use]
    pub fn new(secret: [u8; 16]) -> Self {
        Self::serving(secret, SlotSet::all(), SessionId(1))
    }

    /// An empty keyspace that serves these slots and numbers its sessions from here on.
    #[must_use]
    pub fn serving(secret: [u8; 16], served: SlotSet, next_session: SessionId) -> Self {
        Self {
            locator: Locator::new(secret),
            keys: Directory::default(),
            rows: Directory::default(),
            slots: Slots::new(),
            served: Arc::new(served),
            hidden_keys: 0,
            deadlines: Deadlines::default(),
            row_ends: BTreeSet::new(),
            clock: UnixMillis::ZERO,
            since_clock: 0,
            level: 1,
            next_session,
            open_sessions: Arc::default(),
            key_bytes: 0,
            row_bytes: 0,
            garbage: Vec::new(),
            planted: Planted::default(),
            #[cfg(feature = "planted")]
            local_clock: UnixMillis::ZERO,
        }
    }

    /// Gives this replica a bug, for the simulator.
    pub fn set_planted(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// How many keys there are in served slots, expired ones not counted.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.keys.len() - self.hidden_keys - self.deadlines.passed(self.expiry_clock())
    }

    /// Whether there is no such key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many keys have a deadline, those included that are expired and not removed yet.
    #[must_use]
    pub fn expiring_len(&self) -> u64 {
        self.deadlines.len()
    }

    /// How many keys of a slot are held, those included that are expired and not removed yet.
    #[must_use]
    pub fn slot_len(&self, slot: Slot) -> u64 {
        self.slots.get(slot).keys
    }

    /// Some keys of a slot, at most so many, in the order of SCAN; expired ones left out.
    #[must_use]
    pub fn keys_in_slot(&self, slot: Slot, limit: usize) -> Vec<&[u8]> {
        self.keys
            .range(Position::first_of(slot))
            .take_while(|item| item.position.slot() == slot)
            .filter(|item| !self.is_expired(&item.value))
            .map(|item| item.value.key())
            .take(limit)
            .collect()
    }

    /// The bytes that memory limits are judged by: a function of the state, never of the allocator.
    #[must_use]
    pub fn logical_bytes(&self) -> u64 {
        self.key_bytes + self.row_bytes
    }

    /// How many buckets were copied because a view held them.
    #[must_use]
    pub fn bucket_copies(&self) -> u64 {
        self.keys.copies() + self.rows.copies()
    }

    /// The level that decides how commands are applied. A newer binary behaves as the level says,
    /// so that replicas of two versions agree.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Raises the level; a lower one changes nothing. Only in apply.
    pub fn raise_level(&mut self, level: u32) {
        self.level = self.level.max(level);
    }

    /// A key, unless it is absent or expired.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Found<'_>> {
        self.found(self.locator.key(key))
    }

    /// The version of a key: that of its last change; of an absent key, that of the last removal
    /// from its slot.
    #[must_use]
    pub fn version_of(&self, key: &[u8]) -> u64 {
        let at = self.locator.key(key);
        match self.entry(at) {
            Some(entry) if self.is_expired(entry) => EXPIRED_VERSION | entry.version(),
            Some(entry) => entry.version(),
            None if self.planted.has(Bug::AbsentVersionZero) => 0,
            None => self.slots.get(at.position.slot()).last_removal,
        }
    }

    /// The hash of one slot's keys and session rows.
    #[must_use]
    pub fn slot_hash(&self, slot: Slot) -> u64 {
        let state = self.slots.get(slot);
        state.keys_hash.wrapping_add(state.rows_hash)
    }

    /// The hash of the whole replicated state. O(slots).
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        let head = hash::numbers([
            self.clock.get(),
            u64::from(self.level),
            self.next_session.get(),
        ]);
        let sessions = self
            .open_sessions
            .iter()
            .map(|(end, count)| hash::numbers([2, end.get(), *count]));
        let served = (self.served.runs())
            .map(|(first, last)| hash::numbers([4, u64::from(first), u64::from(last)]));
        let slots = (self.slots.touched_from(0)).map(|(slot, state)| state.hash(slot));
        sessions
            .chain(served)
            .chain(slots)
            .fold(head, u64::wrapping_add)
    }

    pub(crate) fn locate<'a>(&self, key: &'a [u8]) -> Located<'a> {
        self.locator.key(key)
    }

    pub(crate) fn found(&self, at: Located<'_>) -> Option<Found<'_>> {
        let entry = self.entry(at)?;
        (!self.is_expired(entry)).then(|| Found {
            value: entry.value(),
            deadline: entry.deadline(),
            version: entry.version(),
        })
    }

    fn entry(&self, at: Located<'_>) -> Option<&Entry> {
        self.keys.find(at.position, |entry| entry.compare(at.key))
    }

    pub(crate) fn is_expired(&self, entry: &Entry) -> bool {
        entry
            .deadline()
            .is_some_and(|deadline| deadline < self.expiry_clock())
    }

    /// A key that is about to be written: removed first if it is expired, so that what comes next
    /// meets an absent key on every replica, however far each is with removing.
    pub(crate) fn settled(&mut self, at: Located<'_>) -> Option<Found<'_>> {
        let clock = self.expiry_clock();
        let any_expired = self
            .deadlines
            .first()
            .is_some_and(|(first, _)| first < clock);
        if any_expired && self.entry(at).is_some_and(|entry| self.is_expired(entry)) {
            self.remove(at);
        }
        self.found(at)
    }

    /// Writes a whole value. With [`Lifetime::AsBefore`] the key must have been settled.
    pub(crate) fn put(&mut self, at: Located<'_>, fresh: Fresh<'_>, lifetime: Lifetime) {
        let version = self.next_version(at.position.slot());
        let order = |entry: &Entry| entry.compare(at.key);
        if let Some(entry) = self.keys.find_mut(at.position, order) {
            let (before, old) = (entry.weight(), entry.deadline());
            let deadline = match lifetime {
                Lifetime::Endless => None,
                Lifetime::Until(deadline) => Some(deadline),
                Lifetime::AsBefore => old,
            };
            entry.replace(fresh, deadline, version);
            let after = entry.weight();
            self.deadlines.change(at.position, old, deadline);
            self.weigh(at.position.slot(), before, after);
            return;
        }
        let deadline = match lifetime {
            Lifetime::Until(deadline) => Some(deadline),
            Lifetime::Endless | Lifetime::AsBefore => None,
        };
        let is_new = self.put_new(at, Entry::new(at.key, fresh, deadline, version));
        assert!(is_new, "a key at {:?} is put in twice", at.position);
    }

    /// Changes a part of the string of a key that is there, and leaves its deadline.
    pub(crate) fn edit(
        &mut self,
        at: Located<'_>,
        changed: Range<usize>,
        edit: impl FnOnce(&mut BytesMut),
    ) {
        self.change(at, |entry| entry.edit(changed, edit));
    }

    /// Sets or takes away the deadline of a key that is there.
    pub(crate) fn set_deadline(&mut self, at: Located<'_>, deadline: Option<UnixMillis>) {
        let old = self.change(at, |entry| {
            let old = entry.deadline();
            entry.set_deadline(deadline);
            old
        });
        self.deadlines.change(at.position, old, deadline);
    }

    /// Removes a key, and says whether it was there, expired or not.
    pub(crate) fn remove(&mut self, at: Located<'_>) -> bool {
        let was_there = self.take_out(at);
        if was_there {
            let state = self.slots.get_mut(at.position.slot());
            state.version += 1;
            state.last_removal = state.version;
        }
        was_there
    }

    /// Takes a key out, and says whether it was there, without counting it as a change of the slot.
    pub(crate) fn take_out(&mut self, at: Located<'_>) -> bool {
        let order = |entry: &Entry| entry.compare(at.key);
        let Some(entry) = self.keys.remove(at.position, order) else {
            return false;
        };
        let slot = at.position.slot();
        if self.served.contains(slot) {
            self.deadlines.change(at.position, entry.deadline(), None);
        } else {
            self.hidden_keys -= 1;
        }
        self.weigh(slot, entry.weight(), Weight::default());
        self.slots.get_mut(slot).keys -= 1;
        true
    }

    /// Removes all keys of served slots. O(slots); what they held is freed later, in bounded steps or
    /// elsewhere.
    pub(crate) fn clear(&mut self) {
        // One entry may hold a hundred thousand of these: each frees what little the one before it left.
        self.free_garbage();
        let held: Vec<Slot> = (self.slots.touched_from(0))
            .filter(|(slot, state)| state.keys > 0 && self.served.contains(*slot))
            .map(|(slot, _)| slot)
            .collect();
        let keys: Vec<Walk<Entry>> = match self.hidden_keys {
            0 if held.is_empty() => Vec::new(),
            0 => vec![self.keys.take()],
            _ => held.iter().map(|slot| self.take_keys(*slot)).collect(),
        };
        let deadlines = std::mem::take(&mut self.deadlines);
        self.throw_away(keys, deadlines);
        for slot in held {
            let state = self.slots.get_mut(slot);
            state.version += 1;
            state.last_removal = state.version;
            self.key_bytes -= state.bytes;
            state.keys = 0;
            state.bytes = 0;
            state.keys_hash = 0;
        }
    }

    /// Takes the keys of one slot out of the directory, and does nothing else.
    pub(crate) fn take_keys(&mut self, slot: Slot) -> Walk<Entry> {
        let (first, last) = Position::range_of(slot);
        self.keys.take_range(first, last)
    }

    /// Leaves these as garbage.
    pub(crate) fn throw_away(&mut self, keys: Vec<Walk<Entry>>, deadlines: Deadlines) {
        if !keys.is_empty() {
            self.garbage.push(Garbage { keys, deadlines });
        }
    }

    /// Frees some of what was dropped as a whole. Apply does so with each entry; a host also does it at
    /// times, since a keyspace that is not written would keep all of it.
    pub fn free_garbage(&mut self) {
        if let Some(garbage) = self.garbage.last_mut()
            && !garbage.free(GARBAGE_BUCKETS_AT_ONCE)
        {
            self.garbage.pop();
        }
    }

    /// What is to be freed, to do it on another thread. Whatever is left here is freed in small
    /// steps by [`Keyspace::free_garbage`].
    #[must_use]
    pub fn take_garbage(&mut self) -> Vec<Garbage> {
        std::mem::take(&mut self.garbage)
    }

    /// Puts in a key that is not there; false, and nothing done, if it is.
    pub(crate) fn put_new(&mut self, at: Located<'_>, entry: Entry) -> bool {
        let (weight, deadline) = (entry.weight(), entry.deadline());
        let order = |other: &Entry| other.compare(at.key);
        if !self.keys.insert(at.position, entry, order) {
            return false;
        }
        let slot = at.position.slot();
        if self.served.contains(slot) {
            self.deadlines.change(at.position, None, deadline);
        } else {
            self.hidden_keys += 1;
        }
        self.weigh(slot, Weight::default(), weight);
        self.slots.get_mut(slot).keys += 1;
        true
    }

    fn change<R>(&mut self, at: Located<'_>, change: impl FnOnce(&mut Entry) -> R) -> R {
        let version = self.next_version(at.position.slot());
        let order = |entry: &Entry| entry.compare(at.key);
        let Some(entry) = self.keys.find_mut(at.position, order) else {
            panic!("the key to change at {:?} is not there", at.position);
        };
        let before = entry.weight();
        let result = change(entry);
        entry.set_version(version);
        let after = entry.weight();
        self.weigh(at.position.slot(), before, after);
        result
    }

    fn next_version(&mut self, slot: Slot) -> u64 {
        let state = self.slots.get_mut(slot);
        state.version += 1;
        state.version
    }

    pub(crate) fn weigh(&mut self, slot: Slot, before: Weight, after: Weight) {
        let state = self.slots.get_mut(slot);
        state.keys_hash = state
            .keys_hash
            .wrapping_sub(before.hash)
            .wrapping_add(after.hash);
        state.bytes = state.bytes - before.bytes + after.bytes;
        self.key_bytes = self.key_bytes - before.bytes + after.bytes;
    }

    /// Verifies the invariants and recomputes every sum; O(n), for tests and the simulator.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        self.keys.check();
        self.rows.check();
        let mut again = Slots::new();
        let mut deadlines = Deadlines::default();
        let mut hidden_keys = 0;
        for item in self.keys.range(Position(0)) {
            let entry = &item.value;
            assert_eq!(self.locator.key(entry.key()).position, item.position);
            let weight = entry.weight();
            let state = again.get_mut(item.position.slot());
            state.keys += 1;
            state.bytes += weight.bytes;
            state.keys_hash = state.keys_hash.wrapping_add(weight.hash);
            let version = self.slots.get(item.position.slot()).version;
            assert!(entry.version() <= version, "a key is newer than its slot");
            if self.served.contains(item.position.slot()) {
                deadlines.change(item.position, None, entry.deadline());
            } else {
                hidden_keys += 1;
            }
        }
        assert_eq!(hidden_keys, self.hidden_keys);
        let (mut row_bytes, mut served_rows) = (0, 0);
        for item in self.rows.range(Position(0)) {
            let (row, slot) = (&item.value, item.position.slot());
            assert!(row.is_valid(), "{row:?}");
            let served = self.served.contains(slot);
            served_rows += usize::from(served);
            let has_end = self
                .row_ends
                .contains(&(row.end, item.position, row.session));
            assert_eq!(has_end, served, "the end of a row of slot {slot}");
            let weight = row.weight(slot);
            row_bytes += weight.bytes;
            let state = again.get_mut(slot);
            state.rows += 1;
            state.row_bytes += weight.bytes;
            state.rows_hash = state.rows_hash.wrapping_add(weight.hash);
        }
        assert_eq!(self.row_ends.len(), served_rows);
        assert_eq!(deadlines, self.deadlines);
        for slot in (0..kvorum_base::slot::SLOT_COUNT).map(Slot) {
            let kept = *self.slots.get(slot);
            assert!(kept.last_removal <= kept.version);
            let mut counted = *again.get(slot);
            (counted.version, counted.last_removal) = (kept.version, kept.last_removal);
            assert_eq!(counted, kept, "slot {slot}");
        }
        let key_bytes: u64 = self.slots.touched_from(0).map(|(_, s)| s.bytes).sum();
        assert_eq!((self.key_bytes, self.row_bytes), (key_bytes, row_bytes));
    }
}

impl Garbage {
    /// Frees some of it; false once nothing is left.
    pub(crate) fn free(&mut self, buckets: usize) -> bool {
        let mut left = buckets;
        while left > 0
            && let Some(walk) = self.keys.last_mut()
        {
            if walk.next_bucket().is_none() {
                self.keys.pop();
            }
            left -= 1;
        }
        self.deadlines.discard(buckets * 256);
        !self.keys.is_empty() || !self.deadlines.is_empty()
    }
}
