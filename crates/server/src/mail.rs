//! How other threads speak to a lane: one bounded queue, and a wake-up for the lane's driver.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use kvorum_base::GroupId;
use kvorum_node::{BatchSeq, Control, SegmentId};
use tokio::sync::Notify;

/// Messages that may wait. Disk threads answer what they were asked, so only control requests could
/// ever fill it, and those are refused then.
const MAILBOX_LEN: usize = 4096;

/// One message to a lane.
#[derive(Debug)]
pub enum Mail {
    /// From the disk threads.
    Disk(DiskReport),
    /// From an operator.
    Control(Control),
    /// Publish the status now instead of at the next second.
    Publish,
}

/// What a disk thread has done.
#[derive(Debug)]
pub enum DiskReport {
    /// Every batch up to this one is durable.
    Synced(BatchSeq),
    /// The segment's file is there and durable.
    SegmentReady(SegmentId),
    /// There is no room for the segment's file.
    SegmentRefused(SegmentId),
    /// A snapshot file is durable and was read back, or why not.
    SnapshotStored {
        /// The group.
        group: GroupId,
        /// Which of its snapshots.
        number: u64,
        /// The file's size in bytes.
        result: Result<u64, String>,
    },
    /// A write or a sync of the log failed: nothing after it can be believed.
    Failed(String),
}

/// The sending side; cheap to copy.
#[derive(Clone, Debug)]
pub struct Mailbox {
    queue: SyncSender<Mail>,
    wake: Arc<Notify>,
}

impl Mailbox {
    /// A mailbox that wakes through `wake`, and its receiving side.
    #[must_use]
    pub fn new(wake: Arc<Notify>) -> (Self, Receiver<Mail>) {
        let (queue, receiver) = sync_channel(MAILBOX_LEN);
        (Self { queue, wake }, receiver)
    }

    /// Sends, waiting for room. Nothing happens if the lane has ended.
    pub fn send(&self, mail: Mail) {
        let _ = self.queue.send(mail);
        self.wake.notify_one();
    }

    /// Sends if there is room; says whether.
    #[must_use]
    pub fn try_send(&self, mail: Mail) -> bool {
        let sent = self.queue.try_send(mail).is_ok();
        self.wake.notify_one();
        sent
    }
}
