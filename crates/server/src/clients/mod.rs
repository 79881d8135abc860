//! The clients' sockets: accepting, reading, writing.
//!
//! A connection here is a socket and four flags. Its protocol state, its unfinished request and its
//! waiting output are the core's: so a simulator sees them too, and an idle connection costs no buffer.

pub mod accept;
pub(crate) mod keeper;
pub mod read;
pub mod write;

use std::task::Waker;

use kvorum_base::ConnId;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::AbortHandle;

/// One client's socket.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: OwnedWriteHalf,
    /// Ends the task that reads.
    reader: Option<AbortHandle>,
    /// The core has asked not to read on.
    pub(crate) paused: bool,
    /// The reading task, waiting for the end of a pause.
    pub(crate) paused_reader: Option<Waker>,
    /// The socket took less than everything; a task writes the rest.
    pub(crate) blocked: bool,
    /// To be closed once the output is written.
    pub(crate) closing: bool,
}

/// All clients' sockets, in places that are used again under a new generation.
#[derive(Debug)]
pub(crate) struct Clients {
    places: Vec<Place>,
    free: Vec<u32>,
    open: u32,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    client: Option<Client>,
}

impl Clients {
    pub(crate) fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            open: 0,
        }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    pub(crate) fn insert(&mut self, socket: OwnedWriteHalf) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                generation: 0,
                client: None,
            });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        assert!(
            place.client.is_none(),
            "place {index} was free and has a client"
        );
        place.generation = place.generation.wrapping_add(1);
        place.client = Some(Client {
            socket,
            reader: None,
            paused: false,
            paused_reader: None,
            blocked: false,
            closing: false,
        });
        self.open += 1;
        ConnId {
            index,
            generation: place.generation,
        }
    }

    /// The connection, if it is still there.
    pub(crate) fn get(&mut self, conn: ConnId) -> Option<&mut Client> {
        let place = self.places.get_mut(conn.index as usize)?;
        if place.generation == conn.generation {
            place.client.as_mut()
        } else {
            None
        }
    }

    pub(crate) fn set_reader(&mut self, conn: ConnId, reader: AbortHandle) {
        if let Some(client) = self.get(conn) {
            client.reader = Some(reader);
        }
    }

    /// Forgets the connection and stops its reading; says whether it was there. The socket closes
    /// once its tasks have ended too.
    pub(crate) fn remove(&mut self, conn: ConnId) -> bool {
        let Some(client) = self.get(conn) else {
            return false;
        };
        if let Some(reader) = client.reader.take() {
            reader.abort();
        }
        let place = &mut self.places[conn.index as usize];
        place.client = None;
        self.free.push(conn.index);
        self.open -= 1;
        true
    }
}
