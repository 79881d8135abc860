//! Group 0 of the nodes: operators ask it, by way of any node, and what it decides is heard.
//!
//! An operator gives one order at a time, and asks again where nobody knows what became of it, through
//! another node and under the same number; now and then one loses patience. Whatever it is told is
//! compared with what the log says.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use kvorum_base::{MoveId, Term};
use kvorum_cluster::{
    Command, Hearsay, IssuerId, MANAGER, Refusal, Reply, Request, Task, next_commands,
};
use kvorum_node::format::manager::Answer;

use super::Manager;
use crate::checkers::managers::Decided;
use crate::cluster::coverage::Mark;
use crate::world::ms;

/// How many give orders at the same time.
const OPERATORS: u32 = 3;

/// Somebody who gives orders.
#[derive(Default)]
struct Operator {
    /// As whom group 0 knows it.
    issuer: Option<IssuerId>,
    /// The number of its last order.
    sequence: u64,
}

/// What is asked of group 0, and what is known of how it answers.
pub(super) struct Seat {
    free: RefCell<Vec<Operator>>,
    /// By open move: the term in which it was opened.
    opened: RefCell<BTreeMap<MoveId, Term>>,
    /// The term of the first plan.
    planned: Cell<Option<Term>>,
}

impl Default for Seat {
    fn default() -> Self {
        Self {
            free: RefCell::new((0..OPERATORS).map(|_| Operator::default()).collect()),
            opened: RefCell::default(),
            planned: Cell::default(),
        }
    }
}

/// What operators do.
impl Manager {
    /// Has an operator give this order, if one is free.
    pub(super) fn ask_for(self: &Rc<Self>, command: Command) {
        let Some(operator) = self.seat.free.borrow_mut().pop() else {
            return;
        };
        let manager = Rc::clone(self);
        drop(self.cluster.world.spawn(async move {
            let operator = manager.give(operator, command).await;
            manager.seat.free.borrow_mut().push(operator);
        }));
    }

    /// Whether anything is asked, or is still to be done by what is wanted.
    pub(super) fn is_asking(&self) -> bool {
        let is_free = self.seat.free.borrow().len() == OPERATORS as usize;
        let plan = || next_commands(&self.state.borrow(), &Hearsay::default());
        self.cluster.options.seats() && !(is_free && plan().is_empty())
    }

    /// Gives an order, until it is answered or nobody cares any more.
    async fn give(&self, mut operator: Operator, command: Command) -> Operator {
        if matches!(command, Command::RegisterNode { .. }) {
            // A directory is its own name, and asks without another.
            self.ask(command.into()).await;
            return operator;
        }
        if operator.issuer.is_none() {
            let opened = self.ask(Command::OpenIssuer.into()).await;
            let Some(Answer::Replied(Reply::Issuer(issuer))) = opened else {
                return operator;
            };
            operator = Operator {
                issuer: Some(issuer),
                sequence: 0,
            };
        }
        let issuer = operator.issuer.expect("it has one by now");
        operator.sequence += 1;
        let order = (issuer, operator.sequence);
        let request = Request {
            once: Some(order),
            command,
        };
        let mut may_have_been = false;
        while self.cluster.failure().is_none() {
            let told = match self.ask(request.clone()).await {
                Some(Answer::Replied(reply)) => {
                    if reply == Reply::Refused(Refusal::NoSuchIssuer) {
                        operator.issuer = None;
                    }
                    self.cluster
                        .judge
                        .borrow_mut()
                        .told(order, Some(&reply))
                        .map(|()| true)
                }
                Some(Answer::NotDone) if !may_have_been && self.loses_patience(1, 2) => {
                    let mut judge = self.cluster.judge.borrow_mut();
                    judge.told(order, None).map(|()| true)
                }
                Some(Answer::NotDone) => Ok(false),
                Some(Answer::Unknown) | None => {
                    may_have_been = true;
                    Ok(self.loses_patience(1, 8))
                }
            };
            match told {
                Ok(true) => break,
                Ok(false) => {}
                Err(text) => self.cluster.fail("issuers", text),
            }
            let pause = self.prng.borrow_mut().range(20, 500);
            self.cluster.world.sleep(ms(pause)).await;
        }
        operator
    }

    fn loses_patience(&self, times: u64, of: u64) -> bool {
        self.prng.borrow_mut().chance(times, of)
    }

    /// Asks some node, and waits for its answer for a while. None comes if the node ends.
    async fn ask(&self, request: Request) -> Option<Answer> {
        let (host, patience) = {
            // Sooner or later it is known which nodes never answer.
            let is_calm = self.cluster.is_calm.get();
            let hosts = self.cluster.hosts().into_iter();
            let hosts: Vec<_> = hosts.filter(|host| !is_calm || !host.is_lost()).collect();
            let mut prng = self.prng.borrow_mut();
            let host = Rc::clone(prng.pick(&hosts).expect("a machine"));
            let deadline_ms = self.cluster.options.deadline_ms;
            (host, ms(deadline_ms / 2 + prng.below(deadline_ms)))
        };
        self.cluster
            .trace(|| format!("operator: asks node {} for {request:?}", host.index() + 1));
        let answer = self
            .cluster
            .manage_within(host.index(), request, patience)
            .await;
        self.cluster
            .trace(|| format!("operator: is told {answer:?}"));
        answer
    }
}

/// What is heard.
impl Manager {
    /// Group 0 has decided this, for all that anybody saw for the first time now.
    pub(in crate::cluster) fn heard(&self, decided: Vec<Decided>) {
        for entry in decided {
            if !matches!(entry.reply, Reply::Refused(_)) {
                self.cluster.trace(|| {
                    let Decided {
                        term,
                        request,
                        reply,
                        ..
                    } = &entry;
                    format!("group 0, term {term}: {request:?}: {reply:?}")
                });
                self.count(&entry);
            }
            *self.state.borrow_mut() = Arc::clone(&entry.after);
            self.note_orders();
            let states = (&*entry.before, &*entry.after);
            match &entry.request.command {
                Command::CloseMove { evidence, .. } if entry.reply == Reply::Done => {
                    self.move_closed(*evidence);
                }
                Command::CloseOrder { order, outcome } if entry.reply == Reply::Done => {
                    let order = &entry.before.orders()[order];
                    let is_promotion = matches!(order.task, Task::Promote { .. });
                    if order.group == MANAGER && is_promotion {
                        self.cluster.hit(Mark::ManagersReplaced);
                    }
                    self.order_closed(states, order, outcome);
                }
                _ => {}
            }
        }
    }

    fn count(&self, entry: &Decided) {
        if entry.is_repeated {
            return self.cluster.hit(Mark::OrdersRepeated);
        }
        if is_planned(&entry.request) {
            let first = self.seat.planned.get().unwrap_or(entry.term);
            self.seat.planned.set(Some(first));
            if entry.term != first {
                self.cluster.hit(Mark::PlansOfSuccessors);
            }
        }
        let mut opened = self.seat.opened.borrow_mut();
        if let Reply::MoveOpened(id) = entry.reply {
            opened.insert(id, entry.term);
        }
        if let Command::CloseMove { id, .. } = entry.request.command
            && opened.remove(&id).is_some_and(|term| term != entry.term)
        {
            self.cluster.hit(Mark::MovesOverPrimaries);
        }
    }
}

/// Whether the primary proposed it by itself: not an operator's order, nor evidence, nor a node that comes.
fn is_planned(request: &Request) -> bool {
    let is_told = matches!(
        request.command,
        Command::CloseMove { .. }
            | Command::CloseOrder { .. }
            | Command::RegisterNode { .. }
            | Command::OpenIssuer
    );
    request.once.is_none() && !is_told
}
