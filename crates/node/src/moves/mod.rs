//! Slots on their way from one group to another.
//!
//! - [`state`]: what the logs of both have decided, checked where it is applied;
//! - [`order`]: what the shard manager wants;
//! - [`driver`]: what primaries do to get there, which may be lost at any moment;
//! - [`source`]: the stream of changes;
//! - [`target`]: pieces into the log, and the answers.
//!
//! The driver never decides anything: it proposes entries and sends messages, again and again, until the
//! state says that the move is over. A new primary starts with nothing but the state and the orders.

pub(crate) mod driver;
pub mod order;
mod source;
pub mod state;
mod target;
