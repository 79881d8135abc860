//! Where a command writes its reply.
//!
//! A command calls one method per element and does not know who listens: a client in either protocol
//! version, a session that keeps the reply for a retry, or nobody (a replica applies the same entry
//! and answers no one). There is no value that stands for a reply: it would be built and dropped on
//! every node.
//!
//! Version 2 has fewer types. Its clients get what Redis gives them: a map is a flat array of twice
//! the length, a set an array, a double its text in a bulk, true and false are 1 and 0.
//!
//! Elements are counted. A reply one element short would shift every later reply of its connection
//! to the wrong request, so [`crate::Connection`] insists that a reply is whole.

use bytes::Bytes;

use crate::number::{put_double, put_integer, put_unsigned};
use crate::outbuf::OutBuf;

/// The version of the protocol that a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Version {
    /// The one every client knows, and every connection starts with.
    #[default]
    Resp2,
    /// The one with maps, sets, doubles, booleans and pushes.
    Resp3,
}

impl Version {
    /// The number that HELLO takes and gives.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// What a reply turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing was written yet.
    Nothing,
    /// Anything but an error; a list of replies that holds errors is a value too.
    Value,
    /// An error.
    Error,
}

/// The form that bytes are written in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Resp2,
    Resp3,
    /// As version 3, and what version 3 cannot tell apart and version 2 does, has types of its own.
    Stored,
}

enum Sink<'a> {
    Client(&'a mut OutBuf, Form),
    Stored(&'a mut Vec<u8>),
    Nobody,
}

/// Takes one reply, element by element.
pub struct Replies<'a> {
    sink: Sink<'a>,
    outcome: Outcome,
    /// How many elements are still to come. Below zero: more than announced.
    missing: i64,
}

impl<'a> Replies<'a> {
    /// Writes for a client that speaks this version.
    #[must_use]
    pub fn client(out: &'a mut OutBuf, version: Version) -> Self {
        let form = match version {
            Version::Resp2 => Form::Resp2,
            Version::Resp3 => Form::Resp3,
        };
        Self::new(Sink::Client(out, form))
    }

    /// Appends the reply in a form that [`crate::replay_stored`] can write in either version.
    #[must_use]
    pub fn stored(out: &'a mut Vec<u8>) -> Self {
        Self::new(Sink::Stored(out))
    }

    /// Writes nowhere.
    #[must_use]
    pub fn nobody() -> Self {
        Self::new(Sink::Nobody)
    }

    fn new(sink: Sink<'a>) -> Self {
        Self {
            sink,
            outcome: Outcome::Nothing,
            missing: 1,
        }
    }

    /// Whether the reply, as far as it was begun, is an error. Counted for every sink alike.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether the reply is whole: every element that was announced was written, and no more.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing == 0
    }

    /// How many elements are still to come; below zero, how many there are too many.
    #[must_use]
    pub fn missing(&self) -> i64 {
        self.missing
    }

    /// Whether the reply is kept for a retry instead of being sent.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        matches!(self.sink, Sink::Stored(_))
    }

    /// Announces one more top-level element: SUBSCRIBE answers once per channel.
    pub fn expect_another(&mut self) {
        self.missing += 1;
    }

    /// A whole reply as another server wrote it, in the version that the client speaks.
    ///
    /// It is not looked into: whoever passes it on has found its end.
    pub fn encoded(&mut self, reply: &[u8]) {
        if self.outcome == Outcome::Nothing && matches!(reply.first(), Some(b'-' | b'!')) {
            self.outcome = Outcome::Error;
        }
        if let Some((out, _)) = self.element(reply.len()) {
            out.extend_from_slice(reply);
        }
    }

    /// A simple string, such as `PONG`. No line ends in it.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']), "a line end in {text:?}");
        if let Some((out, _)) = self.element(text.len() + 3) {
            put_line(out, b'+', text.as_bytes());
        }
    }

    /// The simple string `OK`.
    #[inline]
    pub fn ok(&mut self) {
        if let Some((out, _)) = self.element(5) {
            out.extend_from_slice(b"+OK\r\n");
        }
    }

    /// An error: its full text with the prefix, such as `ERR syntax error`.
    pub fn error(&mut self, text: &str) {
        self.error_bytes(text.as_bytes());
    }

    /// An error whose text quotes what a client sent. Line ends at its end are left out and others
    /// become spaces, since they would end the reply.
    pub fn error_bytes(&mut self, text: &[u8]) {
        let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let last = text.iter().rposition(|byte| !is_line_end(byte));
        let text = &text[..last.map_or(0, |last| last + 1)];
        if self.outcome == Outcome::Nothing {
            self.outcome = Outcome::Error;
        }
        if let Some((out, _)) = self.element(text.len() + 3) {
            out.push(b'-');
            let blank = |byte: &u8| if is_line_end(byte) { b' ' } else { *byte };
            out.extend(text.iter().map(blank));
            out.extend_from_slice(b"\r\n");
        }
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        if let Some((out, _)) = self.element(24) {
            out.push(b':');
            put_integer(out, value);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// A bulk string: any bytes.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        if let Some((out, _)) = self.element(bytes.len() + 32) {
            put_bulk(out, b'$', bytes);
        }
    }

    /// A bulk string that is shared with whoever holds it, if it is large.
    pub fn bulk_shared(&mut self, bytes: &Bytes) {
        if let Sink::Client(..) = self.sink {
            if let Some((out, _)) = self.element(32) {
                put_header(out, b'$', bytes.len());
            }
            if let Sink::Client(out, _) = &mut self.sink {
                out.put_shared(bytes);
                out.put(b"\r\n");
            }
        } else {
            self.bulk(bytes);
        }
    }

    /// No value.
    #[inline]
    pub fn null(&mut self) {
        if let Some((out, form)) = self.element(5) {
            out.extend_from_slice(match form {
                Form::Resp2 => b"$-1\r\n",
                Form::Resp3 | Form::Stored => b"_\r\n",
            });
        }
    }

    /// No list, which version 2 tells apart from no value.
    pub fn null_array(&mut self) {
        if let Some((out, form)) = self.element(5) {
            out.extend_from_slice(match form {
                Form::Resp2 | Form::Stored => b"*-1\r\n",
                Form::Resp3 => b"_\r\n",
            });
        }
    }

    /// A list: `len` elements follow.
    pub fn array(&mut self, len: usize) {
        self.aggregate(b'*', len, 1);
    }

    /// A map: `len` keys follow, each with its value behind it.
    pub fn map(&mut self, len: usize) {
        self.aggregate(b'%', len, 2);
    }

    /// A set: `len` elements follow.
    pub fn set(&mut self, len: usize) {
        self.aggregate(b'~', len, 1);
    }

    /// A message out of turn: `len` elements follow, the first its kind.
    pub fn push(&mut self, len: usize) {
        self.aggregate(b'>', len, 1);
    }

    /// A list of `len` pairs, each opened by [`Replies::pair`]: nested lists in version 3, one flat
    /// list in version 2 (ZRANGE WITHSCORES, HRANDFIELD WITHVALUES, ...).
    pub fn pairs(&mut self, len: usize) {
        self.missing += len as i64;
        if let Some((out, form)) = self.element(24) {
            match form {
                Form::Resp2 => put_header(out, b'*', len * 2),
                Form::Resp3 => put_header(out, b'*', len),
                Form::Stored => put_header(out, PAIRS, len),
            }
        }
    }

    /// One pair of [`Replies::pairs`]: two elements follow.
    pub fn pair(&mut self) {
        self.missing += 2;
        if let Some((out, form)) = self.element(4) {
            match form {
                Form::Resp2 => {}
                Form::Resp3 => out.extend_from_slice(b"*2\r\n"),
                Form::Stored => out.extend_from_slice(&[PAIR, b'\r', b'\n']),
            }
        }
    }

    /// A double, with the fewest digits that read back as the same.
    pub fn double(&mut self, value: f64) {
        let mut text = Vec::with_capacity(32);
        put_double(&mut text, value);
        self.line_or_bulk(b',', &text);
    }

    /// An integer of any size, as its decimal text.
    pub fn big_number(&mut self, digits: &str) {
        self.line_or_bulk(b'(', digits.as_bytes());
    }

    /// True or false.
    pub fn boolean(&mut self, value: bool) {
        if let Some((out, form)) = self.element(4) {
            out.extend_from_slice(match (form, value) {
                (Form::Resp2, true) => b":1\r\n",
                (Form::Resp2, false) => b":0\r\n",
                (Form::Resp3 | Form::Stored, true) => b"#t\r\n",
                (Form::Resp3 | Form::Stored, false) => b"#f\r\n",
            });
        }
    }

    /// Text for people. `format` has three letters: `txt`, or `mkd` for markdown.
    ///
    /// # Panics
    /// If `format` has not: a client would take the text's first bytes for it.
    pub fn verbatim(&mut self, format: &str, text: &str) {
        assert!(
            format.len() == 3,
            "a verbatim format of 3 bytes, not {format:?}"
        );
        if let Some((out, form)) = self.element(text.len() + 32) {
            if form == Form::Resp2 {
                put_bulk(out, b'$', text.as_bytes());
            } else {
                put_header(out, b'=', text.len() + 4);
                out.extend_from_slice(format.as_bytes());
                out.push(b':');
                put_line_end(out, text.as_bytes());
            }
        }
    }

    /// A type that version 2 writes as a bulk and the others as a line.
    pub(crate) fn line_or_bulk(&mut self, kind: u8, text: &[u8]) {
        if let Some((out, form)) = self.element(text.len() + 32) {
            if form == Form::Resp2 {
                put_bulk(out, b'$', text);
            } else {
                put_line(out, kind, text);
            }
        }
    }

    fn aggregate(&mut self, kind: u8, len: usize, elements_each: usize) {
        let elements = len * elements_each;
        self.missing += elements as i64;
        if let Some((out, form)) = self.element(24) {
            match form {
                Form::Resp2 => put_header(out, b'*', elements),
                Form::Resp3 | Form::Stored => put_header(out, kind, len),
            }
        }
    }

    /// Counts an element and gives where it goes, with room for about so many bytes.
    #[inline]
    fn element(&mut self, bytes: usize) -> Option<(&mut Vec<u8>, Form)> {
        self.missing -= 1;
        if self.outcome == Outcome::Nothing {
            self.outcome = Outcome::Value;
        }
        match &mut self.sink {
            Sink::Client(out, form) => Some((out.grow(bytes), *form)),
            Sink::Stored(out) => Some((out, Form::Stored)),
            Sink::Nobody => None,
        }
    }
}

/// In the stored form: a list of pairs, and one pair. No type of the protocol has these letters.
pub(crate) const PAIRS: u8 = b'P';
pub(crate) const PAIR: u8 = b'p';

fn put_line(out: &mut Vec<u8>, kind: u8, text: &[u8]) {
    out.push(kind);
    put_line_end(out, text);
}

fn put_line_end(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

fn put_header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.push(kind);
    put_unsigned(out, len as u64);
    out.extend_from_slice(b"\r\n");
}

fn put_bulk(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    put_header(out, kind, bytes.len());
    put_line_end(out, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(write: impl Fn(&mut Replies<'_>)) -> (String, String) {
        let text = |version| {
            let mut out = OutBuf::new();
            let mut replies = Replies::client(&mut out, version);
            write(&mut replies);
            assert!(replies.is_whole());
            String::from_utf8(out.to_vec()).expect("text")
        };
        (text(Version::Resp2), text(Version::Resp3))
    }

    #[track_caller]
    fn expect(write: impl Fn(&mut Replies<'_>), resp2: &str, resp3: &str) {
        assert_eq!(both(write), (resp2.to_owned(), resp3.to_owned()));
    }

    #[test]
    fn every_type_in_both_versions() {
        expect(|r| r.simple("PONG"), "+PONG\r\n", "+PONG\r\n");
        expect(|r| r.ok(), "+OK\r\n", "+OK\r\n");
        expect(|r| r.error("ERR no"), "-ERR no\r\n", "-ERR no\r\n");
        expect(|r| r.integer(-7), ":-7\r\n", ":-7\r\n");
        expect(
            |r| r.bulk(b"a\r\nb"),
            "$4\r\na\r\nb\r\n",
            "$4\r\na\r\nb\r\n",
        );
        expect(|r| r.bulk(b""), "$0\r\n\r\n", "$0\r\n\r\n");
        expect(|r| r.null(), "$-1\r\n", "_\r\n");
        expect(|r| r.null_array(), "*-1\r\n", "_\r\n");
        expect(|r| r.array(0), "*0\r\n", "*0\r\n");
        expect(|r| r.map(0), "*0\r\n", "%0\r\n");
        expect(|r| r.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n");
        expect(|r| r.big_number("12"), "$2\r\n12\r\n", "(12\r\n");
        expect(|r| r.boolean(true), ":1\r\n", "#t\r\n");
        expect(|r| r.boolean(false), ":0\r\n", "#f\r\n");
        expect(
            |r| r.verbatim("txt", "hi"),
            "$2\r\nhi\r\n",
            "=6\r\ntxt:hi\r\n",
        );
    }

    #[test]
    fn maps_are_flat_in_version_2_and_pairs_nest_in_version_3() {
        let map = |r: &mut Replies<'_>| {
            r.map(1);
            r.bulk(b"k");
            r.set(1);
            r.integer(1);
        };
        expect(
            map,
            "*2\r\n$1\r\nk\r\n*1\r\n:1\r\n",
            "%1\r\n$1\r\nk\r\n~1\r\n:1\r\n",
        );
        let pairs = |r: &mut Replies<'_>| {
            r.pairs(2);
            for member in [b"a", b"b"] {
                r.pair();
                r.bulk(member);
                r.double(2.0);
            }
        };
        expect(
            pairs,
            "*4\r\n$1\r\na\r\n$1\r\n2\r\n$1\r\nb\r\n$1\r\n2\r\n",
            "*2\r\n*2\r\n$1\r\na\r\n,2\r\n*2\r\n$1\r\nb\r\n,2\r\n",
        );
    }

    #[test]
    fn a_line_end_in_an_error_cannot_end_the_reply() {
        expect(
            |r| r.error("ERR a\r\n+OK\n\r\n"),
            "-ERR a  +OK\r\n",
            "-ERR a  +OK\r\n",
        );
    }

    #[test]
    fn the_outcome_is_that_of_the_first_element_and_known_to_every_sink() {
        let mut out = OutBuf::new();
        let mut stored = Vec::new();
        for mut replies in [
            Replies::client(&mut out, Version::Resp2),
            Replies::stored(&mut stored),
            Replies::nobody(),
        ] {
            assert_eq!(replies.outcome(), Outcome::Nothing);
            replies.error("ERR no");
            assert_eq!(replies.outcome(), Outcome::Error);
        }
        let mut replies = Replies::nobody();
        replies.array(1);
        replies.error("ERR inside");
        assert_eq!(replies.outcome(), Outcome::Value);
        assert!(replies.is_whole());
    }

    #[test]
    fn too_few_and_too_many_elements_are_seen() {
        let mut replies = Replies::nobody();
        assert!(!replies.is_whole());
        replies.map(1);
        replies.integer(1);
        assert!(!replies.is_whole());
        replies.integer(1);
        assert!(replies.is_whole());
        replies.integer(1);
        assert!(!replies.is_whole());
    }

    #[test]
    fn a_large_shared_value_is_framed_around_its_own_memory() {
        let value = Bytes::from(vec![b'v'; crate::SHARED_BYTES_MIN]);
        let mut out = OutBuf::new();
        let mut replies = Replies::client(&mut out, Version::Resp2);
        replies.bulk_shared(&value);
        assert!(replies.is_whole());
        let parts: Vec<&[u8]> = out.parts().collect();
        assert_eq!(parts[0], b"$16384\r\n");
        assert_eq!(parts[1].as_ptr(), value.as_ptr());
        assert_eq!(parts[2], b"\r\n");
    }
}
