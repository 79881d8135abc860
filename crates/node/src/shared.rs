//! What the groups of a node share: its clients, its log, its links, its clocks.

use kvorum_base::GroupId;

use crate::clients::connections::Table;
use crate::clients::waiting::Waiting;
use crate::clock::Clocks;
use crate::config::Config;
use crate::effect::{Effect, Level, Note};
use crate::log::Log;
use crate::peers::Peers;
use crate::status::Counters;

/// What the groups of a node share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) table: Table,
    pub(crate) waiting: Waiting,
    pub(crate) log: Log,
    pub(crate) peers: Peers,
    pub(crate) clocks: Clocks,
    pub(crate) counters: Counters,
    /// Ticks since the start.
    pub(crate) now_tick: u64,
    /// Some group's leader changed in this turn: held requests are worth another try.
    pub(crate) roles_changed: bool,
    /// A turn left work for the next one.
    pub(crate) more_to_do: bool,
    /// Names the next snapshot file of this node.
    pub(crate) next_snapshot_number: u64,
    notes: Vec<Note>,
    later: Vec<Effect>,
}

impl Shared {
    pub(crate) fn new(config: Config, log: Log) -> Self {
        // Unique over restarts: the life of the node stands in front.
        let next_snapshot_number = log.incarnation() * 1_000_000_000 + 1;
        let clock_keep_ticks = u64::from(config.election_ticks_max) * 4;
        Self {
            table: Table::default(),
            waiting: Waiting::default(),
            peers: Peers::new(&config, log.incarnation()),
            clocks: Clocks::new(config.tick_ms, clock_keep_ticks),
            log,
            counters: Counters::default(),
            now_tick: 0,
            roles_changed: false,
            next_snapshot_number,
            more_to_do: false,
            notes: Vec::new(),
            later: Vec::new(),
            config,
        }
    }

    /// Tells the operator at the end of the turn.
    pub(crate) fn note(&mut self, level: Level, group: Option<GroupId>, text: String) {
        self.notes.push(Note { level, group, text });
    }

    /// Asks for this at the end of the turn.
    pub(crate) fn later(&mut self, effect: Effect) {
        self.later.push(effect);
    }

    /// Hands the notes, and what was asked for later, over.
    pub(crate) fn take_notes(&mut self, effects: &mut Vec<Effect>) {
        effects.append(&mut self.later);
        effects.extend(
            self.notes
                .drain(..)
                .map(|note| Effect::Note(Box::new(note))),
        );
    }

    /// A number for a snapshot file that no other has or had.
    pub(crate) fn new_snapshot_number(&mut self) -> u64 {
        let number = self.next_snapshot_number;
        self.next_snapshot_number += 1;
        number
    }
}
