//! Consensus for one group: Raft as a pure state machine.

mod effect;
mod message;
mod types;

pub use effect::{Effect, Persist, PersistSeq};
pub use message::{AppendOutcome, Body, Chunk, Message, SnapshotId};
pub use types::{Entry, HardState, Membership, Payload};
