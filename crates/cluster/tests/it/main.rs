//! What the crate promises, from outside.

mod formats;
mod lab_4a;
mod placing;
mod rebalancing;
mod support;
mod walk;
