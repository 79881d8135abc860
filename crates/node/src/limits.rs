//! Every limit of a node, with its reason and who is told "no", and how.
//!
//! A system without limits has them all the same: they are where it falls over.

/// The longest key, in bytes. Longer ones are refused with an error reply: keys are held in every
/// view, index and cursor, and a key of megabytes is a value in the wrong place.
pub const KEY_BYTES_MAX: usize = 64 << 10;

/// The longest value, in bytes. A longer one is refused with an error reply: it has to fit an entry,
/// a frame and a log batch, and at 100 Mbit/s this one takes 2.7 seconds already.
pub const VALUE_BYTES_MAX: usize = 32 << 20;

/// An entry is closed when its small commands reach this many bytes. Larger entries make the pipeline
/// coarse: replies of the first command wait for the last.
pub const ENTRY_BYTES_TARGET: usize = 1 << 20;

/// The largest entry: one command with the largest key and value, and room for what goes around it.
pub const ENTRY_BYTES_MAX: usize = VALUE_BYTES_MAX + KEY_BYTES_MAX + (64 << 10);

/// What an entry has besides its commands: its header, and the length of a command.
pub const ENTRY_OVERHEAD_BYTES: usize = 64;

/// An open batch is sealed beside an unacknowledged one when this many bytes wait in it: on a slow
/// link waiting for the acknowledgement would cost more than it saves.
pub const BATCH_BYTES_EAGER: usize = 64 << 10;

/// Proposed and not yet committed bytes in one group. Beyond it writes are refused with TRYAGAIN:
/// they have not happened. Without it a primary that lost its followers collects writes until it is
/// out of memory.
pub const UNCOMMITTED_BYTES_MAX: u64 = 128 << 20;

/// Entries kept in memory for followers, in bytes. A follower further behind gets a snapshot.
pub const LOG_CACHE_BYTES: u64 = 64 << 20;

/// Requests of one connection that wait for replies. Beyond it the connection is not read: TCP tells
/// the client.
pub const CONNECTION_REQUESTS_MAX: u32 = 16 << 10;

/// Reply bytes waiting for one connection. Beyond it the connection is not read.
pub const OUTPUT_BYTES_PAUSE: usize = 1 << 20;

/// Reply bytes waiting for one connection. Beyond it the connection is closed: a client that asks and
/// never reads would take the memory of all others.
pub const OUTPUT_BYTES_MAX: usize = 256 << 20;

/// Bytes of requests of one connection that are held until a primary is known. Beyond it the
/// connection is not read.
pub const HELD_BYTES_MAX: usize = 4 << 20;

/// Physically removed expired keys per applied entry. A million keys due at once must not stop the
/// lane; they are invisible from their deadline on anyway.
pub const EXPIRED_PER_ENTRY: usize = 64;

/// Entry bytes that one turn applies. More is left to the next turn: a restart may find gigabytes to
/// apply, and a primary that does it all at once sends no heartbeats meanwhile and is voted out.
pub const APPLY_BYTES_PER_TURN: usize = 4 << 20;

/// Bytes of changes in one piece of a move. Each is an entry of the target's log: larger ones would make its
/// own writers wait.
pub const MOVE_PIECE_BYTES: usize = 64 << 10;

/// Pieces of a move that are sent and not confirmed.
pub const MOVE_WINDOW: usize = 8;

/// Slots are sealed when the last round of their stream had no more bytes than this: about what is left to be
/// sent while nobody can write to them.
pub const MOVE_SEAL_BYTES: usize = 256 << 10;

/// Rounds after which writes to the moving slots wait at the door: the stream does not catch up with them.
pub const MOVE_ROUNDS_FREE: u32 = 6;

/// Ticks since its last word within which the target of a move counts as there.
pub const MOVE_HEARD_TICKS: u64 = 10;

/// Ticks without a confirmation after which pieces are sent again.
pub const MOVE_RETRY_TICKS: u64 = 30;

/// Ticks after which an entry about a move is proposed again that has not come to pass.
pub const MOVE_PROPOSE_TICKS: u64 = 20;

/// Ticks between two questions how far the target is.
pub const MOVE_ASK_TICKS: u64 = 20;

/// Ticks that slots are sealed before the target is asked to refuse them: they are served again then.
pub const MOVE_SEAL_TICKS: u64 = 200;

/// Uncommitted bytes of the target's group above which it takes no piece: its own writers come first.
pub const MOVE_UNCOMMITTED_BYTES: usize = 1 << 20;

/// Ticks between two looks at what the shard manager has to be told, or has to do. So states are sent, and
/// clients' maps change, at most ten times a second.
pub const MANAGER_LOOK_TICKS: u64 = 10;

/// Ticks between two reports of a node to the shard manager.
pub const REPORT_TICKS: u64 = 100;

/// Ticks after which a state is sent again to a node that does not say that it holds it.
pub const STATE_RETRY_TICKS: u64 = 100;

/// Ticks after which evidence is told again that the shard manager's state does not show.
pub const EVIDENCE_TICKS: u64 = 100;

/// The most slots whose sizes are reported.
pub const LARGE_SLOTS_MAX: usize = 1024;

/// The most commands of one plan.
pub const PLAN_COMMANDS_MAX: usize = 64;

/// The longest pause after a plan of which everything was refused.
pub const PLAN_PAUSE_TICKS_MAX: u64 = 1000;

/// A frame for a peer is closed when it has this many bytes: what arrives is worked on while the rest
/// is on its way.
pub const FRAME_BYTES_TARGET: usize = 4 << 20;

/// A snapshot in transfer keeps entries in memory that its receiver will need. Above so many times
/// [`LOG_CACHE_BYTES`] the transfer is given up; it begins anew with a newer view.
pub const TRANSFER_CACHE_FACTOR: u64 = 4;

/// A primary keeps in memory what its own disk has not got, also when the others have committed it. Above
/// so many times [`LOG_CACHE_BYTES`] writes are refused with TRYAGAIN: they have not happened. Without it a
/// primary whose disk is slower than the others' collects entries until it is out of memory.
pub const UNSYNCED_CACHE_FACTOR: u64 = 4;

/// Ticks after a snapshot that could not be stored before the next is tried.
pub const SNAPSHOT_RETRY_TICKS: u64 = 1000;

/// So many of the longest election timeouts after an order to hand the leadership over it is told that
/// nothing comes of it. It is tried once: what stood in the way may stay.
pub const TRANSFER_ELECTIONS: u64 = 5;

/// So many of the longest election timeouts without a primary after which a group that hears no majority says
/// that it may be lost.
pub const LOST_ELECTIONS: u64 = 10;

/// Ticks after which it says so again.
pub const LOST_NOTE_TICKS: u64 = 6000;

/// Ticks for which a node that has handed over, and is to end, sends its clients to the others. A request
/// that is on its way when its connection closes has an unknown outcome for whoever sent it.
pub const FAREWELL_TICKS: u64 = 50;

/// The piece size of a snapshot in transfer, in bytes: small enough not to hold the lane.
pub const CHUNK_BYTES: usize = 256 << 10;

/// The piece size of a snapshot file, in bytes: each is synced by itself, so that the log's syncs do
/// not wait behind a large one.
pub const SNAPSHOT_PIECE_BYTES: usize = 1 << 20;

/// A new snapshot starts when this many log bytes have come since the last, or as many as the last
/// snapshot has, whichever is more: so the bytes written are at most about twice those of the log.
/// With 64 MiB instead of 256 three nodes on two cores lost a third of their pipelined writes to
/// snapshots of a state of 170 MB; a restart reads 256 MiB of log in about a second.
pub const SNAPSHOT_AFTER_LOG_BYTES: u64 = 256 << 20;

/// Live entries of an idle group are carried to the log's head up to this many bytes; beyond it the
/// group takes a snapshot instead.
pub const CARRY_BYTES_MAX: u64 = 1 << 20;

const _: () = assert!(ENTRY_BYTES_TARGET <= ENTRY_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_EAGER < ENTRY_BYTES_TARGET);
const _: () = assert!(ENTRY_BYTES_MAX as u64 <= UNCOMMITTED_BYTES_MAX);
const _: () = assert!(OUTPUT_BYTES_PAUSE < OUTPUT_BYTES_MAX);
const _: () = assert!(
    VALUE_BYTES_MAX < OUTPUT_BYTES_MAX,
    "one largest value must be answerable"
);
