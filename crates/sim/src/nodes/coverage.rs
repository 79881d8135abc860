//! What a run has seen. A judge that never met a torn batch has said nothing about torn batches.

use std::collections::BTreeMap;
use std::fmt;

use kvorum_node::Status;
use kvorum_node::status::Counters;

/// Counters of what happened in one run, or in many.
#[derive(Clone, Default, Debug)]
pub struct Coverage {
    /// Processes killed.
    pub kills: u64,
    /// Machines that lost power.
    pub power_cuts: u64,
    /// Torn batches cut off at a start.
    pub torn_batches: u64,
    /// Nodes that found their log damaged.
    pub lost_nodes: u64,
    /// Bits flipped.
    pub flipped_bits: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Segments that could not be made.
    pub segments_refused: u64,
    /// Segments freed.
    pub segments_freed: u64,
    /// Partitions.
    pub partitions: u64,
    /// Processes stopped for a while.
    pub pauses: u64,
    /// Leaderships handed over on request.
    pub transfers: u64,
    /// Operations that were done.
    pub done: u64,
    /// Operations refused.
    pub refused: u64,
    /// Operations whose outcome nobody knows.
    pub unknown: u64,
    /// Writes repeated through a session.
    pub repeated: u64,
    lives: BTreeMap<(usize, u64), Counters>,
}

impl Coverage {
    /// Takes a node's own counters in.
    pub fn observe(&mut self, life: (usize, u64), status: &Status) {
        self.lives.insert(life, status.counters);
    }

    /// Adds another run.
    pub fn add(&mut self, other: &Self, run: usize) {
        for (sum, more) in self.own_mut().into_iter().zip(other.own()) {
            *sum += more.1;
        }
        for ((machine, life), counters) in &other.lives {
            self.lives.insert((run << 8 | machine, *life), *counters);
        }
    }

    fn own(&self) -> [(&'static str, u64); 15] {
        [
            ("kills", self.kills),
            ("power cuts", self.power_cuts),
            ("torn batches", self.torn_batches),
            ("lost nodes", self.lost_nodes),
            ("flipped bits", self.flipped_bits),
            ("failed syncs", self.failed_syncs),
            ("segments refused", self.segments_refused),
            ("segments freed", self.segments_freed),
            ("partitions", self.partitions),
            ("pauses", self.pauses),
            ("transfers", self.transfers),
            ("operations done", self.done),
            ("operations refused", self.refused),
            ("operations unknown", self.unknown),
            ("repeated through sessions", self.repeated),
        ]
    }

    fn own_mut(&mut self) -> [&mut u64; 15] {
        [
            &mut self.kills,
            &mut self.power_cuts,
            &mut self.torn_batches,
            &mut self.lost_nodes,
            &mut self.flipped_bits,
            &mut self.failed_syncs,
            &mut self.segments_refused,
            &mut self.segments_freed,
            &mut self.partitions,
            &mut self.pauses,
            &mut self.transfers,
            &mut self.done,
            &mut self.refused,
            &mut self.unknown,
            &mut self.repeated,
        ]
    }

    /// All counters by name.
    #[must_use]
    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let sum = |of: fn(&Counters) -> u64| self.lives.values().map(of).sum::<u64>();
        let mut all = self.own().to_vec();
        all.extend([
            ("elections", sum(|counters| counters.elections)),
            ("primaries elected", sum(|counters| counters.elected)),
            ("entries applied", sum(|counters| counters.entries_applied)),
            ("log batches", sum(|counters| counters.log_batches)),
            ("redirects", sum(|counters| counters.redirects)),
            ("entries truncated", sum(|counters| counters.truncations)),
            (
                "snapshots stored",
                sum(|counters| counters.snapshots_stored),
            ),
            (
                "snapshots installed",
                sum(|counters| counters.snapshots_installed),
            ),
            ("keys expired", sum(|counters| counters.expired_keys)),
            ("divergences", sum(|counters| counters.divergences)),
            (
                "malformed frames",
                sum(|counters| counters.frames_malformed),
            ),
        ]);
        all
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.all() {
            writeln!(f, "  {count:>10} {name}")?;
        }
        Ok(())
    }
}
