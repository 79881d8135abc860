//! All replicas hold the same state at the same index, and the same logged clock.

use std::collections::BTreeMap;

use kvorum_base::{Index, UnixMillis};
use kvorum_kv::Keyspace;

/// The states by applied index, as first seen.
#[derive(Default, Debug)]
pub struct Replicas {
    states: BTreeMap<Index, (u64, UnixMillis, usize)>,
    /// By node: what it was last seen to have applied.
    looked_at: BTreeMap<usize, Index>,
}

impl Replicas {
    /// The node begins another life.
    pub fn restarted(&mut self, node: usize) {
        self.looked_at.remove(&node);
    }

    /// Looks at a node's state after a turn; true if it has changed.
    ///
    /// # Errors
    /// If another node's state was another one at that index.
    pub fn observe(
        &mut self,
        node: usize,
        applied: Index,
        keyspace: &Keyspace,
    ) -> Result<bool, String> {
        if self.looked_at.insert(node, applied) == Some(applied) {
            return Ok(false);
        }
        let (hash, clock) = (keyspace.state_hash(), keyspace.clock());
        let known = *self.states.entry(applied).or_insert((hash, clock, node));
        if (known.0, known.1) != (hash, clock) {
            return Err(format!(
                "at {applied} the state of node {} is {hash:016x} at {clock}, that of node {} is \
                 {:016x} at {}",
                node + 1,
                known.2 + 1,
                known.0,
                known.1
            ));
        }
        Ok(true)
    }
}
