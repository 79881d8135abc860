//! Virtual time: a clock that only moves when nothing is left to do, a queue of what happens when,
//! and tasks that wait for it.
//!
//! Everything of one simulation runs on one thread, in an order that depends on the seed alone.
//! A test is an `async` function: it sleeps, and in the meantime the queue runs on. Two things due at
//! the same instant happen in the order in which they were asked for.
//!
//! It deliberately knows neither networks, disks nor replicas.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use kvorum_base::Prng;

/// A moment, in microseconds from the start of the simulation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// Later than everything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    /// This many milliseconds from the start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1000)
    }

    /// Whole milliseconds from the start.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1000
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(delay.as_micros() as u64))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Shorthand for a delay.
#[must_use]
pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How many events one instant may hold. Messages without delay that answer each other for ever
/// would stop the clock; nothing honest comes near this number.
const EVENTS_PER_INSTANT_MAX: u64 = 2_000_000;

enum Action {
    Run(Box<dyn FnOnce()>),
    Wake(Waker),
}

struct Timer {
    due: Time,
    number: u64,
    action: Action,
}

impl Timer {
    fn key(&self) -> (Time, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

type TaskId = u64;

/// The task that [`World::run`] was given; spawned ones count from 1.
const MAIN: TaskId = 0;

/// Tasks that can go on. A mutex only because wakers must be `Send`; there is one thread.
type Ready = Arc<Mutex<VecDeque<TaskId>>>;

struct TaskWaker {
    id: TaskId,
    ready: Ready,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready
            .lock()
            .expect("one thread: no other holder can have panicked")
            .push_back(self.id);
    }
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
}

struct Inner {
    now: Cell<Time>,
    timers: RefCell<BinaryHeap<Reverse<Timer>>>,
    timers_made: Cell<u64>,
    tasks: RefCell<BTreeMap<TaskId, Task>>,
    tasks_made: Cell<TaskId>,
    ready: Ready,
    prng: RefCell<Prng>,
    events: Cell<u64>,
    events_this_instant: Cell<u64>,
}

/// A simulation's clock, queue, tasks and chance. Clones are the same world.
#[derive(Clone)]
pub struct World {
    inner: Rc<Inner>,
}

impl World {
    /// A world at time zero. The same seed gives the same course of events.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            inner: Rc::new(Inner {
                now: Cell::new(Time(0)),
                timers: RefCell::default(),
                timers_made: Cell::new(0),
                tasks: RefCell::default(),
                tasks_made: Cell::new(MAIN),
                ready: Ready::default(),
                prng: RefCell::new(Prng::new(seed)),
                events: Cell::new(0),
                events_this_instant: Cell::new(0),
            }),
        }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Time {
        self.inner.now.get()
    }

    /// How many timers have fired so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.inner.events.get()
    }

    /// A draw in `0..bound`.
    ///
    /// # Panics
    /// If `bound` is zero.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.inner.prng.borrow_mut().below(bound)
    }

    /// True `numerator` times out of `denominator`.
    #[must_use]
    pub fn chance(&self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// A generator of its own for a part of the simulation, so that one part's number of draws does
    /// not shift another's.
    #[must_use]
    pub fn fork_prng(&self) -> Prng {
        self.inner.prng.borrow_mut().fork()
    }

    /// Does this later, after everything that is already due by then.
    pub fn after(&self, delay: Duration, action: impl FnOnce() + 'static) {
        self.push(self.now() + delay, Action::Run(Box::new(action)));
    }

    /// Waits.
    pub fn sleep(&self, delay: Duration) -> Sleep {
        Sleep {
            world: self.clone(),
            due: self.now() + delay,
            queued: false,
        }
    }

    /// Runs this beside everything else. It ends unfinished when the world's main task does.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Joining<T> {
        let (promise, joining) = promise();
        let id = self.inner.tasks_made.get() + 1;
        self.inner.tasks_made.set(id);
        let waker = self.waker(id);
        let future = Box::pin(async move { promise.keep(future.await) });
        self.inner.tasks.borrow_mut().insert(
            id,
            Task {
                future,
                waker: waker.clone(),
            },
        );
        waker.wake();
        joining
    }

    /// Runs the world until this task is done, and then drops whatever is still waiting: tasks and
    /// timers hold the world that holds them, and a simulation that is not ended is never freed.
    ///
    /// # Panics
    /// As [`World::run`].
    pub fn run_to_end<T>(&self, main: impl Future<Output = T>) -> T {
        let output = self.run(main);
        self.clear();
        output
    }

    /// Runs the world until this task is done. What is still waiting goes on in the next run.
    ///
    /// # Panics
    /// If the task waits and nothing will ever happen again, or if the clock cannot move on.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let waker = self.waker(MAIN);
        waker.wake_by_ref();
        loop {
            while let Some(id) = self.next_ready() {
                if id != MAIN {
                    self.poll_spawned(id);
                } else if let Poll::Ready(output) =
                    main.as_mut().poll(&mut Context::from_waker(&waker))
                {
                    return output;
                }
            }
            assert!(
                self.fire_next(),
                "at {}: nothing will ever happen again",
                self.now()
            );
        }
    }

    fn waker(&self, id: TaskId) -> Waker {
        let ready = Arc::clone(&self.inner.ready);
        Waker::from(Arc::new(TaskWaker { id, ready }))
    }

    fn next_ready(&self) -> Option<TaskId> {
        self.inner
            .ready
            .lock()
            .expect("one thread: no other holder can have panicked")
            .pop_front()
    }

    fn poll_spawned(&self, id: TaskId) {
        // Taken out while it runs: it may spawn others.
        let Some(mut task) = self.inner.tasks.borrow_mut().remove(&id) else {
            return;
        };
        let waker = task.waker.clone();
        if task
            .future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
        {
            self.inner.tasks.borrow_mut().insert(id, task);
        }
    }

    fn push(&self, due: Time, action: Action) {
        let number = self.inner.timers_made.get();
        self.inner.timers_made.set(number + 1);
        self.inner.timers.borrow_mut().push(Reverse(Timer {
            due,
            number,
            action,
        }));
    }

    fn fire_next(&self) -> bool {
        let Some(Reverse(timer)) = self.inner.timers.borrow_mut().pop() else {
            return false;
        };
        let inner = &self.inner;
        assert!(timer.due >= inner.now.get(), "time runs backwards");
        if timer.due > inner.now.get() {
            inner.events_this_instant.set(0);
        }
        inner.now.set(timer.due);
        inner.events.set(inner.events.get() + 1);
        inner
            .events_this_instant
            .set(inner.events_this_instant.get() + 1);
        assert!(
            inner.events_this_instant.get() < EVENTS_PER_INSTANT_MAX,
            "at {}: the instant does not end",
            self.now()
        );
        match timer.action {
            Action::Run(action) => action(),
            Action::Wake(waker) => waker.wake(),
        }
        true
    }

    fn clear(&self) {
        loop {
            let tasks = std::mem::take(&mut *self.inner.tasks.borrow_mut());
            let timers = std::mem::take(&mut *self.inner.timers.borrow_mut());
            if tasks.is_empty() && timers.is_empty() {
                return;
            }
        }
    }
}

/// A pause; see [`World::sleep`].
pub struct Sleep {
    world: World,
    due: Time,
    queued: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.queued && self.world.now() >= self.due {
            return Poll::Ready(());
        }
        if !self.queued {
            self.queued = true;
            self.world
                .push(self.due, Action::Wake(context.waker().clone()));
        }
        Poll::Pending
    }
}

struct Place<T> {
    value: Option<T>,
    broken: bool,
    waker: Option<Waker>,
}

/// One value that somebody waits for; see [`promise`].
pub struct Promise<T> {
    place: Rc<RefCell<Place<T>>>,
}

/// The other side of a [`Promise`]: `None` if the promise was dropped instead of kept.
pub struct Joining<T> {
    place: Rc<RefCell<Place<T>>>,
}

/// A value to come, and the means to wait for it.
#[must_use]
pub fn promise<T>() -> (Promise<T>, Joining<T>) {
    let place = Rc::new(RefCell::new(Place {
        value: None,
        broken: false,
        waker: None,
    }));
    (
        Promise {
            place: Rc::clone(&place),
        },
        Joining { place },
    )
}

impl<T> Promise<T> {
    /// Hands the value over.
    pub fn keep(self, value: T) {
        self.place.borrow_mut().value = Some(value);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let mut place = self.place.borrow_mut();
        place.broken = place.value.is_none();
        if let Some(waker) = place.waker.take() {
            waker.wake();
        }
    }
}

impl<T> Joining<T> {
    /// Whether the value is there, or will never be.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let place = self.place.borrow();
        place.broken || place.value.is_some()
    }
}

impl<T> Future for Joining<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut place = self.place.borrow_mut();
        if let Some(value) = place.value.take() {
            return Poll::Ready(Some(value));
        }
        if place.broken {
            return Poll::Ready(None);
        }
        place.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleepers_wake_in_time_order_and_ties_in_order_of_asking() {
        let world = World::new(1);
        let log = Rc::new(RefCell::new(Vec::new()));
        for (name, delay) in [("c", 30), ("a", 10), ("b1", 20), ("b2", 20)] {
            let (world_too, log) = (world.clone(), Rc::clone(&log));
            drop(world.spawn(async move {
                world_too.sleep(ms(delay)).await;
                log.borrow_mut().push((name, world_too.now().as_millis()));
            }));
        }
        world.run(world.sleep(ms(40)));
        assert_eq!(
            *log.borrow(),
            [("a", 10), ("b1", 20), ("b2", 20), ("c", 30)]
        );
    }

    #[test]
    fn a_joined_task_hands_over_its_value() {
        let world = World::new(1);
        let value = world.run(async {
            let inner = world.clone();
            let joining = world.spawn(async move {
                inner.sleep(ms(5)).await;
                7
            });
            assert!(!joining.is_over());
            joining.await
        });
        assert_eq!((value, world.now()), (Some(7), Time::from_millis(5)));
    }

    #[test]
    fn a_broken_promise_is_seen() {
        let world = World::new(1);
        let (promise, joining) = promise::<u8>();
        drop(promise);
        assert_eq!(world.run(joining), None);
    }

    #[test]
    #[should_panic(expected = "nothing will ever happen")]
    fn waiting_for_nothing_is_noticed() {
        let (_kept, joining) = promise::<u8>();
        World::new(1).run(joining);
    }

    #[test]
    #[should_panic(expected = "the instant does not end")]
    fn a_clock_that_cannot_move_on_is_noticed() {
        fn again(world: &World) {
            let copy = world.clone();
            world.after(Duration::ZERO, move || again(&copy));
        }
        let world = World::new(1);
        again(&world);
        world.run(world.sleep(ms(1)));
    }

    #[test]
    fn nothing_outlives_the_run() {
        let world = World::new(1);
        let held = Rc::new(());
        let (copy, also) = (world.clone(), Rc::clone(&held));
        drop(world.spawn(async move {
            copy.sleep(Duration::from_secs(1000)).await;
            drop(also);
        }));
        world.run_to_end(world.sleep(ms(1)));
        assert_eq!(Rc::strong_count(&held), 1);
    }
}
