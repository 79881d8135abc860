//! A primary's part in the moves of its group.

use std::collections::BTreeMap;

use kvorum_base::{Bug, GroupId, MoveId, NodeId, Slot, Term};

use super::source::Source;
use super::state::{Ended, Moves};
use super::target::Target;
use crate::format::entry::encode_move;
use crate::format::moves::{MoveEntry, MoveMessage, MoveNote, Progress};
use crate::group::Group;
use crate::limits::MOVE_PROPOSE_TICKS;
use crate::pace::Pace;
use crate::shared::Shared;

/// What a primary remembers between two turns. Lost with the leadership.
#[derive(Debug, Default)]
pub(crate) struct Driver {
    pub(super) sources: BTreeMap<MoveId, Source>,
    pub(super) targets: BTreeMap<MoveId, Target>,
    /// Not before this tick is the same proposed again.
    paced: Pace<(MoveId, u8)>,
}

impl Driver {
    /// The leadership is gone.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether nothing is going on.
    pub(crate) fn is_idle(&self) -> bool {
        self.sources.is_empty() && self.targets.is_empty()
    }

    /// Whether writes to a slot should wait, because its stream does not catch up with them.
    pub(crate) fn holds_back(&self, slot: Slot, now_tick: u64) -> bool {
        let mut sources = self.sources.values();
        sources.any(|source| source.holds_back(slot, now_tick))
    }

    /// Whether this may be proposed now; if so, not again for a while.
    pub(super) fn is_due(&mut self, id: MoveId, what: u8, now_tick: u64) -> bool {
        self.paced.is_due((id, what), now_tick, MOVE_PROPOSE_TICKS)
    }
}

impl Group {
    /// Whether this replica may act for its group: it leads, and knows all that was decided before.
    pub(crate) fn may_drive(&self) -> bool {
        let knows = |term: Term| {
            self.state
                .as_ref()
                .is_some_and(|state| state.applied_term == term)
        };
        self.leading() && knows(self.raft.term())
    }

    pub(crate) fn moves(&self) -> &Moves {
        &self.state.as_ref().expect("a primary has a state").moves
    }

    /// Brings the moves of this group as far as they go; says whether anything was proposed.
    pub(crate) fn drive_moves(&mut self, shared: &mut Shared) -> bool {
        if !self.may_drive() {
            return false;
        }
        let moves = self.moves();
        let quiet = moves.outgoing.is_empty() && moves.incoming.is_empty() && self.driver.is_idle();
        if quiet && shared.orders.open.is_empty() {
            return false;
        }
        let before = self.raft.last_index();
        self.follow_orders(shared);
        let outgoing: Vec<MoveId> = self.moves().outgoing.keys().copied().collect();
        for id in outgoing {
            self.drive_source(id, shared);
        }
        self.answer_sources(shared);
        self.raft.last_index() != before
    }

    /// Begins what was ordered, and ends what is ordered no more.
    fn follow_orders(&mut self, shared: &mut Shared) {
        let (id, now_tick) = (self.id, shared.now_tick);
        let mut entries = Vec::new();
        let cancels_sealed = shared.config.planted.has(Bug::SealedCancelled);
        let moves = &self.state.as_ref().expect("a primary has a state").moves;
        for order in shared.orders.open.iter().filter(|order| order.from == id) {
            let is_sending = match moves.outgoing.get(&order.id) {
                Some(out) if out.sealed.is_some() && !cancels_sealed => continue,
                Some(_) => true,
                None if moves.ended.contains_key(&order.id) || order.id < moves.floor => continue,
                None => false,
            };
            if order.cancel {
                entries.push(MoveEntry::Cancelled { id: order.id });
            } else if !is_sending {
                entries.push(MoveEntry::Sending {
                    id: order.id,
                    attempt: 1,
                    to: order.to,
                    slots: order.slots.clone(),
                });
            }
        }
        // Staged for a move that is over, and was not received: it was cancelled at its source.
        let given_up = moves
            .incoming
            .keys()
            .filter(|id| shared.orders.is_over(**id));
        entries.extend(given_up.map(|id| MoveEntry::Refused { id: *id }));
        for entry in entries {
            let (id, what) = match &entry {
                MoveEntry::Cancelled { id } => (*id, 1),
                MoveEntry::Sending { id, .. } => (*id, 2),
                MoveEntry::Refused { id } => (*id, 3),
                _ => continue,
            };
            if self.driver.is_due(id, what, now_tick) {
                self.propose_move(&entry, shared);
            }
        }
    }

    /// Proposes an entry about a move; `false` if that cannot be now.
    pub(super) fn propose_move(&mut self, entry: &MoveEntry<'_>, shared: &Shared) -> bool {
        if !shared.log.writable() {
            return false;
        }
        let entry = |term, index, clock| encode_move(term, index, clock, entry);
        self.propose_entry(shared, entry).is_ok()
    }

    /// How far a move has come here, for its source.
    pub(super) fn progress_of(&self, id: MoveId) -> Progress {
        let moves = self.moves();
        match (moves.ended.get(&id), moves.incoming.get(&id)) {
            (Some(Ended::Received), _) => Progress::Received,
            (Some(_), _) => Progress::Refused,
            (None, Some(into)) if into.broken => Progress::Broken {
                attempt: into.attempt,
            },
            (None, Some(into)) => Progress::Staging {
                attempt: into.attempt,
                next: into.next,
            },
            (None, None) => Progress::Unknown,
        }
    }

    /// A message about a move between this group and another, from the node that leads the other one.
    pub(crate) fn move_message(
        &mut self,
        from: NodeId,
        message: &MoveMessage,
        shared: &mut Shared,
    ) {
        if !self.may_drive() {
            // Whoever leads is asked again; to guess here would be an answer.
            return;
        }
        match &message.note {
            MoveNote::Piece { room, bytes } => {
                self.piece_arrived(from, message.from, (*room, bytes), shared);
            }
            MoveNote::Finish(whole) => self.finish_arrived(from, message.from, *whole, shared),
            MoveNote::Ask { id, refuse } => {
                self.asked(from, message.from, *id, *refuse, shared);
            }
            MoveNote::State { id, progress } => self.target_said(*id, *progress, shared),
        }
    }

    /// Says something about a move to the other group of it.
    pub(super) fn tell(&self, node: NodeId, to: GroupId, note: MoveNote, shared: &mut Shared) {
        let message = MoveMessage {
            from: self.id,
            to,
            note,
        };
        shared.send_move(node, message);
    }
}
