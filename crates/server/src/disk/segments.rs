//! The files of the log's segments.
//!
//! ```text
//! DIR/lane-0/wal-0000000007    segment 7, in use
//! DIR/lane-0/free-0000000003   a file to be used again, named after what it was
//! DIR/lane-0/new-0000000008    being made; removed at the next start
//! ```
//!
//! A file has its full size and has been written once before it becomes a segment. Overwriting blocks
//! that were already written needs no change of the file system's own records, so a sync then writes
//! the data and nothing else; into a growing or merely reserved file each sync pays for a journal commit
//! as well. Files are therefore kept and used again: a new one costs writing every byte twice.
//!
//! A file used again still holds its old bytes. That is why each sector carries the segment's number:
//! what is left of an earlier use is told apart from what was written now.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kvorum_node::SegmentId;

use super::faults::Faults;
use super::{make_dir, sync_dir};

/// Files that are kept for another use; more are removed.
const FREE_FILES_MAX: usize = 4;
/// Written at once while a file is made.
const FILL_BYTES: usize = 1 << 20;

/// The segment files of one lane.
#[derive(Debug)]
pub struct SegmentFiles {
    dir: PathBuf,
    segment_bytes: u64,
    faults: Faults,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Open files of segments in use. Every segment here has a durable name.
    open: BTreeMap<SegmentId, Arc<File>>,
    /// Segments whose files are kept for another use.
    free: Vec<SegmentId>,
}

impl SegmentFiles {
    /// Opens the lane's directory below `dir`, making it if needed, and lists what is there.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(dir: &Path, lane: u32, segment_bytes: u64, faults: Faults) -> io::Result<Self> {
        let dir = lane_dir(dir, lane);
        make_dir(&dir)?;
        // Names that a killed process left may not be on the disk yet, and are about to be believed.
        sync_dir(&dir)?;
        let mut state = State {
            open: BTreeMap::new(),
            free: Vec::new(),
        };
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((kind, number)) = name.to_str().and_then(|name| name.split_once('-')) else {
                continue;
            };
            let Ok(number) = number.parse().map(SegmentId) else {
                continue;
            };
            match kind {
                "wal" => {
                    let file = OpenOptions::new()
                        .read(true)
                        .write(true)
                        .open(entry.path())?;
                    state.open.insert(number, Arc::new(file));
                    let _ = faults.take_room(segment_bytes);
                }
                // A file of another size, from another configuration, is of no use.
                "free" if entry.metadata()?.len() == segment_bytes => {
                    state.free.push(number);
                    let _ = faults.take_room(segment_bytes);
                }
                "free" | "new" => std::fs::remove_file(entry.path())?,
                _ => {}
            }
        }
        Ok(Self {
            dir,
            segment_bytes,
            faults,
            state: Mutex::new(state),
        })
    }

    /// The segments in use, oldest first.
    #[must_use]
    pub fn in_use(&self) -> Vec<SegmentId> {
        self.lock().open.keys().copied().collect()
    }

    /// Size of a segment in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// All bytes of a segment's file, in place of what the buffer held: reading many into one is twice as
    /// fast as into new ones.
    ///
    /// # Errors
    /// As the system says.
    pub fn read_into(&self, segment: SegmentId, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.clear();
        File::open(self.path("wal", segment))?
            .read_to_end(bytes)
            .map(drop)
    }

    /// The open file of a segment in use.
    ///
    /// # Errors
    /// If there is no such segment.
    pub fn file(&self, segment: SegmentId) -> io::Result<Arc<File>> {
        self.lock().open.get(&segment).cloned().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("segment {segment} was never made"),
            )
        })
    }

    /// Makes the file of a segment; durable, also its name, when this returns. One that an earlier
    /// process made is taken as it is.
    ///
    /// # Errors
    /// As the system says; nothing is left behind then. [`is_full`] tells a full disk from a broken
    /// one.
    pub fn make(&self, segment: SegmentId) -> io::Result<()> {
        if let Ok(file) = self.file(segment) {
            if file.metadata()?.len() == self.segment_bytes {
                return Ok(());
            }
            // Made by a process with another configuration, and never written.
            self.lock().open.remove(&segment);
            std::fs::remove_file(self.path("wal", segment))?;
            self.faults.give_room(self.segment_bytes);
        }
        let reused = self.lock().free.pop();
        let path = self.path("wal", segment);
        match reused {
            Some(old) => std::fs::rename(self.path("free", old), &path)?,
            None => self.fill(segment, &path)?,
        }
        sync_dir(&self.dir)?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        self.lock().open.insert(segment, Arc::new(file));
        Ok(())
    }

    fn fill(&self, segment: SegmentId, path: &Path) -> io::Result<()> {
        self.faults.take_room(self.segment_bytes)?;
        let temporary = self.path("new", segment);
        let filled = (|| {
            let mut file = File::create(&temporary)?;
            let zeros = vec![0; FILL_BYTES];
            let mut left = self.segment_bytes;
            while left > 0 {
                let piece = left.min(FILL_BYTES as u64);
                file.write_all(&zeros[..piece as usize])?;
                left -= piece;
            }
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        })();
        if filled.is_err() {
            let _ = std::fs::remove_file(&temporary);
            self.faults.give_room(self.segment_bytes);
        }
        filled
    }

    /// Takes a segment's file back, for another use or for good.
    ///
    /// # Errors
    /// As the system says.
    pub fn free(&self, segment: SegmentId) -> io::Result<()> {
        let mut state = self.lock();
        // The log thread may hold the file a moment longer: it never writes there any more.
        state.open.remove(&segment);
        let path = self.path("wal", segment);
        if state.free.len() < FREE_FILES_MAX
            && std::fs::metadata(&path)?.len() == self.segment_bytes
        {
            std::fs::rename(path, self.path("free", segment))?;
            state.free.push(segment);
        } else {
            std::fs::remove_file(path)?;
            self.faults.give_room(self.segment_bytes);
        }
        drop(state);
        // Oldest first must also hold for the names on the disk.
        sync_dir(&self.dir)
    }

    fn path(&self, kind: &str, segment: SegmentId) -> PathBuf {
        self.dir.join(file_name(kind, segment))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The segments in use in a lane's directory below `dir`, oldest first, without opening them.
///
/// # Errors
/// As the system says.
pub fn list(dir: &Path, lane: u32) -> io::Result<Vec<SegmentId>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(lane_dir(dir, lane))? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("wal-")?.parse().ok());
        found.extend(number.map(SegmentId));
    }
    found.sort();
    Ok(found)
}

/// Where a segment in use is.
#[must_use]
pub fn path_of(dir: &Path, lane: u32, segment: SegmentId) -> PathBuf {
    lane_dir(dir, lane).join(file_name("wal", segment))
}

fn lane_dir(dir: &Path, lane: u32) -> PathBuf {
    dir.join(format!("lane-{lane}"))
}

fn file_name(kind: &str, segment: SegmentId) -> String {
    format!("{kind}-{:010}", segment.0)
}

/// Whether this error says that there is no room, which passes, rather than that the disk is broken.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::FileExt;

    const BYTES: u64 = 4096;

    fn names(dir: &TempDir) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir.path().join("lane-0"))
            .expect("a directory")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("a name")
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_used_again_with_their_old_bytes() {
        let dir = TempDir::new("segments");
        let files = SegmentFiles::open(dir.path(), 0, BYTES, Faults::default()).expect("open");
        files.make(SegmentId(1)).expect("made");
        let file = files.file(SegmentId(1)).expect("file");
        file.write_all_at(b"old", 512).expect("written");
        files.free(SegmentId(1)).expect("freed");
        assert_eq!(names(&dir), ["free-0000000001"]);
        files.make(SegmentId(2)).expect("made");
        assert_eq!(names(&dir), ["wal-0000000002"]);
        let mut bytes = Vec::new();
        files.read_into(SegmentId(2), &mut bytes).expect("bytes");
        assert_eq!((bytes.len() as u64, &bytes[512..515]), (BYTES, &b"old"[..]));
        assert!(files.file(SegmentId(1)).is_err());
    }

    #[test]
    fn a_start_finds_segments_in_order_and_clears_the_rest() {
        let dir = TempDir::new("segments");
        let files = SegmentFiles::open(dir.path(), 0, BYTES, Faults::default()).expect("open");
        for number in [10, 9, 11] {
            files.make(SegmentId(number)).expect("made");
        }
        files.free(SegmentId(9)).expect("freed");
        drop(files);
        std::fs::write(dir.path().join("lane-0/new-0000000012"), b"half").expect("written");
        let files = SegmentFiles::open(dir.path(), 0, BYTES, Faults::default()).expect("open");
        assert_eq!(files.in_use(), [SegmentId(10), SegmentId(11)]);
        assert_eq!(
            names(&dir),
            ["free-0000000009", "wal-0000000010", "wal-0000000011"]
        );
        let other = SegmentFiles::open(dir.path(), 0, 2 * BYTES, Faults::default());
        drop(other.expect("open"));
        assert_eq!(
            names(&dir).len(),
            2,
            "a free file of another size is removed"
        );
    }

    #[test]
    fn a_segment_that_was_made_and_never_written_is_taken_as_it_is() {
        let dir = TempDir::new("segments");
        let open =
            |bytes| SegmentFiles::open(dir.path(), 0, bytes, Faults::default()).expect("open");
        open(BYTES).make(SegmentId(1)).expect("made");
        open(BYTES).make(SegmentId(1)).expect("there");
        let larger = open(2 * BYTES);
        larger.make(SegmentId(1)).expect("made anew");
        assert_eq!(
            larger
                .file(SegmentId(1))
                .expect("a file")
                .metadata()
                .expect("its length")
                .len(),
            2 * BYTES
        );
    }

    #[test]
    fn few_free_files_are_kept() {
        let dir = TempDir::new("segments");
        let files = SegmentFiles::open(dir.path(), 0, BYTES, Faults::default()).expect("open");
        for number in 1..=7 {
            files.make(SegmentId(number)).expect("made");
        }
        for number in 1..=7 {
            files.free(SegmentId(number)).expect("freed");
        }
        assert_eq!(names(&dir).len(), FREE_FILES_MAX);
    }

    #[test]
    fn a_full_disk_is_told_apart_and_leaves_nothing() {
        let dir = TempDir::new("segments");
        let faults = Faults::with_room(2 * BYTES);
        let files = SegmentFiles::open(dir.path(), 0, BYTES, faults).expect("open");
        files.make(SegmentId(1)).expect("room");
        files.make(SegmentId(2)).expect("room");
        let error = files.make(SegmentId(3)).expect_err("full");
        assert!(is_full(&error), "{error}");
        assert_eq!(names(&dir).len(), 2);
        files.free(SegmentId(1)).expect("freed");
        files.make(SegmentId(3)).expect("used again");
    }
}
