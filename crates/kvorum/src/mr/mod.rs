//! `kvorum mr`: MapReduce jobs over files. The commands are those of `kvorum-mapreduce`, which a program with
//! apps of its own has too; here they stand under `mr`.

use std::process::ExitCode;

use kvorum_mapreduce::{Result, command};

/// The commands.
pub(crate) use kvorum_mapreduce::command::Options;

/// Runs one of them. Workers are started by the same words.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    command::run(options, Vec::new(), &["mr"])
}
