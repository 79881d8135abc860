//! What a leader does: sends entries, repairs what got lost, counts who holds what, and keeps in touch
//! (Raft paper, sections 5.3 and 5.4).

use kvorum_base::{Bug, Index, ReplicaId, Term};

use crate::effect::Effect;
use crate::membership;
use crate::message::{AppendOutcome, Body};
use crate::progress::{Flow, Window};
use crate::quorum;
use crate::raft::{Raft, Role};
use crate::snapshot::Sending;

impl Raft {
    pub(crate) fn tick_leader(&mut self) {
        self.tick_transfer();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.heartbeat_elapsed += 1;
        if leader.heartbeat_elapsed < self.config.heartbeat_ticks {
            self.tell_commit();
            return;
        }
        leader.heartbeat_elapsed = 0;
        self.check_quorum();
        self.give_up_snapshots();
        for to in self.peer_ids() {
            self.send_heartbeat(to);
        }
        self.maybe_confirm_reads();
        self.maybe_hand_over();
    }

    /// Sends a heartbeat to followers that do not know yet what is committed: at most one a tick, so
    /// that a busy leader says it with its next append, and a follower that serves reads is not a
    /// whole heartbeat behind.
    fn tell_commit(&mut self) {
        let commit = self.log.commit();
        let Role::Leader(leader) = &self.role else {
            return;
        };
        if leader
            .peers
            .values()
            .all(|peer| peer.commit_sent >= commit.min(peer.matched))
        {
            return;
        }
        for to in self.peer_ids() {
            self.nudge(to);
        }
    }

    /// Sends a heartbeat to a follower that may not know yet what is committed there.
    fn nudge(&mut self, to: ReplicaId) {
        let commit = self.log.commit();
        if let Role::Leader(leader) = &self.role
            && let Some(peer) = leader.peers.get(&to)
            && peer.commit_sent < commit.min(peer.matched)
        {
            self.send_heartbeat(to);
        }
    }

    fn peer_ids(&self) -> Vec<ReplicaId> {
        match &self.role {
            Role::Leader(leader) => leader.peers.keys().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// The commit index in it is cut to what the follower is known to hold: its log may go on with
    /// entries that are not ours.
    pub(crate) fn send_heartbeat(&mut self, to: ReplicaId) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(peer) = leader.peers.get_mut(&to) else {
            return;
        };
        let commit = self.log.commit().min(peer.matched);
        peer.commit_sent = peer.commit_sent.max(commit);
        let body = Body::Heartbeat {
            commit,
            read: self.read_number,
        };
        self.reply(to, body);
    }

    pub(crate) fn broadcast_appends(&mut self) {
        for to in self.peer_ids() {
            self.send_appends(to);
        }
    }

    /// Sends what a follower is owed and its flow allows.
    pub(crate) fn send_appends(&mut self, to: ReplicaId) {
        while self.send_one_append(to) {}
    }

    /// Sends the next append, or asks for a snapshot. Returns whether there may be more to send.
    fn send_one_append(&mut self, to: ReplicaId) -> bool {
        let (now, last) = (self.now, self.log.last_index());
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let Some(peer) = leader.peers.get_mut(&to) else {
            return false;
        };
        if peer.next > last {
            return false;
        }
        let room = match &peer.flow {
            Flow::Probe { sent_at } => sent_at.is_none().then_some(self.config.append_bytes()),
            Flow::Replicate(window) => {
                let first = self
                    .log
                    .entry(peer.next)
                    .map_or(0, |entry| entry.data.len());
                window.room(first, &self.config)
            }
            Flow::Snapshot => None,
        };
        let Some(bytes_max) = room else {
            return false;
        };
        if self.log.term_at(peer.next.prev()).is_none() {
            // A view pins memory: none for a follower that may be dead.
            if now - peer.heard_at < u64::from(self.config.election_ticks_max) {
                peer.flow = Flow::Snapshot;
                if peer.sending.is_none() {
                    peer.sending = Some(Sending::Wanted);
                    self.out.emit(Effect::SnapshotWanted { to });
                }
            }
            return false;
        }
        let (upto, bytes) = last_within(&self.log, peer.next, bytes_max);
        let prev_index = peer.next.prev();
        match &mut peer.flow {
            Flow::Probe { sent_at } => *sent_at = Some(now),
            Flow::Replicate(window) => {
                window.sent(upto, bytes, now);
                peer.next = upto.next();
            }
            Flow::Snapshot => {}
        }
        self.send_append(to, prev_index, upto);
        true
    }

    /// Sends the entries after `prev_index` up to `upto`.
    fn send_append(&mut self, to: ReplicaId, prev_index: Index, upto: Index) {
        let commit = self.log.commit();
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&to)
        {
            peer.commit_sent = peer.commit_sent.max(commit.min(upto));
        }
        let Some(prev_term) = self.log.term_at(prev_index) else {
            return;
        };
        let entries = self
            .log
            .entries(prev_index.next()..=upto)
            .cloned()
            .collect();
        let body = Body::Append {
            prev_index,
            prev_term,
            entries,
            commit,
        };
        self.reply(to, body);
    }

    pub(crate) fn on_append_reply(
        &mut self,
        from: ReplicaId,
        prev_index: Index,
        outcome: AppendOutcome,
    ) {
        self.heard(from);
        match outcome {
            AppendOutcome::Matched(index) if index <= self.log.last_index() => {
                self.on_matched(from, prev_index, index);
            }
            AppendOutcome::Conflict { index, term } if index <= prev_index => {
                self.on_conflict(from, prev_index, index, term);
            }
            _ => {}
        }
    }

    pub(crate) fn on_matched(&mut self, from: ReplicaId, prev_index: Index, index: Index) {
        let base = self.log.base_index();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(peer) = leader.peers.get_mut(&from) else {
            return;
        };
        let answers_probe = prev_index == peer.next.prev();
        let news = peer.advance(index);
        match &peer.flow {
            Flow::Probe { .. } if news || answers_probe => {
                peer.next = peer.matched.next();
                peer.flow = Flow::Replicate(Window::default());
            }
            // Entries can follow what it has got from elsewhere.
            Flow::Snapshot if peer.matched >= base => {
                if !peer.state_lost
                    && let Some(snapshot) = peer.end_sending()
                {
                    self.out.emit(Effect::SnapshotDone { to: from, snapshot });
                }
                peer.next = peer.matched.next();
                peer.flow = Flow::Replicate(Window::default());
            }
            _ => {}
        }
        if news {
            self.maybe_commit();
        }
        self.send_appends(from);
        let awaited = matches!(&self.role, Role::Leader(leader)
            if leader.transfer.as_ref().is_some_and(|transfer| transfer.to == from));
        if news && awaited {
            self.maybe_hand_over();
        }
    }

    /// A refusal. Late ones are told from fresh ones by the place that they answer: at or below what
    /// is certain, or not that of the present probe.
    fn on_conflict(&mut self, from: ReplicaId, prev_index: Index, index: Index, term: Term) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(peer) = leader.peers.get_mut(&from) else {
            return;
        };
        let fresh = match &peer.flow {
            Flow::Probe { .. } => prev_index == peer.next.prev(),
            Flow::Replicate(_) => prev_index < peer.next,
            Flow::Snapshot => false,
        };
        if !fresh || prev_index <= peer.matched {
            return;
        }
        let agreed = self.log.last_not_newer(index.min(prev_index.prev()), term);
        // Nothing in memory can agree: the entry before the base is asked for, which leads to a
        // snapshot.
        let next = agreed.map_or(self.log.base_index(), Index::next);
        peer.next = next.max(peer.matched.next());
        peer.flow = Flow::Probe { sent_at: None };
        self.send_appends(from);
    }

    pub(crate) fn on_heartbeat_reply(&mut self, from: ReplicaId, read: u64) {
        self.heard(from);
        let newest = self.read_number;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(peer) = leader.peers.get_mut(&from) else {
            return;
        };
        if read <= newest && read > peer.read {
            peer.read = read;
            self.maybe_confirm_reads();
        }
        self.repair(from);
        self.revive_snapshot(from);
    }

    /// A follower is alive: if an append to it is not answered for long, something got lost. The
    /// question is an empty append, so a follower whose disk is just slow is not sent everything
    /// twice: it has the entries and answers when they are synced.
    fn repair(&mut self, to: ReplicaId) {
        let now = self.now;
        let probe_patience = u64::from(self.config.heartbeat_ticks);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(peer) = leader.peers.get_mut(&to) else {
            return;
        };
        let place = peer.next.prev();
        if !matches!(peer.flow, Flow::Snapshot) && self.log.term_at(place).is_none() {
            // The entry that could be asked about is gone.
            peer.probe();
        }
        match &mut peer.flow {
            Flow::Probe { sent_at: Some(at) } if now - *at >= probe_patience => {
                *at = now;
                self.send_append(to, place, place);
            }
            Flow::Replicate(window) => {
                if window.asks(now, 2 * probe_patience) {
                    self.send_append(to, place, place);
                } else {
                    self.send_appends(to);
                }
            }
            Flow::Probe { .. } => self.send_appends(to),
            Flow::Snapshot => {}
        }
    }

    /// The link to a follower was reset: what was on the way is lost.
    pub(crate) fn restart_sending(&mut self, to: ReplicaId) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&to)
            && !matches!(peer.flow, Flow::Snapshot)
        {
            peer.probe();
        }
    }

    /// Moves the commit index to the last entry that a quorum holds synced, if it is of the own term.
    /// Counting an older one would be wrong: it may still be overwritten by a leader whose last term
    /// is newer (Raft paper, figure 8). With one of the own term, all before it are safe too.
    pub(crate) fn maybe_commit(&mut self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let own = if self.config.planted.has(Bug::ReplyBeforeSync) {
            self.log.last_index()
        } else {
            self.log.persisted()
        };
        let index = Index(quorum::acknowledged(self.history.newest(), |id| {
            if id == self.config.id {
                own.get()
            } else {
                leader.peers.get(&id).map_or(0, |peer| peer.matched.get())
            }
        }));
        let of_own_term = self.log.matches(index, self.hard_state.term)
            || self.config.planted.has(Bug::OldTermCommit);
        if index <= self.log.commit() || !of_own_term {
            return;
        }
        self.log.commit_to(index);
        self.own_term_committed();
        self.maybe_leave_joint();
        self.maybe_leave_office();
    }

    /// Ends a joint phase once it is committed.
    fn maybe_leave_joint(&mut self) {
        let present = self.history.newest();
        if present.is_joint() && present.id <= self.log.commit() {
            let next = membership::leave(present);
            self.append_membership(next);
        }
    }

    /// A leader that is not a voter any more goes once that is committed; it did not count itself
    /// meanwhile. The others are told what is committed, and the best of them not to wait.
    fn maybe_leave_office(&mut self) {
        let present = self.history.newest();
        let over = !present.is_joint()
            && present.id <= self.log.commit()
            && !present.voters.contains(&self.config.id);
        if !over || !self.is_leader() {
            return;
        }
        for to in self.peer_ids() {
            self.send_heartbeat(to);
        }
        if let Some(successor) = self.best_successor() {
            self.reply(successor, Body::TimeoutNow);
        }
        self.become_follower(self.hard_state.term, None);
    }
}

/// The last entry from `first` on that still fits, and what these weigh; `first` itself in any case.
fn last_within(log: &crate::log::Log, first: Index, bytes_max: usize) -> (Index, usize) {
    let (mut upto, mut bytes) = (first, 0);
    for entry in log.entries(first..=log.last_index()) {
        if bytes + entry.data.len() > bytes_max && entry.index > first {
            break;
        }
        bytes += entry.data.len();
        upto = entry.index;
    }
    (upto, bytes)
}
