//! What the state machine asks of its surroundings, in order.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Index, ReplicaId, Term};

use crate::message::{Message, SnapshotId};
use crate::types::{Entry, HardState, Membership};

/// Numbers what must become durable, from 1 in every life of the process. The caller says with
/// `Raft::persisted(seq)` that everything up to there is.
pub type PersistSeq = u64;

/// One request. Messages that promise something (a vote, an append ack) are not emitted before what
/// they promise is durable, so the caller can send whatever it is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Make this durable, in order.
    Persist {
        /// Its number.
        seq: PersistSeq,
        /// What.
        what: Persist,
    },
    /// Send this now.
    Send {
        /// The receiver.
        to: ReplicaId,
        /// What.
        message: Message,
    },
    /// Reads registered under this number or a lower one may run once `index` is applied.
    ReadConfirmed {
        /// The read round.
        number: u64,
        /// The commit index when the round began, or later.
        index: Index,
    },
    /// All unconfirmed reads are void: this replica does not lead any more. They changed nothing.
    ReadsVoid,
    /// The role or the known leader changed.
    RoleChanged {
        /// The term.
        term: Term,
        /// The leader of that term, once known.
        leader: Option<ReplicaId>,
        /// Whether this replica is the leader.
        leading: bool,
    },
    /// Nothing came of a hand-over (`Raft::transfer`): this replica still leads, and takes proposals
    /// again. If it worked, or the leadership was lost otherwise, [`Effect::RoleChanged`] says so.
    TransferFailed {
        /// Who did not take over.
        to: ReplicaId,
    },
    /// A follower needs entries that are gone: make a view of the state and call
    /// `Raft::snapshot_ready`.
    SnapshotWanted {
        /// The follower.
        to: ReplicaId,
    },
    /// Hand over a piece of the snapshot by `Raft::chunk_ready`.
    ChunkWanted {
        /// The follower.
        to: ReplicaId,
        /// The snapshot.
        snapshot: SnapshotId,
        /// The piece, from 0: one more than the highest wanted so far, or an earlier one again. One
        /// is wanted at a time; wanting another replaces it. None after the last is ever wanted.
        seq: u64,
    },
    /// The view made for this follower is not needed any more.
    SnapshotDone {
        /// The follower.
        to: ReplicaId,
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// Keep this received piece beside the present state. Piece 0 starts anew and drops whatever was
    /// kept before. After the last one: check the whole, make it durable, then call
    /// `Raft::install`. At any of them, if it cannot be kept: `Raft::install_failed`.
    StageChunk {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The membership as of its index.
        membership: Arc<Membership>,
        /// The piece.
        seq: u64,
        /// Whether it is the last.
        last: bool,
        /// The bytes.
        data: Bytes,
    },
}

/// What must become durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Persist {
    /// Term and vote.
    HardState(HardState),
    /// Entries. An append at index i is the truncation of everything from i on.
    Append(Vec<Entry>),
    /// The log is replaced by a snapshot that is already durable: everything before is void.
    Reset {
        /// The last entry that the snapshot covers.
        index: Index,
        /// Its term.
        term: Term,
        /// The membership as of that index.
        membership: Arc<Membership>,
    },
}
