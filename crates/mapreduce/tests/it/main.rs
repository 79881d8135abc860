//! Tests of the engine from outside of the crate.

mod coordinator;
mod features;
mod jobs;
mod kills;
mod lab;
mod simulation;
mod world;
