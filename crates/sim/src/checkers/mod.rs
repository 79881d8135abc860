//! The properties that must hold, one file each, and the models that they are measured against.
//!
//! Some look at histories of clients when a run is over, some at the replicas after each turn. What
//! the replicas say of themselves is believed only where a lie would show elsewhere.

pub mod durability;
pub mod election_safety;
pub mod expiry;
pub mod leader_completeness;
pub mod linearizable;
pub mod liveness;
pub mod log_matching;
pub mod managers;
pub mod members;
pub mod owners;
pub mod pipelines;
pub mod promises;
pub mod replicas;
pub mod sessions;
pub mod state_machine;
pub mod strings;
pub mod versions;
