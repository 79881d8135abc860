//! MapReduce over files: a job's input is cut into splits, each is mapped by some worker process, what the
//! maps emit is partitioned and sorted, and each partition is reduced into one output file.
//!
//! - [`coordinator`]: pure; who works at what, who has won, what may be shown;
//! - `input`: files, splits, records;
//! - `shuffle`: from the pairs of a map to the sorted values of a reduce;
//! - `function`, `app`, [`apps`], `streaming`: what runs;
//! - `worker`: a process that runs tasks, for one job or for those of a cluster;
//! - `host`: the process that owns a job: journal, workers, renames;
//! - `store`: jobs whose record is kept in kvorum, so that no process has to survive them;
//! - `secret`: who may take part;
//! - [`command`]: the command line;
//! - [`planted`]: bugs on purpose, for the coordinator's simulation.

mod app;
pub mod apps;
pub mod command;
pub mod coordinator;
pub mod counters;
mod error;
mod function;
mod host;
mod input;
mod job;
pub mod planted;
mod proof;
pub mod sequential;
mod shuffle;
mod store;
mod streaming;
mod wire;
mod worker;

pub use app::App;
pub use counters::Counters;
pub use error::{Error, Result};
pub use function::{Emit, Map, Record, Reduce, Setup, Values};
pub use input::format::Format;
