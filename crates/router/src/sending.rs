//! Pieces on their way: sent, parked, sent again.

use std::collections::BTreeSet;

use crate::limits::{BACK_OFF_TICKS_MAX, LINK_DOUBT_TICKS};
use crate::links::{Broken, Waiting};
use crate::pieces::{Class, PieceId, Place, QueueKey, Ticket};
use crate::planted::Bug;
use crate::router::Router;

impl Router {
    /// Sends again what may be, and says of the rest that nobody knows.
    pub(crate) fn take_back(&mut self, broken: Vec<Broken>) {
        let mut queues = BTreeSet::new();
        let mut unknown = Vec::new();
        for broken in broken {
            let (ticket, in_doubt) = match broken {
                Broken::Unsent(ticket) => (ticket, false),
                Broken::InDoubt(ticket) => (ticket, true),
            };
            let resends = self.config.planted.has(Bug::UnknownResent);
            let Some(piece) = self.pieces.holder(ticket) else {
                continue;
            };
            if in_doubt && piece.class == Class::Write && !resends {
                unknown.push(ticket.piece);
                continue;
            }
            piece.is_in_doubt |= in_doubt && piece.class == Class::Once;
            piece.at_replica = false;
            piece.place = Place::Queued;
            piece.attempt += 1;
            queues.insert(piece.queue());
        }
        for piece in unknown {
            self.finish_unknown(piece, "the link to the node broke before it answered");
        }
        for queue in queues {
            self.pump(queue);
        }
    }

    /// Sends reads that are at a node which says nothing to whoever owns their slots by now.
    pub(crate) fn take_back_reads(&mut self) {
        let mut queues = BTreeSet::new();
        let now_tick = self.now_tick;
        let silent = self
            .links
            .iter()
            .filter(|link| link.is_silent(now_tick, LINK_DOUBT_TICKS));
        for (node, ticket) in
            silent.flat_map(|link| link.pieces().map(|ticket| (link.node, ticket)))
        {
            if let Some(piece) = self.pieces.holder(ticket)
                && piece.class == Class::Read
                && self.map.owner(piece.slot) != Some(node)
            {
                piece.place = Place::Queued;
                piece.attempt += 1;
                queues.insert(piece.queue());
            }
        }
        for queue in queues {
            self.pump(queue);
        }
    }

    /// Puts on a link what waits for it, as far as it has room.
    pub(crate) fn pump_link(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        while link.has_room()
            && let Some(ticket) = link.backlog.pop_front()
        {
            let Some(piece) = self.pieces.holder(ticket) else {
                continue;
            };
            piece.place = Place::AtLink {
                link: index,
                handed: true,
            };
            link.put(&piece.request, Waiting::Piece(ticket), self.now_tick);
            self.counters.sent += 1;
        }
        self.touch_link(index);
    }

    /// Sends what a queue may send now.
    pub(crate) fn pump(&mut self, key: QueueKey) {
        let mut ahead = None;
        let mut position = 0;
        while let Some(id) = self.pieces.at(key, position) {
            let Some(piece) = self.pieces.get_mut(id) else {
                return;
            };
            let is_read = piece.class == Class::Read;
            if piece.place != Place::Queued || position > 0 && !is_read {
                return;
            }
            if !self.send(id, ahead) || !is_read {
                return;
            }
            let Some(Place::AtLink { link, .. }) = self.pieces.get_mut(id).map(|piece| piece.place)
            else {
                return;
            };
            ahead = Some(link);
            position += 1;
        }
    }

    /// Sends a piece that was put at the end of its queue, behind another one or nothing.
    pub(crate) fn send_new(&mut self, id: PieceId, before: Option<PieceId>) {
        let Some(before) = before else {
            self.send(id, None);
            return;
        };
        let overtakes = self.config.planted.has(Bug::WriteOvertakesParked);
        let Some(before) = self.pieces.get_mut(before) else {
            return;
        };
        let (place, before_reads) = (before.place, before.class == Class::Read);
        let reads = self
            .pieces
            .get_mut(id)
            .is_some_and(|piece| piece.class == Class::Read);
        match place {
            Place::AtLink { link, .. } if before_reads && reads => {
                self.send(id, Some(link));
            }
            Place::Parked { .. } if overtakes => {
                self.send(id, None);
            }
            _ => {}
        }
    }

    /// Gives a piece to the link of its slot, or parks it. With other pieces of its queue ahead it goes only
    /// where they are. Says whether it is at a link now.
    pub(crate) fn send(&mut self, id: PieceId, ahead: Option<u32>) -> bool {
        let Some(piece) = self.pieces.get_mut(id) else {
            return false;
        };
        let (slot, version, at_replica) = (piece.slot, piece.version, piece.at_replica);
        let replica = at_replica
            .then(|| self.replica_link(slot, version, ahead))
            .flatten();
        let index = match replica.map_or_else(|| self.link_for(slot, version), Ok) {
            Ok(index) => index,
            Err(_) if ahead.is_some() => return false,
            Err(text) => {
                self.park(id, text.as_bytes());
                return false;
            }
        };
        if ahead.is_some_and(|ahead| ahead != index) {
            return false;
        }
        let link = &mut self.links[index as usize];
        let Some(piece) = self.pieces.get_mut(id) else {
            return false;
        };
        let ticket = Ticket {
            piece: id,
            attempt: piece.attempt,
        };
        let handed = link.backlog.is_empty() && link.has_room();
        piece.place = Place::AtLink {
            link: index,
            handed,
        };
        if handed {
            link.put(&piece.request, Waiting::Piece(ticket), self.now_tick);
            self.counters.sent += 1;
            self.touch_link(index);
        } else {
            link.backlog.push_back(ticket);
        }
        true
    }

    /// Lets a piece that did not happen wait for a while.
    pub(crate) fn park(&mut self, id: PieceId, refusal: &[u8]) {
        let now_tick = self.now_tick;
        let Some(piece) = self.pieces.get_mut(id) else {
            return;
        };
        let pause = (1 << piece.waits.min(10)).min(BACK_OFF_TICKS_MAX);
        let until_tick = now_tick + pause;
        piece.waits += 1;
        piece.redirects = 0;
        piece.refusal = Some(refusal.to_vec());
        piece.place = Place::Parked { until_tick };
        self.parked.insert((until_tick, id));
        self.counters.parked += 1;
        self.map_wanted = true;
    }

    /// A parked piece is parked no more.
    pub(crate) fn unpark(&mut self, place: Place, id: PieceId) {
        if let Place::Parked { until_tick } = place {
            self.parked.remove(&(until_tick, id));
        }
    }

    /// Sends everything again that waits: somebody may know more now.
    pub(crate) fn retry_parked(&mut self) {
        let parked = std::mem::take(&mut self.parked);
        self.retry(parked.into_iter().map(|(_, id)| id).collect());
    }

    pub(crate) fn retry(&mut self, ids: Vec<PieceId>) {
        for id in ids {
            if let Some(piece) = self.pieces.get_mut(id) {
                piece.place = Place::Queued;
                let queue = piece.queue();
                self.pump(queue);
            }
        }
    }
}
