//! One client's connection as a state machine: bytes in, numbered requests out; replies in, in any
//! order; bytes out, in the order of the requests.
//!
//! A reply that comes early is parked. With the common case, the next reply in turn, this is one
//! comparison; and no group, read or lane has to know of another to keep a client's order.
//!
//! Three things have an order of their own:
//!
//! - *Modes* (version, CLIENT REPLY) hold from a request's number on, see [`crate::ReplyMode`].
//! - *Pushes* may come between any two replies, but not overtake one that is parked: a message must
//!   not arrive before the reply to the SUBSCRIBE that asked for it.
//! - *The end*: after QUIT or a protocol error no more requests are read, all replies up to its own
//!   are sent, and then the connection is closed.
//!
//! What is not here: what commands mean, who may run them, sockets, and time (ticks are handed in).
//! An idle connection owns no memory beyond itself.

use std::collections::VecDeque;

use crate::args::Args;
use crate::input::{Input, Scratch};
use crate::limits::{InputLimits, OutputLimits};
use crate::modes::{Mode, Modes, ReplyMode};
use crate::outbuf::OutBuf;
use crate::replies::{Outcome, Replies, Version};
use crate::transaction::Transaction;

/// One request, with the number its reply is given under.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its number on this connection: one more than the last one's, wrapping.
    pub seq: u32,
    /// Its arguments, the name first.
    pub args: Args<'a>,
}

/// A reply's place in the order.
#[derive(Clone, Debug)]
enum Slot {
    Awaited,
    /// The reply, and the pushes that came behind it.
    Parked(OutBuf),
}

/// One client's connection.
#[derive(Clone, Default, Debug)]
pub struct Connection {
    input: Input,
    /// Bytes not looked at yet, see [`Connection::hold`].
    held: Vec<u8>,
    authenticated: bool,
    /// The number of the next request.
    next_request: u32,
    /// The number of the request that is answered next.
    next_reply: u32,
    modes: Modes,
    out: OutBuf,
    /// The place of `next_reply` and of those after it, as far as one is parked. Either empty or
    /// `Awaited` at the front and `Parked` at the back.
    parked: VecDeque<Slot>,
    /// The bytes in `parked`.
    parked_bytes: usize,
    /// Requests from this number on are not read or not answered, and the connection ends.
    end: Option<u32>,
    /// Since which tick the output is over its soft limit.
    over_soft_since: Option<u64>,
    transaction: Option<Box<Transaction>>,
}

// Thousands of them are idle.
const _: () = assert!(size_of::<Connection>() <= 320);

impl Connection {
    /// A connection in version 2, not authenticated, even where nobody need authenticate: see
    /// [`Connection::set_authenticated`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the client has authenticated, or need not.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// Says whether the client has authenticated; before, requests must be small.
    pub fn set_authenticated(&mut self, authenticated: bool) {
        self.authenticated = authenticated;
    }

    /// The next request that is whole, and moves `data` behind it; `None` once `data` is used up.
    /// Every request that is given out must be answered by [`Connection::reply`].
    ///
    /// Bytes that are not a request are answered here, as the last reply of the connection.
    #[inline]
    pub fn next_request_or_reply<'s, 'd: 's>(
        &mut self,
        limits: &InputLimits,
        data: &mut &'d [u8],
        scratch: &'s mut Scratch,
    ) -> Option<Request<'s>> {
        if self.end.is_some() {
            *data = &[];
            return None;
        }
        if !self.held.is_empty() {
            self.hold(data);
            return None;
        }
        match self.input.next(limits, self.authenticated, data, scratch) {
            Ok(Some(args)) => {
                let seq = self.number();
                Some(Request { seq, args })
            }
            Ok(None) => None,
            Err(error) => {
                *data = &[];
                let seq = self.number();
                self.close_after(seq);
                self.reply(seq, |replies| replies.error_bytes(&error.text()));
                None
            }
        }
    }

    /// Keeps the rest of a read for later, without looking at it: there are too many requests
    /// outstanding, or one that the next must wait for. Whatever comes meanwhile lines up behind it.
    pub fn hold(&mut self, data: &mut &[u8]) {
        if self.end.is_none() {
            self.held.extend_from_slice(data);
        }
        *data = &[];
    }

    /// What was kept by [`Connection::hold`], to be read on from like a socket's bytes; what is not
    /// wanted of it yet can be held again.
    #[must_use]
    pub fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// How many bytes of input are in memory: held ones and an unfinished request.
    #[must_use]
    pub fn input_bytes(&self) -> usize {
        self.held.len() + self.input.held_bytes()
    }

    /// How many requests were given out and are not answered in turn yet.
    #[must_use]
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.next_request.wrapping_sub(self.next_reply)
    }

    /// Writes the reply to a request. Replies may come in any order and leave in that of the
    /// requests. The reply is dropped if the client does not want it or the connection ends before.
    ///
    /// # Panics
    /// If the request is not outstanding, was answered before, or `write` does not write exactly one
    /// whole reply: each would shift all later replies to the wrong requests.
    #[inline]
    pub fn reply(&mut self, seq: u32, write: impl FnOnce(&mut Replies<'_>)) -> Outcome {
        let ahead = seq.wrapping_sub(self.next_reply);
        let outstanding = self.outstanding();
        assert!(
            ahead < outstanding,
            "a reply to request {seq}; outstanding are {outstanding} from {}",
            self.next_reply
        );
        let mode = self.modes.of(seq);
        if ahead > 0 {
            return self.park(seq, mode, write);
        }
        if self.ends_before(seq) {
            return write_reply(&mut Replies::nobody(), seq, write);
        }
        let outcome = write_in_mode(&mut self.out, mode, seq, write);
        self.next_reply = self.next_reply.wrapping_add(1);
        if !self.parked.is_empty() {
            self.parked.pop_front();
            self.release();
        }
        self.modes.answered(self.next_reply);
        outcome
    }

    /// Sends something that no request asked for. It comes behind every reply that is ready.
    ///
    /// # Panics
    /// If `write` does not write exactly one whole message.
    pub fn push(&mut self, write: impl FnOnce(&mut Replies<'_>)) {
        if self.is_finished() {
            return;
        }
        let last = self.next_reply.wrapping_add(self.parked.len() as u32);
        let last = last.wrapping_sub(1);
        let (out, mode) = match self.parked.back_mut() {
            Some(Slot::Parked(out)) => (out, self.modes.of(last)),
            Some(Slot::Awaited) => unreachable!("the last slot of {last} is parked"),
            None => (&mut self.out, self.modes.last()),
        };
        let before = out.len();
        // CLIENT REPLY is about replies only.
        write_reply(&mut Replies::client(out, mode.version), last, write);
        if !self.parked.is_empty() {
            self.parked_bytes += self.parked_back_len() - before;
        }
    }

    /// The version that this request is answered in.
    #[must_use]
    pub fn version(&self, seq: u32) -> Version {
        self.modes.of(seq).version
    }

    /// Switches the version for the reply to this request, if it is not answered yet, and for those
    /// after it.
    pub fn set_version(&mut self, seq: u32, version: Version) {
        self.modes.set_version(seq, version);
        self.modes.answered(self.next_reply);
    }

    /// Does what CLIENT REPLY asks for in this request, which is not answered yet.
    pub fn set_reply_mode(&mut self, seq: u32, mode: ReplyMode) {
        self.modes.set_replies(seq, mode);
    }

    /// Answers this request, which is RESET, and those after it, unless CLIENT REPLY SKIP came just
    /// before: that holds for any request, as in Redis.
    pub fn reset_reply_mode(&mut self, seq: u32) {
        self.modes.reset_replies(seq);
    }

    /// Reads no more requests, and ends after the reply to this one, or at once if that has left.
    /// Of two such calls the earlier request counts.
    pub fn close_after(&mut self, seq: u32) {
        let left = |end: u32| end.wrapping_sub(self.next_reply) as i32;
        // Below zero: later replies have left already, so the end is now.
        let replies = left(seq.wrapping_add(1)).max(0);
        let replies = self.end.map_or(replies, |end| replies.min(left(end)));
        self.end = Some(self.next_reply.wrapping_add(replies as u32));
        while self.parked.len() > replies as usize
            || matches!(self.parked.back(), Some(Slot::Awaited))
        {
            if let Some(Slot::Parked(out)) = self.parked.pop_back() {
                self.parked_bytes -= out.len();
            }
        }
        if self.parked.is_empty() {
            self.parked = VecDeque::new();
        }
        self.input = Input::new();
        self.held = Vec::new();
        self.transaction = None;
    }

    /// Reads no more requests, and ends once all that were given out are answered.
    pub fn close_when_answered(&mut self) {
        self.close_after(self.next_request.wrapping_sub(1));
    }

    /// Whether no more requests are read.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.end.is_some()
    }

    /// Whether everything the client will ever get is in the output: to be closed once that is
    /// written.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.end == Some(self.next_reply)
    }

    /// What is to be written to the client now.
    #[must_use]
    pub fn output(&mut self) -> &mut OutBuf {
        &mut self.out
    }

    /// How many bytes of replies are in memory: to be written, or parked.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        self.out.len() + self.parked_bytes
    }

    /// Whether so much output waits, or has waited for so long, that the connection must be closed.
    /// To be asked when output was added, and at times while there is any.
    pub fn is_over_limit(&mut self, limits: &OutputLimits, now_ticks: u64) -> bool {
        let bytes = self.output_bytes();
        if bytes <= limits.soft_bytes {
            self.over_soft_since = None;
            return bytes > limits.hard_bytes;
        }
        let since = *self.over_soft_since.get_or_insert(now_ticks);
        bytes > limits.hard_bytes || now_ticks.saturating_sub(since) > limits.soft_ticks
    }

    /// The transaction being queued, if MULTI was given.
    #[must_use]
    pub fn transaction(&mut self) -> Option<&mut Transaction> {
        self.transaction.as_deref_mut()
    }

    /// Starts to queue a transaction. Returns false, and changes nothing, if one is being queued.
    #[must_use]
    pub fn begin_transaction(&mut self) -> bool {
        if self.transaction.is_some() {
            return false;
        }
        self.transaction = Some(Box::default());
        true
    }

    /// Ends the queueing: EXEC, DISCARD, RESET.
    pub fn take_transaction(&mut self) -> Option<Transaction> {
        self.transaction.take().map(|transaction| *transaction)
    }

    /// Checks what must hold between two calls. O(n); for tests and simulations.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn check(&self) {
        assert!(self.parked.len() <= self.outstanding() as usize);
        let ready = |slot: &Slot| matches!(slot, Slot::Parked(_));
        assert!(
            !self.parked.front().is_some_and(ready),
            "the next reply is parked"
        );
        assert!(
            self.parked.back().is_none_or(ready),
            "the last slot is awaited"
        );
        let bytes = self.parked.iter().map(|slot| match slot {
            Slot::Awaited => 0,
            Slot::Parked(out) => out.len(),
        });
        assert_eq!(bytes.sum::<usize>(), self.parked_bytes);
        if self.parked.is_empty() {
            assert_eq!(self.parked.capacity(), 0, "an idle connection owns memory");
        }
    }

    fn number(&mut self) -> u32 {
        let seq = self.next_request;
        self.next_request = seq.wrapping_add(1);
        seq
    }

    /// Whether the connection ends before the reply to this outstanding request.
    fn ends_before(&self, seq: u32) -> bool {
        self.end.is_some_and(|end| {
            seq.wrapping_sub(self.next_reply) >= end.wrapping_sub(self.next_reply)
        })
    }

    #[cold]
    fn park(&mut self, seq: u32, mode: Mode, write: impl FnOnce(&mut Replies<'_>)) -> Outcome {
        if self.ends_before(seq) {
            return write_reply(&mut Replies::nobody(), seq, write);
        }
        let place = seq.wrapping_sub(self.next_reply) as usize;
        if self.parked.len() <= place {
            self.parked.resize(place + 1, Slot::Awaited);
        }
        assert!(
            matches!(self.parked[place], Slot::Awaited),
            "a second reply to request {seq}"
        );
        let mut out = OutBuf::new();
        let outcome = write_in_mode(&mut out, mode, seq, write);
        self.parked_bytes += out.len();
        self.parked[place] = Slot::Parked(out);
        outcome
    }

    /// Moves the parked replies whose turn it is into the output.
    fn release(&mut self) {
        while let Some(Slot::Parked(_)) = self.parked.front() {
            let Some(Slot::Parked(out)) = self.parked.pop_front() else {
                unreachable!("the front slot is parked");
            };
            self.parked_bytes -= out.len();
            self.out.append(out);
            self.next_reply = self.next_reply.wrapping_add(1);
        }
        if self.parked.is_empty() {
            self.parked = VecDeque::new();
        }
    }

    fn parked_back_len(&self) -> usize {
        match self.parked.back() {
            Some(Slot::Parked(out)) => out.len(),
            _ => 0,
        }
    }
}

#[inline]
fn write_in_mode(
    out: &mut OutBuf,
    mode: Mode,
    seq: u32,
    write: impl FnOnce(&mut Replies<'_>),
) -> Outcome {
    let mut replies = match mode.replies {
        ReplyMode::On => Replies::client(out, mode.version),
        ReplyMode::Skip | ReplyMode::Off => Replies::nobody(),
    };
    write_reply(&mut replies, seq, write)
}

#[inline]
fn write_reply(
    replies: &mut Replies<'_>,
    seq: u32,
    write: impl FnOnce(&mut Replies<'_>),
) -> Outcome {
    write(replies);
    let missing = replies.missing();
    assert!(
        missing == 0,
        "request {seq}: a reply with {missing} elements missing"
    );
    replies.outcome()
}
