//! What should be proposed next: from the state, and what was heard, to commands.
//!
//! Only the shard manager's primary plans. A plan is a proposal: it is made outside the log, so it may use
//! hearsay and may change with the program, and every command of it is checked again when it is
//! applied. A stale or doubled plan is refused and nothing worse. So nothing here has to be
//! replicated, and a new primary simply plans from what the state says.
//!
//! A plan moves the state towards three aims: the actual map equals the desired one, every group has its
//! replicas on living nodes and all is even. Where nothing can be done, it proposes nothing, and
//! [`State::under_replicated`] says so. The same state and hearsay give the same plan.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{GroupId, Slot};

use crate::command::Command;
use crate::hearsay::Hearsay;
use crate::limits::{MOVE_BYTES_MAX, MOVE_SLOTS_MAX};
use crate::numbers::MoveId;
use crate::placement::replica_changes;
use crate::primaries::transfers;
use crate::runs::SlotRuns;
use crate::shards::{MANAGER, Stage};
use crate::state::State;

/// The commands that bring the state nearer to its aims, to be proposed in this order; none when all
/// is as it should be or has been ordered. To be asked again when the state has changed, and now
/// and then, for what was refused or came to nothing.
#[must_use]
pub fn next_commands(state: &State, hearsay: &Hearsay) -> Vec<Command> {
    let mut commands = replica_changes(state, hearsay);
    commands.extend(retirements(state));
    commands.extend(moves(state, hearsay));
    commands.extend(transfers(state, hearsay));
    commands
}

/// Shards that had to leave and have nothing left.
fn retirements(state: &State) -> Vec<Command> {
    let owners: BTreeSet<GroupId> = state.owners().filter_map(|(_, _, owner)| owner).collect();
    state
        .shards()
        .iter()
        .filter(|(group, shard)| **group != MANAGER && shard.stage != Stage::Retired)
        .map(|(group, _)| *group)
        .filter(|group| !state.is_member(*group) && !owners.contains(group))
        .filter(|group| state.moves_of(*group).next().is_none())
        .map(|group| Command::Retire { group })
        .collect()
}

/// Moves to be opened: of those shards first that have the fewest open, so that many work at once; each
/// in the order of the slots, so that runs stay long.
fn moves(state: &State, hearsay: &Hearsay) -> Vec<Command> {
    let max = state.settings().moves_open_max as usize;
    let room = max.saturating_sub(state.moves_at_work());
    if room == 0 {
        return Vec::new();
    }
    let mut busy: BTreeMap<GroupId, u32> = BTreeMap::new();
    for open in state.moves().values() {
        for group in open.from.iter().chain([&open.to]) {
            *busy.entry(*group).or_default() += 1;
        }
    }
    let mut waiting = misplaced(state);
    let mut commands = Vec::new();
    while commands.len() < room {
        let load = |group: &GroupId| busy.get(group).copied().unwrap_or(0);
        let calmest = waiting
            .iter()
            .min_by_key(|((from, to), slots)| {
                let source = from.as_ref().map_or(0, load);
                (source + load(to), slots.last().copied())
            })
            .map(|(pair, _)| *pair);
        let Some((from, to)) = calmest else {
            break;
        };
        let slots = waiting.get_mut(&(from, to)).expect("it was found there");
        let taken = take(from.is_some(), slots, hearsay);
        if slots.is_empty() {
            waiting.remove(&(from, to));
        }
        for group in from.iter().chain([&to]) {
            *busy.entry(*group).or_default() += 1;
        }
        commands.push(Command::OpenMove {
            from,
            to,
            slots: taken,
        });
    }
    commands
}

type Waiting = BTreeMap<(Option<GroupId>, GroupId), Vec<Slot>>;

/// The slots that are not where they should be, could be moved, and are not moving; by where they
/// are and should be, the last one first.
fn misplaced(state: &State) -> Waiting {
    let working: BTreeSet<GroupId> = state
        .shards()
        .iter()
        .filter(|(_, shard)| shard.stage == Stage::Serving && state.can_decide(shard))
        .map(|(group, _)| *group)
        .collect();
    let mut waiting = Waiting::new();
    let wanted = state.newest().slots.cells();
    let cells = state.slots().cells().iter().zip(wanted).enumerate();
    for (slot, (owned, wanted)) in cells.rev() {
        let Some(to) = wanted.filter(|to| Some(*to) != owned.owner) else {
            continue;
        };
        let mut sides = owned.owner.iter().chain([&to]);
        if owned.open == MoveId::default() && sides.all(|group| working.contains(group)) {
            let slots = waiting.entry((owned.owner, to)).or_default();
            slots.push(Slot(slot as u16));
        }
    }
    waiting
}

/// As many slots from the end as one move takes along.
fn take(has_source: bool, slots: &mut Vec<Slot>, hearsay: &Hearsay) -> SlotRuns {
    let most = if has_source {
        MOVE_SLOTS_MAX as usize
    } else {
        slots.len()
    };
    let mut bytes = 0;
    let mut taken = Vec::new();
    while taken.len() < most {
        let Some(slot) = slots.last() else {
            break;
        };
        bytes += hearsay.slot_bytes.get(slot).copied().unwrap_or(0);
        if has_source && bytes > MOVE_BYTES_MAX && !taken.is_empty() {
            break;
        }
        taken.extend(slots.pop());
    }
    SlotRuns::of_slots(taken)
}
