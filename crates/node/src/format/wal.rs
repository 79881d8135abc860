//! The records of the write-ahead log.
//!
//! One stream of records serves all groups of a lane. A record belongs to one group, and a group's
//! records are numbered, so that streams can be merged when the number of lanes changes and a missing
//! record is noticed.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 4 | length | of what follows the checksum: 17 and the payload |
//! | 4 | 4 | checksum | CRC32C, seeded with where the record stands; over the length, then what follows |
//! | 8 | 1 | kind | |
//! | 9 | 8 | group | 0 where no group is meant |
//! | 17 | 8 | sequence | of the group's records, from 1; a checkpoint repeats the last one's; else 0 |
//! | 25 | - | payload | |
//!
//! | kind | | payload |
//! |---|---|---|
//! | 1 | head: the first record of every segment | incarnation 8, checkpoints that follow 4 |
//! | 2 | checkpoint: a group's state but for its entries | a state |
//! | 3 | hard state | term 8, vote 8 (`u64::MAX`: none) |
//! | 4 | append: consecutive entries; truncates from the first one on | entries |
//! | 5 | reset: a snapshot takes the place of the whole log | snapshot 24, membership |
//! | 6 | snapshot: a file now covers a part of the log | snapshot 24, membership |
//! | 7 | carry: the whole live state again | a state, all entries above its snapshot |
//! | 8 | commit: what can be applied at once after a restart | index 8 |
//! | 9 | created: a group's first record | replica 8, membership |
//! | 10 | removed: this group's replica is gone for good | - |
//! | 11 | orders: of those to this node, all up to this one are carried out or refused | number 8 |
//!
//! A state is replica 8, hard state 16, snapshot 24, last index 8, commit 8, membership (as in
//! `membership`). A snapshot is number 8, index 8, term 8. An entry is as in `entry`, with its own
//! checksum.
//!
//! # Why records are so
//!
//! *An append is a truncation.* Truncation and new entries in two records could be torn apart, and
//! leave a new entry in front of an old tail. For the same reason old entries are never appended
//! again: "append 5 to 9" would cut off 10 to 12. A *carry* says everything a group has, at once.
//!
//! *A reset is not a snapshot record.* A snapshot of a replica's own state covers a part of a log
//! that stays valid behind it. An installed snapshot replaces a log that may hold entries which were
//! never committed: a tail left behind it could win an election against the committed one.
//!
//! *A checkpoint opens every segment*, for every group, since no snapshot file holds a vote: without
//! it, freeing the segment with an idle group's last vote would let it vote twice in one term.
//!
//! *Orders are remembered by one number.* A replica that was deleted must never be made again, whoever
//! repeats the old order. Orders come in the order of their numbers, so that the highest one says it of
//! all; it stands again behind the checkpoints of every segment.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::crc::{crc32c, crc32c_from};
use kvorum_base::{GroupId, Index, Malformed, Reader, ReplicaId, Term};
use kvorum_cluster::OrderNumber;
use kvorum_raft::{Entry, HardState, Membership};

use super::entry;
use super::membership::{membership_len, put_membership, read_base_membership};

/// The bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 25;

/// The part of a record's length that is not payload.
const COUNTED_HEADER_BYTES: usize = 17;

/// The bytes of a checkpoint without its membership.
const CHECKPOINT_BYTES: usize = 8 + 16 + 24 + 8 + 8;

/// A snapshot file, and what it covers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SnapshotRef {
    /// Names the file; 0 for the empty state that every group begins with, which has no file.
    pub number: u64,
    /// The last entry that it covers.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
}

impl SnapshotRef {
    /// Whether this is a newer file than `older`, which can go then: it covers at least as much. (Files
    /// are dropped by number, so a lower number never takes the place of a higher one.)
    #[must_use]
    pub fn replaces(&self, older: &Self) -> bool {
        self.number > older.number && self.index >= older.index
    }
}

/// What a group's records so far amount to, but for the entries: those above the snapshot, up to the
/// last one, are live.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// This node's replica of the group.
    pub replica: ReplicaId,
    /// Term and vote.
    pub hard_state: HardState,
    /// The newest durable snapshot.
    pub snapshot: SnapshotRef,
    /// The last entry; the snapshot's index if none is live.
    pub last: Index,
    /// Everything up to here is committed, at least.
    pub commit: Index,
    /// The membership as of the snapshot's index.
    pub membership: Arc<Membership>,
}

/// What one record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Opens a segment.
    Head {
        /// Which life of the node wrote it, from 1.
        incarnation: u64,
        /// How many checkpoints follow, one for each group.
        groups: u32,
    },
    /// A group's state at the head of a segment.
    Checkpoint(Checkpoint),
    /// Term and vote.
    HardState(HardState),
    /// Entries; never none.
    Append(Vec<Entry>),
    /// The log is replaced by this snapshot.
    Reset {
        /// The snapshot, durable already.
        snapshot: SnapshotRef,
        /// The membership as of its index.
        membership: Arc<Membership>,
    },
    /// This snapshot covers a part of the log.
    Snapshot {
        /// The snapshot, durable already.
        snapshot: SnapshotRef,
        /// The membership as of its index.
        membership: Arc<Membership>,
    },
    /// A group's whole live state again, so that its older records are not needed.
    Carry {
        /// All but the entries.
        checkpoint: Checkpoint,
        /// The live entries, from the one after the snapshot to the last.
        entries: Vec<Entry>,
    },
    /// Committed up to here.
    Commit(Index),
    /// The group's first record.
    Created {
        /// This node's replica.
        replica: ReplicaId,
        /// The members at the base of the log; empty if not known yet.
        membership: Arc<Membership>,
    },
    /// The group is not on this node any more.
    Removed,
    /// Every order to this node up to this one is carried out, or refused for good.
    Orders(OrderNumber),
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::Head { .. } => 1,
            Self::Checkpoint(_) => 2,
            Self::HardState(_) => 3,
            Self::Append(_) => 4,
            Self::Reset { .. } => 5,
            Self::Snapshot { .. } => 6,
            Self::Carry { .. } => 7,
            Self::Commit(_) => 8,
            Self::Created { .. } => 9,
            Self::Removed => 10,
            Self::Orders(_) => 11,
        }
    }

    /// Whether it is the node's, and no group's.
    #[must_use]
    pub fn is_of_node(&self) -> bool {
        matches!(self, Self::Head { .. } | Self::Orders(_))
    }

    /// How many bytes the record takes in a batch.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let payload = match self {
            Self::Head { .. } => 12,
            Self::Checkpoint(checkpoint) => checkpoint.encoded_len(),
            Self::HardState(_) => 16,
            Self::Append(entries) => entries_len(entries),
            Self::Reset { membership, .. } | Self::Snapshot { membership, .. } => {
                24 + membership_len(membership)
            }
            Self::Carry {
                checkpoint,
                entries,
            } => checkpoint.encoded_len() + entries_len(entries),
            Self::Commit(_) | Self::Orders(_) => 8,
            Self::Created { membership, .. } => 8 + membership_len(membership),
            Self::Removed => 0,
        };
        RECORD_HEADER_BYTES + payload
    }

    /// The entries of the record, for those kinds that have some.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::Append(entries) | Self::Carry { entries, .. } => entries,
            _ => &[],
        }
    }

    /// Everything of the payload that comes before the entries.
    fn put_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::Head {
                incarnation,
                groups,
            } => {
                out.extend_from_slice(&incarnation.to_le_bytes());
                out.extend_from_slice(&groups.to_le_bytes());
            }
            Self::Checkpoint(checkpoint) | Self::Carry { checkpoint, .. } => checkpoint.put(out),
            Self::HardState(hard_state) => put_hard_state(out, hard_state),
            Self::Append(_) | Self::Removed => {}
            Self::Reset {
                snapshot,
                membership,
            }
            | Self::Snapshot {
                snapshot,
                membership,
            } => {
                put_snapshot(out, snapshot);
                put_membership(out, membership);
            }
            Self::Commit(index) => out.extend_from_slice(&index.get().to_le_bytes()),
            Self::Orders(upto) => out.extend_from_slice(&upto.get().to_le_bytes()),
            Self::Created {
                replica,
                membership,
            } => {
                out.extend_from_slice(&replica.get().to_le_bytes());
                put_membership(out, membership);
            }
        }
    }
}

impl Checkpoint {
    fn encoded_len(&self) -> usize {
        CHECKPOINT_BYTES + membership_len(&self.membership)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.replica.get().to_le_bytes());
        put_hard_state(out, &self.hard_state);
        put_snapshot(out, &self.snapshot);
        out.extend_from_slice(&self.last.get().to_le_bytes());
        out.extend_from_slice(&self.commit.get().to_le_bytes());
        put_membership(out, &self.membership);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let checkpoint = Self {
            replica: ReplicaId(reader.u64("replica")?),
            hard_state: read_hard_state(reader)?,
            snapshot: read_snapshot(reader)?,
            last: super::read_index(reader)?,
            commit: super::read_index(reader)?,
            membership: Arc::new(read_base_membership(reader)?),
        };
        if checkpoint.last < checkpoint.snapshot.index {
            return Err(reader.malformed("checkpoint's last index"));
        }
        Ok(checkpoint)
    }
}

fn entries_len(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.data.len()).sum()
}

const NO_VOTE: u64 = u64::MAX;

fn put_hard_state(out: &mut Vec<u8>, hard_state: &HardState) {
    let vote = hard_state.vote.map_or(NO_VOTE, ReplicaId::get);
    assert!(
        hard_state.vote.is_none() || vote != NO_VOTE,
        "replica id {vote} is taken for no vote"
    );
    out.extend_from_slice(&hard_state.term.get().to_le_bytes());
    out.extend_from_slice(&vote.to_le_bytes());
}

fn read_hard_state(reader: &mut Reader<'_>) -> Result<HardState, Malformed> {
    let term = super::read_term(reader)?;
    let vote = reader.u64("vote")?;
    Ok(HardState {
        term,
        vote: (vote != NO_VOTE).then_some(ReplicaId(vote)),
    })
}

fn put_snapshot(out: &mut Vec<u8>, snapshot: &SnapshotRef) {
    out.extend_from_slice(&snapshot.number.to_le_bytes());
    out.extend_from_slice(&snapshot.index.get().to_le_bytes());
    out.extend_from_slice(&snapshot.term.get().to_le_bytes());
}

fn read_snapshot(reader: &mut Reader<'_>) -> Result<SnapshotRef, Malformed> {
    Ok(SnapshotRef {
        number: reader.u64("snapshot number")?,
        index: super::read_index(reader)?,
        term: super::read_term(reader)?,
    })
}

/// Where the bytes of a record go. (A batch is not one piece of memory: sector stamps lie between.)
pub trait Sink {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Appends a record. `seed` says where it will stand; `scratch` is any vector, to be used again.
pub fn encode(
    out: &mut impl Sink,
    seed: u32,
    group: GroupId,
    sequence: u64,
    record: &Record,
    scratch: &mut Vec<u8>,
) {
    scratch.clear();
    let total = record.encoded_len();
    let counted = u32::try_from(total - RECORD_HEADER_BYTES + COUNTED_HEADER_BYTES)
        .unwrap_or_else(|_| panic!("a record of {total} bytes"));
    scratch.extend_from_slice(&counted.to_le_bytes());
    scratch.extend_from_slice(&[0; 4]);
    scratch.push(record.kind());
    scratch.extend_from_slice(&group.get().to_le_bytes());
    scratch.extend_from_slice(&sequence.to_le_bytes());
    record.put_payload(scratch);
    let mut checksum = crc32c_from(crc32c_from(seed, &scratch[..4]), &scratch[8..]);
    for entry in record.entries() {
        checksum = crc32c_from(checksum, &entry.data);
    }
    scratch[4..8].copy_from_slice(&checksum.to_le_bytes());
    out.put(scratch);
    for entry in record.entries() {
        out.put(&entry.data);
    }
}

/// A record with its place in its group's stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The group; 0 in a head and in orders, which are no group's.
    pub group: GroupId,
    /// The number among the group's records; 0 in those that are no group's.
    pub sequence: u64,
    /// What it says.
    pub record: Record,
}

/// Reads the record that starts at `at`, and says where the next one starts. Entries are slices of
/// `content` (or copies, where a slice would pin too much).
///
/// # Errors
/// If the bytes there are not a record with this seed.
pub fn decode(content: &Bytes, at: usize, seed: u32) -> Result<(Placed, usize), Malformed> {
    let mut reader = Reader::new(content);
    reader.take(at, "record")?;
    let length_bytes = reader.rest();
    let counted = reader.u32("record length")? as usize;
    let checksum = reader.u32("record checksum")?;
    if counted < COUNTED_HEADER_BYTES {
        return Err(reader.malformed("record length"));
    }
    let body = reader.take(counted, "record length")?;
    if checksum != crc32c_from(crc32c_from(seed, &length_bytes[..4]), body) {
        return Err(reader.malformed("record checksum"));
    }
    let end = reader.position();
    let mut body = Reader::new(body);
    let kind = body.u8("record kind")?;
    let group = GroupId(body.u64("group")?);
    let sequence = body.u64("group sequence")?;
    let record = read_payload(kind, &mut body, content)?;
    body.end("record")?;
    let is_nodes = record.is_of_node();
    if is_nodes != (sequence == 0) || (is_nodes && group != GroupId(0)) {
        return Err(body.malformed("group sequence"));
    }
    let placed = Placed {
        group,
        sequence,
        record,
    };
    Ok((placed, end))
}

fn read_payload(kind: u8, reader: &mut Reader<'_>, content: &Bytes) -> Result<Record, Malformed> {
    Ok(match kind {
        1 => Record::Head {
            incarnation: reader.u64("incarnation")?,
            groups: reader.u32("checkpoints")?,
        },
        2 => Record::Checkpoint(Checkpoint::read(reader)?),
        3 => Record::HardState(read_hard_state(reader)?),
        4 => {
            let entries = read_entries(reader, content)?;
            if entries.is_empty() {
                return Err(reader.malformed("append without entries"));
            }
            Record::Append(entries)
        }
        5 => Record::Reset {
            snapshot: read_snapshot(reader)?,
            membership: Arc::new(read_base_membership(reader)?),
        },
        6 => Record::Snapshot {
            snapshot: read_snapshot(reader)?,
            membership: Arc::new(read_base_membership(reader)?),
        },
        7 => {
            let checkpoint = Checkpoint::read(reader)?;
            let entries = read_entries(reader, content)?;
            let first = checkpoint.snapshot.index + 1;
            let begins = entries.first().is_none_or(|entry| entry.index == first);
            if !begins || checkpoint.last - checkpoint.snapshot.index != entries.len() as u64 {
                return Err(reader.malformed("carried entries"));
            }
            Record::Carry {
                checkpoint,
                entries,
            }
        }
        8 => Record::Commit(super::read_index(reader)?),
        9 => Record::Created {
            replica: ReplicaId(reader.u64("replica")?),
            membership: Arc::new(read_base_membership(reader)?),
        },
        10 => Record::Removed,
        11 => Record::Orders(OrderNumber(reader.u64("order")?)),
        _ => return Err(reader.malformed("record kind")),
    })
}

/// Entries up to the end of the record, consecutive and of terms that do not step back.
fn read_entries(reader: &mut Reader<'_>, content: &Bytes) -> Result<Vec<Entry>, Malformed> {
    let mut entries: Vec<Entry> = Vec::new();
    while !reader.is_empty() {
        let len = entry::peek_len(reader.rest())?;
        let data = content.slice_ref(reader.take(len, "entry length")?);
        let entry = entry::decode(entry::unpinned(data, content.len()))?;
        let follows = entries
            .last()
            .is_none_or(|last| entry.index == last.index.next() && entry.term >= last.term);
        if !follows {
            return Err(reader.malformed("order of entries"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Any bytes are a record or are refused, and a record is the same bytes again.
///
/// # Panics
/// If not.
pub fn fuzz(bytes: &[u8]) {
    const SEED: u32 = 7;
    // The checksum would refuse nearly everything: mend it, so that the rest is reached.
    let mut mended = bytes.to_vec();
    if mended.len() >= RECORD_HEADER_BYTES {
        mended.truncate(1 << 20);
        let counted = (mended.len() - 8) as u32;
        mended[..4].copy_from_slice(&counted.to_le_bytes());
        let checksum = crc32c_from(crc32c_from(SEED, &mended[..4]), &mended[8..]);
        mended[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
    for input in [bytes, &mended] {
        let content = Bytes::copy_from_slice(input);
        if let Ok((placed, end)) = decode(&content, 0, SEED) {
            let mut again = Vec::new();
            let (group, sequence) = (placed.group, placed.sequence);
            encode(
                &mut again,
                SEED,
                group,
                sequence,
                &placed.record,
                &mut Vec::new(),
            );
            assert_eq!(again.len(), placed.record.encoded_len());
            assert_eq!(again, input[..end]);
            let _ = placed.to_string();
        }
    }
}

/// The seed for something that stands at `position` of a batch.
#[must_use]
pub(crate) fn seed_at(batch_seed: u32, position: usize) -> u32 {
    crc32c_from(batch_seed, &(position as u32).to_le_bytes())
}

/// The seed for everything in a batch: which log, which use of which segment, where in it.
#[must_use]
pub(crate) fn batch_seed(salt: u64, use_number: u32, offset: u32) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&salt.to_le_bytes());
    place[8..12].copy_from_slice(&use_number.to_le_bytes());
    place[12..].copy_from_slice(&offset.to_le_bytes());
    crc32c(&place)
}

impl fmt::Display for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "snapshot {} to {}@{}",
            self.number, self.index, self.term
        )
    }
}

/// As operators see it in a dump: one line, without the entries' contents.
impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.record.is_of_node() {
            write!(f, "group {} #{} ", self.group, self.sequence)?;
        }
        self.record.fmt(f)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head {
                incarnation,
                groups,
            } => write!(f, "head of life {incarnation}, {groups} groups"),
            Self::Checkpoint(checkpoint) => write!(f, "checkpoint {checkpoint}"),
            Self::HardState(hard_state) => write_hard_state(f, hard_state),
            Self::Append(entries) => {
                write!(f, "append")?;
                write_entries(f, entries)
            }
            Self::Reset { snapshot, .. } => write!(f, "reset to {snapshot}"),
            Self::Snapshot { snapshot, .. } => write!(f, "{snapshot}"),
            Self::Carry {
                checkpoint,
                entries,
            } => {
                write!(f, "carry {checkpoint}")?;
                write_entries(f, entries)
            }
            Self::Commit(index) => write!(f, "commit {index}"),
            Self::Created {
                replica,
                membership,
            } => write!(
                f,
                "created replica {replica}, voters {:?}",
                membership.voters
            ),
            Self::Removed => write!(f, "removed"),
            Self::Orders(upto) => write!(f, "orders up to {upto}"),
        }
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {} ", self.replica)?;
        write_hard_state(f, &self.hard_state)?;
        write!(
            f,
            " {} last {} commit {} voters {:?}",
            self.snapshot, self.last, self.commit, self.membership.voters
        )
    }
}

fn write_hard_state(f: &mut fmt::Formatter<'_>, hard_state: &HardState) -> fmt::Result {
    write!(f, "term {} vote ", hard_state.term)?;
    match hard_state.vote {
        Some(replica) => write!(f, "{replica}"),
        None => write!(f, "none"),
    }
}

fn write_entries(f: &mut fmt::Formatter<'_>, entries: &[Entry]) -> fmt::Result {
    for entry in entries {
        write!(f, " {entry:?}:{}B", entry.data.len())?;
    }
    Ok(())
}
