//! Slots go to and fro.

use std::collections::BTreeSet;
use std::rc::Rc;

use kvorum_base::slot::{SLOT_COUNT, slot_of};
use kvorum_base::{GroupId, MoveId, Prng, Slot};
use kvorum_cluster::{Command, Evidence, MANAGER, Reply, ShardRef, SlotRuns};
use kvorum_node::moves::state::Ended;

use super::Manager;
use crate::cluster::coverage::Mark;

/// As many as one move takes along.
const SLOTS_MAX: usize = 64;

impl Manager {
    /// What the logs of a group say of the end of a move, and up to which entry that was looked at.
    fn ended(&self, group: GroupId, id: MoveId) -> Option<(Ended, kvorum_base::Index)> {
        let hosts = self.cluster.hosts();
        hosts.iter().find_map(|host| {
            let look = |node: &kvorum_node::Node| {
                let replica = node.inspect(group)?;
                let (applied, _) = replica.state?;
                Some((*replica.moves?.ended.get(&id)?, applied))
            };
            host.with_node(look).flatten()
        })
    }

    pub(super) fn close_moves(&self) {
        let open = self.state.borrow().moves().clone();
        for (id, open) in open {
            let of_source = open
                .from
                .and_then(|from| Some((from, self.ended(from, id)?)));
            let evidence = match (self.ended(open.to, id), of_source) {
                (Some((Ended::Received, at)), _) => Evidence::Received { by: open.to, at },
                (Some((_, at)), _) => Evidence::Refused { by: open.to, at },
                (None, Some((by, (Ended::Cancelled, at)))) => Evidence::Cancelled { by, at },
                _ => continue,
            };
            match self.apply(&Command::CloseMove { id, evidence }) {
                Reply::Refused(refusal) => {
                    let text = format!("move {id} ends in {evidence:?}: {refusal}");
                    self.cluster.fail("evidence", text);
                }
                _ => self.move_closed(evidence),
            }
        }
    }

    pub(super) fn move_closed(&self, evidence: Evidence) {
        self.cluster.hit(match evidence {
            Evidence::Received { .. } => Mark::MovesReceived,
            Evidence::Refused { .. } => Mark::MovesRefused,
            Evidence::Cancelled { .. } => Mark::MovesCancelled,
        });
    }

    /// Opens a move or asks to cancel one, or neither.
    pub(super) fn move_slots(self: &Rc<Self>) {
        let groups: Vec<GroupId> = {
            let state = self.state.borrow();
            let groups = state.shards().keys().copied();
            groups.filter(|group| *group != MANAGER).collect()
        };
        let (from, to, slots, cancelled) = {
            let prng = &mut *self.prng.borrow_mut();
            let from = *prng.pick(&groups).expect("there is a shard");
            let to = *prng.pick(&groups).expect("there is a shard");
            let state = self.state.borrow();
            let open = state.moves().keys().next().copied();
            let cancelled = open.filter(|_| prng.chance(1, 20));
            let opens = from != to && prng.chance(1, 2);
            let slots = match opens {
                true => self.choose(from, prng),
                false => SlotRuns::default(),
            };
            (from, to, slots, cancelled)
        };
        if let Some(id) = cancelled {
            self.order(Command::CancelMove { id });
        }
        if slots.is_empty() {
            return;
        }
        let shard = ShardRef::Group(to);
        let assign = Command::Assign {
            slots: slots.clone(),
            shard,
        };
        self.order(assign);
        // Group 0 opens it by itself.
        if !self.cluster.options.seats() {
            let from = Some(from);
            self.apply(&Command::OpenMove { from, to, slots });
        }
    }

    /// Some slots of a group that are in no move: those that hold something, and others.
    fn choose(&self, from: GroupId, prng: &mut Prng) -> SlotRuns {
        let state = self.state.borrow();
        let is_free = |slot: &Slot| {
            let owned = state.slots().get(*slot);
            owned.is_some_and(|owned| owned.owner == Some(from) && owned.open == MoveId::default())
        };
        let in_use: Vec<Slot> = {
            let history = self.cluster.history.borrow();
            let keys = history.operations().iter();
            let slots = keys.map(|operation| slot_of(&operation.input.key));
            let slots: BTreeSet<Slot> = slots.collect();
            let own = (0..self.cluster.options.clients)
                .map(|client| slot_of(client.to_string().as_bytes()));
            slots.into_iter().chain(own).filter(is_free).collect()
        };
        let mut chosen = BTreeSet::new();
        let share = prng.range(1, 3);
        for slot in in_use {
            if prng.chance(share, 4) {
                chosen.insert(slot);
            }
        }
        for _ in 0..prng.below(8) {
            let slot = Slot(prng.below(u64::from(SLOT_COUNT)) as u16);
            if is_free(&slot) {
                chosen.insert(slot);
            }
        }
        SlotRuns::of_slots(chosen.into_iter().take(SLOTS_MAX))
    }
}
