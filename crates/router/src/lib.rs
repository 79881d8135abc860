//! The router's brain: to its clients one Redis, behind it a cluster of nodes. Events in, effects out; no
//! socket, no clock.
//!
//! The life of a request: what a client sent is parsed by its connection ([`clients`]), and looked up in the
//! command table ([`route`]). What is about connections is answered here ([`local`]). Anything about keys
//! becomes *pieces*, one for each slot that it touches ([`pieces`], [`gather`]); a piece goes over a *link*
//! ([`links`]) to the node that owns its slot, as far as known ([`map`]). Its answer is passed on, or says
//! that it did not happen, and then the piece follows the redirect or waits and is sent again ([`answers`]),
//! until its deadline. Requests about all keys go over all slots ([`sweeps`]).
//!
//! ```text
//! client --bytes--> connection --request--> pieces --queue of client and slot--> link --> node
//!        <--reply in order of requests-- gather <--answer or refusal, again------------
//! ```
//!
//! What it promises:
//!
//! - *Three outcomes.* A request is done; refused, which means that it did not happen; or unknown. What was
//!   handed to a socket whose link then broke is unknown, unless it is a read or a KVORUM.ONCE, which are
//!   sent again. Nothing else is ever sent twice, but after a refusal.
//! - *Order.* A client's replies come in the order of its requests, and its requests to one slot take effect
//!   in theirs. Those to different slots are on their way together.
//! - *Whole walks.* DBSIZE, FLUSHALL and SCAN cover every slot, also those that move meanwhile.
//! - *Reads at replicas are as fresh.* They go there for clients that have said READONLY ([`replicas`]).
//! - *Nobody waits for another's request.* A piece that has to wait does so alone, with those behind it in
//!   its queue.
//!
//! What it does not: split commands (MGET, MSET, DEL, UNLINK, EXISTS, TOUCH) are not one step over several
//! slots; it keeps no data, no sessions and no state that another router would need. A transaction is
//! gathered at its client's connection ([`transactions`]), and sent as one request that rests on no
//! connection; its keys are in one slot.

mod answers;
mod clients;
pub mod event;
mod gather;
mod info;
pub mod limits;
mod links;
mod local;
mod map;
mod nodes;
mod pieces;
pub mod planted;
mod replicas;
mod reply;
mod route;
mod router;
mod sending;
pub mod status;
mod sweeps;
mod transactions;

pub use event::{Effect, Event, LinkId, Process};
pub use map::parse_slots;
pub use router::{Config, Router};
pub use status::Status;
