//! One seed, one verdict: a cluster, clients, a storm; then calm, in which everything must come back.
//!
//! Safety is checked all the time and over the whole history. Liveness is asked for only after the
//! storm: a store that never answers is perfectly safe.

use std::collections::BTreeMap;
use std::time::Duration;

use kvorum_base::{ClusterId, NodeId, Planted, ReplicaId};
use kvorum_node::log::LogOptions;
use kvorum_node::{Config, GroupSpec, Member};

use super::client::{Answer, Client, PORT_BASE, Reply};
use super::cluster::{Cluster, node_of};
use super::coverage::Coverage;
use super::schedule::{GROUP, STORM, calm, draw_faults, storm};
use super::workload::Workload;
use crate::checkers::linearizable::BUDGET;
use crate::checkers::strings::{Strings, check_keys};
use crate::world::{Time, World, ms};

/// What a run was.
#[derive(Clone, Debug)]
pub struct Report {
    /// What happened in it.
    pub coverage: Coverage,
    /// How many events the world had.
    pub events: u64,
    /// How long it took, in virtual time.
    pub virtual_time: Duration,
}

/// How far the logged clock may be from virtual time. Ahead by the clocks' errors and the time between
/// two reports of a clock; behind by as long as the shard may be without a primary.
const CLOCKS: Strings = Strings {
    early: ms(2500),
    late: Duration::from_secs(45),
};
/// How long the nodes may take to serve again after the storm.
const RECOVERY_MAX: Duration = Duration::from_secs(30);

/// Runs one seed.
///
/// # Panics
/// If a property does not hold; the text says which.
#[must_use]
pub fn run(seed: u64, planted: Planted, trace: Option<fn(Time, &str)>) -> Report {
    let world = World::new(seed);
    let configs = draw_configs(&world, planted);
    let trace = trace.map(|trace| Box::new(trace) as Box<dyn Fn(Time, &str)>);
    let cluster = Cluster::new(&world, configs, trace);
    world.run_to_end(whole_run(&cluster));
    Report {
        coverage: cluster.coverage(),
        events: world.events(),
        virtual_time: world.now() - Time(0),
    }
}

async fn whole_run(cluster: &Cluster) {
    let world = cluster.world();
    let workload = Workload::new(cluster, 20 + cluster.below(100));
    let clients = (0..2 + cluster.below(5) as usize)
        .map(|number| world.spawn(workload.clone().client(number)));
    let clients: Vec<_> = clients.collect();
    world.sleep(ms(cluster.below(2000))).await;
    let faults = draw_faults(cluster);
    cluster.trace(|| format!("{} machines, faults {faults:?}", cluster.size()));
    storm(cluster.clone(), faults, world.now() + STORM).await;
    // What the storm has left to happen later happens now.
    world.sleep(ms(7000)).await;
    calm(cluster);
    cluster.trace(|| "calm".to_owned());
    if !is_out_of_service(cluster) {
        serve_again(cluster).await;
        workload.stop();
        for client in clients {
            client.await;
        }
        expire(cluster).await;
        converge(cluster).await;
        workload.read_all().await;
    }
    let history = workload.history();
    let history = history.borrow();
    if let Err(why) = check_keys(&CLOCKS, history.operations(), BUDGET) {
        panic!("linearizability: {why}");
    }
}

/// A single node whose disk was tampered with may say that it lost promises, or its state, and stays
/// down for good: there is nobody to replace it or to ask. It must not have said anything else.
fn is_out_of_service(cluster: &Cluster) -> bool {
    let waits = |machine: &mut super::machine::Machine| {
        let status = machine
            .process
            .as_ref()
            .map(|process| process.node.status());
        status.is_some_and(|status| status.groups.iter().any(|group| group.role == "waiting"))
    };
    cluster.size() == 1
        && cluster.with(0, |machine| {
            machine.tampered && (machine.is_lost() || waits(machine))
        })
}

/// Liveness: somebody takes a write.
async fn serve_again(cluster: &Cluster) {
    let world = cluster.world();
    let deadline = world.now() + RECOVERY_MAX;
    let mut client = Client::new(cluster);
    loop {
        if let Answer::Done(_) = client.ask(&[b"SET", b"after:storm", b"1"]).await {
            return;
        }
        let now = world.now();
        assert!(
            now < deadline,
            "liveness: no write is taken {RECOVERY_MAX:?} after the storm"
        );
    }
}

/// Liveness: a time to live ends on a shard that nobody writes to.
async fn expire(cluster: &Cluster) {
    let mut client = Client::new(cluster);
    let set = client
        .ask(&[b"SET", b"after:brief", b"1", b"PX", b"500"])
        .await;
    assert_eq!(
        set,
        Answer::Done(Reply::Simple("OK".to_owned())),
        "liveness"
    );
    cluster.world().sleep(ms(500) + CLOCKS.early).await;
    let found = client.ask(&[b"GET", b"after:brief"]).await;
    assert_eq!(
        found,
        Answer::Done(Reply::Bulk(None)),
        "liveness: a time to live does not end"
    );
}

/// Liveness: all replicas that are in service come to hold the same state.
async fn converge(cluster: &Cluster) {
    let world = cluster.world();
    let deadline = world.now() + RECOVERY_MAX;
    loop {
        world.sleep(ms(200)).await;
        let states: Vec<_> = (0..cluster.size())
            .filter(|machine| !cluster.with(*machine, |machine| machine.is_lost()))
            .filter_map(|machine| {
                let status = cluster.with(machine, |machine| {
                    machine
                        .process
                        .as_ref()
                        .map(|process| process.node.status())
                })?;
                let group = status.groups.into_iter().next()?;
                Some((group.applied, group.state_hash, group.role == "waiting"))
            })
            .collect();
        let same = states.windows(2).all(|two| two[0] == two[1]);
        if same && states.iter().all(|state| !state.2) {
            return;
        }
        let now = world.now();
        assert!(
            now < deadline,
            "liveness: the replicas do not come together: {states:?}"
        );
    }
}

fn draw_configs(world: &World, planted: Planted) -> Vec<Config> {
    let count = [1, 3, 3, 3, 3, 3, 5, 5][world.below(8) as usize];
    let nodes: Vec<NodeId> = (0..count).map(node_of).collect();
    let member = |node: &NodeId| {
        let port = PORT_BASE - 1 + node.get() as u16;
        let host = "127.0.0.1".to_owned();
        (
            *node,
            Member {
                host,
                port,
                peer_port: port + 100,
                http_port: port + 200,
            },
        )
    };
    let members: BTreeMap<NodeId, Member> = nodes.iter().map(member).collect();
    let replicas = nodes
        .iter()
        .map(|node| (ReplicaId(node.get() + 100), *node))
        .collect();
    let spec = GroupSpec {
        group: GROUP,
        slots: (0, 16383),
        replicas,
    };
    let hash_key = u128::from(world.below(u64::MAX)).to_le_bytes();
    let segment_bytes = 16384 << world.below(3);
    let snapshot_after_log_bytes = 4096 << world.below(7);
    let log_cache_bytes = 512 << world.below(9);
    let checkpoint_ticks = 50 + world.below(200);
    let config = |node: &NodeId| Config {
        node: *node,
        cluster: ClusterId(7),
        incarnation: 0,
        hash_key,
        members: members.clone(),
        groups: vec![spec.clone()],
        password: None,
        tick_ms: 10,
        heartbeat_ticks: 10,
        election_ticks_min: 50,
        election_ticks_max: 100,
        deadline_ticks: 300,
        checkpoint_ticks,
        memory_bytes_max: None,
        clock_skew_ms_max: 1000,
        log: LogOptions {
            salt: 1 + node.get(),
            planted,
            ..LogOptions::small(segment_bytes)
        },
        snapshot_after_log_bytes,
        log_cache_bytes,
        planted,
    };
    nodes.iter().map(config).collect()
}
