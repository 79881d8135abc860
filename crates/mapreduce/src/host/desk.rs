//! The loop of a job's host: hear, step, write once, sync once, then speak.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::coordinator::{AttemptId, Coordinator, Effect, Event, Outcome, Phase, Rules, WorkerId};
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::host::connections::{Door, Heard, listen, publish};
use crate::host::ledger::Ledger;
use crate::host::progress::Progress;
use crate::host::workers::{Recipe, Workers};
use crate::host::{Begun, Report, clear, sync_directory};
use crate::input::split::Split;
use crate::job::{Job, Layout};
use crate::planted::Planted;
use crate::store::jobs::{Finish, Standing};
use crate::store::tenure::News;
use crate::wire::{self, Input, ToCoordinator, ToWorker};
use crate::worker::serve::Contact;

/// The coordinator's tick.
const TICK: Duration = Duration::from_millis(50);
/// A backup is not thought of before a task has run for so long.
const BACKUP_AFTER: Duration = Duration::from_secs(10);

struct Connection {
    stream: TcpStream,
    pid: u32,
}

/// Everything that a running job needs.
struct Desk {
    layout: Layout,
    /// Without the splits.
    job: Job,
    splits: Vec<Split>,
    ledger: Ledger,
    /// Where workers connect.
    address: String,
    coordinator: Coordinator,
    connections: BTreeMap<WorkerId, Connection>,
    workers: Workers,
    progress: Progress,
    began: Instant,
    memory_bytes: u64,
    /// Steps that effects asked for, in their order.
    events: Vec<Event>,
    /// The last record that was appended, if it was not synced.
    unsynced: Option<u64>,
    outcome: Option<Outcome>,
}

/// Runs a job to its end, with so many workers of its own. `None` if the job became another coordinator's.
///
/// # Errors
/// If the job fails, or its directory or its store does.
pub(crate) fn run(
    begun: Begun,
    door: &Door,
    (recipe, workers): (Recipe, u32),
    progress: Progress,
) -> Result<Option<Report>> {
    let (to, heard) = channel();
    let address = listen(door, to)?;
    let Begun {
        layout,
        mut job,
        ledger,
        records,
    } = begun;
    if matches!(ledger, Ledger::File(_)) {
        let contact = Contact {
            address: address.clone(),
            secret: door.secret.to_hex(),
        };
        publish(&layout, &contact)?;
    }
    let workers = Workers::start(recipe, workers)?;
    let splits = std::mem::take(&mut job.splits);
    let shape = (splits.len() as u32, job.partitioner.count());
    let mut effects = Vec::new();
    let coordinator = Coordinator::new(
        shape,
        rules(&job),
        Planted::default(),
        &records,
        &mut effects,
    );
    let mut desk = Desk {
        layout,
        job,
        splits,
        ledger,
        address,
        coordinator,
        connections: BTreeMap::new(),
        workers,
        progress,
        began: Instant::now(),
        memory_bytes: 0,
        events: Vec::new(),
        unsynced: None,
        outcome: None,
    };
    if let Some(tenure) = desk.ledger.tenure() {
        tenure.claim(desk.coordinator.epoch())?;
    }
    desk.carry_out(effects)?;
    desk.settle()?;
    desk.renew()?;
    desk.serve(&heard)?;
    desk.close()
}

fn rules(job: &Job) -> Rules {
    let ticks = |ms: u64| (ms / TICK.as_millis() as u64).max(2);
    Rules {
        lease_ticks: ticks(job.lease_ms),
        stall_ticks: ticks(job.stall_ms),
        attempts_max: job.attempts_max,
        backup_ticks_min: ticks(BACKUP_AFTER.as_millis() as u64),
        backups: job.backups,
    }
}

impl Desk {
    fn serve(&mut self, heard: &Receiver<Heard>) -> Result<()> {
        let mut next_tick = Instant::now() + TICK;
        while self.outcome.is_none() {
            let wait = next_tick.saturating_duration_since(Instant::now());
            match heard.recv_timeout(wait) {
                Ok(first) => {
                    self.hear(first);
                    // Whatever came meanwhile shares one write and one sync.
                    while let Ok(more) = heard.try_recv() {
                        self.hear(more);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new("nobody listens for workers any more"));
                }
            }
            if Instant::now() >= next_tick {
                // One tick for a long stop of this process: workers must not pay for it.
                next_tick = Instant::now() + TICK;
                self.events.push(Event::Tick);
                self.workers.replace_dead()?;
                self.progress.show(&self.coordinator.status());
                if self.ledger.tenure().is_some_and(|tenure| tenure.is_due()) {
                    self.renew()?;
                }
            }
            self.settle()?;
        }
        Ok(())
    }

    /// Renews the lease, and hears what the store has to say. Nothing to do without one.
    fn renew(&mut self) -> Result<()> {
        let standing = Standing {
            epoch: self.coordinator.epoch(),
            address: self.address.clone(),
            program: self.job.program_name().to_owned(),
            output: self.layout.output().display().to_string(),
            workers: self.connections.len() as u32,
            ..Standing::of(self.coordinator.status())
        };
        let Some(tenure) = self.ledger.tenure() else {
            return Ok(());
        };
        match tenure.renew(&standing)? {
            News::Nothing => {}
            News::Kill => self.events.push(Event::Kill),
            News::Deposed => self.events.push(Event::Deposed),
        }
        Ok(())
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Joined {
                worker,
                pid,
                place,
                stream,
            } => {
                self.workers.joined(pid);
                if !place.is_empty() {
                    self.events.push(Event::Serves { worker, place });
                }
                self.connections.insert(worker, Connection { stream, pid });
                self.say(worker, &ToWorker::Welcome(Box::new(self.job.clone())));
            }
            Heard::Ended { worker } => {
                let Some(connection) = self.connections.remove(&worker) else {
                    return;
                };
                let why = self.workers.cause_of_death(connection.pid);
                self.events.push(Event::Gone { worker, why });
                // A dead worker's place is taken at once, not at the next tick.
                let _ = self.workers.replace_dead();
            }
            Heard::Said { worker, message } => {
                if let Some(event) = self.event_of(worker, message) {
                    self.events.push(event);
                } else {
                    self.hang_up(worker, "it said something that makes no sense");
                }
            }
        }
    }

    /// A worker's word as an event; `None` if it speaks of what does not exist.
    fn event_of(&mut self, worker: WorkerId, message: ToCoordinator) -> Option<Event> {
        let known = |id: AttemptId| self.coordinator.knows(id.task).then_some(id);
        Some(match message {
            ToCoordinator::Hello { .. } => return None,
            ToCoordinator::Ask => Event::Ask(worker),
            ToCoordinator::Progress { attempt, units } => {
                let attempt = known(attempt)?;
                Event::Progress {
                    worker,
                    attempt,
                    units,
                    counters: Counters::new(),
                }
            }
            ToCoordinator::Done {
                attempt,
                counters,
                memory_bytes,
            } => {
                let attempt = known(attempt)?;
                self.memory_bytes = self.memory_bytes.max(memory_bytes);
                Event::Done {
                    worker,
                    attempt,
                    counters,
                }
            }
            ToCoordinator::Failed { attempt, error } => {
                let attempt = known(attempt)?;
                let error = self.name_input(attempt, &error);
                Event::Failed {
                    worker,
                    attempt,
                    error,
                }
            }
            ToCoordinator::InputLost {
                attempt,
                input,
                error,
                unreachable,
            } => {
                let (attempt, input) = (known(attempt)?, known(input)?);
                Event::InputLost {
                    worker,
                    attempt,
                    input,
                    error,
                    unreachable,
                }
            }
        })
    }

    /// An error with the input that it happened on.
    fn name_input(&self, attempt: AttemptId, error: &str) -> String {
        let split = self.splits.get(attempt.task.index as usize);
        match (attempt.task.phase, split) {
            (Phase::Map, Some(split)) => format!("{error}, at {}", split.describe()),
            _ => error.to_owned(),
        }
    }

    /// Steps until nothing is left to do: the effects of one step may be the cause of another.
    fn settle(&mut self) -> Result<()> {
        loop {
            for event in std::mem::take(&mut self.events) {
                let event = match event {
                    Event::Gone { worker, why } => Event::Gone {
                        worker,
                        why: self.name_of_work(worker, &why),
                    },
                    other => other,
                };
                let mut effects = Vec::new();
                self.coordinator.step(event, &mut effects);
                self.carry_out(effects)?;
            }
            if let Some(seq) = self.unsynced.take() {
                let durable = self.ledger.sync()?;
                self.events.push(if durable {
                    Event::Recorded(seq)
                } else {
                    Event::Deposed
                });
            }
            if self.events.is_empty() || self.outcome.is_some() {
                return Ok(());
            }
        }
    }

    fn name_of_work(&self, worker: WorkerId, why: &str) -> String {
        match self.coordinator.at_work(worker) {
            Some(attempt) => self.name_input(attempt, why),
            None => why.to_owned(),
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Result<()> {
        for effect in effects {
            match effect {
                Effect::Record { seq, record } => {
                    self.ledger.append(record)?;
                    self.unsynced = Some(seq);
                }
                Effect::Assign {
                    worker,
                    attempt,
                    inputs,
                } => {
                    let message = match attempt.task.phase {
                        Phase::Map => {
                            let split = self.splits[attempt.task.index as usize].clone();
                            ToWorker::Map { attempt, split }
                        }
                        Phase::Reduce => {
                            let inputs = inputs.into_iter().map(|input| self.input(input));
                            let inputs = inputs.collect();
                            ToWorker::Reduce { attempt, inputs }
                        }
                    };
                    self.say(worker, &message);
                }
                Effect::Abandon { worker, attempt } => {
                    self.say(worker, &ToWorker::Abandon { attempt });
                }
                Effect::Discard(attempt) => self.discard(attempt),
                Effect::Publish(attempt) => self.publish(attempt)?,
                Effect::Seal => self.seal()?,
                Effect::End(outcome) => self.outcome = Some(outcome),
            }
        }
        Ok(())
    }

    fn input(&self, attempt: AttemptId) -> Input {
        let place = self.coordinator.place_of(attempt);
        let place = place.unwrap_or_default().to_owned();
        Input { attempt, place }
    }

    /// It may not exist, and what is left goes with the job's folder, and with those of its workers.
    fn discard(&mut self, attempt: AttemptId) {
        let kept_by_workers = self.ledger.tenure().is_some() && attempt.task.phase == Phase::Map;
        if !kept_by_workers {
            let _ = fs::remove_file(self.layout.file(attempt));
            return;
        }
        // Who has it is not known of one that never won; and this is rare.
        let all: Vec<WorkerId> = self.connections.keys().copied().collect();
        for worker in all {
            self.say(worker, &ToWorker::Forget { attempt });
        }
    }

    fn say(&mut self, worker: WorkerId, message: &ToWorker) {
        let Some(connection) = self.connections.get_mut(&worker) else {
            return;
        };
        if wire::send(&mut connection.stream, message).is_err() {
            self.hang_up(worker, "it does not take what it is sent");
        }
    }

    fn hang_up(&mut self, worker: WorkerId, why: &str) {
        if let Some(connection) = self.connections.remove(&worker) {
            let _ = connection.stream.shutdown(std::net::Shutdown::Both);
            self.events.push(Event::Gone {
                worker,
                why: why.to_owned(),
            });
        }
    }

    /// Renames a winner to its final name. If its file is gone and the final name is there, an earlier life
    /// has done it.
    fn publish(&mut self, attempt: AttemptId) -> Result<()> {
        let reduce = attempt.task.index;
        let (from, to) = (self.layout.file(attempt), self.layout.part(reduce));
        match fs::rename(&from, &to) {
            Ok(()) => self.events.push(Event::Published(reduce)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.events.push(if to.exists() {
                    Event::Published(reduce)
                } else {
                    let error = format!("neither {} nor {} is there", from.display(), to.display());
                    Event::OutputLost { reduce, error }
                });
            }
            Err(error) => return Err(Error::io(format!("rename {}", from.display()))(error)),
        }
        Ok(())
    }

    /// Writes `_SUCCESS`, after the names of all outputs are durable.
    fn seal(&mut self) -> Result<()> {
        sync_directory(self.layout.output())?;
        let report = self.report();
        let text =
            serde_json::to_vec_pretty(&report).map_err(|error| Error::new(error.to_string()))?;
        let path = self.layout.success();
        if path.exists() {
            // Another coordinator got as far as this, and maybe further.
            self.events.push(Event::Sealed);
            return Ok(());
        }
        let epoch = self.coordinator.epoch();
        let fresh = self.layout.job().join(format!("success-{epoch}"));
        let what = || Error::io(format!("write {}", path.display()));
        fs::write(&fresh, text).map_err(what())?;
        fs::File::open(&fresh)
            .and_then(|file| file.sync_all())
            .map_err(what())?;
        fs::rename(&fresh, &path).map_err(what())?;
        sync_directory(self.layout.output())?;
        self.events.push(Event::Sealed);
        Ok(())
    }

    fn report(&self) -> Report {
        let status = self.coordinator.status();
        Report {
            output: self.layout.output().to_owned(),
            maps: status.maps,
            reduces: status.reduces,
            attempts: status.attempts,
            failures: status.failures,
            backups: status.backups,
            epoch: self.coordinator.epoch(),
            seconds: self.began.elapsed().as_secs_f64(),
            worker_memory_bytes: self.memory_bytes,
            counters: status.counters,
            winners: self
                .coordinator
                .winners()
                .flatten()
                .map(|id| id.to_string())
                .collect(),
        }
    }

    /// Lets the workers go. What a finished job needed is removed; a failed one can be resumed.
    fn close(mut self) -> Result<Option<Report>> {
        self.progress.show(&self.coordinator.status());
        self.progress.end();
        let durable = self.ledger.sync()?;
        if !durable || self.outcome == Some(Outcome::Deposed) {
            // Workers that lose this connection look for the other coordinator.
            for connection in self.connections.values() {
                let _ = connection.stream.shutdown(std::net::Shutdown::Both);
            }
            return Ok(None);
        }
        let report = self.report();
        self.renew()?;
        self.tell_the_end(&report)?;
        for connection in self.connections.values_mut() {
            let _ = wire::send(&mut connection.stream, &ToWorker::Dismiss);
        }
        self.workers.dismiss();
        let output = self.layout.output().display();
        match self.outcome {
            Some(Outcome::Succeeded) => {
                clear(&self.layout)?;
                Ok(Some(report))
            }
            Some(Outcome::Failed(reason)) if self.ledger.tenure().is_some() => Err(Error::new(
                format!("{reason}\nThe job is over; remove {output}"),
            )),
            Some(Outcome::Failed(reason)) => Err(Error::new(format!(
                "{reason}\nWhat is done is kept: go on with run --resume --output {output}, or \
                 remove {output}"
            ))),
            Some(Outcome::Deposed) | None => Err(Error::new("the job did not end")),
        }
    }

    /// Has the store know how the job ended. Before the folder of the job goes: who takes over finds either.
    fn tell_the_end(&mut self, report: &Report) -> Result<()> {
        let finish = match &self.outcome {
            Some(Outcome::Succeeded) => Finish::Succeeded {
                report: Box::new(report.clone()),
            },
            Some(Outcome::Failed(reason)) => Finish::Failed {
                reason: reason.clone(),
            },
            Some(Outcome::Deposed) | None => return Ok(()),
        };
        match self.ledger.tenure() {
            Some(tenure) => tenure.finish(&finish),
            None => Ok(()),
        }
    }
}
