//! DBSIZE, FLUSHALL and SCAN: requests over the whole keyspace, slot by slot.
//!
//! To ask every shard for its part is wrong while slots move: B says that it holds nothing of slot s, which
//! is staged there; s changes hands; A flushes what it has left. Both said OK, and s is full. So the slots
//! are what is counted here, not the shards: a node is asked about the slots that are still to be covered
//! (`KVORUM.SLOTS`), says which of them it covered as their owner, and the rest is asked of whoever owns the
//! first of it, until there is none. A slot that is sealed is waited for as any request to it is.
//!
//! A client's cursor is that of the nodes: a slot and a position in it, the same on every owner.
//!
//! What a client sent before is answered before this begins, and what it sends after is looked at when it
//! is done: it is about all keys.

use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{ConnId, Slot, SlotSet};
use kvorum_kv::{Spec, cursor_of, slot_of_cursor};
use kvorum_resp::answer::Elements;
use kvorum_resp::request::encode;
use kvorum_resp::{Args, ArgsBuf, Version};

use crate::answers::Answer;
use crate::clients::Client;
use crate::pieces::{Class, Owner, Piece};
use crate::planted::Bug;
use crate::router::Router;

/// What is done with all keys.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    /// DBSIZE: keys counted so far.
    Count(u64),
    /// FLUSHALL: whether any slot was.
    Flush { begun: bool },
    /// SCAN: the cursor to go on from, and the arguments behind it.
    Scan { cursor: u64, options: ArgsBuf },
}

/// A request over the whole keyspace.
#[derive(Debug)]
pub(crate) struct Sweep {
    seq: u32,
    kind: Kind,
    /// The slots that are not covered yet.
    left: SlotSet,
    deadline_tick: u64,
    /// It was begun: nothing of its client is on its way besides.
    running: bool,
}

/// Whether a command is one of these.
pub(crate) fn is_sweep(spec: &Spec) -> bool {
    matches!(spec.name, "dbsize" | "flushall" | "flushdb" | "scan")
}

impl Kind {
    /// What a request wants.
    ///
    /// # Errors
    /// The text of the reply, if it is wrong.
    fn of(spec: &Spec, args: Args<'_>) -> Result<Self, Vec<u8>> {
        match spec.name {
            "dbsize" => Ok(Self::Count(0)),
            "scan" => {
                // The nodes look at the options, and would at the cursor.
                let cursor = std::str::from_utf8(args.get(1)).ok();
                let cursor = cursor.and_then(|digits| digits.parse().ok());
                Ok(Self::Scan {
                    cursor: cursor.ok_or(&b"ERR invalid cursor"[..])?,
                    options: ArgsBuf::from(args.skip(2)),
                })
            }
            _ => {
                kvorum_kv::resolve(spec, args, &mut Vec::new())
                    .map_err(|refusal| refusal.text().to_vec())?;
                Ok(Self::Flush { begun: false })
            }
        }
    }
}

impl Sweep {
    /// The request for the node that owns the first slot that is left, and that slot.
    fn request(&self) -> Option<(Slot, ArgsBuf)> {
        let mut request = ArgsBuf::new();
        request.push(b"KVORUM.SLOTS");
        let slot = match &self.kind {
            Kind::Scan { cursor, options } => {
                let slot = slot_of_cursor(*cursor);
                for word in [
                    &b"SCAN"[..],
                    slot.to_string().as_bytes(),
                    (SLOT_COUNT - 1).to_string().as_bytes(),
                    cursor.to_string().as_bytes(),
                ] {
                    request.push(word);
                }
                for option in options.as_args().iter() {
                    request.push(option);
                }
                slot
            }
            kind => {
                let is_count = matches!(kind, Kind::Count(_));
                request.push(if is_count { b"COUNT" } else { b"FLUSH" });
                for (first, last) in self.left.runs() {
                    request.push(first.to_string().as_bytes());
                    request.push(last.to_string().as_bytes());
                }
                self.left.next_from(0)?
            }
        };
        Some((slot, request))
    }
}

/// The slots that a node covered, and the elements of its result.
fn covered(reply: &[u8]) -> Option<(SlotSet, Elements<'_>)> {
    let mut elements = Elements::new(reply);
    elements.array().filter(|len| *len == 2)?;
    let runs = elements.array()?;
    let mut slots = SlotSet::none();
    for _ in 0..runs {
        elements.array().filter(|len| *len == 2)?;
        let first = u16::try_from(elements.integer()?).ok()?;
        let last = u16::try_from(elements.integer()?).ok()?;
        if first > last || last >= SLOT_COUNT {
            return None;
        }
        for slot in first..=last {
            slots.insert(Slot(slot));
        }
    }
    Some((slots, elements))
}

impl Router {
    /// Takes in a request over the whole keyspace. It begins once nothing of its client is on its way.
    pub(crate) fn sweep(&mut self, client: &mut Client, seq: u32, spec: &Spec, args: Args<'_>) {
        let kind = match Kind::of(spec, args) {
            Ok(kind) => kind,
            Err(text) => return self.refuse_request(client, seq, &text),
        };
        client.is_sweeping = true;
        let sweep = Sweep {
            seq,
            kind,
            left: SlotSet::all(),
            deadline_tick: self.now_tick + self.config.deadline_ticks,
            running: false,
        };
        self.counters.sweeps += 1;
        self.sweeps.insert(client.profile.conn, sweep);
    }

    /// Begins a client's request over the whole keyspace, if it has one and nothing is before it.
    pub(crate) fn maybe_start_sweep(&mut self, conn: ConnId) {
        // What it waited for is not its own time.
        let deadline_tick = self.now_tick + self.config.deadline_ticks;
        let Some(client) = self.clients.get_mut(conn) else {
            return;
        };
        if client.is_sweeping
            && client.connection.outstanding() == 1
            && let Some(sweep) = self.sweeps.get_mut(&conn)
            && !sweep.running
        {
            sweep.running = true;
            sweep.deadline_tick = deadline_tick;
            self.ask_next(conn);
        }
    }

    /// A client is gone: what it asked of the whole keyspace is not begun any more.
    pub(crate) fn sweep_closed(&mut self, conn: ConnId) {
        if self.sweeps.get(&conn).is_some_and(|sweep| !sweep.running) {
            self.sweeps.remove(&conn);
        }
    }

    /// Asks the owner of the first slot that is left.
    fn ask_next(&mut self, conn: ConnId) {
        let Some(sweep) = self.sweeps.get(&conn) else {
            return;
        };
        let Some((slot, request)) = sweep.request() else {
            return self.sweep_done(conn);
        };
        let class = match sweep.kind {
            Kind::Flush { .. } => Class::Write,
            _ => Class::Read,
        };
        let piece = Piece::new(
            conn,
            slot,
            Owner::Sweep,
            class,
            Version::Resp2,
            encode(request.as_args()),
            sweep.deadline_tick,
        );
        let (id, before) = self.pieces.push(piece);
        self.send_new(id, before);
    }

    /// A node has answered for some slots.
    pub(crate) fn sweep_answered(&mut self, conn: ConnId, answer: Answer<'_>) {
        let reply = match answer {
            Answer::Reply(reply) if reply.first() != Some(&b'-') => reply,
            Answer::Reply(reply) => {
                let text = reply[1..].trim_ascii_end().to_vec();
                return self.sweep_refused(conn, &text);
            }
            Answer::Refused(text) => return self.sweep_refused(conn, &text),
            Answer::Unknown(text) => {
                return self.sweep_ends(conn, |replies| replies.error_bytes(&text));
            }
        };
        let missed = self.config.planted.has(Bug::MovingSlotMissed);
        let Some(sweep) = self.sweeps.get_mut(&conn) else {
            return;
        };
        let Some((slots, mut result)) = covered(reply).filter(|(slots, _)| !slots.is_empty())
        else {
            return self.sweep_refused(conn, b"ERR a node does not say which slots it covered");
        };
        if missed {
            // What the same node was believed to own is not asked of anybody else.
            let map = &self.map;
            let owner = |slot| map.owner(slot);
            let asked = slots.next_from(0).and_then(owner);
            let believed: Vec<Slot> = sweep
                .left
                .iter()
                .filter(|slot| owner(*slot) == asked)
                .collect();
            for slot in believed {
                sweep.left.remove(slot);
            }
        }
        match &mut sweep.kind {
            Kind::Count(keys) => {
                *keys += result
                    .integer()
                    .and_then(|keys| u64::try_from(keys).ok())
                    .unwrap_or(0);
            }
            Kind::Flush { begun } => *begun = true,
            Kind::Scan { .. } => return self.scan_answered(conn, &slots, result),
        }
        for slot in slots.iter() {
            sweep.left.remove(slot);
        }
        self.ask_next(conn);
    }

    /// A part of a walk has come.
    fn scan_answered(&mut self, conn: ConnId, slots: &SlotSet, mut result: Elements<'_>) {
        let next = result.array().and_then(|_| result.text());
        let next = next.and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
        let keys = result.raw();
        let Some((mut next, keys)) = next.zip(keys) else {
            return self.sweep_refused(conn, b"ERR a node does not say how to go on");
        };
        let Some(sweep) = self.sweeps.get_mut(&conn) else {
            return;
        };
        let last = slots.runs().next().map_or(0, |(_, last)| last);
        let at_end = next == 0;
        if at_end && last + 1 < SLOT_COUNT {
            next = cursor_of(Slot(last + 1));
        }
        // The end of what one node has is no reason to make the client ask again.
        let goes_on = at_end && next != 0 && keys.starts_with(b"*0");
        if goes_on && let Kind::Scan { cursor, .. } = &mut sweep.kind {
            *cursor = next;
            return self.ask_next(conn);
        }
        let keys = keys.to_vec();
        self.sweep_ends(conn, |replies| {
            replies.array(2);
            replies.bulk(next.to_string().as_bytes());
            replies.encoded(&keys);
        });
    }

    fn sweep_refused(&mut self, conn: ConnId, text: &[u8]) {
        let Some(sweep) = self.sweeps.get(&conn) else {
            return;
        };
        if sweep.kind == (Kind::Flush { begun: true }) {
            let left: Vec<String> = sweep
                .left
                .runs()
                .map(|(first, last)| format!("{first}-{last}"))
                .take(64)
                .collect();
            let text = format!(
                "UNKNOWN the keys of some slots were removed; not of the slots {}: {}",
                left.join(" "),
                String::from_utf8_lossy(text)
            );
            return self.sweep_ends(conn, |replies| replies.error(&text));
        }
        self.sweep_ends(conn, |replies| replies.error_bytes(text));
    }

    fn sweep_done(&mut self, conn: ConnId) {
        let Some(sweep) = self.sweeps.get(&conn) else {
            return;
        };
        let keys = match sweep.kind {
            Kind::Count(keys) => Some(i64::try_from(keys).unwrap_or(i64::MAX)),
            _ => None,
        };
        self.sweep_ends(conn, |replies| match keys {
            Some(keys) => replies.integer(keys),
            None => replies.ok(),
        });
    }

    fn sweep_ends(&mut self, conn: ConnId, write: impl FnOnce(&mut kvorum_resp::Replies<'_>)) {
        let Some(sweep) = self.sweeps.remove(&conn) else {
            return;
        };
        self.clients.reply(conn, sweep.seq, write);
        if let Some(client) = self.clients.get_mut(conn) {
            client.is_sweeping = false;
        }
    }
}
