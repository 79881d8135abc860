//! The door: is the command known, may this client send it, whose slot is it, and can it go on here?
//!
//! What the door decides about ownership is only to save work: a group checks again when it applies. A
//! command that is refused here was never proposed, so texts that clients retry on are in place.

use kvorum_base::{Bug, ConnId, MoveId, NodeId, Slot};
use kvorum_clients::transaction;
use kvorum_kv::command::spec::Flags;
use kvorum_kv::{CrossSlot, Refusal, Run, Spec};
use kvorum_resp::{Args, ArgsBuf, InputLimits, Request};

use super::connections::Client;
use super::waiting::Held;
use super::{face, links, local};
use crate::event::Door;
use crate::format::entry::EntryBuilder;
use crate::group::Group;
use crate::group::batch::ReplyTo;
use crate::limits::{UNCOMMITTED_BYTES_MAX, UNSYNCED_CACHE_FACTOR, VALUE_BYTES_MAX};
use crate::moves::state::Whereabouts;
use crate::node::Node;

/// What the door did with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Passed {
    /// Answered, or in a group's hands.
    Yes,
    /// No primary is known: it waits, and so does what comes behind it.
    Wait,
}

/// Where a slot is that is not served here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Elsewhere {
    /// This node is to be asked.
    At(NodeId),
    /// On its way, or nobody knows yet.
    Unknown,
    /// No shard has it.
    Nowhere,
}

pub(crate) const INPUT_LIMITS: InputLimits = InputLimits {
    args_max: 1024 * 1024,
    bulk_bytes_max: VALUE_BYTES_MAX as u32,
    request_bytes_max: (VALUE_BYTES_MAX * 2) as u32,
};

/// Said where too much waits for the replicas. Nothing was proposed.
pub(crate) const BUSY: &str = "TRYAGAIN too many bytes of writes wait for the replicas";

/// Said of a slot that is just being moved. Nothing was done.
pub(crate) const MOVING: &str = "TRYAGAIN the slot is being moved to another shard";

/// Said where too much waits for this node's own disk. Nothing was proposed.
const DISK_BEHIND: &str = "TRYAGAIN too many bytes of writes wait for the disk of this node";

/// Why a command does not get into a batch.
enum LogRefusal {
    /// Its arguments are wrong.
    Arguments(Refusal),
    /// It is more than an entry can hold.
    TooLarge(usize),
}

impl LogRefusal {
    fn text(&self) -> Vec<u8> {
        match self {
            Self::Arguments(refusal) => refusal.text().to_vec(),
            Self::TooLarge(bytes) => {
                format!("ERR the command has {bytes} bytes, more than one entry can hold")
                    .into_bytes()
            }
        }
    }
}

/// Encodes a command into an entry, if it is right and fits.
fn encode(
    builder: &mut EntryBuilder,
    spec: &'static Spec,
    args: Args<'_>,
    bytes_max: usize,
) -> Result<(), LogRefusal> {
    builder.push_command(|out| {
        let before = out.len();
        kvorum_kv::resolve(spec, args, out).map_err(LogRefusal::Arguments)?;
        let bytes = out.len() - before;
        if bytes > bytes_max {
            Err(LogRefusal::TooLarge(bytes))
        } else {
            Ok(())
        }
    })
}

/// Whether a request is a line of HTTP that a web page can make a browser send, with commands behind
/// it. As in Redis, such a connection ends without a word.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

impl Node {
    /// Runs all requests that these bytes complete.
    pub(crate) fn client_bytes(&mut self, conn: ConnId, mut data: &[u8]) {
        let Some(mut client) = self.shared.table.take(conn) else {
            return;
        };
        client.profile.active_tick = self.shared.now_tick;
        self.shared.counters.input_bytes += data.len() as u64;
        self.run_requests(&mut client, &mut data);
        self.shared.table.put_back(client);
    }

    fn run_requests(&mut self, client: &mut Client, data: &mut &[u8]) {
        let mut scratch = std::mem::take(&mut self.scratch);
        loop {
            if client.must_wait() {
                client.connection.hold(data);
                break;
            }
            let request =
                client
                    .connection
                    .next_request_or_reply(&INPUT_LIMITS, data, &mut scratch);
            let Some(request) = request else { break };
            if client.is_overfull() {
                // It is closed at the end of the turn.
                break;
            }
            self.shared.counters.commands += 1;
            self.run_request(client, &request);
        }
        self.scratch = scratch;
    }

    fn run_request(&mut self, client: &mut Client, request: &Request<'_>) {
        let Request { seq, args } = *request;
        if is_http(args.get(0)) {
            // Everything before it is answered, it and what is behind it are not.
            client.connection.close_after(seq.wrapping_sub(1));
            return self.refuse_request(client, seq, b"ERR this is no HTTP server");
        }
        let spec = match kvorum_kv::find(args) {
            Ok(spec) => spec,
            Err(refusal) => return self.refuse_unrun(client, seq, args, refusal.text()),
        };
        if !client.connection.is_authenticated() && !spec.flags.has(Flags::NO_AUTH) {
            return self.refuse_unrun(client, seq, args, b"NOAUTH Authentication required.");
        }
        client.profile.last_command = spec.name;
        if client.connection.transaction().is_some() && !transaction::is_run_at_once(spec) {
            return self.queue(client, seq, spec, args);
        }
        if self.pass(client, seq, spec, args) == Passed::Wait {
            self.hold(client, seq, spec, args);
        }
    }

    /// Keeps a request until a primary is known; one of a router is refused.
    pub(super) fn hold(
        &mut self,
        client: &mut Client,
        seq: u32,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        if client.is_router {
            return self.refuse_request(client, seq, links::NO_PRIMARY.as_bytes());
        }
        client.is_held = true;
        let held = Held::new(client.profile.conn, seq, spec, args, self.shared.now_tick);
        self.shared.waiting.push(held);
    }

    /// Refuses a request that is wrong, which a transaction being queued does not survive.
    fn refuse_unrun(&mut self, client: &mut Client, seq: u32, args: Args<'_>, text: &[u8]) {
        let Client {
            connection,
            watches,
            ..
        } = client;
        let text = transaction::refused(connection, watches, args.get(0), text);
        self.refuse_request(client, seq, &text);
    }

    pub(super) fn refuse_request(&mut self, client: &mut Client, seq: u32, text: &[u8]) {
        self.shared.table.errors += 1;
        client.reply(seq, |replies| replies.error_bytes(text));
    }

    /// Lets an admitted command through to whoever runs it.
    fn pass(
        &mut self,
        client: &mut Client,
        seq: u32,
        spec: &'static Spec,
        args: Args<'_>,
    ) -> Passed {
        match spec.run {
            Run::Pure(run) => {
                client.connection.reply(seq, |replies| run(args, replies));
                Passed::Yes
            }
            Run::Node(command) if command.is_of_transactions() => {
                self.transact(client, seq, command, args)
            }
            Run::Node(command) => {
                local::run(self, client, seq, command, args);
                Passed::Yes
            }
            Run::Read(_) | Run::Write { .. } => self.pass_to_group(client, seq, spec, args),
            Run::Container => unreachable!("{} was found without a subcommand", spec.name),
        }
    }

    pub(super) fn pass_to_group(
        &mut self,
        client: &mut Client,
        seq: u32,
        spec: &'static Spec,
        args: Args<'_>,
    ) -> Passed {
        if let Some(reason) = &self.lost {
            let text = format!("CLUSTERDOWN this node is out of service: {reason}");
            self.refuse_request(client, seq, text.as_bytes());
            return Passed::Yes;
        }
        if !self.serving() {
            return Passed::Wait;
        }
        let named = match links::first_slot(spec, args) {
            Ok(slot) => slot,
            Err(text) => {
                self.refuse_request(client, seq, text.as_bytes());
                return Passed::Yes;
            }
        };
        let slot = kvorum_kv::slot_of_keys(kvorum_kv::keys_of(spec, args));
        match slot.map(|slot| slot.or(named)) {
            Ok(Some(slot)) => self.pass_to_slot(client, seq, slot, spec, args),
            Ok(None) => self.pass_to_all(client, seq, spec, args),
            Err(CrossSlot) => {
                self.refuse_request(client, seq, CrossSlot::TEXT.as_bytes());
                Passed::Yes
            }
        }
    }

    pub(super) fn pass_to_slot(
        &mut self,
        client: &mut Client,
        seq: u32,
        slot: Slot,
        spec: &'static Spec,
        args: Args<'_>,
    ) -> Passed {
        let Some(at) = self.places.group_of(slot) else {
            return self.pass_elsewhere(client, seq, slot);
        };
        let group = &self.groups[at];
        let narrowed = links::narrowed(group, spec, args);
        let args = narrowed.as_ref().map_or(args, ArgsBuf::as_args);
        if spec.is_write() && client.door == Door::Replica {
            return match group.primary() {
                Some(primary) => self.redirect(client, seq, slot, primary),
                None => Passed::Wait,
            };
        }
        if spec.is_write() && group.driver.holds_back(slot, self.shared.now_tick) {
            return Passed::Wait;
        }
        if spec.is_write()
            && (group.raft.transferring() || self.stopping.is_some() && group.leading())
        {
            // Soon somebody else leads, or it is clear that nobody does.
            return Passed::Wait;
        }
        if !group.leading() && !self.may_read_here(client, group, spec) {
            return match group.primary() {
                Some(primary) if primary != self.shared.config.node => {
                    self.redirect(client, seq, slot, primary)
                }
                _ => Passed::Wait,
            };
        }
        if spec.is_write()
            && let Some(text) = self.write_refusal(at, kvorum_kv::needs_memory(spec, args))
        {
            self.refuse_request(client, seq, text.as_bytes());
            return Passed::Yes;
        }
        let reply_to = ReplyTo {
            conn: client.profile.conn,
            seq,
            slot,
            is_read: false,
            is_part: false,
        };
        self.hand_over(client, reply_to, at, spec, args);
        Passed::Yes
    }

    /// Whether a follower here may answer: not behind a write of the same connection of which this replica
    /// does not know yet what became.
    fn may_read_here(&self, client: &Client, group: &Group, spec: &'static Spec) -> bool {
        let may = client.reads_at_replicas() && !spec.is_write();
        let knows_its_writes = client.last_write(group.id) <= group.batches.resolved();
        may && knows_its_writes && group.follows(self.shared.config.node)
    }

    /// No group here serves the slot: it is on its way, or elsewhere.
    fn pass_elsewhere(&mut self, client: &mut Client, seq: u32, slot: Slot) -> Passed {
        match self.elsewhere(slot) {
            Elsewhere::At(node) => self.redirect(client, seq, slot, node),
            Elsewhere::Unknown => Passed::Wait,
            Elsewhere::Nowhere => {
                self.refuse_request(client, seq, b"CLUSTERDOWN Hash slot not served");
                Passed::Yes
            }
        }
    }

    /// Where a slot is that no group here serves.
    pub(super) fn elsewhere(&self, slot: Slot) -> Elsewhere {
        let states = self.groups.iter().filter_map(|group| group.state.as_ref());
        let newest = states
            .filter_map(|state| state.moves.whereabouts(slot))
            .max();
        // The logs here know nothing of what the next owners did with it.
        let cluster = self.shared.cluster.as_ref();
        let told = cluster.map_or(MoveId::ZERO, |cluster| cluster.brought_by(slot));
        let newest = newest.filter(|(id, _)| *id >= told);
        let own = self.shared.config.node;
        let node = match newest.map(|(_, whose)| whose) {
            Some(Whereabouts::Moving) => None,
            // A primary that is here has not applied as much: soon it has.
            Some(Whereabouts::At(group)) => {
                self.shared.primary_of(group).filter(|node| *node != own)
            }
            None => match self.shard_elsewhere(slot) {
                Some(group) => self.node_to_ask(group),
                None => return Elsewhere::Nowhere,
            },
        };
        node.map_or(Elsewhere::Unknown, Elsewhere::At)
    }

    fn redirect(&mut self, client: &mut Client, seq: u32, slot: Slot, primary: NodeId) -> Passed {
        self.shared.counters.redirects += 1;
        let text = face::redirect(&self.shared.config, slot, Some(primary));
        self.refuse_request(client, seq, text.as_bytes());
        Passed::Yes
    }

    /// Gives a command to a group led here.
    pub(super) fn hand_over(
        &mut self,
        client: &mut Client,
        reply_to: ReplyTo,
        at: usize,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        if !spec.is_write() {
            return self.read(client, reply_to, at, spec, args);
        }
        self.shared.counters.writes += 1;
        if client.unanswered_reads > 0 && !client.is_router {
            self.log_reads_before(client, at);
        }
        self.log(client, reply_to, at, spec, args);
    }

    /// Adds a command to the open batch of a group.
    fn log(
        &mut self,
        client: &mut Client,
        reply_to: ReplyTo,
        at: usize,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        let group = &mut self.groups[at];
        let builder = group.batches.open(self.shared.now_tick);
        match encode(builder, spec, args, self.command_bytes_max) {
            Ok(()) => {
                let batch = group.batches.added(reply_to);
                client.wrote(group.id, batch);
            }
            Err(refusal) if reply_to.is_part => {
                let (gathers, text) = (&mut self.shared.table.gathers, refusal.text());
                gathers.answer(reply_to, |replies| replies.error_bytes(&text));
            }
            Err(refusal) => self.refuse_request(client, reply_to.seq, &refusal.text()),
        }
    }

    /// Unanswered reads of this connection must not see the write that comes now: they take their
    /// place before it in the log.
    fn log_reads_before(&mut self, client: &mut Client, at: usize) {
        let Group {
            reads, batches, id, ..
        } = &mut self.groups[at];
        let (conn, now_tick) = (client.profile.conn, self.shared.now_tick);
        let bytes_max = self.command_bytes_max;
        let mut taken = 0;
        reads.take_of(conn, |reply_to, spec, args| {
            taken += 1;
            let reply_to = ReplyTo {
                is_read: true,
                ..reply_to
            };
            let builder = batches.open(now_tick);
            match encode(builder, spec, args, bytes_max) {
                Ok(()) => client.wrote(*id, batches.added(reply_to)),
                Err(refusal) => {
                    let text = refusal.text();
                    client.reply(reply_to.seq, |replies| replies.error_bytes(&text));
                }
            }
        });
        // Others may wait in other groups: what is there has no order with what is here.
        client.unanswered_reads -= taken;
    }

    /// Why writes are refused at the moment, if they are. None of these has been proposed.
    pub(super) fn write_refusal(&self, at: usize, needs_memory: bool) -> Option<&'static str> {
        let group = &self.groups[at];
        if !self.shared.log.writable() {
            return Some(
                "MISCONF the disk of this node has no room for the log; reads go on, and writes \
                 will once there is room",
            );
        }
        let waiting =
            group.batches.unproposed_bytes() as u64 + group.raft.uncommitted_bytes() as u64;
        if waiting >= UNCOMMITTED_BYTES_MAX {
            return Some(BUSY);
        }
        let unsynced_bytes_max = self.shared.config.log_cache_bytes * UNSYNCED_CACHE_FACTOR;
        if self.shared.log.pending_bytes() as u64 >= unsynced_bytes_max {
            return Some(DISK_BEHIND);
        }
        if needs_memory && self.memory_is_full(group) {
            return Some("OOM command not allowed when used memory > 'maxmemory'.");
        }
        None
    }

    /// Whether a node of the group's replicas has as much as it may have: it must apply what this one
    /// proposes, and would be killed.
    fn memory_is_full(&self, group: &Group) -> bool {
        let own = self.shared.config.memory_bytes_max;
        let states = self.groups.iter().filter_map(|group| group.state.as_ref());
        let used = || {
            states
                .map(|state| state.keyspace.logical_bytes())
                .sum::<u64>()
        };
        let mut members = group.raft.membership().nodes.values();
        own.is_some_and(|limit| used() >= limit)
            || members.any(|node| !self.shared.peers.has_room(*node, 0))
    }

    fn read(
        &mut self,
        client: &mut Client,
        reply_to: ReplyTo,
        at: usize,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        self.shared.counters.reads += 1;
        let group = &mut self.groups[at];
        let behind_write = !client.is_router
            && client.last_write(group.id) > group.batches.resolved()
            && !self.shared.config.planted.has(Bug::ReadOvertakesWrite);
        if behind_write {
            let is_read = true;
            self.log(
                client,
                ReplyTo {
                    is_read,
                    ..reply_to
                },
                at,
                spec,
                args,
            );
        } else {
            client.unanswered_reads += 1;
            let now_tick = self.shared.now_tick;
            let since_tick = client.held_since.unwrap_or(now_tick);
            (group.reads).push(reply_to, spec, args, (since_tick, now_tick));
        }
    }

    /// Tries everything that is held again: somebody leads now, or leads no more.
    pub(crate) fn retry_held(&mut self) {
        let mut freed = Vec::new();
        let mut blocked = None;
        for held in self.shared.waiting.take() {
            let Some(mut client) = self.shared.table.take(held.conn) else {
                continue;
            };
            client.held_since = Some(held.since_tick);
            // Behind a request that waits again the later ones of its connection wait too.
            let waits = blocked == Some(held.conn)
                || self.pass(&mut client, held.seq, held.spec, held.args.as_args()) == Passed::Wait;
            client.held_since = None;
            self.shared.table.put_back(client);
            if waits {
                blocked = Some(held.conn);
                self.shared.waiting.push(held);
            } else if freed.last() != Some(&held.conn) {
                freed.push(held.conn);
            }
        }
        self.resume(&freed);
    }

    /// Refuses what was held for too long.
    pub(crate) fn refuse_overdue_held(&mut self) {
        let deadline_ticks = self.shared.config.deadline_ticks;
        let Some(tick) = self.shared.now_tick.checked_sub(deadline_ticks) else {
            return;
        };
        let mut freed = Vec::new();
        for held in self.shared.waiting.take_overdue(tick) {
            self.shared.table.reply(held.conn, held.seq, |replies| {
                replies.error(face::NO_PRIMARY);
            });
            freed.push(held.conn);
        }
        self.resume(&freed);
    }

    /// Refuses everything that is held: the node ends.
    pub(crate) fn refuse_all_held(&mut self) {
        for held in self.shared.waiting.take() {
            self.shared.table.reply(held.conn, held.seq, |replies| {
                replies.error(face::NO_PRIMARY);
            });
        }
    }

    /// Goes on with what was kept behind held requests, where none is left, or behind a WATCH.
    pub(crate) fn resume(&mut self, conns: &[ConnId]) {
        for conn in conns {
            if self.shared.waiting.holds(*conn) {
                continue;
            }
            let Some(mut client) = self.shared.table.take(*conn) else {
                continue;
            };
            client.is_held = false;
            let kept = client.connection.take_held();
            self.run_requests(&mut client, &mut kept.as_slice());
            client.end_when_answered();
            self.shared.table.put_back(client);
        }
    }
}
