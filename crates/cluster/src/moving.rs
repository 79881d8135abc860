//! Moves are opened, asked to end, and closed on proof.

use kvorum_base::{GroupId, Index, Slot};

use crate::limits::MOVE_SLOTS_MAX;
use crate::maps::{Evidence, Move};
use crate::numbers::MoveId;
use crate::orders::{Addressee, Task};
use crate::reply::{Refusal, Reply};
use crate::runs::SlotRuns;
use crate::shards::Stage;
use crate::state::State;

impl State {
    /// Opens a move under the index of the command, if every slot is where it is said to be, is
    /// wanted where it is to go, and is in no other move.
    pub(crate) fn open_move(
        &mut self,
        index: Index,
        from: Option<GroupId>,
        to: GroupId,
        slots: &SlotRuns,
    ) -> Result<Reply, Refusal> {
        self.slots_exist(slots)?;
        if (from.is_some() && slots.len() > MOVE_SLOTS_MAX) || from == Some(to) {
            return Err(Refusal::BadSlots);
        }
        if self.moves_at_work() >= self.settings.moves_open_max as usize {
            return Err(Refusal::Busy);
        }
        for group in from.iter().chain([&to]) {
            let shard = self.shards.get(group).ok_or(Refusal::NoSuchShard)?;
            if shard.stage != Stage::Serving {
                return Err(Refusal::NotServing(*group));
            }
        }
        let wanted = &self.configs.newest().slots;
        for slot in slots.slots() {
            let owned = self.slots.get(slot).expect("all slots are there");
            if owned.open != MoveId::default() {
                return Err(Refusal::SlotMoving(slot));
            }
            if owned.owner != from {
                return Err(Refusal::NotOwner(slot));
            }
            if *wanted.get(slot).expect("all slots are there") != Some(to) {
                return Err(Refusal::NotWanted(slot));
            }
        }
        let id = MoveId(index.get());
        let beginner = from.unwrap_or(to);
        let order = self.order(Addressee::Group(beginner), beginner, Task::StartMove { id });
        for (first, last) in slots.runs() {
            for owned in self.slots.cells_mut(*first, *last) {
                owned.open = id;
            }
        }
        let open = Move {
            slots: slots.clone(),
            from,
            to,
            order,
            cancel_requested: false,
        };
        self.moves.insert(id, open);
        Ok(Reply::MoveOpened(id))
    }

    /// How many open moves get on: those of groups that have their majorities. The others wait, and must
    /// not keep everybody else waiting.
    pub(crate) fn moves_at_work(&self) -> usize {
        let decides = |group: &GroupId| self.can_decide(&self.shards[group]);
        let works = |open: &&Move| open.from.iter().chain([&open.to]).all(decides);
        self.moves.values().filter(works).count()
    }

    pub(crate) fn cancel_move(&mut self, id: MoveId) -> Result<Reply, Refusal> {
        let open = self.moves.get_mut(&id).ok_or(Refusal::NoSuchMove(id))?;
        open.cancel_requested = true;
        let order = self.orders.get_mut(&open.order);
        order.expect("an open move has its order").withdrawn = true;
        Ok(Reply::Done)
    }

    pub(crate) fn close_move(&mut self, id: MoveId, evidence: Evidence) -> Result<Reply, Refusal> {
        let open = self.moves.get(&id).ok_or(Refusal::NoSuchMove(id))?;
        if !evidence.fits(open) {
            return Err(Refusal::WrongEvidence);
        }
        let open = self.moves.remove(&id).expect("it is there");
        let order = self.orders.remove(&open.order);
        assert!(
            order.is_some(),
            "move {id} without its order {}",
            open.order
        );
        for (first, last) in open.slots.runs() {
            for owned in self.slots.cells_mut(*first, *last) {
                assert_eq!(owned.open, id, "a slot of move {id}");
                owned.open = MoveId::default();
                if evidence.moved() {
                    owned.owner = Some(open.to);
                    owned.by = id;
                }
            }
        }
        if evidence.moved() {
            self.touch();
        } else if open.cancel_requested {
            self.leave_where_they_are(&open);
        }
        Ok(Reply::Done)
    }

    /// After a cancelled move its slots are wanted where they are, or the next plan would move them
    /// again; unless they are wanted elsewhere by now, or their shard has to give everything away.
    fn leave_where_they_are(&mut self, ended: &Move) {
        let Some(from) = ended.from.filter(|from| self.is_member(*from)) else {
            return;
        };
        let wanted = &self.configs.newest().slots;
        let still = |slot: &Slot| wanted.get(*slot) == Some(&Some(ended.to));
        let slots = SlotRuns::of_slots(ended.slots.slots().filter(still));
        if !slots.is_empty() {
            self.configs.assign(&slots, from);
        }
    }
}
