//! What a client may ask of the protocol's side of a connection, and who is told "no" and how.

/// The longest line: an inline request, or the header of a list or bulk, in bytes up to its end.
///
/// Refused with a protocol error. A header is a number of at most ten digits; what is longer is not
/// a client of this protocol, and nobody else should make us keep and search more than this.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// The arguments of a request before authentication: AUTH and HELLO with all their options.
///
/// Refused with a protocol error, since strangers should not be able to make a server allocate.
pub const UNAUTHENTICATED_ARGS_MAX: u32 = 10;

/// The length of one argument before authentication, in bytes. Refused with a protocol error.
pub const UNAUTHENTICATED_BULK_BYTES_MAX: u32 = 16 * 1024;

/// From this length on, the buffer of an unfinished request is sized by the bulk's header, in bytes.
/// Below, it grows by doubling as usual.
pub const SIZED_BULK_BYTES_MIN: usize = 64 * 1024;

/// More than this a lane's scratch does not keep from one request to the next, in bytes.
pub const SCRATCH_BYTES_MAX: usize = 64 * 1024;

/// What one request may be. Refused with a protocol error, which closes the connection: a request
/// that is not read to its end leaves nothing that could be read behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InputLimits {
    /// Its arguments, the name included.
    pub args_max: u32,
    /// The length of one argument, in bytes. Also what an authenticated client can make the server
    /// reserve (not fill) by a header alone.
    pub bulk_bytes_max: u32,
    /// All of it, headers included, in bytes.
    pub request_bytes_max: u32,
}

impl Default for InputLimits {
    /// A million arguments, 32 MiB each, 64 MiB in all.
    fn default() -> Self {
        Self {
            args_max: 1024 * 1024,
            bulk_bytes_max: 32 * 1024 * 1024,
            request_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// How much output a client may leave unread. Beyond it the connection is closed: the replies are
/// already made, and memory is the only other place they could go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutputLimits {
    /// Never more than this, in bytes.
    pub hard_bytes: usize,
    /// Not more than this for longer than `soft_ticks`, in bytes.
    pub soft_bytes: usize,
    /// How long, in ticks.
    pub soft_ticks: u64,
}

/// What a transaction may queue. Beyond it the command is refused and the transaction will be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionLimits {
    /// Commands.
    pub commands_max: usize,
    /// Their memory, in bytes.
    pub bytes_max: usize,
}

impl Default for TransactionLimits {
    /// 64 Ki commands, 64 MiB.
    fn default() -> Self {
        Self {
            commands_max: 64 * 1024,
            bytes_max: 64 * 1024 * 1024,
        }
    }
}
