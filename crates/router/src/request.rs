//! Requests as they are sent to nodes.

use bytes::Bytes;
use kvorum_resp::Args;
use kvorum_resp::number::put_unsigned;

/// A header: its type, a number, the line's end.
const HEADER_BYTES: usize = 16;

/// A client's request, as it is.
pub(crate) fn encode(args: Args<'_>) -> Bytes {
    let bytes = args.payload_bytes() + (args.len() + 1) * HEADER_BYTES;
    list(bytes, args.len(), args.iter())
}

/// A request of these words.
pub(crate) fn encode_words(words: &[&[u8]]) -> Bytes {
    let payload: usize = words.iter().map(|word| word.len()).sum();
    let bytes = payload + (words.len() + 1) * HEADER_BYTES;
    list(bytes, words.len(), words.iter().copied())
}

fn list<'a>(bytes: usize, len: usize, words: impl Iterator<Item = &'a [u8]>) -> Bytes {
    let mut out = Vec::with_capacity(bytes);
    header(&mut out, b'*', len);
    for word in words {
        header(&mut out, b'$', word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    Bytes::from(out)
}

fn header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.push(kind);
    put_unsigned(out, len as u64);
    out.extend_from_slice(b"\r\n");
}
