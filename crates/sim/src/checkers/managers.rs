//! The shard manager's group: all replicas make the same state of the same entries, an order that its issuer
//! repeats happens once, and what an issuer was told stays true.
//!
//! The judge applies the committed entries to a state of its own, one by one. So it knows what each entry
//! did, and what every replica must hold, however it came there: by entries, a snapshot or a restart.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kvorum_base::{Index, ReplicaId, Term};
use kvorum_cluster::{IssuerId, Plan, Refusal, Reply, Request, State};

/// An order of an issuer: who gave it, and its number.
pub type OrderName = (IssuerId, u64);

/// An entry of the shard manager's log, and what it did.
#[derive(Clone, Debug)]
pub struct Decided {
    /// In which term it was proposed: so by which primary.
    pub term: Term,
    /// What was asked.
    pub request: Request,
    /// What it was answered.
    pub reply: Reply,
    /// The state before it.
    pub before: Arc<State>,
    /// The state after it.
    pub after: Arc<State>,
    /// Whether it was an order that had been carried out already.
    pub is_repeated: bool,
}

/// What is known of the group.
#[derive(Debug)]
pub struct Managers {
    /// What the committed entries make.
    state: Arc<State>,
    /// By the index of a request: the hash of the state after it.
    hashes: BTreeMap<Index, u64>,
    /// By replica: the state that was last looked at.
    looked_at: BTreeMap<ReplicaId, Index>,
    /// By machine: the state that the node there knew when it was last looked at.
    known: BTreeMap<usize, Index>,
    /// What became of issuers' orders.
    replies: BTreeMap<OrderName, Reply>,
    /// Orders whose issuers were told that they are not carried out and never will be.
    refused: BTreeSet<OrderName>,
}

impl Managers {
    /// The group of a cluster that is made with this plan.
    ///
    /// # Panics
    /// If the plan is none.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let state = State::initial(plan).expect("a sound plan");
        Self {
            hashes: BTreeMap::from([(state.applied(), state.hash())]),
            state: Arc::new(state),
            looked_at: BTreeMap::new(),
            known: BTreeMap::new(),
            replies: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    /// The node on this machine begins another life, and with it the replica there, if there is one.
    pub fn restarted(&mut self, machine: usize, replica: Option<ReplicaId>) {
        self.known.remove(&machine);
        if let Some(replica) = replica {
            self.looked_at.remove(&replica);
        }
    }

    /// The next request is committed.
    ///
    /// # Errors
    /// If it is an order that its issuer believes not to be given, or one that happens twice.
    pub fn committed(
        &mut self,
        index: Index,
        term: Term,
        request: Request,
    ) -> Result<Decided, String> {
        let before = Arc::clone(&self.state);
        let reply = Arc::make_mut(&mut self.state).apply(index, &request);
        self.hashes.insert(index, self.state.hash());
        let mut decided = Decided {
            term,
            request,
            reply,
            before,
            after: Arc::clone(&self.state),
            is_repeated: false,
        };
        let Some(name) = decided.request.once.filter(|_| is_answer(&decided.reply)) else {
            return Ok(decided);
        };
        let told = format!("order {} of issuer {}", name.1, name.0);
        if self.refused.contains(&name) {
            return Err(format!(
                "{told} was said never to be carried out, and is at {index}"
            ));
        }
        match self.replies.get(&name) {
            None => {
                self.replies.insert(name, decided.reply.clone());
            }
            Some(first) if *first == decided.reply => decided.is_repeated = true,
            Some(first) => {
                return Err(format!(
                    "{told} is answered {:?} at {index}, and was {first:?} before",
                    decided.reply
                ));
            }
        }
        if decided.is_repeated && differ(&decided.before, &decided.after) {
            return Err(format!(
                "{told} happens again at {index}: {:?}",
                decided.request
            ));
        }
        Ok(decided)
    }

    /// Looks at the state of a replica after a turn.
    ///
    /// # Errors
    /// If it is not what the entries up to there make.
    pub fn looked_at(&mut self, replica: ReplicaId, state: Option<&State>) -> Result<(), String> {
        let Some(state) = state else {
            return Err(format!(
                "replica {replica} holds a state without the shard manager's"
            ));
        };
        let applied = state.applied();
        if self.looked_at.insert(replica, applied) == Some(applied) {
            return Ok(());
        }
        self.is_made_of_entries(state)
            .map_err(|text| format!("replica {replica}: {text}"))
    }

    /// Looks at what a node knows after a turn, be it from its own replica, from another node or remembered.
    ///
    /// # Errors
    /// If it is not what the entries up to there make, or older than what it knew.
    pub fn known_at(
        &mut self,
        machine: usize,
        state: &Arc<State>,
        own: Option<&Arc<State>>,
    ) -> Result<(), String> {
        let applied = state.applied();
        let before = self.known.insert(machine, applied).unwrap_or_default();
        let node = machine + 1;
        match applied.cmp(&before) {
            Ordering::Equal => Ok(()),
            // That was looked at.
            Ordering::Greater if own.is_some_and(|own| Arc::ptr_eq(own, state)) => Ok(()),
            Ordering::Less => Err(format!("node {node} knew {before}, and now only {applied}")),
            Ordering::Greater => self
                .is_made_of_entries(state)
                .map_err(|text| format!("node {node}: {text}")),
        }
    }

    fn is_made_of_entries(&self, state: &State) -> Result<(), String> {
        let applied = state.applied();
        let (hash, expected) = (state.hash(), self.hashes.get(&applied).copied());
        match expected == Some(hash) {
            true => Ok(()),
            false => Err(format!(
                "at {applied} the shard manager is {hash:016x}, and the entries make {expected:016x?}"
            )),
        }
    }

    /// An issuer is told what became of its order.
    ///
    /// # Errors
    /// If that is not what became of it.
    pub fn replied(&self, name: OrderName, reply: &Reply) -> Result<(), String> {
        let known = self.replies.get(&name);
        if is_answer(reply) && known != Some(reply) {
            return Err(format!(
                "issuer {} is told {reply:?} of order {}, and {known:?} became of it",
                name.0, name.1
            ));
        }
        Ok(())
    }

    /// An issuer is told, and believes, that its order is not carried out and never will be.
    ///
    /// # Errors
    /// If it was.
    pub fn not_done(&mut self, name: OrderName) -> Result<(), String> {
        self.refused.insert(name);
        match self.replies.get(&name) {
            Some(reply) => Err(format!(
                "issuer {} is told that order {} is not carried out, and it was: {reply:?}",
                name.0, name.1
            )),
            None => Ok(()),
        }
    }
}

/// Whether a reply says what became of an order, and not that this is forgotten.
fn is_answer(reply: &Reply) -> bool {
    !matches!(
        reply,
        Reply::Refused(Refusal::NoSuchIssuer | Refusal::Outdated)
    )
}

/// Whether anything was done between two states.
fn differ(before: &State, after: &State) -> bool {
    before.epoch() != after.epoch()
        || before.newest().number != after.newest().number
        || before.settings() != after.settings()
        || before.nodes() != after.nodes()
        || before.shards() != after.shards()
        || before.moves() != after.moves()
        || before.orders() != after.orders()
        || before.slots() != after.slots()
}

#[cfg(test)]
mod tests {
    use kvorum_cluster::Command;

    use super::*;
    use crate::cluster::options::Options;

    fn managers() -> Managers {
        let mut options = Options::draw(1);
        (options.nodes, options.shards, options.is_seated) = (3, 2, true);
        Managers::new(&options.plan())
    }

    fn rebalance(order: OrderName) -> Request {
        Request {
            once: Some(order),
            command: Command::Rebalance,
        }
    }

    /// With an issuer, which its second entry opened.
    fn opened() -> (Managers, IssuerId) {
        let mut managers = managers();
        let opened = managers.committed(Index(2), Term(1), Command::OpenIssuer.into());
        let Ok(Reply::Issuer(issuer)) = opened.map(|decided| decided.reply) else {
            panic!("an issuer is always opened");
        };
        (managers, issuer)
    }

    #[test]
    fn an_order_is_done_once_and_its_issuer_is_told_what_it_did() {
        let (mut managers, issuer) = opened();
        let order = (issuer, 1);
        let first = managers.committed(Index(3), Term(1), rebalance(order));
        let again = managers.committed(Index(5), Term(2), rebalance(order));
        let repeated = [first, again].map(|decided| decided.map(|decided| decided.is_repeated));
        assert_eq!(repeated, [Ok(false), Ok(true)]);
        let reply = managers.replies[&order].clone();
        assert_eq!(managers.replied(order, &reply), Ok(()));
        assert!(managers.replied(order, &Reply::Done).is_err());
        assert!(managers.not_done(order).is_err());
    }

    #[test]
    fn an_order_that_was_said_never_to_be_done_must_not_come() {
        let (mut managers, issuer) = opened();
        assert_eq!(managers.not_done((issuer, 1)), Ok(()));
        let late = managers.committed(Index(3), Term(1), rebalance((issuer, 1)));
        assert!(late.is_err());
    }

    #[test]
    fn a_state_that_missed_an_entry_is_seen() {
        let (mut managers, _) = opened();
        let behind = managers.state.clone();
        let replica = ReplicaId(7);
        let entry = managers.committed(Index(3), Term(1), Command::OpenIssuer.into());
        let whole = entry.expect("nothing forbids it").after;
        let entry = managers.committed(Index(4), Term(1), Command::OpenIssuer.into());
        assert!(entry.is_ok());
        assert_eq!(managers.looked_at(replica, Some(&behind)), Ok(()));
        assert_eq!(managers.looked_at(replica, Some(&whole)), Ok(()));
        let mut missing = State::clone(&behind);
        missing.apply(Index(4), &Command::OpenIssuer.into());
        assert!(managers.looked_at(replica, Some(&missing)).is_err());
        assert!(managers.looked_at(replica, None).is_err());
        assert!(managers.known_at(0, &whole, None).is_ok());
        assert!(managers.known_at(0, &behind, None).is_err());
    }
}
