//! One replica with a disk that loses what was not synced, and a state that is a list of commands.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Index, Prng, ReplicaId, Term};
use kvorum_raft::{
    Config, Effect, Entry, HardState, Membership, Payload, Persist, PersistSeq, Raft, Restored,
    SnapshotId,
};

/// What was applied, from index 1 on.
pub(crate) type State = Vec<(Term, Bytes)>;

/// What a crash leaves.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) base_index: Index,
    pub(crate) base_term: Term,
    pub(crate) base_membership: Arc<Membership>,
    pub(crate) base_state: State,
    pub(crate) entries: Vec<Entry>,
    pub(crate) commit: Index,
    /// A received snapshot that is durable beside the present state; a reset record takes it.
    pub(crate) received: Option<(Index, Term, State)>,
}

impl Disk {
    fn carry_out(&mut self, what: Persist, commit: Index) {
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
                        "a gap on the disk before {entry:?}"
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
                let (at, of, state) = self.received.take().expect("a durable snapshot");
                assert_eq!(
                    (at, of),
                    (index, term),
                    "another snapshot than the staged one"
                );
                self.base_index = index;
                self.base_term = term;
                self.base_membership = membership;
                self.base_state = state;
                self.entries.clear();
            }
        }
        self.commit = self.commit.max(commit);
    }

    /// Takes a snapshot of the state into the base.
    fn compact(&mut self, index: Index, term: Term, membership: Arc<Membership>, state: State) {
        let gone = ((index - self.base_index) as usize).min(self.entries.len());
        self.entries.drain(..gone);
        self.base_index = index;
        self.base_term = term;
        self.base_membership = membership;
        self.base_state = state;
    }
}

/// A view made for one follower.
struct View {
    id: SnapshotId,
    state: State,
}

struct Staged {
    id: SnapshotId,
    membership: Arc<Membership>,
    chunks: Vec<Bytes>,
}

/// One replica.
pub(crate) struct Host {
    pub(crate) id: ReplicaId,
    pub(crate) raft: Raft,
    pub(crate) up: bool,
    pub(crate) disk: Disk,
    /// Writes on the way to the disk, with the commit index known when they were made.
    pub(crate) unsynced: VecDeque<(PersistSeq, Persist, Index)>,
    pub(crate) state: State,
    /// The commit index up to which the judge has looked.
    pub(crate) judged: Index,
    pub(crate) lives: u64,
    /// The state cannot be used; a snapshot is waited for.
    pub(crate) state_lost: bool,
    /// A snapshot was installed and not judged yet.
    pub(crate) installed: bool,
    views: BTreeMap<ReplicaId, View>,
    staged: Option<Staged>,
    /// The next received piece cannot be kept.
    pub(crate) staging_fails: bool,
    snapshots: u64,
    /// Commands in one snapshot piece.
    pub(crate) chunk_commands: usize,
}

pub(crate) fn encode(_: Term, _: Index, payload: &Payload) -> Bytes {
    match payload {
        Payload::Empty => Bytes::from_static(b"-"),
        Payload::Command => unreachable!("only the caller makes commands"),
        Payload::Membership(membership) => Bytes::from(format!("members {}", membership.id)),
    }
}

impl Host {
    pub(crate) fn new(config: Config, membership: Membership, prng: Prng) -> Self {
        let restored = Restored::fresh(membership);
        let disk = Disk {
            hard_state: restored.hard_state,
            base_index: restored.base_index,
            base_term: restored.base_term,
            base_membership: Arc::clone(&restored.base_membership),
            base_state: State::new(),
            entries: Vec::new(),
            commit: Index::ZERO,
            received: None,
        };
        Self {
            id: config.id,
            raft: Raft::new(config, restored, prng),
            up: true,
            disk,
            unsynced: VecDeque::new(),
            state: State::new(),
            judged: Index::ZERO,
            lives: 1,
            state_lost: false,
            installed: false,
            views: BTreeMap::new(),
            staged: None,
            staging_fails: false,
            snapshots: 0,
            chunk_commands: 2,
        }
    }

    /// The process is gone; of the writes on their way, the first `keep` arrive.
    pub(crate) fn crash(&mut self, keep: usize) {
        self.up = false;
        for (_, what, commit) in self.unsynced.drain(..).take(keep) {
            self.disk.carry_out(what, commit);
        }
        self.disk.received = None;
        self.views.clear();
        self.staged = None;
    }

    /// The state turns out to be wrong; the log is fine.
    pub(crate) fn lose_state(&mut self) {
        self.raft.state_lost();
        self.state_lost = true;
    }

    pub(crate) fn restart(&mut self, config: Config, prng: Prng) {
        let disk = &self.disk;
        self.raft = Raft::new(
            config,
            Restored {
                hard_state: disk.hard_state,
                base_index: disk.base_index,
                base_term: disk.base_term,
                base_membership: Arc::clone(&disk.base_membership),
                entries: disk.entries.clone(),
                commit: disk.commit,
            },
            prng,
        );
        self.state = disk.base_state.clone();
        self.judged = disk.base_index;
        self.state_lost = false;
        self.up = true;
        self.lives += 1;
    }

    /// Syncs everything up to `seq`.
    pub(crate) fn sync(&mut self, seq: PersistSeq) {
        while let Some((_, what, commit)) = self.unsynced.pop_front_if(|(at, ..)| *at <= seq) {
            self.disk.carry_out(what, commit);
        }
        self.raft.persisted(seq);
    }

    /// Applies up to `count` committed entries.
    pub(crate) fn apply(&mut self, count: usize) {
        if self.state_lost {
            return;
        }
        let (from, upto) = (self.raft.applied(), self.raft.commit());
        let upto = upto.min(Index(from.get().saturating_add(count as u64)));
        for entry in self.raft.entries(from.next()..=upto) {
            self.state.push((entry.term, entry.data.clone()));
        }
        assert_eq!(self.state.len() as u64, upto.get(), "a hole in the state");
        self.raft.applied_to(upto);
    }

    /// Makes a durable snapshot of the state, and lets the entries go up to `upto` or as far as a
    /// snapshot in transfer permits.
    pub(crate) fn compact(&mut self, upto: Index) {
        if self.state_lost {
            return;
        }
        let applied = self.raft.applied();
        let upto = upto.min(applied).min(self.raft.persisted_index());
        let upto = self
            .raft
            .snapshot_floor()
            .map_or(upto, |floor| upto.min(floor));
        let Some(term) = self.raft.term_at(upto) else {
            return;
        };
        let membership = Arc::clone(self.raft.membership_at(upto));
        let state = self.state[..upto.get() as usize].to_vec();
        if upto > self.disk.base_index {
            self.disk.compact(upto, term, membership, state);
        }
        self.raft.compact(upto);
    }

    /// Does what the snapshot effects ask. Returns the effect if it is none of these.
    pub(crate) fn handle(&mut self, effect: Effect) -> Option<Effect> {
        match effect {
            Effect::Persist { seq, what } => {
                let commit = self.raft.commit();
                self.unsynced.push_back((seq, what, commit));
            }
            Effect::SnapshotWanted { to } => self.make_view(to),
            Effect::ChunkWanted { to, snapshot, seq } => self.give_chunk(to, snapshot, seq),
            Effect::SnapshotDone { to, snapshot } => {
                if self.views.get(&to).is_some_and(|view| view.id == snapshot) {
                    self.views.remove(&to);
                }
            }
            Effect::StageChunk {
                snapshot,
                membership,
                seq,
                last,
                data,
            } => self.stage(snapshot, membership, seq, last, data),
            other => return Some(other),
        }
        None
    }

    fn make_view(&mut self, to: ReplicaId) {
        let index = self.raft.applied();
        let term = self.raft.term_at(index);
        let Some(term) = term.filter(|_| index > Index::ZERO && !self.state_lost) else {
            self.raft.snapshot_refused(to);
            return;
        };
        self.snapshots += 1;
        let id = SnapshotId {
            index,
            term,
            sender: self.id,
            number: self.lives << 32 | self.snapshots,
        };
        let membership = Arc::clone(self.raft.membership_at(index));
        let state = self.state.clone();
        self.views.insert(to, View { id, state });
        self.raft.snapshot_ready(to, id, membership);
    }

    fn give_chunk(&mut self, to: ReplicaId, snapshot: SnapshotId, seq: u64) {
        let view = self.views.get(&to).expect("a view for the wanted piece");
        assert_eq!(view.id, snapshot, "a piece of another view");
        // The newest first, so that a mixture of two snapshots is not just the newer one.
        let chunks: Vec<&[(Term, Bytes)]> = view.state.rchunks(self.chunk_commands).collect();
        let chunk = chunks[seq as usize];
        let last = seq as usize + 1 == chunks.len();
        let data = Bytes::from(encode_state(chunk));
        self.raft.chunk_ready(to, snapshot, seq, last, data);
    }

    fn stage(
        &mut self,
        id: SnapshotId,
        membership: Arc<Membership>,
        seq: u64,
        last: bool,
        data: Bytes,
    ) {
        if std::mem::take(&mut self.staging_fails) {
            self.staged = None;
            self.raft.install_failed(id);
            return;
        }
        if seq == 0 {
            self.staged = Some(Staged {
                id,
                membership,
                chunks: Vec::new(),
            });
        }
        let staged = self.staged.as_mut().expect("the first piece comes first");
        assert_eq!(staged.chunks.len() as u64, seq, "pieces come in order");
        staged.id = id;
        staged.chunks.push(data);
        if !last {
            return;
        }
        let staged = self.staged.take().expect("just staged");
        let state = decode_state(&staged.chunks);
        self.disk.received = Some((id.index, id.term, state.clone()));
        if self.raft.install(staged.id, staged.membership) {
            self.state = state;
            self.judged = id.index;
            self.installed = true;
            self.state_lost = false;
        }
    }
}

fn encode_state(commands: &[(Term, Bytes)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (term, data) in commands {
        out.extend_from_slice(&term.get().to_le_bytes());
        out.extend_from_slice(&(data.len() as u64).to_le_bytes());
        out.extend_from_slice(data);
    }
    out
}

fn decode_state(chunks: &[Bytes]) -> State {
    let mut state = State::new();
    for chunk in chunks.iter().rev() {
        let mut rest = &chunk[..];
        let number = |rest: &mut &[u8]| {
            let (head, tail) = rest.split_at(8);
            *rest = tail;
            u64::from_le_bytes(head.try_into().expect("eight bytes"))
        };
        while !rest.is_empty() {
            let term = Term(number(&mut rest));
            let len = number(&mut rest) as usize;
            let (data, tail) = rest.split_at(len);
            rest = tail;
            state.push((term, Bytes::copy_from_slice(data)));
        }
    }
    state
}
