//! A world for the coordinator: workers that crash, pause, crawl and repeat themselves, a journal that
//! loses what was not synced, files that vanish, and coordinators that die. One seed, one course of events.
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

pub(crate) struct World {
    prng: Prng,
    now: u64,
    planted: Planted,
    texts: Vec<Vec<u8>>,
    reduces: u32,
    coordinator: Coordinator,
    life: u64,
    workers: Vec<Worker>,
    next_worker: u64,
    /// When the next worker starts, for each that died.
    births: Vec<u64>,
    /// On the way to the coordinator, in the order of their arrival.
    mail: Vec<(u64, u64, Event)>,
    mailed: u64,
    journal: Vec<Record>,
    durable: usize,
    /// A sync that comes back at a moment, with how many records and which number.
    syncs: VecDeque<(u64, usize, RecordSeq)>,
    files: BTreeMap<AttemptId, Output>,
    published: BTreeMap<u32, (AttemptId, Output)>,
    /// Attempts of this life whose files were removed.
    discarded: BTreeSet<AttemptId>,
    sealed: bool,
    outcome: Option<Outcome>,
    pub(crate) crashes: u64,
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
        let texts: Vec<Vec<u8>> = (0..prng.range(1, 8))
            .map(|_| {
                (0..prng.range(0, 40))
                    .map(|_| b'a' + prng.below(8) as u8)
                    .collect()
            })
            .collect();
        let reduces = prng.range(1, 4) as u32;
        let births = (0..prng.range(1, 4)).collect();
        let mut effects = Vec::new();
        let shape = (texts.len() as u32, reduces);
        let coordinator = Coordinator::new(shape, RULES, planted, &[], &mut effects);
        let mut this = Self {
            prng,
            now: 0,
            planted,
            texts,
            reduces,
            coordinator,
            life: 1,
            workers: Vec::new(),
            next_worker: 0,
            births,
            mail: Vec::new(),
            mailed: 0,
            journal: Vec::new(),
            durable: 0,
            syncs: VecDeque::new(),
            files: BTreeMap::new(),
            published: BTreeMap::new(),
            discarded: BTreeSet::new(),
            sealed: false,
            outcome: None,
            crashes: 0,
            deaths: 0,
            losses: 0,
            repeats: 0,
            refused: 0,
        };
        this.carry_out(effects).expect("a first record");
        this
    }

    /// Runs the storm and the calm after it, and looks at the result.
    pub(crate) fn run(&mut self) -> Verdict {
        while self.outcome.is_none() {
            if self.now > STORM_TICKS + CALM_TICKS {
                let status = self.coordinator.status();
                return Err(format!("not over after {} ticks: {status:?}", self.now));
            }
            self.tick()?;
        }
        self.judge()
    }

    /// Backup attempts of the coordinator's last life.
    pub(crate) fn backups(&self) -> u64 {
        u64::from(self.coordinator.status().backups)
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
        self.deliver()?;
        while let Some((_, count, seq)) = self.syncs.pop_front_if(|sync| sync.0 <= self.now) {
            self.durable = self.durable.max(count);
            self.step(Event::Recorded(seq))?;
        }
        self.step(Event::Tick)
    }

    fn faults(&mut self) -> Verdict {
        if self.prng.chance(1, 150) {
            self.crash();
        }
        if self.prng.chance(1, 60) && !self.workers.is_empty() {
            let at = self.prng.index(self.workers.len());
            let worker = self.workers.remove(at);
            self.deaths += 1;
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

    /// The coordinator dies and another takes over, from what of the journal survived.
    fn crash(&mut self) {
        self.crashes += 1;
        self.life += 1;
        let kept = self
            .prng
            .range(self.durable as u64, self.journal.len() as u64) as usize;
        self.journal.truncate(kept);
        self.durable = kept;
        self.syncs.clear();
        self.discarded.clear();
        self.mail.clear();
        let mut effects = Vec::new();
        let shape = (self.texts.len() as u32, self.reduces);
        self.coordinator =
            Coordinator::new(shape, RULES, self.planted, &self.journal, &mut effects);
        // Most workers see the broken connection at once; some work on for a while, unaware.
        for worker in &mut self.workers {
            worker.inbox.clear();
            self.births.push(self.now + self.prng.range(1, 10));
        }
        let _ = self.carry_out(effects);
    }

    fn be_born(&mut self) {
        let due = self.births.iter().filter(|at| **at <= self.now).count();
        self.births.retain(|at| *at > self.now);
        for _ in 0..due {
            self.next_worker += 1;
            let id = WorkerId(self.next_worker);
            let slowness = if self.prng.chance(1, 6) { 9 } else { 1 };
            let slowness = if self.storm() { slowness } else { 1 };
            self.workers.push(Worker {
                id,
                life: self.life,
                work: None,
                paused_until: 0,
                slowness,
                inbox: VecDeque::new(),
            });
            self.send(self.life, Event::Ask(id));
        }
    }

    fn work(&mut self) {
        let mut outgoing = Vec::new();
        let life = self.life;
        let calm = !self.storm();
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
            let event = finish(
                &self.texts,
                self.reduces,
                &mut self.files,
                id,
                &work,
                failing,
            );
            if matches!(event, Event::Done { .. }) && self.prng.chance(1, 10) {
                self.repeats += 1;
                outgoing.push((worker.life, event.clone()));
            }
            outgoing.push((worker.life, event));
            outgoing.push((worker.life, Event::Ask(id)));
        }
        // A process whose coordinator is another one by now notices sooner or later and ends.
        let now = self.now;
        let prng = &mut self.prng;
        self.workers.retain(|worker| {
            worker.life == life || worker.paused_until > now || !prng.chance(1, 12)
        });
        for (life, event) in outgoing {
            self.send(life, event);
        }
    }

    /// Mail to the coordinator: in order, after a delay; lost with the life it was meant for.
    fn send(&mut self, life: u64, event: Event) {
        if life != self.life {
            return;
        }
        self.mailed += 1;
        let earliest = self.mail.iter().map(|mail| mail.0).max().unwrap_or(0);
        let arrives = earliest.max(self.now + self.prng.below(3));
        self.mail.push((arrives, self.mailed, event));
    }

    fn deliver(&mut self) -> Verdict {
        let due: Vec<Event> = {
            let now = self.now;
            let (due, rest) = self.mail.drain(..).partition(|mail| mail.0 <= now);
            self.mail = rest;
            let mut due: Vec<(u64, u64, Event)> = due;
            due.sort_by_key(|mail| mail.1);
            due.into_iter().map(|mail| mail.2).collect()
        };
        for event in due {
            self.step(event)?;
        }
        Ok(())
    }

    fn step(&mut self, event: Event) -> Verdict {
        let mut effects = Vec::new();
        let reported = matches!(event, Event::Done { .. });
        self.coordinator.step(event, &mut effects);
        if reported
            && effects
                .iter()
                .any(|effect| matches!(effect, Effect::Discard(_)))
        {
            self.refused += 1;
        }
        self.coordinator.check();
        self.carry_out(effects)
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Verdict {
        for effect in effects {
            match effect {
                Effect::Record { seq, record } => {
                    if let Record::Committed { attempt, .. } = &record
                        && self.discarded.contains(attempt)
                    {
                        return Err(format!("{attempt} wins after its files were removed"));
                    }
                    self.journal.push(record);
                    let back = self.now + self.prng.range(1, 6);
                    let back = self.syncs.back().map_or(back, |sync| sync.0.max(back));
                    self.syncs.push_back((back, self.journal.len(), seq));
                }
                Effect::Assign { worker, .. } | Effect::Abandon { worker, .. } => {
                    let at = self.now + self.prng.below(3);
                    let life = self.life;
                    let mut alive = self.workers.iter_mut();
                    if let Some(to) = alive.find(|to| to.id == worker && to.life == life) {
                        let at = to.inbox.back().map_or(at, |(last, _)| at.max(*last));
                        to.inbox.push_back((at, effect));
                    }
                }
                Effect::Discard(id) => {
                    self.discarded.insert(id);
                    self.files.remove(&id);
                }
                Effect::Publish(id) => self.publish(id)?,
                Effect::Seal => {
                    if self.published.len() < self.reduces as usize {
                        return Err("sealed before all outputs were published".to_owned());
                    }
                    self.sealed = true;
                    self.send(self.life, Event::Sealed);
                }
                Effect::End(outcome) => self.outcome = Some(outcome),
            }
        }
        Ok(())
    }

    /// A rename. It must rest on a durable record, and repeating it must be harmless.
    fn publish(&mut self, id: AttemptId) -> Verdict {
        let durable = &self.journal[..self.durable];
        if winner_of(durable, id.task) != Some(id) {
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
            return self.step(Event::OutputLost { reduce, error });
        }
        self.send(self.life, Event::Published(reduce));
        Ok(())
    }

    /// The result against what a single process would have made.
    fn judge(&self) -> Verdict {
        if self.outcome != Some(Outcome::Succeeded) || !self.sealed {
            return Err(format!("ended with {:?}", self.outcome));
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
        let counters = self.coordinator.status().counters;
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
