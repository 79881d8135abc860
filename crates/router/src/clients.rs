//! One entry a client connection, and the table of them.

use kvorum_base::ConnId;
use kvorum_resp::{Connection, Outcome, Replies, Version};

use crate::event::Effect;
use crate::limits::{
    CLIENT_HELD_BYTES_MAX, CLIENT_REQUEST_BYTES_MAX, CLIENT_REQUESTS_MAX, OUTPUT_BYTES_MAX,
    OUTPUT_BYTES_PAUSE,
};

/// What a connection is and says of itself.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) conn: ConnId,
    /// Its number for CLIENT ID; never reused while the router runs.
    pub(crate) serial: u64,
    /// Where it comes from.
    pub(crate) address: String,
    pub(crate) name: Vec<u8>,
    pub(crate) lib_name: Vec<u8>,
    pub(crate) lib_ver: Vec<u8>,
    opened_tick: u64,
    active_tick: u64,
    /// The last command, for CLIENT LIST.
    last_command: &'static str,
    /// The protocol version that it speaks, for CLIENT LIST.
    pub(crate) protocol: u8,
}

impl Profile {
    /// Its line in CLIENT LIST.
    pub(crate) fn line(&self, now_tick: u64) -> String {
        /// A tick is 10 ms; nothing is decided by these figures.
        const TICKS_PER_SECOND: u64 = 100;
        let seconds = |since: u64| now_tick.saturating_sub(since) / TICKS_PER_SECOND;
        format!(
            "id={} addr={} laddr= fd=0 name={} age={} idle={} flags=N db=0 sub=0 psub=0 ssub=0 \
             multi=-1 watch=0 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 \
             omem=0 tot-mem=0 events=r cmd={} user=default redir=-1 resp={} lib-name={} lib-ver={}",
            self.serial,
            self.address,
            String::from_utf8_lossy(&self.name),
            seconds(self.opened_tick),
            seconds(self.active_tick),
            self.last_command,
            self.protocol,
            String::from_utf8_lossy(&self.lib_name),
            String::from_utf8_lossy(&self.lib_ver),
        )
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) profile: Profile,
    pub(crate) connection: Connection,
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
            profile: Profile {
                conn,
                serial,
                address: address.to_owned(),
                name: Vec::new(),
                lib_name: Vec::new(),
                lib_ver: Vec::new(),
                opened_tick: now_tick,
                active_tick: now_tick,
                last_command: "NULL",
                protocol: Version::Resp2.number(),
            },
            connection,
            request_bytes: 0,
            is_sweeping: false,
            is_held: false,
            has_ended: false,
            touched: false,
            paused: false,
        }
    }

    /// It sent this command at this tick.
    pub(crate) fn ran(&mut self, command: &'static str, now_tick: u64) {
        self.profile.last_command = command;
        self.profile.active_tick = now_tick;
    }

    /// Whether its next request must wait: for a request over the whole keyspace, or for room.
    pub(crate) fn must_wait(&self) -> bool {
        self.is_sweeping
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

/// A place in the table, which the shell numbers.
#[derive(Debug, Default)]
struct Place {
    generation: u32,
    client: Option<Box<Client>>,
}

/// All clients of a router.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    places: Vec<Place>,
    /// Clients that may have output, be full or closing, or go on with what was kept; each once.
    touched: Vec<ConnId>,
    count: u64,
    next_serial: u64,
    /// Error replies since the start.
    pub(crate) errors: u64,
}

impl Clients {
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many there have been.
    pub(crate) fn opened(&self) -> u64 {
        self.next_serial
    }

    pub(crate) fn open(&mut self, conn: ConnId, address: &str, authenticated: bool, now_tick: u64) {
        let at = conn.index as usize;
        if self.places.len() <= at {
            self.places.resize_with(at + 1, Place::default);
        }
        self.next_serial += 1;
        let client = Client::new(conn, self.next_serial, address, authenticated, now_tick);
        let place = &mut self.places[at];
        assert!(place.client.is_none(), "connection {conn} was opened twice");
        *place = Place {
            generation: conn.generation,
            client: Some(Box::new(client)),
        };
        self.count += 1;
    }

    pub(crate) fn close(&mut self, conn: ConnId) {
        if let Some(place) = self.place(conn)
            && place.client.take().is_some()
        {
            self.count -= 1;
        }
    }

    fn place(&mut self, conn: ConnId) -> Option<&mut Place> {
        self.places
            .get_mut(conn.index as usize)
            .filter(|place| place.generation == conn.generation)
    }

    pub(crate) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Client> {
        self.place(conn)?.client.as_deref_mut()
    }

    /// Takes a client out while its requests are run; [`Self::put_back`] ends that.
    pub(crate) fn take(&mut self, conn: ConnId) -> Option<Box<Client>> {
        self.place(conn)?.client.take()
    }

    pub(crate) fn put_back(&mut self, client: Box<Client>) {
        let conn = client.profile.conn;
        let place = self
            .place(conn)
            .expect("a client that was taken out has its place");
        place.client = Some(client);
        self.touch(conn);
    }

    /// All clients but one that is taken out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.places
            .iter()
            .filter_map(|place| place.client.as_deref())
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
