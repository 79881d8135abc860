//! The Redis protocol: codec and the connection as a state machine. Bytes in, numbered requests out;
//! replies in, in any order; bytes out, in the order of the requests. No socket, no clock.
//!
//! The life of a request: what one socket read delivered goes to
//! [`Connection::next_request_or_reply`] until nothing is left of it. Each [`Request`] has a number
//! and [`Args`], which point into the read itself; only a request that is cut by the read's end is
//! copied. Whoever knows the answer calls [`Connection::reply`] with the number and writes it into
//! [`Replies`], now or many requests later. What may leave lies in [`Connection::output`].
//!
//! - [`args`], [`input`], [`error`]: from bytes to requests, in either of the two forms (lists of
//!   bulks, and lines), with the errors of Redis to the letter;
//! - [`replies`], [`stored`], [`number`], [`outbuf`]: from calls to bytes, in either version;
//! - [`connection`], [`transaction`]: order, versions, CLIENT REPLY, pushes, the end, the queue;
//! - [`request`], [`answer`]: the other end, for those who are clients themselves;
//! - [`limits`]: everything that a client could make too large.
//!
//! The shape follows from three wishes. *A request costs tens of nanoseconds*: so nothing is
//! allocated and no list of owned arguments is built. *Thousands of connections are idle*: so a
//! connection owns memory only for what is unfinished. *The cut of a stream means nothing*: TCP cuts
//! where it likes, so neither a request nor an error may depend on it, and a request that trickles in
//! is looked at only once.
//!
//! Not here: what commands mean (arity, names, texts of their errors), who may run them, and RESP3
//! attributes and streamed types, which no server sends.

pub mod answer;
pub mod args;
pub mod connection;
pub mod error;
mod inline;
pub mod input;
pub mod limits;
mod modes;
pub mod number;
pub mod outbuf;
mod parse;
pub mod replies;
pub mod request;
pub mod stored;
pub mod transaction;

pub use args::{Args, ArgsBuf};
pub use connection::{Connection, Request};
pub use error::ProtocolError;
pub use input::{Input, Scratch};
pub use limits::{InputLimits, OutputLimits, TransactionLimits};
pub use modes::ReplyMode;
pub use outbuf::{OutBuf, SHARED_BYTES_MIN};
pub use replies::{Outcome, Replies, Version};
pub use stored::{check_stored, replay_stored};
pub use transaction::{QueueFull, Transaction};
