//! The shard manager's replicated state, as a pure value.
//!
//! - [`config`] has the numbered configs: which shard should have which slot, now and in the past;
//! - [`rebalance`] makes even plans that move the fewest slots;
//! - [`limits`] has every limit with its reason.

pub mod config;
pub mod limits;
mod numbers;
mod rebalance;
mod runs;

pub use config::{Config, Configs, Founding, NoConfig};
pub use numbers::{ConfigNumber, IssuerId, MoveId, OrderNumber};
pub use rebalance::{rebalance, shares};
pub use runs::{SlotRuns, SlotTable};
