//! What a client queued between MULTI and EXEC.
//!
//! Only the queue is kept here. Which commands may be queued, what makes a transaction fail and what
//! EXEC does with it is for whoever knows commands.

use crate::args::{Args, ArgsBuf};
use crate::limits::TransactionLimits;

/// The queue would be larger than allowed. The transaction is dirty now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueFull;

/// A transaction that is being queued.
#[derive(Clone, Default, Debug)]
pub struct Transaction {
    queued: Vec<ArgsBuf>,
    dirty: bool,
    bytes: usize,
}

impl Transaction {
    /// The commands in order. None once it is dirty, since they will never run.
    #[must_use]
    pub fn queued(&self) -> &[ArgsBuf] {
        &self.queued
    }

    /// Whether a command was refused while queueing: EXEC must refuse them all.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// What the queue costs, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues a copy of a command. A dirty transaction only pretends to: its client is still told
    /// QUEUED.
    ///
    /// # Errors
    /// If it would be too many or too large; then the transaction is dirty.
    pub fn queue(&mut self, args: Args<'_>, limits: &TransactionLimits) -> Result<(), QueueFull> {
        if self.dirty {
            return Ok(());
        }
        let command = ArgsBuf::from(args);
        let bytes = self.bytes + command.memory_bytes();
        if self.queued.len() >= limits.commands_max || bytes > limits.bytes_max {
            self.refuse();
            return Err(QueueFull);
        }
        self.bytes = bytes;
        self.queued.push(command);
        Ok(())
    }

    /// A command was refused while queueing. Frees the queue.
    pub fn refuse(&mut self) {
        *self = Self {
            dirty: true,
            ..Self::default()
        };
    }

    /// The commands, to be run.
    #[must_use]
    pub fn into_queued(self) -> Vec<ArgsBuf> {
        self.queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_grows_too_large_is_dropped_and_stays_refused() {
        let limits = TransactionLimits {
            commands_max: 2,
            bytes_max: 1000,
        };
        let get: ArgsBuf = ["GET", "k"].iter().collect();
        let large: ArgsBuf = [vec![0u8; 1000]].iter().collect();

        let mut transaction = Transaction::default();
        assert_eq!(transaction.queue(get.as_args(), &limits), Ok(()));
        assert_eq!(transaction.queue(large.as_args(), &limits), Err(QueueFull));
        assert!(transaction.is_dirty());
        assert_eq!((transaction.queued().len(), transaction.bytes()), (0, 0));
        assert_eq!(transaction.queue(get.as_args(), &limits), Ok(()));
        assert!(transaction.into_queued().is_empty());

        let mut transaction = Transaction::default();
        assert_eq!(transaction.queue(get.as_args(), &limits), Ok(()));
        assert_eq!(transaction.queue(get.as_args(), &limits), Ok(()));
        assert!(transaction.bytes() > 2 * size_of::<ArgsBuf>());
        assert_eq!(transaction.queue(get.as_args(), &limits), Err(QueueFull));
    }
}
