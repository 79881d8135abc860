//! The scenarios of the 6.824 course: the servers that they run on, and the testers that judge them.
//!
//! The scenarios themselves are tests. The consensus labs run the Raft alone:
//!
//! - [`raft_host`]: a replica, its disk, and a list of commands for a state;
//! - [`raft_cluster`]: such servers on the labs' network, and what they must have agreed on.
//!
//! The key-value labs run whole nodes, those of [`crate::cluster`], under its judge:
//!
//! - [`kv_cluster`]: the nodes, what is done to them, and how large they may grow;
//! - [`clerk`]: the labs' client;
//! - [`kv_rounds`]: the schedule that most of these scenarios share.
//!
//! The sharding labs run several groups of such nodes beside the real shard manager:
//!
//! - [`shard_ground`]: which servers there are, and what the cluster begins with;
//! - [`operator`]: the labs' client of the controller;
//! - [`shards`], [`shard_sizes`]: what is ordered and done to the groups, and what they keep;
//! - [`shard_work`]: keys whose values are known, and clients that write to them all the time;
//! - [`shard_rounds`]: controllers that are superseded, and clerks that race for the versions of a key.

pub mod clerk;
pub mod kv_cluster;
pub mod kv_rounds;
pub mod operator;
pub mod raft_cluster;
pub mod raft_host;
pub mod shard_ground;
pub mod shard_rounds;
pub mod shard_sizes;
pub mod shard_work;
pub mod shards;
