//! One attempt at one task, from its input to its complete file.

use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::app::App;
use crate::coordinator::AttemptId;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::function::{Emit, Map, Reduce, Setup, Sink, ValueSource};
use crate::input::format::Cutter;
use crate::input::read::records;
use crate::input::split::Split;
use crate::job::{Job, Program};
use crate::shuffle::buffer::{MapBuffer, reduce_all};
use crate::shuffle::merge::{Merge, Source};
use crate::shuffle::run::{BLOCK_BYTES, RunFile, RunWriter, SegmentReader};
use crate::streaming;
use crate::wire::Input;
use crate::worker::pulse::Pulse;
use crate::worker::shelf::Fetcher;
use crate::worker::station::Station;

/// What an open segment of a merge takes: a block, its packed form, and room.
const SEGMENT_BYTES: usize = 3 * BLOCK_BYTES;
/// More segments at once only cost file descriptors and comparisons.
const FAN_IN_MAX: usize = 512;
/// Bytes of output that are written at once.
const OUTPUT_BYTES: usize = 256 << 10;

/// Everything that an attempt needs.
pub(crate) struct Task<'a> {
    pub(crate) job: &'a Job,
    pub(crate) apps: &'a [App],
    pub(crate) station: &'a Station,
    pub(crate) attempt: AttemptId,
    pub(crate) pulse: &'a Arc<Pulse>,
}

impl Task<'_> {
    /// Runs a map. Its run file is complete when this returns.
    pub(crate) fn map(&self, split: &Split) -> Result<Counters> {
        self.guarded(|| self.run_map(split))
    }

    /// Runs a reduce over the outputs of these map attempts. Its output is complete and synced when this
    /// returns.
    pub(crate) fn reduce(&self, inputs: &[Input]) -> Result<Counters> {
        self.guarded(|| self.run_reduce(inputs))
    }

    /// A function that panics fails its attempt, not its worker.
    fn guarded(&self, run: impl FnOnce() -> Result<Counters>) -> Result<Counters> {
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(Error::new(format!("the function panicked: {text}")))
        })
    }

    fn setup(&self) -> Setup {
        Setup {
            params: self.job.params.clone(),
            index: self.attempt.task.index,
            reducers: self.job.partitioner.count(),
            attempt: self.attempt.to_string(),
        }
    }

    fn app(&self, name: &str) -> Result<&App> {
        let found = self.apps.iter().find(|app| app.name == name);
        found.ok_or_else(|| Error::new(format!("this worker has no app {name:?}")))
    }

    fn make_map(&self, split: &Split) -> Result<Box<dyn Map>> {
        match &self.job.program {
            Program::App(name) => (self.app(name)?.map)(&self.setup()),
            Program::Streaming { map, .. } => {
                let environment = streaming::environment(self.job, self.attempt, Some(split));
                Ok(Box::new(streaming::Child::start(
                    map,
                    environment,
                    self.job.format,
                    self.pulse,
                )?))
            }
        }
    }

    fn make_reduce(&self) -> Result<Box<dyn Reduce>> {
        match &self.job.program {
            Program::App(name) => (self.app(name)?.reduce)(&self.setup()),
            Program::Streaming { reduce, .. } => {
                let environment = streaming::environment(self.job, self.attempt, None);
                Ok(Box::new(streaming::Child::start(
                    reduce,
                    environment,
                    self.job.format,
                    self.pulse,
                )?))
            }
        }
    }

    fn make_combine(&self) -> Result<Option<Box<dyn Reduce>>> {
        match &self.job.program {
            Program::App(name) => self
                .app(name)?
                .combine
                .as_ref()
                .map(|make| make(&self.setup()))
                .transpose(),
            Program::Streaming { combine, .. } => Ok(combine.as_ref().map(|command| {
                let environment = streaming::environment(self.job, self.attempt, None);
                let combiner =
                    streaming::Combiner::new(command, environment, self.job.format, self.pulse);
                Box::new(combiner) as Box<dyn Reduce>
            })),
        }
    }

    fn run_map(&self, split: &Split) -> Result<Counters> {
        let job = self.job;
        let memory = job.memory_bytes as usize;
        let mut counters = Counters::new();
        let mut buffer = MapBuffer::new(
            &job.partitioner,
            self.make_combine()?,
            memory,
            &self.station.file(self.attempt),
            self.pulse,
        );
        let mut map = self.make_map(split)?;
        let mut cutter = Cutter::new(job.format, job.params.get("key"), job.params.get("value"));
        let (mut seen, mut bad) = (0i64, 0u64);
        let mut out = Emit {
            sink: &mut buffer,
            counters: &mut counters,
        };
        let bytes = records(split, job.format, &mut cutter, memory, &mut |record| {
            self.pulse.advance(1)?;
            seen += 1;
            let mapped = record.and_then(|record| map.map(&record, &mut out));
            match mapped {
                Err(Error::BadRecord(reason)) => {
                    bad += 1;
                    if bad <= job.bad_records_max {
                        return Ok(());
                    }
                    Err(Error::BadRecord(reason))
                }
                other => other,
            }
        })?;
        map.finish(&mut out)?;
        counters.add("map_input_records", seen);
        counters.add("map_input_bytes", bytes as i64);
        if bad > 0 {
            counters.add("bad_records_skipped", bad as i64);
        }
        buffer.finish(&mut counters)?;
        Ok(counters)
    }

    fn run_reduce(&self, inputs: &[Input]) -> Result<Counters> {
        let mut counters = Counters::new();
        let mut merge = self.open_inputs(inputs)?;
        let mut output = OutputFile::create(self.station.file(self.attempt))?;
        let mut reduce = self.make_reduce()?;
        let mut out = Emit {
            sink: &mut output,
            counters: &mut counters,
        };
        let keys = reduce_all(reduce.as_mut(), &mut merge, &mut out, self.pulse)?;
        let (lines, bytes) = (output.lines, output.finish(self.pulse)?);
        counters.add("reduce_input_keys", keys as i64);
        counters.add("reduce_output_lines", lines as i64);
        counters.add("reduce_output_bytes", bytes as i64);
        Ok(counters)
    }

    /// One merge of everything that the maps have for this partition. Segments that are too many for the
    /// memory are merged into fewer, larger ones first, in their order, so that equal keys keep theirs; and
    /// as soon as they are too many, so that no more files are open than are merged.
    fn open_inputs(&self, inputs: &[Input]) -> Result<Merge> {
        let partition = self.attempt.task.index;
        let fan_in = (self.job.memory_bytes as usize / 2 / SEGMENT_BYTES).clamp(2, FAN_IN_MAX);
        let mut sources = Vec::new();
        let mut merged = None;
        let mut fetcher = Fetcher::new(self.station, self.attempt);
        for input in inputs {
            let owner = Some(input.attempt);
            let readers = self.readers(input, partition, &mut fetcher)?;
            sources.extend(readers.into_iter().map(|reader| Source { reader, owner }));
            while sources.len() > fan_in {
                let rest = sources.split_off(fan_in);
                let group = std::mem::replace(&mut sources, rest);
                let writer = match &mut merged {
                    Some((_, writer)) => writer,
                    none => &mut none.insert(self.scratch(0)?).1,
                };
                self.merge_group(group, writer)?;
            }
            self.pulse.beat()?;
        }
        if let Some((path, mut writer)) = merged {
            self.merge_group(sources, &mut writer)?;
            sources = reopen(&path, writer)?;
        }
        let mut round = 0;
        while sources.len() > fan_in {
            round += 1;
            let (path, mut writer) = self.scratch(round)?;
            let mut all = sources.into_iter().peekable();
            while all.peek().is_some() {
                self.merge_group(all.by_ref().take(fan_in).collect(), &mut writer)?;
            }
            sources = reopen(&path, writer)?;
        }
        Merge::new(sources)
    }

    /// What one map has for a partition: as it lies, or fetched from where it is served.
    fn readers(
        &self,
        input: &Input,
        partition: u32,
        fetcher: &mut Fetcher<'_>,
    ) -> Result<Vec<SegmentReader>> {
        if !self.station.is_elsewhere(&input.place) {
            return match RunFile::open(&self.station.file(input.attempt)) {
                Ok(run) => Ok(run.segments(partition).collect()),
                Err(reason) => Err(Error::InputLost {
                    input: input.attempt,
                    reason,
                    unreachable: false,
                }),
            };
        }
        fetcher.fetch(input, partition, self.pulse)
    }

    /// A run file of this attempt for one round of merging.
    fn scratch(&self, round: u32) -> Result<(PathBuf, RunWriter)> {
        let path = self
            .station
            .scratch(self.attempt, &format!("merge-{round}"));
        let writer = RunWriter::create(&path, 1)?;
        Ok((path, writer))
    }

    /// Merges some segments into one.
    fn merge_group(&self, group: Vec<Source>, writer: &mut RunWriter) -> Result<()> {
        let mut merge = Merge::new(group)?;
        let mut key = Vec::new();
        while merge.next_key()? {
            key.clear();
            key.extend_from_slice(merge.key());
            while let Some(value) = merge.next_value()? {
                self.pulse.advance(1)?;
                writer.pair(&key, value)?;
            }
        }
        writer.end_segment(0)
    }
}

/// The segments of a finished scratch file. Its name is removed at once: the open descriptor keeps the bytes,
/// and nobody has to clean up after a crash of this task.
fn reopen(path: &Path, writer: RunWriter) -> Result<Vec<Source>> {
    let run = writer.finish()?;
    std::fs::remove_file(path).map_err(Error::io(format!("remove {}", path.display())))?;
    Ok(run
        .segments(0)
        .map(|reader| Source {
            reader,
            owner: None,
        })
        .collect())
}

/// The output of a reduce.
struct OutputFile {
    path: PathBuf,
    file: File,
    bytes: Vec<u8>,
    written: u64,
    lines: u64,
}

impl OutputFile {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(Error::io(format!("create {}", path.display())))?;
        Ok(Self {
            path,
            file,
            bytes: Vec::with_capacity(OUTPUT_BYTES),
            written: 0,
            lines: 0,
        })
    }

    fn flush(&mut self) -> Result<()> {
        self.file
            .write_all(&self.bytes)
            .map_err(Error::io(format!("write {}", self.path.display())))?;
        self.written += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    /// Syncs: the report of this attempt promises that the output is there.
    fn finish(mut self, pulse: &Pulse) -> Result<u64> {
        self.flush()?;
        pulse.beat()?;
        self.file
            .sync_data()
            .map_err(Error::io(format!("sync {}", self.path.display())))?;
        Ok(self.written)
    }

    fn end_line(&mut self) -> Result<()> {
        self.bytes.push(b'\n');
        self.lines += 1;
        if self.bytes.len() >= OUTPUT_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }
}

impl Sink for OutputFile {
    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(key);
        self.bytes.push(b'\t');
        self.bytes.extend_from_slice(value);
        self.end_line()
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(line);
        self.end_line()
    }
}
