//! Tests of the engine from outside of the crate.

mod coordinator;
mod simulation;
mod world;
