//! Who should lead which shard: evenly over the nodes that are in.
//!
//! Leading costs more than following, so the load of a node is mostly its primaries. Each shard has a
//! preferred primary; a transfer is ordered where another one leads. The preferences are evened out
//! with the fewest changes: as long as one node leads two more shards than another, a chain of hand-overs
//! from the first to the second is looked for, over nodes in between where the two share no shard.
//! No such chain left means that no even distribution exists with the replicas as they are
//! (it is the augmenting path of bipartite matching).
//!
//! A group that moves slots or changes its replicas is left alone, unless its primary's node is to be
//! emptied: a hand-over makes both begin again.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{GroupId, NodeId, ReplicaId};

use crate::command::Command;
use crate::hearsay::Hearsay;
use crate::nodes::NodeState;
use crate::orders::Task;
use crate::shards::{MANAGER, Shard, Stage};
use crate::state::State;

/// The hand-overs that should be ordered now.
pub(crate) fn transfers(state: &State, hearsay: &Hearsay) -> Vec<Command> {
    let mut leaders = preferred_primaries(state, hearsay);
    leaders.retain(|group, to| {
        let shard = &state.shards()[group];
        let target = shard.replicas[to].node;
        let leads = hearsay.primary(*group);
        leads.is_some_and(|leads| leads != target && may_hand_over(state, *group, shard, leads))
    });
    leaders
        .into_iter()
        .map(|(group, to)| Command::Transfer { group, to })
        .collect()
}

fn may_hand_over(state: &State, group: GroupId, shard: &Shard, leads: NodeId) -> bool {
    let ordered = state
        .orders_for(group)
        .any(|(_, order)| matches!(order.task, Task::TransferPrimary { .. }));
    let leads = state.nodes().get(&leads).map(|node| node.state());
    let must = leads == Some(NodeState::Draining);
    let calm = shard.change.is_none() && state.moves_of(group).next().is_none();
    !ordered && (must || calm)
}

/// The voter of each shard that should lead, where any can.
#[must_use]
pub fn preferred_primaries(state: &State, hearsay: &Hearsay) -> BTreeMap<GroupId, ReplicaId> {
    let mut board = Board::default();
    for (id, node) in state.nodes() {
        if node.is_in() {
            board.leading.insert(*id, BTreeSet::new());
        }
    }
    let mut undecided = Vec::new();
    for (group, shard) in state.shards() {
        if *group == MANAGER || shard.stage != Stage::Serving {
            continue;
        }
        let able: BTreeMap<NodeId, ReplicaId> = shard
            .voters()
            .filter(|(_, node)| board.leading.contains_key(node))
            .map(|(replica, node)| (node, replica))
            .collect();
        if able.is_empty() {
            continue;
        }
        let preferred = shard.preferred.and_then(|id| shard.replicas.get(&id));
        let place = preferred
            .map(|replica| replica.node)
            .filter(|node| able.contains_key(node))
            .or(hearsay
                .primary(*group)
                .filter(|node| able.contains_key(node)));
        board.able.insert(*group, able);
        match place {
            Some(node) => board.seat(*group, node),
            None => undecided.push(*group),
        }
    }
    for group in undecided {
        let nodes = board.able[&group].keys();
        let calmest = nodes.min_by_key(|node| (board.count(**node), **node));
        let node = *calmest.expect("somebody is able to");
        board.seat(group, node);
    }
    while board.even_out() {}
    let replica = |(group, node): (&GroupId, &NodeId)| (*group, board.able[group][node]);
    board.seats.iter().map(replica).collect()
}

/// Who leads, and who could.
#[derive(Default)]
struct Board {
    /// The shards that each node leads.
    leading: BTreeMap<NodeId, BTreeSet<GroupId>>,
    /// For each shard the nodes that could lead it, and their voters there.
    able: BTreeMap<GroupId, BTreeMap<NodeId, ReplicaId>>,
    /// Which one does.
    seats: BTreeMap<GroupId, NodeId>,
}

impl Board {
    fn count(&self, node: NodeId) -> usize {
        self.leading[&node].len()
    }

    fn seat(&mut self, group: GroupId, node: NodeId) {
        if let Some(before) = self.seats.insert(group, node) {
            let led = self.leading.get_mut(&before).expect("it leads");
            assert!(led.remove(&group), "group {group} on node {before}");
        }
        let led = self.leading.get_mut(&node).expect("it is able to");
        led.insert(group);
    }

    /// Takes one shard from a node and gives one to another that leads two fewer or less; says whether
    /// there was such a pair.
    fn even_out(&mut self) -> bool {
        let least = self.leading.values().map(BTreeSet::len).min();
        let mut full: Vec<(usize, NodeId)> = self
            .leading
            .iter()
            .map(|(node, led)| (led.len(), *node))
            .filter(|(count, _)| least.is_some_and(|least| least + 2 <= *count))
            .collect();
        full.sort_unstable();
        for (_, node) in full.into_iter().rev() {
            if let Some(chain) = self.chain(node) {
                for (group, to) in chain {
                    self.seat(group, to);
                }
                return true;
            }
        }
        false
    }

    /// The shortest chain of hand-overs from a node to the one that leads fewest, of those that it
    /// reaches and that lead two fewer or less.
    fn chain(&self, from: NodeId) -> Option<Vec<(GroupId, NodeId)>> {
        let mut came_by: BTreeMap<NodeId, (GroupId, NodeId)> = BTreeMap::new();
        let mut seen = vec![from];
        let mut at = 0;
        while let Some(node) = seen.get(at).copied() {
            at += 1;
            for group in &self.leading[&node] {
                for next in self.able[group].keys() {
                    if *next != from && !came_by.contains_key(next) {
                        came_by.insert(*next, (*group, node));
                        seen.push(*next);
                    }
                }
            }
        }
        let end = seen
            .iter()
            .filter(|node| self.count(**node) + 2 <= self.count(from))
            .min_by_key(|node| self.count(**node))?;
        let mut chain = Vec::new();
        let mut at = *end;
        while at != from {
            let (group, before) = came_by[&at];
            chain.push((group, at));
            at = before;
        }
        Some(chain)
    }
}
