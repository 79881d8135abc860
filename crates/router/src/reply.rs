//! What a reply of a node means for a router.

use kvorum_resp::answer::{Element, Elements};
use kvorum_resp::number::parse_integer;

/// What a node's reply means for whoever asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meaning<'a> {
    /// It is for the client, whatever it says.
    Final,
    /// It did not happen; this node serves the slot.
    Moved {
        /// The slot.
        slot: u16,
        /// Host and port, as written.
        address: &'a [u8],
    },
    /// It did not happen, and may later.
    Later(&'a [u8]),
    /// It may have happened.
    Unknown(&'a [u8]),
}

/// Prefixes of refusals after which a request may succeed elsewhere or later. They are sent only for what
/// certainly did not happen.
const LATER: [&[u8]; 8] = [
    b"TRYAGAIN",
    b"CLUSTERDOWN",
    b"LOADING",
    b"MASTERDOWN",
    b"READONLY",
    b"NOREPLICAS",
    b"ASK",
    b"NOAUTH",
];

impl<'a> Meaning<'a> {
    /// Of a whole reply.
    pub(crate) fn of(reply: &'a [u8]) -> Self {
        if reply.first() != Some(&b'-') {
            return Self::Final;
        }
        let Some(Element::Error(text)) = Elements::new(reply).element() else {
            return Self::Final;
        };
        let mut words = text.split(|byte| *byte == b' ');
        let prefix = words.next().unwrap_or_default();
        if prefix == b"UNKNOWN" {
            return Self::Unknown(text);
        }
        if prefix == b"MOVED" {
            let slot = words.next().and_then(parse_integer);
            let slot = slot.and_then(|slot| u16::try_from(slot).ok());
            if let (Some(slot), Some(address)) = (slot, words.next()) {
                return Self::Moved { slot, address };
            }
        }
        if LATER.contains(&prefix) || text.starts_with(b"ERR max number of clients") {
            return Self::Later(text);
        }
        Self::Final
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_answers() {
        let moved = Meaning::Moved {
            slot: 7,
            address: b"127.0.0.1:7001",
        };
        assert_eq!(Meaning::of(b"-MOVED 7 127.0.0.1:7001\r\n"), moved);
        assert_eq!(
            Meaning::of(b"-TRYAGAIN soon\r\n"),
            Meaning::Later(b"TRYAGAIN soon")
        );
        assert_eq!(
            Meaning::of(b"-UNKNOWN who knows\r\n"),
            Meaning::Unknown(b"UNKNOWN who knows")
        );
        for reply in [
            &b"-WRONGTYPE no\r\n"[..],
            b"+OK\r\n",
            b"-OOM no\r\n",
            b"-TRYAGAINST x\r\n",
            b"$5\r\n-MOVE\r\n",
        ] {
            assert_eq!(Meaning::of(reply), Meaning::Final);
        }
    }
}
