//! The arguments of one request: ranges over one byte slice.
//!
//! A request is never a list of owned strings. Parsed off a socket it points into what the socket
//! read; queued in a transaction or taken out of a log entry it points into one buffer. So a command
//! is written once, for [`Args`], and does not know where its bytes lie.

use std::fmt;
use std::ops::Range;

/// The arguments of one request, its name first. Copied freely: two slices.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    ranges: &'a [Range<u32>],
}

impl<'a> Args<'a> {
    /// Arguments at these ranges of `bytes`. A range beyond its end panics in [`Args::get`], so
    /// whoever makes the ranges checks them.
    #[must_use]
    pub fn new(bytes: &'a [u8], ranges: &'a [Range<u32>]) -> Self {
        Self { bytes, ranges }
    }

    /// How many there are, the name included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is not even a name. Never so for a parsed request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The argument at this position.
    ///
    /// # Panics
    /// If there is none: arity is checked before a command runs.
    #[must_use]
    #[inline]
    pub fn get(&self, position: usize) -> &'a [u8] {
        let range = &self.ranges[position];
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// The arguments in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator + use<'a> {
        let bytes = self.bytes;
        self.ranges
            .iter()
            .map(move |range| &bytes[range.start as usize..range.end as usize])
    }

    /// The arguments from this position on: the inner command of a wrapped one.
    ///
    /// # Panics
    /// If `position` is beyond the last argument by more than one.
    #[must_use]
    pub fn skip(&self, position: usize) -> Self {
        Self {
            bytes: self.bytes,
            ranges: &self.ranges[position..],
        }
    }

    /// The sum of the arguments' lengths in bytes, without what the protocol puts around them.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.ranges.iter().map(|range| range.len()).sum()
    }

    /// So many arguments from a position on; `None` if there are not as many.
    #[must_use]
    pub fn part(&self, position: usize, len: usize) -> Option<Self> {
        let ranges = self.ranges.get(position..position.checked_add(len)?)?;
        Some(Self {
            bytes: self.bytes,
            ranges,
        })
    }
}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.iter()
                    .map(|argument| argument.escape_ascii().to_string()),
            )
            .finish()
    }
}

impl PartialEq for Args<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Args<'_> {}

/// Arguments that own their bytes: a request kept for later, or one that is made here.
#[derive(Clone, Default)]
pub struct ArgsBuf {
    bytes: Vec<u8>,
    ranges: Vec<Range<u32>>,
}

impl ArgsBuf {
    /// No arguments, no memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an argument.
    ///
    /// # Panics
    /// If all arguments together come to 4 GiB; the limits on a request lie far below.
    pub fn push(&mut self, argument: &[u8]) {
        let start = self.bytes.len();
        let end = start + argument.len();
        assert!(u32::try_from(end).is_ok(), "{end} bytes of arguments");
        self.bytes.extend_from_slice(argument);
        self.ranges.push(start as u32..end as u32);
    }

    /// The arguments, borrowed.
    #[must_use]
    pub fn as_args(&self) -> Args<'_> {
        Args::new(&self.bytes, &self.ranges)
    }

    /// Forgets the arguments and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ranges.clear();
    }

    /// What it costs in memory, in bytes, for limits on queued requests.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.ranges.capacity() * size_of::<Range<u32>>()
    }
}

impl From<Args<'_>> for ArgsBuf {
    fn from(args: Args<'_>) -> Self {
        let mut buf = Self {
            bytes: Vec::with_capacity(args.payload_bytes()),
            ranges: Vec::with_capacity(args.len()),
        };
        for argument in args.iter() {
            buf.push(argument);
        }
        buf
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for ArgsBuf {
    fn from_iter<I: IntoIterator<Item = T>>(arguments: I) -> Self {
        let mut buf = Self::new();
        for argument in arguments {
            buf.push(argument.as_ref());
        }
        buf
    }
}

impl fmt::Debug for ArgsBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_args().fmt(f)
    }
}

impl PartialEq for ArgsBuf {
    fn eq(&self, other: &Self) -> bool {
        self.as_args() == other.as_args()
    }
}

impl Eq for ArgsBuf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_what_they_point_at() {
        let ranges = [0..3, 4..5, 5..5];
        let args = Args::new(b"SET k", &ranges);
        assert_eq!(args.len(), 3);
        assert_eq!(args.get(0), b"SET");
        assert_eq!(args.get(1), b"k");
        assert_eq!(args.get(2), b"");
        assert_eq!(args.payload_bytes(), 4);
        assert_eq!(args.iter().next_back(), Some(&b""[..]));
        assert_eq!(args.skip(1).get(0), b"k");
        assert!(args.skip(3).is_empty());
        assert_eq!(args.part(1, 1).map(|part| part.get(0)), Some(&b"k"[..]));
        assert_eq!(args.part(3, 0).map(|part| part.len()), Some(0));
        assert_eq!(args.part(2, 2), None);
        assert_eq!(args.part(1, usize::MAX), None);
    }

    #[test]
    fn a_kept_request_equals_the_borrowed_one() {
        let ranges = [2..5, 7..9];
        let args = Args::new(b"__GET__kk", &ranges);
        let mut kept = ArgsBuf::from(args);
        assert_eq!(kept.as_args(), args);
        assert_eq!(kept, ["GET", "kk"].iter().collect());
        assert_ne!(kept, ["GETk", "k"].iter().collect());
        kept.clear();
        assert!(kept.as_args().is_empty());
        kept.push(b"PING");
        assert_eq!(format!("{kept:?}"), r#"["PING"]"#);
    }
}
