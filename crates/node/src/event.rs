//! Everything that can happen to a node. Coarse on purpose: what one socket read delivered, what one
//! peer frame carried. An event per command would cost more than the command.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{ConnId, GroupId, NodeId, Term, UnixMillis};

use kvorum_cluster::Request;

use crate::log::{BatchSeq, SegmentId};
use crate::status::Process;

/// One event. Borrowed bytes are read during the call and not kept.
#[derive(Debug)]
pub enum Event<'a> {
    /// A client sends no more, and may still read: it is closed once all it has asked is answered.
    Ended {
        /// Its connection.
        conn: ConnId,
    },
    /// A client connected.
    Opened {
        /// Its connection.
        conn: ConnId,
        /// Where it comes from, for CLIENT LIST.
        address: &'a str,
        /// Which of the node's two ports it came to.
        door: Door,
    },
    /// A client is gone; nothing may be sent to it any more.
    Closed {
        /// Its connection.
        conn: ConnId,
    },
    /// What one read of a client's socket delivered.
    Bytes {
        /// Its connection.
        conn: ConnId,
        /// The bytes, wherever they were cut.
        data: &'a [u8],
    },
    /// A connection's output, once blocked, has been written out whole.
    Drained {
        /// Its connection.
        conn: ConnId,
    },
    /// One frame of a peer, without its length prefix. Owned: entries are kept as slices of it.
    Peer {
        /// Who sent it, as proved by the handshake.
        from: NodeId,
        /// The frame.
        frame: Bytes,
    },
    /// The link to a peer was reset: its process is gone, or restarts. (A link that just goes silent
    /// is not reported.)
    PeerReset {
        /// The peer.
        node: NodeId,
    },
    /// Every log batch up to this one is durable.
    Synced {
        /// The last such batch.
        upto: BatchSeq,
    },
    /// The segment asked for by `Effect::PrepareSegment` can be written: the file exists in its full
    /// size and its directory entry is durable.
    SegmentReady {
        /// The segment.
        segment: SegmentId,
    },
    /// There is no room to make the segment. Asked again with the next `Effect::PrepareSegment`.
    SegmentRefused {
        /// The segment.
        segment: SegmentId,
    },
    /// A snapshot file is durable and was read back whole, or could not be made.
    SnapshotStored {
        /// The group.
        group: GroupId,
        /// The number from `Effect::StoreSnapshot`.
        number: u64,
        /// Its size in bytes, or why it failed (full disk: the node goes on without).
        result: Result<u64, String>,
    },
    /// One tick of protocol time has passed. After a pause the missed ticks are one tick, and frames
    /// that waited come before it: else every pause would be an election.
    Tick,
    /// What the wall clock says now. Sent at least once a second and before the first client.
    Wall(UnixMillis),
    /// What the shell knows of the process, for INFO; about once a second.
    Process(Process),
    /// An operator's request.
    Control(Control),
    /// Nothing more is at hand: seal batches, number the reads, release what is due.
    EndOfTurn,
}

/// The two ports of a node for clients. Clients understand a port in one role only, and most nodes are
/// primary of some shards and replica of others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Door {
    /// The node as primary.
    Primary,
    /// The node as replica: connections there only read.
    Replica,
}

/// What an operator can ask of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// Hand the leadership of this group to the replica on that node.
    Transfer {
        /// The group.
        group: GroupId,
        /// The node to take over; `None` for the one best prepared.
        to: Option<NodeId>,
    },
    /// Hand over all leaderships, take no new clients' writes, and say `Effect::Stop` when done.
    Shutdown,
    /// Have this done by the shard manager, and say what became of it by `Effect::Managed`.
    Manage {
        /// Names the answer.
        token: u64,
        /// What is asked.
        request: Box<Request>,
    },
    /// Have the shard manager's group go on with the replica here, since its majority is lost for good; say
    /// what became of it by `Effect::Managed`.
    RecoverManager {
        /// Names the answer.
        token: u64,
        /// The highest term that was seen at any of its replicas.
        term: Term,
    },
    /// The shard manager's state at some entry. An older one than is known is ignored.
    Cluster(Arc<kvorum_cluster::State>),
    /// Take a snapshot of this group now.
    Snapshot {
        /// The group.
        group: GroupId,
    },
}
