//! Rows that make a repeated command happen once.
//!
//! A session is a number and an end time, both in its token, so that every shard can judge it
//! without asking anyone. A row belongs to (slot, session): it lives, moves, is hashed and ends with
//! its slot. It holds the largest sequence number seen there and the replies of the last
//! [`SESSION_WINDOW`] of them, each with a hash of the command that it answered.
//!
//! Why nothing but the end time may drop a row:
//! 1. a client sends command 7, it is executed, the reply is lost;
//! 2. the row is evicted to save room;
//! 3. the client repeats command 7, no row is found, and it is executed again.
//!
//! Why the window bounds a row: a session has at most [`SESSION_WINDOW`] requests outstanding over
//! all slots, so sequence number q says that q - 32 and all below were answered. A number at or
//! below that edge is refused, never executed: its answer is forgotten, but it was given.
//!
//! Reads are not recorded: to repeat one is harmless.

use bytes::Bytes;
use kvorum_base::{SessionId, Slot, UnixMillis};

use crate::entry::Weight;
use crate::hash;
use crate::limits::{ROW_OVERHEAD_BYTES, SESSION_WINDOW};

/// The answer to one sequence number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// The sequence number, from 1.
    pub sequence: u64,
    /// The hash of the command that had it, so that another one under the same number is noticed.
    pub command_hash: u64,
    /// The reply in its stored form.
    pub reply: Bytes,
}

/// What a slot remembers of a session.
///
/// Invariants: `replies` is sorted by sequence number and holds no number at or below
/// `last_sequence - SESSION_WINDOW`; the last one is `last_sequence`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SessionRow {
    pub(crate) session: SessionId,
    pub(crate) end: UnixMillis,
    pub(crate) last_sequence: u64,
    pub(crate) replies: Vec<Recorded>,
}

/// A session as its token says it: `<id>-<end in ms>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// The session.
    pub session: SessionId,
    /// When it ends, by the logged clock of whoever is asked.
    pub end: UnixMillis,
}

impl Token {
    /// Reads a token.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let dash = text.iter().position(|&byte| byte == b'-')?;
        let number = |text: &[u8]| {
            kvorum_resp::number::parse_integer(text).and_then(|number| u64::try_from(number).ok())
        };
        Some(Self {
            session: SessionId(number(&text[..dash])?),
            end: UnixMillis(number(&text[dash + 1..])?),
        })
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.session, self.end)
    }
}

/// What a row says about a sequence number.
#[derive(Debug)]
pub(crate) enum Verdict<'a> {
    /// Not seen: execute and record it.
    New,
    /// Seen: this was the reply.
    Answered(&'a Bytes),
    /// Seen with another command.
    OtherCommand,
    /// So old that its answer is forgotten.
    Forgotten,
}

impl SessionRow {
    pub(crate) fn new(token: Token) -> Self {
        Self {
            session: token.session,
            end: token.end,
            last_sequence: 0,
            replies: Vec::new(),
        }
    }

    pub(crate) fn judge(&self, sequence: u64, command_hash: u64) -> Verdict<'_> {
        match self.place(sequence) {
            Ok(place) if self.replies[place].command_hash == command_hash => {
                Verdict::Answered(&self.replies[place].reply)
            }
            Ok(_) => Verdict::OtherCommand,
            Err(_) if sequence <= self.edge() => Verdict::Forgotten,
            Err(_) => Verdict::New,
        }
    }

    /// Records a new answer; gives those that it says were received, which are forgotten.
    pub(crate) fn record(&mut self, recorded: Recorded) -> Vec<Recorded> {
        let Err(place) = self.place(recorded.sequence) else {
            panic!("sequence number {} is answered twice", recorded.sequence);
        };
        self.last_sequence = self.last_sequence.max(recorded.sequence);
        self.replies.insert(place, recorded);
        let edge = self.edge();
        let kept_from = self
            .replies
            .partition_point(|recorded| recorded.sequence <= edge);
        self.replies.drain(..kept_from).collect()
    }

    pub(crate) fn weight(&self, slot: Slot) -> Weight {
        self.replies
            .iter()
            .map(|recorded| self.reply_weight(slot, recorded))
            .fold(self.head_weight(slot), Weight::plus)
    }

    /// The weight without that of the replies, which may be long.
    pub(crate) fn head_weight(&self, slot: Slot) -> Weight {
        Weight {
            hash: hash::numbers([
                u64::from(slot.get()),
                self.session.get(),
                self.end.get(),
                self.last_sequence,
            ]),
            bytes: ROW_OVERHEAD_BYTES,
        }
    }

    /// The weight of one reply of this session, held now or not.
    pub(crate) fn reply_weight(&self, slot: Slot, recorded: &Recorded) -> Weight {
        let Recorded {
            sequence,
            command_hash,
            reply,
        } = recorded;
        Weight {
            hash: hash::numbers([
                u64::from(slot.get()),
                self.session.get(),
                *sequence,
                *command_hash,
                hash::value(reply),
            ]),
            bytes: ROW_OVERHEAD_BYTES + reply.len() as u64,
        }
    }

    /// Whether the invariants hold.
    pub(crate) fn is_valid(&self) -> bool {
        let sorted = self
            .replies
            .windows(2)
            .all(|pair| pair[0].sequence < pair[1].sequence);
        let first = self.replies.first().map_or(0, |first| first.sequence);
        let last = self.replies.last().map_or(0, |last| last.sequence);
        sorted && last == self.last_sequence && last > 0 && first > self.edge()
    }

    /// Whether a keyspace can hold it: its invariants hold, and its replies are replies.
    pub(crate) fn is_holdable(&self) -> bool {
        let is_reply = |one: &Recorded| kvorum_resp::check_stored(&one.reply).is_ok();
        self.is_valid() && self.replies.iter().all(is_reply)
    }

    fn place(&self, sequence: u64) -> Result<usize, usize> {
        self.replies
            .binary_search_by_key(&sequence, |recorded| recorded.sequence)
    }

    fn edge(&self) -> u64 {
        self.last_sequence.saturating_sub(SESSION_WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(row: &mut SessionRow, sequence: u64) {
        assert!(matches!(row.judge(sequence, sequence), Verdict::New));
        row.record(Recorded {
            sequence,
            command_hash: sequence,
            reply: Bytes::from(format!(":{sequence}\r\n")),
        });
    }

    #[test]
    fn the_window_slides() {
        let mut row = SessionRow::new(Token::parse(b"7-1000").expect("a token"));
        for sequence in [2, 1, 40, 10] {
            record(&mut row, sequence);
        }
        assert!(row.is_valid());
        assert!(matches!(row.judge(2, 2), Verdict::Forgotten));
        assert!(matches!(row.judge(8, 8), Verdict::Forgotten));
        assert!(matches!(row.judge(9, 9), Verdict::New));
        assert!(matches!(row.judge(10, 10), Verdict::Answered(reply) if reply == ":10\r\n"));
        assert!(matches!(row.judge(10, 11), Verdict::OtherCommand));
        assert_eq!(row.replies.len(), 2);
    }

    #[test]
    fn tokens() {
        let token = Token::parse(b"12-345").expect("a token");
        assert_eq!((token.session, token.end), (SessionId(12), UnixMillis(345)));
        assert_eq!(token.to_string(), "12-345");
        for bad in ["", "-", "1-", "-1", "1", "1-2-3", "01-2", "a-b", "1--2"] {
            assert_eq!(Token::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
