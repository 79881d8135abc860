//! The schedule that most scenarios of the key-value labs share: three rounds in which clerks work
//! while servers are cut from each other and restarted, each ended by a look at what is there.
//!
//! It is the later years' form, which is the earlier ones' two in one: whatever a clerk does goes into
//! the history, and clerks work on keys of their own, where each knows what must be there, or all on
//! the same ones.
//!
//! The originals' clerks ask without a pause, and their machine sets the pace. Here a round's work
//! would depend on how quick the simulated disk is drawn, so clerks pause between operations: about
//! as many operations are done in every scenario, however many clerks do them. Without pauses is
//! [`run_speed`].

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::clerk::Clerk;
use super::kv_cluster::KvCluster;
use crate::world::{Joining, ms};

/// The labs' "election timeout".
const ELECTION_TIMEOUT: Duration = ms(1000);
const ROUNDS: usize = 3;
/// Once everything is whole again a client's last operation, however long it has waited, ends within
/// this time. In the labs it only has to end before the test does.
const LAST_OPERATION_MAX: Duration = Duration::from_secs(10);
/// The mean pause of one clerk alone, in milliseconds. More clerks pause longer in proportion.
const PAUSE_MS: u64 = 4;

/// What happens in the rounds.
#[derive(Clone, Copy, Default, Debug)]
pub struct Rounds {
    /// How many clerks work.
    pub clerks: usize,
    /// Whether all servers are restarted in each round.
    pub crash: bool,
    /// Whether servers are cut from each other all the time.
    pub partitions: bool,
    /// Whether clerks work on any key, and not each on its own.
    pub random_keys: bool,
}

impl Rounds {
    /// So many clerks, each with a key of its own, and nothing goes wrong.
    #[must_use]
    pub fn of(clerks: usize) -> Self {
        Self {
            clerks,
            ..Self::default()
        }
    }
}

/// What clerk number `client` appends the `number`th time.
#[must_use]
pub fn token(client: usize, number: usize) -> String {
    format!("x {client} {number} y")
}

/// Insists that a value holds each of the first `count` tokens of a client once and in order.
///
/// # Panics
/// If it does not.
pub fn check_appends(value: &str, client: usize, count: usize) {
    let mut last = None;
    for number in 0..count {
        let token = token(client, number);
        let at = value.find(&token);
        assert!(at.is_some(), "{token:?} is not in {value:?}");
        assert_eq!(at, value.rfind(&token), "{token:?} is twice in {value:?}");
        assert!(at > last, "{token:?} is out of order in {value:?}");
        last = at;
    }
}

/// Runs the rounds.
pub async fn run_rounds(kv: &KvCluster, plan: Rounds) {
    for _ in 0..ROUNDS {
        let stop = Rc::new(Cell::new(false));
        let clients: Vec<Joining<usize>> = (0..plan.clerks)
            .map(|client| {
                let clerk = kv.clerk(&kv.all());
                let work = work(kv.clone(), clerk, client, plan, Rc::clone(&stop));
                kv.world().spawn(work)
            })
            .collect();
        let mut partitioner = None;
        if plan.partitions {
            kv.sleep(ELECTION_TIMEOUT).await;
            let cutting = keep_cutting(kv.clone(), Rc::clone(&stop));
            partitioner = Some(kv.world().spawn(cutting));
        }
        kv.sleep(ELECTION_TIMEOUT * 5).await;
        stop.set(true);
        if let Some(partitioner) = partitioner {
            partitioner.await;
            kv.connect_all();
            kv.sleep(ELECTION_TIMEOUT).await;
        }
        if plan.crash {
            restart_all(kv).await;
        }
        let whole = kv.world().now();
        let reader = kv.clerk(&kv.all());
        for (client, working) in clients.into_iter().enumerate() {
            let appended = working.await.expect("a client ends by itself");
            let took = kv.world().now() - whole;
            assert!(
                took <= LAST_OPERATION_MAX,
                "client {client} ends after {took:?}"
            );
            let value = reader.get(&client.to_string()).await;
            if !plan.random_keys {
                check_appends(&value, client, appended);
            }
        }
        kv.check_sizes();
    }
}

/// Sees that operations do not wait for the next heartbeat: at least three are done between two.
pub async fn run_speed(kv: &KvCluster) {
    const COUNT: usize = 1000;
    const HEARTBEAT: Duration = ms(100);
    let clerk = kv.clerk(&kv.all());
    clerk.get("x").await;
    let begun = kv.world().now();
    for number in 0..COUNT {
        clerk.append("x", &token(0, number)).await;
    }
    let took = kv.world().now() - begun;
    check_appends(&clerk.get("x").await, 0, COUNT);
    let most = HEARTBEAT * COUNT as u32 / 3;
    assert!(took <= most, "{COUNT} operations took {took:?}");
    kv.check_sizes();
}

async fn restart_all(kv: &KvCluster) {
    for server in kv.all() {
        kv.shutdown(server);
    }
    kv.sleep(ELECTION_TIMEOUT).await;
    for server in kv.all() {
        kv.start(server);
    }
    kv.connect_all();
}

/// Splits the servers by the toss of a coin for each, about once a second.
async fn keep_cutting(kv: KvCluster, stop: Rc<Cell<bool>>) {
    while !stop.get() {
        let sides: Vec<bool> = (0..kv.size()).map(|_| kv.below(2) == 0).collect();
        kv.partition(|server| sides[server]);
        kv.sleep(ELECTION_TIMEOUT + ms(kv.below(200))).await;
    }
}

/// One client: returns how many times it appended.
async fn work(
    kv: KvCluster,
    clerk: Clerk,
    client: usize,
    plan: Rounds,
    stop: Rc<Cell<bool>>,
) -> usize {
    let own = client.to_string();
    let mut known = String::new();
    let mut number = 0;
    if !plan.random_keys {
        clerk.put(&own, "").await;
    }
    while !stop.get() {
        let key = match plan.random_keys {
            true => kv.below(plan.clerks as u64).to_string(),
            false => own.clone(),
        };
        let token = token(client, number);
        let draw = kv.below(1000);
        if draw < 500 {
            clerk.append(&key, &token).await;
            known.push_str(&token);
            number += 1;
        } else if plan.random_keys && draw < 550 {
            clerk.put(&key, &token).await;
            number += 1;
        } else {
            let value = clerk.get(&key).await;
            let is_known = plan.random_keys || value == known;
            assert!(is_known, "client {client} reads {value:?}, not {known:?}");
        }
        let pause_max = 2 * PAUSE_MS * plan.clerks as u64;
        kv.sleep(ms(kv.below(pause_max))).await;
    }
    number
}
