//! What the coordinator speaks of: tasks, attempts, events, effects, records.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::counters::Counters;

/// Map or reduce.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reads a split of the input.
    Map,
    /// Reads one partition of all map outputs.
    Reduce,
}

/// One piece of work; its index is that of its split, or of its partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct TaskId {
    /// Map or reduce.
    pub phase: Phase,
    /// From 0.
    pub index: u32,
}

impl TaskId {
    /// The map task of this split.
    #[must_use]
    pub const fn map(index: u32) -> Self {
        let phase = Phase::Map;
        Self { phase, index }
    }

    /// The reduce task of this partition.
    #[must_use]
    pub const fn reduce(index: u32) -> Self {
        let phase = Phase::Reduce;
        Self { phase, index }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.phase {
            Phase::Map => write!(f, "map {}", self.index),
            Phase::Reduce => write!(f, "reduce {}", self.index),
        }
    }
}

/// One try at one task. No two tries of a job, whoever coordinated it, have the same epoch and number:
/// the files of an attempt are named after it, and nobody else ever writes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct AttemptId {
    /// The task that is tried.
    pub task: TaskId,
    /// Which life of the coordinator gave it out.
    pub epoch: u32,
    /// Within that life.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.task.phase {
            Phase::Map => 'm',
            Phase::Reduce => 'r',
        };
        write!(
            f,
            "{letter}-{:05}-{}-{}",
            self.task.index, self.epoch, self.number
        )
    }
}

/// One connection of a worker; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WorkerId(pub u64);

/// The number of a record, from 1, counted from the start of this life.
pub type RecordSeq = u64;

/// Everything that can happen to a coordinator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// One tick has passed.
    Tick,
    /// This worker has nothing to do.
    Ask(WorkerId),
    /// An attempt lives. If `units` has grown it also gets on.
    Progress {
        /// Who says so.
        worker: WorkerId,
        /// What it works at.
        attempt: AttemptId,
        /// Records or bytes done, in the attempt's own measure.
        units: u64,
        /// What it has counted so far; for display alone.
        counters: Counters,
    },
    /// An attempt is finished and its files are complete; a reduce's are synced.
    Done {
        /// Who says so.
        worker: WorkerId,
        /// What is finished.
        attempt: AttemptId,
        /// What it counted.
        counters: Counters,
    },
    /// An attempt failed.
    Failed {
        /// Who says so.
        worker: WorkerId,
        /// What failed.
        attempt: AttemptId,
        /// Why.
        error: String,
    },
    /// A reduce cannot read the output of a map: it is gone or damaged.
    InputLost {
        /// Who says so.
        worker: WorkerId,
        /// The reduce, which ends.
        attempt: AttemptId,
        /// The map attempt whose output it is.
        input: AttemptId,
        /// Why.
        error: String,
        /// Whether the place where it lies could not be reached: then nothing else there can be, either.
        unreachable: bool,
    },
    /// This worker keeps the outputs of its maps itself, and serves them at this address. Without this word
    /// they lie where every worker can read them.
    Serves {
        /// Who.
        worker: WorkerId,
        /// Where.
        place: String,
    },
    /// The connection of a worker has ended.
    Gone {
        /// Whose.
        worker: WorkerId,
        /// What is known about it.
        why: String,
    },
    /// All records up to here are durable.
    Recorded(RecordSeq),
    /// The output of this reduce stands under its final name.
    Published(u32),
    /// The recorded output of this reduce is not there any more.
    OutputLost {
        /// Which reduce.
        reduce: u32,
        /// Why.
        error: String,
    },
    /// `_SUCCESS` is written.
    Sealed,
    /// A record was refused: another coordinator has taken over, and its records stand where this one's
    /// would.
    Deposed,
    /// The job is to end without a result.
    Kill,
}

/// Everything that a coordinator can ask for. Effects are carried out in their order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Append to the job's journal and sync; then say [`Event::Recorded`].
    Record {
        /// The number to say.
        seq: RecordSeq,
        /// What to append.
        record: Record,
    },
    /// Give a worker something to do.
    Assign {
        /// Who.
        worker: WorkerId,
        /// What.
        attempt: AttemptId,
        /// For a reduce: the outputs of the maps, by split.
        inputs: Vec<AttemptId>,
    },
    /// Tell a worker that this attempt is of no use any more.
    Abandon {
        /// Whom.
        worker: WorkerId,
        /// What.
        attempt: AttemptId,
    },
    /// Remove the files of an attempt that will never win.
    Discard(AttemptId),
    /// Rename the output of this reduce attempt to its final name; then say [`Event::Published`].
    Publish(AttemptId),
    /// All outputs are published: write `_SUCCESS`, then say [`Event::Sealed`].
    Seal,
    /// The job is over; let the workers go.
    End(Outcome),
}

/// A fact of the job that outlives its coordinator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A coordinator has taken over; its attempts carry this epoch.
    Epoch(u32),
    /// This attempt is the winner of its task.
    Committed {
        /// The winner.
        attempt: AttemptId,
        /// What it counted.
        counters: Counters,
        /// The address where its output is served, if it lies at its worker. Maps only.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        place: String,
    },
    /// The files of this winner are lost: its task is open again.
    Lost(AttemptId),
    /// The job failed. A later epoch tries again.
    Failed {
        /// For the user.
        reason: String,
    },
}

/// How a job ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every output is published.
    Succeeded,
    /// A task failed too often, or the job was told to end.
    Failed(String),
    /// The job is another coordinator's now. Nothing is known about what this one had not recorded.
    Deposed,
}

/// The rules of a job, in ticks of whatever length the caller likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// A worker that says nothing for so long has lost its task.
    pub lease_ticks: u64,
    /// A task that gets no further for so long, though its worker lives, is taken away.
    pub stall_ticks: u64,
    /// So many failed attempts of one task end the job.
    pub attempts_max: u32,
    /// A task gets no backup attempt before it has run for so long.
    pub backup_ticks_min: u64,
    /// Whether there are backup attempts at all.
    pub backups: bool,
}

/// How far a job is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Status {
    /// Maps in all.
    pub maps: u32,
    /// Maps whose winner is durable.
    pub maps_done: u32,
    /// Reduces in all.
    pub reduces: u32,
    /// Reduces whose output is published.
    pub reduces_done: u32,
    /// Attempts at work now.
    pub running: u32,
    /// Attempts given out in this life.
    pub attempts: u32,
    /// Attempts that failed, in this life.
    pub failures: u32,
    /// Backup attempts, in this life.
    pub backups: u32,
    /// Sums over the winners.
    pub counters: Counters,
}
