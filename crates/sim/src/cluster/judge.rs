//! What is checked while the simulation runs: every replica, after every turn.

use std::collections::BTreeMap;
use std::rc::Rc;

use kvorum_base::GroupId;
use kvorum_node::Node;
use kvorum_node::format::peer::PeerMessage;

use super::coverage::Mark;
use super::options::{Options, WALL_START_MS, node_id};
use crate::checkers::durability::Ledger;
use crate::checkers::election_safety::ElectionSafety;
use crate::checkers::expiry::LoggedClock;
use crate::checkers::leader_completeness;
use crate::checkers::log_matching::LogMatching;
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
}

/// All that is known of the replicas of one group.
#[derive(Default)]
struct Group {
    elections: ElectionSafety,
    promises: Promises,
    logs: LogMatching,
    machine: StateMachine,
    replicas: Replicas,
    repeated: u64,
}

/// All that is known of the replicas.
pub struct Judge {
    groups: BTreeMap<GroupId, Group>,
    clock: LoggedClock,
    owners: Owners,
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
            groups: options.groups().map(|id| (id, Group::default())).collect(),
            clock: LoggedClock::default(),
            owners: Owners::default(),
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

    /// The node begins another life.
    pub(super) fn restarted(&mut self, node: usize) {
        for group in self.groups.values_mut() {
            group.promises.restarted(node);
            group.logs.restarted(node);
            group.machine.restarted(node);
            group.replicas.restarted(node);
        }
    }

    /// A node's frame leaves.
    pub(super) fn said(&mut self, node: usize, messages: &[PeerMessage]) {
        for message in messages {
            if let PeerMessage::Raft {
                group,
                from,
                to,
                message,
            } = message
                && let Some(known) = self.groups.get_mut(group)
            {
                known.promises.said(node, *from, *to, message);
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
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            if let Err((checker, text)) = self.look(index, node, group, has_read, &mut seen.marks) {
                let text = format!("group {group}: {text}");
                seen.failure.get_or_insert(Failure { checker, text });
            }
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
    ) -> Result<(), (&'static str, String)> {
        let Some(replica) = node.inspect(id) else {
            return Ok(());
        };
        let raft = replica.raft;
        let named = |checker| move |text| (checker, text);
        let group = self.groups.entry(id).or_default();
        group
            .promises
            .observe(index, raft)
            .map_err(named("promises"))?;
        if group
            .logs
            .observe(index, raft)
            .map_err(named("log-matching"))?
        {
            marks.push(Mark::Truncations);
        }
        let is_elected = group
            .elections
            .observe(raft)
            .map_err(named("election-safety"))?;
        if is_elected {
            marks.push(Mark::Elections);
            leader_completeness::check(raft, group.machine.committed())
                .map_err(named("leader-completeness"))?;
        }
        if has_read && raft.is_leader() && raft.term() < group.elections.newest() {
            marks.push(Mark::DeposedReads);
        }
        group
            .machine
            .observe(index, raft)
            .map_err(named("state-machine-safety"))?;
        let repeated = group.machine.repeated();
        while group.repeated < repeated {
            group.repeated += 1;
            marks.push(Mark::SessionRetries);
        }
        if let Some((applied, keyspace)) = replica.state {
            let is_new = group
                .replicas
                .observe(index, applied, keyspace)
                .map_err(named("replica-equality"))?;
            if is_new {
                self.clock.applied(id, keyspace.clock(), self.now);
                let moves = replica.moves.expect("a state has its moves");
                self.owners
                    .observe(id, applied, keyspace.served(), keyspace.clock(), moves)
                    .map_err(named("one-owner"))?;
                self.check_clock(index, keyspace.clock().get())
                    .map_err(named("expiry"))?;
            }
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

/// How many turns pass between two looks at all invariants of a node; they cost as much as a turn.
const CHECK_EVERY: u64 = 8;
