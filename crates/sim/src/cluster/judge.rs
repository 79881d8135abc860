//! What is checked while the simulation runs: every replica, after every turn.

use std::rc::Rc;

use kvorum_node::Node;
use kvorum_node::format::peer::PeerMessage;

use super::coverage::Mark;
use super::options::{GROUP, Options, WALL_START_MS, node_id};
use crate::checkers::durability::Ledger;
use crate::checkers::election_safety::ElectionSafety;
use crate::checkers::expiry::LoggedClock;
use crate::checkers::leader_completeness;
use crate::checkers::log_matching::LogMatching;
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

/// All that is known of the replicas.
pub struct Judge {
    elections: ElectionSafety,
    promises: Promises,
    logs: LogMatching,
    machine: StateMachine,
    replicas: Replicas,
    clock: LoggedClock,
    /// Whether one wrong wall clock cannot decide anything.
    has_median: bool,
    repeated: u64,
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
            elections: ElectionSafety::default(),
            promises: Promises::default(),
            logs: LogMatching::default(),
            machine: StateMachine::default(),
            replicas: Replicas::default(),
            clock: LoggedClock::default(),
            has_median: options.nodes > 2,
            repeated: 0,
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
        self.promises.restarted(node);
        self.logs.restarted(node);
        self.machine.restarted(node);
        self.replicas.restarted(node);
    }

    /// A node's frame leaves.
    pub(super) fn said(&mut self, node: usize, messages: &[PeerMessage]) {
        for message in messages {
            if let PeerMessage::Raft {
                from, to, message, ..
            } = message
            {
                self.promises.said(node, *from, *to, message);
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
        if let Err((checker, text)) = self.look(index, node, has_read, &mut seen.marks) {
            seen.failure = Some(Failure { checker, text });
        }
        seen
    }

    fn look(
        &mut self,
        index: usize,
        node: &Node,
        has_read: bool,
        marks: &mut Vec<Mark>,
    ) -> Result<(), (&'static str, String)> {
        let Some(replica) = node.inspect(GROUP) else {
            return Ok(());
        };
        let raft = replica.raft;
        let named = |checker| move |text| (checker, text);
        self.promises
            .observe(index, raft)
            .map_err(named("promises"))?;
        if self
            .logs
            .observe(index, raft)
            .map_err(named("log-matching"))?
        {
            marks.push(Mark::Truncations);
        }
        let is_elected = self
            .elections
            .observe(raft)
            .map_err(named("election-safety"))?;
        if is_elected {
            marks.push(Mark::Elections);
            leader_completeness::check(raft, self.machine.committed())
                .map_err(named("leader-completeness"))?;
        }
        if has_read && raft.is_leader() && raft.term() < self.elections.newest() {
            marks.push(Mark::DeposedReads);
        }
        self.machine
            .observe(index, raft)
            .map_err(named("state-machine-safety"))?;
        let repeated = self.machine.repeated();
        while self.repeated < repeated {
            self.repeated += 1;
            marks.push(Mark::SessionRetries);
        }
        if let Some((applied, keyspace)) = replica.state {
            let is_new = self
                .replicas
                .observe(index, applied, keyspace)
                .map_err(named("replica-equality"))?;
            if is_new {
                self.clock.applied(keyspace.clock(), self.now);
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
