//! From what the user asked for to a job: files, splits, partitions.

use std::path::{Path, PathBuf};

use crate::app::App;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::function::{Emit, Setup, Sink};
use crate::host::Request;
use crate::input::format::{Cutter, Format};
use crate::input::list;
use crate::input::read::records;
use crate::input::split::{self, Packing, Piece, Plan, Split};
use crate::job::{Job, Program};
use crate::sequential;
use crate::shuffle::partition::{Partitioner, bounds_of};

/// Places of the input that are looked at for the ranges of an ordered job, and how much at each.
const SAMPLES: u64 = 200;
const SAMPLE_BYTES: u64 = 16 << 10;
/// Less memory has no room for the buffers.
pub(crate) const MEMORY_BYTES_MIN: u64 = 4 << 20;

/// Makes a job of a request.
pub(crate) fn job(request: &Request, apps: &[App]) -> Result<Job> {
    let app = match &request.program {
        Program::App(name) => Some(sequential::find(apps, name)?),
        Program::Streaming { .. } => None,
    };
    let format = request
        .format
        .or(app.map(|app| app.format))
        .unwrap_or(Format::Lines);
    if request.memory_bytes < MEMORY_BYTES_MIN {
        return Err(Error::new("the memory limit is at least 4M"));
    }
    let files = list::files(&request.inputs)?;
    if let Some(file) = files.iter().find(|file| file.starts_with(&request.output)) {
        return Err(Error::new(format!(
            "{} lies in the output directory",
            file.display()
        )));
    }
    let splits = split::plan(
        &files,
        Plan {
            format,
            workers: request.workers,
            split_bytes: request.split_bytes,
            per_file: request.per_file,
        },
    )?;
    let reducers = app
        .and_then(|app| app.reducers)
        .or(request.reducers)
        .unwrap_or(request.workers);
    if reducers == 0 || reducers > 100_000 {
        return Err(Error::new("the number of reducers is from 1 to 100000"));
    }
    let mut job = Job {
        program: request.program.clone(),
        params: request.params.clone(),
        format,
        partitioner: Partitioner::Hash(reducers),
        splits,
        memory_bytes: request.memory_bytes,
        bad_records_max: request.bad_records_max,
        lease_ms: request.lease_ms,
        stall_ms: request.stall_ms,
        attempts_max: request.attempts_max,
        backups: request.backups,
        output: PathBuf::new(),
    };
    if let Some(app) = app {
        check_params(app, &job)?;
        if app.in_order && reducers > 1 {
            job.partitioner = Partitioner::Ranges(bounds_of(sample(app, &job)?, reducers));
        }
    }
    Ok(job)
}

/// Makes each function once: a missing parameter or a wrong pattern is told before anything runs.
fn check_params(app: &App, job: &Job) -> Result<()> {
    let known = |name: &str| {
        app.params.iter().any(|(param, _)| *param == name)
            || (job.format == Format::Json && ["key", "value"].contains(&name))
    };
    if let Some(name) = job
        .params
        .keys()
        .find(|name| !known(name) && !app.params.is_empty())
    {
        let names: Vec<&str> = app.params.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        return Err(Error::new(format!(
            "{} has no parameter {name:?}, but {names}",
            app.name
        )));
    }
    let setup = setup(job);
    (app.map)(&setup)?;
    (app.reduce)(&setup)?;
    Ok(())
}

fn setup(job: &Job) -> Setup {
    Setup {
        params: job.params.clone(),
        index: 0,
        reducers: job.partitioner.count(),
        attempt: "sample".to_owned(),
    }
}

#[derive(Default)]
struct Keys(Vec<Vec<u8>>);

impl Sink for Keys {
    fn pair(&mut self, key: &[u8], _: &[u8]) -> Result<()> {
        self.0.push(key.to_vec());
        Ok(())
    }
}

/// Keys that the map emits for records from all over the input. Bad records are left out; the maps will
/// meet them again.
fn sample(app: &App, job: &Job) -> Result<Vec<Vec<u8>>> {
    let pieces: Vec<&Piece> = job.splits.iter().flat_map(|split| &split.0).collect();
    let total: u64 = pieces.iter().map(|piece| piece.end - piece.start).sum();
    let step = (total / SAMPLES).max(SAMPLE_BYTES);
    let mut keys = Keys::default();
    let mut counters = Counters::new();
    let mut map = (app.map)(&setup(job))?;
    let mut out = Emit {
        sink: &mut keys,
        counters: &mut counters,
    };
    let mut next = 0;
    let mut before = 0;
    for piece in pieces {
        let len = piece.end - piece.start;
        while next < before + len {
            let place = Split(vec![place(piece, next - before)]);
            let mut cutter =
                Cutter::new(job.format, job.params.get("key"), job.params.get("value"));
            let mut left = SAMPLE_BYTES as i64;
            let read = records(
                &place,
                job.format,
                &mut cutter,
                64 << 20,
                &mut |record| match record.and_then(|record| {
                    left -= record.value.len() as i64 + 1;
                    map.map(&record, &mut out)
                }) {
                    Ok(()) | Err(Error::BadRecord(_)) if left > 0 => Ok(()),
                    Ok(()) | Err(Error::BadRecord(_)) => Err(Error::Abandoned),
                    Err(other) => Err(other),
                },
            );
            match read {
                // `Abandoned` ends the reading of a packed file, which cannot be cut.
                Ok(_) | Err(Error::Abandoned) => {}
                Err(other) => return Err(other),
            }
            next += step;
        }
        before += len;
    }
    Ok(keys.0)
}

/// A little of a piece, from some byte on; a packed file is read from its start.
fn place(piece: &Piece, offset: u64) -> Piece {
    if piece.packing != Packing::Plain {
        return piece.clone();
    }
    let start = piece.start + offset;
    Piece {
        start,
        end: (start + SAMPLE_BYTES).min(piece.end),
        ..piece.clone()
    }
}

/// Where two requests differ that are meant to be the same job.
pub(crate) fn difference(asked: &Job, begun: &Job) -> Option<&'static str> {
    [
        (asked.program != begun.program, "the program"),
        (asked.params != begun.params, "a parameter"),
        (asked.format != begun.format, "the format"),
    ]
    .iter()
    .find_map(|(differs, what)| differs.then_some(*what))
}

/// The parent of a path, for making it and syncing it.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
