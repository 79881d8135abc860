//! Snapshot files, written slowly by one thread.
//!
//! ```text
//! DIR/snapshots/group-1-snapshot-7       durable and read back
//! DIR/snapshots/group-1-snapshot-8.tmp   being written; removed at the next start
//! ```
//!
//! A file written at full speed holds up the log's own syncs for hundreds of milliseconds. So it goes
//! in pieces of about 1 MiB, each synced, with pauses that keep to a bandwidth. Then the file gets its
//! name, the directory is synced, and the file is read back from the disk: the log behind a snapshot
//! is freed on its word, so the word must be good.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kvorum_base::GroupId;
use kvorum_base::crc::{crc32c, crc32c_from};
use kvorum_node::group::snapshot::SnapshotWriter;

use super::faults::Faults;
use super::{make_dir, spawn, sync_dir};
use crate::mail::{DiskReport, Mail, Mailbox};
use crate::metrics::Metrics;

/// Name of the directory of snapshot files.
pub const SNAPSHOT_DIR: &str = "snapshots";

/// What the bulk thread is asked.
#[derive(Debug)]
enum Job {
    Store {
        group: GroupId,
        number: u64,
        writer: Box<SnapshotWriter>,
    },
    Remove {
        group: GroupId,
        number: u64,
    },
}

/// The handle on the bulk thread.
#[derive(Debug)]
pub struct Bulk {
    jobs: Sender<Job>,
    writing: Arc<AtomicBool>,
}

impl Bulk {
    /// Starts the thread; removes what an earlier one left half written.
    ///
    /// # Errors
    /// As the system says.
    pub fn start(
        dir: &Path,
        bandwidth: u64,
        faults: Faults,
        metrics: Arc<Metrics>,
        mailbox: Mailbox,
    ) -> io::Result<Self> {
        make_dir(dir)?;
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                std::fs::remove_file(path)?;
            }
        }
        let (jobs, queue) = channel();
        let writing = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            dir: dir.to_owned(),
            bandwidth,
            faults,
            metrics,
            mailbox,
            writing: writing.clone(),
        };
        spawn("kvorum-bulk", move || worker.run(&queue))?;
        Ok(Self { jobs, writing })
    }

    /// Whether a snapshot is being written now.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Relaxed)
    }

    pub(super) fn store(&self, group: GroupId, number: u64, writer: Box<SnapshotWriter>) {
        let _ = self.jobs.send(Job::Store {
            group,
            number,
            writer,
        });
    }

    pub(super) fn remove(&self, group: GroupId, number: u64) {
        let _ = self.jobs.send(Job::Remove { group, number });
    }
}

/// Where a snapshot's file is.
#[must_use]
pub fn path_of(dir: &Path, group: GroupId, number: u64) -> PathBuf {
    dir.join(format!("group-{group}-snapshot-{number}"))
}

/// The snapshots in the directory.
///
/// # Errors
/// As the system says.
pub fn list(dir: &Path) -> io::Result<Vec<(GroupId, u64)>> {
    make_dir(dir)?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let parsed = name
            .to_str()
            .and_then(|name| name.strip_prefix("group-"))
            .and_then(|rest| rest.split_once("-snapshot-"))
            .and_then(|(group, number)| Some((GroupId(group.parse().ok()?), number.parse().ok()?)));
        found.extend(parsed);
    }
    found.sort();
    Ok(found)
}

struct Worker {
    dir: PathBuf,
    bandwidth: u64,
    faults: Faults,
    metrics: Arc<Metrics>,
    mailbox: Mailbox,
    writing: Arc<AtomicBool>,
}

impl Worker {
    fn run(&self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Store {
                    group,
                    number,
                    mut writer,
                } => {
                    self.writing.store(true, Ordering::Relaxed);
                    let result = self.store(group, number, || writer.next_piece());
                    self.writing.store(false, Ordering::Relaxed);
                    if let Ok(bytes) = result {
                        self.metrics.snapshot_stored(bytes);
                    }
                    self.mailbox.send(Mail::Disk(DiskReport::SnapshotStored {
                        group,
                        number,
                        result: result.map_err(|error| error.to_string()),
                    }));
                }
                // A file that cannot be removed takes room and does no harm.
                Job::Remove { group, number } => {
                    let path = path_of(&self.dir, group, number);
                    let bytes = path.metadata().map_or(0, |metadata| metadata.len());
                    match std::fs::remove_file(&path) {
                        Ok(()) => self.faults.give_room(bytes),
                        Err(error) => tracing::warn!("cannot remove {}: {error}", path.display()),
                    }
                }
            }
        }
    }

    fn store(
        &self,
        group: GroupId,
        number: u64,
        pieces: impl FnMut() -> Option<Vec<u8>>,
    ) -> io::Result<u64> {
        let path = path_of(&self.dir, group, number);
        let temporary = path.with_extension("tmp");
        let mut room = 0;
        let result = self
            .write_paced(&temporary, &mut room, pieces)
            .and_then(|(bytes, crc)| {
                std::fs::rename(&temporary, &path)?;
                sync_dir(&self.dir)?;
                read_back(&path, bytes, crc)?;
                Ok(bytes)
            });
        if result.is_err() {
            let _ = std::fs::remove_file(&temporary);
            let _ = std::fs::remove_file(&path);
            self.faults.give_room(room);
        }
        result
    }

    /// Bytes written and their CRC.
    fn write_paced(
        &self,
        path: &Path,
        room: &mut u64,
        mut pieces: impl FnMut() -> Option<Vec<u8>>,
    ) -> io::Result<(u64, u32)> {
        let mut file = File::create(path)?;
        let (mut bytes, mut crc) = (0, crc32c(b""));
        while let Some(piece) = pieces() {
            let begin = Instant::now();
            self.faults.take_room(piece.len() as u64)?;
            *room += piece.len() as u64;
            file.write_all(&piece)?;
            file.sync_data()?;
            bytes += piece.len() as u64;
            crc = crc32c_from(crc, &piece);
            let due =
                Duration::from_nanos(piece.len() as u64 * 1_000_000_000 / self.bandwidth.max(1));
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
        }
        file.sync_all()?;
        Ok((bytes, crc))
    }
}

/// Reads the file from the disk, not from memory, and compares.
fn read_back(path: &Path, bytes: u64, crc: u32) -> io::Result<()> {
    let mut file = File::open(path)?;
    // Only advice: a file system that ignores it makes this check weaker, not wrong.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    let mut piece = vec![0; 1 << 20];
    let (mut read, mut read_crc) = (0, crc32c(b""));
    loop {
        let len = file.read(&mut piece)?;
        if len == 0 {
            break;
        }
        read += len as u64;
        read_crc = crc32c_from(read_crc, &piece[..len]);
    }
    if (read, read_crc) == (bytes, crc) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{} does not read back as written", path.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::sync::mpsc;
    use tokio::sync::Notify;

    fn worker(dir: &TempDir, faults: Faults) -> (Worker, mpsc::Receiver<Mail>) {
        let (mailbox, mail) = Mailbox::new(Arc::new(Notify::new()));
        let worker = Worker {
            dir: dir.path().to_owned(),
            bandwidth: u64::MAX,
            faults,
            metrics: Arc::new(Metrics::default()),
            mailbox,
            writing: Arc::default(),
        };
        (worker, mail)
    }

    fn three_pieces() -> impl FnMut() -> Option<Vec<u8>> {
        let mut left = 3u8;
        move || {
            left = left.checked_sub(1)?;
            Some(vec![left; 1000])
        }
    }

    #[test]
    fn a_snapshot_is_there_whole_under_its_name() {
        let dir = TempDir::new("bulk");
        let (worker, _mail) = worker(&dir, Faults::default());
        assert_eq!(
            worker.store(GroupId(1), 7, three_pieces()).expect("stored"),
            3000
        );
        assert_eq!(list(dir.path()).expect("listed"), [(GroupId(1), 7)]);
        let bytes = std::fs::read(path_of(dir.path(), GroupId(1), 7)).expect("bytes");
        assert_eq!((bytes.len(), bytes[0], bytes[2999]), (3000, 2, 0));
    }

    #[test]
    fn a_full_disk_leaves_nothing() {
        let dir = TempDir::new("bulk");
        let (worker, _mail) = worker(&dir, Faults::with_room(2500));
        assert!(worker.store(GroupId(1), 7, three_pieces()).is_err());
        assert_eq!(
            std::fs::read_dir(dir.path()).expect("a directory").count(),
            0
        );
        worker
            .faults
            .take_room(2500)
            .expect("the room is free again");
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let dir = TempDir::new("bulk");
        let path = dir.path().join("file");
        std::fs::write(&path, b"hello").expect("written");
        read_back(&path, 5, crc32c(b"hello")).expect("the same");
        assert!(read_back(&path, 5, crc32c(b"hellO")).is_err());
        assert!(read_back(&path, 4, crc32c(b"hell")).is_err());
    }
}
