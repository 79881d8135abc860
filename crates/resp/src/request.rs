//! Requests as a client sends them.

use bytes::Bytes;

use crate::args::Args;
use crate::number::put_unsigned;

/// A header: its type, a number, the line's end.
const HEADER_BYTES: usize = 16;

/// A request of these arguments, the name first.
#[must_use]
pub fn encode(args: Args<'_>) -> Bytes {
    let mut out = Vec::with_capacity(args.payload_bytes() + (args.len() + 1) * HEADER_BYTES);
    put_list(&mut out, args.len(), args.iter());
    Bytes::from(out)
}

/// A request of these words.
#[must_use]
pub fn encode_words(words: &[&[u8]]) -> Bytes {
    let payload: usize = words.iter().map(|word| word.len()).sum();
    let mut out = Vec::with_capacity(payload + (words.len() + 1) * HEADER_BYTES);
    put_words(&mut out, words);
    Bytes::from(out)
}

/// Appends a request of these words.
pub fn put_words(out: &mut Vec<u8>, words: &[&[u8]]) {
    put_list(out, words.len(), words.iter().copied());
}

fn put_list<'a>(out: &mut Vec<u8>, len: usize, words: impl Iterator<Item = &'a [u8]>) {
    header(out, b'*', len);
    for word in words {
        header(out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.push(kind);
    put_unsigned(out, len as u64);
    out.extend_from_slice(b"\r\n");
}
