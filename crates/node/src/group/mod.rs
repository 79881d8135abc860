//! One group on one node: consensus, keyspace, and the single place where an entry becomes a
//! command.
//!
//! - [`batch`]: writes on their way into the log;
//! - [`reads`]: reads on their way to a linearizable answer;
//! - [`asking`]: what a follower asks its primary, so that it may answer reads;
//! - [`propose`]: what a primary appends, and when;
//! - [`apply`]: what every replica does with a committed entry;
//! - [`checkpoint`]: whether the replicas agree;
//! - [`snapshot`]: storing, sending and installing whole states;
//! - [`waits`]: how far a connection's writes have got.
//!
//! Everything a group decides, it decides at the end of a turn: events only change consensus or
//! gather requests.

pub(crate) mod apply;
mod asking;
pub(crate) mod batch;
pub(crate) mod checkpoint;
mod propose;
pub(crate) mod reads;
pub mod snapshot;
pub(crate) mod waits;

use std::collections::BTreeMap;
use std::sync::Arc;

use kvorum_base::{Bug, ConnId, GroupId, Index, NodeId, ReplicaId, SlotSet, Term};
use kvorum_kv::Spec;
use kvorum_raft::{self as raft, Entry, Persist, Raft, RoleName};
use kvorum_resp::Args;

use crate::clients::waiting::Held;
use crate::config::Config;
use crate::effect::{Effect, Level};
use crate::limits::APPLY_BYTES_PER_TURN;
use crate::moves::driver::Driver;
use crate::replicas::members::Changing;
use crate::shared::Shared;
use crate::status::{FollowerStatus, GroupStatus};

use apply::State;
use asking::Asking;
use batch::{Batches, ReplyTo};
use checkpoint::Checkpoints;
use reads::{By, Reads};
use snapshot::Snapshots;
use waits::Wait;

/// A replica of one group.
///
/// Invariants: `state` is absent exactly while the replica waits for a snapshot, and then it neither
/// campaigns nor leads; its applied index is the one that consensus was told.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) replica: ReplicaId,
    /// The slots that it served at its beginning: what is known of it while it has no state.
    slots: Arc<SlotSet>,
    /// Where its primary should be when all are well.
    preferred: Option<NodeId>,
    pub(crate) raft: Raft,
    pub(crate) state: Option<State>,
    pub(crate) batches: Batches,
    pub(crate) reads: Reads,
    /// What it asks its primary while it follows.
    asking: Asking,
    pub(crate) waits: Vec<Wait>,
    pub(crate) checkpoints: Checkpoints,
    snapshots: Snapshots,
    /// What it does for moves while it leads.
    pub(crate) driver: Driver,
    /// What it does for orders to change its members while it leads.
    pub(crate) changing: Changing,
    /// Where replicas live that wrote to this one and are no members as far as its log knows: its log may
    /// be behind, or know nothing yet, and they wait for answers.
    strangers: BTreeMap<ReplicaId, NodeId>,
    /// Whether the shard manager knows of this replica. If not it was let go, or its group is gone.
    is_wanted: bool,
    /// The last node heard to lead, for redirects; never used for a decision.
    pub(crate) primary_hint: Option<NodeId>,
    next_checkpoint_tick: u64,
    /// How many bytes of entries this turn may still apply.
    apply_allowance: usize,
    /// A checkpoint was applied by this primary and is to be judged.
    checkpoint_due: Option<Index>,
    /// This node's wall clock is near the median.
    clock_fit: bool,
    /// The disk answers, and has room.
    disk_fit: bool,
    /// Since when no leader is known.
    pub(crate) leaderless_since_tick: Option<u64>,
    /// Not before this tick is it said again that no majority is there.
    pub(crate) next_lost_note_tick: u64,
    /// Not before this tick is a hand-over tried again.
    next_hand_over_tick: u64,
    /// The node is ending.
    retired: bool,
    /// It led when the node began to end.
    owes_successor: bool,
    /// Nothing was applied since the last checkpoint.
    unchanged: bool,
    /// When a snapshot was last asked of the primary.
    state_wanted_tick: Option<u64>,
    /// At least the bytes of the entries in memory; counted anew when it is too much.
    cached_bytes: u64,
    /// Not counted anew before there are more than so many.
    trim_above: u64,
    /// For the counters.
    last_recorded: Index,
    last_term: Term,
    /// Reused between turns.
    raft_effects: Vec<raft::Effect>,
}

impl Group {
    pub(crate) fn new(
        id: GroupId,
        slots: Arc<SlotSet>,
        preferred: Option<NodeId>,
        raft: Raft,
        state: Option<State>,
        batch_bytes: usize,
    ) -> Self {
        let (last_recorded, last_term) = (raft.last_index(), raft.term());
        let held = raft.entries(raft.base_index().next()..=last_recorded);
        let cached_bytes = held.map(|entry| entry.data.len() as u64).sum();
        Self {
            id,
            replica: raft.id(),
            slots,
            preferred,
            raft,
            state,
            batches: Batches::new(batch_bytes),
            reads: Reads::default(),
            asking: Asking::default(),
            waits: Vec::new(),
            checkpoints: Checkpoints::default(),
            snapshots: Snapshots::default(),
            driver: Driver::default(),
            changing: Changing::default(),
            strangers: BTreeMap::new(),
            is_wanted: true,
            primary_hint: None,
            next_checkpoint_tick: 0,
            apply_allowance: 0,
            checkpoint_due: None,
            clock_fit: true,
            disk_fit: true,
            leaderless_since_tick: None,
            next_lost_note_tick: 0,
            next_hand_over_tick: 0,
            retired: false,
            owes_successor: false,
            unchanged: true,
            state_wanted_tick: None,
            raft_effects: Vec::new(),
            cached_bytes,
            trim_above: 0,
            last_recorded,
            last_term,
        }
    }

    /// Whether this replica leads and can serve.
    pub(crate) fn leading(&self) -> bool {
        self.raft.is_leader() && self.state.is_some()
    }

    /// The slots that it serves, as far as this replica knows.
    pub(crate) fn served(&self) -> &Arc<SlotSet> {
        self.state
            .as_ref()
            .map_or(&self.slots, |state| state.keyspace.served())
    }

    /// The node of the leader of the present term, if known.
    pub(crate) fn primary(&self) -> Option<NodeId> {
        self.node_of(self.raft.leader()?)
    }

    /// Where a replica lives, as far as known.
    pub(crate) fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        let members = &self.raft.membership().nodes;
        let known = members.get(&replica).or(self.strangers.get(&replica));
        known.copied()
    }

    /// A replica on this node wrote to this one. Returns whether that can be.
    pub(crate) fn hears_from(&mut self, replica: ReplicaId, node: NodeId) -> bool {
        /// Others than the newest are not answered; they ask again.
        const STRANGERS_MAX: usize = 16;
        if let Some(lives) = self.raft.membership().nodes.get(&replica) {
            return *lives == node;
        }
        if self.strangers.len() >= STRANGERS_MAX {
            self.strangers.pop_first();
        }
        self.strangers.insert(replica, node);
        true
    }

    /// Where the primary should be when all are well, as the shard manager has it.
    pub(crate) fn set_preferred(&mut self, node: Option<NodeId>) {
        self.preferred = node;
    }

    /// Whether the shard manager knows of this replica. One that was let go may not have heard of it, and
    /// must not stand for election time and again; it is deleted when that is ordered.
    pub(crate) fn set_wanted(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
    }

    /// It is being deleted: whoever waits here is answered or tries elsewhere.
    pub(crate) fn dismiss(&mut self, shared: &mut Shared) {
        let unknown = self.batches.take_all_pending();
        self.answer_unknown(&unknown, shared);
        self.refuse_unproposed(shared);
        self.void_reads(shared);
        for read in self.reads.take_overdue(u64::MAX) {
            answer_unread(read, shared);
            shared.table.read_ended(read.conn);
        }
        for wait in self.waits.drain(..) {
            shared
                .table
                .answer(wait.reply_to, |replies| replies.integer(0));
        }
        shared.primaries.remove(&self.id);
        shared.roles_changed = true;
    }

    /// Whether this node's wall clock is near enough to the median to lead by it.
    pub(crate) fn set_clock_fit(&mut self, fit: bool) {
        self.clock_fit = fit;
    }

    /// Whether the disk answers and has room.
    pub(crate) fn set_disk_fit(&mut self, fit: bool) {
        self.disk_fit = fit;
    }

    /// The node is ending: leads no more.
    pub(crate) fn retire(&mut self) {
        self.owes_successor |= self.raft.is_leader();
        self.retired = true;
        self.update_can_campaign();
        // A refusal means that there is nothing to hand over, or nobody to: the ticks try again.
        let _ = self.raft.transfer(None);
    }

    /// Whether it gave the leadership up and nobody is known to have it. Its own vote may be the one that
    /// is missing, and is not durable yet: a node that ended now would take it along.
    pub(crate) fn awaits_successor(&self) -> bool {
        let raft = &self.raft;
        self.owes_successor && raft.leader().is_none() && raft.membership().voters.len() > 1
    }

    /// Whether this replica should lead if others can. With a wrong clock it may after a while
    /// without any leader: no time to live is told by one clock, and a group without a primary helps
    /// nobody.
    fn fit_to_lead(&self, now_tick: u64, patience_ticks: u64) -> bool {
        let leaderless = self
            .leaderless_since_tick
            .is_some_and(|since| now_tick >= since + patience_ticks);
        let may = self.state.is_some() && !self.retired && self.is_wanted;
        may && self.disk_fit && (self.clock_fit || leaderless)
    }

    pub(super) fn update_can_campaign(&mut self) {
        self.raft
            .set_can_campaign(self.state.is_some() && !self.retired && self.is_wanted);
    }

    /// Leads only while it should: else hands over, again and again until somebody takes it.
    fn watch_fitness(&mut self, shared: &Shared) {
        let now_tick = shared.now_tick;
        let election_ticks = u64::from(shared.config.election_ticks_max);
        self.leaderless_since_tick = match self.raft.leader() {
            Some(_) => None,
            None => self.leaderless_since_tick.or(Some(now_tick)),
        };
        let fit = self.fit_to_lead(now_tick, 5 * election_ticks);
        self.raft.set_can_campaign(fit);
        let should_go =
            self.raft.is_leader() && !(self.clock_fit && self.disk_fit && !self.retired);
        if should_go && !self.raft.transferring() && now_tick >= self.next_hand_over_tick {
            // With nobody to take it, it stays. Others are given some time before the next try.
            let pause = if self.retired { 1 } else { 10 * election_ticks };
            self.next_hand_over_tick = now_tick + pause;
            let _ = self.raft.transfer(None);
        }
    }

    /// Hands over to the node where the primary should be, once that follows closely.
    fn maybe_go_home(&mut self, now_tick: u64, config: &Config) {
        // A stream would begin anew.
        let moving = !self.driver.is_idle();
        let due = now_tick >= self.next_hand_over_tick && !self.raft.transferring() && !moving;
        let Some(preferred) = self.preferred.filter(|node| *node != config.node) else {
            return;
        };
        if !due || !self.leading() {
            return;
        }
        self.next_hand_over_tick = now_tick + 2 * u64::from(config.election_ticks_max);
        let (nodes, commit) = (&self.raft.membership().nodes, self.raft.commit());
        let is_well = |peer: &&raft::PeerStatus| {
            let there = nodes.get(&peer.id) == Some(&preferred);
            there
                && peer.silent_ticks <= u64::from(config.heartbeat_ticks)
                && peer.matched >= commit
        };
        let status = self.raft.status();
        if let Some(home) = status.peers.iter().find(is_well).map(|peer| peer.id) {
            // A refusal changes nothing; it is tried again.
            let _ = self.raft.transfer(Some(home));
        }
    }

    pub(crate) fn tick(&mut self, shared: &mut Shared, effects: &mut Vec<Effect>) {
        self.raft.tick();
        self.watch_fitness(shared);
        self.watch_majority(shared);
        self.maybe_go_home(shared.now_tick, &shared.config);
        self.refuse_overdue(shared);
        self.ask_again(shared);
        self.propose_clock(shared);
        self.propose_checkpoint(shared);
        self.propose_level(shared);
        self.drive_orders(shared);
        self.maybe_ask_for_state(shared);
        if let Some(state) = &mut self.state {
            state.keyspace.free_garbage();
        }
        self.maybe_count_snapshot(shared, effects);
        self.maybe_store_snapshot(shared, effects);
    }

    /// Brings what came in this turn as far as it goes without new events and without touching the state.
    pub(crate) fn agree(&mut self, shared: &mut Shared, effects: &mut Vec<Effect>) {
        loop {
            self.propose_due(shared);
            self.ask_for_reads(shared);
            if !self.drain_raft(shared, effects) {
                break;
            }
        }
    }

    /// Whether entries are to be applied, or reads to be run.
    pub(crate) fn has_to_apply(&self) -> bool {
        let behind = |state: &State| state.applied < self.raft.commit();
        self.state.as_ref().is_some_and(behind) || self.reads.has_confirmed()
    }

    /// Brings what came in this turn as far as it goes without new events.
    pub(crate) fn end_of_turn(&mut self, shared: &mut Shared, effects: &mut Vec<Effect>) {
        self.apply_allowance = APPLY_BYTES_PER_TURN;
        loop {
            self.agree(shared, effects);
            if !self.apply_committed(shared) {
                break;
            }
        }
        self.run_reads(shared);
        self.answer_waits(shared);
        if self.drive_moves(shared) {
            self.agree(shared, effects);
        }
    }

    /// Carries out what consensus asks for; says whether there was anything.
    fn drain_raft(&mut self, shared: &mut Shared, effects: &mut Vec<Effect>) -> bool {
        let mut raft_effects = std::mem::take(&mut self.raft_effects);
        self.raft.effects(&mut raft_effects);
        let any = !raft_effects.is_empty();
        for effect in raft_effects.drain(..) {
            self.carry_out(effect, shared, effects);
        }
        self.raft_effects = raft_effects;
        any
    }

    fn carry_out(&mut self, effect: raft::Effect, shared: &mut Shared, effects: &mut Vec<Effect>) {
        match effect {
            raft::Effect::Persist { seq, what } => self.persist(seq, what, shared),
            raft::Effect::Send { to, message } => {
                if let Some(node) = self.node_of(to) {
                    shared.peers.send(node, self.id, self.replica, to, message);
                }
            }
            raft::Effect::ReadConfirmed { number, index } => {
                let tell = |node, ask| shared.peers.tell_read_index(node, ask, index);
                self.reads.confirmed((By::Majority, number), index, tell);
            }
            raft::Effect::ReadsVoid => self.void_reads(shared),
            raft::Effect::RoleChanged {
                term,
                leader,
                leading,
            } => {
                self.role_changed(term, leader, leading, shared);
            }
            // Requests that waited for the new primary can go on here.
            raft::Effect::TransferFailed { .. } => shared.roles_changed = true,
            raft::Effect::SnapshotWanted { to } => self.begin_sending(to, shared),
            raft::Effect::ChunkWanted { to, snapshot, seq } => self.send_chunk(to, snapshot, seq),
            raft::Effect::SnapshotDone { to, snapshot } => self.snapshots.sent(to, snapshot),
            raft::Effect::StageChunk {
                snapshot,
                seq,
                last,
                data,
                ..
            } => {
                self.stage(snapshot, seq, last, &data, shared, effects);
            }
        }
    }

    fn persist(&mut self, seq: raft::PersistSeq, what: Persist, shared: &mut Shared) {
        let covering = match &what {
            Persist::Reset { .. } => self.snapshots.take_installing(),
            Persist::HardState(_) => 0,
            Persist::Append(entries) => {
                let bytes = entries
                    .iter()
                    .map(|entry| entry.data.len() as u64)
                    .sum::<u64>();
                self.cached_bytes += bytes;
                self.count_truncation(entries, shared);
                0
            }
        };
        shared.log.record(self.id, seq, what, covering);
    }

    /// Entries in place of others that no majority had.
    fn count_truncation(&mut self, entries: &[Entry], shared: &mut Shared) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        shared.counters.truncations += u64::from(first.index <= self.last_recorded);
        self.last_recorded = last.index;
    }

    fn role_changed(
        &mut self,
        term: Term,
        leader: Option<ReplicaId>,
        leading: bool,
        shared: &mut Shared,
    ) {
        let node = leader.and_then(|replica| self.node_of(replica));
        match node {
            Some(primary) => {
                self.primary_hint = node;
                shared.primaries.insert(self.id, primary);
            }
            None => drop(shared.primaries.remove(&self.id)),
        }
        if term > self.last_term {
            self.last_term = term;
            shared.counters.elections += 1;
        }
        if leading {
            self.batches.begin_term();
            shared.counters.elected += 1;
            self.checkpoints.clear();
            self.next_checkpoint_tick = shared.now_tick + shared.config.checkpoint_ticks;
        }
        self.driver.clear();
        // Whoever was asked about them leads no more, or is no more asked by this replica.
        self.void_reads(shared);
        self.changing = Changing::default();
        if !leading && shared.config.planted.has(Bug::DeposedRedirects) {
            let pending = self.batches.take_all_pending();
            self.refuse(&pending, shared);
        }
        let text = match node {
            Some(node) if leading => format!("leads in term {term} on node {node}"),
            Some(node) => format!("follows node {node} in term {term}"),
            None => format!("has no primary in term {term}"),
        };
        shared.note(Level::Info, Some(self.id), text);
        shared.roles_changed = true;
    }

    /// Asks for a number for the gathered reads, if it is time.
    fn ask_for_reads(&mut self, shared: &mut Shared) {
        if !self.reads.round_due(shared.now_tick) {
            return;
        }
        if self.follows(shared.config.node) {
            return self.ask_for_read_index(shared);
        }
        match self.leading().then(|| self.raft.read()) {
            Some(Ok(number)) => self.reads.asked(By::Majority, number),
            Some(Err(_)) | None => self.void_reads(shared),
        }
    }

    /// Reads that cannot be confirmed here go back to the door: they changed nothing.
    fn void_reads(&mut self, shared: &mut Shared) {
        self.reads.void(|reply_to, spec, args, since_tick| {
            give_back((reply_to, since_tick), spec, args, shared);
        });
    }

    fn run_reads(&mut self, shared: &mut Shared) {
        if !self.reads.has_confirmed() {
            return;
        }
        let now = self.entry_clock(shared);
        let Some(state) = &mut self.state else { return };
        // How much time to live is left is told by the time since the clock was logged, too.
        let since_clock_ms = now.get().saturating_sub(state.keyspace.clock().get());
        state.keyspace.set_since_clock(since_clock_ms);
        let state = &*state;
        let run = |(reply_to, since_tick): (ReplyTo, u64), spec, args: Args<'_>| {
            if state.slot_not_served(spec, args).is_some() {
                // Back to the door, which knows where it is to be read.
                return give_back((reply_to, since_tick), spec, args, shared);
            }
            shared.table.answer(reply_to, |replies| {
                state.read(spec, args, replies);
            });
            shared.table.read_ended(reply_to.conn);
        };
        self.reads.run_ready(state.applied, &state.keyspace, run);
    }

    /// Answers what has waited too long: a write that was proposed may have happened, a read has not.
    fn refuse_overdue(&mut self, shared: &mut Shared) {
        let Some(tick) = shared.now_tick.checked_sub(shared.config.deadline_ticks) else {
            return;
        };
        let unknown = self.batches.take_overdue(tick);
        self.answer_unknown(&unknown, shared);
        for read in self.reads.take_overdue(tick) {
            answer_unread(read, shared);
            shared.table.read_ended(read.conn);
        }
        if !self.leading() && self.batches.open_since().is_some_and(|since| since <= tick) {
            self.refuse_unproposed(shared);
        }
    }

    /// Tells these clients that nobody knows whether their writes happened.
    pub(crate) fn answer_unknown(&self, waiting: &[ReplyTo], shared: &mut Shared) {
        for write in waiting {
            if write.is_read {
                answer_unread(*write, shared);
                continue;
            }
            shared.counters.unknown += 1;
            shared.table.answer(*write, |replies| {
                replies.error(
                    "UNKNOWN the write was sent to the replicas and not confirmed in time; it may \
                     or may not have happened, now or later",
                );
            });
        }
    }

    /// Whether a client waits for anything here.
    pub(crate) fn is_busy(&self) -> bool {
        self.batches.somebody_waits() || !self.reads.is_idle()
    }

    /// This connection is gone.
    pub(crate) fn closed(&mut self, conn: ConnId) {
        self.waits.retain(|wait| wait.reply_to.conn != conn);
    }

    pub(crate) fn status(&self) -> GroupStatus {
        let raft = self.raft.status();
        let keyspace = self.state.as_ref().map(|state| &state.keyspace);
        let nodes = &self.raft.membership().nodes;
        let followers = raft.peers.iter().map(|peer| FollowerStatus {
            replica: peer.id,
            node: nodes.get(&peer.id).copied().unwrap_or_default(),
            matched: peer.matched.get(),
            silent_ticks: peer.silent_ticks,
        });
        GroupStatus {
            group: self.id,
            replica: self.replica,
            role: if self.state.is_none() {
                "waiting"
            } else {
                role_text(raft.role)
            },
            leading: self.leading(),
            primary: self.primary(),
            slots: self.served().runs().collect(),
            term: self.raft.term().get(),
            commit: self.raft.commit().get(),
            applied: self.state.as_ref().map_or(0, |state| state.applied.get()),
            last: self.raft.last_index().get(),
            last_term: self
                .raft
                .term_at(self.raft.last_index())
                .map_or(0, Term::get),
            voters: nodes
                .iter()
                .filter(|(replica, _)| self.raft.membership().is_voter(**replica))
                .map(|(_, node)| *node)
                .collect(),
            is_recovered: self.raft.membership().floor > ReplicaId::default(),
            keys: keyspace.map_or(0, |keyspace| keyspace.len()),
            expiring_keys: keyspace.map_or(0, |keyspace| keyspace.expiring_len()),
            logical_bytes: keyspace.map_or(0, |keyspace| keyspace.logical_bytes()),
            state_hash: self.state.as_ref().map_or(0, State::hash),
            clock_ms: keyspace.map_or(0, |keyspace| keyspace.clock().get()),
            snapshot_running: self.snapshots.is_storing(),
            snapshot_index: self.snapshots.stored_index().get(),
            followers: followers.collect(),
        }
    }
}

/// A read goes back to the door, and waits there since this tick. It changed nothing.
fn give_back(
    (reply_to, since_tick): (ReplyTo, u64),
    spec: &'static Spec,
    args: Args<'_>,
    shared: &mut Shared,
) {
    if reply_to.is_part {
        let gathers = &mut shared.table.gathers;
        gathers.void(reply_to, spec, args, since_tick);
        return shared.table.read_ended(reply_to.conn);
    }
    let held = Held::new(reply_to.conn, reply_to.seq, spec, args, since_tick);
    shared.waiting.hold(held, &mut shared.table);
    shared.roles_changed = true;
}

/// Tells a client that its read was not run.
fn answer_unread(read: ReplyTo, shared: &mut Shared) {
    shared.table.answer(read, |replies| {
        replies.error("CLUSTERDOWN no majority of this shard answers; nothing was read");
    });
}

fn role_text(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate | RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}
