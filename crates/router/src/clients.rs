//! One entry a client connection, and the table of them.

use kvorum_base::ConnId;
use kvorum_clients::{Places, Profile, Watches};
use kvorum_resp::{Connection, Outcome, Replies};

use crate::event::Effect;
use crate::limits::{
    CLIENT_HELD_BYTES_MAX, CLIENT_REQUEST_BYTES_MAX, CLIENT_REQUESTS_MAX, OUTPUT_BYTES_MAX,
    OUTPUT_BYTES_PAUSE,
};

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) profile: Profile,
    pub(crate) connection: Connection,
    /// It has said READONLY: replicas may answer what it reads.
    pub(crate) is_readonly: bool,
    /// The keys that it watches.
    pub(crate) watches: Watches,
    /// The bytes of its requests that are not answered.
    pub(crate) request_bytes: usize,
    /// A request over the whole keyspace waits for the earlier ones, or runs: nothing behind it is looked
    /// at.
    pub(crate) is_sweeping: bool,
    /// Its input is kept until there is room again.
    is_held: bool,
    /// It sends no more.
    pub(crate) has_ended: bool,
    touched: bool,
    paused: bool,
}

impl Client {
    fn new(conn: ConnId, serial: u64, address: &str, authenticated: bool, now_tick: u64) -> Self {
        let mut connection = Connection::new();
        connection.set_authenticated(authenticated);
        Self {
            profile: Profile::new(conn, serial, address, now_tick),
            connection,
            is_readonly: false,
            watches: Watches::default(),
            request_bytes: 0,
            is_sweeping: false,
            is_held: false,
            has_ended: false,
            touched: false,
            paused: false,
        }
    }

    /// What HELLO and RESET change.
    pub(crate) fn parts(&mut self) -> (&mut Connection, &mut Profile) {
        (&mut self.connection, &mut self.profile)
    }

    /// It sent this command at this tick.
    pub(crate) fn ran(&mut self, command: &'static str, now_tick: u64) {
        self.profile.last_command = command;
        self.profile.active_tick = now_tick;
    }

    /// Whether its next request must wait: for a request over the whole keyspace, for a WATCH, or for room.
    pub(crate) fn must_wait(&self) -> bool {
        self.is_sweeping
            || self.watches.awaits()
            || self.connection.outstanding() >= CLIENT_REQUESTS_MAX
            || self.request_bytes >= CLIENT_REQUEST_BYTES_MAX
    }

    /// Keeps the rest of a read until [`Self::must_wait`] is over.
    pub(crate) fn hold(&mut self, data: &mut &[u8]) {
        self.is_held |= !data.is_empty();
        self.connection.hold(data);
    }

    /// What was kept, if it can be gone on with now.
    pub(crate) fn take_held(&mut self) -> Option<Vec<u8>> {
        if !self.is_held || self.must_wait() {
            return None;
        }
        self.is_held = false;
        Some(self.connection.take_held())
    }

    /// Whether input of it waits to be looked at.
    pub(crate) fn is_held(&self) -> bool {
        self.is_held
    }

    /// Whether it has been given more output than is kept for anybody.
    pub(crate) fn is_overfull(&self) -> bool {
        self.connection.output_bytes() > OUTPUT_BYTES_MAX
    }

    /// Whether so much of it waits inside that it should not be read.
    fn is_full(&self) -> bool {
        self.connection.outstanding() >= CLIENT_REQUESTS_MAX
            || self.request_bytes >= CLIENT_REQUEST_BYTES_MAX
            || self.connection.output_bytes() >= OUTPUT_BYTES_PAUSE
            || self.is_held && self.connection.input_bytes() >= CLIENT_HELD_BYTES_MAX
    }
}

/// All clients of a router.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    places: Places<Client>,
    /// Clients that may have output, be full or closing, or go on with what was kept; each once.
    touched: Vec<ConnId>,
    /// Error replies since the start.
    pub(crate) errors: u64,
}

impl Clients {
    pub(crate) fn count(&self) -> u64 {
        self.places.count()
    }

    /// How many there have been.
    pub(crate) fn opened(&self) -> u64 {
        self.places.opened()
    }

    pub(crate) fn open(&mut self, conn: ConnId, address: &str, authenticated: bool, now_tick: u64) {
        self.places.open(conn, |serial| {
            Client::new(conn, serial, address, authenticated, now_tick)
        });
    }

    pub(crate) fn close(&mut self, conn: ConnId) {
        self.places.close(conn);
    }

    pub(crate) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Client> {
        self.places.get_mut(conn)
    }

    /// Takes a client out while its requests are run; [`Self::put_back`] ends that.
    pub(crate) fn take(&mut self, conn: ConnId) -> Option<Box<Client>> {
        self.places.take(conn)
    }

    pub(crate) fn put_back(&mut self, client: Box<Client>) {
        let conn = client.profile.conn;
        self.places.put_back(conn, client);
        self.touch(conn);
    }

    /// All clients but one that is taken out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.places.iter()
    }

    /// Answers request `seq` of a client, if it is still there.
    pub(crate) fn reply(&mut self, conn: ConnId, seq: u32, write: impl FnOnce(&mut Replies<'_>)) {
        let Some(client) = self.get_mut(conn).filter(|client| !client.is_overfull()) else {
            return;
        };
        let outcome = client.connection.reply(seq, write);
        self.errors += u64::from(outcome == Outcome::Error);
        self.touch(conn);
    }

    /// Looks at a client again at the end of this turn.
    pub(crate) fn touch(&mut self, conn: ConnId) {
        if let Some(client) = self.get_mut(conn)
            && !client.touched
        {
            client.touched = true;
            self.touched.push(conn);
        }
    }

    /// Looks at all clients at the end of this turn.
    pub(crate) fn touch_all(&mut self) {
        let conns: Vec<ConnId> = self.iter().map(|client| client.profile.conn).collect();
        for conn in conns {
            self.touch(conn);
        }
    }

    /// The clients to look at, each once.
    pub(crate) fn take_touched(&mut self) -> Vec<ConnId> {
        let touched = std::mem::take(&mut self.touched);
        for conn in &touched {
            if let Some(client) = self.get_mut(*conn) {
                client.touched = false;
            }
        }
        touched
    }

    /// At the end of a turn: output for one who has some, and whether to read it or not to.
    pub(crate) fn flush(&mut self, conn: ConnId, effects: &mut Vec<Effect>) {
        let Some(client) = self.get_mut(conn) else {
            return;
        };
        if !client.connection.output().is_empty() {
            effects.push(Effect::Output(conn));
        }
        if client.connection.is_finished() || client.is_overfull() {
            effects.push(Effect::Close(conn));
            return;
        }
        let full = client.is_full();
        if full != client.paused {
            client.paused = full;
            effects.push(if full {
                Effect::Pause(conn)
            } else {
                Effect::Resume(conn)
            });
        }
    }
}
