//! The properties that must hold, one file each, and the models that they are measured against.
//!
//! Some look at histories of clients when a run is over, some at the replicas after each turn. What
//! the replicas say of themselves is believed only where a lie would show elsewhere.

pub mod committed;
pub mod completeness;
pub mod durability;
pub mod election_safety;
pub mod expiry;
pub mod leader_completeness;
pub mod leaders;
pub mod linearizable;
pub mod liveness;
pub mod log_matching;
pub mod own_versions;
pub mod pipelines;
pub mod replicas;
pub mod sessions;
pub mod state_machine;
pub mod strings;
pub mod versions;

use kvorum_node::Status;

/// What is checked on the replicas, after every turn of a node.
#[derive(Debug, Default)]
pub struct Watch {
    elections: election_safety::ElectionSafety,
    leaders: leader_completeness::LeaderCompleteness,
    states: state_machine::StateMachineSafety,
    /// Versions that clients were told.
    pub versions: versions::Versions,
}

impl Watch {
    /// A node has finished a turn.
    ///
    /// # Panics
    /// If a property does not hold.
    pub fn observe(&mut self, machine: usize, life: u64, status: &Status) {
        for group in &status.groups {
            self.elections.observe(machine, group);
            self.leaders.observe(machine, group);
            self.states.observe((machine, life), group);
        }
    }
}
