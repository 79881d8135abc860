//! What a replica is told once, when it is made.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Index, Planted, ReplicaId, Term};

use crate::types::{Entry, HardState, Membership, Payload};

/// The settings of one replica. All replicas of a group should have the same, except for `id`.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica.
    pub id: ReplicaId,
    /// The shortest election timeout in ticks. Also how long a replica that hears a leader refuses
    /// its vote to others. Should be several heartbeats, or a single lost one starts an election.
    pub election_ticks_min: u32,
    /// The longest election timeout in ticks. Each one is drawn anew between the two, so that two
    /// replicas seldom stand at once; equal bounds make ties, and ties repeat. Also how long a
    /// leader goes on without hearing a majority.
    pub election_ticks_max: u32,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: u32,
    /// Entry bytes in one append message; one entry larger than this still travels, alone.
    pub append_bytes_max: usize,
    /// Appends on the way to one follower before the leader waits for an answer. At least 1.
    pub appends_in_flight_max: usize,
    /// Entry bytes on the way to one follower before the leader waits for an answer; one append is
    /// always allowed. Everything that may be on the way at once may come out of the leader at once:
    /// the transport has to take that much per follower, or the largest entry if that is more.
    pub bytes_in_flight_max: usize,
    /// Snapshot pieces on the way to one follower. At least 1.
    pub chunks_in_flight_max: u64,
    /// Bytes of entries that a leader holds uncommitted before it refuses proposals. One proposal is
    /// always taken when there are none.
    pub uncommitted_bytes_max: usize,
    /// Encodes the entries that consensus makes itself: empty ones and memberships.
    pub encode: fn(Term, Index, &Payload) -> Bytes,
    /// A bug on purpose; none outside of the simulator.
    pub planted: Planted,
}

impl Config {
    /// The usual settings: for ticks of 10 ms a heartbeat each 100 ms and elections after 500 to
    /// 1000 ms.
    #[must_use]
    pub fn new(id: ReplicaId, encode: fn(Term, Index, &Payload) -> Bytes) -> Self {
        Self {
            id,
            election_ticks_min: 50,
            election_ticks_max: 100,
            heartbeat_ticks: 10,
            append_bytes_max: 1 << 20,
            appends_in_flight_max: 64,
            bytes_in_flight_max: 4 << 20,
            chunks_in_flight_max: 4,
            uncommitted_bytes_max: 64 << 20,
            encode,
            planted: Planted::default(),
        }
    }

    /// Entry bytes in one append, if it has more than one entry.
    pub(crate) fn append_bytes(&self) -> usize {
        self.append_bytes_max.min(self.bytes_in_flight_max)
    }

    /// Stops where settings contradict each other: they come from our own code.
    pub(crate) fn validate(&self) {
        assert!(self.heartbeat_ticks >= 1, "a heartbeat needs a tick");
        assert!(
            self.heartbeat_ticks < self.election_ticks_min
                && self.election_ticks_min <= self.election_ticks_max,
            "heartbeat {} < election {}..={} does not hold",
            self.heartbeat_ticks,
            self.election_ticks_min,
            self.election_ticks_max
        );
        assert!(
            self.appends_in_flight_max >= 1 && self.chunks_in_flight_max >= 1,
            "nothing could ever be sent"
        );
    }
}

/// What a replica finds on its disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The promises.
    pub hard_state: HardState,
    /// The last entry that the state at hand covers; 0 for an empty state.
    pub base_index: Index,
    /// Its term; 0 for an empty state.
    pub base_term: Term,
    /// The membership as of `base_index`. For a replica that joins later: the group's first one, of
    /// which it is no part; or one without voters, if nobody knows that any more. It then learns the
    /// present one from the log or a snapshot, and can make no snapshot before.
    pub base_membership: Arc<Membership>,
    /// The entries from `base_index + 1` on, without gaps. Durable: whoever restores them has made
    /// sure of it.
    pub entries: Vec<Entry>,
    /// An index known to be committed, or 0: only a hint that spares waiting.
    pub commit: Index,
}

impl Restored {
    /// A replica that starts from nothing in a group whose first members are these, whether it is one
    /// of them or joins later.
    #[must_use]
    pub fn fresh(membership: Membership) -> Self {
        Self {
            hard_state: HardState::default(),
            base_index: Index::ZERO,
            base_term: Term::ZERO,
            base_membership: Arc::new(membership),
            entries: Vec::new(),
            commit: Index::ZERO,
        }
    }
}
