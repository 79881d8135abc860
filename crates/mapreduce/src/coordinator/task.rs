//! One task: its attempts, its winner, its failures.

use super::types::{AttemptId, TaskId, WorkerId};
use crate::counters::Counters;

/// A try that is going on.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    pub(super) worker: WorkerId,
    pub(super) started: u64,
    /// When its worker was last heard.
    pub(super) heard: u64,
    /// When it last got further.
    pub(super) advanced: u64,
    pub(super) units: u64,
    /// What it said it had counted so far.
    pub(super) counters: Counters,
}

/// Where a task stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nobody has won.
    Open,
    /// The winner is chosen; the record of it is on its way to the disk. Nothing rests on it yet.
    Chosen(AttemptId),
    /// The winner is durable.
    Committed(AttemptId),
    /// Its output stands under its final name. Reduces only.
    Published(AttemptId),
}

/// One task.
///
/// Invariants: attempts run only while it is open; each belongs to this task; no two have one worker.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) id: TaskId,
    pub(super) state: State,
    pub(super) running: Vec<Attempt>,
    pub(super) failures: u32,
    /// What the winner counted.
    pub(super) counters: Counters,
    /// Where the winner's output is served; empty if every worker can read it by itself.
    pub(super) place: String,
}

impl Task {
    pub(super) fn new(id: TaskId) -> Self {
        Self {
            id,
            state: State::Open,
            running: Vec::new(),
            failures: 0,
            counters: Counters::new(),
            place: String::new(),
        }
    }

    /// The winner, if it is durable.
    pub(super) fn winner(&self) -> Option<AttemptId> {
        match self.state {
            State::Committed(id) | State::Published(id) => Some(id),
            State::Open | State::Chosen(_) => None,
        }
    }

    pub(super) fn is_published(&self) -> bool {
        matches!(self.state, State::Published(_))
    }

    pub(super) fn attempt(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        self.running.iter_mut().find(|attempt| attempt.id == id)
    }

    /// Takes an attempt out of those that run.
    pub(super) fn take(&mut self, id: AttemptId) -> Option<Attempt> {
        let at = self.running.iter().position(|attempt| attempt.id == id)?;
        Some(self.running.remove(at))
    }

    pub(super) fn check(&self) {
        assert!(
            self.running.is_empty() || self.state == State::Open,
            "{} has a winner and still runs",
            self.id
        );
        for (at, attempt) in self.running.iter().enumerate() {
            assert_eq!(attempt.id.task, self.id, "an attempt in another's task");
            assert!(
                self.running[..at]
                    .iter()
                    .all(|other| other.worker != attempt.worker),
                "{} runs twice on {:?}",
                self.id,
                attempt.worker
            );
        }
    }
}
