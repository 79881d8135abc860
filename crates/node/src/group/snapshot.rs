//! Whole states on their way: to a file, to a follower, from a leader.
//!
//! All three read or write one format (`format::chunk`). A snapshot is a view of the state at one
//! applied index: taking it costs microseconds, and writes go on under it.
//!
//! - *Storing.* A file is begun when enough log has come since the last one. Its number goes into the
//!   log only when the file is durable and was read back, and the log itself is durable as far; the old
//!   file goes only when that record is durable. So at every moment the log names a file that exists,
//!   and never one that is ahead of its entries.
//! - *Sending.* A follower that needs entries which are not in memory any more gets a view, piece by
//!   piece. Pieces are named by snapshot, and pieces of different snapshots never mix.
//! - *Installing.* The pieces build a new state beside the old one. When it is whole it is written to
//!   a file of its own; when that is durable, consensus replaces the log by it in one log record. Until
//!   then the old log is what this replica votes and acknowledges by.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Bug, GroupId, Index, ReplicaId, Term};
use kvorum_raft::{Entry, Membership, SnapshotId};

use super::Group;
use super::apply::State;
use crate::effect::{Effect, Level};
use crate::format::chunk::{ChunkReader, ChunkWriter, Loaded, SnapshotHeader};
use crate::format::wal::SnapshotRef;
use crate::limits::{
    CARRY_BYTES_MAX, SNAPSHOT_PIECE_BYTES, SNAPSHOT_RETRY_TICKS, TRANSFER_CACHE_FACTOR,
};
use crate::shared::Shared;

/// Makes the bytes of a snapshot file, piece by piece, on whatever thread has time.
#[derive(Debug)]
pub struct SnapshotWriter {
    chunks: ChunkWriter,
}

impl SnapshotWriter {
    /// The next piece of the file, at most about 1 MiB; `None` after the last.
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        self.chunks.next_piece()
    }
}

/// A file being written.
#[derive(Debug)]
struct Storing {
    number: u64,
    index: Index,
    term: Term,
    membership: Arc<Membership>,
    /// Set when the file is a state received from the leader.
    install: Option<Install>,
    /// The size of the file once it is durable; it then waits for the own log to get as far.
    bytes: Option<u64>,
}

/// A whole received state, waiting for its file.
#[derive(Debug)]
struct Install {
    id: SnapshotId,
    state: State,
}

/// A view on its way to a follower.
#[derive(Debug)]
struct Sending {
    id: SnapshotId,
    chunks: ChunkWriter,
    /// Pieces made and perhaps wanted again; the first has number `first`.
    made: VecDeque<(Bytes, bool)>,
    first: u64,
}

/// A state coming from the leader.
#[derive(Debug)]
struct Staging {
    id: SnapshotId,
    next: u64,
    reader: ChunkReader,
}

/// A group's snapshots.
///
/// Invariants: at most one file is being written, or waits; `stored` names a file that exists.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    storing: Option<Storing>,
    /// Number, index and size of the newest durable file.
    stored: Option<(u64, Index, u64)>,
    /// The numbers of all files that exist.
    files: Vec<u64>,
    sending: BTreeMap<ReplicaId, Sending>,
    staging: Option<Staging>,
    /// The file of the state that consensus is installing in this very call.
    installing: Option<u64>,
    /// An operator asked for one.
    wanted: bool,
    /// The last one failed; not before this tick is another begun.
    retry_tick: u64,
}

impl Snapshots {
    pub(crate) fn is_storing(&self) -> bool {
        self.storing.is_some()
    }

    pub(crate) fn stored_index(&self) -> Index {
        self.stored.map_or(Index::ZERO, |(_, index, _)| index)
    }

    /// The file of the snapshot that consensus is installing; asked once.
    pub(super) fn take_installing(&mut self) -> u64 {
        self.installing
            .take()
            .expect("a log is replaced only by a stored snapshot")
    }

    pub(super) fn sent(&mut self, to: ReplicaId, snapshot: SnapshotId) {
        if self
            .sending
            .get(&to)
            .is_some_and(|sending| sending.id == snapshot)
        {
            self.sending.remove(&to);
        }
    }

    /// Forgets a file that is durable and waits for the own log.
    fn take_waiting(&mut self) -> Option<u64> {
        let waiting = self.storing.take_if(|storing| storing.bytes.is_some());
        waiting.map(|storing| storing.number)
    }

    fn note_stored(&mut self, number: u64, index: Index, bytes: u64) {
        self.stored = Some((number, index, bytes));
        self.files.push(number);
    }
}

impl Group {
    /// Names the file that the restart found and read, and how long it is.
    pub(crate) fn snapshot_found(&mut self, number: u64, index: Index, bytes: u64) {
        self.snapshots.files.push(number);
        if self.state.is_some() {
            self.snapshots.stored = Some((number, index, bytes));
        }
    }

    /// The log refers durably to this file: older ones can go.
    pub(crate) fn snapshot_referred(&mut self, number: u64, effects: &mut Vec<Effect>) {
        for old in self.snapshots.files.extract_if(.., |file| *file < number) {
            effects.push(Effect::DropSnapshot {
                group: self.id,
                number: old,
            });
        }
    }

    /// An operator, or the log, wants a snapshot soon.
    pub(crate) fn want_snapshot(&mut self) {
        self.snapshots.wanted = true;
    }

    /// Begins a snapshot file if enough log has come since the last.
    pub(super) fn maybe_store_snapshot(&mut self, shared: &mut Shared, effects: &mut Vec<Effect>) {
        let Some(state) = &self.state else { return };
        if self.snapshots.storing.is_some() || state.applied <= self.snapshots.stored_index() {
            return;
        }
        let last_bytes = self.snapshots.stored.map_or(0, |(_, _, bytes)| bytes);
        let enough = shared.config.snapshot_after_log_bytes.max(last_bytes);
        if shared.now_tick < self.snapshots.retry_tick {
            return;
        }
        if !self.snapshots.wanted && shared.log.bytes_since_snapshot(self.id) < enough {
            return;
        }
        self.snapshots.wanted = false;
        let number = shared.new_snapshot_number();
        let mut header = header_of(self.id, state);
        if shared.config.planted.has(Bug::StagingNotInSnapshot) {
            Arc::make_mut(&mut header.moves).incoming.clear();
        }
        if shared.config.planted.has(Bug::ManagerNotInSnapshot) {
            header.manager = None;
        }
        if shared.config.planted.has(Bug::SnapshotMissesLast) {
            header.index = header.index.next();
        }
        self.snapshots.storing = Some(Storing {
            number,
            index: header.index,
            term: header.term,
            membership: Arc::clone(&header.membership),
            install: None,
            bytes: None,
        });
        effects.push(store(self.id, number, header, state));
    }

    /// A snapshot file is durable, or could not be made.
    pub(crate) fn snapshot_stored(
        &mut self,
        number: u64,
        result: Result<u64, String>,
        shared: &mut Shared,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut storing) = self
            .snapshots
            .storing
            .take_if(|storing| storing.number == number)
        else {
            // Its group went on without it.
            effects.push(Effect::DropSnapshot {
                group: self.id,
                number,
            });
            return;
        };
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(reason) => {
                let text = format!("no snapshot at {}: {reason}", storing.index);
                shared.note(Level::Warn, Some(self.id), text);
                self.snapshots.retry_tick = shared.now_tick + SNAPSHOT_RETRY_TICKS;
                if let Some(install) = storing.install {
                    self.raft.install_failed(install.id);
                }
                return;
            }
        };
        shared.counters.snapshots_stored += 1;
        if let Some(install) = storing.install {
            return self.install(number, bytes, install, shared, effects);
        }
        storing.bytes = Some(bytes);
        self.snapshots.storing = Some(storing);
        self.maybe_count_snapshot(shared, effects);
    }

    /// Has the log refer to a durable file as soon as the own disk holds what it covers.
    pub(super) fn maybe_count_snapshot(&mut self, shared: &mut Shared, effects: &mut Vec<Effect>) {
        let raft = &self.raft;
        let may_count = |storing: &mut Storing| {
            storing.bytes.is_some() && raft.may_count_snapshot(storing.index)
        };
        let Some(Storing {
            number,
            index,
            term,
            membership,
            bytes: Some(bytes),
            install: _,
        }) = self.snapshots.storing.take_if(may_count)
        else {
            return;
        };
        let snapshot = SnapshotRef {
            number,
            index,
            term,
        };
        if shared.log.snapshot_stored(self.id, snapshot, membership) {
            self.snapshots.note_stored(number, index, bytes);
        } else {
            effects.push(Effect::DropSnapshot {
                group: self.id,
                number,
            });
        }
    }

    /// Replaces log and state by a received snapshot whose file is durable.
    fn install(
        &mut self,
        number: u64,
        bytes: u64,
        install: Install,
        shared: &mut Shared,
        effects: &mut Vec<Effect>,
    ) {
        let Install { id, state } = install;
        let membership = Arc::clone(&state.membership);
        if !self.raft.install(id, Arc::clone(&membership)) {
            // The log has got there by itself meanwhile.
            effects.push(Effect::DropSnapshot {
                group: self.id,
                number,
            });
            return;
        }
        while let Some(jumped) = self.batches.take_jumped(id.index) {
            self.answer_unknown(&jumped.replies, shared);
        }
        self.state = Some(state);
        self.state_wanted_tick = None;
        self.update_can_campaign();
        self.checkpoints.clear();
        shared.counters.snapshots_installed += 1;
        self.snapshots.installing = Some(number);
        self.drain_raft(shared, effects);
        if self.snapshots.installing.take().is_some() {
            // The log was right all the time and stays; it only refers to the new file from now on.
            let snapshot = SnapshotRef {
                number,
                index: id.index,
                term: id.term,
            };
            shared.log.snapshot_stored(self.id, snapshot, membership);
        }
        self.snapshots.note_stored(number, id.index, bytes);
        let text = format!("installed a snapshot of {bytes} bytes at {}", id.index);
        shared.note(Level::Info, Some(self.id), text);
    }

    /// A follower needs entries that are gone: takes a view for it.
    pub(super) fn begin_sending(&mut self, to: ReplicaId, shared: &mut Shared) {
        let Some(state) = &self.state else {
            return self.raft.snapshot_refused(to);
        };
        let mut header = header_of(self.id, state);
        if shared.config.planted.has(Bug::SnapshotNewestMembership) {
            header.membership = Arc::clone(self.raft.membership());
        }
        // File numbers are never used twice, so one of them makes the id unique over restarts too.
        let number = shared.new_snapshot_number();
        let (index, term) = (header.index, header.term);
        let id = SnapshotId {
            index,
            term,
            sender: self.replica,
            number,
        };
        let membership = Arc::clone(&header.membership);
        let chunks = ChunkWriter::new(header, state.keyspace.view(), shared.config.chunk_bytes);
        let sending = Sending {
            id,
            chunks,
            made: VecDeque::new(),
            first: 0,
        };
        self.snapshots.sending.insert(to, sending);
        self.raft.snapshot_ready(to, id, membership);
    }

    /// Hands consensus one piece: the next, or an earlier one again.
    pub(super) fn send_chunk(&mut self, to: ReplicaId, snapshot: SnapshotId, seq: u64) {
        let Some(sending) = self.snapshots.sending.get_mut(&to) else {
            return;
        };
        if sending.id != snapshot {
            return;
        }
        match sending.piece(seq) {
            Some((piece, last)) => self.raft.chunk_ready(to, snapshot, seq, last, piece),
            // The follower starts anew and the first pieces are gone: so must the view.
            None => {
                self.snapshots.sending.remove(&to);
                self.raft.snapshot_refused(to);
            }
        }
    }

    /// Keeps a received piece; after the last one the new state goes to a file.
    pub(super) fn stage(
        &mut self,
        id: SnapshotId,
        seq: u64,
        last: bool,
        data: &Bytes,
        shared: &mut Shared,
        effects: &mut Vec<Effect>,
    ) {
        if seq == 0 {
            let reader = ChunkReader::new(self.id, shared.config.hash_key);
            self.snapshots.staging = Some(Staging {
                id,
                next: 0,
                reader,
            });
        }
        let Some(mut staging) = self
            .snapshots
            .staging
            .take_if(|staging| staging.id == id && staging.next == seq)
        else {
            return self.staging_failed(id, "its pieces are of several snapshots", shared);
        };
        if let Err(error) = staging.reader.feed(data) {
            return self.staging_failed(id, &error.to_string(), shared);
        }
        shared.counters.snapshot_pieces += u64::from(seq > 0);
        if !last {
            staging.next += 1;
            self.snapshots.staging = Some(staging);
            return;
        }
        match staging.reader.finish() {
            Ok(loaded) if (loaded.header.index, loaded.header.term) != (id.index, id.term) => {
                self.staging_failed(id, "it is of another index than it was sent for", shared);
            }
            Ok(loaded) => {
                let mut state = State::from(loaded);
                state.keyspace.set_planted(shared.config.planted);
                self.store_received(id, state, shared, effects);
            }
            Err(error) => self.staging_failed(id, &error.to_string(), shared),
        }
    }

    fn staging_failed(&mut self, id: SnapshotId, reason: &str, shared: &mut Shared) {
        let text = format!(
            "a received snapshot at {} cannot be read: {reason}",
            id.index
        );
        shared.note(Level::Error, Some(self.id), text);
        shared.counters.snapshots_unreadable += 1;
        self.raft.install_failed(id);
    }

    fn store_received(
        &mut self,
        id: SnapshotId,
        state: State,
        shared: &mut Shared,
        effects: &mut Vec<Effect>,
    ) {
        let number = shared.new_snapshot_number();
        effects.push(store(self.id, number, header_of(self.id, &state), &state));
        // A snapshot of the old state is of no use any more. One that is still being written is dropped
        // when it is reported.
        if let Some(old) = self.snapshots.take_waiting() {
            effects.push(Effect::DropSnapshot {
                group: self.id,
                number: old,
            });
        }
        self.snapshots.storing = Some(Storing {
            number,
            index: state.applied,
            term: state.applied_term,
            membership: Arc::clone(&state.membership),
            install: Some(Install { id, state }),
            bytes: None,
        });
    }
}

impl Sending {
    /// The piece with this number, if it is the next or not yet forgotten.
    fn piece(&mut self, seq: u64) -> Option<(Bytes, bool)> {
        /// More than are ever on the way at once.
        const KEPT: usize = 16;
        while seq >= self.first + self.made.len() as u64 {
            let bytes = Bytes::from(self.chunks.next_piece()?);
            self.made.push_back((bytes, self.chunks.is_done()));
            if self.made.len() > KEPT {
                self.made.pop_front();
                self.first += 1;
            }
        }
        self.made
            .get(usize::try_from(seq.checked_sub(self.first)?).ok()?)
            .cloned()
    }
}

impl From<Loaded> for State {
    fn from(loaded: Loaded) -> Self {
        let SnapshotHeader {
            group: _,
            index,
            term,
            membership,
            taken,
            moves,
            manager,
        } = loaded.header;
        Self {
            keyspace: loaded.keyspace,
            applied: index,
            applied_term: term,
            membership,
            taken,
            moves,
            manager,
        }
    }
}

fn header_of(group: GroupId, state: &State) -> SnapshotHeader {
    SnapshotHeader {
        group,
        index: state.applied,
        term: state.applied_term,
        membership: Arc::clone(&state.membership),
        taken: state.taken,
        moves: Arc::clone(&state.moves),
        manager: state.manager.clone(),
    }
}

fn store(group: GroupId, number: u64, header: SnapshotHeader, state: &State) -> Effect {
    let chunks = ChunkWriter::new(header, state.keyspace.view(), SNAPSHOT_PIECE_BYTES);
    Effect::StoreSnapshot {
        group,
        number,
        writer: Box::new(SnapshotWriter { chunks }),
    }
}

impl Group {
    /// A replica without a state asks the primary for one, now and then; also while pieces come, since
    /// the primary that sends them may fall, or give up, and nobody says so.
    pub(super) fn maybe_ask_for_state(&mut self, shared: &mut Shared) {
        let asked = self.state_wanted_tick;
        let pause = u64::from(shared.config.election_ticks_max);
        let now = shared.now_tick;
        if self.state.is_some() || asked.is_some_and(|tick| now < tick + pause) {
            return;
        }
        if let Some(primary) = self.primary()
            && !self.raft.is_installing()
        {
            self.state_wanted_tick = Some(now);
            shared.peers.want_state(primary, self.id, self.replica);
        }
    }

    /// A replica without a state asks this one, which leads, for a snapshot.
    pub(crate) fn state_asked(&mut self, by: ReplicaId) {
        if self.leading() && self.raft.membership().nodes.contains_key(&by) {
            self.raft.send_snapshot(by);
        }
    }

    /// The primary found this replica's state to differ from the majority's.
    pub(crate) fn diverged(&mut self, index: Index, hash: u64, shared: &mut Shared) {
        // A state that was replaced since has noted no hash there.
        let noted = self.checkpoints.hash_of(index, self.replica);
        if self.leading() || self.state.is_none() || noted != Some(hash) {
            return;
        }
        let text = format!("this replica's state differs at checkpoint {index}: it is replaced");
        shared.note(Level::Error, Some(self.id), text);
        self.drop_state(shared);
    }

    /// Lets the state go; log and votes are fine. Until a snapshot comes nothing is applied or led.
    ///
    /// Its files go too: a snapshot that the log names and that cannot be read is what a lost state
    /// looks like after a restart. One that is being written is dropped when it is reported.
    pub(super) fn drop_state(&mut self, shared: &mut Shared) {
        self.state = None;
        self.state_wanted_tick = None;
        self.raft.state_lost();
        self.update_can_campaign();
        self.checkpoints.clear();
        self.snapshots.sending.clear();
        let waiting = self.snapshots.take_waiting();
        self.snapshots.storing = None;
        self.snapshots.stored = None;
        let files = std::mem::take(&mut self.snapshots.files);
        for number in files.into_iter().chain(waiting) {
            shared.later(Effect::DropSnapshot {
                group: self.id,
                number,
            });
        }
    }

    /// The numbers of all files that it leaves behind, once it is deleted. One that is being written is
    /// dropped when it is reported.
    pub(crate) fn take_files(&mut self) -> Vec<u64> {
        let waiting = self.snapshots.take_waiting();
        let mut files = std::mem::take(&mut self.snapshots.files);
        files.extend(waiting);
        files
    }

    /// The entries of a range, if all are in memory and small enough to be carried.
    pub(crate) fn live_entries(&self, first: Index, last: Index) -> Option<Vec<Entry>> {
        let entries: Vec<Entry> = self.raft.entries(first..=last).cloned().collect();
        let bytes: u64 = entries.iter().map(|entry| entry.data.len() as u64).sum();
        let whole = entries.len() as u64 == last - first + 1;
        (whole && bytes <= CARRY_BYTES_MAX).then_some(entries)
    }

    /// Lets old entries go from memory once there are more than the configured bytes.
    pub(super) fn trim_log(&mut self, shared: &Shared) {
        let limit = shared.config.log_cache_bytes;
        if self.cached_bytes <= limit.max(self.trim_above) {
            return;
        }
        let (base, applied) = (self.raft.base_index(), self.raft.applied());
        let durable = applied.min(self.raft.persisted_index());
        let all = self.raft.entries(base.next()..=self.raft.last_index());
        let mut bytes: u64 = all.map(|entry| entry.data.len() as u64).sum();
        // A quarter less than allowed, so that this is not done for every entry.
        let wanted = limit / 4 * 3;
        let mut upto = base;
        let floor = self.raft.snapshot_floor().unwrap_or(applied);
        for entry in self.raft.entries(base.next()..=durable.min(floor)) {
            if bytes <= wanted {
                break;
            }
            bytes -= entry.data.len() as u64;
            upto = entry.index;
        }
        self.cached_bytes = bytes;
        if bytes > limit * TRANSFER_CACHE_FACTOR {
            // What is kept for the receivers of snapshots is too much by now.
            for to in std::mem::take(&mut self.snapshots.sending).into_keys() {
                self.raft.snapshot_refused(to);
            }
        }
        // Where little could go there is no use in counting all over at each entry.
        self.trim_above = bytes + limit / 8;
        if upto > base {
            self.raft.compact(upto);
        }
    }
}
