//! The tester of the consensus labs: servers on the labs' network, what is done to them, and what
//! they must have agreed on.
//!
//! Stricter than the original in three ways: every applied command and every installed snapshot is
//! compared with one log of the whole cluster; a command must follow the last one that the same life
//! of the server applied; and the replicas' own invariants are checked after every step.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_base::{NodeId, Prng, ReplicaId, Term};
use kvorum_raft::{Membership, PersistSeq};

use super::raft_host::{Applied, Host, Letter, Outgoing, Persisted};
use crate::net::{EndId, Net, ServerId, Weather};
use crate::world::{Time, World, ms};

/// The labs' "election timeout": a time in which a leader should have been found.
pub const ELECTION_TIMEOUT: Duration = ms(1000);
/// No test may take longer, in virtual time.
const TEST_MAX: Duration = Duration::from_secs(120);
/// Persisted state of a server beyond its snapshot, in bytes, in the snapshot labs.
const LOG_SIZE_MAX: usize = 2000;
const TICK: Duration = ms(10);

/// A command.
pub type Command = Bytes;

/// A command from a number.
#[must_use]
pub fn command(number: u64) -> Command {
    Bytes::from(number.to_string())
}

/// What a test wants of its cluster.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How many servers.
    pub servers: usize,
    /// Whether the network is reliable at first.
    pub reliable: bool,
    /// A snapshot is made whenever so many commands were applied; never if 0.
    pub snapshot_interval: u64,
}

impl Setup {
    /// So many servers on a reliable network, without snapshots.
    #[must_use]
    pub fn of(servers: usize) -> Self {
        Self {
            servers,
            reliable: true,
            snapshot_interval: 0,
        }
    }
}

struct Server {
    host: Option<Rc<RefCell<Option<Host>>>>,
    /// While the server is down: its disk.
    persisted: Option<Persisted>,
    connected: bool,
    /// Its ways to the others in its present life.
    ends: Vec<EndId>,
    /// What it applied, by number.
    record: BTreeMap<u64, Command>,
    /// The last number that it applied in its present life.
    last_applied: u64,
}

struct Inner {
    world: World,
    net: Net<Letter, Letter>,
    setup: Setup,
    servers: RefCell<Vec<Server>>,
    /// The commands that the cluster agreed on, from number 1 on.
    agreed: RefCell<Vec<Command>>,
    prng: RefCell<Prng>,
    /// How long a write takes at most; zero for one that is done at once.
    sync_max: Duration,
    next_to_ask: Cell<usize>,
}

/// A cluster under test. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    inner: Rc<Inner>,
}

/// Runs a scenario on a fresh cluster and insists that it ends in time.
///
/// # Panics
/// If the scenario fails, or takes more than two minutes.
pub fn run(setup: Setup, seed: u64, scenario: impl AsyncFnOnce(&Cluster)) {
    let world = World::new(seed);
    let cluster = Cluster::new(&world, setup, seed);
    for server in 0..setup.servers {
        cluster.start(server);
    }
    for server in 0..setup.servers {
        cluster.connect(server);
    }
    world.run_to_end(scenario(&cluster));
    for server in 0..setup.servers {
        cluster.crash(server);
    }
    let took = world.now() - Time(0);
    assert!(took <= TEST_MAX, "the test took {took:?} of virtual time");
}

impl Cluster {
    fn new(world: &World, setup: Setup, seed: u64) -> Self {
        let net = Net::new(world);
        net.set_weather(Weather {
            reliable: setup.reliable,
            long_delays: true,
            ..Weather::default()
        });
        let members = (1..=setup.servers as u64).map(|id| (ReplicaId(id), NodeId(id)));
        let membership = Membership::initial(members);
        let server = || Server {
            host: None,
            persisted: Some(Persisted::fresh(membership.clone())),
            connected: false,
            ends: Vec::new(),
            record: BTreeMap::new(),
            last_applied: 0,
        };
        Self {
            inner: Rc::new(Inner {
                world: world.clone(),
                net,
                setup,
                servers: RefCell::new((0..setup.servers).map(|_| server()).collect()),
                agreed: RefCell::default(),
                prng: RefCell::new(world.fork_prng()),
                sync_max: if seed.is_multiple_of(2) {
                    Duration::ZERO
                } else {
                    ms(3)
                },
                next_to_ask: Cell::new(0),
            }),
        }
    }

    /// The world that it is in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.inner.world
    }

    /// Its network.
    #[must_use]
    pub fn net(&self) -> &Net<Letter, Letter> {
        &self.inner.net
    }

    /// How many servers there are, up or down.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.setup.servers
    }

    /// The server so many places after this one, in a circle.
    #[must_use]
    pub fn after(&self, server: usize, places: usize) -> usize {
        (server + places) % self.size()
    }

    /// Waits.
    pub async fn sleep(&self, delay: Duration) {
        self.inner.world.sleep(delay).await;
    }

    /// A draw in `0..bound`.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.inner.prng.borrow_mut().below(bound)
    }

    /// A random command.
    #[must_use]
    pub fn random_command(&self) -> Command {
        command(self.below(1 << 31))
    }

    /// Switches loss and delay on or off.
    pub fn set_reliable(&self, reliable: bool) {
        let net = &self.inner.net;
        net.set_weather(Weather {
            reliable,
            ..net.weather()
        });
    }

    /// Switches the holding back of replies on.
    pub fn set_long_reordering(&self) {
        let net = &self.inner.net;
        net.set_weather(Weather {
            long_reordering: true,
            ..net.weather()
        });
    }

    /// Whether its links are up.
    #[must_use]
    pub fn is_connected(&self, server: usize) -> bool {
        self.inner.servers.borrow()[server].connected
    }

    /// Whether its process is up.
    #[must_use]
    pub fn is_up(&self, server: usize) -> bool {
        self.inner.servers.borrow()[server].host.is_some()
    }

    /// How many processes are up.
    #[must_use]
    pub fn up_count(&self) -> usize {
        (0..self.size())
            .filter(|server| self.is_up(*server))
            .count()
    }

    /// How many servers have their links up.
    #[must_use]
    pub fn connected_count(&self) -> usize {
        (0..self.size())
            .filter(|server| self.is_connected(*server))
            .count()
    }

    /// Takes the server's links down. Its process runs on.
    pub fn disconnect(&self, server: usize) {
        self.inner.servers.borrow_mut()[server].connected = false;
        self.enable_links(server);
    }

    /// Takes the server's links to all connected servers up.
    pub fn connect(&self, server: usize) {
        self.inner.servers.borrow_mut()[server].connected = true;
        self.enable_links(server);
    }

    /// Takes all links up.
    pub fn connect_all(&self) {
        (0..self.size()).for_each(|server| self.connect(server));
    }

    fn enable_links(&self, server: usize) {
        let servers = self.inner.servers.borrow();
        for other in 0..servers.len() {
            let up = servers[server].connected && servers[other].connected;
            for (from, to) in [(server, other), (other, server)] {
                if let Some(end) = servers[from].ends.get(to) {
                    self.inner.net.enable(*end, up);
                }
            }
        }
    }

    /// Kills the process. Of the writes on their way to its disk the first few arrive.
    pub fn crash(&self, server: usize) {
        self.disconnect(server);
        self.inner.net.delete_server(ServerId(server));
        let mut servers = self.inner.servers.borrow_mut();
        if let Some(place) = servers[server].host.take() {
            let host = place
                .borrow_mut()
                .take()
                .expect("a server that is up has a host");
            let arrive = self.below(host.unsynced() as u64 + 1) as usize;
            servers[server].persisted = Some(host.crash(arrive));
        }
    }

    /// Starts the process anew, without links.
    pub fn start(&self, server: usize) {
        self.crash(server);
        let inner = &self.inner;
        let mut servers = inner.servers.borrow_mut();
        let Server {
            persisted,
            ends,
            host,
            record,
            last_applied,
            ..
        } = &mut servers[server];
        let persisted = persisted.take().expect("a server that is down has a disk");
        let prng = inner.prng.borrow_mut().fork();
        let interval = inner.setup.snapshot_interval;
        let started = Host::start(replica_of(server), persisted, interval, prng);
        *last_applied = started.commands().len() as u64;
        if interval > 0 {
            *record = numbered(started.commands());
        }
        *ends = (0..self.size())
            .map(|other| inner.net.make_end(ServerId(other)))
            .collect();
        let place = Rc::new(RefCell::new(Some(started)));
        *host = Some(Rc::clone(&place));
        drop(servers);
        self.serve(server, &place);
        let offset = Duration::from_micros(self.below(TICK.as_micros() as u64));
        self.tick_after(offset, server, &place);
    }

    fn serve(&self, server: usize, place: &Rc<RefCell<Option<Host>>>) {
        // Weak: the network is part of the cluster.
        let (weak, place) = (Rc::downgrade(&self.inner), Rc::clone(place));
        self.inner
            .net
            .add_server(ServerId(server), move |letter, answering| {
                let Some(inner) = weak.upgrade() else {
                    return;
                };
                let cluster = Cluster { inner };
                let now = cluster.inner.world.now();
                cluster.with_host(server, &place, |host| host.called(letter, answering, now));
            });
    }

    fn tick_after(&self, delay: Duration, server: usize, place: &Rc<RefCell<Option<Host>>>) {
        let (cluster, place) = (self.clone(), Rc::clone(place));
        self.inner.world.after(delay, move || {
            let now = cluster.inner.world.now();
            if cluster
                .with_host(server, &place, |host| host.tick(now))
                .is_some()
            {
                cluster.tick_after(TICK, server, &place);
            }
        });
    }

    /// Does something to a server if that life of it is not over, and carries out what it then wants.
    fn with_host<T>(
        &self,
        server: usize,
        place: &Rc<RefCell<Option<Host>>>,
        act: impl FnOnce(&mut Host) -> T,
    ) -> Option<T> {
        let mut guard = place.borrow_mut();
        let host = guard.as_mut()?;
        let output = act(host);
        loop {
            let outgoing = host.take_outgoing();
            if outgoing.is_empty() {
                break;
            }
            let mut unsynced = false;
            for wish in outgoing {
                match wish {
                    Outgoing::Call(to, letter) => self.call(server, place, to, letter),
                    Outgoing::Applied(applied) => self.observe(server, applied),
                    Outgoing::Unsynced => unsynced = true,
                }
            }
            match host.newest_unsynced().filter(|_| unsynced) {
                Some(upto) if self.inner.sync_max.is_zero() => host.synced(upto),
                Some(upto) => self.sync_later(server, place, upto),
                None => {}
            }
        }
        Some(output)
    }

    fn sync_later(&self, server: usize, place: &Rc<RefCell<Option<Host>>>, upto: PersistSeq) {
        let delay = self.below(self.inner.sync_max.as_micros() as u64);
        let (cluster, place) = (self.clone(), Rc::clone(place));
        self.inner
            .world
            .after(Duration::from_micros(delay), move || {
                // A later sync may have been quicker and covered this one.
                cluster.with_host(server, &place, |host| host.synced(upto));
            });
    }

    fn call(&self, from: usize, place: &Rc<RefCell<Option<Host>>>, to: ReplicaId, letter: Letter) {
        let end = self.inner.servers.borrow()[from].ends[server_of(to)];
        let (weak, place) = (Rc::downgrade(&self.inner), Rc::clone(place));
        self.inner.net.call(end, letter, move |answer| {
            if let (Some(inner), Some(letter)) = (weak.upgrade(), answer) {
                Cluster { inner }.with_host(from, &place, |host| host.answered(letter));
            }
        });
    }

    /// The judge of what is applied.
    fn observe(&self, server: usize, applied: Applied) {
        let mut servers = self.inner.servers.borrow_mut();
        let Server {
            record,
            last_applied,
            ..
        } = &mut servers[server];
        match applied {
            Applied::Command(number, command) => {
                assert_eq!(
                    number,
                    *last_applied + 1,
                    "server {server} applies out of order"
                );
                self.agree(server, number, &command);
                record.insert(number, command);
                *last_applied = number;
            }
            Applied::Snapshot(commands) => {
                for (number, command) in numbered(&commands) {
                    self.agree(server, number, &command);
                }
                *last_applied = commands.len() as u64;
                *record = numbered(&commands);
            }
        }
    }

    fn agree(&self, server: usize, number: u64, command: &Command) {
        let mut agreed = self.inner.agreed.borrow_mut();
        if number as usize == agreed.len() + 1 {
            agreed.push(command.clone());
        }
        let known = agreed.get(number as usize - 1);
        assert_eq!(
            known,
            Some(command),
            "server {server} applies another command {number} than the rest"
        );
    }

    /// Proposes a command to one server.
    #[must_use]
    pub fn propose(&self, server: usize, command: Command) -> Option<(u64, Term)> {
        let place = self.inner.servers.borrow()[server].host.clone()?;
        self.with_host(server, &place, |host| host.propose(command))?
    }

    /// Term and leadership of one server; `None` if it is down.
    #[must_use]
    pub fn state(&self, server: usize) -> Option<(Term, bool)> {
        let place = self.inner.servers.borrow()[server].host.clone()?;
        let guard = place.borrow();
        guard.as_ref().map(Host::state)
    }

    /// Waits until a connected server leads.
    ///
    /// # Panics
    /// If none does within about five seconds, or if two lead in one term.
    pub async fn check_one_leader(&self) -> usize {
        for _ in 0..10 {
            self.sleep(ms(450 + self.below(100))).await;
            let mut leaders: BTreeMap<Term, usize> = BTreeMap::new();
            for server in 0..self.size() {
                if let Some((term, true)) = self.state(server).filter(|_| self.is_connected(server))
                {
                    let other = leaders.insert(term, server);
                    assert_eq!(
                        other, None,
                        "servers {server} and {other:?} lead in term {term}"
                    );
                }
            }
            if let Some((_, leader)) = leaders.pop_last() {
                return leader;
            }
        }
        panic!("at {}: no leader", self.inner.world.now());
    }

    /// The term of all connected servers.
    ///
    /// # Panics
    /// If they have different ones.
    #[must_use]
    pub fn check_terms(&self) -> Term {
        let connected = (0..self.size()).filter(|server| self.is_connected(*server));
        let mut terms = connected
            .filter_map(|server| self.state(server))
            .map(|(term, _)| term);
        let first = terms.next().expect("a connected server");
        assert!(
            terms.all(|term| term == first),
            "connected servers have different terms"
        );
        first
    }

    /// Insists that no connected server leads.
    ///
    /// # Panics
    /// If one does.
    pub fn check_no_leader(&self) {
        for server in (0..self.size()).filter(|server| self.is_connected(*server)) {
            let leads = self.state(server).is_some_and(|(_, leads)| leads);
            assert!(!leads, "server {server} leads without a majority");
        }
    }

    /// How many servers applied a command with this number, and which. Disconnected ones count.
    #[must_use]
    pub fn committed(&self, number: u64) -> (usize, Option<Command>) {
        let servers = self.inner.servers.borrow();
        let mut found = servers
            .iter()
            .filter_map(|server| server.record.get(&number));
        let command = found.next().cloned();
        (usize::from(command.is_some()) + found.count(), command)
    }

    /// Waits until so many servers applied the command with this number. `None` if meanwhile a term
    /// after `term` has begun.
    ///
    /// # Panics
    /// If it takes longer than about 30 seconds.
    pub async fn wait(&self, number: u64, count: usize, term: Option<Term>) -> Option<Command> {
        let mut pause = ms(10);
        for _ in 0..30 {
            if self.committed(number).0 >= count {
                break;
            }
            self.sleep(pause).await;
            pause = (pause * 2).min(ms(1280));
            let moved_on = |server| {
                let state = self.state(server);
                state.zip(term).is_some_and(|((now, _), then)| now > then)
            };
            if (0..self.size()).any(moved_on) {
                return None;
            }
        }
        let (found, command) = self.committed(number);
        assert!(
            found >= count,
            "only {found} servers applied command {number}, not {count}"
        );
        command
    }

    /// Has a command agreed on by at least `count` servers and returns its number. If `retry`, it may
    /// be proposed again, and so stand in the log more than once.
    ///
    /// # Panics
    /// If it takes more than ten seconds, or the first proposal is lost without `retry`.
    pub async fn one(&self, command: &Command, count: usize, retry: bool) -> u64 {
        let began = self.inner.world.now();
        while self.inner.world.now() - began < Duration::from_secs(10) {
            let Some(number) = self.propose_anywhere(command) else {
                self.sleep(ms(50)).await;
                continue;
            };
            let proposed = self.inner.world.now();
            while self.inner.world.now() - proposed < Duration::from_secs(2) {
                let (found, agreed) = self.committed(number);
                if found >= count && agreed.as_ref() == Some(command) {
                    return number;
                }
                self.sleep(ms(20)).await;
            }
            assert!(
                retry,
                "command {command:?} was not agreed on as number {number}"
            );
        }
        panic!(
            "at {}: command {command:?} was not agreed on",
            self.inner.world.now()
        );
    }

    fn propose_anywhere(&self, command: &Command) -> Option<u64> {
        for _ in 0..self.size() {
            let server = self.after(self.inner.next_to_ask.get(), 1);
            self.inner.next_to_ask.set(server);
            if self.is_connected(server)
                && let Some((number, _)) = self.propose(server, command.clone())
            {
                return Some(number);
            }
        }
        None
    }

    /// Starts the server anew and connects it.
    pub fn restart(&self, server: usize) {
        self.start(server);
        self.connect(server);
    }

    /// Insists that no server's log is larger than the snapshot labs allow.
    ///
    /// # Panics
    /// If one is.
    pub fn check_log_size(&self) {
        for (server, state) in self.inner.servers.borrow().iter().enumerate() {
            let up = state.host.as_ref().map(|place| {
                let guard = place.borrow();
                guard.as_ref().map_or(0, |host| host.persisted().log_size())
            });
            let down = state.persisted.as_ref().map(Persisted::log_size);
            let size = up.or(down).unwrap_or(0);
            assert!(
                size < LOG_SIZE_MAX,
                "the log of server {server} has {size} bytes"
            );
        }
    }
}

fn numbered(commands: &[Command]) -> BTreeMap<u64, Command> {
    (1..).zip(commands.iter().cloned()).collect()
}

fn replica_of(server: usize) -> ReplicaId {
    ReplicaId(server as u64 + 1)
}

fn server_of(replica: ReplicaId) -> usize {
    replica.get() as usize - 1
}
