//! The disk of one simulated node: what was written, what of it is durable, and what a power cut
//! leaves.
//!
//! Every file has two contents: the page cache, which every reader sees, and the platter. A sync
//! copies the one to the other, sector by sector. Killing the process loses nothing; a power cut
//! throws the page cache away, and of the sectors that were written and not synced it keeps **any
//! subset**. A sync that fails marks its sectors clean all the same, as Linux does: the next sync
//! succeeds without writing them, readers see good bytes, and the next power cut takes them away.
//!
//! Directories are such a pair too: a file that was made, renamed or removed without a sync of its
//! directory may be found either way after a power cut. Segments are recycled, so that a fresh
//! segment is full of an earlier one's bytes.
//!
//! Media assumption, the log's own: a sector of 512 bytes is written whole or not at all. Bits flip
//! only where [`Disk::flip_bit`] says so.
//!
//! It knows nothing of what the bytes mean, and does not keep time: how long an operation takes is
//! asked of it ([`Disk::sync_time`]) and waited for by the host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvorum_base::Prng;

/// The unit that a power cut spares or takes, in bytes.
pub const SECTOR: usize = 512;

/// How many freed segments are kept to be recycled.
const POOL_MAX: usize = 4;

/// Names a file: in the log by segment, among snapshots by group and number, else by a fixed name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FileName {
    /// A segment of the log.
    Segment(u32),
    /// A segment's file that waits for its next use.
    Pooled(u64),
    /// A snapshot that is complete.
    Snapshot {
        /// Whose.
        group: u64,
        /// Which.
        number: u64,
    },
    /// A snapshot that is being written.
    Unfinished {
        /// Whose.
        group: u64,
        /// Which.
        number: u64,
    },
    /// The node's identity.
    Manifest,
    /// The next content of the manifest, being written.
    ManifestDraft,
}

/// What can go wrong, and how slow it is. Changed at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conduct {
    /// The shortest sync.
    pub sync_min: Duration,
    /// The longest sync.
    pub sync_max: Duration,
    /// How many bytes there is room for.
    pub capacity: u64,
    /// Whether the next sync fails, once.
    pub fail_next_sync: bool,
}

impl Default for Conduct {
    fn default() -> Self {
        Self {
            sync_min: Duration::from_micros(80),
            sync_max: Duration::from_micros(2000),
            capacity: u64::MAX,
            fail_next_sync: false,
        }
    }
}

/// A sync or write that failed. What it covered is in an unknown state for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failed;

/// No room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// One file's bytes. `inode` numbers survive renames.
#[derive(Clone, Default)]
struct Content {
    /// What readers see.
    cached: Vec<u8>,
    /// What a power cut leaves, before the draw over `dirty`.
    platter: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

type Inode = u64;

/// One node's disk.
pub struct Disk {
    prng: Prng,
    conduct: Conduct,
    contents: BTreeMap<Inode, Content>,
    /// The directory as readers see it.
    names: BTreeMap<FileName, Inode>,
    /// The directory as of its last sync.
    synced_names: BTreeMap<FileName, Inode>,
    inodes_made: Inode,
    segment_size: usize,
}

impl Disk {
    /// An empty disk for segments of this size.
    #[must_use]
    pub fn new(prng: Prng, segment_size: usize) -> Self {
        assert_eq!(
            segment_size % SECTOR,
            0,
            "segments are made of whole sectors"
        );
        Self {
            prng,
            conduct: Conduct::default(),
            contents: BTreeMap::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            inodes_made: 0,
            segment_size,
        }
    }

    /// What can go wrong.
    pub fn conduct_mut(&mut self) -> &mut Conduct {
        &mut self.conduct
    }

    /// How long the sync that begins now will take.
    pub fn sync_time(&mut self) -> Duration {
        let (min, max) = (self.conduct.sync_min, self.conduct.sync_max);
        let micros = self
            .prng
            .range(min.as_micros() as u64, max.as_micros() as u64);
        Duration::from_micros(micros)
    }

    /// Makes the file of a segment in its full size, out of a freed one if there is one, and syncs
    /// the directory. One that an earlier life has made is taken as it is.
    ///
    /// # Errors
    /// If there is no room.
    pub fn prepare_segment(&mut self, segment: u32) -> Result<(), Full> {
        let name = FileName::Segment(segment);
        if self.names.contains_key(&name) {
            self.sync_directory();
            return Ok(());
        }
        let pooled = self.pooled().next().cloned();
        if let Some(old) = pooled {
            let inode = self.names.remove(&old).expect("it was just listed");
            self.names.insert(name, inode);
        } else {
            if self.used() + self.segment_size as u64 > self.conduct.capacity {
                return Err(Full);
            }
            // A fresh file is full of zeros, as unwritten extents read.
            self.create(name, vec![0; self.segment_size]);
        }
        self.sync_directory();
        Ok(())
    }

    /// Gives a segment back. The directory is not synced: after a power cut it may be there again.
    ///
    /// # Panics
    /// If there is no such segment, or an older one is still there: they are freed in order.
    pub fn free_segment(&mut self, segment: u32) {
        let oldest = self.segments().next();
        assert_eq!(
            oldest,
            Some(segment),
            "segments are freed strictly oldest first"
        );
        let inode = self
            .names
            .remove(&FileName::Segment(segment))
            .expect("it is the oldest");
        if self.pooled().count() < POOL_MAX {
            self.names
                .insert(FileName::Pooled(u64::from(segment)), inode);
        }
    }

    /// Writes into a segment, as far as the page cache.
    ///
    /// # Panics
    /// If the place is not one that the log may write: not in the segment, or not whole sectors.
    pub fn write_segment(&mut self, segment: u32, offset: usize, bytes: &[u8]) {
        assert_eq!(offset % SECTOR, 0, "a frame starts on a sector");
        assert_eq!(bytes.len() % SECTOR, 0, "a frame is whole sectors");
        let inode = self.names.get(&FileName::Segment(segment));
        let inode = *inode.unwrap_or_else(|| panic!("write to segment {segment}: not made"));
        let content = self
            .contents
            .get_mut(&inode)
            .expect("named files have contents");
        let end = offset + bytes.len();
        assert!(
            end <= content.cached.len(),
            "write past the end of segment {segment}"
        );
        content.cached[offset..end].copy_from_slice(bytes);
        content.dirty.extend(offset / SECTOR..end / SECTOR);
    }

    /// Syncs the log's segments.
    ///
    /// # Errors
    /// If the sync was made to fail. The sectors count as clean all the same.
    pub fn sync_segments(&mut self) -> Result<(), Failed> {
        let inodes: Vec<Inode> = self
            .names
            .iter()
            .filter(|(name, _)| matches!(name, FileName::Segment(_)))
            .map(|(_, inode)| *inode)
            .collect();
        let fails = std::mem::take(&mut self.conduct.fail_next_sync);
        for inode in inodes {
            self.clean(inode, fails);
        }
        if fails { Err(Failed) } else { Ok(()) }
    }

    /// Writes a whole file under this name, replacing what was there, as far as the page cache.
    ///
    /// # Errors
    /// If there is no room.
    pub fn write_file(&mut self, name: FileName, bytes: &[u8]) -> Result<(), Full> {
        if self.used() + bytes.len() as u64 > self.conduct.capacity {
            return Err(Full);
        }
        let inode = self.create(name, bytes.to_vec());
        let content = self.contents.get_mut(&inode).expect("just made");
        content.platter.clear();
        content.dirty.extend(0..bytes.len().div_ceil(SECTOR));
        Ok(())
    }

    /// Syncs one file's bytes, but not its name.
    ///
    /// # Errors
    /// If the sync was made to fail.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn sync_file(&mut self, name: &FileName) -> Result<(), Failed> {
        let fails = std::mem::take(&mut self.conduct.fail_next_sync);
        let inode = self.names[name];
        self.clean(inode, fails);
        if fails { Err(Failed) } else { Ok(()) }
    }

    /// Renames a file over whatever has the new name. Not durable before [`Disk::sync_directory`].
    ///
    /// # Panics
    /// If there is no such file.
    pub fn rename(&mut self, from: &FileName, to: FileName) {
        let inode = self
            .names
            .remove(from)
            .unwrap_or_else(|| panic!("rename of missing {from:?}"));
        self.names.insert(to, inode);
    }

    /// Removes a file if it is there. Not durable before [`Disk::sync_directory`].
    pub fn remove(&mut self, name: &FileName) {
        self.names.remove(name);
    }

    /// Makes all names durable.
    pub fn sync_directory(&mut self) {
        self.synced_names = self.names.clone();
        let live: BTreeSet<Inode> = self.names.values().copied().collect();
        self.contents.retain(|inode, _| live.contains(inode));
    }

    /// What a reader sees under this name.
    #[must_use]
    pub fn read(&self, name: &FileName) -> Option<&[u8]> {
        let inode = self.names.get(name)?;
        Some(&self.contents[inode].cached)
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &FileName> {
        self.names.keys()
    }

    /// The segments that are there, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = u32> + '_ {
        self.names.keys().filter_map(|name| match name {
            FileName::Segment(segment) => Some(*segment),
            _ => None,
        })
    }

    /// Cuts the power. Of the sectors that were not synced any subset survives, and so does any
    /// subset of the changes of names.
    pub fn power_cut(&mut self) {
        // One draw for the whole cut makes "all", "nothing" and "nearly all" as likely as a mixture.
        let survive_per_mille = match self.prng.below(4) {
            0 => 0,
            1 => 1000,
            2 => 900,
            _ => self.prng.below(1001),
        };
        for content in self.contents.values_mut() {
            for sector in std::mem::take(&mut content.dirty) {
                if self.prng.chance(survive_per_mille, 1000) {
                    content.harden(sector);
                }
            }
            content.cached.clone_from(&content.platter);
        }
        let names = self.names_after_cut(survive_per_mille);
        self.names.clone_from(&names);
        self.synced_names = names;
        let live: BTreeSet<Inode> = self.names.values().copied().collect();
        self.contents.retain(|inode, _| live.contains(inode));
    }

    /// A journalled directory keeps its changes in order: what survives is a mixture by file, where
    /// a file has its old name or its new one but never both or a stranger's.
    fn names_after_cut(&mut self, survive_per_mille: u64) -> BTreeMap<FileName, Inode> {
        let by_inode = |names: &BTreeMap<FileName, Inode>| -> BTreeMap<Inode, FileName> {
            names
                .iter()
                .map(|(name, inode)| (*inode, name.clone()))
                .collect()
        };
        let (old, new) = (by_inode(&self.synced_names), by_inode(&self.names));
        let inodes: BTreeSet<Inode> = old.keys().chain(new.keys()).copied().collect();
        let mut result = BTreeMap::new();
        for inode in inodes {
            let changed = old.get(&inode) != new.get(&inode);
            let survives = !changed || self.prng.chance(survive_per_mille, 1000);
            let name = if survives {
                new.get(&inode)
            } else {
                old.get(&inode)
            };
            if let Some(name) = name {
                // Where a file was renamed over another, the later inode is the newer one.
                result.insert(name.clone(), inode);
            }
        }
        // Renaming over a file is atomic: until it is durable the old one is there.
        for (name, inode) in &self.synced_names {
            if self.names.contains_key(name) {
                result.entry(name.clone()).or_insert(*inode);
            }
        }
        result
    }

    /// Flips one bit of what is durable in a file of this kind, within the bytes that `range` picks
    /// of it. Returns which file, and where.
    pub fn flip_bit(
        &mut self,
        is_victim: impl Fn(&FileName, &[u8]) -> Option<std::ops::Range<usize>>,
    ) -> Option<(FileName, usize)> {
        let victims: Vec<(FileName, Inode, std::ops::Range<usize>)> = self
            .names
            .iter()
            .filter_map(|(name, inode)| {
                let range = is_victim(name, &self.contents[inode].cached)?;
                (!range.is_empty()).then(|| (name.clone(), *inode, range))
            })
            .collect();
        let (name, inode, range) = self.prng.pick(&victims)?.clone();
        let at = self.prng.range(range.start as u64, range.end as u64 - 1) as usize;
        let bit = 1u8 << self.prng.below(8);
        let content = self
            .contents
            .get_mut(&inode)
            .expect("named files have contents");
        content.cached[at] ^= bit;
        if let Some(byte) = content.platter.get_mut(at) {
            *byte ^= bit;
        }
        Some((name, at))
    }

    fn create(&mut self, name: FileName, bytes: Vec<u8>) -> Inode {
        self.inodes_made += 1;
        let content = Content {
            platter: bytes.clone(),
            cached: bytes,
            dirty: BTreeSet::new(),
        };
        self.contents.insert(self.inodes_made, content);
        self.names.insert(name, self.inodes_made);
        self.inodes_made
    }

    fn clean(&mut self, inode: Inode, lose: bool) {
        let content = self
            .contents
            .get_mut(&inode)
            .expect("named files have contents");
        for sector in std::mem::take(&mut content.dirty) {
            if !lose {
                content.harden(sector);
            }
        }
    }

    fn pooled(&self) -> impl Iterator<Item = &FileName> {
        self.names
            .keys()
            .filter(|name| matches!(name, FileName::Pooled(_)))
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .map(|inode| self.contents[inode].cached.len() as u64)
            .sum()
    }
}

impl Content {
    /// Copies one sector to the platter.
    fn harden(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(self.cached.len());
        if self.platter.len() < end {
            self.platter.resize(end, 0);
        }
        self.platter[start..end].copy_from_slice(&self.cached[start..end]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: FileName = FileName::Segment(1);

    fn disk(seed: u64) -> Disk {
        let mut disk = Disk::new(Prng::new(seed), 16 * SECTOR);
        disk.prepare_segment(1).expect("there is room");
        disk
    }

    fn sectors(disk: &Disk, name: &FileName) -> Vec<u8> {
        disk.read(name)
            .expect("the file")
            .chunks(SECTOR)
            .map(|sector| sector[7])
            .collect()
    }

    #[test]
    fn what_was_synced_survives_and_of_the_rest_any_subset() {
        let mut subsets = BTreeSet::new();
        for seed in 0..200 {
            let mut disk = disk(seed);
            disk.write_segment(1, 0, &[1; SECTOR]);
            disk.sync_segments().expect("it was not told to fail");
            disk.write_segment(1, SECTOR, &[2; 3 * SECTOR]);
            disk.power_cut();
            let found = sectors(&disk, &SEGMENT);
            assert_eq!(found[0], 1, "seed {seed}: a synced sector is gone");
            subsets.insert(found[1..4].to_vec());
        }
        assert_eq!(
            subsets.len(),
            8,
            "some subset of three sectors never survived"
        );
    }

    #[test]
    fn a_killed_process_loses_nothing() {
        let mut disk = disk(1);
        disk.write_segment(1, 0, &[3; 2 * SECTOR]);
        assert_eq!(sectors(&disk, &SEGMENT)[..3], [3, 3, 0]);
    }

    #[test]
    fn after_a_failed_sync_the_next_one_succeeds_and_saves_nothing() {
        let mut disk = disk(1);
        disk.write_segment(1, 0, &[4; SECTOR]);
        disk.conduct_mut().fail_next_sync = true;
        assert_eq!(disk.sync_segments(), Err(Failed));
        disk.write_segment(1, SECTOR, &[5; SECTOR]);
        assert_eq!(disk.sync_segments(), Ok(()));
        assert_eq!(
            sectors(&disk, &SEGMENT)[..2],
            [4, 5],
            "the page cache looks well"
        );
        disk.power_cut();
        assert_eq!(sectors(&disk, &SEGMENT)[..2], [0, 5]);
    }

    #[test]
    fn a_recycled_segment_is_full_of_old_bytes() {
        let mut disk = disk(1);
        disk.write_segment(1, 0, &[6; 16 * SECTOR]);
        disk.sync_segments().expect("it was not told to fail");
        disk.prepare_segment(2).expect("there is room");
        disk.free_segment(1);
        disk.prepare_segment(3).expect("there is room");
        assert_eq!(sectors(&disk, &FileName::Segment(3)), [6; 16]);
        assert_eq!(disk.segments().collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_rename_without_a_directory_sync_may_be_lost() {
        let name = FileName::Snapshot {
            group: 1,
            number: 1,
        };
        let draft = FileName::Unfinished {
            group: 1,
            number: 1,
        };
        let mut outcomes = BTreeSet::new();
        for seed in 0..100 {
            let mut disk = disk(seed);
            disk.write_file(draft.clone(), &[7; 700])
                .expect("there is room");
            disk.sync_file(&draft).expect("it was not told to fail");
            disk.sync_directory();
            disk.rename(&draft, name.clone());
            disk.power_cut();
            let found = (disk.read(&name).is_some(), disk.read(&draft).is_some());
            assert!(found.0 != found.1);
            outcomes.insert(found);
        }
        assert_eq!(outcomes.len(), 2);
    }

    #[test]
    fn a_named_file_may_be_empty_if_its_bytes_were_not_synced() {
        let name = FileName::Snapshot {
            group: 1,
            number: 1,
        };
        let holes = (0..50).filter(|seed| {
            let mut disk = disk(*seed);
            disk.write_file(name.clone(), &[7; 2 * SECTOR])
                .expect("there is room");
            disk.sync_directory();
            disk.power_cut();
            disk.read(&name) != Some(&[7; 2 * SECTOR])
        });
        assert!(holes.count() > 5);
    }

    #[test]
    fn a_full_disk_makes_no_segment() {
        let mut disk = disk(1);
        disk.conduct_mut().capacity = 20 * SECTOR as u64;
        assert_eq!(disk.prepare_segment(2), Err(Full));
        disk.conduct_mut().capacity = 32 * SECTOR as u64;
        assert_eq!(disk.prepare_segment(2), Ok(()));
    }

    #[test]
    fn a_flipped_bit_is_one_bit() {
        let mut disk = disk(1);
        let (name, at) = disk.flip_bit(|_, _| Some(100..200)).expect("a victim");
        let bytes = disk.read(&name).expect("the file");
        assert!((100..200).contains(&at));
        assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    }
}
