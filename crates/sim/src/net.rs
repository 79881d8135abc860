//! The network of the 6.824 labs, in virtual time: calls with replies over one-way ends.
//!
//! An *end* belongs to one caller and leads to one server; a reply comes back on the same call. An
//! end that is switched off, or that leads to nobody, answers "no" after a random pause. A network
//! that is not reliable delays and drops requests and drops replies; one that reorders holds replies
//! back for up to two seconds and then delivers them without asking whether the link still exists,
//! which is how a reply of a long gone term arrives. No order between calls is promised even on a
//! reliable network.
//!
//! It carries opaque payloads and knows nothing of what they say.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kvorum_base::Prng;

use crate::world::{Joining, World, ms, promise};

/// What a request or a reply weighs.
pub trait Payload: 'static {
    /// Its length in bytes as it would be encoded.
    fn size(&self) -> usize;
}

/// Names a server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ServerId(pub usize);

/// One caller's way to one server, in one life of the caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct EndId(usize);

/// The dangers of the network. They are read when a call is made, and can change at any time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Weather {
    /// Whether nothing is delayed or dropped on a link that is up.
    pub reliable: bool,
    /// Whether a call over a dead link takes up to seven seconds to fail, not a tenth of one.
    pub long_delays: bool,
    /// Whether two replies of three are held back for 200 ms to 2.2 s.
    pub long_reordering: bool,
    /// Each request takes between nothing and this long, which mixes the order of what was sent at
    /// one instant. Zero in the labs.
    pub jitter_max: Duration,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            reliable: true,
            long_delays: false,
            long_reordering: false,
            jitter_max: Duration::ZERO,
        }
    }
}

/// Requests lost, of a thousand, on a network that is not reliable; the same again for replies.
const LOST_PER_THOUSAND: u64 = 100;
/// The longest delay of a request on a network that is not reliable.
const DELAY_MAX_MS: u64 = 26;
/// How often a call that is being handled looks whether its link and its server still exist.
const DEAD_CHECK: Duration = ms(100);

type Handler<Q, A> = Rc<dyn Fn(Q, Answering<Q, A>)>;
type Done<A> = Box<dyn FnOnce(Option<A>)>;

struct Server<Q: Payload, A: Payload> {
    handler: Handler<Q, A>,
    incoming: Cell<u64>,
}

struct End {
    server: Option<ServerId>,
    enabled: bool,
}

struct Inner<Q: Payload, A: Payload> {
    world: World,
    prng: RefCell<Prng>,
    weather: Cell<Weather>,
    ends: RefCell<Vec<End>>,
    servers: RefCell<BTreeMap<ServerId, Rc<Server<Q, A>>>>,
    calls: Cell<u64>,
    bytes: Cell<u64>,
}

/// The network. Clones are the same network.
pub struct Net<Q: Payload, A: Payload> {
    inner: Rc<Inner<Q, A>>,
}

impl<Q: Payload, A: Payload> Clone for Net<Q, A> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
        }
    }
}

struct Call<Q: Payload, A: Payload> {
    net: Net<Q, A>,
    end: EndId,
    server: Rc<Server<Q, A>>,
    unreliable: bool,
    reordering: bool,
    done: RefCell<Option<Done<A>>>,
}

impl<Q: Payload, A: Payload> Call<Q, A> {
    fn finish(&self, answer: Option<A>) {
        if let Some(done) = self.done.borrow_mut().take() {
            done(answer);
        }
    }
}

/// The duty to answer one call. Dropped without an answer, it ends the call as lost.
pub struct Answering<Q: Payload, A: Payload> {
    call: Option<Rc<Call<Q, A>>>,
}

impl<Q: Payload, A: Payload> Answering<Q, A> {
    /// Sends the answer. Whether it arrives is the network's business.
    pub fn answer(mut self, answer: A) {
        if let Some(call) = self.call.take() {
            Net::returned(&call, answer);
        }
    }

    /// Whether the caller still waits: it gives up when its link or this server is gone.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.call
            .as_ref()
            .is_some_and(|call| call.done.borrow().is_some())
    }
}

impl<Q: Payload, A: Payload> Drop for Answering<Q, A> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            let net = call.net.clone();
            net.inner
                .world
                .after(Duration::ZERO, move || call.finish(None));
        }
    }
}

impl<Q: Payload, A: Payload> Net<Q, A> {
    /// A reliable network without servers.
    #[must_use]
    pub fn new(world: &World) -> Self {
        Self {
            inner: Rc::new(Inner {
                world: world.clone(),
                prng: RefCell::new(world.fork_prng()),
                weather: Cell::default(),
                ends: RefCell::default(),
                servers: RefCell::default(),
                calls: Cell::new(0),
                bytes: Cell::new(0),
            }),
        }
    }

    /// The present dangers.
    #[must_use]
    pub fn weather(&self) -> Weather {
        self.inner.weather.get()
    }

    /// Changes the dangers; calls that are under way keep the old ones.
    pub fn set_weather(&self, weather: Weather) {
        self.inner.weather.set(weather);
    }

    /// Puts a server under this name. One that was there before is gone: calls that it is handling
    /// fail, and its count of calls is forgotten.
    pub fn add_server(&self, id: ServerId, handler: impl Fn(Q, Answering<Q, A>) + 'static) {
        let server = Rc::new(Server {
            handler: Rc::new(handler),
            incoming: Cell::new(0),
        });
        self.inner.servers.borrow_mut().insert(id, server);
    }

    /// Takes the server away.
    pub fn delete_server(&self, id: ServerId) {
        self.inner.servers.borrow_mut().remove(&id);
    }

    /// Makes a way to this server. It is switched off at first, and the server need not exist.
    #[must_use]
    pub fn make_end(&self, server: ServerId) -> EndId {
        let mut ends = self.inner.ends.borrow_mut();
        ends.push(End {
            server: Some(server),
            enabled: false,
        });
        EndId(ends.len() - 1)
    }

    /// Switches a way on or off.
    pub fn enable(&self, end: EndId, enabled: bool) {
        self.inner.ends.borrow_mut()[end.0].enabled = enabled;
    }

    /// How many calls were made, lost ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.inner.calls.get()
    }

    /// How many bytes were sent: all requests, and the replies that arrived.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inner.bytes.get()
    }

    /// How many calls reached this server since it was added; 0 if there is none.
    #[must_use]
    pub fn incoming(&self, id: ServerId) -> u64 {
        self.inner
            .servers
            .borrow()
            .get(&id)
            .map_or(0, |server| server.incoming.get())
    }

    /// Calls and waits for the answer: `None` if it was lost, wherever that happened.
    pub fn ask(&self, end: EndId, request: Q) -> impl Future<Output = Option<A>> + use<Q, A> {
        let (promise, joining): (_, Joining<Option<A>>) = promise();
        self.call(end, request, move |answer| promise.keep(answer));
        async move { joining.await.flatten() }
    }

    /// Calls; `done` is run once, with `None` if request or answer was lost.
    pub fn call(&self, end: EndId, request: Q, done: impl FnOnce(Option<A>) + 'static) {
        let inner = &self.inner;
        inner.calls.set(inner.calls.get() + 1);
        inner.bytes.set(inner.bytes.get() + request.size() as u64);
        let weather = inner.weather.get();
        let mut prng = inner.prng.borrow_mut();
        let Some(server) = self.server_behind(end) else {
            let pause = prng.below(if weather.long_delays { 7000 } else { 100 });
            inner.world.after(ms(pause), move || done(None));
            return;
        };
        let mut delay = match weather.jitter_max.as_micros() as u64 {
            0 => Duration::ZERO,
            most => Duration::from_micros(prng.below(most + 1)),
        };
        let mut lost = false;
        if !weather.reliable {
            delay += ms(prng.range(0, DELAY_MAX_MS));
            lost = prng.chance(LOST_PER_THOUSAND, 1000);
        }
        let call = Rc::new(Call {
            net: self.clone(),
            end,
            server,
            unreliable: !weather.reliable,
            reordering: weather.long_reordering,
            done: RefCell::new(Some(Box::new(done))),
        });
        inner.world.after(delay, move || {
            if lost {
                call.finish(None);
            } else {
                Self::handle(&call, request);
            }
        });
    }

    fn server_behind(&self, end: EndId) -> Option<Rc<Server<Q, A>>> {
        let ends = self.inner.ends.borrow();
        let end = &ends[end.0];
        let server = end.server.filter(|_| end.enabled)?;
        self.inner.servers.borrow().get(&server).cloned()
    }

    fn handle(call: &Rc<Call<Q, A>>, request: Q) {
        let server = &call.server;
        server.incoming.set(server.incoming.get() + 1);
        (server.handler)(
            request,
            Answering {
                call: Some(Rc::clone(call)),
            },
        );
        Self::watch(call);
    }

    /// While a call is being handled, its caller must not hang on a link or server that is gone.
    fn watch(call: &Rc<Call<Q, A>>) {
        let waiting = Rc::downgrade(call);
        call.net.inner.world.after(DEAD_CHECK, move || {
            let Some(call) = waiting
                .upgrade()
                .filter(|call| call.done.borrow().is_some())
            else {
                return;
            };
            if Self::is_dead(&call) {
                call.finish(None);
            } else {
                Self::watch(&call);
            }
        });
    }

    fn is_dead(call: &Call<Q, A>) -> bool {
        call.net
            .server_behind(call.end)
            .is_none_or(|server| !Rc::ptr_eq(&server, &call.server))
    }

    fn returned(call: &Rc<Call<Q, A>>, answer: A) {
        let inner = &call.net.inner;
        let mut prng = inner.prng.borrow_mut();
        let lost = call.unreliable && prng.chance(LOST_PER_THOUSAND, 1000);
        let mut hold = Duration::ZERO;
        if call.reordering && prng.chance(600, 900) {
            let longest = prng.range(1, 2000);
            hold = ms(200 + prng.below(longest));
        }
        drop(prng);
        let dead = Self::is_dead(call);
        // Out of the watch: from here on the answer arrives or is lost, whatever becomes of the link.
        let Some(done) = call.done.borrow_mut().take() else {
            return;
        };
        let net = call.net.clone();
        if dead || lost {
            inner.world.after(Duration::ZERO, move || done(None));
            return;
        }
        inner.world.after(hold, move || {
            let bytes = &net.inner.bytes;
            bytes.set(bytes.get() + answer.size() as u64);
            done(Some(answer));
        });
    }
}
