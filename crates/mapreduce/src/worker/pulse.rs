//! The pulse of an attempt: proof of life for the coordinator, and its word that nobody waits any more.
//!
//! The task counts what it does here; another thread reads that and renews the lease. Both sides touch
//! atomics only, so reporting costs the task next to nothing, and the lease is renewed in the middle of a
//! sort too. A long sort moves nothing; that is what the difference between a lease and a stall is for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Shared between the task and the thread that speaks for it.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    units: AtomicU64,
    abandoned: AtomicBool,
}

impl Pulse {
    /// So many records, keys or values more are done.
    ///
    /// # Errors
    /// [`Error::Abandoned`] if the coordinator said so.
    pub(crate) fn advance(&self, units: u64) -> Result<()> {
        // One writer: no need for a read-modify-write of the whole machine.
        let done = self.units.load(Ordering::Relaxed) + units;
        self.units.store(done, Ordering::Relaxed);
        self.beat()
    }

    /// Looks whether the attempt is still wanted.
    ///
    /// # Errors
    /// [`Error::Abandoned`] if it is not.
    pub(crate) fn beat(&self) -> Result<()> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(Error::Abandoned);
        }
        Ok(())
    }

    pub(crate) fn units(&self) -> u64 {
        self.units.load(Ordering::Relaxed)
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}
