//! Where a batch is synced: on the lane's own thread, or on the log thread. The core cannot tell.
//!
//! Syncing inline saves two wake-ups, which is a quarter of the throughput of a lone node under
//! nothing but writes. But while the lane waits for the disk it answers no reads, and a lane that hangs
//! in a sync cannot hand its leadership over. So the log thread is the rule, and inline the exception
//! when all of this holds: the node has no peers; the last few turns answered no reads; the batch is
//! small; no snapshot is being written; and syncs have been fast.

use crate::config::SyncMode;

/// Turns without reads before the lane may sync inline.
const QUIET_TURNS: u32 = 8;
/// Largest batch to be synced inline.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Syncs that are remembered.
const WINDOW: usize = 128;
/// Syncs that may have been slow among them: with the second one the 99th percentile is slow.
const SLOW_MAX: u32 = 1;
/// What counts as slow: half a millisecond.
const SLOW_NANOS: u64 = 500_000;

/// Where to sync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Where {
    /// Here and now.
    Inline,
    /// On the log thread.
    Helper,
}

/// What is known about the turn that made the batch.
#[derive(Clone, Copy, Default, Debug)]
pub struct Turn {
    /// Whether other nodes hold replicas of what is here.
    pub peers: bool,
    /// Size of the batch; filled in by the disk.
    pub frame_bytes: usize,
    /// Whether a snapshot is being written; filled in by the disk.
    pub bulk_writing: bool,
}

/// Decides batch by batch.
#[derive(Debug)]
pub struct SyncPolicy {
    mode: SyncMode,
    quiet_turns: u32,
    /// Whether each of the last syncs was slow; a ring.
    slow: [bool; WINDOW],
    next: usize,
    slow_count: u32,
}

impl SyncPolicy {
    /// A policy that has seen nothing yet, and trusts the disk no more than that.
    #[must_use]
    pub fn new(mode: SyncMode) -> Self {
        Self {
            mode,
            quiet_turns: 0,
            slow: [true; WINDOW],
            next: 0,
            slow_count: WINDOW as u32,
        }
    }

    /// Where to sync the batch of this turn.
    pub fn choose(&mut self, turn: Turn) -> Where {
        self.quiet_turns = self.quiet_turns.saturating_add(1);
        let inline = match self.mode {
            SyncMode::Helper => false,
            SyncMode::Inline => true,
            SyncMode::Auto => {
                !turn.peers
                    && self.quiet_turns > QUIET_TURNS
                    && turn.frame_bytes <= INLINE_BYTES_MAX
                    && !turn.bulk_writing
                    && self.slow_count <= SLOW_MAX
            }
        };
        if inline { Where::Inline } else { Where::Helper }
    }

    /// Notes that clients were answered without waiting for a sync: reads, which would wait for an inline
    /// one.
    pub fn saw_reads(&mut self) {
        self.quiet_turns = 0;
    }

    /// Notes how long a write with its sync took.
    pub fn observe(&mut self, nanos: u64) {
        let slow = nanos >= SLOW_NANOS;
        self.slow_count -= u32::from(self.slow[self.next]);
        self.slow_count += u32::from(slow);
        self.slow[self.next] = slow;
        self.next = (self.next + 1) % WINDOW;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITES: Turn = Turn {
        peers: false,
        frame_bytes: 512,
        bulk_writing: false,
    };

    fn quiet(mode: SyncMode) -> SyncPolicy {
        let mut policy = SyncPolicy::new(mode);
        for _ in 0..WINDOW {
            policy.observe(100_000);
        }
        for _ in 0..=QUIET_TURNS {
            policy.choose(WRITES);
        }
        policy
    }

    #[test]
    fn pure_writes_on_a_fast_disk_are_synced_inline() {
        assert_eq!(quiet(SyncMode::Auto).choose(WRITES), Where::Inline);
        assert_eq!(
            SyncPolicy::new(SyncMode::Auto).choose(WRITES),
            Where::Helper
        );
    }

    #[test]
    fn each_condition_alone_prevents_it() {
        for turn in [
            Turn {
                peers: true,
                ..WRITES
            },
            Turn {
                frame_bytes: INLINE_BYTES_MAX + 1,
                ..WRITES
            },
            Turn {
                bulk_writing: true,
                ..WRITES
            },
        ] {
            assert_eq!(
                quiet(SyncMode::Auto).choose(turn),
                Where::Helper,
                "{turn:?}"
            );
        }
    }

    #[test]
    fn one_read_is_remembered_for_some_turns() {
        let mut policy = quiet(SyncMode::Auto);
        policy.saw_reads();
        for _ in 0..QUIET_TURNS {
            assert_eq!(policy.choose(WRITES), Where::Helper);
        }
        assert_eq!(policy.choose(WRITES), Where::Inline);
    }

    #[test]
    fn a_second_slow_sync_is_one_too_many_until_it_is_forgotten() {
        let mut policy = quiet(SyncMode::Auto);
        policy.observe(SLOW_NANOS);
        assert_eq!(policy.choose(WRITES), Where::Inline);
        policy.observe(SLOW_NANOS);
        assert_eq!(policy.choose(WRITES), Where::Helper);
        for _ in 0..WINDOW {
            policy.observe(0);
        }
        assert_eq!(policy.choose(WRITES), Where::Inline);
    }

    #[test]
    fn an_operator_can_decide() {
        assert_eq!(quiet(SyncMode::Helper).choose(WRITES), Where::Helper);
        let turn = Turn {
            peers: true,
            ..WRITES
        };
        assert_eq!(
            SyncPolicy::new(SyncMode::Inline).choose(turn),
            Where::Inline
        );
    }
}
