//! Lab 2C: persistence.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use kvorum_sim::labs::raft_cluster::{Cluster, Command, ELECTION_TIMEOUT, Setup, command, run};
use kvorum_sim::on_seeds;
use kvorum_sim::world::ms;

use super::SEEDS;

#[test]
fn lab_2c_persist_1() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            cluster.one(&command(11), 3, true).await;
            (0..3).for_each(|server| cluster.start(server));
            (0..3).for_each(|server| cluster.restart(server));
            cluster.one(&command(12), 3, true).await;
            let leader = cluster.check_one_leader().await;
            cluster.disconnect(leader);
            cluster.restart(leader);
            cluster.one(&command(13), 3, true).await;
            let leader = cluster.check_one_leader().await;
            cluster.disconnect(leader);
            cluster.one(&command(14), 2, true).await;
            cluster.restart(leader);
            cluster.wait(4, 3, None).await;
            let third = cluster.after(cluster.check_one_leader().await, 1);
            cluster.disconnect(third);
            cluster.one(&command(15), 2, true).await;
            cluster.restart(third);
            cluster.one(&command(16), 3, true).await;
        });
    });
}

#[test]
fn lab_2c_persist_2() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(5), seed, async |cluster| {
            let next = Cell::new(10);
            let fresh = || {
                next.set(next.get() + 1);
                command(next.get() - 1)
            };
            for _ in 0..5 {
                cluster.one(&fresh(), 5, true).await;
                let leader = cluster.check_one_leader().await;
                let at = |places| cluster.after(leader, places);
                [1, 2]
                    .iter()
                    .for_each(|places| cluster.disconnect(at(*places)));
                cluster.one(&fresh(), 3, true).await;
                [0, 3, 4]
                    .iter()
                    .for_each(|places| cluster.disconnect(at(*places)));
                [1, 2]
                    .iter()
                    .for_each(|places| cluster.restart(at(*places)));
                cluster.sleep(ELECTION_TIMEOUT).await;
                cluster.restart(at(3));
                cluster.one(&fresh(), 3, true).await;
                [4, 0]
                    .iter()
                    .for_each(|places| cluster.connect(at(*places)));
            }
            cluster.one(&command(1000), 5, true).await;
        });
    });
}

#[test]
fn lab_2c_persist_3() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            cluster.one(&command(101), 3, true).await;
            let leader = cluster.check_one_leader().await;
            let at = |places| cluster.after(leader, places);
            cluster.disconnect(at(2));
            cluster.one(&command(102), 2, true).await;
            cluster.crash(leader);
            cluster.crash(at(1));
            cluster.connect(at(2));
            cluster.restart(leader);
            cluster.one(&command(103), 2, true).await;
            cluster.restart(at(1));
            cluster.one(&command(104), 3, true).await;
        });
    });
}

async fn figure_8_pause(cluster: &Cluster) {
    let longest = if cluster.below(1000) < 100 { 500 } else { 13 };
    cluster.sleep(ms(cluster.below(longest))).await;
}

#[test]
fn lab_2c_figure_8() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(5), seed, async |cluster| {
            cluster.one(&cluster.random_command(), 1, true).await;
            for _ in 0..1000 {
                let takes = |server: &usize| {
                    cluster.is_up(*server)
                        && cluster.propose(*server, cluster.random_command()).is_some()
                };
                // All are asked, so that a leader of an older term takes it too.
                let takers: Vec<usize> = (0..5).filter(takes).collect();
                let leader = takers.last().copied();
                figure_8_pause(cluster).await;
                if let Some(leader) = leader {
                    cluster.crash(leader);
                }
                if cluster.up_count() < 3 {
                    let server = cluster.below(5) as usize;
                    if !cluster.is_up(server) {
                        cluster.restart(server);
                    }
                }
            }
            for server in 0..5 {
                if !cluster.is_up(server) {
                    cluster.restart(server);
                }
            }
            cluster.one(&cluster.random_command(), 5, true).await;
        });
    });
}

#[test]
fn lab_2c_unreliable_agree() {
    on_seeds(SEEDS, |seed| {
        let setup = Setup {
            reliable: false,
            ..Setup::of(5)
        };
        run(setup, seed, async |cluster| {
            let mut others = Vec::new();
            for round in 1..50 {
                for number in 0..4 {
                    let cluster_too = cluster.clone();
                    others.push(cluster.world().spawn(async move {
                        cluster_too
                            .one(&command(100 * round + number), 1, true)
                            .await
                    }));
                }
                cluster.one(&command(round), 1, true).await;
            }
            cluster.set_reliable(true);
            for other in others {
                assert!(other.await.is_some());
            }
            cluster.one(&command(100), 5, true).await;
        });
    });
}

#[test]
fn lab_2c_figure_8_unreliable() {
    on_seeds(SEEDS, |seed| {
        let setup = Setup {
            reliable: false,
            ..Setup::of(5)
        };
        run(setup, seed, async |cluster| {
            let small = || command(cluster.below(10_000));
            cluster.one(&small(), 1, true).await;
            for iteration in 0..1000 {
                if iteration == 200 {
                    cluster.set_long_reordering();
                }
                let takes = |server: &usize| {
                    cluster.propose(*server, small()).is_some() && cluster.is_connected(*server)
                };
                // All are asked, so that a leader of an older term takes it too.
                let takers: Vec<usize> = (0..5).filter(takes).collect();
                let leader = takers.last().copied();
                figure_8_pause(cluster).await;
                if let Some(leader) = leader.filter(|_| cluster.below(1000) < 500) {
                    cluster.disconnect(leader);
                }
                if cluster.connected_count() < 3 {
                    let server = cluster.below(5) as usize;
                    if !cluster.is_connected(server) {
                        cluster.connect(server);
                    }
                }
            }
            cluster.connect_all();
            cluster.one(&small(), 5, true).await;
        });
    });
}

/// A client that proposes until it is told to stop and remembers what it saw committed.
async fn churning_client(
    cluster: Cluster,
    client: u64,
    stop: Rc<Cell<bool>>,
    seen: Rc<RefCell<Vec<Command>>>,
) {
    while !stop.get() {
        let command = cluster.random_command();
        let propose = |server| cluster.propose(server, command.clone());
        let Some((number, _)) = (0..cluster.size())
            .filter_map(propose)
            .reduce(|_, last| last)
        else {
            cluster.sleep(ms(79 + client * 17)).await;
            continue;
        };
        for pause in [10, 20, 50, 100, 200] {
            if let (1.., Some(found)) = cluster.committed(number) {
                if found == command {
                    seen.borrow_mut().push(command.clone());
                }
                break;
            }
            cluster.sleep(ms(pause)).await;
        }
    }
}

async fn churn(cluster: &Cluster) {
    let stop = Rc::new(Cell::new(false));
    let seen = Rc::new(RefCell::new(Vec::new()));
    let clients = (0..3).map(|client| {
        let task = churning_client(cluster.clone(), client, Rc::clone(&stop), Rc::clone(&seen));
        cluster.world().spawn(task)
    });
    let clients: Vec<_> = clients.collect();
    let random = || cluster.below(5) as usize;
    for _ in 0..20 {
        if cluster.below(1000) < 200 {
            cluster.disconnect(random());
        }
        if cluster.below(1000) < 500 {
            let server = random();
            if !cluster.is_up(server) {
                cluster.start(server);
            }
            cluster.connect(server);
        }
        if cluster.below(1000) < 200 {
            cluster.crash(random());
        }
        cluster.sleep(ELECTION_TIMEOUT * 7 / 10).await;
    }
    cluster.sleep(ELECTION_TIMEOUT).await;
    cluster.set_reliable(true);
    for server in 0..5 {
        if !cluster.is_up(server) {
            cluster.start(server);
        }
        cluster.connect(server);
    }
    stop.set(true);
    for client in clients {
        client.await;
    }
    cluster.sleep(ELECTION_TIMEOUT).await;
    let last = cluster.one(&cluster.random_command(), 5, true).await;
    let mut log = Vec::new();
    for number in 1..=last {
        log.push(
            cluster
                .wait(number, 5, None)
                .await
                .expect("no limit of terms was given"),
        );
    }
    let seen = seen.borrow();
    assert!(!seen.is_empty(), "no client saw anything committed");
    for command in seen.iter() {
        assert!(
            log.contains(command),
            "{command:?} was committed and is gone"
        );
    }
}

#[test]
fn lab_2c_reliable_churn() {
    on_seeds(SEEDS, |seed| run(Setup::of(5), seed, churn));
}

#[test]
fn lab_2c_unreliable_churn() {
    on_seeds(SEEDS, |seed| {
        run(
            Setup {
                reliable: false,
                ..Setup::of(5)
            },
            seed,
            churn,
        );
    });
}

/// Not one of the labs': without delays nothing of one instant is ever mixed up.
#[test]
fn requests_of_one_instant_arrive_in_any_order() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            let net = cluster.net();
            let jitter_max = Duration::from_micros(500);
            net.set_weather(kvorum_sim::net::Weather {
                jitter_max,
                ..net.weather()
            });
            let leader = cluster.check_one_leader().await;
            for number in 0..200 {
                let _ = cluster.propose(leader, command(number));
                if cluster.below(8) == 0 {
                    cluster.sleep(Duration::from_micros(300)).await;
                }
            }
            cluster.one(&command(1000), 3, true).await;
        });
    });
}
