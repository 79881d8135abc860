//! Consensus judged: scenario scripts and random walks.

mod cluster;
mod host;
mod judge;
mod scripts;
mod trace;
mod walk;
