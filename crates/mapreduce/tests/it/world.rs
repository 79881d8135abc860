//! A world for the coordinator: workers that crash, pause, crawl and repeat themselves, a record that
//! loses what was not written, files that vanish, and coordinators that die. One seed, one course of events.
//!
//! In half of the seeds the job is one of a cluster: its records lie in a store, workers keep the outputs of
//! their maps, and a coordinator that is given up may live. It sleeps, wakes up, and goes on with what it
//! knows, beside the one that took over; and what it wrote last may arrive much later, or not at all.
//!
//! The toy job counts letters: map *m* has its own text, reduce *r* sums the letters that fall to it. Its
//! result is known beforehand, so whatever happens can be compared with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kvorum_base::Prng;
use kvorum_mapreduce::coordinator::{
    AttemptId, Coordinator, Effect, Event, Outcome, Phase, Record, RecordSeq, Rules, TaskId,
    WorkerId,
};
use kvorum_mapreduce::counters::Counters;
use kvorum_mapreduce::planted::Planted;

pub(crate) const RULES: Rules = Rules {
    lease_ticks: 20,
    stall_ticks: 120,
    attempts_max: 10_000,
    backup_ticks_min: 30,
    backups: true,
};

/// Workers at once, those of sleeping coordinators included.
const WORKERS_MAX: usize = 12;
/// Ticks of faults, and ticks within which everything must be over after them.
const STORM_TICKS: u64 = 1500;
const CALM_TICKS: u64 = 3000;

/// What an attempt has written: how often each letter, by partition; incomplete until the end.
#[derive(Clone, Debug)]
struct Output {
    complete: bool,
    letters: BTreeMap<(u32, u8), u64>,
}

#[derive(Clone, Debug)]
struct Work {
    attempt: AttemptId,
    inputs: Vec<AttemptId>,
    left: u64,
    units: u64,
}

/// A worker process. Its connection ends with it, or with the coordinator.
struct Worker {
    id: WorkerId,
    /// The life of the coordinator that it speaks with.
    life: u64,
    work: Option<Work>,
    /// It stands still until then: stopped, swapped out, or in a slow function.
    paused_until: u64,
    /// How many ticks each step takes.
    slowness: u64,
    inbox: VecDeque<(u64, Effect)>,
}

/// Records on their way into the record of the job.
struct Flight {
    at: u64,
    /// How many records their writer knows before them: they are taken only if that is all.
    position: usize,
    records: Vec<Record>,
    seq: RecordSeq,
}

/// One life of the coordinator, with its host.
struct Life {
    number: u64,
    coordinator: Coordinator,
    /// On the way to it, in the order of their arrival.
    mail: Vec<(u64, u64, Event)>,
    /// How many records it knows, its own ones included.
    position: usize,
    /// Records that were asked for and are not on their way.
    waiting: Vec<Record>,
    issued: RecordSeq,
    flight: Option<Flight>,
    asleep_until: u64,
    /// Attempts whose files it has removed.
    discarded: BTreeSet<AttemptId>,
}

pub(crate) struct World {
    prng: Prng,
    now: u64,
    planted: Planted,
    /// Whether the job is one of a cluster.
    shared: bool,
    texts: Vec<Vec<u8>>,
    reduces: u32,
    /// Coordinators that live, the one that took over last at the end.
    lives: Vec<Life>,
    next_life: u64,
    workers: Vec<Worker>,
    next_worker: u64,
    /// When the next worker starts, for each that died.
    births: Vec<u64>,
    mailed: u64,
    /// What is durable.
    journal: Vec<Record>,
    /// What dead coordinators have written and has not arrived.
    strays: Vec<Flight>,
    files: BTreeMap<AttemptId, Output>,
    /// The worker that keeps the output of a map.
    keepers: BTreeMap<AttemptId, WorkerId>,
    published: BTreeMap<u32, (AttemptId, Output)>,
    sealed: bool,
    outcome: Option<(Outcome, Coordinator)>,
    pub(crate) crashes: u64,
    pub(crate) deposed: u64,
    pub(crate) deaths: u64,
    pub(crate) losses: u64,
    pub(crate) repeats: u64,
    pub(crate) refused: u64,
}

/// A check that spoke.
pub(crate) type Verdict = Result<(), String>;

impl World {
    pub(crate) fn new(seed: u64, planted: Planted) -> Self {
        let mut prng = Prng::new(seed);
        let shared = prng.chance(1, 2);
        let texts: Vec<Vec<u8>> = (0..prng.range(1, 8))
            .map(|_| {
                (0..prng.range(0, 40))
                    .map(|_| b'a' + prng.below(8) as u8)
                    .collect()
            })
            .collect();
        let reduces = prng.range(1, 4) as u32;
        let births = (0..prng.range(1, 4)).collect();
        let mut this = Self {
            prng,
            now: 0,
            planted,
            shared,
            texts,
            reduces,
            lives: Vec::new(),
            next_life: 0,
            workers: Vec::new(),
            next_worker: 0,
            births,
            mailed: 0,
            journal: Vec::new(),
            strays: Vec::new(),
            files: BTreeMap::new(),
            keepers: BTreeMap::new(),
            published: BTreeMap::new(),
            sealed: false,
            outcome: None,
            crashes: 0,
            deposed: 0,
            deaths: 0,
            losses: 0,
            repeats: 0,
            refused: 0,
        };
        this.take_over().expect("a first record");
        this
    }

    /// Runs the storm and the calm after it, and looks at the result.
    pub(crate) fn run(&mut self) -> Verdict {
        while self.outcome.is_none() {
            if self.now > STORM_TICKS + CALM_TICKS {
                let status = self.lives.last().map(|life| life.coordinator.status());
                return Err(format!("not over after {} ticks: {status:?}", self.now));
            }
            self.tick()?;
        }
        self.judge()
    }

    /// Backup attempts of the life that ended the job.
    pub(crate) fn backups(&self) -> u64 {
        let ended = self.outcome.as_ref();
        ended.map_or(0, |(_, life)| u64::from(life.status().backups))
    }

    fn storm(&self) -> bool {
        self.now < STORM_TICKS
    }

    fn tick(&mut self) -> Verdict {
        self.now += 1;
        if self.storm() {
            self.faults()?;
        }
        self.be_born();
        self.work();
        let now = self.now;
        for stray in std::mem::take(&mut self.strays) {
            if stray.at > now {
                self.strays.push(stray);
            } else if stray.position == self.journal.len() {
                self.journal.extend(stray.records);
            }
        }
        let awake = |life: &&Life| life.asleep_until <= now;
        let numbers: Vec<u64> = self
            .lives
            .iter()
            .filter(awake)
            .map(|life| life.number)
            .collect();
        for &number in &numbers {
            self.live(number)?;
        }
        // Nobody renews a lease: somebody takes over sooner or later.
        if self.outcome.is_none() && numbers.is_empty() && self.prng.chance(1, 20) {
            self.take_over()?;
        }
        Ok(())
    }

    /// One tick of a coordinator and its host.
    fn live(&mut self, number: u64) -> Verdict {
        self.deliver(number)?;
        self.write(number)?;
        let len = self.journal.len();
        let behind = self.life(number).is_some_and(|life| life.position < len);
        if behind && self.now.is_multiple_of(20) {
            self.step(number, Event::Deposed)?;
        }
        self.step(number, Event::Tick)
    }

    fn life(&mut self, number: u64) -> Option<&mut Life> {
        self.lives.iter_mut().find(|life| life.number == number)
    }

    /// Sends off what waits to be recorded, one batch at a time, and hears what became of the last one.
    fn write(&mut self, number: u64) -> Verdict {
        let (now, len) = (self.now, self.journal.len());
        let at = now + self.prng.range(1, 6);
        let Some(life) = self.life(number) else {
            return Ok(());
        };
        if life.flight.is_none() && !life.waiting.is_empty() {
            life.flight = Some(Flight {
                at,
                position: life.position,
                records: std::mem::take(&mut life.waiting),
                seq: life.issued,
            });
        }
        let Some(flight) = life.flight.take_if(|flight| flight.at <= now) else {
            return Ok(());
        };
        if flight.position < len {
            return self.step(number, Event::Deposed);
        }
        life.position += flight.records.len();
        self.journal.extend(flight.records);
        self.step(number, Event::Recorded(flight.seq))
    }

    fn faults(&mut self) -> Verdict {
        if self.prng.chance(1, 150) {
            self.crash()?;
        }
        if self.prng.chance(1, 60) && !self.workers.is_empty() {
            let at = self.prng.index(self.workers.len());
            let worker = self.workers.remove(at);
            self.deaths += 1;
            if self.shared {
                let kept = &self.keepers;
                self.files.retain(|id, _| kept.get(id) != Some(&worker.id));
            }
            let why = "killed".to_owned();
            self.send(
                worker.life,
                Event::Gone {
                    worker: worker.id,
                    why,
                },
            );
            self.births.push(self.now + self.prng.range(1, 30));
        }
        if self.prng.chance(1, 25) && !self.workers.is_empty() {
            let at = self.prng.index(self.workers.len());
            self.workers[at].paused_until = self.now + self.prng.range(5, 90);
        }
        if self.prng.chance(1, 80) {
            let maps: Vec<AttemptId> = self.files.keys().copied().filter(is_map).collect();
            if let Some(id) = self.prng.pick(&maps) {
                self.files.remove(id);
                self.losses += 1;
            }
        }
        Ok(())
    }

    /// The coordinator dies, or is taken for dead, and another takes over from the records.
    fn crash(&mut self) -> Verdict {
        self.crashes += 1;
        let until = self.now + self.prng.range(0, 200);
        if self.shared && self.prng.chance(1, 2) {
            if let Some(life) = self.lives.last_mut() {
                life.asleep_until = until;
            }
            return self.take_over();
        }
        let flight = self.lives.pop().and_then(|life| life.flight);
        if let Some(mut flight) = flight {
            if self.shared && self.prng.chance(1, 2) {
                flight.at = until;
                self.strays.push(flight);
            } else if flight.position == self.journal.len() {
                // A file may keep any part of what was not synced, a store all or nothing.
                let all = flight.records.len();
                let kept = self.prng.range(0, all as u64) as usize;
                let kept = if self.shared { kept / all * all } else { kept };
                flight.records.truncate(kept);
                self.journal.append(&mut flight.records);
            }
        }
        self.take_over()
    }

    /// Another coordinator begins, from what is recorded.
    fn take_over(&mut self) -> Verdict {
        self.next_life += 1;
        let number = self.next_life;
        let mut effects = Vec::new();
        let shape = (self.texts.len() as u32, self.reduces);
        let coordinator = Coordinator::new(shape, RULES, self.planted, &self.journal, &mut effects);
        self.lives.push(Life {
            number,
            coordinator,
            mail: Vec::new(),
            position: self.journal.len(),
            waiting: Vec::new(),
            issued: 0,
            flight: None,
            asleep_until: 0,
            discarded: BTreeSet::new(),
        });
        // Most workers see the broken connection at once; some work on for a while, unaware.
        let lives: Vec<u64> = self.lives.iter().map(|life| life.number).collect();
        for worker in &mut self.workers {
            if !lives.contains(&worker.life) {
                worker.inbox.clear();
            }
        }
        let count = self.workers.len() as u64;
        self.more_workers(count.max(1));
        self.carry_out(number, effects)
    }

    /// Workers that come to the coordinator of then, as many as the world has room for.
    fn more_workers(&mut self, count: u64) {
        let room = WORKERS_MAX.saturating_sub(self.workers.len() + self.births.len());
        for _ in 0..count.min(room as u64) {
            self.births.push(self.now + self.prng.range(1, 10));
        }
    }

    fn be_born(&mut self) {
        if self.workers.is_empty() && self.births.is_empty() {
            // The last one ended with its coordinator when there was no room for others.
            self.births.push(self.now);
        }
        let due = self.births.iter().filter(|at| **at <= self.now).count();
        self.births.retain(|at| *at > self.now);
        for _ in 0..due {
            self.next_worker += 1;
            let id = WorkerId(self.next_worker);
            let slowness = if self.prng.chance(1, 6) { 9 } else { 1 };
            let slowness = if self.storm() { slowness } else { 1 };
            let Some(life) = self.lives.last().map(|life| life.number) else {
                // It looks again.
                self.births.push(self.now + 5);
                continue;
            };
            self.workers.push(Worker {
                id,
                life,
                work: None,
                paused_until: 0,
                slowness,
                inbox: VecDeque::new(),
            });
            if self.shared {
                let place = format!("worker {}", id.0);
                self.send(life, Event::Serves { worker: id, place });
            }
            self.send(life, Event::Ask(id));
        }
    }

    fn work(&mut self) {
        let mut outgoing = Vec::new();
        let lives: Vec<u64> = self.lives.iter().map(|life| life.number).collect();
        let calm = !self.storm();
        let living: Vec<WorkerId> = self.workers.iter().map(|worker| worker.id).collect();
        for worker in &mut self.workers {
            if calm {
                worker.slowness = 1;
            }
            if worker.paused_until > self.now || !self.now.is_multiple_of(worker.slowness) {
                continue;
            }
            // Who works looks at its mail now and then; who waits, at once.
            let looks = worker.work.is_none() || self.prng.chance(1, 5);
            while let Some((_, effect)) = worker
                .inbox
                .pop_front_if(|(at, _)| looks && *at <= self.now)
            {
                match effect {
                    Effect::Assign {
                        attempt, inputs, ..
                    } => {
                        let left = self.prng.range(1, 40);
                        worker.work = Some(Work {
                            attempt,
                            inputs,
                            left,
                            units: 0,
                        });
                        self.keepers.insert(attempt, worker.id);
                        let letters = BTreeMap::new();
                        self.files.insert(
                            attempt,
                            Output {
                                complete: false,
                                letters,
                            },
                        );
                    }
                    Effect::Abandon { attempt, .. } => {
                        if worker
                            .work
                            .as_ref()
                            .is_some_and(|work| work.attempt == attempt)
                        {
                            worker.work = None;
                            outgoing.push((worker.life, Event::Ask(worker.id)));
                        }
                    }
                    other => panic!("a worker got {other:?}"),
                }
            }
            let Some(mut work) = worker.work.take() else {
                continue;
            };
            work.left -= 1;
            work.units += 1;
            let id = worker.id;
            if work.left > 0 {
                if work.units.is_multiple_of(4) || worker.slowness > 1 {
                    outgoing.push((
                        worker.life,
                        Event::Progress {
                            worker: id,
                            attempt: work.attempt,
                            units: work.units,
                            counters: partial(work.units),
                        },
                    ));
                }
                worker.work = Some(work);
                continue;
            }
            let failing = self.prng.chance(1, 12) && !calm;
            let mut event = finish(
                &self.texts,
                self.reduces,
                &mut self.files,
                id,
                &work,
                failing,
            );
            if let Event::InputLost {
                input, unreachable, ..
            } = &mut event
            {
                let keeper = self.keepers.get(input);
                *unreachable = self.shared && keeper.is_none_or(|keeper| !living.contains(keeper));
            }
            if matches!(event, Event::Done { .. }) && self.prng.chance(1, 10) {
                self.repeats += 1;
                outgoing.push((worker.life, event.clone()));
            }
            outgoing.push((worker.life, event));
            outgoing.push((worker.life, Event::Ask(id)));
        }
        // A process whose coordinator is gone notices sooner or later and ends.
        let now = self.now;
        let prng = &mut self.prng;
        self.workers.retain(|worker| {
            lives.contains(&worker.life) || worker.paused_until > now || !prng.chance(1, 12)
        });
        for (life, event) in outgoing {
            self.send(life, event);
        }
    }

    /// Mail to a coordinator: in order, after a delay; lost with the life it was meant for.
    fn send(&mut self, life: u64, event: Event) {
        let delay = self.prng.below(3);
        let (now, mailed) = (self.now, self.mailed + 1);
        let Some(life) = self.life(life) else {
            return;
        };
        let earliest = life.mail.iter().map(|mail| mail.0).max().unwrap_or(0);
        let arrives = earliest.max(now + delay);
        life.mail.push((arrives, mailed, event));
        self.mailed = mailed;
    }

    fn deliver(&mut self, number: u64) -> Verdict {
        let now = self.now;
        let Some(life) = self.life(number) else {
            return Ok(());
        };
        let (mut due, rest): (Vec<_>, Vec<_>) = life.mail.drain(..).partition(|mail| mail.0 <= now);
        life.mail = rest;
        due.sort_by_key(|mail| mail.1);
        for (_, _, event) in due {
            self.step(number, event)?;
        }
        Ok(())
    }

    fn step(&mut self, number: u64, event: Event) -> Verdict {
        let mut effects = Vec::new();
        let reported = matches!(event, Event::Done { .. });
        let Some(life) = self.life(number) else {
            return Ok(());
        };
        life.coordinator.step(event, &mut effects);
        life.coordinator.check();
        if reported
            && effects
                .iter()
                .any(|effect| matches!(effect, Effect::Discard(_)))
        {
            self.refused += 1;
        }
        self.carry_out(number, effects)
    }

    fn carry_out(&mut self, number: u64, effects: Vec<Effect>) -> Verdict {
        for effect in effects {
            match effect {
                Effect::Record { seq, record } => {
                    let Some(life) = self.life(number) else {
                        continue;
                    };
                    if let Record::Committed { attempt, .. } = &record
                        && life.discarded.contains(attempt)
                    {
                        return Err(format!("{attempt} wins after its files were removed"));
                    }
                    life.waiting.push(record);
                    life.issued = seq;
                }
                Effect::Assign { worker, .. } | Effect::Abandon { worker, .. } => {
                    let at = self.now + self.prng.below(3);
                    let mut alive = self.workers.iter_mut();
                    if let Some(to) = alive.find(|to| to.id == worker && to.life == number) {
                        let at = to.inbox.back().map_or(at, |(last, _)| at.max(*last));
                        to.inbox.push_back((at, effect));
                    }
                }
                Effect::Discard(id) => {
                    if let Some(life) = self.life(number) {
                        life.discarded.insert(id);
                    }
                    self.files.remove(&id);
                }
                Effect::Publish(id) => self.publish(number, id)?,
                Effect::Seal => {
                    if self.published.len() < self.reduces as usize {
                        return Err("sealed before all outputs were published".to_owned());
                    }
                    self.sealed = true;
                    self.send(number, Event::Sealed);
                }
                Effect::End(outcome) => self.end(number, outcome),
            }
        }
        Ok(())
    }

    /// A coordinator ends, and with it its host. The job goes on if another has taken over.
    fn end(&mut self, number: u64, outcome: Outcome) {
        let Some(at) = self.lives.iter().position(|life| life.number == number) else {
            return;
        };
        let life = self.lives.remove(at);
        if outcome == Outcome::Deposed {
            self.deposed += 1;
            let left = self.workers.iter().filter(|worker| worker.life == number);
            self.more_workers(left.count() as u64);
        } else {
            self.outcome = Some((outcome, life.coordinator));
        }
    }

    /// A rename. It must rest on a durable record, and repeating it must be harmless. Who was replaced and
    /// does not know may repeat what was decided before; nothing else.
    fn publish(&mut self, number: u64, id: AttemptId) -> Verdict {
        let len = self.journal.len();
        let stale = self.life(number).is_some_and(|life| life.position < len);
        let decided = if stale {
            self.journal
                .iter()
                .any(|record| matches!(record, Record::Committed { attempt, .. } if *attempt == id))
        } else {
            winner_of(&self.journal, id.task) == Some(id)
        };
        if !decided {
            return Err(format!("{id} is published without a durable record"));
        }
        let reduce = id.task.index;
        if let Some(output) = self.files.remove(&id) {
            self.published.insert(reduce, (id, output));
        } else if self
            .published
            .get(&reduce)
            .is_none_or(|(there, _)| *there != id)
        {
            let error = "it is gone".to_owned();
            return self.step(number, Event::OutputLost { reduce, error });
        }
        self.send(number, Event::Published(reduce));
        Ok(())
    }

    /// The result against what a single process would have made.
    fn judge(&self) -> Verdict {
        let Some((Outcome::Succeeded, coordinator)) = &self.outcome else {
            let outcome = self.outcome.as_ref().map(|(outcome, _)| outcome);
            return Err(format!("ended with {outcome:?}"));
        };
        if !self.sealed {
            return Err("ended without a seal".to_owned());
        }
        one_winner_each(&self.journal)?;
        let mut words = 0;
        let mut keys = 0;
        for reduce in 0..self.reduces {
            let expected = letters_of(&self.texts, |letter| {
                u32::from(letter) % self.reduces == reduce
            });
            let (id, found) = self
                .published
                .get(&reduce)
                .ok_or_else(|| format!("reduce {reduce} has no output"))?;
            if winner_of(&self.journal, id.task) != Some(*id) {
                return Err(format!("{id} is shown and is not the winner"));
            }
            let found: BTreeMap<u8, u64> = found
                .letters
                .iter()
                .map(|((_, letter), count)| (*letter, *count))
                .collect();
            if found != expected {
                return Err(format!("{id}: {found:?} instead of {expected:?}"));
            }
            words += expected.values().sum::<u64>();
            keys += expected.len() as u64;
        }
        let counters = coordinator.status().counters;
        let counted = (counters.get("letters"), counters.get("keys"));
        if counted != (words as i64, keys as i64) || counters.get("partial") != 0 {
            return Err(format!(
                "counters {counters:?}, expected {words} letters, {keys} keys"
            ));
        }
        Ok(())
    }
}

fn is_map(id: &AttemptId) -> bool {
    id.task.phase == Phase::Map
}

/// What running attempts say they have counted; no total may ever hold any of it.
fn partial(units: u64) -> Counters {
    let mut counters = Counters::new();
    counters.add("partial", units as i64);
    counters
}

fn letters_of(texts: &[Vec<u8>], wanted: impl Fn(u8) -> bool) -> BTreeMap<u8, u64> {
    let mut letters = BTreeMap::new();
    for letter in texts
        .iter()
        .flatten()
        .copied()
        .filter(|letter| wanted(*letter))
    {
        *letters.entry(letter).or_insert(0) += 1;
    }
    letters
}

/// The end of an attempt: its output becomes complete, if its files are still where it wrote them.
fn finish(
    texts: &[Vec<u8>],
    reduces: u32,
    files: &mut BTreeMap<AttemptId, Output>,
    worker: WorkerId,
    work: &Work,
    failing: bool,
) -> Event {
    let attempt = work.attempt;
    if failing {
        return Event::Failed {
            worker,
            attempt,
            error: "bad luck".to_owned(),
        };
    }
    let mut letters = BTreeMap::new();
    let mut counters = Counters::new();
    if is_map(&attempt) {
        let text = &texts[attempt.task.index as usize];
        for letter in text {
            *letters
                .entry((u32::from(*letter) % reduces, *letter))
                .or_insert(0) += 1;
        }
        counters.add("letters", text.len() as i64);
    } else {
        for input in &work.inputs {
            let Some(output) = files.get(input).filter(|output| output.complete) else {
                let error = "its input is gone".to_owned();
                return Event::InputLost {
                    worker,
                    attempt,
                    input: *input,
                    error,
                    unreachable: false,
                };
            };
            for ((reduce, letter), count) in &output.letters {
                if *reduce == attempt.task.index {
                    *letters.entry((*reduce, *letter)).or_insert(0) += count;
                }
            }
        }
        counters.add("keys", letters.len() as i64);
    }
    if let Some(output) = files.get_mut(&attempt) {
        *output = Output {
            complete: true,
            letters,
        };
    }
    Event::Done {
        worker,
        attempt,
        counters,
    }
}

fn winner_of(records: &[Record], task: TaskId) -> Option<AttemptId> {
    let mut winner = None;
    for record in records {
        match record {
            Record::Committed { attempt, .. } if attempt.task == task => winner = Some(*attempt),
            Record::Lost(attempt) if attempt.task == task => winner = None,
            _ => {}
        }
    }
    winner
}

/// No task has two winners at once, and no attempt wins twice.
fn one_winner_each(records: &[Record]) -> Verdict {
    let mut standing: BTreeMap<TaskId, AttemptId> = BTreeMap::new();
    let mut ever = BTreeSet::new();
    for record in records {
        match record {
            Record::Committed { attempt, .. } => {
                if let Some(other) = standing.insert(attempt.task, *attempt) {
                    return Err(format!("{attempt} committed beside {other}"));
                }
                if !ever.insert(*attempt) {
                    return Err(format!("{attempt} committed twice"));
                }
            }
            Record::Lost(attempt) => {
                standing.remove(&attempt.task);
            }
            Record::Epoch(_) | Record::Failed { .. } => {}
        }
    }
    Ok(())
}
