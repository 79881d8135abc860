//! What can go wrong in a task, in the words of whoever has to mend it.

use std::fmt;
use std::io;

use crate::coordinator::AttemptId;

/// Why a task, or a job, did not go on.
#[derive(Debug)]
pub enum Error {
    /// A file, process or socket did not do what it was asked for.
    Io {
        /// What was tried, with the name of the file.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// An input record is not what its format, or its function, takes. Skipped on request.
    BadRecord(String),
    /// A function, or what the user asked for, does not work.
    Function(String),
    /// The output of a map is gone or damaged; the map must run again.
    InputLost {
        /// Whose output.
        input: AttemptId,
        /// What is wrong with it.
        reason: String,
        /// Whether the place where it lies could not be reached at all.
        unreachable: bool,
    },
    /// The coordinator has no use for this attempt any more.
    Abandoned,
}

/// The result of everything in this crate that may fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of a function, or a refusal of what the user asked for.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Function(message.into())
    }

    /// A record that is not what the function takes.
    pub fn bad_record(message: impl Into<String>) -> Self {
        Self::BadRecord(message.into())
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::BadRecord(message) | Self::Function(message) => f.write_str(message),
            Self::InputLost { input, reason, .. } => {
                write!(f, "the output of {input} cannot be read: {reason}")
            }
            Self::Abandoned => f.write_str("abandoned: another attempt has won"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
