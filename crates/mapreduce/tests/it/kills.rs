//! Whoever is killed, and whenever: the output is the same, byte for byte.

use std::time::{Duration, Instant};

use kvorum_base::Prng;
use rustix::process::{Pid, Signal, kill_process};

use crate::jobs::{PATIENCE, Place, Process, children_of, my_turn, zipf_text};

const KILLS: u32 = 50;

/// Many small tasks, so that every moment of a job is hit.
const SHAPE: [&str; 10] = [
    "--split-size",
    "48K",
    "--reducers",
    "12",
    "--workers",
    "3",
    "--memory",
    "4M",
    "--attempts",
    "1000",
];

fn start(place: &Place, app: &str, more: &[&str]) -> Process {
    let words = [
        "run", "--quiet", "--app", app, "--input", "in", "--output", "out",
    ];
    place.start(&[&words[..], &SHAPE, more].concat())
}

fn signal(pid: u32, signal: Signal) -> bool {
    Pid::from_raw(pid as i32).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

fn inputs(place: &Place) {
    for number in 0..4 {
        place.file(&format!("in/{number}"), &zipf_text(number, 700_000));
    }
}

#[test]
fn workers_killed_and_stopped_at_any_moment() {
    let _turn = my_turn();
    let place = Place::new();
    inputs(&place);
    for app in ["wc", "sort"] {
        let expected = reference(&place, app);
        let mut prng = Prng::new(17);
        let (mut kills, mut stops, mut failures) = (0, 0, 0);
        while kills < KILLS {
            let mut job = start(&place, app, &["--lease", "0.5"]);
            let mut stopped: Vec<(u32, Instant)> = Vec::new();
            let began = Instant::now();
            while !job.is_over() {
                assert!(began.elapsed() < PATIENCE, "{app} does not end");
                std::thread::sleep(Duration::from_millis(prng.range(3, 25)));
                let workers = children_of(job.id());
                let Some(victim) = prng.pick(&workers).copied() else {
                    continue;
                };
                if kills < KILLS && prng.chance(4, 5) {
                    kills += u32::from(signal(victim, Signal::KILL));
                } else if stopped.len() < 2 && signal(victim, Signal::STOP) {
                    // Longer than the lease: it wakes up to find that its task was given away.
                    stopped.push((victim, Instant::now() + Duration::from_millis(700)));
                    stops += 1;
                }
                stopped.retain(|(pid, until)| {
                    let asleep = *until > Instant::now();
                    if !asleep {
                        signal(*pid, Signal::CONT);
                    }
                    asleep
                });
            }
            for (pid, _) in stopped {
                signal(pid, Signal::CONT);
            }
            assert!(job.wait(), "{app} failed");
            assert!(
                place.output("out") == expected,
                "{app}: other bytes after {kills} kills"
            );
            failures += report(&place)["failures"].as_u64().expect("a number");
            std::fs::remove_dir_all(place.path("out")).expect("the output");
        }
        assert!(stops > 0, "nobody was stopped");
        assert!(failures > 0, "no attempt was hit: the kills tested nothing");
    }
}

#[test]
fn coordinators_killed_at_any_moment() {
    let _turn = my_turn();
    let place = Place::new();
    inputs(&place);
    let expected = reference(&place, "wc");
    let mut prng = Prng::new(18);
    let (mut kills, mut resumed) = (0, 0);
    while kills < KILLS {
        let mut job = start(&place, "wc", &["--resume"]);
        let deadline = Instant::now() + Duration::from_millis(prng.range(5, 150));
        while kills < KILLS && Instant::now() < deadline && !job.is_over() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if kills < KILLS && !job.is_over() {
            let workers = children_of(job.id());
            job.kill();
            kills += 1;
            wait_for_the_end_of(&workers);
            continue;
        }
        assert!(job.wait(), "the job failed after {kills} kills");
        assert!(
            place.output("out") == expected,
            "other bytes after {kills} kills"
        );
        assert!(!place.path("out/_job").exists(), "the job's own files stay");
        resumed += u32::from(report(&place)["epoch"].as_u64() > Some(1));
        std::fs::remove_dir_all(place.path("out")).expect("the output");
    }
    // The last kill may have left a job unfinished.
    let mut last = start(&place, "wc", &["--resume"]);
    assert!(last.wait());
    assert!(
        place.output("out") == expected,
        "other bytes after the last kill"
    );
    assert!(resumed > 0, "no job was ever taken over");
}

/// The output of a job that nobody disturbs, which must be that of a single process.
fn reference(place: &Place, app: &str) -> Vec<u8> {
    let mut job = start(place, app, &[]);
    assert!(job.wait());
    let output = place.output("out");
    let mut lines: Vec<&[u8]> = output.split_inclusive(|byte| *byte == b'\n').collect();
    lines.sort();
    let sequential = place.sequential(app, &["in"]);
    let mut expected: Vec<&[u8]> = sequential.split_inclusive(|byte| *byte == b'\n').collect();
    expected.sort();
    assert!(lines == expected, "{app}: not what a single process makes");
    std::fs::remove_dir_all(place.path("out")).expect("the output");
    output
}

fn report(place: &Place) -> serde_json::Value {
    let text = std::fs::read(place.path("out/_SUCCESS")).expect("_SUCCESS");
    serde_json::from_slice(&text).expect("a report")
}

/// Workers do not outlive their coordinator.
fn wait_for_the_end_of(workers: &[u32]) {
    let began = Instant::now();
    for pid in workers {
        while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            stat.rsplit_once(") ")
                .is_some_and(|(_, after)| !after.starts_with('Z'))
        }) {
            assert!(
                began.elapsed() < PATIENCE,
                "worker {pid} outlives its coordinator"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
