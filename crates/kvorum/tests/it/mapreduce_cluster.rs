//! `kvorum mr` with a cluster: the record of a job in real nodes, workers and coordinators that are killed,
//! stopped and replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kvorum_base::Prng;
use serde_json::Value;

use crate::nodes::{Node, cluster, cluster_with, primary, signal};
use crate::process::{PATIENCE, Running, TempDir, kvorum, my_turn, refused, succeeds, wait_for};

/// A cluster of nodes, with jobs and workers around it.
struct Farm {
    dir: TempDir,
    nodes: Vec<Node>,
    secret: String,
    workers: u32,
}

impl Farm {
    fn new(nodes: u16) -> Self {
        let dir = TempDir::new();
        let nodes = cluster(&dir, nodes);
        let secret = dir.path().join("secret");
        fs::write(&secret, "5e".repeat(32)).expect("a secret");
        let secret = text(&secret);
        fs::create_dir(dir.path().join("in")).expect("a directory");
        for number in 0..4u64 {
            let mut words = String::new();
            for place in 0..60_000u64 {
                let word = place * place % (211 + number * 31);
                let digits = word.to_string();
                words.extend(digits.bytes().map(|digit| char::from(digit + 49)));
                words.push(if place % 9 == 0 { '\n' } else { ' ' });
            }
            fs::write(dir.path().join(format!("in/{number}.txt")), words).expect("an input");
        }
        Self {
            dir,
            nodes,
            secret,
            workers: 0,
        }
    }

    fn path(&self, name: &str) -> String {
        text(&self.dir.path().join(name))
    }

    /// All nodes: each may be asked for the others.
    fn cluster(&self) -> String {
        let addresses = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port));
        addresses.collect::<Vec<_>>().join(",")
    }

    /// Starts a worker with a directory of its own.
    fn worker(&mut self) -> Running {
        self.workers += 1;
        let dir = self.path(&format!("worker-{}", self.workers));
        self.start(&["worker", "--dir", &dir, "--secret-file", &self.secret])
    }

    /// Starts a job of many small tasks, with a lease of so many seconds.
    fn job(&self, output: &str, program: &[&str], lease: &str) -> Running {
        let (input, output) = (self.path("in"), self.path(output));
        let shape = ["--split-size", "6K", "--reducers", "7", "--lease", lease];
        let rest = ["--input", &input, "--output", &output, "--quiet"];
        let site = ["--attempts", "1000", "--secret-file", &self.secret];
        self.start(&[&["run"], program, &shape, &rest, &site].concat())
    }

    fn start(&self, words: &[&str]) -> Running {
        let child = kvorum(&["mr"])
            .args(words)
            .args(["--cluster", &self.cluster()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        Running { child }
    }

    /// What `mr list` tells.
    fn jobs(&self) -> Vec<Value> {
        let said = succeeds(&["mr", "list", "--json", "--cluster", &self.cluster()]);
        serde_json::from_str(&said).expect("JSON")
    }

    /// The job that was begun last, once it is there.
    fn last_job(&self, earlier: usize) -> Value {
        wait_for("the job", || self.jobs().into_iter().nth(earlier))
    }

    /// The words that are counted, by a job on this machine.
    fn expected(&self) -> Vec<u8> {
        let (input, output) = (self.path("in"), self.path("expected"));
        let words = ["mr", "run", "--app", "wc", "--input", &input];
        succeeds(
            &[
                &words[..],
                &["--output", &output, "--reducers", "7", "--quiet"],
            ]
            .concat(),
        );
        self.output("expected")
    }

    /// The output files of a job, one after the other.
    fn output(&self, name: &str) -> Vec<u8> {
        let part = |reduce| self.dir.path().join(name).join(format!("part-{reduce:05}"));
        (0..7)
            .flat_map(|reduce| fs::read(part(reduce)).expect("an output"))
            .collect()
    }

    fn report(&self, name: &str) -> Value {
        let text = fs::read(self.dir.path().join(name).join("_SUCCESS")).expect("_SUCCESS");
        serde_json::from_slice(&text).expect("a report")
    }
}

fn text(path: &Path) -> String {
    PathBuf::from(path).to_str().expect("UTF-8").to_owned()
}

fn ends_well(running: &mut Running) -> bool {
    wait_for("the end of the job", || {
        running.child.try_wait().expect("a status")
    })
    .success()
}

const WC: [&str; 2] = ["--app", "wc"];

#[test]
fn a_job_with_workers_that_keep_their_own_outputs() {
    let _turn = my_turn();
    let mut farm = Farm::new(1);
    let expected = farm.expected();
    let _workers = [farm.worker(), farm.worker(), farm.worker()];
    assert!(ends_well(&mut farm.job("out", &WC, "10")));
    assert!(farm.output("out") == expected, "other bytes");
    assert!(!farm.dir.path().join("out/_job").exists());
    let report = farm.report("out");
    let maps = report["maps"].as_u64().expect("maps");
    assert!(maps > 20, "{report}");
    assert_eq!(report["attempts"].as_u64(), Some(maps + 7), "{report}");
    let jobs = farm.jobs();
    let name = jobs[0]["job"].as_str().expect("a name");
    assert!(jobs.len() == 1 && name.starts_with("wc-"), "{jobs:?}");
    assert_eq!(jobs[0]["state"], "succeeded");
    assert_eq!(jobs[0]["end"]["report"]["counters"], report["counters"]);
    let cluster = farm.cluster();
    let told = succeeds(&["mr", "status", name, "--cluster", &cluster]);
    assert!(told.contains("7 files"), "{told}");
    let told = refused(&["mr", "kill", name, "--cluster", &cluster]);
    assert!(told.contains("has succeeded"), "{told}");
    let told = refused(&["mr", "status", "wc-0", "--cluster", &cluster]);
    assert!(told.contains("there is no job"), "{told}");
    // Workers forget what nobody needs.
    wait_for("empty directories of workers", || {
        let left = (1..=3).filter(|worker| {
            let folder = format!("worker-{worker}/{name}");
            farm.dir.path().join(folder).exists()
        });
        (left.count() == 0).then_some(())
    });
}

#[test]
fn workers_and_coordinators_killed_at_any_moment() {
    const KILLS: u32 = 50;
    let _turn = my_turn();
    let mut farm = Farm::new(1);
    let expected = farm.expected();
    let mut prng = Prng::new(23);
    let mut workers = vec![farm.worker(), farm.worker(), farm.worker()];
    let (mut kills, mut taken_over, mut failures, mut round) = (0, 0, 0, 0);
    while kills < KILLS {
        let output = format!("out-{round}");
        let mut job = farm.job(&output, &WC, "0.5");
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "a job does not end");
            let over = farm
                .jobs()
                .get(round)
                .is_some_and(|job| job["end"].is_object());
            if over {
                break;
            }
            std::thread::sleep(Duration::from_millis(prng.range(20, 250)));
            if kills >= KILLS {
                continue;
            }
            if prng.chance(1, 2) {
                let at = prng.index(workers.len());
                workers.remove(at);
                workers.push(farm.worker());
                kills += 1;
            } else if let Some(pid) = coordinator(&farm, round) {
                kills += u32::from(kill(pid, &mut job));
            }
        }
        assert!(
            farm.output(&output) == expected,
            "other bytes after {kills} kills"
        );
        let report = farm.report(&output);
        taken_over += u32::from(report["epoch"].as_u64() > Some(1));
        failures += report["failures"].as_u64().expect("a number");
        round += 1;
    }
    assert!(taken_over > 0, "no job was ever taken over");
    assert!(failures > 0, "no attempt was hit: the kills tested nothing");
}

/// The process that coordinates a job, if any does.
fn coordinator(farm: &Farm, job: usize) -> Option<u32> {
    let jobs = farm.jobs();
    let job = jobs.get(job).filter(|job| job["state"] == "running")?;
    u32::try_from(job["standing"]["pid"].as_u64()?).ok()
}

/// Kills a coordinator: the process that began the job, or one that a worker has started. False if it was
/// faster.
fn kill(pid: u32, job: &mut Running) -> bool {
    if pid == job.child.id() {
        let lives = matches!(job.child.try_wait(), Ok(None));
        let _ = job.child.kill();
        let _ = job.child.wait();
        return lives;
    }
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
}

#[test]
fn a_coordinator_that_slept_finds_its_job_done_by_another() {
    let _turn = my_turn();
    let mut farm = Farm::new(1);
    let expected = farm.expected();
    let mut job = farm.job("out", &WC, "0.5");
    let name = farm.last_job(0)["job"].as_str().expect("a name").to_owned();
    let pid = job.child.id();
    wait_for("a coordinator", || coordinator(&farm, 0));
    signal("-STOP", pid);
    let _workers = [farm.worker(), farm.worker()];
    wait_for("the end of the job", || {
        farm.jobs()[0]["end"].is_object().then_some(())
    });
    let before = farm.output("out");
    assert!(before == expected, "other bytes");
    signal("-CONT", pid);
    assert!(ends_well(&mut job), "{name} has succeeded");
    assert!(farm.output("out") == before);
    assert!(farm.report("out")["epoch"].as_u64() >= Some(2));
}

#[test]
fn who_resumes_a_job_coordinates_it_when_nobody_does_and_waits_when_somebody_does() {
    let _turn = my_turn();
    let mut farm = Farm::new(1);
    let expected = farm.expected();
    let (output, input) = (farm.path("out"), farm.path("in"));
    let (cluster, secret) = (farm.cluster(), farm.secret.clone());
    let site = ["--cluster", &cluster, "--secret-file", &secret];
    let mut first = farm.job("out", &WC, "0.5");
    wait_for("a coordinator", || coordinator(&farm, 0));
    first.child.kill().expect("killed");
    let again = [
        "mr", "run", "--app", "wc", "--input", &input, "--output", &output,
    ];
    let told = refused(&[&again[..], &site].concat());
    assert!(told.contains("--resume"), "{told}");
    let resume = [
        "run",
        "--resume",
        "--output",
        &output,
        "--secret-file",
        &secret,
    ];
    let mut two = [farm.start(&resume), farm.start(&resume)];
    let pids = two.each_ref().map(|resumed| resumed.child.id());
    wait_for("another coordinator", || {
        coordinator(&farm, 0).filter(|pid| pids.contains(pid))
    });
    let _worker = farm.worker();
    assert!(two.iter_mut().all(ends_well));
    assert!(farm.output("out") == expected, "other bytes");
    let resume = ["mr", "run", "--resume", "--output", &output];
    let told = succeeds(&[&resume[..], &site].concat());
    assert!(told.contains("7 files"), "{told}");
}

#[test]
fn jobs_are_killed_whether_somebody_coordinates_them_or_not() {
    let _turn = my_turn();
    let mut farm = Farm::new(1);
    let cluster = farm.cluster();
    let slow = ["--map", "sleep 30; cat", "--reduce", "cat"];
    let mut left = farm.job("left", &slow, "0.5");
    let left_name = farm.last_job(0)["job"].as_str().expect("a name").to_owned();
    wait_for("a coordinator", || coordinator(&farm, 0));
    left.child.kill().expect("killed");
    wait_for("the end of its lease", || {
        (farm.jobs()[0]["state"] == "orphaned").then_some(())
    });
    succeeds(&["mr", "kill", &left_name, "--cluster", &cluster]);
    assert_eq!(farm.jobs()[0]["state"], "failed");

    let mut worker = farm.worker();
    let mut job = farm.job("out", &slow, "0.5");
    let name = farm.last_job(1)["job"].as_str().expect("a name").to_owned();
    wait_for("a task at work", || {
        let jobs = farm.jobs();
        (jobs[1]["standing"]["running"].as_u64() > Some(0)).then_some(())
    });
    succeeds(&["mr", "kill", &name, "--cluster", &cluster]);
    assert!(!ends_well(&mut job));
    let jobs = farm.jobs();
    assert_eq!(jobs[1]["end"]["reason"], "killed", "{jobs:?}");
    // Its worker is free for others.
    assert!(ends_well(&mut farm.job("next", &WC, "2")));
    assert!(worker.child.try_wait().expect("a status").is_none());
}

#[test]
fn a_job_goes_on_while_primaries_of_its_store_are_killed() {
    let _turn = my_turn();
    let mut farm = Farm::new(3);
    let expected = farm.expected();
    let _workers = [farm.worker(), farm.worker()];
    for round in 0..2 {
        let output = format!("out-{round}");
        let mut job = farm.job(&output, &WC, "2");
        farm.last_job(round);
        let old = primary(&farm.nodes);
        farm.nodes[old].kill();
        assert!(ends_well(&mut job));
        assert!(farm.output(&output) == expected, "other bytes");
        farm.nodes[old].restart();
    }
}

#[test]
fn who_does_not_hold_the_secret_gets_no_work() {
    let _turn = my_turn();
    let mut farm = Farm::new(1);
    let other = farm.path("other");
    let good = std::mem::replace(&mut farm.secret, other);
    fs::write(&farm.secret, "00".repeat(32)).expect("a secret");
    let stranger_dir = farm.path("stranger");
    let words = [
        "worker",
        "--dir",
        &stranger_dir,
        "--secret-file",
        &farm.secret,
    ];
    let mut stranger = kvorum(&["mr"])
        .args(words)
        .args(["--cluster", &farm.cluster()])
        .stdout(Stdio::null())
        .stderr(fs::File::create(farm.path("stranger.err")).expect("a file"))
        .spawn()
        .map(|child| Running { child })
        .expect("started");
    farm.secret = good;
    let mut job = farm.job("out", &WC, "2");
    wait_for("a refusal", || {
        let said = fs::read_to_string(farm.path("stranger.err")).expect("what it said");
        said.contains("does not know the secret").then_some(())
    });
    let jobs = farm.jobs();
    assert_eq!(jobs[0]["standing"]["workers"].as_u64(), Some(0), "{jobs:?}");
    let _worker = farm.worker();
    assert!(ends_well(&mut job));
    assert!(stranger.child.try_wait().expect("a status").is_none());
}

/// The eight books of the course's first lab, if they lie beside the checkout: `shared/mr-inputs` in a
/// directory above it. Where everything is required, they are too.
fn books() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = root
        .ancestors()
        .map(|above| above.join("shared/mr-inputs"))
        .find(|path| path.join("pg-tom_sawyer.txt").is_file());
    let required = std::env::var_os("KVORUM_CI").is_some();
    assert!(
        found.is_some() || !required,
        "the eight books are not there"
    );
    found.map(|path| text(&path.join("pg-*.txt")))
}

#[test]
fn lab_1_wc_with_a_cluster() {
    let Some(books) = books() else {
        return;
    };
    let _turn = my_turn();
    let mut farm = Farm::new(1);
    let _workers = [farm.worker(), farm.worker(), farm.worker()];
    let (output, secret) = (farm.path("out"), farm.secret.clone());
    let words = ["run", "--app", "wc", "--input", &books, "--output", &output];
    let shape = ["--per-file", "--reducers", "10", "--secret-file", &secret];
    assert!(ends_well(&mut farm.start(&[&words[..], &shape].concat())));
    assert_eq!(farm.report("out")["maps"].as_u64(), Some(8));
    let mut counts = Vec::new();
    for reduce in 0..10 {
        let part = farm.dir.path().join(format!("out/part-{reduce:05}"));
        let part = fs::read_to_string(part).expect("an output");
        let count = |line: &str| line.split('\t').nth(1)?.parse::<u64>().ok();
        counts.extend(part.lines().map(|line| count(line).expect("a number")));
    }
    assert_eq!((counts.len(), counts.iter().sum()), (22_107, 623_948));
}

#[test]
fn a_cluster_with_a_password_is_told_it() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let password = |_| vec!["--password".to_owned(), "open up".to_owned()];
    let nodes = cluster_with(&dir, 1, password, &[]);
    let cluster = format!("127.0.0.1:{}", nodes[0].port);
    let list = ["mr", "list", "--json", "--cluster", &cluster];
    assert!(refused(&list).contains("NOAUTH"));
    let wrong = [&list[..], &["--password", "open"]].concat();
    assert!(refused(&wrong).contains("WRONGPASS"));
    let right = [&list[..], &["--password", "open up"]].concat();
    assert_eq!(succeeds(&right).trim(), "[]");
}
