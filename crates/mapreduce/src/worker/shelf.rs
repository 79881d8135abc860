//! The outputs of maps from one worker to another.
//!
//! A worker of a cluster keeps the run files of its maps and serves them, a partition at a time. A connection
//! begins with the proof of the secret; then each request is a frame, and its answer a frame and the bytes
//! that it announces: the segments of the partition, one after the other, as they lie in the file. Nothing is
//! checked on the way: each block carries its CRC, and whoever reads it looks at that.
//!
//! A reduce fetches all of its partition into one file before it merges, so that it holds no connection while
//! its function runs, and the merge is that of local files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::io::{self, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::coordinator::{AttemptId, Phase};
use crate::error::{Error, Result};
use crate::host::connections::bind;
use crate::proof;
use crate::shuffle::run::{RunFile, Segment, SegmentReader};
use crate::store::JobId;
use crate::store::client::dial;
use crate::wire::{self, Input};
use crate::worker::pulse::Pulse;
use crate::worker::station::Station;
use kvorum_secret::Secret;

/// What connections between workers are for.
const PURPOSE: &str = "outputs of maps";
/// How long a connection may take, and the next bytes on it. A worker that is slower is as good as gone: its
/// maps are done again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may be idle.
const IDLE_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are copied at once.
const COPY_BYTES: usize = 256 << 10;

/// A request.
#[derive(Serialize, Deserialize)]
struct Want {
    job: String,
    attempt: AttemptId,
    partition: u32,
}

/// The head of an answer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Have {
    /// The lengths in bytes, and the numbers of pairs, of the segments that follow.
    Segments(Vec<(u64, u64)>),
    /// Why there are none.
    Nothing(String),
}

/// Serves what lies below this directory, in a folder for each job, until the process ends. Returns where.
pub(crate) fn open(listen: &str, secret: &Secret, dir: &Path) -> Result<String> {
    let (listener, address) = bind(listen)?;
    let (secret, dir) = (secret.clone(), dir.to_owned());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            let (secret, dir) = (secret.clone(), dir.clone());
            // A broken connection is the business of the worker at its other end.
            std::thread::spawn(move || serve(stream, &secret, &dir).ok());
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream, secret: &Secret, dir: &Path) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(IDLE_PATIENCE))?;
    proof::accept(secret, &mut stream, PURPOSE)?;
    stream.set_read_timeout(Some(IDLE_PATIENCE))?;
    let mut bytes = vec![0; COPY_BYTES];
    while let Some(want) = wire::receive::<Want>(&mut stream)? {
        let run = match find(&want, dir) {
            Ok(run) => run,
            Err(reason) => {
                wire::send(&mut stream, &Have::Nothing(reason))?;
                continue;
            }
        };
        let segments = run.places(want.partition);
        let sizes = segments.iter().map(|segment| (segment.len, segment.pairs));
        wire::send(&mut stream, &Have::Segments(sizes.collect()))?;
        for segment in segments {
            let (mut at, end) = (segment.offset, segment.offset + segment.len);
            while at < end {
                let piece = &mut bytes[..(end - at).min(COPY_BYTES as u64) as usize];
                run.read_at(piece, at)?;
                stream.write_all(piece)?;
                at += piece.len() as u64;
            }
        }
    }
    Ok(())
}

/// The run file that is asked for. Nothing but run files of jobs is ever given out.
fn find(want: &Want, dir: &Path) -> Result<RunFile, String> {
    let job = JobId::parse(&want.job).map_err(|error| error.to_string())?;
    if want.attempt.task.phase != Phase::Map {
        return Err("only outputs of maps are served".to_owned());
    }
    RunFile::open(&folder(dir, &job).join(want.attempt.to_string()))
}

/// The folder of a job below a worker's directory.
pub(crate) fn folder(dir: &Path, job: &JobId) -> PathBuf {
    dir.join(job.as_str())
}

/// What one reduce fetches.
pub(crate) struct Fetcher<'a> {
    station: &'a Station,
    attempt: AttemptId,
    links: BTreeMap<String, TcpStream>,
    /// Where it is put: a file whose name is gone already.
    file: Option<Arc<File>>,
    len: u64,
    /// What is on its way from a connection to the file.
    bytes: Vec<u8>,
}

impl<'a> Fetcher<'a> {
    pub(crate) fn new(station: &'a Station, attempt: AttemptId) -> Self {
        Self {
            station,
            attempt,
            links: BTreeMap::new(),
            file: None,
            len: 0,
            bytes: Vec::new(),
        }
    }

    /// Readers of what this map has for a partition.
    ///
    /// # Errors
    /// [`Error::InputLost`] if it cannot be had; if the disk here fails, an error of this attempt.
    pub(crate) fn fetch(
        &mut self,
        input: &Input,
        partition: u32,
        pulse: &Pulse,
    ) -> Result<Vec<SegmentReader>> {
        let lost = |reason: String, unreachable| Error::InputLost {
            input: input.attempt,
            reason,
            unreachable,
        };
        let gone = |error: io::Error| lost(format!("{}: {error}", input.place), true);
        let file = self.file()?;
        let have = self.ask(input, partition).map_err(gone)?;
        let sizes = match have {
            Have::Segments(sizes) => sizes,
            Have::Nothing(reason) => return Err(lost(reason, false)),
        };
        let link = self.links.get_mut(&input.place);
        let link = link.ok_or_else(|| gone(io::ErrorKind::NotConnected.into()))?;
        self.bytes.resize(COPY_BYTES, 0);
        let mut readers = Vec::new();
        for (len, pairs) in sizes {
            let offset = self.len;
            let mut left = len;
            while left > 0 {
                pulse.advance(1)?;
                let piece = &mut self.bytes[..left.min(COPY_BYTES as u64) as usize];
                link.read_exact(piece).map_err(gone)?;
                (&*file)
                    .write_all(piece)
                    .map_err(Error::io("write what was fetched"))?;
                left -= piece.len() as u64;
            }
            self.len += len;
            let segment = Segment { offset, len, pairs };
            readers.push(SegmentReader::new(Arc::clone(&file), segment));
        }
        Ok(readers)
    }

    fn ask(&mut self, input: &Input, partition: u32) -> io::Result<Have> {
        let own = self.station.own().ok_or(io::ErrorKind::Unsupported)?;
        if !self.links.contains_key(&input.place) {
            let mut stream = dial(&input.place, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            proof::dial(&own.secret, &mut stream, PURPOSE)?;
            self.links.insert(input.place.clone(), stream);
        }
        let link = self.links.get_mut(&input.place);
        let link = link.ok_or(io::ErrorKind::NotConnected)?;
        let want = Want {
            job: own.job.to_string(),
            attempt: input.attempt,
            partition,
        };
        wire::send(link, &want)?;
        wire::receive(link)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn file(&mut self) -> Result<Arc<File>> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let path = self.station.scratch(self.attempt, "fetched");
        let what = || Error::io(format!("create {}", path.display()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(what())?;
        // The open descriptor keeps the bytes, and nobody has to clean up after a crash of this task.
        std::fs::remove_file(&path).map_err(what())?;
        let file = Arc::new(file);
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::TaskId;
    use crate::job::Layout;
    use crate::shuffle::run::RunWriter;
    use crate::worker::station::Own;

    fn map(number: u32) -> AttemptId {
        AttemptId {
            task: TaskId::map(0),
            epoch: 1,
            number,
        }
    }

    fn station(dir: &Path, place: &str, secret: &Secret) -> Station {
        let job = JobId::parse("wc-1").expect("a name");
        let own = Own {
            folder: folder(dir, &job),
            place: place.to_owned(),
            job,
            secret: secret.clone(),
        };
        Station::with(Layout::new(dir), own)
    }

    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    /// What comes of fetching this: pairs, or whether the place was reached.
    fn fetch(
        station: &Station,
        place: &str,
        (attempt, partition): (AttemptId, u32),
    ) -> Result<Pairs, bool> {
        let input = Input {
            attempt,
            place: place.to_owned(),
        };
        let mut fetcher = Fetcher::new(station, map(99));
        let readers = match fetcher.fetch(&input, partition, &Pulse::default()) {
            Ok(readers) => readers,
            Err(Error::InputLost { unreachable, .. }) => return Err(!unreachable),
            Err(other) => panic!("{other}"),
        };
        let mut pairs = Vec::new();
        for mut reader in readers {
            while reader.advance().expect("no damage") {
                pairs.push((reader.key().to_vec(), reader.value().to_vec()));
            }
        }
        Ok(pairs)
    }

    #[test]
    fn a_partition_comes_as_it_was_written_and_what_is_missing_is_told_from_who_is() {
        let dir = std::env::temp_dir().join(format!("kvorum-mr-shelf-{}", std::process::id()));
        let job = folder(&dir, &JobId::parse("wc-1").expect("a name"));
        std::fs::create_dir_all(&job).expect("a directory");
        let mut run = RunWriter::create(&job.join(map(1).to_string()), 2).expect("a file");
        for (partition, keys) in [(0, 0..3u32), (1, 100..60_000)] {
            for key in keys {
                let key = format!("{key:08}");
                run.pair(key.as_bytes(), b"v").expect("a pair");
            }
            run.end_segment(partition).expect("a segment");
        }
        run.finish().expect("a file");
        let secret = Secret::draw();
        let place = open("127.0.0.1:0", &secret, &dir).expect("a listener");
        let here = station(&dir, "127.0.0.1:1", &secret);
        assert!(here.is_elsewhere(&place) && !here.is_elsewhere("127.0.0.1:1"));
        let pairs = fetch(&here, &place, (map(1), 1)).expect("pairs");
        assert_eq!(pairs.len(), 59_900);
        assert!(pairs.is_sorted() && pairs[0].0 == b"00000100");
        assert_eq!(fetch(&here, &place, (map(1), 7)), Ok(Vec::new()));
        assert_eq!(fetch(&here, &place, (map(2), 1)), Err(true), "no such file");
        let reduce = AttemptId {
            task: TaskId::reduce(0),
            ..map(1)
        };
        assert_eq!(fetch(&here, &place, (reduce, 0)), Err(true), "not served");
        assert_eq!(fetch(&here, "127.0.0.1:1", (map(1), 1)), Err(false));
        let other = Secret::draw();
        let stranger = station(&dir, "127.0.0.1:1", &other);
        assert_eq!(fetch(&stranger, &place, (map(1), 1)), Err(false));
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
