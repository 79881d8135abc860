//! Clients: what arrives on their connections, and who answers it.
//!
//! - [`connections`]: one entry a connection, and the table of them;
//! - [`gate`]: the door: known? allowed? whose? then to a group, to another node, or to wait;
//! - [`gather`]: commands that concern every group led here;
//! - [`transactions`]: MULTI, WATCH and EXEC;
//! - [`waiting`]: requests that wait for a primary;
//! - [`links`]: the connections of routers, and requests about slots instead of keys;
//! - [`local`]: commands that the node answers by itself;
//! - [`config_command`], [`info`]: these commands; what a router has as well is in [`kvorum_clients`];
//! - [`face`]: the face of a Redis Cluster.

pub(crate) mod config_command;
pub(crate) mod connections;
pub(crate) mod face;
pub(crate) mod gate;
pub(crate) mod gather;
pub(crate) mod info;
pub(crate) mod links;
pub(crate) mod local;
pub(crate) mod transactions;
pub(crate) mod waiting;
