//! What the coordinator and its workers say to each other.
//!
//! A connection is a stream of frames in both directions, over TCP. First both sides prove that they hold the
//! secret of the job (`secret`). A frame is the length of its text as a little-endian u32, and the text: one
//! JSON document, a message as below. The worker opens with `hello`, then it says `ask` whenever it has
//! nothing to do, and how its attempt does. All else comes from the coordinator when there is something to
//! say. The end of the connection is the end of the worker for the coordinator; for the worker it is the end
//! of the job, or of this coordinator of it.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::coordinator::AttemptId;
use crate::counters::Counters;
use crate::input::split::Split;
use crate::job::Job;

/// Both sides must speak the same version.
pub(crate) const VERSION: u32 = 2;
/// A longer frame is refused: not even a job of a hundred thousand maps has one.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// From a worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToCoordinator {
    Hello {
        version: u32,
        pid: u32,
        /// Where it serves the outputs of its maps; empty if they lie where all can read them.
        place: String,
    },
    Ask,
    Progress {
        attempt: AttemptId,
        units: u64,
    },
    Done {
        attempt: AttemptId,
        counters: Counters,
        memory_bytes: u64,
    },
    Failed {
        attempt: AttemptId,
        error: String,
    },
    InputLost {
        attempt: AttemptId,
        input: AttemptId,
        error: String,
        unreachable: bool,
    },
}

/// What a reduce is to read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Input {
    /// Whose output.
    pub(crate) attempt: AttemptId,
    /// Where it is served; empty if it lies where all can read it.
    pub(crate) place: String,
}

/// From the coordinator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToWorker {
    /// The job, without its splits.
    Welcome(Box<Job>),
    Refused(String),
    Map {
        attempt: AttemptId,
        split: Split,
    },
    Reduce {
        attempt: AttemptId,
        inputs: Vec<Input>,
    },
    Abandon {
        attempt: AttemptId,
    },
    /// Nobody needs the output of this map attempt any more.
    Forget {
        attempt: AttemptId,
    },
    Dismiss,
}

/// Writes one frame.
pub(crate) fn send<M: Serialize>(to: &mut impl Write, message: &M) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let len = frame.len() - 4;
    if len > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {len} bytes")));
    }
    frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
    to.write_all(&frame)
}

/// Reads one frame; `None` where the stream ends between frames.
pub(crate) fn receive<M: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<M>> {
    let mut len = [0; 4];
    match from.read_exact(&mut len) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {len} bytes")));
    }
    // Grows with what arrives, so that a length alone takes no memory.
    let mut text = Vec::new();
    if from.take(len as u64).read_to_end(&mut text)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::TaskId;

    #[test]
    fn a_frame_on_the_wire() {
        let attempt = AttemptId {
            task: TaskId::map(3),
            epoch: 1,
            number: 9,
        };
        let message = ToCoordinator::Progress { attempt, units: 5 };
        let mut bytes = Vec::new();
        send(&mut bytes, &message).expect("memory");
        let text = br#"{"progress":{"attempt":{"task":{"phase":"map","index":3},"epoch":1,"number":9},"units":5}}"#;
        assert_eq!(bytes[..4], (text.len() as u32).to_le_bytes());
        assert_eq!(&bytes[4..], text);
        let mut from = &bytes[..];
        assert_eq!(receive(&mut from).expect("a frame"), Some(message));
        assert_eq!(receive::<ToCoordinator>(&mut from).expect("the end"), None);
        assert!(receive::<ToCoordinator>(&mut &bytes[..9]).is_err());
        assert!(receive::<ToCoordinator>(&mut &[0xff; 8][..]).is_err());
        assert!(receive::<ToCoordinator>(&mut &b"\x02\0\0\0{}"[..]).is_err());
    }
}
