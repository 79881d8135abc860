//! The way out: effects in order, and the promises that wait for the disk.
//!
//! A message is a promise if somebody may rely on its sender remembering it: "you have my vote", "I
//! hold these entries". It leaves only when what it promises is durable; that is decided here and
//! not by the caller, who is simply not given the message earlier. And since every message names its
//! sender's term, none leaves before that term is durable:
//!
//! 1. B moves to term 6 and tells A so before the term is written; A steps down.
//! 2. B loses power and comes back in term 5 without its vote of term 6.
//! 3. B can now follow the old leader of term 5 again, or vote twice in term 6.

use std::collections::VecDeque;

use kvorum_base::ReplicaId;

use crate::effect::{Effect, Persist, PersistSeq};
use crate::message::Message;

/// A message that waits.
#[derive(Debug)]
struct Held {
    /// Leaves when everything up to here is durable.
    seq: PersistSeq,
    to: ReplicaId,
    message: Message,
}

/// Effects not drained yet, and messages not allowed out yet.
///
/// Invariants: `persisted <= issued`, `hard_state <= issued`; every held message waits for a number
/// in `persisted + 1 ..= issued`, and they are in the order of these numbers.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    effects: Vec<Effect>,
    held: VecDeque<Held>,
    issued: PersistSeq,
    persisted: PersistSeq,
    /// The write that makes the present term and vote durable.
    hard_state: PersistSeq,
}

impl Outbox {
    pub(crate) fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Asks for a write and returns its number. A vote given in the step that brought its term is one
    /// write with it.
    pub(crate) fn persist(&mut self, what: Persist) -> PersistSeq {
        if let Persist::HardState(_) = what
            && let Some(Effect::Persist { seq, what: before }) = self.effects.last_mut()
            && let Persist::HardState(_) = before
        {
            *before = what;
            return *seq;
        }
        self.issued += 1;
        if matches!(what, Persist::HardState(_)) {
            self.hard_state = self.issued;
        }
        self.effects.push(Effect::Persist {
            seq: self.issued,
            what,
        });
        self.issued
    }

    /// Sends what promises nothing but its term.
    pub(crate) fn send(&mut self, to: ReplicaId, message: Message) {
        self.send_after(self.hard_state, to, message);
    }

    /// Sends once the write `seq` and the present term are durable.
    pub(crate) fn send_after(&mut self, seq: PersistSeq, to: ReplicaId, message: Message) {
        let seq = seq.max(self.hard_state);
        if seq <= self.persisted {
            self.effects.push(Effect::Send { to, message });
            return;
        }
        // From the back: nearly always the newest write is waited for.
        let place = self.held.iter().rposition(|held| held.seq <= seq);
        self.held.insert(
            place.map_or(0, |before| before + 1),
            Held { seq, to, message },
        );
    }

    /// Notes that everything up to `seq` is durable, and lets go what waited for it.
    pub(crate) fn persisted(&mut self, seq: PersistSeq) {
        assert!(
            seq <= self.issued,
            "write {seq} was never asked for, the last one is {}",
            self.issued
        );
        self.persisted = self.persisted.max(seq);
        while let Some(held) = self.held.pop_front_if(|held| held.seq <= seq) {
            self.effects.push(Effect::Send {
                to: held.to,
                message: held.message,
            });
        }
    }

    /// Whether the present term and vote are durable.
    pub(crate) fn hard_state_is_durable(&self) -> bool {
        self.hard_state <= self.persisted
    }

    pub(crate) fn drain_into(&mut self, effects: &mut Vec<Effect>) {
        effects.append(&mut self.effects);
    }

    pub(crate) fn check(&self) {
        assert!(self.persisted <= self.issued && self.hard_state <= self.issued);
        let mut before = self.persisted + 1;
        for held in &self.held {
            assert!(
                before <= held.seq && held.seq <= self.issued,
                "a message waits for write {}, which is outside of {before}..={}",
                held.seq,
                self.issued
            );
            before = held.seq;
        }
    }
}

#[cfg(test)]
mod tests {
    use kvorum_base::Term;

    use super::*;
    use crate::message::Body;
    use crate::types::HardState;

    fn numbered(read: u64) -> Message {
        Message {
            term: Term(1),
            body: Body::HeartbeatReply { read },
        }
    }

    fn sent(outbox: &mut Outbox) -> Vec<u64> {
        let mut effects = Vec::new();
        outbox.drain_into(&mut effects);
        effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Send { message, .. } => match message.body {
                    Body::HeartbeatReply { read } => Some(read),
                    _ => None,
                },
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_message_waits_for_its_term_and_for_its_own_write() {
        let mut outbox = Outbox::default();
        let term = outbox.persist(Persist::HardState(HardState::default()));
        let entries = outbox.persist(Persist::Append(Vec::new()));
        outbox.send_after(entries, ReplicaId(2), numbered(1));
        outbox.send(ReplicaId(2), numbered(2));
        outbox.check();
        assert_eq!(sent(&mut outbox), []);
        outbox.persisted(term);
        outbox.check();
        assert_eq!(sent(&mut outbox), [2]);
        outbox.persisted(entries);
        assert_eq!(sent(&mut outbox), [1]);
        outbox.send_after(entries, ReplicaId(2), numbered(3));
        assert_eq!(sent(&mut outbox), [3]);
    }

    #[test]
    fn a_term_and_its_vote_are_one_write() {
        let mut outbox = Outbox::default();
        let term = outbox.persist(Persist::HardState(HardState::default()));
        assert_eq!(
            outbox.persist(Persist::HardState(HardState::default())),
            term
        );
        outbox.drain_into(&mut Vec::new());
        assert_ne!(
            outbox.persist(Persist::HardState(HardState::default())),
            term
        );
    }

    #[test]
    #[should_panic(expected = "was never asked for")]
    fn nothing_is_durable_that_was_not_asked_for() {
        Outbox::default().persisted(1);
    }
}
