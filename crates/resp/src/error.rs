//! Protocol errors: the bytes are not a request, so nothing behind them can be read either.
//!
//! The texts are those of Redis, since tests and proxies compare them. "Incomplete" is no error and
//! has no value here.

use std::fmt;

/// Why a client's bytes are not a request. Answered, and then the connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtocolError {
    /// A list's header does not hold a number, or one out of range.
    InvalidArgsCount,
    /// A bulk's header does not hold a number, or one out of range.
    InvalidBulkLength,
    /// Where a bulk must begin stands this byte.
    ExpectedBulk(u8),
    /// An inline request does not end.
    TooBigInline,
    /// A list's header does not end.
    TooBigArgsCount,
    /// A bulk's header does not end.
    TooBigBulkCount,
    /// An inline request with an open quote, or with text directly behind a closing one.
    UnbalancedQuotes,
    /// Too many arguments for a client that has not authenticated.
    UnauthenticatedArgsCount,
    /// Too long an argument for a client that has not authenticated.
    UnauthenticatedBulkLength,
    /// All arguments together are too long.
    TooBigRequest,
}

impl ProtocolError {
    /// The full text of the error reply. Not always UTF-8: one of them quotes a byte.
    #[must_use]
    pub fn text(self) -> Vec<u8> {
        let mut text = b"ERR Protocol error: ".to_vec();
        text.extend_from_slice(match self {
            Self::InvalidArgsCount => b"invalid multibulk length",
            Self::InvalidBulkLength => b"invalid bulk length",
            Self::ExpectedBulk(_) => b"expected '$', got '",
            Self::TooBigInline => b"too big inline request",
            Self::TooBigArgsCount => b"too big mbulk count string",
            Self::TooBigBulkCount => b"too big bulk count string",
            Self::UnbalancedQuotes => b"unbalanced quotes in request",
            Self::UnauthenticatedArgsCount => b"unauthenticated multibulk length",
            Self::UnauthenticatedBulkLength => b"unauthenticated bulk length",
            Self::TooBigRequest => b"too big request",
        });
        if let Self::ExpectedBulk(byte) = self {
            text.extend_from_slice(&[byte, b'\'']);
        }
        text
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text().escape_ascii())
    }
}

impl std::error::Error for ProtocolError {}
