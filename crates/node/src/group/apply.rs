//! What every replica does with a committed entry.
//!
//! Apply is deterministic and cannot fail: it sees the entry and the state and nothing else, and a
//! refusal is a reply like any other. The replica at which the commands were proposed also answers its
//! clients; the others compute the same replies and drop them.

use std::sync::Arc;

use kvorum_base::crc::crc32c;
use kvorum_base::slot::slot_of;
use kvorum_base::{Bug, Index, ReplicaId, Slot, Term};
use kvorum_cluster::Request;
use kvorum_kv::{Command, Keyspace, Spec, WARM_KEYS_MAX};
use kvorum_raft::{Entry, Membership, Payload};
use kvorum_resp::{Args, Replies};

use super::Group;
use super::batch::PendingBatch;
use super::checkpoint::Verdict;
use crate::clients::face;
use crate::clients::gate::MOVING;
use crate::effect::Level;
use crate::format::entry::{self, Content, put_taken};
use crate::format::moves::{MoveEntry, put_moves};
use crate::limits::EXPIRED_PER_ENTRY;
use crate::manager::MANAGER;
use crate::moves::state::{Moves, Whereabouts};
use crate::replicas::Taken;
use crate::replicas::evidence::members_of;
use crate::shared::Shared;

/// The replicated state of a group at one applied index. Everything in it is in every snapshot.
///
/// What apply does depends on the level that the keyspace carries and never on the version of the
/// program, so that a group whose replicas run two versions stays one state.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) keyspace: Keyspace,
    /// The last entry applied.
    pub(crate) applied: Index,
    /// Its term.
    pub(crate) applied_term: Term,
    /// The members as of the applied index, not as of the end of the log.
    pub(crate) membership: Arc<Membership>,
    /// The order to change the members that was taken or refused last.
    pub(crate) taken: Taken,
    /// What was decided about moves of slots.
    pub(crate) moves: Arc<Moves>,
    /// The shard manager, in its own group.
    pub(crate) manager: Option<Arc<kvorum_cluster::State>>,
}

impl State {
    /// Runs a read on the applied state.
    pub(crate) fn read(&self, spec: &'static Spec, args: Args<'_>, replies: &mut Replies<'_>) {
        kvorum_kv::read(spec, args, &self.keyspace, replies);
    }

    /// The slot of a request's keys, if it is not served here (any more): then it must not be run.
    pub(crate) fn slot_not_served(&self, spec: &Spec, args: Args<'_>) -> Option<Slot> {
        if !self.moves.has_sealed {
            return None;
        }
        let is_elsewhere = |slot: &Slot| !self.keyspace.served().contains(*slot);
        let swept = kvorum_kv::swept_slots(spec, args).and_then(Result::ok);
        let swept = swept.and_then(|slots| slots.iter().find(is_elsewhere));
        let mut slots = kvorum_kv::keys_of(spec, args).map(slot_of);
        swept.or_else(|| slots.find(is_elsewhere))
    }

    /// The hash of all of it, to be compared with that of other replicas.
    pub(crate) fn hash(&self) -> u64 {
        let mut moves = Vec::new();
        put_moves(&mut moves, &self.moves);
        put_taken(&mut moves, self.taken);
        let moves = u64::from(crc32c(&moves)) << 32;
        let manager = self.manager.as_ref().map_or(0, |manager| manager.hash());
        self.keyspace
            .state_hash()
            .wrapping_add(moves)
            .wrapping_add(manager)
    }
}

impl Group {
    /// Applies what is committed, as much as a turn may; says whether there was anything.
    pub(crate) fn apply_committed(&mut self, shared: &mut Shared) -> bool {
        let commit = self.raft.commit();
        let Some(state) = &self.state else {
            return false;
        };
        let before = state.applied;
        let mut applied = before;
        while applied < commit && self.apply_allowance > 0 {
            let next = applied.next();
            let entry = self
                .raft
                .entry(next)
                .expect("a committed entry after the applied one");
            let entry = entry.clone();
            self.apply_allowance = self.apply_allowance.saturating_sub(entry.data.len() + 64);
            self.apply(&entry, shared);
            applied = next;
        }
        shared.more_to_do |= applied < commit;
        if applied == before {
            return false;
        }
        self.raft.applied_to(applied);
        if let Some(index) = self.checkpoint_due.take() {
            self.judge_checkpoint(index, shared);
        }
        shared.log.hint_commit(self.id, applied);
        self.trim_log(shared);
        true
    }

    fn apply(&mut self, entry: &Entry, shared: &mut Shared) {
        let ours = self.batches.take_applied(entry.index, entry.term);
        let state = self
            .state
            .as_mut()
            .expect("only a replica with a state applies");
        assert_eq!(
            entry.index,
            state.applied.next(),
            "entries are applied in order"
        );
        state.applied = entry.index;
        state.applied_term = entry.term;
        shared.counters.entries_applied += 1;
        match &entry.payload {
            Payload::Empty => {}
            Payload::Membership(membership) => apply_members(state, membership),
            Payload::Command => {
                if entry::clock(entry) > state.keyspace.clock() {
                    state.keyspace.advance_clock(entry::clock(entry));
                }
                match entry::content(entry) {
                    Content::Commands(commands) => {
                        run_commands(state, commands, ours.as_ref(), shared);
                        self.unchanged = false;
                    }
                    Content::Checkpoint => self.note_checkpoint(entry.index, shared),
                    Content::Level(level) => state.keyspace.raise_level(u32::from(level)),
                    Content::Move(step) => self.apply_move(entry.term, step, shared),
                    Content::Order(taken) => {
                        shared.counters.orders_refused += u64::from(taken.refused);
                        state.taken.apply(taken);
                    }
                    Content::Request(request) => {
                        apply_request(state, entry.term, &request, shared);
                        self.unchanged = false;
                    }
                    Content::Empty | Content::Membership => {}
                }
            }
        }
        if let Some(state) = &mut self.state {
            let removed = state.keyspace.remove_expired(EXPIRED_PER_ENTRY);
            shared.counters.expired_keys += removed as u64;
        }
        if let Some(ours) = ours {
            self.batches.recycle(ours.replies);
        }
        while let Some(replaced) = self.batches.take_replaced(entry.index) {
            // Another entry is committed at its index, so it never will be.
            self.refuse(&replaced.replies, shared);
            self.batches.recycle(replaced.replies);
        }
    }

    fn apply_move(&mut self, term: Term, step: MoveEntry<'_>, shared: &mut Shared) {
        let Some(state) = &mut self.state else { return };
        let begins = match step {
            MoveEntry::Sending { id, attempt, .. } => {
                shared.counters.streams_anew += u64::from(attempt > 1);
                Some(id)
            }
            _ => None,
        };
        let is_piece = matches!(step, MoveEntry::Stage(_));
        let planted = shared.config.planted;
        let fits = Arc::make_mut(&mut state.moves).apply(&mut state.keyspace, step, planted);
        self.unchanged = false;
        if !fits {
            return;
        }
        shared.counters.move_steps += 1;
        // Whoever waits for the end of a move is tried again.
        shared.roles_changed |= !is_piece;
        if let Some(id) = begins
            && self.raft.is_leader()
            && self.raft.term() == term
        {
            self.begin_stream(id, shared.now_tick);
        }
    }

    /// Notes this replica's hash, and tells the primary or is the primary.
    fn note_checkpoint(&mut self, index: Index, shared: &mut Shared) {
        self.unchanged = true;
        let Some(state) = &self.state else { return };
        let hash = state.hash();
        self.checkpoints.report(index, self.replica, hash);
        if self.raft.is_leader() {
            // What it leads to must not happen between two entries.
            self.checkpoint_due = Some(index);
        } else if let Some(primary) = self.primary() {
            shared
                .peers
                .report_checkpoint(primary, self.id, self.replica, index, hash);
        }
    }

    /// Another replica has this hash at that checkpoint.
    pub(crate) fn checkpoint_reported(
        &mut self,
        index: Index,
        replica: ReplicaId,
        hash: u64,
        shared: &mut Shared,
    ) {
        if self.raft.membership().is_voter(replica) {
            self.checkpoints.report(index, replica, hash);
            self.judge_checkpoint(index, shared);
        } else {
            self.learner_reported(index, replica, hash, shared);
        }
    }

    fn judge_checkpoint(&mut self, index: Index, shared: &mut Shared) {
        let membership = self.raft.membership();
        if membership.is_joint() {
            // Two hashes could each have a majority of one half.
            return;
        }
        match self.checkpoints.judge(index, &membership.voters) {
            Verdict::Open => {}
            Verdict::Undecided => {
                shared.counters.divergences += 1;
                let text =
                    format!("replicas disagree at checkpoint {index}, and no majority agrees");
                shared.note(Level::Error, Some(self.id), text);
            }
            Verdict::Wrong(replicas) => {
                shared.counters.divergences += replicas.len() as u64;
                let text = format!("replicas {replicas:?} disagree with a majority at {index}");
                shared.note(Level::Error, Some(self.id), text);
                self.replace_states(&replicas, index, shared);
            }
        }
    }

    /// The wrong ones drop their state. A primary among them leads no more.
    fn replace_states(&mut self, wrong: &[ReplicaId], index: Index, shared: &mut Shared) {
        if wrong.contains(&self.replica) {
            // Its clients must not see more of this state; whoever leads next sends it the right one.
            self.raft.step_down();
            self.drop_state(shared);
            return;
        }
        for replica in wrong {
            if let Some(node) = self.raft.membership().nodes.get(replica)
                && let Some(hash) = self.checkpoints.hash_of(index, *replica)
            {
                shared
                    .peers
                    .report_divergence(*node, self.id, *replica, index, hash);
            }
        }
    }
}

/// In the shard manager's own group a recovery is recorded by its entry: nothing may be given out in between.
fn apply_members(state: &mut State, membership: &Arc<Membership>) {
    let is_recovery = membership.floor > state.membership.floor;
    state.membership = Arc::clone(membership);
    if is_recovery && let Some(manager) = &mut state.manager {
        let record = kvorum_cluster::Command::RecordRecovery {
            group: MANAGER,
            members: members_of(membership),
            floor: membership.floor,
        };
        Arc::make_mut(manager).apply(state.applied, &record.into());
    }
}

/// A request to the shard manager. In the log of any other group there is none.
fn apply_request(state: &mut State, term: Term, request: &Request, shared: &mut Shared) {
    let Some(manager) = &mut state.manager else {
        return;
    };
    let manager = Arc::make_mut(manager);
    let reply = match shared.config.planted.has(Bug::OrderRepeated) {
        true => manager.apply(state.applied, &request.command.clone().into()),
        false => manager.apply(state.applied, request),
    };
    shared.manager.asks.applied(state.applied, term, reply);
}

pub(crate) fn run_commands(
    state: &mut State,
    commands: entry::Commands<'_>,
    pending: Option<&PendingBatch>,
    shared: &mut Shared,
) {
    // Emptied when the deadline has answered the clients already.
    let mut waiting = pending.map_or(&[][..], |batch| &batch.replies).iter();
    let State {
        keyspace, moves, ..
    } = state;
    let mut commands = commands.map(Command::decode);
    let mut group = Vec::with_capacity(WARM_KEYS_MAX);
    loop {
        group.extend(commands.by_ref().take(WARM_KEYS_MAX));
        if group.is_empty() {
            return;
        }
        keyspace.warm(group.iter().flat_map(Command::keys));
        for command in group.drain(..) {
            shared.counters.commands_applied += 1;
            let to = waiting.next();
            if let Some(refusal) = refusal_of(moves, keyspace, &command)
                && !shared.config.planted.has(Bug::WriteAfterSealed)
            {
                shared.counters.refused_at_apply += 1;
                if let Some(to) = to {
                    let text = refusal_text(&refusal, shared);
                    shared.table.answer(*to, |replies| replies.error(&text));
                }
                continue;
            }
            match to {
                Some(to) => shared.table.answer(*to, |replies| {
                    command.apply(keyspace, replies);
                }),
                None => command.apply(keyspace, &mut Replies::nobody()),
            }
        }
    }
}

/// Why a command must not be applied: whose its slot is, as of this entry.
struct NotServed {
    slot: Slot,
    whose: Option<Whereabouts>,
}

/// Ownership is decided here and nowhere else: the slot may have been sealed between the door and this
/// entry, and what the source acknowledged after that would be lost.
fn refusal_of(moves: &Moves, keyspace: &Keyspace, command: &Command<'_>) -> Option<NotServed> {
    if !moves.has_sealed {
        return None;
    }
    if let Some(slot) = command.slot_not_served(keyspace) {
        let whose = moves.whereabouts(slot).map(|(_, whose)| whose);
        return Some(NotServed { slot, whose });
    }
    // A command about all keys would miss those that are sealed.
    let misses = command.keys().next().is_none() && command.changes_all() && moves.is_sealing();
    misses.then_some(NotServed {
        slot: Slot::default(),
        whose: Some(Whereabouts::Moving),
    })
}

fn refusal_text(refusal: &NotServed, shared: &Shared) -> String {
    let primary = match refusal.whose {
        Some(Whereabouts::At(group)) => shared.primary_of(group),
        Some(Whereabouts::Moving) | None => None,
    };
    match primary {
        Some(node) => face::redirect(&shared.config, refusal.slot, Some(node)),
        None => MOVING.to_owned(),
    }
}
