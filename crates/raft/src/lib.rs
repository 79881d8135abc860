//! Consensus for one group: Raft as a pure state machine.

mod check;
mod config;
mod effect;
mod election;
mod log;
mod membership;
mod message;
mod progress;
mod promises;
mod quorum;
mod raft;
mod read_index;
mod replication;
mod snapshot;
mod transfer;
mod types;

pub use check::{FlowName, PeerStatus, RoleName, Status};
pub use config::{Config, Restored};
pub use effect::{Effect, Persist, PersistSeq};
pub use membership::{MembershipRefused, Target};
pub use message::{AppendOutcome, Body, Chunk, Message, SnapshotId};
pub use raft::{NotLeader, ProposeRefused, Raft};
pub use transfer::TransferRefused;
pub use types::{Entry, HardState, Membership, Payload};
