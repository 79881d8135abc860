//! From a directory's bytes to a running node.
//!
//! What consensus finds in the log is what it promised. The state is not in the log: it is the snapshot
//! that the log refers to, and everything committed since is applied again from the entries. A snapshot
//! that does not read is no broken promise; its replica takes a new one from the primary.

use std::collections::BTreeMap;
use std::sync::Arc;

use kvorum_base::{Bug, GroupId, Index, NodeId, ReplicaId, SessionId, SlotSet, Term};
use kvorum_cluster::OrderNumber;
use kvorum_kv::Keyspace;
use kvorum_raft::{Membership, Raft, Restored};

use crate::config::{Config, GroupSpec};
use crate::effect::{Effect, Level};
use crate::format::chunk::Loaded;
use crate::format::entry::{self, Content, encode_raft};
use crate::group::Group;
use crate::group::apply::{State, run_commands};
use crate::limits;
use crate::log::{Log, Recovered, RecoveredGroup};
use crate::manager::MANAGER;
use crate::node::{Node, batch_bytes};
use crate::replicas::Taken;
use crate::shared::Shared;

/// The snapshots that were read for a start, by group: the one that the log refers to, or why it
/// cannot be read.
pub type Snapshots = BTreeMap<GroupId, Result<Loaded, String>>;

/// A replica that is to run here.
pub(crate) struct Hosted<'a> {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    /// The slots that its group served at its beginning.
    pub(crate) slots: Arc<SlotSet>,
    /// Where its primary should be when all are well.
    pub(crate) preferred: Option<NodeId>,
    /// The first members of its group; empty if it joins later and does not know them.
    pub(crate) membership: Arc<Membership>,
    /// What the log knows of it; nothing if it was just made.
    pub(crate) recovered: Option<&'a RecoveredGroup>,
}

impl<'a> Hosted<'a> {
    /// One that the log knows. Of those that the cluster was made with the configuration says more.
    fn found(group: GroupId, recovered: &'a RecoveredGroup, config: &Config) -> Self {
        let replica = recovered.replica;
        let made_with = |spec: &&GroupSpec| {
            spec.group == group && spec.replica_on(config.node) == Some(replica)
        };
        let spec = config.groups.iter().find(made_with);
        let slots = spec.map(|spec| Arc::clone(&spec.slots));
        Self {
            group,
            replica,
            slots: slots.unwrap_or_else(|| Arc::new(SlotSet::none())),
            preferred: spec.and_then(|spec| spec.preferred),
            membership: Arc::clone(&recovered.membership),
            recovered: Some(recovered),
        }
    }

    /// One that the cluster is made with.
    fn first(spec: &GroupSpec, replica: ReplicaId) -> Self {
        Self {
            group: spec.group,
            replica,
            slots: Arc::clone(&spec.slots),
            preferred: spec.preferred,
            membership: Arc::new(membership_of(spec)),
            recovered: None,
        }
    }
}

impl Node {
    /// A node whose log is `recovered`, or that never had one.
    ///
    /// # Panics
    /// If the configuration names no member for this node.
    #[must_use]
    pub fn start(
        config: Config,
        recovered: Option<Recovered>,
        mut snapshots: Snapshots,
        seed: u64,
        effects: &mut Vec<Effect>,
    ) -> Self {
        assert!(
            config.members.contains_key(&config.node),
            "node {} is no member",
            config.node
        );
        let groups = recovered.as_ref().map(|recovered| recovered.groups.clone());
        let over = recovered.as_ref().map(|recovered| recovered.orders);
        let (groups, over) = (groups.unwrap_or_default(), over.unwrap_or_default());
        let log = match recovered {
            Some(recovered) => Log::restart(config.log.clone(), recovered),
            None => Log::create(config.log.clone()),
        };
        let mut shared = Shared::new(config, log);
        let mut hosted: Vec<Hosted<'_>> = groups
            .iter()
            .map(|(group, recovered)| Hosted::found(*group, recovered, &shared.config))
            .collect();
        hosted.extend(first_groups(&groups, over, &mut shared));
        hosted.sort_by_key(|hosted| hosted.group);
        let started = hosted.into_iter().map(|hosted| {
            let snapshot = snapshots.remove(&hosted.group);
            start_group(hosted, snapshot, &mut shared, seed)
        });
        let started = started.collect();
        let mut node = Self::with_groups(shared, started);
        node.hosting.over = over;
        node.seed = seed;
        node.places.update(&node.groups);
        node.shared.take_notes(effects);
        node
    }

    /// A node that lost promises: it says so to whoever asks, and nothing else, for ever.
    #[must_use]
    pub fn start_lost(config: Config, reason: &str) -> Self {
        // Nothing is written: a new log here would hide from the next start that this one was lost.
        let log = Log::closed(config.log.clone());
        let mut node = Self::with_groups(Shared::new(config, log), Vec::new());
        node.lost = Some(reason.to_owned());
        node
    }
}

fn membership_of(spec: &GroupSpec) -> Membership {
    Membership::initial(
        spec.replicas
            .iter()
            .map(|(replica, node)| (*replica, *node)),
    )
}

/// Makes the groups that the cluster was made with and that are not in the log. Only the very first start
/// of a directory has some: afterwards they may be missing because they were deleted.
fn first_groups<'a>(
    found: &BTreeMap<GroupId, RecoveredGroup>,
    over: OrderNumber,
    shared: &mut Shared,
) -> Vec<Hosted<'a>> {
    let repeats = shared.config.planted.has(Bug::DeletedReplicaMadeAgain);
    if over > OrderNumber::default() && !repeats {
        return Vec::new();
    }
    let (node, specs) = (shared.config.node, &shared.config.groups);
    let missing = specs.iter().filter(|spec| !found.contains_key(&spec.group));
    let here = missing.filter_map(|spec| Some(Hosted::first(spec, spec.replica_on(node)?)));
    let made: Vec<Hosted<'a>> = here.collect();
    for hosted in &made {
        let membership = Arc::clone(&hosted.membership);
        let log = &mut shared.log;
        log.create_group(hosted.group, hosted.replica, membership);
    }
    made
}

/// A replica from what is known of it.
pub(crate) fn start_group(
    hosted: Hosted<'_>,
    snapshot: Option<Result<Loaded, String>>,
    shared: &mut Shared,
    seed: u64,
) -> Group {
    let Hosted {
        group: id,
        replica,
        slots,
        preferred,
        membership,
        recovered,
    } = hosted;
    let fresh = || Restored::fresh(Membership::clone(&membership));
    let restored = recovered.map_or_else(fresh, restored_of);
    let (index, term) = (restored.base_index, restored.base_term);
    let commit = restored.commit;
    let alone = membership.voters.len() == 1;

    let raft = raft_of(id, replica, restored, shared, seed);
    let batch_bytes = batch_bytes(&shared.config);

    let file = recovered
        .map(|group| group.snapshot)
        .filter(|snapshot| snapshot.number > 0);
    let mut file_bytes = 0;
    let state = match (&file, snapshot) {
        // It knows nothing of its group yet: the primary sends the state.
        (None, _) if membership.voters.is_empty() => None,
        (None, _) => Some(empty_state(id, &slots, shared, membership)),
        (Some(_), Some(Ok(loaded))) if is_of(&loaded, index, term) => {
            file_bytes = loaded.bytes;
            let mut state = State::from(loaded);
            state.keyspace.set_planted(shared.config.planted);
            Some(state)
        }
        (Some(file), other) => {
            let reason = match other {
                Some(Err(reason)) => reason,
                Some(Ok(_)) => "it is of another index than the log says".to_owned(),
                None => "it is not there".to_owned(),
            };
            let way_on = if alone {
                "there is no other replica to get the state from: put the file back from a copy"
            } else {
                "this replica asks the primary for its state"
            };
            let text = format!(
                "snapshot {} cannot be read ({reason}); {way_on}",
                file.number
            );
            shared.note(Level::Error, Some(id), text);
            None
        }
    };
    let mut group = Group::new(id, slots, preferred, raft, state, batch_bytes);
    if let Some(file) = file {
        group.snapshot_found(file.number, file.index, file_bytes);
    }
    group.started(commit, shared);
    if alone {
        group.raft.campaign();
    }
    group
}

fn raft_of(
    group: GroupId,
    replica: ReplicaId,
    restored: Restored,
    shared: &Shared,
    seed: u64,
) -> Raft {
    let (config, incarnation) = (&shared.config, shared.log.incarnation());
    let prng = Node::seed(config, group, incarnation, seed);
    let raft_config = kvorum_raft::Config {
        election_ticks_min: config.election_ticks_min,
        election_ticks_max: config.election_ticks_max,
        heartbeat_ticks: config.heartbeat_ticks,
        append_bytes_max: config.append_bytes_max,
        uncommitted_bytes_max: limits::UNCOMMITTED_BYTES_MAX as usize,
        planted: config.planted,
        ..kvorum_raft::Config::new(replica, encode_raft)
    };
    Raft::new(raft_config, restored, prng)
}

fn restored_of(group: &RecoveredGroup) -> Restored {
    Restored {
        hard_state: group.hard_state,
        base_index: group.snapshot.index,
        base_term: group.snapshot.term,
        base_membership: Arc::clone(&group.membership),
        entries: group.entries.clone(),
        commit: group.commit,
    }
}

fn empty_state(
    group: GroupId,
    slots: &SlotSet,
    shared: &Shared,
    membership: Arc<Membership>,
) -> State {
    let hash_key = shared.config.hash_key;
    let mut keyspace = Keyspace::serving(hash_key, slots.clone(), first_session_of(group));
    keyspace.set_planted(shared.config.planted);
    let founding = shared.config.founding.as_ref();
    let manager = founding.filter(|_| group == MANAGER).map(|plan| {
        let state = kvorum_cluster::State::initial(plan);
        Arc::new(state.expect("a cluster was made by a plan that was looked at"))
    });
    State {
        keyspace,
        manager,
        applied: Index::ZERO,
        applied_term: Term::ZERO,
        membership,
        taken: Taken::default(),
        moves: Arc::default(),
    }
}

/// Sessions are good for all groups, so their numbers say which group gave them.
fn first_session_of(group: GroupId) -> SessionId {
    const SESSIONS_BITS: u32 = 40;
    SessionId((group.get().saturating_sub(1) << SESSIONS_BITS) + 1)
}

fn is_of(loaded: &Loaded, index: Index, term: Term) -> bool {
    (loaded.header.index, loaded.header.term) == (index, term)
}

impl Group {
    /// Applies what is known to be committed, before any client can ask.
    fn started(&mut self, commit: Index, shared: &mut Shared) {
        if self.state.is_none() {
            self.raft.state_lost();
            self.update_can_campaign();
            return;
        }
        if shared.config.planted.has(Bug::AppliedTwice) {
            self.apply_last_again(shared);
        }
        if commit > Index::ZERO {
            self.apply_committed(shared);
        }
    }

    /// Applies the first entry after the snapshot once more than it should be.
    fn apply_last_again(&mut self, shared: &mut Shared) {
        let Some(state) = &mut self.state else { return };
        if let Some(entry) = self.raft.entry(state.applied.next())
            && let Content::Commands(commands) = entry::content(entry)
        {
            run_commands(state, commands, None, shared);
        }
    }
}
