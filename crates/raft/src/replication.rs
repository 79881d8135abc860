//! Entries on their way: proposals, appends and their answers, commit, heartbeats (Raft paper,
//! sections 5.3 and 5.4).

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Bug, Index, ReplicaId, Term};

use crate::effect::{Effect, Persist};
use crate::membership::{self, MembershipRefused, Target};
use crate::message::{AppendOutcome, Body, Message};
use crate::progress::{Flow, Progress, Window};
use crate::quorum;
use crate::raft::{ProposeRefused, Raft, Role};
use crate::snapshot::{Sending, end_transfer};
use crate::types::{Entry, Membership, Payload};

/// Proposals.
impl Raft {
    /// Appends a command. `data` is the whole encoded entry, made for [`Raft::next_index`] and
    /// [`Raft::term`]. It leaves for the followers and for the own disk at the same time, and is
    /// committed when [`Raft::commit`] reaches the returned index while the term there is still this
    /// one.
    ///
    /// # Errors
    /// If it is not taken; it then certainly never happens.
    pub fn propose(&mut self, data: Bytes) -> Result<Index, ProposeRefused> {
        let Role::Leader(leader) = &self.role else {
            return Err(ProposeRefused::NotLeader);
        };
        if leader.transfer.is_some() {
            return Err(ProposeRefused::Transferring);
        }
        let uncommitted = self.log.uncommitted_bytes();
        if uncommitted > 0 && uncommitted + data.len() > self.config.uncommitted_bytes_max {
            return Err(ProposeRefused::Busy);
        }
        let index = self.append_own(Payload::Command, Some(data));
        self.finish();
        Ok(index)
    }

    /// Begins a change of the members, planned for the membership with the id `expected`. A change
    /// of voters passes through a joint phase, which the leader ends by itself.
    ///
    /// # Errors
    /// If it is not proposed; nothing changed then, except that a learner's catching up is measured
    /// from here.
    pub fn propose_membership(
        &mut self,
        expected: Index,
        target: &Target,
    ) -> Result<Index, MembershipRefused> {
        let own_term = self.commit_is_of_own_term();
        let commit = self.log.commit();
        let present = Arc::clone(self.history.newest());
        let Role::Leader(leader) = &mut self.role else {
            return Err(MembershipRefused::NotLeader);
        };
        if leader.transfer.is_some() {
            return Err(MembershipRefused::Transferring);
        }
        // One change at a time, and none that a predecessor's uncommitted one could cross.
        if !own_term || commit < present.id {
            return Err(MembershipRefused::InProgress);
        }
        let next = membership::begin(&present, expected, target)?;
        for id in &next.voters {
            if present.learners.contains(id) {
                let peer = leader.peers.get_mut(id).expect("a peer for every learner");
                require_caught_up(*id, peer, commit)?;
            }
        }
        let index = self.append_membership(next);
        self.finish();
        Ok(index)
    }

    fn append_membership(&mut self, mut next: Membership) -> Index {
        next.id = self.next_index();
        self.append_own(Payload::Membership(Arc::new(next)), None)
    }

    /// Appends an entry as the leader, with `data` or with our own encoding of the payload.
    pub(crate) fn append_own(&mut self, payload: Payload, data: Option<Bytes>) -> Index {
        let (term, index) = (self.hard_state.term, self.next_index());
        let data = data.unwrap_or_else(|| (self.config.encode)(term, index, &payload));
        self.append(vec![Entry {
            index,
            term,
            payload,
            data,
        }]);
        self.refresh_peers();
        self.broadcast_appends();
        if self.config.planted.has(Bug::ReplyBeforeSync) {
            self.maybe_commit();
        }
        index
    }

    /// Puts entries into the log, in place of everything from the first of them on, and asks for
    /// them to be written.
    fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        assert!(
            first > self.log.commit() || self.config.planted.has(Bug::CommittedTruncated),
            "an append at {first} would take back the committed {}",
            self.log.commit()
        );
        self.history.truncate(first);
        for entry in &entries {
            if let Payload::Membership(membership) = &entry.payload {
                self.history.push(entry.index, Arc::clone(membership));
            }
        }
        let seq = self.out.persist(Persist::Append(entries.clone()));
        self.log.append(seq, entries);
    }

    /// Makes the leader's list of followers that of the membership in force.
    fn refresh_peers(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let membership = self.history.newest();
        let next = self.log.last_index();
        for id in membership.replicas().filter(|id| *id != self.config.id) {
            let fresh = || Progress::new(next, self.now);
            leader.peers.entry(id).or_insert_with(fresh);
        }
        let gone = |id: &ReplicaId| !membership.nodes.contains_key(id);
        while let Some(id) = leader.peers.keys().copied().find(gone) {
            let peer = leader.peers.remove(&id).expect("just found");
            if let Some(snapshot) = end_transfer(&peer.flow) {
                self.out.emit(Effect::SnapshotDone { to: id, snapshot });
            }
        }
    }
}

fn require_caught_up(
    replica: ReplicaId,
    peer: &mut Progress,
    commit: Index,
) -> Result<(), MembershipRefused> {
    let needed = peer.promotion.unwrap_or(commit);
    if peer.matched >= needed {
        return Ok(());
    }
    peer.promotion = Some(commit);
    Err(MembershipRefused::NotCaughtUp {
        replica,
        matched: peer.matched,
        needed: commit,
    })
}

/// The leader's side.
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

    /// Sends a heartbeat to a follower at once if it may not know yet what is committed there.
    pub fn nudge(&mut self, to: ReplicaId) {
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

    fn broadcast_appends(&mut self) {
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
        let may_send = match &peer.flow {
            Flow::Probe { sent_at } => sent_at.is_none(),
            Flow::Replicate(window) => window.len() < self.config.appends_in_flight_max,
            Flow::Snapshot(_) => false,
        };
        if !may_send || peer.next > last {
            return false;
        }
        if self.log.term_at(peer.next.prev()).is_none() {
            // A view pins memory: none for a follower that may be dead.
            if now - peer.heard_at < u64::from(self.config.election_ticks_max) {
                peer.flow = Flow::Snapshot(Sending::Wanted);
                self.out.emit(Effect::SnapshotWanted { to });
            }
            return false;
        }
        let upto = last_within(&self.log, peer.next, self.config.append_bytes_max);
        let prev_index = peer.next.prev();
        match &mut peer.flow {
            Flow::Probe { sent_at } => *sent_at = Some(now),
            Flow::Replicate(window) => {
                window.sent(upto, now);
                peer.next = upto.next();
            }
            Flow::Snapshot(_) => {}
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

    fn on_matched(&mut self, from: ReplicaId, prev_index: Index, index: Index) {
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
            Flow::Snapshot(sending) if is_over(sending, peer, prev_index, base) => {
                if let Some(snapshot) = end_transfer(&peer.flow) {
                    self.out.emit(Effect::SnapshotDone { to: from, snapshot });
                }
                peer.next = peer.matched.next();
                peer.flow = Flow::Replicate(Window::default());
                peer.state_lost = false;
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
            Flow::Snapshot(_) => false,
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
        if !matches!(peer.flow, Flow::Snapshot(_)) && self.log.term_at(place).is_none() {
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
            Flow::Snapshot(_) => self.revive_snapshot(to),
        }
    }

    /// The link to a follower was reset: what was on the way is lost.
    pub(crate) fn restart_sending(&mut self, to: ReplicaId) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&to)
            && !matches!(peer.flow, Flow::Snapshot(_))
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

/// Whether a transfer has nothing left to do: the snapshot is installed, or entries can follow what
/// the follower has got from elsewhere.
fn is_over(sending: &Sending, peer: &Progress, prev_index: Index, base: Index) -> bool {
    let installed = match sending {
        Sending::Running(running) => {
            prev_index == running.id.index && peer.matched >= running.id.index
        }
        Sending::Wanted | Sending::Refused { .. } => false,
    };
    installed || (peer.matched >= base && !peer.state_lost)
}

/// The last entry from `first` on that still fits; `first` itself in any case.
fn last_within(log: &crate::log::Log, first: Index, bytes_max: usize) -> Index {
    let mut bytes = 0;
    let mut upto = first;
    for entry in log.entries(first..=log.last_index()) {
        bytes += entry.data.len();
        if bytes > bytes_max && entry.index > first {
            break;
        }
        upto = entry.index;
    }
    upto
}

/// The follower's side.
impl Raft {
    pub(crate) fn on_append(
        &mut self,
        from: ReplicaId,
        prev_index: Index,
        prev_term: Term,
        entries: Vec<Entry>,
        commit: Index,
    ) {
        if !self.follow(from) {
            return;
        }
        // What is committed here is the same there, though its term may be forgotten.
        let committed = prev_index <= self.log.commit();
        if !committed && !self.log.matches(prev_index, prev_term) {
            let upto = prev_index.min(self.log.last_index());
            let place = self.log.last_not_newer(upto, prev_term);
            let place = place.unwrap_or(self.log.commit()).max(self.log.commit());
            let term = self.log.term_at(place).unwrap_or(Term::ZERO);
            let outcome = AppendOutcome::Conflict { index: place, term };
            self.reply(
                from,
                Body::AppendReply {
                    prev_index,
                    outcome,
                },
            );
            return;
        }
        let last_new = prev_index + entries.len() as u64;
        if !self.take_entries(entries) {
            return;
        }
        let matched = last_new.max(self.log.commit());
        self.log
            .commit_to(commit.min(last_new).max(self.log.commit()));
        let seq = if self.config.planted.has(Bug::ReplyBeforeSync) {
            0
        } else {
            self.log.durable_with(matched)
        };
        let outcome = AppendOutcome::Matched(matched);
        let term = self.hard_state.term;
        let body = Body::AppendReply {
            prev_index,
            outcome,
        };
        self.out.send_after(seq, from, Message { term, body });
    }

    /// Takes the entries that are not here yet. Those that are were written once; writing them again
    /// would, on the disk, be the truncation of what follows them:
    ///
    /// 1. Entries 6..10 are acknowledged and counted.
    /// 2. A delayed append of 6 and 7 arrives, is found to be known, and is written all the same.
    /// 3. After a restart the log ends at 7.
    ///
    /// Returns whether the entries can be what a leader sends: none contradicts a committed one.
    fn take_entries(&mut self, mut entries: Vec<Entry>) -> bool {
        let mut held = self.log.count_held(&entries);
        if self.config.planted.has(Bug::CommittedTruncated) {
            let base = self.log.base_index();
            held = entries
                .iter()
                .take_while(|entry| entry.index <= base)
                .count();
        }
        if self.config.planted.has(Bug::DuplicateAppendWritten) && held == entries.len() && held > 0
        {
            self.out.persist(Persist::Append(entries));
            return true;
        }
        let new = entries.split_off(held);
        if let Some(first) = new.first() {
            let contradicts = first.index <= self.log.commit()
                || self.log.term_at(first.index.prev()) > Some(first.term);
            if contradicts && !self.config.planted.has(Bug::CommittedTruncated) {
                return false;
            }
        }
        self.append(new);
        true
    }

    pub(crate) fn on_heartbeat(&mut self, from: ReplicaId, commit: Index, read: u64) {
        if !self.follow(from) {
            return;
        }
        // It was cut to what this replica acknowledged. More than that cannot be from our leader.
        if commit <= self.log.last_index() {
            self.log.commit_to(commit.max(self.log.commit()));
        }
        self.reply(from, Body::HeartbeatReply { read });
    }
}
