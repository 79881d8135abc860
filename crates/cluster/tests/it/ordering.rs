//! Orders: one step at a time, each closed by evidence, every way out of a change.

use std::collections::BTreeSet;

use kvorum_base::{GroupId, Index, NodeId, ReplicaId, Term};
use kvorum_cluster::{
    Addressee, Command, Members, OrderNumber, Outcome, Refusal, Reply, Role, State, Task, Witness,
};

use crate::support::{World, plan, register};

const GROUP: GroupId = GroupId(1);

/// Five nodes; the group has replicas 4, 5 and 6 on nodes 1, 2 and 3.
fn five() -> World {
    let mut world = World::new(&plan(300, 5, 1, 3));
    world.settle();
    world
}

fn replace(world: &mut World, add: u64, remove: u64) -> Reply {
    let expected = world.state.shards()[&GROUP].membership;
    world.apply(Command::ChangeReplicas {
        group: GROUP,
        expected,
        add: (add > 0).then_some(NodeId(add)),
        remove: (remove > 0).then_some(ReplicaId(remove)),
    })
}

fn ordered(reply: &Reply) -> OrderNumber {
    match reply {
        Reply::Ordered(number) => *number,
        other => panic!("{other:?}"),
    }
}

fn close(world: &mut World, order: OrderNumber, outcome: Outcome) -> Reply {
    world.apply(Command::CloseOrder { order, outcome })
}

fn members(id: u64, voters: &[u64], learners: &[u64]) -> Outcome {
    let set = |ids: &[u64]| ids.iter().map(|id| ReplicaId(*id)).collect();
    Outcome::Members(Members {
        id: Index(id),
        voters: set(voters),
        learners: set(learners),
    })
}

/// The order that the group's change waits for.
fn step(world: &World) -> (OrderNumber, Task) {
    let change = world.state.shards()[&GROUP].change.expect("it is changing");
    let order = &world.state.orders()[&change.order];
    (change.order, order.task.clone())
}

fn tasks(world: &World) -> Vec<Task> {
    world
        .state
        .orders()
        .values()
        .map(|order| order.task.clone())
        .collect()
}

fn voters(world: &World) -> Vec<u64> {
    let shard = &world.state.shards()[&GROUP];
    shard.voters().map(|(replica, _)| replica.get()).collect()
}

#[test]
fn a_replacement_step_by_step() {
    let mut world = five();
    let first = ordered(&replace(&mut world, 4, 4));
    assert_eq!(
        replace(&mut world, 5, 5),
        Reply::Refused(Refusal::Changing(GROUP))
    );
    let orders = world.state.orders_for_node(NodeId(4)).collect::<Vec<_>>();
    assert_eq!(orders.len(), 1);
    let founders = std::collections::BTreeMap::new();
    let created = Task::CreateReplica {
        replica: ReplicaId(7),
        node: NodeId(4),
        founders,
    };
    assert_eq!((orders[0].0, &orders[0].1.task), (first, &created));
    assert_eq!(
        world.state.orders_for(GROUP).count(),
        0,
        "the group is not asked yet"
    );

    assert_eq!(close(&mut world, first, Outcome::Created), Reply::Done);
    let (second, task) = step(&world);
    assert!(second > first);
    assert!(matches!(
        task,
        Task::AddLearner {
            replica: ReplicaId(7),
            ..
        }
    ));
    let early = close(&mut world, second, members(3, &[4, 5, 6], &[]));
    assert_eq!(early, Reply::Refused(Refusal::WrongEvidence));
    assert_eq!(
        close(&mut world, second, members(3, &[4, 5, 6], &[7])),
        Reply::Done
    );
    let role = world.state.shards()[&GROUP].replicas[&ReplicaId(7)].role;
    assert_eq!(role, Role::Joining);

    let (third, task) = step(&world);
    let expected = Index(3);
    let promote = Task::Promote {
        replica: ReplicaId(7),
        removing: Some(ReplicaId(4)),
        expected,
    };
    assert_eq!(task, promote);
    assert_eq!(
        voters(&world),
        [4, 5, 6],
        "who votes is what the group committed"
    );
    let wrong = [
        members(9, &[4, 5, 6, 7], &[]),
        members(9, &[5, 6], &[7]),
        members(3, &[5, 6, 7], &[]),
        members(9, &[5, 6, 7, 99], &[]),
        members(9, &[], &[]),
        Outcome::Created,
        Outcome::Transferred,
    ];
    for outcome in wrong {
        let reply = close(&mut world, third, outcome.clone());
        assert_eq!(reply, Reply::Refused(Refusal::WrongEvidence), "{outcome:?}");
    }
    let epoch = world.state.epoch();
    assert_eq!(
        close(&mut world, third, members(9, &[5, 6, 7], &[])),
        Reply::Done
    );
    assert!(world.state.epoch() > epoch, "clients are shown other nodes");
    assert_eq!(voters(&world), [5, 6, 7]);
    assert_eq!(world.state.shards()[&GROUP].change, None);
    let deleted = Task::DeleteReplica {
        replica: ReplicaId(4),
        node: NodeId(1),
    };
    assert_eq!(tasks(&world), [deleted], "only now");
    // The node may not get the group again before the old replica is deleted.
    let taken = replace(&mut world, 1, 5);
    assert_eq!(taken, Reply::Refused(Refusal::NodeTaken(NodeId(1))));
    let (last, _) = world
        .state
        .orders_for_node(NodeId(1))
        .next()
        .expect("to delete");
    assert_eq!(close(&mut world, last, Outcome::Deleted), Reply::Done);
    assert_eq!(
        close(&mut world, last, Outcome::Deleted),
        Reply::Refused(Refusal::NoSuchOrder(last))
    );
    assert!(matches!(replace(&mut world, 1, 5), Reply::Ordered(_)));
}

#[test]
fn what_is_not_even_begun() {
    let mut world = five();
    let no = |refusal| Reply::Refused(refusal);
    assert_eq!(replace(&mut world, 0, 0), no(Refusal::BadReplicas));
    assert_eq!(
        replace(&mut world, 4, 0),
        no(Refusal::BadReplicas),
        "three are wanted"
    );
    assert_eq!(replace(&mut world, 0, 4), no(Refusal::BelowWanted));
    assert_eq!(replace(&mut world, 2, 4), no(Refusal::NodeTaken(NodeId(2))));
    assert_eq!(
        replace(&mut world, 9, 4),
        no(Refusal::NoSuchNode(NodeId(9)))
    );
    assert_eq!(
        replace(&mut world, 4, 9),
        no(Refusal::NoSuchReplica(ReplicaId(9)))
    );
    let stale = world.apply(Command::ChangeReplicas {
        group: GROUP,
        expected: Index(8),
        add: Some(NodeId(4)),
        remove: Some(ReplicaId(4)),
    });
    assert_eq!(stale, no(Refusal::OtherMembers(Index(0))));
    let node = NodeId(4);
    let draining = true;
    world.apply(Command::DrainNode { node, draining });
    assert_eq!(replace(&mut world, 4, 4), no(Refusal::NodeNotIn(node)));
}

/// Brings the change to the given step.
fn upto(world: &mut World, steps: usize) -> OrderNumber {
    replace(world, 4, 4);
    let outcomes = [Outcome::Created, members(3, &[4, 5, 6], &[7])];
    for outcome in outcomes.into_iter().take(steps) {
        let (order, _) = step(world);
        assert_eq!(close(world, order, outcome), Reply::Done);
    }
    step(world).0
}

#[test]
fn a_refused_step_takes_back_what_was_done() {
    for steps in 0..3 {
        let mut world = five();
        let order = upto(&mut world, steps);
        assert_eq!(close(&mut world, order, Outcome::Refused), Reply::Done);
        if steps == 2 {
            let (order, task) = step(&world);
            assert!(matches!(
                task,
                Task::Remove {
                    replica: ReplicaId(7),
                    ..
                }
            ));
            // A learner that nobody wants has to go, however often the group says no.
            assert_eq!(close(&mut world, order, Outcome::Refused), Reply::Done);
            let (again, _) = step(&world);
            assert!(again > order);
            assert_eq!(
                close(&mut world, again, members(5, &[4, 5, 6], &[])),
                Reply::Done
            );
        }
        assert_eq!(voters(&world), [4, 5, 6]);
        assert_eq!(world.state.shards()[&GROUP].change, None);
        let deleted = Task::DeleteReplica {
            replica: ReplicaId(7),
            node: NodeId(4),
        };
        assert_eq!(tasks(&world), [deleted], "after {steps} steps");
    }
}

#[test]
fn giving_up_is_a_request_once_the_group_was_asked() {
    for steps in 0..3 {
        let mut world = five();
        let order = upto(&mut world, steps);
        assert_eq!(
            world.apply(Command::AbandonChange { group: GROUP }),
            Reply::Done
        );
        if steps == 0 {
            assert_eq!(
                world.state.shards()[&GROUP].change,
                None,
                "the group knows nothing"
            );
            continue;
        }
        assert_eq!(step(&world).0, order, "the group's log has the word");
        assert!(world.state.orders()[&order].withdrawn);
        // It was done in spite of it.
        let done = if steps == 1 {
            members(3, &[4, 5, 6], &[7])
        } else {
            members(9, &[5, 6, 7], &[])
        };
        assert_eq!(close(&mut world, order, done), Reply::Done);
        if steps == 1 {
            let (_, task) = step(&world);
            assert!(
                matches!(
                    task,
                    Task::Remove {
                        replica: ReplicaId(7),
                        ..
                    }
                ),
                "{task:?}"
            );
        } else {
            assert_eq!(voters(&world), [5, 6, 7]);
        }
    }
}

#[test]
fn a_change_towards_a_node_that_dies_is_given_up_and_made_elsewhere() {
    for steps in 0..3 {
        let mut world = five();
        let draining = true;
        let node = NodeId(1);
        world.apply(Command::DrainNode { node, draining });
        upto(&mut world, steps);
        let node = NodeId(4);
        let witnesses = vec![Witness {
            group: GROUP,
            node: NodeId(2),
        }];
        assert_eq!(
            world.apply(Command::ReportDead { node, witnesses }),
            Reply::Done
        );
        for _ in 0..20 {
            world.elect();
            for command in kvorum_cluster::next_commands(&world.state, &world.hearsay) {
                world.apply(command);
            }
            // A step that the dead node has a part in is refused by the group, since it was withdrawn.
            let orders: Vec<OrderNumber> = world.state.orders().keys().copied().collect();
            for order in orders {
                let known = world.state.orders().get(&order).cloned();
                let Some(known) = known else { continue };
                let shard = &world.state.shards()[&known.group];
                let all: BTreeSet<ReplicaId> = shard.voters().map(|(id, _)| id).collect();
                let id = Index(shard.membership.get() + 1);
                let outcome = match &known.task {
                    Task::AddLearner { replica, .. } if !known.withdrawn => Members {
                        id,
                        voters: all,
                        learners: [*replica].into(),
                    },
                    Task::Promote {
                        replica, removing, ..
                    } if !known.withdrawn => Members {
                        id,
                        voters: all
                            .into_iter()
                            .chain([*replica])
                            .filter(|id| Some(*id) != *removing)
                            .collect(),
                        learners: BTreeSet::new(),
                    },
                    Task::Remove { replica, .. } => Members {
                        id,
                        voters: all.into_iter().filter(|id| id != replica).collect(),
                        learners: BTreeSet::new(),
                    },
                    Task::AddLearner { .. } | Task::Promote { .. } => {
                        close(&mut world, order, Outcome::Refused);
                        continue;
                    }
                    _ => {
                        if known.to != Addressee::Node(node)
                            && let Some(outcome) = world.outcome(order)
                        {
                            close(&mut world, order, outcome);
                        }
                        continue;
                    }
                };
                assert_eq!(
                    close(&mut world, order, Outcome::Members(outcome)),
                    Reply::Done
                );
            }
        }
        let shard = &world.state.shards()[&GROUP];
        let nodes: Vec<NodeId> = shard.voters().map(|(_, node)| node).collect();
        assert_eq!(
            nodes,
            [NodeId(2), NodeId(3), NodeId(5)],
            "after {steps} steps"
        );
        assert_eq!(shard.change, None);
    }
}

#[test]
fn a_group_that_an_operator_saved_has_the_members_he_gave_it() {
    let mut world = five();
    upto(&mut world, 2);
    let survivor = |id| Members {
        id: Index(id),
        voters: [ReplicaId(5)].into(),
        learners: BTreeSet::new(),
    };
    let record = |members, floor| Command::RecordRecovery {
        group: GROUP,
        members,
        floor: ReplicaId(floor),
    };
    let recover = Command::Recover {
        group: GROUP,
        replica: ReplicaId(5),
        term: Term(9),
    };
    let order = ordered(&world.apply(recover.clone()));
    let twice = world.apply(recover);
    assert_eq!(twice, Reply::Refused(Refusal::OrderOutstanding(order)));
    let Task::Recover { floor, .. } = world.state.orders()[&order].task else {
        panic!("an order to recover");
    };
    let wrong = Reply::Refused(Refusal::WrongEvidence);
    assert_eq!(world.apply(record(survivor(50), 0)), wrong);
    // Its log may end before that of those who are lost, so its members may have a lower id than were known.
    let record = |id| record(survivor(id), floor.get());
    assert_eq!(world.apply(record(1)), Reply::Done);
    assert_eq!(world.apply(record(1)), wrong, "said twice");
    assert_eq!(voters(&world), [5]);
    let shard = &world.state.shards()[&GROUP];
    assert!(shard.has_let_go(ReplicaId(6)) && !shard.has_let_go(ReplicaId(5)));
    assert_eq!(world.state.recoveries()[0].at, Index(1));
    assert_eq!(world.state.orders().get(&order), None, "it is carried out");
    let deleted = tasks(&world);
    assert_eq!(
        deleted.len(),
        3,
        "what is left of the others is deleted: {deleted:?}"
    );
    let lacking: Vec<_> = world.state.under_replicated().collect();
    assert_eq!(lacking, [(GROUP, 1, 3)]);
}

#[test]
fn a_recovered_manager_gives_out_nothing_that_may_be_taken() {
    let mut world = five();
    let manager = GroupId(0);
    let recover = Command::Recover {
        group: manager,
        replica: ReplicaId(1),
        term: Term(9),
    };
    let has_majority = Reply::Refused(Refusal::HasMajority(manager));
    assert_eq!(world.apply(recover), has_majority);
    let lost = world.state.clone();
    let members = Members {
        id: Index(50),
        voters: [ReplicaId(1)].into(),
        learners: BTreeSet::new(),
    };
    let floor = lost.manager_floor();
    let orders_before = lost.orders().len();
    let record = Command::RecordRecovery {
        group: manager,
        members,
        floor,
    };
    assert_eq!(world.apply(record), Reply::Done);
    let is_far = |number: &&OrderNumber| number.get() > 1_000_000;
    let far = world.state.orders().keys().filter(is_far).count();
    assert_eq!((orders_before, far), (0, 2), "{:?}", world.state.orders());
    // What the lost ones may have had behind the last common entry.
    let mut theirs = lost;
    for entry in 1..100 {
        let index = theirs.applied().next();
        let number = entry + 100;
        let reply = theirs.apply(index, &register(number, "theirs").into());
        assert!(matches!(reply, Reply::Node(_)), "{reply:?}");
    }
    let newest = *theirs.nodes().keys().last().expect("a node");
    let Reply::Node(node) = world.apply(register(9, "nine")) else {
        panic!("it joins");
    };
    assert!(node > newest, "{node} after {newest}");
    assert!(world.state.newness() > theirs.newness());
    assert!(world.state.epoch() > theirs.epoch());
    let Reply::Issuer(issuer) = world.apply(Command::OpenIssuer) else {
        panic!("opened");
    };
    assert!(issuer.get() > theirs.newness().get());
    let order = ordered(&world.apply(Command::ChangeReplicas {
        group: manager,
        expected: Index(50),
        add: Some(node),
        remove: None,
    }));
    let Task::CreateReplica { replica, .. } = world.state.orders()[&order].task else {
        panic!("an order to make a replica");
    };
    assert!(replica >= floor, "{replica} is not let go");
}

#[test]
fn a_hand_over_is_ordered_once_and_may_come_to_nothing() {
    let mut world = five();
    let to = ReplicaId(6);
    let transfer = Command::Transfer { group: GROUP, to };
    let order = ordered(&world.apply(transfer.clone()));
    let twice = world.apply(transfer.clone());
    assert_eq!(twice, Reply::Refused(Refusal::OrderOutstanding(order)));
    assert_eq!(world.state.shards()[&GROUP].preferred, Some(to));
    assert_eq!(close(&mut world, order, Outcome::Refused), Reply::Done);
    let next = ordered(&world.apply(transfer));
    assert!(next > order);
    let learner = world.apply(Command::Transfer {
        group: GROUP,
        to: ReplicaId(7),
    });
    assert_eq!(
        learner,
        Reply::Refused(Refusal::NoSuchReplica(ReplicaId(7)))
    );
}

#[test]
fn a_new_shard_serves_with_a_majority_of_its_founders() {
    let mut world = five();
    let nodes = vec![NodeId(3), NodeId(4), NodeId(5)];
    world.apply(Command::Join {
        shards: vec![kvorum_cluster::NewShard {
            name: "new".to_owned(),
            nodes,
            wanted: 3,
        }],
    });
    let group = GroupId(2);
    let orders: Vec<OrderNumber> = world.state.orders().keys().copied().collect();
    assert_eq!(orders.len(), 3);
    let stage = |state: &State| state.shards()[&group].stage;
    close(&mut world, orders[1], Outcome::Created);
    assert_eq!(stage(&world.state), kvorum_cluster::Stage::Founding);
    close(&mut world, orders[0], Outcome::Created);
    assert_eq!(stage(&world.state), kvorum_cluster::Stage::Serving);
    assert_eq!(
        world.state.orders_for_node(NodeId(5)).count(),
        1,
        "it may still come"
    );
}
