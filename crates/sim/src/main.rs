//! Seed in, verdict out.
//!
//! ```text
//! kvorum-sim --seeds N [--first-seed S]     many seeds, stops at the first failure
//! kvorum-sim --seed S [--trace]             one seed, told step by step
//! kvorum-sim --planted BUG|all [--seeds N]  a bug on purpose: must be caught (feature `planted`)
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use kvorum_base::Planted;
use kvorum_sim::nodes::coverage::Coverage;
use kvorum_sim::nodes::run::{Report, run};
use kvorum_sim::world::Time;

/// What the command line asks for.
struct Wish {
    first_seed: u64,
    seeds: u64,
    trace: bool,
    planted: Option<String>,
}

fn parse(args: &[String]) -> Result<Wish, String> {
    let mut wish = Wish {
        first_seed: 0,
        seeds: 20,
        trace: false,
        planted: None,
    };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: &String| {
            text.parse::<u64>()
                .map_err(|_| format!("{text}: no number"))
        };
        match arg.as_str() {
            "--seeds" => wish.seeds = number(value()?)?,
            "--first-seed" => wish.first_seed = number(value()?)?,
            "--seed" => {
                wish.first_seed = number(value()?)?;
                wish.seeds = 1;
            }
            "--trace" => wish.trace = true,
            "--planted" => wish.planted = Some(value()?.clone()),
            other => return Err(format!("unknown option {other}")),
        }
    }
    Ok(wish)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = parse(&args).and_then(|wish| match &wish.planted {
        None => run_seeds(&wish),
        Some(name) => run_planted(&wish, name),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn tell(now: Time, text: &str) {
    println!("{now} {text}");
}

/// Runs a seed and catches its verdict.
fn verdict_of(seed: u64, planted: Planted, trace: bool) -> Result<Report, String> {
    let trace = trace.then_some(tell as fn(Time, &str));
    catch_unwind(AssertUnwindSafe(|| run(seed, planted, trace))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic without a text".to_owned())
    })
}

fn run_seeds(wish: &Wish) -> Result<(), String> {
    let began = Instant::now();
    let (mut events, mut hours) = (0, 0.0);
    let mut coverage = Coverage::default();
    for seed in wish.first_seed..wish.first_seed + wish.seeds {
        let report = verdict_of(seed, Planted::default(), wish.trace)
            .map_err(|text| format!("seed {seed}: FAILED: {text}"))?;
        events += report.events;
        hours += report.virtual_time.as_secs_f64() / 3600.0;
        coverage.add(&report.coverage, seed as usize);
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{} seeds from {}: all properties hold",
        wish.seeds, wish.first_seed
    );
    println!("{events} events, {:.0} a second", events as f64 / seconds);
    println!("{hours:.2} simulated hours in {seconds:.1} s");
    print!("{coverage}");
    Ok(())
}

#[cfg(not(feature = "planted"))]
fn run_planted(_: &Wish, name: &str) -> Result<(), String> {
    Err(format!(
        "{name}: this build has no planted bugs; build with --features planted"
    ))
}

#[cfg(feature = "planted")]
fn run_planted(wish: &Wish, name: &str) -> Result<(), String> {
    use kvorum_base::Bug;
    // A caught bug is a panic, and expected.
    std::panic::set_hook(Box::new(|_| {}));
    let bugs: Vec<Bug> = Bug::ALL
        .iter()
        .copied()
        .filter(|bug| name == "all" || bug.name() == name)
        .collect();
    if bugs.is_empty() {
        return Err(format!("no bug is called {name}"));
    }
    let mut missed = Vec::new();
    for bug in bugs {
        let began = Instant::now();
        let seeds = wish.first_seed..wish.first_seed + wish.seeds;
        let caught = seeds.clone().find_map(|seed| {
            let verdict = verdict_of(seed, Planted::with(bug), wish.trace);
            verdict.err().map(|text| (seed, text))
        });
        let seconds = began.elapsed().as_secs_f64();
        match caught {
            Some((seed, text)) => {
                let text: String = text
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(110)
                    .collect();
                println!(
                    "{:28} caught on seed {seed} in {seconds:.1} s: {text}",
                    bug.name()
                );
            }
            None => {
                println!(
                    "{:28} NOT CAUGHT on {} seeds in {seconds:.1} s",
                    bug.name(),
                    wish.seeds
                );
                missed.push(bug.name());
            }
        }
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(format!("not caught: {}", missed.join(", ")))
    }
}
