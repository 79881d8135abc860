//! A group goes on with one replica, since an operator says that its majority is lost for good.
//!
//! For a shard it is an order like others, to the replica's node; for the shard manager, which cannot order
//! anything without its own majority, the operator asks the node itself. Both come here, and both are
//! refused while a majority of the voters is heard: nodes that answer are not lost. What then happens is
//! consensus' business (`kvorum_raft`, `recovery.rs`): one entry, behind all that the replica has.
//!
//! That entry is also the evidence. The group's primary tells the manager of it until the manager's state
//! has it, whoever had asked; in the manager's own group applying the entry is the record.

use kvorum_base::{GroupId, NodeId, ReplicaId, Term};
use kvorum_cluster::{Command, MANAGER, Refusal, State};
use kvorum_raft::{Membership, RecoveryRefused};

use super::evidence::members_of;
use crate::effect::Level;
use crate::group::Group;
use crate::limits::{LOST_ELECTIONS, LOST_NOTE_TICKS};
use crate::node::Node;
use crate::shared::Shared;

/// No term or id that an operator names is as high as two to this: one past the largest would wrap.
const NUMBER_BITS: u32 = 60;

impl Node {
    /// The shard manager's group goes on with the replica here.
    pub(crate) fn recover_manager(&mut self, term: Term) -> Result<(), Refusal> {
        let group = self.group(MANAGER).and_then(|group| group.state.as_ref());
        let manager = group.and_then(|state| state.manager.as_ref());
        let floor = manager
            .ok_or(Refusal::CannotRecover(MANAGER))?
            .manager_floor();
        self.recover_group(MANAGER, term, floor)
    }

    /// A group goes on with the replica here. `term` is the highest that was seen at any of its replicas, and
    /// ids below `floor` are let go.
    pub(super) fn recover_group(
        &mut self,
        id: GroupId,
        term: Term,
        floor: ReplicaId,
    ) -> Result<(), Refusal> {
        let cannot = Refusal::CannotRecover(id);
        let is_sane = (term.get() | floor.get()) >> NUMBER_BITS == 0;
        let is_able = self.serving() && self.shared.log.writable();
        let (groups, shared) = (&mut self.groups, &mut self.shared);
        let group = groups.iter_mut().find(|group| group.id == id);
        let group = group.filter(|group| group.state.is_some() && is_sane && is_able);
        let group = group.ok_or(cannot)?;
        if hears_majority(group.raft.membership(), shared) {
            return Err(Refusal::HasMajority(id));
        }
        match group.raft.recover(term, floor) {
            Ok(at) => {
                let text = format!(
                    "goes on with replica {} alone from entry {at} on, as an operator ordered: what only \
                     the others had is lost",
                    group.replica
                );
                shared.note(Level::Warn, Some(id), text);
                Ok(())
            }
            Err(RecoveryRefused::HasLeader) => Err(Refusal::HasMajority(id)),
            Err(refused) => {
                let text = format!("cannot go on with this replica alone: {refused}");
                shared.note(Level::Warn, Some(id), text);
                Err(cannot)
            }
        }
    }

    /// What the logs here say of recoveries that the manager's state, as far as known here, does not show.
    #[must_use]
    pub fn recoveries(&self) -> Vec<Command> {
        let Some(cluster) = &self.shared.cluster else {
            return Vec::new();
        };
        let known = |group: &Group| cluster.shards().get(&group.id).map(|shard| shard.floor);
        let leading = self.groups.iter().filter(|group| group.may_drive());
        let told = leading.filter_map(|group| {
            let membership = &group.state.as_ref()?.membership;
            if known(group)? >= membership.floor || membership.is_joint() {
                return None;
            }
            Some(Command::RecordRecovery {
                group: group.id,
                members: members_of(membership),
                floor: membership.floor,
            })
        });
        told.collect()
    }
}

impl Group {
    /// Whether the shard manager has recorded the last recovery of this group. What it ordered before was for
    /// other members, even where the numbers fit.
    pub(super) fn is_recorded(&self, cluster: &State) -> bool {
        let shard = cluster.shards().get(&self.id);
        shard.is_some_and(|shard| shard.floor >= self.raft.membership().floor)
    }

    /// It was recovered without this replica, which may not have heard of it: nobody may be served by it.
    pub(super) fn let_go(&mut self) {
        if self.raft.is_leader() {
            self.raft.step_down();
        }
    }

    /// Says now and then that no majority is there, and what can be done.
    pub(crate) fn watch_majority(&mut self, shared: &mut Shared) {
        let patience = LOST_ELECTIONS * u64::from(shared.config.election_ticks_max);
        let now = shared.now_tick;
        let is_long = self
            .leaderless_since_tick
            .is_some_and(|since| now >= since + patience);
        let members = self.raft.membership();
        let is_voter = members.is_voter(self.replica);
        if !is_long || !is_voter || now < self.next_lost_note_tick {
            return;
        }
        self.next_lost_note_tick = now + LOST_NOTE_TICKS;
        if hears_majority(members, shared) {
            return;
        }
        let silent = members
            .nodes
            .values()
            .filter(|node| !is_heard(**node, shared));
        let silent: Vec<String> = silent.map(ToString::to_string).collect();
        let name = match self.id {
            MANAGER => "manager".to_owned(),
            shard => shard.to_string(),
        };
        let text = format!(
            "no majority of its voters answers: nodes {} are silent. If they are lost for good, see what can be \
             saved with: kvorum ctl recover --shard {name} --from-node {}",
            silent.join(", "),
            shared.config.node
        );
        shared.note(Level::Warn, Some(self.id), text);
    }
}

/// Whether a node can still speak for its replicas, as far as is heard here. After a start everybody has the
/// time to come.
fn is_heard(node: NodeId, shared: &Shared) -> bool {
    let patience = 2 * u64::from(shared.config.election_ticks_max);
    let Some(since) = shared.now_tick.checked_sub(patience) else {
        return true;
    };
    let is_here = node == shared.config.node;
    is_here || (!shared.peers.is_lost(node) && shared.peers.hears_any([node], since))
}

/// Whether those who decide for a group answer: nobody may go on without them.
fn hears_majority(members: &Membership, shared: &Shared) -> bool {
    let heard = |replica: &&ReplicaId| {
        let node = members.nodes.get(*replica);
        node.is_some_and(|node| is_heard(*node, shared))
    };
    let sets = [&members.voters, &members.outgoing];
    let mut sets = sets.iter().filter(|set| !set.is_empty());
    sets.all(|set| set.iter().filter(heard).count() > set.len() / 2)
}
