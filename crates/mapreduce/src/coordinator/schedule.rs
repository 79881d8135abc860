//! Who gets what, and who has lost it: handing out, leases, backups.

use super::task::{Attempt, State, Task};
use super::{AttemptId, Coordinator, Doing, Effect, Phase, TaskId, WorkerId};
use crate::counters::Counters;
use crate::planted::Bug;

impl Coordinator {
    pub(super) fn ask(&mut self, worker: WorkerId, effects: &mut Vec<Effect>) {
        match self.workers.insert(worker, Doing::Nothing) {
            Some(Doing::Nothing) => return,
            Some(Doing::Attempt(id)) => {
                self.give_up(id, "its worker asked for other work", effects);
            }
            Some(Doing::Unknown) | None => {}
        }
        self.waiting.push_back(worker);
    }

    pub(super) fn tick(&mut self, effects: &mut Vec<Effect>) {
        self.now += 1;
        let (now, rules) = (self.now, self.rules);
        let mut lost: Vec<(AttemptId, WorkerId, &str)> = Vec::new();
        for task in self.maps.iter().chain(&self.reduces) {
            for attempt in &task.running {
                if now - attempt.heard >= rules.lease_ticks {
                    lost.push((
                        attempt.id,
                        attempt.worker,
                        "its worker was silent for too long",
                    ));
                } else if now - attempt.advanced >= rules.stall_ticks {
                    lost.push((attempt.id, attempt.worker, "it got no further for too long"));
                }
            }
        }
        for (id, worker, why) in lost {
            self.ended(worker, id);
            effects.push(Effect::Abandon {
                worker,
                attempt: id,
            });
            self.give_up(id, why, effects);
        }
    }

    /// Gives work to those who wait, as long as there is some.
    pub(super) fn hand_out(&mut self, effects: &mut Vec<Effect>) {
        if !self.epoch_is_durable || self.outcome.is_some() {
            return;
        }
        while let Some(worker) = self.waiting.front().copied() {
            let fresh = self.open_task();
            let Some(task) = fresh.or_else(|| self.straggler()) else {
                return;
            };
            self.waiting.pop_front();
            self.backups += u32::from(fresh.is_none());
            self.assign(worker, task, effects);
        }
    }

    fn assign(&mut self, worker: WorkerId, task: TaskId, effects: &mut Vec<Effect>) {
        self.attempts += 1;
        let attempt = AttemptId {
            task,
            epoch: self.epoch,
            number: self.attempts,
        };
        let now = self.now;
        self.task(task).running.push(Attempt {
            id: attempt,
            worker,
            started: now,
            heard: now,
            advanced: now,
            units: 0,
            counters: Counters::new(),
        });
        self.workers.insert(worker, Doing::Attempt(attempt));
        let inputs = match task.phase {
            Phase::Map => Vec::new(),
            Phase::Reduce => self.maps.iter().filter_map(Task::winner).collect(),
        };
        effects.push(Effect::Assign {
            worker,
            attempt,
            inputs,
        });
    }

    fn maps_are_done(&self) -> bool {
        if self.planted.has(Bug::ReduceBeforeMaps) {
            return self
                .maps
                .iter()
                .all(|map| map.state != State::Open || !map.running.is_empty());
        }
        self.maps_done == self.maps.len()
    }

    /// The tasks of the present phase: the reduces, once every map has a durable winner.
    fn phase_tasks(&self) -> &[Task] {
        if self.maps_are_done() {
            &self.reduces
        } else {
            &self.maps
        }
    }

    /// A task that nobody works at, in their order.
    fn open_task(&mut self) -> Option<TaskId> {
        let phase = if self.maps_are_done() {
            Phase::Reduce
        } else {
            Phase::Map
        };
        let first = self.first_open[phase as usize];
        let waits = |task: &Task| task.state == State::Open && task.running.is_empty();
        let tasks = self.phase_tasks();
        let found = tasks[first..].iter().position(waits).map(|at| first + at);
        let task = found.map(|at| tasks[at].id);
        self.first_open[phase as usize] = found.unwrap_or(tasks.len());
        task
    }

    /// The task that has run for longest, if that is long enough for a second try beside it: twice the
    /// median of those that are done, and not less than the configured minimum (section 3.6 of the
    /// paper). Nobody ends an attempt because of its backup; the first to report wins.
    fn straggler(&self) -> Option<TaskId> {
        if !self.rules.backups {
            return None;
        }
        let mut durations = self.durations.clone();
        durations.sort_unstable();
        let median = durations.get(durations.len() / 2).copied().unwrap_or(0);
        let patience = self.rules.backup_ticks_min.max(median.saturating_mul(2));
        self.phase_tasks()
            .iter()
            .filter(|task| task.running.len() == 1)
            .map(|task| (self.now - task.running[0].started, task))
            .filter(|(ran, _)| *ran >= patience)
            .max_by_key(|(ran, task)| (*ran, std::cmp::Reverse(task.id)))
            .map(|(_, task)| task.id)
    }
}
