//! Anything in any order, sense and nonsense, with every invariant looked at after every step.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{ClusterId, Epoch, GroupId, Index, NodeId, Prng, ReplicaId, Slot, Term};
use kvorum_cluster::{
    Address, Capacity, Command, Config, Evidence, Hearsay, IssuerId, Members, MoveId, NewShard,
    NodeState, OrderNumber, Outcome, Reply, Request, Settings, ShardRef, SlotRuns, State, Witness,
    next_commands,
};

use crate::support::{CLUSTER, World, addresses, plan};

/// What clients are shown.
type View = (
    Vec<(u16, u16, Option<GroupId>)>,
    BTreeMap<GroupId, Vec<NodeId>>,
    BTreeMap<NodeId, (Address, NodeState)>,
);

fn view(state: &State) -> View {
    let owners: Vec<_> = state.owners().collect();
    let shown: BTreeSet<GroupId> = owners.iter().filter_map(|(_, _, owner)| *owner).collect();
    let voters = |group: &GroupId| {
        state.shards()[group]
            .voters()
            .map(|(_, node)| node)
            .collect()
    };
    (
        owners,
        shown.iter().map(|group| (*group, voters(group))).collect(),
        state
            .nodes()
            .iter()
            .map(|(id, node)| (*id, (node.addresses.client.clone(), node.state())))
            .collect(),
    )
}

/// Everything that must never come back or step back.
#[derive(Default)]
struct Memory {
    nodes: BTreeSet<NodeId>,
    groups: BTreeSet<GroupId>,
    replicas: BTreeSet<(GroupId, ReplicaId)>,
    orders: BTreeSet<OrderNumber>,
    moves: BTreeSet<MoveId>,
    configs: BTreeMap<u64, Config>,
    epoch: Epoch,
    sessions: u64,
    /// How often each kind of command was done, and each refusal given.
    kinds: BTreeMap<String, u32>,
}

impl Memory {
    /// Of what is new, everything is above all that ever was.
    fn learn<T: Ord + Copy + std::fmt::Debug>(seen: &mut BTreeSet<T>, now: &BTreeSet<T>) {
        let last = seen.last().copied();
        for item in now.difference(&seen.clone()) {
            assert!(
                last.is_none_or(|last| *item > last),
                "{item:?} after {last:?}"
            );
            seen.insert(*item);
        }
    }

    fn see(&mut self, state: &State, reply: &Reply) {
        Self::learn(&mut self.nodes, &state.nodes().keys().copied().collect());
        Self::learn(&mut self.groups, &state.shards().keys().copied().collect());
        Self::learn(&mut self.orders, &state.orders().keys().copied().collect());
        Self::learn(&mut self.moves, &state.moves().keys().copied().collect());
        let replicas: BTreeSet<(GroupId, ReplicaId)> = state
            .shards()
            .iter()
            .flat_map(|(group, shard)| shard.replicas.keys().map(|id| (*group, *id)))
            .collect();
        let known: BTreeSet<ReplicaId> = self.replicas.iter().map(|(_, id)| *id).collect();
        for (group, id) in &replicas {
            let new = self.replicas.insert((*group, *id));
            assert!(
                !new || !known.contains(id),
                "replica {id} of {group} was there"
            );
        }
        assert!(state.epoch() >= self.epoch);
        self.epoch = state.epoch();
        let newest = state.newest();
        let kept = self
            .configs
            .entry(newest.number.get())
            .or_insert_with(|| newest.clone());
        assert_eq!(kept, newest, "a config never changes");
        if let Reply::Sessions { first, count } = reply {
            assert!(*first >= self.sessions);
            self.sessions = first + count;
        }
    }
}

/// What the command may do to the owners of slots.
fn owners_change_by_proof_only(before: &State, after: &State, command: &Command, reply: &Reply) {
    let received = match command {
        Command::CloseMove {
            id,
            evidence: Evidence::Received { by, .. },
        } if *reply == Reply::Done => Some((&before.moves()[id].slots, *by)),
        _ => None,
    };
    for slot in 0..before.slots().slot_count() {
        let slot = Slot(slot);
        let moved = received.filter(|(slots, _)| slots.contains(slot));
        let expected = moved.map_or(before.owner(slot), |(_, to)| Some(to));
        assert_eq!(after.owner(slot), expected, "slot {slot} by {command:?}");
    }
}

struct Walker {
    world: World,
    prng: Prng,
    stale: Vec<Command>,
    issuers: Vec<(IssuerId, u64)>,
}

impl Walker {
    fn node(&mut self) -> NodeId {
        NodeId(
            self.prng
                .range(0, self.world.state.nodes().len() as u64 + 4),
        )
    }

    fn directory(&mut self, node: NodeId) -> u64 {
        let known = self.world.state.nodes().get(&node);
        match known {
            Some(node) if self.prng.chance(9, 10) => node.directory,
            _ => self.prng.range(0, 30),
        }
    }

    fn group(&mut self) -> GroupId {
        let groups: Vec<GroupId> = self.world.state.shards().keys().copied().collect();
        match self.prng.pick(&groups) {
            Some(group) if self.prng.chance(19, 20) => *group,
            _ => GroupId(self.prng.range(0, 60)),
        }
    }

    fn replica(&mut self, group: GroupId) -> ReplicaId {
        let shard = self.world.state.shards().get(&group);
        let replicas: Vec<ReplicaId> =
            shard.map_or(Vec::new(), |shard| shard.replicas.keys().copied().collect());
        match self.prng.pick(&replicas) {
            Some(replica) if self.prng.chance(19, 20) => *replica,
            _ => ReplicaId(self.prng.range(0, 90)),
        }
    }

    fn slots(&mut self) -> SlotRuns {
        let prng = &mut self.prng;
        let runs: Vec<(u16, u16)> = (0..prng.range(0, 3))
            .map(|_| {
                let first = prng.below(130) as u16;
                (first, first + prng.below(9) as u16)
            })
            .collect();
        SlotRuns::of_runs(runs)
    }

    fn members(&mut self, group: GroupId) -> Members {
        let id = Index(self.prng.range(0, 200));
        let mut members = Members {
            id,
            ..Members::default()
        };
        for _ in 0..self.prng.range(0, 4) {
            let replica = self.replica(group);
            if self.prng.chance(3, 4) {
                members.voters.insert(replica);
            } else {
                members.learners.insert(replica);
            }
        }
        members
    }

    fn shard_ref(&mut self) -> ShardRef {
        let group = self.group();
        let founding = self.world.state.newest().shards.get(&group);
        match founding {
            Some(founding) if self.prng.chance(1, 2) => ShardRef::Name(founding.name.clone()),
            _ => ShardRef::Group(group),
        }
    }

    fn about_nodes(&mut self) -> Command {
        let node = self.node();
        let directory = self.directory(node);
        let capacity = Capacity::default();
        let host = format!("h{}", self.prng.below(5));
        match self.prng.below(7) {
            0 => Command::RegisterNode {
                cluster: ClusterId(CLUSTER.get() - self.prng.below(2)),
                directory: self.prng.range(0, 30),
                addresses: addresses(&host),
                capacity,
            },
            1 => Command::UpdateNode {
                node,
                directory,
                addresses: addresses(&host),
                capacity,
            },
            2 => Command::ReportDead {
                node,
                witnesses: (0..self.prng.range(0, 12))
                    .map(|_| Witness {
                        group: self.group(),
                        node: self.node(),
                    })
                    .collect(),
            },
            3 => Command::ReportAlive { node, directory },
            4 if self.prng.chance(1, 4) => Command::ReportDamaged { node, directory },
            5 => Command::RemoveNode { node },
            _ => Command::DrainNode {
                node,
                draining: self.prng.chance(1, 3),
            },
        }
    }

    fn about_shards(&mut self) -> Command {
        let name = format!("n{}", self.prng.below(12));
        match self.prng.below(8) {
            0..=2 => Command::Join {
                shards: (0..self.prng.range(0, 2))
                    .map(|more| NewShard {
                        name: format!("{name}.{more}"),
                        nodes: (0..self.prng.range(1, 3)).map(|_| self.node()).collect(),
                        wanted: self.prng.range(1, 3) as u8,
                    })
                    .collect(),
            },
            3 | 4 => Command::Leave {
                shards: (0..self.prng.range(0, 2))
                    .map(|_| self.shard_ref())
                    .collect(),
            },
            5 => Command::Assign {
                slots: self.slots(),
                shard: self.shard_ref(),
            },
            6 => Command::Rebalance,
            _ => Command::Retire {
                group: self.group(),
            },
        }
    }

    fn about_moves(&mut self) -> Command {
        let open: Vec<MoveId> = self.world.state.moves().keys().copied().collect();
        let id = self.prng.pick(&open).copied().unwrap_or(MoveId(3));
        let known = self.world.state.moves().get(&id).cloned();
        let sides = known.map_or((self.group(), self.group()), |open| {
            (open.from.unwrap_or(open.to), open.to)
        });
        let mut by = |right| {
            if self.prng.chance(7, 8) {
                right
            } else {
                GroupId(1)
            }
        };
        let at = Index(9);
        let (from, to) = (by(sides.0), by(sides.1));
        match self.prng.below(6) {
            0 => Command::CancelMove { id },
            1 => Command::CloseMove {
                id,
                evidence: Evidence::Cancelled { by: from, at },
            },
            2 => Command::CloseMove {
                id,
                evidence: Evidence::Refused { by: to, at },
            },
            3 => Command::OpenMove {
                from: self.prng.chance(9, 10).then(|| self.group()),
                to: self.group(),
                slots: self.slots(),
            },
            _ => Command::CloseMove {
                id,
                evidence: Evidence::Received { by: to, at },
            },
        }
    }

    fn about_replicas(&mut self) -> Command {
        let group = self.group();
        let shard = self.world.state.shards().get(&group);
        let expected = shard.map_or(Index(0), |shard| shard.membership);
        match self.prng.below(8) {
            0..=2 => Command::ChangeReplicas {
                group,
                expected,
                add: self.prng.chance(2, 3).then(|| self.node()),
                remove: self.prng.chance(2, 3).then(|| self.replica(group)),
            },
            3 => Command::AbandonChange { group },
            4 => Command::SetReplicas {
                group,
                wanted: self.prng.range(0, 4) as u8,
            },
            5 => Command::Transfer {
                group,
                to: self.replica(group),
            },
            6 if self.prng.chance(1, 8) => self.about_recoveries(group),
            _ => Command::ReportMembers {
                group,
                members: self.members(group),
            },
        }
    }

    fn about_recoveries(&mut self, group: GroupId) -> Command {
        let replica = self.replica(group);
        if self.prng.chance(1, 2) {
            let bits = self.prng.range(1, 61);
            let term = Term(1 << bits);
            return Command::Recover {
                group,
                replica,
                term,
            };
        }
        let mut members = self.members(group);
        if self.prng.chance(1, 2) {
            members.voters = [replica].into();
            members.learners.clear();
        }
        let floor = ReplicaId(self.prng.range(0, 2_000));
        Command::RecordRecovery {
            group,
            members,
            floor,
        }
    }

    /// Closes an order: mostly by what fits it, or else by anything.
    fn about_orders(&mut self) -> Command {
        let orders: Vec<OrderNumber> = self.world.state.orders().keys().copied().collect();
        let known = self.prng.pick(&orders).copied();
        let Some(order) = known.filter(|_| self.prng.chance(15, 16)) else {
            return Command::CloseOrder {
                order: OrderNumber(self.prng.below(20) * 1000),
                outcome: Outcome::Refused,
            };
        };
        let known = self.world.state.orders()[&order].clone();
        let outcome = match self.prng.below(8) {
            0 => Outcome::Created,
            1 => Outcome::Deleted,
            2 => Outcome::Refused,
            3 => Outcome::Transferred,
            4 => Outcome::Members(self.members(known.group)),
            _ => self.fitting(&known),
        };
        Command::CloseOrder { order, outcome }
    }

    fn fitting(&mut self, order: &kvorum_cluster::Order) -> Outcome {
        use kvorum_cluster::Task;
        let shard = &self.world.state.shards()[&order.group];
        let mut members = Members {
            id: Index(shard.membership.get() + 1),
            voters: shard.voters().map(|(id, _)| id).collect(),
            ..Members::default()
        };
        match &order.task {
            Task::CreateReplica { .. } => return Outcome::Created,
            Task::DeleteReplica { .. } => return Outcome::Deleted,
            Task::TransferPrimary { .. } => return Outcome::Transferred,
            Task::StartMove { .. } | Task::Recover { .. } => return Outcome::Refused,
            Task::AddLearner { replica, .. } => {
                members.learners.insert(*replica);
            }
            Task::Promote {
                replica, removing, ..
            } => {
                members.voters.insert(*replica);
                members.voters.retain(|id| Some(*id) != *removing);
            }
            Task::Remove { replica, .. } => {
                members.voters.remove(replica);
            }
        }
        Outcome::Members(members)
    }

    fn command(&mut self) -> Command {
        match self.prng.below(20) {
            0..=2 => self.about_nodes(),
            3..=5 => self.about_shards(),
            6..=8 => self.about_moves(),
            9 | 10 => self.about_replicas(),
            11..=13 => self.about_orders(),
            14 => Command::Configure {
                settings: Settings {
                    moves_open_max: self.prng.range(0, 9) as u32,
                    changes_open_max: self.prng.range(0, 9) as u32,
                },
            },
            15 => Command::IssueSessions {
                count: self.prng.range(0, 1000),
            },
            16 => Command::OpenIssuer,
            // What somebody planned, now or long ago.
            17 | 18 if self.prng.chance(2, 3) => {
                let planned = next_commands(&self.world.state, &self.world.hearsay);
                self.stale.extend(planned.iter().take(3).cloned());
                self.prng
                    .pick(&planned)
                    .cloned()
                    .unwrap_or(Command::Rebalance)
            }
            _ => self
                .prng
                .pick(&self.stale)
                .cloned()
                .unwrap_or(Command::Rebalance),
        }
    }
}

/// The first word of how something is printed: its kind.
fn kind(of: &impl std::fmt::Debug) -> String {
    let text = format!("{of:?}");
    let end = text.find([' ', '(']).unwrap_or(text.len());
    text[..end].to_owned()
}

fn walk(seed: u64, steps: u32) -> Memory {
    let mut planned = plan(128, 4, 2, 3);
    planned.last_shard_may_leave = seed.is_multiple_of(4);
    let mut walker = Walker {
        world: World::new(&planned),
        prng: Prng::new(seed),
        stale: Vec::new(),
        issuers: Vec::new(),
    };
    let mut memory = Memory::default();
    let mut twin = walker.world.state.clone();
    memory.see(&twin, &Reply::Done);
    for step in 0..steps {
        let command = walker.command();
        let once = match walker.prng.pick(&walker.issuers).copied() {
            Some((issuer, last)) if walker.prng.chance(1, 4) => {
                Some((issuer, (last + walker.prng.below(4)).saturating_sub(1)))
            }
            _ => None,
        };
        let request = Request { once, command };
        let before = walker.world.state.clone();
        let index = before.applied() + walker.prng.range(1, 3);
        let state = &mut walker.world.state;
        let reply = state.apply(index, &request);
        assert_eq!(
            state.check(),
            Ok(()),
            "seed {seed} step {step}: {request:?}"
        );
        // Another replica, from bytes.
        let bytes = Request::decode(&request.encode()).expect("it was encoded");
        assert_eq!(bytes, request);
        assert_eq!(twin.apply(index, &bytes), reply);
        assert_eq!(Reply::decode(&reply.encode()).as_ref(), Ok(&reply));
        if step % 8 == 0 {
            twin = State::decode(&twin.encode()).expect("it was encoded");
        }
        assert_eq!(twin, *state);
        assert_eq!(twin.hash(), state.hash());

        let repeated = once.is_some_and(|once| {
            walker
                .issuers
                .iter()
                .any(|(issuer, last)| (*issuer, *last) == once)
        });
        if repeated || matches!(reply, Reply::Refused(_)) {
            // Nothing but the number of the entry and who was heard has changed.
            assert_eq!(view(&before), view(state));
            assert_eq!(before.newest(), state.newest());
            assert_eq!(before.shards(), state.shards());
            assert_eq!(before.orders(), state.orders());
            assert_eq!(before.moves(), state.moves());
            assert_eq!(before.nodes(), state.nodes());
            assert_eq!(before.epoch(), state.epoch());
        } else {
            *memory.kinds.entry(kind(&request.command)).or_default() += 1;
            owners_change_by_proof_only(&before, state, &request.command, &reply);
            if view(&before) != view(state) {
                assert!(state.epoch() > before.epoch(), "{:?}", request.command);
            }
            if let Reply::Issuer(issuer) = &reply {
                walker.issuers.push((*issuer, 0));
            }
        }
        if let Some((issuer, number)) = once {
            let mut known = walker.issuers.iter_mut();
            let known = known.find(|(id, _)| *id == issuer).expect("it was drawn");
            known.1 = known.1.max(number);
        }
        if let Reply::Refused(refusal) = &reply {
            *memory.kinds.entry(kind(refusal)).or_default() += 1;
        }
        let fresh = if repeated { Reply::Done } else { reply };
        memory.see(state, &fresh);
        walker.world.elect();
    }
    for config in memory.configs.values() {
        let kept = walker.world.state.configs().query(config.number);
        assert_eq!(kept.as_ref(), Ok(config));
    }
    memory
}

#[test]
fn whatever_is_asked_the_invariants_hold() {
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    let mut moves = 0;
    for seed in 0..100 {
        let memory = walk(seed, 700);
        moves += memory.moves.len();
        for (kind, times) in memory.kinds {
            *kinds.entry(kind).or_default() += times;
        }
    }
    assert!(moves > 400, "{moves} moves");
    for kind in COMMANDS.iter().chain(REFUSALS) {
        let times = kinds.get(*kind).copied().unwrap_or(0);
        assert!(times >= 5, "{kind} came to pass {times} times");
    }
}

const COMMANDS: &[&str] = &[
    "RegisterNode",
    "UpdateNode",
    "ReportDead",
    "ReportAlive",
    "ReportDamaged",
    "DrainNode",
    "RemoveNode",
    "Join",
    "Leave",
    "Assign",
    "Rebalance",
    "Retire",
    "OpenMove",
    "CancelMove",
    "CloseMove",
    "ChangeReplicas",
    "AbandonChange",
    "SetReplicas",
    "Transfer",
    "CloseOrder",
    "ReportMembers",
    "Recover",
    "RecordRecovery",
    "Configure",
    "IssueSessions",
    "OpenIssuer",
];

const REFUSALS: &[&str] = &[
    "OtherCluster",
    "Malformed",
    "TooMany",
    "NoSuchNode",
    "NodeGone",
    "OtherDirectory",
    "NodeNotIn",
    "NodeIn",
    "HoldsReplicas",
    "Unproven",
    "NoSuchShard",
    "NameTaken",
    "BadReplicas",
    "LastShard",
    "NotServing",
    "StillNeeded",
    "BadSlots",
    "NotOwner",
    "NotWanted",
    "SlotMoving",
    "Busy",
    "NoSuchMove",
    "WrongEvidence",
    "Changing",
    "NotChanging",
    "OtherMembers",
    "NoSuchReplica",
    "NodeTaken",
    "BelowWanted",
    "OneNodeAtATime",
    "NoSuchOrder",
    "OrderOutstanding",
    "Outdated",
    "HasMajority",
];

#[test]
fn no_hearsay_no_harm() {
    let world = World::new(&plan(128, 4, 2, 3));
    assert_eq!(next_commands(&world.state, &Hearsay::default()), []);
}
