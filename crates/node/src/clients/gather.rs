//! Commands without keys that concern the whole keyspace: asked of every group that this node leads, and
//! answered once all have answered.
//!
//! Each group answers its part as it would answer a client; the parts are put together here. They are
//! not one snapshot: each is taken at its group's own moment. A read of which one part could not be read
//! goes back to the door as a whole. A write of which one part was done and another refused has an
//! outcome that no reply of Redis names: it is called unknown, and says so.

use std::collections::BTreeMap;

use kvorum_base::ConnId;
use kvorum_kv::{Spec, Spread};
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, ArgsBuf, Replies};

use super::waiting::Held;
use crate::group::batch::ReplyTo;
use crate::node::Node;

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
            gather.again = Some((spec, ArgsBuf::from(args), since_tick));
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
}
