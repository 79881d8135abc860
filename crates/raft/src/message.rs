//! What replicas of one group say to each other. Requests are odd-one-out free: every request has at
//! most one reply, so that a network of calls and replies can carry them as well as one of messages.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Index, ReplicaId, Term};

use crate::membership;
use crate::types::{Entry, Membership, Payload};

/// Terms and indexes from here on are nonsense: nothing gets there, and one past the largest would
/// wrap.
const LIMIT: u64 = 1 << 62;

/// Wanted next when no piece of a snapshot is wanted any more: the log here holds everything up to the
/// snapshot's index, durable, and a lost state was replaced or needs a later snapshot. Not said by
/// [`AppendOutcome::Matched`], which a follower whose log is whole may say of that index at any time.
/// The largest number that a message carries.
pub const NO_PIECE: u64 = LIMIT;

/// A message. Sender and receiver travel in the envelope that the caller makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender's term; for [`Body::PreVote`] the term that it would stand for.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

impl Message {
    /// Whether a correct replica can have sent this: what does not depend on the receiver's state.
    /// Everything after this may assume it.
    pub(crate) fn is_plausible(&self) -> bool {
        if self.term.get() >= LIMIT {
            return false;
        }
        match &self.body {
            Body::Append {
                prev_index,
                prev_term,
                entries,
                ..
            } => {
                if prev_index.get() >= LIMIT {
                    return false;
                }
                let mut before = (*prev_index, *prev_term);
                let in_order = entries.iter().all(|entry| {
                    let follows = entry.index == before.0.next() && entry.term >= before.1;
                    before = (entry.index, entry.term);
                    follows && entry.term > Term::ZERO && is_sound(entry)
                });
                in_order
                    && before.1 <= self.term
                    && (*prev_index == Index::ZERO) == (*prev_term == Term::ZERO)
            }
            Body::Chunk(chunk) => {
                (1..LIMIT).contains(&chunk.snapshot.index.get())
                    && chunk.snapshot.term > Term::ZERO
                    && chunk.snapshot.term <= self.term
                    && membership::is_sound(&chunk.membership)
            }
            _ => true,
        }
    }
}

fn is_sound(entry: &Entry) -> bool {
    match &entry.payload {
        Payload::Membership(membership) => membership::is_sound(membership),
        Payload::Empty | Payload::Command => true,
    }
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Would you vote for me? Changes nothing at the receiver (Raft thesis, section 9.6).
    PreVote {
        /// The sender's last entry.
        last_index: Index,
        /// Its term.
        last_term: Term,
    },
    /// The answer to a [`Body::PreVote`]; its term is the asked one if granted, else the voter's.
    PreVoteReply {
        /// Whether the receiver would vote so.
        granted: bool,
    },
    /// Vote for me (Raft paper, section 5.2).
    Vote {
        /// The sender's last entry.
        last_index: Index,
        /// Its term.
        last_term: Term,
        /// Sent in a leadership transfer: the receiver does not mind that it has heard a leader.
        transfer: bool,
    },
    /// The answer to a [`Body::Vote`].
    VoteReply {
        /// Whether the receiver voted so.
        granted: bool,
    },
    /// Entries that follow `prev_index` (Raft paper, section 5.3); empty ones probe.
    Append {
        /// The entry before the first one.
        prev_index: Index,
        /// Its term.
        prev_term: Term,
        /// The entries, consecutive from `prev_index + 1`.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
    },
    /// The answer to an [`Body::Append`].
    AppendReply {
        /// The `prev_index` that this answers, so that a late refusal is told from a fresh one.
        prev_index: Index,
        /// How it went.
        outcome: AppendOutcome,
    },
    /// I lead. Also carries the number of the newest read round.
    Heartbeat {
        /// The leader's commit index, cut to what the receiver is known to hold.
        commit: Index,
        /// The newest read round; 0 for none. Never reused within a term. A later life of the leader
        /// counts anew, in a newer term.
        read: u64,
    },
    /// The answer to a [`Body::Heartbeat`].
    HeartbeatReply {
        /// The round that it carried; 0 if it was of an older term than this answer.
        read: u64,
    },
    /// Stand for election at once: the sender hands over (Raft thesis, section 3.10).
    TimeoutNow,
    /// A piece of a snapshot (Raft paper, section 7).
    Chunk(Chunk),
    /// The answer to a [`Body::Chunk`]; to the last one when the snapshot is taken.
    ChunkReply {
        /// Which snapshot.
        snapshot: SnapshotId,
        /// The piece that is wanted next: one more than the last staged, 0 to start anew, [`NO_PIECE`]
        /// for no more.
        next: u64,
    },
}

/// How an append went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendOutcome {
    /// Everything up to here is the same as the leader's, and synced.
    Matched(Index),
    /// The entry at `prev_index` is missing or of another term. The leader may go back to the
    /// last entry that it has of `term` or older, at or below `index` (Raft paper, end of section 5.3).
    Conflict {
        /// A place at or before which the logs may agree.
        index: Index,
        /// The term of the receiver's entry there.
        term: Term,
    },
}

/// Names one snapshot of one sender. Pieces of different snapshots never mix, though each is valid
/// by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SnapshotId {
    /// The last entry that it covers.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// Who made it.
    pub sender: ReplicaId,
    /// Drawn by the sender, never reused by it.
    pub number: u64,
}

/// One piece of a snapshot in transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// The membership as of the snapshot's index.
    pub membership: Arc<Membership>,
    /// Which piece, from 0.
    pub seq: u64,
    /// Whether it is the last.
    pub last: bool,
    /// The bytes. Opaque here.
    pub data: Bytes,
}
