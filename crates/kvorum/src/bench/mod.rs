//! `kvorum bench`: load for any server that speaks the Redis protocol, and what it answers.
//!
//! Closed loop: each client sends its next requests when the last ones are answered; what comes out is how
//! many the server can do. Open loop (`--rate`): requests are due at fixed moments, whatever the server does;
//! what comes out is how long a request of that load takes. A latency is counted from the moment the request
//! was due, so a server that stops for a second is charged for all that were due in that second, not for one
//! (the "coordinated omission" of closed loops).
//!
//! One thread makes the load. On a machine that also runs the server it takes part of what it measures.

mod client;
mod keys;
mod places;
mod report;
mod run;
mod tally;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};

use self::keys::Distribution;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load a node, a router, a cluster or any Redis with reads and writes, and measure it
    Run(RunOptions),
}

/// What load, on whom.
#[derive(Args, Clone)]
pub(crate) struct RunOptions {
    /// Servers; clients are spread over them. With --cluster: any nodes of the cluster
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:7379"
    )]
    address: Vec<String>,
    /// Go to the owner of each slot, as a cluster client does, and follow redirects
    #[arg(long)]
    cluster: bool,
    /// Connections at work at the same time
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Requests that a client sends before it waits for replies
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=10_000))]
    pipeline: u32,
    /// How long
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..))]
    seconds: u32,
    /// Open loop: requests a second of all clients together, due at fixed moments
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Of 100 requests so many are reads (GET), the others writes (SET)
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(0..=100))]
    reads: u32,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of a key
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(13..=1024))]
    key_size: u32,
    /// Bytes of a value
    #[arg(
        long, value_name = "N", default_value_t = 100,
        value_parser = value_parser!(u32).range(1..=33_554_432)
    )]
    value_size: u32,
    /// Which keys are asked for: all alike, or some far more often (Zipf, exponent 0.99)
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    distribution: Distribution,
    /// Only keys of these slots, such as 0-999
    #[arg(long, value_name = "A-B", value_parser = slots)]
    slots: Option<RangeInclusive<u16>>,
    /// Write every key once before the measurement, so that no read misses
    #[arg(long)]
    fill: bool,
    /// Log in with this password
    #[arg(
        long,
        value_name = "TEXT",
        env = "KVORUM_PASSWORD",
        hide_env_values = true
    )]
    password: Option<String>,
    /// Seed of what is random; the same seed asks for the same keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Write the result as JSON to this file, too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn slots(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last && last < 16384 => Ok(first..=last),
        _ => Err("give one slot or a range within 0-16383, such as 0-999".into()),
    }
}

/// Measures and prints.
pub(crate) fn run(options: Options) -> Result<(), String> {
    match options.command {
        Command::Run(options) => run::run(&options),
    }
}
