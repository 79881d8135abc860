//! The tester of the key-value labs: whole nodes, what is done to them, and how large they may grow.
//!
//! The servers are those of the simulator ([`crate::cluster`]): real nodes with simulated disks, whose
//! frames cross the labs' network, and whose replicas are compared entry by entry after every turn.
//! Clerks call over a second network of the same weather, since [`KvCluster::partition`] cuts servers
//! from each other and never a clerk from a server. A call is one connection to the node: opened,
//! one request, one reply, closed.
//!
//! What differs from the original, and why:
//!
//! - A frame is a call of its own with nothing for a reply, and so is the frame that answers it: an
//!   answer is delayed, and lost, by itself.
//! - A server's ways to the others outlive it. What a dead life sent may still arrive, as on any
//!   network; in the labs it would run its handler as well, and only the reply would be lost.
//! - [`KvCluster::shutdown`] kills the process or cuts its power, by chance. In the labs a write is
//!   durable at once; here an acknowledged write must survive that it is not.
//! - `maxraftstate` is the node's [`snapshot_after_log_bytes`](kvorum_node::Config), and the log that
//!   it keeps in memory for followers is as small. `LogSize` is what a restart would find in the log:
//!   term, vote, and the entries above the snapshot ([`KvCluster::log_size`]). The files are larger:
//!   segments have a size of their own, at least 8 KiB, and are used over and over.
//! - A node waits with a snapshot until the log has as many bytes as the last snapshot, so that
//!   a large state is not written for every little change. So the labs' limit on the log, eight times
//!   `maxraftstate`, is what it may have beyond the size of the snapshot. Where a scenario's state
//!   is small the labs' own number holds.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kvorum_base::{GroupId, Prng};
use kvorum_node::Door;
use kvorum_node::log::{RecoveredGroup, Recovery, SegmentId};

use super::clerk::Clerk;
use crate::checkers::strings::{Strings, check_keys};
use crate::cluster::client::Request;
use crate::cluster::host::{End, Host};
use crate::cluster::options::{GROUP, Options};
use crate::cluster::reply::Reply;
use crate::cluster::{Cluster, Configure};
use crate::disk::FileName;
use crate::net::{EndId, Net, Payload, ServerId, Weather};
use crate::world::{Time, World, ms};

/// No test may take longer, in virtual time.
const TEST_MAX: Duration = Duration::from_secs(120);
/// How often the judge's findings are looked at.
const LOOK_EVERY: Duration = ms(100);
/// The shortest sync, and the longest by seed. With slow ones there is more for a power cut to take.
const SYNC_MIN: Duration = Duration::from_micros(80);
const SYNCS_MAX: [Duration; 3] = [ms(1), ms(3), ms(10)];
/// The labs' factor between `maxraftstate` and the largest log.
pub(super) const LOG_SIZE_FACTOR: u64 = 8;
/// What a record of the log has beside the bytes of its entry, and what the hard state takes.
const RECORD_BYTES: u64 = 32;
/// The least of its log that a server keeps in memory: with no more than it is about to write, it would have
/// to refuse what clerks write meanwhile.
const CACHE_BYTES_MIN: u64 = 1000;
/// How many steps the search for an order of one key's operations may take. In the labs a search
/// that is not finished passes; here it fails.
const SEARCH_BUDGET: u64 = 20_000_000;

impl Payload for Request {
    fn size(&self) -> usize {
        self.iter().map(|word| word.len() + 8).sum()
    }
}

impl Payload for Reply {
    fn size(&self) -> usize {
        match self {
            Self::Simple(text) | Self::Error(text) => text.len() + 3,
            Self::Int(_) => 8,
            Self::Bulk(value) => value.as_ref().map_or(0, |value| value.len()) + 8,
            Self::Array(items) => items.iter().map(Payload::size).sum(),
        }
    }
}

/// What a test wants of its cluster.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How many servers.
    pub servers: usize,
    /// Whether the network is reliable.
    pub reliable: bool,
    /// The labs' `maxraftstate`: about how long the log may be before a snapshot is taken, in bytes;
    /// `None` for no snapshots at all.
    pub log_bytes: Option<u64>,
}

impl Setup {
    /// So many servers on a reliable network, without snapshots.
    #[must_use]
    pub fn of(servers: usize) -> Self {
        Self {
            servers,
            reliable: true,
            log_bytes: None,
        }
    }

    /// What the simulator is told. What is not fixed here differs from seed to seed: how long turns
    /// take, when a request gives up waiting, how large segments are.
    fn options(&self, seed: u64) -> Options {
        let drawn = Options::draw(seed);
        let is_trimmed = self.log_bytes.is_some();
        let segment_bytes = if is_trimmed {
            drawn.segment_bytes
        } else {
            256 << 10
        };
        Options {
            nodes: self.servers,
            // Its servers are all there is.
            spares: 0,
            changes: false,
            shards: 1,
            is_seated: false,
            routers: 0,
            dangers: Vec::new(),
            latency: Duration::ZERO,
            tick_ms: if seed.is_multiple_of(2) { 10 } else { 20 },
            segment_bytes,
            // Where no snapshots are wanted the log grows, and nobody is asked to make room.
            log_bytes_target: if is_trimmed {
                8 * u64::from(segment_bytes)
            } else {
                1 << 40
            },
            snapshot_after: self.log_bytes.unwrap_or(u64::MAX),
            log_cache_bytes: self
                .log_bytes
                .map_or(1 << 40, |bytes| bytes.max(CACHE_BYTES_MIN)),
            ..drawn
        }
    }
}

struct Inner {
    cluster: Rc<Cluster>,
    clerks: Net<Request, Reply>,
    setup: Setup,
    /// Whether keys are in several groups, so that one server does not do for all.
    is_sharded: bool,
    prng: RefCell<Prng>,
    clerks_made: Cell<usize>,
}

/// A cluster under test. Clones are the same cluster.
#[derive(Clone)]
pub struct KvCluster {
    inner: Rc<Inner>,
}

/// Runs a scenario on a fresh cluster, and judges what every clerk was told. With `KVORUM_TRACE` in
/// the environment it is told as it goes.
///
/// # Panics
/// If the scenario fails, takes more than two minutes, or any property does not hold.
pub fn run(setup: Setup, seed: u64, scenario: impl AsyncFnOnce(&KvCluster)) {
    run_configured(setup, seed, None, scenario);
}

/// Runs a scenario on servers that are told something else at their start: that they have parts in several
/// groups.
pub(super) fn run_configured(
    setup: Setup,
    seed: u64,
    configure: Option<Configure>,
    scenario: impl AsyncFnOnce(&KvCluster),
) {
    let is_traced = std::env::var_os("KVORUM_TRACE").is_some();
    let cluster = Cluster::new(setup.options(seed), is_traced);
    let world = cluster.world.clone();
    let is_sharded = configure.is_some();
    if let Some(configure) = configure {
        cluster.configure(configure);
    }
    let clerks = Net::new(&world);
    let kv = KvCluster {
        inner: Rc::new(Inner {
            cluster,
            clerks,
            setup,
            is_sharded,
            prng: RefCell::new(world.fork_prng()),
            clerks_made: Cell::new(0),
        }),
    };
    kv.set_reliable(setup.reliable);
    let sync_max = SYNCS_MAX[seed as usize % SYNCS_MAX.len()];
    for server in 0..setup.servers {
        kv.set_syncs(server, SYNC_MIN, sync_max);
        kv.start(server);
    }
    kv.connect_all();
    drop(world.spawn(kv.clone().look()));
    world.run_to_end(scenario(&kv));
    kv.check_judge();
    kv.check_histories();
}

/// What a log holds of a group: the hard state, and the entries above the snapshot.
pub(super) fn log_bytes_of(group: &RecoveredGroup) -> u64 {
    let sizes = group.entries.iter();
    let entries = sizes.map(|entry| RECORD_BYTES + entry.data.len() as u64);
    RECORD_BYTES + entries.sum::<u64>()
}

impl KvCluster {
    /// The world that it is in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.inner.cluster.world
    }

    /// The simulator that it is built on.
    #[must_use]
    pub fn cluster(&self) -> &Rc<Cluster> {
        &self.inner.cluster
    }

    pub(super) fn clerks(&self) -> &Net<Request, Reply> {
        &self.inner.clerks
    }

    /// Makes the networks reliable or not, for what is sent from now on.
    pub fn set_reliable(&self, reliable: bool) {
        let weather = Weather {
            reliable,
            ..Weather::default()
        };
        self.inner.cluster.set_weather(weather, 0);
        self.inner.clerks.set_weather(weather);
    }

    pub(super) fn is_sharded(&self) -> bool {
        self.inner.is_sharded
    }

    /// How many servers there are, up or down.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.setup.servers
    }

    /// All servers.
    #[must_use]
    pub fn all(&self) -> Vec<usize> {
        (0..self.size()).collect()
    }

    /// Waits.
    pub async fn sleep(&self, delay: Duration) {
        self.world().sleep(delay).await;
    }

    /// A draw in `0..bound`.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.inner.prng.borrow_mut().below(bound)
    }

    /// A clerk that reaches these servers, and asks all of them in an order of its own.
    #[must_use]
    pub fn clerk(&self, servers: &[usize]) -> Clerk {
        let number = self.inner.clerks_made.get();
        self.inner.clerks_made.set(number + 1);
        let clerk = Clerk::new(self, number, self.shuffled());
        clerk.reach(servers);
        clerk
    }

    /// All servers in some order.
    pub(super) fn shuffled(&self) -> Vec<usize> {
        let mut servers = self.all();
        self.inner.prng.borrow_mut().shuffle(&mut servers);
        servers
    }

    /// A clerk's way to a server.
    pub(super) fn clerk_end(&self, server: usize) -> EndId {
        self.inner.clerks.make_end(ServerId(server))
    }

    pub(super) fn host(&self, server: usize) -> Rc<Host> {
        Rc::clone(&self.inner.cluster.hosts()[server])
    }

    /// Starts the server from what its disk holds. It reaches no other before
    /// [`KvCluster::connect_all`].
    pub fn start(&self, server: usize) {
        self.enable_links_of(server, false);
        let host = self.host(server);
        host.start();
        let world = self.world().clone();
        // Every request is answered by its deadline, or a little later.
        let patience = ms(self.inner.cluster.options.deadline_ms) + Duration::from_secs(1);
        let serve = move |request: Request, answering: crate::net::Answering<Request, Reply>| {
            let Some(connection) = host.connect(Door::Primary, None) else {
                return;
            };
            drop(world.spawn(async move {
                let reply = connection.exchange(&[request], patience).await.pop();
                connection.close();
                if let Some(reply) = reply {
                    answering.answer(reply);
                }
            }));
        };
        self.inner.clerks.add_server(ServerId(server), serve);
    }

    /// Ends the server: its process is killed, or its power fails.
    pub fn shutdown(&self, server: usize) {
        self.enable_links_of(server, false);
        self.inner.clerks.delete_server(ServerId(server));
        let end = if self.below(2) == 0 {
            End::Killed
        } else {
            End::PowerCut
        };
        self.host(server).end(end);
    }

    /// How long the syncs of a server's disk take from now on.
    pub fn set_syncs(&self, server: usize, min: Duration, max: Duration) {
        self.host(server).with_disk(|disk| {
            let conduct = disk.conduct_mut();
            (conduct.sync_min, conduct.sync_max) = (min, max);
        });
    }

    /// Takes all links between servers up.
    pub fn connect_all(&self) {
        for server in 0..self.size() {
            self.enable_links_of(server, true);
        }
    }

    fn enable_links_of(&self, server: usize, is_enabled: bool) {
        for other in 0..self.size() {
            self.inner.cluster.enable(server, other, is_enabled);
            self.inner.cluster.enable(other, server, is_enabled);
        }
    }

    /// Cuts the servers for which this is true from the others, and joins each side.
    pub fn partition(&self, is_on_one_side: impl Fn(usize) -> bool) {
        for from in 0..self.size() {
            for to in 0..self.size() {
                let is_enabled = is_on_one_side(from) == is_on_one_side(to);
                self.inner.cluster.enable(from, to, is_enabled);
            }
        }
    }

    /// The server that leads in the newest term, if one does.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let term = |server: &usize| {
            let look = |node: &kvorum_node::Node| {
                let raft = node.inspect(GROUP)?.raft;
                raft.is_leader().then(|| raft.term())
            };
            self.host(*server).with_node(look).flatten()
        };
        (0..self.size())
            .filter(|server| term(server).is_some())
            .max_by_key(term)
    }

    /// How many snapshots of others this server has installed in its present life.
    #[must_use]
    pub fn snapshots_installed(&self, server: usize) -> u64 {
        let installed = |node: &kvorum_node::Node| node.counters().snapshots_installed;
        self.host(server).with_node(installed).unwrap_or(0)
    }

    /// The most that a restart of any server would find in its log: the hard state, and the entries
    /// above the snapshot.
    ///
    /// # Panics
    /// If a log cannot be read.
    #[must_use]
    pub fn log_size(&self) -> u64 {
        let size = |server| {
            let groups = self.groups_in_log(server);
            let group = groups.get(&GROUP);
            group.map_or(RECORD_BYTES, log_bytes_of)
        };
        (0..self.size()).map(size).max().unwrap_or(0)
    }

    /// What a restart of a server would find in its log, by group.
    pub(super) fn groups_in_log(&self, server: usize) -> BTreeMap<GroupId, RecoveredGroup> {
        let config = self.inner.cluster.options.config(server, 1);
        let mut recovery = Recovery::new(&config.log, false);
        self.host(server).with_disk(|disk| {
            for segment in disk.segments() {
                let bytes = disk.read(&FileName::Segment(segment));
                recovery.feed(SegmentId(segment), bytes.expect("a listed segment"));
            }
        });
        let recovered = recovery.finish().expect("the log of a healthy node");
        recovered.groups
    }

    /// The size of the largest of the servers' newest snapshots in bytes; 0 if there is none.
    #[must_use]
    pub fn snapshot_size(&self) -> u64 {
        let size = |server| self.snapshot_sizes(server).into_values().max();
        (0..self.size()).filter_map(size).max().unwrap_or(0)
    }

    /// The size of all snapshots on a server.
    pub(super) fn snapshot_bytes(&self, server: usize) -> u64 {
        self.host(server).with_disk(|disk| {
            let is_snapshot = |name: &&FileName| matches!(name, FileName::Snapshot { .. });
            let snapshots = disk.names().filter(is_snapshot);
            let sizes = snapshots.filter_map(|name| disk.read(name));
            sizes.map(|bytes| bytes.len() as u64).sum()
        })
    }

    /// The size of the newest snapshot of each group on a server.
    pub(super) fn snapshot_sizes(&self, server: usize) -> BTreeMap<GroupId, u64> {
        self.host(server).with_disk(|disk| {
            let mut sizes = BTreeMap::new();
            // In the order of their numbers.
            for name in disk.names() {
                if let FileName::Snapshot { group, .. } = name {
                    let bytes = disk.read(name).map_or(0, <[u8]>::len);
                    sizes.insert(GroupId(*group), bytes as u64);
                }
            }
            sizes
        })
    }

    /// Insists that there are no snapshots where none are wanted, and where they are, that there is
    /// one and that logs are short.
    ///
    /// # Panics
    /// If it is not so.
    pub fn check_sizes(&self) {
        let (log, snapshot) = (self.log_size(), self.snapshot_size());
        match self.inner.setup.log_bytes {
            None => assert_eq!(snapshot, 0, "a snapshot where none are wanted"),
            Some(wanted) => {
                assert!(snapshot > 0, "no snapshot was taken");
                let most = LOG_SIZE_FACTOR * wanted + snapshot;
                assert!(
                    log <= most,
                    "a log of {log} bytes beside a snapshot of {snapshot}, wanted are {wanted}"
                );
            }
        }
    }

    /// Insists on the labs' own limit, whatever the size of the snapshot.
    ///
    /// # Panics
    /// If a log is longer.
    pub fn check_log_size(&self) {
        let wanted = self.inner.setup.log_bytes.expect("a limit of the log");
        let log = self.log_size();
        assert!(log <= LOG_SIZE_FACTOR * wanted, "a log of {log} bytes");
    }

    /// Looks again and again whether all is well: clerks never give up, so that a test of which
    /// something has failed might not end by itself.
    async fn look(self) {
        loop {
            self.sleep(LOOK_EVERY).await;
            self.check_judge();
            let took = self.world().now() - Time(0);
            assert!(took <= TEST_MAX, "the test takes {took:?} of virtual time");
        }
    }

    fn check_judge(&self) {
        if let Some(failure) = self.inner.cluster.failure() {
            panic!("{}: {}", failure.checker, failure.text);
        }
    }

    /// Judges everything that clerks were told.
    fn check_histories(&self) {
        let strings = Strings {
            early: Duration::ZERO,
            late: Duration::ZERO,
        };
        let history = self.inner.cluster.history.borrow();
        if let Err(text) = check_keys(&strings, history.operations(), SEARCH_BUDGET) {
            panic!("{text}");
        }
    }
}
