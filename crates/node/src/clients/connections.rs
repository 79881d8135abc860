//! One entry a client connection, and the table of them.

use kvorum_base::{ConnId, GroupId};
use kvorum_resp::{Connection, Outcome, Replies, Version};

use super::gather::Gathers;
use crate::effect::Effect;
use crate::group::batch::{BatchNumber, ReplyTo};
use crate::limits::{
    CONNECTION_REQUESTS_MAX, HELD_BYTES_MAX, OUTPUT_BYTES_MAX, OUTPUT_BYTES_PAUSE,
};

/// What a connection is and says of itself.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) conn: ConnId,
    /// Its number for CLIENT ID; never reused while the node runs.
    pub(crate) serial: u64,
    /// Where it comes from.
    pub(crate) address: String,
    pub(crate) name: Vec<u8>,
    pub(crate) lib_name: Vec<u8>,
    pub(crate) lib_ver: Vec<u8>,
    opened_tick: u64,
    pub(crate) active_tick: u64,
    /// The last command, for CLIENT LIST.
    pub(crate) last_command: &'static str,
    /// The protocol version that it speaks, for CLIENT LIST.
    pub(crate) protocol: u8,
}

impl Profile {
    /// Its line in CLIENT LIST.
    pub(crate) fn line(&self, now_tick: u64) -> String {
        /// Ticks of 10 ms are what every configuration uses; nothing is decided by these figures.
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
    /// The last batch that this connection wrote to, by group: its reads wait for it.
    writes: Vec<(GroupId, BatchNumber)>,
    /// Its reads that wait for a round to be confirmed.
    pub(crate) unanswered_reads: u32,
    /// It is a router's link: see [`super::links`].
    pub(crate) is_router: bool,
    /// An earlier request of it waits for a primary, so later ones are not looked at.
    pub(crate) is_held: bool,
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
            writes: Vec::new(),
            unanswered_reads: 0,
            is_router: false,
            is_held: false,
            has_ended: false,
            touched: false,
            paused: false,
        }
    }

    /// If it sends no more it is closed once all is answered; what is held, and what is kept behind it, comes
    /// first.
    pub(crate) fn end_when_answered(&mut self) {
        if self.has_ended && !self.is_held {
            self.connection.close_when_answered();
        }
    }

    pub(crate) fn wrote(&mut self, group: GroupId, batch: BatchNumber) {
        match self.writes.iter_mut().find(|(to, _)| *to == group) {
            Some((_, last)) => *last = batch,
            None => self.writes.push((group, batch)),
        }
    }

    /// The last batch of that group that this connection wrote to; 0 for none.
    pub(crate) fn last_write(&self, group: GroupId) -> BatchNumber {
        self.writes
            .iter()
            .find(|(to, _)| *to == group)
            .map_or(0, |(_, batch)| *batch)
    }

    /// Whether it has been given more output than is kept for anybody. It is closed at the end of the turn,
    /// and what a turn still would give it is not made: a hundred kilobytes of requests can ask for
    /// gigabytes.
    pub(crate) fn is_overfull(&self) -> bool {
        self.connection.output_bytes() > OUTPUT_BYTES_MAX
    }

    /// Whether so much of it waits inside that it should not be read.
    fn is_full(&self) -> bool {
        self.connection.outstanding() >= CONNECTION_REQUESTS_MAX
            || self.connection.output_bytes() >= OUTPUT_BYTES_PAUSE
            || self.is_held && self.connection.input_bytes() >= HELD_BYTES_MAX
    }
}

/// A place in the table, which the shell numbers.
#[derive(Debug, Default)]
struct Place {
    generation: u32,
    client: Option<Box<Client>>,
}

/// All clients of a node.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: Vec<Place>,
    /// Connections that may have output, or be full, or be closing; each once.
    touched: Vec<ConnId>,
    count: u64,
    next_serial: u64,
    now_tick: u64,
    /// Requests that several groups answer.
    pub(crate) gathers: Gathers,
    /// Error replies since the start.
    pub(crate) errors: u64,
}

impl Table {
    pub(crate) fn set_now(&mut self, now_tick: u64) {
        self.now_tick = now_tick;
    }

    pub(crate) fn now_tick(&self) -> u64 {
        self.now_tick
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn open(&mut self, conn: ConnId, address: &str, authenticated: bool) {
        let at = conn.index as usize;
        if self.places.len() <= at {
            self.places.resize_with(at + 1, Place::default);
        }
        self.next_serial += 1;
        let client = Client::new(
            conn,
            self.next_serial,
            address,
            authenticated,
            self.now_tick,
        );
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

    /// The profiles of all clients, that of the one taken out included.
    pub(crate) fn profiles_with<'a>(
        &'a self,
        taken: &'a Profile,
    ) -> impl Iterator<Item = &'a Profile> {
        let others = self.places.iter().filter_map(|place| place.client.as_ref());
        others.map(|client| &client.profile).chain([taken])
    }

    /// Answers request `seq` of a connection. The answer is computed also when the client has gone:
    /// at apply it is the change that counts.
    pub(crate) fn reply(&mut self, conn: ConnId, seq: u32, write: impl FnOnce(&mut Replies<'_>)) {
        let Some(client) = self.get_mut(conn).filter(|client| !client.is_overfull()) else {
            return write(&mut Replies::nobody());
        };
        let outcome = client.connection.reply(seq, write);
        if !client.touched {
            client.touched = true;
            self.touched.push(conn);
        }
        self.errors += u64::from(outcome == Outcome::Error);
    }

    /// Answers a command, or the part of it that one group has.
    pub(crate) fn answer(&mut self, to: ReplyTo, write: impl FnOnce(&mut Replies<'_>)) {
        if to.is_part {
            self.gathers.answer(to, write);
        } else {
            self.reply(to.conn, to.seq, write);
        }
    }

    /// A read of this connection was answered, or goes another way.
    pub(crate) fn read_ended(&mut self, conn: ConnId) {
        if let Some(client) = self.get_mut(conn) {
            client.unanswered_reads = client.unanswered_reads.saturating_sub(1);
        }
    }

    fn touch(&mut self, conn: ConnId) {
        if let Some(client) = self.get_mut(conn)
            && !client.touched
        {
            client.touched = true;
            self.touched.push(conn);
        }
    }

    /// Looks at a connection again at the end of this turn.
    pub(crate) fn revisit(&mut self, conn: ConnId) {
        self.touch(conn);
    }

    /// At the end of a turn: output for everyone who has some, and whom to read or not to.
    pub(crate) fn flush(&mut self, effects: &mut Vec<Effect>) {
        let mut touched = std::mem::take(&mut self.touched);
        for conn in touched.drain(..) {
            let Some(client) = self.get_mut(conn) else {
                continue;
            };
            client.touched = false;
            if !client.connection.output().is_empty() {
                effects.push(Effect::Output(conn));
            }
            if client.connection.is_finished() || client.is_overfull() {
                effects.push(Effect::Close(conn));
                continue;
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
        self.touched = touched;
    }
}
