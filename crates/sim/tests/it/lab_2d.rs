//! Lab 2D: snapshots.

use kvorum_sim::labs::raft_cluster::{Cluster, Setup, run};
use kvorum_sim::on_seeds;

use super::SEEDS;

fn setup(reliable: bool) -> Setup {
    Setup {
        servers: 3,
        reliable,
        snapshot_interval: 10,
    }
}

/// What becomes of the victim in each round.
#[derive(Clone, Copy, PartialEq)]
enum Harm {
    None,
    Disconnect,
    Crash,
}

async fn agree(cluster: &Cluster, count: usize) -> u64 {
    cluster.one(&cluster.random_command(), count, true).await
}

async fn snap(cluster: &Cluster, harm: Harm) {
    agree(cluster, 3).await;
    let mut leader = cluster.check_one_leader().await;
    for round in 0..30 {
        let (mut victim, mut sender) = (cluster.after(leader, 1), leader);
        if round % 3 == 1 {
            std::mem::swap(&mut victim, &mut sender);
        }
        match harm {
            Harm::None => {}
            Harm::Disconnect => cluster.disconnect(victim),
            Harm::Crash => cluster.crash(victim),
        }
        if harm != Harm::None {
            agree(cluster, 2).await;
        }
        for _ in 0..5 + cluster.below(10) {
            let _ = cluster.propose(sender, cluster.random_command());
        }
        agree(cluster, if harm == Harm::None { 3 } else { 2 }).await;
        cluster.check_log_size();
        match harm {
            Harm::None => continue,
            Harm::Disconnect => cluster.connect(victim),
            Harm::Crash => cluster.restart(victim),
        }
        agree(cluster, 3).await;
        leader = cluster.check_one_leader().await;
    }
}

#[test]
fn lab_2d_snapshot_basic() {
    on_seeds(SEEDS, |seed| {
        run(setup(true), seed, async |cluster| {
            snap(cluster, Harm::None).await;
        });
    });
}

#[test]
fn lab_2d_snapshot_install() {
    on_seeds(SEEDS, |seed| {
        run(setup(true), seed, async |cluster| {
            snap(cluster, Harm::Disconnect).await;
        });
    });
}

#[test]
fn lab_2d_snapshot_install_unreliable() {
    on_seeds(SEEDS, |seed| {
        run(setup(false), seed, async |cluster| {
            snap(cluster, Harm::Disconnect).await;
        });
    });
}

#[test]
fn lab_2d_snapshot_install_crash() {
    on_seeds(SEEDS, |seed| {
        run(setup(true), seed, async |cluster| {
            snap(cluster, Harm::Crash).await;
        });
    });
}

#[test]
fn lab_2d_snapshot_install_unreliable_crash() {
    on_seeds(SEEDS, |seed| {
        run(setup(false), seed, async |cluster| {
            snap(cluster, Harm::Crash).await;
        });
    });
}

fn restart_all(cluster: &Cluster) {
    (0..cluster.size()).for_each(|server| cluster.crash(server));
    (0..cluster.size()).for_each(|server| cluster.restart(server));
}

async fn all_crash(cluster: &Cluster) {
    agree(cluster, 3).await;
    for _ in 0..5 {
        for _ in 0..5 + cluster.below(10) {
            agree(cluster, 3).await;
        }
        let before = agree(cluster, 3).await;
        restart_all(cluster);
        let after = agree(cluster, 3).await;
        assert!(
            after > before,
            "number {after} after a restart, {before} before"
        );
    }
}

#[test]
fn lab_2d_snapshot_all_crash() {
    on_seeds(SEEDS, |seed| run(setup(true), seed, all_crash));
}

#[test]
fn lab_2d_snapshot_all_crash_unreliable() {
    on_seeds(SEEDS, |seed| run(setup(false), seed, all_crash));
}

/// Catches a restarted server that writes its state back without its snapshot.
async fn init(cluster: &Cluster) {
    for _ in 0..12 {
        agree(cluster, 3).await;
    }
    for _ in 0..2 {
        restart_all(cluster);
        agree(cluster, 3).await;
    }
}

#[test]
fn lab_2d_snapshot_init() {
    on_seeds(SEEDS, |seed| run(setup(true), seed, init));
}

#[test]
fn lab_2d_snapshot_init_unreliable() {
    on_seeds(SEEDS, |seed| run(setup(false), seed, init));
}
