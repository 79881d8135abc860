//! The tester of the sharding labs: groups of real nodes, the real shard manager, and orders to it.
//!
//! A lab's group is a shard of the cluster, on servers of its own ([`super::shard_ground`]); its Join,
//! Leave and Move are orders of an operator ([`super::operator`]). An order returns when the manager has
//! it, and data follows later, as in the labs.
//!
//! What a group's leaving is mapped on is one of two ([`Leaving`]), since the labs' group that leaves and
//! comes back is the same replicas with the same logs, while a shard that leaves is retired: what comes
//! back under its name is another group. Scenarios run on both.
//!
//! Where a scenario of the labs sleeps so that data can follow, [`ShardCluster::settle`] waits until the
//! manager knows that it has: a sleep would be too short or too long, depending on how slow the seed's
//! disks are.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kvorum_base::{GroupId, NodeId, Slot};
use kvorum_cluster::{Command, ConfigNumber, MANAGER, Reply, ShardRef, SlotRuns, Stage, State};
use kvorum_node::{Config, Control};

use super::kv_cluster::{KvCluster, Setup, run_configured};
use super::operator::{Operator, Operators};
use super::shard_ground::{Ground, name_of};
use crate::cluster::options::node_id;
use crate::net::{Net, ServerId, Weather};
use crate::world::ms;

/// The longest that data may take to follow an order when all groups have a majority.
const SETTLING_MAX: Duration = Duration::from_secs(20);
/// How often the tester looks whether something has come to pass.
const LOOK_EVERY: Duration = ms(20);

/// Longer than any test.
const NEVER_MS: u64 = 10_000_000;

/// What a group's leaving means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// Its shard leaves for good, and is retired when it has given everything away. What joins in its place
    /// is another group on the same servers, which are free by then.
    Retires,
    /// Its shard stays and has nothing, until it gets something again: the tester says which slots it wants
    /// where, as evenly and with as few moved as the manager does it.
    Stays,
}

/// What a scenario wants of its cluster.
#[derive(Clone, Copy, Debug)]
pub struct ShardSetup {
    /// How many groups there may be.
    pub groups: usize,
    /// How many shards.
    pub shards: u16,
    /// How many of the groups have them at the beginning.
    pub founders: usize,
    /// Whether the network is reliable.
    pub reliable: bool,
    /// The labs' `maxraftstate`; `None` for no snapshots at all.
    pub log_bytes: Option<u64>,
    /// What a group's leaving means.
    pub leaving: Leaving,
    /// After how many milliseconds a silent node is dead; in the labs none is, however long it is down.
    pub node_dead_ms: Option<u64>,
}

struct Inner {
    kv: KvCluster,
    setup: ShardSetup,
    ground: Ground,
    operators: Operators,
    /// The tester's own.
    operator: OnceCell<Operator>,
    /// The groups that have joined, for all that the tester did itself.
    members: RefCell<BTreeSet<usize>>,
    /// By shard: where it wants it, while groups stay.
    map: RefCell<Vec<usize>>,
    remembered: Remembered,
}

/// What nodes that were shut down knew of the cluster, in their files: half of them have none.
type Remembered = Rc<RefCell<BTreeMap<NodeId, Arc<State>>>>;

/// A cluster under test. Clones are the same cluster.
#[derive(Clone)]
pub struct ShardCluster {
    inner: Rc<Inner>,
}

impl Deref for ShardCluster {
    type Target = KvCluster;
    fn deref(&self) -> &KvCluster {
        &self.inner.kv
    }
}

/// Runs a scenario on a fresh cluster, and judges what every clerk was told.
///
/// # Panics
/// If the scenario fails, takes more than two minutes, or any property does not hold.
pub fn run_sharded(setup: ShardSetup, seed: u64, scenario: impl AsyncFnOnce(&ShardCluster)) {
    // A group that stays is there from the beginning.
    let founded = match setup.leaving {
        Leaving::Retires => setup.founders,
        Leaving::Stays => setup.groups,
    };
    let ground = Ground::new(setup.groups, setup.shards, founded);
    let servers = Setup {
        servers: ground.servers(),
        reliable: setup.reliable,
        log_bytes: setup.log_bytes,
    };
    let remembered = Remembered::default();
    let (told, known) = (ground.clone(), Rc::clone(&remembered));
    let configure = Rc::new(move |config: Config| {
        let known = known.borrow().get(&config.node).cloned();
        let dead_ms = setup.node_dead_ms.unwrap_or(NEVER_MS);
        told.configure(Config {
            known,
            node_dead_ticks: dead_ms / config.tick_ms,
            ..config
        })
    });
    run_configured(servers, seed, Some(configure), async move |kv| {
        let shards = ShardCluster::on(kv, setup, ground, remembered);
        shards.begin().await;
        scenario(&shards).await;
    });
}

impl ShardCluster {
    fn on(kv: &KvCluster, setup: ShardSetup, ground: Ground, remembered: Remembered) -> Self {
        let shards = Self {
            inner: Rc::new(Inner {
                kv: kv.clone(),
                setup,
                operators: Net::new(kv.world()),
                operator: OnceCell::new(),
                members: RefCell::new((0..setup.founders).collect()),
                map: RefCell::default(),
                remembered,
                ground,
            }),
        };
        shards.make_reliable(setup.reliable);
        for server in kv.all() {
            shards.serve_operators(server);
        }
        let operator = shards.operator();
        assert!(shards.inner.operator.set(operator).is_ok());
        shards
    }

    /// Sees that the founders have everything.
    async fn begin(&self) {
        if self.inner.setup.leaving == Leaving::Stays {
            let nowhere = vec![usize::MAX; usize::from(self.inner.setup.shards)];
            *self.inner.map.borrow_mut() = nowhere;
            self.assign_anew().await;
        }
        // Not before each server has had a turn.
        self.sleep(LOOK_EVERY).await;
        self.settle().await;
    }

    pub(super) fn setup(&self) -> &ShardSetup {
        &self.inner.setup
    }

    /// The servers and keys.
    #[must_use]
    pub fn ground(&self) -> &Ground {
        &self.inner.ground
    }

    /// An operator beside the tester's own.
    #[must_use]
    pub fn operator(&self) -> Operator {
        Operator::new(self, &self.inner.operators, self.shuffled())
    }

    fn own_operator(&self) -> &Operator {
        self.inner.operator.get().expect("it was made first")
    }

    /// Makes all networks reliable or not.
    pub fn make_reliable(&self, reliable: bool) {
        self.set_reliable(reliable);
        self.inner.operators.set_weather(Weather {
            reliable,
            ..Weather::default()
        });
    }

    fn serve_operators(&self, server: usize) {
        let (world, cluster) = (self.world().clone(), Rc::clone(self.cluster()));
        let serve = move |request, answering: crate::net::Answering<_, _>| {
            let asked = cluster.manage(server, request);
            drop(world.spawn(async move {
                if let Some(answer) = asked.await {
                    answering.answer(answer);
                }
            }));
        };
        self.inner.operators.add_server(ServerId(server), serve);
    }

    /// Ends a server; see [`KvCluster::shutdown`].
    pub fn shut_down(&self, server: usize) {
        let look = |node: &kvorum_node::Node| node.cluster().cloned();
        let known = self.host(server).with_node(look).flatten();
        let known = known.filter(|_| self.below(2) == 0);
        let mut remembered = self.inner.remembered.borrow_mut();
        match known {
            Some(known) => remembered.insert(node_id(server), known),
            None => remembered.remove(&node_id(server)),
        };
        drop(remembered);
        self.inner.operators.delete_server(ServerId(server));
        self.shutdown(server);
    }

    /// Starts servers that are down, and has them reach the others.
    pub fn start_servers(&self, servers: impl IntoIterator<Item = usize>) {
        for server in servers {
            self.start(server);
            self.serve_operators(server);
        }
        self.connect_all();
    }

    /// Ends all servers of a group.
    pub fn shut_down_group(&self, group: usize) {
        for server in self.ground().servers_of(group) {
            self.shut_down(server);
        }
    }

    /// Starts all servers of a group.
    pub fn start_group(&self, group: usize) {
        self.start_servers(self.ground().servers_of(group));
    }

    /// Ends all servers of all groups, and starts them.
    pub async fn restart_groups(&self) {
        let groups = self.ground().groups();
        groups.clone().for_each(|group| self.shut_down_group(group));
        self.sleep(ms(10)).await;
        groups.for_each(|group| self.start_group(group));
    }

    /// Tells servers a state of the shard manager.
    pub fn tell(&self, servers: &[usize], state: &Arc<State>) {
        for server in servers {
            let told = Control::Cluster(Arc::clone(state));
            self.cluster().control(*server, told);
        }
    }

    /// The newest state of the shard manager that one of its replicas has applied.
    ///
    /// # Panics
    /// If none runs.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        let known = self.ground().controllers().filter_map(|server| {
            let look = |node: &kvorum_node::Node| node.cluster().cloned();
            self.host(server).with_node(look).flatten()
        });
        let newest = known.max_by_key(|state| state.applied());
        newest.expect("a replica of the manager runs")
    }

    /// The number of the newest config.
    #[must_use]
    pub fn config_number(&self) -> ConfigNumber {
        self.state().newest().number
    }

    /// Whether a group is one of the newest config.
    #[must_use]
    pub fn is_member(&self, group: usize) -> bool {
        id_of(&self.state(), group).is_some()
    }

    /// The shards that a group should have by the newest config.
    #[must_use]
    pub fn wanted_of(&self, group: usize) -> BTreeSet<u16> {
        let state = self.state();
        let id = id_of(&state, group);
        let runs = state
            .newest()
            .slots
            .slots_where(|wanted| id.is_some() && *wanted == id);
        runs.slots().map(Slot::get).collect()
    }

    /// The shards that a group has, for all that the manager knows.
    #[must_use]
    pub fn owned_by(&self, group: usize) -> BTreeSet<u16> {
        let state = self.state();
        let ids = ids_of(&state, group);
        let owned = ids
            .into_iter()
            .flat_map(|id| state.slots_of(id).slots().collect::<Vec<_>>());
        owned.map(Slot::get).collect()
    }

    /// Has groups join, by one order where they are founded by it.
    ///
    /// # Panics
    /// If the manager refuses.
    pub async fn join(&self, groups: &[usize]) {
        self.inner.members.borrow_mut().extend(groups);
        if self.inner.setup.leaving == Leaving::Stays {
            return self.assign_anew().await;
        }
        // Two of its groups on one server would be one too many, and one would be put elsewhere.
        self.wait_until("the servers to be free", || {
            groups.iter().all(|group| self.has_left(*group))
        })
        .await;
        let reply = self.own_operator().order(self.joining(groups)).await;
        assert!(
            matches!(reply, Reply::Joined { .. }),
            "join {groups:?}: {reply:?}"
        );
    }

    /// Has groups leave, by one order.
    ///
    /// # Panics
    /// If the manager refuses.
    pub async fn leave(&self, groups: &[usize]) {
        self.inner
            .members
            .borrow_mut()
            .retain(|member| !groups.contains(member));
        if self.inner.setup.leaving == Leaving::Stays {
            return self.assign_anew().await;
        }
        let reply = self.own_operator().order(leaving(groups)).await;
        assert!(
            matches!(reply, Reply::Config(_)),
            "leave {groups:?}: {reply:?}"
        );
    }

    /// The order that has groups join.
    #[must_use]
    pub fn joining(&self, groups: &[usize]) -> Command {
        self.ground().joining(groups)
    }

    /// Says which shards are wanted where, now that other groups are members.
    async fn assign_anew(&self) {
        let before = self.inner.map.borrow().clone();
        let after = rebalanced(&before, &self.inner.members.borrow());
        self.inner.map.borrow_mut().clone_from(&after);
        let mut changed: BTreeMap<usize, Vec<Slot>> = BTreeMap::new();
        for (shard, (was, is)) in before.iter().zip(&after).enumerate() {
            if was != is {
                changed.entry(*is).or_default().push(Slot(shard as u16));
            }
        }
        for (group, slots) in changed {
            let assign = Command::Assign {
                slots: SlotRuns::of_slots(slots),
                shard: ShardRef::Name(name_of(group)),
            };
            let reply = self.own_operator().order(assign).await;
            assert!(matches!(reply, Reply::Config(_)), "assign: {reply:?}");
        }
    }

    /// Whether nothing is left of a group that has left, but perhaps on servers that are down.
    #[must_use]
    pub fn has_left(&self, group: usize) -> bool {
        let (state, name) = (self.state(), name_of(group));
        let mut shards = state.shards().values();
        !shards.any(|shard| shard.founding.name == name && shard.stage != Stage::Retired)
    }

    /// Whether all shards are where the newest config wants them.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let state = self.state();
        let wanted = state.newest().slots.cells().iter();
        let mut pairs = state.slots().cells().iter().zip(wanted);
        state.moves().is_empty() && pairs.all(|(owned, wanted)| owned.owner == *wanted)
    }

    /// Waits until all shards are where the newest config wants them.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn settle(&self) {
        self.settle_within(SETTLING_MAX).await;
    }

    /// Waits until all shards are where the newest config wants them.
    ///
    /// # Panics
    /// If that takes longer than this.
    pub async fn settle_within(&self, most: Duration) {
        let begun = self.world().now();
        self.wait_until("the data to follow", || self.is_settled())
            .await;
        let took = self.world().now() - begun;
        assert!(took <= most, "the data follows after {took:?}");
    }

    /// Waits until something has come to pass.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn wait_until(&self, what: &str, has_come: impl Fn() -> bool) {
        let begun = self.world().now();
        while !has_come() {
            let waited = self.world().now() - begun;
            assert!(waited <= SETTLING_MAX, "waited {waited:?} for {what}");
            self.sleep(LOOK_EVERY).await;
        }
    }
}

/// The order that has groups leave.
#[must_use]
pub fn leaving(groups: &[usize]) -> Command {
    let shards = groups.iter().map(|group| ShardRef::Name(name_of(*group)));
    Command::Leave {
        shards: shards.collect(),
    }
}

/// The shard of a group in the newest config.
fn id_of(state: &State, group: usize) -> Option<GroupId> {
    let name = name_of(group);
    let mut shards = state.newest().shards.iter();
    shards
        .find(|(_, shard)| shard.name == name)
        .map(|(id, _)| *id)
}

/// All shards that there are or were of a group, and that are not forgotten.
fn ids_of(state: &State, group: usize) -> Vec<GroupId> {
    let name = name_of(group);
    let shards = state.shards().iter().filter(|(id, _)| **id != MANAGER);
    let same = shards.filter(|(_, shard)| shard.founding.name == name);
    same.map(|(id, _)| *id).collect()
}

/// The map with these members: as even as can be, with as few shards moved as can be.
fn rebalanced(map: &[usize], members: &BTreeSet<usize>) -> Vec<usize> {
    let mut map = map.to_vec();
    let count = |map: &[usize], group: usize| map.iter().filter(|owner| **owner == group).count();
    loop {
        let poorest = members.iter().min_by_key(|group| count(&map, **group));
        let richest = members.iter().max_by_key(|group| count(&map, **group));
        let (poorest, richest) = match (poorest, richest) {
            (Some(poorest), Some(richest)) => (*poorest, *richest),
            _ => return map,
        };
        if let Some(homeless) = map.iter_mut().find(|owner| !members.contains(owner)) {
            *homeless = poorest;
        } else if count(&map, richest) > count(&map, poorest) + 1 {
            let given = map.iter_mut().find(|owner| **owner == richest);
            *given.expect("it has more than one") = poorest;
        } else {
            return map;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_even_and_few_shards_move() {
        let of = |groups: &[usize]| groups.iter().copied().collect::<BTreeSet<_>>();
        let alone = rebalanced(&[usize::MAX; 10], &of(&[0]));
        assert_eq!(alone, [0; 10]);
        let two = rebalanced(&alone, &of(&[0, 1]));
        assert_eq!(two.iter().filter(|owner| **owner == 1).count(), 5);
        let three = rebalanced(&two, &of(&[0, 1, 2]));
        let moved = two.iter().zip(&three).filter(|(was, is)| was != is);
        assert_eq!(moved.count(), 3);
        let left = rebalanced(&three, &of(&[1, 2]));
        let stayed = three.iter().zip(&left).filter(|(was, _)| **was != 0);
        assert!(stayed.into_iter().all(|(was, is)| was == is));
    }
}
