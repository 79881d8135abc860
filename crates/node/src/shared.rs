//! What the groups of a node share: its clients, its log, its links, its clocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvorum_base::{Epoch, GroupId, NodeId, ReplicaId, SlotSet};
use kvorum_cluster::MANAGER;

use crate::clients::connections::Table;
use crate::clients::face::Faces;
use crate::clients::waiting::Waiting;
use crate::clock::Clocks;
use crate::config::{Config, Member};
use crate::effect::{Effect, Level, Note};
use crate::format::moves::MoveMessage;
use crate::log::Log;
use crate::manager::Manager;
use crate::moves::order::MoveOrders;
use crate::peers::Peers;
use crate::status::Counters;

/// A shard, as this node was told of it.
#[derive(Debug)]
pub(crate) struct KnownShard {
    /// The slots that it had.
    pub(crate) slots: Arc<SlotSet>,
    /// Its replicas and where they live; the first is as good as any to be asked.
    pub(crate) replicas: BTreeMap<ReplicaId, NodeId>,
}

impl KnownShard {
    /// A node to be asked about it.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.replicas.values().next().copied()
    }
}

/// What the groups of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) table: Table,
    pub(crate) waiting: Waiting,
    pub(crate) faces: Faces,
    pub(crate) log: Log,
    pub(crate) peers: Peers,
    pub(crate) clocks: Clocks,
    pub(crate) counters: Counters,
    /// Ticks since the start.
    pub(crate) now_tick: u64,
    /// Some group's leader changed in this turn: held requests are worth another try.
    pub(crate) roles_changed: bool,
    /// A turn left work for the next one.
    pub(crate) more_to_do: bool,
    /// Names the next snapshot file of this node.
    pub(crate) next_snapshot_number: u64,
    /// The shard manager's state, the newest that was heard of.
    pub(crate) cluster: Option<Arc<kvorum_cluster::State>>,
    /// Bytes of moves that may be sent before the next tick.
    pub(crate) move_allowance: u64,
    /// All shards: at first those that the cluster was made with, then as the shard manager has it.
    pub(crate) shards: BTreeMap<GroupId, KnownShard>,
    /// The version of what the manager shows that they and the members are of.
    learnt_epoch: Epoch,
    /// What it wants moved.
    pub(crate) orders: MoveOrders,
    /// Its dealings with the shard manager.
    pub(crate) manager: Manager,
    /// Who leads the groups that have a replica here.
    pub(crate) primaries: BTreeMap<GroupId, NodeId>,
    /// What one group here says to another one here.
    pub(crate) loopback: Vec<MoveMessage>,
    notes: Vec<Note>,
    later: Vec<Effect>,
}

impl Shared {
    pub(crate) fn new(config: Config, log: Log) -> Self {
        // Unique over restarts: the life of the node stands in front.
        let next_snapshot_number = log.incarnation() * 1_000_000_000 + 1;
        let clock_keep_ticks = u64::from(config.election_ticks_max) * 4;
        let mut shared = Self {
            table: Table::default(),
            waiting: Waiting::default(),
            faces: Faces::default(),
            peers: Peers::new(&config, log.incarnation()),
            clocks: Clocks::new(config.tick_ms, clock_keep_ticks),
            log,
            counters: Counters::default(),
            now_tick: 0,
            roles_changed: false,
            next_snapshot_number,
            more_to_do: false,
            cluster: None,
            move_allowance: 0,
            shards: shards_of(&config),
            learnt_epoch: Epoch::ZERO,
            orders: MoveOrders::default(),
            manager: Manager::default(),
            primaries: BTreeMap::new(),
            loopback: Vec::new(),
            notes: Vec::new(),
            later: Vec::new(),
            config,
        };
        if let Some(known) = shared.config.known.take() {
            shared.learn(&known);
        }
        shared
    }

    /// What may be sent of moves in this tick. What was not sent is not saved up for long.
    pub(crate) fn refill_move_allowance(&mut self) {
        const SAVED_TICKS: u64 = 10;
        self.move_allowance = match self.config.move_bytes_per_tick {
            None => u64::MAX,
            Some(bytes) => (self.move_allowance + bytes).min(SAVED_TICKS * bytes),
        };
    }

    /// The node that leads a group, as far as known here; for where to send something, never to decide.
    pub(crate) fn primary_of(&self, group: GroupId) -> Option<NodeId> {
        let here = self.primaries.get(&group).copied();
        here.or_else(|| self.peers.primary_of(group).map(|(_, node)| node))
    }

    /// Takes the shard manager's state, unless a newer one is known. Every replica of the manager and every
    /// node that watches has the same at the same entry.
    pub(crate) fn learn(&mut self, cluster: &Arc<kvorum_cluster::State>) {
        let known = self.cluster.as_ref();
        if known.is_none_or(|known| known.newness() < cluster.newness()) {
            self.orders = MoveOrders::of(cluster);
            self.cluster = Some(Arc::clone(cluster));
            if self.learnt_epoch != cluster.epoch() {
                self.learnt_epoch = cluster.epoch();
                self.learn_shards(cluster);
                self.learn_nodes(cluster);
            }
        }
    }

    fn learn_shards(&mut self, cluster: &kvorum_cluster::State) {
        let mut runs: BTreeMap<GroupId, Vec<(u16, u16)>> = BTreeMap::new();
        for (first, last, owner) in cluster.owners() {
            if let Some(owner) = owner {
                runs.entry(owner).or_default().push((first, last));
            }
        }
        let shards = cluster.shards().iter();
        let shards = shards.filter(|(group, _)| **group != MANAGER);
        let known = shards.map(|(group, shard)| {
            let runs = runs.remove(group).unwrap_or_default();
            let slots = Arc::new(SlotSet::of_runs(runs));
            let replicas = shard.voters().collect();
            (*group, KnownShard { slots, replicas })
        });
        self.shards = known.collect();
    }

    /// Where nodes are reached changes, and nodes come and go.
    fn learn_nodes(&mut self, cluster: &kvorum_cluster::State) {
        let own = self.config.node;
        let nodes = cluster.nodes().iter();
        let mut members: BTreeMap<NodeId, Member> = nodes
            .map(|(id, node)| (*id, Member::from(&node.addresses)))
            .collect();
        if let Some(itself) = self.config.members.get(&own) {
            // It may not be registered yet, for all that this state knows.
            members.entry(own).or_insert_with(|| itself.clone());
        }
        if members == self.config.members {
            return;
        }
        self.peers.set_nodes(members.keys().copied(), self.now_tick);
        self.config.members = members;
        self.faces = Faces::default();
        let others = cluster.nodes().iter().filter(|(id, _)| **id != own);
        let reached = others.map(|(id, node)| (*id, node.addresses.peer.to_string()));
        self.later.push(Effect::Peers(reached.collect()));
    }

    /// Sends something about a move to the node that leads the other group, which may be this one.
    pub(crate) fn send_move(&mut self, node: NodeId, message: MoveMessage) {
        if node == self.config.node {
            self.loopback.push(message);
            self.more_to_do = true;
        } else {
            self.peers.send_move(node, message);
        }
    }

    /// Tells the operator at the end of the turn.
    pub(crate) fn note(&mut self, level: Level, group: Option<GroupId>, text: String) {
        self.notes.push(Note { level, group, text });
    }

    /// Asks for this at the end of the turn.
    pub(crate) fn later(&mut self, effect: Effect) {
        self.later.push(effect);
    }

    /// Hands the notes, and what was asked for later, over.
    pub(crate) fn take_notes(&mut self, effects: &mut Vec<Effect>) {
        effects.append(&mut self.later);
        effects.extend(
            self.notes
                .drain(..)
                .map(|note| Effect::Note(Box::new(note))),
        );
    }

    /// A number for a snapshot file that no other has or had.
    pub(crate) fn new_snapshot_number(&mut self) -> u64 {
        let number = self.next_snapshot_number;
        self.next_snapshot_number += 1;
        number
    }
}

/// The shards that the cluster was made with.
fn shards_of(config: &Config) -> BTreeMap<GroupId, KnownShard> {
    let shards = config.groups.iter();
    let shards = shards.filter(|spec| spec.group != MANAGER);
    let known = shards.map(|spec| {
        let slots = Arc::clone(&spec.slots);
        let replicas = spec.replicas.clone();
        (spec.group, KnownShard { slots, replicas })
    });
    known.collect()
}
