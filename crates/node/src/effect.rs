//! Everything that a node can ask of its shell. Coarse as the events: at most one log append a turn,
//! one output for each connection and turn.
//!
//! No promise is ever in here before it may be kept: what depends on a sync waits inside the core
//! until `Event::Synced`. The shell cannot get the order wrong.

use bytes::Bytes;
use kvorum_base::{ConnId, GroupId, NodeId};

use crate::format::manager::Answer;
use crate::group::snapshot::SnapshotWriter;
use crate::log::{BatchSeq, SegmentId};

/// One request to the shell, to be carried out in order.
#[derive(Debug)]
pub enum Effect {
    /// Write these bytes at this place and sync; then `Event::Synced { upto }`.
    Append {
        /// The segment.
        segment: SegmentId,
        /// Where in it, in bytes; a multiple of the sector size.
        offset: u32,
        /// The batch that the bytes are.
        upto: BatchSeq,
        /// The bytes; a multiple of the sector size.
        frame: Bytes,
    },
    /// Make the file of this segment, new or recycled, and answer with `Event::SegmentReady`.
    PrepareSegment {
        /// The segment.
        segment: SegmentId,
    },
    /// Nothing in this segment is needed any more: recycle or remove its file. Always the oldest.
    FreeSegment {
        /// The segment.
        segment: SegmentId,
    },
    /// Send a frame to a peer, or drop it if there is no link: peers repeat themselves.
    Send {
        /// The peer.
        to: NodeId,
        /// Which of the two links.
        link: Link,
        /// The frame as consecutive pieces, length prefix included. Entry bytes are shared with the
        /// log and with the frames to other peers.
        frame: Vec<Bytes>,
    },
    /// The connection has output: write it (`Node::output`).
    Output(ConnId),
    /// Close the connection after writing its output.
    Close(ConnId),
    /// Stop reading from this connection until `Resume`: too much of it waits inside.
    Pause(ConnId),
    /// Read from this connection again.
    Resume(ConnId),
    /// Write a snapshot file on the bulk thread, sync it and its directory, read it back, and answer
    /// with `Event::SnapshotStored`.
    StoreSnapshot {
        /// The group.
        group: GroupId,
        /// Names the file; never reused by this node.
        number: u64,
        /// Makes the file's bytes, piece by piece.
        writer: Box<SnapshotWriter>,
    },
    /// Remove a snapshot file.
    DropSnapshot {
        /// The group.
        group: GroupId,
        /// Names the file.
        number: u64,
    },
    /// The state is changed and clients are answered next, while disk and peers have what this turn
    /// made: end the turn once more. What comes in between may be handed in before.
    Again,
    /// These are the other nodes and where they are reached by nodes, as `host:port`. Links to new
    /// ones are made, and those to nodes that are not among them are closed.
    Peers(Box<[(NodeId, String)]>),
    /// More work is at hand than one turn should do: end another turn soon, whatever else happens.
    Continue,
    /// What became of `Control::Manage` or `Control::RecoverManager`.
    Managed {
        /// The request's.
        token: u64,
        /// What became of it.
        answer: Box<Answer>,
    },
    /// Tell the operator.
    Note(Box<Note>),
    /// End the process.
    Stop(Box<StopReason>),
}

const _: () = assert!(
    size_of::<Effect>() <= 56,
    "effects are moved through a queue: keep them small"
);

/// The two links between a pair of nodes. Votes and heartbeats never queue behind large entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Link {
    /// Votes, heartbeats and their answers.
    Urgent,
    /// Entries, their acknowledgements, and snapshots.
    Bulk,
}

/// How much a note matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Part of normal work: elections, snapshots.
    Info,
    /// An operator should look.
    Warn,
    /// Something is broken.
    Error,
}

/// Something that an operator may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// How much it matters.
    pub level: Level,
    /// The group it is about, if one.
    pub group: Option<GroupId>,
    /// What happened, in words, with the numbers.
    pub text: String,
}

/// Why a node ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// It was asked to, and has handed over.
    Shutdown,
    /// Its state cannot be trusted; the text says what an operator should do.
    Broken(String),
}
