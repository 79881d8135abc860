//! Whole nodes on simulated machines: what runs them, who asks them, and what goes wrong.

pub mod client;
pub mod cluster;
pub mod coverage;
pub mod machine;
pub mod run;
pub mod schedule;
pub mod workload;
