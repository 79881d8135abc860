//! Where a key stands: its slot, then a keyed hash.
//!
//! Positions order everything that is kept per key: buckets, SCAN cursors, snapshot pieces, slot
//! moves. A slot is one contiguous range of positions. The hash is keyed with a secret of the
//! cluster: the same on every replica and owner, so that a cursor means the same everywhere, and
//! never a constant, since anybody could then make a hundred thousand keys of one position: a
//! bucket that cannot be split, and an unbounded copy under every view.

use kvorum_base::Slot;
use kvorum_base::slot::slot_of;
use siphasher::sip::SipHasher13;

/// How many low bits of a position are hash; the others are the slot.
pub(crate) const HASH_BITS: u32 = 50;

/// A place in the order of all keys: slot (14 bits), then hash (50 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Position(pub(crate) u64);

impl Position {
    /// The first position of a slot.
    pub(crate) fn first_of(slot: Slot) -> Self {
        Self(u64::from(slot.get()) << HASH_BITS)
    }

    /// The first and the last position of a slot.
    pub(crate) fn range_of(slot: Slot) -> (Self, Self) {
        let first = Self::first_of(slot);
        (first, Self(first.0 | ((1 << HASH_BITS) - 1)))
    }

    /// The slot that it lies in.
    pub(crate) fn slot(self) -> Slot {
        Slot((self.0 >> HASH_BITS) as u16)
    }
}

/// A key and where it stands, so that neither checksum nor hash is computed twice for a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) position: Position,
}

/// The keyed hash of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Locator {
    hasher: SipHasher13,
}

impl Locator {
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Self {
            hasher: SipHasher13::new_with_key(&secret),
        }
    }

    pub(crate) fn key<'a>(&self, key: &'a [u8]) -> Located<'a> {
        Located {
            key,
            position: self.within(slot_of(key), key),
        }
    }

    /// The position of something that is not a key and belongs to a slot, such as a session's row.
    pub(crate) fn within(&self, slot: Slot, name: &[u8]) -> Position {
        let hash = self.hasher.hash(name) >> (u64::BITS - HASH_BITS);
        Position(Position::first_of(slot).0 | hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_one_range() {
        let locator = Locator::new([7; 16]);
        let at = locator.key(b"foo").position;
        assert_eq!(at.slot(), Slot(12182));
        assert!(at >= Position::first_of(Slot(12182)) && at < Position::first_of(Slot(12183)));
        assert_eq!(
            locator.key(b"{foo}a").position.slot(),
            locator.key(b"{foo}b").position.slot()
        );
        assert_ne!(
            locator.key(b"{foo}a").position,
            locator.key(b"{foo}b").position
        );
    }

    #[test]
    fn another_secret_is_another_order() {
        let (a, b) = (Locator::new([1; 16]), Locator::new([2; 16]));
        assert_ne!(a.key(b"foo").position, b.key(b"foo").position);
    }

    #[test]
    fn the_order_is_fixed_for_ever() {
        // Cursors and snapshots of other versions rely on it.
        let at = Locator::new(*b"0123456789abcdef").key(b"foo").position;
        assert_eq!(at.0, GOLDEN);
    }

    const GOLDEN: u64 = 13_715_886_595_423_790_879;
}
