//! The description of a job: everything that a worker, or a coordinator that takes over, must know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::coordinator::AttemptId;
use crate::input::format::Format;
use crate::input::split::Split;
use crate::shuffle::partition::Partitioner;

/// What runs: a function of this program, or executables.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Program {
    /// An app by its name.
    App(String),
    /// Commands for the shell.
    Streaming {
        /// Takes lines, gives lines key TAB value.
        map: String,
        /// Takes sorted lines key TAB value, gives lines of the output.
        reduce: String,
        /// As the reduce, on parts of the map output.
        combine: Option<String>,
    },
}

/// A job. It does not change once it has begun: it is the first record of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// What runs.
    pub(crate) program: Program,
    /// Parameters of the functions.
    pub(crate) params: BTreeMap<String, String>,
    /// How input files are cut into records.
    pub(crate) format: Format,
    /// How keys are spread.
    pub(crate) partitioner: Partitioner,
    /// One for each map task.
    pub(crate) splits: Vec<Split>,
    /// What a worker may use, in bytes; at least 4 MiB.
    pub(crate) memory_bytes: u64,
    /// So many bad records of each split are left out and counted instead of ending the attempt.
    pub(crate) bad_records_max: u64,
    /// How long a worker may be silent, in milliseconds.
    pub(crate) lease_ms: u64,
    /// How long a task may get no further, in milliseconds.
    pub(crate) stall_ms: u64,
    /// Failed attempts of one task that end the job.
    pub(crate) attempts_max: u32,
    /// Whether stragglers get a second attempt.
    pub(crate) backups: bool,
    /// The output directory, if the job's record is in the store: whoever takes over finds it there. Every
    /// process of the job reaches it under this name.
    #[serde(default, skip_serializing_if = "is_nowhere")]
    pub(crate) output: PathBuf,
}

fn is_nowhere(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

impl Job {
    /// For people: what runs.
    pub(crate) fn program_name(&self) -> &str {
        match &self.program {
            Program::App(name) => name,
            Program::Streaming { map, .. } => map,
        }
    }
}

/// Where the files of a job lie: all in the output directory, so that renames stay on one file system.
///
/// | path | what |
/// |---|---|
/// | `part-00000` ... | outputs, once they are final |
/// | `_SUCCESS` | written last: the report, with the winner of each output |
/// | `_job/journal` | the record of the job, unless it is in the store |
/// | `_job/id` | the name of the job in the store |
/// | `_job/coordinator` | address and secret of the coordinator, for its workers |
/// | `_job/files/` | what attempts write, each under its own name |
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    output: PathBuf,
}

impl Layout {
    pub(crate) fn new(output: &Path) -> Self {
        Self {
            output: output.to_owned(),
        }
    }

    pub(crate) fn output(&self) -> &Path {
        &self.output
    }

    pub(crate) fn job(&self) -> PathBuf {
        self.output.join("_job")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.job().join("journal")
    }

    pub(crate) fn id(&self) -> PathBuf {
        self.job().join("id")
    }

    pub(crate) fn contact(&self) -> PathBuf {
        self.job().join("coordinator")
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.job().join("files")
    }

    /// The file of an attempt: the run file of a map, the output of a reduce.
    pub(crate) fn file(&self, attempt: AttemptId) -> PathBuf {
        self.files().join(attempt.to_string())
    }

    pub(crate) fn part(&self, reduce: u32) -> PathBuf {
        self.output.join(format!("part-{reduce:05}"))
    }

    pub(crate) fn success(&self) -> PathBuf {
        self.output.join("_SUCCESS")
    }
}
