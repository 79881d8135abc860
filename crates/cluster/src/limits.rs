//! Every limit of the shard manager's state, with its reason. Beyond one, a command is refused with
//! a reply that says so.

use kvorum_base::slot::SLOT_COUNT;

/// How many slots one move takes along. A move is started again as a whole, is sealed as a whole,
/// and its data is held twice: small moves keep all three short.
pub const MOVE_SLOTS_MAX: u32 = 64;

/// How many bytes of data one move should take along, where sizes are known; a single slot that has
/// more is moved alone.
pub const MOVE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// How many moves may be open at once, whatever the settings say. Each holds memory at its target.
pub const MOVES_OPEN_MAX: u32 = 1024;

/// How many moves are open at once if nobody says otherwise.
pub const MOVES_OPEN_DEFAULT: u32 = 4;

/// How many groups change their replicas at once if nobody says otherwise. Each change copies a
/// whole shard.
pub const CHANGES_OPEN_DEFAULT: u32 = 4;

/// How many configs are kept for questions about the past. Each costs what it changed.
pub const CONFIGS_KEPT_MAX: usize = 4096;

/// How many changed runs of slots, and shards that joined or left, all kept configs have together: a
/// quarter of a megabyte encoded, if names are short. Configs that change everything push out older ones.
pub const CONFIG_ITEMS_KEPT_MAX: usize = 65_536;

/// How many nodes there may be.
pub const NODES_MAX: usize = 1024;

/// How many shards there may be: beyond that some could have no slot at all.
pub const SHARDS_MAX: usize = SLOT_COUNT as usize;

/// How many shards one command adds or takes away.
pub const SHARDS_AT_ONCE_MAX: usize = 1024;

/// How many replicas a shard has at most. More only slow its writes.
pub const REPLICAS_MAX: usize = 9;

/// The longest name of a shard and the longest address of a node, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// How many issuers of numbered commands are remembered. The one that was silent longest is
/// forgotten first, and is told so when it comes back.
pub const ISSUERS_MAX: usize = 1024;

/// How many recoveries are kept to be shown. An operator who did more has other records.
pub const RECOVERIES_KEPT_MAX: usize = 64;

/// How many session ids are issued at once.
pub const SESSION_BLOCK_MAX: u64 = 1 << 20;

const _: () = assert!(MOVES_OPEN_DEFAULT <= MOVES_OPEN_MAX);
const _: () = assert!(SHARDS_AT_ONCE_MAX <= SHARDS_MAX);
const _: () = assert!(CONFIG_ITEMS_KEPT_MAX > SLOT_COUNT as usize);
