//! Replicas come and go, as the shard manager orders it.
//!
//! - [`hosting`]: what a node does by itself: it makes replicas and deletes them;
//! - [`members`]: what a group does by its log: it takes replicas in and lets them go;
//! - [`evidence`]: what became of an order, for the shard manager;
//! - [`recovery`]: a group goes on with one replica, since the others are lost for good.
//!
//! # A replica is made once
//!
//! Only an order makes one; a message of a group to a replica that is not here makes nothing. The node
//! remembers, in its log, up to which number orders are over. What stands there is never carried out
//! again:
//! 1. "make replica 5" is carried out, and later "delete replica 5";
//! 2. the node restarts, and somebody who was away for long tells it the first order again;
//! 3. its number is below the last one: a replica 5 without a memory would vote for what the first one
//!    voted against.
//!
//! One number says it of all, since orders are given with growing numbers and carried out in their order.
//!
//! # A group changes its members once for each order
//!
//! Its primary writes into the log which order it takes, and only with that applied it proposes the
//! change. So every change stands in the log behind the order that it belongs to, and a primary that comes
//! later sees in its log both or neither. Orders with lower numbers are not taken any more. One that was
//! withdrawn is refused through the log:
//! 1. a primary took order 8, proposed the change, and fell;
//! 2. the next one is told that order 8 is withdrawn. It has applied everything that was in the log
//!    before it, and the change is there: it is done. Or it is not there, and never will be: it writes
//!    "refused", and from there on nobody carries order 8 out.
//!
//! A primary writes nothing about orders while a change or a word about an order is on its way: so what it
//! knows when it writes is what is before it in the log.

pub(crate) mod evidence;
pub(crate) mod hosting;
pub(crate) mod members;
mod recovery;

use kvorum_cluster::OrderNumber;

/// The order to change its members that a group's log took or refused last.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Taken {
    /// Its number; 0 before the first. Lower ones are over.
    pub order: OrderNumber,
    /// Whether it will not be carried out.
    pub refused: bool,
}

impl Taken {
    /// Takes note of an entry. One about a lower order comes too late, and a refusal is final.
    pub(crate) fn apply(&mut self, entry: Self) {
        if entry.order > self.order || (entry.order == self.order && entry.refused) {
            *self = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_order_counts_and_a_refusal_stays() {
        let of = |order, refused| Taken {
            order: OrderNumber(order),
            refused,
        };
        let mut taken = Taken::default();
        for (entry, then) in [
            (of(3, false), of(3, false)),
            (of(2, true), of(3, false)),
            (of(3, true), of(3, true)),
            (of(3, false), of(3, true)),
            (of(5, false), of(5, false)),
        ] {
            taken.apply(entry);
            assert_eq!(taken, then);
        }
    }
}
