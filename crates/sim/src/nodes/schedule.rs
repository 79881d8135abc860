//! What goes wrong, and when: a storm of faults drawn from the seed.
//!
//! Each run draws first which kinds of faults it will have: a run with all of them at once hardly ever
//! gets anything done, and the rare combinations of two are never deep enough.

use std::time::Duration;

use kvorum_base::GroupId;
use kvorum_node::Control;

use super::cluster::{Cluster, node_of};
use crate::disk::{Conduct, FileName};
use crate::world::{Time, ms};

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A process is killed, and started again.
    Kill,
    /// One machine loses power.
    PowerCut,
    /// All machines lose power at once.
    PowerCutOfAll,
    /// Some links are cut for a while.
    Partition,
    /// A process gets no time for a while.
    Pause,
    /// A disk takes very long for everything.
    SlowDisk,
    /// One sync fails.
    FailedSync,
    /// A disk has no room for a while.
    FullDisk,
    /// A bit of a machine's disk flips while it is down.
    FlippedBit,
    /// The leadership is handed over.
    Transfer,
    /// A snapshot is taken.
    Snapshot,
    /// A wall clock jumps.
    ClockJump,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Kill,
        Self::PowerCut,
        Self::PowerCutOfAll,
        Self::Partition,
        Self::Pause,
        Self::SlowDisk,
        Self::FailedSync,
        Self::FullDisk,
        Self::FlippedBit,
        Self::Transfer,
        Self::Snapshot,
        Self::ClockJump,
    ];
}

/// The group that the simulated clusters have.
pub const GROUP: GroupId = GroupId(1);

/// Draws the kinds of faults of a run.
#[must_use]
pub fn draw_faults(cluster: &Cluster) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    let keep_per_cent = 20 + cluster.below(60);
    for fault in Fault::ALL {
        if cluster.chance(keep_per_cent, 100) {
            faults.push(fault);
        }
    }
    faults
}

/// Makes faults until that time.
pub async fn storm(cluster: Cluster, faults: Vec<Fault>, until: Time) {
    let pause_max = 300 + cluster.below(2000);
    while cluster.world().now() < until {
        cluster
            .world()
            .sleep(ms(50 + cluster.below(pause_max)))
            .await;
        if let Some(fault) = faults.get(cluster.below(faults.len().max(1) as u64) as usize) {
            strike(&cluster, *fault);
        }
    }
}

/// Ends all faults that do not end by themselves.
pub fn calm(cluster: &Cluster) {
    cluster.heal();
    for machine in 0..cluster.size() {
        cluster.set_paused(machine, false);
        cluster.with(machine, |machine| {
            *machine.disk.conduct_mut() = Conduct::default();
        });
        if !cluster.is_up(machine) {
            cluster.start(machine);
        }
    }
}

fn strike(cluster: &Cluster, fault: Fault) {
    // Whoever leads has the most to lose.
    let anyone = cluster.below(cluster.size() as u64) as usize;
    let leader = cluster.leader().filter(|_| cluster.chance(1, 2));
    let victim = leader.unwrap_or(anyone);
    cluster.trace(|| format!("fault: {fault:?} at machine {victim}"));
    match fault {
        Fault::Kill => end(cluster, victim, Cluster::kill),
        Fault::PowerCut => end(cluster, victim, Cluster::power_cut),
        Fault::PowerCutOfAll => {
            for machine in 0..cluster.size() {
                cluster.power_cut(machine);
                start_later(cluster, machine);
            }
        }
        Fault::Partition => partition(cluster, victim),
        Fault::Pause => {
            cluster.count(|coverage| coverage.pauses += 1);
            cluster.set_paused(victim, true);
            later(cluster, 100, 4000, move |cluster| {
                cluster.set_paused(victim, false);
            });
        }
        Fault::SlowDisk => conduct_for_a_while(cluster, victim, |conduct| {
            conduct.sync_min = ms(200);
            conduct.sync_max = ms(1500);
        }),
        Fault::FailedSync => {
            cluster.with(victim, |machine| {
                machine.disk.conduct_mut().fail_next_sync = true;
            });
            later(cluster, 500, 2000, move |cluster| {
                cluster.with(victim, |machine| {
                    machine.disk.conduct_mut().fail_next_sync = false;
                });
                start_if_down(cluster, victim);
            });
        }
        Fault::FullDisk => conduct_for_a_while(cluster, victim, |conduct| conduct.capacity = 0),
        Fault::FlippedBit => flip_bit(cluster, victim),
        Fault::Transfer => {
            cluster.count(|coverage| coverage.transfers += 1);
            let to = Some(node_of(cluster.below(cluster.size() as u64) as usize));
            for machine in 0..cluster.size() {
                cluster.control(machine, Control::Transfer { group: GROUP, to });
            }
        }
        Fault::Snapshot => cluster.control(victim, Control::Snapshot { group: GROUP }),
        Fault::ClockJump => {
            let error = cluster.below(1000) as i64 - 500;
            cluster.with(victim, |machine| machine.clock_error_ms = error);
        }
    }
}

/// Ends a process, now or around its next sync, and starts another one later.
fn end(cluster: &Cluster, victim: usize, how: fn(&Cluster, usize)) {
    let strike = move |cluster: &Cluster| {
        how(cluster, victim);
        start_later(cluster, victim);
    };
    if cluster.chance(1, 3) {
        strike(cluster);
    } else {
        cluster.with(victim, |machine| machine.ambush = Some(Box::new(strike)));
    }
}

fn later(cluster: &Cluster, min: u64, max: u64, act: impl FnOnce(&Cluster) + 'static) {
    let delay = ms(min + cluster.below(max - min));
    let copy = cluster.clone();
    cluster.world().after(delay, move || act(&copy));
}

fn start_if_down(cluster: &Cluster, machine: usize) {
    if !cluster.is_up(machine) {
        cluster.start(machine);
    }
}

fn start_later(cluster: &Cluster, machine: usize) {
    let longest = [10, 200, 600, 6000][cluster.below(4) as usize];
    later(cluster, 1, longest, move |cluster| {
        start_if_down(cluster, machine);
    });
}

/// Cuts the links between two sides, or in one direction only, for a while.
fn partition(cluster: &Cluster, victim: usize) {
    cluster.count(|coverage| coverage.partitions += 1);
    let one_way = cluster.chance(1, 4);
    let alone = cluster.chance(1, 2);
    let side: Vec<bool> = (0..cluster.size())
        .map(|machine| {
            if alone {
                machine == victim
            } else {
                cluster.chance(1, 2)
            }
        })
        .collect();
    for from in 0..cluster.size() {
        for to in 0..cluster.size() {
            if side[from] != side[to] && (!one_way || side[from]) {
                cluster.set_cut(from, to, true);
            }
        }
    }
    later(cluster, 200, 5000, Cluster::heal);
}

fn conduct_for_a_while(
    cluster: &Cluster,
    victim: usize,
    change: impl FnOnce(&mut Conduct) + 'static,
) {
    cluster.with(victim, |machine| change(machine.disk.conduct_mut()));
    later(cluster, 1000, 5000, move |cluster| {
        cluster.with(victim, |machine| {
            *machine.disk.conduct_mut() = Conduct::default();
        });
    });
}

/// Only one machine of a run may lose promises: the others must be a majority.
fn flip_bit(cluster: &Cluster, victim: usize) {
    let tampered: Vec<usize> = (0..cluster.size())
        .filter(|machine| cluster.with(*machine, |machine| machine.tampered))
        .collect();
    if tampered.iter().any(|machine| *machine != victim) {
        return;
    }
    cluster.kill(victim);
    let of_log = cluster.chance(2, 3);
    let at_end = cluster.chance(1, 2);
    let flipped = cluster.with(victim, |machine| {
        let flipped = machine.disk.flip_bit(|name, bytes| {
            let wanted = match name {
                FileName::Segment(_) => of_log,
                FileName::Snapshot { .. } => !of_log,
                _ => false,
            };
            let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
            // The last batch is where damage and tearing are hard to tell apart.
            wanted.then_some(if at_end {
                end.saturating_sub(600)..end
            } else {
                0..end
            })
        });
        machine.tampered |= flipped.is_some();
        flipped
    });
    if let Some((name, at)) = flipped {
        cluster.count(|coverage| coverage.flipped_bits += 1);
        cluster.trace(|| format!("machine {victim}: byte {at} of {name:?} is changed"));
    }
    start_later(cluster, victim);
}

/// How long a storm lasts.
pub const STORM: Duration = Duration::from_secs(20);
