//! What the shard manager's primary proposes by itself: what follows from the state, and who is dead.
//!
//! A plan is made when all of the last one was applied, so that none is made twice. If everything in one
//! was refused, the next waits longer and longer: what it was made of has not changed.

use kvorum_base::NodeId;
use kvorum_cluster::{Command, Health, Hearsay, Reply, State, Witness, next_commands};

use super::MANAGER;
use super::ask::Who;
use crate::format::manager::Answer;
use crate::limits::{MANAGER_LOOK_TICKS, PLAN_COMMANDS_MAX, PLAN_PAUSE_TICKS_MAX, REPORT_TICKS};
use crate::node::Node;

/// How planning goes.
#[derive(Debug, Default)]
pub(super) struct Planner {
    /// Since when this node may plan.
    since_tick: Option<u64>,
    /// No plan before it.
    not_before_tick: u64,
    /// How long to wait when all of a plan was refused.
    pause_ticks: u64,
    /// Whether some of the last plan was done.
    was_done: bool,
    /// A plan was made whose answers are not judged yet.
    is_open: bool,
}

impl Planner {
    pub(super) fn answered(&mut self, answer: &Answer) {
        self.was_done |= matches!(answer, Answer::Replied(reply)
            if !matches!(reply, Reply::Refused(_)));
    }

    /// Judges the last plan; says whether another may be made now.
    fn is_due(&mut self, now: u64) -> bool {
        if std::mem::take(&mut self.is_open) {
            self.pause_ticks = match std::mem::take(&mut self.was_done) {
                true => 0,
                false => (self.pause_ticks * 2).clamp(MANAGER_LOOK_TICKS, PLAN_PAUSE_TICKS_MAX),
            };
            self.not_before_tick = now + self.pause_ticks;
        }
        now >= self.not_before_tick
    }
}

impl Node {
    /// As primary: proposes what is to be done next.
    pub(super) fn plan(&mut self) {
        let now = self.shared.now_tick;
        if self.manager_seat().is_none() {
            self.shared.manager.planner = Planner::default();
            return;
        }
        let planner = &mut self.shared.manager.planner;
        let since = *planner.since_tick.get_or_insert(now);
        if self.shared.manager.asks.plans() || !self.shared.manager.planner.is_due(now) {
            return;
        }
        let Some(cluster) = self.shared.cluster.clone() else {
            return;
        };
        if !self.knows_enough(&cluster, since) {
            return;
        }
        let mut commands = self.health_commands(&cluster, since);
        let hearsay = self.hearsay(&cluster);
        commands.extend(next_commands(&cluster, &hearsay));
        commands.truncate(PLAN_COMMANDS_MAX);
        self.shared.manager.planner.is_open = !commands.is_empty();
        for command in commands {
            self.manage(command.into(), Who::Planner);
        }
    }

    /// Whether all nodes that work have reported to this primary, or had the time to: a plan that knows no
    /// sizes would put replicas where there is no room for them.
    fn knows_enough(&self, cluster: &State, since: u64) -> bool {
        let mut alive = (cluster.nodes().iter()).filter(|(_, node)| node.health == Health::Alive);
        let reports = &self.shared.manager.reports;
        let has_said = |(node, _): (&NodeId, _)| {
            let report = reports.get(node);
            report.is_some_and(|(_, tick)| *tick >= since)
        };
        self.shared.now_tick >= since + 2 * REPORT_TICKS || alive.all(has_said)
    }

    /// What nodes have reported, as the plan wants it.
    fn hearsay(&self, cluster: &State) -> Hearsay {
        let mut hearsay = Hearsay::default();
        for (node, (report, _)) in &self.shared.manager.reports {
            for led in &report.led {
                if hearsay.hear_primary(led.group, led.term, *node) {
                    hearsay.hear_sizes(led.group, led.bytes, []);
                }
            }
            hearsay.slot_bytes.extend(report.slots.iter().copied());
            if report.is_full {
                hearsay.full.insert(*node);
            }
        }
        hearsay.forget_what_is_over(cluster);
        hearsay
    }

    /// Who is dead, alive again, or has lost promises.
    fn health_commands(&self, cluster: &State, since: u64) -> Vec<Command> {
        let (now, config) = (self.shared.now_tick, &self.shared.config);
        let mut commands = Vec::new();
        for (id, node) in cluster.nodes().iter().filter(|(id, _)| **id != config.node) {
            let (node_id, directory) = (*id, node.directory);
            if self.shared.peers.is_lost(*id) && node.health != Health::Damaged {
                commands.push(Command::ReportDamaged {
                    node: node_id,
                    directory,
                });
                continue;
            }
            let silent = self.shared.peers.silent_ticks(*id, now).min(now - since);
            match node.health {
                Health::Dead if silent < 2 * REPORT_TICKS && now - since >= 2 * REPORT_TICKS => {
                    commands.push(Command::ReportAlive {
                        node: node_id,
                        directory,
                    });
                }
                Health::Alive if silent >= config.node_dead_ticks => {
                    let mut witnesses = self.witnesses(*id);
                    witnesses.extend(self.speaks_for(cluster, *id, since));
                    commands.push(Command::ReportDead {
                        node: node_id,
                        witnesses,
                    });
                }
                _ => {}
            }
        }
        commands
    }

    /// The groups of a silent node for which this primary has to speak, since most of their voters are
    /// silent. Else the nodes of a group that lives on nodes of its own would never be dead when all of
    /// them are, and what waits for that group would be counted as work that gets on.
    fn speaks_for(&self, cluster: &State, silent: NodeId, since: u64) -> Vec<Witness> {
        let (now, config) = (self.shared.now_tick, &self.shared.config);
        let is_silent = |node: NodeId| {
            let ticks = self.shared.peers.silent_ticks(node, now).min(now - since);
            node != config.node && ticks >= config.node_dead_ticks
        };
        let shards = cluster.shards().iter().filter(|(group, shard)| {
            let silents = shard.voters().filter(|(_, node)| is_silent(*node)).count();
            let is_there = shard.voters().any(|(_, node)| node == silent);
            **group != MANAGER && is_there && silents * 2 > shard.voters().count()
        });
        let node = config.node;
        let speaks = shards.map(|(group, _)| Witness {
            group: *group,
            node,
        });
        speaks.collect()
    }

    /// The primaries that have not heard a node for as long as makes one dead.
    fn witnesses(&self, silent: NodeId) -> Vec<Witness> {
        let shared = &self.shared;
        let dead_ms = shared.config.node_dead_ticks * shared.config.tick_ms;
        let mut witnesses = Vec::new();
        for (node, (report, tick)) in &shared.manager.reports {
            let misses = report.silent.iter().any(|(other, ms)| {
                *other == silent && ms + 3 * REPORT_TICKS * shared.config.tick_ms >= dead_ms
            });
            if !misses || shared.now_tick - tick > 3 * REPORT_TICKS {
                continue;
            }
            let led = report.led.iter().filter(|led| led.group != MANAGER);
            witnesses.extend(led.map(|led| Witness {
                group: led.group,
                node: *node,
            }));
        }
        witnesses
    }
}
