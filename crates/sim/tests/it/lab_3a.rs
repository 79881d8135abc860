//! Lab 3A: a key-value service without snapshots.

use std::rc::Rc;
use std::time::Duration;

use kvorum_sim::labs::clerk::Clerk;
use kvorum_sim::labs::kv_cluster::{KvCluster, Setup, run};
use kvorum_sim::labs::kv_rounds::{Rounds, check_appends, run_rounds, run_speed, token};
use kvorum_sim::on_seeds;
use kvorum_sim::world::{Joining, ms};

/// On fewer seeds than the consensus labs: whole nodes cost more than replicas alone.
pub(super) const SEEDS: u64 = 20;

pub(super) fn rounds(setup: Setup, plan: Rounds) {
    on_seeds(SEEDS, |seed| {
        run(setup, seed, async |kv| run_rounds(kv, plan).await);
    });
}

fn unreliable(servers: usize) -> Setup {
    Setup {
        reliable: false,
        ..Setup::of(servers)
    }
}

#[test]
fn lab_3a_basic() {
    rounds(Setup::of(5), Rounds::of(1));
}

#[test]
fn lab_3a_speed() {
    on_seeds(SEEDS, |seed| run(Setup::of(3), seed, run_speed));
}

#[test]
fn lab_3a_concurrent() {
    rounds(Setup::of(5), Rounds::of(5));
}

#[test]
fn lab_3a_unreliable() {
    rounds(unreliable(5), Rounds::of(5));
}

#[test]
fn lab_3a_unreliable_one_key() {
    on_seeds(SEEDS, |seed| {
        run(unreliable(3), seed, async |kv| {
            let reader = kv.clerk(&kv.all());
            reader.put("k", "").await;
            let appending = (0..5).map(|client| {
                let clerk = kv.clerk(&kv.all());
                kv.world().spawn(async move {
                    for number in 0..10 {
                        clerk.append("k", &token(client, number)).await;
                    }
                })
            });
            let appending: Vec<_> = appending.collect();
            for client in appending {
                assert!(client.await.is_some());
            }
            let value = reader.get("k").await;
            (0..5).for_each(|client| check_appends(&value, client, 10));
            // Every token is there once, so this much is all that there is.
            assert_eq!(value.len(), 50 * token(0, 0).len());
            kv.check_sizes();
        });
    });
}

/// Splits the servers into a majority without the leader and a minority with it.
fn split_off_leader(kv: &KvCluster) -> (Vec<usize>, Vec<usize>) {
    let leader = kv.leader().expect("somebody has just answered");
    let friend = (leader + 1 + kv.below(4) as usize) % 5;
    let is_minority = |server: &usize| *server == leader || *server == friend;
    let (minority, majority) = kv.all().into_iter().partition(is_minority);
    (majority, minority)
}

/// Begins a write or a read that cannot end before the split does.
fn begin(
    kv: &KvCluster,
    clerk: &Rc<Clerk>,
    key: &'static str,
    put: Option<&'static str>,
) -> Joining<()> {
    let clerk = Rc::clone(clerk);
    kv.world().spawn(async move {
        match put {
            Some(value) => clerk.put(key, value).await,
            None => drop(clerk.get(key).await),
        }
    })
}

/// The labs' scenario, and more: when its operations reach the minority the old leader there has had
/// time to step down. So others reach it at once, while it still takes itself for the leader.
#[test]
fn lab_3a_one_partition() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(5), seed, async |kv| {
            let everywhere = kv.clerk(&kv.all());
            everywhere.put("1", "13").await;
            let (majority, minority) = split_off_leader(kv);
            let ahead = kv.clerk(&majority);
            let cut_off: Vec<Rc<Clerk>> = (0..4).map(|_| Rc::new(kv.clerk(&minority))).collect();
            for writer in [&cut_off[0], &cut_off[2]] {
                // Else the write would only wait for its session.
                writer.open_session().await;
            }
            kv.partition(|server| minority.contains(&server));
            let mut begun = vec![
                begin(kv, &cut_off[0], "2", Some("early")),
                begin(kv, &cut_off[1], "1", None),
            ];

            ahead.put("1", "14").await;
            assert_eq!(ahead.get("1").await, "14");

            begun.push(begin(kv, &cut_off[2], "1", Some("15")));
            begun.push(begin(kv, &cut_off[3], "1", None));
            kv.sleep(ms(1000)).await;
            let none_is_over = || !begun.iter().any(Joining::is_over);
            assert!(none_is_over(), "an operation without a majority");
            assert_eq!(ahead.get("1").await, "14");
            ahead.put("1", "16").await;
            assert_eq!(ahead.get("1").await, "16");
            assert!(none_is_over(), "an operation without a majority");

            kv.connect_all();
            cut_off.iter().for_each(|clerk| clerk.reach(&kv.all()));
            kv.sleep(ms(1000)).await;
            kv.sleep(Duration::from_secs(3)).await;
            let all_are_over = begun.iter().all(Joining::is_over);
            assert!(all_are_over, "an operation does not end after the split");
            assert_eq!(everywhere.get("1").await, "15");
            assert_eq!(everywhere.get("2").await, "early");
            kv.check_sizes();
        });
    });
}

#[test]
fn lab_3a_many_partitions_one_client() {
    let plan = Rounds {
        partitions: true,
        ..Rounds::of(1)
    };
    rounds(Setup::of(5), plan);
}

#[test]
fn lab_3a_many_partitions_many_clients() {
    let plan = Rounds {
        partitions: true,
        ..Rounds::of(5)
    };
    rounds(Setup::of(5), plan);
}

#[test]
fn lab_3a_persist_one_client() {
    let plan = Rounds {
        crash: true,
        ..Rounds::of(1)
    };
    rounds(Setup::of(5), plan);
}

#[test]
fn lab_3a_persist_concurrent() {
    let plan = Rounds {
        crash: true,
        ..Rounds::of(5)
    };
    rounds(Setup::of(5), plan);
}

#[test]
fn lab_3a_persist_concurrent_unreliable() {
    let plan = Rounds {
        crash: true,
        ..Rounds::of(5)
    };
    rounds(unreliable(5), plan);
}

#[test]
fn lab_3a_persist_partition() {
    let plan = Rounds {
        crash: true,
        partitions: true,
        ..Rounds::of(5)
    };
    rounds(Setup::of(5), plan);
}

#[test]
fn lab_3a_persist_partition_unreliable() {
    let plan = Rounds {
        crash: true,
        partitions: true,
        ..Rounds::of(5)
    };
    rounds(unreliable(5), plan);
}

#[test]
fn lab_3a_persist_partition_unreliable_linearizable() {
    let plan = Rounds {
        crash: true,
        partitions: true,
        random_keys: true,
        ..Rounds::of(15)
    };
    rounds(unreliable(7), plan);
}
