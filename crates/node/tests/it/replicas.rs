//! One node makes a replica and deletes it, as ordered, and remembers both.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_base::{ClusterId, GroupId, NodeId, ReplicaId, UnixMillis};
use kvorum_cluster::{
    Address, Addresses, Capacity, Command, NewShard, OrderNumber, Outcome, Plan, PlannedGroup,
    PlannedNode, Reply, Settings, ShardRef, State,
};
use kvorum_node::log::{LogOptions, Recovery};
use kvorum_node::start::Snapshots;
use kvorum_node::{BatchSeq, Config, Control, Effect, Event, Node, SegmentId};

use crate::host;

pub(crate) const NODE: NodeId = NodeId(2);
const SEGMENT_BYTES: u32 = 32 << 10;

pub(crate) fn addresses(node: u64) -> Addresses {
    let port = 7000 + node as u16;
    let at = |port| Address {
        host: "127.0.0.1".to_owned(),
        port,
    };
    Addresses {
        client: at(port),
        replica: at(port + 50),
        peer: at(port + 100),
        http: at(port + 200),
        other_names: Vec::new(),
    }
}

/// The shard manager's state, and how it goes on.
pub(crate) struct Manager(pub(crate) State);

impl Manager {
    /// Two nodes, and a shard on the first.
    pub(crate) fn new() -> Self {
        let node = |node: u64| {
            let planned = PlannedNode {
                directory: node,
                addresses: addresses(node),
                capacity: Capacity::default(),
            };
            (NodeId(node), planned)
        };
        let group = |replica: u64| PlannedGroup {
            name: "first".to_owned(),
            replicas: BTreeMap::from([(ReplicaId(replica), NodeId(1))]),
            preferred: None,
            wanted: 1,
        };
        let plan = Plan {
            cluster: ClusterId(7),
            slot_count: 16384,
            last_shard_may_leave: false,
            settings: Settings::default(),
            nodes: [node(1), node(2)].into(),
            manager: group(1),
            shards: BTreeMap::from([(GroupId(1), group(2))]),
        };
        Self(State::initial(&plan).expect("a sound plan"))
    }

    pub(crate) fn apply(&mut self, command: Command) -> Reply {
        let index = self.0.applied().next();
        let reply = self.0.apply(index, &command.into());
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        reply
    }

    /// A second shard, of one replica, on the node at hand; with its order.
    fn found(&mut self) -> (GroupId, OrderNumber) {
        let shard = NewShard {
            name: "second".to_owned(),
            nodes: vec![NODE],
            wanted: 1,
        };
        let Reply::Joined { groups, .. } = self.apply(Command::Join {
            shards: vec![shard],
        }) else {
            panic!("it joins");
        };
        (groups[0], self.order())
    }

    /// The order to the node that is outstanding.
    fn order(&self) -> OrderNumber {
        let mut orders = self.0.orders_for_node(NODE);
        let (order, _) = orders.next().expect("an order");
        assert_eq!(orders.next(), None);
        order
    }

    pub(crate) fn close(&mut self, order: OrderNumber, outcome: Outcome) {
        self.apply(Command::CloseOrder { order, outcome });
    }

    /// The shard whose one replica was made by that order leaves; the order to delete the replica.
    fn retire(&mut self, group: GroupId, made: OrderNumber) -> OrderNumber {
        self.close(made, Outcome::Created);
        self.apply(Command::Leave {
            shards: vec![ShardRef::Group(group)],
        });
        self.apply(Command::Retire { group });
        self.order()
    }
}

/// The node, and a disk that holds what was synced.
pub(crate) struct Desk {
    pub(crate) node: Node,
    segments: BTreeMap<SegmentId, Vec<u8>>,
    unsynced: Vec<(SegmentId, u32, BatchSeq, Bytes)>,
    /// How many segments more the disk has room for.
    room: usize,
}

/// It is told of itself alone, and of no group.
fn config() -> Config {
    let all = host::config(NODE, NODE.get(), 1 << 20, 1 << 20);
    let members = all.members.into_iter().filter(|(node, _)| *node == NODE);
    Config {
        members: members.collect(),
        groups: Vec::new(),
        log: LogOptions::small(SEGMENT_BYTES),
        ..all
    }
}

impl Desk {
    pub(crate) fn start(segments: BTreeMap<SegmentId, Vec<u8>>) -> Self {
        Self::start_with_room(segments, usize::MAX)
    }

    fn start_with_room(segments: BTreeMap<SegmentId, Vec<u8>>, room: usize) -> Self {
        let config = config();
        let mut recovery = Recovery::new(&config.log, !segments.is_empty());
        for (segment, bytes) in &segments {
            recovery.feed(*segment, bytes);
        }
        let recovered = recovery.finish().expect("an intact log");
        let mut effects = Vec::new();
        let node = Node::start(config, Some(recovered), Snapshots::new(), 1, &mut effects);
        let mut desk = Self {
            node,
            segments,
            unsynced: Vec::new(),
            room,
        };
        desk.carry_out(effects);
        desk.event(Event::Wall(UnixMillis(1_000_000)));
        desk.turn();
        desk.sync();
        desk
    }

    /// The power fails: what was not synced is gone.
    pub(crate) fn restart(self) -> Self {
        Self::start(self.segments)
    }

    pub(crate) fn event(&mut self, event: Event<'_>) {
        let mut effects = Vec::new();
        self.node.step(event, &mut effects);
        self.carry_out(effects);
    }

    pub(crate) fn turn(&mut self) {
        self.event(Event::EndOfTurn);
        self.node.check();
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append {
                    segment,
                    offset,
                    upto,
                    frame,
                } => self.unsynced.push((segment, offset, upto, frame)),
                Effect::PrepareSegment { segment } => {
                    let left = self.room.checked_sub(1);
                    self.room = left.unwrap_or(0);
                    self.event(match left {
                        Some(_) => Event::SegmentReady { segment },
                        None => Event::SegmentRefused { segment },
                    });
                    self.turn();
                }
                Effect::Again | Effect::Continue => self.turn(),
                _ => {}
            }
        }
    }

    /// Syncs until nothing more is written.
    pub(crate) fn sync(&mut self) {
        while !self.unsynced.is_empty() {
            let (segment, offset, upto, frame) = self.unsynced.remove(0);
            let empty = || vec![0; SEGMENT_BYTES as usize];
            let file = self.segments.entry(segment).or_insert_with(empty);
            file[offset as usize..offset as usize + frame.len()].copy_from_slice(&frame);
            self.event(Event::Synced { upto });
            self.turn();
        }
    }

    /// Tells a state, and lets the node do what it says, short of the sync.
    pub(crate) fn tell(&mut self, state: &State) {
        let state = state.clone().into();
        self.event(Event::Control(Control::Cluster(state)));
        self.event(Event::Tick);
        self.turn();
    }

    fn hosts(&self, group: GroupId) -> bool {
        self.node.hosted().any(|hosted| hosted == group)
    }
}

#[test]
fn a_founder_is_made_once_and_leads_alone() {
    let (mut manager, mut desk) = (Manager::new(), Desk::start(BTreeMap::new()));
    let (group, order) = manager.found();
    desk.tell(&manager.0);
    assert!(desk.hosts(group));
    assert_eq!(desk.node.evidence(), [], "nothing is durable yet");
    desk.sync();
    assert_eq!(desk.node.evidence(), [(order, Outcome::Created)]);
    for _ in 0..200 {
        desk.event(Event::Tick);
        desk.turn();
        desk.sync();
    }
    let status = desk.node.status();
    let made = status.groups.first().expect("the replica");
    assert!(made.leading && made.slots.is_empty(), "{made:?}");

    let mut desk = desk.restart();
    assert!(desk.hosts(group), "the log knows it");
    desk.tell(&manager.0);
    desk.sync();
    assert_eq!(desk.node.evidence(), [(order, Outcome::Created)]);
    assert_eq!(desk.node.counters().replicas_made, 0);
}

#[test]
fn a_deleted_replica_is_never_made_again() {
    let (mut manager, mut desk) = (Manager::new(), Desk::start(BTreeMap::new()));
    let (group, made) = manager.found();
    let long_ago = manager.0.clone();
    desk.tell(&manager.0);
    desk.sync();
    let deleted = manager.retire(group, made);

    desk.tell(&manager.0);
    assert!(!desk.hosts(group));
    assert_eq!(desk.node.evidence(), [], "a power cut would bring it back");
    desk = desk.restart();
    assert!(desk.hosts(group), "as said");
    desk.tell(&manager.0);
    desk.sync();
    assert_eq!(desk.node.evidence(), [(deleted, Outcome::Deleted)]);

    let mut desk = desk.restart();
    desk.tell(&long_ago);
    desk.sync();
    assert!(!desk.hosts(group));
    assert_eq!(desk.node.evidence(), [(made, Outcome::Refused)]);
}

#[test]
fn a_replica_that_joins_waits_for_the_state_of_its_group() {
    let (mut manager, mut desk) = (Manager::new(), Desk::start(BTreeMap::new()));
    let group = GroupId(1);
    let wanted = 2;
    manager.apply(Command::SetReplicas { group, wanted });
    manager.apply(Command::ChangeReplicas {
        group,
        expected: manager.0.shards()[&group].membership,
        add: Some(NODE),
        remove: None,
    });
    let order = manager.order();
    desk.tell(&manager.0);
    desk.sync();
    let waits = |desk: &Desk| {
        let replica = desk.node.inspect(group).expect("it is there");
        assert!(replica.state.is_none() && !replica.raft.is_leader());
    };
    waits(&desk);
    let mut desk = desk.restart();
    waits(&desk);
    desk.tell(&manager.0);
    for _ in 0..300 {
        desk.event(Event::Tick);
        desk.turn();
        desk.sync();
    }
    waits(&desk);
    assert_eq!(desk.node.evidence(), [(order, Outcome::Created)]);
}

#[test]
fn a_full_disk_takes_no_replica_until_there_is_room() {
    let mut manager = Manager::new();
    let mut desk = Desk::start_with_room(BTreeMap::new(), 1);
    assert!(desk.node.status().disk_full);
    let (group, order) = manager.found();
    desk.tell(&manager.0);
    desk.sync();
    assert!(!desk.hosts(group));
    assert_eq!(desk.node.evidence(), []);
    let mut desk = desk.restart();
    assert!(!desk.node.status().disk_full);
    desk.tell(&manager.0);
    desk.sync();
    assert!(desk.hosts(group));
    assert_eq!(desk.node.evidence(), [(order, Outcome::Created)]);
}

#[test]
fn a_full_disk_lets_a_replica_go() {
    let (mut manager, mut desk) = (Manager::new(), Desk::start(BTreeMap::new()));
    let (group, made) = manager.found();
    desk.tell(&manager.0);
    desk.sync();
    let deleted = manager.retire(group, made);
    let mut desk = Desk::start_with_room(desk.segments, 1);
    assert!(desk.node.status().disk_full && desk.hosts(group));
    desk.tell(&manager.0);
    desk.sync();
    assert!(!desk.hosts(group));
    assert_eq!(desk.node.evidence(), [(deleted, Outcome::Deleted)]);
}
