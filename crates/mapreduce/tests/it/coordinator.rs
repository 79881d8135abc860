//! The coordinator step by step: what it does, exactly, and why.

use kvorum_mapreduce::coordinator::{
    AttemptId, Coordinator, Effect, Event, Outcome, Record, Rules, TaskId, WorkerId,
};
use kvorum_mapreduce::counters::Counters;
use kvorum_mapreduce::planted::Planted;

const RULES: Rules = Rules {
    lease_ticks: 10,
    stall_ticks: 100,
    attempts_max: 3,
    backup_ticks_min: 30,
    backups: true,
};
const ONE: WorkerId = WorkerId(1);
const TWO: WorkerId = WorkerId(2);

struct Desk {
    coordinator: Coordinator,
    records: u64,
}

impl Desk {
    /// A coordinator whose epoch is durable.
    fn new(shape: (u32, u32), records: &[Record]) -> (Self, Vec<Effect>) {
        let mut effects = Vec::new();
        let planted = Planted::default();
        let coordinator = Coordinator::new(shape, RULES, planted, records, &mut effects);
        let mut desk = Self {
            coordinator,
            records: 1,
        };
        assert!(matches!(
            effects[..],
            [Effect::Record {
                seq: 1,
                record: Record::Epoch(_)
            }]
        ));
        let effects = desk.step(Event::Recorded(1));
        (desk, effects)
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.coordinator.step(event, &mut effects);
        self.coordinator.check();
        for effect in &effects {
            if let Effect::Record { seq, .. } = effect {
                self.records = *seq;
            }
        }
        effects
    }

    fn ticks(&mut self, count: u64) -> Vec<Effect> {
        (0..count).flat_map(|_| self.step(Event::Tick)).collect()
    }

    fn ask(&mut self, worker: WorkerId) -> Option<AttemptId> {
        assigned(&self.step(Event::Ask(worker)))
    }

    fn done(&mut self, worker: WorkerId, attempt: AttemptId) -> Vec<Effect> {
        self.step(Event::Done {
            worker,
            attempt,
            counters: Counters::new(),
        })
    }

    fn durable(&mut self) -> Vec<Effect> {
        self.step(Event::Recorded(self.records))
    }
}

fn assigned(effects: &[Effect]) -> Option<AttemptId> {
    effects.iter().find_map(|effect| match effect {
        Effect::Assign { attempt, .. } => Some(*attempt),
        _ => None,
    })
}

#[test]
fn reduces_begin_when_every_map_is_durable_and_the_output_when_its_record_is() {
    let (mut desk, _) = Desk::new((2, 1), &[]);
    let first = desk.ask(ONE).expect("a map");
    let second = desk.ask(TWO).expect("the other map");
    assert_eq!((first.task, second.task), (TaskId::map(0), TaskId::map(1)));
    desk.done(ONE, first);
    assert_eq!(desk.ask(ONE), None, "the other map runs");
    desk.done(TWO, second);
    assert_eq!(desk.ask(TWO), None, "nothing is durable");
    let reduce = assigned(&desk.durable()).expect("the reduce");
    assert_eq!(reduce.task, TaskId::reduce(0));
    let effects = desk.done(ONE, reduce);
    assert!(
        !effects.contains(&Effect::Publish(reduce)),
        "not before the record is durable"
    );
    assert!(desk.durable().contains(&Effect::Publish(reduce)));
    assert_eq!(desk.step(Event::Published(0)), [Effect::Seal]);
    assert_eq!(desk.step(Event::Sealed), [Effect::End(Outcome::Succeeded)]);
}

#[test]
fn a_silent_worker_loses_its_task_and_its_late_report_is_refused() {
    let (mut desk, _) = Desk::new((1, 1), &[]);
    let lost = desk.ask(ONE).expect("a map");
    desk.ticks(9);
    assert_eq!(desk.ask(TWO), None);
    let effects = desk.ticks(1);
    assert!(effects.contains(&Effect::Discard(lost)));
    assert!(effects.contains(&Effect::Abandon {
        worker: ONE,
        attempt: lost
    }));
    let again = assigned(&effects).expect("the map again");
    assert_eq!(again.task, lost.task);
    assert_eq!(desk.done(ONE, lost), [Effect::Discard(lost)]);
    assert!(matches!(desk.done(TWO, again)[..], [Effect::Record { .. }]));
}

#[test]
fn a_living_worker_keeps_its_lease_until_it_stalls() {
    let (mut desk, _) = Desk::new((1, 1), &[]);
    let attempt = desk.ask(ONE).expect("a map");
    let alive = |units| Event::Progress {
        worker: ONE,
        attempt,
        units,
        counters: Counters::new(),
    };
    for tick in 0..99 {
        assert_eq!(desk.step(alive(0)), [], "tick {tick}");
        assert_eq!(desk.ticks(1), [], "tick {tick}");
    }
    assert!(
        desk.ticks(1).contains(&Effect::Discard(attempt)),
        "no progress for 100 ticks"
    );
    assert!(matches!(desk.step(alive(1))[..], [Effect::Abandon { .. }]));
}

#[test]
fn a_task_that_fails_too_often_ends_the_job_with_its_last_error() {
    let (mut desk, _) = Desk::new((1, 1), &[]);
    for round in 1..=3 {
        let attempt = desk.ask(ONE).expect("the map");
        let error = format!("error {round}");
        let effects = desk.step(Event::Failed {
            worker: ONE,
            attempt,
            error,
        });
        let ended = effects.iter().find_map(|effect| match effect {
            Effect::End(Outcome::Failed(reason)) => Some(reason.clone()),
            _ => None,
        });
        let expected = "map 0 failed 3 times, at last with: error 3";
        assert_eq!(ended.as_deref(), (round == 3).then_some(expected));
    }
}

#[test]
fn a_straggler_gets_one_backup_and_the_first_of_both_wins() {
    let (mut desk, _) = Desk::new((1, 1), &[]);
    let slow = desk.ask(ONE).expect("a map");
    assert_eq!(desk.ask(TWO), None);
    let mut backup = None;
    for units in 1..=30 {
        let counters = Counters::new();
        desk.step(Event::Progress {
            worker: ONE,
            attempt: slow,
            units,
            counters,
        });
        backup = backup.or(assigned(&desk.ticks(1)));
    }
    let backup = backup.expect("a backup after 30 ticks");
    assert_eq!(backup.task, slow.task);
    assert_eq!(desk.ask(WorkerId(3)), None, "a second backup");
    let effects = desk.done(TWO, backup);
    assert!(effects.contains(&Effect::Abandon {
        worker: ONE,
        attempt: slow
    }));
    assert!(effects.contains(&Effect::Discard(slow)));
    assert_eq!(desk.done(ONE, slow), [Effect::Discard(slow)]);
}

#[test]
fn a_lost_map_output_is_made_again_without_blame_for_the_reduce() {
    let (mut desk, _) = Desk::new((1, 1), &[]);
    let map = desk.ask(ONE).expect("a map");
    desk.done(ONE, map);
    desk.ask(ONE);
    let reduce = assigned(&desk.durable()).expect("the reduce");
    let error = "gone".to_owned();
    let lost = Event::InputLost {
        worker: ONE,
        attempt: reduce,
        input: map,
        error,
        unreachable: false,
    };
    let effects = desk.step(lost);
    assert!(effects.iter().any(|effect| {
        matches!(effect, Effect::Record { record: Record::Lost(id), .. } if *id == map)
    }));
    let again = desk.ask(ONE).expect("the map again");
    assert_eq!(again.task, map.task);
    assert_ne!(again, map);
}

#[test]
fn the_next_life_repeats_what_was_decided_and_does_only_the_rest() {
    let attempt = |task, number| AttemptId {
        task,
        epoch: 1,
        number,
    };
    let committed = |task, number| Record::Committed {
        attempt: attempt(task, number),
        counters: Counters::new(),
        place: String::new(),
    };
    let records = [
        Record::Epoch(1),
        committed(TaskId::map(0), 1),
        committed(TaskId::reduce(1), 2),
    ];
    let (mut desk, effects) = Desk::new((1, 2), &records);
    assert_eq!(effects, [Effect::Publish(attempt(TaskId::reduce(1), 2))]);
    let rest = desk.ask(ONE).expect("the other reduce");
    assert_eq!((rest.task, rest.epoch), (TaskId::reduce(0), 2));
    assert_eq!(desk.ask(TWO), None, "only one was left");
    let error = "no such file".to_owned();
    let effects = desk.step(Event::OutputLost { reduce: 1, error });
    assert_eq!(
        assigned(&effects).map(|id| id.task),
        Some(TaskId::reduce(1)),
        "{effects:?}"
    );
}

#[test]
fn a_refused_record_ends_the_coordinator_and_nothing_rests_on_it() {
    let (mut desk, _) = Desk::new((1, 1), &[]);
    let map = desk.ask(ONE).expect("a map");
    desk.done(ONE, map);
    desk.ask(ONE);
    let reduce = assigned(&desk.durable()).expect("the reduce");
    desk.done(ONE, reduce);
    let effects = desk.step(Event::Deposed);
    assert_eq!(effects, [Effect::End(Outcome::Deposed)]);
    assert_eq!(desk.durable(), [], "it does nothing any more");
    assert_eq!(desk.ask(TWO), None);
}

#[test]
fn a_worker_that_cannot_be_reached_takes_all_that_it_keeps_along() {
    let (mut desk, _) = Desk::new((3, 1), &[]);
    for (worker, place) in [(ONE, "one"), (TWO, "two")] {
        let place = place.to_owned();
        assert_eq!(desk.step(Event::Serves { worker, place }), []);
    }
    let maps = [ONE, TWO, ONE].map(|worker| {
        let map = desk.ask(worker).expect("a map");
        desk.done(worker, map);
        desk.durable();
        map
    });
    let places = maps.map(|map| desk.coordinator.place_of(map).map(str::to_owned));
    assert_eq!(
        places.each_ref().map(Option::as_deref),
        [Some("one"), Some("two"), Some("one")]
    );
    let reduce = desk.ask(TWO).expect("the reduce");
    assert_eq!(reduce.task, TaskId::reduce(0));
    let why = "killed".to_owned();
    desk.step(Event::Gone { worker: ONE, why });
    let effects = desk.step(Event::InputLost {
        worker: TWO,
        attempt: reduce,
        input: maps[2],
        error: "no connection".to_owned(),
        unreachable: true,
    });
    let lost: Vec<AttemptId> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Record {
                record: Record::Lost(id),
                ..
            } => Some(*id),
            _ => None,
        })
        .collect();
    assert_eq!(lost, [maps[0], maps[2]]);
    assert_eq!(desk.coordinator.place_of(maps[0]), None);
    assert_eq!(desk.coordinator.place_of(maps[1]), Some("two"));
}
