//! What clients asked, when, and what they were told, if anything.
//!
//! An operation took effect at one moment between its call and its return, both included: intervals
//! are closed. It is safe to close them because a return is noted after the reply arrived and a call
//! before the request left, so the interval can only be too long.
//!
//! There is a third outcome beside "done" and "refused": nobody knows. Such an operation may take
//! effect at any moment from its call to the end of time, or never.

use crate::world::Time;

/// How an operation ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome<O> {
    /// It happened, and this is what it returned.
    Done(O),
    /// It certainly did not happen.
    Refused,
    /// Nobody knows. Also the outcome of what is still under way when the history ends.
    Unknown,
}

/// One operation of one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation<I, O> {
    /// Who asked; only for reading a history.
    pub client: usize,
    /// What was asked.
    pub input: I,
    /// When, at the latest, it was not under way yet.
    pub called: Time,
    /// When it was over; [`Time::NEVER`] if unknown.
    pub returned: Time,
    /// How it ended.
    pub outcome: Outcome<O>,
}

/// Names an operation in its history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OperationId(usize);

/// The operations of all clients in order of their calls.
#[derive(Clone, Debug)]
pub struct History<I, O> {
    operations: Vec<Operation<I, O>>,
}

impl<I, O> Default for History<I, O> {
    fn default() -> Self {
        Self {
            operations: Vec::new(),
        }
    }
}

impl<I, O> History<I, O> {
    /// Notes that a client is about to ask. Until [`History::returned`] its outcome is unknown.
    pub fn called(&mut self, client: usize, input: I, now: Time) -> OperationId {
        self.operations.push(Operation {
            client,
            input,
            called: now,
            returned: Time::NEVER,
            outcome: Outcome::Unknown,
        });
        OperationId(self.operations.len() - 1)
    }

    /// Notes how an operation ended.
    ///
    /// # Panics
    /// If it was noted before.
    pub fn returned(&mut self, id: OperationId, outcome: Outcome<O>, now: Time) {
        let operation = &mut self.operations[id.0];
        assert!(
            operation.returned == Time::NEVER,
            "operation {} of client {} returns twice",
            id.0,
            operation.client
        );
        if !matches!(outcome, Outcome::Unknown) {
            operation.returned = now;
        }
        operation.outcome = outcome;
    }

    /// All operations in order of their calls.
    #[must_use]
    pub fn operations(&self) -> &[Operation<I, O>] {
        &self.operations
    }
}
