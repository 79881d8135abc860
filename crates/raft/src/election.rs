//! Elections (Raft paper, section 5.2), with two additions of the thesis.
//!
//! *Pre-vote* (section 9.6): a replica first asks whether it would win. A replica that was cut off
//! therefore comes back with the term it left in, instead of deposing the leader by a higher one.
//! *Stickiness* (section 4.2.3): who hears a leader refuses, so that a replica that was removed, or
//! hears nothing by its own fault, disturbs nobody. And a leader that hears no majority steps down
//! (section 6.2), so that its clients look elsewhere.

use std::collections::BTreeMap;

use kvorum_base::{Index, ReplicaId, Term};

use crate::effect::Effect;
use crate::message::{AppendOutcome, Body, Message};
use crate::progress::Progress;
use crate::quorum::{self, Ballot};
use crate::raft::{Candidacy, Leader, Raft, Role};
use crate::read_index::Reads;
use crate::types::Payload;

/// Timers and transitions.
impl Raft {
    /// Stands for election now instead of at the timeout, with a pre-vote. For a group that is just
    /// made, and for a replica that is the only voter. Does nothing where it would not be allowed.
    pub fn campaign(&mut self) {
        if !self.is_leader() && self.may_campaign() {
            self.pre_campaign();
        }
        self.finish();
    }

    /// Gives the leadership up without naming a successor.
    pub fn step_down(&mut self) {
        if self.is_leader() {
            self.become_follower(self.hard_state.term, None);
        }
        self.finish();
    }

    /// The link to a replica was reset: its process is gone or comes back. A leader sends to it anew
    /// from what is certain. A follower of it need not wait for its timeout: it asks for pre-votes
    /// soon, in the order of ids, so that two followers seldom stand at once. Nobody's vote is given
    /// more lightly for it, except that this replica stops to vouch for having heard the leader.
    pub fn link_reset(&mut self, replica: ReplicaId) {
        if self.is_leader() {
            self.restart_sending(replica);
        } else if self.leader == Some(replica) && matches!(self.role, Role::Follower) {
            self.leader_heard_at = None;
            let voters = self.history.newest().voters.iter();
            let rank = voters
                .filter(|id| **id != replica)
                .position(|id| *id == self.config.id)
                .unwrap_or(0);
            let pause = 1 + rank as u32 * (self.config.heartbeat_ticks / 2).max(1);
            let timeout = self.election_elapsed.saturating_add(pause);
            self.election_timeout = self.election_timeout.min(timeout);
        }
    }

    pub(crate) fn reset_election_timer(&mut self) {
        let (low, high) = (
            self.config.election_ticks_min,
            self.config.election_ticks_max,
        );
        self.election_elapsed = 0;
        self.election_timeout = self.prng.range(low.into(), high.into()) as u32;
    }

    pub(crate) fn tick_election(&mut self) {
        self.election_elapsed += 1;
        if self.election_elapsed < self.election_timeout {
            if self
                .election_elapsed
                .is_multiple_of(self.config.heartbeat_ticks)
            {
                self.ask_voters();
            }
            return;
        }
        if self.may_campaign() {
            self.pre_campaign();
        } else {
            self.reset_election_timer();
            self.leader = None;
            self.role = Role::Follower;
        }
    }

    /// Whether this replica may stand. One that the newest membership leaves out may still be needed
    /// until that is committed (Raft thesis, section 4.2.2):
    ///
    /// 1. A leads {A, B}, and appends that B goes on alone; B has not got it when A restarts.
    /// 2. B needs A's vote and does not get it: A's log is longer.
    /// 3. If A did not stand because it is leaving, nobody ever would. It wins by B's vote, and goes
    ///    when the change is committed.
    pub(crate) fn may_campaign(&self) -> bool {
        let mut memberships = self.history.possible_after(self.log.commit());
        self.can_campaign
            && !self.state_lost
            && memberships.any(|membership| membership.is_voter(self.config.id))
    }

    /// Whether a leader was heard so lately that nobody should stand against it. A leader counts as
    /// hearing itself.
    pub(crate) fn hears_leader(&self) -> bool {
        let lately = |at: u64| self.now - at < u64::from(self.config.election_ticks_min);
        self.is_leader() || self.leader_heard_at.is_some_and(lately)
    }

    /// Follows `leader` in `term`, or waits for one. Everything of an earlier role is void.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<ReplicaId>) {
        if term > self.hard_state.term {
            self.set_hard_state(term, None);
        }
        if let Role::Leader(old) = std::mem::replace(&mut self.role, Role::Follower) {
            for (to, peer) in &old.peers {
                if let Some(snapshot) = peer.running() {
                    self.out.emit(Effect::SnapshotDone { to: *to, snapshot });
                }
            }
            if !old.reads.is_empty() {
                self.out.emit(Effect::ReadsVoid);
            }
        }
        self.leader = leader;
        self.leader_heard_at = leader.map(|_| self.now);
        self.reset_election_timer();
    }

    fn pre_campaign(&mut self) {
        self.role = Role::PreCandidate(Candidacy {
            votes: [(self.config.id, true)].into(),
            transfer: false,
        });
        self.leader = None;
        self.leader_heard_at = None;
        self.reset_election_timer();
        self.ask_voters();
        self.count_votes();
    }

    /// Stands for election in a new term. The requests leave when the own vote is durable, and it
    /// counts no earlier either.
    pub(crate) fn become_candidate(&mut self, transfer: bool) {
        self.stand_in(self.hard_state.term.next(), transfer);
    }

    /// The same in this term, which is a new one.
    pub(crate) fn stand_in(&mut self, term: Term, transfer: bool) {
        self.role = Role::Candidate(Candidacy {
            votes: BTreeMap::new(),
            transfer,
        });
        self.leader = None;
        self.leader_heard_at = None;
        self.reset_election_timer();
        self.set_hard_state(term, Some(self.config.id));
    }

    /// Asks the voters that have not answered yet. Repeated with every heartbeat interval: a lost
    /// request or answer should not cost a whole election timeout.
    fn ask_voters(&mut self) {
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        let (term, body, votes) = match &self.role {
            Role::PreCandidate(candidacy) => {
                let body = Body::PreVote {
                    last_index,
                    last_term,
                };
                (self.hard_state.term.next(), body, &candidacy.votes)
            }
            Role::Candidate(candidacy) if self.out.hard_state_is_durable() => {
                let body = Body::Vote {
                    last_index,
                    last_term,
                    transfer: candidacy.transfer,
                };
                (self.hard_state.term, body, &candidacy.votes)
            }
            _ => return,
        };
        let membership = self.history.newest();
        for to in membership.replicas() {
            if membership.is_voter(to) && to != self.config.id && !votes.contains_key(&to) {
                let body = body.clone();
                self.out.send(to, Message { term, body });
            }
        }
    }

    /// The own vote is durable: it counts, and the others can be asked.
    pub(crate) fn maybe_vote_for_self(&mut self) {
        if !self.out.hard_state_is_durable() {
            return;
        }
        if let Role::Candidate(candidacy) = &mut self.role
            && candidacy.votes.insert(self.config.id, true).is_none()
        {
            self.ask_voters();
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let (Role::PreCandidate(candidacy) | Role::Candidate(candidacy)) = &self.role else {
            return;
        };
        let answer = |id| candidacy.votes.get(&id).copied();
        let ballot = quorum::ballot(self.history.newest(), answer);
        match (&self.role, ballot) {
            (_, Ballot::Open) => {}
            (_, Ballot::Lost) => self.become_follower(self.hard_state.term, None),
            (Role::PreCandidate(_), Ballot::Won) => self.become_candidate(false),
            (_, Ballot::Won) => self.become_leader(),
        }
    }

    fn become_leader(&mut self) {
        let next = self.next_index();
        let peers = self.history.newest().replicas();
        let peers = peers
            .filter(|id| *id != self.config.id)
            .map(|id| (id, Progress::new(next, self.now)))
            .collect();
        self.role = Role::Leader(Box::new(Leader {
            peers,
            first_index: next,
            heartbeat_elapsed: 0,
            reads: Reads::default(),
            transfer: None,
        }));
        self.leader = Some(self.config.id);
        self.leader_heard_at = None;
        // Without an entry of its own term it may not count older ones as committed, so on a quiet
        // group nothing would ever commit and no read ever run.
        self.append_own(Payload::Empty, None);
    }

    /// Steps down if no quorum was heard for the longest election timeout.
    pub(crate) fn check_quorum(&mut self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let heard = quorum::acknowledged(self.history.newest(), |id| {
            if id == self.config.id {
                self.now
            } else {
                leader.peers.get(&id).map_or(0, |peer| peer.heard_at)
            }
        });
        if self.now - heard >= u64::from(self.config.election_ticks_max) {
            self.become_follower(self.hard_state.term, None);
        }
    }
}

/// Messages.
impl Raft {
    /// A message of an older term. Its sender learns the newer one by the answer, which for a deposed
    /// leader is the only way if nobody else talks to it.
    ///
    /// The answer says nothing but the term: the sender may lead it by the time the answer arrives,
    /// in another life even, and must not take it for an answer to what it asked since. With the
    /// number of the read round in it:
    ///
    /// 1. A's heartbeat of term 1 with round 5 is held up. A restarts, counts rounds anew, and leads
    ///    term 2.
    /// 2. B, in term 2, answers the old heartbeat: "term 2, round 5". That is held up, too.
    /// 3. A is cut off; C is elected by B and commits x.
    /// 4. A client reads at A, in round 5 of this life. B's answer arrives, and the read misses x.
    pub(crate) fn answer_older_term(&mut self, from: ReplicaId, body: &Body) {
        let answer = match body {
            Body::Vote { .. } => Body::VoteReply { granted: false },
            Body::Append { prev_index, .. } => Body::AppendReply {
                prev_index: *prev_index,
                // Should its sender lead the present term, it goes back by one entry at most.
                outcome: AppendOutcome::Conflict {
                    index: *prev_index,
                    term: self.hard_state.term,
                },
            },
            Body::Heartbeat { .. } => Body::HeartbeatReply { read: 0 },
            Body::Chunk(chunk) => Body::ChunkReply {
                snapshot: chunk.snapshot,
                next: 0,
            },
            _ => return,
        };
        self.reply(from, answer);
    }

    /// A message of a newer term. Returns whether it is to be looked at.
    pub(crate) fn move_to_newer_term(&mut self, from: ReplicaId, term: Term, body: &Body) -> bool {
        let leader = match body {
            Body::Vote { transfer, .. } => {
                if !transfer && self.hears_leader() {
                    return false;
                }
                None
            }
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Chunk(_) | Body::TimeoutNow => {
                Some(from)
            }
            _ => None,
        };
        self.become_follower(term, leader);
        true
    }

    /// `from` speaks as the leader of the present term. Returns whether that can be.
    pub(crate) fn follow(&mut self, from: ReplicaId) -> bool {
        if self.leader == Some(from) && matches!(self.role, Role::Follower) {
            if self.leader_heard_at.is_none() {
                // The reset of its link had shortened the timer.
                self.reset_election_timer();
            }
            self.election_elapsed = 0;
            self.leader_heard_at = Some(self.now);
            return true;
        }
        if self.leader.is_some() {
            // One term has one leader, so this is not a message of ours.
            return false;
        }
        self.become_follower(self.hard_state.term, Some(from));
        true
    }

    pub(crate) fn on_pre_vote(
        &mut self,
        from: ReplicaId,
        term: Term,
        last_index: Index,
        last_term: Term,
    ) {
        let granted = self.can_vote
            && term > self.hard_state.term
            && !self.hears_leader()
            && self.log.is_up_to_date(last_index, last_term);
        // A grant speaks of the asked term, a refusal of the own one: it may be what the sender has
        // missed.
        let term = if granted { term } else { self.hard_state.term };
        let body = Body::PreVoteReply { granted };
        self.out.send(from, Message { term, body });
    }

    pub(crate) fn on_pre_vote_reply(&mut self, from: ReplicaId, term: Term, granted: bool) {
        if !granted && term > self.hard_state.term {
            self.become_follower(term, None);
            return;
        }
        // A late answer to an earlier asking. A grant promised nothing and must fit the asking; a
        // refusal stays one.
        if granted && term != self.hard_state.term.next() {
            return;
        }
        if let Role::PreCandidate(candidacy) = &mut self.role {
            candidacy.votes.insert(from, granted);
            self.count_votes();
        }
    }

    pub(crate) fn on_vote(&mut self, from: ReplicaId, last_index: Index, last_term: Term) {
        let free = match self.hard_state.vote {
            Some(vote) => vote == from,
            None => self.leader.is_none(),
        };
        let granted = free && self.can_vote && self.log.is_up_to_date(last_index, last_term);
        if granted {
            if self.hard_state.vote.is_none() {
                self.set_hard_state(self.hard_state.term, Some(from));
            }
            self.reset_election_timer();
        }
        // Leaves once the vote is durable.
        self.reply(from, Body::VoteReply { granted });
    }

    pub(crate) fn on_vote_reply(&mut self, from: ReplicaId, granted: bool) {
        if let Role::Candidate(candidacy) = &mut self.role {
            candidacy.votes.entry(from).or_insert(granted);
            self.count_votes();
        }
    }

    pub(crate) fn on_timeout_now(&mut self, from: ReplicaId) {
        if self.leader == Some(from) && matches!(self.role, Role::Follower) && self.may_campaign() {
            self.become_candidate(true);
        }
    }
}
