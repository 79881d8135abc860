//! What the crate promises, from outside.

mod support;

mod determinism;
mod loading;
mod model;
mod moving;
#[cfg(feature = "planted")]
mod planted;
mod scripts;
