//! Inline requests: a line of words, for people at a terminal and for health checks.
//!
//! Words are parted by spaces and may be quoted. Double quotes know `\n \r \t \b \a`, `\xHH` and a
//! backslash before any other character; single quotes know only `\'`. A quote may open in the
//! middle of a word, but behind a closing quote the word must end: this catches the forgotten
//! backslash.

use std::ops::Range;

use crate::error::ProtocolError;

/// Appends the words of a line (without its end) to `bytes`, and where they are to `ranges`.
pub(crate) fn split(
    line: &[u8],
    bytes: &mut Vec<u8>,
    ranges: &mut Vec<Range<u32>>,
) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        while let [first, tail @ ..] = rest
            && is_space(*first)
        {
            rest = tail;
        }
        if rest.is_empty() {
            return Ok(());
        }
        let start = bytes.len();
        rest = word(rest, bytes)?;
        ranges.push(start as u32..bytes.len() as u32);
    }
}

/// Appends one word; gives what follows it.
fn word<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Ok(rest),
            [b'"', tail @ ..] => return after_quote(double_quoted(tail, bytes)?),
            [b'\'', tail @ ..] => return after_quote(single_quoted(tail, bytes)?),
            [byte, tail @ ..] => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, tail) = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'"', tail @ ..] => return Ok(tail),
            [b'\\', b'x', high, low, tail @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), tail)
            }
            [b'\\', escaped, tail @ ..] => {
                let byte = match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                };
                (byte, tail)
            }
            [byte, tail @ ..] => (*byte, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], bytes: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, tail) = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\'', tail @ ..] => return Ok(tail),
            [b'\\', b'\'', tail @ ..] => (b'\'', tail),
            [byte, tail @ ..] => (*byte, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
}

fn after_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if !is_space(*byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

/// What parts words; a little more than what ends an unquoted one.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Args, ArgsBuf};

    fn words(line: &[u8]) -> Result<ArgsBuf, ProtocolError> {
        let (mut bytes, mut ranges) = (Vec::new(), Vec::new());
        split(line, &mut bytes, &mut ranges)?;
        Ok(ArgsBuf::from(Args::new(&bytes, &ranges)))
    }

    #[track_caller]
    fn expect(line: &[u8], expected: &[&[u8]]) {
        assert_eq!(words(line), Ok(expected.iter().collect()));
    }

    #[test]
    fn words_quotes_and_escapes() {
        expect(b"", &[]);
        expect(b"  \t\x0b ", &[]);
        expect(b"PING", &[b"PING"]);
        expect(b" SET  k\tv ", &[b"SET", b"k", b"v"]);
        expect(b"\"\" ''", &[b"", b""]);
        expect(b"a\"b c\" d", &[b"ab c", b"d"]);
        expect(b"a'b c'", &[b"ab c"]);
        expect(
            br#""\x41\xfF\n\r\t\b\a\q\\\"""#,
            &[b"A\xff\n\r\t\x08\x07q\\\""],
        );
        expect(br#""\xzz\x4""#, &[b"xzzx4"]);
        expect(br"'a\'b\n'", &[b"a'b\\n"]);
        expect(b"a\x0bb \x0bc", &[b"a\x0bb", b"c"]);
    }

    #[test]
    fn unbalanced_quotes() {
        let lines: [&[u8]; 6] = [
            b"\"",
            b"a 'b",
            b"\"a\"b",
            b"''x",
            b"\"a\\\"",
            b"\"\"\"k\"\"\" v",
        ];
        for line in lines {
            assert_eq!(
                words(line),
                Err(ProtocolError::UnbalancedQuotes),
                "{}",
                line.escape_ascii()
            );
        }
    }
}
