//! Many groups on one machine: events in, effects out.
//!
//! A [`Node`] is a deterministic state machine. Whatever happens comes in as an [`Event`], whatever is to
//! be done comes out as an [`Effect`]; sockets, files, clocks and threads are the shell's. The same
//! events give the same effects, so a seed replays a cluster.
//!
//! Promises wait inside: a vote, an acknowledgement, a reply is among the effects only when what it
//! promises is durable. Work is done at the end of a turn, for everything that came in it: one log
//! batch for all groups, one frame for each peer, one output for each client.
//!
//! Rooms: [`event`], [`effect`] (the contract) · `node` (dispatch and turn) · [`start`] · `clients` (who
//! asks) · `group` (one replica) · [`log`](mod@log) (the write-ahead log as bytes) · [`format`](mod@format)
//! (every layout) · [`replicas`] (made, deleted, taken in, let go) · `peers` · `clock` · [`limits`] ·
//! [`status`].

mod clients;
mod clock;
pub mod config;
pub mod effect;
pub mod event;
pub mod format;
pub mod group;
pub mod inspect;
pub mod limits;
pub mod log;
pub mod manager;
pub mod moves;
mod node;
mod pace;
mod peers;
mod places;
pub mod replicas;
mod shared;
pub mod start;
pub mod status;

pub use config::{Config, GroupSpec, Member};
pub use effect::{Effect, Level, Link, Note, StopReason};
pub use event::{Control, Door, Event};
pub use log::{BatchSeq, SegmentId};
pub use node::Node;
pub use status::Status;

/// Whether this build can have planted bugs; no release may.
pub const PLANTED: bool = cfg!(feature = "planted");
