//! Reads of clients that have said READONLY: at replicas, in turn.
//!
//! A replica asks its primary before it answers, so its answer is as good as the primary's; what is spread
//! is the work. It is the next replica's turn with each read, or where reads of the same client and slot
//! are on their way already: there they are answered in order. Nobody waits for a replica: one whose link
//! is not up, is full or says nothing is passed over, and what it refused, or did not answer, goes to the
//! primary.

use std::collections::BTreeSet;

use kvorum_base::Slot;
use kvorum_resp::Version;

use crate::limits::LINK_DOUBT_TICKS;
use crate::links::Link;
use crate::map::NodeAt;
use crate::pieces::Place;
use crate::router::Router;

impl Router {
    /// The link to a replica of the slot: the one where earlier reads are, or the next in turn. `None` if
    /// none will do now.
    pub(crate) fn replica_link(
        &mut self,
        slot: Slot,
        version: Version,
        ahead: Option<u32>,
    ) -> Option<u32> {
        let mut usable = 0;
        for at in 0..self.map.replicas(slot).len() {
            let index = self.link_of(self.map.replicas(slot)[at], version);
            if self.links[index as usize].may_dial(self.now_tick) {
                // For the reads to come.
                self.dial(index);
            }
            usable += usize::from(self.is_usable(index));
        }
        let links = self.map.replicas(slot).iter();
        let mut links = links
            .map(|node| self.link_of(*node, version))
            .filter(|index| self.is_usable(*index));
        if let Some(ahead) = ahead {
            return links.find(|index| *index == ahead);
        }
        let turn = self.replica_turn.checked_rem(usable)?;
        let index = links.nth(turn);
        self.replica_turn = self.replica_turn.wrapping_add(1);
        self.counters.at_replicas += 1;
        index
    }

    fn is_usable(&self, index: u32) -> bool {
        let link = &self.links[index as usize];
        link.has_room() && !link.is_silent(self.now_tick, LINK_DOUBT_TICKS)
    }

    /// Whether a link leads to a port for replicas.
    pub(crate) fn is_to_replica(&self, link: &Link) -> bool {
        self.nodes[usize::from(link.node.0)].is_replica
    }

    /// The port for replicas at this address, which is noted if it is new.
    pub(crate) fn replica_at(&mut self, address: &str) -> NodeAt {
        let before = self.nodes.len();
        let node = self.node_at(address);
        if self.nodes.len() > before {
            self.nodes[usize::from(node.0)].is_replica = true;
        }
        node
    }

    /// What is at a replica that says nothing goes to the primary.
    pub(crate) fn take_back_from_replica(&mut self, index: u32) {
        let mut queues = BTreeSet::new();
        for ticket in self.links[index as usize].pieces() {
            if let Some(piece) = self.pieces.holder(ticket) {
                piece.at_replica = false;
                piece.place = Place::Queued;
                piece.attempt += 1;
                queues.insert(piece.queue());
            }
        }
        for queue in queues {
            self.pump(queue);
        }
    }
}
