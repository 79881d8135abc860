//! What a leader puts into its log: commands, changes of the members, and entries of its own.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Bug, Index, ReplicaId};

use crate::effect::{Effect, Persist};
use crate::membership::{self, MembershipRefused, Target};
use crate::progress::Progress;
use crate::raft::{ProposeRefused, Raft, Role};
use crate::types::{Entry, Membership, Payload};

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
            if present.learners.contains(id) && !self.config.planted.has(Bug::PromotedTooEarly) {
                let peer = leader.peers.get_mut(id).expect("a peer for every learner");
                require_caught_up(*id, peer, commit)?;
            }
        }
        let index = self.append_membership(next);
        self.finish();
        Ok(index)
    }

    pub(crate) fn append_membership(&mut self, mut next: Membership) -> Index {
        next.id = self.next_index();
        self.append_own(Payload::Membership(Arc::new(next)), None)
    }

    /// Appends an entry as the leader, with `data` or with our own encoding of the payload.
    pub(crate) fn append_own(&mut self, payload: Payload, data: Option<Bytes>) -> Index {
        let (term, index) = (self.hard_state.term, self.next_index());
        let data = data.unwrap_or_else(|| (self.config.encode)(term, index, &payload));
        let changes_members = matches!(payload, Payload::Membership(_));
        self.append(vec![Entry {
            index,
            term,
            payload,
            data,
        }]);
        if changes_members {
            self.refresh_peers();
        }
        self.broadcast_appends();
        if self.config.planted.has(Bug::ReplyBeforeSync) {
            self.maybe_commit();
        }
        index
    }

    /// Puts entries into the log, in place of everything from the first of them on, and asks for
    /// them to be written.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
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
            if let Some(snapshot) = peer.running() {
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
