//! The leaf: what two crates that do not know each other both need, and nothing of the project's
//! own logic.
//!
//! - [`ids`]: one type per kind of number, so that a term is never passed where an index belongs;
//! - [`planted`]: bugs on purpose, which only a build for the simulator can have;
//! - [`prng`]: the only source of chance in the pure crates, seeded and handed in;
//! - [`cursor`]: reading binary formats without panics;
//! - [`crc`]: CRC32C, with a seed;
//! - [`slot`]: key to slot, as every Redis Cluster client computes it;
//! - [`slots`]: sets of slots;
//! - [`script`]: scenarios as readable text files with their expected traces (for tests).

pub mod crc;
pub mod cursor;
pub mod ids;
pub mod planted;
pub mod prng;
pub mod script;
pub mod slot;
pub mod slots;

pub use cursor::{Malformed, Reader};
pub use ids::{
    ClusterId, ConnId, Epoch, GroupId, Index, MoveId, NodeId, ReplicaId, SessionId, Slot, Term,
    UnixMillis,
};
pub use planted::{Bug, Planted};
pub use prng::Prng;
pub use slots::SlotSet;
