//! What changed in some slots between two moments: what a slot move sends, round after round.
//!
//! A round takes a [`Frozen`] view and sends what differs from that of the round before; the first has
//! nothing to differ from and sends all. Nobody notes what was written: [`Difference`] finds it by
//! what the two views do not share. A change is the state of one thing (key, session row, counters of
//! a slot) and never a command, so that it means the same wherever and however late it is taken.
//!
//! The changes of a run of slots come in this order: the counters of its slots, then its session rows,
//! then its keys; rows and keys in the order of positions. Counters first, since no key may be newer
//! than its slot.
//!
//! What has expired is no case of its own. A key whose deadline the source's clock has passed is
//! either removed there already, in apply, and then gone in the next difference with its slot's
//! counters; or it is still held, and is sent as it is, with its deadline. So the source's hash is
//! that of what was sent, whatever moment the view was taken at, and the two sides can be compared
//! exactly. It stays expired: the target takes over the source's clock before it shows the slots, and
//! from then on its own comparison of deadline and clock says so. Until then the slots are hidden
//! there, where no clock removes anything; and no command sees a key in between.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use kvorum_base::{SessionId, Slot, UnixMillis};

use crate::directory::{Compared, Difference, Side};
use crate::entry::Entry;
use crate::frozen::{Frozen, Stretch};
use crate::session::{Recorded, SessionRow};
use crate::slots::Slots;
use crate::view::{KeyItem, SessionItem, SlotItem, key_item, session_item, slot_item};

/// One thing that is not as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change<'a> {
    /// A slot whose versions are not as they were, as they are now. Its counts and hash are those of the
    /// later view; whoever takes the change in has sums of its own.
    Slot(SlotItem),
    /// A session's row in a slot that is new or changed, as it is now.
    Session(SessionChange<'a>),
    /// A session's row in a slot that is not there any more.
    SessionGone {
        /// The slot.
        slot: Slot,
        /// The session.
        session: SessionId,
    },
    /// A key that is new or changed, as it is now. It lies in the slot that its name says.
    Key(KeyItem<'a>),
    /// A key that is not there any more.
    KeyGone {
        /// The key.
        key: &'a [u8],
    },
}

/// What a slot remembers of a session, with the slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionChange<'a> {
    /// The slot.
    pub slot: Slot,
    /// The session.
    pub session: SessionId,
    /// When it ends.
    pub end: UnixMillis,
    /// The largest sequence number seen in this slot.
    pub last_sequence: u64,
    /// The replies that may be asked for again, by rising sequence number.
    pub replies: Cow<'a, [Recorded]>,
}

/// The changes from one view of some slots to a later one. It can be sent to another thread, and is
/// best dropped there: it lets go of the old view as it passes it.
#[derive(Debug)]
pub struct Delta {
    old_slots: Slots,
    new: Frozen,
    /// The runs of slots that are still to be passed, the present one first.
    passages: VecDeque<Passage>,
    /// Items looked at in runs that were passed.
    looked_at: u64,
}

#[derive(Debug)]
struct Passage {
    /// The next slot to look at, and the last one of the run.
    next_slot: u16,
    last_slot: u16,
    rows: Difference<Arc<SessionRow>>,
    keys: Difference<Entry>,
}

/// A change, before it is borrowed from where it lies.
#[derive(Clone, Copy)]
enum Found {
    Slot(SlotItem),
    Row(Side),
    Key(Side),
}

impl Delta {
    /// What changed from `old` to `new`; without an `old`, everything in `new` did.
    ///
    /// # Panics
    /// If the two are not of the same slots.
    #[must_use]
    pub fn new(old: Option<Frozen>, new: Frozen) -> Self {
        let (old_slots, olds) = match old {
            None => (Slots::new(), new.stretches.iter().map(|_| None).collect()),
            Some(Frozen { slots, stretches }) => {
                let runs = |stretches: &[Stretch]| {
                    let runs = stretches.iter().map(|one| (one.first, one.last));
                    runs.collect::<Vec<_>>()
                };
                assert_eq!(runs(&stretches), runs(&new.stretches), "the slots of both");
                (slots, stretches.into_iter().map(Some).collect::<Vec<_>>())
            }
        };
        let passages = olds.into_iter().zip(&new.stretches).map(|(old, new)| {
            let (rows, keys) = old.map(|old| (old.rows, old.keys)).unzip();
            Passage {
                next_slot: new.first,
                last_slot: new.last,
                rows: Difference::between(rows, &new.rows),
                keys: Difference::between(keys, &new.keys),
            }
        });
        Self {
            old_slots,
            passages: passages.collect(),
            new,
            looked_at: 0,
        }
    }

    /// The next change, borrowed until the next call; `None` once there are no more. Between two
    /// changes it looks at what was written and, for each of the few levels above, at one node's places:
    /// never at what is shared.
    pub fn next_change(&mut self) -> Option<Change<'_>> {
        let found = loop {
            let passage = self.passages.front_mut()?;
            if let Some(found) = passage.advance(&self.old_slots, &self.new.slots) {
                break found;
            }
            self.looked_at += passage.looked_at();
            self.passages.pop_front();
        };
        let passage = self.passages.front()?;
        Some(match found {
            Found::Slot(item) => Change::Slot(item),
            Found::Row(side) => {
                let item = passage.rows.item(side);
                let (slot, session) = (item.position.slot(), item.value.session);
                match side {
                    Side::Old => Change::SessionGone { slot, session },
                    Side::New => Change::Session(session_change(slot, &item.value)),
                }
            }
            Found::Key(side) => {
                let entry = &passage.keys.item(side).value;
                match side {
                    Side::Old => Change::KeyGone { key: entry.key() },
                    Side::New => Change::Key(key_item(entry)),
                }
            }
        })
    }

    /// How many keys and session rows were looked at so far, in either view.
    #[must_use]
    pub fn looked_at(&self) -> u64 {
        let ahead = self.passages.iter().map(Passage::looked_at);
        self.looked_at + ahead.sum::<u64>()
    }

    /// The later view, for the next round to differ from.
    #[must_use]
    pub fn into_new(self) -> Frozen {
        self.new
    }
}

impl Passage {
    fn advance(&mut self, old_slots: &Slots, new_slots: &Slots) -> Option<Found> {
        while self.next_slot <= self.last_slot {
            let slot = Slot(self.next_slot);
            self.next_slot += 1;
            let (old, new) = (old_slots.get(slot), new_slots.get(slot));
            // What else is kept of a slot are sums over what is in it.
            if (new.version, new.last_removal) != (old.version, old.last_removal) {
                return Some(Found::Slot(slot_item(slot, new)));
            }
        }
        let row = self.rows.advance().map(Found::Row);
        row.or_else(|| self.keys.advance().map(Found::Key))
    }

    fn looked_at(&self) -> u64 {
        self.rows.looked_at() + self.keys.looked_at()
    }
}

fn session_change(slot: Slot, row: &SessionRow) -> SessionChange<'_> {
    let SessionItem {
        session,
        end,
        last_sequence,
        replies,
    } = session_item(row);
    SessionChange {
        slot,
        session,
        end,
        last_sequence,
        replies: Cow::Borrowed(replies),
    }
}

impl Compared for Entry {
    fn order(&self, other: &Self) -> Ordering {
        self.compare(other.key())
    }

    fn is_same(&self, other: &Self) -> bool {
        self.is_same_state(other)
    }
}

impl Compared for Arc<SessionRow> {
    fn order(&self, other: &Self) -> Ordering {
        self.session.cmp(&other.session)
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(self, other) || **self == **other
    }
}
