//! Numbered configs: which shard should have which slot, now and in the past.
//!
//! Config 0 is the first; each change of the shards or of the wish makes the next. A config is a
//! wish: it stands the moment it is made, and data follows it slot by slot (`maps.rs`).
//!
//! - Shards that join or leave rebalance: as even as can be, with the fewest slots moved
//!   (`rebalance.rs`).
//! - An explicit assignment does not rebalance, and holds until shards join or leave or somebody
//!   asks for balance.
//!
//! Only the newest config is kept whole. Of the older ones the oldest is kept, and from there what each
//! changed: since a plan moves few slots, thousands of configs cost little. Beyond the limits the
//! oldest are forgotten, and a question about them is told so.
//!
//! The number of slots is a parameter: 16384 in production, 10 in the course's scenarios.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use kvorum_base::{GroupId, NodeId};

use crate::limits::{CONFIG_ITEMS_KEPT_MAX, CONFIGS_KEPT_MAX};
use crate::numbers::ConfigNumber;
use crate::rebalance::rebalance;
use crate::runs::{SlotRuns, SlotTable};

/// What a config says of a shard: how it came to be. It never changes, so it is right for all
/// configs that have the shard.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Founding {
    /// What operators call it. A label: it may be used again once the shard has left.
    pub name: String,
    /// On which nodes its first replicas were placed, in the order that was asked for.
    pub nodes: Vec<NodeId>,
}

/// A config.
///
/// Invariants: a slot's shard is one of `shards`; with shards, every slot has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Its number.
    pub number: ConfigNumber,
    /// Its shards.
    pub shards: BTreeMap<GroupId, Founding>,
    /// Which shard should have which slot.
    pub slots: SlotTable<Option<GroupId>>,
}

/// What a config changed in the one before.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct ConfigChange {
    pub(crate) joined: BTreeMap<GroupId, Founding>,
    pub(crate) left: BTreeSet<GroupId>,
    /// Runs that have another shard now, in order.
    pub(crate) slots: Vec<(u16, u16, Option<GroupId>)>,
}

impl ConfigChange {
    /// What it costs to keep.
    fn items(&self) -> usize {
        self.slots.len() + self.joined.len() + self.left.len()
    }
}

/// Why there is no such config to be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoConfig {
    /// It was forgotten; this is the oldest that is known.
    Forgotten(ConfigNumber),
    /// It is not made yet; this is the newest.
    Future(ConfigNumber),
}

impl fmt::Display for NoConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forgotten(oldest) => write!(f, "forgotten; the oldest config known is {oldest}"),
            Self::Future(newest) => write!(f, "not made yet; the newest config is {newest}"),
        }
    }
}

/// All configs that are kept.
///
/// Invariants: `newest` is `oldest` with all of `changes` made in order, and its number is that of
/// `oldest` plus their count; the limits hold unless one change alone breaks them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Configs {
    pub(crate) oldest: Config,
    pub(crate) changes: VecDeque<ConfigChange>,
    /// Runs and shards in all changes.
    changed_items: usize,
    newest: Config,
}

impl Config {
    fn change(&mut self, change: &ConfigChange) {
        self.number = self.number.next();
        for group in &change.left {
            self.shards.remove(group);
        }
        self.shards.extend(
            change
                .joined
                .iter()
                .map(|(group, how)| (*group, how.clone())),
        );
        for (first, last, shard) in &change.slots {
            self.slots.cells_mut(*first, *last).fill(*shard);
        }
    }

    /// The slots of a shard.
    #[must_use]
    pub fn slots_of(&self, shard: GroupId) -> SlotRuns {
        self.slots.slots_where(|owner| *owner == Some(shard))
    }
}

impl Configs {
    /// Config 0 without shards: nobody has any slot.
    #[must_use]
    pub fn new(slot_count: u16) -> Self {
        Self::starting_with(Config {
            number: ConfigNumber::default(),
            shards: BTreeMap::new(),
            slots: SlotTable::filled(slot_count, None),
        })
    }

    /// A history that begins with this config.
    pub(crate) fn starting_with(oldest: Config) -> Self {
        Self {
            newest: oldest.clone(),
            oldest,
            changes: VecDeque::new(),
            changed_items: 0,
        }
    }

    /// The newest config.
    #[must_use]
    pub fn newest(&self) -> &Config {
        &self.newest
    }

    /// The number of the oldest config that is kept.
    #[must_use]
    pub fn oldest_number(&self) -> ConfigNumber {
        self.oldest.number
    }

    /// A config by its number.
    ///
    /// # Errors
    /// If it is not kept any more, or not made yet.
    pub fn query(&self, number: ConfigNumber) -> Result<Config, NoConfig> {
        if number > self.newest.number {
            return Err(NoConfig::Future(self.newest.number));
        }
        let Some(steps) = number.get().checked_sub(self.oldest.number.get()) else {
            return Err(NoConfig::Forgotten(self.oldest.number));
        };
        let mut config = self.oldest.clone();
        for change in self.changes.iter().take(steps as usize) {
            config.change(change);
        }
        Ok(config)
    }

    /// Adds shards and rebalances.
    pub fn join(&mut self, joined: BTreeMap<GroupId, Founding>) {
        let mut shards = self.shard_ids();
        shards.extend(joined.keys());
        let change = ConfigChange {
            joined,
            left: BTreeSet::new(),
            slots: self.balanced(&shards),
        };
        self.push(change);
    }

    /// Takes shards away and rebalances.
    pub fn leave(&mut self, left: BTreeSet<GroupId>) {
        let mut shards = self.shard_ids();
        shards.retain(|shard| !left.contains(shard));
        let change = ConfigChange {
            joined: BTreeMap::new(),
            left,
            slots: self.balanced(&shards),
        };
        self.push(change);
    }

    /// Rebalances; says whether anything had to change.
    pub fn even_out(&mut self) -> bool {
        let slots = self.balanced(&self.shard_ids());
        self.push_slots(slots)
    }

    /// Gives slots to a shard; says whether any of them had another.
    ///
    /// # Panics
    /// If there is no such shard or slot.
    pub fn assign(&mut self, slots: &SlotRuns, shard: GroupId) -> bool {
        assert!(self.newest.shards.contains_key(&shard), "no shard {shard}");
        let mut after = self.newest.slots.clone();
        after.set(slots, &Some(shard));
        let changed = differences(self.newest.slots.cells(), after.cells());
        self.push_slots(changed)
    }

    fn push_slots(&mut self, slots: Vec<(u16, u16, Option<GroupId>)>) -> bool {
        let changes = !slots.is_empty();
        if changes {
            self.push(ConfigChange {
                slots,
                ..ConfigChange::default()
            });
        }
        changes
    }

    fn shard_ids(&self) -> BTreeSet<GroupId> {
        self.newest.shards.keys().copied().collect()
    }

    fn balanced(&self, shards: &BTreeSet<GroupId>) -> Vec<(u16, u16, Option<GroupId>)> {
        let before = self.newest.slots.cells();
        differences(before, &rebalance(before, shards))
    }

    /// Makes the next config, and forgets what is beyond the limits.
    pub(crate) fn push(&mut self, change: ConfigChange) {
        self.newest.change(&change);
        self.changed_items += change.items();
        self.changes.push_back(change);
        while self.changes.len() >= CONFIGS_KEPT_MAX
            || (self.changed_items > CONFIG_ITEMS_KEPT_MAX && self.changes.len() > 1)
        {
            let change = self.changes.pop_front().expect("there is one");
            self.changed_items -= change.items();
            self.oldest.change(&change);
        }
    }

    /// Whether the invariants hold.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        let rebuilt = self.query(self.newest.number);
        if rebuilt.as_ref() != Ok(&self.newest) {
            return Err("the newest config is not what its changes make".to_owned());
        }
        let without = self.newest.slots.runs().find(|(.., shard)| match shard {
            Some(shard) => !self.newest.shards.contains_key(shard),
            None => !self.newest.shards.is_empty(),
        });
        match without {
            Some((first, last, shard)) => Err(format!("slots {first}-{last} are of {shard:?}")),
            None => Ok(()),
        }
    }
}

/// The runs in which two maps differ, with what the second has.
fn differences(
    before: &[Option<GroupId>],
    after: &[Option<GroupId>],
) -> Vec<(u16, u16, Option<GroupId>)> {
    let mut runs: Vec<(u16, u16, Option<GroupId>)> = Vec::new();
    for (slot, (old, new)) in before.iter().zip(after).enumerate() {
        if old == new {
            continue;
        }
        let slot = slot as u16;
        match runs.last_mut() {
            Some((_, last, shard)) if *last + 1 == slot && shard == new => *last = slot,
            _ => runs.push((slot, slot, *new)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founded(name: &str) -> Founding {
        Founding {
            name: name.to_owned(),
            nodes: vec![NodeId(1)],
        }
    }

    fn joined(ids: &[u64]) -> BTreeMap<GroupId, Founding> {
        ids.iter().map(|id| (GroupId(*id), founded("s"))).collect()
    }

    #[test]
    fn the_past_is_exact() {
        let mut configs = Configs::new(10);
        let mut seen = vec![configs.newest().clone()];
        for step in 1..30 {
            if step % 3 == 0 {
                configs.leave(BTreeSet::from([GroupId(step - 1)]));
            } else if step % 7 == 0 {
                assert!(configs.assign(&SlotRuns::run(0, 9), GroupId(1)));
            } else {
                configs.join(joined(&[step]));
            }
            seen.push(configs.newest().clone());
        }
        for config in &seen {
            assert_eq!(configs.query(config.number).as_ref(), Ok(config));
        }
        let newest = ConfigNumber(29);
        assert_eq!(
            configs.query(ConfigNumber(30)),
            Err(NoConfig::Future(newest))
        );
        assert_eq!(configs.check(), Ok(()));
    }

    #[test]
    fn old_configs_are_forgotten_and_say_so() {
        let mut configs = Configs::new(4);
        configs.join(joined(&[1, 2]));
        for step in 0..CONFIGS_KEPT_MAX as u64 {
            assert!(configs.assign(&SlotRuns::run(0, 3), GroupId(1 + step % 2)));
        }
        let oldest = configs.oldest_number();
        assert_eq!(oldest, ConfigNumber(2));
        assert_eq!(
            configs.query(ConfigNumber(1)),
            Err(NoConfig::Forgotten(oldest))
        );
        assert_eq!(configs.query(oldest).expect("kept").number, oldest);
        assert_eq!(configs.check(), Ok(()));
    }

    #[test]
    fn configs_that_change_everything_push_out_older_ones() {
        let slot_count = 8192;
        let mut configs = Configs::new(slot_count);
        configs.join(joined(&[1, 2]));
        let every =
            |first: u16| SlotRuns::of_runs((first..slot_count).step_by(2).map(|at| (at, at)));
        assert!(configs.assign(&every(0), GroupId(1)));
        assert!(configs.assign(&every(1), GroupId(2)));
        for step in 0..40 {
            // Every other slot goes over and comes back: 4096 runs each time.
            assert!(configs.assign(&every(0), GroupId(2 - step % 2)));
        }
        let newest = configs.newest().number.get();
        let kept = newest - configs.oldest_number().get();
        assert_eq!(kept as usize, CONFIG_ITEMS_KEPT_MAX / 4096);
        // The newest is in pieces, the one before it is in one, and so on back.
        let oldest = configs.query(configs.oldest_number()).expect("kept");
        let as_newest = kept.is_multiple_of(2);
        assert_eq!(oldest.slots.runs().count() > 1, as_newest);
        assert_eq!(configs.check(), Ok(()));
    }

    #[test]
    fn an_assignment_holds_until_shards_come_or_go() {
        let mut configs = Configs::new(10);
        configs.join(joined(&[1, 2]));
        assert!(configs.assign(&SlotRuns::run(0, 9), GroupId(2)));
        assert!(
            !configs.assign(&SlotRuns::run(3, 5), GroupId(2)),
            "nothing to do"
        );
        assert_eq!(configs.newest().slots_of(GroupId(2)).len(), 10);
        assert_eq!(configs.newest().number, ConfigNumber(2));
        assert!(configs.even_out());
        assert!(!configs.even_out());
        assert_eq!(configs.newest().slots_of(GroupId(2)).len(), 5);
    }
}
