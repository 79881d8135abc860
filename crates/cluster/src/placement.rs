//! On which nodes replicas live: for new shards, after a loss, before a removal, with a new node.
//!
//! Replicas of one group live on different nodes, and every node has as many as every other, give or
//! take one. A shard never has fewer replicas than before to come nearer to that: a new one is put
//! somewhere first. With no node to put it on, the old one stays, dead or draining as its node may be,
//! since a group of two with one lost is worse than one of three with one lost. A group without a majority
//! is left alone: it can change nothing until its nodes are back or an operator decides.
//!
//! In this order: changes that lead nowhere are given up; one node that should be empty is emptied;
//! missing replicas are added, surplus ones taken away; and when nothing of that is left to do, replicas
//! move from full nodes to empty ones. Such a step pays only between nodes that are two or more apart,
//! and then there always is a shard that the one has and the other has not; so it ends, and moves no more
//! than needed.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{GroupId, NodeId, ReplicaId};

use crate::command::Command;
use crate::hearsay::Hearsay;
use crate::nodes::{Node, NodeState};
use crate::orders::{Addressee, Task};
use crate::shards::{MANAGER, Shard, Stage};
use crate::state::State;

/// Nodes for so many new shards with so many replicas each: those with the fewest replicas; first
/// of each the one that is preferred primary of the fewest shards. Fewer if there are not so many.
#[must_use]
pub fn place(state: &State, shards: usize, replicas: usize) -> Vec<Vec<NodeId>> {
    let nothing = Hearsay::default();
    let mut board = Board::new(state, &nothing);
    let mut leading: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (_, shard) in state
        .shards()
        .iter()
        .filter(|(group, _)| **group != MANAGER)
    {
        let replica = shard.preferred.and_then(|id| shard.replicas.get(&id));
        if let Some(replica) = replica {
            *leading.entry(replica.node).or_default() += 1;
        }
    }
    let mut placed = Vec::new();
    for _ in 0..shards {
        let mut nodes: Vec<NodeId> = board.load.keys().copied().collect();
        nodes.sort_by_key(|node| (board.load[node], *node));
        nodes.truncate(replicas);
        nodes.sort_by_key(|node| (leading.get(node).copied().unwrap_or(0), *node));
        for node in &nodes {
            *board.load.get_mut(node).expect("it is a node") += 1;
        }
        if let Some(first) = nodes.first() {
            *leading.entry(*first).or_default() += 1;
        }
        placed.push(nodes);
    }
    placed
}

/// The changes of replicas that should begin or be given up now.
pub(crate) fn replica_changes(state: &State, hearsay: &Hearsay) -> Vec<Command> {
    let mut board = Board::new(state, hearsay);
    board.give_up();
    board.empty_a_node();
    board.fill_up();
    board.take_away();
    if board.commands.is_empty() && state.node_being_replaced().is_none() {
        board.even_out();
    }
    board.commands
}

/// The state with what is being planned.
struct Board<'a> {
    state: &'a State,
    hearsay: &'a Hearsay,
    /// Replicas of shards on each node that is in, as they will be.
    load: BTreeMap<NodeId, usize>,
    /// Bytes of replicas on each node, those on their way included.
    bytes: BTreeMap<NodeId, u64>,
    /// Where a replica is, will be, or is not deleted yet.
    taken: BTreeSet<(NodeId, GroupId)>,
    /// Groups that are changing, or will be.
    changing: BTreeSet<GroupId>,
    /// How many more may.
    room: usize,
    commands: Vec<Command>,
}

impl<'a> Board<'a> {
    fn new(state: &'a State, hearsay: &'a Hearsay) -> Self {
        let is_in = |(id, node): (&NodeId, &Node)| node.is_in().then_some((*id, 0));
        let mut board = Self {
            state,
            hearsay,
            load: state.nodes().iter().filter_map(is_in).collect(),
            bytes: BTreeMap::new(),
            taken: BTreeSet::new(),
            changing: BTreeSet::new(),
            room: (state.settings().changes_open_max as usize).saturating_sub(state.changes_open()),
            commands: Vec::new(),
        };
        for (group, shard) in state.shards() {
            if shard.change.is_some() {
                board.changing.insert(*group);
            }
            let leaving = shard.change.and_then(|change| change.remove);
            for (id, replica) in &shard.replicas {
                board.taken.insert((replica.node, *group));
                *board.bytes.entry(replica.node).or_default() += board.size(*group);
                if *group != MANAGER && Some(*id) != leaving {
                    board.count(replica.node, 1);
                }
            }
        }
        for order in state.orders().values() {
            if let Addressee::Node(node) = order.to {
                board.taken.insert((node, order.group));
            }
            if let Task::Recover { .. } = order.task {
                board.changing.insert(order.group);
            }
        }
        board
    }

    fn size(&self, group: GroupId) -> u64 {
        self.hearsay.group_bytes.get(&group).copied().unwrap_or(0)
    }

    fn count(&mut self, node: NodeId, more: isize) {
        if let Some(load) = self.load.get_mut(&node) {
            *load = load.saturating_add_signed(more);
        }
    }

    /// Groups that could begin a change, with group 0 first: without it nothing can be repaired.
    fn idle(&self) -> Vec<(GroupId, &'a Shard)> {
        self.state
            .shards()
            .iter()
            .filter(|(group, shard)| {
                let free = !self.changing.contains(*group);
                shard.stage == Stage::Serving && free && self.state.can_decide(shard)
            })
            .map(|(group, shard)| (*group, shard))
            .collect()
    }

    fn has_room(&self) -> bool {
        self.room > 0
    }

    fn fits(&self, node: NodeId, group: GroupId) -> bool {
        let capacity = self.state.nodes()[&node].capacity;
        let after = self.bytes.get(&node).copied().unwrap_or(0) + self.size(group);
        [capacity.memory_bytes, capacity.disk_bytes]
            .iter()
            .all(|limit| *limit == 0 || after <= *limit)
    }

    fn may_host(&self, node: NodeId, group: GroupId) -> bool {
        let is_full = self.hearsay.full.contains(&node);
        !is_full && !self.taken.contains(&(node, group)) && self.fits(node, group)
    }

    /// The best node for one more replica of a group.
    fn candidate(&self, group: GroupId) -> Option<NodeId> {
        self.load
            .iter()
            .filter(|(node, _)| self.may_host(**node, group))
            .min_by_key(|(node, load)| (**load, **node))
            .map(|(node, _)| *node)
    }

    fn change(
        &mut self,
        group: GroupId,
        shard: &Shard,
        add: Option<NodeId>,
        remove: Option<ReplicaId>,
    ) {
        self.changing.insert(group);
        self.room -= 1;
        let size = self.size(group);
        let counts = isize::from(group != MANAGER);
        if let Some(node) = add {
            self.taken.insert((node, group));
            *self.bytes.entry(node).or_default() += size;
            self.count(node, counts);
        }
        if let Some(replica) = remove.and_then(|id| shard.replicas.get(&id)) {
            self.count(replica.node, -counts);
        }
        self.commands.push(Command::ChangeReplicas {
            group,
            expected: shard.membership,
            add,
            remove,
        });
    }

    /// A change towards a node that is not in any more, or whose disk is full, leads nowhere, and others wait
    /// for its end.
    fn give_up(&mut self) {
        for (group, shard) in self.state.shards() {
            let Some(change) = shard.change else {
                continue;
            };
            let added = change.add.and_then(|id| shard.replicas.get(&id));
            let lost = added.is_some_and(|replica| {
                let node = replica.node;
                !self.load.contains_key(&node) || self.hearsay.full.contains(&node)
            });
            let order = self.state.orders().get(&change.order);
            if lost && order.is_some_and(|order| !order.withdrawn) {
                self.commands.push(Command::AbandonChange { group: *group });
            }
        }
    }

    /// Begins to replace the replicas of one node: of the one that is being emptied already, or else
    /// the worst off of which anything can be replaced.
    fn empty_a_node(&mut self) {
        let mut nodes: Vec<(NodeState, NodeId)> = match self.state.node_being_replaced() {
            Some(node) => vec![(self.state.nodes()[&node].state(), node)],
            None => self
                .state
                .nodes()
                .iter()
                .map(|(id, node)| (node.state(), *id))
                .filter(|(state, _)| *state != NodeState::In)
                .collect(),
        };
        nodes.sort_by_key(|(state, id)| (std::cmp::Reverse(*state), *id));
        for (_, node) in nodes {
            let before = self.commands.len();
            for (group, shard) in self.idle() {
                if let Some(replica) = shard.replica_on(node)
                    && self.has_room()
                {
                    self.replace(group, shard, replica);
                }
            }
            if self.commands.len() > before {
                return;
            }
        }
    }

    fn replace(&mut self, group: GroupId, shard: &Shard, replica: ReplicaId) {
        match self.candidate(group) {
            Some(node) => self.change(group, shard, Some(node), Some(replica)),
            None if shard.replicas.len() > usize::from(shard.wanted) => {
                self.change(group, shard, None, Some(replica));
            }
            None => {}
        }
    }

    fn fill_up(&mut self) {
        for (group, shard) in self.idle() {
            if shard.replicas.len() < usize::from(shard.wanted)
                && self.has_room()
                && let Some(node) = self.candidate(group)
            {
                self.change(group, shard, Some(node), None);
            }
        }
    }

    /// Takes a replica from each shard that has too many: from the node with the most, and rather not
    /// the preferred primary. Those on nodes that are to be emptied come by another way.
    fn take_away(&mut self) {
        for (group, shard) in self.idle() {
            if shard.replicas.len() <= usize::from(shard.wanted) || !self.has_room() {
                continue;
            }
            let surplus = shard
                .replicas
                .iter()
                .filter(|(_, replica)| self.load.contains_key(&replica.node))
                .max_by_key(|(id, replica)| {
                    let load = self.load[&replica.node];
                    (shard.preferred != Some(**id), load, **id)
                });
            if let Some((id, _)) = surplus {
                self.change(group, shard, None, Some(*id));
            }
        }
    }

    /// Moves replicas from full nodes to empty ones.
    fn even_out(&mut self) {
        while self.has_room() {
            let Some((group, shard, replica, to)) = self.step_to_evenness() else {
                return;
            };
            self.change(group, shard, Some(to), Some(replica));
        }
    }

    fn step_to_evenness(&self) -> Option<(GroupId, &'a Shard, ReplicaId, NodeId)> {
        let mut nodes: Vec<(usize, NodeId)> = self
            .load
            .iter()
            .map(|(node, load)| (*load, *node))
            .collect();
        nodes.sort_unstable();
        let idle = self.idle();
        for (most, full) in nodes.iter().rev() {
            for (least, empty) in &nodes {
                if least + 2 > *most {
                    break;
                }
                let movable = idle.iter().filter(|(group, _)| *group != MANAGER);
                let mut movable = movable.filter_map(|(group, shard)| {
                    let replica = shard.replica_on(*full)?;
                    let may = self.may_host(*empty, *group);
                    may.then_some((*group, *shard, replica, *empty))
                });
                // Rather one that is not the preferred primary, or that role has to move, too.
                let all: Vec<_> = movable.by_ref().collect();
                let calm = all
                    .iter()
                    .find(|(_, shard, id, _)| shard.preferred != Some(*id));
                if let Some(step) = calm.or(all.first()) {
                    return Some(*step);
                }
            }
        }
        None
    }
}
