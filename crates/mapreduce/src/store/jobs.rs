//! Jobs as those see them who do not coordinate: workers that look for one, and people.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::coordinator::{Record, Status};
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::host::Report;
use crate::store::client::Store;
use crate::store::tenure::{Tenure, epoch_of, lease_key};
use crate::store::{INDEX, JobId};

/// How far a job is, by the last word of a coordinator.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// The coordinator's number, from 1.
    pub(crate) epoch: u32,
    /// Where it listens.
    pub(crate) address: String,
    /// Its process, on the machine of that address.
    pub(crate) pid: u32,
    /// What runs.
    pub(crate) program: String,
    /// The output directory.
    pub(crate) output: String,
    pub(crate) maps: u32,
    pub(crate) maps_done: u32,
    pub(crate) reduces: u32,
    pub(crate) reduces_done: u32,
    /// Attempts at work.
    pub(crate) running: u32,
    /// Workers that are connected.
    pub(crate) workers: u32,
    /// Attempts that failed, in this epoch.
    pub(crate) failures: u32,
    /// Sums over the winners.
    pub(crate) counters: Counters,
}

impl Standing {
    /// The coordinator's numbers, under a name that is to be completed.
    pub(crate) fn of(status: Status) -> Self {
        Self {
            epoch: 0,
            address: String::new(),
            pid: std::process::id(),
            program: String::new(),
            output: String::new(),
            maps: status.maps,
            maps_done: status.maps_done,
            reduces: status.reduces,
            reduces_done: status.reduces_done,
            running: status.running,
            workers: 0,
            failures: status.failures,
            counters: status.counters,
        }
    }
}

/// How a job ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum Finish {
    Succeeded {
        report: Box<Report>,
    },
    /// A task failed too often, or the job was killed.
    Failed {
        reason: String,
    },
}

/// What is known about a job.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Seen {
    pub(crate) job: String,
    /// `running`, `orphaned` (nobody coordinates it now), `succeeded` or `failed`.
    pub(crate) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) standing: Option<Standing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<Finish>,
}

impl Seen {
    /// Whether it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.end.is_some()
    }
}

/// The names of all jobs, oldest first.
pub(crate) fn names(store: &mut Store) -> Result<Vec<JobId>> {
    let text = store.get(INDEX)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut seen = BTreeSet::new();
    let mut names = Vec::new();
    for id in text.lines().filter_map(|line| JobId::parse(line).ok()) {
        // A name whose outcome was unknown is written twice.
        if seen.insert(id.clone()) {
            names.push(id);
        }
    }
    Ok(names)
}

/// What is known about this job.
///
/// # Errors
/// If there is none of this name, or the store does not answer.
pub(crate) fn look(store: &mut Store, id: &JobId) -> Result<Seen> {
    let keys = [id.key("end"), id.key("standing")];
    let found = store.get_all(&keys)?;
    let damaged = |error: serde_json::Error| Error::new(format!("the record of {id}: {error}"));
    let end: Option<Finish> = match &found[0] {
        Some(text) => Some(serde_json::from_slice(text).map_err(damaged)?),
        None => None,
    };
    let standing: Option<Standing> = match &found[1] {
        Some(text) => Some(serde_json::from_slice(text).map_err(damaged)?),
        None => None,
    };
    let state = match &end {
        Some(Finish::Succeeded { .. }) => "succeeded",
        Some(Finish::Failed { .. }) => "failed",
        None => {
            let epoch = standing.as_ref().map_or(1, |standing| standing.epoch);
            let lives = store.get(&lease_key(id, epoch))?.is_some();
            if !lives && standing.is_none() && store.get(&id.key(0))?.is_none() {
                return Err(Error::new(format!("there is no job {id}")));
            }
            if lives { "running" } else { "orphaned" }
        }
    };
    Ok(Seen {
        job: id.to_string(),
        state,
        standing,
        end,
    })
}

/// Has a job end. Its coordinator hears of it with its next renewal; one that nobody coordinates is ended
/// here.
///
/// # Errors
/// If there is no such job, or it has ended.
pub(crate) fn kill(mut store: Store, id: &JobId) -> Result<()> {
    let seen = look(&mut store, id)?;
    if seen.is_over() {
        return Err(Error::new(format!("job {id} has {}", seen.state)));
    }
    store.set(&id.key("kill"), b"killed")?;
    let (mut tenure, _, records) = Tenure::open(store, id.clone())?;
    if tenure.is_held(&records)? {
        return Ok(());
    }
    let epoch = epoch_of(&records) + 1;
    let reason = "killed".to_owned();
    tenure.claim(epoch)?;
    tenure.append(Record::Epoch(epoch));
    tenure.append(Record::Failed {
        reason: reason.clone(),
    });
    // If another coordinator has come in between, it will find the word that the job is to end.
    if tenure.sync()? {
        tenure.finish(&Finish::Failed { reason })?;
    }
    Ok(())
}
