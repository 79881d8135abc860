//! `list`, `status`, `kill`: the jobs whose records are in the store.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::command::print;
use crate::command::run::{describe, put_counters};
use crate::error::{Error, Result};
use crate::store::jobs::{Finish, Seen, kill, look, names};
use crate::store::{BRIEFLY, JobId, StoreOptions};

/// All jobs.
#[derive(Args)]
pub(crate) struct ListOptions {
    #[command(flatten)]
    store: StoreOptions,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// One job.
#[derive(Args)]
pub(crate) struct StatusOptions {
    /// The name of the job
    job: String,
    #[command(flatten)]
    store: StoreOptions,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// One job, which is to end.
#[derive(Args)]
pub(crate) struct KillOptions {
    /// The name of the job
    job: String,
    #[command(flatten)]
    store: StoreOptions,
}

pub(crate) fn list(options: &ListOptions) -> Result<ExitCode> {
    let mut store = options.store.open(BRIEFLY);
    let mut jobs = Vec::new();
    for id in names(&mut store)? {
        jobs.push(look(&mut store, &id)?);
    }
    if options.json {
        return print(&json(&jobs)?);
    }
    let mut text = String::new();
    for seen in &jobs {
        let _ = writeln!(text, "{}", line(seen));
    }
    print(&text)
}

pub(crate) fn status(options: &StatusOptions) -> Result<ExitCode> {
    let id = JobId::parse(&options.job)?;
    let seen = look(&mut options.store.open(BRIEFLY), &id)?;
    if options.json {
        return print(&json(&seen)?);
    }
    let mut text = line(&seen);
    text.push('\n');
    match (&seen.end, &seen.standing) {
        (Some(Finish::Succeeded { report }), _) => text.push_str(&describe(report)),
        (Some(Finish::Failed { reason }), _) => {
            let _ = writeln!(text, "{reason}");
        }
        (None, Some(standing)) => {
            let _ = writeln!(
                text,
                "{} workers, {} tasks running, {} attempts failed; coordinator {} at {} (pid {})",
                standing.workers,
                standing.running,
                standing.failures,
                standing.epoch,
                standing.address,
                standing.pid
            );
            put_counters(&mut text, &standing.counters);
        }
        (None, None) => {}
    }
    print(&text)
}

pub(crate) fn end(options: &KillOptions) -> Result<ExitCode> {
    let id = JobId::parse(&options.job)?;
    kill(options.store.open(BRIEFLY), &id)?;
    print(&format!("{id} will end\n"))
}

fn json(value: &impl Serialize) -> Result<String> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::new(error.to_string()))?;
    Ok(text + "\n")
}

/// A job in one line.
fn line(seen: &Seen) -> String {
    let Some(standing) = &seen.standing else {
        return format!("{:28} {:10}", seen.job, seen.state);
    };
    format!(
        "{:28} {:10} {:10} maps {}/{} reduces {}/{} {}",
        seen.job,
        seen.state,
        standing.program,
        standing.maps_done,
        standing.maps,
        standing.reduces_done,
        standing.reduces,
        standing.output
    )
}
