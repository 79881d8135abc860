//! Bugs on purpose: the tests must find each. Only a build with the feature `planted` can have one.

/// A bug that a router can be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A later write of a client is sent while an earlier one to the same slot waits.
    WriteOvertakesParked,
    /// A write that was handed to a socket is sent again when its link breaks.
    UnknownResent,
    /// A walk over the keyspace believes that a node covers what it was asked for.
    MovingSlotMissed,
    /// EXEC leaves out the versions of what was watched.
    WatchForgotten,
}

/// Which bug a router has, if any.
pub type Planted = kvorum_base::Planted<Bug>;
