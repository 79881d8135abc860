//! Every limit of the keyspace, with its reason and who is told "no", and how.

use kvorum_base::slot::SLOT_COUNT;

/// The longest key in bytes. Keys are copied into batches, read arenas and indexes. Refused with an
/// error reply before anything is proposed.
pub const KEY_BYTES_MAX: usize = 64 * 1024;

/// The longest string value in bytes: what one entry of the log can carry without silencing a
/// 100 Mbit/s link for seconds. Refused with Redis's own text for too long strings.
pub const VALUE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The longest key and value together that lie in an entry's one allocation. Such entries are
/// copied with their bucket, so this bounds the first write under a view to a quarter of a MiB.
pub(crate) const INLINE_BYTES_MAX: usize = 1024;

/// The longest key of such an entry: its length is one byte.
pub(crate) const INLINE_KEY_BYTES_MAX: usize = 255;

/// How many entries a bucket holds at most: the unit of copying under a view.
pub(crate) const BUCKET_ITEMS_MAX: usize = 256;

/// Two neighbouring buckets that hold together no more than this become one again. Far below the
/// maximum, so that a few writes do not split and join for ever.
pub(crate) const BUCKET_ITEMS_JOIN: usize = BUCKET_ITEMS_MAX / 4;

/// What a key costs beyond its own bytes in the accounting of memory; about what is measured.
pub const KEY_OVERHEAD_BYTES: u64 = 48;

/// How many requests a session may have outstanding, over all shards. A request with a number
/// this far below the largest seen was answered, by the client's own promise.
pub const SESSION_WINDOW: u64 = 32;

/// How many sessions may be open. At the limit new ones are refused; no session is ever dropped to
/// make room, since its repeated requests would then be executed again.
pub const SESSIONS_MAX: u64 = 100_000;

/// How many rows (slot, session) a keyspace holds. At the limit a session's first request in a slot
/// is refused.
pub const SESSION_ROWS_MAX: u64 = 1_000_000;

/// How long a session lasts if the client does not say, in milliseconds: an hour.
pub const SESSION_LIFE_MS_DEFAULT: u64 = 3_600_000;

/// How long a session may last, in milliseconds: a day. Rows stay until the end, so this bounds
/// what a lost client costs.
pub const SESSION_LIFE_MS_MAX: u64 = 24 * SESSION_LIFE_MS_DEFAULT;

/// What a session row, and each reply in it, cost beyond their bytes in the accounting of memory.
pub(crate) const ROW_OVERHEAD_BYTES: u64 = 64;

/// How many commands one transaction has. All of them are applied in one step, and nothing else meanwhile.
/// Refused with an error reply before anything is proposed.
pub const TRANSACTION_COMMANDS_MAX: usize = 64 * 1024;

/// How many bytes of replies a session keeps of one transaction: a reply with the longest value is kept. What
/// has no room is done, and answered with an error that says so.
pub(crate) const KEPT_REPLY_BYTES_MAX: usize = VALUE_BYTES_MAX + KEY_BYTES_MAX;

/// How many keys one SCAN looks at, whatever its COUNT asks for: a few milliseconds of work. COUNT
/// is a hint, so nobody needs to be told.
pub(crate) const SCAN_COUNT_MAX: u64 = 10_000;

/// Garbage that is freed in one step, with an entry or a tick, in buckets: a fraction of a millisecond.
pub(crate) const GARBAGE_BUCKETS_AT_ONCE: usize = 16;

const _: () = assert!(SLOT_COUNT.is_power_of_two());
const _: () = assert!(BUCKET_ITEMS_JOIN < BUCKET_ITEMS_MAX / 2);
const _: () = assert!(INLINE_BYTES_MAX < kvorum_resp::SHARED_BYTES_MIN);
const _: () = assert!(SESSION_LIFE_MS_DEFAULT <= SESSION_LIFE_MS_MAX);
