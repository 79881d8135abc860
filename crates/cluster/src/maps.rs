//! The two maps: which shard should have a slot, and which has it.
//!
//! The *desired* map is the newest config. The *actual* map says who really has each slot, as far as the
//! shard manager was told with evidence, and by which move it came there. Where they differ, slots
//! have to move, a few at a time: each [`Move`] has one source and one target and takes along at most
//! 64 slots, so that a restart, a seal and the doubled memory stay small.
//!
//! A slot has at most one open move, and its next begins only when that one was closed. The shard
//! manager does not decide how a move ends. The target's log does: `received` or `refused`; or, while it
//! is still sending, the source's: `cancelled`. The manager closes a move on proof of one of the three
//! and never for lack of news, since the decision may have fallen. Why cancelling is only a
//! request:
//! 1. the operator cancels; the manager writes "the source keeps the slots";
//! 2. the source has sealed long ago, the target commits `received`;
//! 3. two shards own the slots.
//!
//! A slot is granted without a source only if nobody ever had it. Anything else would make a second,
//! empty owner.

use kvorum_base::{GroupId, Index};

use crate::numbers::{MoveId, OrderNumber};
use crate::runs::SlotRuns;

/// Who has a slot.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Owned {
    /// The shard that has it; none if nobody ever had.
    pub owner: Option<GroupId>,
    /// The move that brought it there; 0 if it was there from the beginning.
    pub by: MoveId,
    /// The move that it is open in; 0 if none.
    pub open: MoveId,
}

/// An open move. How far it is, is hearsay (`hearsay.rs`).
///
/// Invariant: the slots belong to `from` in the actual map, and name this move as open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// The slots.
    pub slots: SlotRuns,
    /// Who has them; none if nobody ever had.
    pub from: Option<GroupId>,
    /// Who gets them.
    pub to: GroupId,
    /// The order that began it.
    pub order: OrderNumber,
    /// Whether an operator asked to end it without moving. A request: it may be too late.
    pub cancel_requested: bool,
}

/// How a move ended, and whose log says so, where. Without it nothing is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// The target applied `received`: it has the slots.
    Received {
        /// The target.
        by: GroupId,
        /// The index in its log.
        at: Index,
    },
    /// The target applied `refused`: it never gets them by this move.
    Refused {
        /// The target.
        by: GroupId,
        /// The index in its log.
        at: Index,
    },
    /// The source applied `cancelled`, before it sealed.
    Cancelled {
        /// The source.
        by: GroupId,
        /// The index in its log.
        at: Index,
    },
}

impl Evidence {
    /// Whether it is of a group that may give it for a move.
    #[must_use]
    pub fn fits(&self, of: &Move) -> bool {
        match self {
            Self::Received { by, at } | Self::Refused { by, at } => {
                *by == of.to && *at > Index::ZERO
            }
            Self::Cancelled { by, at } => Some(*by) == of.from && *at > Index::ZERO,
        }
    }

    /// Whether the slots have moved.
    #[must_use]
    pub fn moved(&self) -> bool {
        matches!(self, Self::Received { .. })
    }
}
