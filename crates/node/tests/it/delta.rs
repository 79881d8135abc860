//! Changes as bytes: golden ones, any ones, and a slot that moves by way of them.

use bytes::Bytes;
use kvorum_base::{Prng, Reader, SessionId, Slot, SlotSet, UnixMillis};
use kvorum_kv::value::Text;
use kvorum_kv::{
    Change, Delta, Frozen, KeyItem, Keyspace, Recorded, SessionChange, SlotItem, ValueRef,
};
use kvorum_node::format::delta::{self, put_change, read_change};

use crate::formats::{assert_golden, drive, rounds};
use crate::snapshots::{SECRET, random_keyspace, write};

fn encoded(change: &Change<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    put_change(&mut out, change);
    out
}

fn key(version: u64, deadline: Option<u64>) -> Change<'static> {
    Change::Key(KeyItem {
        key: b"key",
        value: ValueRef::String(Text::Inline(b"value")),
        deadline: deadline.map(UnixMillis),
        version,
    })
}

/// One of each kind, with its golden bytes.
fn changes() -> Vec<(Change<'static>, &'static str)> {
    let slot = Slot(12_539);
    vec![
        (
            Change::Slot(SlotItem {
                slot,
                version: 300,
                last_removal: 2,
                sessions: 1,
                keys: 129,
                hash: 0x0102_0304_0506_0708,
            }),
            "03 fb30 ac02 02 01 8101 0807060504030201",
        ),
        (
            Change::Session(SessionChange {
                slot,
                session: SessionId(7),
                end: UnixMillis(1000),
                last_sequence: 5,
                replies: vec![
                    Recorded {
                        sequence: 3,
                        command_hash: 9,
                        reply: Bytes::from_static(b"+OK\r\n"),
                    },
                    Recorded {
                        sequence: 5,
                        command_hash: 10,
                        reply: Bytes::from_static(b":1\r\n"),
                    },
                ]
                .into(),
            }),
            "04 07 e807 05 02
             03 0900000000000000 05 2b4f4b0d0a
             05 0a00000000000000 04 3a310d0a
             fb30",
        ),
        (key(128, None), "05 8001 03 6b6579 05 76616c7565"),
        (key(1, Some(1000)), "06 01 e807 03 6b6579 05 76616c7565"),
        (Change::KeyGone { key: b"key" }, "08 03 6b6579"),
        (
            Change::SessionGone {
                slot,
                session: SessionId(300),
            },
            "09 fb30 ac02",
        ),
    ]
}

#[test]
fn golden_changes() {
    for (change, golden) in changes() {
        let bytes = encoded(&change);
        assert_golden(&format!("{change:?}"), &bytes, golden);
        let mut reader = Reader::new(&bytes);
        assert_eq!(read_change(&mut reader), Ok(change));
        assert!(reader.is_empty());
    }
}

/// Changes have no checksum of their own: a flipped bit may give another change, and never a panic, a
/// second encoding or more than the bytes that are there. Cut short, none is a change.
#[test]
fn any_flipped_bit_and_any_length() {
    for (change, _) in changes() {
        let bytes = encoded(&change);
        for len in 0..bytes.len() {
            let read = read_change(&mut Reader::new(&bytes[..len]));
            assert!(read.is_err(), "{len} bytes of {change:?} as {read:?}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            delta::fuzz(&flipped);
            assert_ne!(
                read_change(&mut Reader::new(&flipped)),
                Ok(change.clone()),
                "bit {bit}"
            );
        }
    }
}

#[test]
fn what_is_no_change_is_refused() {
    let refused: &[&[u8]] = &[
        &[],
        &[0],
        &[1, 0, 0, 0],
        &[2, 0, 0, 0],
        &[7, 0, 0, 0],
        &[10, 0, 0, 0],
        // No slot is so high.
        &[9, 0x00, 0x40, 1],
        &[3, 0x00, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[4, 1, 1, 1, 0, 0x00, 0x40],
        // A number longer than needed.
        &[9, 0, 0, 0x81, 0x00],
        // More replies, and a longer key, than there are bytes.
        &[4, 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0],
        &[
            8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ],
    ];
    for bytes in refused {
        let read = read_change(&mut Reader::new(bytes));
        assert!(read.is_err(), "{bytes:?} as {read:?}");
    }
}

/// Takes in what changed, by way of bytes.
fn round(source: &Keyspace, slots: &SlotSet, old: Option<Frozen>, target: &mut Keyspace) -> Frozen {
    let mut delta = Delta::new(old, source.freeze(slots));
    let mut bytes = Vec::new();
    while let Some(change) = delta.next_change() {
        put_change(&mut bytes, &change);
    }
    delta::fuzz(&bytes);
    let mut reader = Reader::new(&bytes);
    while !reader.is_empty() {
        let change = read_change(&mut reader).expect("what was just written");
        assert!(target.stage(change));
    }
    delta.into_new()
}

#[test]
fn slots_arrive_whole_by_way_of_bytes() {
    for seed in 0..rounds(20) {
        let mut prng = Prng::new(seed);
        let writes = prng.below(1500);
        let mut source = random_keyspace(&mut prng, writes);
        let slots = match prng.below(3) {
            0 => SlotSet::all(),
            _ => SlotSet::of_runs([(0, 5000), (6000, 12_000)]),
        };
        let mut served = SlotSet::all();
        for slot in slots.iter() {
            served.remove(slot);
        }
        let mut target = Keyspace::serving(SECRET, served, SessionId(1));
        let mut old = None;
        for _ in 0..3 {
            old = Some(round(&source, &slots, old.take(), &mut target));
            assert_eq!(
                target.slots_hash(&slots),
                source.slots_hash(&slots),
                "seed {seed}"
            );
            target.check();
            if prng.chance(1, 5) {
                write(&mut source, &[b"FLUSHALL"]);
            }
            for _ in 0..prng.below(200) {
                let key = format!("{{{}}}{}", prng.below(20), prng.below(30));
                match prng.below(3) {
                    0 => write(&mut source, &[b"DEL", key.as_bytes()]),
                    1 => write(&mut source, &[b"SET", key.as_bytes(), b"v", b"PX", b"5"]),
                    _ => write(&mut source, &[b"APPEND", key.as_bytes(), b"more"]),
                };
            }
        }
    }
}

#[test]
fn any_bytes_as_changes() {
    let mut samples: Vec<Vec<u8>> = changes()
        .iter()
        .map(|(change, _)| encoded(change))
        .collect();
    samples.push(samples.concat());
    drive(7, &samples, delta::fuzz);
}
