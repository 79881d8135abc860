//! Replicas, shards and nodes come and go: by chance, and as the real plan wants it.

use std::collections::BTreeSet;
use std::rc::Rc;

use kvorum_base::{GroupId, NodeId, Prng, ReplicaId};
use kvorum_cluster::{
    Capacity, Command, Health, Hearsay, MANAGER, NewShard, Shard, ShardRef, Stage, State, Task,
    next_commands,
};

use super::{Manager, machine};
use crate::cluster::founding::{CLUSTER, directory_of};
use crate::cluster::options::{GROUP, addresses_of, node_id};

/// Fewer voters than this have no median clock while one is away.
const VOTERS_MIN: usize = 3;
const VOTERS_MAX: usize = 5;
const SHARDS_MAX: usize = 4;

impl Manager {
    /// One step of many, drawn anew each time.
    pub(super) fn change_something(self: &Rc<Self>) {
        // Group 0 plans by itself, and looks after its nodes.
        let has_seat = self.cluster.options.seats();
        let command = {
            let prng = &mut *self.prng.borrow_mut();
            match prng.below(100) {
                0..5 => self.register(),
                5..32 if has_seat => None,
                // It spreads all slots anew each time, which takes many moves.
                59..67 if has_seat && prng.chance(2, 3) => None,
                5..12 => self.damaged(),
                12..32 => self.planned(prng),
                32..45 => self.any_change(prng),
                45..53 => self.abandon(prng),
                53..56 => self.transfer(prng),
                56..59 => self.wish(prng),
                59..63 => self.found(prng),
                63..67 => self.leave(prng),
                67..70 => self.drain(prng),
                _ => None,
            }
        };
        if let Some(command) = command {
            self.order(command);
        }
    }

    /// When the storm is over: what is lost is replaced, what cannot end is given up, nothing new begins.
    pub(super) fn clear_up(&self) {
        let mut commands: Vec<Command> = self.damaged().into_iter().collect();
        let hopeless = {
            let state = self.state.borrow();
            let groups = state.shards().iter();
            let hopeless = groups.filter(|(_, shard)| self.waits_for_a_lost_node(&state, shard));
            hopeless.map(|(group, _)| *group).collect::<Vec<_>>()
        };
        let abandon = hopeless
            .into_iter()
            .map(|group| Command::AbandonChange { group });
        commands.extend(abandon);
        let state = self.state.borrow().clone();
        let is_repair = |command: &Command| match command {
            Command::ChangeReplicas { group, remove, .. } => {
                let shard = &state.shards()[group];
                let leaving = remove.and_then(|replica| shard.replicas.get(&replica));
                leaving.is_some_and(|replica| self.is_lost(replica.node))
            }
            Command::Retire { .. } => true,
            _ => false,
        };
        let planned = next_commands(&state, &Hearsay::default()).into_iter();
        commands.extend(planned.filter(|command| is_repair(command) && self.may(&state, command)));
        for command in commands {
            self.apply(&command);
        }
    }

    fn waits_for_a_lost_node(&self, state: &State, shard: &Shard) -> bool {
        let added = shard.change.and_then(|change| {
            let order = state.orders().get(&change.order)?;
            let waits = matches!(
                order.task,
                Task::CreateReplica { .. } | Task::AddLearner { .. } | Task::Promote { .. }
            );
            (waits && !order.withdrawn).then_some(change.add).flatten()
        });
        let node = added.and_then(|replica| shard.replicas.get(&replica));
        node.is_some_and(|replica| self.is_lost(replica.node))
    }

    /// The next machine asks to be a node.
    fn register(&self) -> Option<Command> {
        let known = self.state.borrow().nodes().len();
        let machines = self.cluster.options.machines();
        (known < machines).then(|| Command::RegisterNode {
            cluster: CLUSTER,
            directory: directory_of(known),
            addresses: addresses_of(node_id(known)),
            capacity: Capacity::default(),
        })
    }

    /// A node that lost what it had promised, or everything.
    fn damaged(&self) -> Option<Command> {
        let state = self.state.borrow();
        let mut nodes = state.nodes().iter();
        let (node, _) =
            nodes.find(|(id, node)| node.health == Health::Alive && self.is_lost(**id))?;
        let directory = directory_of(machine(*node));
        let node = *node;
        Some(Command::ReportDamaged { node, directory })
    }

    /// What the real plan would propose next.
    fn planned(&self, prng: &mut Prng) -> Option<Command> {
        let state = self.state.borrow();
        let planned = next_commands(&state, &Hearsay::default()).into_iter();
        let allowed: Vec<Command> = planned
            .filter(|command| self.may(&state, command))
            .collect();
        prng.pick(&allowed).cloned()
    }

    /// Whether a command leaves every group with enough members of any use.
    fn may(&self, state: &State, command: &Command) -> bool {
        let (group, add, remove) = match command {
            Command::ChangeReplicas {
                group, add, remove, ..
            } => (*group, *add, *remove),
            Command::Transfer { group, .. } => return *group != MANAGER,
            _ => return true,
        };
        group != MANAGER && self.leaves_enough(&state.shards()[&group], add, remove)
    }

    fn leaves_enough(&self, shard: &Shard, add: Option<NodeId>, remove: Option<ReplicaId>) -> bool {
        let stay = shard.replicas.iter().filter(|(id, _)| Some(**id) != remove);
        let nodes = stay.map(|(_, replica)| replica.node).chain(add);
        let nodes: BTreeSet<NodeId> = nodes.collect();
        let is_impaired = |node: &&NodeId| self.cluster.hosts()[machine(**node)].is_impaired();
        let impaired = nodes.iter().filter(is_impaired).count();
        nodes.len() >= VOTERS_MIN && impaired * 2 < nodes.len()
    }

    /// Some shard that works.
    fn serving(&self, prng: &mut Prng) -> Option<(GroupId, Shard)> {
        let state = self.state.borrow();
        let serving = state
            .shards()
            .iter()
            .filter(|(group, shard)| **group != MANAGER && shard.stage == Stage::Serving);
        let serving: Vec<_> = serving
            .map(|(group, shard)| (*group, shard.clone()))
            .collect();
        prng.pick(&serving).cloned()
    }

    fn any_change(&self, prng: &mut Prng) -> Option<Command> {
        let (group, shard) = self.serving(prng)?;
        let state = self.state.borrow();
        let free = state
            .nodes()
            .iter()
            .filter(|(id, node)| node.is_in() && shard.replica_on(**id).is_none());
        let free: Vec<NodeId> = free.map(|(id, _)| *id).collect();
        let replicas: Vec<ReplicaId> = shard.replicas.keys().copied().collect();
        let add = prng.pick(&free).copied().filter(|_| prng.chance(4, 5));
        let remove = prng.pick(&replicas).copied().filter(|_| prng.chance(3, 4));
        self.leaves_enough(&shard, add, remove)
            .then_some(Command::ChangeReplicas {
                group,
                expected: shard.membership,
                add,
                remove,
            })
    }

    fn abandon(&self, prng: &mut Prng) -> Option<Command> {
        let (group, shard) = self.serving(prng)?;
        shard.change.map(|_| Command::AbandonChange { group })
    }

    fn transfer(&self, prng: &mut Prng) -> Option<Command> {
        let (group, shard) = self.serving(prng)?;
        let voters: Vec<ReplicaId> = shard.voters().map(|(replica, _)| replica).collect();
        let to = *prng.pick(&voters)?;
        Some(Command::Transfer { group, to })
    }

    /// Another number of replicas is wanted.
    fn wish(&self, prng: &mut Prng) -> Option<Command> {
        let (group, _) = self.serving(prng)?;
        let wanted = prng.range(VOTERS_MIN as u64, VOTERS_MAX as u64) as u8;
        Some(Command::SetReplicas { group, wanted })
    }

    fn found(&self, prng: &mut Prng) -> Option<Command> {
        let state = self.state.borrow();
        let nodes = state.nodes().iter().filter(|(_, node)| node.is_in());
        let mut free: Vec<NodeId> = nodes.map(|(id, _)| *id).collect();
        let is_lost = |node: &NodeId| self.is_lost(*node);
        if state.shards().len() > SHARDS_MAX {
            return None;
        }
        let mut nodes = Vec::new();
        while nodes.len() < VOTERS_MIN && !free.is_empty() {
            nodes.push(free.swap_remove(prng.index(free.len())));
        }
        if nodes.len() < VOTERS_MIN || nodes.iter().any(is_lost) {
            return None;
        }
        let shard = NewShard {
            name: format!("shard after {}", state.applied()),
            nodes,
            wanted: VOTERS_MIN as u8,
        };
        let shards = vec![shard];
        Some(Command::Join { shards })
    }

    /// A shard has to go; never the first, of which misfortunes know.
    fn leave(&self, prng: &mut Prng) -> Option<Command> {
        let (group, _) = self.serving(prng)?;
        let shards = vec![ShardRef::Group(group)];
        (group != GROUP).then_some(Command::Leave { shards })
    }

    fn drain(&self, prng: &mut Prng) -> Option<Command> {
        let state = self.state.borrow();
        let draining = state.nodes().iter().find(|(_, node)| node.draining);
        if let Some((node, _)) = draining {
            let (node, draining) = (*node, false);
            return Some(Command::DrainNode { node, draining });
        }
        let node = node_id(prng.index(state.nodes().len()));
        let draining = true;
        Some(Command::DrainNode { node, draining })
    }
}
