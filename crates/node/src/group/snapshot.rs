//! Snapshot files as pure bytes.

/// Makes the bytes of a snapshot file, piece by piece, on whatever thread has time.
#[derive(Debug)]
pub struct SnapshotWriter {}

impl SnapshotWriter {
    /// The next piece of the file, at most about 1 MiB; `None` after the last.
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        None
    }
}
