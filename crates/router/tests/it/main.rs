//! The router against a cluster in memory: many shards, moves, failovers, broken links, from a seed.

mod cluster;
mod histories;
mod planted;
mod scenes;
mod transactions;
mod world;
