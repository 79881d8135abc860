//! The loop of a router: its sockets hand events in, its driver ends the turn and carries the effects out.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kvorum_base::{ConnId, UnixMillis};
use kvorum_resp::OutBuf;
use kvorum_router::{Effect, Event, LinkId, Process, Router};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use super::back::{LinkSocket, dial};
use super::front::accept_clients;
use super::http::Shared;
use crate::clients::accept::Bound;
use crate::clients::keeper::{Keeper, Kept};
use crate::clients::{Clients, write};
use crate::lane::{SCRATCH_BYTES, TICK, runtime};
use crate::usage;

/// How often the status is published.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(250);

/// The loop, shared by its tasks on its one thread.
pub(crate) struct Hub {
    core: RefCell<Core>,
    /// Wakes the driver.
    wake: Rc<Notify>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) max_clients: u32,
}

/// What the tasks work on, one at a time.
pub(crate) struct Core {
    pub(crate) router: Router,
    effects: Vec<Effect>,
    pub(crate) scratch: Box<[u8]>,
    pub(crate) clients: Clients,
    pub(crate) links: BTreeMap<LinkId, LinkSocket>,
    pub(crate) shared: Arc<Shared>,
    /// Clients paused although all of their output was taken.
    drained: Vec<ConnId>,
    /// Clients that failed while effects were carried out.
    pub(crate) dead: Vec<ConnId>,
    /// Links that did.
    pub(crate) broken: Vec<(LinkId, String)>,
    wake: Rc<Notify>,
    tick_due: bool,
    stop_due: bool,
    wall: UnixMillis,
    max_clients: u32,
    published: Instant,
    stopped: bool,
}

/// Runs a router to its end on the calling thread.
///
/// # Errors
/// If the runtime or the listener cannot be started.
pub(crate) fn run(
    router: Router,
    clients: Bound,
    max_clients: u32,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let runtime = runtime()?;
    let end = runtime.block_on(async {
        let (hub, listening) = Hub::start(router, clients, max_clients, shared)?;
        hub.drive(listening).await;
        Ok(())
    });
    runtime.shutdown_background();
    end
}

impl Hub {
    fn start(
        router: Router,
        clients: Bound,
        max_clients: u32,
        shared: Arc<Shared>,
    ) -> io::Result<(Rc<Self>, AbortHandle)> {
        let wake = Rc::new(Notify::new());
        let core = Core {
            router,
            effects: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            clients: Clients::new(),
            links: BTreeMap::new(),
            shared: shared.clone(),
            drained: Vec::new(),
            dead: Vec::new(),
            broken: Vec::new(),
            wake: wake.clone(),
            tick_due: true,
            stop_due: false,
            wall: UnixMillis::ZERO,
            max_clients,
            published: Instant::now(),
            stopped: false,
        };
        let hub = Rc::new(Self {
            core: RefCell::new(core),
            wake,
            shared,
            max_clients,
        });
        hub.core().publish();
        let listening = clients.listen()?;
        let accepting = tokio::task::spawn_local(accept_clients(hub.clone(), listening));
        tokio::task::spawn_local(tick(hub.clone()));
        tokio::task::spawn_local(watch_for_stop(hub.clone()));
        Ok((hub, accepting.abort_handle()))
    }

    pub(crate) fn core(&self) -> RefMut<'_, Core> {
        self.core.borrow_mut()
    }

    /// The driver: a turn for each wake-up, until the end.
    async fn drive(self: &Rc<Self>, listening: AbortHandle) {
        loop {
            self.wake.notified().await;
            let mut core = self.core();
            if core.stop_due {
                listening.abort();
            }
            core.turn(self);
            if core.stopped {
                core.publish();
                return;
            }
        }
    }
}

async fn tick(hub: Rc<Hub>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        hub.core().tick_due = true;
        hub.wake.notify_one();
    }
}

/// Wakes the driver when the control thread says that it is time to go.
async fn watch_for_stop(hub: Rc<Hub>) {
    let shared = hub.shared.clone();
    shared.stop.notified().await;
    hub.core().stop_due = true;
    hub.wake.notify_one();
}

impl Keeper for Hub {
    type Core = Core;

    fn kept(&self) -> RefMut<'_, Core> {
        self.core()
    }
}

impl Kept for Core {
    fn clients(&mut self) -> &mut Clients {
        &mut self.clients
    }

    fn scratch(&mut self) -> &mut [u8] {
        &mut self.scratch
    }

    fn took(&mut self, conn: ConnId, len: usize) {
        let data = &self.scratch[..len];
        self.router
            .step(Event::Bytes { conn, data }, &mut self.effects);
        self.wake.notify_one();
    }

    fn ended(&mut self, conn: ConnId) {
        self.step(Event::Ended { conn });
    }

    fn drained(&mut self, conn: ConnId) {
        self.step(Event::Drained { conn });
    }

    fn close(&mut self, conn: ConnId) {
        if self.clients.remove(conn) {
            self.step(Event::Closed { conn });
        }
    }

    fn died(&mut self, conn: ConnId) {
        self.dead.push(conn);
    }

    fn was_drained(&mut self, conn: ConnId) {
        self.drained.push(conn);
    }

    fn socket_and_output(
        &mut self,
        conn: ConnId,
    ) -> Option<(&OwnedWriteHalf, Option<&mut OutBuf>)> {
        let client = self.clients.get(conn)?;
        Some((&client.socket, self.router.output(conn)))
    }

    fn wrote(&mut self, bytes: u64) {
        self.shared.metrics.client_bytes_out.add(bytes);
    }
}

impl Core {
    /// Hands an event to the brain and has the driver run.
    pub(crate) fn step(&mut self, event: Event<'_>) {
        self.router.step(event, &mut self.effects);
        self.wake.notify_one();
    }

    /// Hands in the first `len` bytes of the scratch as a link's.
    pub(crate) fn link_bytes(&mut self, link: LinkId, len: usize) {
        let data = &self.scratch[..len];
        self.router
            .step(Event::LinkBytes { link, data }, &mut self.effects);
        self.wake.notify_one();
    }

    fn turn(&mut self, hub: &Rc<Hub>) {
        self.shared.metrics.turns.one();
        self.tell_time();
        if std::mem::take(&mut self.stop_due) {
            tracing::info!("stopping: finishing what is on its way");
            self.router.step(Event::Shutdown, &mut self.effects);
        }
        if std::mem::take(&mut self.tick_due) {
            self.router.step(Event::Tick, &mut self.effects);
            if self.published.elapsed() >= PUBLISH_INTERVAL {
                self.publish();
            }
        }
        loop {
            self.router.step(Event::EndOfTurn, &mut self.effects);
            if !self.carry_out_all(hub) || self.stopped {
                return;
            }
        }
    }

    fn tell_time(&mut self) {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now = UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        if now != self.wall {
            self.wall = now;
            self.router.step(Event::Wall(now), &mut self.effects);
        }
    }

    /// Carries out the effects in order; says whether that made new events, so that the turn has to be
    /// ended again.
    fn carry_out_all(&mut self, hub: &Rc<Hub>) -> bool {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.carry_out(hub, effect);
        }
        // The queue is used again.
        if self.effects.is_empty() {
            self.effects = effects;
        }
        let mut again = !self.effects.is_empty();
        for conn in std::mem::take(&mut self.drained) {
            self.step(Event::Drained { conn });
            again = true;
        }
        for conn in std::mem::take(&mut self.dead) {
            self.close(conn);
            again = true;
        }
        for (link, reason) in std::mem::take(&mut self.broken) {
            self.link_broke(link, &reason);
            again = true;
        }
        again
    }

    fn carry_out(&mut self, hub: &Rc<Hub>, effect: Effect) {
        match effect {
            Effect::Output(conn) => write::output(self, hub, conn),
            Effect::Close(conn) => write::close_after_output(self, hub, conn),
            Effect::Pause(conn) => self.pause(conn),
            Effect::Resume(conn) => self.resume(conn),
            Effect::Dial { link, address } => {
                tokio::task::spawn_local(dial(hub.clone(), link, address));
            }
            Effect::LinkOutput(link) => self.link_output(hub, link),
            Effect::HangUp(link) => {
                self.links.remove(&link);
            }
            Effect::Note(text) => tracing::warn!("{text}"),
            Effect::Stop => self.stopped = true,
        }
    }

    /// Tells the brain how the process does, and others how the brain does.
    fn publish(&mut self) {
        self.published = Instant::now();
        let usage = usage::now();
        let process = Process {
            id: std::process::id(),
            memory_bytes: usage.memory_bytes,
            cpu_user_us: usage.cpu_user_us,
            cpu_system_us: usage.cpu_system_us,
            connections_max: u64::from(self.max_clients),
            connections_refused: self.shared.metrics.clients_refused.get(),
            output_bytes: self.shared.metrics.client_bytes_out.get(),
        };
        self.router.step(Event::Process(process), &mut self.effects);
        self.shared.publish(self.router.status());
    }
}
