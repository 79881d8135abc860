//! What commands mean: a keyspace, the commands on it, and nothing else.
//!
//! The replicated state of one shard is a [`Keyspace`]: keys in buckets in the order of slot and
//! keyed hash, counters per slot, rows of sessions, and the logged clock. It changes in one way only:
//! by applying encoded commands, in the order and with the clocks of the log. So two replicas that
//! applied the same entries hold the same state, and an additive hash per slot lets them prove it.
//!
//! ```text
//! request ── find ──► Spec ── read ────────────────────────────► reply
//!                       └──── resolve ──► encoded command
//!                                             │  (batched, replicated, committed: not here)
//!                                             ▼
//! for each entry: advance_clock, then for each command: decode, check keys, apply ──► reply
//!                 and once: remove_expired
//! ```
//!
//! - [`command`] has the table of commands and the way from a request to its reply;
//! - [`keyspace`] is the state, [`view`] takes it consistently while writes go on, and loads it back;
//! - [`delta`] is what changed in some slots between two moments, for a slot that moves to another
//!   keyspace, which takes it in by [`Keyspace::stage`];
//! - [`session`] makes a repeated command happen once;
//! - [`limits`] has every limit with its reason.
//!
//! What makes apply deterministic: no clock but the entry's, no chance, no order of a hash table, no
//! allocator, and a level instead of a version of the binary. What apply refuses it refuses by a
//! reply, everywhere alike; it cannot fail.
//!
//! What it deliberately does not do: it does not know which slots are owned here, who is leader, or
//! whether memory is short; whoever applies asks that first. It holds everything in memory, and
//! evicts nothing. One database, no SELECT. Strings are the only type so far.

mod clock;
pub mod command;
mod deadlines;
mod decimal;
pub mod delta;
mod directory;
mod entry;
mod frozen;
pub mod glob;
mod hash;
pub mod keyspace;
pub mod limits;
mod load;
mod position;
mod rows;
mod serving;
pub mod session;
mod slots;
mod stage;
mod sweep;
pub mod value;
pub mod view;
mod warm;

pub use command::scan::{cursor_in, scan_within};
pub use command::spec::{Keys, NodeCommand, Run, Spec, Spread};
pub use command::{
    Command, CrossSlot, Refusal, apply, cursor_of, find, keys_of, keys_of_encoded, narrow_sweep,
    needs_memory, printed, read, resolve, slot_of_cursor, slot_of_keys, swept_slots,
};
pub use delta::{Change, Delta, SessionChange};
pub use frozen::Frozen;
pub use keyspace::{Found, Garbage, Keyspace};
pub use load::{LoadError, Loader};
pub use session::{Recorded, Token};
pub use value::{Text, Value, ValueRef};
pub use view::{Item, KeyItem, MetaItem, SessionItem, SlotItem, View};
pub use warm::WARM_KEYS_MAX;
