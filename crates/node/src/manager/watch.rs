//! Every node holds the newest state of the shard manager that it has heard of.
//!
//! Where a replica of the manager's group lives it is what that has applied. To all other nodes the
//! primary sends it, whole, when it has changed, at most ten times a second, and again until they report that
//! they hold it. A state is a few kilobytes; of two the one with more entries in it is newer, unless entries
//! were lost meanwhile ([`kvorum_cluster::State::newness`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_base::{Index, NodeId, Slot, SlotSet};
use kvorum_cluster::limits::{MOVE_BYTES_MAX, MOVE_SLOTS_MAX};

use super::MANAGER;
use crate::format::manager::{Led, ManagerMessage, Report};
use crate::limits::{LARGE_SLOTS_MAX, STATE_RETRY_TICKS};
use crate::node::Node;

/// What was sent to those who watch: how new it was, and when.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    sent: BTreeMap<NodeId, (Index, u64)>,
}

impl Node {
    /// Takes what the replica here has applied.
    pub(super) fn learn_from_own_replica(&mut self) {
        let mut groups = self.groups.iter();
        let state = groups
            .find(|group| group.id == MANAGER)
            .and_then(|group| group.state.as_ref());
        if let Some(manager) = state.and_then(|state| state.manager.as_ref()) {
            self.shared.learn(manager);
        }
    }

    /// As primary: sends the state to those who have none, or an old one.
    pub(super) fn push_state(&mut self) {
        let Some(at) = self.manager_seat() else {
            self.shared.manager.watchers.sent.clear();
            return;
        };
        let group = &self.groups[at];
        let state = group.state.as_ref().expect("a primary has a state");
        let Some(manager) = &state.manager else {
            return;
        };
        let (now, newness) = (self.shared.now_tick, manager.newness());
        let members = &group.raft.membership().nodes;
        let mut encoded: Option<Bytes> = None;
        for node in manager.nodes().keys() {
            if members.values().any(|member| member == node) {
                continue;
            }
            let shared = &mut self.shared;
            let report = shared.manager.reports.get(node);
            let held = report.map_or(Index::ZERO, |(report, _)| report.held);
            let sent = shared.manager.watchers.sent.get(node);
            let is_sent =
                sent.is_some_and(|(sent, tick)| *sent == newness && now < tick + STATE_RETRY_TICKS);
            if is_sent || (held >= newness && report.is_some()) {
                continue;
            }
            let bytes = encoded.get_or_insert_with(|| manager.encode().into());
            let message = ManagerMessage::State(bytes.clone());
            shared.peers.send_manager(*node, message);
            shared.manager.watchers.sent.insert(*node, (newness, now));
        }
    }

    /// Tells the primary what this node knows.
    pub(super) fn report(&mut self) {
        let own = self.shared.config.node;
        let report = self.own_report();
        let now = self.shared.now_tick;
        self.shared.manager.reported = report.held;
        match self.shared.primary_of(MANAGER) {
            Some(node) if node != own => {
                let message = ManagerMessage::Report(report);
                self.shared.peers.send_manager(node, message);
            }
            _ => {
                let reports = &mut self.shared.manager.reports;
                reports.insert(own, (report, now));
            }
        }
    }

    fn own_report(&self) -> Report {
        let (shared, tick_ms) = (&self.shared, self.shared.config.tick_ms);
        let held = shared.cluster.as_ref().map(|cluster| cluster.newness());
        let mut report = Report {
            held: held.unwrap_or_default(),
            ..Report::default()
        };
        let mut silent = BTreeMap::new();
        for group in self.groups.iter().filter(|group| group.leading()) {
            let state = group.state.as_ref().expect("a primary has a state");
            report.led.push(Led {
                group: group.id,
                term: group.raft.term(),
                bytes: state.keyspace.logical_bytes(),
            });
            for node in group.raft.membership().nodes.values() {
                let ticks = shared.peers.silent_ticks(*node, shared.now_tick);
                if ticks > 0 {
                    silent.insert(*node, ticks * tick_ms);
                }
            }
        }
        report.silent = silent.into_iter().collect();
        report.slots = self.large_slots();
        report.lost = shared.peers.lost().collect();
        report.is_full = shared.log.is_full();
        report
    }

    /// Slots of groups led here that have to move, and of which few make a move.
    fn large_slots(&self) -> Vec<(Slot, u64)> {
        const LARGE: u64 = MOVE_BYTES_MAX / MOVE_SLOTS_MAX as u64;
        let Some(cluster) = &self.shared.cluster else {
            return Vec::new();
        };
        let mut large = Vec::new();
        let wanted = &cluster.newest().slots;
        for group in self.groups.iter().filter(|group| group.leading()) {
            let id = Some(group.id);
            let mut leaving = SlotSet::none();
            for (first, last, _) in wanted.runs().filter(|(_, _, wanted)| **wanted != id) {
                let here = |slot: &Slot| group.served().contains(*slot);
                for slot in (first..=last).map(Slot).filter(here) {
                    leaving.insert(slot);
                }
            }
            if leaving.is_empty() {
                continue;
            }
            let state = group.state.as_ref().expect("a primary has a state");
            let sizes = state.keyspace.bytes_by_slot(&leaving);
            large.extend(sizes.filter(|(_, bytes)| *bytes > LARGE));
        }
        large.sort_unstable();
        large.truncate(LARGE_SLOTS_MAX);
        large
    }
}
