//! What one key that holds a string is: the model that histories of string commands are checked
//! against. Written from the commands' documentation, and naive on purpose: it must not share a
//! mistake with the store.
//!
//! Time to live is decided by the store's logged clock, which follows real clocks within a slack.
//! Around a deadline the key may be seen either way, but it never comes back: seeing it gone is a
//! change of the state.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use crate::checkers::linearizable::{Model, Verdict, check};
use crate::history::{Operation, Outcome};
use crate::world::Time;

/// A value, shared between the states of a search.
pub type Value = Rc<[u8]>;

/// A command on one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// GET.
    Get,
    /// SET, SETNX, GETSET, PSETEX and the labs' put.
    Set {
        /// The new value.
        value: Value,
        /// NX is `Some(false)`, XX is `Some(true)`: whether the key must exist.
        exists: Option<bool>,
        /// Whether the old value is returned instead of OK.
        get: bool,
        /// How the time to live changes.
        ttl: Ttl,
    },
    /// GETDEL.
    GetDel,
    /// DEL or UNLINK of this key.
    Del,
    /// EXISTS of this key.
    Exists,
    /// STRLEN.
    StrLen,
    /// INCRBY.
    IncrBy(i64),
    /// APPEND; the labs' append returns OK instead of the length.
    Append(Value),
    /// The same behind a WATCH and a GET: only if the key still holds what that returned.
    AppendTo(Option<Value>, Value),
    /// PEXPIRE without conditions.
    Expire(Duration),
    /// PERSIST.
    Persist,
}

/// What a SET does to the time to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// It ends.
    None,
    /// It goes on.
    Keep,
    /// It begins anew.
    Set(Duration),
}

impl Input {
    /// A SET without options.
    #[must_use]
    pub fn set(value: &[u8]) -> Self {
        Self::Set {
            value: value.into(),
            exists: None,
            get: false,
            ttl: Ttl::None,
        }
    }
}

/// What a command returned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// OK.
    Ok,
    /// A value, or null.
    Value(Option<Value>),
    /// An integer.
    Int(i64),
    /// "value is not an integer or out of range", or the overflow of an increment.
    NotAnInteger,
}

/// What the key holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    value: Option<Value>,
    /// The earliest and the latest moment at which it can be gone.
    deadline: Option<(Time, Time)>,
}

impl State {
    /// The value, if the key exists.
    #[must_use]
    pub fn value(&self) -> Option<&Value> {
        self.value.as_ref()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        match &self.value {
            None => hasher.write_u64(u64::MAX),
            Some(value) => {
                hasher.write_u64(value.len() as u64);
                hasher.write(value);
            }
        }
        if let Some((low, high)) = self.deadline {
            hasher.write_u64(low.0);
            hasher.write_u64(high.0);
        }
    }
}

const ABSENT: State = State {
    value: None,
    deadline: None,
};

/// The model of a key.
#[derive(Clone, Copy, Debug)]
pub struct Strings {
    /// How far the logged clock may be ahead of virtual time: how much too early a key may be gone.
    pub early: Duration,
    /// How far the logged clock may be behind: how much too late. It stands still while a shard has no
    /// primary.
    pub late: Duration,
}

impl Model for Strings {
    type Input = Input;
    type Output = Output;
    type State = State;

    fn initial(&self) -> State {
        ABSENT
    }

    fn step(&self, state: &State, operation: &Operation<Input, Output>, next: &mut Vec<State>) {
        let expected = match &operation.outcome {
            Outcome::Done(output) => Some(output),
            Outcome::Refused => return,
            Outcome::Unknown => None,
        };
        let (may_live, may_be_gone) = fate(state, operation);
        // The first choice is pushed last.
        for (possible, before) in [(may_be_gone, &ABSENT), (may_live, state)] {
            let fits = match &operation.input {
                Input::AppendTo(read, _) => before.value == *read,
                _ => true,
            };
            if possible && fits {
                let (after, output) = self.apply(before, operation);
                if expected.is_none_or(|expected| agrees(&operation.input, expected, &output)) {
                    next.push(after);
                }
            }
        }
    }

    fn is_read(&self, operation: &Operation<Input, Output>) -> bool {
        let returned = match &operation.outcome {
            Outcome::Done(output) => Some(output),
            _ => None,
        };
        matches!(
            (&operation.input, returned),
            (Input::Get | Input::Exists | Input::StrLen, _)
                | (
                    Input::Set { get: false, .. } | Input::GetDel,
                    Some(Output::Value(None))
                )
                | (
                    Input::Set {
                        exists: Some(false),
                        ..
                    },
                    Some(Output::Value(Some(_)))
                )
                | (
                    Input::Set {
                        exists: Some(true),
                        ..
                    },
                    Some(Output::Value(None))
                )
                | (Input::IncrBy(_), Some(Output::NotAnInteger))
                | (
                    Input::Del | Input::Expire(_) | Input::Persist,
                    Some(Output::Int(0))
                )
        )
    }

    fn within_reach<'a>(
        &self,
        state: &State,
        read: &Operation<Input, Output>,
        others: impl Iterator<Item = &'a Operation<Input, Output>> + Clone,
    ) -> bool {
        let Some(wanted) = value_read(read) else {
            return true;
        };
        let held = state.value().map_or(&[][..], |value| value);
        let (mut starts, mut pieces) = (Vec::new(), Vec::new());
        for other in others {
            match &other.input {
                Input::Set {
                    value,
                    ttl: Ttl::None,
                    ..
                } => starts.push(&value[..]),
                Input::Append(piece) | Input::AppendTo(_, piece) => pieces.push(&piece[..]),
                _ if self.is_read(other) => {}
                // Too many ways to follow up.
                _ => return true,
            }
        }
        let Some(wanted) = wanted else {
            return state.value.is_none() || state.deadline.is_some();
        };
        starts.push(held);
        state.deadline.is_some()
            || starts
                .iter()
                .any(|start| is_made_of(wanted, start, &pieces))
    }
}

/// Whether `whole` is `start` and then some of these pieces, as far as is seen without guessing.
fn is_made_of(whole: &[u8], start: &[u8], pieces: &[&[u8]]) -> bool {
    let Some(mut rest) = whole.strip_prefix(start) else {
        return false;
    };
    while !rest.is_empty() {
        let mut fitting = pieces.iter().filter(|piece| rest.starts_with(piece));
        let Some(first) = fitting.next() else {
            return false;
        };
        if first.is_empty() || fitting.any(|other| other.len() != first.len()) {
            return true;
        }
        rest = &rest[first.len()..];
    }
    true
}

/// What a GET returned.
fn value_read(read: &Operation<Input, Output>) -> Option<Option<&Value>> {
    match (&read.input, &read.outcome) {
        (Input::Get, Outcome::Done(Output::Value(value))) => Some(value.as_ref()),
        _ => None,
    }
}

/// Whether the key can be alive, and whether it can have expired, somewhere in the interval.
fn fate(state: &State, operation: &Operation<Input, Output>) -> (bool, bool) {
    match state.deadline {
        None => (true, false),
        Some((low, high)) => (operation.called <= high, operation.returned >= low),
    }
}

/// The labs' append does not say how long the value is.
fn agrees(input: &Input, expected: &Output, output: &Output) -> bool {
    expected == output || (matches!(input, Input::Append(_)) && *expected == Output::Ok)
}

impl Strings {
    fn apply(&self, before: &State, operation: &Operation<Input, Output>) -> (State, Output) {
        let old = before.value.clone();
        let same = || before.clone();
        let with = |value: Vec<u8>| State {
            value: Some(value.into()),
            ..before.clone()
        };
        let bytes = old.as_deref().unwrap_or_default();
        match &operation.input {
            Input::Get => (same(), Output::Value(old)),
            Input::Set { .. } => self.set(before, operation),
            Input::GetDel => (ABSENT, Output::Value(old)),
            Input::Del => (ABSENT, Output::Int(i64::from(old.is_some()))),
            Input::Exists => (same(), Output::Int(i64::from(old.is_some()))),
            Input::StrLen => (same(), Output::Int(bytes.len() as i64)),
            Input::IncrBy(by) => {
                let number = if old.is_some() {
                    integer(bytes)
                } else {
                    Some(0)
                };
                match number.and_then(|number| number.checked_add(*by)) {
                    Some(sum) => (with(sum.to_string().into_bytes()), Output::Int(sum)),
                    None => (same(), Output::NotAnInteger),
                }
            }
            Input::Append(more) | Input::AppendTo(_, more) => {
                let whole = [bytes, more].concat();
                let len = whole.len() as i64;
                (with(whole), Output::Int(len))
            }
            Input::Expire(ttl) if old.is_some() => {
                let deadline = Some(self.deadline(operation, *ttl));
                (
                    State {
                        value: old,
                        deadline,
                    },
                    Output::Int(1),
                )
            }
            Input::Persist if before.deadline.is_some() => (
                State {
                    value: old,
                    deadline: None,
                },
                Output::Int(1),
            ),
            Input::Expire(_) | Input::Persist => (same(), Output::Int(0)),
        }
    }

    fn set(&self, before: &State, operation: &Operation<Input, Output>) -> (State, Output) {
        let Input::Set {
            value,
            exists,
            get,
            ttl,
        } = &operation.input
        else {
            unreachable!("only a SET is applied here");
        };
        let old = before.value.clone();
        let wanted = exists.is_none_or(|exists| exists == old.is_some());
        let output = match (get, wanted) {
            (true, _) => Output::Value(old),
            (false, true) => Output::Ok,
            (false, false) => Output::Value(None),
        };
        let deadline = match ttl {
            Ttl::None => None,
            Ttl::Keep => before.deadline,
            Ttl::Set(ttl) => Some(self.deadline(operation, *ttl)),
        };
        let after = State {
            value: Some(Rc::clone(value)),
            deadline,
        };
        (if wanted { after } else { before.clone() }, output)
    }

    fn deadline(&self, operation: &Operation<Input, Output>, ttl: Duration) -> (Time, Time) {
        let low = operation.called + ttl;
        let low = Time(low.0.saturating_sub(self.early.as_micros() as u64));
        (low, operation.returned + ttl + self.late)
    }
}

/// A number as Redis takes it: no sign but a minus, no leading zeros, no spaces.
fn integer(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A command and the key it is on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyInput {
    /// The key.
    pub key: Value,
    /// The command.
    pub input: Input,
}

/// Checks the histories of all keys, each for itself: operations on different keys commute, and the
/// search for one key does not pay for the others.
///
/// # Errors
/// What is wrong with the first key whose history is not linearizable, or not shown to be.
pub fn check_keys<M: Model<Input = Input, Output = Output>>(
    model: &M,
    operations: &[Operation<KeyInput, Output>],
    budget: u64,
) -> Result<(), String> {
    let mut by_key: BTreeMap<Value, Vec<Operation<Input, Output>>> = BTreeMap::new();
    for operation in operations {
        let KeyInput { key, input } = operation.input.clone();
        by_key.entry(key).or_default().push(Operation {
            client: operation.client,
            input,
            called: operation.called,
            returned: operation.returned,
            outcome: operation.outcome.clone(),
        });
    }
    for (key, operations) in by_key {
        let operations: Vec<_> = operations.iter().collect();
        let key = String::from_utf8_lossy(&key).into_owned();
        match check(model, &operations, budget) {
            Verdict::Linearizable => {}
            Verdict::Violated(why) => return Err(format!("key {key} is not linearizable: {why}")),
            Verdict::GaveUp => {
                let count = operations.len();
                return Err(format!("key {key}: gave up on its {count} operations"));
            }
        }
    }
    Ok(())
}
