//! Everything that could grow without bound, with its reason, and who is told "no" and how.
//!
//! Clients' connections are counted by the shell, which refuses those beyond its limit as Redis does.

/// Requests of one client that were read and are not answered. Beyond it the client's input is kept and
/// its connection not read: TCP tells the client.
pub const CLIENT_REQUESTS_MAX: u32 = 4096;

/// Bytes of requests of one client that are not answered. Beyond it its connection is not read. One
/// request may be larger than this; then it is the only one.
pub const CLIENT_REQUEST_BYTES_MAX: usize = 4 << 20;

/// Bytes of input that one client may have waiting behind its unanswered requests. Beyond it its connection
/// is not read.
pub const CLIENT_HELD_BYTES_MAX: usize = 1 << 20;

/// Reply bytes waiting for one client. Beyond it its connection is not read.
pub const OUTPUT_BYTES_PAUSE: usize = 1 << 20;

/// Reply bytes waiting for one client. Beyond it the connection is closed: a client that asks and never
/// reads would take the memory of all others.
pub const OUTPUT_BYTES_MAX: usize = 256 << 20;

/// Bytes of all requests that are not answered. Beyond it requests are refused with TRYAGAIN: they have not
/// happened. Without it a router whose nodes are away collects requests until it is out of memory.
pub const REQUEST_BYTES_MAX: usize = 512 << 20;

/// Requests on one link that are not answered. Beyond it they wait for their turn in the router, where they
/// still can go to another node.
pub const LINK_REQUESTS_MAX: usize = 8192;

/// Bytes that a link's socket has not taken. Beyond it requests wait for their turn in the router.
pub const LINK_BYTES_MAX: usize = 4 << 20;

/// Bytes of one unfinished reply of a node. Beyond it the link is given up: it is more than a node lets
/// anybody's output grow to.
pub const REPLY_BYTES_MAX: usize = 512 << 20;

/// Nodes that the router talks to, their ports for replicas counted too. Beyond it addresses that it is
/// sent to are not believed.
pub const NODES_MAX: usize = 2048;

/// Ticks between two questions for the map: ten a second, of all nodes together. Redirects bridge the gap.
pub const MAP_TICKS_MIN: u64 = 10;

/// Ticks after which the map is asked for again though nothing calls for it: a node that was added and owns
/// nothing yet is known by then.
pub const MAP_TICKS_MAX: u64 = 500;

/// Redirects that a request follows at once. After them it waits a little before each: two nodes that send
/// it to each other know more a little later.
pub const REDIRECTS_AT_ONCE: u32 = 3;

/// The longest pause before a refused request is sent again, in ticks. The first is one tick, and each is
/// twice the one before.
pub const BACK_OFF_TICKS_MAX: u64 = 16;

/// Ticks that a request which is at a node at its deadline may still wait for the answer, before its outcome
/// is called unknown. A node that refuses does so at once; without this a request that is refused again and
/// again, and so happens to be on its way at its deadline, would end as unknown.
pub const ANSWER_GRACE_TICKS: u64 = 50;

/// The longest pause before a node that does not answer is dialled again, in ticks; begins as above.
pub const DIAL_TICKS_MAX: u64 = 50;

/// Ticks without a word on a link that owes replies, after which it is given up. Longer than a node's own
/// deadline, at which it answers whatever it has.
pub const LINK_SILENCE_TICKS: u64 = 800;

/// Ticks without a word on a link that owes replies, after which others are asked for the map: the node may
/// be stopped. What is on the link stays there, but for reads of slots that have another owner by then.
pub const LINK_DOUBT_TICKS: u64 = 50;

/// Bytes of key names in an error that says which keys are in doubt.
pub const NAMED_KEYS_BYTES_MAX: usize = 4096;

const _: () = assert!(OUTPUT_BYTES_PAUSE < OUTPUT_BYTES_MAX);
const _: () = assert!(CLIENT_REQUEST_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(LINK_DOUBT_TICKS < LINK_SILENCE_TICKS);
