//! The stream of a move, made by the primary of the group that has the slots.
//!
//! First everything, then what has changed since, and again, until a round was so small that the rest is
//! worth a short pause: then the slots are sealed, and the last round says what changed until then. What
//! changed is what differs between two views: nothing is noted while commands are applied.
//!
//! A writer can be faster than the stream. After a few rounds that do not get smaller, writes to these slots
//! wait at the door until they are sealed; nothing else waits.

use std::collections::VecDeque;

use bytes::Bytes;
use kvorum_base::cursor::put_block;
use kvorum_base::{Bug, GroupId, MoveId, NodeId, Slot, SlotSet};
use kvorum_kv::{Delta, Frozen};

use super::state::{Outgoing, Sealed};
use crate::format::delta::put_change;
use crate::format::moves::{MoveEntry, MoveNote, Piece, Progress, Whole, put_piece};
use crate::group::Group;
use crate::limits::{
    MOVE_ASK_TICKS, MOVE_HEARD_TICKS, MOVE_PIECE_BYTES, MOVE_RETRY_TICKS, MOVE_ROUNDS_FREE,
    MOVE_SEAL_BYTES, MOVE_SEAL_TICKS, MOVE_WINDOW,
};
use crate::shared::Shared;
use crate::status::MoveStatus;

/// One stream.
#[derive(Debug)]
pub(crate) struct Source {
    attempt: u32,
    slots: SlotSet,
    /// What is being streamed.
    round: Option<Delta>,
    /// Whether the slots were sealed when it began: then it is the last one.
    round_is_last: bool,
    round_bytes: usize,
    /// When it began.
    round_tick: u64,
    /// All pieces, once each, and since when.
    sent_bytes: u64,
    since_tick: u64,
    /// Encoded, and not in a piece yet.
    stream: Vec<u8>,
    scratch: Vec<u8>,
    /// What was streamed up to now.
    streamed: Option<Frozen>,
    rounds: u32,
    /// All of the last round is in pieces.
    is_made: bool,
    /// The number of the next piece.
    next: u64,
    /// Pieces that the target has not confirmed, from number `next - unconfirmed.len()` on.
    unconfirmed: VecDeque<Bytes>,
    /// When the target last said something, or got further.
    heard_tick: u64,
    progress_tick: u64,
    asked_tick: u64,
    sealed_tick: Option<u64>,
}

impl Source {
    pub(crate) fn new(attempt: u32, slots: SlotSet, now_tick: u64) -> Self {
        Self {
            attempt,
            slots,
            round: None,
            round_is_last: false,
            round_bytes: 0,
            round_tick: now_tick,
            sent_bytes: 0,
            since_tick: now_tick,
            stream: Vec::new(),
            scratch: Vec::new(),
            streamed: None,
            rounds: 0,
            is_made: false,
            next: 0,
            unconfirmed: VecDeque::new(),
            heard_tick: 0,
            progress_tick: now_tick,
            asked_tick: now_tick,
            sealed_tick: None,
        }
    }

    /// Whether writes to a slot wait until it is sealed. Not for a target that is not there.
    pub(super) fn holds_back(&self, slot: Slot, now_tick: u64) -> bool {
        let is_late = self.rounds >= MOVE_ROUNDS_FREE && !self.is_made;
        is_late && self.is_heard(now_tick) && self.slots.contains(slot)
    }

    fn is_heard(&self, now_tick: u64) -> bool {
        now_tick.saturating_sub(self.heard_tick) <= MOVE_HEARD_TICKS
    }

    fn is_round_over(&self) -> bool {
        self.round.is_none() && self.stream.is_empty()
    }

    fn is_confirmed(&self) -> bool {
        self.unconfirmed.is_empty() && self.next > 0
    }

    /// Whether the rest would be a short pause, and the target is there to take it.
    fn may_seal(&self, now_tick: u64) -> bool {
        let is_small = self.round_bytes <= MOVE_SEAL_BYTES
            && self.unconfirmed.len() * MOVE_PIECE_BYTES <= MOVE_SEAL_BYTES;
        // What has changed since the last round is more the longer it is ago.
        let is_fresh = now_tick - self.round_tick <= MOVE_HEARD_TICKS;
        self.rounds > 0 && self.is_round_over() && is_small && is_fresh && self.is_heard(now_tick)
    }

    /// The next piece of the stream, if there is anything to say.
    fn next_piece(
        &mut self,
        id: MoveId,
        out: &Outgoing,
        from: GroupId,
        bytes_max: usize,
    ) -> Option<Bytes> {
        let before = self.stream.len();
        while self.stream.len() < bytes_max
            && let Some(round) = &mut self.round
        {
            match round.next_change() {
                Some(change) => {
                    self.scratch.clear();
                    put_change(&mut self.scratch, &change);
                    put_block(&mut self.stream, &self.scratch);
                }
                None => {
                    self.rounds += 1;
                    self.streamed = self.round.take().map(Delta::into_new);
                }
            }
        }
        self.round_bytes += self.stream.len() - before;
        let taken = self.stream.len().min(bytes_max);
        let bytes: Vec<u8> = self.stream.drain(..taken).collect();
        self.is_made = self.round_is_last && self.is_round_over();
        if bytes.is_empty() && self.next > 0 {
            return None;
        }
        let piece = Piece {
            id,
            attempt: self.attempt,
            number: self.next,
            from,
            slots: (self.next == 0).then(|| out.slots.clone()),
            bytes: &bytes,
        };
        let mut encoded = Vec::with_capacity(bytes.len() + 64);
        put_piece(&mut encoded, &piece);
        self.next += 1;
        Some(Bytes::from(encoded))
    }

    fn confirmed(&mut self, next: u64, now_tick: u64) {
        let first = self.next - self.unconfirmed.len() as u64;
        if next > first && next <= self.next {
            self.unconfirmed.drain(..(next - first) as usize);
            self.progress_tick = now_tick;
        }
    }
}

impl Group {
    /// How far the moves from here are.
    pub(crate) fn moves_status(&self, now_tick: u64, tick_ms: u64) -> Vec<MoveStatus> {
        let Some(state) = self.state.as_ref().filter(|_| self.leading()) else {
            return Vec::new();
        };
        let status = |(id, out): (&MoveId, &Outgoing)| {
            let source = self.driver.sources.get(id);
            let since = source.map_or(now_tick, |source| source.since_tick);
            MoveStatus {
                id: *id,
                from: self.id,
                to: out.to,
                slots: out.slots.len(),
                attempt: out.attempt,
                is_sealed: out.sealed.is_some(),
                sent_bytes: source.map_or(0, |source| source.sent_bytes),
                bytes: state.keyspace.slots_bytes(&out.slots),
                since_ms: (now_tick - since) * tick_ms,
            }
        };
        state.moves.outgoing.iter().map(status).collect()
    }

    /// The stream of a move begins, or begins anew: its entry was applied, and was proposed by this primary.
    pub(crate) fn begin_stream(&mut self, id: MoveId, now_tick: u64) {
        if let Some(out) = self.moves().outgoing.get(&id) {
            let source = Source::new(out.attempt, out.slots.clone(), now_tick);
            self.driver.sources.insert(id, source);
        }
    }

    /// Goes on with one move.
    pub(super) fn drive_source(&mut self, id: MoveId, shared: &mut Shared) {
        let out = self.moves().outgoing[&id].clone();
        let is_mine = |source: &Source| source.attempt == out.attempt;
        let Some(mut source) = self.driver.sources.remove(&id).filter(is_mine) else {
            return self.restart_stream(id, &out, shared);
        };
        let target = shared.primary_of(out.to);
        if let Some(node) = target {
            self.stream(id, &out, &mut source, node, shared);
        }
        let now_tick = shared.now_tick;
        if let Some(node) = target
            && now_tick - source.asked_tick >= MOVE_ASK_TICKS
        {
            source.asked_tick = now_tick;
            let sealed_ticks = source.sealed_tick.map_or(0, |since| now_tick - since);
            let cancel = shared.orders.get(id).is_some_and(|order| order.cancel);
            let refuse = out.sealed.is_some() && (cancel || sealed_ticks >= MOVE_SEAL_TICKS);
            self.tell(node, out.to, MoveNote::Ask { id, refuse }, shared);
        }
        match &out.sealed {
            None if source.may_seal(now_tick) && self.driver.is_due(id, 4, now_tick) => {
                let attempt = out.attempt;
                self.propose_move(&MoveEntry::Sealed { id, attempt }, shared);
            }
            None => {}
            Some(sealed) => {
                source.sealed_tick.get_or_insert(now_tick);
                self.end_without_target(id, &out, shared);
                if let Some(node) = target {
                    self.finish(id, (&out, sealed), &source, node, shared);
                }
            }
        }
        self.driver.sources.insert(id, source);
    }

    /// A stream that another primary began cannot be gone on with: it starts anew, under a higher number.
    fn restart_stream(&mut self, id: MoveId, out: &Outgoing, shared: &Shared) {
        if self.driver.is_due(id, 5, shared.now_tick) {
            let entry = MoveEntry::Sending {
                id,
                attempt: out.attempt + 1,
                to: out.to,
                slots: out.slots.clone(),
            };
            self.propose_move(&entry, shared);
        }
    }

    /// Keeps the window full, and sends again what is not confirmed in time.
    fn stream(
        &mut self,
        id: MoveId,
        out: &Outgoing,
        source: &mut Source,
        node: NodeId,
        shared: &mut Shared,
    ) {
        let keyspace = &self.state.as_ref().expect("a primary has a state").keyspace;
        let room = keyspace.slots_bytes(&out.slots);
        // What goes around the bytes of a piece, the slots of the first one above all, has its room too.
        let entry_bytes_max = shared.config.log.entry_bytes_max as usize;
        let bytes_max = MOVE_PIECE_BYTES.min(entry_bytes_max / 2);
        let mut pieces = Vec::new();
        // The end of a stream is never held up: nobody can write meanwhile.
        let is_last = out.sealed.is_some();
        while source.unconfirmed.len() < MOVE_WINDOW
            && !source.is_made
            && (is_last || shared.move_allowance > 0)
        {
            if source.is_round_over() {
                // Another round is worth it once the one before has arrived, and if it was not small.
                let has_arrived = source.unconfirmed.is_empty() && source.is_heard(shared.now_tick);
                let is_worth_it = has_arrived && !source.may_seal(shared.now_tick);
                if !is_last && source.rounds > 0 && !is_worth_it {
                    break;
                }
                let frozen = keyspace.freeze(&out.slots);
                source.round = Some(Delta::new(source.streamed.take(), frozen));
                (source.round_is_last, source.round_bytes) = (is_last, 0);
                source.round_tick = shared.now_tick;
            }
            if let Some(bytes) = source.next_piece(id, out, self.id, bytes_max) {
                source.sent_bytes += bytes.len() as u64;
                shared.move_allowance = shared.move_allowance.saturating_sub(bytes.len() as u64);
                source.unconfirmed.push_back(bytes.clone());
                pieces.push(bytes);
            }
        }
        if source.unconfirmed.is_empty() {
            source.progress_tick = shared.now_tick;
        } else if shared.now_tick - source.progress_tick > MOVE_RETRY_TICKS {
            source.progress_tick = shared.now_tick;
            pieces = source.unconfirmed.iter().cloned().collect();
        }
        for bytes in pieces {
            shared.counters.move_bytes += bytes.len() as u64;
            self.tell(node, out.to, MoveNote::Piece { room, bytes }, shared);
        }
    }

    /// The slots are sealed, and all of them is with the target: it decides.
    fn finish(
        &mut self,
        id: MoveId,
        (out, sealed): (&Outgoing, &Sealed),
        source: &Source,
        node: NodeId,
        shared: &mut Shared,
    ) {
        let is_there = source.is_confirmed() || shared.config.planted.has(Bug::ReceivedUnchecked);
        if source.is_made && is_there && self.driver.is_due(id, 6, shared.now_tick) {
            let finish = MoveNote::Finish(Whole {
                id,
                attempt: out.attempt,
                pieces: source.next,
                hash: sealed.hash,
                clock: sealed.clock,
            });
            self.tell(node, out.to, finish, shared);
        }
    }

    /// A target that was retired can say nothing any more:
    ///
    /// 1. B refuses, tells the shard manager, which closes the move; A, which has sealed, has no primary.
    /// 2. B has no slots and is removed, and its replicas are deleted.
    /// 3. A has a primary again, and asks a group that is not there, for ever.
    ///
    /// The manager has retired B after closing the move, and has closed it on B's own word: the slots are
    /// B's, or whoever's B gave them to, or still A's. They cannot have come back to A meanwhile, whose log
    /// takes no slots that it has not let go.
    fn end_without_target(&mut self, id: MoveId, out: &Outgoing, shared: &Shared) {
        let Some(cluster) = &shared.cluster else {
            return;
        };
        if !shared.orders.is_over(id) || !cluster.is_retired(out.to) {
            return;
        }
        let mine = Some(self.id);
        let owned = out.slots.iter().filter(|slot| cluster.owner(*slot) == mine);
        let entry = match owned.count() {
            0 => MoveEntry::Dropped { id },
            count if count == out.slots.len() as usize => MoveEntry::Returned { id },
            _ => return,
        };
        if self.driver.is_due(id, 9, shared.now_tick) {
            self.propose_move(&entry, shared);
        }
    }

    /// The primary of the target has applied this much.
    pub(super) fn target_said(&mut self, id: MoveId, progress: Progress, shared: &mut Shared) {
        let Some(out) = self.moves().outgoing.get(&id) else {
            return;
        };
        let (attempt, is_sealed) = (out.attempt, out.sealed.is_some());
        let now_tick = shared.now_tick;
        let driver = &mut self.driver;
        let (may_drop, may_return) = match progress {
            Progress::Received => (is_sealed && driver.is_due(id, 7, now_tick), false),
            Progress::Refused => (false, driver.is_due(id, 8, now_tick)),
            _ => (false, false),
        };
        let Some(source) = driver.sources.get_mut(&id) else {
            return;
        };
        source.heard_tick = now_tick;
        match progress {
            Progress::Received if may_drop => {
                self.propose_move(&MoveEntry::Dropped { id }, shared);
            }
            Progress::Refused if may_return => {
                self.propose_move(&MoveEntry::Returned { id }, shared);
            }
            Progress::Staging { attempt: of, next } if of == attempt => {
                source.confirmed(next, now_tick);
            }
            Progress::Broken { attempt: of } if of == attempt => {
                shared.counters.moves_broken += 1;
                self.driver.sources.remove(&id);
            }
            _ => {}
        }
    }
}
