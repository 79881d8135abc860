//! Which slots are served.
//!
//! A slot is served or hidden. Commands see and change the keys of served slots; what is in a hidden
//! one (a copy on its way in, or one that was passed on and is not freed yet) is in snapshots and in
//! the hash, and nowhere else: not in a scan, not in a count, not in FLUSHALL, and no clock removes
//! anything from it. So a slot can be filled entry by entry and then shown at once, and one that was
//! sealed stays bit by bit what its hash said.
//!
//! Whether a slot *may* be shown is decided elsewhere.

use std::sync::Arc;

use kvorum_base::{Slot, SlotSet};

use crate::command::Command;
use crate::command::spec::Spread;
use crate::deadlines::Deadlines;
use crate::keyspace::Keyspace;
use crate::position::Position;

impl Keyspace {
    /// The slots that are served.
    #[must_use]
    pub fn served(&self) -> &Arc<SlotSet> {
        &self.served
    }

    /// Shows a slot to commands, or hides it. O(1) but for its session rows and for its keys if any of
    /// them has a deadline.
    pub fn set_served(&mut self, slot: Slot, served: bool) {
        if self.served.contains(slot) == served {
            return;
        }
        let set = Arc::make_mut(&mut self.served);
        let keys = self.slots.get(slot).keys;
        if served {
            set.insert(slot);
            self.hidden_keys -= keys;
        } else {
            set.remove(slot);
            self.hidden_keys += keys;
        }
        self.index_ends(slot, served);
    }

    /// Puts what ends in a slot into the indexes, or takes it out.
    fn index_ends(&mut self, slot: Slot, served: bool) {
        let (first, last) = Position::range_of(slot);
        let within = |position: Position| position <= last;
        let keys = self
            .keys
            .range(first)
            .take_while(|item| within(item.position));
        for item in keys {
            let deadline = item.value.deadline();
            let (old, new) = if served {
                (None, deadline)
            } else {
                (deadline, None)
            };
            self.deadlines.change(item.position, old, new);
        }
        let rows = self
            .rows
            .range(first)
            .take_while(|item| within(item.position));
        for item in rows {
            let end = (item.value.end, item.position, item.value.session);
            if served {
                self.row_ends.insert(end);
            } else {
                self.row_ends.remove(&end);
            }
        }
    }

    /// Forgets everything in a hidden slot. What its keys held is freed later, in bounded steps.
    ///
    /// # Panics
    /// If the slot is served.
    pub fn drop_slot(&mut self, slot: Slot) {
        self.assert_hidden(slot);
        let state = *self.slots.get(slot);
        if state.keys > 0 {
            let keys = self.take_keys(slot);
            self.throw_away(vec![keys], Deadlines::default());
            self.hidden_keys -= state.keys;
            self.key_bytes -= state.bytes;
        }
        self.row_bytes -= state.row_bytes;
        let (first, last) = Position::range_of(slot);
        drop(self.rows.take_range(first, last));
        self.slots.reset(slot);
    }

    fn assert_hidden(&self, slot: Slot) {
        assert!(!self.served.contains(slot), "slot {slot} is served");
    }
}

impl Command<'_> {
    /// Whether it changes keys without naming them.
    #[must_use]
    pub fn changes_all(&self) -> bool {
        self.spec().spread() == Spread::All
    }

    /// The first slot of its keys that is not served here: then it must not be applied.
    #[must_use]
    pub fn slot_not_served(&self, keyspace: &Keyspace) -> Option<Slot> {
        let is_elsewhere = |slot: &Slot| !keyspace.served.contains(*slot);
        let mut slots = self.keys().map(kvorum_base::slot::slot_of);
        slots.find(is_elsewhere).or_else(|| {
            let swept = self.swept_slots()?;
            swept.iter().find(is_elsewhere)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kvorum_base::slot::slot_of;
    use kvorum_base::{Prng, UnixMillis};
    use kvorum_resp::{ArgsBuf, Replies};

    use super::*;
    use crate::{Change, Delta, find, resolve};

    fn run(keyspace: &mut Keyspace, words: &[&str]) -> String {
        let args: ArgsBuf = words.iter().collect();
        let mut encoded = Vec::new();
        let spec = find(args.as_args()).expect("a command");
        resolve(spec, args.as_args(), &mut encoded).expect("a right one");
        let mut reply = Vec::new();
        Command::decode(&encoded).apply(keyspace, &mut Replies::stored(&mut reply));
        String::from_utf8_lossy(&reply).into_owned()
    }

    fn filled(prng: &mut Prng) -> Keyspace {
        let mut keyspace = Keyspace::new([1; 16]);
        keyspace.advance_clock(UnixMillis(1_000_000));
        let token = run(&mut keyspace, &["KVORUM.SESSION"]);
        let token = token.split("\r\n").nth(1).expect("a token").to_owned();
        for number in 0..prng.range(100, 2000) {
            let key = format!("{{{}}}{number}", prng.below(40));
            let sequence = (number + 1).to_string();
            match prng.below(4) {
                0 => run(&mut keyspace, &["SET", &key, "v", "PX", "1000"]),
                1 => run(
                    &mut keyspace,
                    &["KVORUM.ONCE", &token, &sequence, "SET", &key, "v"],
                ),
                _ => run(&mut keyspace, &["SET", &key, "v"]),
            };
        }
        keyspace
    }

    #[test]
    fn a_hidden_slot_is_out_of_sight_and_stays_as_it_is() {
        for seed in 0..30 {
            let mut prng = Prng::new(seed);
            let mut keyspace = filled(&mut prng);
            let all = keyspace.len();
            let slots: Vec<Slot> = (0..40u32)
                .map(|tag| slot_of(tag.to_string().as_bytes()))
                .collect();
            let mut hidden: Vec<Slot> = slots.into_iter().filter(|_| prng.below(2) == 0).collect();
            hidden.sort_unstable();
            hidden.dedup();
            let before: Vec<u64> = hidden
                .iter()
                .map(|slot| keyspace.slot_hash(*slot))
                .collect();
            let keys: u64 = hidden.iter().map(|slot| keyspace.slot_len(*slot)).sum();
            for slot in &hidden {
                keyspace.set_served(*slot, false);
            }
            keyspace.check();
            assert_eq!(keyspace.len(), all - keys);
            let scan = run(&mut keyspace, &["SCAN", "0", "COUNT", "100000"]);
            assert_eq!(scan.matches("\r\n{").count() as u64, all - keys);

            // Neither time nor FLUSHALL gets at them.
            keyspace.advance_clock(UnixMillis(2_000_000));
            while keyspace.remove_expired(100) > 0 {}
            run(&mut keyspace, &["FLUSHALL"]);
            assert_eq!(keyspace.len(), 0);
            keyspace.check();
            let after: Vec<u64> = hidden
                .iter()
                .map(|slot| keyspace.slot_hash(*slot))
                .collect();
            assert_eq!(after, before);

            // What is shown again has lost nothing but what time took.
            for slot in &hidden {
                if prng.below(2) == 0 {
                    keyspace.set_served(*slot, true);
                } else {
                    keyspace.drop_slot(*slot);
                    assert_eq!(
                        (keyspace.slot_len(*slot), keyspace.slot_hash(*slot)),
                        (0, 0)
                    );
                }
                keyspace.check();
            }
            let left = keyspace.len();
            while keyspace.remove_expired(100) > 0 {}
            assert_eq!(keyspace.len(), left);
            keyspace.check();
        }
    }

    #[test]
    fn what_is_frozen_of_slots_is_them_and_nothing_else() {
        for seed in 0..30 {
            let mut prng = Prng::new(seed);
            let mut keyspace = filled(&mut prng);
            let mut slots = SlotSet::none();
            for tag in 0..40u32 {
                if prng.below(2) == 0 {
                    slots.insert(slot_of(tag.to_string().as_bytes()));
                }
            }
            let expected: Vec<(Slot, u64, u64)> = (slots.iter())
                .filter(|slot| keyspace.slot_len(*slot) > 0)
                .map(|slot| (slot, keyspace.slot_len(slot), keyspace.slot_hash(slot)))
                .collect();
            let mut frozen = Delta::new(None, keyspace.freeze(&slots));
            run(&mut keyspace, &["FLUSHALL"]);
            let (mut seen, mut keys) = (Vec::new(), BTreeMap::<Slot, u64>::new());
            while let Some(change) = frozen.next_change() {
                match change {
                    Change::Slot(item) => seen.push((item.slot, item.keys, item.hash)),
                    Change::Key(item) => *keys.entry(slot_of(item.key)).or_default() += 1,
                    Change::Session(item) => assert!(slots.contains(item.slot)),
                    gone => panic!("{gone:?} of what never was"),
                }
            }
            assert_eq!(seen, expected);
            let counts = expected.iter().map(|(slot, keys, _)| (*slot, *keys));
            assert_eq!(keys, counts.collect());
        }
    }
}
