//! One binary for all tests of the judge: its own parts, and the labs' scenarios.

mod lab_2a;
mod lab_2b;
mod lab_2c;
mod lab_2d;
mod lab_3a;
mod lab_3b;
mod lab_4b;
mod lab_5;
mod linearizable;
mod net;
mod simulation;

/// How many seeds each scenario is run on.
const SEEDS: u64 = 40;
