//! Commands without keys that concern the whole keyspace: asked of every group that this node leads, and
//! answered once all have answered.
//!
//! Each group answers its part as it would answer a client; the parts are put together here. They are
//! not one snapshot: each is taken at its group's own moment. A read of which one part could not be read
//! goes back to the door as a whole. A write of which one part was done and another refused has an
//! outcome that no reply of Redis names: it is called unknown, and says so.

use std::collections::BTreeMap;

use kvorum_base::{ConnId, Slot};
use kvorum_kv::{Spec, Spread};
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, ArgsBuf, Replies};

use super::connections::Client;
use super::gate::Passed;
use super::waiting::Held;
use crate::event::Door;
use crate::group::Group;
use crate::group::batch::ReplyTo;
use crate::node::Node;

/// Said to a command that would change all keys of a replica. Nothing was proposed.
const READONLY: &[u8] = b"READONLY You can't write against a read only replica.";

/// One command on its way to several groups.
#[derive(Debug)]
pub(crate) struct Gather {
    conn: ConnId,
    seq: u32,
    is_read: bool,
    /// Parts that are not answered yet.
    missing: usize,
    done: usize,
    sum: i64,
    least: Option<i64>,
    spread: Spread,
    /// The first refusal: that part certainly did not happen.
    refused: Option<Vec<u8>>,
    unknown: Option<Vec<u8>>,
    /// What to ask again, and since when it waits.
    again: Option<(&'static Spec, ArgsBuf, u64)>,
}

/// All of a node.
#[derive(Debug, Default)]
pub(crate) struct Gathers {
    open: BTreeMap<(ConnId, u32), Gather>,
    complete: Vec<Gather>,
}

impl Gathers {
    /// Expects so many parts for this request.
    pub(crate) fn begin(&mut self, to: ReplyTo, spread: Spread, is_read: bool, parts: usize) {
        let gather = Gather {
            conn: to.conn,
            seq: to.seq,
            is_read,
            missing: parts,
            done: 0,
            sum: 0,
            least: None,
            spread,
            refused: None,
            unknown: None,
            again: None,
        };
        self.open.insert((to.conn, to.seq), gather);
    }

    fn take_part(&mut self, to: ReplyTo, put: impl FnOnce(&mut Gather)) {
        let key = (to.conn, to.seq);
        let Some(gather) = self.open.get_mut(&key) else {
            return;
        };
        put(gather);
        gather.missing -= 1;
        if gather.missing == 0
            && let Some(gather) = self.open.remove(&key)
        {
            self.complete.push(gather);
        }
    }

    /// One part was answered; says whether with an error.
    pub(crate) fn answer(&mut self, to: ReplyTo, write: impl FnOnce(&mut Replies<'_>)) {
        let mut reply = Vec::new();
        write(&mut Replies::stored(&mut reply));
        self.take_part(to, |gather| gather.put(&reply));
    }

    /// One part, a read, cannot be read here.
    pub(crate) fn void(
        &mut self,
        to: ReplyTo,
        spec: &'static Spec,
        args: Args<'_>,
        since_tick: u64,
    ) {
        self.take_part(to, |gather| {
            let known_tick = (gather.again.as_ref()).map_or(since_tick, |(.., tick)| *tick);
            gather.again = Some((spec, ArgsBuf::from(args), since_tick.min(known_tick)));
        });
    }

    /// What has all its parts.
    pub(crate) fn take_complete(&mut self) -> Vec<Gather> {
        std::mem::take(&mut self.complete)
    }
}

impl Gather {
    fn put(&mut self, reply: &[u8]) {
        let line = reply.strip_suffix(b"\r\n").unwrap_or(reply);
        match line.split_first() {
            Some((b'-', text)) if text.starts_with(b"UNKNOWN") => {
                self.unknown.get_or_insert(text.to_vec());
            }
            Some((b'-', text)) => {
                self.refused.get_or_insert(text.to_vec());
            }
            Some((b':', digits)) => {
                let number = parse_integer(digits).unwrap_or(0);
                self.done += 1;
                self.sum = self.sum.saturating_add(number);
                self.least = Some(self.least.map_or(number, |least| least.min(number)));
            }
            _ => self.done += 1,
        }
    }

    fn reply(&self, replies: &mut Replies<'_>) {
        match (&self.unknown, &self.refused) {
            (Some(text), _) => replies.error_bytes(text),
            (None, Some(text)) if self.done == 0 || self.is_read => replies.error_bytes(text),
            (None, Some(text)) => {
                let begin = b"UNKNOWN some shards did it and some did not: ";
                replies.error_bytes(&[&begin[..], text].concat());
            }
            (None, None) => match self.spread {
                Spread::Sum => replies.integer(self.sum),
                Spread::Least => replies.integer(self.least.unwrap_or(0)),
                Spread::All | Spread::One | Spread::Walk => replies.ok(),
            },
        }
    }
}

/// Whether a command about all keys is about this group's: the port for primaries stands for what is led
/// here, that for replicas for what is followed.
fn covers(door: Door, group: &Group) -> bool {
    group.state.is_some() && group.leading() == (door == Door::Primary)
}

impl Node {
    /// Answers what has all its parts.
    pub(crate) fn answer_gathered(&mut self) {
        for gather in self.shared.table.gathers.take_complete() {
            let table = &mut self.shared.table;
            let Some((spec, args, since_tick)) = &gather.again else {
                table.reply(gather.conn, gather.seq, |replies| gather.reply(replies));
                continue;
            };
            if let Some(client) = table.get_mut(gather.conn) {
                client.is_held = true;
                let args = args.as_args();
                let held = Held::new(gather.conn, gather.seq, spec, args, *since_tick);
                self.shared.waiting.push(held);
                self.shared.roles_changed = true;
            }
        }
    }

    /// A command without keys concerns every group that is led here, or followed at the port for replicas.
    /// Where none is, it goes where the first slot is served, as one with a key would.
    pub(super) fn pass_to_all(
        &mut self,
        client: &mut Client,
        seq: u32,
        spec: &'static Spec,
        args: Args<'_>,
    ) -> Passed {
        if spec.is_write() && client.door == Door::Replica {
            self.refuse_request(client, seq, READONLY);
            return Passed::Yes;
        }
        let groups = self.groups.iter().enumerate();
        let led: Vec<usize> = groups
            .filter(|(_, group)| covers(client.door, group) && !group.served().is_empty())
            .map(|(at, _)| at)
            .collect();
        let slot_of = |at: usize| self.groups[at].served().next_from(0).unwrap_or_default();
        match (spec.spread(), &led[..]) {
            (_, []) => self.pass_to_slot(client, seq, Slot::default(), spec, args),
            (Spread::Walk, _) => self.pass_walk(client, seq, spec, args),
            (Spread::One, [at, ..]) | (_, [at]) => {
                self.pass_to_slot(client, seq, slot_of(*at), spec, args)
            }
            (spread, _) => self.pass_parts(client, seq, (spec, spread), args, &led),
        }
    }

    /// Asks each of these groups for its part.
    fn pass_parts(
        &mut self,
        client: &mut Client,
        seq: u32,
        (spec, spread): (&'static Spec, Spread),
        args: Args<'_>,
        led: &[usize],
    ) -> Passed {
        let mut groups = led.iter().map(|at| &self.groups[*at]);
        if spec.is_write()
            && (self.stopping.is_some() || groups.any(|group| group.raft.transferring()))
        {
            return Passed::Wait;
        }
        let needs_memory = kvorum_kv::needs_memory(spec, args);
        let refusal = |at: &usize| self.write_refusal(*at, needs_memory);
        if spec.is_write()
            && let Some(text) = led.iter().find_map(refusal)
        {
            self.refuse_request(client, seq, text.as_bytes());
            return Passed::Yes;
        }
        let reply_to = ReplyTo {
            conn: client.profile.conn,
            seq,
            slot: Slot::default(),
            is_read: false,
            is_part: true,
        };
        let (gathers, is_read) = (&mut self.shared.table.gathers, !spec.is_write());
        gathers.begin(reply_to, spread, is_read, led.len());
        for at in led {
            let slot = self.groups[*at].served().next_from(0).unwrap_or_default();
            self.hand_over(client, ReplyTo { slot, ..reply_to }, *at, spec, args);
        }
        Passed::Yes
    }

    /// A call of a walk goes as far as the stretch of slots in which it is: each is one group's.
    fn pass_walk(
        &mut self,
        client: &mut Client,
        seq: u32,
        spec: &'static Spec,
        args: Args<'_>,
    ) -> Passed {
        let Some((cursor, slot)) = kvorum_kv::cursor_in(args) else {
            // A request with a wrong cursor is refused by whoever reads it.
            let first = self
                .next_covered(client.door, 0)
                .map_or(Slot::default(), |(slot, _)| slot);
            return self.pass_to_slot(client, seq, first, spec, args);
        };
        let Some((first, last)) = self.next_covered(client.door, slot.get()) else {
            client.connection.reply(seq, |replies| {
                replies.array(2);
                replies.bulk(b"0");
                replies.array(0);
            });
            return Passed::Yes;
        };
        let cursor = cursor.max(kvorum_kv::cursor_of(first));
        let next = self.next_covered(client.door, last.get() + 1);
        let beyond = next.map_or(0, |(slot, _)| kvorum_kv::cursor_of(slot));
        let bounded = kvorum_kv::scan_within(args, cursor, last, beyond);
        self.pass_to_slot(client, seq, first, spec, bounded.as_args())
    }

    /// The next stretch of slots that one covered group serves: the first slot from `from` on, and the last
    /// one of the stretch.
    fn next_covered(&self, door: Door, from: u16) -> Option<(Slot, Slot)> {
        let covered = self.groups.iter().filter(|group| covers(door, group));
        let next = covered.filter_map(|group| Some((group.served().next_from(from)?, group)));
        let (first, group) = next.min_by_key(|(slot, _)| *slot)?;
        Some((first, group.served().end_of_run(first)))
    }
}
