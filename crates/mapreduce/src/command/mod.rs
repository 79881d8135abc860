//! The command line of MapReduce: `run`, `worker`, `apps`. kvorum has it as `kvorum mr`; a program with
//! apps of its own has it as its own, by [`main`].

mod run;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::App;
use crate::error::{Error, Result};
use crate::worker::serve;

/// The commands.
#[derive(Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a job on this machine, with worker processes of its own
    Run(Box<run::Options>),
    /// Work for a job that runs on this machine, beside its own workers
    Worker(WorkerOptions),
    /// Show what can be run
    Apps {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct WorkerOptions {
    /// The job's output directory
    #[arg(long, value_name = "DIR")]
    job: PathBuf,
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
        Command::Worker(options) => serve::run(&options.job, &apps),
        Command::Apps { json } => show_apps(&apps, json),
    }
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
