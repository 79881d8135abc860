//! Requests on their way: pieces, and the queues that keep their order.
//!
//! A piece is what one node can answer: a client's request, or the part of one whose keys lie in one slot.
//! Pieces of one client and slot stand in one queue, in the order in which the client sent them; those of
//! different slots know nothing of each other. A queue is why nothing overtakes:
//!
//! 1. A client pipelines `SET k 1` and `SET k 2`. The first is refused by a primary that just lost its
//!    office, and waits.
//! 2. The second must not go to the new primary meanwhile: the first would come after it, and 1 would stay.
//!
//! So a write is sent when nothing stands before it. A read may follow reads that are on the same link, which
//! answers in order; if one of them is refused, those behind it are recalled: their replies are thrown away
//! and they are sent again. Reads may be.
//!
//! Invariant: the pieces of a queue that are at a link are its first ones; if there are several they are all
//! reads at one link.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kvorum_base::{ConnId, Slot};
use kvorum_resp::Version;

/// A piece's place. Reused under a new generation, so that a late reply finds nobody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct PieceId {
    index: u32,
    generation: u32,
}

/// A piece at one of its attempts. A reply to an earlier attempt is not heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    pub(crate) piece: PieceId,
    pub(crate) attempt: u32,
}

/// What may be done with a piece that was handed to a socket and has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// Send it again: it changes nothing.
    Read,
    /// Send it again: the node knows whether it happened.
    Once,
    /// Nothing but say so: it may have happened.
    Write,
}

/// Who gets the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// The client, as reply to this request.
    Request(u32),
    /// The client's watch, whose request this is.
    Watch(u32),
    /// A request that was split, as its part of this number.
    Part { gather: u64, part: u32 },
    /// The client's request over the whole keyspace.
    Sweep,
}

/// Where a piece is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Behind others of its queue, or about to be sent.
    Queued,
    /// At a link; handed to its socket, or still in the router.
    AtLink { link: u32, handed: bool },
    /// Refused, and to be sent again at a tick.
    Parked { until_tick: u64 },
}

/// One piece.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) conn: ConnId,
    pub(crate) slot: Slot,
    pub(crate) owner: Owner,
    pub(crate) version: Version,
    pub(crate) class: Class,
    /// A replica may answer it, and has not failed to.
    pub(crate) at_replica: bool,
    /// The whole request, as it is sent.
    pub(crate) request: Bytes,
    pub(crate) deadline_tick: u64,
    pub(crate) place: Place,
    pub(crate) attempt: u32,
    /// How often it was sent elsewhere.
    pub(crate) redirects: u32,
    /// How often it had to wait.
    pub(crate) waits: u32,
    /// An earlier attempt may have happened.
    pub(crate) is_in_doubt: bool,
    /// Why it was refused last.
    pub(crate) refusal: Option<Vec<u8>>,
}

impl Piece {
    /// A piece that was not sent yet.
    pub(crate) fn new(
        conn: ConnId,
        slot: Slot,
        owner: Owner,
        class: Class,
        version: Version,
        request: Bytes,
        deadline_tick: u64,
    ) -> Self {
        Self {
            conn,
            slot,
            owner,
            version,
            class,
            at_replica: false,
            request,
            deadline_tick,
            place: Place::Queued,
            attempt: 0,
            redirects: 0,
            waits: 0,
            is_in_doubt: false,
            refusal: None,
        }
    }

    /// The queue that it stands in.
    pub(crate) fn queue(&self) -> QueueKey {
        (self.conn, self.slot)
    }
}

/// Names a queue: a client and a slot.
pub(crate) type QueueKey = (ConnId, Slot);

#[derive(Debug, Default)]
struct Entry {
    generation: u32,
    piece: Option<Piece>,
}

/// All pieces and queues of a router.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    entries: Vec<Entry>,
    free: Vec<u32>,
    queues: BTreeMap<QueueKey, VecDeque<PieceId>>,
    bytes: usize,
}

impl Pieces {
    /// Puts a piece at the end of its queue. Gives the piece before it, if there is one.
    pub(crate) fn push(&mut self, piece: Piece) -> (PieceId, Option<PieceId>) {
        self.bytes += piece.request.len();
        let key = piece.queue();
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.piece = Some(piece);
        let id = PieceId {
            index,
            generation: entry.generation,
        };
        let queue = self.queues.entry(key).or_default();
        let before = queue.back().copied();
        queue.push_back(id);
        (id, before)
    }

    /// A piece, unless it is answered.
    pub(crate) fn get_mut(&mut self, id: PieceId) -> Option<&mut Piece> {
        self.entries
            .get_mut(id.index as usize)
            .filter(|entry| entry.generation == id.generation)
            .and_then(|entry| entry.piece.as_mut())
    }

    /// The piece of a ticket, unless it is answered or was recalled.
    pub(crate) fn holder(&mut self, ticket: Ticket) -> Option<&mut Piece> {
        self.get_mut(ticket.piece)
            .filter(|piece| piece.attempt == ticket.attempt)
    }

    /// Takes an answered piece out, and out of its queue.
    pub(crate) fn remove(&mut self, id: PieceId) -> Option<Piece> {
        self.get_mut(id)?;
        let piece = self.entries[id.index as usize].piece.take()?;
        self.free.push(id.index);
        self.bytes -= piece.request.len();
        if let Some(queue) = self.queues.get_mut(&piece.queue()) {
            if queue.front() == Some(&id) {
                queue.pop_front();
            } else {
                queue.retain(|other| *other != id);
            }
            if queue.is_empty() {
                self.queues.remove(&piece.queue());
            }
        }
        Some(piece)
    }

    /// The piece at a position of a queue.
    pub(crate) fn at(&self, key: QueueKey, position: usize) -> Option<PieceId> {
        self.queues.get(&key)?.get(position).copied()
    }

    /// Takes back what stands behind a piece and was sent: its replies will not be heard.
    pub(crate) fn recall_behind(&mut self, key: QueueKey, id: PieceId) {
        let Some(queue) = self.queues.get(&key) else {
            return;
        };
        let behind = queue.iter().skip_while(|other| **other != id).skip(1);
        for other in behind {
            let entry = &mut self.entries[other.index as usize];
            let piece = entry.piece.as_mut().expect("a piece in a queue");
            if matches!(piece.place, Place::AtLink { .. }) {
                piece.place = Place::Queued;
                piece.attempt += 1;
            }
        }
    }

    /// The pieces whose deadline has come, in the order of their queues.
    pub(crate) fn overdue(&self, now_tick: u64) -> Vec<PieceId> {
        let mut overdue = Vec::new();
        for queue in self.queues.values() {
            let is_overdue = |id: &&PieceId| {
                let piece = self.entries[id.index as usize].piece.as_ref();
                piece.is_some_and(|piece| piece.deadline_tick <= now_tick)
            };
            overdue.extend(queue.iter().filter(is_overdue));
        }
        overdue
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The bytes of their requests.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Verifies the invariants; for tests.
    ///
    /// # Panics
    /// If one does not hold.
    pub(crate) fn check(&self) {
        let mut count = 0;
        for (key, queue) in &self.queues {
            assert!(!queue.is_empty(), "an empty queue of {key:?}");
            let mut at_link = true;
            let mut first_link = None;
            for (position, id) in queue.iter().enumerate() {
                count += 1;
                let entry = &self.entries[id.index as usize];
                assert_eq!(entry.generation, id.generation, "an old piece in {key:?}");
                let piece = entry.piece.as_ref().expect("a piece in a queue");
                assert_eq!(piece.queue(), *key, "a piece in another's queue");
                match piece.place {
                    Place::AtLink { link, .. } => {
                        assert!(at_link, "{key:?}: position {position} has overtaken");
                        let first = *first_link.get_or_insert((link, piece.class));
                        let alone = position == 0;
                        let reads = first.1 == Class::Read && piece.class == Class::Read;
                        assert!(alone || reads, "{key:?}: a write is not alone");
                        assert_eq!(first.0, link, "{key:?}: at two links");
                    }
                    Place::Queued => at_link = false,
                    Place::Parked { .. } => {
                        assert_eq!(position, 0, "{key:?}: only the first is refused");
                        at_link = false;
                    }
                }
            }
        }
        assert_eq!(count, self.len(), "pieces outside of queues");
    }
}
