//! The byte formats: golden bytes, so that no change of a layout goes unnoticed; and any bytes at
//! all, which must be refused or come back the same.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{GroupId, Index, NodeId, Prng, Reader, ReplicaId, Slot, Term, UnixMillis};
use kvorum_cluster::{Command, ConfigNumber, OrderNumber, Reply, Request};
use kvorum_node::format::entry::{self, Content, EntryBuilder};
use kvorum_node::format::manager::{Answer, Led, ManagerMessage, Report};
use kvorum_node::format::membership::{membership_len, put_membership, read_membership};
use kvorum_node::format::peer::{self, Ask, PeerHeader, PeerMessage, Wish};
use kvorum_node::format::wal::{self, Checkpoint, Record, SnapshotRef};
use kvorum_raft::{
    AppendOutcome, Body, Chunk, Entry, HardState, Membership, Message, Payload, SnapshotId,
};

/// How many inputs the fuzz functions get, per format.
pub(crate) fn rounds(normal: u64) -> u64 {
    let more = std::env::var("KVORUM_ROUNDS").ok();
    more.map_or(normal, |text| {
        text.parse().expect("KVORUM_ROUNDS is a number")
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Compares with golden bytes, written with spaces between the fields.
pub(crate) fn assert_golden(name: &str, bytes: &[u8], golden: &str) {
    let golden: String = golden.split_whitespace().collect();
    assert_eq!(hex(bytes), golden, "{name}");
}

fn membership() -> Arc<Membership> {
    let mut membership = Membership::initial([
        (ReplicaId(1), NodeId(11)),
        (ReplicaId(2), NodeId(12)),
        (ReplicaId(3), NodeId(13)),
        (ReplicaId(4), NodeId(14)),
    ]);
    membership.id = Index(5);
    membership.voters.remove(&ReplicaId(3));
    membership.voters.remove(&ReplicaId(4));
    membership.outgoing = [ReplicaId(2), ReplicaId(3)].into();
    membership.learners.insert(ReplicaId(4));
    Arc::new(membership)
}

const MEMBERSHIP: &str = "0500000000000000 0400
    0100000000000000 0b00000000000000 01
    0200000000000000 0c00000000000000 03
    0300000000000000 0d00000000000000 02
    0400000000000000 0e00000000000000 04";

fn commands(term: u64, index: u64, commands: &[&[u8]]) -> Bytes {
    let mut builder = EntryBuilder::new();
    for command in commands {
        builder
            .push_command(|out| -> Result<(), ()> {
                out.extend_from_slice(command);
                Ok(())
            })
            .expect("nothing refuses");
    }
    builder.seal(Term(term), Index(index), UnixMillis(0x0102))
}

fn decoded(bytes: &Bytes) -> Entry {
    entry::decode(bytes.clone()).expect("a valid entry")
}

#[test]
fn entries_are_golden() {
    assert_golden(
        "commands",
        &commands(3, 7, &[b"ab", b""]),
        "25000000 8519834f 0300000000000000 0700000000000000 0201000000000000 02 02 6162 00",
    );
    assert_golden(
        "checkpoint",
        &entry::encode_checkpoint(Term(3), Index(7), UnixMillis(0x0102)),
        "21000000 919ca9a1 0300000000000000 0700000000000000 0201000000000000 04",
    );
    assert_golden(
        "level",
        &entry::encode_level(Term(3), Index(7), UnixMillis(0x0102), 0x0304),
        "23000000 ffb7fbf0 0300000000000000 0700000000000000 0201000000000000 05 0403",
    );
    let request = Request::from(Command::Rebalance);
    let bytes = entry::encode_request(Term(3), Index(7), UnixMillis(0x0102), &request);
    assert_eq!(bytes[32], 7, "kind");
    assert_eq!(bytes[33..], request.encode());
    let read = decoded(&bytes);
    assert!(matches!(entry::content(&read), Content::Request(read) if *read == request));
    assert_golden(
        "empty",
        &entry::encode_raft(Term(3), Index(7), &Payload::Empty),
        "21000000 cb2ff530 0300000000000000 0700000000000000 0000000000000000 01",
    );
    assert_golden(
        "membership",
        &entry::encode_raft(Term(3), Index(7), &Payload::Membership(membership())),
        &format!(
            "6f000000 27043fb2 0300000000000000 0700000000000000 0000000000000000 03 {MEMBERSHIP}"
        ),
    );
}

/// A membership after a recovery says which ids were let go; one that never had one is as it was before there
/// were recoveries.
#[test]
fn a_floor_stands_before_the_replicas() {
    let mut membership = Membership::initial([(ReplicaId(1), NodeId(11))]);
    membership.id = Index(5);
    let bytes = |membership: &Membership| {
        let mut bytes = Vec::new();
        put_membership(&mut bytes, membership);
        assert_eq!(bytes.len(), membership_len(membership));
        bytes
    };
    let replica = "0100000000000000 0b00000000000000 01";
    let without = format!("0500000000000000 0100 {replica}");
    assert_golden("without a floor", &bytes(&membership), &without);
    membership.floor = ReplicaId(0x0102);
    let with = bytes(&membership);
    let golden = format!("0500000000000000 0180 0201000000000000 {replica}");
    assert_golden("with a floor", &with, &golden);
    let read = read_membership(&mut Reader::new(&with));
    assert_eq!(read.expect("a membership"), membership);
    let mut zero = with;
    zero[10..18].fill(0);
    read_membership(&mut Reader::new(&zero))
        .expect_err("there is none, and it is said that there is");
}

#[test]
fn an_entry_is_read_as_it_was_built() {
    let long = vec![7; 300];
    let commands: [&[u8]; 5] = [b"a", &long, b"", &long, b"b"];
    let entry = decoded(&self::commands(1, 1, &commands));
    assert_eq!(entry::commands(&entry).collect::<Vec<_>>(), commands);
    assert_eq!(entry::clock(&entry), UnixMillis(0x0102));
    assert_eq!((entry.term, entry.index), (Term(1), Index(1)));

    let payload = Payload::Membership(membership());
    let entry = decoded(&entry::encode_raft(Term(2), Index(9), &payload));
    assert_eq!(entry.payload, payload);
    assert!(matches!(entry::content(&entry), Content::Membership));
    assert_eq!(entry::commands(&entry).count(), 0);
}

#[test]
fn a_refused_command_leaves_no_trace() {
    let mut builder = EntryBuilder::new();
    let before = builder.bytes();
    let refused = builder.push_command(|out| {
        out.extend_from_slice(b"half of a com");
        Err("refused")
    });
    assert_eq!(refused, Err("refused"));
    assert_eq!((builder.bytes(), builder.count()), (before, 0));
}

#[test]
fn every_bit_of_an_entry_is_checked() {
    let good = commands(3, 7, &[b"SET a b", b"SET c d"]);
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(entry::decode(Bytes::from(bad)).is_err(), "bit {bit}");
    }
    for len in 0..good.len() {
        assert!(entry::decode(good.slice(..len)).is_err(), "{len} bytes");
    }
}

fn snapshot() -> SnapshotRef {
    SnapshotRef {
        number: 9,
        index: Index(6),
        term: Term(2),
    }
}

const SNAPSHOT: &str = "0900000000000000 0600000000000000 0200000000000000";

fn checkpoint() -> Checkpoint {
    Checkpoint {
        replica: ReplicaId(2),
        hard_state: HardState {
            term: Term(3),
            vote: Some(ReplicaId(1)),
        },
        snapshot: snapshot(),
        last: Index(7),
        commit: Index(6),
        membership: membership(),
    }
}

fn records() -> Vec<(Record, String)> {
    let data = commands(3, 7, &[b"ab"]);
    let entries = vec![decoded(&data)];
    let entry = hex(&data);
    let checkpoint_bytes = format!(
        "0200000000000000 0300000000000000 0100000000000000 {SNAPSHOT}
         0700000000000000 0600000000000000 {MEMBERSHIP}"
    );
    let no_vote = HardState {
        term: Term(3),
        vote: None,
    };
    vec![
        (
            Record::Head {
                incarnation: 4,
                groups: 2,
            },
            "01 0400000000000000 02000000".to_owned(),
        ),
        (
            Record::Checkpoint(checkpoint()),
            format!("02 {checkpoint_bytes}"),
        ),
        (
            Record::HardState(no_vote),
            "03 0300000000000000 ffffffffffffffff".to_owned(),
        ),
        (Record::Append(entries.clone()), format!("04 {entry}")),
        (
            Record::Reset {
                snapshot: snapshot(),
                membership: membership(),
            },
            format!("05 {SNAPSHOT} {MEMBERSHIP}"),
        ),
        (
            Record::Snapshot {
                snapshot: snapshot(),
                membership: membership(),
            },
            format!("06 {SNAPSHOT} {MEMBERSHIP}"),
        ),
        (
            Record::Carry {
                checkpoint: checkpoint(),
                entries,
            },
            format!("07 {checkpoint_bytes} {entry}"),
        ),
        (Record::Commit(Index(6)), "08 0600000000000000".to_owned()),
        (
            Record::Created {
                replica: ReplicaId(2),
                membership: Arc::default(),
            },
            "09 0200000000000000 0000000000000000 0000".to_owned(),
        ),
        (Record::Removed, "0a".to_owned()),
        (
            Record::Orders(OrderNumber(0x0102)),
            "0b 0201000000000000".to_owned(),
        ),
    ]
}

#[test]
fn wal_records_are_golden() {
    const SEED: u32 = 0x55;
    for (record, golden) in records() {
        let is_nodes = record.is_of_node();
        let (group, sequence) = if is_nodes { (0, 0) } else { (8, 5) };
        let mut out = Vec::new();
        let scratch = &mut Vec::new();
        wal::encode(&mut out, SEED, GroupId(group), sequence, &record, scratch);
        assert_eq!(out.len(), record.encoded_len());
        let golden: String = golden.split_whitespace().collect();
        let (kind, payload) = golden.split_at(2);
        let place = hex(&[group.to_le_bytes(), sequence.to_le_bytes()].concat());
        assert_eq!(
            hex(&out[8..]),
            format!("{kind}{place}{payload}"),
            "{record}"
        );
        assert_eq!(out[..4], (out.len() as u32 - 8).to_le_bytes());
        let content = Bytes::from(out);
        let (placed, end) = wal::decode(&content, 0, SEED).expect("a valid record");
        assert_eq!((placed.record, end), (record, content.len()));
        assert!(
            wal::decode(&content, 0, SEED + 1).is_err(),
            "a record of another place"
        );
        for bit in 0..content.len() * 8 {
            let mut bad = content.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(wal::decode(&Bytes::from(bad), 0, SEED).is_err(), "{bit}");
        }
    }
}

fn raft(body: Body) -> PeerMessage {
    PeerMessage::Raft {
        group: GroupId(8),
        from: ReplicaId(1),
        to: ReplicaId(300),
        message: Message {
            term: Term(3),
            body,
        },
    }
}

fn messages() -> Vec<(PeerMessage, String)> {
    let id = SnapshotId {
        index: Index(6),
        term: Term(2),
        sender: ReplicaId(1),
        number: 9,
    };
    let entries: Vec<Entry> = [commands(2, 7, &[b"ab"]), commands(3, 8, &[])]
        .iter()
        .map(decoded)
        .collect();
    let last = |last_index: u64, last_term: u64| (Index(last_index), Term(last_term));
    let (last_index, last_term) = last(7, 2);
    let conflict = AppendOutcome::Conflict {
        index: Index(5),
        term: Term(1),
    };
    let chunk = |last| {
        Body::Chunk(Chunk {
            snapshot: id,
            membership: membership(),
            seq: 4,
            last,
            data: Bytes::from_static(b"piece"),
        })
    };
    let bodies = [
        (
            Body::PreVote {
                last_index,
                last_term,
            },
            "01 07 02".to_owned(),
        ),
        (Body::PreVoteReply { granted: false }, "02".to_owned()),
        (Body::PreVoteReply { granted: true }, "03".to_owned()),
        (
            Body::Vote {
                last_index,
                last_term,
                transfer: true,
            },
            "05 07 02".to_owned(),
        ),
        (Body::VoteReply { granted: true }, "07".to_owned()),
        (
            Body::Append {
                prev_index: Index(6),
                prev_term: Term(2),
                entries,
                commit: Index(5),
            },
            "08 06 02 05 02 24 21".to_owned(),
        ),
        (
            Body::AppendReply {
                prev_index: Index(6),
                outcome: AppendOutcome::Matched(Index(8)),
            },
            "09 06 08".to_owned(),
        ),
        (
            Body::AppendReply {
                prev_index: Index(6),
                outcome: conflict,
            },
            "0a 06 05 01".to_owned(),
        ),
        (
            Body::Heartbeat {
                commit: Index(5),
                read: 128,
            },
            "0b 05 8001".to_owned(),
        ),
        (Body::HeartbeatReply { read: 1 }, "0c 01".to_owned()),
        (Body::TimeoutNow, "0d".to_owned()),
        (chunk(false), format!("0e 06 02 01 09 04 05 {MEMBERSHIP}")),
        (chunk(true), format!("0f 06 02 01 09 04 05 {MEMBERSHIP}")),
        (
            Body::ChunkReply {
                snapshot: id,
                next: 5,
            },
            "10 06 02 01 09 05".to_owned(),
        ),
    ];
    let mut messages: Vec<(PeerMessage, String)> = bodies
        .into_iter()
        .map(|(body, golden)| (raft(body), format!("01 08 01 ac02 03 {golden}")))
        .collect();
    messages.push((PeerMessage::Lost, "02".to_owned()));
    messages.push((
        PeerMessage::Gone {
            group: GroupId(8),
            replica: ReplicaId(300),
        },
        "03 08 ac02".to_owned(),
    ));
    messages.push((
        PeerMessage::Hash {
            group: GroupId(8),
            replica: ReplicaId(1),
            index: Index(7),
            hash: 0x0102_0304_0506_0708,
        },
        "04 08 01 07 0807060504030201".to_owned(),
    ));
    messages.push((
        PeerMessage::StateWanted {
            group: GroupId(8),
            replica: ReplicaId(300),
        },
        "05 08 ac02".to_owned(),
    ));
    messages.push((
        PeerMessage::Diverged {
            group: GroupId(8),
            replica: ReplicaId(300),
            index: Index(7),
            hash: 0x0102_0304_0506_0708,
        },
        "06 08 ac02 07 0807060504030201".to_owned(),
    ));
    messages.push((
        PeerMessage::Leads {
            group: GroupId(8),
            term: Term(300),
        },
        "07 08 ac02".to_owned(),
    ));
    let ask = Ask {
        group: GroupId(8),
        replica: ReplicaId(300),
        incarnation: 0x0102_0304_0506_0708,
        number: 400,
    };
    for (wish, byte) in [(Wish::ReadIndex, "00"), (Wish::Leadership, "01")] {
        messages.push((
            PeerMessage::Asked(ask, wish),
            format!("09 08 ac02 0807060504030201 9003 {byte}"),
        ));
    }
    messages.push((
        PeerMessage::ReadIndex(ask, Index(7)),
        "0a 08 ac02 0807060504030201 9003 07".to_owned(),
    ));
    let managers = manager_messages().into_iter();
    messages.extend(managers.map(|(message, golden)| (PeerMessage::Manager(message), golden)));
    messages
}

fn manager_messages() -> Vec<(ManagerMessage, String)> {
    let led = |group, term, bytes| Led {
        group: GroupId(group),
        term: Term(term),
        bytes,
    };
    let report = Report {
        held: Index(300),
        led: vec![led(0, 4, 0), led(2, 5, 300)],
        silent: vec![(NodeId(3), 1500)],
        slots: vec![(Slot(2), 300)],
        lost: vec![NodeId(5)],
        is_full: true,
    };
    let block = |bytes: &[u8]| format!("{:02x} {}", bytes.len(), hex(bytes));
    let request = Request::from(Command::Rebalance);
    let reply = Reply::Config(ConfigNumber(300));
    vec![
        (
            ManagerMessage::Ask {
                number: 300,
                request: request.clone(),
            },
            format!("0b 01 ac02 {}", block(&request.encode())),
        ),
        (
            ManagerMessage::Answer {
                number: 300,
                answer: Answer::Replied(reply.clone()),
            },
            format!("0b 02 ac02 01 {}", block(&reply.encode())),
        ),
        (
            ManagerMessage::Answer {
                number: 7,
                answer: Answer::NotDone,
            },
            "0b 02 07 02".to_owned(),
        ),
        (
            ManagerMessage::Answer {
                number: 7,
                answer: Answer::Unknown,
            },
            "0b 02 07 03".to_owned(),
        ),
        (
            ManagerMessage::Report(report),
            "0b 03 ac02 02 00 04 00 02 05 ac02 01 03 dc0b 01 02 ac02 01 05 01".to_owned(),
        ),
        (
            ManagerMessage::State(Bytes::from_static(b"ab")),
            "0b 04 02 6162".to_owned(),
        ),
    ]
}

const HEADER: PeerHeader = PeerHeader {
    level: 2,
    wall: UnixMillis(3),
    memory_limit: 4,
    memory_used: 6,
    incarnation: 5,
};

#[test]
fn a_peer_frame_is_golden() {
    let (messages, golden): (Vec<_>, Vec<_>) = messages().into_iter().unzip();
    let pieces = peer::encode(&HEADER, &messages);
    let frame = Bytes::from(pieces.concat());
    let head = pieces[0].len() - 16;
    let golden = golden.concat();
    assert_eq!(frame[..4], (frame.len() as u32 - 4).to_le_bytes());
    assert_golden(
        "head",
        &pieces[0][8..],
        &format!(
            "01 01 0200 {} 0300000000000000 0400000000000000 0600000000000000 \
             0500000000000000 {golden}",
            hex(&(head as u32).to_le_bytes())
        ),
    );
    assert_eq!(pieces.len(), 1 + 2 + 2, "entries and pieces are shared");
    let read = peer::decode(&frame.slice(4..)).expect("a valid frame");
    assert_eq!(read, (HEADER, messages));
}

#[test]
fn every_bit_of_a_peer_frame_is_checked() {
    // Snapshot pieces have checksums of their own, which are not this format's.
    let messages: Vec<PeerMessage> = messages()
        .into_iter()
        .map(|(message, _)| message)
        .filter(|message| {
            !matches!(message, PeerMessage::Raft { message, .. }
                if matches!(message.body, Body::Chunk(_)))
        })
        .collect();
    let frame = peer::encode(&HEADER, &messages).concat();
    for bit in 32..frame.len() * 8 {
        let mut bad = frame[4..].to_vec();
        bad[bit / 8 - 4] ^= 1 << (bit % 8);
        assert!(peer::decode(&Bytes::from(bad)).is_err(), "bit {bit}");
    }
    for len in 0..frame.len() - 4 {
        let cut = Bytes::copy_from_slice(&frame[4..4 + len]);
        assert!(peer::decode(&cut).is_err(), "{len} bytes");
    }
}

#[test]
fn entries_out_of_order_are_refused() {
    let append = |entries: &[Bytes]| {
        raft(Body::Append {
            prev_index: Index(6),
            prev_term: Term(2),
            entries: entries.iter().map(decoded).collect(),
            commit: Index(0),
        })
    };
    for (entries, good) in [
        (vec![commands(2, 7, &[]), commands(2, 8, &[])], true),
        (vec![commands(2, 8, &[])], false),
        (vec![commands(2, 7, &[]), commands(2, 9, &[])], false),
        (vec![commands(3, 7, &[]), commands(2, 8, &[])], false),
        (vec![commands(1, 7, &[])], false),
    ] {
        let frame = Bytes::from(peer::encode(&HEADER, &[append(&entries)]).concat());
        let read = peer::decode(&frame.slice(4..));
        assert_eq!(read.is_ok(), good, "{entries:?}");
    }
}

#[test]
fn the_size_of_a_message_is_told_before_it_is_in_a_frame() {
    let empty = peer::encode(&HEADER, &[]).concat().len();
    for (message, _) in messages() {
        let taken = peer::encode(&HEADER, std::slice::from_ref(&message)).concat();
        let taken = taken.len() - empty;
        let told = peer::bytes(&message);
        assert!(
            (taken..taken + 128).contains(&told),
            "{taken} bytes, {told} told: {message:?}"
        );
    }
    // Numbers at their largest.
    let most = SnapshotId {
        index: Index(u64::MAX),
        term: Term(u64::MAX),
        sender: ReplicaId(u64::MAX),
        number: u64::MAX,
    };
    let chunk = Chunk {
        snapshot: most,
        membership: membership(),
        seq: u64::MAX,
        last: true,
        data: Bytes::from(vec![0; 1 << 20]),
    };
    let message = PeerMessage::Raft {
        group: GroupId(u64::MAX),
        from: ReplicaId(u64::MAX),
        to: ReplicaId(u64::MAX),
        message: Message {
            term: Term(u64::MAX),
            body: Body::Chunk(chunk),
        },
    };
    let told = peer::bytes(&message);
    assert!(peer::encode(&HEADER, &[message]).concat().len() - empty <= told);
}

#[test]
fn the_length_of_a_frame() {
    let frame = peer::encode(&HEADER, &[PeerMessage::Lost]).concat();
    assert_eq!(peer::frame_len(&frame[..3], 1 << 20), Ok(None));
    assert_eq!(peer::frame_len(&frame[..4], 1 << 20), Ok(Some(frame.len())));
    assert_eq!(peer::frame_len(&frame, frame.len()), Ok(Some(frame.len())));
    assert!(peer::frame_len(&frame, frame.len() - 1).is_err());
    assert!(peer::frame_len(&[0; 4], 1 << 20).is_err());
    assert!(peer::frame_len(&[255; 4], 1 << 20).is_err());
}

/// Runs a fuzz function on noise and on valid samples with some bytes changed, cut or repeated.
pub(crate) fn drive(seed: u64, samples: &[Vec<u8>], fuzz: fn(&[u8])) {
    let mut prng = Prng::new(seed);
    for sample in samples {
        fuzz(sample);
    }
    for _ in 0..rounds(2000) {
        let mut bytes = match prng.pick(samples) {
            Some(sample) if prng.chance(9, 10) => sample.clone(),
            _ => (0..prng.below(200))
                .map(|_| prng.next_u64() as u8)
                .collect(),
        };
        for _ in 0..prng.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = prng.index(bytes.len());
            match prng.below(5) {
                0 => bytes[at] = prng.next_u64() as u8,
                1 => bytes[at] ^= 1 << prng.below(8),
                2 => bytes.truncate(at),
                3 => bytes.extend_from_within(at..),
                _ => bytes[at] = if prng.chance(1, 2) { 0xff } else { 0 },
            }
        }
        fuzz(&bytes);
    }
}

#[test]
fn any_bytes_as_an_entry() {
    let samples: Vec<Vec<u8>> = [
        commands(3, 7, &[b"SET a b", b"DEL c"]),
        entry::encode_checkpoint(Term(3), Index(7), UnixMillis(1)),
        entry::encode_level(Term(3), Index(7), UnixMillis(1), 2),
        entry::encode_raft(Term(3), Index(7), &Payload::Empty),
        entry::encode_raft(Term(3), Index(7), &Payload::Membership(membership())),
    ]
    .iter()
    .map(|bytes| bytes.to_vec())
    .collect();
    drive(1, &samples, entry::fuzz);
}

#[test]
fn any_bytes_as_a_record() {
    let samples: Vec<Vec<u8>> = records()
        .into_iter()
        .map(|(record, _)| {
            let mut out = Vec::new();
            wal::encode(&mut out, 7, GroupId(1), 1, &record, &mut Vec::new());
            out
        })
        .collect();
    drive(2, &samples, wal::fuzz);
}

#[test]
fn any_bytes_as_a_frame() {
    let samples: Vec<Vec<u8>> = messages()
        .into_iter()
        .map(|(message, _)| peer::encode(&HEADER, &[message]).concat()[4..].to_vec())
        .collect();
    drive(3, &samples, peer::fuzz);
}
