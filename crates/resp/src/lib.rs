//! The Redis protocol: codec and the connection as a state machine.

pub mod args;
pub mod number;
pub mod outbuf;
pub mod replies;
pub mod stored;

pub use args::{Args, ArgsBuf};
pub use outbuf::{OutBuf, SHARED_BYTES_MIN};
pub use replies::{Outcome, Replies, Version};
pub use stored::{check_stored, replay_stored};
