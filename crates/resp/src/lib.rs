//! The Redis protocol: codec and the connection as a state machine.

pub mod args;
pub mod error;
mod inline;
pub mod input;
pub mod limits;
pub mod number;
pub mod outbuf;
mod parse;
pub mod replies;
pub mod stored;

pub use args::{Args, ArgsBuf};
pub use error::ProtocolError;
pub use input::{Input, Scratch};
pub use limits::{InputLimits, OutputLimits, TransactionLimits};
pub use outbuf::{OutBuf, SHARED_BYTES_MIN};
pub use replies::{Outcome, Replies, Version};
pub use stored::{check_stored, replay_stored};
