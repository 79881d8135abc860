//! From a request to its pieces: known? allowed? whose?

use kvorum_base::{ConnId, Slot};
use kvorum_clients::transaction;
use kvorum_kv::command::spec::Flags;
use kvorum_kv::{CrossSlot, Keys, Run, Spec, keys_of, slot_of_keys};
use kvorum_resp::request::encode;
use kvorum_resp::{Args, InputLimits, Request, Version};

use crate::clients::Client;
use crate::gather::{Gather, kind_of, split};
use crate::limits::REQUEST_BYTES_MAX;
use crate::pieces::{Class, Owner, Piece};
use crate::router::Router;
use crate::sweeps::is_sweep;

const INPUT_LIMITS: InputLimits = InputLimits {
    args_max: 1024 * 1024,
    bulk_bytes_max: 32 << 20,
    request_bytes_max: 64 << 20,
};

const FULL: &[u8] = b"TRYAGAIN too many requests wait in this router; nothing was done";

/// Whether a request is a line of HTTP that a web page can make a browser send, with commands behind
/// it. As in Redis, such a connection ends without a word.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// What may be done with a command that was handed to a socket and has no answer.
fn class_of(spec: &Spec) -> Class {
    match spec.keys {
        Keys::Wrapped { .. } => Class::Once,
        _ if spec.is_read() => Class::Read,
        _ => Class::Write,
    }
}

impl Router {
    /// Runs all requests that these bytes complete.
    pub(crate) fn client_bytes(&mut self, conn: ConnId, mut data: &[u8]) {
        let Some(mut client) = self.clients.take(conn) else {
            return;
        };
        self.counters.input_bytes += data.len() as u64;
        self.run_requests(&mut client, &mut data);
        self.clients.put_back(client);
    }

    /// Goes on with what was kept of a client, if it can be.
    pub(crate) fn go_on_with_held(&mut self, conn: ConnId) {
        let Some(kept) = self.clients.get_mut(conn).and_then(Client::take_held) else {
            return;
        };
        let Some(mut client) = self.clients.take(conn) else {
            return;
        };
        self.run_requests(&mut client, &mut kept.as_slice());
        self.clients.put_back(client);
    }

    fn run_requests(&mut self, client: &mut Client, data: &mut &[u8]) {
        let mut scratch = std::mem::take(&mut self.scratch);
        loop {
            if client.must_wait() || client.is_held() {
                client.hold(data);
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
            self.counters.commands += 1;
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
        client.ran(spec.name, self.now_tick);
        if client.connection.transaction().is_some() && !transaction::is_run_at_once(spec) {
            return self.queue(client, seq, spec, args);
        }
        match spec.run {
            Run::Pure(run) => {
                client.connection.reply(seq, |replies| run(args, replies));
            }
            Run::Node(command) if command.is_of_transactions() => {
                self.transact(client, seq, command, args);
            }
            Run::Node(command) => self.run_local(client, seq, command, args),
            Run::Read(_) | Run::Write { .. } => self.route(client, seq, spec, args),
            Run::Container => unreachable!("{} was found without a subcommand", spec.name),
        }
    }

    pub(crate) fn refuse_request(&mut self, client: &mut Client, seq: u32, text: &[u8]) {
        self.clients.errors += 1;
        client
            .connection
            .reply(seq, |replies| replies.error_bytes(text));
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

    /// Sends a command on its way to whoever owns its keys.
    pub(crate) fn route(
        &mut self,
        client: &mut Client,
        seq: u32,
        spec: &'static Spec,
        args: Args<'_>,
    ) {
        if is_sweep(spec) {
            return self.sweep(client, seq, spec, args);
        }
        if kvorum_kv::swept_slots(spec, args).is_some() {
            let text =
                b"ERR slots are an affair of the nodes: ask one of them, or all of this router";
            return self.refuse_request(client, seq, text);
        }
        if self.pieces.bytes() + args.payload_bytes() > REQUEST_BYTES_MAX {
            return self.refuse_request(client, seq, FULL);
        }
        match slot_of_keys(keys_of(spec, args)) {
            // One without keys goes where a node would take it: to the first slot.
            Ok(slot) => {
                let owner = (Owner::Request(seq), client.connection.version(seq));
                self.submit(client, slot.unwrap_or_default(), owner, spec, args);
            }
            Err(CrossSlot) => self.split(client, seq, spec, args),
        }
    }

    pub(crate) fn submit(
        &mut self,
        client: &mut Client,
        slot: Slot,
        (owner, version): (Owner, Version),
        spec: &Spec,
        args: Args<'_>,
    ) {
        let request = encode(args);
        client.request_bytes += request.len();
        let mut piece = Piece::new(
            client.profile.conn,
            slot,
            owner,
            class_of(spec),
            version,
            request,
            self.now_tick + self.config.deadline_ticks,
        );
        let is_watch = matches!(owner, Owner::Watch(_));
        piece.at_replica = client.is_readonly && piece.class == Class::Read && !is_watch;
        let (id, before) = self.pieces.push(piece);
        self.send_new(id, before);
    }

    /// Splits a command whose keys lie in several slots, where that can be done.
    fn split(&mut self, client: &mut Client, seq: u32, spec: &'static Spec, args: Args<'_>) {
        let Some(kind) = kind_of(spec) else {
            return self.refuse_request(client, seq, CrossSlot::TEXT.as_bytes());
        };
        if spec.is_write()
            && let Err(refusal) = kvorum_kv::resolve(spec, args, &mut Vec::new())
        {
            return self.refuse_request(client, seq, refusal.text());
        }
        let (parts, part_of_key) = split(spec, args);
        let (conn, version) = (client.profile.conn, client.connection.version(seq));
        let gather = self.next_gather;
        self.next_gather += 1;
        let waiting = Gather::new(conn, seq, spec, kind, args, part_of_key, parts.len());
        self.gathers.insert(gather, waiting);
        self.counters.splits += 1;
        for (part, (slot, args)) in parts.iter().enumerate() {
            let owner = Owner::Part {
                gather,
                part: part as u32,
            };
            self.submit(client, *slot, (owner, version), spec, args.as_args());
        }
    }
}
