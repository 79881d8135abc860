//! The journal of a job: its description, then every fact that outlives a coordinator.
//!
//! Text, a line for each record: the CRC32C of the JSON document as eight hexadecimal digits, a space, the
//! document. Lines are appended and synced before anything rests on them. A last line that does not read was
//! never synced, so nothing rests on it: it is cut off. A line before the last that does not read is damage,
//! and the job is refused: what it decided cannot be known.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use kvorum_base::crc::crc32c;
use serde::{Deserialize, Serialize};

use crate::coordinator::Record;
use crate::error::{Error, Result};
use crate::job::Job;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Job(Box<Job>),
    Record(Record),
}

/// An open journal. One process at a time: the file is locked.
pub(crate) struct Journal {
    file: File,
    pending: Vec<u8>,
}

impl Journal {
    /// A new journal that holds the job. It is on the disk when this returns.
    pub(crate) fn create(path: &Path, job: &Job) -> Result<Self> {
        let what = || Error::io(format!("create {}", path.display()));
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)
            .map_err(what())?;
        let mut this = Self {
            file,
            pending: Vec::new(),
        };
        this.lock(path)?;
        this.put(&Line::Job(Box::new(job.clone())))?;
        this.sync()?;
        Ok(this)
    }

    /// An old journal: the job and its records so far.
    pub(crate) fn open(path: &Path) -> Result<(Self, Job, Vec<Record>)> {
        let what = || Error::io(format!("open {}", path.display()));
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(path)
            .map_err(what())?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(what())?;
        let this = Self {
            file,
            pending: Vec::new(),
        };
        this.lock(path)?;
        let damaged = |why: String| Error::new(format!("{} is damaged: {why}", path.display()));
        let (lines, good) = parse(&bytes).map_err(damaged)?;
        this.file.set_len(good as u64).map_err(what())?;
        let mut lines = lines.into_iter();
        let Some(Line::Job(job)) = lines.next() else {
            return Err(damaged("it does not begin with a job".to_owned()));
        };
        let mut records = Vec::new();
        for line in lines {
            match line {
                Line::Record(record) => records.push(record),
                Line::Job(_) => return Err(damaged("it holds two jobs".to_owned())),
            }
        }
        Ok((this, *job, records))
    }

    /// Keeps a record for the next sync.
    pub(crate) fn append(&mut self, record: Record) -> Result<()> {
        self.put(&Line::Record(record))
    }

    /// Writes and syncs what was appended. After an error nothing is known about the file: the caller ends.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.file
            .write_all(&self.pending)
            .map_err(Error::io("write the journal"))?;
        self.file
            .sync_data()
            .map_err(Error::io("sync the journal"))?;
        self.pending.clear();
        Ok(())
    }

    fn put(&mut self, line: &Line) -> Result<()> {
        let text = serde_json::to_string(line).map_err(|error| Error::new(error.to_string()))?;
        self.pending
            .extend_from_slice(format!("{:08x} {text}\n", crc32c(text.as_bytes())).as_bytes());
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<()> {
        match self.file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                "another coordinator works for this job".to_owned(),
            )),
            Err(TryLockError::Error(error)) => {
                Err(Error::io(format!("lock {}", path.display()))(error))
            }
        }
    }
}

/// The lines of a journal, and how many bytes of it they are.
fn parse(bytes: &[u8]) -> Result<(Vec<Line>, usize), String> {
    let mut lines = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[at..]).map(|len| at + len);
        let line = end.and_then(|end| read_line(&bytes[at..end]));
        match (line, end) {
            (Some(line), Some(end)) => {
                lines.push(line);
                at = end + 1;
            }
            (None, Some(end)) if end + 1 < bytes.len() => {
                return Err(format!("the line at byte {at}"));
            }
            _ => break,
        }
    }
    Ok((lines, at))
}

fn read_line(line: &[u8]) -> Option<Line> {
    let (crc, text) = (line.get(..8)?, line.get(9..)?);
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?, 16).ok()?;
    (crc == crc32c(text) && line[8] == b' ').then(|| serde_json::from_slice(text).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            let text = serde_json::to_string(&Line::Record(record.clone())).expect("JSON");
            bytes.extend(format!("{:08x} {text}\n", crc32c(text.as_bytes())).into_bytes());
        }
        bytes
    }

    #[test]
    fn wherever_the_end_is_torn_what_was_whole_is_kept() {
        let records: Vec<Record> = (1..4).map(Record::Epoch).collect();
        let bytes = text(&records);
        let ends: Vec<usize> = (0..=3).map(|count| text(&records[..count]).len()).collect();
        for cut in 0..=bytes.len() {
            let (lines, good) = parse(&bytes[..cut]).expect("a torn end is no damage");
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!((lines.len(), good), (whole, ends[whole]), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_before_the_last_line_is_damage() {
        let records: Vec<Record> = (1..4).map(Record::Epoch).collect();
        let bytes = text(&records);
        let last = text(&records[..2]).len();
        // Without the last of these line ends: flipped, it makes one unreadable last line of two.
        for at in 0..last - 1 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(parse(&flipped).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_record_in_the_journal() {
        assert_eq!(
            text(&[Record::Epoch(3)]),
            b"2d104c68 {\"record\":{\"epoch\":3}}\n"
        );
    }
}
