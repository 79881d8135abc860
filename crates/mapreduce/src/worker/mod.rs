//! A worker: a process that runs one task after the other.

pub(crate) mod pulse;
pub(crate) mod roam;
pub(crate) mod serve;
pub(crate) mod shelf;
pub(crate) mod station;
pub(crate) mod task;
