//! What the crate promises, from outside.

mod placing;
mod rebalancing;
mod support;
