//! A disk that misbehaves on purpose, for tests of real processes.
//!
//! With `KVORUM_TEST_FAULTS=FILE` in the environment the file is read before each write and sync of
//! the log. It holds one word a line: `write-fail`, `sync-fail`, `sync-hang`, or `sync-delay-ms N`. A
//! test changes the file while the process runs. `KVORUM_TEST_DISK_BYTES=N` makes the disk full once
//! the log's segments and the snapshots would take more than N bytes, and what the file has behind
//! `more-disk-bytes`. Without these variables nothing is read and nothing goes wrong.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// What goes wrong; nothing by default.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    file: Option<Arc<PathBuf>>,
    /// What is left of the room. Below zero, the file has given more.
    room: Option<Arc<AtomicI64>>,
}

impl Faults {
    /// As the environment says.
    #[must_use]
    pub fn from_env() -> Self {
        let room = std::env::var("KVORUM_TEST_DISK_BYTES")
            .ok()
            .and_then(|text| text.parse::<u64>().ok());
        Self {
            file: std::env::var_os("KVORUM_TEST_FAULTS").map(|path| Arc::new(PathBuf::from(path))),
            room: room.map(|bytes| Arc::new(AtomicI64::new(signed(bytes)))),
        }
    }

    /// A disk with this many bytes of room.
    #[cfg(test)]
    pub(crate) fn with_room(bytes: u64) -> Self {
        Self {
            file: None,
            room: Some(Arc::new(AtomicI64::new(signed(bytes)))),
        }
    }

    /// A disk that does what this file says.
    #[cfg(test)]
    pub(crate) fn with_file(path: PathBuf) -> Self {
        Self {
            file: Some(Arc::new(path)),
            room: None,
        }
    }

    /// To be called before each write of the log.
    ///
    /// # Errors
    /// If the write is to fail.
    pub fn before_write(&self) -> io::Result<()> {
        if self.says("write-fail") {
            Err(io::Error::from_raw_os_error(EIO))
        } else {
            Ok(())
        }
    }

    /// To be called before each sync of the log. May take long.
    ///
    /// # Errors
    /// If the sync is to fail.
    pub fn before_sync(&self) -> io::Result<()> {
        let Some(text) = self.text() else {
            return Ok(());
        };
        while self.says("sync-hang") {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(millis) = number_in(&text, "sync-delay-ms ") {
            std::thread::sleep(Duration::from_millis(millis));
        }
        if self.says("sync-fail") {
            Err(io::Error::from_raw_os_error(EIO))
        } else {
            Ok(())
        }
    }

    /// Takes room on the disk.
    ///
    /// # Errors
    /// If there is not that much.
    pub fn take_room(&self, bytes: u64) -> io::Result<()> {
        let Some(room) = &self.room else {
            return Ok(());
        };
        let more = self
            .text()
            .and_then(|text| number_in(&text, "more-disk-bytes "));
        let more = more.map_or(0, signed);
        room.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
            Some(left - signed(bytes)).filter(|left| left.saturating_add(more) >= 0)
        })
        .map(drop)
        .map_err(|_| io::Error::from(io::ErrorKind::StorageFull))
    }

    /// Gives room back.
    pub fn give_room(&self, bytes: u64) {
        if let Some(room) = &self.room {
            room.fetch_add(signed(bytes), Ordering::AcqRel);
        }
    }

    fn says(&self, word: &str) -> bool {
        self.text()
            .is_some_and(|text| text.lines().any(|line| line.trim() == word))
    }

    fn text(&self) -> Option<String> {
        std::fs::read_to_string(self.file.as_deref()?).ok()
    }
}

/// The number behind a word.
fn number_in(text: &str, word: &str) -> Option<u64> {
    let number = text.lines().find_map(|line| line.strip_prefix(word))?;
    number.trim().parse().ok()
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Input/output error, as a broken disk reports it.
const EIO: i32 = 5;
