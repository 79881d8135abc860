//! Sessions in the keyspace: opening one, and running a command at most once.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::planted::Bug;
use kvorum_base::{SessionId, Slot, UnixMillis};

use crate::entry::Weight;
use crate::keyspace::Keyspace;
use crate::limits::{SESSION_LIFE_MS_MAX, SESSION_ROWS_MAX, SESSIONS_MAX};
use crate::position::Position;
use crate::session::{Recorded, SessionRow, Token, Verdict};

/// Ends are rounded up to this, so that counting open sessions by end takes little room.
const END_STEP_MS: u64 = 1000;

/// No shard's logged clock is so far behind another's.
const CLOCK_LAG_MS_MAX: u64 = SESSION_LIFE_MS_MAX;

/// How many rows the planted bug leaves.
const EVICTING_ROWS: u64 = 4;

/// Why a command was not run under its sequence number; `Answered` is its reply of the first time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NotRun {
    Answered(Bytes),
    OtherCommand,
    Forgotten,
    Ended,
    WrongToken,
    TooManyRows,
}

/// A command's place in its session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Once {
    pub(crate) slot: Slot,
    pub(crate) token: Token,
    pub(crate) sequence: u64,
    pub(crate) command_hash: u64,
}

impl Keyspace {
    /// How many session rows there are.
    #[must_use]
    pub fn session_rows(&self) -> u64 {
        self.rows.len()
    }

    /// Opens a session, if not too many are open.
    pub(crate) fn open_session(&mut self, life_ms: u64) -> Option<Token> {
        let clock = self.clock;
        let open_sessions = Arc::make_mut(&mut self.open_sessions);
        *open_sessions = open_sessions.split_off(&clock);
        if open_sessions.values().sum::<u64>() >= SESSIONS_MAX {
            return None;
        }
        let end = UnixMillis((clock + life_ms).get().next_multiple_of(END_STEP_MS));
        *open_sessions.entry(end).or_insert(0) += 1;
        let session = self.next_session;
        self.next_session = SessionId(session.get() + 1);
        Some(Token { session, end })
    }

    /// Whether a command is to be run; if so, [`Keyspace::record`] follows.
    pub(crate) fn judge(&self, once: Once) -> Result<(), NotRun> {
        // No session ends so late: a token that was never given out must not leave a row for ever. It may
        // have been given out by another shard, whose clock is ahead of this one's.
        if once.token.end > self.clock + (SESSION_LIFE_MS_MAX + END_STEP_MS + CLOCK_LAG_MS_MAX) {
            return Err(NotRun::WrongToken);
        }
        if once.token.end < self.clock {
            return Err(NotRun::Ended);
        }
        let Some(row) = self.row(once.slot, once.token.session) else {
            return if self.rows.len() < SESSION_ROWS_MAX {
                Ok(())
            } else {
                Err(NotRun::TooManyRows)
            };
        };
        if row.end != once.token.end {
            return Err(NotRun::WrongToken);
        }
        match row.judge(once.sequence, once.command_hash) {
            Verdict::New => Ok(()),
            Verdict::Answered(reply) => Err(NotRun::Answered(reply.clone())),
            Verdict::OtherCommand => Err(NotRun::OtherCommand),
            Verdict::Forgotten => Err(NotRun::Forgotten),
        }
    }

    /// Records the reply of a command that was run.
    pub(crate) fn record(&mut self, once: Once, reply: Bytes) {
        let recorded = Recorded {
            sequence: once.sequence,
            command_hash: once.command_hash,
            reply,
        };
        let session = once.token.session;
        let at = self.row_position(once.slot, session);
        let order = |row: &Arc<SessionRow>| row.session.cmp(&session);
        if let Some(row) = self.rows.find_mut(at, order) {
            let slot = once.slot;
            let row = Arc::make_mut(row);
            let mut before = row.head_weight(slot);
            let mut after = row.reply_weight(slot, &recorded);
            for forgotten in row.record(recorded) {
                before = before.plus(row.reply_weight(slot, &forgotten));
            }
            after = after.plus(row.head_weight(slot));
            self.weigh_row(slot, before, after);
            return;
        }
        let mut row = SessionRow::new(once.token);
        row.record(recorded);
        self.put_row(once.slot, row);
        if self.planted.has(Bug::SessionEvicted) && self.rows.len() > EVICTING_ROWS {
            self.remove_first_row();
        }
    }

    pub(crate) fn put_row(&mut self, slot: Slot, row: SessionRow) {
        let (session, end) = (row.session, row.end);
        let at = self.row_position(slot, session);
        self.weigh_row(slot, Weight::default(), row.weight(slot));
        self.slots.get_mut(slot).rows += 1;
        if self.served.contains(slot) {
            self.row_ends.insert((end, at, session));
        }
        let order = |other: &Arc<SessionRow>| other.session.cmp(&session);
        let is_new = self.rows.insert(at, Arc::new(row), order);
        assert!(is_new, "session {session} has a row in slot {slot} already");
    }

    /// Forgets rows of sessions that ended, at most so many; says how many.
    pub(crate) fn remove_ended_rows(&mut self, limit: usize) -> usize {
        let mut removed = 0;
        while removed < limit
            && let Some((end, _, _)) = self.row_ends.first()
            && *end < self.clock
        {
            self.remove_first_row();
            removed += 1;
        }
        removed
    }

    fn remove_first_row(&mut self) {
        let Some((_, at, session)) = self.row_ends.first().copied() else {
            return;
        };
        let was_there = self.take_row(at.slot(), session);
        assert!(was_there, "session {session} has no row in {at:?}");
    }

    /// Takes a row out, and says whether it was there.
    pub(crate) fn take_row(&mut self, slot: Slot, session: SessionId) -> bool {
        let at = self.row_position(slot, session);
        let Some(row) = self.rows.remove(at, |row| row.session.cmp(&session)) else {
            return false;
        };
        if self.served.contains(slot) {
            self.row_ends.remove(&(row.end, at, session));
        }
        self.weigh_row(slot, row.weight(slot), Weight::default());
        self.slots.get_mut(slot).rows -= 1;
        true
    }

    pub(crate) fn has_row(&self, slot: Slot, session: SessionId) -> bool {
        self.row(slot, session).is_some()
    }

    fn row(&self, slot: Slot, session: SessionId) -> Option<&SessionRow> {
        let at = self.row_position(slot, session);
        self.rows
            .find(at, |row| row.session.cmp(&session))
            .map(|row| &**row)
    }

    pub(crate) fn row_position(&self, slot: Slot, session: SessionId) -> Position {
        self.locator.within(slot, &session.get().to_le_bytes())
    }

    pub(crate) fn weigh_row(&mut self, slot: Slot, before: Weight, after: Weight) {
        let state = self.slots.get_mut(slot);
        state.rows_hash = state
            .rows_hash
            .wrapping_sub(before.hash)
            .wrapping_add(after.hash);
        state.row_bytes = state.row_bytes - before.bytes + after.bytes;
        self.row_bytes = self.row_bytes - before.bytes + after.bytes;
    }
}
