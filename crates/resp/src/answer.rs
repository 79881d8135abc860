//! Replies as a client gets them: where one ends, and what is in it.
//!
//! Of most replies only their end has to be found, and whether they are an error: a router passes them on as
//! they are, and a benchmark counts them. The few that matter are read element by element.

use crate::number::parse_integer;

/// The longest line of a reply: a header, a simple string or an error, in bytes. What is longer is no
/// server of this protocol, and nobody else should make a client keep and search more than this.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Bytes that are not a reply. There is no way on from there: the connection is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoReply;

/// How far the first reply in a buffer is understood.
///
/// What was looked at is not looked at again when more bytes come, but for the line that is unfinished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scanner {
    /// Everything before this is understood.
    at: usize,
    /// Elements to come.
    missing: u64,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { at: 0, missing: 1 }
    }
}

impl Scanner {
    /// Goes on over `bytes`, which start with the reply and include all that was given before. Gives the
    /// length of the reply once it is whole.
    ///
    /// # Errors
    /// If they are no reply.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, NoReply> {
        while self.missing > 0 {
            let Some((line, body)) = line_at(bytes, self.at)? else {
                return Ok(None);
            };
            let (elements, end) = match bytes[self.at] {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => (0, body),
                b'$' | b'=' | b'!' => match length(line)? {
                    None => (0, body),
                    Some(len) => (0, body.checked_add(len + 2).ok_or(NoReply)?),
                },
                b'*' | b'~' | b'>' => (length(line)?.unwrap_or(0) as u64, body),
                b'%' => (length(line)?.unwrap_or(0) as u64 * 2, body),
                _ => return Err(NoReply),
            };
            if end > bytes.len() {
                return Ok(None);
            }
            self.at = end;
            self.missing = self.missing - 1 + elements;
        }
        Ok(Some(self.at))
    }
}

/// The line that begins with the type at `at`, without it, and where the next begins.
fn line_at(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, NoReply> {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.iter().position(|byte| *byte == b'\n') {
        Some(0) => Err(NoReply),
        Some(end) if rest[end - 1] == b'\r' && end > 1 => {
            Ok(Some((&rest[1..end - 1], at + end + 1)))
        }
        Some(_) => Err(NoReply),
        None if rest.len() > LINE_BYTES_MAX => Err(NoReply),
        None => Ok(None),
    }
}

/// A length or count; `None` for the null of version 2.
fn length(line: &[u8]) -> Result<Option<usize>, NoReply> {
    /// No node sends more elements or bytes than its own limits let it hold.
    const MOST: i64 = 1 << 40;
    match parse_integer(line) {
        Some(-1) => Ok(None),
        Some(len @ 0..=MOST) => Ok(Some(len as usize)),
        _ => Err(NoReply),
    }
}

/// One element of a whole reply of version 2 or 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element<'a> {
    /// A simple or bulk string.
    Text(&'a [u8]),
    /// An error, its prefix included.
    Error(&'a [u8]),
    /// An integer.
    Integer(i64),
    /// No value.
    Null,
    /// So many elements follow.
    Array(usize),
    /// Anything else.
    Other,
}

/// Reads a whole reply element by element.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Elements<'a> {
    /// Of a reply that is whole.
    #[must_use]
    pub fn new(reply: &'a [u8]) -> Self {
        Self {
            bytes: reply,
            at: 0,
        }
    }

    /// The next element.
    pub fn element(&mut self) -> Option<Element<'a>> {
        let (line, body) = line_at(self.bytes, self.at).ok()??;
        let kind = self.bytes[self.at];
        self.at = body;
        Some(match kind {
            b'+' => Element::Text(line),
            b'-' => Element::Error(line),
            b':' => Element::Integer(parse_integer(line)?),
            b'_' => Element::Null,
            b'$' | b'=' => match length(line).ok()? {
                None => Element::Null,
                Some(len) => {
                    let text = self.bytes.get(body..body + len)?;
                    self.at = body + len + 2;
                    Element::Text(text)
                }
            },
            b'*' | b'~' | b'>' => match length(line).ok()? {
                None => Element::Null,
                Some(len) => Element::Array(len),
            },
            b'%' => Element::Array(length(line).ok()?? * 2),
            _ => Element::Other,
        })
    }

    /// The next element, which must be a list; its length.
    pub fn array(&mut self) -> Option<usize> {
        match self.element()? {
            Element::Array(len) => Some(len),
            _ => None,
        }
    }

    /// The next element, which must be an integer.
    pub fn integer(&mut self) -> Option<i64> {
        match self.element()? {
            Element::Integer(value) => Some(value),
            _ => None,
        }
    }

    /// The next element, which must be a string.
    pub fn text(&mut self) -> Option<&'a [u8]> {
        match self.element()? {
            Element::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes of the next element with everything in it.
    pub fn raw(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let len = Scanner::default().advance(rest).ok()??;
        self.at += len;
        Some(&rest[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_found_wherever_it_is_cut() {
        let replies: &[&[u8]] = &[
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":12\r\n",
            b"$-1\r\n",
            b"_\r\n",
            b"$4\r\na\r\nb\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n_\r\n%1\r\n+k\r\n#t\r\n",
            b"=6\r\ntxt:hi\r\n",
        ];
        for reply in replies {
            let mut bytes = reply.to_vec();
            bytes.extend_from_slice(b"+NEXT\r\n");
            let mut scanner = Scanner::default();
            for len in 0..reply.len() {
                assert_eq!(scanner.advance(&bytes[..len]), Ok(None), "{len}");
            }
            assert_eq!(scanner.advance(&bytes), Ok(Some(reply.len())));
            assert_eq!(
                Scanner::default().advance(&bytes),
                Ok(Some(reply.len())),
                "at once"
            );
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let wrong: [&[u8]; 6] = [
            b"hello\r\n",
            b"\n",
            b"+OK\n",
            b"$x\r\n",
            b"*-2\r\n",
            b"\r\n",
        ];
        for bytes in wrong {
            assert_eq!(Scanner::default().advance(bytes), Err(NoReply), "{bytes:?}");
        }
        let endless = vec![b'+'; LINE_BYTES_MAX + 2];
        assert_eq!(Scanner::default().advance(&endless), Err(NoReply));
    }

    #[test]
    fn elements_are_read_in_order() {
        let mut elements = Elements::new(b"*3\r\n:1\r\n*1\r\n$1\r\na\r\n$-1\r\n");
        assert_eq!(elements.array(), Some(3));
        assert_eq!(elements.integer(), Some(1));
        assert_eq!(elements.raw(), Some(&b"*1\r\n$1\r\na\r\n"[..]));
        assert_eq!(elements.element(), Some(Element::Null));
        assert_eq!(elements.element(), None);
    }
}
