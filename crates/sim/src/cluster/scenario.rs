//! One seed from its beginning to the verdict.
//!
//! Two acts. In the storm anything may go wrong and safety is watched: after every turn of every
//! node, and with every answer. Then everything is made good, and within a bounded time all live nodes
//! must come to the same state and a write must succeed. At last everything that was ever written is
//! read, and the whole history is judged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use kvorum_base::GroupId;

use super::client::{Answer, Client, Request};
use super::coverage::Coverage;
use super::judge::Failure;
use super::manager::Manager;
use super::options::Options;
use super::{Cluster, schedule, workload};
use crate::checkers::expiry::LoggedStrings;
use crate::checkers::liveness::{has_converged, position};
use crate::checkers::strings::check_keys;
use crate::world::{Joining, ms};

/// How long the clients' last requests, the nodes' agreement, and one write may each take when all
/// is well.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many steps the search for an order of one key's operations may take.
const SEARCH_BUDGET: u64 = 20_000_000;

/// What a seed came to.
#[derive(Debug)]
pub struct Report {
    /// What does not hold, if anything.
    pub failure: Option<Failure>,
    /// What came to pass.
    pub coverage: Coverage,
}

/// Runs one seed.
#[must_use]
pub fn run(options: Options, is_traced: bool) -> Report {
    let cluster = Cluster::new(options, is_traced);
    cluster.trace(|| format!("{:#?}", cluster.options));
    let world = cluster.world.clone();
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run(play(Rc::clone(&cluster)))));
    if let Err(panic) = outcome {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without words");
        cluster.fail("assertion", text.to_owned());
    }
    let report = Report {
        failure: cluster.failure(),
        coverage: cluster.coverage(),
    };
    // Tasks and timers hold the cluster that holds them.
    let ended = catch_unwind(AssertUnwindSafe(|| {
        world.run_to_end(std::future::ready(()));
    }));
    drop(ended);
    report
}

async fn play(cluster: Rc<Cluster>) {
    for host in cluster.hosts() {
        host.start();
    }
    for router in cluster.routers() {
        router.start();
        router.meet_misfortunes();
    }
    let clients = workload::start(&cluster);
    schedule::start(&cluster);
    let manager = Manager::start(&cluster);
    storm(&cluster).await;
    schedule::calm(&cluster);
    cluster.is_closing.set(true);
    if !clients_end(&cluster, clients).await
        || !wait(&cluster, "the end of all moves", || manager.is_idle()).await
        || !nodes_agree(&cluster, &manager).await
        || !write_succeeds(&cluster).await
    {
        return;
    }
    workload::read_everything(&cluster).await;
    if cluster.failure().is_some() {
        return;
    }
    let model = LoggedStrings::new(cluster.judge.borrow().clock());
    let history = cluster.history.borrow();
    if let Err(text) = check_keys(&model, history.operations(), SEARCH_BUDGET) {
        cluster.fail("linearizability", text);
    }
}

/// Lets the storm pass, until clients have done enough.
async fn storm(cluster: &Rc<Cluster>) {
    let options = &cluster.options;
    let end = options.storm.as_micros() as u64;
    loop {
        cluster.world.sleep(ms(500)).await;
        let now = cluster.world.now().0;
        let is_enough = now >= end && cluster.operations() >= options.operations_min;
        // A storm that lets nothing through is not interesting for longer than this.
        if cluster.failure().is_some() || is_enough || now >= 4 * end {
            return;
        }
    }
}

async fn clients_end(cluster: &Rc<Cluster>, clients: Vec<Joining<()>>) -> bool {
    wait(cluster, "the clients' last requests", || {
        clients.iter().all(Joining::is_over)
    })
    .await
}

async fn nodes_agree(cluster: &Rc<Cluster>, manager: &Manager) -> bool {
    let agree = |(group, voters): (GroupId, Vec<usize>)| {
        let hosts = voters
            .into_iter()
            .map(|voter| cluster.hosts()[voter].clone());
        let live = hosts.filter(|host| !host.is_lost());
        let positions: Vec<_> = live
            .map(|host| host.with_node(|node| position(node, group)).flatten())
            .collect();
        has_converged(&positions)
    };
    let agree = || manager.groups().into_iter().all(agree);
    wait(cluster, "the same state on all live nodes", agree).await
}

async fn write_succeeds(cluster: &Rc<Cluster>) -> bool {
    let client = Client::new(cluster, cluster.options.clients + 1);
    let request: Request = [&b"SET"[..], b"after the storm", b"1"]
        .iter()
        .map(|word| word.to_vec())
        .collect();
    let world = cluster.world.clone();
    let writing = world.clone().spawn(async move {
        loop {
            if let Answer::Done(_) = client.ask(std::slice::from_ref(&request)).await.remove(0) {
                return;
            }
            world.sleep(ms(20)).await;
        }
    });
    wait(cluster, "a write", || writing.is_over()).await
}

/// Waits until it is so; false if that takes too long, or if something else failed.
async fn wait(cluster: &Rc<Cluster>, what: &str, is_so: impl Fn() -> bool) -> bool {
    let end = cluster.world.now() + PATIENCE;
    while cluster.failure().is_none() {
        if is_so() {
            return true;
        }
        if cluster.world.now() >= end {
            cluster.trace_status();
            cluster.fail("liveness", format!("waited {PATIENCE:?} for {what}"));
            return false;
        }
        cluster.world.sleep(ms(50)).await;
    }
    false
}
