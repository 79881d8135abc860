//! Consensus judged: scenario scripts, the paper walked section by section, and random walks.

mod cluster;
mod host;
mod judge;
mod paper;
mod scripts;
mod walk;
