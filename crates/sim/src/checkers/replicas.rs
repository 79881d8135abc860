//! All replicas hold the same state at the same index, and the same logged clock.

use std::collections::BTreeMap;

use kvorum_base::{Index, ReplicaId, UnixMillis};
use kvorum_kv::Keyspace;

/// The states by applied index, as first seen.
#[derive(Default, Debug)]
pub struct Replicas {
    states: BTreeMap<Index, (u64, UnixMillis, ReplicaId)>,
    /// By replica: what it was last seen to have applied.
    looked_at: BTreeMap<ReplicaId, Index>,
}

impl Replicas {
    /// The replica begins another life.
    pub fn restarted(&mut self, replica: ReplicaId) {
        self.looked_at.remove(&replica);
    }

    /// Looks at a replica's state after a turn; true if it has changed.
    ///
    /// # Errors
    /// If another replica's state was another one at that index.
    pub fn observe(
        &mut self,
        replica: ReplicaId,
        applied: Index,
        keyspace: &Keyspace,
    ) -> Result<bool, String> {
        if self.looked_at.insert(replica, applied) == Some(applied) {
            return Ok(false);
        }
        let (hash, clock) = (keyspace.state_hash(), keyspace.clock());
        let known = *self.states.entry(applied).or_insert((hash, clock, replica));
        if (known.0, known.1) != (hash, clock) {
            return Err(format!(
                "at {applied} the state of replica {replica} is {hash:016x} at {clock}, that of \
                 replica {} is {:016x} at {}",
                known.2, known.0, known.1
            ));
        }
        Ok(true)
    }
}
