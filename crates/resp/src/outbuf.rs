//! Bytes on their way to a client: a chain of parts.
//!
//! Small replies are appended to one growing part, so that a turn's replies leave in one write. A
//! value from [`SHARED_BYTES_MIN`] up becomes a part of its own that shares the stored value's
//! memory: copying it would cost more than one more element of a gathered write.
//!
//! An empty buffer owns no memory. Thousands of idle connections are the normal case, and the
//! allocation comes once a turn, beside a system call that costs a hundred times as much.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// From this length on a value is shared instead of copied, in bytes.
pub const SHARED_BYTES_MIN: usize = 16 * 1024;

/// Less than this much already sent is not worth moving the rest for, in bytes.
const COMPACT_BYTES_MIN: usize = 4 * 1024;

/// The first allocation, in bytes: a few small replies.
const FIRST_BYTES: usize = 128;

/// A chain of bytes to be written out.
#[derive(Clone, Default, Debug)]
pub struct OutBuf {
    /// Finished parts, none of them empty. The front one is cut as it is sent.
    chain: VecDeque<Bytes>,
    /// The sum of the lengths in `chain`.
    chain_len: usize,
    /// What follows the chain and still grows.
    tail: Vec<u8>,
    /// How much of `tail` is sent; more than nothing only while `chain` is empty.
    tail_sent: usize,
}

impl OutBuf {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chain_len + self.tail.len() - self.tail_sent
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a copy of these bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.grow(bytes.len()).extend_from_slice(bytes);
    }

    /// Appends these bytes, without copying them if they are [`SHARED_BYTES_MIN`] or more.
    pub fn put_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_BYTES_MIN {
            self.put(bytes);
        } else {
            self.seal_tail();
            self.chain_len += bytes.len();
            self.chain.push_back(bytes.clone());
        }
    }

    /// Moves everything that waits in `other` behind what waits here.
    pub fn append(&mut self, mut other: OutBuf) {
        if other.chain.is_empty() {
            self.put(&other.tail[other.tail_sent..]);
            return;
        }
        self.seal_tail();
        self.chain_len += other.chain_len;
        self.chain.append(&mut other.chain);
        // Nothing of it was sent: it stood behind a chain.
        self.tail = other.tail;
    }

    /// The parts that wait, in order, none of them empty: what a gathered write takes.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let tail = &self.tail[self.tail_sent..];
        let tail = (!tail.is_empty()).then_some(tail);
        self.chain.iter().map(|part| &part[..]).chain(tail)
    }

    /// Forgets the first `count` bytes: they were written.
    ///
    /// # Panics
    /// If fewer wait.
    pub fn advance(&mut self, mut count: usize) {
        let len = self.len();
        assert!(count <= len, "{count} bytes were written of {len}");
        if count == len {
            *self = Self::default();
            return;
        }
        while let Some(front) = self.chain.front_mut() {
            if count < front.len() {
                front.advance(count);
                self.chain_len -= count;
                return;
            }
            count -= front.len();
            self.chain_len -= front.len();
            self.chain.pop_front();
        }
        self.tail_sent += count;
        // A reader that never quite catches up must not make the sent part grow for ever; moving
        // at most as much as was sent keeps the cost per byte constant.
        if self.tail_sent >= COMPACT_BYTES_MIN && self.tail_sent * 2 >= self.tail.len() {
            self.tail.drain(..self.tail_sent);
            self.tail_sent = 0;
        }
    }

    /// Everything that waits, copied into one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts()
            .fold(Vec::with_capacity(self.len()), |mut all, part| {
                all.extend_from_slice(part);
                all
            })
    }

    /// The part that grows, with room for so many bytes more.
    #[inline]
    pub(crate) fn grow(&mut self, additional: usize) -> &mut Vec<u8> {
        if self.tail.capacity() == 0 {
            self.tail.reserve(additional.max(FIRST_BYTES));
        } else {
            self.tail.reserve(additional);
        }
        &mut self.tail
    }

    fn seal_tail(&mut self) {
        if self.tail_sent == self.tail.len() {
            self.tail.clear();
        } else {
            let mut part = Bytes::from(std::mem::take(&mut self.tail));
            part.advance(self.tail_sent);
            self.chain_len += part.len();
            self.chain.push_back(part);
        }
        self.tail_sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_base::Prng;

    #[test]
    fn a_large_value_is_not_copied() {
        let value = Bytes::from(vec![7; SHARED_BYTES_MIN]);
        let mut out = OutBuf::new();
        out.put(b"before");
        out.put_shared(&value);
        out.put(b"after");
        let parts: Vec<&[u8]> = out.parts().collect();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[1].as_ptr(), value.as_ptr());
        assert_eq!(out.len(), value.len() + 11);
    }

    #[test]
    fn a_small_value_joins_its_neighbours() {
        let mut out = OutBuf::new();
        out.put(b"a");
        out.put_shared(&Bytes::from_static(b"b"));
        assert_eq!(out.parts().collect::<Vec<_>>(), [b"ab"]);
    }

    #[test]
    fn any_mix_of_puts_and_advances_is_a_queue_of_bytes() {
        let mut prng = Prng::new(21);
        for _ in 0..200 {
            let (mut out, mut model) = (OutBuf::new(), VecDeque::new());
            for step in 0..100u8 {
                match prng.below(6) {
                    0 => {
                        let value = Bytes::from(vec![step; SHARED_BYTES_MIN + step as usize]);
                        out.put_shared(&value);
                        model.extend(value.iter().copied());
                    }
                    1 => {
                        let mut other = OutBuf::new();
                        other.put(&[step; 5]);
                        if prng.chance(1, 2) {
                            other.put_shared(&Bytes::from(vec![step; SHARED_BYTES_MIN]));
                            other.put(b"end");
                        }
                        other.advance(2);
                        model.extend(other.to_vec());
                        out.append(other);
                    }
                    2 | 3 => {
                        let bytes = vec![step; prng.below(3000) as usize];
                        out.put(&bytes);
                        model.extend(bytes);
                    }
                    _ => {
                        let count = prng.below(out.len() as u64 + 1) as usize;
                        out.advance(count);
                        model.drain(..count);
                    }
                }
                assert_eq!(out.len(), model.len());
                assert!(out.parts().all(|part| !part.is_empty()));
            }
            assert_eq!(out.to_vec(), Vec::from(model));
        }
    }

    #[test]
    fn an_empty_buffer_owns_nothing_and_a_slow_reader_does_not_make_it_grow() {
        let mut out = OutBuf::new();
        for _ in 0..10_000 {
            out.put(&[1; 1000]);
            out.advance(if out.len() > 1000 { 1000 } else { 500 });
        }
        assert!(out.tail.capacity() < 64 * 1024, "{}", out.tail.capacity());
        out.advance(out.len());
        assert_eq!((out.tail.capacity(), out.chain.capacity()), (0, 0));
    }

    #[test]
    #[should_panic(expected = "3 bytes were written of 2")]
    fn more_cannot_be_written_than_waits() {
        let mut out = OutBuf::new();
        out.put(b"ab");
        out.advance(3);
    }
}
