//! The scenarios of the 6.824 course: the servers that they run on, and the tester that judges them.
//!
//! The scenarios themselves are tests.

pub mod raft_cluster;
pub mod raft_host;
