//! One server of the consensus labs: a replica, its disk, and a state that is the list of commands.
//!
//! The labs count commands; a leader also appends empty entries, which the labs' index space must not
//! show. So the host numbers commands only, and keeps that number in its snapshots.
//!
//! In the labs a message is a call and the response to it that call's reply. Consensus here sends
//! plain messages, each request of which has at most one reply; the host pairs them again, so that
//! the labs' network can lose a request and its reply separately.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_base::{Index, Prng, ReplicaId, Term};
use kvorum_raft::{
    Body, Config, Effect, Entry, HardState, Membership, Message, Payload, Persist, PersistSeq,
    Raft, Restored, SnapshotId,
};

use crate::net::{self, Answering};
use crate::world::Time;

/// A message between servers.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Who sends it.
    pub from: ReplicaId,
    /// What it says.
    pub message: Message,
}

impl net::Payload for Letter {
    fn size(&self) -> usize {
        let body = match &self.message.body {
            Body::Append { entries, .. } => entries.iter().map(stored_size).sum(),
            Body::Chunk(chunk) => chunk.data.len(),
            _ => 0,
        };
        32 + body
    }
}

/// What an entry weighs on the disk and on the wire.
fn stored_size(entry: &Entry) -> usize {
    24 + entry.data.len()
}

/// A snapshot of the service: its commands from the first one on.
pub type Commands = Vec<Bytes>;

/// What a crash leaves. The names are those of [`Restored`].
#[derive(Clone)]
pub struct Persisted {
    hard_state: HardState,
    base_index: Index,
    base_term: Term,
    base_membership: Arc<Membership>,
    entries: Vec<Entry>,
    /// The state as of `base_index`.
    snapshot: Commands,
    /// A received snapshot, durable beside the present state until the log says that it counts.
    received: Option<Commands>,
}

impl Persisted {
    /// A server that never ran.
    #[must_use]
    pub fn fresh(membership: Membership) -> Self {
        Self {
            hard_state: HardState::default(),
            base_index: Index::ZERO,
            base_term: Term::ZERO,
            base_membership: Arc::new(membership),
            entries: Vec::new(),
            snapshot: Vec::new(),
            received: None,
        }
    }

    /// The size of term, vote and log, in bytes.
    #[must_use]
    pub fn log_size(&self) -> usize {
        32 + self.entries.iter().map(stored_size).sum::<usize>()
    }

    fn write(&mut self, what: Persist) {
        match what {
            Persist::HardState(hard_state) => self.hard_state = hard_state,
            Persist::Append(entries) => {
                for entry in entries {
                    if entry.index <= self.base_index {
                        continue;
                    }
                    let kept = (entry.index - self.base_index.next()) as usize;
                    assert!(
                        kept <= self.entries.len(),
                        "a gap in the log before {entry:?}"
                    );
                    self.entries.truncate(kept);
                    self.entries.push(entry);
                }
            }
            Persist::Reset {
                index,
                term,
                membership,
            } => {
                self.snapshot = self.received.take().expect("the snapshot was stored first");
                self.base_index = index;
                self.base_term = term;
                self.base_membership = membership;
                self.entries.clear();
            }
        }
    }
}

/// What a server did with the commands, for whoever watches.
pub enum Applied {
    /// The command with this number, counted from 1.
    Command(u64, Bytes),
    /// The whole state was replaced; these are its commands.
    Snapshot(Commands),
}

/// What a server asks of the harness.
pub enum Outgoing {
    /// Call that server.
    Call(ReplicaId, Letter),
    /// Watchers should know.
    Applied(Applied),
    /// Something waits for the disk.
    Unsynced,
}

/// A call that was not answered yet.
struct Waiting {
    from: ReplicaId,
    request: Body,
    since: Time,
    answering: Answering<Letter, Letter>,
}

/// How long a call may wait for an answer that will not come: not every request gets one.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A view that is being sent to a follower.
struct View {
    to: ReplicaId,
    id: SnapshotId,
    commands: Commands,
}

/// A server while it lives.
pub struct Host {
    id: ReplicaId,
    raft: Raft,
    persisted: Persisted,
    unsynced: VecDeque<(PersistSeq, Persist)>,
    synced_upto: PersistSeq,
    /// All commands up to the applied index.
    commands: Commands,
    /// A snapshot is made whenever so many commands were applied; never if 0.
    snapshot_interval: u64,
    snapshots_due: VecDeque<(Index, Term, Commands)>,
    waiting: VecDeque<Waiting>,
    views: Vec<View>,
    staged: Option<Staged>,
    snapshots: u64,
    outgoing: Vec<Outgoing>,
    effects: Vec<Effect>,
    steps: u64,
}

fn encode(_: Term, _: Index, _: &Payload) -> Bytes {
    Bytes::from_static(b"own")
}

/// Commands in one piece of a snapshot.
const CHUNK_COMMANDS: usize = 64;

/// Logs longer than this are checked whole only now and then.
const CHECKED_ALWAYS: u64 = 300;

impl Host {
    /// A server that finds this on its disk.
    #[must_use]
    pub fn start(
        id: ReplicaId,
        persisted: Persisted,
        snapshot_interval: u64,
        mut prng: Prng,
    ) -> Self {
        let restored = Restored {
            hard_state: persisted.hard_state,
            base_index: persisted.base_index,
            base_term: persisted.base_term,
            base_membership: Arc::clone(&persisted.base_membership),
            entries: persisted.entries.clone(),
            commit: persisted.base_index,
        };
        // Numbers of snapshots must not come again in another life.
        let snapshots = prng.next_u64() >> 16;
        Self {
            id,
            raft: Raft::new(Config::new(id, encode), restored, prng),
            commands: persisted.snapshot.clone(),
            persisted,
            unsynced: VecDeque::new(),
            synced_upto: 0,
            snapshot_interval,
            snapshots_due: VecDeque::new(),
            waiting: VecDeque::new(),
            views: Vec::new(),
            staged: None,
            snapshots,
            outgoing: Vec::new(),
            effects: Vec::new(),
            steps: 0,
        }
    }

    /// What a crash now leaves; of the writes on their way the first `arrive` get there.
    #[must_use]
    pub fn crash(mut self, arrive: usize) -> Persisted {
        for (_, what) in self.unsynced.drain(..).take(arrive) {
            self.persisted.write(what);
        }
        self.persisted.received = None;
        self.persisted
    }

    /// How many writes are on their way to the disk.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// The disk as it is.
    #[must_use]
    pub fn persisted(&self) -> &Persisted {
        &self.persisted
    }

    /// The term, and whether this server leads in it.
    #[must_use]
    pub fn state(&self) -> (Term, bool) {
        (self.raft.term(), self.raft.is_leader())
    }

    /// The commands of the snapshot that this server started from.
    #[must_use]
    pub fn commands(&self) -> &Commands {
        &self.commands
    }

    /// Proposes a command. Returns its number and the term, if this server leads.
    pub fn propose(&mut self, command: Bytes) -> Option<(u64, Term)> {
        let index = self.raft.propose(command).ok()?;
        let number = self.number_of(index);
        let term = self.raft.term();
        self.settle();
        Some((number, term))
    }

    /// The number of the command at this place of the log.
    fn number_of(&self, index: Index) -> u64 {
        let pending = self.raft.entries(self.raft.applied().next()..=index);
        let pending = pending.filter(|entry| matches!(entry.payload, Payload::Command));
        self.commands.len() as u64 + pending.count() as u64
    }

    /// Time passes.
    pub fn tick(&mut self, now: Time) {
        while self
            .waiting
            .front()
            .is_some_and(|waiting| now - waiting.since > ANSWER_MAX)
        {
            self.waiting.pop_front();
        }
        self.raft.tick();
        self.settle();
    }

    /// A call arrived.
    pub fn called(&mut self, letter: Letter, answering: Answering<Letter, Letter>, now: Time) {
        let Letter { from, message } = letter;
        let request = without_content(&message.body);
        self.waiting.push_back(Waiting {
            from,
            request,
            since: now,
            answering,
        });
        self.raft.step(from, message);
        self.settle();
    }

    /// The reply to a call arrived.
    pub fn answered(&mut self, letter: Letter) {
        self.raft.step(letter.from, letter.message);
        self.settle();
    }

    /// Everything that was given to the disk up to this number is durable.
    pub fn synced(&mut self, upto: PersistSeq) {
        if upto <= self.synced_upto {
            return;
        }
        self.synced_upto = upto;
        while let Some((_, what)) = self.unsynced.pop_front_if(|(seq, _)| *seq <= upto) {
            self.persisted.write(what);
        }
        self.raft.persisted(upto);
        self.settle();
    }

    /// The newest number that was given to the disk.
    #[must_use]
    pub fn newest_unsynced(&self) -> Option<PersistSeq> {
        self.unsynced.back().map(|(seq, _)| *seq)
    }

    /// What this server wants done, in order.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// Carries out effects and applies what is committed, until nothing is left to do.
    fn settle(&mut self) {
        loop {
            let mut effects = std::mem::take(&mut self.effects);
            self.raft.effects(&mut effects);
            let done = effects.is_empty() && self.raft.applied() == self.raft.commit();
            for effect in effects.drain(..) {
                self.carry_out(effect);
            }
            self.effects = effects;
            self.apply();
            self.take_due_snapshot();
            if done {
                break;
            }
        }
        self.steps += 1;
        if self.raft.last_index() - self.raft.base_index() < CHECKED_ALWAYS
            || self.steps.is_multiple_of(16)
        {
            self.raft.check();
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist { seq, what } => {
                self.unsynced.push_back((seq, what));
                self.outgoing.push(Outgoing::Unsynced);
            }
            Effect::Send { to, message } => self.send(to, message),
            Effect::ReadConfirmed { .. }
            | Effect::ReadsVoid
            | Effect::RoleChanged { .. }
            | Effect::TransferFailed { .. } => {}
            Effect::SnapshotWanted { to } => self.make_view(to),
            Effect::ChunkWanted { to, snapshot, seq } => self.give_chunk(to, snapshot, seq),
            Effect::SnapshotDone { to, snapshot } => {
                self.views
                    .retain(|view| view.to != to || view.id != snapshot);
            }
            Effect::StageChunk {
                snapshot,
                membership,
                seq,
                last,
                data,
            } => {
                self.stage(snapshot, membership, seq, data);
                if last {
                    self.install();
                }
            }
        }
    }

    fn send(&mut self, to: ReplicaId, message: Message) {
        let letter = Letter {
            from: self.id,
            message,
        };
        if is_request(&letter.message.body) {
            self.outgoing.push(Outgoing::Call(to, letter));
            return;
        }
        let position = |fits: fn(&Body, &Body) -> bool| {
            let is_it = |waiting: &Waiting| {
                waiting.from == to && fits(&waiting.request, &letter.message.body)
            };
            self.waiting.iter().position(is_it)
        };
        // A reply that answers nothing has no way back in this network, and is lost.
        let found = position(is_reply_to).or_else(|| position(|_, _| true));
        if let Some(waiting) = found.and_then(|at| self.waiting.remove(at)) {
            waiting.answering.answer(letter);
        }
    }

    fn apply(&mut self) {
        let (from, upto) = (self.raft.applied().next(), self.raft.commit());
        if from > upto {
            return;
        }
        for entry in self.raft.entries(from..=upto) {
            if let Payload::Command = entry.payload {
                self.commands.push(entry.data.clone());
                let number = self.commands.len() as u64;
                let applied = Applied::Command(number, entry.data.clone());
                self.outgoing.push(Outgoing::Applied(applied));
                if self.snapshot_interval > 0 && (number + 1).is_multiple_of(self.snapshot_interval)
                {
                    let due = (entry.index, entry.term, self.commands.clone());
                    self.snapshots_due.push_back(due);
                }
            }
        }
        self.raft.applied_to(upto);
    }

    /// Takes the newest snapshot that is due. A majority may have committed what the own disk does not
    /// hold yet; a snapshot of that would be ahead of the own log.
    fn take_due_snapshot(&mut self) {
        let durable = self.raft.persisted_index();
        let mut due = None;
        while let Some(next) = self
            .snapshots_due
            .pop_front_if(|(index, ..)| *index <= durable)
        {
            due = Some(next);
        }
        if let Some((index, term, commands)) = due {
            self.compact(index, term, commands);
        }
    }

    /// Makes a snapshot durable and lets the log go that it covers.
    fn compact(&mut self, index: Index, term: Term, commands: Commands) {
        // What is not on the disk yet is covered now, and skipped when it gets there. But a reset
        // on its way would put an older state over this one.
        let resets = |(_, what): &(_, Persist)| matches!(what, Persist::Reset { .. });
        if self.unsynced.iter().any(resets) || index <= self.persisted.base_index {
            return;
        }
        let disk = &mut self.persisted;
        let gone = ((index - disk.base_index) as usize).min(disk.entries.len());
        disk.entries.drain(..gone);
        disk.base_membership = Arc::clone(self.raft.membership_at(index));
        disk.base_index = index;
        disk.base_term = term;
        disk.snapshot = commands;
        let floor = self.raft.snapshot_floor().unwrap_or(index);
        self.raft.compact(index.min(floor));
    }

    fn make_view(&mut self, to: ReplicaId) {
        let index = self.raft.applied();
        let Some(term) = self.raft.term_at(index).filter(|_| index > Index::ZERO) else {
            self.raft.snapshot_refused(to);
            return;
        };
        self.snapshots += 1;
        let id = SnapshotId {
            index,
            term,
            sender: self.id,
            number: self.snapshots,
        };
        let membership = Arc::clone(self.raft.membership_at(index));
        self.views.retain(|view| view.to != to);
        self.views.push(View {
            to,
            id,
            commands: self.commands.clone(),
        });
        self.raft.snapshot_ready(to, id, membership);
    }

    fn give_chunk(&mut self, to: ReplicaId, snapshot: SnapshotId, seq: u64) {
        let view = self
            .views
            .iter()
            .find(|view| view.to == to && view.id == snapshot);
        let view = view.expect("a piece is wanted of a view that was made");
        let count = view.commands.len().div_ceil(CHUNK_COMMANDS).max(1);
        let piece = view
            .commands
            .chunks(CHUNK_COMMANDS)
            .nth(seq as usize)
            .unwrap_or_default();
        let mut data = Vec::new();
        for command in piece {
            kvorum_base::cursor::put_block(&mut data, command);
        }
        let last = seq as usize + 1 == count;
        self.raft.chunk_ready(to, snapshot, seq, last, data.into());
    }

    fn stage(&mut self, id: SnapshotId, membership: Arc<Membership>, seq: u64, data: Bytes) {
        if seq == 0 {
            self.staged = None;
        }
        let fresh = || Staged {
            id,
            membership,
            pieces: Vec::new(),
        };
        let staged = self.staged.get_or_insert_with(fresh);
        assert_eq!(
            staged.pieces.len() as u64,
            seq,
            "pieces of {id:?} come in order"
        );
        staged.pieces.push(data);
    }

    fn install(&mut self) {
        let Staged {
            id,
            membership,
            pieces,
        } = self.staged.take().expect("all of it was staged");
        let mut commands = Commands::new();
        for piece in &pieces {
            let mut reader = kvorum_base::Reader::new(piece);
            while !reader.is_empty() {
                let command = reader.block("command").expect("made by another host");
                commands.push(Bytes::copy_from_slice(command));
            }
        }
        self.persisted.received = Some(commands.clone());
        if self.raft.install(id, membership) {
            self.snapshots_due.clear();
            self.commands.clone_from(&commands);
            self.outgoing
                .push(Outgoing::Applied(Applied::Snapshot(commands)));
        }
    }
}

/// A snapshot that is arriving.
struct Staged {
    id: SnapshotId,
    membership: Arc<Membership>,
    pieces: Vec<Bytes>,
}

fn is_request(body: &Body) -> bool {
    match body {
        Body::PreVote { .. }
        | Body::Vote { .. }
        | Body::Append { .. }
        | Body::Heartbeat { .. }
        | Body::TimeoutNow
        | Body::Chunk(_) => true,
        Body::PreVoteReply { .. }
        | Body::VoteReply { .. }
        | Body::AppendReply { .. }
        | Body::HeartbeatReply { .. }
        | Body::ChunkReply { .. } => false,
    }
}

/// Whether this is the reply that the request waits for. Several appends may be answered by one
/// reply; it goes back on the call that it names.
fn is_reply_to(request: &Body, reply: &Body) -> bool {
    match (request, reply) {
        (
            Body::Append { prev_index, .. },
            Body::AppendReply {
                prev_index: answered,
                ..
            },
        ) => prev_index == answered,
        (Body::PreVote { .. }, Body::PreVoteReply { .. })
        | (Body::Vote { .. }, Body::VoteReply { .. })
        | (Body::Heartbeat { .. }, Body::HeartbeatReply { .. })
        | (Body::Chunk(_), Body::ChunkReply { .. } | Body::AppendReply { .. }) => true,
        _ => false,
    }
}

/// What is kept of a request to know its reply.
fn without_content(body: &Body) -> Body {
    match body {
        Body::Append {
            prev_index,
            prev_term,
            commit,
            ..
        } => Body::Append {
            prev_index: *prev_index,
            prev_term: *prev_term,
            entries: Vec::new(),
            commit: *commit,
        },
        other => other.clone(),
    }
}
