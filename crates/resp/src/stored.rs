//! Replies that outlive their request: a session keeps them for a retry, which may come over another
//! connection in another version of the protocol.
//!
//! The stored form is version 3 of the protocol, with three additions for what version 2 tells apart
//! and version 3 does not: `*-1` (no list), `P<count>` (a list of pairs) and `p` (one pair). It is
//! part of the replicated state, so the same reply always has the same bytes.

use kvorum_base::Malformed;

use crate::number::parse_integer;
use crate::replies::{PAIR, PAIRS, Replies};

/// Writes a stored reply. Nothing is written if it is malformed.
///
/// # Errors
/// If the bytes are not one whole stored reply.
pub fn replay_stored(stored: &[u8], replies: &mut Replies<'_>) -> Result<(), Malformed> {
    check_stored(stored)?;
    walk(stored, replies)
}

/// Checks that the bytes are one whole stored reply.
///
/// # Errors
/// If they are not.
pub fn check_stored(stored: &[u8]) -> Result<(), Malformed> {
    let mut nobody = Replies::nobody();
    walk(stored, &mut nobody)?;
    if nobody.is_whole() {
        Ok(())
    } else {
        Err(malformed("stored reply", stored.len()))
    }
}

/// Writes element by element. Aggregates need no stack: [`Replies`] counts what is missing.
fn walk(stored: &[u8], replies: &mut Replies<'_>) -> Result<(), Malformed> {
    let mut at = 0;
    while at < stored.len() {
        if replies.is_whole() {
            return Err(malformed("stored reply with a rest", at));
        }
        let line_end = stored[at..]
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .ok_or(malformed("stored line", at))?;
        let line = &stored[at + 1..at + line_end.max(1)];
        if line.contains(&b'\r') || line.contains(&b'\n') {
            return Err(malformed("stored line with a line end in it", at));
        }
        let body = at + line_end + 2;
        at = element(stored, at, line, body, replies)?;
    }
    Ok(())
}

/// Writes the element at `at` whose first line is `line`; gives where the next one starts.
fn element(
    stored: &[u8],
    at: usize,
    line: &[u8],
    body: usize,
    replies: &mut Replies<'_>,
) -> Result<usize, Malformed> {
    let text = || std::str::from_utf8(line).map_err(|_| malformed("stored text", at));
    let count = || {
        parse_integer(line)
            .and_then(|count| usize::try_from(count).ok())
            // An element takes at least three bytes, so more are not there.
            .filter(|count| *count <= stored.len())
            .ok_or(malformed("stored count", at))
    };
    match stored[at] {
        b'+' => replies.simple(text()?),
        b'-' => replies.error_bytes(line),
        b':' => replies.integer(parse_integer(line).ok_or(malformed("stored integer", at))?),
        b'*' if line == b"-1" => replies.null_array(),
        b'*' => replies.array(count()?),
        b'%' => replies.map(count()?),
        b'~' => replies.set(count()?),
        b'>' => replies.push(count()?),
        PAIRS => replies.pairs(count()?),
        PAIR if line.is_empty() => replies.pair(),
        b'_' if line.is_empty() => replies.null(),
        b'#' if line == b"t" => replies.boolean(true),
        b'#' if line == b"f" => replies.boolean(false),
        kind @ (b',' | b'(') => replies.line_or_bulk(kind, line),
        kind @ (b'$' | b'=') => {
            let end = body + count()?;
            if stored.get(end..end + 2) != Some(b"\r\n") {
                return Err(malformed("stored bulk", at));
            }
            let bytes = &stored[body..end];
            if kind == b'$' {
                replies.bulk(bytes);
            } else {
                let (format, text) = std::str::from_utf8(bytes)
                    .ok()
                    .and_then(|text| text.split_once(':'))
                    .filter(|(format, _)| format.len() == 3)
                    .ok_or(malformed("stored verbatim text", at))?;
                replies.verbatim(format, text);
            }
            return Ok(end + 2);
        }
        _ => return Err(malformed("stored type", at)),
    }
    Ok(body)
}

fn malformed(what: &'static str, at: usize) -> Malformed {
    Malformed { what, at }
}

/// Any bytes either are refused or replay to the same stored reply. For fuzzing; panics on a find.
pub fn fuzz(data: &[u8]) {
    let mut again = Vec::new();
    if replay_stored(data, &mut Replies::stored(&mut again)).is_ok() {
        assert_eq!(again, data, "a stored reply has one form");
    } else {
        assert!(again.is_empty(), "a malformed reply was begun");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OutBuf, Version};
    use kvorum_base::Prng;

    fn everything(replies: &mut Replies<'_>) {
        replies.array(15);
        replies.simple("PONG");
        replies.error("ERR no");
        replies.integer(i64::MIN);
        replies.bulk(b"a\r\nb");
        replies.null();
        replies.null_array();
        replies.array(0);
        replies.map(1);
        replies.bulk(b"k");
        replies.boolean(true);
        replies.set(1);
        replies.boolean(false);
        replies.push(1);
        replies.bulk(b"kind");
        replies.double(0.1);
        replies.big_number("-12345678901234567890");
        replies.verbatim("txt", "a:b\r\n");
        replies.pairs(1);
        replies.pair();
        replies.bulk(b"m");
        replies.double(f64::INFINITY);
        replies.ok();
    }

    #[test]
    fn a_stored_reply_is_the_direct_one_in_either_version() {
        let mut stored = Vec::new();
        let mut replies = Replies::stored(&mut stored);
        everything(&mut replies);
        assert!(replies.is_whole());
        for version in [Version::Resp2, Version::Resp3] {
            let (mut direct, mut replayed) = (OutBuf::new(), OutBuf::new());
            everything(&mut Replies::client(&mut direct, version));
            let mut replies = Replies::client(&mut replayed, version);
            assert_eq!(replay_stored(&stored, &mut replies), Ok(()));
            assert!(replies.is_whole());
            assert_eq!(
                direct.to_vec().escape_ascii().to_string(),
                replayed.to_vec().escape_ascii().to_string()
            );
        }
        fuzz(&stored);
    }

    #[test]
    fn a_stored_reply_has_these_bytes() {
        let mut stored = Vec::new();
        let mut replies = Replies::stored(&mut stored);
        replies.array(2);
        replies.null_array();
        replies.pairs(1);
        replies.pair();
        replies.bulk(b"m");
        replies.double(1.5);
        assert_eq!(
            stored.escape_ascii().to_string(),
            r"*2\r\n*-1\r\nP1\r\np\r\n$1\r\nm\r\n,1.5\r\n"
        );
    }

    #[test]
    fn what_is_cut_or_followed_by_a_rest_is_refused() {
        let mut stored = Vec::new();
        everything(&mut Replies::stored(&mut stored));
        for end in 0..stored.len() {
            assert!(check_stored(&stored[..end]).is_err(), "cut at {end}");
        }
        stored.extend_from_slice(b"+OK\r\n");
        assert!(check_stored(&stored).is_err());
    }

    #[test]
    fn damaged_bytes_do_not_panic() {
        let mut stored = Vec::new();
        everything(&mut Replies::stored(&mut stored));
        let mut prng = Prng::new(5);
        for _ in 0..20_000 {
            let mut damaged = stored.clone();
            for _ in 0..prng.range(1, 4) {
                let at = prng.index(damaged.len());
                damaged[at] = *prng.pick(b"*-$%Pp0123459\r\n:_=#,(").expect("a byte");
            }
            fuzz(&damaged);
        }
    }
}
