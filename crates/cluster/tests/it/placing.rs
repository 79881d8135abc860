//! Lost, added and drained nodes, new and leaving shards: where everything is once all has come to rest.

use kvorum_base::{GroupId, NodeId, Slot};
use kvorum_cluster::{
    Command, Health, NewShard, NodeState, Refusal, Reply, ShardRef, Stage, State, Witness,
    next_commands, place,
};

use crate::support::{World, plan, register, spread};

fn replicas_on(world: &World, node: u64) -> usize {
    let shards = world.state.shards().values();
    shards
        .filter(|shard| shard.replica_on(NodeId(node)).is_some())
        .count()
}

fn is_whole(world: &World) {
    assert_eq!(world.state.under_replicated().count(), 0);
    assert!(spread(&world.load()) <= 1, "{:?}", world.load());
    assert!(spread(&world.leads()) <= 1, "{:?}", world.leads());
    assert_eq!(world.state.orders().len(), 0);
    for (first, _, owner) in world.state.owners() {
        assert_eq!(
            owner,
            world.state.newest().slots.cells()[usize::from(first)]
        );
    }
}

/// All groups with a replica on the node whose primary is elsewhere.
fn witnesses(world: &World, node: u64) -> Vec<Witness> {
    let node = NodeId(node);
    let shards = world.state.shards().iter();
    shards
        .filter(|(group, shard)| State::is_shard(**group) && shard.replica_on(node).is_some())
        .map(|(group, shard)| {
            let elsewhere = shard.voters().find(|(_, other)| *other != node);
            Witness {
                group: *group,
                node: elsewhere.expect("more than one voter").1,
            }
        })
        .collect()
}

fn kill(world: &mut World, node: u64) {
    let witnesses = witnesses(world, node);
    let node = NodeId(node);
    assert_eq!(
        world.apply(Command::ReportDead { node, witnesses }),
        Reply::Done
    );
}

#[test]
fn a_cluster_begins_at_rest() {
    for (nodes, shards, replicas) in [(1, 1, 1), (3, 3, 3), (5, 20, 3), (4, 1, 3)] {
        let mut world = World::new(&plan(16384, nodes, shards, replicas));
        assert_eq!(world.state.check(), Ok(()));
        world.settle();
        is_whole(&world);
        let runs = world.state.owners().count() as u64;
        assert_eq!(runs, shards, "one run each");
        assert_eq!(world.state.owner(Slot(0)), Some(GroupId(1)));
    }
}

#[test]
fn a_new_node_gets_its_share_with_as_few_moves_as_that_takes() {
    let mut world = World::new(&plan(16384, 3, 12, 3));
    world.settle();
    let Reply::Node(node) = world.apply(register(1, "new")) else {
        panic!("registered");
    };
    let before = world.state.orders().len();
    world.settle();
    is_whole(&world);
    assert_eq!(world.load()[&node], 9);
    let groups = world
        .state
        .shards()
        .keys()
        .filter(|group| State::is_shard(**group));
    assert_eq!((groups.count(), before), (12, 0));
    let new_replicas = world
        .state
        .shards()
        .values()
        .flat_map(|shard| shard.replicas.keys())
        .filter(|id| id.get() > 3 * 13)
        .count();
    assert_eq!(new_replicas, 9, "nothing else has moved");
}

#[test]
fn a_dead_node_is_replaced_and_none_else_at_the_same_time() {
    let mut world = World::new(&plan(16384, 6, 12, 3));
    world.settle();
    kill(&mut world, 2);
    kill(&mut world, 5);
    let mut rounds = 0;
    loop {
        let leaving: std::collections::BTreeSet<NodeId> = world
            .state
            .shards()
            .values()
            .filter_map(|shard| Some(shard.replicas[&shard.change?.remove?].node))
            .collect();
        assert!(leaving.len() <= 1, "{leaving:?}");
        world.elect();
        let commands = next_commands(&world.state, &world.hearsay);
        for command in commands {
            assert!(!matches!(world.apply(command), Reply::Refused(_)));
        }
        rounds += 1;
        if !world.obey() {
            break;
        }
    }
    assert!(rounds > 8, "it takes several steps");
    world.settle();
    assert_eq!((replicas_on(&world, 2), replicas_on(&world, 5)), (0, 0));
    // What the dead should delete stays ordered until they are removed or come back.
    assert!(world.state.orders_for_node(NodeId(2)).count() > 0);
    for node in [NodeId(2), NodeId(5)] {
        assert_eq!(world.apply(Command::RemoveNode { node }), Reply::Done);
        assert_eq!(world.state.node_state(node), Some(NodeState::Gone));
    }
    is_whole(&world);
}

#[test]
fn a_drained_node_ends_empty_and_stays_so() {
    let mut world = World::new(&plan(16384, 4, 8, 3));
    world.settle();
    let node = NodeId(1);
    let in_use = world.apply(Command::RemoveNode { node });
    assert_eq!(in_use, Reply::Refused(Refusal::NodeIn(node)));
    let draining = true;
    assert_eq!(
        world.apply(Command::DrainNode { node, draining }),
        Reply::Done
    );
    let holds = world.apply(Command::RemoveNode { node });
    assert_eq!(holds, Reply::Refused(Refusal::HoldsReplicas(node)));
    world.settle();
    assert_eq!(replicas_on(&world, 1), 0);
    is_whole(&world);
    assert_eq!(world.apply(Command::RemoveNode { node }), Reply::Done);
}

#[test]
fn without_another_node_a_shard_stays_under_replicated_and_says_so() {
    let mut world = World::new(&plan(16384, 3, 3, 3));
    world.settle();
    kill(&mut world, 3);
    world.settle();
    assert_eq!(
        replicas_on(&world, 3),
        4,
        "nothing is gained by taking them away"
    );
    let lacking: Vec<_> = world.state.under_replicated().collect();
    assert_eq!(lacking.len(), 4);
    assert!(
        lacking
            .iter()
            .all(|(_, have, wanted)| (*have, *wanted) == (2, 3))
    );
    // It comes back: all is as before, and led evenly again.
    let directory = world.state.nodes()[&NodeId(3)].directory;
    let node = NodeId(3);
    assert_eq!(
        world.apply(Command::ReportAlive { node, directory }),
        Reply::Done
    );
    world.settle();
    is_whole(&world);
}

#[test]
fn a_node_that_is_full_gets_nothing() {
    let mut world = World::new(&plan(16384, 3, 3, 3));
    let mut small = register(1, "small");
    if let Command::RegisterNode { capacity, .. } = &mut small {
        capacity.memory_bytes = 1000;
    }
    assert_eq!(world.apply(small), Reply::Node(NodeId(4)));
    for group in 1..=3 {
        world.hearsay.hear_sizes(GroupId(group), 600, []);
    }
    world.settle();
    assert_eq!(world.load()[&NodeId(4)], 1, "one shard fits");
    kill(&mut world, 1);
    world.settle();
    assert_eq!(world.load()[&NodeId(4)], 1);
    let lacking = world
        .state
        .under_replicated()
        .filter(|(group, ..)| State::is_shard(*group));
    assert!(lacking.count() >= 1);
}

#[test]
fn a_change_towards_a_full_disk_ends_and_others_go_on() {
    let mut world = World::new(&plan(16384, 3, 3, 3));
    world.settle();
    world.apply(register(1, "full"));
    kill(&mut world, 1);
    let begun = next_commands(&world.state, &world.hearsay);
    let towards = |command: &Command| {
        matches!(
            command,
            Command::ChangeReplicas {
                add: Some(NodeId(4)),
                ..
            }
        )
    };
    let begun: Vec<_> = begun.into_iter().filter(towards).collect();
    assert!(!begun.is_empty());
    for command in begun {
        world.apply(command);
    }
    world.hearsay.full.insert(NodeId(4));
    let plan = next_commands(&world.state, &world.hearsay);
    let given_up = |command: &Command| matches!(command, Command::AbandonChange { .. });
    assert!(plan.iter().any(given_up), "{plan:?}");
    world.apply(register(2, "roomy"));
    world.settle();
    assert_eq!(world.load()[&NodeId(4)], 0);
    assert_eq!(world.load()[&NodeId(5)], 3);
    assert_eq!(world.state.under_replicated().count(), 0);
}

#[test]
fn a_replica_that_is_only_joining_does_not_count_for_its_node() {
    let mut world = World::new(&plan(16384, 3, 3, 3));
    world.settle();
    world.apply(register(1, "new"));
    for group in 1..=3 {
        let group = GroupId(group);
        let shard = &world.state.shards()[&group];
        let (expected, wanted) = (shard.membership, 4);
        world.apply(Command::SetReplicas { group, wanted });
        let reply = world.apply(Command::ChangeReplicas {
            group,
            expected,
            add: Some(NodeId(4)),
            remove: None,
        });
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    }
    // No primary talks to it yet, so that none can miss it.
    let report = Command::ReportDead {
        node: NodeId(4),
        witnesses: Vec::new(),
    };
    assert_eq!(world.apply(report), Reply::Done);
    assert_eq!(world.state.nodes()[&NodeId(4)].health, Health::Dead);
}

#[test]
fn damage_is_for_ever_and_an_empty_directory_is_another_node() {
    let mut world = World::new(&plan(16384, 4, 4, 3));
    world.settle();
    let (node, directory) = (NodeId(1), 1001);
    let damaged = Command::ReportDamaged { node, directory };
    assert_eq!(world.apply(damaged), Reply::Done);
    let alive = world.apply(Command::ReportAlive { node, directory });
    assert_eq!(alive, Reply::Refused(Refusal::NodeGone(node)));
    // Started again on an empty directory, with the same addresses.
    assert_eq!(world.apply(register(5, "node1")), Reply::Node(NodeId(5)));
    assert_eq!(
        world.apply(register(5, "node1")),
        Reply::Node(NodeId(5)),
        "once"
    );
    world.settle();
    assert_eq!(replicas_on(&world, 1), 0);
    assert_eq!(world.apply(Command::RemoveNode { node }), Reply::Done);
    is_whole(&world);
}

#[test]
fn one_partition_between_two_machines_is_no_death() {
    let mut world = World::new(&plan(16384, 5, 5, 3));
    world.settle();
    let node = NodeId(3);
    let mut all = witnesses(&world, 3);
    assert_eq!(all.len(), 3);
    let report = |witnesses: &[Witness]| Command::ReportDead {
        node,
        witnesses: witnesses.to_vec(),
    };
    let unproven = |have| Reply::Refused(Refusal::Unproven { have, need: 2 });
    assert_eq!(world.apply(report(&[])), unproven(0));
    assert_eq!(world.apply(report(&all[..1])), unproven(1));
    assert_eq!(
        world.apply(report(&[all[0], all[0]])),
        unproven(1),
        "counted once"
    );
    let itself = Witness {
        group: all[1].group,
        node,
    };
    assert_eq!(world.apply(report(&[all[0], itself])), unproven(1));
    let stranger = Witness {
        group: all[1].group,
        node: NodeId(99),
    };
    assert_eq!(world.apply(report(&[all[0], stranger])), unproven(1));
    all.truncate(2);
    assert_eq!(world.apply(report(&all)), Reply::Done);
    assert_eq!(world.state.nodes()[&node].health, Health::Dead);
}

#[test]
fn where_nobody_can_speak_for_a_group_the_managers_primary_does() {
    // The manager is on nodes 1 to 3, and the shards with a replica on node 3 are 1 to 3, on nodes 1 to 5.
    let mut world = World::new(&plan(16384, 5, 5, 3));
    world.settle();
    let node = NodeId(3);
    let spoken = |speaker: u64| {
        let witness = |group| Witness {
            group: GroupId(group),
            node: NodeId(speaker),
        };
        Command::ReportDead {
            node,
            witnesses: vec![witness(1), witness(3)],
        }
    };
    // Node 5 is in the third one alone.
    let unproven = Refusal::Unproven { have: 1, need: 2 };
    assert_eq!(world.apply(spoken(5)), Reply::Refused(unproven));
    assert_eq!(world.apply(spoken(1)), Reply::Done);
    assert_eq!(world.state.nodes()[&node].health, Health::Dead);
}

#[test]
fn shards_come_are_filled_and_go_and_nobody_is_left_behind() {
    let mut world = World::new(&plan(16384, 4, 2, 3));
    world.settle();
    let nodes = place(&world.state, 2, 3);
    let shards = nodes
        .into_iter()
        .zip(["x", "y"])
        .map(|(nodes, name)| NewShard {
            name: name.to_owned(),
            nodes,
            wanted: 3,
        })
        .collect();
    let Reply::Joined { groups, .. } = world.apply(Command::Join { shards }) else {
        panic!("joined");
    };
    let early = world.apply(Command::OpenMove {
        from: Some(GroupId(1)),
        to: groups[0],
        slots: kvorum_cluster::SlotRuns::run(0, 3),
    });
    assert_eq!(early, Reply::Refused(Refusal::NotServing(groups[0])));
    world.settle();
    is_whole(&world);
    for group in &groups {
        assert_eq!(world.state.shards()[group].stage, Stage::Serving);
        assert_eq!(world.state.slots_of(*group).len(), 4096);
    }
    let leaving = vec![ShardRef::Name("x".to_owned()), ShardRef::Group(GroupId(1))];
    world.apply(Command::Leave { shards: leaving });
    let needed = world.apply(Command::Retire { group: GroupId(1) });
    assert_eq!(needed, Reply::Refused(Refusal::StillNeeded(GroupId(1))));
    world.settle();
    is_whole(&world);
    assert!(world.state.is_gone(groups[0]) && world.state.is_gone(GroupId(1)));
    assert_eq!(world.state.slots_of(groups[1]).len(), 8192);
}
