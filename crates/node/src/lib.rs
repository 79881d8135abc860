//! Many groups on one machine: events in, effects out.

pub mod effect;
pub mod event;
pub mod format;
pub mod group;
pub mod log;

pub use effect::{Effect, Level, Link, Note, StopReason};
pub use event::{Control, Event};
pub use log::{BatchSeq, SegmentId};

/// Whether this build can have planted bugs; no release may.
pub const PLANTED: bool = cfg!(feature = "planted");
