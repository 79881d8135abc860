//! What can happen to a router, and what it can ask of its shell. Coarse, as a node's events: what one
//! socket read delivered, one output for each connection and turn.

use kvorum_base::{ConnId, UnixMillis};

/// A connection to a node: a place in the router's table, and how often it was dialled before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct LinkId {
    /// The place.
    pub index: u32,
    /// The number of the attempt; what comes from an earlier one is not heard.
    pub generation: u32,
}

/// One event. Borrowed bytes are read during the call and not kept.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A client connected.
    Opened {
        /// Its connection.
        conn: ConnId,
        /// Where it comes from, for CLIENT LIST.
        address: &'a str,
    },
    /// A client is gone; nothing may be sent to it any more. Its requests go on.
    Closed {
        /// Its connection.
        conn: ConnId,
    },
    /// A client sends no more, and may still read: it is closed once all it has asked is answered.
    Ended {
        /// Its connection.
        conn: ConnId,
    },
    /// What one read of a client's socket delivered.
    Bytes {
        /// Its connection.
        conn: ConnId,
        /// The bytes, wherever they were cut.
        data: &'a [u8],
    },
    /// A client's output, once blocked, has been written out whole.
    Drained {
        /// Its connection.
        conn: ConnId,
    },
    /// A node has taken the connection that was dialled.
    LinkUp {
        /// The link.
        link: LinkId,
    },
    /// A link has ended, or could not be made.
    LinkDown {
        /// The link.
        link: LinkId,
        /// Why, in words.
        reason: &'a str,
    },
    /// What one read of a link's socket delivered.
    LinkBytes {
        /// The link.
        link: LinkId,
        /// The bytes, wherever they were cut.
        data: &'a [u8],
    },
    /// A link's output, once blocked, has been written out whole.
    LinkDrained {
        /// The link.
        link: LinkId,
    },
    /// One tick of time has passed.
    Tick,
    /// What the wall clock says now, for TIME.
    Wall(UnixMillis),
    /// What the shell knows of the process, for INFO; about once a second.
    Process(Process),
    /// Finish what is outstanding, take nothing new, and say [`Effect::Stop`] when done.
    Shutdown,
    /// Nothing more is at hand: hand out what is to be done.
    EndOfTurn,
}

/// One request to the shell, to be carried out in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The client has output: write it (`Router::output`).
    Output(ConnId),
    /// Close the client's connection after writing its output.
    Close(ConnId),
    /// Stop reading from this client until `Resume`.
    Pause(ConnId),
    /// Read from this client again.
    Resume(ConnId),
    /// Connect to a node; then [`Event::LinkUp`] or [`Event::LinkDown`].
    Dial {
        /// The link.
        link: LinkId,
        /// `host:port`.
        address: String,
    },
    /// The link has output: write it (`Router::link_output`).
    LinkOutput(LinkId),
    /// Close the link at once. No [`Event::LinkDown`] is expected for it.
    HangUp(LinkId),
    /// Tell the operator.
    Note(String),
    /// Everything is answered: end the process.
    Stop,
}

/// What the shell knows of the process.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Process {
    /// Its number.
    pub id: u32,
    /// Resident memory, in bytes.
    pub memory_bytes: u64,
    /// Processor time in user mode, in microseconds.
    pub cpu_user_us: u64,
    /// Processor time in the kernel, in microseconds.
    pub cpu_system_us: u64,
    /// The most clients that it takes.
    pub connections_max: u64,
    /// Clients that it has refused.
    pub connections_refused: u64,
    /// Bytes written to clients.
    pub output_bytes: u64,
}
