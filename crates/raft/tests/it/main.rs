//! Consensus judged: scenario scripts, the paper walked section by section, random walks, and
//! nonsense.

mod cluster;
mod garbage;
mod host;
mod judge;
mod paper;
mod scripts;
mod trace;
mod walk;
mod weather;
