//! `run`: a job from its flags to its report.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::app::App;
use crate::command::print;
use crate::command::site::SiteOptions;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::host::connections::Door;
use crate::host::desk;
use crate::host::plan::difference;
use crate::host::progress::Progress;
use crate::host::shared::{self, Site};
use crate::host::workers::Recipe;
use crate::host::{self, Report, Request};
use crate::input::format::Format;
use crate::job::Program;
use crate::worker::serve::LOCAL_PURPOSE;
use kvorum_secret::Secret;

/// What a job is.
#[derive(Args)]
#[command(after_long_help = "Examples:\n  \
    run --app wc --input 'books/*.txt' --output out --reducers 10\n  \
    run --app grep --param pattern='^ERROR' --input logs/ --output errors\n  \
    run --map ./map.py --reduce ./reduce.py --input data.gz --output out\n\n\
    The output directory must not exist. It gets one file for each reducer, part-00000 and so on, and \
    _SUCCESS at the very end. A job whose process was killed goes on with: run --resume --output out\n\n\
    With --cluster the job's record is in kvorum, its tasks are done by `worker --cluster` processes \
    anywhere, and if this process dies, another goes on. Input and output must have the same names for all \
    of them.")]
pub(crate) struct Options {
    /// A function of this program: see `apps`
    #[arg(long, value_name = "NAME", conflicts_with_all = ["map", "reduce", "combine"])]
    app: Option<String>,
    /// A command that turns input lines into lines KEY TAB VALUE
    #[arg(long, value_name = "COMMAND", requires = "reduce")]
    map: Option<String>,
    /// A command that turns sorted lines KEY TAB VALUE into output lines
    #[arg(long, value_name = "COMMAND", requires = "map")]
    reduce: Option<String>,
    /// A command like --reduce, for parts of the map output
    #[arg(long, value_name = "COMMAND", requires = "map")]
    combine: Option<String>,
    /// Files, patterns or directories; gzip and zstd are unpacked
    #[arg(long, value_name = "PATH", num_args = 1..)]
    input: Vec<String>,
    /// The directory for the results; it must not exist
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// How many partitions and output files [default: the number of workers]
    #[arg(long, value_name = "N")]
    reducers: Option<u32>,
    /// How many worker processes [default: the number of processors]; with 0 the job waits for others, and
    /// with --cluster none is started: the number says into how many tasks the input is cut
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// How the input is cut into records: lines, whole (files), kv (KEY TAB VALUE), json (lines)
    #[arg(long)]
    format: Option<Format>,
    /// A parameter of the functions; with --format json, key=FIELD and value=FIELD
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_param)]
    param: Vec<(String, String)>,
    /// What each worker may use for sorting and merging
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    memory: u64,
    /// About how much each map task reads [default: by the size of the input, 1M to 64M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    split_size: Option<u64>,
    /// One map task for each file, however small
    #[arg(long)]
    per_file: bool,
    /// Leave out up to so many bad records of each map task, and count them
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_bad: u64,
    /// How often a task may fail before the job does
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
    /// How long a worker may be silent before its task is given to another, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    lease: u64,
    /// How long a task may get no further, though its worker lives, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = parse_seconds)]
    stall: u64,
    /// No second attempts for tasks that take much longer than the others
    #[arg(long)]
    no_backups: bool,
    #[command(flatten)]
    site: SiteOptions,
    /// Go on with the unfinished job in --output; begin it if there is none and a program is given
    #[arg(long)]
    resume: bool,
    /// Print the report as JSON, and no progress
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

pub(crate) fn run(options: Options, apps: &[App], prefix: &[&str]) -> Result<ExitCode> {
    let workers = options.workers.unwrap_or_else(processors);
    let output = options.output.clone();
    let progress = Progress::new(options.json || options.quiet);
    let (resume, json) = (options.resume, options.json);
    let (request, site) = request(options, workers)?;
    if let Some(site) = site.site()? {
        let resumed = resume.then_some(output.as_path());
        let report = run_shared(&site, request, resumed, apps, progress)?;
        return show(&report, json);
    }
    let begun = if resume && output.exists() {
        let Some(begun) = host::resume(&output)? else {
            return show(&host::report_of(&output)?, json);
        };
        if let Some(request) = &request
            && let Some(what) = difference(&host::plan::job(request, apps)?, &begun.job)
        {
            return Err(Error::new(format!("the unfinished job differs in {what}")));
        }
        begun
    } else {
        host::begin(&request.ok_or_else(nothing_to_run)?, apps)?
    };
    let recipe = Recipe {
        prefix: prefix.iter().map(|word| (*word).to_owned()).collect(),
        output,
    };
    let door = Door {
        listen: "127.0.0.1:0".to_owned(),
        secret: Secret::draw(),
        purpose: LOCAL_PURPOSE.to_owned(),
    };
    match desk::run(begun, &door, (recipe, workers), progress)? {
        Some(report) => show(&report, json),
        None => Err(Error::new("another coordinator works for this job")),
    }
}

/// A job with the workers of a cluster. With `resume`, goes on with the one in that output, if there is one.
fn run_shared(
    site: &Site,
    request: Option<Request>,
    resume: Option<&Path>,
    apps: &[App],
    progress: Progress,
) -> Result<Report> {
    if let Some(output) = resume
        && output.exists()
    {
        return match shared::job_of(output)? {
            Some(id) => shared::follow(&id, site),
            None => host::report_of(output),
        };
    }
    let request = request.ok_or_else(nothing_to_run)?;
    let (begun, id) = shared::begin(request, apps, site)?;
    // A closed standard error is no reason to stop.
    let _ = writeln!(std::io::stderr(), "job {id}");
    shared::run(begun, &id, site, progress)
}

fn nothing_to_run() -> Error {
    Error::new("what to run: --app, or --map and --reduce")
}

/// The request behind the flags, `None` if they name no program; and where it is to be run.
fn request(options: Options, workers: u32) -> Result<(Option<Request>, SiteOptions)> {
    let program = match (options.app, options.map, options.reduce) {
        (Some(app), ..) => Program::App(app),
        (None, Some(map), Some(reduce)) => Program::Streaming {
            map,
            reduce,
            combine: options.combine,
        },
        _ => return Ok((None, options.site)),
    };
    if options.input.is_empty() {
        return Err(Error::new("what to read: --input"));
    }
    let request = Request {
        program,
        params: options.param.into_iter().collect(),
        inputs: options.input,
        output: options.output,
        format: options.format,
        reducers: options.reducers,
        workers: workers.max(1),
        split_bytes: options.split_size,
        per_file: options.per_file,
        memory_bytes: options.memory,
        bad_records_max: options.skip_bad,
        lease_ms: options.lease,
        stall_ms: options.stall,
        attempts_max: options.attempts,
        backups: !options.no_backups,
    };
    Ok((Some(request), options.site))
}

fn show(report: &Report, json: bool) -> Result<ExitCode> {
    if !json {
        return print(&describe(report));
    }
    let text =
        serde_json::to_string_pretty(report).map_err(|error| Error::new(error.to_string()))?;
    print(&(text + "\n"))
}

/// A report for people.
pub(crate) fn describe(report: &Report) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}: {} files, from {} maps and {} reduces in {:.2} s ({} attempts, {} failed)",
        report.output.display(),
        report.reduces,
        report.maps,
        report.reduces,
        report.seconds,
        report.attempts,
        report.failures
    );
    put_counters(&mut text, &report.counters);
    let megabytes = report.worker_memory_bytes >> 20;
    let _ = writeln!(text, "  {:24} {megabytes} MiB", "memory of a worker");
    text
}

/// A line for each counter.
pub(crate) fn put_counters(text: &mut String, counters: &Counters) {
    for (name, sum) in counters.iter() {
        let _ = writeln!(text, "  {name:24} {sum}");
    }
}

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

fn parse_param(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a parameter is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A number of bytes; K, M and G are powers of 1024.
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a size is a number, with K, M or G".to_owned())?;
    number
        .checked_mul(1 << shift)
        .filter(|size| *size > 0)
        .ok_or("out of range".to_owned())
}

/// Seconds as milliseconds, from 0.1 to a day.
fn parse_seconds(text: &str) -> Result<u64, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    if !(0.1..=86_400.0).contains(&seconds) {
        return Err("from 0.1 to 86400 seconds".to_owned());
    }
    Ok((seconds * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(parse_size("16M"), Ok(16 << 20));
        assert_eq!(parse_size("12"), Ok(12));
        for bad in ["", "M", "-1", "0", "1T", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_seconds("0.5"), Ok(500));
        assert!(parse_seconds("0").is_err() && parse_seconds("nan").is_err());
    }
}
