//! Replies of any Redis: cut from a stream, and read where something has to be learned from them.

use std::str;

/// One reply of RESP2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Text(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
    Null,
}

/// What a load generator wants to know of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Done,
    Null,
    /// The range of the text, in the buffer that was cut.
    Error,
}

/// Why a stream cannot be read on.
pub(crate) type Broken = String;

/// Where the first line ends: behind its CRLF. Nothing if it is not whole.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let text = &bytes[1..end];
    Some((text.strip_suffix(b"\r").unwrap_or(text), end + 1))
}

fn length(text: &[u8]) -> Result<i64, Broken> {
    let number = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("not a length: {:?}", String::from_utf8_lossy(text)))
}

/// How long the first reply is and what it is; nothing if it is not whole.
pub(crate) fn cut(bytes: &[u8]) -> Result<Option<(usize, Kind)>, Broken> {
    let mut at = 0;
    let mut left = 1usize;
    let mut kind = Kind::Done;
    while left > 0 {
        let Some(first) = bytes.get(at).copied() else {
            return Ok(None);
        };
        let Some((text, used)) = line(&bytes[at..]) else {
            return Ok(None);
        };
        let mut end = at + used;
        match first {
            b'+' | b':' => {}
            b'-' if at == 0 => kind = Kind::Error,
            b'-' => {}
            b'$' => match length(text)? {
                ..0 if at == 0 => kind = Kind::Null,
                ..0 => {}
                bytes => end += bytes as usize + 2,
            },
            b'*' => match length(text)? {
                ..0 if at == 0 => kind = Kind::Null,
                ..0 => {}
                count => left += count as usize,
            },
            other => return Err(format!("a reply cannot begin with {:?}", char::from(other))),
        }
        if end > bytes.len() {
            return Ok(None);
        }
        at = end;
        left -= 1;
    }
    Ok(Some((at, kind)))
}

/// Reads a reply that is whole.
pub(crate) fn read(bytes: &[u8]) -> Result<(Reply, usize), Broken> {
    let (text, mut used) = line(bytes).ok_or("half a reply")?;
    let words = || String::from_utf8_lossy(text).into_owned();
    let reply = match bytes[0] {
        b'+' => Reply::Text(words()),
        b'-' => Reply::Error(words()),
        b':' => Reply::Integer(length(text)?),
        b'$' => match length(text)? {
            ..0 => Reply::Null,
            count => {
                let end = used + count as usize;
                let bulk = bytes.get(used..end).ok_or("half a reply")?.to_vec();
                used = end + 2;
                Reply::Bulk(bulk)
            }
        },
        b'*' => match length(text)? {
            ..0 => Reply::Null,
            count => {
                let mut items = Vec::new();
                for _ in 0..count {
                    let (item, more) = read(bytes.get(used..).ok_or("half a reply")?)?;
                    items.push(item);
                    used += more;
                }
                Reply::Array(items)
            }
        },
        other => return Err(format!("a reply cannot begin with {:?}", char::from(other))),
    };
    Ok((reply, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_cut_where_they_end_and_never_before() {
        let all: &[(&[u8], Kind)] = &[
            (b"+OK\r\n", Kind::Done),
            (b"-ERR no\r\n", Kind::Error),
            (b":12\r\n", Kind::Done),
            (b"$3\r\na\r\n\r\n", Kind::Done),
            (b"$-1\r\n", Kind::Null),
            (b"*-1\r\n", Kind::Null),
            (b"*2\r\n*1\r\n$1\r\nx\r\n-ERR inside\r\n", Kind::Done),
            (b"*0\r\n", Kind::Done),
        ];
        for (bytes, kind) in all {
            for end in 0..bytes.len() {
                assert_eq!(cut(&bytes[..end]), Ok(None), "{:?}", &bytes[..end]);
            }
            let mut more = bytes.to_vec();
            more.extend_from_slice(b"+next");
            assert_eq!(cut(&more), Ok(Some((bytes.len(), *kind))));
            assert_eq!(read(&more).map(|(_, used)| used), Ok(bytes.len()));
        }
        assert!(cut(b"HTTP/1.1 400\r\n").is_err());
        assert!(cut(b"$x\r\n").is_err());
    }
}
