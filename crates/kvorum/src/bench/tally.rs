//! What was counted: of the whole run, and second by second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies in microseconds, to three digits.
type Latencies = Histogram<u64>;

/// An hour; what takes longer counts as that.
const LATENCY_MAX_MICROS: u64 = 3_600_000_000;

/// Reads or writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    Read,
    Write,
}

/// Latencies as they are reported, in milliseconds.
#[derive(Serialize, Clone, Debug, Default)]
pub(crate) struct Quantiles {
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

/// Counted requests of one class.
#[derive(Serialize, Clone, Debug, Default)]
pub(crate) struct Count {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    #[serde(flatten)]
    pub(crate) latency: Quantiles,
}

/// One second of a run.
#[derive(Serialize, Clone, Debug)]
pub(crate) struct Second {
    /// Since the measurement began; the moment at which this row was taken.
    pub(crate) at_seconds: f64,
    pub(crate) reads: Count,
    pub(crate) writes: Count,
    pub(crate) errors: u64,
}

/// What a run has counted.
pub(crate) struct Tally {
    begin: Instant,
    whole: [Latencies; 2],
    second: [Latencies; 2],
    second_begin: Instant,
    second_errors: u64,
    seconds: Vec<Second>,
    /// Errors by their first word, and connections that broke with requests on their way.
    errors: BTreeMap<String, u64>,
    redirects: u64,
    misses: u64,
    /// When a write was last acknowledged, to anybody.
    written: Instant,
    pause_max: Duration,
}

fn latencies() -> Latencies {
    Histogram::new_with_max(LATENCY_MAX_MICROS, 3).expect("a range that is allowed")
}

impl Tally {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            begin: now,
            whole: [latencies(), latencies()],
            second: [latencies(), latencies()],
            second_begin: now,
            second_errors: 0,
            seconds: Vec::new(),
            errors: BTreeMap::new(),
            redirects: 0,
            misses: 0,
            written: now,
            pause_max: Duration::ZERO,
        }
    }

    /// A request that was due then has been answered.
    pub(crate) fn answered(&mut self, class: Class, due: Instant, now: Instant) {
        let micros = now.saturating_duration_since(due).as_micros() as u64;
        self.whole[class as usize].saturating_record(micros);
        self.second[class as usize].saturating_record(micros);
        if class == Class::Write {
            self.pause_max = self.pause_max.max(now - self.written);
            self.written = now;
        }
    }

    pub(crate) fn missed(&mut self) {
        self.misses += 1;
    }

    pub(crate) fn redirected(&mut self) {
        self.redirects += 1;
    }

    /// A request ended in an error, whose first word says which.
    pub(crate) fn failed(&mut self, error: &str) {
        let word = error.split(' ').next().unwrap_or_default().to_owned();
        *self.errors.entry(word).or_default() += 1;
        self.second_errors += 1;
    }

    /// Closes a second; what it was.
    pub(crate) fn close_second(&mut self, now: Instant) -> &Second {
        let lasted = (now - self.second_begin).as_secs_f64();
        let [reads, writes] =
            [Class::Read, Class::Write].map(|class| count(&self.second[class as usize], lasted));
        self.second.iter_mut().for_each(Histogram::reset);
        self.seconds.push(Second {
            at_seconds: (now - self.begin).as_secs_f64(),
            reads,
            writes,
            errors: std::mem::take(&mut self.second_errors),
        });
        self.second_begin = now;
        self.seconds.last().expect("one was pushed")
    }

    /// Everything, at the end.
    pub(crate) fn close(mut self, now: Instant, has_writes: bool) -> Totals {
        let lasted = (now - self.begin).as_secs_f64();
        if has_writes {
            self.pause_max = self.pause_max.max(now - self.written);
        }
        let [reads, writes] =
            [Class::Read, Class::Write].map(|class| count(&self.whole[class as usize], lasted));
        Totals {
            seconds_measured: lasted,
            requests_per_second: reads.per_second + writes.per_second,
            reads,
            writes,
            misses: self.misses,
            redirects: self.redirects,
            errors: self.errors,
            longest_time_without_a_write_ms: millis(self.pause_max.as_micros() as u64),
            seconds: self.seconds,
        }
    }
}

/// What a run came to.
#[derive(Serialize, Clone, Debug)]
pub(crate) struct Totals {
    pub(crate) seconds_measured: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) reads: Count,
    pub(crate) writes: Count,
    /// Reads that found nothing.
    pub(crate) misses: u64,
    /// Redirects and refusals that were followed or tried again; not errors.
    pub(crate) redirects: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Between two acknowledged writes of any two clients.
    pub(crate) longest_time_without_a_write_ms: f64,
    pub(crate) seconds: Vec<Second>,
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

fn count(latencies: &Latencies, lasted: f64) -> Count {
    Count {
        requests: latencies.len(),
        per_second: latencies.len() as f64 / lasted.max(1e-9),
        latency: Quantiles {
            p50_ms: millis(latencies.value_at_quantile(0.5)),
            p95_ms: millis(latencies.value_at_quantile(0.95)),
            p99_ms: millis(latencies.value_at_quantile(0.99)),
            p999_ms: millis(latencies.value_at_quantile(0.999)),
            max_ms: millis(latencies.max()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_charged_to_all_that_were_due_in_it() {
        let begin = Instant::now();
        let mut tally = Tally::new(begin);
        // A hundred requests due one each millisecond; all answered together after 100 ms.
        let now = begin + Duration::from_millis(100);
        for number in 0..100 {
            tally.answered(Class::Write, begin + Duration::from_millis(number), now);
        }
        tally.failed("UNKNOWN the outcome");
        let totals = tally.close(now, true);
        assert_eq!(totals.writes.requests, 100);
        assert!(
            (totals.writes.latency.p50_ms - 50.0).abs() < 2.0,
            "{totals:?}"
        );
        assert!((totals.longest_time_without_a_write_ms - 100.0).abs() < 0.1);
        assert_eq!(totals.errors.get("UNKNOWN"), Some(&1));
    }
}
