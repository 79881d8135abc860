//! A state with somebody who obeys it: groups that commit what they are ordered to, nodes that make and
//! delete replicas.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{ClusterId, GroupId, Index, NodeId, ReplicaId, Term};
use kvorum_cluster::{
    Address, Addresses, Capacity, Command, Evidence, Hearsay, Members, MoveId, OrderNumber,
    Outcome, Plan, PlannedGroup, PlannedNode, Reply, Request, Settings, Stage, State, Task,
    next_commands,
};

pub(crate) const CLUSTER: ClusterId = ClusterId(77);

pub(crate) fn addresses(host: &str) -> Addresses {
    let address = |port| Address {
        host: host.to_owned(),
        port,
    };
    Addresses {
        client: address(7001),
        replica: address(7051),
        peer: address(7101),
        http: address(7201),
        other_names: Vec::new(),
    }
}

pub(crate) fn register(directory: u64, host: &str) -> Command {
    Command::RegisterNode {
        cluster: CLUSTER,
        directory,
        addresses: addresses(host),
        capacity: Capacity::default(),
    }
}

/// So many nodes and shards, the shards' replicas in a circle over the nodes.
pub(crate) fn plan(slot_count: u16, nodes: u64, shards: u64, replicas: u64) -> Plan {
    let mut replica = 0;
    let mut group = |first: u64, name: &str| {
        let placed: BTreeMap<ReplicaId, NodeId> = (0..replicas)
            .map(|next| {
                replica += 1;
                (ReplicaId(replica), NodeId((first + next) % nodes + 1))
            })
            .collect();
        PlannedGroup {
            name: name.to_owned(),
            preferred: placed.keys().next().copied(),
            wanted: replicas as u8,
            replicas: placed,
        }
    };
    let planned = |id| PlannedNode {
        directory: 1000 + id,
        addresses: addresses(&format!("node{id}")),
        capacity: Capacity::default(),
    };
    Plan {
        cluster: CLUSTER,
        slot_count,
        last_shard_may_leave: false,
        settings: Settings {
            moves_open_max: 4,
            changes_open_max: 4,
        },
        nodes: (1..=nodes).map(|id| (NodeId(id), planned(id))).collect(),
        manager: group(0, "manager"),
        shards: (1..=shards)
            .map(|id| (GroupId(id), group(id - 1, &format!("s{id}"))))
            .collect(),
    }
}

/// One group's log, as far as orders are concerned.
#[derive(Default)]
struct Obedient {
    index: u64,
    taken: OrderNumber,
    members: Members,
}

pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) hearsay: Hearsay,
    groups: BTreeMap<GroupId, Obedient>,
    terms: u64,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let state = State::initial(plan).expect("a plan");
        let mut world = Self {
            state,
            hearsay: Hearsay::default(),
            groups: BTreeMap::new(),
            terms: 0,
        };
        world.elect();
        world
    }

    pub(crate) fn apply(&mut self, command: Command) -> Reply {
        let index = self.state.applied().next();
        let voters: BTreeMap<GroupId, usize> = self.voters();
        let recovers = matches!(command, Command::RecordRecovery { .. });
        let reply = self.state.apply(index, &Request::from(command));
        assert_eq!(self.state.check(), Ok(()));
        for (group, after) in self.voters() {
            let wanted = usize::from(self.state.shards()[&group].wanted);
            let enough = voters
                .get(&group)
                .is_none_or(|before| after >= wanted.min(*before));
            assert!(
                enough || recovers,
                "group {group} has {after} voters of {wanted}"
            );
        }
        reply
    }

    /// How many voters each group has that is not retired.
    fn voters(&self) -> BTreeMap<GroupId, usize> {
        let shards = self.state.shards().iter();
        shards
            .filter(|(_, shard)| shard.stage != Stage::Retired)
            .map(|(group, shard)| (*group, shard.voters().count()))
            .collect()
    }

    pub(crate) fn works(&self, node: NodeId) -> bool {
        self.state
            .nodes()
            .get(&node)
            .is_some_and(|node| matches!(node.health, kvorum_cluster::Health::Alive))
    }

    /// Whether a majority of a group's voters works.
    pub(crate) fn decides(&self, group: GroupId) -> bool {
        let shard = &self.state.shards()[&group];
        let voters: Vec<NodeId> = shard.voters().map(|(_, node)| node).collect();
        let working = voters.iter().filter(|node| self.works(**node)).count();
        shard.stage == Stage::Serving && working > voters.len() / 2
    }

    /// Every group that has no working primary gets one, if it can.
    pub(crate) fn elect(&mut self) {
        let groups: Vec<GroupId> = self.state.shards().keys().copied().collect();
        for group in groups {
            let voters: Vec<NodeId> = self.state.shards()[&group]
                .voters()
                .map(|(_, node)| node)
                .collect();
            let leads = self.hearsay.primary(group);
            let able = |node: &NodeId| voters.contains(node) && self.works(*node);
            if self.decides(group)
                && !leads.as_ref().is_some_and(able)
                && let Some(next) = voters.iter().find(|node| able(node))
            {
                self.lead(group, *next);
            }
        }
    }

    fn lead(&mut self, group: GroupId, node: NodeId) {
        self.terms += 1;
        self.hearsay.hear_primary(group, Term(self.terms), node);
    }

    fn group(&mut self, group: GroupId) -> &mut Obedient {
        let shard = &self.state.shards()[&group];
        let founders = shard.voters().map(|(id, _)| id).collect();
        self.groups.entry(group).or_insert_with(|| Obedient {
            members: Members {
                voters: founders,
                ..Members::default()
            },
            ..Obedient::default()
        })
    }

    /// What becomes of an order, by those who have to carry it out; none if they cannot just now.
    pub(crate) fn outcome(&mut self, number: OrderNumber) -> Option<Outcome> {
        let order = self.state.orders()[&number].clone();
        let node = match &order.task {
            Task::CreateReplica { node, .. } | Task::DeleteReplica { node, .. } => Some(*node),
            _ => None,
        };
        if let Task::Recover { .. } = order.task {
            // There is a majority.
            return Some(Outcome::Refused);
        }
        if let Some(node) = node {
            let made = matches!(order.task, Task::CreateReplica { .. });
            let outcome = if made {
                Outcome::Created
            } else {
                Outcome::Deleted
            };
            return self.works(node).then_some(outcome);
        }
        let begins = matches!(order.task, Task::StartMove { .. });
        if begins || !self.decides(order.group) {
            return None;
        }
        if let Task::TransferPrimary { to } = order.task {
            let replica = self.state.shards()[&order.group].replicas.get(&to).copied();
            let node = replica.map(|replica| replica.node);
            return match node.filter(|node| self.works(*node)) {
                Some(node) => {
                    self.lead(order.group, node);
                    Some(Outcome::Transferred)
                }
                None => Some(Outcome::Refused),
            };
        }
        let group = self.group(order.group);
        if number < group.taken {
            return Some(Outcome::Refused);
        }
        // Taken before: the same answer again.
        let again = number == group.taken && group.members.id > Index::ZERO;
        if again {
            return Some(Outcome::Members(group.members.clone()));
        }
        if order.withdrawn {
            group.taken = number;
            return Some(Outcome::Refused);
        }
        let members = &mut group.members;
        let expected = match order.task {
            Task::AddLearner {
                replica, expected, ..
            } => {
                members.learners.insert(replica);
                expected
            }
            Task::Promote {
                replica,
                removing,
                expected,
            } => {
                assert!(members.learners.remove(&replica), "promoted from nowhere");
                members.voters.insert(replica);
                removing.map(|replica| members.voters.remove(&replica));
                expected
            }
            Task::Remove { replica, expected } => {
                members.learners.remove(&replica);
                members.voters.remove(&replica);
                expected
            }
            _ => return None,
        };
        assert_eq!(
            expected, members.id,
            "one change at a time, and none unheard of"
        );
        group.taken = number;
        group.index += 3;
        group.members.id = Index(group.index);
        Some(Outcome::Members(group.members.clone()))
    }

    /// Carries out every order that can be, once; says whether there was any.
    pub(crate) fn obey(&mut self) -> bool {
        let numbers: Vec<OrderNumber> = self.state.orders().keys().copied().collect();
        let mut any = false;
        for number in numbers {
            if self.state.orders().contains_key(&number)
                && let Some(outcome) = self.outcome(number)
            {
                let command = Command::CloseOrder {
                    order: number,
                    outcome,
                };
                assert_eq!(self.apply(command), Reply::Done);
                any = true;
            }
        }
        any
    }

    /// Ends every open move with its slots received.
    pub(crate) fn receive(&mut self) -> bool {
        let open: Vec<(MoveId, GroupId)> = self
            .state
            .moves()
            .iter()
            .filter(|(_, open)| self.decides(open.to))
            .map(|(id, open)| (*id, open.to))
            .collect();
        for (id, by) in &open {
            let evidence = Evidence::Received {
                by: *by,
                at: Index(5),
            };
            let id = *id;
            assert_eq!(self.apply(Command::CloseMove { id, evidence }), Reply::Done);
        }
        !open.is_empty()
    }

    /// Lets the manager plan and everybody obey until nothing is left to be done.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.elect();
            let mut any = false;
            for command in next_commands(&self.state, &self.hearsay) {
                let reply = self.apply(command.clone());
                assert!(
                    !matches!(reply, Reply::Refused(_)),
                    "{command:?}: {reply:?}"
                );
                any = true;
            }
            any |= self.obey();
            any |= self.receive();
            if !any {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// How many replicas of shards each node has.
    pub(crate) fn load(&self) -> BTreeMap<NodeId, usize> {
        let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (id, node) in self.state.nodes() {
            if node.is_in() {
                load.insert(*id, 0);
            }
        }
        for (group, shard) in self.state.shards() {
            for replica in shard.replicas.values() {
                if State::is_shard(*group)
                    && let Some(load) = load.get_mut(&replica.node)
                {
                    *load += 1;
                }
            }
        }
        load
    }

    /// How many shards each node leads.
    pub(crate) fn leads(&self) -> BTreeMap<NodeId, usize> {
        let mut leads: BTreeMap<NodeId, usize> =
            self.load().into_keys().map(|id| (id, 0)).collect();
        for group in self
            .state
            .shards()
            .keys()
            .filter(|group| State::is_shard(**group))
        {
            let node = self.hearsay.primary(*group).expect("it has a primary");
            *leads.get_mut(&node).expect("led from a node that is in") += 1;
        }
        leads
    }
}

/// The difference between the largest and the smallest.
pub(crate) fn spread(counts: &BTreeMap<NodeId, usize>) -> usize {
    let values: BTreeSet<usize> = counts.values().copied().collect();
    values.last().unwrap_or(&0) - values.first().unwrap_or(&0)
}
