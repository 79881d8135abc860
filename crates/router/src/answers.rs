//! What becomes of a piece: its answer is passed on, or it did not happen and is sent again, or it is given
//! up at its deadline.

use std::borrow::Cow;

use kvorum_base::Slot;
use kvorum_base::slot::SLOT_COUNT;

use crate::limits::{ANSWER_GRACE_TICKS, REDIRECTS_AT_ONCE};
use crate::pieces::{Class, Owner, Piece, PieceId, Place, Ticket};
use crate::reply::Meaning;
use crate::router::Router;

/// Said of a request that was refused again and again by redirects.
const REDIRECTED: &[u8] =
    b"CLUSTERDOWN the nodes send this request to each other; nothing was done";

/// The end of a piece.
#[derive(Clone, Debug)]
pub(crate) enum Answer<'a> {
    /// What a node replied. May be an error; then it did not happen, unless it says UNKNOWN.
    Reply(&'a [u8]),
    /// It did not happen: the text of the error.
    Refused(Cow<'a, [u8]>),
    /// It may have happened: the text of the error.
    Unknown(Cow<'a, [u8]>),
}

impl Router {
    /// A node has answered a piece.
    pub(crate) fn answered(&mut self, ticket: Ticket, reply: &[u8]) {
        let id = ticket.piece;
        let Some(piece) = self.pieces.holder(ticket) else {
            // Answered already, or recalled: somebody before it was refused.
            return;
        };
        match Meaning::of(reply) {
            Meaning::Final => self.finish(id, Answer::Reply(reply)),
            Meaning::Moved { slot, address } => {
                self.counters.redirects += 1;
                piece.redirects += 1;
                let at_once = piece.redirects <= REDIRECTS_AT_ONCE;
                let address = String::from_utf8_lossy(address).into_owned();
                if slot < SLOT_COUNT && !address.starts_with(':') {
                    let node = self.node_at(&address);
                    self.map.redirected(Slot(slot), node, self.now_tick);
                    // Where one slot has gone, its neighbours have often gone too.
                    self.map_wanted = true;
                }
                self.refused(id, REDIRECTED, at_once);
            }
            Meaning::Later(text) => self.refused(id, text, false),
            Meaning::Unknown(text) => {
                if piece.class == Class::Once {
                    piece.is_in_doubt = true;
                }
                if piece.class == Class::Write {
                    self.finish(id, Answer::Unknown(text.into()));
                } else {
                    self.refused(id, text, false);
                }
            }
        }
    }

    /// A piece did not happen, or may be sent again anyway: at once, or after a while.
    fn refused(&mut self, id: PieceId, text: &[u8], at_once: bool) {
        let Some(piece) = self.pieces.get_mut(id) else {
            return;
        };
        piece.attempt += 1;
        piece.at_replica = false;
        let queue = piece.queue();
        if piece.deadline_tick <= self.now_tick {
            let in_doubt = piece.is_in_doubt;
            self.pieces.recall_behind(queue, id);
            return if in_doubt {
                self.finish_unknown(id, "no answer came in time");
            } else {
                self.give_up(id, text.to_vec());
            };
        }
        if at_once {
            piece.place = Place::Queued;
            piece.refusal.get_or_insert_with(|| text.to_vec());
            self.pieces.recall_behind(queue, id);
            self.pump(queue);
        } else {
            self.pieces.recall_behind(queue, id);
            self.park(id, text);
        }
    }

    /// Gives up on a piece that was handed to a socket and cannot be sent again.
    pub(crate) fn finish_unknown(&mut self, id: PieceId, why: &str) {
        let text = format!("UNKNOWN it may or may not have happened, now or later: {why}");
        self.finish(id, Answer::Unknown(text.into_bytes().into()));
    }

    /// Gives up what was not done in time. What is at a node may still be answered for a while.
    pub(crate) fn refuse_overdue(&mut self) {
        let now_tick = self.now_tick;
        // The last of a queue first: what stands behind one that is given up would be sent at once.
        for id in self.pieces.overdue(now_tick).into_iter().rev() {
            let Some(piece) = self.pieces.get_mut(id) else {
                continue;
            };
            let handed = matches!(piece.place, Place::AtLink { handed: true, .. });
            if handed && piece.deadline_tick + ANSWER_GRACE_TICKS > now_tick {
                continue;
            }
            if (handed || piece.is_in_doubt) && piece.class != Class::Read {
                self.finish_unknown(id, "no answer came in time");
                continue;
            }
            let text = piece.refusal.clone().unwrap_or_else(|| {
                b"TRYAGAIN it was not answered in time; nothing was changed".to_vec()
            });
            self.give_up(id, text);
        }
    }

    fn give_up(&mut self, id: PieceId, refusal: Vec<u8>) {
        self.counters.timeouts += 1;
        self.finish(id, Answer::Refused(refusal.into()));
    }

    /// A piece is answered: whoever owns it goes on, and so does what stood behind it.
    pub(crate) fn finish(&mut self, id: PieceId, answer: Answer<'_>) {
        let Some(piece) = self.pieces.remove(id) else {
            return;
        };
        self.unpark(piece.place, id);
        let queue = piece.queue();
        self.deliver(&piece, answer);
        self.pump(queue);
    }

    fn deliver(&mut self, piece: &Piece, answer: Answer<'_>) {
        if matches!(answer, Answer::Unknown(_)) {
            self.counters.unknown += 1;
        }
        match piece.owner {
            Owner::Sweep => return self.sweep_answered(piece.conn, answer),
            Owner::Request(seq) => self.clients.reply(piece.conn, seq, |replies| match answer {
                Answer::Reply(reply) => replies.encoded(reply),
                Answer::Refused(text) | Answer::Unknown(text) => replies.error_bytes(&text),
            }),
            Owner::Watch(seq) => self.watch_answered(piece.conn, seq, &answer),
            Owner::Part { gather, part } => self.part_answered(gather, part, &answer),
        }
        if let Some(client) = self.clients.get_mut(piece.conn) {
            client.request_bytes -= piece.request.len();
        }
    }
}
