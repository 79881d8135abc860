//! A whole cluster in one thread: real nodes on fake machines, clients, misfortunes, and a judge that
//! looks at every replica after every turn.
//!
//! - [`options`]: what a seed is about;
//! - [`founding`]: what the cluster is made with;
//! - [`host`]: a machine and the process on it;
//! - [`client`], [`reply`]: a client's end of a connection;
//! - `operator`: an operator's;
//! - [`router`]: a router and the machine under it;
//! - [`workload`]: what clients ask for;
//! - [`schedule`]: what goes wrong, and when;
//! - [`judge`]: what is checked meanwhile;
//! - [`manager`]: slots move, replicas, shards and nodes come and go;
//! - [`scenario`]: one seed from its beginning to the verdict;
//! - [`coverage`]: what came to pass.

pub mod client;
pub mod coverage;
pub mod founding;
pub mod host;
pub mod judge;
pub mod manager;
mod operator;
pub mod options;
pub mod reply;
pub mod router;
pub mod scenario;
pub mod schedule;
mod transactions;
pub mod workload;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use kvorum_base::{NodeId, Prng};
use kvorum_node::Config;
use kvorum_node::status::Counters;

use crate::checkers::strings::{KeyInput, Output};
use crate::history::History;
use crate::net::{EndId, Net, Payload, ServerId, Weather};
use crate::world::{World, ms};

use client::Answer;
use coverage::{Coverage, Mark};
use host::{Host, Incoming};
use judge::{Failure, Judge, Seen};
use manager::Manager;
use operator::Asked;
use options::{Options, node_id};
use router::RouterHost;

/// A peer frame on its way.
struct Frame {
    from: NodeId,
    bytes: Bytes,
}

impl Payload for Frame {
    fn size(&self) -> usize {
        self.bytes.len()
    }
}

impl Payload for () {
    fn size(&self) -> usize {
        0
    }
}

/// The cluster and all that belongs to its simulation.
pub struct Cluster {
    /// Its clock, queue and tasks.
    pub world: World,
    /// What the seed is about.
    pub options: Options,
    /// What clients asked and were told, of the keys that all clients share.
    pub history: RefCell<History<KeyInput, Output>>,
    /// What is checked.
    pub judge: RefCell<Judge>,
    net: Net<Frame, ()>,
    /// By sender and receiver.
    ends: Vec<Vec<EndId>>,
    hosts: RefCell<Vec<Rc<Host>>>,
    routers: RefCell<Vec<Rc<RouterHost>>>,
    /// Who is told what the shard manager's group decides.
    manager: RefCell<Weak<Manager>>,
    prng: RefCell<Prng>,
    coverage: RefCell<Coverage>,
    failure: RefCell<Option<Failure>>,
    /// Frames of a thousand that arrive twice.
    duplicates: Cell<u64>,
    operations: Cell<u64>,
    is_traced: bool,
    /// Misfortunes are over: processes that end come back at once.
    is_calm: Cell<bool>,
    /// Clients begin nothing new.
    is_closing: Cell<bool>,
    /// Some wall clock is wrong, or was lately.
    is_clock_wrong: Cell<bool>,
    /// The next election ends with a power cut of all.
    is_cut_at_election: Cell<bool>,
    /// The sets of voters that the shard manager has ordered.
    voters_to_be: RefCell<Vec<BTreeSet<NodeId>>>,
    /// A leader that is cut off from the other nodes: clients look what it says.
    lonely: Cell<Option<usize>>,
    /// What operators wait for.
    asked: Asked,
    /// Changes what the options tell a machine at its start.
    configure: RefCell<Option<Configure>>,
}

/// A change of what a machine is told at its start.
pub(crate) type Configure = Rc<dyn Fn(Config) -> Config>;

impl Cluster {
    /// A cluster of which nothing runs yet.
    #[must_use]
    pub fn new(options: Options, is_traced: bool) -> Rc<Self> {
        let world = World::new(options.seed);
        let net = Net::new(&world);
        let nodes = options.machines();
        let ends = (0..nodes)
            .map(|_| (0..nodes).map(|to| net.make_end(ServerId(to))).collect())
            .collect();
        let prng = RefCell::new(world.fork_prng());
        let cluster = Rc::new(Self {
            judge: RefCell::new(Judge::new(&options)),
            history: RefCell::default(),
            hosts: RefCell::default(),
            routers: RefCell::default(),
            manager: RefCell::default(),
            coverage: RefCell::default(),
            failure: RefCell::default(),
            duplicates: Cell::new(0),
            is_calm: Cell::new(false),
            operations: Cell::new(0),
            is_closing: Cell::new(false),
            is_clock_wrong: Cell::new(false),
            is_cut_at_election: Cell::new(false),
            voters_to_be: RefCell::default(),
            lonely: Cell::new(None),
            asked: Asked::default(),
            configure: RefCell::default(),
            is_traced,
            options,
            world,
            net,
            ends,
            prng,
        });
        let segment_bytes = cluster.options.segment_bytes;
        let hosts = (0..nodes).map(|index| {
            let prng = cluster.world.fork_prng();
            Rc::new(Host::new(
                index,
                Rc::downgrade(&cluster),
                segment_bytes,
                prng,
            ))
        });
        *cluster.hosts.borrow_mut() = hosts.collect();
        let routers =
            (0..cluster.options.routers).map(|index| Rc::new(RouterHost::new(index, &cluster)));
        *cluster.routers.borrow_mut() = routers.collect();
        cluster.heal();
        cluster
    }

    /// From now on machines are told something else at their start.
    pub(crate) fn configure(&self, configure: Configure) {
        *self.configure.borrow_mut() = Some(configure);
    }

    /// What a machine is told at its start, in its life number `life`.
    fn config(&self, machine: usize, life: u64) -> Config {
        let config = self.options.config(machine, life);
        match &*self.configure.borrow() {
            Some(configure) => configure(config),
            None => config,
        }
    }

    /// The machines.
    #[must_use]
    pub fn hosts(&self) -> Vec<Rc<Host>> {
        self.hosts.borrow().clone()
    }

    /// The routers.
    #[must_use]
    pub fn routers(&self) -> Vec<Rc<RouterHost>> {
        self.routers.borrow().clone()
    }

    /// Prints a line if somebody reads.
    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{} {}", self.world.now(), line());
        }
    }

    /// Prints how every node does, if somebody reads.
    pub fn trace_status(&self) {
        for host in self.hosts() {
            let status = host.with_node(|node| format!("{:?}", node.status()));
            self.trace(|| format!("node {}: {status:?}", host.index() + 1));
        }
    }

    /// A property does not hold. The first one counts.
    pub fn fail(&self, checker: &'static str, text: String) {
        self.trace(|| format!("FAILED {checker}: {text}"));
        self.failure
            .borrow_mut()
            .get_or_insert(Failure { checker, text });
    }

    /// The first property that did not hold.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    /// It came to pass.
    pub fn hit(&self, mark: Mark) {
        self.coverage.borrow_mut().hit(mark);
    }

    /// What came to pass so far.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let mut coverage = self.coverage.borrow().clone();
        coverage.events = self.world.events();
        coverage.simulated_us = self.world.now().0;
        coverage.operations = self.operations.get();
        coverage
    }

    /// Requests were sent, and ended like this.
    fn asked(&self, answers: &[Answer]) {
        self.operations
            .set(self.operations.get() + answers.len() as u64);
        let mut coverage = self.coverage.borrow_mut();
        for answer in answers {
            match answer {
                Answer::Done(_) => {}
                Answer::Refused => coverage.hit(Mark::Refused),
                Answer::Unknown => coverage.hit(Mark::Unknown),
            }
        }
    }

    /// How many requests clients have sent.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations.get()
    }

    fn saw(self: &Rc<Self>, seen: Seen) {
        let is_elected = seen.marks.contains(&Mark::Elections);
        if is_elected && self.is_cut_at_election.take() {
            // While the votes are there, and the leader's first entry is not everywhere.
            let moment = Duration::from_micros(self.prng.borrow_mut().below(4_000));
            let cluster = Rc::clone(self);
            self.world.after(moment, move || cluster.cut_power());
        }
        let mut coverage = self.coverage.borrow_mut();
        for mark in seen.marks {
            coverage.hit(mark);
        }
        drop(coverage);
        if let Some(Failure { checker, text }) = seen.failure {
            self.fail(checker, text);
        }
        if let Some(manager) = self.manager() {
            manager.heard(seen.decided);
        }
    }

    fn manager(&self) -> Option<Rc<Manager>> {
        self.manager.borrow().upgrade()
    }

    /// Adds what a node's counters have grown by.
    fn count(&self, before: &Counters, after: &Counters) {
        type Count = fn(&Counters) -> u64;
        const COUNTS: &[(Mark, Count)] = &[
            (Mark::SnapshotsStored, |of| of.snapshots_stored),
            (Mark::SnapshotInstalls, |of| of.snapshots_installed),
            (Mark::SnapshotPieces, |of| of.snapshot_pieces),
            (Mark::Expired, |of| of.expired_keys),
            (Mark::Carries, |of| of.carries),
            (Mark::StreamsBegunAnew, |of| of.streams_anew),
            (Mark::ReplicasMade, |of| of.replicas_made),
            (Mark::ReplicasDeleted, |of| of.replicas_deleted),
            (Mark::OrdersRefused, |of| of.orders_refused),
            (Mark::RefusedAtApply, |of| of.refused_at_apply),
        ];
        let mut coverage = self.coverage.borrow_mut();
        for (mark, count) in COUNTS {
            coverage.add(*mark, count(after) - count(before));
        }
    }

    /// Whether a machine may be of no use for good: every group must keep a majority, of the members that it
    /// has and of those that it is about to have, and enough machines must be left.
    #[must_use]
    pub fn may_lose(&self, index: usize) -> bool {
        let hosts = self.hosts();
        let is_impaired = |node: &NodeId| hosts[node.get() as usize - 1].is_impaired();
        let impaired = hosts.iter().filter(|host| host.is_impaired()).count();
        if hosts[index].is_impaired() || impaired >= hosts.len().saturating_sub(3).max(1) {
            return false;
        }
        let victim = node_id(index);
        // A manager of its own may take members away that it does not know to be the last good ones.
        let counted_max = if self.options.seats() { 3 } else { usize::MAX };
        let survives = |voters: &BTreeSet<NodeId>| {
            let lost = voters
                .iter()
                .filter(|node| **node == victim || is_impaired(node));
            lost.count() * 2 < voters.len().min(counted_max)
        };
        let (judge, to_be) = (self.judge.borrow(), self.voters_to_be.borrow());
        let sets = judge.sets_of_voters();
        let sets = sets.iter();
        let sets = sets.filter(|(machine, _)| !hosts[*machine].is_lost());
        let sets = sets.map(|(_, set)| set);
        sets.chain(to_be.iter()).all(survives)
    }

    /// Frames to this machine reach its process from now on.
    fn serve(&self, host: &Rc<Host>, life: u64) {
        let host = Rc::clone(host);
        let id = ServerId(host.index());
        self.net.add_server(id, move |frame: Frame, answering| {
            let Frame { from, bytes } = frame;
            host.deliver(life, Incoming::Peer { from, frame: bytes });
            answering.answer(());
        });
    }

    fn unserve(&self, index: usize) {
        self.net.delete_server(ServerId(index));
    }

    /// Sends a frame, length prefix included, to a peer.
    fn send(self: &Rc<Self>, from: usize, to: NodeId, frame: &Bytes) {
        let end = self.ends[from][to.get() as usize - 1];
        let is_twice = self.prng.borrow_mut().chance(self.duplicates.get(), 1000);
        let copies = if is_twice { 2 } else { 1 };
        if is_twice {
            self.hit(Mark::Duplicates);
        }
        for copy in 0..copies {
            let net = self.net.clone();
            let frame = Frame {
                from: node_id(from),
                bytes: frame.slice(kvorum_node::format::peer::PREFIX_BYTES..),
            };
            // A copy may come long after.
            let late = copy * self.prng.borrow_mut().below(300_000);
            let delay = self.options.latency + Duration::from_micros(late);
            self.world
                .after(delay, move || net.call(end, frame, |_| ()));
        }
    }

    /// The peers' systems notice that a process is gone.
    fn tell_peers_of_reset(self: &Rc<Self>, index: usize) {
        for host in self
            .hosts()
            .into_iter()
            .filter(|host| host.index() != index)
        {
            self.world.after(self.options.latency, move || {
                host.deliver_now(Incoming::PeerReset(node_id(index)));
            });
        }
    }

    /// All machines lose their power at once, and get it back one by one.
    pub fn cut_power(self: &Rc<Self>) {
        if self.is_calm.get() {
            return;
        }
        self.hit(Mark::PowerCutsOfAll);
        for host in self.hosts() {
            host.end(host::End::PowerCut);
            let delay = ms(self.prng.borrow_mut().range(5, 1_000));
            self.world.after(delay, move || host.start());
        }
    }

    /// Starts a machine's process again after a while.
    fn rise_later(self: &Rc<Self>, host: &Rc<Host>) {
        let delay = match self.is_calm.get() {
            true => 10,
            false => self.prng.borrow_mut().range(50, 3_000),
        };
        let host = Rc::clone(host);
        self.world.after(ms(delay), move || host.start());
    }

    /// Switches the way from one machine to another on or off.
    pub fn enable(&self, from: usize, to: usize, is_enabled: bool) {
        self.net.enable(self.ends[from][to], is_enabled);
    }

    /// The network is whole and quick again.
    pub fn heal(&self) {
        for from in 0..self.options.machines() {
            for to in 0..self.options.machines() {
                self.enable(from, to, true);
            }
        }
        self.duplicates.set(0);
        self.net.set_weather(Weather::default());
    }

    /// Changes what the network does to frames.
    pub fn set_weather(&self, weather: Weather, duplicates_per_mille: u64) {
        self.net.set_weather(weather);
        self.duplicates.set(duplicates_per_mille);
    }
}
