//! Bits that flip while no process runs, where the next start must notice.

use super::{Host, State};
use crate::disk::{FileName, SECTOR};

/// The bytes of a sector's stamp and of a batch's header in the log, to aim at what counts.
const STAMP_BYTES: usize = 8;
const BATCH_HEADER_BYTES: usize = 40;
/// Where in a batch's content the length of its records stands.
const RECORDS_LEN_AT: usize = 32;

impl Host {
    /// Flips a bit of the synced log, in a byte that is covered by a checksum. The process must not
    /// run. False if there is nothing to flip.
    pub fn flip_log(&self) -> bool {
        let mut state = self.state.borrow_mut();
        assert!(state.process.is_none(), "flips are seen at a start");
        let State {
            disk, prng, synced, ..
        } = &mut *state;
        // The newest frames matter most: they hold what was promised last.
        let newest = prng.below(4).min(synced.len() as u64) as usize;
        let at = match prng.chance(1, 2) {
            true => synced.len().checked_sub(1 + newest),
            false => (!synced.is_empty()).then(|| prng.index(synced.len())),
        };
        let Some(frame) = at.and_then(|at| synced.get(at)) else {
            return false;
        };
        let name = FileName::Segment(frame.segment.0);
        let Some(bytes) = disk.read(&name) else {
            return false;
        };
        let frame_bytes = &bytes[frame.offset..frame.offset + frame.len];
        let len_at = STAMP_BYTES + RECORDS_LEN_AT;
        let len = u32::from_le_bytes(frame_bytes[len_at..len_at + 4].try_into().expect("four"));
        let content = prng.index(BATCH_HEADER_BYTES + len as usize);
        let room = SECTOR - STAMP_BYTES;
        let at = frame.offset + content / room * SECTOR + STAMP_BYTES + content % room;
        let wanted = name.clone();
        let flipped = disk.flip_bit(|name, _| (*name == wanted).then_some(at..at + 1));
        state.is_flipped = flipped.is_some();
        flipped.is_some()
    }

    /// Flips a bit of the newest snapshot file. The process must not run. False if there is none.
    pub fn flip_snapshot(&self) -> bool {
        let mut state = self.state.borrow_mut();
        assert!(state.process.is_none(), "flips are seen at a start");
        let is_snapshot = |name: &&FileName| matches!(name, FileName::Snapshot { .. });
        let newest = state.disk.names().filter(is_snapshot).last().cloned();
        let flipped = state
            .disk
            .flip_bit(|name, bytes| (Some(name) == newest.as_ref()).then_some(0..bytes.len()));
        if flipped.is_some() {
            *self.awaits_repair.borrow_mut() = newest;
        }
        flipped.is_some()
    }
}
