//! Time to live goes by the logged clock, and by nothing else.
//!
//! The clock that counts is the one in the state of whoever answers. It is not known to clients, but
//! it is known to the judge within bounds: an operation sees a state that holds everything committed
//! when it was called, and nothing that nobody had applied when it returned. So a key that lives for
//! 100 ms may vanish when some replica's clock has gone 100 ms further, and must have vanished once
//! that much is committed. [`LoggedClock`] keeps these two bounds over time; the model of a key does
//! the rest.
//!
//! The clock itself must keep to the wall clocks: it never runs ahead of the fastest of a majority.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kvorum_base::{GroupId, UnixMillis};

use super::linearizable::Model;
use super::strings::{Input, Output, State, Strings};
use crate::history::Operation;
use crate::world::Time;

/// The bounds of the logged clocks of all groups over virtual time, in Unix milliseconds. Which group answers
/// is not known to clients either: keys move.
#[derive(Clone, Default, Debug)]
pub struct LoggedClock {
    groups: BTreeMap<GroupId, Bounds>,
}

/// Those of one group.
#[derive(Clone, Default, Debug)]
struct Bounds {
    /// The clock that every answer given from then on is at or after.
    committed: Vec<(Time, u64)>,
    /// The latest clock in any state.
    applied: Vec<(Time, u64)>,
}

impl LoggedClock {
    /// A replica has applied an entry, which is committed by that, and its clock says this.
    pub fn applied(&mut self, group: GroupId, clock: UnixMillis, now: Time) {
        let bounds = self.groups.entry(group).or_default();
        rise(&mut bounds.applied, clock.get(), now);
        rise(&mut bounds.committed, clock.get(), now);
    }

    /// The clock in the state that an operation called now will see says at least this.
    #[must_use]
    pub fn lowest(&self, called: Time) -> u64 {
        // What is applied at that very instant may come after the call.
        let lowest = |bounds: &Bounds| {
            let known = bounds.committed.partition_point(|(at, _)| *at < called);
            known.checked_sub(1).map(|at| bounds.committed[at].1)
        };
        // A group that was not there yet answers with the clock of those whose slots it got.
        self.groups.values().filter_map(lowest).min().unwrap_or(0)
    }

    /// The clock in the state that an operation saw that has returned says at most this.
    #[must_use]
    pub fn highest(&self, returned: Time) -> u64 {
        if returned == Time::NEVER {
            return u64::MAX;
        }
        let highest = |bounds: &Bounds| {
            let known = bounds.applied.partition_point(|(at, _)| *at <= returned);
            known.checked_sub(1).map_or(0, |at| bounds.applied[at].1)
        };
        self.groups.values().map(highest).max().unwrap_or(0)
    }
}

fn rise(clocks: &mut Vec<(Time, u64)>, clock: u64, now: Time) {
    if clocks.last().is_none_or(|(_, last)| *last < clock) {
        clocks.push((now, clock));
    }
}

/// The model of a key whose time to live goes by the logged clock: every moment is told by it.
#[derive(Clone, Debug)]
pub struct LoggedStrings {
    clock: Rc<LoggedClock>,
    strings: Strings,
}

impl LoggedStrings {
    /// The model under this clock.
    #[must_use]
    pub fn new(clock: Rc<LoggedClock>) -> Self {
        let strings = Strings {
            early: Duration::ZERO,
            late: Duration::ZERO,
        };
        Self { clock, strings }
    }

    fn logged(&self, operation: &Operation<Input, Output>) -> Operation<Input, Output> {
        let returned = match self.clock.highest(operation.returned) {
            u64::MAX => Time::NEVER,
            millis => Time::from_millis(millis),
        };
        Operation {
            called: Time::from_millis(self.clock.lowest(operation.called)),
            returned,
            ..operation.clone()
        }
    }
}

impl Model for LoggedStrings {
    type Input = Input;
    type Output = Output;
    type State = State;

    fn initial(&self) -> State {
        self.strings.initial()
    }

    fn step(&self, state: &State, operation: &Operation<Input, Output>, next: &mut Vec<State>) {
        self.strings.step(state, &self.logged(operation), next);
    }

    fn is_read(&self, operation: &Operation<Input, Output>) -> bool {
        self.strings.is_read(operation)
    }

    fn within_reach<'a>(
        &self,
        state: &State,
        read: &Operation<Input, Output>,
        others: impl Iterator<Item = &'a Operation<Input, Output>> + Clone,
    ) -> bool {
        self.strings.within_reach(state, read, others)
    }
}
