//! Whatever happens to nodes and shards: once nothing happens any more, everything is in its place.

use std::collections::BTreeMap;

use kvorum_base::{GroupId, NodeId, Prng, ReplicaId};
use kvorum_cluster::{
    Command, Hearsay, NewShard, NodeState, PlannedGroup, Reply, ShardRef, State, Witness, place,
    preferred_primaries,
};

use crate::support::{World, plan, register, spread};

fn in_nodes(world: &World) -> Vec<NodeId> {
    let nodes = world.state.nodes().iter();
    nodes
        .filter(|(_, node)| node.is_in())
        .map(|(id, _)| *id)
        .collect()
}

/// One thing that happens; it may be refused.
fn happen(world: &mut World, prng: &mut Prng, next: u64) {
    let nodes: Vec<NodeId> = world.state.nodes().keys().copied().collect();
    let node = *prng.pick(&nodes).expect("there are nodes");
    let directory = world.state.nodes()[&node].directory;
    let enough = in_nodes(world).len() > 3;
    let command = match prng.below(10) {
        0 | 1 => register(next + 5000, &format!("more{next}")),
        2 if enough => {
            // All who share a group with it and have a majority without it.
            let shards = world.state.shards().iter();
            let witnesses = shards
                .filter(|(_, shard)| shard.replica_on(node).is_some())
                .flat_map(|(group, shard)| {
                    let others = shard.voters().filter(|(_, other)| *other != node);
                    others.map(|(_, node)| Witness {
                        group: *group,
                        node,
                    })
                })
                .collect();
            Command::ReportDead { node, witnesses }
        }
        3 => Command::ReportAlive { node, directory },
        4 if enough && prng.chance(1, 3) => Command::ReportDamaged { node, directory },
        5 if enough => Command::DrainNode {
            node,
            draining: true,
        },
        6 => Command::DrainNode {
            node,
            draining: false,
        },
        7 => {
            let nodes = place(&world.state, 1, 3).remove(0);
            let shard = NewShard {
                name: format!("new{next}"),
                nodes,
                wanted: 3,
            };
            Command::Join {
                shards: vec![shard],
            }
        }
        8 => {
            let shards: Vec<GroupId> = world.state.newest().shards.keys().copied().collect();
            let shard = *prng.pick(&shards).expect("the last one cannot leave");
            Command::Leave {
                shards: vec![ShardRef::Group(shard)],
            }
        }
        _ => Command::RemoveNode { node },
    };
    world.apply(command);
}

/// For each slot, who has it and who should.
fn slots(world: &World) -> Vec<(Option<GroupId>, Option<GroupId>)> {
    let owned = world.state.slots().cells().iter();
    let wanted = world.state.newest().slots.cells().iter();
    owned
        .zip(wanted)
        .map(|(owned, wanted)| (owned.owner, *wanted))
        .collect()
}

#[test]
fn everything_finds_its_place() {
    let (mut whole, mut lacking) = (0, 0);
    for seed in 0..40 {
        let mut prng = Prng::new(seed);
        let mut world = World::new(&plan(1000, prng.range(4, 7), prng.range(1, 6), 3));
        for next in 0..25 {
            happen(&mut world, &mut prng, next);
            // Sometimes the next thing happens before the last one is dealt with.
            if prng.chance(1, 2) {
                world.settle();
            }
        }
        world.settle();
        let stuck = |group: Option<GroupId>| group.is_some_and(|group| !world.decides(group));
        for (owned, wanted) in slots(&world) {
            let waits = stuck(owned) || stuck(wanted);
            assert!(
                owned == wanted || waits,
                "seed {seed}: {owned:?} {wanted:?}"
            );
        }
        // Nobody is left on a node that should be empty, unless there is no other node, or no majority.
        let enough = in_nodes(&world).len() >= 3;
        let lacking_groups = world.state.under_replicated();
        let lacks = lacking_groups
            .filter(|(group, ..)| world.decides(*group))
            .count();
        assert!(
            !enough || lacks == 0,
            "seed {seed}: {lacks} groups lack replicas"
        );
        for (id, node) in world.state.nodes() {
            let holds = world
                .state
                .shards()
                .iter()
                .any(|(group, shard)| shard.replica_on(*id).is_some() && world.decides(*group));
            assert!(
                node.state() == NodeState::In || !holds || !enough,
                "seed {seed}: node {id}"
            );
        }
        if enough
            && world
                .state
                .shards()
                .keys()
                .all(|group| !stuck(Some(*group)))
        {
            assert!(
                spread(&world.load()) <= 1,
                "seed {seed}: {:?}",
                world.load()
            );
            whole += 1;
        } else {
            lacking += 1;
        }
    }
    assert!(whole > 10, "{whole} whole, {lacking} not");
}

/// Every way to choose a leader for each shard, tried.
fn best_spread(able: &[Vec<usize>], nodes: usize) -> usize {
    fn go(able: &[Vec<usize>], counts: &mut Vec<usize>, best: &mut usize) {
        let Some((shard, rest)) = able.split_first() else {
            let most = counts.iter().max().unwrap_or(&0);
            *best = (*best).min(most - counts.iter().min().unwrap_or(&0));
            return;
        };
        for node in shard {
            counts[*node] += 1;
            go(rest, counts, best);
            counts[*node] -= 1;
        }
    }
    let mut best = usize::MAX;
    go(able, &mut vec![0; nodes], &mut best);
    best
}

#[test]
fn no_choice_of_primaries_is_more_even() {
    let mut prng = Prng::new(5);
    for _ in 0..300 {
        let nodes = prng.range(2, 5);
        let mut planned = plan(100, nodes, 0, 1);
        let mut able = Vec::new();
        for group in 1..=prng.range(1, 6) {
            let mut places: Vec<u64> = (0..nodes).collect();
            prng.shuffle(&mut places);
            places.truncate(prng.range(1, 3).min(nodes) as usize);
            let replicas: BTreeMap<ReplicaId, NodeId> = places
                .iter()
                .map(|place| (ReplicaId(10 * group + place), NodeId(place + 1)))
                .collect();
            let preferred = replicas
                .keys()
                .last()
                .copied()
                .filter(|_| prng.chance(1, 2));
            let shard = PlannedGroup {
                name: format!("s{group}"),
                preferred,
                wanted: replicas.len() as u8,
                replicas,
            };
            planned.shards.insert(GroupId(group), shard);
            able.push(places.into_iter().map(|place| place as usize).collect());
        }
        let state = State::initial(&planned).expect("a plan");
        let chosen = preferred_primaries(&state, &Hearsay::default());
        assert_eq!(chosen.len(), able.len());
        let mut counts: BTreeMap<NodeId, usize> =
            (1..=nodes).map(|node| (NodeId(node), 0)).collect();
        for (group, replica) in &chosen {
            let node = state.shards()[group].replicas[replica].node;
            *counts.get_mut(&node).expect("a node") += 1;
        }
        assert_eq!(
            spread(&counts),
            best_spread(&able, nodes as usize),
            "{able:?} {chosen:?}"
        );
    }
}

#[test]
fn new_shards_are_spread_over_nodes_and_primaries() {
    let mut world = World::new(&plan(1000, 5, 0, 3));
    let shards = place(&world.state, 10, 3)
        .into_iter()
        .enumerate()
        .map(|(number, nodes)| NewShard {
            name: number.to_string(),
            nodes,
            wanted: 3,
        })
        .collect();
    assert!(matches!(
        world.apply(Command::Join { shards }),
        Reply::Joined { .. }
    ));
    world.settle();
    assert_eq!(spread(&world.load()), 0);
    assert_eq!(spread(&world.leads()), 0);
    let transfers = world.state.shards().values().filter(|shard| {
        let first = shard.replicas.keys().next();
        shard.preferred.as_ref() == first
    });
    assert_eq!(transfers.count(), 11, "the first choice was even already");
}
