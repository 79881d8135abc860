//! The worker's life: find the coordinator, ask, run, report, until it is let go.
//!
//! The task has the main thread. A second thread hears the coordinator, a third renews the lease. The end of
//! the connection ends the process at once, whatever the task does: nobody waits for it any more. And an
//! attempt that does not let go after it was abandoned, because its function hangs, ends with its process.

use std::io::BufReader;
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::coordinator::{AttemptId, Phase};
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::job::{Job, Layout};
use crate::wire::{self, ToCoordinator, ToWorker};
use crate::worker::pulse::Pulse;
use crate::worker::task::Task;

/// How long a worker waits for a coordinator to appear.
const CONTACT_PATIENCE: Duration = Duration::from_secs(10);
const CONTACT_PAUSE: Duration = Duration::from_millis(20);
/// Renewals of a lease within its time.
const BEATS_PER_LEASE: u32 = 5;

/// How workers find and convince their coordinator: the file `_job/coordinator`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Contact {
    pub(crate) address: String,
    pub(crate) secret: String,
}

/// What the threads share.
struct Shared {
    stream: Mutex<TcpStream>,
    /// The attempt at work.
    at_work: Mutex<Option<(AttemptId, Arc<Pulse>)>>,
}

impl Shared {
    fn say(&self, message: &ToCoordinator) -> std::io::Result<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        wire::send(&mut *stream, message)
    }

    fn at_work(&self) -> Option<(AttemptId, Arc<Pulse>)> {
        self.at_work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_at_work(&self, work: Option<(AttemptId, Arc<Pulse>)>) {
        *self.at_work.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }
}

/// Works for the job in this output directory, until it is over.
///
/// # Errors
/// If there is no such job, or its coordinator does not want this worker.
pub(crate) fn run(output: &Path, apps: &[App]) -> Result<ExitCode> {
    raise_file_limit();
    let layout = Layout::new(output);
    let (job, stream, mut reader) = match join(&layout)? {
        Some(joined) => joined,
        None => return Ok(ExitCode::SUCCESS),
    };
    let shared = Arc::new(Shared {
        stream: Mutex::new(stream),
        at_work: Mutex::new(None),
    });
    let lease = Duration::from_millis(job.lease_ms);
    let (tasks, orders) = channel();
    {
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || hear(&mut reader, &shared, &tasks, lease));
    }
    {
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || renew(&shared, lease / BEATS_PER_LEASE));
    }
    work(&job, apps, &layout, &shared, &orders)
}

/// A connection that was welcomed; `None` if the job is over already.
type Joined = (Job, TcpStream, BufReader<TcpStream>);

fn join(layout: &Layout) -> Result<Option<Joined>> {
    let began = Instant::now();
    let (contact, stream) = loop {
        if layout.success().exists() {
            return Ok(None);
        }
        let contact = std::fs::read(layout.contact())
            .ok()
            .and_then(|text| serde_json::from_slice::<Contact>(&text).ok());
        let connected = contact.and_then(|contact| {
            let stream = TcpStream::connect(&contact.address).ok()?;
            Some((contact, stream))
        });
        if let Some(found) = connected {
            break found;
        }
        if began.elapsed() > CONTACT_PATIENCE {
            let output = layout.output().display();
            return Err(Error::new(format!(
                "no coordinator works for a job in {output}"
            )));
        }
        std::thread::sleep(CONTACT_PAUSE);
    };
    let what = || Error::io("speak with the coordinator");
    stream.set_nodelay(true).map_err(what())?;
    let mut writer = stream.try_clone().map_err(what())?;
    let hello = ToCoordinator::Hello {
        version: wire::VERSION,
        secret: contact.secret,
        pid: std::process::id(),
    };
    wire::send(&mut writer, &hello).map_err(what())?;
    let mut reader = BufReader::new(stream);
    match wire::receive(&mut reader).map_err(what())? {
        Some(ToWorker::Welcome(job)) => Ok(Some((*job, writer, reader))),
        Some(ToWorker::Refused(reason)) => Err(Error::new(reason)),
        Some(ToWorker::Dismiss) | None => Ok(None),
        Some(other) => Err(Error::new(format!("the coordinator opened with {other:?}"))),
    }
}

fn hear(
    reader: &mut BufReader<TcpStream>,
    shared: &Shared,
    tasks: &Sender<ToWorker>,
    patience: Duration,
) {
    loop {
        match wire::receive(reader) {
            Ok(Some(ToWorker::Abandon { attempt })) => {
                if let Some((at_work, pulse)) = shared.at_work()
                    && at_work == attempt
                {
                    pulse.abandon();
                    insist(pulse, patience);
                }
            }
            Ok(Some(ToWorker::Dismiss)) => std::process::exit(0),
            Ok(Some(message)) => {
                if tasks.send(message).is_err() {
                    return;
                }
            }
            Ok(None) | Err(_) => std::process::exit(1),
        }
    }
}

/// Ends the process if the attempt still goes on after a while.
fn insist(pulse: Arc<Pulse>, patience: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(patience);
        // The task holds another reference until it is over.
        if Arc::strong_count(&pulse) > 1 {
            eprintln!("an abandoned task does not end; its worker does");
            std::process::exit(1);
        }
    });
}

fn renew(shared: &Shared, pause: Duration) {
    loop {
        std::thread::sleep(pause.max(Duration::from_millis(5)));
        if let Some((attempt, pulse)) = shared.at_work() {
            let units = pulse.units();
            if shared
                .say(&ToCoordinator::Progress { attempt, units })
                .is_err()
            {
                return;
            }
        }
    }
}

fn work(
    job: &Job,
    apps: &[App],
    layout: &Layout,
    shared: &Shared,
    orders: &Receiver<ToWorker>,
) -> Result<ExitCode> {
    loop {
        let lost = || Error::io("speak with the coordinator");
        shared.say(&ToCoordinator::Ask).map_err(lost())?;
        let Ok(order) = orders.recv() else {
            return Ok(ExitCode::FAILURE);
        };
        let attempt = match &order {
            ToWorker::Map { attempt, .. } | ToWorker::Reduce { attempt, .. } => *attempt,
            other => return Err(Error::new(format!("the coordinator said {other:?}"))),
        };
        let pulse = Arc::new(Pulse::default());
        shared.set_at_work(Some((attempt, Arc::clone(&pulse))));
        let task = Task {
            job,
            apps,
            layout,
            attempt,
            pulse: &pulse,
        };
        let result = match &order {
            ToWorker::Map { split, .. } => task.map(split),
            ToWorker::Reduce { inputs, .. } => task.reduce(inputs),
            _ => continue,
        };
        shared.set_at_work(None);
        drop(pulse);
        if let Some(report) = report(attempt, result, layout) {
            shared.say(&report).map_err(lost())?;
        }
    }
}

/// What to say about a finished attempt. Files of one that failed are removed here already; the coordinator
/// does it again, for those who died.
fn report(attempt: AttemptId, result: Result<Counters>, layout: &Layout) -> Option<ToCoordinator> {
    let error = match result {
        Ok(counters) => {
            let memory_bytes = peak_memory();
            return Some(ToCoordinator::Done {
                attempt,
                counters,
                memory_bytes,
            });
        }
        Err(error) => error,
    };
    let _ = std::fs::remove_file(layout.file(attempt));
    match error {
        Error::Abandoned => None,
        Error::InputLost { input, reason } if attempt.task.phase == Phase::Reduce => {
            Some(ToCoordinator::InputLost {
                attempt,
                input,
                error: reason,
            })
        }
        other => Some(ToCoordinator::Failed {
            attempt,
            error: other.to_string(),
        }),
    }
}

/// The most memory that this process has had, in bytes; 0 where the system does not tell.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes.unwrap_or(0u64) * 1024
}

/// A merge may hold a file of each map open.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
