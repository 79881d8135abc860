//! The shard manager's group, as every node of a cluster sees it.
//!
//! Group 0 is a group like all others: its log, its elections, its snapshots are theirs. What it replicates
//! beside an empty keyspace is one value, the `cluster` crate's `State`. This room brings it together with
//! the nodes:
//!
//! ```text
//! operator ─► any node ─ ask ─►  primary of group 0  ─► its log ─► State at each replica
//!                  ▲               │  ▲   plans: what follows from the state is proposed
//!                  └─── answer ────┘  │
//!                                     │ report: who leads, who is silent; evidence: what logs have decided
//! every node  ◄────── state ──────────┘
//! ```
//!
//! - [`ask`]: requests on their way to the primary, and the answers on their way back;
//! - [`watch`]: every node holds the newest state it has heard of, and the primary sees to that;
//! - [`evidence`]: what this node's groups have decided, told until the state says it too;
//! - [`plan`]: what the primary proposes by itself.
//!
//! Nothing that a client is promised depends on any of it. A node that hears no manager serves on.

pub(crate) mod ask;
mod evidence;
mod plan;
mod watch;

use std::collections::BTreeMap;

use kvorum_base::{Index, NodeId};

use ask::Asks;
use evidence::Evidences;
use plan::Planner;
use watch::Watchers;

use crate::format::manager::{ManagerMessage, Report};
use crate::limits::{MANAGER_LOOK_TICKS, REPORT_TICKS};
use crate::node::Node;

pub use kvorum_cluster::MANAGER;

/// What a node keeps of its dealings with the shard manager. None of it outlives the process.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    pub(crate) asks: Asks,
    evidences: Evidences,
    planner: Planner,
    watchers: Watchers,
    /// What other nodes told this one, which is the primary or was, and when.
    reports: BTreeMap<NodeId, (Report, u64)>,
    /// The state that was last reported as held.
    reported: Index,
}

impl Node {
    /// What is due by time.
    pub(crate) fn tick_manager(&mut self) {
        let now = self.shared.now_tick;
        if now.is_multiple_of(MANAGER_LOOK_TICKS) {
            self.tell_evidence();
            self.plan();
            self.push_state();
            self.ask_held();
        }
        let held = self
            .shared
            .cluster
            .as_ref()
            .map(|cluster| cluster.newness());
        // Where a replica of the manager is, nobody sends states and waits to hear that they are held.
        let watches = self.groups.iter().all(|group| group.id != MANAGER);
        let is_news = watches && held.unwrap_or_default() != self.shared.manager.reported;
        if now.is_multiple_of(REPORT_TICKS) || is_news {
            self.report();
        }
        self.give_up_asks();
    }

    /// What this turn brought: a newer state, answers.
    pub(crate) fn manager_end_of_turn(&mut self) {
        self.learn_from_own_replica();
        self.deliver_answers();
    }

    /// A message of another node.
    pub(crate) fn manager_message(&mut self, from: NodeId, message: ManagerMessage) {
        let now = self.shared.now_tick;
        match message {
            ManagerMessage::Ask { number, request } => self.asked(from, number, request),
            ManagerMessage::Answer { number, answer } => {
                self.shared.manager.asks.answered(from, number, answer);
            }
            ManagerMessage::Report(report) => {
                for node in &report.lost {
                    self.peer_lost(*node);
                }
                let reports = &mut self.shared.manager.reports;
                reports.insert(from, (report, now));
            }
            ManagerMessage::State(bytes) => {
                // Of a newer version than this program can read: the old state has to do.
                if let Ok(state) = kvorum_cluster::State::decode(&bytes) {
                    self.shared.learn(&state.into());
                }
            }
        }
    }

    /// Where the shard manager's replica is among the groups here, if it leads and may act: it has
    /// applied what was decided before it.
    fn manager_seat(&self) -> Option<usize> {
        let at = self.groups.iter().position(|group| group.id == MANAGER)?;
        self.groups[at].may_drive().then_some(at)
    }
}
