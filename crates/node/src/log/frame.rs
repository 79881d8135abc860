//! Batches of records in stamped sectors: what one write puts on the disk, and how reading tells a
//! write that never finished from bytes that went bad.
//!
//! A batch is what one sync makes durable, so it is the unit in which a power cut tears the log. It
//! begins on a sector boundary and fills whole sectors, so a sector that was synced is never written
//! again. Every sector opens with a stamp:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | use number of the segment |
//! | 4 | 4 | its complement |
//!
//! and the bytes behind the stamps, put together, are the batch:
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 4 | checksum | CRC32C of bytes 4 to 40, seeded with salt, use number and offset |
//! | 4 | 1 | version | 1 |
//! | 5 | 1 | sector size | its binary logarithm: 9 or 12 |
//! | 6 | 2 | reserved | 0 |
//! | 8 | 8 | sequence | of the batch, from 1 |
//! | 16 | 8 | synced | the last batch that was durable when this one was written |
//! | 24 | 4 | previous segment | where the batch before this one stands; 0 before the first |
//! | 28 | 4 | previous offset | |
//! | 32 | 4 | length | of the records, in bytes |
//! | 36 | 4 | count | of the records |
//! | 40 | - | records | as in `format::wal`, seeded with salt, use number, offset and position |
//! | - | - | padding | 0, up to the end of the last sector |
//!
//! # Torn or damaged
//!
//! Assumed of the disk: a sector is written whole or not at all; sectors of one write arrive in any
//! order, or never; what a sync has confirmed stays, except for what goes bad. A segment's file is
//! overwritten again and again under new use numbers, or is all zero at first, so a sector that a
//! write did not reach shows an *older* use number, or zeros, or lies behind the end of the file. No
//! content can look like that, whatever clients store, since the stamp is not content.
//!
//! So a batch that lacks a sector was never synced, unless a later batch says it was: it is *torn*,
//! and nobody was promised anything on it. A batch whose sectors are all there and whose content is
//! wrong is *damaged*. If its header is unreadable its length is unknown, and the first sector alone
//! decides: there (by its stamp) and wrong is damaged.
//!
//! A restart writes the last batches again under the same numbers, so a number alone does not name a
//! batch: each says where the one before it stands. Otherwise, with the second writing of batch 7 gone
//! bad, the first one would pass as what batch 8 follows, without what the second had more.
//!
//! The checksums are seeded with where the bytes stand, so that a sector of an earlier use, of another
//! place or of another node's log never passes for this one; the salt keeps clients, who choose the
//! content, from making something that looks like a batch.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_base::crc::crc32c_from;
use kvorum_base::{GroupId, Malformed, Reader};

use super::{BatchSeq, SegmentId};
use crate::format::wal::{self, Placed, Record, Sink, batch_seed, seed_at};

/// The bytes of a sector's stamp.
pub(crate) const STAMP_BYTES: usize = 8;

/// The bytes of a batch's header.
pub(crate) const BATCH_HEADER_BYTES: usize = 40;

const VERSION: u8 = 1;

/// The smallest sector that a log may have; readers look for batches at every multiple of it.
const SECTOR_BYTES_MIN: usize = 512;

/// How many bytes of sectors a batch with this many bytes of records takes.
pub(crate) fn frame_len(records: usize, sector: usize) -> usize {
    (BATCH_HEADER_BYTES + records).div_ceil(sector - STAMP_BYTES) * sector
}

/// How many bytes of records a batch in this many bytes of sectors can have.
pub(crate) fn records_that_fit(bytes: usize, sector: usize) -> usize {
    (bytes / sector * (sector - STAMP_BYTES)).saturating_sub(BATCH_HEADER_BYTES)
}

fn stamp(segment: SegmentId) -> [u8; STAMP_BYTES] {
    let mut stamp = [0; STAMP_BYTES];
    stamp[..4].copy_from_slice(&segment.0.to_le_bytes());
    stamp[4..].copy_from_slice(&(!segment.0).to_le_bytes());
    stamp
}

/// Where a batch stands. Segment 0 is nowhere: before the first batch of a log.
pub(crate) type Spot = (SegmentId, u32);

/// Where a batch will stand, which is part of its checksums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The log's salt.
    pub(crate) salt: u64,
    /// The segment.
    pub(crate) segment: SegmentId,
    /// Where in the segment, in bytes.
    pub(crate) offset: u32,
    /// The sector size, in bytes.
    pub(crate) sector: usize,
}

impl Place {
    fn seed(&self) -> u32 {
        batch_seed(self.salt, self.segment.0, self.offset)
    }
}

/// Writes one batch.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    place: Place,
    seed: u32,
    out: Vec<u8>,
    /// How many bytes of the batch were put so far, stamps not counted.
    position: usize,
    count: u32,
}

impl FrameWriter {
    /// A batch at this place, with room for this many bytes of records.
    pub(crate) fn new(place: Place, records_hint: usize) -> Self {
        let mut writer = Self {
            seed: place.seed(),
            place,
            out: Vec::with_capacity(frame_len(records_hint, place.sector)),
            position: 0,
            count: 0,
        };
        writer.put(&[0; BATCH_HEADER_BYTES]);
        writer
    }

    /// Appends a record.
    pub(crate) fn push(
        &mut self,
        group: GroupId,
        sequence: u64,
        record: &Record,
        scratch: &mut Vec<u8>,
    ) {
        let seed = seed_at(self.seed, self.position);
        wal::encode(self, seed, group, sequence, record, scratch);
        self.count += 1;
    }

    /// Fills in the header and pads to a whole sector.
    pub(crate) fn finish(mut self, seq: BatchSeq, synced: BatchSeq, previous: Spot) -> Bytes {
        let mut header = [0; BATCH_HEADER_BYTES];
        let length = (self.position - BATCH_HEADER_BYTES) as u32;
        header[4] = VERSION;
        header[5] = self.place.sector.trailing_zeros() as u8;
        header[8..16].copy_from_slice(&seq.0.to_le_bytes());
        header[16..24].copy_from_slice(&synced.0.to_le_bytes());
        header[24..28].copy_from_slice(&previous.0.0.to_le_bytes());
        header[28..32].copy_from_slice(&previous.1.to_le_bytes());
        header[32..36].copy_from_slice(&length.to_le_bytes());
        header[36..].copy_from_slice(&self.count.to_le_bytes());
        let checksum = crc32c_from(self.seed, &header[4..]);
        header[..4].copy_from_slice(&checksum.to_le_bytes());
        // The header always lies within the first sector.
        self.out[STAMP_BYTES..STAMP_BYTES + BATCH_HEADER_BYTES].copy_from_slice(&header);
        let padded = self.out.len().next_multiple_of(self.place.sector);
        self.out.resize(padded, 0);
        Bytes::from(self.out)
    }
}

impl Sink for FrameWriter {
    fn put(&mut self, mut bytes: &[u8]) {
        let sector = self.place.sector;
        while !bytes.is_empty() {
            if self.out.len().is_multiple_of(sector) {
                self.out.extend_from_slice(&stamp(self.place.segment));
            }
            let room = sector - self.out.len() % sector;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.out.extend_from_slice(now);
            self.position += now.len();
            bytes = later;
        }
    }
}

/// What the stamp of a sector says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sector {
    /// Written in this use of the segment.
    Written,
    /// Not written in this use.
    Lacking,
    /// Neither: this is not a stamp.
    Wrong,
}

/// Judges the sector at `at`. One that the file does not hold whole is lacking.
fn sector_at(bytes: &[u8], at: usize, sector: usize, segment: SegmentId) -> Sector {
    let Some(bytes) = bytes.get(at..at.saturating_add(sector)) else {
        return Sector::Lacking;
    };
    let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let complement = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    if number == !complement {
        return match number {
            _ if number == segment.0 => Sector::Written,
            1.. if number < segment.0 => Sector::Lacking,
            _ => Sector::Wrong,
        };
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return Sector::Lacking;
    }
    Sector::Wrong
}

/// The header of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHeader {
    /// The batch.
    pub(crate) seq: BatchSeq,
    /// The last batch that was durable before this one was written.
    pub(crate) synced: BatchSeq,
    /// Where the batch before this one stands.
    pub(crate) previous: Spot,
    /// The bytes of its records.
    pub(crate) length: usize,
    /// How many they are.
    pub(crate) count: u32,
    /// The sector size it was written with, in bytes.
    pub(crate) sector: usize,
}

fn read_header(bytes: &[u8], place: &Place) -> Result<BatchHeader, Malformed> {
    let at = place.offset as usize + STAMP_BYTES;
    let mut reader = Reader::new(bytes);
    reader.take(at, "batch")?;
    let header = reader.take(BATCH_HEADER_BYTES, "batch header")?;
    let mut reader = Reader::new(header);
    if reader.u32("batch checksum")? != crc32c_from(place.seed(), &header[4..]) {
        return Err(reader.malformed("batch checksum"));
    }
    if reader.u8("batch version")? != VERSION {
        return Err(reader.malformed("batch version"));
    }
    let sector = match reader.u8("sector size")? {
        log @ (9 | 12) => 1 << log,
        _ => return Err(reader.malformed("sector size")),
    };
    if reader.u16("reserved")? != 0 {
        return Err(reader.malformed("reserved"));
    }
    let header = BatchHeader {
        seq: BatchSeq(reader.u64("batch sequence")?),
        synced: BatchSeq(reader.u64("synced batch")?),
        previous: (
            SegmentId(reader.u32("previous segment")?),
            reader.u32("previous offset")?,
        ),
        length: reader.u32("batch length")? as usize,
        count: reader.u32("record count")?,
        sector,
    };
    let in_range = header.seq.0 <= crate::format::NUMBER_MAX && header.synced < header.seq;
    if !in_range {
        return Err(reader.malformed("batch sequence"));
    }
    Ok(header)
}

/// A batch read whole.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) header: BatchHeader,
    /// Where it stands in its segment, in bytes.
    pub(crate) offset: u32,
    pub(crate) records: Vec<Placed>,
}

/// Where the batches of a segment end, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stop {
    /// Where the next batch would stand, in bytes.
    pub(crate) offset: u32,
    /// Whether sectors of a batch are there at all. If not, the log simply ends.
    pub(crate) begun: bool,
    /// What is wrong with the batch there, if it lacks no sector.
    pub(crate) damage: Option<String>,
}

/// What headers say of older batches: also those of torn batches, since a batch is written only after
/// the one before is durable.
#[derive(Clone, Default, Debug)]
pub(crate) struct Proofs {
    /// The last batch that was durable.
    pub(crate) synced: BatchSeq,
    /// How far each segment was durable: the offset of its last batch that another one follows.
    followed: BTreeMap<SegmentId, u32>,
}

impl Proofs {
    fn note(&mut self, header: &BatchHeader) {
        let (segment, offset) = header.previous;
        self.synced = self.synced.max(header.synced);
        let followed = self.followed.entry(segment).or_default();
        *followed = offset.max(*followed);
    }

    pub(crate) fn add(&mut self, more: &Self) {
        self.synced = self.synced.max(more.synced);
        for (segment, offset) in &more.followed {
            let followed = self.followed.entry(*segment).or_default();
            *followed = (*offset).max(*followed);
        }
    }

    /// Whether what stood here was durable. By place and not by number, since a number can have been
    /// used twice.
    pub(crate) fn cover(&self, (segment, offset): Spot) -> bool {
        self.followed
            .get(&segment)
            .is_some_and(|followed| offset <= *followed)
    }
}

/// Walks the batches of one segment.
#[derive(Debug)]
pub(crate) struct SegmentReader<'a> {
    bytes: &'a [u8],
    place: Place,
    pub(crate) proofs: Proofs,
    stop: Option<Stop>,
}

impl<'a> SegmentReader<'a> {
    pub(crate) fn new(salt: u64, segment: SegmentId, bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            place: Place {
                salt,
                segment,
                offset: 0,
                sector: SECTOR_BYTES_MIN,
            },
            proofs: Proofs::default(),
            stop: None,
        }
    }

    /// The next batch, or `None` at the first place that has none; [`Self::stop`] then says why.
    pub(crate) fn next_batch(&mut self) -> Option<Batch> {
        if self.stop.is_some() {
            return None;
        }
        match self.read() {
            Ok(batch) => {
                let len = frame_len(batch.header.length, batch.header.sector);
                self.place.offset += len as u32;
                Some(batch)
            }
            Err((begun, damage)) => {
                self.stop = Some(Stop {
                    offset: self.place.offset,
                    begun,
                    damage,
                });
                None
            }
        }
    }

    /// Why there was no further batch.
    ///
    /// # Panics
    /// Before [`Self::next_batch`] has said so.
    pub(crate) fn stop(&self) -> &Stop {
        self.stop.as_ref().expect("the walk has ended")
    }

    /// The batch at the current place; else whether something of one is there, and the damage.
    fn read(&mut self) -> Result<Batch, (bool, Option<String>)> {
        let (bytes, at) = (self.bytes, self.place.offset as usize);
        match sector_at(bytes, at, SECTOR_BYTES_MIN, self.place.segment) {
            Sector::Written => {}
            Sector::Lacking => return Err((self.anything_after(at), None)),
            Sector::Wrong => return Err((true, Some("a sector's stamp is wrong".to_owned()))),
        }
        let header = read_header(bytes, &self.place)
            .map_err(|malformed| (true, Some(malformed.to_string())))?;
        self.proofs.note(&header);
        let end = at + frame_len(header.length, header.sector);
        let mut wrong = None;
        for start in (at..end).step_by(header.sector) {
            match sector_at(bytes, start, header.sector, self.place.segment) {
                Sector::Written => {}
                Sector::Lacking => return Err((true, None)),
                Sector::Wrong => wrong = wrong.or(Some(start)),
            }
        }
        if let Some(start) = wrong {
            return Err((true, Some(format!("the stamp at byte {start} is wrong"))));
        }
        let records = read_records(&bytes[at..end], &self.place, &header)
            .map_err(|malformed| (true, Some(malformed.to_string())))?;
        Ok(Batch {
            header,
            offset: self.place.offset,
            records,
        })
    }

    /// Whether any sector from here on was written in this use.
    fn anything_after(&self, at: usize) -> bool {
        (at..self.bytes.len())
            .step_by(SECTOR_BYTES_MIN)
            .any(|at| self.sector(at) == Sector::Written)
    }

    fn sector(&self, at: usize) -> Sector {
        sector_at(self.bytes, at, SECTOR_BYTES_MIN, self.place.segment)
    }

    /// Looks behind the stop for headers of later batches, which may prove that what stands at the
    /// stop had been synced.
    pub(crate) fn search_claims(&mut self) {
        let from = self.stop().offset as usize;
        for at in (from..self.bytes.len()).step_by(SECTOR_BYTES_MIN) {
            if self.sector(at) != Sector::Written {
                continue;
            }
            let place = Place {
                offset: at as u32,
                ..self.place
            };
            if let Ok(header) = read_header(self.bytes, &place) {
                self.proofs.note(&header);
            }
        }
    }
}

fn read_records(
    frame: &[u8],
    place: &Place,
    header: &BatchHeader,
) -> Result<Vec<Placed>, Malformed> {
    let mut content = Vec::with_capacity(frame.len());
    for sector in frame.chunks_exact(header.sector) {
        content.extend_from_slice(&sector[STAMP_BYTES..]);
    }
    let end = BATCH_HEADER_BYTES + header.length;
    let padding = content.split_off(end);
    if let Some(at) = padding.iter().position(|&byte| byte != 0) {
        return Err(Malformed {
            what: "batch padding",
            at: end + at,
        });
    }
    let content = Bytes::from(content);
    let seed = place.seed();
    let mut records = Vec::new();
    let mut at = BATCH_HEADER_BYTES;
    while at < end {
        let (placed, next) = wal::decode(&content, at, seed_at(seed, at))?;
        records.push(placed);
        at = next;
    }
    if records.len() != header.count as usize {
        return Err(Malformed {
            what: "record count",
            at,
        });
    }
    Ok(records)
}
