//! What must survive, said plainly: every state after every operation, from the last durable one on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kvorum_base::{GroupId, Index, ReplicaId, Term};
use kvorum_node::format::wal::SnapshotRef;
use kvorum_node::log::{Durable, Recovered};
use kvorum_raft::{Entry, HardState, Membership, Persist};

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Group {
    pub(crate) replica: ReplicaId,
    pub(crate) hard_state: HardState,
    pub(crate) snapshot: SnapshotRef,
    pub(crate) membership: Arc<Membership>,
    pub(crate) entries: Vec<Entry>,
}

impl Group {
    pub(crate) fn last(&self) -> Index {
        let last = self.entries.last();
        last.map_or(self.snapshot.index, |entry| entry.index)
    }

    pub(crate) fn term_at(&self, index: Index) -> Term {
        let found = self.entries.iter().find(|entry| entry.index == index);
        found.map_or(self.snapshot.term, |entry| entry.term)
    }
}

pub(crate) type State = BTreeMap<GroupId, Group>;

/// One thing that the log was asked to keep.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Created(GroupId, ReplicaId, Arc<Membership>),
    Removed(GroupId),
    Persist(GroupId, u64, Persist, u64),
    Snapshot(GroupId, SnapshotRef, Arc<Membership>),
}

impl Op {
    fn apply(&self, state: &mut State) {
        match self {
            Self::Created(group, replica, membership) => {
                let created = Group {
                    replica: *replica,
                    hard_state: HardState::default(),
                    snapshot: SnapshotRef::default(),
                    membership: Arc::clone(membership),
                    entries: Vec::new(),
                };
                assert!(state.insert(*group, created).is_none());
            }
            Self::Removed(group) => {
                state.remove(group);
            }
            Self::Persist(group, _, what, covering) => {
                let group = state.get_mut(group).expect("a known group");
                persist(group, what, *covering);
            }
            Self::Snapshot(group, snapshot, membership) => {
                let group = state.get_mut(group).expect("a known group");
                group.snapshot = *snapshot;
                group.membership = Arc::clone(membership);
                group.entries.retain(|entry| entry.index > snapshot.index);
            }
        }
    }

    /// What the log reports once this is durable, in order.
    fn durable(&self) -> Vec<Durable> {
        match *self {
            Self::Created(group, ..) => vec![Durable::Created { group }],
            Self::Removed(group) => vec![Durable::Removed { group }],
            Self::Snapshot(group, snapshot, _) => vec![Durable::Snapshot {
                group,
                number: snapshot.number,
            }],
            Self::Persist(group, seq, Persist::Reset { .. }, number) => vec![
                Durable::Snapshot { group, number },
                Durable::Persisted { group, seq },
            ],
            Self::Persist(group, seq, ..) => vec![Durable::Persisted { group, seq }],
        }
    }
}

fn persist(group: &mut Group, what: &Persist, covering: u64) {
    match what {
        Persist::HardState(hard_state) => group.hard_state = *hard_state,
        Persist::Append(entries) => {
            let first = entries[0].index;
            group.entries.retain(|entry| entry.index < first);
            group.entries.extend(entries.iter().cloned());
        }
        Persist::Reset {
            index,
            term,
            membership,
        } => {
            group.snapshot = SnapshotRef {
                number: covering,
                index: *index,
                term: *term,
            };
            group.membership = Arc::clone(membership);
            group.entries.clear();
        }
    }
}

/// The states that a crash now may leave: the durable one, and those after it.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Never empty after the start; the first is durable, each next one is after one more operation
    /// (or after a part of an append).
    states: VecDeque<State>,
    /// What is to be reported for the states after those, and how many states it settles.
    expected: VecDeque<(usize, Vec<Durable>)>,
    /// How many states a restart found that are not yet on the disk again.
    recovered: usize,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            states: VecDeque::from([State::new()]),
            ..Self::default()
        }
    }

    pub(crate) fn now(&self) -> &State {
        self.states.back().expect("there is always a state")
    }

    pub(crate) fn push(&mut self, op: &Op) {
        let before = self.states.len();
        // The log may write a large append in parts: any prefix of it is a state.
        if let Op::Persist(group, seq, Persist::Append(entries), covering) = op {
            for count in 1..entries.len() {
                let part = Persist::Append(entries[..count].to_vec());
                self.push_state(&Op::Persist(*group, *seq, part, *covering));
            }
        }
        self.push_state(op);
        let count = self.states.len() - before;
        self.expected.push_back((count, op.durable()));
    }

    fn push_state(&mut self, op: &Op) {
        // Parts of one append all start from the state before it; applying them in turn is the same.
        let mut state = self.now().clone();
        op.apply(&mut state);
        self.states.push_back(state);
    }

    /// The log has reported this.
    pub(crate) fn durable(&mut self, done: &[Durable]) {
        let mut done = done.iter();
        while let Some(first) = done.next() {
            if *first == Durable::Started {
                self.states.drain(..self.recovered);
                self.recovered = 0;
                continue;
            }
            let (count, expected) = self.expected.pop_front().expect("something was asked");
            let mut reported = vec![*first];
            reported.extend(done.by_ref().take(expected.len() - 1));
            assert_eq!(reported, expected);
            assert_eq!(self.recovered, 0, "a promise before the start");
            self.states.drain(..count);
        }
    }

    /// Compares what was recovered with what may be there, and goes on from it.
    pub(crate) fn recovered(&mut self, recovered: &Recovered) {
        let found = states_of(recovered);
        let matching = self
            .states
            .iter()
            .rposition(|state| with_terms(state) == found);
        let Some(at) = matching else {
            panic!(
                "recovered\n{found:#?}\nwhich is none of the {} states from\n{:#?}\nto\n{:#?}",
                self.states.len(),
                self.states[0],
                self.now()
            );
        };
        self.states.truncate(at + 1);
        *self.states.back_mut().expect("the match") = found;
        self.recovered = at;
        self.expected.clear();
    }
}

/// A term is never below that of the last entry or the snapshot.
fn with_terms(state: &State) -> State {
    let mut state = state.clone();
    for group in state.values_mut() {
        let term = group.term_at(group.last());
        if group.hard_state.term < term {
            group.hard_state = HardState { term, vote: None };
        }
    }
    state
}

fn states_of(recovered: &Recovered) -> State {
    let groups = recovered.groups.iter();
    groups
        .map(|(id, group)| {
            let group = Group {
                replica: group.replica,
                hard_state: group.hard_state,
                snapshot: group.snapshot,
                membership: Arc::clone(&group.membership),
                entries: group.entries.clone(),
            };
            (*id, group)
        })
        .collect()
}
