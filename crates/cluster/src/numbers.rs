//! Numbers of the shard manager as types of their own. None of them is ever given out twice.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The number itself.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A config: which shard should have which slot. The first is 0, each change makes the next.
    ConfigNumber
);
number!(
    /// A move of slots: the index, in the shard manager's log, of the entry that opened it. Zero is
    /// no move: what a slot has that never moved.
    MoveId
);
number!(
    /// An order to a group or node. Grows with every order, whoever it is for.
    OrderNumber
);
number!(
    /// Who numbers its commands: the index of the entry that opened the issuer.
    IssuerId
);
