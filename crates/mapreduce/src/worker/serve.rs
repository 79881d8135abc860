//! The worker's life with one coordinator: join, ask, run, report, until it is let go.
//!
//! The task has the main thread. A second thread hears the coordinator, a third renews the lease. For a
//! worker of one job the end of the connection ends the process at once, whatever the task does: nobody waits
//! for it any more. One that goes on with other jobs abandons the task. And an attempt that does not let go
//! after it was abandoned, because its function hangs, ends with its process.

use std::io::BufReader;
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::coordinator::{AttemptId, Phase};
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::job::{Job, Layout};
use crate::proof;
use crate::wire::{self, ToCoordinator, ToWorker};
use crate::worker::pulse::Pulse;
use crate::worker::station::Station;
use crate::worker::task::Task;
use kvorum_secret::Secret;

/// How long a worker waits for a coordinator to appear.
const CONTACT_PATIENCE: Duration = Duration::from_secs(10);
const CONTACT_PAUSE: Duration = Duration::from_millis(20);
/// How long a coordinator may take to say who it is.
const WELCOME_PATIENCE: Duration = Duration::from_secs(5);
/// Renewals of a lease within its time.
const BEATS_PER_LEASE: u32 = 5;
/// What connections to a coordinator on the same machine are for.
pub(crate) const LOCAL_PURPOSE: &str = "job on this machine";

/// How workers on the same machine find and convince their coordinator: the file `_job/coordinator`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Contact {
    pub(crate) address: String,
    pub(crate) secret: String,
}

/// What becomes of the worker when its coordinator is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AtEnd {
    /// It ends.
    Exit,
    /// It looks for another job.
    Return,
}

/// What the threads share.
struct Shared {
    stream: Mutex<TcpStream>,
    /// The attempt at work.
    at_work: Mutex<Option<(AttemptId, Arc<Pulse>)>>,
    /// The connection has ended.
    over: AtomicBool,
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

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Has the attempt at work end, and the process with it if the attempt does not within this time.
    fn abandon(&self, patience: Duration) {
        if let Some((_, pulse)) = self.at_work() {
            pulse.abandon();
            insist(pulse, patience);
        }
    }
}

/// Works for the job in this output directory, until it is over.
///
/// # Errors
/// If there is no such job, or its coordinator does not want this worker.
pub(crate) fn run(output: &Path, apps: &[App]) -> Result<ExitCode> {
    raise_file_limit();
    let layout = Layout::new(output);
    let Some((secret, mut stream)) = find(&layout)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let proved = proof::dial(&secret, &mut stream, LOCAL_PURPOSE);
    proved.map_err(Error::io("speak with the coordinator"))?;
    let station = Station::local(layout);
    let Some(joined) = join(stream, station.place())? else {
        return Ok(ExitCode::SUCCESS);
    };
    session(joined, apps, &station, AtEnd::Exit)?;
    Ok(ExitCode::FAILURE)
}

/// A connection to the coordinator of the job in this directory; `None` if the job is over.
fn find(layout: &Layout) -> Result<Option<(Secret, TcpStream)>> {
    let began = Instant::now();
    loop {
        if layout.success().exists() {
            return Ok(None);
        }
        let contact = std::fs::read(layout.contact())
            .ok()
            .and_then(|text| serde_json::from_slice::<Contact>(&text).ok());
        let connected = contact.and_then(|contact| {
            let stream = TcpStream::connect(&contact.address).ok()?;
            Some((Secret::from_hex(&contact.secret)?, stream))
        });
        if connected.is_some() {
            return Ok(connected);
        }
        if began.elapsed() > CONTACT_PATIENCE {
            let output = layout.output().display();
            return Err(Error::new(format!(
                "no coordinator works for a job in {output}"
            )));
        }
        std::thread::sleep(CONTACT_PAUSE);
    }
}

/// A connection that was welcomed, and to what.
pub(crate) struct Joined {
    job: Job,
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// Says hello over a connection whose ends have proved themselves; `None` if the job is over already.
pub(crate) fn join(stream: TcpStream, place: &str) -> Result<Option<Joined>> {
    let what = || Error::io("speak with the coordinator");
    stream.set_nodelay(true).map_err(what())?;
    let patience = Some(WELCOME_PATIENCE);
    stream.set_read_timeout(patience).map_err(what())?;
    let mut writer = stream.try_clone().map_err(what())?;
    let hello = ToCoordinator::Hello {
        version: wire::VERSION,
        pid: std::process::id(),
        place: place.to_owned(),
    };
    wire::send(&mut writer, &hello).map_err(what())?;
    let mut reader = BufReader::new(stream);
    match wire::receive(&mut reader).map_err(what())? {
        Some(ToWorker::Welcome(job)) => {
            writer.set_read_timeout(None).map_err(what())?;
            Ok(Some(Joined {
                job: *job,
                stream: writer,
                reader,
            }))
        }
        Some(ToWorker::Refused(reason)) => Err(Error::new(reason)),
        Some(ToWorker::Dismiss) | None => Ok(None),
        Some(other) => Err(Error::new(format!("the coordinator opened with {other:?}"))),
    }
}

/// Works until the connection ends, or the coordinator ends it.
///
/// # Errors
/// If the coordinator says what makes no sense.
pub(crate) fn session(
    joined: Joined,
    apps: &[App],
    station: &Station,
    at_end: AtEnd,
) -> Result<()> {
    let Joined {
        job,
        stream,
        mut reader,
    } = joined;
    let shared = Arc::new(Shared {
        stream: Mutex::new(stream),
        at_work: Mutex::new(None),
        over: AtomicBool::new(false),
    });
    let lease = Duration::from_millis(job.lease_ms);
    let (tasks, orders) = channel();
    let hearing = {
        let (shared, station) = (Arc::clone(&shared), station.clone());
        std::thread::spawn(move || {
            let good = hear(&mut reader, &shared, &station, &tasks, lease);
            if at_end == AtEnd::Exit {
                std::process::exit(i32::from(!good));
            }
            shared.over.store(true, Ordering::SeqCst);
            shared.abandon(lease);
        })
    };
    {
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || renew(&shared, lease / BEATS_PER_LEASE));
    }
    let result = work(&job, apps, station, &shared, &orders);
    // Whoever ended it, the other threads end with the connection: soon the one that renews, at once the
    // one that hears, which may still give orders.
    shared.over.store(true, Ordering::SeqCst);
    if let Ok(stream) = shared.stream.lock() {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    let _ = hearing.join();
    result
}

/// Hears the coordinator to the end of the connection. Whether it said that this is the end.
fn hear(
    reader: &mut BufReader<TcpStream>,
    shared: &Shared,
    station: &Station,
    tasks: &Sender<ToWorker>,
    patience: Duration,
) -> bool {
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
            Ok(Some(ToWorker::Forget { attempt })) => {
                let at_work = shared.at_work().is_some_and(|(id, _)| id == attempt);
                if !at_work {
                    let _ = std::fs::remove_file(station.file(attempt));
                }
            }
            Ok(Some(ToWorker::Dismiss)) => return true,
            Ok(Some(message)) => {
                if tasks.send(message).is_err() {
                    return false;
                }
            }
            Ok(None) | Err(_) => return false,
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
        if shared.is_over() {
            return;
        }
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
    station: &Station,
    shared: &Shared,
    orders: &Receiver<ToWorker>,
) -> Result<()> {
    loop {
        if shared.say(&ToCoordinator::Ask).is_err() {
            return Ok(());
        }
        let Ok(order) = orders.recv() else {
            return Ok(());
        };
        let attempt = match &order {
            ToWorker::Map { attempt, .. } | ToWorker::Reduce { attempt, .. } => *attempt,
            other => return Err(Error::new(format!("the coordinator said {other:?}"))),
        };
        let pulse = Arc::new(Pulse::default());
        shared.set_at_work(Some((attempt, Arc::clone(&pulse))));
        if shared.is_over() {
            // The thread that hears may not have seen this attempt.
            pulse.abandon();
        }
        let task = Task {
            job,
            apps,
            station,
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
        if let Some(report) = report(attempt, result, station)
            && shared.say(&report).is_err()
        {
            return Ok(());
        }
    }
}

/// What to say about a finished attempt. Files of one that failed are removed here already; the coordinator
/// does it again, for those who died.
fn report(
    attempt: AttemptId,
    result: Result<Counters>,
    station: &Station,
) -> Option<ToCoordinator> {
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
    let _ = std::fs::remove_file(station.file(attempt));
    match error {
        Error::Abandoned => None,
        Error::InputLost {
            input,
            reason,
            unreachable,
        } if attempt.task.phase == Phase::Reduce => Some(ToCoordinator::InputLost {
            attempt,
            input,
            error: reason,
            unreachable,
        }),
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
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
