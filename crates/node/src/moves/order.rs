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
    /// What the shard manager has open at this entry of its log. A move's number is the index of the
    /// entry that opened it, so that all up to now are either here or over.
    #[must_use]
    pub fn of(cluster: &kvorum_cluster::State) -> Self {
        let order = |(id, open): (&MoveId, &kvorum_cluster::Move)| {
            Some(MoveOrder {
                id: *id,
                slots: SlotSet::of_runs(open.slots.runs().iter().copied()),
                // Nobody has slots to give away that nobody ever had.
                from: open.from?,
                to: open.to,
                cancel: open.cancel_requested,
            })
        };
        Self {
            through: MoveId(cluster.applied().get()),
            open: cluster.moves().iter().filter_map(order).collect(),
        }
    }

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
