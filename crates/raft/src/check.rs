//! What must hold after every step, and what can be seen from outside.

use kvorum_base::{Index, ReplicaId, Term};

use crate::progress::Flow;
use crate::raft::{Raft, Role};
use crate::types::Payload;

/// What a replica is in its term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would win an election.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// How entries go to a follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowName {
    /// One at a time, to find where the logs agree.
    Probe,
    /// As a stream.
    Replicate,
    /// After a snapshot.
    Snapshot,
}

/// A replica, as seen from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Who.
    pub id: ReplicaId,
    /// Its term.
    pub term: Term,
    /// What it is there.
    pub role: RoleName,
    /// The leader of the term, if known.
    pub leader: Option<ReplicaId>,
    /// What is committed for all it knows.
    pub commit: Index,
    /// What its state covers.
    pub applied: Index,
    /// Its last entry.
    pub last_index: Index,
    /// What its disk holds.
    pub persisted: Index,
    /// What is gone from its memory.
    pub base_index: Index,
    /// The id of the membership in force.
    pub membership: Index,
    /// The bytes of what is not committed.
    pub uncommitted_bytes: usize,
    /// A leader's followers, in order of their ids.
    pub peers: Vec<PeerStatus>,
}

/// A follower, as its leader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Who.
    pub id: ReplicaId,
    /// What it is known to hold, synced.
    pub matched: Index,
    /// What is sent to it next.
    pub next: Index,
    /// How.
    pub flow: FlowName,
    /// Appends to it without an answer.
    pub in_flight: usize,
    /// Whether a snapshot is on its way to it; entries may go beside it.
    pub snapshot: bool,
    /// Ticks since it was last heard.
    pub silent_ticks: u64,
}

impl Raft {
    /// A view for operators and tests; makes a list, so not for every request.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            term: self.hard_state.term,
            role: self.role_name(),
            leader: self.leader,
            commit: self.log.commit(),
            applied: self.log.applied(),
            last_index: self.log.last_index(),
            persisted: self.log.persisted(),
            base_index: self.log.base_index(),
            membership: self.history.newest().id,
            uncommitted_bytes: self.log.uncommitted_bytes(),
            peers: self.peers_status(),
        }
    }

    /// What this replica is in its term.
    #[must_use]
    pub fn role_name(&self) -> RoleName {
        match &self.role {
            Role::Follower => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    fn peers_status(&self) -> Vec<PeerStatus> {
        let Role::Leader(leader) = &self.role else {
            return Vec::new();
        };
        let peers = leader.peers.iter().map(|(id, peer)| {
            let (flow, in_flight) = match &peer.flow {
                Flow::Probe { sent_at } => (FlowName::Probe, usize::from(sent_at.is_some())),
                Flow::Replicate(window) => (FlowName::Replicate, window.len()),
                Flow::Snapshot => (FlowName::Snapshot, 0),
            };
            PeerStatus {
                id: *id,
                matched: peer.matched,
                next: peer.next,
                flow,
                in_flight,
                snapshot: peer.sending.is_some(),
                silent_ticks: self.now - peer.heard_at,
            }
        });
        peers.collect()
    }

    /// Stops if an invariant is broken. Linear in the log, so for tests and the simulator, after
    /// every step.
    ///
    /// # Panics
    /// With what is broken.
    pub fn check(&self) {
        self.out.check();
        self.log.check();
        assert_eq!(
            self.log.uncommitted_bytes(),
            self.log.uncommitted_bytes_counted()
        );
        assert!(
            self.log.last_term() <= self.hard_state.term,
            "an entry of term {} in term {}",
            self.log.last_term(),
            self.hard_state.term
        );
        self.check_history();
        match &self.role {
            Role::Follower => assert_ne!(self.leader, Some(self.config.id)),
            Role::PreCandidate(_) => assert_eq!(self.leader, None),
            Role::Candidate(candidacy) => {
                assert_eq!(self.leader, None);
                assert_eq!(self.hard_state.vote, Some(self.config.id));
                assert!(
                    !candidacy.votes.contains_key(&self.config.id)
                        || self.out.hard_state_is_durable()
                );
            }
            Role::Leader(_) => self.check_leader(),
        }
    }

    fn check_history(&self) {
        let changes = self.history.changes();
        assert!(
            changes[0].0 <= self.log.base_index(),
            "the membership of the base {} is forgotten",
            self.log.base_index()
        );
        let in_log = self
            .log
            .entries(self.log.base_index().next()..=self.log.last_index())
            .filter_map(|entry| match &entry.payload {
                Payload::Membership(membership) => Some((entry.index, membership)),
                _ => None,
            });
        let known = changes[1..]
            .iter()
            .map(|(index, membership)| (*index, membership));
        assert!(
            in_log.eq(known),
            "the memberships differ from the log's: {changes:?}"
        );
    }

    fn check_leader(&self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        assert_eq!(self.leader, Some(self.config.id));
        assert_eq!(self.hard_state.vote, Some(self.config.id));
        assert!(
            self.out.hard_state_is_durable(),
            "leads in a term that is not durable"
        );
        assert_eq!(self.log.last_term(), self.hard_state.term);
        assert!(
            leader.first_index > self.log.base_index() || self.log.commit() >= leader.first_index
        );
        let others = self
            .history
            .newest()
            .replicas()
            .filter(|id| *id != self.config.id);
        assert!(
            leader.peers.keys().copied().eq(others),
            "{:?}",
            leader.peers.keys()
        );
        for (id, peer) in &leader.peers {
            assert!(
                peer.matched < peer.next && peer.next <= self.log.last_index().next(),
                "follower {id}: {peer:?}, last {}",
                self.log.last_index()
            );
            assert!(peer.read <= self.read_number, "follower {id}: {peer:?}");
            let needs_snapshot = peer.state_lost || matches!(peer.flow, Flow::Snapshot);
            assert_eq!(
                peer.sending.is_some(),
                needs_snapshot,
                "follower {id}: {peer:?}"
            );
            if let Flow::Replicate(window) = &peer.flow {
                window.check(peer.matched, peer.next, &self.config);
            }
        }
    }
}
