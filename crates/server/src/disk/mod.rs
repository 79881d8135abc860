//! The disk, behind three threads.
//!
//! - The **log thread** writes a batch to its segment and syncs it. The lane may do the same itself
//!   where waiting costs nobody ([`sync_policy`]).
//! - The **segments thread** makes the files of segments ahead of need, and takes them back
//!   ([`segments`]).
//! - The **bulk thread** writes snapshot files, slowly ([`bulk`]).
//!
//! The first failed write or sync of the log is the last thing these threads do. A kernel reports a
//! lost write once and then forgets it: the next sync would "succeed" for both. So nothing is retried,
//! [`DiskReport::Failed`] goes to the lane, and the process ends without another reply.
//!
//! A full disk is met only where room is taken: while a segment or a snapshot is made. A batch goes
//! into blocks that were written before, so it cannot run out of room halfway.

pub mod bulk;
pub mod faults;
pub mod segments;
pub mod startup;
pub mod sync_policy;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use bytes::Bytes;
use kvorum_base::GroupId;
use kvorum_node::group::snapshot::SnapshotWriter;
use kvorum_node::{BatchSeq, SegmentId};

use crate::config::SyncMode;
use crate::mail::{DiskReport, Mail, Mailbox};
use crate::metrics::Metrics;
use faults::Faults;
use segments::SegmentFiles;
use sync_policy::{SyncPolicy, Turn, Where};

/// One batch of the log.
#[derive(Debug)]
pub struct Append {
    /// The segment.
    pub segment: SegmentId,
    /// Where in it.
    pub offset: u32,
    /// The batch.
    pub upto: BatchSeq,
    /// Its bytes.
    pub frame: Bytes,
}

/// Writes batches and syncs them, on whichever thread.
#[derive(Debug)]
struct LogWriter {
    files: Arc<SegmentFiles>,
    faults: Faults,
    metrics: Arc<Metrics>,
    /// Set by the first failure; asserted before each write.
    failed: AtomicBool,
}

impl LogWriter {
    /// Writes and syncs; the nanoseconds that it took.
    fn append(&self, append: &Append) -> Result<u64, String> {
        assert!(
            !self.failed.load(Ordering::Acquire),
            "a write after a failed one"
        );
        let begin = Instant::now();
        self.write_and_sync(append).map_err(|error| {
            self.failed.store(true, Ordering::Release);
            format!(
                "writing batch {} to log segment {} failed: {error}",
                append.upto, append.segment
            )
        })?;
        let nanos = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.metrics.synced(append.frame.len() as u64, nanos);
        Ok(nanos)
    }

    fn write_and_sync(&self, append: &Append) -> io::Result<()> {
        let file = self.files.file(append.segment)?;
        let end = u64::from(append.offset) + append.frame.len() as u64;
        assert!(
            end <= self.files.segment_bytes(),
            "batch {} ends at {end}, behind the end of its segment",
            append.upto
        );
        self.faults.before_write()?;
        file.write_all_at(&append.frame, u64::from(append.offset))?;
        self.faults.before_sync()?;
        file.sync_data()
    }
}

/// What the segments thread is asked.
#[derive(Debug)]
enum SegmentJob {
    Make(SegmentId),
    Free(SegmentId),
}

/// The lane's handle on its disk threads.
#[derive(Debug)]
pub struct Disk {
    writer: Arc<LogWriter>,
    policy: SyncPolicy,
    appends: Sender<Append>,
    segments: Sender<SegmentJob>,
    bulk: bulk::Bulk,
    /// Appends given to the log thread and not yet reported.
    outstanding: u64,
}

impl Disk {
    /// Starts the threads.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(
        files: SegmentFiles,
        snapshots: &Path,
        options: DiskOptions,
        metrics: Arc<Metrics>,
        mailbox: &Mailbox,
    ) -> io::Result<Self> {
        let files = Arc::new(files);
        let writer = Arc::new(LogWriter {
            files: files.clone(),
            faults: options.faults.clone(),
            metrics: metrics.clone(),
            failed: AtomicBool::new(false),
        });
        let (appends, log_jobs) = channel();
        let (segments, segment_jobs) = channel();
        let (log_writer, log_mailbox) = (writer.clone(), mailbox.clone());
        spawn("kvorum-log", move || {
            run_log(&log_writer, &log_jobs, &log_mailbox);
        })?;
        let (segment_files, segment_mailbox) = (files, mailbox.clone());
        spawn("kvorum-segments", move || {
            run_segments(&segment_files, &segment_jobs, &segment_mailbox);
        })?;
        let bulk = bulk::Bulk::start(
            snapshots,
            options.snapshot_bandwidth,
            options.faults,
            metrics,
            mailbox.clone(),
        )?;
        Ok(Self {
            writer,
            policy: SyncPolicy::new(options.sync),
            appends,
            segments,
            bulk,
            outstanding: 0,
        })
    }

    /// Gives this batch to the log thread, and a report follows. Or hands it back, if the policy says
    /// that the lane is to write it itself with [`Disk::append_here`], once nothing else is to be done.
    pub fn begin(&mut self, append: Append, turn: Turn) -> Option<Append> {
        let turn = Turn {
            frame_bytes: append.frame.len(),
            bulk_writing: self.bulk.is_writing(),
            ..turn
        };
        // With a batch in front of it at the log thread it must queue behind that one.
        if self.policy.choose(turn) == Where::Inline && self.outstanding == 0 {
            return Some(append);
        }
        self.outstanding += 1;
        let _ = self.appends.send(append);
        None
    }

    /// Writes and syncs here and now; the batch that is durable when this returns.
    ///
    /// # Errors
    /// If that failed: the process must end.
    pub fn append_here(&mut self, append: &Append) -> Result<BatchSeq, String> {
        assert_eq!(self.outstanding, 0, "batches are written in their order");
        let nanos = self.writer.append(append)?;
        self.writer.metrics.inline_syncs.one();
        self.policy.observe(nanos);
        Ok(append.upto)
    }

    /// Notes that clients were answered without waiting for the disk.
    pub fn saw_reads(&mut self) {
        self.policy.saw_reads();
    }

    /// Notes that the log thread reported one batch.
    pub fn reported(&mut self) {
        self.outstanding -= 1;
        self.policy.observe(self.writer.metrics.last_sync_nanos());
    }

    /// Makes the segment's file; a report follows.
    pub fn prepare(&self, segment: SegmentId) {
        let _ = self.segments.send(SegmentJob::Make(segment));
    }

    /// Takes the segment's file back.
    pub fn free(&self, segment: SegmentId) {
        let _ = self.segments.send(SegmentJob::Free(segment));
    }

    /// Writes a snapshot file; a report follows.
    pub fn store_snapshot(&self, group: GroupId, number: u64, writer: Box<SnapshotWriter>) {
        self.bulk.store(group, number, writer);
    }

    /// Removes a snapshot file.
    pub fn drop_snapshot(&self, group: GroupId, number: u64) {
        self.bulk.remove(group, number);
    }
}

/// How the disk is used.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Where the log is synced.
    pub sync: SyncMode,
    /// Bytes a second for snapshots.
    pub snapshot_bandwidth: u64,
    /// What goes wrong on purpose, in tests.
    pub faults: Faults,
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
}

fn run_log(writer: &LogWriter, jobs: &Receiver<Append>, mailbox: &Mailbox) {
    while let Ok(append) = jobs.recv() {
        match writer.append(&append) {
            Ok(_) => mailbox.send(Mail::Disk(DiskReport::Synced(append.upto))),
            Err(error) => {
                mailbox.send(Mail::Disk(DiskReport::Failed(error)));
                return;
            }
        }
    }
}

fn run_segments(files: &SegmentFiles, jobs: &Receiver<SegmentJob>, mailbox: &Mailbox) {
    while let Ok(job) = jobs.recv() {
        let report = match job {
            SegmentJob::Make(segment) => match files.make(segment) {
                Ok(()) => DiskReport::SegmentReady(segment),
                Err(error) if segments::is_full(&error) => DiskReport::SegmentRefused(segment),
                Err(error) => {
                    DiskReport::Failed(format!("making log segment {segment} failed: {error}"))
                }
            },
            SegmentJob::Free(segment) => match files.free(segment) {
                Ok(()) => continue,
                Err(error) => {
                    DiskReport::Failed(format!("freeing log segment {segment} failed: {error}"))
                }
            },
        };
        let failed = matches!(report, DiskReport::Failed(_));
        mailbox.send(Mail::Disk(report));
        if failed {
            return;
        }
    }
}

/// Makes the names in this directory durable.
///
/// # Errors
/// As the system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

/// Makes a directory, and those above it that are missing, so that a power cut does not take it away with
/// everything that is synced inside: that is durable in the directory, and the directory itself is a name in
/// the one above.
///
/// # Errors
/// As the system says.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = above(dir);
    make_dir(above)?;
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        made => made?,
    }
    sync_dir(above)
}

/// The directory that a name is in.
fn above(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Writes a small file so that after a crash it is there whole, old or new.
///
/// # Errors
/// As the system says; the old file is then still in place.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("tmp");
    let mut options = std::fs::OpenOptions::new();
    // It may hold a secret.
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_dir(above(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::time::Duration;
    use tokio::sync::Notify;

    const BYTES: u64 = 8192;

    struct Rig {
        disk: Disk,
        mail: Receiver<Mail>,
        dir: TempDir,
    }

    fn rig(sync: SyncMode) -> Rig {
        let dir = TempDir::new("disk");
        let faults = Faults::with_file(dir.path().join("faults"));
        let files = SegmentFiles::open(dir.path(), 0, BYTES, faults.clone()).expect("open");
        let (mailbox, mail) = Mailbox::new(Arc::new(Notify::new()));
        let options = DiskOptions {
            sync,
            snapshot_bandwidth: 1 << 30,
            faults,
        };
        let snapshots = dir.path().join(bulk::SNAPSHOT_DIR);
        let disk =
            Disk::start(files, &snapshots, options, Arc::default(), &mailbox).expect("started");
        disk.prepare(SegmentId(1));
        let rig = Rig { disk, mail, dir };
        assert!(matches!(
            rig.report(),
            DiskReport::SegmentReady(SegmentId(1))
        ));
        rig
    }

    impl Rig {
        fn report(&self) -> DiskReport {
            match self
                .mail
                .recv_timeout(Duration::from_secs(20))
                .expect("a report")
            {
                Mail::Disk(report) => report,
                other => panic!("{other:?}"),
            }
        }

        fn fault(&self, text: &str) {
            std::fs::write(self.dir.path().join("faults"), text).expect("written");
        }
    }

    fn append(number: u64) -> Append {
        Append {
            segment: SegmentId(1),
            offset: 512 * number as u32,
            upto: BatchSeq(number),
            frame: Bytes::from(vec![number as u8; 512]),
        }
    }

    #[test]
    fn the_log_thread_reports_batches_in_order() {
        let mut rig = rig(SyncMode::Helper);
        for number in 1..=3 {
            assert!(rig.disk.begin(append(number), Turn::default()).is_none());
        }
        for number in 1..=3 {
            assert!(matches!(rig.report(), DiskReport::Synced(BatchSeq(upto)) if upto == number));
            rig.disk.reported();
        }
        let bytes = std::fs::read(rig.dir.path().join("lane-0/wal-0000000001")).expect("bytes");
        assert_eq!((bytes[512], bytes[1536], bytes.len() as u64), (1, 3, BYTES));
    }

    #[test]
    fn inline_waits_for_its_turn() {
        let mut rig = rig(SyncMode::Inline);
        let here = rig
            .disk
            .begin(append(1), Turn::default())
            .expect("to be done here");
        assert_eq!(rig.disk.append_here(&here), Ok(BatchSeq(1)));
        rig.disk.outstanding = 1;
        assert!(
            rig.disk.begin(append(2), Turn::default()).is_none(),
            "one is with the log thread"
        );
    }

    #[test]
    fn after_a_failed_sync_nothing_more_is_reported() {
        let mut rig = rig(SyncMode::Helper);
        rig.fault("sync-fail");
        rig.disk.begin(append(1), Turn::default());
        rig.disk.begin(append(2), Turn::default());
        assert!(matches!(rig.report(), DiskReport::Failed(_)));
        rig.fault("");
        assert!(rig.mail.recv_timeout(Duration::from_millis(50)).is_err());
    }

    #[test]
    fn a_failed_write_here_is_an_error() {
        let mut rig = rig(SyncMode::Inline);
        rig.fault("write-fail");
        let here = rig
            .disk
            .begin(append(1), Turn::default())
            .expect("to be done here");
        assert!(
            rig.disk
                .append_here(&here)
                .expect_err("failed")
                .contains("segment 1")
        );
    }

    #[test]
    fn a_directory_is_made_with_those_above_it() {
        let dir = TempDir::new("disk");
        let deep = dir.path().join("one/two/three");
        make_dir(&deep).expect("made");
        make_dir(&deep).expect("it is there");
        assert!(deep.is_dir());
        std::fs::write(deep.join("file"), b"").expect("written");
        make_dir(&deep.join("file")).expect_err("a file is in its place");
        make_dir(&deep.join("file/four")).expect_err("a file is above it");
    }

    #[test]
    fn a_small_file_is_replaced_whole() {
        let dir = TempDir::new("disk");
        let path = dir.path().join("file");
        replace_file(&path, b"one").expect("written");
        replace_file(&path, b"two").expect("written");
        assert_eq!(std::fs::read(&path).expect("bytes"), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).expect("entries").count(), 1);
    }
}
