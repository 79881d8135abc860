//! One entry a client connection, and the table of them.

use kvorum_base::{ConnId, GroupId};
use kvorum_clients::{Places, Profile, Watches};
use kvorum_resp::{Connection, Outcome, Replies};

use super::gather::Gathers;
use crate::effect::Effect;
use crate::event::Door;
use crate::group::batch::{BatchNumber, ReplyTo};
use crate::limits::{
    CONNECTION_REQUESTS_MAX, HELD_BYTES_MAX, OUTPUT_BYTES_MAX, OUTPUT_BYTES_PAUSE,
};

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) profile: Profile,
    pub(crate) connection: Connection,
    pub(crate) door: Door,
    /// It has sent READONLY: replicas may answer what it reads.
    pub(crate) is_readonly: bool,
    /// The last batch that this connection wrote to, by group: its reads wait for it.
    writes: Vec<(GroupId, BatchNumber)>,
    /// Its reads that wait for a round to be confirmed.
    pub(crate) unanswered_reads: u32,
    /// The keys that it watches.
    pub(crate) watches: Watches,
    /// It is a router's link: see [`super::links`].
    pub(crate) is_router: bool,
    /// An earlier request of it waits for a primary, so later ones are not looked at.
    pub(crate) is_held: bool,
    /// When the request that is being let in came, if it was held since.
    pub(crate) held_since: Option<u64>,
    /// It sends no more.
    pub(crate) has_ended: bool,
    touched: bool,
    paused: bool,
}

impl Client {
    fn new(profile: Profile, door: Door, authenticated: bool) -> Self {
        let mut connection = Connection::new();
        connection.set_authenticated(authenticated);
        Self {
            profile,
            connection,
            door,
            is_readonly: false,
            writes: Vec::new(),
            unanswered_reads: 0,
            watches: Watches::default(),
            is_router: false,
            is_held: false,
            held_since: None,
            has_ended: false,
            touched: false,
            paused: false,
        }
    }

    /// Whether a follower here may answer what it reads.
    pub(crate) fn reads_at_replicas(&self) -> bool {
        self.is_readonly || self.door == Door::Replica
    }

    /// What HELLO and RESET change.
    pub(crate) fn parts(&mut self) -> (&mut Connection, &mut Profile) {
        (&mut self.connection, &mut self.profile)
    }

    /// Whether what it sends is not looked at yet.
    pub(crate) fn must_wait(&self) -> bool {
        self.is_held || self.watches.awaits()
    }

    /// Answers a request of it. The reply to the question behind a WATCH is for the watch.
    pub(crate) fn reply(&mut self, seq: u32, write: impl FnOnce(&mut Replies<'_>)) -> Outcome {
        if !self.watches.asked_as(seq) {
            return self.connection.reply(seq, write);
        }
        let mut answer = Vec::new();
        write(&mut Replies::stored(&mut answer));
        let watches = &mut self.watches;
        (self.connection).reply(seq, |replies| watches.answered(&answer, replies))
    }

    /// If it sends no more it is closed once all is answered; what is held, and what is kept behind it, comes
    /// first.
    pub(crate) fn end_when_answered(&mut self) {
        if self.has_ended && !self.must_wait() {
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
            || self.must_wait() && self.connection.input_bytes() >= HELD_BYTES_MAX
    }
}

/// All clients of a node.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: Places<Client>,
    /// Connections that may have output, or be full, or be closing; each once.
    touched: Vec<ConnId>,
    /// Connections whose WATCH was answered: what they sent behind it can be looked at.
    watching: Vec<ConnId>,
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
        self.places.count()
    }

    pub(crate) fn open(&mut self, conn: ConnId, address: &str, door: Door, authenticated: bool) {
        let now_tick = self.now_tick;
        self.places.open(conn, |serial| {
            let profile = Profile::new(conn, serial, address, now_tick);
            Client::new(profile, door, authenticated)
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

    /// The profiles of all clients, that of the one taken out included.
    pub(crate) fn profiles_with<'a>(
        &'a self,
        taken: &'a Profile,
    ) -> impl Iterator<Item = &'a Profile> {
        let others = self.places.iter().map(|client| &client.profile);
        others.chain([taken])
    }

    /// Answers request `seq` of a connection. The answer is computed also when the client has gone:
    /// at apply it is the change that counts.
    pub(crate) fn reply(&mut self, conn: ConnId, seq: u32, write: impl FnOnce(&mut Replies<'_>)) {
        let Some(client) = self.get_mut(conn).filter(|client| !client.is_overfull()) else {
            return write(&mut Replies::nobody());
        };
        let is_watch = client.watches.awaits();
        let outcome = client.reply(seq, write);
        let goes_on = is_watch && !client.watches.awaits();
        if !client.touched {
            client.touched = true;
            self.touched.push(conn);
        }
        if goes_on {
            self.watching.push(conn);
        }
        self.errors += u64::from(outcome == Outcome::Error);
    }

    /// The connections that can go on behind a WATCH.
    pub(crate) fn take_watching(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.watching)
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
