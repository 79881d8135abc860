//! The error replies of commands, in Redis's own words: clients compare them.

use std::borrow::Cow;

use kvorum_resp::{Args, Replies};

use crate::command::CrossSlot;
use crate::command::spec::Spec;
use crate::limits::KEY_BYTES_MAX;

/// A request that is refused before it did anything: the full text of its error reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal(Cow<'static, [u8]>);

pub(crate) const SYNTAX: Refusal = fixed("ERR syntax error");
pub(crate) const NOT_AN_INTEGER: Refusal = fixed("ERR value is not an integer or out of range");
pub(crate) const NOT_A_FLOAT: Refusal = fixed("ERR value is not a valid float");
pub(crate) const OVERFLOW: Refusal = fixed("ERR increment or decrement would overflow");
pub(crate) const DECREMENT_OVERFLOW: Refusal = fixed("ERR decrement would overflow");
pub(crate) const NAN_OR_INFINITY: Refusal = fixed("ERR increment would produce NaN or Infinity");
pub(crate) const STRING_TOO_LONG: Refusal =
    fixed("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
pub(crate) const OFFSET_OUT_OF_RANGE: Refusal = fixed("ERR offset is out of range");
pub(crate) const INVALID_CURSOR: Refusal = fixed("ERR invalid cursor");
pub(crate) const CROSSSLOT: Refusal = fixed(CrossSlot::TEXT);
pub(crate) const WRONG_TYPE: Refusal =
    fixed("WRONGTYPE Operation against a key holding the wrong kind of value");

const fn fixed(text: &'static str) -> Refusal {
    Refusal(Cow::Borrowed(text.as_bytes()))
}

impl Refusal {
    pub(crate) fn new(text: impl Into<Vec<u8>>) -> Self {
        Self(Cow::Owned(text.into()))
    }

    /// The text, prefix included, without line ends of the protocol; may quote the request's bytes.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.0
    }

    /// Writes it as a reply.
    pub fn reply(&self, replies: &mut Replies<'_>) {
        replies.error_bytes(&self.0);
    }
}

/// How much of a name, and of all arguments together, an error repeats.
const SHOWN_BYTES_MAX: usize = 128;

/// What Redis repeats of a request in an error: it prints C strings, so nothing from a zero byte on.
#[must_use]
pub fn printed(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn cut(bytes: &[u8], bytes_max: usize) -> &[u8] {
    let bytes = printed(bytes);
    &bytes[..bytes.len().min(bytes_max)]
}

/// The command is not in the table: its name and first arguments, each part cut at 128 bytes.
pub(crate) fn unknown_command(args: Args<'_>) -> Refusal {
    let mut shown = Vec::new();
    for argument in args.iter().skip(1) {
        if shown.len() >= SHOWN_BYTES_MAX {
            break;
        }
        let room = SHOWN_BYTES_MAX - shown.len();
        shown.push(b'\'');
        shown.extend(cut(argument, room));
        shown.extend_from_slice(b"' ");
    }
    let mut text = b"ERR unknown command '".to_vec();
    text.extend(cut(args.get(0), SHOWN_BYTES_MAX));
    text.extend_from_slice(b"', with args beginning with: ");
    text.extend(shown);
    Refusal::new(text)
}

pub(crate) fn unknown_subcommand(container: &Spec, given: &[u8]) -> Refusal {
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(cut(given, SHOWN_BYTES_MAX));
    text.extend_from_slice(b"'. Try ");
    text.extend(container.name.to_ascii_uppercase().bytes());
    text.extend_from_slice(b" HELP.");
    Refusal::new(text)
}

pub(crate) fn wrong_arity(name: &str) -> Refusal {
    Refusal::new(format!(
        "ERR wrong number of arguments for '{name}' command"
    ))
}

pub(crate) fn invalid_expire(name: &str) -> Refusal {
    Refusal::new(format!("ERR invalid expire time in '{name}' command"))
}

pub(crate) fn key_too_long() -> Refusal {
    Refusal::new(format!(
        "ERR a key is longer than the allowed {KEY_BYTES_MAX} bytes"
    ))
}
