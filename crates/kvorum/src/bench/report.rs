//! What a run says, on its way and at its end.

use std::thread::available_parallelism;

use serde::Serialize;

use super::RunOptions;
use super::keys::Distribution;
use super::tally::{Count, Second, Totals};

/// A result: what was asked for, where, and what came of it.
#[derive(Serialize)]
struct Measured<'a> {
    addresses: &'a [String],
    is_cluster_client: bool,
    clients: u32,
    pipeline: u32,
    /// Requests a second that were due; nothing: closed loop.
    rate: Option<u32>,
    reads_percent: u32,
    keys: u64,
    key_bytes: u32,
    value_bytes: u32,
    distribution: Distribution,
    slots: Option<String>,
    seed: u64,
    processors: usize,
    #[serde(flatten)]
    totals: &'a Totals,
}

/// One second, on standard error.
pub(crate) fn progress(second: &Second) {
    let Second {
        at_seconds,
        reads,
        writes,
        errors,
    } = second;
    let errors = if *errors > 0 {
        format!("  {errors} errors")
    } else {
        String::new()
    };
    eprintln!(
        "  {at_seconds:5.1} s{}{}{errors}",
        brief("reads", reads),
        brief("writes", writes)
    );
}

fn brief(name: &str, count: &Count) -> String {
    if count.requests == 0 {
        return String::new();
    }
    let Count {
        per_second,
        latency,
        ..
    } = count;
    format!(
        "  {per_second:.0} {name}/s (p50 {:.2} ms, p99 {:.2} ms)",
        latency.p50_ms, latency.p99_ms
    )
}

/// The result, on standard output and in a file.
pub(crate) fn print(options: &RunOptions, totals: &Totals) -> Result<(), String> {
    let result = Measured {
        addresses: &options.address,
        is_cluster_client: options.cluster,
        clients: options.clients,
        pipeline: options.pipeline,
        rate: options.rate,
        reads_percent: options.reads,
        keys: options.keys,
        key_bytes: options.key_size,
        value_bytes: options.value_size,
        distribution: options.distribution,
        slots: options
            .slots
            .as_ref()
            .map(|slots| format!("{}-{}", slots.start(), slots.end())),
        seed: options.seed,
        processors: available_parallelism().map_or(0, usize::from),
        totals,
    };
    let json = serde_json::to_string_pretty(&result).map_err(|error| error.to_string())?;
    if let Some(path) = &options.out {
        std::fs::write(path, format!("{json}\n"))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if options.json {
        println!("{json}");
    } else {
        table(options, totals);
    }
    if totals.reads.requests + totals.writes.requests == 0 {
        return Err("no request was answered".into());
    }
    Ok(())
}

fn table(options: &RunOptions, totals: &Totals) {
    let kind = match options.rate {
        Some(rate) => format!("open loop, {rate} requests/s due"),
        None => "closed loop".to_owned(),
    };
    println!(
        "{kind}, {} clients, pipeline {}, {} keys of {} bytes, values of {} bytes",
        options.clients, options.pipeline, options.keys, options.key_size, options.value_size
    );
    println!("          requests   per second   p50 ms   p95 ms   p99 ms  p999 ms   max ms");
    for (name, count) in [("reads", &totals.reads), ("writes", &totals.writes)] {
        if count.requests == 0 {
            continue;
        }
        let Count {
            requests,
            per_second,
            latency,
        } = count;
        println!(
            "{name:7} {requests:10}   {per_second:10.0} {:8.3} {:8.3} {:8.3} {:8.3} {:8.3}",
            latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.p999_ms, latency.max_ms
        );
    }
    if totals.writes.requests > 0 {
        println!(
            "longest time without an acknowledged write: {:.1} ms",
            totals.longest_time_without_a_write_ms
        );
    }
    if totals.misses > 0 {
        println!(
            "{} reads found nothing (--fill writes every key first)",
            totals.misses
        );
    }
    if totals.redirects > 0 {
        println!("{} redirects followed", totals.redirects);
    }
    for (error, count) in &totals.errors {
        let hint = match error.as_str() {
            "MOVED" => " (this is a cluster: add --cluster)",
            "LOST" => " (sent, and the connection broke: nobody knows)",
            _ => "",
        };
        println!("{count} errors {error}{hint}");
    }
}
