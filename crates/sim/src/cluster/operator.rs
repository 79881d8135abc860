//! What an operator asks of a machine, which a real node hears over its HTTP interface.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kvorum_cluster::Request;
use kvorum_node::Control;
use kvorum_node::format::manager::Answer;

use super::Cluster;
use super::host::Incoming;
use crate::world::{Joining, Promise, promise};

/// Requests for the shard manager that are not answered yet.
#[derive(Default)]
pub(super) struct Asked {
    waiting: RefCell<BTreeMap<u64, Promise<Answer>>>,
    made: Cell<u64>,
}

impl Cluster {
    /// Has the process on this machine, if there is one, do what an operator can ask of it.
    pub(crate) fn control(&self, machine: usize, control: Control) {
        self.hosts()[machine].deliver_now(Incoming::Control(control));
    }

    /// Gives a machine a request for the shard manager. The answer is there when the node has it; a process
    /// that ends before never has.
    pub(crate) fn manage(&self, machine: usize, request: Request) -> Joining<Answer> {
        let token = self.asked.made.get() + 1;
        self.asked.made.set(token);
        let (promise, joining) = promise();
        if self.hosts()[machine].is_up() {
            self.asked.waiting.borrow_mut().insert(token, promise);
            let request = Box::new(request);
            self.control(machine, Control::Manage { token, request });
        }
        joining
    }

    /// The same, but nobody waits for longer than this.
    pub(crate) fn manage_within(
        self: &Rc<Self>,
        machine: usize,
        request: Request,
        patience: Duration,
    ) -> Joining<Answer> {
        let answer = self.manage(machine, request);
        let (token, cluster) = (self.asked.made.get(), Rc::clone(self));
        self.world.after(patience, move || {
            cluster.asked.waiting.borrow_mut().remove(&token);
        });
        answer
    }

    /// A node says what became of a request.
    pub(super) fn managed(&self, token: u64, answer: Answer) {
        if let Some(promise) = self.asked.waiting.borrow_mut().remove(&token) {
            promise.keep(answer);
        }
    }
}
