//! The scenarios of the 6.824 course's first lab: a coordinator, workers that are started beside it, and what
//! must be true of the output. The pattern of words stands for the eight books, one map for each.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::jobs::{BOOKS, Place, Process, books, my_turn, sorted_lines};

/// A coordinator without workers of its own: eight maps, ten reduces.
fn coordinator(place: &Place, app: &str, more: &[&str]) -> Process {
    let words = [
        "run", "--app", app, "--input", "pg-*.txt", "--output", "out",
    ];
    let shape = [
        "--workers",
        "0",
        "--reducers",
        "10",
        "--per-file",
        "--quiet",
    ];
    place.start(&[&words[..], &shape, more].concat())
}

fn worker(place: &Place) -> Process {
    place.start(&["worker", "--job", "out"])
}

#[test]
fn lab_1_wc() {
    let _turn = my_turn();
    let place = Place::new();
    let real = books(&place);
    let mut coordinator = coordinator(&place, "wc", &[]);
    let mut workers = [worker(&place), worker(&place), worker(&place)];
    assert!(coordinator.wait());
    // The outputs are final when the coordinator ends.
    let lines = place.lines("out");
    assert_eq!(lines, sorted_lines(&place.sequential("wc", &BOOKS)));
    if real {
        let words: u64 = lines
            .iter()
            .map(|line| {
                line.split('\t')
                    .nth(1)
                    .and_then(|n| n.parse::<u64>().ok())
                    .expect("n")
            })
            .sum();
        assert_eq!((lines.len(), words), (22_107, 623_948));
    }
    assert!(workers.iter_mut().all(Process::wait), "workers end well");
}

#[test]
fn lab_1_indexer() {
    let _turn = my_turn();
    let place = Place::new();
    let real = books(&place);
    let mut coordinator = coordinator(&place, "indexer", &[]);
    let mut workers = [worker(&place), worker(&place)];
    assert!(coordinator.wait());
    let lines = place.lines("out");
    assert_eq!(lines, sorted_lines(&place.sequential("indexer", &BOOKS)));
    if real {
        assert_eq!(lines.len(), 22_107);
    }
    assert!(workers.iter_mut().all(Process::wait));
}

#[test]
fn lab_1_map_parallelism() {
    let _turn = my_turn();
    let place = Place::new();
    books(&place);
    let mut coordinator = coordinator(&place, "mtiming", &[]);
    let _workers = [worker(&place), worker(&place)];
    assert!(coordinator.wait());
    let lines = place.lines("out");
    let workers: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line.split('\t').next())
        .filter(|key| key.starts_with("times-"))
        .collect();
    assert_eq!(workers.len(), 2, "{lines:?}");
    let at_once = lines
        .iter()
        .any(|line| line.starts_with("parallel-") && values(line).contains(&"2"));
    assert!(at_once, "{lines:?}");
}

#[test]
fn lab_1_reduce_parallelism() {
    let _turn = my_turn();
    let place = Place::new();
    books(&place);
    let mut coordinator = coordinator(&place, "rtiming", &[]);
    let _workers = [worker(&place), worker(&place)];
    assert!(coordinator.wait());
    let lines = place.lines("out");
    assert_eq!(lines.len(), 10);
    let at_once = lines.iter().filter(|line| values(line) == ["2"]).count();
    assert!(at_once >= 2, "{lines:?}");
}

#[test]
fn lab_1_job_count() {
    let _turn = my_turn();
    let place = Place::new();
    books(&place);
    let mut coordinator = coordinator(&place, "jobcount", &[]);
    let (mut first, mut second) = (worker(&place), worker(&place));
    assert!(second.wait());
    let mut late = [worker(&place), worker(&place)];
    assert!(coordinator.wait() && first.wait());
    assert!(
        late.iter_mut().all(Process::wait),
        "workers that come late end well"
    );
    assert_eq!(place.lines("out"), ["a\t8"], "no map was handed out twice");
}

#[test]
fn lab_1_early_exit() {
    let _turn = my_turn();
    let place = Place::new();
    books(&place);
    let mut all = [
        coordinator(&place, "early_exit", &[]),
        worker(&place),
        worker(&place),
        worker(&place),
    ];
    while !all.iter_mut().any(Process::is_over) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let at_first_exit = place.output("out");
    assert!(all.iter_mut().all(Process::wait));
    assert_eq!(place.lines("out").len(), 8);
    assert_eq!(
        at_first_exit,
        place.output("out"),
        "nobody leaves before all outputs are final"
    );
}

#[test]
fn lab_1_crash() {
    let _turn = my_turn();
    let place = Place::new();
    let real = books(&place);
    let inputs = ["--input", "pg-*.txt", "--per-file", "--reducers", "10"];
    place.job(&[&["--app", "nocrash", "--output", "correct"], &inputs[..]].concat());
    let mut coordinator = coordinator(&place, "crash", &["--attempts", "1000"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut worker = worker(&place);
                    while !over.load(Ordering::Relaxed) && !worker.is_over() {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
        let good = coordinator.wait();
        over.store(true, Ordering::Relaxed);
        assert!(good);
    });
    let lines = place.lines("out");
    assert_eq!(lines, place.lines("correct"));
    if real {
        let sizes = "138885 139054 412665 441033 453168 540174 581863 594262";
        assert_eq!(lines[2], format!("c\t{sizes}"));
        assert_eq!(lines[3], format!("d\t{}", ["xyzzy"; 8].join(" ")));
    }
}

fn values(line: &str) -> Vec<&str> {
    line.split('\t')
        .nth(1)
        .map_or(Vec::new(), |values| values.split(' ').collect())
}
