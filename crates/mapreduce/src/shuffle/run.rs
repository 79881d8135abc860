//! Run files: sorted pairs on disk, in blocks that prove themselves.
//!
//! | part | bytes |
//! |---|---|
//! | block | unpacked length u32, stored length u32, CRC32C u32 over the lengths and what follows, contents |
//! | contents | the pairs, packed by lz4, or as they are if that is not shorter |
//! | pair in a block | key length varint, value length varint, key, value; a pair never crosses a block |
//! | segment | consecutive blocks with the sorted pairs of one partition |
//! | index | number of partitions; for each: number of segments; for each: offset, length, pairs; varints |
//! | tail | length of the index u32, its CRC32C u32, `kvmrrun1` |
//!
//! A file that was not finished has no tail; a file that was damaged fails a CRC where it is read. Nothing is
//! synced: a map output that a power cut takes is made again.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_base::crc::{crc32c, crc32c_from};
use kvorum_base::cursor::{Reader, put_varint};

use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"kvmrrun1";
const TAIL_BYTES: usize = 16;
const BLOCK_HEAD_BYTES: usize = 12;
/// A block is closed when it has so much: large enough for lz4, small enough that a merge of many
/// segments fits into little memory.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;
/// No block is larger than the largest pair and a block; a length beyond is damage.
const BLOCK_BYTES_MAX: usize = 1 << 30;

/// A range of a run file that holds sorted pairs of one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) pairs: u64,
}

/// Writes a run file.
pub(crate) struct RunWriter {
    path: PathBuf,
    file: File,
    offset: u64,
    /// Segments of each partition, in the order of their writing.
    index: Vec<Vec<Segment>>,
    block: Vec<u8>,
    packed: Vec<u8>,
    segment_start: u64,
    segment_pairs: u64,
}

impl RunWriter {
    pub(crate) fn create(path: &Path, partitions: u32) -> Result<Self> {
        let file = File::create(path).map_err(Error::io(format!("create {}", path.display())))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            offset: 0,
            index: vec![Vec::new(); partitions as usize],
            block: Vec::with_capacity(BLOCK_BYTES + 256),
            packed: Vec::new(),
            segment_start: 0,
            segment_pairs: 0,
        })
    }

    /// One pair of the open segment. The caller keeps the order.
    pub(crate) fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if !self.block.is_empty() && self.block.len() + key.len() + value.len() > BLOCK_BYTES {
            self.close_block()?;
        }
        put_varint(&mut self.block, key.len() as u64);
        put_varint(&mut self.block, value.len() as u64);
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.segment_pairs += 1;
        Ok(())
    }

    /// Ends the open segment: it belongs to this partition. An empty one leaves no trace.
    pub(crate) fn end_segment(&mut self, partition: u32) -> Result<()> {
        self.close_block()?;
        if self.segment_pairs > 0 {
            self.index[partition as usize].push(Segment {
                offset: self.segment_start,
                len: self.offset - self.segment_start,
                pairs: self.segment_pairs,
            });
        }
        self.segment_start = self.offset;
        self.segment_pairs = 0;
        Ok(())
    }

    /// How many segments the partition with the most has.
    pub(crate) fn depth(&self) -> usize {
        self.index.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Writes the index; the file is complete.
    pub(crate) fn finish(mut self) -> Result<RunFile> {
        let mut index = Vec::new();
        put_varint(&mut index, self.index.len() as u64);
        for segments in &self.index {
            put_varint(&mut index, segments.len() as u64);
            for segment in segments {
                put_varint(&mut index, segment.offset);
                put_varint(&mut index, segment.len);
                put_varint(&mut index, segment.pairs);
            }
        }
        let (len, crc) = (index.len() as u32, crc32c(&index));
        index.extend_from_slice(&len.to_le_bytes());
        index.extend_from_slice(&crc.to_le_bytes());
        index.extend_from_slice(MAGIC);
        self.write(&index)?;
        // Reading goes on by name: the descriptor here is for writing alone.
        let file =
            File::open(&self.path).map_err(Error::io(format!("open {}", self.path.display())))?;
        Ok(RunFile {
            file: Arc::new(file),
            index: self.index,
        })
    }

    fn close_block(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.packed.clear();
        self.packed.resize(
            BLOCK_HEAD_BYTES + lz4_flex::block::get_maximum_output_size(self.block.len()),
            0,
        );
        let packed =
            lz4_flex::block::compress_into(&self.block, &mut self.packed[BLOCK_HEAD_BYTES..])
                .map_err(|error| Error::new(format!("lz4: {error}")))?;
        let stored = if packed < self.block.len() {
            packed
        } else {
            let end = BLOCK_HEAD_BYTES + self.block.len();
            self.packed[BLOCK_HEAD_BYTES..end].copy_from_slice(&self.block);
            self.block.len()
        };
        self.packed.truncate(BLOCK_HEAD_BYTES + stored);
        let raw = self.block.len() as u32;
        self.packed[..4].copy_from_slice(&raw.to_le_bytes());
        self.packed[4..8].copy_from_slice(&(stored as u32).to_le_bytes());
        let crc = crc32c_from(crc32c(&self.packed[..8]), &self.packed[BLOCK_HEAD_BYTES..]);
        self.packed[8..12].copy_from_slice(&crc.to_le_bytes());
        let bytes = std::mem::take(&mut self.packed);
        self.write(&bytes)?;
        self.packed = bytes;
        self.block.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(Error::io(format!("write {}", self.path.display())))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// A finished run file, open for reading.
pub(crate) struct RunFile {
    file: Arc<File>,
    index: Vec<Vec<Segment>>,
}

impl RunFile {
    /// Opens a file and reads its index.
    ///
    /// # Errors
    /// If it is not there, not complete, or damaged; as text, since only the caller knows whose it is.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let file = File::open(path).map_err(text)?;
        let len = file.metadata().map_err(text)?.len();
        let tail_at = len
            .checked_sub(TAIL_BYTES as u64)
            .ok_or("it is too short")?;
        let mut tail = [0; TAIL_BYTES];
        file.read_exact_at(&mut tail, tail_at).map_err(text)?;
        if &tail[8..] != MAGIC {
            return Err("it has no tail".to_owned());
        }
        let mut reader = Reader::new(&tail);
        let index_len = reader.u32("length").map_err(|error| error.to_string())?;
        let crc = reader.u32("crc").map_err(|error| error.to_string())?;
        let index_at = tail_at
            .checked_sub(u64::from(index_len))
            .ok_or("its index is cut")?;
        let mut bytes = vec![0; index_len as usize];
        file.read_exact_at(&mut bytes, index_at).map_err(text)?;
        if crc32c(&bytes) != crc {
            return Err("its index is damaged".to_owned());
        }
        let index = read_index(&bytes).map_err(|error| error.to_string())?;
        Ok(Self {
            file: Arc::new(file),
            index,
        })
    }

    /// Where the segments of a partition lie, in their order.
    pub(crate) fn places(&self, partition: u32) -> &[Segment] {
        self.index
            .get(partition as usize)
            .map_or(&[][..], Vec::as_slice)
    }

    /// Bytes as they lie in the file.
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Readers of all segments of a partition, in their order.
    pub(crate) fn segments(&self, partition: u32) -> impl Iterator<Item = SegmentReader> {
        self.places(partition)
            .iter()
            .map(|segment| SegmentReader::new(Arc::clone(&self.file), *segment))
    }
}

fn read_index(bytes: &[u8]) -> Result<Vec<Vec<Segment>>, kvorum_base::Malformed> {
    let mut reader = Reader::new(bytes);
    let partitions = reader.varint("partitions")?;
    let mut index = Vec::new();
    for _ in 0..partitions {
        let count = reader.varint("segments")?;
        let mut segments = Vec::new();
        for _ in 0..count {
            let offset = reader.varint("offset")?;
            let len = reader.varint("length")?;
            let pairs = reader.varint("pairs")?;
            segments.push(Segment { offset, len, pairs });
        }
        index.push(segments);
    }
    reader.end("index")?;
    Ok(index)
}

/// Reads the pairs of a segment, a block at a time.
pub(crate) struct SegmentReader {
    file: Arc<File>,
    /// Where the next block starts, and where the segment ends.
    next: u64,
    end: u64,
    packed: Vec<u8>,
    block: Vec<u8>,
    at: usize,
    key: (usize, usize),
    value: (usize, usize),
}

impl SegmentReader {
    pub(crate) fn new(file: Arc<File>, segment: Segment) -> Self {
        Self {
            file,
            next: segment.offset,
            end: segment.offset + segment.len,
            packed: Vec::new(),
            block: Vec::new(),
            at: 0,
            key: (0, 0),
            value: (0, 0),
        }
    }

    /// Goes to the next pair; false after the last.
    ///
    /// # Errors
    /// As text, if the file cannot be read or is damaged.
    pub(crate) fn advance(&mut self) -> Result<bool, String> {
        if self.at == self.block.len() {
            if self.next >= self.end {
                return Ok(false);
            }
            self.read_block()?;
        }
        let mut reader = Reader::new(&self.block[self.at..]);
        let mut lens = || Some((reader.varint("key").ok()?, reader.varint("value").ok()?));
        let (key, value) = lens().ok_or("a pair is malformed")?;
        let key_at = self.at + reader.position();
        let left = (self.block.len() - key_at) as u64;
        if key > left || value > left - key {
            return Err("a pair is longer than its block".to_owned());
        }
        let value_at = key_at + key as usize;
        self.at = value_at + value as usize;
        self.key = (key_at, value_at);
        self.value = (value_at, self.at);
        Ok(true)
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.block[self.key.0..self.key.1]
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.block[self.value.0..self.value.1]
    }

    fn read_block(&mut self) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.file
            .read_exact_at(&mut head, self.next)
            .map_err(text)?;
        let field =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (raw, stored, crc) = (field(0) as usize, field(4) as usize, field(8));
        let left = self.end.saturating_sub(self.next + BLOCK_HEAD_BYTES as u64);
        if raw > BLOCK_BYTES_MAX || stored > raw || stored as u64 > left || raw == 0 {
            return Err("a block's head is damaged".to_owned());
        }
        self.packed.resize(stored, 0);
        let at = self.next + BLOCK_HEAD_BYTES as u64;
        self.file
            .read_exact_at(&mut self.packed, at)
            .map_err(text)?;
        if crc32c_from(crc32c(&head[..8]), &self.packed) != crc {
            return Err("a block is damaged".to_owned());
        }
        if stored == raw {
            std::mem::swap(&mut self.block, &mut self.packed);
        } else {
            self.block.resize(raw, 0);
            let unpacked = lz4_flex::block::decompress_into(&self.packed, &mut self.block)
                .map_err(|error| error.to_string())?;
            if unpacked != raw {
                return Err("a block unpacks to another length".to_owned());
            }
        }
        self.next = at + stored as u64;
        self.at = 0;
        Ok(())
    }
}
