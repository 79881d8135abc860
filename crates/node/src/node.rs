//! The node: dispatch and the end of a turn, nothing else.
//!
//! Life of a turn: the shell hands in everything that is ready, event by event; consensus and clients
//! take it in. Then comes the end of the turn: each group proposes, persists, sends and applies as far as
//! it gets without new events; the log becomes one batch, the messages one frame for each peer and link,
//! the replies one output for each connection.

use std::sync::Arc;

use kvorum_base::{ConnId, GroupId, NodeId, Prng, Slot, Term, UnixMillis};
use kvorum_cluster::{Reply, Request};
use kvorum_kv::Keyspace;
use kvorum_resp::{OutBuf, Scratch};

use crate::clients::face::{self, ShardFacts};
use crate::config::Config;
use crate::effect::{Effect, Level, StopReason};
use crate::event::{Control, Door, Event};
use crate::group::Group;
use crate::limits::{ENTRY_BYTES_MAX, ENTRY_BYTES_TARGET, ENTRY_OVERHEAD_BYTES, FAREWELL_TICKS};
use crate::log::{BatchSeq, Durable, Log};
use crate::manager::MANAGER;
use crate::manager::ask::Who;
use crate::places::Places;
use crate::replicas::hosting::Hosting;
use crate::shared::{KnownShard, Shared};
use crate::status::{Process, Status};

/// All groups and clients of one machine, as a state machine.
#[derive(Debug)]
pub struct Node {
    pub(crate) shared: Shared,
    /// In the order of their ids.
    pub(crate) groups: Vec<Group>,
    pub(crate) places: Places,
    pub(crate) hosting: Hosting,
    /// What the chances of its groups come from.
    pub(crate) seed: u64,
    /// Why this node is out of service for good, if it is.
    pub(crate) lost: Option<String>,
    /// It hands over in order to end; since when.
    pub(crate) stopping: Option<u64>,
    /// Since when nothing but its clients keeps it from ending.
    farewell_since: Option<u64>,
    pub(crate) scratch: Scratch,
    /// When the log batch that is on its way was handed out, or began to wait for a segment.
    append_since_tick: Option<u64>,
    /// What disk and peers need was handed out; the state is next.
    owes_apply: bool,
    /// The disk is slow: leaderships are handed over.
    stalled: bool,
    /// Since when writes are refused for want of room.
    full_since_tick: Option<u64>,
    /// The most bytes of one encoded command.
    pub(crate) command_bytes_max: usize,
    /// Commands at the last full second, and in the second before it.
    commands_then: u64,
    commands_per_second: u64,
    last_snapshot: UnixMillis,
    snapshot_failed: bool,
    process: Process,
    durable: Vec<Durable>,
}

impl Node {
    pub(crate) fn with_groups(shared: Shared, groups: Vec<Group>) -> Self {
        let command_bytes_max = command_bytes_max(&shared.config);
        Self {
            shared,
            groups,
            places: Places::default(),
            hosting: Hosting::default(),
            seed: 0,
            lost: None,
            stopping: None,
            farewell_since: None,
            scratch: Scratch::new(),
            append_since_tick: None,
            owes_apply: false,
            stalled: false,
            full_since_tick: None,
            command_bytes_max,
            commands_then: 0,
            commands_per_second: 0,
            last_snapshot: UnixMillis::ZERO,
            snapshot_failed: false,
            process: Process::default(),
            durable: Vec::new(),
        }
    }

    /// Takes an event in and appends what is to be done to `effects`. Deterministic: the same events
    /// give the same effects.
    pub fn step(&mut self, event: Event<'_>, effects: &mut Vec<Effect>) {
        match event {
            Event::Opened {
                conn,
                address,
                door,
            } => self.opened(conn, address, door),
            Event::Closed { conn } => self.closed(conn),
            Event::Ended { conn } => self.ended(conn),
            Event::Bytes { conn, data } => self.client_bytes(conn, data),
            Event::Drained { conn } => self.shared.table.revisit(conn),
            Event::Peer { from, frame } => self.peer_frame(from, &frame),
            Event::PeerReset { node } => self.peer_reset(node),
            Event::Synced { upto } => self.synced(upto, effects),
            Event::SegmentReady { segment } => self.shared.log.segment_ready(segment),
            Event::SegmentRefused { segment } => self.shared.log.segment_refused(segment),
            Event::SnapshotStored {
                group,
                number,
                result,
            } => {
                self.snapshot_stored(group, number, result, effects);
            }
            Event::Tick => self.tick(effects),
            Event::Wall(wall) => self.wall(wall),
            Event::Process(process) => self.process = process,
            Event::Control(control) => self.control(&control),
            Event::EndOfTurn => self.end_of_turn(effects),
        }
    }

    /// What is to be written to this connection. Empty for one that is closed.
    pub fn output(&mut self, conn: ConnId) -> Option<&mut OutBuf> {
        Some(self.shared.table.get_mut(conn)?.connection.output())
    }

    fn opened(&mut self, conn: ConnId, address: &str, door: Door) {
        self.shared.counters.connections_opened += 1;
        let open_to_all = self.shared.config.password.is_none();
        self.shared.table.open(conn, address, door, open_to_all);
    }

    fn ended(&mut self, conn: ConnId) {
        if let Some(client) = self.shared.table.get_mut(conn) {
            client.has_ended = true;
            client.end_when_answered();
            self.shared.table.revisit(conn);
        }
    }

    fn closed(&mut self, conn: ConnId) {
        self.shared.table.close(conn);
        for group in &mut self.groups {
            group.closed(conn);
        }
    }

    /// Whether promises may be made and kept.
    pub(crate) fn serving(&self) -> bool {
        self.lost.is_none() && self.shared.log.is_started()
    }

    fn peer_reset(&mut self, node: NodeId) {
        self.shared.peers.reset(node);
        if !self.serving() {
            return;
        }
        for group in &mut self.groups {
            let members = group.raft.membership().nodes.iter();
            let there: Vec<_> = members
                .filter(|(_, on)| **on == node)
                .map(|(replica, _)| *replica)
                .collect();
            for replica in there {
                group.raft.link_reset(replica);
            }
        }
    }

    fn synced(&mut self, upto: BatchSeq, effects: &mut Vec<Effect>) {
        self.append_since_tick = None;
        if self.stalled {
            self.stalled = false;
            self.set_can_vote(true);
            self.shared
                .note(Level::Info, None, "the disk answers again".to_owned());
        }
        let mut durable = std::mem::take(&mut self.durable);
        self.shared.log.synced(upto, &mut durable, effects);
        for done in durable.drain(..) {
            match done {
                Durable::Started => {
                    self.shared
                        .note(Level::Info, None, "the log is ready".to_owned());
                    self.shared.roles_changed = true;
                }
                Durable::Persisted { group, seq } => {
                    if let Some(group) = self.group_mut(group) {
                        group.raft.persisted(seq);
                    }
                }
                Durable::Snapshot { group, number } => {
                    if let Some(group) = self.group_mut(group) {
                        group.snapshot_referred(number, effects);
                    }
                }
                Durable::Removed { group } => self.group_removed(group, effects),
                Durable::Orders(upto) => self.hosting.over = upto,
                Durable::Created { .. } => {}
            }
        }
        self.durable = durable;
    }

    pub(crate) fn group_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups.iter_mut().find(|group| group.id == id)
    }

    fn snapshot_stored(
        &mut self,
        id: GroupId,
        number: u64,
        result: Result<u64, String>,
        effects: &mut Vec<Effect>,
    ) {
        self.snapshot_failed = result.is_err();
        if result.is_ok() {
            let now = self.shared.now_tick;
            self.last_snapshot = self
                .shared
                .clocks
                .of(self.shared.config.node, now)
                .unwrap_or_default();
        }
        if let Some(group) = self.groups.iter_mut().find(|group| group.id == id) {
            group.snapshot_stored(number, result, &mut self.shared, effects);
        } else {
            // Its replica was deleted meanwhile.
            effects.push(Effect::DropSnapshot { group: id, number });
        }
    }

    fn wall(&mut self, wall: UnixMillis) {
        let (node, now_tick) = (self.shared.config.node, self.shared.now_tick);
        self.shared.clocks.heard(node, wall, now_tick);
        #[cfg(feature = "planted")]
        for state in self
            .groups
            .iter_mut()
            .filter_map(|group| group.state.as_mut())
        {
            state.keyspace.set_local_clock(wall);
        }
    }

    fn tick(&mut self, effects: &mut Vec<Effect>) {
        self.shared.now_tick += 1;
        self.shared.refill_move_allowance();
        self.shared.table.set_now(self.shared.now_tick);
        let states = self.groups.iter().filter_map(|group| group.state.as_ref());
        let used = states.map(|state| state.keyspace.logical_bytes()).sum();
        self.shared.peers.set_memory_used(used);
        let ticks_per_second = (1000 / self.shared.config.tick_ms).max(1);
        if self.shared.now_tick.is_multiple_of(ticks_per_second) {
            self.every_second();
        }
        self.watch_disk();
        if self.serving() {
            self.carry_out_orders();
            for group in &mut self.groups {
                group.tick(&mut self.shared, effects);
            }
            self.tick_manager();
        }
        self.refuse_overdue_held();
        // Whoever waits is tried again: a leadership may have been handed over, or not.
        self.shared.roles_changed |= !self.shared.waiting.is_empty();
        self.go_on_stopping(effects);
    }

    /// What is looked after once a second.
    fn every_second(&mut self) {
        self.commands_per_second = self.shared.counters.commands - self.commands_then;
        self.commands_then = self.shared.counters.commands;
        // Before a segment is asked for again: a full disk is what makes groups block.
        for blocker in self.shared.log.blockers() {
            let Some(group) = self
                .groups
                .iter_mut()
                .find(|group| group.id == blocker.group)
            else {
                continue;
            };
            let carried = group
                .live_entries(blocker.first, blocker.last)
                .is_some_and(|entries| self.shared.log.carry(blocker.group, entries));
            if carried {
                self.shared.counters.carries += 1;
            } else {
                group.want_snapshot();
            }
        }
        self.shared.log.ask_again();
        self.watch_clock();
        for group in self.groups.iter().filter(|group| group.leading()) {
            let members: Vec<_> = group.raft.membership().nodes.values().copied().collect();
            let term = group.raft.term();
            self.shared.peers.announce(group.id, term, &members);
        }
    }

    /// A disk that does not answer for an election timeout makes this node a bad leader: it would
    /// limp on at the disk's pace for ever, since its heartbeats go on. One without room too: the
    /// others may have some.
    fn watch_disk(&mut self) {
        let now = self.shared.now_tick;
        let waited = self.append_since_tick.map_or(0, |since| now - since);
        if !self.stalled && waited >= u64::from(self.shared.config.election_ticks_min) {
            self.stalled = true;
            let text = format!("the disk has not answered for {waited} ticks: handing over");
            self.shared.note(Level::Warn, None, text);
            self.set_can_vote(false);
        }
        let full = self.shared.log.is_full();
        self.full_since_tick = if full {
            self.full_since_tick.or(Some(now))
        } else {
            None
        };
        let long_full = self
            .full_since_tick
            .is_some_and(|since| now - since >= u64::from(self.shared.config.election_ticks_max));
        for group in &mut self.groups {
            group.set_disk_fit(!self.stalled && !long_full);
        }
    }

    fn set_can_vote(&mut self, can: bool) {
        for group in &mut self.groups {
            group.raft.set_can_vote(can);
        }
    }

    /// A node whose wall clock is far from the median does not lead: times to live start from the
    /// median anyway, but with one voter down the median of two is the lower one.
    fn watch_clock(&mut self) {
        let shared = &self.shared;
        let (config, now) = (&shared.config, shared.now_tick);
        let nodes = config.members.keys().copied();
        let Some(skew) = shared.clocks.skew_ms(config.node, nodes, now) else {
            return;
        };
        let fit = skew <= config.clock_skew_ms_max;
        for group in &mut self.groups {
            group.set_clock_fit(fit);
        }
        if !fit {
            let text =
                format!("the wall clock is {skew} ms off the median: this node does not lead");
            self.shared.note(Level::Warn, None, text);
        }
    }

    fn control(&mut self, control: &Control) {
        match control {
            Control::Transfer { group, to } => {
                if let Some(group) = self.group_mut(*group) {
                    let nodes = &group.raft.membership().nodes;
                    let replica = to.and_then(|to| {
                        nodes
                            .iter()
                            .find(|(_, on)| **on == to)
                            .map(|(replica, _)| *replica)
                    });
                    // A refusal changes nothing; whether it worked shows in the status.
                    let _ = group.raft.transfer(replica);
                }
            }
            Control::Manage { token, request } => {
                self.manage(Request::clone(request), Who::Operator(*token));
            }
            Control::RecoverManager { token, term } => {
                let recovered = self.recover_manager(*term);
                let reply = recovered.map_or_else(Reply::Refused, |()| Reply::Done);
                let asks = &mut self.shared.manager.asks;
                asks.answer_operator(*token, reply);
            }
            Control::Cluster(cluster) => self.shared.learn(cluster),
            Control::Snapshot { group } => {
                if let Some(group) = self.group_mut(*group) {
                    group.want_snapshot();
                }
            }
            Control::Shutdown => {
                self.stopping.get_or_insert(self.shared.now_tick);
                for group in &mut self.groups {
                    group.retire();
                }
            }
        }
    }

    /// Ends once nothing is led, nobody waits for a reply and the clients have been sent elsewhere, or
    /// after the deadline of a request.
    fn go_on_stopping(&mut self, effects: &mut Vec<Effect>) {
        let Some(since) = self.stopping else { return };
        // Without another voter nobody can take over; nor if all of them are gone.
        let election_ticks = u64::from(self.shared.config.election_ticks_min);
        let heard_since = self.shared.now_tick.saturating_sub(election_ticks);
        let has_heirs = |group: &Group| {
            let members = group.raft.membership();
            let nodes = members
                .voters
                .iter()
                .filter_map(|voter| members.nodes.get(voter));
            self.shared.peers.hears_any(nodes.copied(), heard_since)
        };
        let owes = |group: &Group| group.raft.is_leader() || group.awaits_successor();
        let mut groups = self.groups.iter();
        let busy = groups.any(|group| group.is_busy() || owes(group) && has_heirs(group));
        let in_time = self.shared.now_tick - since < self.shared.config.deadline_ticks;
        if self.serving() && in_time && (busy || self.says_farewell()) {
            return;
        }
        for group in &mut self.groups {
            let unknown = group.batches.take_all_pending();
            group.answer_unknown(&unknown, &mut self.shared);
        }
        self.refuse_all_held();
        self.shared.table.flush(effects);
        effects.push(Effect::Stop(Box::new(StopReason::Shutdown)));
    }

    /// Whether clients that are still here may be sent elsewhere: whoever takes over may not be known
    /// yet, and then requests wait for that.
    fn says_farewell(&mut self) -> bool {
        let alone = |group: &Group| group.raft.membership().voters.len() == 1;
        if self.shared.table.count() == 0 || self.groups.iter().any(alone) {
            return false;
        }
        let now_tick = self.shared.now_tick;
        let since = *self.farewell_since.get_or_insert(now_tick);
        !self.shared.waiting.is_empty() || now_tick - since < FAREWELL_TICKS
    }

    /// Seals what disk and peers are to have, if the state is to be changed as well: they work while it
    /// is. Applying a batch takes as long as syncing the next; one behind the other, a busy shard would
    /// do half as much. Says whether there is something to apply after it.
    fn hands_out_first(&mut self, effects: &mut Vec<Effect>) -> bool {
        if std::mem::take(&mut self.owes_apply) || !self.serving() {
            return false;
        }
        for group in &mut self.groups {
            group.agree(&mut self.shared, effects);
        }
        if !self.groups.iter().any(Group::has_to_apply) {
            return false;
        }
        let before = effects.len();
        self.seal(effects);
        self.owes_apply = effects.len() > before;
        self.owes_apply
    }

    /// What was gathered for peers and for the log is handed out.
    fn seal(&mut self, effects: &mut Vec<Effect>) {
        let (node, now_tick) = (self.shared.config.node, self.shared.now_tick);
        let wall = self.shared.clocks.of(node, now_tick);
        self.shared.peers.flush(wall, effects);
        let before = effects.len();
        self.shared.log.seal(effects);
        self.note_append(&effects[before..]);
    }

    fn end_of_turn(&mut self, effects: &mut Vec<Effect>) {
        if self.hands_out_first(effects) {
            effects.push(Effect::Again);
            return;
        }
        self.shared.counters.turns += 1;
        if self.serving() {
            let own = self.shared.config.node;
            for message in std::mem::take(&mut self.shared.loopback) {
                self.move_message(own, &message);
            }
            for group in &mut self.groups {
                group.end_of_turn(&mut self.shared, effects);
            }
            if std::mem::take(&mut self.shared.roles_changed) && !self.shared.waiting.is_empty() {
                self.retry_held();
                for group in &mut self.groups {
                    group.end_of_turn(&mut self.shared, effects);
                }
            }
            self.go_on_behind_watches(effects);
            self.manager_end_of_turn();
            self.answer_gathered();
            self.places.update(&self.groups);
        }
        self.seal(effects);
        if std::mem::take(&mut self.shared.more_to_do) {
            effects.push(Effect::Continue);
        }
        self.shared.table.flush(effects);
        self.shared.take_notes(effects);
    }

    /// What connections sent behind a WATCH that is answered now is looked at.
    fn go_on_behind_watches(&mut self, effects: &mut Vec<Effect>) {
        let conns = self.shared.table.take_watching();
        if conns.is_empty() {
            return;
        }
        self.resume(&conns);
        for group in &mut self.groups {
            group.end_of_turn(&mut self.shared, effects);
        }
        // Another WATCH may be answered already; the rest of this turn would not see it.
        self.shared.more_to_do = true;
    }

    fn note_append(&mut self, sealed: &[Effect]) {
        if self.shared.log.waits_for_segment() {
            self.append_since_tick.get_or_insert(self.shared.now_tick);
        }
        for effect in sealed {
            if let Effect::Append { frame, .. } = effect {
                self.shared.counters.log_batches += 1;
                self.shared.counters.log_bytes += frame.len() as u64;
                self.append_since_tick = Some(self.shared.now_tick);
            }
        }
    }

    /// The face's facts on each shard: the own groups know best, of the others there are hints.
    pub(crate) fn shard_facts(&self) -> Vec<ShardFacts> {
        let here = self.shards().filter(|group| group.state.is_some());
        let here = here.map(|group| ShardFacts {
            group: group.id,
            slots: Arc::clone(group.served()),
            replicas: group.raft.membership().nodes.clone(),
            primary: group.primary().or(group.primary_hint),
            primary_known: group.primary().is_some(),
            applied: group.state.as_ref().map_or(0, |state| state.applied.get()),
            term: group.raft.term().get(),
        });
        let known = self.shared.shards.iter();
        let elsewhere =
            known
                .filter(|(group, _)| !self.has_state_of(**group))
                .map(|(group, shard)| {
                    let term = self.shared.peers.primary_of(*group).map(|(term, _)| term);
                    let primary = self.shared.primary_of(*group);
                    ShardFacts {
                        group: *group,
                        slots: Arc::clone(&shard.slots),
                        replicas: shard.replicas.clone(),
                        primary: primary.or(shard.node()),
                        primary_known: primary.is_some(),
                        applied: 0,
                        term: term.map_or(0, Term::get),
                    }
                });
        let mut facts: Vec<_> = here.chain(elsewhere).collect();
        facts.sort_by_key(|shard| shard.group);
        facts
    }

    /// The groups that have keys: all but the shard manager's.
    pub(crate) fn shards(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.id != MANAGER)
    }

    /// The shard manager's state, the newest that was heard of.
    #[must_use]
    pub fn cluster(&self) -> Option<&Arc<kvorum_cluster::State>> {
        self.shared.cluster.as_ref()
    }

    /// The replica of a group here: there is one at most.
    pub(crate) fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.iter().find(|group| group.id == id)
    }

    pub(crate) fn has_group(&self, id: GroupId) -> bool {
        self.group(id).is_some()
    }

    /// Whether what is known here of a group is its own state. A replica that is only just filled knows less
    /// of its group than nodes that have none.
    fn has_state_of(&self, id: GroupId) -> bool {
        self.group(id).is_some_and(|group| group.state.is_some())
    }

    /// The shard that has a slot, as the shard manager has it, if it is none that has a state here.
    pub(crate) fn shard_elsewhere(&self, slot: Slot) -> Option<GroupId> {
        let known = self.shared.shards.iter();
        let mut elsewhere = known.filter(|(group, _)| !self.has_state_of(**group));
        let (group, _) = elsewhere.find(|(_, shard)| shard.slots.contains(slot))?;
        Some(*group)
    }

    /// The other node to ask about a shard. Where no primary is known any that has a replica knows better;
    /// but one that has no state yet knows that it has to wait for one.
    pub(crate) fn node_to_ask(&self, group: GroupId) -> Option<NodeId> {
        let own = self.shared.config.node;
        let primary = self.shared.primary_of(group);
        let member = || self.shared.shards.get(&group).and_then(KnownShard::node);
        let node = match self.has_group(group) {
            true => primary,
            false => primary.or_else(member),
        };
        node.filter(|node| *node != own)
    }

    /// The state of the group that has a slot here.
    pub(crate) fn keyspace_of(&self, slot: Slot) -> Option<&Keyspace> {
        let state = self.groups[self.places.group_of(slot)?].state.as_ref()?;
        Some(&state.keyspace)
    }

    /// A picture of the node as it is now.
    #[must_use]
    pub fn status(&self) -> Status {
        let config = &self.shared.config;
        let mut counters = self.shared.counters;
        counters.errors = self.shared.table.errors;
        counters.frames_sent = self.shared.peers.frames_sent;
        Status {
            node: config.node,
            name: face::node_name(config.cluster, config.node),
            incarnation: self.shared.log.incarnation(),
            process: self.process,
            port: config
                .members
                .get(&config.node)
                .map_or(0, |member| member.port),
            uptime_ms: self.shared.now_tick * config.tick_ms,
            lost: self.lost.clone(),
            stopping: self.stopping.is_some(),
            disk_full: !self.shared.log.writable(),
            sync_outstanding_ticks: self
                .append_since_tick
                .map_or(0, |since| self.shared.now_tick - since),
            connections: self.shared.table.count(),
            held: self.shared.waiting.len(),
            memory_bytes_max: config.memory_bytes_max,
            last_snapshot_ms: self.last_snapshot.get(),
            snapshot_failed: self.snapshot_failed,
            commands_per_second: self.commands_per_second,
            counters,
            moves: self
                .groups
                .iter()
                .flat_map(|group| group.moves_status(self.shared.now_tick, config.tick_ms))
                .collect(),
            manager: self
                .groups
                .iter()
                .find(|group| group.id == MANAGER)
                .map(Group::status),
            groups: self.shards().map(Group::status).collect(),
        }
    }

    /// Checks every invariant. For tests and the simulator.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self) {
        for group in &self.groups {
            group.raft.check();
            if let Some(state) = &group.state {
                state.moves.check(&state.keyspace);
            }
        }
    }

    /// The seed of a group's chances: the same for the same node, group and life.
    pub(crate) fn seed(config: &Config, group: GroupId, incarnation: u64, seed: u64) -> Prng {
        let mut prng = Prng::new(seed ^ config.node.get().rotate_left(32) ^ group.get());
        for _ in 0..incarnation % 64 {
            prng.next_u64();
        }
        prng.fork()
    }

    /// The log, to be asked how it is.
    #[must_use]
    pub fn wal(&self) -> &Log {
        &self.shared.log
    }
}

/// The most bytes of one encoded command: it shares an entry with what was there before it.
pub(crate) fn command_bytes_max(config: &Config) -> usize {
    let room = config.log.entry_bytes_max as usize - ENTRY_OVERHEAD_BYTES;
    ENTRY_BYTES_MAX.min(room - batch_bytes(config))
}

/// A batch with so many bytes takes no further command.
pub(crate) fn batch_bytes(config: &Config) -> usize {
    let room = config.log.entry_bytes_max as usize - ENTRY_OVERHEAD_BYTES;
    ENTRY_BYTES_TARGET.min(room / 2)
}
