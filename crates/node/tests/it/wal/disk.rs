//! A disk for the log: what was written, what was synced, and what a power cut makes of the difference.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_base::Prng;
use kvorum_node::{BatchSeq, SegmentId};

pub(crate) const SECTOR: usize = 512;

/// One file: what a reader sees now, and what a power cut would leave at least.
#[derive(Clone, Debug)]
struct File {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Whether the directory entry is durable.
    linked: bool,
}

/// A batch that was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) segment: SegmentId,
    pub(crate) offset: usize,
    pub(crate) len: usize,
    pub(crate) seq: BatchSeq,
    pub(crate) synced: bool,
}

#[derive(Debug)]
pub(crate) struct Disk {
    segment_bytes: usize,
    /// What is written whole or not at all.
    sector: usize,
    files: BTreeMap<SegmentId, File>,
    /// Freed files, to be used again.
    pool: Vec<File>,
    /// Freed files whose removal is not durable.
    unlinked: Vec<(SegmentId, File)>,
    /// The batches of which the log consists, in order.
    pub(crate) written: Vec<Written>,
}

impl Disk {
    pub(crate) fn new(segment_bytes: usize, sector: usize) -> Self {
        Self {
            segment_bytes,
            sector,
            files: BTreeMap::new(),
            pool: Vec::new(),
            unlinked: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Begins to make a segment; it may be cut short by a crash until [`Self::sync_directory`].
    pub(crate) fn prepare(&mut self, segment: SegmentId, prng: &mut Prng) {
        if self.files.contains_key(&segment) {
            return;
        }
        let zeros = || vec![0; self.segment_bytes];
        let file = match self.pool.pop() {
            Some(file) if prng.chance(9, 10) => File {
                linked: false,
                ..file
            },
            _ => File {
                cached: zeros(),
                durable: zeros(),
                linked: false,
            },
        };
        self.files.insert(segment, file);
    }

    pub(crate) fn sync_directory(&mut self) {
        for file in self.files.values_mut() {
            file.linked = true;
            file.cached.resize(self.segment_bytes, 0);
        }
        for (_, file) in self.unlinked.drain(..) {
            self.pool.push(file);
        }
        self.pool.truncate(2);
    }

    pub(crate) fn free(&mut self, segment: SegmentId) {
        let file = self.files.remove(&segment).expect("a segment to free");
        let oldest = self.files.keys().next().expect("the present one remains");
        assert!(*oldest > segment, "{segment} is freed before {oldest}");
        self.unlinked.push((segment, file));
        self.written.retain(|written| written.segment != segment);
    }

    pub(crate) fn write(&mut self, segment: SegmentId, offset: u32, seq: BatchSeq, frame: &Bytes) {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(self.sector) && frame.len().is_multiple_of(self.sector));
        let file = self.files.get_mut(&segment).expect("a segment made ready");
        assert!(file.linked, "segment {segment} is written too early");
        file.cached[offset..offset + frame.len()].copy_from_slice(frame);
        if offset == 0 {
            self.written.retain(|written| written.seq < seq);
        }
        assert!(self.written.iter().all(|written| written.seq < seq));
        self.written.push(Written {
            segment,
            offset,
            len: frame.len(),
            seq,
            synced: false,
        });
    }

    pub(crate) fn sync(&mut self) {
        let last = self.written.last_mut().expect("a batch to sync");
        last.synced = true;
        let file = self.files.get_mut(&last.segment).expect("its segment");
        file.durable.clone_from(&file.cached);
    }

    /// The process is gone; what it wrote can be read.
    pub(crate) fn kill(&mut self, prng: &mut Prng) {
        let size = self.segment_bytes;
        for file in self.files.values_mut().filter(|file| !file.linked) {
            if prng.chance(1, 3) {
                file.cached.truncate(prng.index(size));
            }
        }
    }

    /// Any subset of what was not synced is lost, sector by sector, and any of the renames.
    pub(crate) fn cut_power(&mut self, prng: &mut Prng) {
        for (segment, file) in std::mem::take(&mut self.unlinked) {
            if prng.chance(1, 2) && !self.files.contains_key(&segment) {
                let linked = true;
                self.files.insert(segment, File { linked, ..file });
            }
        }
        let lose = prng.below(5);
        self.files
            .retain(|_, file| file.linked || prng.chance(1, 2));
        for file in self.files.values_mut() {
            file.durable.resize(self.segment_bytes, 0);
            for (at, sector) in file.cached.chunks_mut(self.sector).enumerate() {
                let durable = &file.durable[at * self.sector..][..sector.len()];
                if sector != durable && prng.below(4) < lose {
                    sector.copy_from_slice(durable);
                }
            }
            if !file.linked && prng.chance(1, 2) {
                file.cached.truncate(prng.index(self.segment_bytes));
            }
            file.durable.clone_from(&file.cached);
        }
    }

    /// A start: what the directory lists from now on is durable.
    pub(crate) fn list(&mut self) -> Vec<(SegmentId, Vec<u8>)> {
        for file in self.files.values_mut() {
            file.linked = true;
        }
        self.unlinked.clear();
        let files = self.files.iter();
        files
            .map(|(segment, file)| (*segment, file.cached.clone()))
            .collect()
    }

    /// Segments that are there and that the log does not know of (left over above the last one).
    pub(crate) fn segments(&self) -> Vec<SegmentId> {
        self.files.keys().copied().collect()
    }
}
