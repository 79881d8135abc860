//! What the crate promises, from outside.

mod convergence;
mod formats;
mod lab_4a;
mod moving;
mod ordering;
mod placing;
mod rebalancing;
mod support;
mod walk;
