//! What the shard manager wants: the moves that are open.

use kvorum_base::{GroupId, MoveId, SlotSet};

/// One open move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MoveOrder {
    /// Its number, which no other move ever has.
    pub id: MoveId,
    /// The slots.
    pub slots: SlotSet,
    /// The group that has them.
    pub from: GroupId,
    /// The group that is to have them.
    pub to: GroupId,
    /// It is to be ended without effect, if that can still be.
    pub cancel: bool,
}

/// All open moves.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MoveOrders {
    /// Every move up to this number is either here or over.
    pub through: MoveId,
    /// By number.
    pub open: Vec<MoveOrder>,
}

impl MoveOrders {
    /// The move with this number, if it is open.
    #[must_use]
    pub fn get(&self, id: MoveId) -> Option<&MoveOrder> {
        self.open.iter().find(|order| order.id == id)
    }

    /// Whether it is known to be over.
    #[must_use]
    pub fn is_over(&self, id: MoveId) -> bool {
        id <= self.through && self.get(id).is_none()
    }
}
