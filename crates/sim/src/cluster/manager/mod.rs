//! The shard manager, in one of two ways.
//!
//! In half of the seeds it has no group: the real state, commands that chance makes, and evidence that is
//! read from the nodes. Nodes are told the state late, twice or not at all; sometimes they are told an old
//! one, as by somebody who was away for long. What closes an order or a move is what logs say, and that may
//! be told late, too.
//!
//! In the others it is group 0 of the nodes, as everywhere but here: then chance only makes what operators
//! ask for, and all the rest is done by the nodes.
//!
//! - [`moves`]: slots go to and fro;
//! - [`replicas`]: replicas, shards and nodes come and go;
//! - [`seated`]: operators of group 0, and what it has decided.

mod moves;
mod replicas;
mod seated;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use kvorum_base::{GroupId, NodeId, Prng, ReplicaId};
use kvorum_cluster::{
    Command, Hearsay, MANAGER, Order, OrderNumber, Outcome, Reply, Shard, Stage, State, Task,
    next_commands,
};
use kvorum_node::Control;

use super::Cluster;
use super::coverage::Mark;
use super::host::Incoming;
use crate::world::{Time, ms};
use seated::Seat;

/// How many old states are kept, to be told once more.
const PAST: usize = 24;

/// The manager, and how it does.
pub struct Manager {
    cluster: Rc<Cluster>,
    prng: RefCell<Prng>,
    state: RefCell<Arc<State>>,
    past: RefCell<VecDeque<Arc<State>>>,
    /// Evidence that is told later, or once more.
    late: RefCell<Vec<(OrderNumber, Outcome)>>,
    /// By machine: until when it hears nothing, but perhaps what was long ago.
    deaf: RefCell<BTreeMap<usize, Time>>,
    /// Orders above it were not looked at.
    seen: Cell<OrderNumber>,
    /// Who asks group 0, if there is one.
    seat: Seat,
    is_idle: Cell<bool>,
}

impl Manager {
    /// Begins its work, if there is any; goes on until the storm is over and nothing is open.
    #[must_use]
    pub fn start(cluster: &Rc<Cluster>) -> Rc<Self> {
        let options = &cluster.options;
        let state = State::initial(&options.plan()).expect("a sound plan");
        let manager = Rc::new(Self {
            cluster: Rc::clone(cluster),
            prng: RefCell::new(cluster.world.fork_prng()),
            state: RefCell::new(Arc::new(state)),
            past: RefCell::default(),
            late: RefCell::default(),
            deaf: RefCell::default(),
            seen: Cell::default(),
            seat: Seat::default(),
            is_idle: Cell::new(!options.is_managed()),
        });
        *cluster.manager.borrow_mut() = Rc::downgrade(&manager);
        if options.is_managed() {
            drop(cluster.world.spawn(Rc::clone(&manager).manage()));
        }
        manager
    }

    /// Whether nothing is open, and nothing will be.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_idle.get()
    }

    /// The groups that work, and the machines of their voters.
    #[must_use]
    pub fn groups(&self) -> Vec<(GroupId, Vec<usize>)> {
        let state = self.state.borrow();
        let serving = self
            .groups_of(&state)
            .filter(|(_, shard)| shard.stage == Stage::Serving);
        let places = serving.map(|(group, shard)| {
            let nodes = shard.voters().map(|(_, node)| machine(node));
            (*group, nodes.collect())
        });
        places.collect()
    }

    /// The groups that there are; group 0 only if the nodes hold it.
    fn groups_of<'a>(&self, state: &'a State) -> impl Iterator<Item = (&'a GroupId, &'a Shard)> {
        let has_seat = self.cluster.options.seats();
        let groups = state.shards().iter();
        groups.filter(move |(group, _)| has_seat || **group != MANAGER)
    }

    async fn manage(self: Rc<Self>) {
        let has_seat = self.cluster.options.seats();
        loop {
            let pause = self.prng.borrow_mut().range(20, 300);
            self.cluster.world.sleep(ms(pause)).await;
            if !has_seat {
                self.close_moves();
                self.close_orders();
            }
            if self.cluster.is_calm.get() {
                if self.cluster.options.changes && !has_seat {
                    self.clear_up();
                }
                self.is_idle.set(!self.has_open() && !self.is_asking());
                self.cluster.trace(|| self.what_is_open());
            } else {
                self.move_slots();
                if self.cluster.options.changes {
                    self.change_something();
                }
            }
            if !has_seat {
                self.tell();
            }
            if self.cluster.failure().is_some() {
                return;
            }
        }
    }

    /// Has a command carried out: as the next entry, or by asking group 0.
    fn order(self: &Rc<Self>, command: Command) {
        match self.cluster.options.seats() {
            true => self.ask_for(command),
            false => {
                self.apply(&command);
            }
        }
    }

    /// Applies a command as its next entry.
    fn apply(&self, command: &Command) -> Reply {
        let reply = {
            let mut state = self.state.borrow_mut();
            let index = state.applied().next();
            Arc::make_mut(&mut state).apply(index, &command.clone().into())
        };
        if !matches!(reply, Reply::Refused(_)) {
            self.cluster
                .trace(|| format!("manager: {command:?}: {reply:?}"));
        }
        self.note_orders();
        reply
    }

    /// Whether anything is open that can still come to an end.
    fn has_open(&self) -> bool {
        let state = self.state.borrow();
        let can_end = |task: &Task| match task {
            Task::CreateReplica { node, .. } | Task::DeleteReplica { node, .. } => {
                !self.is_lost(*node)
            }
            _ => true,
        };
        let mut orders = state.orders().values();
        !state.moves().is_empty() || orders.any(|order| can_end(&order.task))
    }

    fn what_is_open(&self) -> String {
        let state = self.state.borrow();
        let (moves, orders) = (state.moves(), state.orders());
        let planned = next_commands(&state, &Hearsay::default());
        format!("manager: open are {moves:?}, {orders:?}; next would be {planned:?}")
    }

    fn is_lost(&self, node: NodeId) -> bool {
        self.cluster.hosts()[machine(node)].is_lost()
    }

    /// Tells the judge what new orders mean, and what voters there may be soon.
    fn note_orders(&self) {
        let state = self.state.borrow();
        let mut judge = self.cluster.judge.borrow_mut();
        for (number, order) in state.orders().range(self.seen.get().next()..) {
            self.seen.set(*number);
            match &order.task {
                Task::Promote { replica, .. } => judge.promoted(order.group, *replica),
                Task::DeleteReplica { replica, .. } => {
                    let shard = state.shards().get(&order.group);
                    if shard.is_some_and(|shard| shard.stage != Stage::Retired) {
                        judge.let_go(order.group, *replica);
                    }
                }
                _ => {}
            }
        }
        let to_be = self.groups_of(&state).map(|(_, shard)| {
            let mut voters: BTreeMap<ReplicaId, NodeId> = shard.voters().collect();
            let change = shard.change;
            if let Some(add) = change.and_then(|change| change.add) {
                voters.insert(add, shard.replicas[&add].node);
            }
            if let Some(remove) = change.and_then(|change| change.remove) {
                voters.remove(&remove);
            }
            voters.into_values().collect::<BTreeSet<NodeId>>()
        });
        *self.cluster.voters_to_be.borrow_mut() = to_be.filter(|set| !set.is_empty()).collect();
    }

    /// Closes orders by what the nodes can prove; some of it later.
    fn close_orders(&self) {
        let mut told = std::mem::take(&mut *self.late.borrow_mut());
        for host in self.cluster.hosts() {
            let evidence = host
                .with_node(kvorum_node::Node::evidence)
                .unwrap_or_default();
            for piece in evidence {
                let mut prng = self.prng.borrow_mut();
                if prng.chance(1, 5) {
                    self.late.borrow_mut().push(piece.clone());
                }
                if prng.chance(4, 5) {
                    told.push(piece);
                }
            }
        }
        for (order, outcome) in told {
            self.close_order(order, &outcome);
        }
    }

    fn close_order(&self, number: OrderNumber, outcome: &Outcome) {
        let before = Arc::clone(&self.state.borrow());
        let Some(order) = before.orders().get(&number) else {
            return;
        };
        let close = Command::CloseOrder {
            order: number,
            outcome: outcome.clone(),
        };
        if let Reply::Refused(refusal) = self.apply(&close) {
            let text = format!(
                "order {number}, {}, ends in {outcome:?}: {refusal}",
                order.task
            );
            return self.cluster.fail("evidence", text);
        }
        let now = Arc::clone(&self.state.borrow());
        self.order_closed((&before, &now), order, outcome);
    }

    /// An order was closed between these two states: tells the judge what that means.
    fn order_closed(&self, (before, now): (&State, &State), order: &Order, outcome: &Outcome) {
        match (&order.task, outcome) {
            (Task::Promote { removing, .. }, Outcome::Members(_)) => {
                let is_replaced = removing.is_some();
                self.cluster.hit(if is_replaced {
                    Mark::Replaced
                } else {
                    Mark::Promoted
                });
            }
            (Task::Promote { replica, .. }, Outcome::Refused) => {
                let mut judge = self.cluster.judge.borrow_mut();
                judge.not_promoted(order.group, *replica);
            }
            (Task::DeleteReplica { replica, .. }, Outcome::Deleted) => {
                let mut judge = self.cluster.judge.borrow_mut();
                judge.deleted(order.group, *replica);
            }
            _ => {}
        }
        let stage = |state: &State| state.shards().get(&order.group).map(|shard| shard.stage);
        match (stage(before), stage(now)) {
            (Some(Stage::Founding), Some(Stage::Serving)) => self.cluster.hit(Mark::GroupsFounded),
            (Some(Stage::Retired), None) => self.cluster.hit(Mark::GroupsRetired),
            _ => {}
        }
    }

    /// Whether a machine hears nothing new for now; for seconds, since it may be elected meanwhile.
    fn is_deaf(&self, machine: usize, prng: &mut Prng) -> bool {
        let now = self.cluster.world.now();
        let mut deaf = self.deaf.borrow_mut();
        if self.cluster.is_calm.get() {
            return false;
        }
        if prng.chance(1, 60) {
            deaf.insert(machine, now + ms(prng.range(500, 6_000)));
        }
        deaf.get(&machine).is_some_and(|until| now < *until)
    }

    /// Tells every node; some hear it late, some not this time, and some hear what was long ago.
    fn tell(&self) {
        let now = Arc::clone(&self.state.borrow());
        let mut past = self.past.borrow_mut();
        if past
            .back()
            .is_none_or(|last| last.applied() < now.applied())
        {
            past.push_back(Arc::clone(&now));
        }
        while past.len() > PAST {
            past.pop_front();
        }
        for host in self.cluster.hosts() {
            let mut prng = self.prng.borrow_mut();
            let is_deaf = self.is_deaf(host.index(), &mut prng);
            if prng.chance(1, 5) || (is_deaf && prng.chance(3, 4)) {
                continue;
            }
            let is_old = is_deaf || (!self.cluster.is_calm.get() && prng.chance(1, 10));
            let old = prng.index(past.len());
            let state = match is_old {
                true => {
                    self.cluster.hit(Mark::OldStates);
                    Arc::clone(&past[old])
                }
                false => Arc::clone(&now),
            };
            let delay = ms(prng.below(300));
            self.cluster.world.after(delay, move || {
                host.deliver_now(Incoming::Control(Control::Cluster(state)));
            });
        }
    }
}

/// The machine of a node, from 0.
fn machine(node: NodeId) -> usize {
    node.get() as usize - 1
}
