//! Commands as they lie in the log.
//!
//! ```text
//! | operation, u16 LE | argument count, varint | count times: length, varint | bytes |
//! ```
//!
//! Facts only: whatever could be checked or parsed from the request alone was. Keys stand where they
//! stand in the request, less one for the name, so that the table finds them here too. An encoded
//! read (inside a session's command) has all its arguments, the name as an empty one.

use std::ops::Range;

use kvorum_base::cursor::{Reader, put_block, put_varint};
use kvorum_base::{Malformed, UnixMillis};
use kvorum_resp::Args;

use crate::command::range_of;
use crate::command::spec::Keys;

/// How many arguments are found without allocating.
const FEW: usize = 8;

/// Appends one encoded command, argument by argument.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    /// What to put around the command: an operation and the head of its first argument.
    wrapping: Option<(u16, &'a [u8])>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            wrapping: None,
        }
    }

    /// An encoder whose command becomes the arguments of another operation, behind one that holds
    /// this head and the wrapped operation.
    pub(super) fn wrapped_in<'b>(&'b mut self, operation: u16, head: &'b [u8]) -> Encoder<'b> {
        Encoder {
            out: self.out,
            wrapping: Some((operation, head)),
        }
    }

    /// Opens the command; exactly `count` calls of [`Encoder::argument`] follow.
    pub(super) fn begin(&mut self, operation: u16, count: usize) -> &mut Self {
        let Some((outer, head)) = self.wrapping else {
            self.out.extend_from_slice(&operation.to_le_bytes());
            put_varint(self.out, count as u64);
            return self;
        };
        self.out.extend_from_slice(&outer.to_le_bytes());
        put_varint(self.out, count as u64 + 1);
        put_varint(self.out, head.len() as u64 + 2);
        self.out.extend_from_slice(head);
        self.out.extend_from_slice(&operation.to_le_bytes());
        self
    }

    pub(super) fn argument(&mut self, bytes: &[u8]) -> &mut Self {
        put_block(self.out, bytes);
        self
    }

    /// The request's arguments from one position on, as they are.
    pub(super) fn arguments(&mut self, args: Args<'_>, from: usize) {
        for argument in args.iter().skip(from) {
            self.argument(argument);
        }
    }
}

/// The bytes of one encoded command, with its arguments found.
#[derive(Debug)]
pub(crate) struct Decoded<'a> {
    pub(crate) operation: u16,
    bytes: &'a [u8],
    few: [Range<u32>; FEW],
    many: Vec<Range<u32>>,
    count: usize,
}

impl<'a> Decoded<'a> {
    /// Finds the arguments; nothing may follow them.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let operation = reader.u16("operation")?;
        let count = reader.varint("argument count")? as usize;
        if count > reader.remaining() {
            return Err(reader.malformed("argument count"));
        }
        let mut few = [const { 0..0 }; FEW];
        let mut many = Vec::new();
        if count > FEW {
            many.reserve_exact(count);
        }
        for number in 0..count {
            let len = reader.block("argument")?.len();
            let end = reader.position();
            let range = (end - len) as u32..end as u32;
            match few.get_mut(number) {
                Some(place) if count <= FEW => *place = range,
                _ => many.push(range),
            }
        }
        reader.end("command")?;
        Ok(Self {
            operation,
            bytes,
            few,
            many,
            count,
        })
    }

    pub(crate) fn args(&self) -> Args<'_> {
        Args::new(self.bytes, self.ranges())
    }

    /// The keys among the arguments, for as long as the bytes live.
    pub(super) fn keys(&self, keys: Keys, name: i32) -> impl Iterator<Item = &'a [u8]> {
        let (next, end, step) = range_of(keys, self.count, name);
        let ranges = self.ranges()[next.min(end)..end].iter().step_by(step);
        ranges.map(|range| &self.bytes[range.start as usize..range.end as usize])
    }

    fn ranges(&self) -> &[Range<u32>] {
        if self.count > FEW {
            &self.many
        } else {
            &self.few[..self.count]
        }
    }
}

/// Any bytes either are refused or are the one encoding of what they decode to. For fuzzing; panics on
/// a find.
pub fn fuzz(data: &[u8]) {
    if let Ok(decoded) = Decoded::new(data) {
        let args = decoded.args();
        let mut again = Vec::new();
        let mut encoder = Encoder::new(&mut again);
        encoder.begin(decoded.operation, args.len());
        encoder.arguments(args, 0);
        assert_eq!(again, data, "a command has one encoding");
    }
    if let Ok(ends) = Ends::take(&mut Reader::new(data)) {
        let mut again = Vec::new();
        ends.put(&mut again);
        assert!(data.starts_with(&again), "an end has one encoding");
    }
}

/// When a key ends, as the log says it: relative times stay relative, and begin at the clock of their
/// entry, which no proposer knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ends {
    /// Not at all.
    Never,
    /// As it was.
    AsBefore,
    /// So many milliseconds after the entry's clock; below zero: before it.
    After(i64),
    /// At this time in milliseconds; below zero: long ago.
    At(i64),
    /// The request said nonsense, which only matters if the key is there.
    Invalid,
}

/// How much a relative time may be at most: a clock of the next hundred years added to it still is an
/// `i64`, which is what Redis checks with the clock in hand.
pub(super) const RELATIVE_MS_MAX: i64 = i64::MAX - (1 << 42);

impl Ends {
    /// Nine bytes at most; `Never` is none at all.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        let (kind, number) = match self {
            Ends::Never => return,
            Ends::AsBefore => (1, None),
            Ends::After(ms) => (2, Some(ms)),
            Ends::At(ms) => (3, Some(ms)),
            Ends::Invalid => (4, None),
        };
        out.push(kind);
        if let Some(number) = number {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub(super) fn take(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        if reader.is_empty() {
            return Ok(Ends::Never);
        }
        Ok(match reader.u8("kind of end")? {
            1 => Ends::AsBefore,
            2 => Ends::After(reader.u64("relative end")? as i64),
            3 => Ends::At(reader.u64("absolute end")? as i64),
            4 => Ends::Invalid,
            _ => return Err(reader.malformed("kind of end")),
        })
    }

    /// The one in a logged argument.
    ///
    /// # Panics
    /// If it is malformed: the argument was encoded here.
    pub(super) fn logged(reader: &mut Reader<'_>) -> Self {
        match Self::take(reader) {
            Ok(ends) => ends,
            Err(error) => panic!("a logged end: {error}"),
        }
    }

    /// The time it means in an entry of this clock; `None` if it means none. Times before the epoch
    /// are the epoch.
    pub(super) fn deadline(self, clock: UnixMillis) -> Option<UnixMillis> {
        let clock = i64::try_from(clock.get()).unwrap_or(i64::MAX);
        let ms = match self {
            Ends::After(ms) => clock.saturating_add(ms),
            Ends::At(ms) => ms,
            Ends::Never | Ends::AsBefore | Ends::Invalid => return None,
        };
        Some(UnixMillis(ms.max(0) as u64))
    }
}

/// A number as an encoded argument.
pub(super) fn number(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(bytes);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_back() {
        for count in [0, 1, 8, 9, 100] {
            let mut out = Vec::new();
            let mut encoder = Encoder::new(&mut out);
            encoder.begin(517, count);
            for number in 0..count {
                encoder.argument(format!("a{number}").as_bytes());
            }
            let decoded = Decoded::new(&out).expect("well formed");
            assert_eq!(decoded.operation, 517);
            let args: Vec<_> = decoded.args().iter().map(<[u8]>::to_vec).collect();
            let expected: Vec<_> = (0..count).map(|n| format!("a{n}").into_bytes()).collect();
            assert_eq!(args, expected);
            for end in 0..out.len() {
                assert!(Decoded::new(&out[..end]).is_err(), "cut at {end}");
            }
            fuzz(&out);
            out.push(0);
            assert!(Decoded::new(&out).is_err(), "a rest");
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        let mut prng = kvorum_base::Prng::new(1);
        for _ in 0..20_000 {
            let len = prng.below(40);
            let data: Vec<u8> = (0..len).map(|_| prng.below(256) as u8 % 12).collect();
            fuzz(&data);
        }
    }

    #[test]
    fn a_command_has_these_bytes() {
        let mut out = Vec::new();
        Encoder::new(&mut out)
            .begin(0x0102, 2)
            .argument(b"key")
            .argument(b"");
        assert_eq!(out, b"\x02\x01\x02\x03key\x00");
    }

    #[test]
    fn ends_come_back() {
        for ends in [
            Ends::Never,
            Ends::AsBefore,
            Ends::After(-5),
            Ends::At(i64::MAX),
            Ends::Invalid,
        ] {
            let mut out = Vec::new();
            ends.put(&mut out);
            assert_eq!(Ends::take(&mut Reader::new(&out)), Ok(ends));
        }
        assert!(Ends::take(&mut Reader::new(&[9])).is_err());
        assert_eq!(
            Ends::After(5).deadline(UnixMillis(10)),
            Some(UnixMillis(15))
        );
        assert_eq!(
            Ends::After(-50).deadline(UnixMillis(10)),
            Some(UnixMillis(0))
        );
        assert_eq!(Ends::AsBefore.deadline(UnixMillis(10)), None);
    }
}
