//! A look inside, for a judge that compares replicas entry by entry. Nothing that serves clients uses it.

use std::sync::Arc;

use kvorum_base::{GroupId, Index};
use kvorum_kv::Keyspace;
use kvorum_raft::Raft;

use crate::moves::state::Moves;
use crate::node::Node;
use crate::replicas::Taken;
use crate::status::Counters;

/// What one replica holds.
#[derive(Clone, Copy, Debug)]
pub struct Inspection<'a> {
    /// Its log, term and role.
    pub raft: &'a Raft,
    /// Its state and the last entry in it; absent while it waits for a snapshot.
    pub state: Option<(Index, &'a Keyspace)>,
    /// What its log has decided about moves.
    pub moves: Option<&'a Moves>,
    /// The order to change its members that it took or refused last.
    pub taken: Option<Taken>,
    /// The shard manager, in its own group.
    pub manager: Option<&'a Arc<kvorum_cluster::State>>,
}

impl Node {
    /// What the replica of a group on this node holds, if there is one.
    #[must_use]
    pub fn inspect(&self, group: GroupId) -> Option<Inspection<'_>> {
        let group = self.groups.iter().find(|own| own.id == group)?;
        let state = group.state.as_ref();
        Some(Inspection {
            raft: &group.raft,
            state: state.map(|state| (state.applied, &state.keyspace)),
            moves: state.map(|state| &*state.moves),
            taken: state.map(|state| state.taken),
            manager: state.and_then(|state| state.manager.as_ref()),
        })
    }

    /// The groups that have a replica here, in the order of their ids.
    pub fn hosted(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.iter().map(|group| group.id)
    }

    /// What only ever grows; cheaper than the whole status.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Why this node is out of service for good, if it is.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }
}
