//! What a node and a router do for their clients alike. Pure.
//!
//! - [`places`]: one place a connection, under the numbers that the shell gives;
//! - [`profile`]: what a connection is and says of itself;
//! - [`handshake`]: HELLO, AUTH and RESET, by which it begins;
//! - [`command`]: CLIENT, by which it asks about itself and others;
//! - [`transaction`]: what it queues and watches, until it is one command.
//!
//! Replies and errors are those of Redis to the letter. What a client then asks for, and what it may not
//! have, is the business of whoever it is connected to.

pub mod command;
pub mod handshake;
pub mod places;
pub mod profile;
pub mod transaction;

pub use places::Places;
pub use profile::Profile;
pub use transaction::Watches;

pub(crate) const SYNTAX: &str = "ERR syntax error";
