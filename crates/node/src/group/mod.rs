//! One group on one node: consensus, keyspace, and the single place where an entry becomes a
//! command.

pub mod snapshot;
