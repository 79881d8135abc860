//! Lab 3B: a key-value service with snapshots.

use kvorum_sim::labs::kv_cluster::{Setup, run};
use kvorum_sim::labs::kv_rounds::{Rounds, run_speed};
use kvorum_sim::on_seeds;
use kvorum_sim::world::{Joining, ms};

use super::lab_3a::{SEEDS, rounds};

/// The labs' `maxraftstate`, in bytes.
const LOG_BYTES: u64 = 1000;

/// The largest snapshot of one key and one client. The labs allow 500 bytes, of a table that keeps one
/// reply for each client. A session here may have 32 requests on their way at once, so it keeps 32:
/// 31 more, each a number of 2 bytes, the command's hash of 8, and a reply of 6. All else, the format's
/// headers, checksums and members included, has to do with the labs' 500.
const SNAPSHOT_SIZE_MAX: u64 = 500 + 31 * 16;

fn setup(servers: usize, reliable: bool) -> Setup {
    Setup {
        servers,
        reliable,
        log_bytes: Some(LOG_BYTES),
    }
}

#[test]
fn lab_3b_snapshot_rpc() {
    on_seeds(SEEDS, |seed| {
        run(setup(3, true), seed, async |kv| {
            let everywhere = kv.clerk(&kv.all());
            everywhere.put("a", "A").await;
            assert_eq!(everywhere.get("a").await, "A");

            kv.partition(|server| server == 2);
            let clerk = kv.clerk(&[0, 1]);
            for number in 0..50 {
                clerk.put(&number.to_string(), &number.to_string()).await;
            }
            kv.sleep(ms(1000)).await;
            clerk.put("b", "B").await;
            kv.check_log_size();

            kv.partition(|server| server == 1);
            let clerk = kv.clerk(&[0, 2]);
            clerk.put("c", "C").await;
            clerk.put("d", "D").await;
            for (key, value) in [("a", "A"), ("b", "B"), ("1", "1"), ("49", "49")] {
                assert_eq!(clerk.get(key).await, value);
            }
            assert!(kv.snapshots_installed(2) > 0, "it caught up by the log");

            kv.connect_all();
            everywhere.put("e", "E").await;
            for (key, value) in [("c", "C"), ("e", "E"), ("1", "1")] {
                assert_eq!(everywhere.get(key).await, value);
            }
            kv.check_sizes();
        });
    });
}

#[test]
fn lab_3b_snapshot_size() {
    on_seeds(SEEDS, |seed| {
        run(setup(3, true), seed, async |kv| {
            let clerk = kv.clerk(&kv.all());
            for _ in 0..200 {
                for value in ["0", "1"] {
                    clerk.put("x", value).await;
                    assert_eq!(clerk.get("x").await, value);
                }
            }
            kv.check_log_size();
            let size = kv.snapshot_size();
            assert!(size > 0, "no snapshot was taken");
            assert!(size <= SNAPSHOT_SIZE_MAX, "a snapshot of {size} bytes");
        });
    });
}

#[test]
fn lab_3b_speed() {
    on_seeds(SEEDS, |seed| run(setup(3, true), seed, run_speed));
}

#[test]
fn lab_3b_snapshot_recover() {
    let plan = Rounds {
        crash: true,
        ..Rounds::of(1)
    };
    rounds(setup(5, true), plan);
}

#[test]
fn lab_3b_snapshot_recover_many_clients() {
    let plan = Rounds {
        crash: true,
        ..Rounds::of(20)
    };
    rounds(setup(5, true), plan);
}

#[test]
fn lab_3b_snapshot_unreliable() {
    rounds(setup(5, false), Rounds::of(5));
}

#[test]
fn lab_3b_snapshot_unreliable_recover() {
    let plan = Rounds {
        crash: true,
        ..Rounds::of(5)
    };
    rounds(setup(5, false), plan);
}

#[test]
fn lab_3b_snapshot_unreliable_recover_concurrent_partition() {
    let plan = Rounds {
        crash: true,
        partitions: true,
        ..Rounds::of(5)
    };
    rounds(setup(5, false), plan);
}

#[test]
fn lab_3b_snapshot_unreliable_recover_concurrent_partition_linearizable() {
    let plan = Rounds {
        crash: true,
        partitions: true,
        random_keys: true,
        ..Rounds::of(15)
    };
    rounds(setup(7, false), plan);
}

/// Not one of the labs': a leader whose own disk is the slowest lets the others' acknowledgements
/// commit, so that its log is behind what it has applied as long as clients write.
#[test]
fn a_leader_with_a_slow_disk_trims_its_log() {
    on_seeds(SEEDS, |seed| {
        run(setup(3, true), seed, async |kv| {
            kv.clerk(&kv.all()).put("x", "").await;
            let leader = kv.leader().expect("somebody has just answered");
            kv.set_syncs(leader, ms(8), ms(10));
            let writing = (0..10).map(|client| {
                let clerk = kv.clerk(&kv.all());
                kv.world().spawn(async move {
                    for number in 0..100 {
                        clerk.put(&client.to_string(), &number.to_string()).await;
                    }
                })
            });
            let writing: Vec<_> = writing.collect();
            while !writing.iter().all(Joining::is_over) {
                kv.sleep(ms(100)).await;
                kv.check_sizes();
            }
        });
    });
}
