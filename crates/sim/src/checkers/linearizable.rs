//! Is there an order of the operations that explains what every client was told?
//!
//! The search of Wing and Gong (1993) with the memory of Lowe (2017): at each step some operation
//! must come next that was called before any other one returned. Try each, and give up a branch that
//! stands where another one stood before: the same operations done and the same state reached.
//!
//! Operations with an unknown outcome need not be placed at all. They are tried last, since a history
//! usually explains itself without most of them, and they would drown the search (they stay open for
//! ever, and pile up) if it did not know two things. Those that ask for the same are interchangeable,
//! so one of them is tried. And placing one is pointless if whatever is placed right after it leads
//! to the same state without it: leaving it for later can only be better. Long chains of them are
//! tried only after orders without such chains were.
//!
//! What is remembered is a fingerprint of 128 bits, not the position itself. Two positions with one
//! fingerprint could make a right history look wrong, never a wrong one right.

use std::collections::HashSet;
use std::fmt::{Debug, Write as _};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::history::{Operation, Outcome};
use crate::world::Time;

/// What one object is, and what operations do to it.
pub trait Model {
    /// What is asked.
    type Input: Debug + PartialEq;
    /// What is answered.
    type Output: Debug;
    /// What the object holds. The hash stands for the state, and must tell different states apart.
    type State: Clone + Hash + Debug;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// Pushes every state that the operation can lead to from `state` with what it returned. None
    /// means that it could not return that. An unknown outcome fits whatever happens.
    fn step(
        &self,
        state: &Self::State,
        operation: &Operation<Self::Input, Self::Output>,
        next: &mut Vec<Self::State>,
    );

    /// Whether the operation changes nothing wherever it fits, be it by what it asks or by what it
    /// returned.
    fn is_read(&self, operation: &Operation<Self::Input, Self::Output>) -> bool;

    /// Whether `read` can come to fit after some of `others`, in some order, from this state on.
    /// "Yes" is never wrong, and "no" saves the search from trying every order of them.
    fn within_reach<'a>(
        &self,
        _state: &Self::State,
        _read: &Operation<Self::Input, Self::Output>,
        _others: impl Iterator<Item = &'a Operation<Self::Input, Self::Output>> + Clone,
    ) -> bool
    where
        Self::Input: 'a,
        Self::Output: 'a,
    {
        true
    }
}

/// The verdict on one object's history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Some order explains everything.
    Linearizable,
    /// No order does; the text shows how far the search came.
    Violated(String),
    /// The search was not finished within the budget. A failure too: nothing was shown.
    GaveUp,
}

/// How many steps a search may take by default; a step takes well under a microsecond.
pub const BUDGET: u64 = 3_000_000;

/// Looks for an order, in at most `budget` steps.
pub fn check<M: Model>(
    model: &M,
    operations: &[&Operation<M::Input, M::Output>],
    budget: u64,
) -> Verdict {
    let mut search = Search::new(model, operations);
    for chain_max in [1, 2] {
        if !search.unknown.is_empty() && search.run(budget / 3, chain_max) == Some(true) {
            return Verdict::Linearizable;
        }
    }
    match search.run(budget, usize::MAX) {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Violated(search.describe()),
        None => Verdict::GaveUp,
    }
}

/// How many reads to come are looked at to see that a branch is hopeless.
const LOOKAHEAD: usize = 12;

/// A call or a return, as a link of a list in order of time.
#[derive(Clone, Copy)]
struct Link {
    operation: usize,
    is_call: bool,
    previous: usize,
    next: usize,
}

/// One operation that was placed, and the other states it could have led to.
struct Frame<S> {
    operation: usize,
    before: S,
    /// Where to go on with the choice if this one was wrong.
    after: Cursor,
    /// Successor states of the same operation that are still to be tried.
    others: Vec<S>,
}

/// A position in the choices at one step, in the order in which they are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cursor {
    /// Nothing was tried yet.
    Start,
    /// The known operations up to this return were tried: the one that is over first comes first,
    /// since the others can wait longer.
    Known(Time, usize),
    /// This many of the unknown ones were tried.
    Unknown(usize),
    /// There is no other choice.
    Forced,
}

/// A choice: the operation, where to go on after it, and what it leads to.
type Choice<S> = (usize, Cursor, Vec<S>);

struct Search<'a, M: Model> {
    model: &'a M,
    operations: Vec<&'a Operation<M::Input, M::Output>>,
    /// Link 0 is the head and the tail of the ring.
    links: Vec<Link>,
    /// By operation: its call link and its return link; of an unknown one, nothing.
    places: Vec<Option<(usize, usize)>>,
    /// The operations with an unknown outcome, in order of their calls.
    unknown: Vec<usize>,
    /// By operation, if it is unknown: the one before it in `unknown` that asks for the same.
    twins: Vec<Option<usize>>,
    is_placed: Vec<bool>,
    /// By operation: whether it changes nothing.
    reads: Vec<bool>,
    /// The sum of the placed operations' random words.
    placed_print: u128,
    prints: Vec<u128>,
    seen: HashSet<u128, BuildHasherDefault<Identity>>,
    /// The most operations ever placed at once, and what could not follow.
    best: (usize, String),
}

const HEAD: usize = 0;

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, operations: &[&'a Operation<M::Input, M::Output>]) -> Self {
        let operations: Vec<_> = operations
            .iter()
            .copied()
            .filter(|operation| match operation.outcome {
                Outcome::Done(_) => true,
                Outcome::Refused => false,
                Outcome::Unknown => !model.is_read(operation),
            })
            .collect();
        let mut search = Self {
            model,
            links: Vec::new(),
            places: vec![None; operations.len()],
            unknown: Vec::new(),
            twins: vec![None; operations.len()],
            is_placed: vec![false; operations.len()],
            reads: operations
                .iter()
                .map(|operation| model.is_read(operation))
                .collect(),
            placed_print: 0,
            prints: (0..operations.len() as u64).map(print_of).collect(),
            seen: HashSet::default(),
            best: (0, String::new()),
            operations,
        };
        search.link();
        search
    }

    /// Builds the ring of calls and returns. Intervals are closed: at one instant calls come first.
    fn link(&mut self) {
        let mut moments: Vec<(Time, bool, usize)> = Vec::new();
        for (at, operation) in self.operations.iter().enumerate() {
            assert!(
                operation.called <= operation.returned,
                "returned before it was called"
            );
            if matches!(operation.outcome, Outcome::Unknown) {
                self.unknown.push(at);
            } else {
                moments.push((operation.called, false, at));
                moments.push((operation.returned, true, at));
            }
        }
        moments.sort_unstable();
        let operations = &self.operations;
        self.unknown.sort_by_key(|at| operations[*at].called);
        for (place, at) in self.unknown.iter().enumerate() {
            let same = |other: &&usize| operations[**other].input == operations[*at].input;
            self.twins[*at] = self.unknown[..place].iter().rev().find(same).copied();
        }
        let count = moments.len();
        let ring = |at: usize, operation, is_call| Link {
            operation,
            is_call,
            previous: if at == 0 { count } else { at - 1 },
            next: if at == count { 0 } else { at + 1 },
        };
        self.links.push(ring(HEAD, usize::MAX, false));
        for (at, (_, is_return, operation)) in moments.into_iter().enumerate() {
            self.links.push(ring(at + 1, operation, !is_return));
            let place = self.places[operation].get_or_insert((0, 0));
            if is_return {
                place.1 = at + 1;
            } else {
                place.0 = at + 1;
            }
        }
    }

    /// Whether an order exists in which no more than `chain_max` unknown operations follow each
    /// other; `None` if the budget did not suffice.
    fn run(&mut self, budget: u64, chain_max: usize) -> Option<bool> {
        let mut state = self.model.initial();
        let mut stack: Vec<Frame<M::State>> = Vec::new();
        let mut cursor = Cursor::Start;
        self.seen.clear();
        for _ in 0..budget {
            if self.links[HEAD].next == HEAD {
                return Some(true);
            }
            let chain = stack
                .iter()
                .rev()
                .take_while(|frame| self.is_unknown(frame.operation));
            let may_chain = chain.take(chain_max).count() < chain_max;
            if let Some((operation, after, mut nexts)) = self.choose(&state, cursor, may_chain) {
                if let Some(top) = stack
                    .last()
                    .filter(|top| self.places[top.operation].is_none())
                {
                    self.drop_pointless(&top.before, operation, &mut nexts);
                }
                let is_forced = self.is_alone();
                self.place(operation);
                if let Some(next) = self.first_unseen(&mut nexts, is_forced) {
                    let before = std::mem::replace(&mut state, next);
                    stack.push(Frame {
                        operation,
                        before,
                        after,
                        others: nexts,
                    });
                    cursor = Cursor::Start;
                } else {
                    self.unplace(operation);
                    cursor = after;
                }
                continue;
            }
            if stack.len() > self.best.0 || self.best.1.is_empty() {
                self.best = (stack.len(), self.describe_stuck(&state));
            }
            let Some(mut frame) = stack.pop() else {
                return Some(false);
            };
            if let Some(next) = self.first_unseen(&mut frame.others, false) {
                state = next;
                stack.push(frame);
                cursor = Cursor::Start;
            } else {
                self.unplace(frame.operation);
                state = frame.before;
                cursor = frame.after;
            }
        }
        for frame in stack.into_iter().rev() {
            self.unplace(frame.operation);
        }
        None
    }

    fn is_unknown(&self, operation: usize) -> bool {
        self.places[operation].is_none()
    }

    /// The next operation from the cursor on that can come next; an unknown one only if it may.
    fn choose(
        &self,
        state: &M::State,
        cursor: Cursor,
        may_chain: bool,
    ) -> Option<Choice<M::State>> {
        let choice = match cursor {
            Cursor::Forced => return None,
            Cursor::Unknown(_) => None,
            Cursor::Start => self
                .choose_read(state)
                .or_else(|| self.choose_known(state, Time(0), 0)),
            Cursor::Known(returned, operation) => self.choose_known(state, returned, operation + 1),
        };
        choice.or_else(|| match cursor {
            _ if !may_chain => None,
            Cursor::Unknown(tried) => self.choose_unknown(state, tried),
            _ => self.choose_unknown(state, 0),
        })
    }

    /// A known read that fits. It may as well come at once: in any order that explains the rest it
    /// can be moved to here. (Not so a write that happens to change nothing here: it may be needed
    /// where it does.)
    fn choose_read(&self, state: &M::State) -> Option<Choice<M::State>> {
        let print = print_of_state(state);
        let mut nexts = Vec::new();
        for operation in self.candidates().filter(|at| self.reads[*at]) {
            nexts.clear();
            self.model
                .step(state, self.operations[operation], &mut nexts);
            if nexts.len() == 1 && print_of_state(&nexts[0]) == print {
                return Some((operation, Cursor::Forced, nexts));
            }
        }
        None
    }

    /// A known operation that fits, the first by return from this one on.
    fn choose_known(
        &self,
        state: &M::State,
        mut returned: Time,
        mut operation: usize,
    ) -> Option<Choice<M::State>> {
        let mut nexts = Vec::new();
        loop {
            let from = (returned, operation);
            let key = |at: usize| (self.operations[at].returned, at);
            let found = self
                .candidates()
                .map(key)
                .filter(|key| *key >= from)
                .min()?;
            self.model.step(state, self.operations[found.1], &mut nexts);
            if !nexts.is_empty() {
                return Some((found.1, Cursor::Known(found.0, found.1), nexts));
            }
            (returned, operation) = (found.0, found.1 + 1);
        }
    }

    /// An unknown operation that fits, after those that were tried.
    fn choose_unknown(&self, state: &M::State, tried: usize) -> Option<Choice<M::State>> {
        let mut nexts = Vec::new();
        let latest = self.first_return();
        for (place, operation) in self.unknown.iter().copied().enumerate().skip(tried) {
            if self.operations[operation].called > latest {
                return None;
            }
            // Of twins the first comes first: both stay open for ever, so which one is no matter.
            let twin_waits = self.twins[operation].is_some_and(|twin| !self.is_placed[twin]);
            if !self.is_placed[operation] && !twin_waits {
                self.model
                    .step(state, self.operations[operation], &mut nexts);
                if !nexts.is_empty() {
                    return Some((operation, Cursor::Unknown(place + 1), nexts));
                }
            }
        }
        None
    }

    /// The known operations that can come next: called before any other one returned.
    fn candidates(&self) -> impl Iterator<Item = usize> + '_ {
        let mut at = self.links[HEAD].next;
        std::iter::from_fn(move || {
            let link = self.links[at];
            at = link.next;
            link.is_call.then_some(link.operation)
        })
    }

    /// When the first of the operations that are not placed returned: whatever comes next was called
    /// by then.
    fn first_return(&self) -> Time {
        let mut at = self.links[HEAD].next;
        while at != HEAD {
            let link = self.links[at];
            if !link.is_call {
                return self.operations[link.operation].returned;
            }
            at = link.next;
        }
        Time::NEVER
    }

    /// Drops the states that `operation` also leads to without the unknown one placed before it.
    fn drop_pointless(&self, before: &M::State, operation: usize, nexts: &mut Vec<M::State>) {
        let mut without = Vec::new();
        self.model
            .step(before, self.operations[operation], &mut without);
        let without: Vec<u128> = without.iter().map(print_of_state).collect();
        nexts.retain(|next| !without.contains(&print_of_state(next)));
    }

    /// Whether only one operation can come next. Placing it rules nothing out that was not ruled out
    /// before, so nothing has to be looked at for that: most clients of most histories are alone, and
    /// a look far ahead costs more than all other steps.
    fn is_alone(&self) -> bool {
        self.unknown.is_empty() && self.candidates().nth(1).is_none()
    }

    /// A state that was not seen before, and from which the next reads can come to fit.
    fn first_unseen(&mut self, nexts: &mut Vec<M::State>, is_forced: bool) -> Option<M::State> {
        while let Some(next) = nexts.pop() {
            let is_new = self.seen.insert(print_of_state(&next) ^ self.placed_print);
            if is_new && (is_forced || !self.is_hopeless(&next)) {
                return Some(next);
            }
        }
        None
    }

    /// Whether one of the next reads cannot come to fit any more.
    fn is_hopeless(&self, state: &M::State) -> bool {
        let mut at = self.links[HEAD].next;
        let mut looked_at = 0;
        while at != HEAD && looked_at < LOOKAHEAD {
            let Link {
                operation,
                is_call,
                next,
                ..
            } = self.links[at];
            at = next;
            if !is_call || !self.reads[operation] {
                continue;
            }
            looked_at += 1;
            let read = self.operations[operation];
            let others = self.placeable_before(read.returned);
            if !self.model.within_reach(state, read, others) {
                return true;
            }
        }
        false
    }

    /// What is not placed yet and was called by then.
    fn placeable_before(
        &self,
        moment: Time,
    ) -> impl Iterator<Item = &'a Operation<M::Input, M::Output>> + Clone {
        let mut at = self.links[HEAD].next;
        let known = std::iter::from_fn(move || {
            while at != HEAD {
                let Link {
                    operation,
                    is_call,
                    next,
                    ..
                } = self.links[at];
                if is_call && self.operations[operation].called > moment {
                    return None;
                }
                at = next;
                if is_call {
                    return Some(operation);
                }
            }
            None
        });
        let unknown = self
            .unknown
            .iter()
            .copied()
            .filter(|at| !self.is_placed[*at]);
        let unknown = unknown.take_while(move |at| self.operations[*at].called <= moment);
        known.chain(unknown).map(|at| self.operations[at])
    }

    fn place(&mut self, operation: usize) {
        self.is_placed[operation] = true;
        self.placed_print ^= self.prints[operation];
        if let Some((call, back)) = self.places[operation] {
            for at in [call, back] {
                let Link { previous, next, .. } = self.links[at];
                self.links[previous].next = next;
                self.links[next].previous = previous;
            }
        }
    }

    fn unplace(&mut self, operation: usize) {
        self.is_placed[operation] = false;
        self.placed_print ^= self.prints[operation];
        if let Some((call, back)) = self.places[operation] {
            for at in [back, call] {
                let Link { previous, next, .. } = self.links[at];
                self.links[previous].next = at;
                self.links[next].previous = at;
            }
        }
    }

    fn describe_stuck(&self, state: &M::State) -> String {
        let mut text = format!("nothing can follow the state {state:?}; under way were");
        let mut at = self.links[HEAD].next;
        for _ in 0..20 {
            let link = self.links[at];
            if at == HEAD || !link.is_call {
                break;
            }
            let _ = write!(text, "\n  {}", describe(self.operations[link.operation]));
            at = link.next;
        }
        let open = self
            .unknown
            .iter()
            .filter(|operation| !self.is_placed[**operation])
            .count();
        let _ = write!(text, "\n  and {open} with an unknown outcome");
        text
    }

    fn describe(&self) -> String {
        let (placed, stuck) = &self.best;
        format!(
            "{placed} of {} operations can be ordered, then {stuck}",
            self.operations.len()
        )
    }
}

fn describe<I: Debug, O: Debug>(operation: &Operation<I, O>) -> String {
    let Operation {
        client,
        input,
        called,
        returned,
        outcome,
    } = operation;
    format!("client {client} [{called}, {returned}] {input:?} -> {outcome:?}")
}

/// A random word for each operation, so that a set of them is the sum of its words.
fn print_of(number: u64) -> u128 {
    let mut hasher = Fingerprint::default();
    hasher.write_u64(number);
    hasher.print()
}

fn print_of_state(state: &impl Hash) -> u128 {
    let mut hasher = Fingerprint::default();
    state.hash(&mut hasher);
    hasher.print()
}

/// Two independent 64-bit hashes by multiplication and rotation. Not against adversaries.
#[derive(Clone)]
struct Fingerprint {
    words: [u64; 2],
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self {
            words: [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344],
        }
    }
}

impl Fingerprint {
    fn print(&self) -> u128 {
        let finish = |mut z: u64| {
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        (u128::from(finish(self.words[0])) << 64) | u128::from(finish(self.words[1]))
    }
}

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 59));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let mix = |hash: u64, multiplier: u64| {
            (hash ^ word)
                .wrapping_mul(multiplier)
                .rotate_left(29)
                .wrapping_add(hash)
        };
        self.words[0] = mix(self.words[0], 0x9e37_79b9_7f4a_7c15);
        self.words[1] = mix(self.words[1], 0xc2b2_ae3d_27d4_eb4f);
    }

    fn finish(&self) -> u64 {
        self.print() as u64
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are kept")
    }

    fn write_u128(&mut self, print: u128) {
        self.0 = print as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
