//! Lab 5 of 2025: sharding with a controller that is a client (labs "shardcfg", 5A, 5B and 5C).
//!
//! What a controller is here, and a versioned put, is said in [`shard_rounds`]. The first group has
//! everything at first. Groups that leave are retired, and come back as others on the same servers.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use kvorum_cluster::{ConfigNumber, State};
use kvorum_sim::labs::shard_ground::{Ground, name_of};
use kvorum_sim::labs::shard_rounds::{Controller, Race, fail_over, take_over};
use kvorum_sim::labs::shard_work::Table;
use kvorum_sim::labs::shards::{Leaving, ShardCluster, ShardSetup, leaving, run_sharded};
use kvorum_sim::on_seeds;
use kvorum_sim::world::ms;

const SEEDS: u64 = 4;
/// With nine groups there are thirty servers, and clerks that race do much.
const SEEDS_OF_MANY: u64 = 2;
const SHARDS: u16 = 12;
const KEYS: usize = 60;
/// How long a change that waited for a group takes when that group is back. The labs allow two seconds for
/// groups that elect within a tenth of that; here an election alone takes up to one.
const RESUMED_MAX: Duration = Duration::from_secs(5);

fn setup(groups: usize, reliable: bool) -> ShardSetup {
    ShardSetup {
        groups,
        shards: SHARDS,
        founders: 1,
        reliable,
        log_bytes: None,
        leaving: Leaving::Retires,
        node_dead_ms: None,
    }
}

fn play(seeds: u64, setup: ShardSetup, scenario: impl AsyncFn(&ShardCluster)) {
    on_seeds(seeds, move |seed| {
        run_sharded(setup, seed, async |shards| scenario(shards).await);
    });
}

async fn sixty_keys(shards: &ShardCluster, len: usize) -> Table {
    let table = Table::hashed(shards, KEYS);
    table.put_all(&shards.clerk(&shards.all()), len).await;
    table
}

/// Has groups join or leave, and waits until data has followed and for a little more.
async fn join(shards: &ShardCluster, groups: &[usize]) {
    shards.join(groups).await;
    shards.settle().await;
    shards.sleep(ms(200)).await;
}

async fn leave(shards: &ShardCluster, groups: &[usize]) {
    shards.leave(groups).await;
    shards.settle().await;
    shards.sleep(ms(200)).await;
}

/// With some groups down exactly the reads of the other groups' keys end; says how long these took.
async fn shutdown_check(shards: &ShardCluster, table: &Table, groups: &[usize]) -> Duration {
    let owned = groups.iter().flat_map(|group| shards.owned_by(*group));
    let theirs = table.of_shards(&owned.collect());
    let others: BTreeSet<usize> = (0..table.len())
        .filter(|key| !theirs.contains(key))
        .collect();
    assert!(
        !theirs.is_empty() && !others.is_empty(),
        "groups {groups:?}"
    );
    for group in groups {
        shards.shut_down_group(*group);
    }
    let (ended, took) = table.read_at_once(|| shards.clerk(&shards.all())).await;
    assert_eq!(ended, others, "without groups {groups:?}");
    for group in groups {
        shards.start_group(*group);
    }
    took
}

async fn check_all(shards: &ShardCluster, table: &Table) {
    table.check_all(&shards.clerk(&shards.all())).await;
}

/// The configuration alone: members come and go, and every shard has one of them, as evenly as can be.
#[test]
fn lab_5_shardcfg_basic() {
    let ground = Ground::new(4, SHARDS, 1);
    let mut state = State::initial(ground.plan()).expect("a sound plan");
    let check = |state: &State, groups: &[usize]| {
        let config = state.newest();
        let names: BTreeSet<String> = config
            .shards
            .values()
            .map(|shard| shard.name.clone())
            .collect();
        assert_eq!(names, groups.iter().map(|group| name_of(*group)).collect());
        let of = |id| config.slots.slots_where(|owner| *owner == Some(id)).len();
        let counts: Vec<u32> = config.shards.keys().map(|id| of(*id)).collect();
        let (most, least) = (counts.iter().max(), counts.iter().min());
        assert!(most <= least.map(|least| least + 1).as_ref(), "{counts:?}");
        assert_eq!(counts.iter().sum::<u32>(), u32::from(SHARDS));
    };
    check(&state, &[0]);
    let mut members = vec![0];
    for group in 1..4 {
        members.push(group);
        let command = ground.joining(&[group]);
        state.apply(state.applied().next(), &command.into());
        check(&state, &members);
    }
    for group in 0..3 {
        members.retain(|member| *member != group);
        state.apply(state.applied().next(), &leaving(&[group]).into());
        check(&state, &members);
    }
}

/// The first configuration is number 1 and gives everything to the first group.
#[test]
fn lab_5_a_init_query() {
    play(SEEDS, setup(1, true), async |shards| {
        assert_eq!(shards.config_number(), ConfigNumber(1));
        assert!(shards.is_member(0));
        assert_eq!(shards.owned_by(0).len(), usize::from(SHARDS));
    });
}

/// One group alone: what was written is read, also when its leader is shut down.
#[test]
fn lab_5_a_static_one_shard_group() {
    play(SEEDS, setup(1, true), async |shards| {
        let table = sixty_keys(shards, 20).await;
        check_all(shards, &table).await;
        shards.shut_down(shards.leader().expect("it has just answered"));
        check_all(shards, &table).await;
    });
}

/// A second group joins, by the next configuration, and gets its share: it is needed for that, and the
/// first one for the rest.
#[test]
fn lab_5_a_join_basic() {
    play(SEEDS, setup(2, true), async |shards| {
        let table = sixty_keys(shards, 20).await;
        let before = shards.config_number();
        join(shards, &[1]).await;
        assert_eq!(shards.config_number(), before.next());
        assert!(shards.is_member(1));
        shutdown_check(shards, &table, &[0]).await;
        check_all(shards, &table).await;
        shutdown_check(shards, &table, &[1]).await;
        check_all(shards, &table).await;
    });
}

/// What was given away is in the snapshots of one group and not of two.
#[test]
fn lab_5_a_delete_basic() {
    const LOG_BYTES: u64 = 10_000;
    let setup = ShardSetup {
        log_bytes: Some(LOG_BYTES),
        ..setup(2, true)
    };
    play(SEEDS, setup, async |shards| {
        let table = sixty_keys(shards, 1000).await;
        shards.take_snapshots().await;
        let before = shards.snapshot_size_of(0);
        assert!(before >= 1000 * KEYS as u64, "a snapshot of {before} bytes");
        join(shards, &[1]).await;
        for _ in 0..5 {
            check_all(shards, &table).await;
        }
        shards.take_snapshots().await;
        let after = shards.snapshot_size_of(0) + shards.snapshot_size_of(1);
        assert!(after >= 1000 * KEYS as u64, "snapshots of {after} bytes");
        assert!(
            after <= before + LOG_BYTES,
            "snapshots of {before}, then {after} bytes"
        );
    });
}

/// The first group leaves, is shut down, and joins again.
#[test]
fn lab_5_a_join_leave_basic() {
    play(SEEDS, setup(2, true), async |shards| {
        let table = sixty_keys(shards, 20).await;
        join(shards, &[1]).await;
        shutdown_check(shards, &table, &[0]).await;
        check_all(shards, &table).await;
        leave(shards, &[0]).await;
        assert!(!shards.is_member(0));
        shards.shut_down_group(0);
        check_all(shards, &table).await;
        shards.start_group(0);
        join(shards, &[0]).await;
        check_all(shards, &table).await;
        shutdown_check(shards, &table, &[1]).await;
    });
}

async fn many_join_and_leave(shards: &ShardCluster) {
    let table = sixty_keys(shards, 20).await;
    for group in 1..9 {
        join(shards, &[group]).await;
    }
    shutdown_check(shards, &table, &[0]).await;
    check_all(shards, &table).await;
    for group in 1..9 {
        leave(shards, &[group]).await;
    }
    check_all(shards, &table).await;
}

/// Eight groups join one after the other, and leave again.
#[test]
fn lab_5_a_many_join_leave_reliable() {
    play(SEEDS_OF_MANY, setup(9, true), many_join_and_leave);
}

/// The same on a network that loses calls.
#[test]
fn lab_5_a_many_join_leave_unreliable() {
    play(SEEDS_OF_MANY, setup(9, false), many_join_and_leave);
}

/// Everything is there after a restart of all groups.
#[test]
fn lab_5_a_shutdown() {
    play(SEEDS, setup(3, true), async |shards| {
        let table = sixty_keys(shards, 20).await;
        join(shards, &[1, 2]).await;
        shutdown_check(shards, &table, &[0]).await;
        check_all(shards, &table).await;
        shards.restart_groups().await;
        check_all(shards, &table).await;
    });
}

/// With two groups down the keys of all others are read, and without waiting.
#[test]
fn lab_5_a_progress_shutdown() {
    play(SEEDS, setup(5, true), async |shards| {
        let table = sixty_keys(shards, 20).await;
        join(shards, &[1, 2, 3, 4]).await;
        let took = shutdown_check(shards, &table, &[1, 2]).await;
        assert!(took <= ms(2000), "the last of these reads takes {took:?}");
        check_all(shards, &table).await;
    });
}

/// The shards that stay where they are while a group joins and leaves so many times.
fn unmoved(shards: &ShardCluster, group: usize, times: usize) -> BTreeSet<u16> {
    let mut state = State::clone(&shards.state());
    let owners = state.newest().slots.cells().to_vec();
    let mut unmoved: BTreeSet<u16> = (0..SHARDS).collect();
    for _ in 0..times {
        for command in [shards.joining(&[group]), leaving(&[group])] {
            state.apply(state.applied().next(), &command.into());
            let wanted = state.newest().slots.cells();
            unmoved.retain(|shard| wanted[usize::from(*shard)] == owners[usize::from(*shard)]);
        }
    }
    unmoved
}

/// While a group joins and leaves again and again, the shards that do not move are read as if nothing were:
/// at least a hundred times in four seconds, and never after long waiting.
#[test]
fn lab_5_a_progress_join() {
    const READ_MAX: Duration = ms(500);
    play(SEEDS, setup(6, true), async |shards| {
        let table = sixty_keys(shards, 20).await;
        join(shards, &[1, 2, 3, 4]).await;
        let unmoved = table.of_shards(&unmoved(shards, 5, 8));
        assert!(!unmoved.is_empty(), "all shards move");
        let clerk = shards.clerk(&shards.all());
        for index in &unmoved {
            // It knows where to go from now on.
            table.check(&clerk, *index).await;
        }
        let controller = Controller::new(shards);
        let working = Rc::clone(&controller).come_and_go(vec![5]);
        let working = shards.world().spawn(working);
        let (begun, mut reads) = (shards.world().now(), 0);
        while shards.world().now() - begun < Duration::from_secs(4) {
            let before = shards.world().now();
            table.check(&clerk, unmoved[reads % unmoved.len()]).await;
            let took = shards.world().now() - before;
            assert!(took <= READ_MAX, "a read takes {took:?}");
            reads += 1;
        }
        assert!(reads >= 100, "{reads} reads");
        controller.stop();
        working.await;
        assert!(controller.finished() > 0, "nobody joined");
        shards.settle().await;
        check_all(shards, &table).await;
    });
}

/// Clerks race for one key's versions while eight groups join and leave.
async fn race_while_many_come_and_go(shards: &ShardCluster, clerks: usize) {
    let race = Race::begin(shards, clerks);
    for group in 1..9 {
        shards.join(&[group]).await;
        shards.settle().await;
    }
    for group in 1..9 {
        shards.leave(&[group]).await;
        shards.settle().await;
    }
    let won = race.end().await;
    assert!(won >= 100, "{won} versions");
}

/// One clerk puts versions of one key.
#[test]
fn lab_5_a_one_concurrent_clerk_reliable() {
    play(SEEDS_OF_MANY, setup(9, true), async |shards| {
        race_while_many_come_and_go(shards, 1).await;
    });
}

/// Ten clerks race for the versions of one key.
#[test]
fn lab_5_a_many_concurrent_clerk_reliable() {
    play(SEEDS_OF_MANY, setup(9, true), async |shards| {
        race_while_many_come_and_go(shards, 10).await;
    });
}

/// One clerk on a network that loses calls.
#[test]
fn lab_5_a_one_concurrent_clerk_unreliable() {
    play(SEEDS_OF_MANY, setup(9, false), async |shards| {
        race_while_many_come_and_go(shards, 1).await;
    });
}

/// Ten clerks on a network that loses calls.
#[test]
fn lab_5_a_many_concurrent_clerk_unreliable() {
    play(SEEDS_OF_MANY, setup(9, false), async |shards| {
        race_while_many_come_and_go(shards, 10).await;
    });
}

/// A group cannot join while the one that has everything is down, and the first cannot leave while the other
/// is; each does soon after that one is back.
///
/// In the labs the order itself waits. Here the manager takes it at once, and its data waits. Their first
/// look comes two nanoseconds after the order; here, as after the second one, two seconds later.
#[test]
fn lab_5_b_join_leave() {
    play(SEEDS, setup(2, true), async |shards| {
        let table = sixty_keys(shards, 20).await;
        let before = shards.config_number();
        shards.shut_down_group(0);
        shards.join(&[1]).await;
        shards.sleep(ms(2000)).await;
        assert!(
            !shards.is_settled() && shards.owned_by(1).is_empty(),
            "it has joined"
        );
        shards.start_group(0);
        shards.settle_within(RESUMED_MAX).await;
        assert_eq!(shards.config_number(), before.next());
        assert!(shards.is_member(1) && !shards.owned_by(1).is_empty());
        shards.shut_down_group(1);
        shards.leave(&[0]).await;
        shards.sleep(ms(2000)).await;
        assert!(
            !shards.is_settled() && !shards.owned_by(0).is_empty(),
            "it has left"
        );
        shards.start_group(1);
        shards.settle_within(RESUMED_MAX).await;
        assert!(!shards.is_member(0) && shards.owned_by(0).is_empty());
        check_all(shards, &table).await;
    });
}

/// A controller takes over from one that was cut off in the middle of a change, five times.
#[test]
fn lab_5_b_recover_ctrler() {
    play(SEEDS, setup(4, true), async |shards| {
        let table = sixty_keys(shards, 20).await;
        for _ in 0..5 {
            fail_over(shards, &table, false).await;
        }
    });
}

/// Four controllers have groups join and leave at the same time.
///
/// In the labs only one of them may write the next configuration, and the others do nothing. Here the
/// manager's log puts their orders one after the other, and each does what it says to the configuration
/// before it.
async fn four_controllers(shards: &ShardCluster) {
    let table = sixty_keys(shards, 20).await;
    let controllers: Vec<_> = (0..4).map(|_| Controller::new(shards)).collect();
    let working: Vec<_> = (1..)
        .zip(&controllers)
        .map(|(group, controller)| {
            let working = Rc::clone(controller).come_and_go(vec![group]);
            shards.world().spawn(working)
        })
        .collect();
    // Two seconds are hardly one change of each.
    shards.sleep(Duration::from_secs(8)).await;
    controllers.iter().for_each(|controller| controller.stop());
    for working in working {
        assert!(working.await.is_some());
    }
    let finished: usize = controllers
        .iter()
        .map(|controller| controller.finished())
        .sum();
    assert!(finished >= 4, "{finished} changes were finished");
    shards.settle().await;
    check_all(shards, &table).await;
}

/// Four controllers at once on a reliable network.
#[test]
fn lab_5_c_concurrent_reliable() {
    play(SEEDS, setup(5, true), four_controllers);
}

/// The same where calls are lost. In the labs the controllers take a lock for it; here nobody needs one.
#[test]
fn lab_5_c_acquire_lock_concurrent_unreliable() {
    play(SEEDS, setup(5, false), four_controllers);
}

/// A controller that is stuck, because the group that it has join is down, is cut off; another one finishes
/// the change when the group is there, and then has the group leave. The first one, back again, changes
/// nothing: its order, sent again, does not bring the group back.
#[test]
fn lab_5_c_partition_controller_join() {
    play(SEEDS, setup(2, true), async |shards| {
        let table = sixty_keys(shards, 20).await;
        shards.shut_down_group(1);
        let first = Controller::new(shards);
        drop(shards.world().spawn(Rc::clone(&first).come_and_go(vec![1])));
        shards.sleep(ms(1000)).await;
        first.cut_off();
        assert!(!shards.is_settled() && shards.is_member(1));
        shards.sleep(ms(1000)).await;
        shards.start_group(1);
        take_over(shards).await;
        assert!(!shards.owned_by(1).is_empty());
        first.come_back().await;
        check_all(shards, &table).await;
        leave(shards, &[1]).await;
        first.come_back().await;
        assert!(!shards.is_member(1));
        check_all(shards, &table).await;
    });
}

async fn fail_over_and_come_back(shards: &ShardCluster, rounds: usize, clerks: usize) {
    let table = sixty_keys(shards, 20).await;
    let race = Race::begin(shards, clerks);
    for _ in 0..rounds {
        fail_over(shards, &table, true).await;
    }
    let won = race.end().await;
    assert!(won >= 100 || clerks == 0, "{won} versions");
}

/// A superseded controller comes back, five times.
#[test]
fn lab_5_c_partition_recovery_reliable_no_clerk() {
    play(SEEDS, setup(4, true), async |shards| {
        fail_over_and_come_back(shards, 5, 0).await;
    });
}

/// The same where calls are lost, three times.
#[test]
fn lab_5_c_partition_recovery_unreliable_no_clerk() {
    play(SEEDS, setup(4, false), async |shards| {
        fail_over_and_come_back(shards, 3, 0).await;
    });
}

/// A superseded controller comes back while five clerks race for the versions of a key.
#[test]
fn lab_5_c_partition_recovery_reliable_clerks() {
    play(SEEDS_OF_MANY, setup(4, true), async |shards| {
        fail_over_and_come_back(shards, 5, 5).await;
    });
}

/// The same where calls are lost, three times.
#[test]
fn lab_5_c_partition_recovery_unreliable_clerks() {
    play(SEEDS_OF_MANY, setup(4, false), async |shards| {
        fail_over_and_come_back(shards, 3, 5).await;
    });
}
