//! Ids and measures as distinct types.
//!
//! A bare `u64` pair in a signature is how a term ends up where an index belongs. Each newtype here
//! is `Copy`, ordered, and prints as its bare number.

use std::fmt;

/// A number as a type of its own.
#[macro_export]
macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number itself.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

/// A number as a type of its own, which is counted up.
#[macro_export]
macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $crate::number!($(#[$doc])* $name, u64);

        impl $name {
            /// The smallest value: "none yet".
            pub const ZERO: Self = Self(0);

            /// The value after this one.
            ///
            /// # Panics
            /// On overflow, which 2^64 steps do not reach.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// The value before this one, or zero.
            #[must_use]
            pub const fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl ::std::ops::Add<u64> for $name {
            type Output = Self;
            fn add(self, more: u64) -> Self {
                Self(self.0 + more)
            }
        }

        impl ::std::ops::AddAssign<u64> for $name {
            fn add_assign(&mut self, more: u64) {
                self.0 += more;
            }
        }

        /// The distance between two values; zero where the right one is larger.
        impl ::std::ops::Sub for $name {
            type Output = u64;
            fn sub(self, other: Self) -> u64 {
                self.0.saturating_sub(other.0)
            }
        }
    };
}

number!(
    /// A process with a data directory. Never reused: a directory that lost promises, or an empty
    /// one, is a new node.
    NodeId,
    u64
);
number!(
    /// A Raft group: one shard, or the shard manager (group 0). Never reused.
    GroupId,
    u64
);
number!(
    /// One replica of one group on one node. Never reused, so that a late message to a removed
    /// replica finds nobody.
    ReplicaId,
    u64
);
number!(
    /// A session for exactly-once commands.
    SessionId,
    u64
);
number!(
    /// A cluster, drawn at random when it is made; keeps strangers' messages out.
    ClusterId,
    u64
);
number!(
    /// One of the 16384 parts of the key space.
    Slot,
    u16
);

counter!(
    /// A move of slots from one shard to another: the index, in the shard manager's log, of the entry that
    /// opened it. Never reused. Zero is no move: what a slot has that never moved.
    MoveId
);
counter!(
    /// A Raft term (Raft paper, section 5.1).
    Term
);
counter!(
    /// A position in a Raft log; the first entry has index 1.
    Index
);
counter!(
    /// A version of the shard manager's maps.
    Epoch
);
counter!(
    /// Milliseconds since the Unix epoch: always a logged or reported time, never read from a clock
    /// inside a pure crate.
    UnixMillis
);

/// A client connection: a place in the shell's table and how often that place was used before, so
/// that a late reply never reaches the place's next user.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct ConnId {
    /// The place in the table; places are reused.
    pub index: u32,
    /// How many connections had this place before.
    pub generation: u32,
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_never_wraps() {
        assert_eq!(Index(3) - Index(5), 0);
        assert_eq!(Index(5) - Index(3), 2);
        assert_eq!(Term::ZERO.prev(), Term::ZERO);
        assert_eq!(Term(1).next() + 2, Term(4));
    }
}
