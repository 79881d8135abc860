//! The worker of a cluster: it looks into the store for a job, works for it, and looks for the next one.
//!
//! It also keeps jobs alive. A job whose coordinator's lease has run out gets another one from the first
//! worker that sees it: a process of its own, so that neither ends with the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use crate::app::App;
use crate::error::{Error, Result};
use crate::host::shared::{Site, purpose};
use crate::job::Layout;
use crate::proof;
use crate::store::client::{Store, dial};
use crate::store::jobs::{look, names};
use crate::store::{JobId, PATIENCE};
use crate::worker::serve::{AtEnd, join, raise_file_limit, session};
use crate::worker::shelf;
use crate::worker::station::{Own, Station};

/// How often a worker without work looks for some.
const LOOK: Duration = Duration::from_millis(200);
/// How long a coordinator may take to take a connection.
const DIAL_PATIENCE: Duration = Duration::from_secs(2);

struct Roamer<'a> {
    site: &'a Site,
    /// The words before the command, for coordinators that are started.
    prefix: &'a [&'a str],
    dir: PathBuf,
    place: String,
    store: Store,
    over: BTreeSet<JobId>,
    /// Coordinators that this process has started.
    started: BTreeMap<JobId, Child>,
    /// What was last complained about, so that it is said once.
    complaint: String,
}

/// Works for the jobs of a cluster, for ever.
///
/// # Errors
/// If it cannot begin: the secret, the directory or the address is of no use.
pub(crate) fn run(site: &Site, dir: &Path, apps: &[App], prefix: &[&str]) -> Result<ExitCode> {
    raise_file_limit();
    let _lock = settle_in(dir)?;
    let place = shelf::open(&site.listen, &site.secret, dir)?;
    let mut roamer = Roamer {
        site,
        prefix,
        dir: dir.to_owned(),
        place,
        store: site.store.open(PATIENCE),
        over: BTreeSet::new(),
        started: BTreeMap::new(),
        complaint: String::new(),
    };
    loop {
        if let Err(error) = roamer.look(apps) {
            roamer.complain(&error);
        }
        std::thread::sleep(LOOK);
    }
}

/// Takes a directory for this worker alone, without what an earlier one has left there: nobody knows of it at
/// this worker's address.
fn settle_in(dir: &Path) -> Result<File> {
    let what = || Error::io(format!("use {}", dir.display()));
    fs::create_dir_all(dir).map_err(what())?;
    let lock = File::create(dir.join("lock")).map_err(what())?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let dir = dir.display();
            return Err(Error::new(format!("another worker uses {dir}")));
        }
        Err(TryLockError::Error(error)) => return Err(what()(error)),
    }
    for entry in fs::read_dir(dir).map_err(what())? {
        let entry = entry.map_err(what())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Folders of jobs, and nothing else that might lie here.
        if entry.path().is_dir() && name.contains('-') && JobId::parse(&name).is_ok() {
            fs::remove_dir_all(entry.path()).map_err(what())?;
        }
    }
    Ok(lock)
}

impl Roamer<'_> {
    /// Works for the first job that has a coordinator, and sees to those that have none.
    fn look(&mut self, apps: &[App]) -> Result<()> {
        self.started
            .retain(|_, child| matches!(child.try_wait(), Ok(None)));
        for id in names(&mut self.store)? {
            if self.over.contains(&id) {
                continue;
            }
            let seen = look(&mut self.store, &id)?;
            if seen.is_over() {
                let _ = fs::remove_dir_all(shelf::folder(&self.dir, &id));
                self.over.insert(id);
            } else if seen.state == "orphaned" {
                self.start_coordinator(&id)?;
            } else if let Some(standing) = seen.standing {
                let layout = Layout::new(Path::new(&standing.output));
                // One that cannot be worked for, as it has another secret, must not keep from the next.
                match self.work(&id, layout, &standing.address, apps) {
                    Ok(()) => return Ok(()),
                    Err(error) => self.complain(&error),
                }
            }
        }
        Ok(())
    }

    fn work(&mut self, id: &JobId, layout: Layout, address: &str, apps: &[App]) -> Result<()> {
        let what = || Error::io(format!("speak with the coordinator of {id} at {address}"));
        let mut stream = dial(address, DIAL_PATIENCE).map_err(what())?;
        stream
            .set_read_timeout(Some(DIAL_PATIENCE))
            .map_err(what())?;
        proof::dial(&self.site.secret, &mut stream, &purpose(id)).map_err(what())?;
        let folder = shelf::folder(&self.dir, id);
        fs::create_dir_all(&folder).map_err(Error::io(format!("create {}", folder.display())))?;
        let own = Own {
            folder,
            place: self.place.clone(),
            job: id.clone(),
            secret: self.site.secret.clone(),
        };
        let station = Station::with(layout, own);
        match join(stream, station.place())? {
            Some(joined) => session(joined, apps, &station, AtEnd::Return),
            None => Ok(()),
        }
    }

    /// Starts a coordinator, unless one that was started here is still at it. It ends by itself if another
    /// worker's was faster.
    fn start_coordinator(&mut self, id: &JobId) -> Result<()> {
        if self.started.contains_key(id) {
            return Ok(());
        }
        let program = std::env::current_exe().map_err(Error::io("find this program"))?;
        // The address of this worker with any port.
        let host = self.place.rsplit_once(':').map_or("", |(host, _)| host);
        let mut command = Command::new(program);
        command
            .args(self.prefix)
            .arg("coordinate")
            .arg(id.as_str())
            .args(self.site.store.words())
            .arg("--secret-file")
            .arg(&self.site.secret_file)
            .arg("--listen")
            .arg(format!("{host}:0"))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(password) = &self.site.store.password {
            command.env("KVORUM_PASSWORD", password);
        }
        let child = command.spawn().map_err(Error::io("start a coordinator"))?;
        self.started.insert(id.clone(), child);
        Ok(())
    }

    fn complain(&mut self, error: &Error) {
        let text = error.to_string();
        if text != self.complaint {
            eprintln!("{text}");
            self.complaint = text;
        }
    }
}
