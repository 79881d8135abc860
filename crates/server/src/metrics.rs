//! What the shell counts, and the text that Prometheus reads.
//!
//! Counters are written by the lane and the disk threads and read by the control thread: relaxed
//! atomics, each on its own. They are counted per read, turn and sync, not per request: the core
//! counts those.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one process.
        #[derive(Default, Debug)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: Counter,)*
            /// How long syncs took.
            pub sync_seconds: Histogram,
            last_sync_nanos: AtomicU64,
        }
    };
}

counters! {
    /// Turns of the lane: how often the core ran.
    turns,
    /// Reads of client sockets that delivered something.
    client_reads,
    /// Bytes from clients.
    client_bytes_in,
    /// Bytes to clients.
    client_bytes_out,
    /// Connections taken from clients.
    clients_accepted,
    /// Connections refused since there were too many.
    clients_refused,
    /// Connections open now.
    clients_open,
    /// Frames from peers.
    peer_frames_in,
    /// Bytes from peers.
    peer_bytes_in,
    /// Frames to peers.
    peer_frames_out,
    /// Bytes to peers.
    peer_bytes_out,
    /// Frames dropped since a peer had no link or its queue was full.
    peer_frames_dropped,
    /// Links that ended.
    peer_resets,
    /// Handshakes that failed, in either direction.
    peer_handshakes_failed,
    /// Bytes of the log made durable.
    log_bytes,
    /// Syncs on the lane's own thread.
    inline_syncs,
    /// Snapshot files made durable.
    snapshots_stored,
    /// Bytes of them.
    snapshot_bytes,
}

/// One number that other threads may read.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Counts so many.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Sets a number that can also fall.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the histogram's buckets in nanoseconds: from 50 us to 5 s.
const BOUNDS_NANOS: [u64; 16] = [
    50_000,
    100_000,
    200_000,
    300_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
];

/// How often something took how long.
#[derive(Default, Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_NANOS.len()],
    count: AtomicU64,
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Counts one that took so long.
    pub fn observe(&self, nanos: u64) {
        if let Some(bucket) = BOUNDS_NANOS.iter().position(|bound| nanos <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Notes that a batch of the log became durable.
    pub fn synced(&self, bytes: u64, nanos: u64) {
        self.log_bytes.add(bytes);
        self.sync_seconds.observe(nanos);
        self.last_sync_nanos.store(nanos, Ordering::Relaxed);
    }

    /// How long the newest sync took.
    #[must_use]
    pub fn last_sync_nanos(&self) -> u64 {
        self.last_sync_nanos.load(Ordering::Relaxed)
    }

    /// Notes that a snapshot file became durable.
    pub fn snapshot_stored(&self, bytes: u64) {
        self.snapshots_stored.one();
        self.snapshot_bytes.add(bytes);
    }

    /// Writes them all.
    pub fn write(&self, page: &mut Page) {
        let counters: [(&str, &str, &Counter); 17] = [
            ("turns_total", "Turns of the lane.", &self.turns),
            (
                "client_reads_total",
                "Reads of client sockets.",
                &self.client_reads,
            ),
            (
                "client_bytes_in_total",
                "Bytes from clients.",
                &self.client_bytes_in,
            ),
            (
                "client_bytes_out_total",
                "Bytes to clients.",
                &self.client_bytes_out,
            ),
            (
                "clients_accepted_total",
                "Connections taken.",
                &self.clients_accepted,
            ),
            (
                "clients_refused_total",
                "Connections refused: too many.",
                &self.clients_refused,
            ),
            (
                "peer_frames_in_total",
                "Frames from peers.",
                &self.peer_frames_in,
            ),
            (
                "peer_bytes_in_total",
                "Bytes from peers.",
                &self.peer_bytes_in,
            ),
            (
                "peer_frames_out_total",
                "Frames to peers.",
                &self.peer_frames_out,
            ),
            (
                "peer_bytes_out_total",
                "Bytes to peers.",
                &self.peer_bytes_out,
            ),
            (
                "peer_frames_dropped_total",
                "Frames without a way.",
                &self.peer_frames_dropped,
            ),
            ("peer_resets_total", "Links that ended.", &self.peer_resets),
            (
                "peer_handshakes_failed_total",
                "Failed handshakes.",
                &self.peer_handshakes_failed,
            ),
            (
                "log_bytes_total",
                "Bytes of the log made durable.",
                &self.log_bytes,
            ),
            (
                "inline_syncs_total",
                "Syncs on the lane's own thread.",
                &self.inline_syncs,
            ),
            (
                "snapshots_total",
                "Snapshot files made durable.",
                &self.snapshots_stored,
            ),
            (
                "snapshot_bytes_total",
                "Bytes of them.",
                &self.snapshot_bytes,
            ),
        ];
        for (name, help, counter) in counters {
            page.family(name, help, "counter");
            page.sample(name, &[], counter.get());
        }
        page.family("clients", "Client connections now.", "gauge");
        page.sample("clients", &[], self.clients_open.get());
        page.histogram(
            "log_sync_seconds",
            "How long a batch took to be durable.",
            &self.sync_seconds,
        );
    }
}

/// A page in the Prometheus text format, version 0.0.4.
#[derive(Default, Debug)]
pub struct Page {
    text: String,
}

impl Page {
    /// Opens a family: its name without `kvorum_`, what it is, and `counter` or `gauge`.
    pub fn family(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(
            self.text,
            "# HELP kvorum_{name} {help}\n# TYPE kvorum_{name} {kind}"
        );
    }

    /// One value of the family.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "kvorum_{name}");
        for (place, (label, text)) in labels.iter().enumerate() {
            let open = if place == 0 { '{' } else { ',' };
            let escaped = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.text, "{open}{label}=\"{escaped}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, help, "histogram");
        let mut below = 0;
        let bucket_name = format!("{name}_bucket");
        for (bound, bucket) in BOUNDS_NANOS.iter().zip(&histogram.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let bound = (*bound as f64 / 1e9).to_string();
            self.sample(&bucket_name, &[("le", &bound)], below);
        }
        let count = histogram.count.load(Ordering::Relaxed);
        self.sample(&bucket_name, &[("le", "+Inf")], count.max(below));
        let sum = histogram.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        self.sample(&format!("{name}_sum"), &[], sum);
        self.sample(&format!("{name}_count"), &[], count.max(below));
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let metrics = Metrics::default();
        for nanos in [60_000, 60_000, 150_000, 9_000_000_000] {
            metrics.synced(512, nanos);
        }
        let mut page = Page::default();
        metrics.write(&mut page);
        let text = page.finish();
        for line in [
            "kvorum_log_sync_seconds_bucket{le=\"0.00005\"} 0",
            "kvorum_log_sync_seconds_bucket{le=\"0.0001\"} 2",
            "kvorum_log_sync_seconds_bucket{le=\"0.0002\"} 3",
            "kvorum_log_sync_seconds_bucket{le=\"5\"} 3",
            "kvorum_log_sync_seconds_bucket{le=\"+Inf\"} 4",
            "kvorum_log_sync_seconds_count 4",
            "kvorum_log_bytes_total 2048",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.sample("x", &[("a", "q\"\\\n"), ("b", "2")], 1);
        assert_eq!(page.finish(), "kvorum_x{a=\"q\\\"\\\\\\n\",b=\"2\"} 1\n");
    }
}
