//! Jobs whose record is in the store: begun by somebody, coordinated by whoever lives.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::app::App;
use crate::error::{Error, Result};
use crate::host::connections::Door;
use crate::host::ledger::Ledger;
use crate::host::progress::Progress;
use crate::host::workers::Recipe;
use crate::host::{Begun, Report, Request, desk, make_output, plan, refuse_existing};
use crate::job::{Layout, Program};
use crate::store::jobs::{Finish, look};
use crate::store::tenure::Tenure;
use crate::store::{BRIEFLY, INDEX, JobId, PATIENCE, StoreOptions};
use kvorum_secret::Secret;

/// How often who waits for a job looks at it.
const LOOK: Duration = Duration::from_millis(200);

/// What coordinators and workers of a cluster need to know of their surroundings.
pub(crate) struct Site {
    pub(crate) store: StoreOptions,
    /// What coordinators and workers prove to each other.
    pub(crate) secret: Secret,
    /// Where it was read, for processes that are started.
    pub(crate) secret_file: PathBuf,
    /// The address to listen on, for workers or for what they fetch from each other.
    pub(crate) listen: String,
}

impl Site {
    fn door(&self, id: &JobId) -> Door {
        Door {
            listen: self.listen.clone(),
            secret: self.secret.clone(),
            purpose: purpose(id),
        }
    }
}

/// What connections to the coordinator of a job are for.
pub(crate) fn purpose(id: &JobId) -> String {
    format!("job {id}")
}

/// Begins a job: its output directory with its name in it, then its description in the store. A crash in
/// between leaves a directory whose job does not exist, which a later start says.
pub(crate) fn begin(mut request: Request, apps: &[App], site: &Site) -> Result<(Begun, JobId)> {
    refuse_existing(&request.output)?;
    // A wrong address or password is told before anything is made.
    site.store.open(BRIEFLY).get(INDEX)?;
    // Others work elsewhere: every name must mean the same to them.
    request.output = absolute(&request.output)?;
    for input in &mut request.inputs {
        let path = absolute(Path::new(input))?;
        *input = path
            .to_str()
            .map(str::to_owned)
            .ok_or_else(|| Error::new(format!("the name of {input} is not UTF-8")))?;
    }
    let mut job = plan::job(&request, apps)?;
    job.output.clone_from(&request.output);
    let id = JobId::draw(match &request.program {
        Program::App(name) => name,
        Program::Streaming { map, .. } => map,
    });
    make_output(&request.output, |layout| write_id(&layout.id(), &id))?;
    let store = site.store.open(PATIENCE);
    let tenure = Tenure::create(store, id.clone(), &job)?;
    let begun = Begun {
        layout: Layout::new(&request.output),
        job,
        ledger: Ledger::Store(Box::new(tenure)),
        records: Vec::new(),
    };
    Ok((begun, id))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Error::io(format!("find {}", path.display())))
}

fn write_id(path: &Path, id: &JobId) -> Result<()> {
    let what = || Error::io(format!("write {}", path.display()));
    let mut file = fs::File::create(path).map_err(what())?;
    file.write_all(id.as_str().as_bytes()).map_err(what())?;
    file.sync_all().map_err(what())
}

/// The job whose output directory this is; `None` if it has succeeded and left only its output.
pub(crate) fn job_of(output: &Path) -> Result<Option<JobId>> {
    let layout = Layout::new(output);
    match fs::read_to_string(layout.id()) {
        Ok(text) => JobId::parse(text.trim()).map(Some),
        Err(_) if layout.success().exists() => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", layout.id().display()))(error)),
    }
}

/// Coordinates a job that has begun here, and stays with it until it is over, whoever coordinates it then.
pub(crate) fn run(begun: Begun, id: &JobId, site: &Site, progress: Progress) -> Result<Report> {
    match coordinate(begun, id, site, progress)? {
        Some(report) => Ok(report),
        None => follow(id, site),
    }
}

/// Waits until a job is over, and takes over whenever nobody coordinates it.
pub(crate) fn follow(id: &JobId, site: &Site) -> Result<Report> {
    let mut store = site.store.open(PATIENCE);
    loop {
        match look(&mut store, id)?.end {
            Some(Finish::Succeeded { report }) => return Ok(*report),
            Some(Finish::Failed { reason }) => return Err(Error::new(reason)),
            None => {}
        }
        if let Some(report) = take_over(id, site)? {
            return Ok(report);
        }
        std::thread::sleep(LOOK);
    }
}

/// Coordinates a job that nobody does, until it is over. `None` if there is nothing to do, or not any more:
/// it is over, or somebody else coordinates it.
pub(crate) fn take_over(id: &JobId, site: &Site) -> Result<Option<Report>> {
    let mut store = site.store.open(PATIENCE);
    if look(&mut store, id)?.is_over() {
        return Ok(None);
    }
    let (mut tenure, job, records) = Tenure::open(store, id.clone())?;
    if tenure.is_held(&records)? {
        return Ok(None);
    }
    // Its first coordinator may have died before anybody could find the job.
    if records.is_empty() {
        tenure.list()?;
    }
    let layout = Layout::new(&job.output);
    let files = layout.files();
    fs::create_dir_all(&files).map_err(Error::io(format!("create {}", files.display())))?;
    let begun = Begun {
        layout,
        job,
        ledger: Ledger::Store(Box::new(tenure)),
        records,
    };
    coordinate(begun, id, site, Progress::new(true))
}

fn coordinate(begun: Begun, id: &JobId, site: &Site, progress: Progress) -> Result<Option<Report>> {
    // Workers are wherever they are: none is started here.
    let nobody = (Recipe::default(), 0);
    desk::run(begun, &site.door(id), nobody, progress)
}
