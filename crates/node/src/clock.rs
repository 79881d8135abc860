//! Time for meaning: what an entry's clock says.
//!
//! No single wall clock is believed. A primary whose clock is a year ahead, if only for a second,
//! would expire every key that has a time to live, for ever. So the clock of an entry is the median of
//! the voters' wall clocks, as carried by their frames; of an even number the lower of the two in the
//! middle; and never less than the last one in the log. While fewer than a majority are known it
//! stands still.

use std::collections::BTreeMap;

use kvorum_base::{NodeId, UnixMillis};

/// What was last heard of one node's wall clock.
#[derive(Clone, Copy, Debug)]
struct Reading {
    wall: UnixMillis,
    at_tick: u64,
}

/// The wall clocks of this node and its peers, read at known ticks.
#[derive(Debug)]
pub(crate) struct Clocks {
    readings: BTreeMap<NodeId, Reading>,
    tick_ms: u64,
    /// Older readings count as unknown.
    keep_ticks: u64,
}

impl Clocks {
    pub(crate) fn new(tick_ms: u64, keep_ticks: u64) -> Self {
        Self {
            readings: BTreeMap::new(),
            tick_ms,
            keep_ticks,
        }
    }

    /// A node said what its wall clock shows.
    pub(crate) fn heard(&mut self, node: NodeId, wall: UnixMillis, now_tick: u64) {
        if wall > UnixMillis::ZERO {
            self.readings.insert(
                node,
                Reading {
                    wall,
                    at_tick: now_tick,
                },
            );
        }
    }

    /// What that node's wall clock should show now, if it was heard lately.
    pub(crate) fn of(&self, node: NodeId, now_tick: u64) -> Option<UnixMillis> {
        let reading = self.readings.get(&node)?;
        let age = now_tick.saturating_sub(reading.at_tick);
        (age <= self.keep_ticks).then(|| reading.wall + age * self.tick_ms)
    }

    /// The median of these nodes' clocks, if a majority of them is known.
    pub(crate) fn median(
        &self,
        nodes: impl Iterator<Item = NodeId>,
        now_tick: u64,
    ) -> Option<UnixMillis> {
        self.middle(nodes, now_tick).map(|(lower, _)| lower)
    }

    /// How far this node's clock is from the median of all. Of an even number nobody can say which of the two
    /// in the middle is right, so whoever lies between them is not off:
    ///
    /// 1. A leads; its clock is two seconds behind. It hears B and C, sees that it is off, and hands over.
    /// 2. B hears only A. Were it measured by the lower of the two, it would find itself off, and not stand.
    /// 3. So does C. A leads on for ever, though two of three are right.
    pub(crate) fn skew_ms(
        &self,
        of: NodeId,
        nodes: impl Iterator<Item = NodeId>,
        now_tick: u64,
    ) -> Option<u64> {
        let own = self.of(of, now_tick)?;
        let (lower, upper) = self.middle(nodes, now_tick)?;
        Some((own - upper).max(lower - own))
    }

    /// The one or two clocks in the middle, if a majority is known.
    fn middle(
        &self,
        nodes: impl Iterator<Item = NodeId>,
        now_tick: u64,
    ) -> Option<(UnixMillis, UnixMillis)> {
        let mut total = 0;
        let mut known: Vec<UnixMillis> = Vec::with_capacity(8);
        for node in nodes {
            total += 1;
            known.extend(self.of(node, now_tick));
        }
        if known.len() * 2 <= total {
            return None;
        }
        known.sort_unstable();
        Some((known[(known.len() - 1) / 2], known[known.len() / 2]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> impl Iterator<Item = NodeId> {
        (1..=3).map(NodeId)
    }

    #[test]
    fn one_wrong_clock_decides_nothing() {
        let mut clocks = Clocks::new(10, 100);
        clocks.heard(NodeId(1), UnixMillis(1_000), 0);
        assert_eq!(
            clocks.median(nodes(), 0),
            None,
            "one of three is no majority"
        );
        clocks.heard(NodeId(2), UnixMillis(900_000_000), 0);
        assert_eq!(
            clocks.median(nodes(), 0),
            Some(UnixMillis(1_000)),
            "the lower of two"
        );
        clocks.heard(NodeId(3), UnixMillis(1_005), 0);
        assert_eq!(clocks.median(nodes(), 0), Some(UnixMillis(1_005)));
    }

    #[test]
    fn readings_go_on_and_grow_old() {
        let mut clocks = Clocks::new(10, 100);
        clocks.heard(NodeId(1), UnixMillis(1_000), 5);
        assert_eq!(clocks.of(NodeId(1), 8), Some(UnixMillis(1_030)));
        assert_eq!(clocks.of(NodeId(1), 106), None);
        assert_eq!(clocks.of(NodeId(2), 5), None);
    }

    #[test]
    fn of_two_clocks_neither_is_off() {
        let mut clocks = Clocks::new(10, 100);
        clocks.heard(NodeId(1), UnixMillis(1_000), 0);
        clocks.heard(NodeId(2), UnixMillis(9_000), 0);
        let skew = |clocks: &Clocks, node| clocks.skew_ms(NodeId(node), nodes(), 0);
        assert_eq!((skew(&clocks, 1), skew(&clocks, 2)), (Some(0), Some(0)));
        clocks.heard(NodeId(3), UnixMillis(9_005), 0);
        assert_eq!((skew(&clocks, 1), skew(&clocks, 3)), (Some(8_000), Some(5)));
    }
}
