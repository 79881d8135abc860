//! A state as pieces: what goes in comes out, whatever the size of the pieces, and nothing else does.

use std::sync::Arc;

use kvorum_base::{GroupId, Index, NodeId, Prng, ReplicaId, Slot, Term, UnixMillis};
use kvorum_cluster::OrderNumber;
use kvorum_kv::{Keyspace, apply, find, resolve};
use kvorum_node::format::chunk::{
    self, ChunkError, ChunkReader, ChunkWriter, Loaded, PieceChecker, SnapshotHeader, piece_len,
};
use kvorum_node::replicas::Taken;
use kvorum_raft::Membership;
use kvorum_resp::{ArgsBuf, Replies};

use crate::formats::{assert_golden, drive, hex, rounds};

/// The secret that `chunk::fuzz` uses too.
pub(crate) const SECRET: [u8; 16] = [3; 16];

fn header() -> SnapshotHeader {
    SnapshotHeader {
        group: GroupId(1),
        index: Index(20),
        term: Term(3),
        membership: Arc::new(Membership::initial([(ReplicaId(1), NodeId(11))])),
        taken: Taken {
            order: OrderNumber(9),
            refused: true,
        },
        moves: Arc::default(),
        manager: None,
    }
}

/// Applies a write, and returns the stored reply.
pub(crate) fn write(keyspace: &mut Keyspace, request: &[&[u8]]) -> Vec<u8> {
    let mut args = ArgsBuf::new();
    for arg in request {
        args.push(arg);
    }
    let spec = find(args.as_args()).expect("a known command");
    let mut command = Vec::new();
    resolve(spec, args.as_args(), &mut command).expect("a valid command");
    let mut reply = Vec::new();
    apply(keyspace, &command, &mut Replies::stored(&mut reply));
    reply
}

/// A token, as the reply says it.
fn open_session(keyspace: &mut Keyspace) -> Vec<u8> {
    let reply = write(keyspace, &[b"KVORUM.SESSION"]);
    let text = String::from_utf8(reply).expect("a token is text");
    let token = text.lines().last().expect("a bulk reply");
    token.as_bytes().to_vec()
}

pub(crate) fn random_keyspace(prng: &mut Prng, writes: u64) -> Keyspace {
    let mut keyspace = Keyspace::new(SECRET);
    keyspace.advance_clock(UnixMillis(1_000_000));
    let tokens: Vec<Vec<u8>> = (0..prng.below(4))
        .map(|_| open_session(&mut keyspace))
        .collect();
    for sequence in 1..=writes {
        let key = format!("{{{}}}{}", prng.below(20), prng.below(30));
        let len = match prng.below(30) {
            0 => prng.index(100_000),
            1 => 0,
            _ => prng.index(50),
        };
        let value: Vec<u8> = (0..len).map(|_| prng.next_u64() as u8).collect();
        let seconds = prng.range(1, 100).to_string();
        let mut request: Vec<&[u8]> = Vec::new();
        let number = sequence.to_string();
        if let Some(token) = prng.pick(&tokens) {
            request.extend([&b"KVORUM.ONCE"[..], token, number.as_bytes()]);
        }
        match prng.below(4) {
            0 => request.extend([&b"DEL"[..], key.as_bytes()]),
            1 => request.extend([
                &b"SET"[..],
                key.as_bytes(),
                &value,
                b"EX",
                seconds.as_bytes(),
            ]),
            _ => request.extend([&b"SET"[..], key.as_bytes(), &value]),
        }
        write(&mut keyspace, &request);
        keyspace.advance_clock(UnixMillis(1_000_000 + sequence * 50));
    }
    keyspace
}

fn pieces(keyspace: &Keyspace, piece_bytes: usize) -> Vec<Vec<u8>> {
    let mut writer = ChunkWriter::new(header(), keyspace.view(), piece_bytes);
    std::iter::from_fn(|| writer.next_piece()).collect()
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a Vec<u8>>) -> Result<Loaded, ChunkError> {
    let mut reader = ChunkReader::new(GroupId(1), SECRET);
    for piece in pieces {
        reader.feed(piece)?;
    }
    reader.finish()
}

#[test]
fn what_goes_in_comes_out() {
    for seed in 0..rounds(60) {
        let mut prng = Prng::new(seed);
        let writes = prng.below(300);
        let keyspace = random_keyspace(&mut prng, writes);
        let size = match prng.below(3) {
            0 => 29 + prng.index(100),
            1 => 4096,
            _ => 256 << 10,
        };
        let sent = pieces(&keyspace, size);
        let (last, others) = sent.split_last().expect("there is always a piece");
        assert!(others.iter().all(|piece| piece.len() == size));
        assert!(last.len() <= size);
        let Loaded {
            header: found,
            keyspace: loaded,
            bytes,
        } = read(&sent).expect("nothing is wrong");
        loaded.check();
        assert_eq!(
            bytes,
            sent.iter().map(|piece| piece.len() as u64).sum::<u64>()
        );
        assert_eq!(found, header());
        assert_eq!(loaded.state_hash(), keyspace.state_hash());
        assert_eq!(loaded.len(), keyspace.len());
        assert_eq!(
            pieces(&loaded, size),
            sent,
            "all that a view shows is there"
        );
    }
}

#[test]
fn a_view_is_of_its_moment() {
    let mut keyspace = random_keyspace(&mut Prng::new(7), 200);
    let before = keyspace.state_hash();
    let mut writer = ChunkWriter::new(header(), keyspace.view(), 1000);
    let mut reader = ChunkReader::new(GroupId(1), SECRET);
    let mut n = 0;
    while let Some(piece) = writer.next_piece() {
        write(&mut keyspace, &[b"SET", format!("{n}").as_bytes(), b"x"]);
        n += 1;
        assert_eq!(reader.feed(&piece), Ok(()));
    }
    let loaded = reader.finish().expect("nothing is wrong");
    assert_eq!(loaded.keyspace.state_hash(), before);
}

#[test]
fn a_file_falls_into_its_pieces() {
    let sent = pieces(&random_keyspace(&mut Prng::new(3), 100), 500);
    let file = sent.concat();
    let mut rest = &file[..];
    let mut checker = PieceChecker::new();
    while !rest.is_empty() {
        assert!(!checker.is_finished());
        assert_eq!(piece_len(&rest[..11]), Ok(None));
        let len = piece_len(rest).expect("a piece").expect("its length");
        checker.check(&rest[..len]).expect("the next piece");
        rest = &rest[len..];
    }
    assert!(checker.is_finished());
    let mut prng = Prng::new(1);
    let mut reader = ChunkReader::new(GroupId(1), SECRET);
    let mut rest = &file[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(prng.index(1200)));
        assert_eq!(reader.feed(now), Ok(()));
        rest = later;
    }
    assert!(reader.finish().is_ok());
    let mut foreign = ChunkReader::new(GroupId(2), SECRET);
    assert!(foreign.feed(&file).is_err(), "a snapshot of another group");
}

#[test]
fn what_is_not_the_next_piece_is_refused() {
    let keyspace = random_keyspace(&mut Prng::new(4), 100);
    let sent = pieces(&keyspace, 200);
    assert!(sent.len() > 10);
    for at in 0..sent.len() - 1 {
        let mut swapped = sent.clone();
        swapped.swap(at, at + 1);
        let expected = at as u64;
        let found = expected + 1;
        let refused = read(&swapped).map(|_| ()).expect_err("a wrong order");
        assert_eq!(refused, ChunkError::OutOfOrder { expected, found });
        let mut repeated = sent.clone();
        repeated.insert(at, sent[at].clone());
        assert!(read(&repeated).is_err());
        let mut missing = sent.clone();
        missing.remove(at);
        assert!(read(&missing).is_err());
        let refused = read(&sent[..=at]).map(|_| ()).expect_err("no end");
        assert_eq!(refused, ChunkError::Truncated);
    }
}

/// The follower has some pieces of one leader's snapshot and is sent the rest of another's.
#[test]
fn pieces_of_two_snapshots_do_not_mix() {
    let mut keyspace = random_keyspace(&mut Prng::new(5), 100);
    let first = pieces(&keyspace, 200);
    keyspace.advance_clock(UnixMillis(2_000_000));
    let second = pieces(&keyspace, 200);
    for cut in 1..first.len() {
        let mixed: Vec<Vec<u8>> = first[..cut].iter().chain(&second[cut..]).cloned().collect();
        assert!(read(&mixed).is_err(), "{cut} pieces of the first one");
    }
}

#[test]
fn every_bit_of_a_piece_is_checked() {
    let sent = pieces(&random_keyspace(&mut Prng::new(6), 20), 300);
    for at in 0..sent.len() {
        for bit in 0..sent[at].len() * 8 {
            let mut flipped = sent.clone();
            flipped[at][bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_err(), "bit {bit} of piece {at}");
        }
    }
}

#[test]
fn a_snapshot_is_golden() {
    let mut keyspace = Keyspace::new(SECRET);
    keyspace.advance_clock(UnixMillis(1000));
    let token = open_session(&mut keyspace);
    write(
        &mut keyspace,
        &[b"KVORUM.ONCE", &token, b"1", b"SET", b"k", b"v"],
    );
    write(&mut keyspace, &[b"SET", b"t", b"w", b"PX", b"5"]);
    let sent = pieces(&keyspace, 1 << 20);
    assert_eq!(sent.len(), 1);
    // The hashes are the keyspace's affair, and the checksum follows from them.
    let (one, other) = (
        keyspace.slot_hash(Slot(7629)),
        keyspace.slot_hash(Slot(15891)),
    );
    let [one, other, sum] =
        [one, other, one.wrapping_add(other)].map(|hash| hex(&hash.to_le_bytes()));
    let checksum = hex(&sent[0][12..16]);
    assert_golden(
        "snapshot",
        &sent[0],
        &format!(
            "4b56534e 01 01 01 00 d2000000 {checksum} 0000000000000000 00000000
             44 01 0100000000000000 1400000000000000 0300000000000000
                0000000000000000 0100 0100000000000000 0b00000000000000 01
                0900000000000000 01
                00 00 00 00 00 00 00
             1d 02 e803000000000000 01000000 02 01 68f2360000000000 01
                01 0000 ff3f
             0f 03 cd1d 01 00 01 01 {one}
             17 04 01 e8e4db01 01 01 01 2940faa80096505c 05 2b4f4b0d0a
             06 05 01 01 6b 01 76
             0f 03 133e 01 00 00 01 {other}
             08 06 01 ed07 01 74 01 77
             0a 07 07 {sum}"
        ),
    );
}

#[test]
fn any_bytes_as_a_snapshot() {
    let samples: Vec<Vec<u8>> = (0..8)
        .map(|seed| {
            let keyspace = random_keyspace(&mut Prng::new(seed), seed * 3);
            pieces(&keyspace, 1 << 20).remove(0)
        })
        .flat_map(|piece| [piece[28..].to_vec(), piece])
        .collect();
    drive(6, &samples, chunk::fuzz);
}
