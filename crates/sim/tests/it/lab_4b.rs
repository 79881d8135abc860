//! Lab 4B: a sharded key-value service, with the real shard manager for the controller.
//!
//! Every scenario runs on both meanings that a group's leaving can have here
//! ([`Leaving`]), and everything that a clerk is told is judged as in the other labs. Where the labs sleep so
//! that data can follow a configuration, these wait until it has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kvorum_cluster::{Command, State};
use kvorum_sim::labs::clerk::Clerk;
use kvorum_sim::labs::shard_ground::Ground;
use kvorum_sim::labs::shard_work::Table;
use kvorum_sim::labs::shards::{Leaving, ShardCluster, ShardSetup, run_sharded};
use kvorum_sim::on_seeds;
use kvorum_sim::world::ms;

/// Fewer than for one group: there are twelve servers.
const SEEDS: u64 = 6;
/// Of the scenario that takes longest.
const SEEDS_OF_LONG: u64 = 2;
/// A clerk that need not wait for anybody has done what it was asked for by then, on a network that loses
/// calls.
const UNAFFECTED_MAX: Duration = Duration::from_secs(20);

fn of_seed(seed: u64, reliable: bool, log_bytes: Option<u64>) -> ShardSetup {
    ShardSetup {
        groups: 3,
        shards: 10,
        founders: 1,
        reliable,
        log_bytes,
        leaving: match seed.is_multiple_of(2) {
            true => Leaving::Retires,
            false => Leaving::Stays,
        },
        node_dead_ms: None,
    }
}

/// Runs a scenario on both meanings of leaving, each on some seeds.
fn play(reliable: bool, log_bytes: Option<u64>, scenario: impl AsyncFn(&ShardCluster)) {
    play_on(SEEDS, reliable, log_bytes, scenario);
}

fn play_on(
    seeds: u64,
    reliable: bool,
    log_bytes: Option<u64>,
    scenario: impl AsyncFn(&ShardCluster),
) {
    on_seeds(seeds, move |seed| {
        let setup = of_seed(seed, reliable, log_bytes);
        run_sharded(setup, seed, async |shards| scenario(shards).await);
    });
}

/// Numbered keys with values of this length, and a clerk that knows them all.
async fn filled(shards: &ShardCluster, count: usize, len: usize) -> (Table, Clerk) {
    let table = Table::numbered(shards, count);
    let clerk = shards.clerk(&shards.all());
    table.put_all(&clerk, len).await;
    (table, clerk)
}

/// Ten keys on two groups: which of them the second one has.
async fn two_groups(shards: &ShardCluster) -> (Table, BTreeSet<usize>) {
    shards.join(&[1]).await;
    shards.settle().await;
    let (table, clerk) = filled(shards, 10, 20).await;
    table.check_all(&clerk).await;
    let of_second = table.of_shards(&shards.owned_by(1));
    assert_eq!(of_second.len(), 5, "shards are uneven");
    (table, of_second.into_iter().collect())
}

/// With one of two groups down exactly the reads of the other one's keys end, and once it is back all do.
#[test]
fn lab_4b_static_shards() {
    play(true, None, async |shards| {
        let (table, of_second) = two_groups(shards).await;
        shards.shut_down_group(1);
        shards.check_logs();
        let (ended, _) = table.read_at_once(|| shards.clerk(&shards.all())).await;
        assert_eq!(ended.len(), 5, "{ended:?} ended");
        assert!(ended.is_disjoint(&of_second), "{ended:?} ended");
        shards.start_group(1);
        table.check_all(&shards.clerk(&shards.all())).await;
    });
}

/// A group serves what its own log says, whoever else believes that it has more: clerks of another
/// controller, which says that the first group has everything, get exactly its own keys, and are rejected
/// for ever with the others.
///
/// Such a clerk goes to that group's servers and nowhere else. Then those servers themselves are told the
/// other controller's state, newer than the true one by its numbers: even that gives them nothing.
#[test]
fn lab_4b_rejection() {
    play(true, None, async |shards| {
        let (table, of_second) = two_groups(shards).await;
        let believed: Vec<usize> = shards.ground().servers_of(0).collect();
        for servers_believe in [false, true] {
            if servers_believe {
                shards.tell(&believed, &other_controller(shards));
            }
            let (ended, _) = table.read_at_once(|| shards.clerk(&believed)).await;
            assert_eq!(ended.len(), 5, "{ended:?} ended");
            assert!(ended.is_disjoint(&of_second), "{ended:?} ended");
        }
    });
}

/// The state of a controller that knows the first group alone, and of which more is known.
fn other_controller(shards: &ShardCluster) -> Arc<State> {
    let mut other = State::initial(Ground::new(3, 10, 1).plan()).expect("a sound plan");
    while other.applied() <= shards.state().applied() {
        other.apply(other.applied().next(), &Command::OpenIssuer.into());
    }
    Arc::new(other)
}

/// A group joins, and the first one leaves and is shut down: everything is with the new one.
#[test]
fn lab_4b_join_leave() {
    play(true, None, async |shards| {
        let (table, clerk) = filled(shards, 10, 5).await;
        table.check_all(&clerk).await;
        shards.join(&[1]).await;
        table.check_and_append_all(&clerk, 5).await;
        shards.leave(&[0]).await;
        table.check_and_append_all(&clerk, 5).await;
        shards.settle().await;
        shards.check_logs();
        shards.shut_down_group(0);
        table.check_all(&clerk).await;
    });
}

/// Logs stay short while shards come and go, and snapshots have everything that a restart of all groups
/// needs.
#[test]
fn lab_4b_snapshot() {
    play(true, Some(1000), async |shards| {
        let (table, clerk) = filled(shards, 30, 20).await;
        table.check_all(&clerk).await;
        shards.join(&[1]).await;
        shards.join(&[2]).await;
        shards.leave(&[0]).await;
        table.check_and_append_all(&clerk, 20).await;
        shards.leave(&[1]).await;
        shards.join(&[0]).await;
        table.check_and_append_all(&clerk, 20).await;
        shards.sleep(ms(1000)).await;
        table.check_all(&clerk).await;
        shards.settle().await;
        shards.sleep(ms(1000)).await;
        shards.check_logs();
        shards.restart_groups().await;
        table.check_all(&clerk).await;
    });
}

/// A server of each group misses configurations, and has to catch up before another one can be missed.
#[test]
fn lab_4b_miss_change() {
    play(true, Some(1000), async |shards| {
        let nth = |number: usize| {
            let groups = shards.ground().groups();
            groups.map(move |group| shards.ground().servers_of(group).start + number)
        };
        let (table, clerk) = filled(shards, 10, 20).await;
        table.check_all(&clerk).await;
        shards.join(&[1]).await;
        nth(0).for_each(|server| shards.shut_down(server));
        shards.join(&[2]).await;
        shards.leave(&[1]).await;
        shards.leave(&[0]).await;
        table.check_and_append_all(&clerk, 20).await;
        shards.join(&[1]).await;
        table.check_and_append_all(&clerk, 20).await;
        shards.start_servers(nth(0));
        table.check_and_append_all(&clerk, 20).await;
        shards.sleep(ms(2000)).await;
        nth(1).for_each(|server| shards.shut_down(server));
        shards.join(&[0]).await;
        shards.leave(&[2]).await;
        table.check_and_append_all(&clerk, 20).await;
        shards.start_servers(nth(1));
        table.check_all(&clerk).await;
        shards.settle().await;
        table.check_all(&clerk).await;
    });
}

/// Clients write while groups come, go, and are shut down one after the other until none is left.
#[test]
fn lab_4b_concurrent_1() {
    play(true, Some(100), async |shards| {
        let (table, clerk) = filled(shards, 10, 5).await;
        let working = table.keep_appending(5, ms(20));
        shards.sleep(ms(150)).await;
        shards.join(&[1]).await;
        shards.sleep(ms(500)).await;
        shards.join(&[2]).await;
        shards.sleep(ms(500)).await;
        shards.leave(&[0]).await;
        for group in shards.ground().groups() {
            shards.shut_down_group(group);
            shards.sleep(ms(100)).await;
        }
        shards.leave(&[2]).await;
        shards.sleep(ms(100)).await;
        shards
            .ground()
            .groups()
            .for_each(|group| shards.start_group(group));
        shards.sleep(ms(100)).await;
        shards.join(&[0]).await;
        shards.leave(&[1]).await;
        shards.sleep(ms(500)).await;
        shards.join(&[1]).await;
        shards.sleep(ms(1000)).await;
        let appended = working.end().await;
        assert!(appended > 100, "{appended} operations in all");
        table.check_all(&clerk).await;
    });
}

/// Clients write while everything moves to one group, to two others and back, and those are restarted.
#[test]
fn lab_4b_concurrent_2() {
    play(true, None, async |shards| {
        shards.join(&[1]).await;
        shards.join(&[2]).await;
        let (table, clerk) = filled(shards, 10, 1).await;
        let working = table.keep_appending(1, ms(100));
        shards.leave(&[0]).await;
        shards.leave(&[2]).await;
        shards.sleep(ms(3000)).await;
        shards.join(&[0]).await;
        shards.join(&[2]).await;
        shards.leave(&[1]).await;
        shards.sleep(ms(3000)).await;
        shards.join(&[1]).await;
        shards.leave(&[0]).await;
        shards.leave(&[2]).await;
        shards.sleep(ms(3000)).await;
        for group in [1, 2] {
            shards.shut_down_group(group);
        }
        shards.sleep(ms(1000)).await;
        for group in [1, 2] {
            shards.start_group(group);
        }
        shards.sleep(ms(2000)).await;
        let appended = working.end().await;
        assert!(appended > 100, "{appended} operations in all");
        table.check_all(&clerk).await;
    });
}

/// Clients write for long while groups join and leave without end, and all of them are restarted in between.
/// (In 2020 it is called a challenge.)
#[test]
fn lab_4b_concurrent_3() {
    play_on(SEEDS_OF_LONG, true, Some(300), async |shards| {
        let (table, clerk) = filled(shards, 10, 1).await;
        let working = table.keep_appending(1, ms(20));
        let end = shards.world().now() + Duration::from_secs(12);
        while shards.world().now() < end {
            shards.join(&[2]).await;
            shards.join(&[1]).await;
            shards.pause(ms(900)).await;
            shards.restart_groups().await;
            shards.pause(ms(900)).await;
            shards.leave(&[1]).await;
            shards.leave(&[2]).await;
            shards.pause(ms(900)).await;
        }
        shards.sleep(ms(2000)).await;
        let appended = working.end().await;
        assert!(appended > 1000, "{appended} operations in all");
        table.check_all(&clerk).await;
    });
}

/// One client, on a network that loses calls, and frames between servers.
#[test]
fn lab_4b_unreliable_1() {
    play(false, Some(100), async |shards| {
        let (table, clerk) = filled(shards, 10, 5).await;
        shards.join(&[1]).await;
        shards.join(&[2]).await;
        shards.leave(&[0]).await;
        table.check_and_append_all(&clerk, 5).await;
        table.check_and_append_all(&clerk, 5).await;
        shards.join(&[0]).await;
        shards.leave(&[1]).await;
        table.check_all(&clerk).await;
        table.check_all(&clerk).await;
    });
}

/// What goes on while clients work on a network that loses calls.
async fn come_and_go(shards: &ShardCluster) {
    shards.sleep(ms(150)).await;
    shards.join(&[1]).await;
    shards.sleep(ms(500)).await;
    shards.join(&[2]).await;
    shards.sleep(ms(500)).await;
    shards.leave(&[0]).await;
    shards.sleep(ms(500)).await;
    shards.leave(&[1]).await;
    shards.sleep(ms(500)).await;
    shards.join(&[1]).await;
    shards.join(&[0]).await;
    shards.sleep(ms(2000)).await;
}

/// Clients write to a key each on such a network, while groups come and go.
#[test]
fn lab_4b_unreliable_2() {
    play(false, Some(100), async |shards| {
        let (table, clerk) = filled(shards, 10, 5).await;
        let working = table.keep_appending(5, ms(20));
        come_and_go(shards).await;
        working.stop();
        shards.make_reliable(true);
        let appended = working.end().await;
        assert!(appended > 100, "{appended} operations in all");
        table.check_all(&clerk).await;
    });
}

/// The same with clients on all keys: what they are told must be linearizable.
#[test]
fn lab_4b_unreliable_3() {
    play(false, Some(100), async |shards| {
        let (table, _) = filled(shards, 10, 5).await;
        let working = table.keep_mixing(10, ms(20));
        come_and_go(shards).await;
        working.stop();
        shards.make_reliable(true);
        let done = working.end().await;
        assert!(done > 100, "{done} operations in all");
    });
}

/// A group keeps nothing of what it gave away: not in its logs and snapshots, all servers together, and not
/// in memory, where each shard has one copy for each replica of its owner.
///
/// The labs' servers write a snapshot after every entry. Here one is written when the log has as much as
/// the last one, so they are told to before the bytes are counted, and the labs' own number holds.
#[test]
fn lab_4b_challenge_1_delete() {
    const VALUE: usize = 1000;
    // Each value once, three of them twice since replies may be kept, and 6000 for all else.
    const KEPT_MAX: usize = 3 * ((30 - 3) * VALUE + 3 * 2 * VALUE + 6000);
    play(true, Some(1), async |shards| {
        let table = Table::numbered(shards, 30);
        let clerk = shards.clerk(&shards.all());
        let check_some = async || {
            for index in 0..3 {
                table.check(&clerk, index).await;
            }
        };
        table.put_all(&clerk, VALUE).await;
        check_some().await;
        for _ in 0..2 {
            shards.join(&[1]).await;
            shards.leave(&[0]).await;
            shards.join(&[2]).await;
            shards.settle().await;
            check_some().await;
            shards.leave(&[1]).await;
            shards.join(&[0]).await;
            shards.leave(&[2]).await;
            shards.settle().await;
            check_some().await;
        }
        shards.join(&[1]).await;
        shards.join(&[2]).await;
        shards.settle().await;
        for _ in 0..3 {
            shards.sleep(ms(1000)).await;
            check_some().await;
        }
        shards.take_snapshots().await;
        let kept = shards.kept_bytes();
        assert!(kept >= 3 * 30 * VALUE as u64, "{kept} bytes cannot be all");
        assert!(kept <= KEPT_MAX as u64, "{kept} bytes are kept");
        for shard in 0..10 {
            assert_eq!(shards.copies_of(shard), 3, "shard {shard}");
        }
        table.check_all(&clerk).await;
    });
}

/// What a group has is served while it cannot get what it should have, since the group that has that is down.
#[test]
fn lab_4b_challenge_2_unaffected() {
    play(false, Some(100), async |shards| {
        let table = Table::numbered(shards, 10);
        let clerk = shards.clerk(&shards.all());
        for index in 0..10 {
            table.put(&clerk, index, "100").await;
        }
        shards.join(&[1]).await;
        shards.settle().await;
        let unaffected = table.of_shards(&shards.wanted_of(1));
        assert_eq!(unaffected.len(), 5);
        for index in &unaffected {
            table.put(&clerk, *index, "101").await;
        }
        shards.shut_down_group(0);
        shards.leave(&[0]).await;
        shards.sleep(ms(1000)).await;
        let begun = shards.world().now();
        for index in &unaffected {
            table.check(&clerk, *index).await;
            table.put(&clerk, *index, "101-1").await;
            table.check(&clerk, *index).await;
        }
        let took = shards.world().now() - begun;
        assert!(took <= UNAFFECTED_MAX, "it took {took:?}");
        assert!(!shards.is_settled(), "nobody can have the rest");
        shards.start_group(0);
        table.check_all(&clerk).await;
        shards.settle().await;
        table.check_all(&clerk).await;
    });
}

/// What a group got is served although more is to come, from a group that is down.
#[test]
fn lab_4b_challenge_2_partial() {
    on_seeds(SEEDS, |seed| {
        let setup = ShardSetup {
            founders: 3,
            ..of_seed(seed, false, Some(100))
        };
        run_sharded(setup, seed, async |shards| {
            let table = Table::numbered(shards, 10);
            let clerk = shards.clerk(&shards.all());
            for index in 0..10 {
                table.put(&clerk, index, "100").await;
            }
            let coming = shards.owned_by(2);
            assert!(!coming.is_empty() && !shards.owned_by(0).is_empty());
            shards.shut_down_group(0);
            shards.leave(&[0, 2]).await;
            shards
                .wait_until("what can come", || shards.owned_by(1).is_superset(&coming))
                .await;
            let begun = shards.world().now();
            for index in table.of_shards(&coming) {
                table.check(&clerk, index).await;
                table.put(&clerk, index, "100-2").await;
                table.check(&clerk, index).await;
            }
            let took = shards.world().now() - begun;
            assert!(took <= UNAFFECTED_MAX, "it took {took:?}");
            assert!(!shards.is_settled(), "nobody can have the rest");
            shards.start_group(0);
            shards.settle().await;
            table.check_all(&clerk).await;
        });
    });
}

/// Not one of the labs': a group that is down has more to give away than moves may be open at once. Once its
/// nodes count as dead what waits for it does not hold up the others, and all goes on when it is back.
#[test]
fn a_dead_group_holds_nobody_up() {
    on_seeds(SEEDS_OF_LONG, |seed| {
        let setup = ShardSetup {
            groups: 8,
            shards: 48,
            founders: 8,
            reliable: true,
            log_bytes: None,
            leaving: Leaving::Retires,
            node_dead_ms: Some(3_000),
        };
        run_sharded(setup, seed, async |shards| {
            let table = Table::hashed(shards, 100);
            let clerk = shards.clerk(&shards.all());
            table.put_all(&clerk, 5).await;
            shards.shut_down_group(0);
            shards.leave(&[0]).await;
            let most = shards.state().settings().moves_open_max as usize;
            shards
                .wait_until("its moves to be open", || {
                    shards.state().moves().len() == most
                })
                .await;
            shards.leave(&[7]).await;
            shards
                .wait_until("a group to be empty", || shards.owned_by(7).is_empty())
                .await;
            assert_eq!(shards.owned_by(0).len(), 6, "nobody can have these");
            shards.start_group(0);
            shards.settle().await;
            table.check_all(&clerk).await;
        });
    });
}
