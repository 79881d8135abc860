//! The coordinator: who works at what, who has won, what may be shown to the world.
//!
//! Pure: events in, one ordered list of effects out, as everywhere in kvorum. It owns no file, socket or
//! clock; a life of it is replayed from its events, and the simulation does so with workers that crash,
//! pause, crawl and repeat themselves.
//!
//! Four rules carry it:
//!
//! - **The record decides.** The first attempt that reports is chosen as its task's winner; the choice is
//!   recorded; only when the record is durable does anything rest on it: the start of the reduces, the
//!   rename of an output. A coordinator that takes over reads the records and can only repeat what they
//!   decided.
//! - **A refused record is the end.** Coordinators of one job write their records into one row of places,
//!   each of which is written once. Who finds a place taken has been replaced, and does nothing any more.
//! - **A lost lease is final.** A worker that was silent for too long has lost its attempt. Its files are
//!   removed, so its report, should it wake up, is refused even if nobody else has finished.
//! - **Counters belong to winners.** A task's counters are those of its winner; totals are sums over tasks.
//!
//! The shape is that of Dean and Ghemawat, "MapReduce" (2004), sections 3.3 (re-execution, atomic commit)
//! and 3.6 (backup tasks).

mod schedule;
mod task;
mod types;

use std::collections::{BTreeMap, VecDeque};

pub use self::types::{
    AttemptId, Effect, Event, Outcome, Phase, Record, RecordSeq, Rules, Status, TaskId, WorkerId,
};

use self::task::{State, Task};
use crate::counters::Counters;
use crate::planted::{Bug, Planted};

/// What a worker is doing, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    /// It waits for something to do.
    Nothing,
    /// It runs this attempt.
    Attempt(AttemptId),
    /// It lost or ended its attempt and has not asked for another.
    Unknown,
}

/// The coordinator of one job, in one of its lives.
///
/// Invariants, collected in [`Coordinator::check`]: a waiting worker is in `waiting` once; an attempt runs
/// on a worker that is known to run it; reduces run only while every map has a durable winner, or ran
/// already when one was lost; `recorded <= issued`; `maps_done` counts the maps with a durable winner; no
/// task below `first_open` of its phase is without a winner and without an attempt.
#[derive(Clone, Debug)]
pub struct Coordinator {
    rules: Rules,
    planted: Planted,
    maps: Vec<Task>,
    reduces: Vec<Task>,
    /// Kept beside the tasks so that no event costs a walk over all of them.
    maps_done: usize,
    first_open: [usize; 2],
    workers: BTreeMap<WorkerId, Doing>,
    /// Where workers serve the outputs of their maps, those that do.
    places: BTreeMap<WorkerId, String>,
    /// Workers with nothing to do, in the order in which they asked.
    waiting: VecDeque<WorkerId>,
    now: u64,
    epoch: u32,
    epoch_is_durable: bool,
    attempts: u32,
    failures: u32,
    backups: u32,
    issued: RecordSeq,
    recorded: RecordSeq,
    /// Choices whose record is on its way, in the order of their numbers.
    chosen: VecDeque<(RecordSeq, AttemptId)>,
    epoch_seq: RecordSeq,
    /// How long winners took, for the median that backups are measured by.
    durations: Vec<u64>,
    /// Only a planted bug ever puts something here.
    leaked: Counters,
    sealing: bool,
    outcome: Option<Outcome>,
}

impl Coordinator {
    /// A coordinator for a job of so many maps and reduces, which takes over from the lives that left
    /// these records (none: it is the first). Nothing is handed out before its own epoch is durable: two
    /// lives with one epoch would name the files of different attempts alike.
    ///
    /// # Panics
    /// If there is no map, no reduce, or a record speaks of a task that does not exist.
    #[must_use]
    pub fn new(
        (maps, reduces): (u32, u32),
        rules: Rules,
        planted: Planted,
        records: &[Record],
        effects: &mut Vec<Effect>,
    ) -> Self {
        assert!(
            maps > 0 && reduces > 0,
            "a job of {maps} maps and {reduces} reduces"
        );
        let mut this = Self {
            rules,
            planted,
            maps: (0..maps)
                .map(|index| Task::new(TaskId::map(index)))
                .collect(),
            reduces: (0..reduces)
                .map(|index| Task::new(TaskId::reduce(index)))
                .collect(),
            maps_done: 0,
            first_open: [0; 2],
            workers: BTreeMap::new(),
            places: BTreeMap::new(),
            waiting: VecDeque::new(),
            now: 0,
            epoch: 0,
            epoch_is_durable: false,
            attempts: 0,
            failures: 0,
            backups: 0,
            issued: 0,
            recorded: 0,
            chosen: VecDeque::new(),
            epoch_seq: 0,
            durations: Vec::new(),
            leaked: Counters::new(),
            sealing: false,
            outcome: None,
        };
        for record in records {
            this.replay(record);
        }
        this.maps_done = this
            .maps
            .iter()
            .filter(|map| map.winner().is_some())
            .count();
        if !planted.has(Bug::AttemptNumbersReused) || this.epoch == 0 {
            this.epoch += 1;
        }
        this.epoch_seq = this.record(Record::Epoch(this.epoch), effects);
        this
    }

    fn replay(&mut self, record: &Record) {
        match record {
            Record::Epoch(epoch) => self.epoch = self.epoch.max(*epoch),
            Record::Committed {
                attempt,
                counters,
                place,
            } => {
                let task = self.task(attempt.task);
                task.state = State::Committed(*attempt);
                task.counters = counters.clone();
                task.place.clone_from(place);
            }
            Record::Lost(attempt) => {
                let task = self.task(attempt.task);
                task.state = State::Open;
                task.counters = Counters::new();
                task.place.clear();
            }
            Record::Failed { .. } => {}
        }
    }

    /// One event in; what follows from it is appended to `effects`.
    pub fn step(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if self.outcome.is_some() {
            return;
        }
        match event {
            Event::Tick => self.tick(effects),
            Event::Ask(worker) => self.ask(worker, effects),
            Event::Progress {
                worker,
                attempt,
                units,
                counters,
            } => {
                self.progress(worker, attempt, units, counters, effects);
            }
            Event::Done {
                worker,
                attempt,
                counters,
            } => {
                self.done(worker, attempt, counters, effects);
            }
            Event::Failed {
                worker,
                attempt,
                error,
            } => {
                self.ended(worker, attempt);
                self.give_up(attempt, &error, effects);
            }
            Event::InputLost {
                worker,
                attempt,
                input,
                error,
                unreachable,
            } => {
                self.ended(worker, attempt);
                self.input_lost(attempt, input, (&error, unreachable), effects);
            }
            Event::Serves { worker, place } => {
                self.places.insert(worker, place);
            }
            Event::Gone { worker, why } => self.gone(worker, &why, effects),
            Event::Recorded(seq) => self.recorded(seq, effects),
            Event::Published(reduce) => self.published(reduce, effects),
            Event::OutputLost { reduce, error } => self.output_lost(reduce, &error, effects),
            Event::Sealed => self.end(Outcome::Succeeded, effects),
            Event::Deposed => self.deposed(effects),
            Event::Kill => self.fail("killed".to_owned(), effects),
        }
        self.hand_out(effects);
    }

    /// How far the job is.
    #[must_use]
    pub fn status(&self) -> Status {
        let done = |tasks: &[Task]| tasks.iter().filter(|task| task.winner().is_some()).count();
        let running = |tasks: &[Task]| tasks.iter().map(|task| task.running.len()).sum::<usize>();
        let published = self
            .reduces
            .iter()
            .filter(|task| task.is_published())
            .count();
        let mut counters = self.leaked.clone();
        for task in self.maps.iter().chain(&self.reduces) {
            counters.merge(&task.counters);
        }
        Status {
            maps: self.maps.len() as u32,
            maps_done: done(&self.maps) as u32,
            reduces: self.reduces.len() as u32,
            reduces_done: published as u32,
            running: (running(&self.maps) + running(&self.reduces)) as u32,
            attempts: self.attempts,
            failures: self.failures,
            backups: self.backups,
            counters,
        }
    }

    /// The winner of each reduce, once it is durable.
    pub fn winners(&self) -> impl Iterator<Item = Option<AttemptId>> {
        self.reduces.iter().map(Task::winner)
    }

    /// Where the output of this map attempt is served, if it has won and its worker keeps it.
    #[must_use]
    pub fn place_of(&self, map: AttemptId) -> Option<&str> {
        let task = self.maps.get(map.task.index as usize)?;
        let stands = map.task.phase == Phase::Map && task.winner() == Some(map);
        (stands && !task.place.is_empty()).then_some(&task.place)
    }

    /// Which life of the job's coordinator this is, from 1.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What this worker is known to work at.
    #[must_use]
    pub fn at_work(&self, worker: WorkerId) -> Option<AttemptId> {
        match self.workers.get(&worker) {
            Some(Doing::Attempt(id)) => Some(*id),
            _ => None,
        }
    }

    /// How the job ended, if it did.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// The invariants.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        assert!(self.recorded <= self.issued);
        let done = self
            .maps
            .iter()
            .filter(|map| map.winner().is_some())
            .count();
        assert_eq!(self.maps_done, done, "maps with a durable winner");
        for (tasks, first) in [
            (&self.maps, self.first_open[0]),
            (&self.reduces, self.first_open[1]),
        ] {
            for task in &tasks[..first] {
                let idle = task.state == State::Open && task.running.is_empty();
                assert!(!idle, "{} waits and is overlooked", task.id);
            }
        }
        for task in self.maps.iter().chain(&self.reduces) {
            task.check();
            for attempt in &task.running {
                assert_eq!(
                    self.workers.get(&attempt.worker),
                    Some(&Doing::Attempt(attempt.id)),
                    "{} runs on a worker that does something else",
                    attempt.id
                );
            }
        }
        let idle = self
            .workers
            .values()
            .filter(|doing| **doing == Doing::Nothing)
            .count();
        assert_eq!(idle, self.waiting.len(), "waiting workers and idle ones");
        for (at, worker) in self.waiting.iter().enumerate() {
            assert_eq!(self.workers.get(worker), Some(&Doing::Nothing));
            assert!(
                self.waiting
                    .iter()
                    .skip(at + 1)
                    .all(|other| other != worker)
            );
        }
    }

    fn progress(
        &mut self,
        worker: WorkerId,
        id: AttemptId,
        units: u64,
        counters: Counters,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        match self.task(id.task).attempt(id) {
            Some(attempt) if attempt.worker == worker => {
                attempt.heard = now;
                if units > attempt.units {
                    attempt.advanced = now;
                    attempt.units = units;
                }
                attempt.counters = counters;
            }
            _ => effects.push(Effect::Abandon {
                worker,
                attempt: id,
            }),
        }
    }

    fn done(
        &mut self,
        worker: WorkerId,
        id: AttemptId,
        counters: Counters,
        effects: &mut Vec<Effect>,
    ) {
        self.ended(worker, id);
        let late = self.planted.has(Bug::LateAttemptCommits);
        let unfenced = self.planted.has(Bug::LeaseNotFenced);
        let now = self.now;
        let place = match (id.task.phase, self.places.get(&worker)) {
            (Phase::Map, Some(place)) => place.clone(),
            _ => String::new(),
        };
        let task = self.task(id.task);
        let was_done = task.winner().is_some();
        let took = task.take(id).map(|attempt| now - attempt.started);
        let open = task.state == State::Open;
        if took.is_none() && !late && !(unfenced && open) {
            // It lost its lease, another one won, or it is reported twice. The winner's own second
            // report must not remove the winner's files.
            if task.state != State::Chosen(id) && task.winner() != Some(id) {
                effects.push(Effect::Discard(id));
            }
            return;
        }
        task.state = State::Chosen(id);
        task.counters = counters.clone();
        task.place.clone_from(&place);
        let others = std::mem::take(&mut task.running);
        self.maps_done -= usize::from(was_done && id.task.phase == Phase::Map);
        if let Some(took) = took {
            self.durations.push(took);
        }
        for other in others {
            self.workers.insert(other.worker, Doing::Unknown);
            effects.push(Effect::Abandon {
                worker: other.worker,
                attempt: other.id,
            });
            effects.push(Effect::Discard(other.id));
        }
        if id.task.phase == Phase::Reduce && self.planted.has(Bug::PublishBeforeRecord) {
            effects.push(Effect::Publish(id));
        }
        let seq = self.record(
            Record::Committed {
                attempt: id,
                counters,
                place,
            },
            effects,
        );
        self.chosen.push_back((seq, id));
    }

    /// An attempt is over without a result: its files go, and its failure is counted.
    fn give_up(&mut self, id: AttemptId, error: &str, effects: &mut Vec<Effect>) {
        let keep = self.planted.has(Bug::LostCountersKept);
        let attempts_max = self.rules.attempts_max;
        let task = self.task(id.task);
        let Some(attempt) = task.take(id) else {
            return;
        };
        task.failures += 1;
        let hopeless = task.failures >= attempts_max && task.running.is_empty();
        let failures = task.failures;
        self.reopened(id.task);
        self.failures += 1;
        if keep {
            self.leaked.merge(&attempt.counters);
        }
        effects.push(Effect::Discard(id));
        if hopeless {
            let task = id.task;
            self.fail(
                format!("{task} failed {failures} times, at last with: {error}"),
                effects,
            );
        }
    }

    fn input_lost(
        &mut self,
        id: AttemptId,
        input: AttemptId,
        (error, unreachable): (&str, bool),
        effects: &mut Vec<Effect>,
    ) {
        if self.task(id.task).take(id).is_none() {
            return;
        }
        self.reopened(id.task);
        effects.push(Effect::Discard(id));
        // A place that is gone takes all of its outputs along. Found out one by one, each would cost another
        // attempt at this reduce.
        let place = self.place_of(input).filter(|_| unreachable);
        let there = |map: &&Task| Some(map.place.as_str()) == place;
        let lost: Vec<AttemptId> = match place {
            Some(_) => {
                let maps = self.maps.iter().filter(there);
                maps.filter_map(Task::winner).collect()
            }
            None => vec![input],
        };
        for input in lost {
            if self.outcome.is_none() {
                self.lose(input, error, effects);
            }
        }
    }

    fn output_lost(&mut self, reduce: u32, error: &str, effects: &mut Vec<Effect>) {
        if let State::Committed(id) = self.task(TaskId::reduce(reduce)).state {
            self.lose(id, error, effects);
        }
    }

    /// The files of a winner are gone: the task is open again, by a record, so that the next life does
    /// not believe in them either.
    fn lose(&mut self, id: AttemptId, error: &str, effects: &mut Vec<Effect>) {
        let attempts_max = self.rules.attempts_max;
        let task = self.task(id.task);
        if task.state != State::Committed(id) {
            return;
        }
        task.state = State::Open;
        task.counters = Counters::new();
        task.place.clear();
        task.failures += 1;
        let failures = task.failures;
        self.maps_done -= usize::from(id.task.phase == Phase::Map);
        self.reopened(id.task);
        self.failures += 1;
        self.record(Record::Lost(id), effects);
        effects.push(Effect::Discard(id));
        if failures >= attempts_max {
            let task = id.task;
            self.fail(
                format!("the output of {task} was lost {failures} times, at last with: {error}"),
                effects,
            );
        }
    }

    fn gone(&mut self, worker: WorkerId, why: &str, effects: &mut Vec<Effect>) {
        self.waiting.retain(|other| *other != worker);
        self.places.remove(&worker);
        if let Some(Doing::Attempt(id)) = self.workers.remove(&worker) {
            self.give_up(id, why, effects);
        }
    }

    fn recorded(&mut self, seq: RecordSeq, effects: &mut Vec<Effect>) {
        assert!(seq <= self.issued, "record {seq} was never asked for");
        self.recorded = self.recorded.max(seq);
        if !self.epoch_is_durable && self.epoch_seq <= seq {
            self.epoch_is_durable = true;
            // What earlier lives decided and may not have shown yet. Renaming twice is harmless.
            for task in &self.reduces {
                if let State::Committed(id) = task.state {
                    effects.push(Effect::Publish(id));
                }
            }
        }
        while let Some((_, id)) = self.chosen.pop_front_if(|(of, _)| *of <= seq) {
            let task = self.task(id.task);
            if task.state != State::Chosen(id) {
                continue;
            }
            task.state = State::Committed(id);
            match id.task.phase {
                Phase::Map => self.maps_done += 1,
                Phase::Reduce => effects.push(Effect::Publish(id)),
            }
        }
    }

    /// What was recorded is decided and what was not is nothing: whoever goes on here would show the world
    /// outputs beside those that the other coordinator decides on.
    fn deposed(&mut self, effects: &mut Vec<Effect>) {
        if self.planted.has(Bug::DeposedGoesOn) {
            self.recorded(self.issued, effects);
            return;
        }
        self.end(Outcome::Deposed, effects);
    }

    fn published(&mut self, reduce: u32, effects: &mut Vec<Effect>) {
        let task = self.task(TaskId::reduce(reduce));
        if let State::Committed(id) = task.state {
            task.state = State::Published(id);
        }
        if !self.sealing && self.reduces.iter().all(Task::is_published) {
            self.sealing = true;
            effects.push(Effect::Seal);
        }
    }

    fn fail(&mut self, reason: String, effects: &mut Vec<Effect>) {
        if self.outcome.is_some() {
            return;
        }
        self.record(
            Record::Failed {
                reason: reason.clone(),
            },
            effects,
        );
        self.end(Outcome::Failed(reason), effects);
    }

    fn end(&mut self, outcome: Outcome, effects: &mut Vec<Effect>) {
        self.outcome = Some(outcome.clone());
        effects.push(Effect::End(outcome));
    }

    /// This task may have to be given out again.
    fn reopened(&mut self, id: TaskId) {
        let first = &mut self.first_open[id.phase as usize];
        *first = (*first).min(id.index as usize);
    }

    /// This worker does not run that attempt any more, if it did.
    fn ended(&mut self, worker: WorkerId, id: AttemptId) {
        if let Some(doing) = self.workers.get_mut(&worker)
            && *doing == Doing::Attempt(id)
        {
            *doing = Doing::Unknown;
        }
    }

    fn record(&mut self, record: Record, effects: &mut Vec<Effect>) -> RecordSeq {
        self.issued += 1;
        let seq = self.issued;
        effects.push(Effect::Record { seq, record });
        seq
    }

    /// # Panics
    /// If there is no such task: whoever reads ids from outside checks them first, with
    /// [`Coordinator::knows`].
    fn task(&mut self, id: TaskId) -> &mut Task {
        let tasks = match id.phase {
            Phase::Map => &mut self.maps,
            Phase::Reduce => &mut self.reduces,
        };
        &mut tasks[id.index as usize]
    }

    /// Whether the job has such a task.
    #[must_use]
    pub fn knows(&self, id: TaskId) -> bool {
        let tasks = match id.phase {
            Phase::Map => &self.maps,
            Phase::Reduce => &self.reduces,
        };
        (id.index as usize) < tasks.len()
    }
}
