//! Replies as a client reads them, RESP2. Written apart from the store's own codec: it must not share
//! a mistake with it.

use std::rc::Rc;

/// One reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// `+text`.
    Simple(String),
    /// `-text`.
    Error(String),
    /// `:number`.
    Int(i64),
    /// `$length`, or null.
    Bulk(Option<Rc<[u8]>>),
    /// `*length`.
    Array(Vec<Reply>),
}

impl Reply {
    /// Reads one reply off the front of `bytes`; `None` while it is not whole. Returns how many
    /// bytes it took.
    ///
    /// # Panics
    /// If the bytes are no reply at all.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&bytes[1..end]).expect("a line of text");
        let number = || -> i64 { line.parse().unwrap_or_else(|_| panic!("no number: {line}")) };
        let after = end + 2;
        match bytes[0] {
            b'+' => Some((Self::Simple(line.to_owned()), after)),
            b'-' => Some((Self::Error(line.to_owned()), after)),
            b':' => Some((Self::Int(number()), after)),
            b'$' if number() < 0 => Some((Self::Bulk(None), after)),
            b'$' => {
                let len = number() as usize;
                let value = bytes.get(after..after + len + 2)?;
                assert_eq!(&value[len..], b"\r\n", "the end of a bulk reply");
                Some((Self::Bulk(Some(value[..len].into())), after + len + 2))
            }
            b'*' => {
                let mut items = Vec::new();
                let mut at = after;
                for _ in 0..number().max(0) {
                    let (item, taken) = Self::parse(&bytes[at..])?;
                    items.push(item);
                    at += taken;
                }
                Some((Self::Array(items), at))
            }
            other => panic!("a reply begins with {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_wherever_they_are_cut() {
        let bytes = b"*3\r\n$3\r\na\r\n\r\n:-7\r\n*1\r\n$-1\r\n-ERR no\r\n";
        let whole = Reply::Array(vec![
            Reply::Bulk(Some(b"a\r\n"[..].into())),
            Reply::Int(-7),
            Reply::Array(vec![Reply::Bulk(None)]),
        ]);
        let len = bytes.len() - 9;
        for cut in 0..len {
            assert_eq!(Reply::parse(&bytes[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Reply::parse(bytes), Some((whole, len)));
        let error = Reply::Error("ERR no".to_owned());
        assert_eq!(Reply::parse(&bytes[len..]), Some((error, 9)));
    }
}
