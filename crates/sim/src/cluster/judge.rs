//! What is checked while the simulation runs: every replica, after every turn.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use kvorum_base::{GroupId, Index, MoveId, NodeId, ReplicaId};
use kvorum_cluster::{Command, Evidence, MANAGER, Outcome, Reply};
use kvorum_node::Node;
use kvorum_node::format::peer::PeerMessage;
use kvorum_node::inspect::Inspection;
use kvorum_node::moves::state::Ended;
use kvorum_raft::Membership;

use super::coverage::Mark;
use super::options::{Options, WALL_START_MS, node_id};
use crate::checkers::durability::Ledger;
use crate::checkers::election_safety::ElectionSafety;
use crate::checkers::expiry::LoggedClock;
use crate::checkers::leader_completeness;
use crate::checkers::log_matching::LogMatching;
use crate::checkers::managers::{Decided, Managers, OrderName};
use crate::checkers::members::Members;
use crate::checkers::owners::Owners;
use crate::checkers::promises::Promises;
use crate::checkers::replicas::Replicas;
use crate::checkers::state_machine::StateMachine;
use crate::checkers::versions::Versions;
use crate::world::Time;

/// How far the logged clock may be ahead of true time while at most one wall clock is wrong.
const AHEAD_MS_MAX: u64 = 2_000;

/// A property that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Which checker says so.
    pub checker: &'static str,
    /// What it saw.
    pub text: String,
}

/// What a look at a node showed.
#[derive(Default)]
pub struct Seen {
    /// What came to pass.
    pub marks: Vec<Mark>,
    /// What must not be.
    pub failure: Option<Failure>,
    /// What the shard manager's group has decided.
    pub decided: Vec<Decided>,
}

/// A checker's name, and what it saw.
type Wrong = (&'static str, String);

/// All that is known of the replicas of one group.
#[derive(Default)]
struct Group {
    elections: ElectionSafety,
    promises: Promises,
    logs: LogMatching,
    machine: StateMachine,
    replicas: Replicas,
    members: Members,
    /// By machine: the replica that was last seen there.
    at: BTreeMap<usize, ReplicaId>,
    /// By machine: the members, as far as the replica there last knew.
    memberships: BTreeMap<usize, Arc<Membership>>,
    /// By id: the members that were committed.
    committed: BTreeMap<Index, Arc<Membership>>,
    /// How moves ended in its log.
    ended: BTreeMap<MoveId, Ended>,
    repeated: u64,
}

/// All that is known of the replicas.
pub struct Judge {
    groups: BTreeMap<GroupId, Group>,
    clock: LoggedClock,
    owners: Owners,
    /// The shard manager's group, if the nodes hold it.
    managers: Option<Managers>,
    /// Whether one wrong wall clock cannot decide anything.
    has_median: bool,
    turns: u64,
    now: Time,
    /// What must be there at the end.
    pub ledger: Ledger,
    /// The versions that clients have seen.
    pub versions: Versions,
}

impl Judge {
    /// A judge that has seen nothing.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            groups: BTreeMap::new(),
            clock: LoggedClock::default(),
            owners: Owners::default(),
            managers: options.seats().then(|| Managers::new(&options.plan())),
            has_median: options.nodes > 2,
            turns: 0,
            now: Time(0),
            ledger: Ledger::default(),
            versions: Versions::default(),
        }
    }

    /// The bounds of the logged clock so far.
    #[must_use]
    pub fn clock(&self) -> Rc<LoggedClock> {
        Rc::new(self.clock.clone())
    }

    /// A learner is ordered to become a voter.
    pub(super) fn promoted(&mut self, group: GroupId, replica: ReplicaId) {
        let group = self.groups.entry(group).or_default();
        group.members.promoted(replica, group.machine.last());
    }

    /// It is proven that a learner does not become a voter.
    pub(super) fn not_promoted(&mut self, group: GroupId, replica: ReplicaId) {
        let group = self.groups.entry(group).or_default();
        group.members.not_promoted(replica);
    }

    /// A replica is ordered to be deleted, since its group went on without it.
    pub(super) fn let_go(&mut self, group: GroupId, replica: ReplicaId) {
        self.groups
            .entry(group)
            .or_default()
            .members
            .let_go(replica);
    }

    /// It is proven that a replica is deleted.
    pub(super) fn deleted(&mut self, group: GroupId, replica: ReplicaId) {
        let group = self.groups.entry(group).or_default();
        group.members.deleted(replica);
        group.at.retain(|_, there| *there != replica);
    }

    /// All sets of voters of which some replica may still need a majority, and on which machine it is.
    pub(super) fn sets_of_voters(&self) -> Vec<(usize, BTreeSet<NodeId>)> {
        let groups = self.groups.values();
        let known = groups.flat_map(|group| {
            let there = |(machine, _): &(&usize, _)| group.at.contains_key(*machine);
            group.memberships.iter().filter(there)
        });
        let sets = known.flat_map(|(machine, membership)| {
            let sets = places_of(membership).into_iter();
            sets.map(|set| (*machine, set))
        });
        sets.filter(|(_, set)| !set.is_empty()).collect()
    }

    /// The node begins another life.
    pub(super) fn restarted(&mut self, node: usize) {
        for group in self.groups.values_mut() {
            let Some(replica) = group.at.get(&node).copied() else {
                continue;
            };
            group.promises.restarted(replica);
            group.logs.restarted(replica);
            group.machine.restarted(replica);
            group.replicas.restarted(replica);
        }
        if let Some(managers) = &mut self.managers {
            let replica = self.groups.get(&MANAGER);
            let replica = replica.and_then(|group| group.at.get(&node).copied());
            managers.restarted(node, replica);
        }
    }

    /// An issuer is told what became of an order: this, or that it is never carried out.
    ///
    /// # Errors
    /// If that is not so.
    pub(super) fn told(&mut self, order: OrderName, reply: Option<&Reply>) -> Result<(), String> {
        let Some(managers) = &mut self.managers else {
            return Ok(());
        };
        match reply {
            Some(reply) => managers.replied(order, reply),
            None => managers.not_done(order),
        }
    }

    /// A node's frame leaves.
    pub(super) fn said(&mut self, messages: &[PeerMessage]) {
        for message in messages {
            if let PeerMessage::Raft {
                group,
                from,
                to,
                message,
            } = message
            {
                let known = self.groups.entry(*group).or_default();
                known.promises.said(*from, *to, message);
            }
        }
    }

    /// Looks at a node after a turn.
    pub(super) fn observe(&mut self, index: usize, node: &Node, has_read: bool, now: Time) -> Seen {
        let mut seen = Seen::default();
        self.now = now;
        self.turns += 1;
        if self.turns.is_multiple_of(CHECK_EVERY) {
            node.check();
        }
        for group in node.hosted() {
            let looked = self.look(index, node, group, has_read, &mut seen.marks);
            let looked = looked.and_then(|()| match group {
                MANAGER => self.look_at_manager(node, &mut seen),
                _ => Ok(()),
            });
            if let Err((checker, text)) = looked {
                let text = format!("group {group}: {text}");
                seen.failure.get_or_insert(Failure { checker, text });
            }
        }
        if let Some(managers) = &mut self.managers
            && let Some(known) = node.cluster()
            && let own = node.inspect(MANAGER).and_then(|replica| replica.manager)
            && let Err(text) = managers.known_at(index, known, own)
        {
            let checker = "manager-equality";
            seen.failure.get_or_insert(Failure { checker, text });
        }
        seen
    }

    fn look(
        &mut self,
        index: usize,
        node: &Node,
        id: GroupId,
        has_read: bool,
        marks: &mut Vec<Mark>,
    ) -> Result<(), Wrong> {
        let Some(replica) = node.inspect(id) else {
            return Ok(());
        };
        let raft = replica.raft;
        let named = |checker| move |text| (checker, text);
        let group = self.groups.entry(id).or_default();
        group.at.insert(index, raft.id());
        group
            .memberships
            .insert(index, Arc::clone(raft.membership()));
        group
            .members
            .looked_at(raft, replica.state.is_some())
            .map_err(named("replica-once"))?;
        group.promises.observe(raft).map_err(named("promises"))?;
        if group.logs.observe(raft).map_err(named("log-matching"))? {
            marks.push(Mark::Truncations);
        }
        let is_elected = group
            .elections
            .observe(raft)
            .map_err(named("election-safety"))?;
        if is_elected {
            marks.push(Mark::Elections);
            if id == MANAGER {
                marks.push(Mark::ManagerElections);
            }
            leader_completeness::check(raft, group.machine.committed())
                .map_err(named("leader-completeness"))?;
        }
        if has_read && raft.is_leader() && raft.term() < group.elections.newest() {
            marks.push(Mark::DeposedReads);
        }
        group
            .machine
            .observe(raft)
            .map_err(named("state-machine-safety"))?;
        group.machine.keep_open_entries(raft, id == MANAGER);
        for committed in group.machine.take_memberships() {
            group
                .members
                .committed(&committed)
                .map_err(named("members"))?;
            group.committed.insert(committed.id, committed);
        }
        let repeated = group.machine.repeated();
        while group.repeated < repeated {
            group.repeated += 1;
            marks.push(Mark::SessionRetries);
        }
        self.look_at_state(index, id, &replica)
    }

    fn look_at_state(
        &mut self,
        index: usize,
        id: GroupId,
        replica: &Inspection<'_>,
    ) -> Result<(), Wrong> {
        let Some((applied, keyspace)) = replica.state else {
            return Ok(());
        };
        let named = |checker| move |text| (checker, text);
        let group = self.groups.entry(id).or_default();
        let is_new = group
            .replicas
            .observe(replica.raft.id(), applied, keyspace)
            .map_err(named("replica-equality"))?;
        if !is_new {
            return Ok(());
        }
        // The shard manager's group has no keys, and its clock says nothing of those of others.
        if id != MANAGER {
            self.clock.applied(id, keyspace.clock(), self.now);
            let moves = replica.moves.expect("a state has its moves");
            if self.managers.is_some() && moves.ended.len() > group.ended.len() {
                let ended = moves.ended.iter();
                group.ended.extend(ended.map(|(id, how)| (*id, *how)));
            }
            self.owners
                .observe(id, applied, keyspace.served(), keyspace.clock(), moves)
                .map_err(named("one-owner"))?;
        }
        self.check_clock(index, keyspace.clock().get())
            .map_err(named("expiry"))
    }

    /// What the shard manager's group has decided, and what the replica here makes of it.
    fn look_at_manager(&mut self, node: &Node, seen: &mut Seen) -> Result<(), Wrong> {
        let Some(managers) = &mut self.managers else {
            return Ok(());
        };
        let group = self.groups.entry(MANAGER).or_default();
        for (index, term, request) in group.machine.take_requests() {
            let decided = managers.committed(index, term, request);
            seen.decided
                .push(decided.map_err(|text| ("issuers", text))?);
        }
        for decided in &seen.decided {
            check_evidence(&self.groups, decided).map_err(|text| ("evidence", text))?;
        }
        if let Some(replica) = node
            .inspect(MANAGER)
            .filter(|replica| replica.state.is_some())
        {
            let state = replica.manager.map(|state| &**state);
            managers
                .looked_at(replica.raft.id(), state)
                .map_err(|text| ("manager-equality", text))?;
        }
        Ok(())
    }

    fn check_clock(&self, index: usize, clock: u64) -> Result<(), String> {
        let truth = WALL_START_MS + self.now.as_millis();
        if self.has_median && clock > truth + AHEAD_MS_MAX {
            return Err(format!(
                "the logged clock of node {} is {} ms ahead of time",
                node_id(index),
                clock - truth
            ));
        }
        Ok(())
    }
}

/// Whether the logs of the groups have decided what closes a move or an order.
fn check_evidence(groups: &BTreeMap<GroupId, Group>, decided: &Decided) -> Result<(), String> {
    if decided.reply != Reply::Done {
        return Ok(());
    }
    match &decided.request.command {
        Command::CloseMove { id, evidence } => {
            let (by, how) = match evidence {
                Evidence::Received { by, .. } => (by, Ended::Received),
                Evidence::Refused { by, .. } => (by, Ended::Refused),
                Evidence::Cancelled { by, .. } => (by, Ended::Cancelled),
            };
            let ended = groups.get(by).and_then(|group| group.ended.get(id));
            match ended == Some(&how) {
                true => Ok(()),
                false => Err(format!(
                    "move {id} is closed by {evidence:?}, and in the log of group {by} it is {ended:?}"
                )),
            }
        }
        Command::CloseOrder {
            order,
            outcome: Outcome::Members(members),
        } => {
            let group = decided.before.orders()[order].group;
            let committed = groups.get(&group);
            let committed = committed.and_then(|group| group.committed.get(&members.id));
            let is_so = committed.is_some_and(|committed| {
                (&committed.voters, &committed.learners) == (&members.voters, &members.learners)
            });
            match is_so {
                true => Ok(()),
                false => Err(format!(
                    "order {order} is closed by {members:?}, and group {group} has committed \
                     {committed:?}"
                )),
            }
        }
        _ => Ok(()),
    }
}

/// Where the voters of a membership live, and those that a joint phase leads away from.
fn places_of(membership: &Membership) -> [BTreeSet<NodeId>; 2] {
    let places = |voters: &BTreeSet<ReplicaId>| {
        let nodes = voters
            .iter()
            .filter_map(|voter| membership.nodes.get(voter));
        nodes.copied().collect()
    };
    [places(&membership.voters), places(&membership.outgoing)]
}

/// How many turns pass between two looks at all invariants of a node; they cost as much as a turn.
const CHECK_EVERY: u64 = 8;
