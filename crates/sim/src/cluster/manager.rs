//! A shard manager that knows nothing but chance: it moves slots to and fro, takes moves back, and tells the
//! nodes late, twice, or not at all.
//!
//! What it holds a move for over is what the logs say, as the real one does: received or refused by the
//! target, or cancelled by the source.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use kvorum_base::{GroupId, MoveId, Prng, Slot, SlotSet};
use kvorum_node::Control;
use kvorum_node::moves::order::{MoveOrder, MoveOrders};
use kvorum_node::moves::state::Ended;

use super::Cluster;
use super::coverage::Mark;
use super::host::Incoming;
use crate::world::ms;

/// How many moves are open at a time.
const OPEN_MAX: usize = 3;

/// The manager, and how it does.
pub struct Manager {
    cluster: Rc<Cluster>,
    prng: RefCell<Prng>,
    orders: RefCell<MoveOrders>,
    /// The group that has a slot, as far as moves are over.
    owners: RefCell<Vec<GroupId>>,
    is_idle: Cell<bool>,
}

impl Manager {
    /// Begins to move slots; goes on until the storm is over and nothing is open.
    #[must_use]
    pub fn start(cluster: &Rc<Cluster>) -> Rc<Self> {
        let specs = cluster.options.config(0, 1).groups;
        let mut owners = vec![GroupId(0); usize::from(kvorum_base::slot::SLOT_COUNT)];
        for spec in &specs {
            for slot in spec.slots.iter() {
                owners[usize::from(slot.get())] = spec.group;
            }
        }
        let manager = Rc::new(Self {
            cluster: Rc::clone(cluster),
            prng: RefCell::new(cluster.world.fork_prng()),
            orders: RefCell::default(),
            owners: RefCell::new(owners),
            is_idle: Cell::new(specs.len() < 2),
        });
        if specs.len() > 1 {
            drop(cluster.world.spawn(Rc::clone(&manager).manage()));
        }
        manager
    }

    /// Whether nothing is open, and nothing will be.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_idle.get()
    }

    async fn manage(self: Rc<Self>) {
        loop {
            let pause = self.prng.borrow_mut().range(20, 300);
            self.cluster.world.sleep(ms(pause)).await;
            self.close_ended();
            let is_calm = self.cluster.is_calm.get();
            if !is_calm {
                self.maybe_open();
                self.maybe_cancel();
            }
            self.is_idle
                .set(is_calm && self.orders.borrow().open.is_empty());
            self.tell();
            if self.cluster.failure().is_some() {
                return;
            }
        }
    }

    /// What the logs of a group say of the end of a move.
    fn ended(&self, group: GroupId, id: MoveId) -> Option<Ended> {
        let ended = |host: &Rc<super::host::Host>| {
            let look =
                |node: &kvorum_node::Node| node.inspect(group)?.moves?.ended.get(&id).copied();
            host.with_node(look).flatten()
        };
        self.cluster.hosts().iter().find_map(ended)
    }

    fn close_ended(&self) {
        let open = self.orders.borrow().open.clone();
        for order in open {
            let owner = match (
                self.ended(order.to, order.id),
                self.ended(order.from, order.id),
            ) {
                (Some(Ended::Received), _) => {
                    self.cluster.hit(Mark::MovesReceived);
                    order.to
                }
                (Some(_), _) => {
                    self.cluster.hit(Mark::MovesRefused);
                    order.from
                }
                (None, Some(Ended::Cancelled)) => {
                    self.cluster.hit(Mark::MovesCancelled);
                    order.from
                }
                _ => continue,
            };
            self.cluster
                .trace(|| format!("move {} is over: group {owner} has it", order.id));
            for slot in order.slots.iter() {
                self.owners.borrow_mut()[usize::from(slot.get())] = owner;
            }
            self.orders
                .borrow_mut()
                .open
                .retain(|other| other.id != order.id);
        }
    }

    fn maybe_open(&self) {
        let mut prng = self.prng.borrow_mut();
        let shards = self.cluster.options.shards;
        let from = GroupId(prng.range(1, shards));
        let to = GroupId(prng.range(1, shards));
        if from == to || self.orders.borrow().open.len() >= OPEN_MAX || prng.chance(1, 2) {
            return;
        }
        let slots = self.choose(from, &mut prng);
        if slots.is_empty() {
            return;
        }
        let mut orders = self.orders.borrow_mut();
        orders.through = orders.through.next();
        let order = MoveOrder {
            id: orders.through,
            slots,
            from,
            to,
            cancel: false,
        };
        self.cluster.trace(|| format!("{order:?}"));
        orders.open.push(order);
    }

    /// Some slots of a group that are in no move: those that hold something, and others.
    fn choose(&self, from: GroupId, prng: &mut Prng) -> SlotSet {
        let owners = self.owners.borrow();
        let is_open = |slot| {
            let orders = self.orders.borrow();
            orders.open.iter().any(|order| order.slots.contains(slot))
        };
        let is_free = |slot: &Slot| owners[usize::from(slot.get())] == from && !is_open(*slot);
        let in_use: Vec<Slot> = {
            let history = self.cluster.history.borrow();
            let keys = history
                .operations()
                .iter()
                .map(|operation| &operation.input.key);
            let slots = keys.map(|key| kvorum_base::slot::slot_of(key));
            let slots: std::collections::BTreeSet<Slot> = slots.collect();
            let own = (0..self.cluster.options.clients)
                .map(|client| kvorum_base::slot::slot_of(client.to_string().as_bytes()));
            slots.into_iter().chain(own).filter(is_free).collect()
        };
        let mut chosen = SlotSet::none();
        let share = prng.range(1, 3);
        for slot in in_use {
            if prng.chance(share, 4) {
                chosen.insert(slot);
            }
        }
        for _ in 0..prng.below(8) {
            let slot = Slot(prng.below(u64::from(kvorum_base::slot::SLOT_COUNT)) as u16);
            if is_free(&slot) {
                chosen.insert(slot);
            }
        }
        chosen
    }

    fn maybe_cancel(&self) {
        let mut prng = self.prng.borrow_mut();
        if prng.chance(1, 20)
            && let Some(order) = self.orders.borrow_mut().open.first_mut()
        {
            order.cancel = true;
        }
    }

    /// Tells every node; some hear it late, and some not this time.
    fn tell(&self) {
        for host in self.cluster.hosts() {
            let mut prng = self.prng.borrow_mut();
            if prng.chance(1, 5) {
                continue;
            }
            let delay = ms(prng.below(300));
            let orders = self.orders.borrow().clone();
            self.cluster.world.after(delay, move || {
                host.deliver_now(Incoming::Control(Control::Moves(orders)));
            });
        }
    }
}
