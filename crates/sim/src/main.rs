//! The simulator's command line.
//!
//! ```text
//! kvorum-sim [--seeds N] [--first-seed S] [--jobs J]    N seeds, from S on or fresh random ones
//! kvorum-sim --seed S [--trace]                         one seed, told as it goes
//! kvorum-sim --seed S --dangers-of NAME [--trace]       one seed as that bug is hunted, without the bug
//! kvorum-sim --planted NAME|all [--first-seed S] [--jobs J]   is the judge any good? (feature `planted`)
//! ```
//!
//! Exits with an error if anything failed, and prints how to see it again.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kvorum_base::Bug;
use kvorum_sim::cluster::coverage::Coverage;
use kvorum_sim::cluster::options::Options;
use kvorum_sim::cluster::scenario::{self, Report};
use kvorum_sim::planted;

/// From this many seeds on everything that is counted must have come to pass.
const COVERED_FROM: u64 = 200;

struct Args {
    seeds: u64,
    first: u64,
    jobs: u64,
    is_traced: bool,
    planted: Option<String>,
    dangers_of: Option<Bug>,
}

fn parse() -> Result<Args, String> {
    let mut parsed = Args {
        seeds: 100,
        first: fresh_seed(),
        jobs: 2,
        is_traced: false,
        planted: None,
        dangers_of: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--trace" {
            parsed.is_traced = true;
            continue;
        }
        let value = args.next().ok_or(format!("{arg}: a value is missing"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|error| format!("{arg} {value}: {error}"))
        };
        match arg.as_str() {
            "--seeds" => parsed.seeds = number()?,
            "--first-seed" => parsed.first = number()?,
            "--seed" => (parsed.first, parsed.seeds) = (number()?, 1),
            "--jobs" => parsed.jobs = number()?.max(1),
            "--dangers-of" => parsed.dangers_of = Some(planted::named(&value)?),
            "--planted" => parsed.planted = Some(value),
            _ => return Err(format!("no such option: {arg}")),
        }
    }
    Ok(parsed)
}

/// Six digits are easy to type and enough to be new each time.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |now| u64::from(now.subsec_nanos())) / 1_000
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::FAILURE;
        }
    };
    if !args.is_traced {
        // A panic inside a simulation is a verdict like others, and is printed as one.
        std::panic::set_hook(Box::new(|_| ()));
    }
    match &args.planted {
        Some(name) => judge_the_judge(name, args.first, args.jobs),
        None => judge(&args),
    }
}

/// Runs seeds on several threads; each simulation is on one.
fn judge(args: &Args) -> ExitCode {
    let begun = Instant::now();
    let last = args.first + (args.seeds - 1);
    println!("seeds {} to {last}", args.first);
    let next = AtomicU64::new(args.first);
    let (reports, received) = mpsc::channel::<(u64, Report)>();
    let (mut coverage, mut failures) = (Coverage::default(), Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.min(args.seeds) {
            let (next, reports) = (&next, reports.clone());
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last {
                        return;
                    }
                    let options = match args.dangers_of {
                        Some(bug) => planted::options(seed, bug),
                        None => Options::draw(seed),
                    };
                    let report = scenario::run(options, args.is_traced);
                    if reports.send((seed, report)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(reports);
        for (seed, report) in received {
            coverage.merge(&report.coverage);
            if let Some(failure) = report.failure {
                println!("seed {seed}: FAILED {}: {}", failure.checker, failure.text);
                failures.push(seed);
            }
        }
    });
    let missing = match args.seeds >= COVERED_FROM {
        true => coverage.missing(),
        false => Vec::new(),
    };
    print!("{}", coverage.report());
    for mark in &missing {
        println!("FAILED coverage: no {}", mark.name());
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} seeds, {} failed; {} operations, {:.1} simulated hours, {:.0} events/s, {:.0} \
         seeds/minute",
        args.seeds,
        failures.len(),
        coverage.operations,
        coverage.simulated_us as f64 / 3.6e9,
        coverage.events as f64 / seconds,
        args.seeds as f64 * 60.0 / seconds,
    );
    // Said last: of a long output the end is what is kept.
    for seed in &failures {
        println!("  cargo run --release -p kvorum-sim -- --seed {seed} --trace");
    }
    if failures.is_empty() && missing.is_empty() {
        println!("PASSED");
        ExitCode::SUCCESS
    } else {
        println!("FAILED");
        ExitCode::FAILURE
    }
}

fn judge_the_judge(name: &str, first: u64, jobs: u64) -> ExitCode {
    match planted::hunt(name, first, jobs as usize, |line| println!("{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            println!("FAILED {text}");
            ExitCode::FAILURE
        }
    }
}
