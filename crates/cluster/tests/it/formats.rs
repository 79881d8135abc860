//! The bytes: that they stay what they are, that nothing is missing, and that nonsense is refused.

use kvorum_base::crc::crc32c;
use kvorum_base::{GroupId, Index, NodeId, Prng, Term};
use kvorum_cluster::{
    Capacity, Command, Evidence, Hearsay, IssuerId, MoveId, NewShard, Outcome, Phase, Progress,
    Refusal, Reply, Request, ShardRef, SlotRuns, State, VERSION, fuzz, next_commands,
};

use crate::support::{World, plan, register};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A world in the middle of everything: a shard being founded, moves open and cancelled, replicas being
/// replaced, orders withdrawn, issuers heard, configs made.
fn busy() -> World {
    let mut world = World::new(&plan(256, 4, 3, 3));
    world.settle();
    let Reply::Issuer(issuer) = world.apply(Command::OpenIssuer) else {
        panic!("opened");
    };
    let index = world.state.applied().next();
    let numbered = Request {
        once: Some((issuer, 1)),
        command: Command::IssueSessions { count: 1000 },
    };
    world.state.apply(index, &numbered);
    world.apply(register(9, "nine"));
    world.apply(Command::DrainNode {
        node: NodeId(1),
        draining: true,
    });
    world.apply(Command::Assign {
        slots: SlotRuns::of_runs([(0, 20), (40, 44)]),
        shard: ShardRef::Name("s3".to_owned()),
    });
    for command in next_commands(&world.state, &world.hearsay) {
        world.apply(command);
    }
    let id = *world.state.moves().keys().next().expect("open");
    world.apply(Command::CancelMove { id });
    world.apply(Command::Join {
        shards: vec![NewShard {
            name: "new".to_owned(),
            nodes: vec![NodeId(5), NodeId(2)],
            wanted: 3,
        }],
    });
    let orders: Vec<_> = world.state.orders().keys().copied().collect();
    for order in orders {
        let made = world.outcome(order);
        if let Some(outcome @ Outcome::Created) = made {
            world.apply(Command::CloseOrder { order, outcome });
            break;
        }
    }
    world
}

const GOLDEN_STATE: &[&str] = &[
    "024d000100040402030401010101e907056e6f646531d936056e6f6465318b37056e6f646531bd37056e6f64",
    "6531a13800000001000300000101010101010100020101000001027331010101020101010002010200000202",
    "73320101010301010100020103000000000a0900010201027331010102027332010100020004010105040102",
    "0a0401010000040102000000000000008991c17b",
];

#[test]
fn the_bytes_stay_what_they_are() {
    let state = State::initial(&plan(10, 1, 2, 1)).expect("a plan");
    assert_eq!(hex(&state.encode()), GOLDEN_STATE.concat());
    assert_eq!(format!("{:016x}", state.hash()), "340b8e46718aafc2");
    let request = Request {
        once: Some((IssuerId(300), 7)),
        command: Command::CloseMove {
            id: MoveId(5),
            evidence: Evidence::Received {
                by: GroupId(2),
                at: Index(130),
            },
        },
    };
    assert_eq!(hex(&request.encode()), "0201ac02070f050102820117880a6d");
    let reply = Reply::Refused(Refusal::Unproven { have: 1, need: 2 });
    assert_eq!(hex(&reply.encode()), "02090a01027be4f69b");
}

#[test]
fn everything_comes_back() {
    let world = busy();
    let decoded = State::decode(&world.state.encode()).expect("it was encoded");
    assert_eq!(decoded, world.state);
    assert_eq!(decoded.hash(), world.state.hash());
    let mut hearsay = world.hearsay;
    hearsay.hear_primary(GroupId(1), Term(99), NodeId(2));
    let progress = Progress {
        attempt: 2,
        phase: Phase::Sealed,
        slots_done: 3,
        bytes_done: 4,
        bytes_total: 5,
    };
    hearsay.hear_progress(MoveId(1), progress);
    hearsay.hear_sizes(GroupId(1), 6, [(kvorum_base::Slot(7), 8)]);
    assert_eq!(Hearsay::decode(&hearsay.encode()), Ok(hearsay));
}

/// Every way to change the state a little changes its bytes and its hash.
#[test]
fn nothing_is_left_out_of_the_bytes() {
    let world = busy();
    let mut seen = vec![(world.state.encode(), world.state.hash())];
    let group = GroupId(2);
    let ordered = |group: &GroupId| world.state.orders_for(*group).next().is_some();
    let mut calm = world
        .state
        .shards()
        .iter()
        .filter(|(group, _)| !ordered(group));
    let (calm, led) = calm.next().expect("not all are busy");
    let calm = *calm;
    let able = led
        .voters()
        .find(|(_, node)| world.state.nodes()[node].is_in());
    let mut busier = register(9, "nine");
    if let Command::RegisterNode { capacity, .. } = &mut busier {
        *capacity = Capacity {
            memory_bytes: 1,
            disk_bytes: 0,
        };
    }
    let directory = 1003;
    let commands = [
        busier,
        register(10, "ten"),
        register(9, "other"),
        Command::ReportDamaged {
            node: NodeId(3),
            directory,
        },
        Command::DrainNode {
            node: NodeId(3),
            draining: true,
        },
        Command::SetReplicas { group, wanted: 1 },
        Command::Transfer {
            group: calm,
            to: able.expect("a voter on a node that is in").0,
        },
        Command::Rebalance,
        Command::IssueSessions { count: 1 },
        Command::OpenIssuer,
        Command::AbandonChange {
            group: *world
                .state
                .shards()
                .iter()
                .find(|(_, shard)| shard.change.is_some())
                .expect("something changes")
                .0,
        },
    ];
    for command in commands {
        let mut state = world.state.clone();
        let reply = state.apply(Index(500), &command.clone().into());
        assert!(
            !matches!(reply, Reply::Refused(_)),
            "{command:?}: {reply:?}"
        );
        seen.push((state.encode(), state.hash()));
    }
    let count = seen.len();
    seen.sort();
    seen.dedup_by(|a, b| a.0 == b.0 || a.1 == b.1);
    assert_eq!(seen.len(), count);
}

#[test]
fn damaged_bytes_are_refused() {
    let bytes = busy().state.encode();
    for len in 0..bytes.len() {
        assert!(State::decode(&bytes[..len]).is_err(), "cut at {len}");
    }
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(State::decode(&flipped).is_err(), "flipped at {at}");
    }
    let mut newer = bytes[..bytes.len() - 4].to_vec();
    newer[0] = VERSION + 1;
    newer.extend_from_slice(&crc32c(&newer).to_le_bytes());
    assert_eq!(
        State::decode(&newer).map_err(|error| error.what),
        Err("version")
    );
}

#[test]
fn lies_with_a_right_checksum_do_no_harm() {
    let state = busy().state.encode();
    let body = &state[1..state.len() - 4];
    let request = Request::from(Command::Join {
        shards: vec![NewShard {
            name: "a".to_owned(),
            nodes: vec![NodeId(1)],
            wanted: 1,
        }],
    })
    .encode();
    let mut prng = Prng::new(11);
    let mut believed = 0;
    for round in 0..30_000 {
        let source = if round % 3 == 0 { &request[1..] } else { body };
        let mut bytes = source.to_vec();
        for _ in 0..prng.range(1, 3) {
            let at = prng.index(bytes.len());
            match prng.below(4) {
                0 => bytes[at] = prng.below(256) as u8,
                1 => bytes[at] = bytes[at].wrapping_add(1),
                2 => bytes.truncate(at + 1),
                _ => bytes.insert(at, prng.below(256) as u8),
            }
        }
        fuzz(&bytes);
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(&bytes);
        sealed.extend_from_slice(&crc32c(&sealed).to_le_bytes());
        if let Ok(state) = State::decode(&sealed) {
            assert_eq!(state.encode(), sealed);
            believed += 1;
        }
    }
    assert!(believed > 100, "the lies were too crude: {believed}");
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..prng.range(0, 60))
            .map(|_| prng.below(9) as u8)
            .collect();
        fuzz(&bytes);
    }
}

/// Whatever a caller makes of the types can be read back: an entry that could not would stop every replica.
#[test]
fn no_request_is_written_that_cannot_be_read() {
    let mut prng = Prng::new(12);
    let edge = |prng: &mut Prng| {
        *prng
            .pick(&[0, 1, 2, 16_383, 16_384, 65_534, 65_535])
            .expect("some")
    };
    let number = |prng: &mut Prng| *prng.pick(&[0, 1, 1 << 32, u64::MAX]).expect("some");
    for _ in 0..10_000 {
        let runs = (0..prng.below(5)).map(|_| (edge(&mut prng), edge(&mut prng)));
        let slots = SlotRuns::of_runs(runs.collect::<Vec<_>>());
        let name = "\u{1f511}".repeat(prng.index(300));
        let shard = match prng.chance(1, 2) {
            true => ShardRef::Name(name.clone()),
            false => ShardRef::Group(GroupId(number(&mut prng))),
        };
        let command = match prng.below(4) {
            0 => Command::Assign { slots, shard },
            1 => Command::OpenMove {
                from: prng.chance(1, 2).then(|| GroupId(number(&mut prng))),
                to: GroupId(number(&mut prng)),
                slots,
            },
            2 => Command::Join {
                shards: (0..prng.below(4))
                    .map(|_| NewShard {
                        name: name.clone(),
                        nodes: (0..prng.below(4))
                            .map(|_| NodeId(number(&mut prng)))
                            .collect(),
                        wanted: prng.below(256) as u8,
                    })
                    .collect(),
            },
            _ => Command::IssueSessions {
                count: number(&mut prng),
            },
        };
        let once = prng.chance(1, 2);
        let once = once.then(|| (IssuerId(number(&mut prng)), number(&mut prng)));
        let request = Request { once, command };
        assert!(request.reads_back(), "{request:?}");
    }
}
