//! What the later sharding labs (2025) have beside the earlier ones: controllers that are clients, may be cut
//! off and are superseded, and clerks that race for the versions of a key.
//!
//! In those labs a controller moves the data itself, from a configuration that it keeps in a store that
//! writes only over the version that was read. One that fails leaves a change half done, which the next one
//! finishes; one that comes back must do nothing. Here the shard manager moves the data, and goes on when
//! whoever ordered it is gone. What is left of the scenarios is what they are about: an interrupted change
//! comes to its end, and an order of somebody who was away changes nothing that was ordered since.
//!
//! A versioned put is a put of a key that must not exist yet: each version is a key of its own, all of
//! them in one shard, as the store's own MapReduce writes its records. The labs' "maybe" does not occur: a
//! put that is sent again goes through a session, and gets the answer of the first time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use kvorum_cluster::{Command, Reply};

use super::operator::Operator;
use super::shard_work::Table;
use super::shards::{ShardCluster, leaving};
use crate::world::{Joining, ms};

/// The longest pause of a racing clerk between two puts.
const PAUSE_MAX: Duration = ms(20);

/// A change that was ordered.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Change {
    group: usize,
    joins: bool,
    reply: Reply,
}

/// A controller that has groups join and leave, one after the other, and waits each time until the data
/// has followed.
pub struct Controller {
    shards: ShardCluster,
    operator: Operator,
    /// The last change of which it knows that the manager has it, and whether it has asked for another since.
    last: RefCell<Option<Change>>,
    asks: Cell<bool>,
    is_stopped: Cell<bool>,
    finished: Cell<usize>,
}

impl Controller {
    /// A controller that has done nothing yet.
    #[must_use]
    pub fn new(shards: &ShardCluster) -> Rc<Self> {
        Rc::new(Self {
            shards: shards.clone(),
            operator: shards.operator(),
            last: RefCell::default(),
            asks: Cell::new(false),
            is_stopped: Cell::new(false),
            finished: Cell::new(0),
        })
    }

    /// How many changes came to their end while it waited.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.finished.get()
    }

    /// It begins nothing more.
    pub fn stop(&self) {
        self.is_stopped.set(true);
    }

    /// Has these groups join and leave again, one after the other, until it is stopped.
    pub async fn come_and_go(self: Rc<Self>, groups: Vec<usize>) {
        for group in groups.iter().cycle() {
            for joins in [true, false] {
                self.change(*group, joins).await;
                if self.is_stopped.get() {
                    return;
                }
                self.finished.set(self.finished.get() + 1);
            }
        }
    }

    /// Has a group join or leave, and waits until the data has followed.
    ///
    /// # Panics
    /// If the manager refuses.
    pub async fn change(&self, group: usize, joins: bool) {
        let shards = &self.shards;
        if joins {
            self.wait_until(|| shards.has_left(group)).await;
        }
        if self.is_stopped.get() {
            return;
        }
        let command = match joins {
            true => shards.joining(&[group]),
            false => leaving(&[group]),
        };
        self.asks.set(true);
        let reply = self.operator.order(command).await;
        self.asks.set(false);
        assert!(
            !matches!(reply, Reply::Refused(_)),
            "group {group}: {reply:?}"
        );
        *self.last.borrow_mut() = Some(Change {
            group,
            joins,
            reply,
        });
        self.wait_until(|| shards.is_settled()).await;
    }

    /// Waits, however long, unless it is stopped.
    async fn wait_until(&self, has_come: impl Fn() -> bool) {
        while !has_come() && !self.is_stopped.get() {
            self.shards.sleep(ms(20)).await;
        }
    }

    /// Whether its last change is in the manager's hands and has not come to its end.
    fn is_stuck(&self) -> bool {
        !self.asks.get() && self.last.borrow().is_some() && !self.shards.is_settled()
    }

    /// Loses the network; whatever it was about to do it does no more.
    pub fn cut_off(&self) {
        self.stop();
        self.operator.set_connected(false);
    }

    /// Is back, and sends its last order again as if it had never been answered: the answer is what it
    /// was, and nothing changes.
    ///
    /// # Panics
    /// If it is not so.
    pub async fn come_back(&self) {
        let before = self.shards.config_number();
        self.operator.set_connected(true);
        let last = self
            .last
            .borrow()
            .clone()
            .expect("it has ordered something");
        assert_eq!(
            self.operator.repeat().await,
            last.reply,
            "an order repeated"
        );
        self.shards.sleep(ms(100)).await;
        assert_eq!(
            self.shards.config_number(),
            before,
            "an old order has changed it"
        );
        assert!(self.shards.is_settled(), "an old order has moved something");
    }
}

/// A controller takes over: what it says is put after everything that was ordered before, and then it waits
/// until the data has followed.
///
/// # Panics
/// If it changes something by that, or waits too long.
pub async fn take_over(shards: &ShardCluster) {
    let interrupted = shards.config_number();
    let reply = shards.operator().order(Command::Rebalance).await;
    assert_eq!(reply, Reply::Config(interrupted), "nothing is uneven");
    shards.settle().await;
}

/// One round of the labs' failover: a controller is cut off in the middle of a change that cannot end,
/// since a group is down; that comes back, and another controller takes over.
///
/// The labs' first controller works for 1 to 1.4 seconds. Here for longer, or it would be in the middle of
/// its first change always.
///
/// # Panics
/// If the change does not come to its end, or the first controller disturbs it when it is back.
pub async fn fail_over(shards: &ShardCluster, table: &Table, comes_back: bool) {
    let before = shards.config_number();
    let first = Controller::new(shards);
    let groups = shards.ground().groups().skip(1).collect();
    drop(shards.world().spawn(Rc::clone(&first).come_and_go(groups)));
    shards.sleep(ms(1000 + shards.below(2000))).await;
    shards.shut_down_group(0);
    shards.sleep(ms(1000)).await;
    shards
        .wait_until("the controller to be stuck", || first.is_stuck())
        .await;
    first.cut_off();
    if comes_back {
        shards.sleep(ms(1000)).await;
    }
    shards.start_group(0);
    take_over(shards).await;
    assert!(shards.config_number() > before, "nothing was ordered");
    let Change { group, joins, .. } = first.last.borrow().clone().expect("it is stuck");
    assert_eq!(shards.is_member(group), joins, "group {group}");
    if comes_back {
        first.come_back().await;
    }
    table.check_all(&shards.clerk(&shards.all())).await;
    if joins {
        // The next round begins as this one, with one group.
        Controller::new(shards).change(group, false).await;
    }
}

/// Clerks that race for the next version of one key.
pub struct Race {
    shards: ShardCluster,
    key: String,
    stop: Rc<Cell<bool>>,
    tasks: Vec<Joining<usize>>,
}

impl Race {
    /// Begins.
    #[must_use]
    pub fn begin(shards: &ShardCluster, clerks: usize) -> Self {
        let key = shards.ground().key(0, "race");
        let stop = Rc::new(Cell::new(false));
        let tasks = (0..clerks).map(|number| {
            let clerk = shards.clerk(&shards.all());
            let (shards, key, stop) = (shards.clone(), key.clone(), Rc::clone(&stop));
            shards.world().clone().spawn(async move {
                let mut won = 0;
                for version in 0.. {
                    if stop.get() {
                        break;
                    }
                    let versioned = format!("{key}@{version}");
                    if clerk.put_new(&versioned, &number.to_string()).await {
                        won += 1;
                    }
                    shards.pause(PAUSE_MAX).await;
                }
                won
            })
        });
        Self {
            tasks: tasks.collect(),
            shards: shards.clone(),
            key,
            stop,
        }
    }

    /// Stops it: there are as many versions as puts that succeeded, and no more.
    ///
    /// # Panics
    /// If not.
    pub async fn end(self) -> usize {
        self.stop.set(true);
        let mut won = 0;
        for task in self.tasks {
            won += task.await.expect("a clerk ends by itself");
        }
        let clerk = self.shards.clerk(&self.shards.all());
        for version in 0..=won {
            let there = clerk.get(&format!("{}@{version}", self.key)).await;
            assert_eq!(
                there.is_empty(),
                version == won,
                "version {version} of {won}"
            );
        }
        won
    }
}
