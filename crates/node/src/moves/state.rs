//! What a group's log has decided about moves: part of the replicated state.
//!
//! A move takes slots from a source group A to a target group B. It is named by a number that the shard
//! manager gave it and never gives again. Nothing about it is decided by a message, a timer or a map: each
//! transition is an entry in the log of A or of B, and is checked *where it is applied* against exactly the
//! move, the attempt and the phase it is for. Entries come late and twice (new primaries repeat, uncommitted
//! copies survive); what does not fit is a no-op.
//!
//! ```text
//! A:  sending(k) -> sealed -> dropped                 B:  staging(k) -> received | refused
//!        |            '-----> returned (B refused)
//!        '-> cancelled, returned
//! ```
//!
//! - *sending*: A serves the slots and streams them. A higher attempt starts the stream anew, also when
//!   sealed: then the slots are frozen, and only the stream is.
//! - *sealed*: from this entry on no command on the slots applies at A. A waits for B's word, however long:
//!   B may have received them.
//! - *received* is the commit point. It is applied only if every piece of the attempt is staged and the hash
//!   is the one that A computed when it sealed. From here on B serves.
//! - *refused* is B's other word, and final: the move can never be received after it.
//! - *dropped*, *returned*: A knows B's word, and frees the slots, or serves them again.
//!
//! What is staged lies in hidden slots of B's keyspace: so it is in snapshots and counted as memory, and
//! showing it costs nothing.

use std::collections::BTreeMap;

use kvorum_base::slot::slot_of;
use kvorum_base::{Bug, GroupId, MoveId, Planted, Reader, Slot, SlotSet, UnixMillis};
use kvorum_kv::{Change, Keyspace, SessionChange};

use crate::format::delta::read_change;
use crate::format::moves::{MoveEntry, Piece, Whole};

/// A move whose slots this group had, and its log has not seen the end of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// The slots.
    pub slots: SlotSet,
    /// Where they go.
    pub to: GroupId,
    /// The stream that counts.
    pub attempt: u32,
    /// Set when they are sealed.
    pub sealed: Option<Sealed>,
}

/// What the slots were when they were sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// The sum of what is in them.
    pub hash: u64,
    /// The logged clock of that moment: the target's must not be behind it.
    pub clock: UnixMillis,
}

/// A move whose slots this group is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// The slots.
    pub slots: SlotSet,
    /// Where they come from.
    pub from: GroupId,
    /// The stream that is staged.
    pub attempt: u32,
    /// The piece that comes next.
    pub next: u64,
    /// The beginning of a change of which the rest is in the next piece.
    pub partial: Vec<u8>,
    /// The whole stream was staged and is not what the source sealed: it has to begin anew.
    pub broken: bool,
}

/// How a move ended in this group's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The target has it.
    Received,
    /// The target will never have it.
    Refused,
    /// The source ended it before it was sealed.
    Cancelled,
    /// The source has freed what it gave.
    Dropped,
    /// The source has it back.
    Returned,
}

/// All moves of a group.
///
/// Invariants: a slot is in at most one open move. A slot of a sealed outgoing move and of an incoming one is
/// hidden in the keyspace, one of an unsealed outgoing move is served.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Moves {
    /// Whose slots this group had.
    pub outgoing: BTreeMap<MoveId, Outgoing>,
    /// Whose slots it is to have.
    pub incoming: BTreeMap<MoveId, Incoming>,
    /// How others ended, those below `floor` excepted.
    pub ended: BTreeMap<MoveId, Ended>,
    /// Moves below it are over everywhere. What still comes of them is late.
    pub floor: MoveId,
    /// Slots that this group had once: the move that took them, and where to.
    pub given: BTreeMap<Slot, (MoveId, GroupId)>,
    /// Whether a slot was ever taken away: until then every command that was let in may be applied.
    pub has_sealed: bool,
}

/// Whose a slot is that is not served here, as far as this group's log says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Whereabouts {
    /// Nobody's for a moment: the target decides.
    Moving,
    /// This group's.
    At(GroupId),
}

impl Moves {
    /// Whether slots of this group are sealed: whoever would change all of its keys would miss them.
    #[must_use]
    pub fn is_sealing(&self) -> bool {
        self.outgoing.values().any(|out| out.sealed.is_some())
    }

    /// Where to look for a slot that is not served here, and the move that says so.
    #[must_use]
    pub fn whereabouts(&self, slot: Slot) -> Option<(MoveId, Whereabouts)> {
        let sealed = self.outgoing.iter().filter(|(_, out)| out.sealed.is_some());
        let sealed = sealed.filter(|(_, out)| out.slots.contains(slot));
        let sealed = sealed.map(|(id, _)| (*id, Whereabouts::Moving));
        let incoming = self
            .incoming
            .iter()
            .filter(|(_, into)| into.slots.contains(slot));
        let incoming = incoming.map(|(id, into)| (*id, Whereabouts::At(into.from)));
        let given = self.given.get(&slot);
        let given = given.map(|(id, to)| (*id, Whereabouts::At(*to)));
        sealed.chain(incoming).chain(given).max()
    }

    fn is_over(&self, id: MoveId) -> bool {
        id < self.floor || self.ended.contains_key(&id)
    }

    fn is_in_a_move(&self, slots: &SlotSet) -> bool {
        let outgoing = self.outgoing.values().map(|out| &out.slots);
        let incoming = self.incoming.values().map(|into| &into.slots);
        outgoing.chain(incoming).any(|others| others.meets(slots))
    }

    /// Applies an entry; says whether it was one that fits.
    pub(crate) fn apply(
        &mut self,
        keyspace: &mut Keyspace,
        entry: MoveEntry<'_>,
        planted: Planted,
    ) -> bool {
        match entry {
            MoveEntry::Sending {
                id,
                attempt,
                to,
                slots,
            } => self.sending(keyspace, id, attempt, to, slots),
            MoveEntry::Stage(piece) => self.stage(keyspace, piece),
            MoveEntry::Sealed { id, attempt } => self.seal(keyspace, id, attempt),
            MoveEntry::Received(whole) => self.receive(keyspace, whole, planted),
            MoveEntry::Refused { id } => self.refuse(keyspace, id),
            MoveEntry::Returned { id } => self.give_back(keyspace, id),
            MoveEntry::Cancelled { id } => self.cancel(keyspace, id, planted),
            MoveEntry::Dropped { id } => self.drop_given(keyspace, id),
            MoveEntry::Forget { below } => self.forget(below),
        }
    }

    fn sending(
        &mut self,
        keyspace: &Keyspace,
        id: MoveId,
        attempt: u32,
        to: GroupId,
        slots: SlotSet,
    ) -> bool {
        if let Some(out) = self.outgoing.get_mut(&id) {
            let is_newer = attempt > out.attempt;
            out.attempt = out.attempt.max(attempt);
            return is_newer;
        }
        let served = |slot| keyspace.served().contains(slot);
        if self.is_over(id) || self.is_in_a_move(&slots) || !slots.iter().all(served) {
            return false;
        }
        let out = Outgoing {
            slots,
            to,
            attempt,
            sealed: None,
        };
        self.outgoing.insert(id, out);
        true
    }

    fn seal(&mut self, keyspace: &mut Keyspace, id: MoveId, attempt: u32) -> bool {
        let Some(out) = self.outgoing.get_mut(&id) else {
            return false;
        };
        if out.attempt != attempt || out.sealed.is_some() {
            return false;
        }
        for slot in out.slots.iter() {
            keyspace.set_served(slot, false);
        }
        out.sealed = Some(Sealed {
            hash: keyspace.slots_hash(&out.slots),
            clock: keyspace.clock(),
        });
        self.has_sealed = true;
        true
    }

    fn stage(&mut self, keyspace: &mut Keyspace, piece: Piece<'_>) -> bool {
        let Piece {
            id,
            attempt,
            number,
            from,
            slots,
            bytes,
        } = piece;
        if self.is_over(id) {
            return false;
        }
        if number == 0
            && self
                .incoming
                .get(&id)
                .is_none_or(|into| into.attempt < attempt)
        {
            let slots = slots.unwrap_or_default();
            match self.incoming.remove(&id) {
                Some(old) => drop_all(keyspace, &old.slots),
                None if self.is_in_a_move(&slots) => return false,
                None if slots.iter().any(|slot| keyspace.served().contains(slot)) => return false,
                // What may be left of them from an earlier life of theirs here.
                None => drop_all(keyspace, &slots),
            }
            let into = Incoming {
                slots,
                from,
                attempt,
                next: 0,
                partial: Vec::new(),
                broken: false,
            };
            self.incoming.insert(id, into);
        }
        let Some(into) = self.incoming.get_mut(&id) else {
            return false;
        };
        if into.attempt != attempt || into.next != number || into.broken {
            return false;
        }
        into.next += 1;
        let mut joined = std::mem::take(&mut into.partial);
        joined.extend_from_slice(bytes);
        let mut reader = Reader::new(&joined);
        while let Some(change) = whole_block(&mut reader) {
            let mut change = Reader::new(change);
            // A slot that is not of the move is left alone. Either shows in the hash, in the end.
            if let Ok(change) = read_change(&mut change)
                && into.slots.contains(slot_of_change(&change))
            {
                keyspace.stage(change);
            }
        }
        into.partial = reader.rest().to_vec();
        true
    }

    fn receive(&mut self, keyspace: &mut Keyspace, whole: Whole, planted: Planted) -> bool {
        let id = whole.id;
        let Some(into) = self.incoming.get_mut(&id) else {
            return false;
        };
        let checks = !planted.has(Bug::ReceivedUnchecked);
        if checks && ((into.attempt, into.next) != (whole.attempt, whole.pieces) || into.broken) {
            return false;
        }
        let is_whole = into.partial.is_empty() && keyspace.slots_hash(&into.slots) == whole.hash;
        if checks && !is_whole {
            into.broken = true;
            return true;
        }
        // Before anything of it can be seen: what was expired at the source stays expired.
        if whole.clock > keyspace.clock() && !planted.has(Bug::ClockStepsBack) {
            keyspace.advance_clock(whole.clock);
        }
        for slot in into.slots.iter() {
            #[cfg(feature = "planted")]
            if planted.has(Bug::VersionsNotMoved) {
                keyspace.recount_versions(slot);
            }
            keyspace.set_served(slot, true);
            self.given.remove(&slot);
        }
        self.incoming.remove(&id);
        self.ended.insert(id, Ended::Received);
        true
    }

    fn refuse(&mut self, keyspace: &mut Keyspace, id: MoveId) -> bool {
        if self.is_over(id) {
            return false;
        }
        if let Some(into) = self.incoming.remove(&id) {
            drop_all(keyspace, &into.slots);
        }
        self.ended.insert(id, Ended::Refused);
        true
    }

    fn give_back(&mut self, keyspace: &mut Keyspace, id: MoveId) -> bool {
        let Some(out) = self.outgoing.remove(&id) else {
            return false;
        };
        if out.sealed.is_some() {
            for slot in out.slots.iter() {
                keyspace.set_served(slot, true);
            }
        }
        self.ended.insert(id, Ended::Returned);
        true
    }

    fn cancel(&mut self, keyspace: &mut Keyspace, id: MoveId, planted: Planted) -> bool {
        match self.outgoing.get(&id) {
            Some(out) if out.sealed.is_some() => {
                return planted.has(Bug::SealedCancelled) && self.give_back(keyspace, id);
            }
            Some(_) => {
                self.outgoing.remove(&id);
            }
            None if self.is_over(id) => return false,
            // It never began here, and never will.
            None => {}
        }
        self.ended.insert(id, Ended::Cancelled);
        true
    }

    fn drop_given(&mut self, keyspace: &mut Keyspace, id: MoveId) -> bool {
        if self
            .outgoing
            .get(&id)
            .is_none_or(|out| out.sealed.is_none())
        {
            return false;
        }
        let Some(out) = self.outgoing.remove(&id) else {
            return false;
        };
        drop_all(keyspace, &out.slots);
        for slot in out.slots.iter() {
            self.given.insert(slot, (id, out.to));
        }
        self.ended.insert(id, Ended::Dropped);
        true
    }

    /// Forgets how moves ended that are over everywhere.
    fn forget(&mut self, below: MoveId) -> bool {
        let open = self.outgoing.keys().chain(self.incoming.keys()).min();
        if below <= self.floor || open.is_some_and(|open| *open < below) {
            return false;
        }
        self.floor = below;
        self.ended = self.ended.split_off(&below);
        true
    }

    /// Checks the invariants. For tests and the simulator.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check(&self, keyspace: &Keyspace) {
        let mut taken = SlotSet::none();
        let sets = self.outgoing.values().map(|out| &out.slots);
        for slots in sets.chain(self.incoming.values().map(|into| &into.slots)) {
            for slot in slots.iter() {
                assert!(taken.insert(slot), "slot {slot} is in two moves");
            }
        }
        let served = |slot| keyspace.served().contains(slot);
        for out in self.outgoing.values() {
            let is_served = out.sealed.is_none();
            assert!(out.slots.iter().all(|slot| served(slot) == is_served));
        }
        for into in self.incoming.values() {
            assert!(!into.slots.iter().any(served), "a staged slot is served");
        }
        assert!(
            !self.given.keys().any(|slot| served(*slot)),
            "a given slot is served"
        );
    }
}

/// The next block of a stream, if all of it is there.
fn whole_block<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let mut ahead = reader.clone();
    let block = ahead.block("change").ok()?;
    *reader = ahead;
    Some(block)
}

fn slot_of_change(change: &Change<'_>) -> Slot {
    match change {
        Change::Key(item) => slot_of(item.key),
        Change::KeyGone { key } => slot_of(key),
        Change::Session(SessionChange { slot, .. }) | Change::SessionGone { slot, .. } => *slot,
        Change::Slot(item) => item.slot,
    }
}

fn drop_all(keyspace: &mut Keyspace, slots: &SlotSet) {
    for slot in slots.iter() {
        keyspace.drop_slot(slot);
    }
}
