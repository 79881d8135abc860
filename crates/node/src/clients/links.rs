//! Links of routers, and requests that are about slots instead of keys.
//!
//! A router sends the requests of many clients over one connection and says so first, by `KVORUM.LINK
//! ROUTER`. Two things are different on such a link:
//!
//! - *Nothing is held.* Replies leave in the order of requests, so a request that waits for a primary would
//!   make every other client of the router wait. It is refused at once instead, with a prefix that says
//!   that it did not happen, and the router waits for that one alone.
//! - *Reads and writes have no order among each other.* They come from different clients, or from one whose
//!   requests the router itself keeps in order, by sending the later one when the earlier is answered. To
//!   put reads behind the unanswered writes of the link would send nearly all of them through the log.

use kvorum_base::Slot;
use kvorum_kv::Spec;
use kvorum_resp::{Args, ArgsBuf};

use super::connections::Client;
use crate::group::Group;

/// Said on a router's link where another client would be held.
pub(crate) const NO_PRIMARY: &str =
    "TRYAGAIN no primary of this shard is known here; nothing was done";

/// KVORUM.LINK.
pub(crate) fn link(client: &mut Client, seq: u32, args: Args<'_>) {
    let is_router = args.get(1).eq_ignore_ascii_case(b"router");
    client.is_router |= is_router;
    client.connection.reply(seq, |replies| {
        if is_router {
            replies.ok();
        } else {
            replies.error("ERR the only kind of link is ROUTER");
        }
    });
}

/// The first slot of a request that names slots: whoever owns it is who answers.
///
/// # Errors
/// The text of the reply, if it does not name them right.
pub(crate) fn first_slot(spec: &Spec, args: Args<'_>) -> Result<Option<Slot>, &'static str> {
    match kvorum_kv::swept_slots(spec, args) {
        None => Ok(None),
        Some(slots) => Ok(slots?.next_from(0)),
    }
}

/// A request that names slots, for those of them that the group serves.
pub(crate) fn narrowed(group: &Group, spec: &Spec, args: Args<'_>) -> Option<ArgsBuf> {
    kvorum_kv::swept_slots(spec, args)?.ok()?;
    kvorum_kv::narrow_sweep(spec, args, group.served())
}
