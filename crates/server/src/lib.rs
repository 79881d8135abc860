//! The shell: the only place with sockets, files, threads and clocks.
//!
//! The core (`kvorum_node`) is a function from events to effects. What is here brings it the events
//! and carries out the effects, and decides nothing about the data:
//!
//! - [`lane`]: the loop on one thread, with [`clients`] and [`peers`] as its sockets;
//! - [`disk`]: the log's segments, syncs, snapshot files, on threads of their own;
//! - [`router`]: the router's brain with its sockets;
//! - [`process`]: a node from its settings to its end, and when it is refused;
//! - [`config`], [`lock`], [`identity`]: what a process is given, and who it is;
//! - [`control`]: HTTP, signals, the making of a cluster, on a thread and a runtime of their own;
//! - [`metrics`], [`logs`], `usage`: what it says about itself.
//!
//! Three rules hold everywhere here. A failed write or sync of the log ends the process without
//! another word to anybody. Nothing waits without a bound: queues drop or refuse. And a message to the
//! operator says what to do.

pub mod clients;
pub mod config;
pub mod control;
pub mod disk;
pub mod identity;
pub mod lane;
pub mod lock;
pub mod logs;
pub mod mail;
pub mod metrics;
pub mod peers;
pub mod process;
pub mod router;
#[cfg(test)]
pub(crate) mod testing;
mod usage;
