//! MapReduce over files: a job's input is cut into splits, each is mapped by some worker process, what the
//! maps emit is partitioned and sorted, and each partition is reduced into one output file.
//!
//! - [`coordinator`]: pure; who works at what, who has won, what may be shown;
//! - [`counters`]: sums over winners;
//! - [`planted`]: bugs on purpose, for the coordinator's simulation.

pub mod coordinator;
pub mod counters;
pub mod planted;

pub use counters::Counters;
