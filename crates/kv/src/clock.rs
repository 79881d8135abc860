//! Time, as the log tells it.
//!
//! A key is expired exactly when the logged clock has passed its deadline: a comparison in every
//! read, scan, count and version, the same on every replica. Removing it is a change like any other
//! and happens in apply only, in the order of the deadlines and so many at a time, since a million
//! keys may be due at one moment.

use kvorum_base::UnixMillis;

use crate::keyspace::Keyspace;
use crate::position::Located;

impl Keyspace {
    /// The largest clock of any applied entry.
    #[must_use]
    pub fn clock(&self) -> UnixMillis {
        self.clock
    }

    /// Takes the clock of an entry, before its commands. A clock never steps back.
    pub fn advance_clock(&mut self, clock: UnixMillis) {
        if clock > self.clock {
            self.clock = clock;
            self.since_clock = 0;
        }
    }

    /// Notes how many milliseconds ago the clock was logged, for TTL and PTTL: on an idle shard they
    /// would stand still. No part of the state; a larger logged clock sets it to zero.
    pub fn set_since_clock(&mut self, since_clock_ms: u64) {
        self.since_clock = since_clock_ms;
    }

    /// The clock that TTL is told by.
    pub(crate) fn reading_clock(&self) -> UnixMillis {
        self.clock + self.since_clock
    }

    /// The clock that decides what is expired.
    pub(crate) fn expiry_clock(&self) -> UnixMillis {
        #[cfg(feature = "planted")]
        if self
            .planted
            .has(kvorum_base::planted::Bug::ExpiryByLocalClock)
        {
            return self.local_clock;
        }
        self.clock
    }

    /// This replica's own clock, which must decide nothing: for the planted bug that lets it.
    #[cfg(feature = "planted")]
    pub fn set_local_clock(&mut self, clock: UnixMillis) {
        self.local_clock = clock;
    }

    /// The first moment at which a key or a session row ends: with a clock past it there is
    /// something to remove.
    #[must_use]
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        let key = self.deadlines.first().map(|(deadline, _)| deadline);
        let row = self.row_ends.first().map(|&(end, _, _)| end);
        key.into_iter().chain(row).min()
    }

    /// Removes keys and session rows that the clock has passed, at most `limit` of each, in the order
    /// of their ends; says how many. Every entry's apply calls it once with the same fixed limit.
    pub fn remove_expired(&mut self, limit: usize) -> usize {
        let mut removed = 0;
        while removed < limit && self.remove_first_expired() {
            removed += 1;
        }
        let rows = self.remove_ended_rows(limit);
        self.free_garbage();
        removed + rows
    }

    fn remove_first_expired(&mut self) -> bool {
        let Some((deadline, position)) = self.deadlines.first() else {
            return false;
        };
        if deadline >= self.expiry_clock() {
            return false;
        }
        // Where hashes collide the smallest key goes first, as on every other replica.
        let key: Vec<u8> = self
            .keys
            .range(position)
            .take_while(|item| item.position == position)
            .find(|item| item.value.deadline() == Some(deadline))
            .map(|item| item.value.key().to_vec())
            .unwrap_or_else(|| panic!("no key at {position:?} ends at {deadline}"));
        let key = &key[..];
        self.remove(Located { key, position })
    }
}
