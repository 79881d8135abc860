//! What a map task emits: gathered in memory, sorted, combined, spilled.
//!
//! Pairs lie one after the other in an arena. What is sorted is an index of 24 bytes for each: the first
//! eight bytes of its key as a number, its partition, and where it lies; few comparisons look into the arena.
//! When arena and index reach their share of the memory they are sorted and written as one segment for each
//! partition. Without a combiner all segments stay in one file, and the reduce merges them; with one, a task
//! that has spilled several times merges its segments at its end, since that is where equal keys meet.
//!
//! Numbers that are to be added up go to a table first ([`Sums`]) and become pairs when it is full.

use std::path::{Path, PathBuf};

use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::function::{Emit, Reduce, Sink, ValueSource, Values, decimal};
use crate::shuffle::merge::{Merge, Source, prefix_of};
use crate::shuffle::partition::Partitioner;
use crate::shuffle::run::{RunFile, RunWriter};
use crate::shuffle::sums::Sums;
use crate::worker::pulse::Pulse;

/// A place in the arena is a `u32`.
const ARENA_BYTES_MAX: usize = u32::MAX as usize;
/// A larger pair is refused, whatever the memory: a block holds it whole.
const PAIR_BYTES_MAX: usize = 512 << 20;
/// A place in the arena of the sums is a `u32`, too.
const SUMS_BYTES_MAX: usize = 1 << 30;
/// So many spills of one file are merged at once; more are left to the reduce.
const MERGE_DEPTH_MAX: usize = 64;

#[derive(Clone, Copy)]
struct Entry {
    prefix: u64,
    partition: u32,
    at: u32,
    key_len: u32,
    value_len: u32,
}

const ENTRY_BYTES: usize = std::mem::size_of::<Entry>();

/// The pairs of one map attempt.
pub(crate) struct MapBuffer<'a> {
    partitioner: &'a Partitioner,
    combine: Option<Box<dyn Reduce>>,
    pulse: &'a Pulse,
    path: PathBuf,
    arena: Vec<u8>,
    entries: Vec<Entry>,
    bytes_max: usize,
    sums: Sums,
    sums_bytes_max: usize,
    spill: Option<RunWriter>,
    spills: u64,
    /// What the combiner counts.
    counters: Counters,
    pairs: u64,
}

impl<'a> MapBuffer<'a> {
    /// A buffer that writes the run file `path` in the end, within about `memory_bytes`.
    pub(crate) fn new(
        partitioner: &'a Partitioner,
        combine: Option<Box<dyn Reduce>>,
        memory_bytes: usize,
        path: &Path,
        pulse: &'a Pulse,
    ) -> Self {
        Self {
            partitioner,
            combine,
            pulse,
            path: path.to_owned(),
            arena: Vec::new(),
            entries: Vec::new(),
            bytes_max: (memory_bytes / 2).min(ARENA_BYTES_MAX),
            sums: Sums::new(),
            sums_bytes_max: (memory_bytes / 8).min(SUMS_BYTES_MAX),
            spill: None,
            spills: 0,
            counters: Counters::new(),
            pairs: 0,
        }
    }

    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let bytes = key.len() + value.len();
        let filled = self.arena.len() + (self.entries.len() + 1) * ENTRY_BYTES;
        if filled + bytes > self.bytes_max || bytes > PAIR_BYTES_MAX {
            self.spill()?;
            if bytes + ENTRY_BYTES > self.bytes_max || bytes > PAIR_BYTES_MAX {
                return Err(Error::bad_record(format!(
                    "a pair of {bytes} bytes does not fit into the memory limit"
                )));
            }
        }
        if self.arena.capacity() == 0 {
            // Address space, not memory: pages count when they are touched. Growing step by step would
            // hold two copies for a moment.
            self.arena.reserve_exact(self.bytes_max);
            self.entries.reserve_exact(self.bytes_max / ENTRY_BYTES);
        }
        let at = self.arena.len() as u32;
        self.arena.extend_from_slice(key);
        self.arena.extend_from_slice(value);
        self.entries.push(Entry {
            prefix: prefix_of(key),
            partition: self.partitioner.of(key),
            at,
            key_len: key.len() as u32,
            value_len: value.len() as u32,
        });
        self.pairs += 1;
        Ok(())
    }

    fn flush_sums(&mut self) -> Result<()> {
        self.sums.settle();
        let sums = std::mem::replace(&mut self.sums, Sums::new());
        for (key, sum) in sums.iter() {
            self.push(key, decimal(sum, &mut [0; 20]))?;
        }
        Ok(())
    }

    /// Sorts what is in memory and writes it as one segment for each partition.
    fn spill(&mut self) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let arena = &self.arena;
        self.entries.sort_unstable_by(|a, b| {
            let places = (a.partition, a.prefix).cmp(&(b.partition, b.prefix));
            // Emission order breaks the last tie: it is part of what a reduce may rely on.
            places
                .then_with(|| key_of(arena, a).cmp(key_of(arena, b)))
                .then(a.at.cmp(&b.at))
        });
        self.pulse.beat()?;
        if self.spill.is_none() {
            self.spill = Some(RunWriter::create(&self.path, self.partitioner.count())?);
        }
        let spill = self.spill.as_mut().expect("made above");
        let mut from = 0;
        while from < self.entries.len() {
            let partition = self.entries[from].partition;
            let len = self.entries[from..].partition_point(|entry| entry.partition == partition);
            let entries = &self.entries[from..from + len];
            match &mut self.combine {
                None => {
                    for entry in entries {
                        spill.pair(key_of(arena, entry), value_of(arena, entry))?;
                    }
                }
                Some(combine) => {
                    let mut sink = Combined::new(spill, self.partitioner, partition);
                    let mut memory = InMemory {
                        arena,
                        entries,
                        next: 0,
                        until: 0,
                    };
                    let counters = &mut self.counters;
                    let mut out = Emit {
                        sink: &mut sink,
                        counters,
                    };
                    while let Some(key) = memory.next_key() {
                        let mut values = Values {
                            source: &mut memory,
                        };
                        combine.reduce(key, &mut values, &mut out)?;
                    }
                    combine.finish(&mut out)?;
                }
            }
            spill.end_segment(partition)?;
            self.pulse.beat()?;
            from += len;
        }
        self.entries.clear();
        self.arena.clear();
        self.spills += 1;
        Ok(())
    }

    /// Writes what is left; the file is complete. Counts into `counters`.
    pub(crate) fn finish(mut self, counters: &mut Counters) -> Result<()> {
        self.flush_sums()?;
        self.spill()?;
        let partitions = self.partitioner.count();
        let writer = match self.spill.take() {
            Some(writer) => writer,
            None => RunWriter::create(&self.path, partitions)?,
        };
        let depth = writer.depth();
        let run = writer.finish()?;
        self.arena = Vec::new();
        self.entries = Vec::new();
        if depth > 1 && depth <= MERGE_DEPTH_MAX && self.combine.is_some() {
            self.merge(&run)?;
        }
        counters.add("map_output_pairs", self.pairs as i64);
        counters.add("map_spills", self.spills as i64);
        counters.merge(&self.counters);
        Ok(())
    }

    /// Merges the spills with the combiner into a new file, which takes the place of the old one.
    fn merge(&mut self, run: &RunFile) -> Result<()> {
        let combine = self.combine.as_mut().expect("only with a combiner");
        let path = self.path.with_extension("merge");
        let partitions = self.partitioner.count();
        let mut writer = RunWriter::create(&path, partitions)?;
        for partition in 0..partitions {
            let sources = run
                .segments(partition)
                .map(|reader| Source {
                    reader,
                    owner: None,
                })
                .collect();
            let mut merge = Merge::new(sources)?;
            let mut sink = Combined::new(&mut writer, self.partitioner, partition);
            let mut out = Emit {
                sink: &mut sink,
                counters: &mut self.counters,
            };
            reduce_all(combine.as_mut(), &mut merge, &mut out, self.pulse)?;
            writer.end_segment(partition)?;
        }
        writer.finish()?;
        std::fs::rename(&path, &self.path).map_err(Error::io(format!("rename {}", path.display())))
    }
}

/// Calls a reduce function for every key of a merge.
pub(crate) fn reduce_all(
    reduce: &mut dyn Reduce,
    merge: &mut Merge,
    out: &mut Emit<'_>,
    pulse: &Pulse,
) -> Result<u64> {
    let mut keys = 0;
    let mut key = Vec::new();
    while merge.next_key()? {
        key.clear();
        key.extend_from_slice(merge.key());
        pulse.advance(1)?;
        let mut source = Counted { merge, pulse };
        reduce.reduce(
            &key,
            &mut Values {
                source: &mut source,
            },
            out,
        )?;
        keys += 1;
    }
    reduce.finish(out)?;
    Ok(keys)
}

/// The values of a merge, each of them a sign of life.
struct Counted<'a> {
    merge: &'a mut Merge,
    pulse: &'a Pulse,
}

impl ValueSource for Counted<'_> {
    fn next_value(&mut self) -> Result<Option<&[u8]>> {
        self.pulse.advance(1)?;
        self.merge.next_value()
    }
}

impl Sink for MapBuffer<'_> {
    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.push(key, value)
    }

    fn sum(&mut self, key: &[u8], amount: u64) -> Result<()> {
        if self.sums.add(key, amount) && self.sums.bytes() > self.sums_bytes_max {
            self.flush_sums()?;
        }
        Ok(())
    }
}

fn key_of<'a>(arena: &'a [u8], entry: &Entry) -> &'a [u8] {
    let at = entry.at as usize;
    &arena[at..at + entry.key_len as usize]
}

fn value_of<'a>(arena: &'a [u8], entry: &Entry) -> &'a [u8] {
    let at = entry.at as usize + entry.key_len as usize;
    &arena[at..at + entry.value_len as usize]
}

/// Sorted pairs of one partition in memory, as keys with values.
struct InMemory<'a> {
    arena: &'a [u8],
    entries: &'a [Entry],
    next: usize,
    /// The end of the present key's entries.
    until: usize,
}

impl<'a> InMemory<'a> {
    fn next_key(&mut self) -> Option<&'a [u8]> {
        self.next = self.until;
        let key = key_of(self.arena, self.entries.get(self.next)?);
        let same = |entry: &&Entry| key_of(self.arena, entry) == key;
        self.until = self.next + self.entries[self.next..].iter().take_while(same).count();
        Some(key)
    }
}

impl ValueSource for InMemory<'_> {
    fn next_value(&mut self) -> Result<Option<&[u8]>> {
        if self.next == self.until {
            return Ok(None);
        }
        self.next += 1;
        Ok(Some(value_of(self.arena, &self.entries[self.next - 1])))
    }
}

/// What a combiner emits: it goes into the segment that is being written, so it must keep to the order of
/// keys and to the partition.
struct Combined<'a> {
    run: &'a mut RunWriter,
    partitioner: &'a Partitioner,
    partition: u32,
    last: Vec<u8>,
}

impl<'a> Combined<'a> {
    fn new(run: &'a mut RunWriter, partitioner: &'a Partitioner, partition: u32) -> Self {
        Self {
            run,
            partitioner,
            partition,
            last: Vec::new(),
        }
    }
}

impl Sink for Combined<'_> {
    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if self.last != key {
            if key < self.last.as_slice() || self.partitioner.of(key) != self.partition {
                let key = String::from_utf8_lossy(key);
                return Err(Error::new(format!(
                    "the combiner emitted {key:?} out of order: it may emit only keys it was given"
                )));
            }
            self.last.clear();
            self.last.extend_from_slice(key);
        }
        self.run.pair(key, value)
    }
}
