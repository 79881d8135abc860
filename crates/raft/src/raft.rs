//! One replica: its state, and the doors through which everything comes in.
//!
//! Each door (`tick`, `step`, `persisted`, ...) changes the state and leaves effects, to be taken by
//! [`Raft::effects`] at any time. What belongs to a role only lives in the role and dies with it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use kvorum_base::{Index, Prng, ReplicaId, Term};

use crate::config::{Config, Restored};
use crate::effect::{Effect, Persist, PersistSeq};
use crate::log::Log;
use crate::membership::History;
use crate::message::{Body, Message};
use crate::progress::Progress;
use crate::promises::Outbox;
use crate::read_index::Reads;
use crate::snapshot::Incoming;
use crate::transfer::Transfer;
use crate::types::{Entry, HardState, Membership, Payload};

/// What a replica is in its term, with what only that role knows.
#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    /// Asks whether an election would be won, without disturbing anybody.
    PreCandidate(Candidacy),
    Candidate(Candidacy),
    Leader(Box<Leader>),
}

/// What a candidate knows.
#[derive(Debug, Default)]
pub(crate) struct Candidacy {
    /// The answers, its own included.
    pub(crate) votes: BTreeMap<ReplicaId, bool>,
    /// A leader hands over to it.
    pub(crate) transfer: bool,
}

/// What a leader knows.
#[derive(Debug)]
pub(crate) struct Leader {
    /// All replicas but itself.
    pub(crate) peers: BTreeMap<ReplicaId, Progress>,
    /// Its first entry: when this is committed, so is everything before it.
    pub(crate) first_index: Index,
    pub(crate) heartbeat_elapsed: u32,
    pub(crate) reads: Reads,
    pub(crate) transfer: Option<Transfer>,
}

/// One replica of one group.
///
/// Invariants are collected in [`Raft::check`].
#[derive(Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) prng: Prng,
    pub(crate) out: Outbox,
    pub(crate) hard_state: HardState,
    pub(crate) log: Log,
    pub(crate) history: History,
    pub(crate) role: Role,
    /// The leader of the present term, once known.
    pub(crate) leader: Option<ReplicaId>,
    /// Ticks since the start.
    pub(crate) now: u64,
    /// The tick at which the present leader was last heard; `None` also after its link was reset.
    pub(crate) leader_heard_at: Option<u64>,
    pub(crate) election_elapsed: u32,
    pub(crate) election_timeout: u32,
    /// The newest read round of this life; never goes back. A term is led in one life only, and an
    /// answer names a round only in the term in which it was asked: so no late answer fits a newer
    /// round.
    pub(crate) read_number: u64,
    pub(crate) incoming: Option<Incoming>,
    pub(crate) state_lost: bool,
    pub(crate) can_campaign: bool,
    pub(crate) can_vote: bool,
    /// What the caller was last told by [`Effect::RoleChanged`].
    told: (Term, Option<ReplicaId>, bool),
}

/// This replica does not lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotLeader;

impl fmt::Display for NotLeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not the leader")
    }
}

impl std::error::Error for NotLeader {}

/// Why a proposal was not taken. It is not in the log and never will be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProposeRefused {
    /// Ask the leader.
    NotLeader,
    /// The leadership is being handed over; what came in now would delay that.
    Transferring,
    /// Too many bytes are uncommitted.
    Busy,
}

impl fmt::Display for ProposeRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotLeader => "not the leader",
            Self::Transferring => "the leadership is being handed over",
            Self::Busy => "too many bytes are uncommitted",
        })
    }
}

impl std::error::Error for ProposeRefused {}

impl Raft {
    /// A replica, as a follower, with what was found on its disk. Everything restored must be
    /// durable: it is promised to others without being written again.
    ///
    /// # Panics
    /// If the settings contradict each other, or the entries have gaps or falling terms.
    #[must_use]
    pub fn new(config: Config, restored: Restored, prng: Prng) -> Self {
        config.validate();
        let Restored {
            hard_state,
            base_index,
            base_term,
            base_membership,
            entries,
            commit,
        } = restored;
        let mut history = History::new(base_index, base_membership);
        for entry in &entries {
            if let Payload::Membership(membership) = &entry.payload {
                history.push(entry.index, Arc::clone(membership));
            }
        }
        let log = Log::new(base_index, base_term, entries, commit);
        // An entry of a term is a promise of that term too.
        let hard_state = if hard_state.term < log.last_term() {
            HardState {
                term: log.last_term(),
                vote: None,
            }
        } else {
            hard_state
        };
        let mut raft = Self {
            told: (hard_state.term, None, false),
            config,
            prng,
            out: Outbox::default(),
            hard_state,
            log,
            history,
            role: Role::Follower,
            leader: None,
            now: 0,
            leader_heard_at: None,
            election_elapsed: 0,
            election_timeout: 0,
            read_number: 0,
            incoming: None,
            state_lost: false,
            can_campaign: true,
            can_vote: true,
        };
        raft.reset_election_timer();
        raft
    }

    /// One tick of time has passed. After a pause of the process the missed ticks should come as
    /// one, and after the messages that waited: else every pause is an election.
    pub fn tick(&mut self) {
        self.now += 1;
        if matches!(self.role, Role::Leader(_)) {
            self.tick_leader();
        } else {
            self.tick_election();
        }
        self.finish();
    }

    /// A message arrived. Messages that make no sense are ignored, whoever sends them.
    pub fn step(&mut self, from: ReplicaId, message: Message) {
        let is_let_go = self.history.newest().has_let_go(from);
        if from == self.config.id || is_let_go || !message.is_plausible() {
            return;
        }
        let Message { term, body } = message;
        match body {
            // These two speak of a term that nobody is in yet.
            Body::PreVote {
                last_index,
                last_term,
            } => self.on_pre_vote(from, term, last_index, last_term),
            Body::PreVoteReply { granted } => self.on_pre_vote_reply(from, term, granted),
            body if term < self.hard_state.term => self.answer_older_term(from, &body),
            body => {
                if term == self.hard_state.term || self.move_to_newer_term(from, term, &body) {
                    self.dispatch(from, body);
                }
            }
        }
        self.finish();
    }

    /// A message of the present term.
    fn dispatch(&mut self, from: ReplicaId, body: Body) {
        match body {
            Body::PreVote { .. } | Body::PreVoteReply { .. } => {}
            Body::Vote {
                last_index,
                last_term,
                ..
            } => self.on_vote(from, last_index, last_term),
            Body::VoteReply { granted } => self.on_vote_reply(from, granted),
            Body::Append {
                prev_index,
                prev_term,
                entries,
                commit,
            } => self.on_append(from, prev_index, prev_term, entries, commit),
            Body::AppendReply {
                prev_index,
                outcome,
            } => self.on_append_reply(from, prev_index, outcome),
            Body::Heartbeat { commit, read } => self.on_heartbeat(from, commit, read),
            Body::HeartbeatReply { read } => self.on_heartbeat_reply(from, read),
            Body::TimeoutNow => self.on_timeout_now(from),
            Body::Chunk(chunk) => self.on_chunk(from, chunk),
            Body::ChunkReply { snapshot, next } => {
                self.heard(from);
                self.on_chunk_reply(from, snapshot, next);
            }
        }
    }

    /// Everything asked for by [`Effect::Persist`] up to this number is durable. May come any number
    /// of calls later, and may skip numbers.
    pub fn persisted(&mut self, seq: PersistSeq) {
        self.out.persisted(seq);
        self.log.persisted_to(seq);
        self.maybe_vote_for_self();
        self.maybe_commit();
        self.finish();
    }

    /// The caller's state now covers everything up to `index`.
    ///
    /// # Panics
    /// If that is not committed, or goes back.
    pub fn applied_to(&mut self, index: Index) {
        self.log.applied_to(index);
    }

    /// Whether a snapshot of the own state at `index` may count: after a restart the log follows it. Only
    /// what the own disk holds as entries may be covered. (A view for a follower is not meant; that is
    /// theirs. Nor is a file that nothing refers to yet.) Otherwise:
    ///
    /// 1. The disk holds 3@1 and 4@1. A new leader replaces them by 3@2; that write hangs.
    /// 2. The others commit 3@2. It is applied here, and a snapshot of it counts.
    /// 3. After a power cut the disk has a snapshot up to 3@2, and 4@1 behind it, which belongs to
    ///    another history: this replica votes by a log that nobody ever had.
    ///
    /// It may be made before: a leader whose disk is slower than the others' has applied more than it
    /// holds as long as clients write, and would never find the moment.
    #[must_use]
    pub fn may_count_snapshot(&self, index: Index) -> bool {
        index <= self.log.persisted()
    }

    /// Lets go of the entries up to `upto`, of which the caller has a durable snapshot (see
    /// [`Raft::may_count_snapshot`]). Followers that need them get a snapshot. See
    /// [`Raft::snapshot_floor`].
    ///
    /// # Panics
    /// If they are not applied, or not durable.
    pub fn compact(&mut self, upto: Index) {
        self.log.compact(upto);
        self.history.compact(self.log.base_index());
    }

    /// Moves the effects so far to the end of `effects`, in the order in which they must be carried
    /// out.
    pub fn effects(&mut self, effects: &mut Vec<Effect>) {
        self.out.drain_into(effects);
    }

    /// Tells the caller if it sees another leader than before.
    pub(crate) fn finish(&mut self) {
        let now = (self.hard_state.term, self.leader, self.is_leader());
        if now != self.told {
            self.told = now;
            self.out.emit(Effect::RoleChanged {
                term: now.0,
                leader: now.1,
                leading: now.2,
            });
        }
    }

    /// Sends an answer that promises no more than its term.
    pub(crate) fn reply(&mut self, to: ReplicaId, body: Body) {
        let term = self.hard_state.term;
        self.out.send(to, Message { term, body });
    }

    pub(crate) fn set_hard_state(&mut self, term: Term, vote: Option<ReplicaId>) {
        assert!(
            term > self.hard_state.term || self.hard_state.vote.is_none(),
            "a second vote, for {vote:?}, beside {:?}",
            self.hard_state
        );
        self.hard_state = HardState { term, vote };
        let mut saved = self.hard_state;
        if self.config.planted.has(kvorum_base::Bug::VoteNotSaved) {
            saved.vote = None;
        }
        self.out.persist(Persist::HardState(saved));
    }

    pub(crate) fn heard(&mut self, from: ReplicaId) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&from)
        {
            peer.heard_at = self.now;
        }
    }

    /// Whether an entry of this leader's own term is committed, and so all before it.
    pub(crate) fn commit_is_of_own_term(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if self.log.commit() >= leader.first_index)
    }

    /// Permits or forbids standing for election; a replica whose state is not whole, or whose clock
    /// is far off, should not lead.
    pub fn set_can_campaign(&mut self, can: bool) {
        self.can_campaign = can;
    }

    /// Permits or forbids giving votes and pre-votes; a replica whose disk hangs should not let
    /// elections wait for it.
    pub fn set_can_vote(&mut self, can: bool) {
        self.can_vote = can;
    }
}

/// What can be asked without changing anything.
impl Raft {
    /// This replica.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.config.id
    }

    /// The present term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Term and vote, durable or on the way there.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The leader of the present term, if known.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        self.leader
    }

    /// Whether this replica believes to lead. Another may lead in a newer term: see [`Raft::read`].
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The last entry that is known to be held by a quorum for good.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.log.commit()
    }

    /// The last entry that the caller's state covers.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.log.applied()
    }

    /// The last entry of the log.
    #[must_use]
    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    /// The place that a proposal gets now.
    #[must_use]
    pub fn next_index(&self) -> Index {
        self.log.last_index().next()
    }

    /// The last entry that is gone from memory; 0 for none.
    #[must_use]
    pub fn base_index(&self) -> Index {
        self.log.base_index()
    }

    /// The last entry of which the own disk is known to hold it and all before.
    #[must_use]
    pub fn persisted_index(&self) -> Index {
        self.log.persisted()
    }

    /// An entry in memory.
    #[must_use]
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        self.log.entry(index)
    }

    /// The entries of a range that are in memory.
    pub fn entries(&self, range: RangeInclusive<Index>) -> impl Iterator<Item = &Entry> {
        self.log.entries(range)
    }

    /// The term of an entry in memory or of the base.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The membership in force: the newest in the log.
    #[must_use]
    pub fn membership(&self) -> &Arc<Membership> {
        self.history.newest()
    }

    /// The membership as of an index from the base on: what a snapshot of that index carries.
    #[must_use]
    pub fn membership_at(&self, index: Index) -> &Arc<Membership> {
        if self
            .config
            .planted
            .has(kvorum_base::Bug::SnapshotNewestMembership)
        {
            return self.history.newest();
        }
        self.history.at(index)
    }

    /// The bytes of the entries that are not committed.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        self.log.uncommitted_bytes()
    }

    /// Ticks since the start.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.now
    }
}
