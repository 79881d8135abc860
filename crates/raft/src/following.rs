//! What a follower does with what its leader says: appends and heartbeats (Raft paper, section 5.3).

use kvorum_base::{Bug, Index, ReplicaId, Term};

use crate::effect::Persist;
use crate::message::{AppendOutcome, Body, Message};
use crate::raft::Raft;
use crate::types::Entry;

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
