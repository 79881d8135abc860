//! The ways in which a log can lose what it promised, one by one.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{GroupId, Index, NodeId, ReplicaId, Term};
use kvorum_node::format::wal::SnapshotRef;
use kvorum_node::log::{Damage, Durable, Log, LogOptions, Recovered, RecoveredGroup, Room, dump};
use kvorum_node::{BatchSeq, Effect, SegmentId};
use kvorum_raft::{Entry, HardState, Membership, Persist};

use super::disk::SECTOR;
use super::world::{made_entry, recover};

const IDLE: GroupId = GroupId(1);
const BUSY: GroupId = GroupId(2);

/// A log on a disk without chance: every write is at once as it will stay.
struct Desk {
    options: LogOptions,
    log: Log,
    files: Vec<(SegmentId, Vec<u8>)>,
    /// The pool of freed files.
    pool: Vec<Vec<u8>>,
    full: bool,
    /// A segment is asked for and not made yet.
    making: Option<SegmentId>,
    slow: bool,
    next_seq: u64,
    done: Vec<Durable>,
}

impl Desk {
    fn new() -> Self {
        let options = LogOptions {
            salt: 7,
            target_bytes: 3 * (8 << 10),
            ..LogOptions::small(8 << 10)
        };
        let mut desk = Self {
            log: Log::create(options.clone()),
            options,
            files: Vec::new(),
            pool: Vec::new(),
            full: false,
            making: None,
            slow: false,
            next_seq: 1,
            done: Vec::new(),
        };
        for group in [IDLE, BUSY] {
            desk.log.create_group(group, ReplicaId(1), membership());
        }
        desk.turn();
        desk
    }

    fn file(&mut self, segment: SegmentId) -> &mut Vec<u8> {
        let found = self.files.iter_mut().find(|(id, _)| *id == segment);
        &mut found.expect("the segment").1
    }

    /// Seals, writes and syncs until nothing waits.
    fn turn(&mut self) {
        let mut effects = Vec::new();
        loop {
            self.log.seal(&mut effects);
            if effects.is_empty() {
                return;
            }
            while !effects.is_empty() {
                let effect = effects.remove(0);
                self.carry_out(effect, &mut effects);
            }
            self.log.check();
        }
    }

    fn carry_out(&mut self, effect: Effect, more: &mut Vec<Effect>) {
        match effect {
            Effect::PrepareSegment { segment } if self.full => self.log.segment_refused(segment),
            Effect::PrepareSegment { segment } if self.slow => self.making = Some(segment),
            Effect::PrepareSegment { segment } => self.made(segment),
            Effect::FreeSegment { segment } => {
                let (freed, file) = self.files.remove(0);
                assert_eq!(freed, segment);
                self.pool.push(file);
            }
            Effect::Append {
                segment,
                offset,
                upto,
                frame,
            } => {
                let at = offset as usize;
                self.file(segment)[at..at + frame.len()].copy_from_slice(&frame);
                self.log.synced(upto, &mut self.done, more);
            }
            other => panic!("an effect of another room: {other:?}"),
        }
    }

    fn made(&mut self, segment: SegmentId) {
        let fresh = vec![0; self.options.segment_bytes as usize];
        if self.files.iter().all(|(id, _)| *id != segment) {
            self.files.push((segment, self.pool.pop().unwrap_or(fresh)));
        }
        self.log.segment_ready(segment);
    }

    fn persist(&mut self, group: GroupId, what: Persist) {
        self.log.record(group, self.next_seq, what, 77);
        self.next_seq += 1;
        self.turn();
    }

    fn vote(&mut self, group: GroupId, term: u64, vote: u64) {
        let hard_state = HardState {
            term: Term(term),
            vote: Some(ReplicaId(vote)),
        };
        self.persist(group, Persist::HardState(hard_state));
    }

    fn append(&mut self, group: GroupId, term: u64, indexes: std::ops::RangeInclusive<u64>) {
        let entries = entries(term, indexes, 10);
        self.persist(group, Persist::Append(entries));
    }

    fn snapshot(&mut self, group: GroupId, number: u64, index: u64) {
        let snapshot = SnapshotRef {
            number,
            index: Index(index),
            term: Term(1),
        };
        assert!(self.log.snapshot_stored(group, snapshot, membership()));
        self.turn();
    }

    /// The busy group fills segments, and its snapshots cover them.
    fn fill_segments(&mut self, count: usize) {
        // One is made when the one before it is begun.
        let last = |desk: &Self| {
            let made = desk.files.iter().map(|(id, _)| *id).max();
            desk.making.max(made).map(|id| id.0)
        };
        let until = last(self).expect("a segment") + count as u32;
        let mut index = self.log.snapshot(BUSY).expect("the group").index.get();
        while last(self) < Some(until) {
            let entries = entries(1, index + 1..=index + 1, 1000);
            self.persist(BUSY, Persist::Append(entries));
            index += 1;
            self.snapshot(BUSY, index, index);
        }
    }

    /// The busy group writes until the disk says that it is full. Returns its last index.
    fn fill_until_refused(&mut self) -> u64 {
        let mut index = 0;
        while self.log.room() != Room::None {
            assert_eq!(self.log.room(), Room::Ready);
            index += 1;
            let entries = entries(1, index..=index, 1000);
            self.persist(BUSY, Persist::Append(entries));
            assert!(index < 100);
        }
        index
    }

    fn read(&self) -> Result<Recovered, Damage> {
        recover(&self.options, true, &self.files)
    }

    fn group(&self, group: GroupId) -> RecoveredGroup {
        let mut read = self.read().expect("nothing is damaged");
        read.groups.remove(&group).expect("the group")
    }

    fn restart(&mut self) {
        let recovered = self.read().expect("nothing is damaged");
        self.log = Log::restart(self.options.clone(), recovered);
    }
}

fn membership() -> Arc<Membership> {
    Arc::new(Membership::initial([
        (ReplicaId(1), NodeId(1)),
        (ReplicaId(2), NodeId(2)),
    ]))
}

fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>, len: usize) -> Vec<Entry> {
    indexes
        .map(|index| made_entry(term, index, &vec![index as u8; len]))
        .collect()
}

fn indexes(group: &RecoveredGroup) -> Vec<u64> {
    group.entries.iter().map(|e| e.index.get()).collect()
}

#[test]
fn a_vote_outlives_the_segment_that_it_was_written_to() {
    let mut desk = Desk::new();
    desk.vote(IDLE, 5, 2);
    desk.fill_segments(3);
    assert!(desk.files[0].0 > SegmentId(1), "the segment was freed");
    let group = desk.group(IDLE);
    assert_eq!(group.hard_state.term, Term(5));
    assert_eq!(group.hard_state.vote, Some(ReplicaId(2)));
}

#[test]
fn live_entries_keep_their_segment_and_all_younger_ones() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=3);
    desk.fill_segments(3);
    assert_eq!(desk.files[0].0, SegmentId(1));
    assert_eq!(indexes(&desk.group(IDLE)), [1, 2, 3]);
    let blockers = desk.log.blockers();
    let names: Vec<GroupId> = blockers.iter().map(|blocker| blocker.group).collect();
    assert_eq!(names, [IDLE]);
    assert_eq!((blockers[0].first, blockers[0].last), (Index(1), Index(3)));
    desk.snapshot(IDLE, 900, 3);
    assert!(desk.files[0].0 > SegmentId(1));
    assert!(desk.log.blockers().is_empty());
}

#[test]
fn a_carry_moves_old_entries_and_keeps_newer_ones() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=9);
    desk.fill_segments(2);
    desk.append(IDLE, 1, 10..=12);
    desk.fill_segments(1);
    let part = entries(1, 5..=12, 10);
    assert!(!desk.log.carry(IDLE, part), "not the whole live state");
    let all = entries(1, 1..=12, 10);
    assert!(desk.log.carry(IDLE, all));
    assert!(desk.log.blockers().is_empty(), "it is being carried");
    desk.turn();
    assert!(desk.files[0].0 > SegmentId(2), "both segments were freed");
    assert_eq!(indexes(&desk.group(IDLE)), (1..=12).collect::<Vec<_>>());
}

/// A batch is on its way and appends wait behind it: they stand before the carry.
#[test]
fn a_carry_takes_what_waits_with_it() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=3);
    desk.fill_segments(3);
    desk.log
        .record(IDLE, 1000, Persist::Append(entries(1, 4..=4, 10)), 0);
    let mut effects = Vec::new();
    desk.log.seal(&mut effects);
    desk.log
        .record(IDLE, 1001, Persist::Append(entries(1, 5..=6, 10)), 0);

    let blockers = desk.log.blockers();
    let ends: Vec<_> = blockers
        .iter()
        .map(|b| (b.group, b.first, b.last))
        .collect();
    assert_eq!(ends, [(IDLE, Index(1), Index(6))]);
    for short in [1..=3, 1..=5] {
        assert!(!desk.log.carry(IDLE, entries(1, short, 10)));
    }
    assert!(desk.log.carry(IDLE, entries(1, 1..=6, 10)));
    assert!(desk.log.blockers().is_empty(), "it is being carried");
    desk.log
        .record(IDLE, 1002, Persist::Append(entries(2, 6..=7, 10)), 0);

    while !effects.is_empty() {
        let effect = effects.remove(0);
        desk.carry_out(effect, &mut effects);
    }
    desk.turn();
    assert!(desk.files[0].0 > SegmentId(1), "the segment was freed");
    assert_eq!(indexes(&desk.group(IDLE)), (1..=7).collect::<Vec<_>>());
}

/// What is about to be covered, or gone, is not asked for again.
#[test]
fn a_group_that_is_being_cleaned_is_no_blocker() {
    for way in 0..3 {
        let mut desk = Desk::new();
        desk.append(IDLE, 1, 1..=3);
        desk.fill_segments(3);
        assert_eq!(desk.log.blockers().len(), 1);
        let snapshot = SnapshotRef {
            number: 900,
            index: Index(3),
            term: Term(1),
        };
        let reset = Persist::Reset {
            index: Index(9),
            term: Term(1),
            membership: membership(),
        };
        match way {
            0 => assert!(desk.log.snapshot_stored(IDLE, snapshot, membership())),
            1 => desk.log.record(IDLE, 1000, reset, 900),
            _ => desk.log.remove_group(IDLE),
        }
        assert!(desk.log.blockers().is_empty(), "way {way}");
        assert!(!desk.log.carry(IDLE, entries(1, 1..=3, 10)), "way {way}");
        desk.turn();
        assert!(desk.files[0].0 > SegmentId(1), "way {way}");
    }
}

#[test]
fn a_reset_leaves_no_tail() {
    let mut desk = Desk::new();
    desk.append(IDLE, 2, 101 - 100..=20);
    let reset = Persist::Reset {
        index: Index(10),
        term: Term(3),
        membership: membership(),
    };
    desk.persist(IDLE, reset);
    let group = desk.group(IDLE);
    assert_eq!((indexes(&group).len(), group.snapshot.number), (0, 77));
    assert_eq!(group.snapshot.index, Index(10));
    assert_eq!(
        group.hard_state.term,
        Term(3),
        "no term below the snapshot's"
    );
}

#[test]
fn an_append_truncates() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=9);
    desk.append(IDLE, 2, 4..=5);
    assert_eq!(indexes(&desk.group(IDLE)), [1, 2, 3, 4, 5]);
}

#[test]
fn a_snapshot_that_an_install_overtook_is_not_taken() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=9);
    let reset = Persist::Reset {
        index: Index(20),
        term: Term(3),
        membership: membership(),
    };
    desk.log.record(IDLE, 1000, reset, 78);
    let late = SnapshotRef {
        number: 79,
        index: Index(9),
        term: Term(1),
    };
    assert!(!desk.log.snapshot_stored(IDLE, late, membership()));
    desk.turn();
    assert_eq!(desk.group(IDLE).snapshot.number, 78);
}

/// The file went bad and a new one of the very same state came in its place, with nothing written
/// meanwhile.
#[test]
fn a_newer_file_of_the_same_state_is_taken() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=9);
    desk.snapshot(IDLE, 5, 6);
    let before = desk.group(IDLE);
    desk.done.clear();
    desk.snapshot(IDLE, 7, 6);
    let referred = Durable::Snapshot {
        group: IDLE,
        number: 7,
    };
    assert_eq!(desk.done, [referred], "the older file can go");
    let mut expected = before;
    expected.snapshot.number = 7;
    assert_eq!(desk.group(IDLE), expected);
    assert_eq!(indexes(&expected), [7, 8, 9]);
    for (number, index) in [(6, 6), (7, 6), (6, 8), (8, 5)] {
        let snapshot = SnapshotRef {
            number,
            index: Index(index),
            term: Term(1),
        };
        let taken = desk.log.snapshot_stored(IDLE, snapshot, membership());
        assert!(!taken, "file {number} covers up to {index}");
    }

    // Again in a new life, where the head of the segment is what knows the number.
    desk.restart();
    desk.turn();
    desk.snapshot(IDLE, 8, 6);
    desk.fill_segments(1);
    expected.snapshot.number = 8;
    assert_eq!(desk.group(IDLE), expected);
}

#[test]
fn what_is_durable_is_reported_once_and_in_order() {
    let mut desk = Desk::new();
    let created = |group| Durable::Created { group };
    assert_eq!(desk.done, [Durable::Started, created(IDLE), created(BUSY)]);
    desk.done.clear();
    desk.append(IDLE, 1, 1..=2);
    desk.snapshot(IDLE, 5, 2);
    assert_eq!(
        desk.done,
        [
            Durable::Persisted {
                group: IDLE,
                seq: 1
            },
            Durable::Snapshot {
                group: IDLE,
                number: 5
            }
        ]
    );
}

#[test]
fn a_restart_promises_nothing_before_its_tail_is_written_again() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=2);
    desk.append(IDLE, 1, 3..=4);
    let last = desk.files[0].1.clone();
    desk.restart();
    assert!(!desk.log.is_started());
    desk.done.clear();
    desk.turn();
    assert_eq!(desk.done, [Durable::Started]);
    assert_eq!(desk.log.incarnation(), 2);
    // Had the last batch been lost with the page cache, the second writing of it is there.
    let end = last.iter().rposition(|&byte| byte != 0).expect("a batch");
    let start = end / SECTOR * SECTOR;
    desk.file(SegmentId(1))[start..start + SECTOR].fill(0);
    assert_eq!(indexes(&desk.group(IDLE)), [1, 2, 3, 4]);
    let again = desk.read().expect("nothing is damaged");
    assert_eq!(again.incarnation, 2);
}

#[test]
fn a_full_disk_refuses_writes_and_serves_elections() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=1);
    desk.full = true;
    let index = desk.fill_until_refused();
    assert_eq!(desk.files.len(), 2, "the last segment has just been begun");
    desk.done.clear();
    desk.vote(IDLE, 9, 1);
    assert_eq!(desk.done.len(), 1, "a vote is still kept");
    // Asking again is not yet an answer, and a full disk is a reason to clean, whatever the target is.
    desk.log.ask_again();
    assert_eq!(desk.log.room(), Room::None);
    assert_eq!(desk.log.blockers().len(), 2);
    desk.turn();
    assert_eq!(desk.log.room(), Room::None);
    desk.full = false;
    desk.snapshot(BUSY, 5, index);
    desk.snapshot(IDLE, 6, 1);
    desk.turn();
    assert_eq!(
        desk.log.room(),
        Room::Ready,
        "freeing the segment made room"
    );
}

/// The file that a carry frees is the next segment.
#[test]
fn a_full_disk_is_cleaned_by_a_carry() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=2);
    desk.full = true;
    desk.fill_until_refused();
    let covered = desk.log.blockers();
    assert_eq!(covered.len(), 2, "{covered:?}");
    let last = covered[1].last;
    desk.snapshot(BUSY, last.get(), last.get());
    assert_eq!(desk.log.room(), Room::None, "the idle group is in the way");
    desk.log.ask_again();
    assert_eq!(desk.log.blockers().len(), 1);

    // What is left is not all for carries.
    let mut most = 0;
    for len in (0..8000).step_by(500).rev() {
        if desk.log.carry(IDLE, entries(1, 1..=2, len)) {
            most = len;
            break;
        }
    }
    assert!((500..3500).contains(&most), "{most} bytes were carried");
    desk.full = false;
    desk.turn();
    assert_eq!(desk.files[0].0, SegmentId(2), "the segment was freed");
    assert_eq!(desk.log.room(), Room::Ready);
    assert_eq!(indexes(&desk.group(IDLE)), [1, 2]);
}

/// A segment that takes its time is no reason to refuse anything, nor to forget what was proposed.
#[test]
fn a_slow_disk_is_not_a_full_one() {
    let mut desk = Desk::new();
    desk.slow = true;
    let mut index = 0;
    let mut write = |desk: &mut Desk| {
        index += 1;
        assert!(index < 100);
        desk.persist(BUSY, Persist::Append(entries(1, index..=index, 1000)));
    };
    // The segment made ahead is begun, and the one after it does not come.
    while desk.making.is_none() || desk.log.room() == Room::Ready {
        write(&mut desk);
    }
    assert_eq!(desk.log.room(), Room::Soon);
    while desk.log.pending_bytes() == 0 {
        write(&mut desk);
        assert_eq!(desk.log.room(), Room::Soon);
    }
    desk.done.clear();
    desk.made(SegmentId(3));
    assert_eq!(desk.log.room(), Room::Ready);
    desk.turn();
    assert_eq!(desk.done.len(), 1, "what waited is written");
}

/// What is queued will be written where the reserve is.
#[test]
fn queued_records_count_as_written() {
    let mut desk = Desk::new();
    desk.slow = true;
    desk.fill_segments(1);
    assert_eq!(desk.making, Some(SegmentId(3)));
    let index = desk.log.snapshot(BUSY).expect("the group").index.get();
    let large = entries(1, index + 1..=index + 1, 3000);
    desk.log.record(BUSY, 1000, Persist::Append(large), 0);
    assert_eq!(desk.log.room(), Room::Ready);
    let larger = entries(1, index + 2..=index + 2, 3800);
    desk.log.record(BUSY, 1001, Persist::Append(larger), 0);
    assert_eq!(desk.log.room(), Room::Soon);
}

#[test]
fn an_empty_log_of_a_started_node_is_damage() {
    let options = LogOptions::small(8 << 10);
    assert!(recover(&options, false, &[]).is_ok());
    assert!(recover(&options, true, &[]).is_err());
    let blank = vec![(SegmentId(1), vec![0; 8 << 10])];
    assert!(recover(&options, true, &blank).is_err());
}

/// Were a new log begun over a damaged one, the next start would believe it.
#[test]
fn a_closed_log_writes_nothing() {
    let mut log = Log::closed(LogOptions::small(8 << 10));
    log.create_group(IDLE, ReplicaId(1), membership());
    log.record(IDLE, 1, Persist::Append(entries(1, 1..=3, 10)), 0);
    let (mut effects, mut done) = (Vec::new(), Vec::new());
    for segment in 0..3 {
        log.seal(&mut effects);
        log.segment_ready(SegmentId(segment));
        log.segment_refused(SegmentId(segment));
        log.ask_again();
        log.synced(BatchSeq(0), &mut done, &mut effects);
    }
    log.seal(&mut effects);
    assert!(effects.is_empty(), "{effects:?}");
    assert!(done.is_empty() && !log.is_started());
    assert_eq!(log.room(), Room::None);
    assert!(log.blockers().is_empty());
}

#[test]
fn a_segment_made_ready_and_never_written_does_not_count() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=2);
    let ahead = desk.files.last().expect("the one ahead").0;
    desk.restart();
    desk.turn();
    let written = desk.files.iter().filter(|(_, bytes)| bytes[0] != 0);
    let last = written.map(|(segment, _)| *segment).max();
    assert_eq!(last, Some(ahead), "its number was used again");
    assert_eq!(indexes(&desk.group(IDLE)), [1, 2]);
}

#[test]
fn another_nodes_segment_is_not_believed() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=2);
    let foreign = LogOptions {
        salt: 8,
        ..desk.options.clone()
    };
    assert!(recover(&foreign, false, &desk.files).is_err());
}

/// A value full of zeros, and one that looks like the sectors of the log, are values.
#[test]
fn no_content_looks_like_a_missing_sector() {
    let mut desk = Desk::new();
    let zeros = made_entry(1, 1, &[0; 3 * SECTOR]);
    let looks = Bytes::copy_from_slice(&desk.files[0].1[..3 * SECTOR]);
    let pretends = made_entry(1, 2, &looks);
    desk.persist(IDLE, Persist::Append(vec![zeros, pretends]));
    assert_eq!(indexes(&desk.group(IDLE)), [1, 2]);
    let file = &mut desk.files[0].1;
    let written = file.iter().rposition(|&byte| byte != 0).expect("a batch");
    // Inside of the zeros, far from any stamp.
    file[written - 5 * SECTOR + 100] ^= 1;
    assert!(desk.read().is_err(), "a flip is not a torn sector");
}

#[test]
fn a_damaged_length_is_damage() {
    let mut desk = Desk::new();
    desk.append(IDLE, 1, 1..=2);
    desk.append(IDLE, 1, 3..=4);
    // The length of the first batch's records: stamp, then 32 bytes of header.
    for (at, value) in [(8 + 32, 0xff), (8 + 35, 0x7f), (8 + 32, 0)] {
        let mut files = desk.files.clone();
        files[0].1[at] = value;
        assert!(recover(&desk.options, true, &files).is_err());
    }
}

#[test]
fn a_dump_is_readable() {
    let mut desk = Desk::new();
    desk.vote(IDLE, 1, 2);
    desk.append(IDLE, 1, 1..=1);
    let lines: Vec<String> = dump(7, SegmentId(1), &desk.files[0].1)
        .map(|line| line.to_string())
        .collect();
    assert_eq!(
        lines,
        [
            "        0 batch 1, 191 bytes, synced up to 0",
            "          head of life 1, 0 groups",
            "          group 1 #1 created replica 1, voters {1, 2}",
            "          group 2 #1 created replica 1, voters {1, 2}",
            "      512 batch 2, 41 bytes, synced up to 1",
            "          group 1 #2 term 1 vote 2",
            "     1024 batch 3, 69 bytes, synced up to 2",
            "          group 1 #3 append 1@1:command:44B",
            "     1536 the end",
        ]
    );
}

#[test]
#[should_panic(expected = "a segment holds")]
fn options_that_cannot_work_are_refused() {
    LogOptions {
        segment_bytes: 64 << 10,
        ..LogOptions::default()
    }
    .check();
}

#[test]
fn the_largest_entry_fits() {
    for segment_bytes in [8 << 10, 64 << 10] {
        let options = LogOptions::small(segment_bytes);
        let mut desk = Desk::new();
        desk.options = options.clone();
        desk.files.clear();
        desk.log = Log::create(options.clone());
        desk.log.create_group(IDLE, ReplicaId(1), membership());
        let room = options.entry_bytes_max as usize - 40;
        desk.persist(IDLE, Persist::Append(entries(1, 1..=5, room)));
        assert_eq!(indexes(&desk.group(IDLE)), [1, 2, 3, 4, 5]);
        desk.restart();
        desk.turn();
        assert_eq!(indexes(&desk.group(IDLE)), [1, 2, 3, 4, 5]);
    }
}
