//! The command line of MapReduce: jobs, workers, apps. kvorum has it as `kvorum mr`; a program with
//! apps of its own has it as its own, by [`main`].

mod jobs;
mod run;
mod site;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::App;
use crate::command::site::SiteOptions;
use crate::error::{Error, Result};
use crate::host::shared;
use crate::store::JobId;
use crate::worker::roam;
use crate::worker::serve;

/// The commands.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a job: on this machine, with worker processes of its own, or with those of a cluster
    Run(Box<run::Options>),
    /// Work: for a job that runs on this machine, beside its own workers, or for all jobs of a cluster
    Worker(WorkerOptions),
    /// Coordinate a job of a cluster that nobody coordinates; workers start this by themselves
    Coordinate(CoordinateOptions),
    /// Show the jobs of a cluster, those that are over too
    List(jobs::ListOptions),
    /// Show one job of a cluster
    Status(jobs::StatusOptions),
    /// End a job of a cluster without a result
    Kill(jobs::KillOptions),
    /// Show what can be run
    Apps {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct WorkerOptions {
    /// The output directory of a job on this machine
    #[arg(long, value_name = "DIR")]
    job: Option<PathBuf>,
    #[command(flatten)]
    site: SiteOptions,
    /// For what maps write, and only for this worker; on a disk of its own
    #[arg(long, value_name = "DIR", default_value = "./kvorum-mr-worker")]
    dir: PathBuf,
}

#[derive(Args)]
struct CoordinateOptions {
    /// The name of the job
    job: String,
    #[command(flatten)]
    site: SiteOptions,
}

#[derive(Parser)]
#[command(version, about = "MapReduce jobs over files")]
struct Program {
    #[command(flatten)]
    options: Options,
}

/// The whole of a program that has apps of its own: parses the command line and runs it. The built-in apps
/// are there too.
///
/// ```no_run
/// # use kvorum_mapreduce::{App, Emit, Map, Record, Reduce, Result, Values};
/// # struct Lengths;
/// # impl Map for Lengths {
/// #     fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> { Ok(()) }
/// # }
/// # impl Reduce for Lengths {
/// #     fn reduce(&mut self, _: &[u8], _: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> { Ok(()) }
/// # }
/// fn main() -> std::process::ExitCode {
///     let lengths = App::new("lengths", "lines by their length", |_| Ok(Lengths), |_| Ok(Lengths));
///     kvorum_mapreduce::command::main(vec![lengths])
/// }
/// ```
#[must_use]
pub fn main(apps: Vec<App>) -> ExitCode {
    let options = Program::parse().options;
    run(options, apps, &[]).unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "error: {error}");
        ExitCode::FAILURE
    })
}

/// Runs a command. `prefix` are the words that stand before it on the command line of this program: workers
/// are started by them.
///
/// # Errors
/// For people: what did not work, and where.
pub fn run(options: Options, mut apps: Vec<App>, prefix: &[&str]) -> Result<ExitCode> {
    for app in crate::apps::built_in() {
        if apps.iter().all(|own| own.name != app.name) {
            apps.push(app);
        }
    }
    apps.sort_by_key(App::name);
    match options.command {
        Command::Run(options) => run::run(*options, &apps, prefix),
        Command::Worker(options) => work(options, &apps, prefix),
        Command::Coordinate(options) => coordinate(options),
        Command::List(options) => jobs::list(&options),
        Command::Status(options) => jobs::status(&options),
        Command::Kill(options) => jobs::end(&options),
        Command::Apps { json } => show_apps(&apps, json),
    }
}

fn work(options: WorkerOptions, apps: &[App], prefix: &[&str]) -> Result<ExitCode> {
    match (options.job, options.site.site()?) {
        (Some(job), None) => serve::run(&job, apps),
        (None, Some(site)) => roam::run(&site, &options.dir, apps, prefix),
        _ => Err(Error::new("for what to work: --job or --cluster")),
    }
}

fn coordinate(options: CoordinateOptions) -> Result<ExitCode> {
    let id = JobId::parse(&options.job)?;
    let site = options.site.site()?;
    let site = site.ok_or_else(|| Error::new("where the job is: --cluster"))?;
    shared::take_over(&id, &site)?;
    Ok(ExitCode::SUCCESS)
}

fn show_apps(apps: &[App], json: bool) -> Result<ExitCode> {
    let mut text = String::new();
    if json {
        let list: Vec<_> = apps
            .iter()
            .map(|app| {
                let params: std::collections::BTreeMap<_, _> = app.params.iter().copied().collect();
                serde_json::json!({
                    "name": app.name,
                    "about": app.about,
                    "format": app.format,
                    "in_order": app.in_order,
                    "params": params,
                })
            })
            .collect();
        text =
            serde_json::to_string_pretty(&list).map_err(|error| Error::new(error.to_string()))?;
        text.push('\n');
    } else {
        use std::fmt::Write as _;
        for app in apps {
            let _ = writeln!(
                text,
                "{:10} {} (input: {})",
                app.name, app.about, app.format
            );
            for (name, about) in &app.params {
                let _ = writeln!(text, "{:10}   --param {name}=...: {about}", "");
            }
        }
    }
    print(&text)
}

/// Writes to the standard output; a closed pipe is the reader's business.
fn print(text: &str) -> Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Error::io("write the report")(error)),
    }
}
