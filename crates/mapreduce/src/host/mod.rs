//! The host of a job: the process that owns its journal, its workers and its output directory.
//!
//! It turns what happens (messages of workers, ends of processes, time, finished syncs) into events of the
//! coordinator and carries the effects out, in their order. It decides nothing.

pub(crate) mod connections;
pub(crate) mod desk;
pub(crate) mod journal;
pub(crate) mod ledger;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod shared;
pub(crate) mod workers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::coordinator::Record;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::input::format::Format;
use crate::job::{Job, Layout, Program};

use self::journal::Journal;
use self::ledger::Ledger;

/// What the user asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) program: Program,
    pub(crate) params: BTreeMap<String, String>,
    pub(crate) inputs: Vec<String>,
    pub(crate) output: PathBuf,
    pub(crate) format: Option<Format>,
    pub(crate) reducers: Option<u32>,
    pub(crate) workers: u32,
    pub(crate) split_bytes: Option<u64>,
    pub(crate) per_file: bool,
    pub(crate) memory_bytes: u64,
    pub(crate) bad_records_max: u64,
    pub(crate) lease_ms: u64,
    pub(crate) stall_ms: u64,
    pub(crate) attempts_max: u32,
    pub(crate) backups: bool,
}

/// What a job has come to: printed at its end, kept in `_SUCCESS`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The output directory.
    pub(crate) output: PathBuf,
    /// Map tasks.
    pub(crate) maps: u32,
    /// Reduce tasks, and output files.
    pub(crate) reduces: u32,
    /// Attempts that were given out since the last start of the coordinator.
    pub(crate) attempts: u32,
    /// Attempts that failed since then.
    pub(crate) failures: u32,
    /// Backup attempts since then.
    pub(crate) backups: u32,
    /// How often a coordinator has started, this one included.
    pub(crate) epoch: u32,
    /// Wall time since the last start of the coordinator.
    pub(crate) seconds: f64,
    /// The most memory that any worker had, in bytes.
    pub(crate) worker_memory_bytes: u64,
    /// Sums over the tasks.
    pub(crate) counters: Counters,
    /// Which attempt made each output file.
    pub(crate) winners: Vec<String>,
}

/// A job that is ready to be run.
pub(crate) struct Begun {
    pub(crate) layout: Layout,
    pub(crate) job: Job,
    pub(crate) ledger: Ledger,
    pub(crate) records: Vec<Record>,
}

/// Begins a job in a new output directory. The directory appears with the journal in it, by one rename: a
/// crash before leaves no output directory, one after leaves a job that can be resumed.
pub(crate) fn begin(request: &Request, apps: &[App]) -> Result<Begun> {
    refuse_existing(&request.output)?;
    let job = plan::job(request, apps)?;
    let journal = make_output(&request.output, |layout| {
        Journal::create(&layout.journal(), &job)
    })?;
    Ok(Begun {
        layout: Layout::new(&request.output),
        job,
        ledger: Ledger::File(journal),
        records: Vec::new(),
    })
}

/// Makes an output directory. It appears with what `fill` puts into its job's folder.
fn make_output<T>(output: &Path, fill: impl FnOnce(&Layout) -> Result<T>) -> Result<T> {
    let parent = plan::parent(output);
    fs::create_dir_all(parent).map_err(Error::io(format!("create {}", parent.display())))?;
    let name = output
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name = name.ok_or_else(|| Error::new("the output has no name"))?;
    let scratch = parent.join(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_dir_all(&scratch);
    let layout = Layout::new(&scratch);
    let files = layout.files();
    fs::create_dir_all(&files).map_err(Error::io(format!("create {}", files.display())))?;
    let filled = fill(&layout)?;
    sync_directory(&layout.job())?;
    sync_directory(&scratch)?;
    fs::rename(&scratch, output).map_err(Error::io(format!("create {}", output.display())))?;
    sync_directory(parent)?;
    Ok(filled)
}

/// Goes on with a job whose coordinator is dead. `None` if it has succeeded already.
pub(crate) fn resume(output: &Path) -> Result<Option<Begun>> {
    let layout = Layout::new(output);
    if layout.success().exists() {
        // The last life may have died between the end of the job and the removal of its files.
        clear(&layout)?;
        return Ok(None);
    }
    let (journal, job, records) = Journal::open(&layout.journal())?;
    let files = layout.files();
    fs::create_dir_all(&files).map_err(Error::io(format!("create {}", files.display())))?;
    Ok(Some(Begun {
        layout,
        job,
        ledger: Ledger::File(journal),
        records,
    }))
}

/// The report of a job that has succeeded.
pub(crate) fn report_of(output: &Path) -> Result<Report> {
    let path = Layout::new(output).success();
    let text = fs::read(&path).map_err(Error::io(format!("read {}", path.display())))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(format!("{}: {error}", path.display())))
}

/// Removes what a finished job needed for itself.
pub(crate) fn clear(layout: &Layout) -> Result<()> {
    let job = layout.job();
    match fs::remove_dir_all(&job) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", job.display()))(error))
        }
        _ => Ok(()),
    }
}

/// A coordinator never writes into what it has not made.
fn refuse_existing(output: &Path) -> Result<()> {
    if fs::symlink_metadata(output).is_err() {
        return Ok(());
    }
    let layout = Layout::new(output);
    let output = output.display();
    Err(Error::new(if layout.success().exists() {
        format!("{output} holds the output of a finished job: name another output, or remove it")
    } else if layout.journal().exists() || layout.id().exists() {
        format!("{output} holds an unfinished job: go on with it by --resume, or remove it")
    } else {
        format!("{output} exists: name another output")
    }))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    let directory = fs::File::open(path).map_err(Error::io(format!("open {}", path.display())))?;
    directory
        .sync_all()
        .map_err(Error::io(format!("sync {}", path.display())))
}
