//! Requests out of the bytes that a socket delivers, wherever they are cut.
//!
//! A request that lies whole in one read is parsed where it lies: its arguments are ranges of the
//! read, and nothing is allocated. Only an unfinished request is copied, once, into a buffer of its
//! own, which ends exactly where the request ends; what follows is parsed in place again. A finished
//! request's buffer goes to the caller's [`Scratch`], so [`Input`] owns memory only in the middle of
//! a request: one pointer else.
//!
//! Arguments never borrow from [`Input`], so that whoever runs the request can use its connection
//! meanwhile.

use std::ops::Range;

use crate::args::Args;
use crate::error::ProtocolError;
use crate::inline;
use crate::limits::{InputLimits, SCRATCH_BYTES_MAX, SIZED_BULK_BYTES_MIN};
use crate::parse::{Progress, Rules, Step};

/// Memory for the request at hand, one for all connections of a thread.
#[derive(Clone, Default, Debug)]
pub struct Scratch {
    bytes: Vec<u8>,
    ranges: Vec<Range<u32>>,
}

impl Scratch {
    /// Without memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the last request, and memory beyond what is worth keeping after a large one.
    #[inline]
    fn reset(&mut self) {
        const RANGES_MAX: usize = SCRATCH_BYTES_MAX / size_of::<Range<u32>>();
        self.bytes.clear();
        self.ranges.clear();
        if self.bytes.capacity() > SCRATCH_BYTES_MAX {
            self.bytes = Vec::new();
        }
        if self.ranges.capacity() > RANGES_MAX {
            self.ranges = Vec::new();
        }
    }
}

/// An unfinished request.
#[derive(Clone, Debug)]
struct Partial {
    /// Its bytes so far.
    bytes: Vec<u8>,
    /// Its arguments so far.
    ranges: Vec<Range<u32>>,
    progress: Progress,
}

/// Where one connection is in its input.
#[derive(Clone, Default, Debug)]
pub struct Input {
    partial: Option<Box<Partial>>,
}

/// Where the bytes of a finished request lie.
enum Place {
    Borrowed { end: usize },
    Scratch,
}

impl Input {
    /// At the start of a request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How much memory the unfinished request holds, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            partial.bytes.capacity() + partial.ranges.capacity() * size_of::<Range<u32>>()
        })
    }

    /// The next request that is whole, and moves `data` behind it. `None` once all of `data` is
    /// used up. Empty lines and lists without arguments are passed over, so a request has a name,
    /// though that may be empty.
    ///
    /// Whether the client has authenticated is asked anew for each request: it may change between
    /// two requests of one read.
    ///
    /// # Errors
    /// If the bytes are not a request. There is no way on from there: the input must not be used
    /// again.
    #[inline]
    pub fn next<'s, 'd: 's>(
        &mut self,
        limits: &InputLimits,
        authenticated: bool,
        data: &mut &'d [u8],
        scratch: &'s mut Scratch,
    ) -> Result<Option<Args<'s>>, ProtocolError> {
        let rules = Rules {
            limits,
            authenticated,
        };
        while !data.is_empty() {
            scratch.reset();
            let whole: &'d [u8] = data;
            let place = if self.partial.is_none() {
                self.in_place(rules, data, scratch)?
            } else {
                self.continued(rules, data, scratch)?
            };
            match place {
                Some(Place::Borrowed { end }) => {
                    return Ok(Some(Args::new(&whole[..end], &scratch.ranges)));
                }
                Some(Place::Scratch) if !scratch.ranges.is_empty() => {
                    return Ok(Some(Args::new(&scratch.bytes, &scratch.ranges)));
                }
                Some(Place::Scratch) | None => {}
            }
        }
        Ok(None)
    }

    /// Parses a request that starts with `data`; keeps it if it is unfinished.
    #[inline]
    fn in_place(
        &mut self,
        rules: Rules<'_>,
        data: &mut &[u8],
        scratch: &mut Scratch,
    ) -> Result<Option<Place>, ProtocolError> {
        let mut progress = Progress::new();
        let step = progress.advance(data, rules, &mut scratch.ranges)?;
        let end = progress.at;
        match step {
            Step::Request => {
                *data = &data[end..];
                Ok(Some(Place::Borrowed { end }))
            }
            Step::Inline => {
                inline::split(&data[..end], &mut scratch.bytes, &mut scratch.ranges)?;
                *data = &data[end..];
                Ok(Some(Place::Scratch))
            }
            Step::Ignored => {
                *data = &data[end..];
                Ok(None)
            }
            Step::Incomplete => {
                let mut partial = Partial {
                    bytes: Vec::new(),
                    ranges: scratch.ranges.clone(),
                    progress,
                };
                partial.take(data, data.len());
                self.partial = Some(Box::new(partial));
                Ok(None)
            }
        }
    }

    /// Adds as much of `data` to the unfinished request as belongs to it, until it is whole.
    #[cold]
    fn continued(
        &mut self,
        rules: Rules<'_>,
        data: &mut &[u8],
        scratch: &mut Scratch,
    ) -> Result<Option<Place>, ProtocolError> {
        let Some(partial) = &mut self.partial else {
            return Ok(None);
        };
        let mut step = Step::Incomplete;
        while step == Step::Incomplete && !data.is_empty() {
            let count = partial.progress.wants(&partial.bytes, data);
            partial.take(data, count);
            let Partial {
                bytes,
                ranges,
                progress,
            } = &mut **partial;
            step = progress.advance(bytes, rules, ranges)?;
        }
        if step == Step::Incomplete {
            return Ok(None);
        }
        assert!(
            partial.progress.at == partial.bytes.len(),
            "a request of {} bytes in a buffer of {}",
            partial.progress.at,
            partial.bytes.len()
        );
        let partial = self.partial.take().expect("the request just finished");
        match step {
            Step::Request => {
                scratch.bytes = partial.bytes;
                scratch.ranges = partial.ranges;
                Ok(Some(Place::Scratch))
            }
            Step::Inline => {
                inline::split(&partial.bytes, &mut scratch.bytes, &mut scratch.ranges)?;
                Ok(Some(Place::Scratch))
            }
            Step::Ignored | Step::Incomplete => Ok(None),
        }
    }
}

impl Partial {
    /// Moves the first `count` bytes of `data` here. A large bulk gets all its room at once: growing
    /// by doubling would copy it several times and end up with twice its size.
    fn take(&mut self, data: &mut &[u8], count: usize) {
        let (taken, rest) = data.split_at(count);
        if let Some(len) = self.progress.awaited_bulk()
            && len >= SIZED_BULK_BYTES_MIN
        {
            let end = self.progress.at + len + 2;
            self.bytes
                .reserve_exact(end.saturating_sub(self.bytes.len()));
        }
        self.bytes.extend_from_slice(taken);
        *data = rest;
    }
}

/// Cuts the input anywhere and asks for the same requests and the same error as without a cut. For
/// fuzzing: the first bytes say where to cut, the rest is the input; panics on a find.
pub fn fuzz(data: &[u8]) {
    let (cuts, stream) = data.split_at(data.len().min(4));
    let limits = InputLimits {
        args_max: 1000,
        bulk_bytes_max: 100_000,
        request_bytes_max: 200_000,
    };
    for authenticated in [false, true] {
        let whole = requests(&limits, authenticated, &mut std::iter::once(stream));
        let mut rest = stream;
        let mut turn = 0;
        let mut pieces = std::iter::from_fn(|| {
            let step = cuts.get(turn % cuts.len().max(1)).copied().unwrap_or(0);
            turn += 1;
            let count = (usize::from(step) % 37 + 1).min(rest.len());
            let (piece, behind) = rest.split_at(count);
            rest = behind;
            (!piece.is_empty()).then_some(piece)
        });
        let cut = requests(&limits, authenticated, &mut pieces);
        assert_eq!(whole, cut, "a cut changes what is understood");
    }
}

type Understood = (Vec<crate::ArgsBuf>, Option<ProtocolError>);

fn requests(
    limits: &InputLimits,
    authenticated: bool,
    pieces: &mut dyn Iterator<Item = &[u8]>,
) -> Understood {
    let (mut input, mut scratch, mut found) = (Input::new(), Scratch::new(), Vec::new());
    for mut data in pieces {
        loop {
            match input.next(limits, authenticated, &mut data, &mut scratch) {
                Ok(Some(args)) => found.push(crate::ArgsBuf::from(args)),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulks(arguments: &[&[u8]]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            out.extend_from_slice(argument);
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    /// Feeds byte by byte; gives how many bytes were looked at.
    fn trickle(stream: &[u8], requests_expected: usize) -> usize {
        let (limits, mut scratch, mut input) =
            (InputLimits::default(), Scratch::new(), Input::new());
        let (mut work, mut found) = (0, 0);
        for byte in stream.chunks(1) {
            let before = input
                .partial
                .as_ref()
                .map_or(0, |partial| partial.progress.work);
            let mut data = byte;
            let next = input.next(&limits, true, &mut data, &mut scratch);
            found += usize::from(next.expect("no error").is_some());
            work += match &input.partial {
                Some(partial) => partial.progress.work - before,
                None => 1,
            };
        }
        assert_eq!(found, requests_expected);
        work
    }

    #[test]
    fn a_trickle_costs_linear_time() {
        let value = vec![b'v'; 1_000_000];
        let large = bulks(&[b"SET", b"key", &value]);
        assert!(trickle(&large, 1) < 200, "a bulk's bytes are not looked at");

        let many: Vec<&[u8]> = std::iter::repeat_n(&b"argument"[..], 10_000).collect();
        let many = bulks(&many);
        let work = trickle(&many, 1);
        assert!(
            work < 3 * many.len(),
            "{work} bytes looked at of {}",
            many.len()
        );

        let mut line = vec![b'x'; crate::limits::LINE_BYTES_MAX - 2];
        line.extend_from_slice(b"\r\n");
        let work = trickle(&line, 1);
        assert!(
            work < 3 * line.len(),
            "{work} bytes looked at of {}",
            line.len()
        );
    }

    #[test]
    fn nothing_is_held_between_requests() {
        assert_eq!(size_of::<Input>(), size_of::<usize>());
        let (limits, mut scratch, mut input) =
            (InputLimits::default(), Scratch::new(), Input::new());
        let value = vec![b'v'; 3_000_000];
        let stream = bulks(&[b"SET", b"key", &value]);
        let (mut first, mut second) = stream.split_at(50);
        assert_eq!(
            input.next(&limits, true, &mut first, &mut scratch),
            Ok(None)
        );
        let held = input.held_bytes();
        assert!(
            (3_000_000..3_000_300).contains(&held),
            "sized by the header, not {held}"
        );
        let args = input.next(&limits, true, &mut second, &mut scratch);
        assert_eq!(args.expect("no error").expect("a request").get(2), value);
        assert_eq!(input.held_bytes(), 0);
        let mut ping = &b"PING\r\n"[..];
        assert!(input.next(&limits, true, &mut ping, &mut scratch).is_ok());
        assert!(scratch.bytes.capacity() <= SCRATCH_BYTES_MAX);
    }

    #[test]
    fn what_follows_an_unfinished_request_is_parsed_in_place() {
        let (limits, mut scratch, mut input) =
            (InputLimits::default(), Scratch::new(), Input::new());
        let stream = [bulks(&[b"GET", b"a"]), bulks(&[b"GET", b"b"])].concat();
        let (mut first, mut second) = stream.split_at(7);
        assert_eq!(
            input.next(&limits, true, &mut first, &mut scratch),
            Ok(None)
        );
        assert!(input.next(&limits, true, &mut second, &mut scratch).is_ok());
        let rest = second.as_ptr_range();
        let args = input.next(&limits, true, &mut second, &mut scratch);
        let args = args.expect("no error").expect("a request");
        assert!(rest.contains(&args.get(1).as_ptr()));
    }
}
