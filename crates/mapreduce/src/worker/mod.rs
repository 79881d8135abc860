//! The worker: a process that asks for tasks and runs them, one at a time.

pub(crate) mod pulse;
pub(crate) mod serve;
pub(crate) mod task;
