//! Reads on their way to a linearizable answer without a log entry (Raft thesis, section 6.4).
//!
//! All reads of a turn share one round: a fresh number that a majority confirms by answering a
//! heartbeat that carries it. The state may be read once everything is applied that was committed
//! when the round began. One round is asked for at a time; what comes meanwhile is the next one.
//!
//! Requests of one connection take effect in their order, also where nothing is answered yet: every
//! pipeline expects `SET k 1`, `GET k`, `INCR k` to give 1 and 2. A round cannot do that: its moment has no
//! place among the entries. So a read that has an unanswered write of its own connection before or
//! behind it goes through the log, in its place among the writes. It changes nothing there, and costs
//! only pipelines that mix.
//!
//! A follower answers reads too, with an index that the primary gives it ([`super::asking`]): a round of
//! the follower's is one question, and joins a round of the primary's there as one more read.

use std::collections::VecDeque;
use std::ops::Range;

use kvorum_base::{ConnId, Index, NodeId};
use kvorum_kv::{Keyspace, Spec, WARM_KEYS_MAX, keys_of};
use kvorum_resp::Args;

use super::batch::ReplyTo;
use crate::format::peer::Ask;

/// One read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) reply_to: ReplyTo,
    pub(crate) spec: &'static Spec,
    /// Where its arguments lie in the round's arena.
    args: Range<u32>,
    /// When it came to this node; it may have been at the door more than once since.
    since_tick: u64,
}

/// Who confirms a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    /// A majority, asked by this replica as the primary.
    Majority,
    /// The primary, asked by this replica as a follower.
    Primary,
}

/// The reads that share a number, and the bytes of their arguments.
#[derive(Debug, Default)]
pub(crate) struct Round {
    reads: Vec<Read>,
    /// Followers that want to know its index, and their nodes.
    asks: Vec<(NodeId, Ask)>,
    bytes: Vec<u8>,
    ranges: Vec<Range<u32>>,
    /// When it began.
    since_tick: u64,
    /// When the oldest of its reads came.
    oldest_tick: u64,
}

/// All reads of a group that are not answered.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    gathering: Round,
    /// Asked for, by number; not confirmed. Numbers of the two kinds have nothing to do with each other.
    asked: VecDeque<(By, u64, Round)>,
    /// Confirmed: may run once this index is applied.
    confirmed: VecDeque<(Index, Round)>,
    spare: Vec<Round>,
}

impl Round {
    fn push(&mut self, reply_to: ReplyTo, spec: &'static Spec, args: Args<'_>, since_tick: u64) {
        let first = self.ranges.len() as u32;
        for arg in args.iter() {
            let start = self.bytes.len() as u32;
            self.bytes.extend_from_slice(arg);
            self.ranges.push(start..self.bytes.len() as u32);
        }
        self.reads.push(Read {
            reply_to,
            spec,
            args: first..self.ranges.len() as u32,
            since_tick,
        });
        self.oldest_tick = self.oldest_tick.min(since_tick);
    }

    fn begin(&mut self, now_tick: u64) {
        self.since_tick = now_tick;
        self.oldest_tick = now_tick;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.asks.is_empty()
    }

    fn args(&self, read: &Read) -> Args<'_> {
        let Range { start, end } = read.args.clone();
        Args::new(&self.bytes, &self.ranges[start as usize..end as usize])
    }

    fn clear(&mut self) {
        self.reads.clear();
        self.asks.clear();
        self.bytes.clear();
        self.ranges.clear();
    }
}

impl Reads {
    /// Adds a read, which came at `since_tick`, to the round that the end of this turn may ask for.
    pub(crate) fn push(
        &mut self,
        reply_to: ReplyTo,
        spec: &'static Spec,
        args: Args<'_>,
        (since_tick, now_tick): (u64, u64),
    ) {
        if self.gathering.is_empty() {
            self.gathering.begin(now_tick);
        }
        self.gathering.push(reply_to, spec, args, since_tick);
    }

    /// Adds a follower's question to that round.
    pub(crate) fn push_ask(&mut self, node: NodeId, ask: Ask, now_tick: u64) {
        if self.gathering.is_empty() {
            self.gathering.begin(now_tick);
        }
        self.gathering.asks.push((node, ask));
    }

    /// Whether the gathered reads should be numbered now: no other round is unconfirmed, or they have
    /// waited for a tick. While the primary is being asked they wait for its answer: it may be one that is
    /// not heard, and a question for every tick would be kept.
    pub(crate) fn round_due(&self, now_tick: u64) -> bool {
        !self.gathering.is_empty()
            && (self.asked.is_empty()
                || !self.awaits_primary() && self.gathering.since_tick < now_tick)
    }

    /// The gathered reads have this number now.
    pub(crate) fn asked(&mut self, by: By, number: u64) {
        let next = self.spare.pop().unwrap_or_default();
        let round = std::mem::replace(&mut self.gathering, next);
        self.asked.push_back((by, number, round));
    }

    /// Whether the primary was asked and has not answered.
    pub(crate) fn awaits_primary(&self) -> bool {
        (self.asked.back()).is_some_and(|(by, _, _)| *by == By::Primary)
    }

    /// This number and all before it are confirmed; followers that wait for the index are told.
    pub(crate) fn confirmed(
        &mut self,
        (by, number): (By, u64),
        index: Index,
        mut tell: impl FnMut(NodeId, Ask),
    ) {
        let is_confirmed = |asked: &(By, u64, Round)| asked.0 == by && asked.1 <= number;
        while self.asked.front().is_some_and(is_confirmed) {
            let (_, _, mut round) = self.asked.pop_front().expect("a front");
            for (node, ask) in round.asks.drain(..) {
                tell(node, ask);
            }
            match round.is_empty() {
                true => self.recycle(round),
                false => self.confirmed.push_back((index, round)),
            }
        }
    }

    /// Runs every read whose index is applied; with when it came.
    pub(crate) fn run_ready(
        &mut self,
        applied: Index,
        keyspace: &Keyspace,
        mut run: impl FnMut((ReplyTo, u64), &'static Spec, Args<'_>),
    ) {
        while self
            .confirmed
            .front()
            .is_some_and(|(index, _)| *index <= applied)
        {
            let (_, round) = self.confirmed.pop_front().expect("a front");
            for group in round.reads.chunks(WARM_KEYS_MAX) {
                let keys = |read: &'_ Read| keys_of(read.spec, round.args(read));
                keyspace.warm(group.iter().flat_map(keys));
                for read in group {
                    let from = (read.reply_to, read.since_tick);
                    run(from, read.spec, round.args(read));
                }
            }
            self.recycle(round);
        }
    }

    /// Takes the unanswered reads of one connection out, in their order.
    pub(crate) fn take_of(
        &mut self,
        conn: ConnId,
        mut take: impl FnMut(ReplyTo, &'static Spec, Args<'_>),
    ) {
        let confirmed = self.confirmed.iter_mut().map(|(_, round)| round);
        let asked = self.asked.iter_mut().map(|(_, _, round)| round);
        for round in confirmed.chain(asked).chain([&mut self.gathering]) {
            let mut reads = std::mem::take(&mut round.reads);
            for read in reads.extract_if(.., |read| read.reply_to.conn == conn) {
                take(read.reply_to, read.spec, round.args(&read));
            }
            round.reads = reads;
        }
    }

    /// Takes every read that is not confirmed: this replica does not lead. They changed nothing.
    pub(crate) fn void(&mut self, mut refuse: impl FnMut(ReplyTo, &'static Spec, Args<'_>, u64)) {
        let asked = std::mem::take(&mut self.asked)
            .into_iter()
            .map(|(_, _, round)| round);
        for mut round in asked.chain([std::mem::take(&mut self.gathering)]) {
            for read in &round.reads {
                refuse(read.reply_to, read.spec, round.args(read), read.since_tick);
            }
            round.clear();
            self.recycle(round);
        }
    }

    /// Takes the reads that came at or before `tick` and are not answered.
    pub(crate) fn take_overdue(&mut self, tick: u64) -> Vec<ReplyTo> {
        let rounds = (self.asked.iter_mut().map(|(_, _, round)| round))
            .chain(self.confirmed.iter_mut().map(|(_, round)| round))
            .chain([&mut self.gathering]);
        let late = |read: &mut Read| read.since_tick <= tick;
        rounds
            .filter(|round| round.oldest_tick <= tick)
            .flat_map(|round| round.reads.extract_if(.., late).map(|read| read.reply_to))
            .collect()
    }

    /// Whether reads wait for nothing but the state.
    pub(crate) fn has_confirmed(&self) -> bool {
        !self.confirmed.is_empty()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.gathering.is_empty() && self.asked.is_empty() && self.confirmed.is_empty()
    }

    fn recycle(&mut self, mut round: Round) {
        const SPARE_MAX: usize = 4;
        const SPARE_BYTES_MAX: usize = 1 << 20;
        if self.spare.len() < SPARE_MAX && round.bytes.capacity() <= SPARE_BYTES_MAX {
            round.clear();
            self.spare.push(round);
        }
    }
}
