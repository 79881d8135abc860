//! A replica goes on alone as ordered, once, and not while the others are heard.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_base::{GroupId, NodeId, ReplicaId, Term, UnixMillis};
use kvorum_cluster::{
    Capacity, Command, NewShard, OrderNumber, Outcome, Refusal, Reply, ShardRef, Task,
};
use kvorum_node::Event;
use kvorum_node::format::peer::{self, PeerHeader};

use crate::replicas::{Desk, Manager, NODE, addresses};

/// Ticks after which nobody can have been heard lately, and an election is over.
const LONG: usize = 500;

/// A shard with a replica on the node at hand and two on others, which never say a word.
fn alone() -> (Manager, Desk, GroupId) {
    let mut manager = Manager::new();
    let cluster = manager.0.cluster();
    manager.apply(Command::RegisterNode {
        cluster,
        directory: 3,
        addresses: addresses(3),
        capacity: Capacity::default(),
    });
    let shard = NewShard {
        name: "second".to_owned(),
        nodes: vec![NodeId(1), NODE, NodeId(3)],
        wanted: 3,
    };
    let shards = vec![shard];
    let Reply::Joined { groups, .. } = manager.apply(Command::Join { shards }) else {
        panic!("it joins");
    };
    let orders: Vec<OrderNumber> = manager.0.orders().keys().copied().collect();
    let mut desk = Desk::start(BTreeMap::new());
    desk.tell(&manager.0);
    desk.sync();
    for order in orders {
        manager.close(order, Outcome::Created);
    }
    desk.tell(&manager.0);
    pass(&mut desk, LONG);
    (manager, desk, groups[0])
}

fn pass(desk: &mut Desk, ticks: usize) {
    for _ in 0..ticks {
        desk.event(Event::Tick);
        desk.turn();
        desk.sync();
    }
}

fn order(manager: &mut Manager, group: GroupId) -> OrderNumber {
    let replica = manager.0.shards()[&group].replica_on(NODE);
    let reply = manager.apply(Command::Recover {
        group,
        replica: replica.expect("a replica here"),
        term: Term(7),
    });
    let Reply::Ordered(order) = reply else {
        panic!("{reply:?}");
    };
    order
}

fn leads(desk: &Desk, group: GroupId) -> bool {
    let replica = desk.node.inspect(group).expect("it is there");
    replica.raft.is_leader()
}

fn voters(desk: &Desk, group: GroupId) -> usize {
    let replica = desk.node.inspect(group).expect("it is there");
    replica.raft.membership().voters.len()
}

#[test]
fn a_replica_goes_on_alone_and_the_manager_hears_of_it() {
    let (mut manager, mut desk, group) = alone();
    assert!(!leads(&desk, group));
    assert_eq!(desk.node.recoveries(), []);
    let order = order(&mut manager, group);

    // The power fails before it is on the disk: nothing has happened, and it happens with the next telling.
    desk.tell(&manager.0);
    desk = desk.restart();
    assert_eq!(voters(&desk, group), 3);
    desk.tell(&manager.0);
    pass(&mut desk, LONG);
    assert!(
        !leads(&desk, group),
        "who was just started hears whoever comes"
    );
    assert_eq!(desk.node.evidence(), [(order, Outcome::Refused)]);
    manager.close(order, Outcome::Refused);

    let order = self::order(&mut manager, group);
    desk.tell(&manager.0);
    assert!(!leads(&desk, group), "nothing is durable yet");
    desk.sync();
    pass(&mut desk, 1);
    assert!(leads(&desk, group));
    assert!(desk.node.inspect(group).expect("it is there").raft.term() > Term(1 << 32));
    assert_eq!(desk.node.evidence(), [], "it is no order like others");

    // Told again after a restart it is not done again, and is told to the manager as before.
    desk = desk.restart();
    desk.tell(&manager.0);
    pass(&mut desk, LONG);
    assert!(leads(&desk, group));
    let told = desk.node.recoveries();
    let [record @ Command::RecordRecovery { members, floor, .. }] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(members.voters.len(), 1);
    let next = manager.0.orders()[&order].task.clone();
    assert!(matches!(next, Task::Recover { floor: ordered, .. } if ordered == *floor));
    manager.apply(record.clone());
    desk.tell(&manager.0);
    pass(&mut desk, 1);
    assert_eq!(desk.node.recoveries(), []);
    let shard = &manager.0.shards()[&group];
    assert_eq!(shard.voters().count(), 1);
    assert!(shard.has_let_go(ReplicaId(floor.get() - 1)));
}

#[test]
fn nobody_goes_on_alone_while_a_majority_is_heard() {
    let (mut manager, mut desk, group) = alone();
    let header = PeerHeader {
        level: 1,
        wall: UnixMillis(1_000_000),
        memory_limit: 0,
        memory_used: 0,
        incarnation: 1,
    };
    desk.event(Event::Peer {
        from: NodeId(3),
        frame: Bytes::from(peer::encode(&header, &[]).concat()).slice(peer::PREFIX_BYTES..),
    });
    let order = order(&mut manager, group);
    desk.tell(&manager.0);
    pass(&mut desk, 1);
    assert_eq!(voters(&desk, group), 3);
    assert_eq!(desk.node.evidence(), [(order, Outcome::Refused)]);
    let later = manager.0.clone();
    manager.close(order, Outcome::Refused);

    // Silent again, but that order is over, whoever tells of it.
    pass(&mut desk, LONG);
    desk.tell(&later);
    pass(&mut desk, LONG);
    assert!(!leads(&desk, group));
}

#[test]
fn a_recovered_shard_leaves_its_old_orders_alone() {
    let (mut manager, mut desk, group) = alone();
    let order = order(&mut manager, group);
    let replica = manager.0.shards()[&group]
        .replica_on(NodeId(1))
        .expect("one");
    let change = Command::ChangeReplicas {
        group,
        expected: manager.0.shards()[&group].membership,
        add: None,
        remove: Some(replica),
    };
    let index = manager.0.applied().next();
    let refused = manager.0.apply(index, &change.into());
    let outstanding = Reply::Refused(Refusal::OrderOutstanding(order));
    assert_eq!(refused, outstanding, "not while that is open");
    desk.tell(&manager.0);
    pass(&mut desk, 2);
    for command in desk.node.recoveries() {
        manager.apply(command);
    }
    // The lost ones are to be deleted, wherever they are.
    let deletes = |node| manager.0.orders_for_node(NodeId(node)).count();
    assert_eq!((deletes(1), deletes(2), deletes(3)), (1, 0, 1));
    let left = ShardRef::Group(group);
    manager.apply(Command::Leave { shards: vec![left] });
}
