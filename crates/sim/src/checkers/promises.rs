//! A restart forgets no promise: not the term that was said, not the vote that was given, not the
//! entries that were acknowledged. Everything else rests on that, and what breaks it may do visible
//! harm only much later, or hardly ever.
//!
//! What a replica promised is taken from the messages that left it.

use std::collections::BTreeMap;

use kvorum_base::{Index, ReplicaId, Term};
use kvorum_raft::{AppendOutcome, Body, Message, Raft};

/// What one replica has said so far.
#[derive(Clone, Copy, Default, Debug)]
struct Said {
    term: Term,
    vote: Option<(Term, ReplicaId)>,
    /// Everything up to here was acknowledged and not replaced since.
    matched: Index,
    /// It has begun another life, which nobody has looked at.
    is_restarted: bool,
}

/// What every replica has said so far.
#[derive(Default, Debug)]
pub struct Promises {
    replicas: BTreeMap<ReplicaId, Said>,
}

impl Promises {
    /// A replica sent a message to another.
    pub fn said(&mut self, from: ReplicaId, to: ReplicaId, message: &Message) {
        let said = self.replicas.entry(from).or_default();
        match &message.body {
            // Their term is one that somebody might stand in.
            Body::PreVote { .. } | Body::PreVoteReply { .. } => return,
            Body::Vote { .. } => said.vote = Some((message.term, from)),
            Body::VoteReply { granted: true } => said.vote = Some((message.term, to)),
            Body::AppendReply {
                outcome: AppendOutcome::Matched(index),
                ..
            } => said.matched = said.matched.max(*index),
            _ => {}
        }
        said.term = said.term.max(message.term);
    }

    /// The replica begins another life.
    pub fn restarted(&mut self, replica: ReplicaId) {
        self.replicas.entry(replica).or_default().is_restarted = true;
    }

    /// Looks at a replica after a turn.
    ///
    /// # Errors
    /// If it came back from a restart without what it had promised.
    pub fn observe(&mut self, raft: &Raft) -> Result<(), String> {
        let said = self.replicas.entry(raft.id()).or_default();
        if std::mem::take(&mut said.is_restarted) {
            let now = raft.hard_state();
            let keeps_vote = said
                .vote
                .is_none_or(|(term, to)| term != now.term || now.vote == Some(to));
            if now.term < said.term || !keeps_vote || raft.last_index() < said.matched {
                return Err(format!(
                    "replica {} restarts with {now:?} and entries up to {}, and had said {said:?}",
                    raft.id(),
                    raft.last_index()
                ));
            }
        }
        // A newer leader may replace entries that were acknowledged to an older one.
        said.matched = said.matched.min(raft.last_index());
        Ok(())
    }
}
