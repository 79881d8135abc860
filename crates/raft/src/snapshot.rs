//! Bringing a follower over by a snapshot (Raft paper, section 7), piece by piece.
//!
//! The leader's side: a follower needs entries that are gone, so the caller is asked for a view of
//! the state, and then for its pieces, one after another, a few of them on the way at a time. The
//! follower's side: pieces are staged beside the state it has; it goes on voting with its old log
//! until the whole is durable, and takes the snapshot by one record.
//!
//! A piece names its snapshot by index, term, sender and a number that the sender drew. Without that:
//!
//! 1. B has pieces 0..9 of leader A's snapshot at 500; A dies.
//! 2. C leads and sends its snapshot at 520; B says "I have 9 already".
//! 3. B ends with a mixture of two states, in which every piece is valid by itself.
//!
//! The end of a transfer is told by a word of its own ([`NO_PIECE`]) and not by an acknowledgement of the
//! index: a follower that lost its state and kept its log acknowledges entries all the while, also
//! those around the snapshot's end.
//!
//! What the pieces hold is the caller's business, and so is checking the whole.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Bug, Index, ReplicaId};

use crate::effect::{Effect, Persist};
use crate::membership::{self, History};
use crate::message::{Body, Chunk, Message, NO_PIECE, SnapshotId};
use crate::progress::{Flow, Progress};
use crate::raft::{Raft, Role};
use crate::types::Membership;

/// So many of the longest election timeouts may a follower be silent before the view made for it is
/// given up. It pins memory, but a transfer should outlive a restart of the follower.
const PATIENCE_ELECTIONS: u64 = 10;

/// How far a leader is with sending a snapshot.
#[derive(Debug)]
pub(crate) enum Sending {
    /// The caller was asked for a view.
    Wanted,
    /// The caller could not make one at that tick.
    Refused { at: u64 },
    /// Pieces are moving.
    Running(Running),
}

/// A transfer.
///
/// Invariants: `acked <= sent <= sent_max`; what the caller was asked for and has not given is piece
/// `sent`.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: SnapshotId,
    membership: Arc<Membership>,
    /// Pieces below this one have been staged by the follower.
    acked: u64,
    /// Pieces below this one were sent since the transfer last went back.
    sent: u64,
    /// Pieces below this one were ever sent.
    sent_max: u64,
    /// Whether the caller was asked for piece `sent`.
    asked: bool,
    /// The last piece, once seen.
    last: Option<u64>,
    /// The tick of the last step forward, or of starting anew.
    moved_at: u64,
    /// The tick at which a piece was last sent.
    sent_at: u64,
}

impl Running {
    /// The piece to ask for next, if the window and the end allow.
    fn maybe_ask(&mut self, in_flight_max: u64) -> Option<u64> {
        let ended = self.last.is_some_and(|last| self.sent > last);
        if self.asked || ended || self.sent >= self.acked + in_flight_max {
            return None;
        }
        self.asked = true;
        Some(self.sent)
    }

    /// Sends again from what the follower has.
    fn repeat(&mut self, now: u64) {
        self.sent = self.acked;
        self.asked = false;
        self.sent_at = now;
    }
}

/// A snapshot that this replica is receiving.
#[derive(Debug)]
pub(crate) struct Incoming {
    id: SnapshotId,
    /// The next piece wanted.
    next: u64,
    /// The last piece was staged: the caller checks the whole and makes it durable.
    complete: bool,
}

/// The leader's side.
impl Raft {
    /// Hands over that a view is ready for a follower. `membership` is [`Raft::membership_at`] of the
    /// view's index. If nobody needs it any more, [`Effect::SnapshotDone`] answers.
    pub fn snapshot_ready(
        &mut self,
        to: ReplicaId,
        snapshot: SnapshotId,
        membership: Arc<Membership>,
    ) {
        assert!(
            snapshot.index <= self.log.applied() && snapshot.sender == self.config.id,
            "{snapshot:?} is not a view of this replica, which applied {}",
            self.log.applied()
        );
        if !membership::is_sound(&membership) {
            // This replica was fed from the first entry on and has not applied a membership yet: no
            // follower could use the snapshot.
            self.out.emit(Effect::SnapshotDone { to, snapshot });
            self.snapshot_refused(to);
            return;
        }
        let base = self.log.base_index();
        let now = self.now;
        if let Some(sending @ Sending::Wanted) = self.sending_mut(to)
            && snapshot.index >= base
        {
            *sending = Sending::Running(Running {
                id: snapshot,
                membership,
                acked: 0,
                sent: 0,
                sent_max: 0,
                asked: false,
                last: None,
                moved_at: now,
                sent_at: now,
            });
            self.want_chunk(to);
            return;
        }
        self.out.emit(Effect::SnapshotDone { to, snapshot });
        // Entries behind the view went away while it was made: another one is needed.
        if let Some(Sending::Wanted) = self.sending_mut(to) {
            self.out.emit(Effect::SnapshotWanted { to });
        }
    }

    /// No view can be made, or the one in transfer cannot be read on; asked again after a while.
    pub fn snapshot_refused(&mut self, to: ReplicaId) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(peer) = leader.peers.get_mut(&to) else {
            return;
        };
        if let Some(snapshot) = peer.running() {
            self.out.emit(Effect::SnapshotDone { to, snapshot });
        }
        peer.state_lost = false;
        let waits = matches!(peer.flow, Flow::Snapshot);
        peer.sending = waits.then_some(Sending::Refused { at: now });
    }

    /// Hands over the piece that [`Effect::ChunkWanted`] asked for. One that is not wanted any more
    /// is ignored.
    pub fn chunk_ready(
        &mut self,
        to: ReplicaId,
        snapshot: SnapshotId,
        seq: u64,
        last: bool,
        data: Bytes,
    ) {
        let term = self.hard_state.term;
        let now = self.now;
        let Some(Sending::Running(running)) = self.sending_mut(to) else {
            return;
        };
        if running.id != snapshot || !running.asked || running.sent != seq {
            return;
        }
        running.asked = false;
        running.sent += 1;
        running.sent_max = running.sent_max.max(running.sent);
        running.sent_at = now;
        if last {
            running.last = Some(seq);
        }
        let body = Body::Chunk(Chunk {
            snapshot,
            membership: Arc::clone(&running.membership),
            seq,
            last,
            data,
        });
        self.out.send(to, Message { term, body });
        self.want_chunk(to);
    }

    /// Sends a snapshot to a follower that has its log but lost its state, beside the entries. To be
    /// asked again if the follower still needs one later: the view may turn out too
    /// old for its log, a view may be refused, and a leader's successor does not know.
    pub fn send_snapshot(&mut self, to: ReplicaId) {
        // Before that there may be nothing to make a view of, and no way to get there without it.
        if !self.commit_is_of_own_term() {
            return;
        }
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&to)
        {
            peer.state_lost = true;
            if peer.sending.is_none() {
                peer.sending = Some(Sending::Wanted);
                self.out.emit(Effect::SnapshotWanted { to });
            }
        }
    }

    /// The last entry that no receiver of a snapshot in transfer will need: those after it should not
    /// be compacted away meanwhile, or the transfer ends before the first entry that is left, for ever.
    #[must_use]
    pub fn snapshot_floor(&self) -> Option<Index> {
        let Role::Leader(leader) = &self.role else {
            return None;
        };
        let in_transfer = |peer: &Progress| {
            peer.running()
                .map(|snapshot| snapshot.index.max(peer.matched))
        };
        leader.peers.values().filter_map(in_transfer).min()
    }

    pub(crate) fn on_chunk_reply(&mut self, from: ReplicaId, snapshot: SnapshotId, next: u64) {
        if next == NO_PIECE {
            return self.on_snapshot_taken(from, snapshot);
        }
        let patience = u64::from(self.config.election_ticks_min);
        let now = self.now;
        let Some(Sending::Running(running)) = self.sending_mut(from) else {
            return;
        };
        if running.id != snapshot {
            return;
        }
        if next > running.acked && next <= running.sent_max {
            running.acked = next;
            running.moved_at = now;
            if running.sent < next {
                running.sent = next;
                running.asked = false;
            }
        } else if next < running.acked && now - running.moved_at >= patience {
            // Old answers arrive late and mean nothing while pieces move. When nothing moves, the
            // follower has lost what it staged.
            running.acked = next;
            running.moved_at = now;
            running.repeat(now);
        }
        self.want_chunk(from);
    }

    /// A follower holds what a snapshot stands for, or has no use for it. It may be the snapshot of a
    /// former leader that it took.
    fn on_snapshot_taken(&mut self, from: ReplicaId, snapshot: SnapshotId) {
        if snapshot.index > self.log.last_index() {
            return;
        }
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&from)
            && peer.running() == Some(snapshot)
        {
            peer.end_sending();
            self.out.emit(Effect::SnapshotDone { to: from, snapshot });
        }
        self.on_matched(from, snapshot.index, snapshot.index);
    }

    fn want_chunk(&mut self, to: ReplicaId) {
        let in_flight_max = self.config.chunks_in_flight_max;
        let Some(Sending::Running(running)) = self.sending_mut(to) else {
            return;
        };
        let snapshot = running.id;
        if let Some(seq) = running.maybe_ask(in_flight_max) {
            self.out.emit(Effect::ChunkWanted { to, snapshot, seq });
        }
    }

    /// A heartbeat was answered by a follower that waits for a snapshot: what stands still is started
    /// again.
    pub(crate) fn revive_snapshot(&mut self, to: ReplicaId) {
        let patience = u64::from(self.config.election_ticks_min);
        let now = self.now;
        match self.sending_mut(to) {
            Some(Sending::Running(running))
                if !running.asked && now - running.sent_at >= patience =>
            {
                running.repeat(now);
                self.want_chunk(to);
            }
            Some(sending @ Sending::Refused { .. }) => {
                if let Sending::Refused { at } = sending
                    && now - *at >= patience
                {
                    *sending = Sending::Wanted;
                    self.out.emit(Effect::SnapshotWanted { to });
                }
            }
            _ => {}
        }
    }

    /// Gives up transfers to followers that have been silent for very long.
    pub(crate) fn give_up_snapshots(&mut self) {
        let patience = PATIENCE_ELECTIONS * u64::from(self.config.election_ticks_max);
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        for (to, peer) in &mut leader.peers {
            if now - peer.heard_at >= patience
                && let Some(snapshot) = peer.end_sending()
            {
                self.out.emit(Effect::SnapshotDone { to: *to, snapshot });
            }
        }
    }

    fn sending_mut(&mut self, replica: ReplicaId) -> Option<&mut Sending> {
        match &mut self.role {
            Role::Leader(leader) => leader.peers.get_mut(&replica)?.sending.as_mut(),
            _ => None,
        }
    }
}

/// The follower's side.
impl Raft {
    pub(crate) fn on_chunk(&mut self, from: ReplicaId, chunk: Chunk) {
        let id = chunk.snapshot;
        if !self.follow(from) {
            return;
        }
        if !self.state_lost && self.holds(id) {
            self.incoming = None;
            self.log.commit_to(id.index.max(self.log.commit()));
            self.decline_pieces(from, id);
            return;
        }
        if self.state_lost && id.index < self.log.base_index() {
            // Entries between that state and the log are gone here: a later view is needed.
            self.decline_pieces(from, id);
            return;
        }
        let foreign = self.config.planted.has(Bug::ForeignChunkResumed);
        match &mut self.incoming {
            // Whatever it is, the caller is busy with the one before.
            Some(incoming) if incoming.complete => return,
            Some(incoming) if incoming.id == id || foreign => {
                incoming.id = id;
            }
            _ => {
                self.incoming = Some(Incoming {
                    id,
                    next: 0,
                    complete: false,
                });
            }
        }
        let incoming = self.incoming.as_mut().expect("just made sure");
        if chunk.seq == incoming.next {
            incoming.next += 1;
            incoming.complete = chunk.last;
            self.out.emit(Effect::StageChunk {
                snapshot: id,
                membership: chunk.membership,
                seq: chunk.seq,
                last: chunk.last,
                data: chunk.data,
            });
            if chunk.last {
                // Answered by `install`.
                return;
            }
        }
        let next = incoming.next;
        self.reply(from, Body::ChunkReply { snapshot: id, next });
    }

    /// Whether this log has all that a snapshot stands for.
    fn holds(&self, id: SnapshotId) -> bool {
        id.index <= self.log.commit() || self.log.matches(id.index, id.term)
    }

    /// The staged snapshot is checked and durable: take it. Returns whether the caller must replace
    /// its state by it now; `false` if the log has gone further meanwhile, or another snapshot came,
    /// and what was staged can be thrown away.
    ///
    /// Usually [`Persist::Reset`] follows, and makes the snapshot the base of the log on the disk.
    /// Without it only a lost state was replaced: the log stays as it is, and the snapshot is like one
    /// of the own state, see [`Raft::may_count_snapshot`].
    #[must_use]
    pub fn install(&mut self, snapshot: SnapshotId, membership: Arc<Membership>) -> bool {
        // A leader has everything that any snapshot can hold, or it would not have been elected.
        if !self.take_incoming(snapshot) || self.is_leader() {
            return false;
        }
        let SnapshotId { index, term, .. } = snapshot;
        let taken = if self.holds(snapshot) {
            self.take_state_under_log(index)
        } else {
            self.replace_log(index, term, membership);
            true
        };
        if let Some(leader) = self.leader
            && leader != self.config.id
        {
            self.decline_pieces(leader, snapshot);
        }
        self.finish();
        taken
    }

    /// What was staged is not a snapshot or cannot be kept, whether all pieces are here or only some:
    /// the leader is asked for the first piece again.
    pub fn install_failed(&mut self, snapshot: SnapshotId) {
        self.incoming.take_if(|incoming| incoming.id == snapshot);
    }

    /// The state is gone or wrong, the log is intact: this replica votes and acknowledges on, takes
    /// any snapshot that its log can follow, and must not stand for election until it has one. The
    /// leader is asked for it by [`Raft::send_snapshot`] on its side. A leader steps down.
    pub fn state_lost(&mut self) {
        self.state_lost = true;
        self.incoming = None;
        if !matches!(self.role, Role::Follower) {
            self.become_follower(self.hard_state.term, None);
        }
        self.finish();
    }

    /// Whether all pieces of a snapshot have come and the caller has not said what became of them.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.incoming
            .as_ref()
            .is_some_and(|incoming| incoming.complete)
    }

    fn take_incoming(&mut self, snapshot: SnapshotId) -> bool {
        let is_this = |incoming: &mut Incoming| incoming.complete && incoming.id == snapshot;
        self.incoming.take_if(is_this).is_some()
    }

    /// The log agrees with the snapshot and stays; only the state may have been missing.
    fn take_state_under_log(&mut self, index: Index) -> bool {
        if self.state_lost && index >= self.log.base_index() {
            self.log.state_replaced(index);
            self.state_lost = false;
            return true;
        }
        self.log.commit_to(index.max(self.log.commit()));
        false
    }

    /// The log ends before the snapshot, or disagrees with it and so was never committed: it goes.
    fn replace_log(&mut self, index: Index, term: kvorum_base::Term, membership: Arc<Membership>) {
        let seq = if self.config.planted.has(Bug::ResetMissing) {
            None
        } else {
            Some(self.out.persist(Persist::Reset {
                index,
                term,
                membership: Arc::clone(&membership),
            }))
        };
        self.log.reset(seq, index, term);
        self.history = History::new(index, membership);
        self.state_lost = false;
    }

    /// Tells the leader that everything that a snapshot stands for is here, once that is durable.
    fn decline_pieces(&mut self, to: ReplicaId, snapshot: SnapshotId) {
        let seq = self.log.durable_with(snapshot.index);
        let next = NO_PIECE;
        let body = Body::ChunkReply { snapshot, next };
        let term = self.hard_state.term;
        self.out.send_after(seq, to, Message { term, body });
    }
}
