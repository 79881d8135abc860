//! How far one request is understood.
//!
//! The same steps run over a request that lies whole in what a socket read delivered, and over one
//! that comes in pieces. What was understood is never looked at again: a client that sends a large
//! request byte by byte costs as much as one that sends it at once.
//!
//! Where a line ends does not depend on how it was cut, and neither does any error: a header or
//! inline request is too long exactly if its first [`LINE_BYTES_MAX`] + 1 bytes hold no line end.
//! As in Redis, only the carriage return of a header's end is looked at, and the two bytes behind a
//! bulk are not looked at at all.

use std::ops::Range;

use crate::error::ProtocolError;
use crate::limits::{
    InputLimits, LINE_BYTES_MAX, UNAUTHENTICATED_ARGS_MAX, UNAUTHENTICATED_BULK_BYTES_MAX,
};
use crate::number::parse_integer;

/// What holds for the next request.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) limits: &'a InputLimits,
    pub(crate) authenticated: bool,
}

/// What stands at [`Progress::at`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The first byte of the request.
    Start,
    /// The header of a bulk.
    Header,
    /// This many bytes of a bulk.
    Bulk(usize),
}

/// The result of looking at what has come so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// More bytes are needed.
    Incomplete,
    /// The bytes up to [`Progress::at`] are nothing to be answered: a list without arguments.
    Ignored,
    /// The bytes up to [`Progress::at`] are a request of bulks.
    Request,
    /// The bytes up to [`Progress::at`] are an inline request, with its line end.
    Inline,
}

/// How far one request is understood. Positions count from its first byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Everything before this is understood.
    pub(crate) at: usize,
    /// Between `at` and here is no line end. It may be *at* this position, with its second byte
    /// still to come.
    searched: usize,
    stage: Stage,
    /// Arguments to come, the one at `at` included.
    missing: u32,
    /// How many bytes were looked at, for the test that it stays linear.
    #[cfg(test)]
    pub(crate) work: usize,
}

impl Progress {
    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            at: 0,
            searched: 0,
            stage: Stage::Start,
            missing: 0,
            #[cfg(test)]
            work: 0,
        }
    }

    /// Goes on over `bytes`, which start with the request's first byte and include all that was
    /// given before. Arguments found are appended to `ranges`.
    #[inline]
    pub(crate) fn advance(
        &mut self,
        bytes: &[u8],
        rules: Rules<'_>,
        ranges: &mut Vec<Range<u32>>,
    ) -> Result<Step, ProtocolError> {
        if self.stage == Stage::Start {
            match bytes.first() {
                None => return Ok(Step::Incomplete),
                Some(b'*') => {}
                Some(_) => return self.inline(bytes),
            }
            let Some(count) = self.header(bytes, ProtocolError::TooBigArgsCount)? else {
                return Ok(Step::Incomplete);
            };
            self.missing = rules.args_count(count)?;
            if self.missing == 0 {
                return Ok(Step::Ignored);
            }
            self.stage = Stage::Header;
        }
        loop {
            let len = match self.stage {
                Stage::Bulk(len) => len,
                _ => {
                    let header = self.at;
                    let Some(len) = self.header(bytes, ProtocolError::TooBigBulkCount)? else {
                        return Ok(Step::Incomplete);
                    };
                    if bytes[header] != b'$' {
                        return Err(ProtocolError::ExpectedBulk(bytes[header]));
                    }
                    rules.bulk_length(self.at, len)?
                }
            };
            let end = self.at + len;
            if end + 2 > bytes.len() {
                self.stage = Stage::Bulk(len);
                return Ok(Step::Incomplete);
            }
            // In range: the rules keep a whole request below 4 GiB.
            ranges.push(self.at as u32..end as u32);
            self.at = end + 2;
            self.searched = self.at;
            self.stage = Stage::Header;
            self.missing -= 1;
            if self.missing == 0 {
                return Ok(Step::Request);
            }
        }
    }

    /// How many of the bytes in `data`, which follow `held`, surely belong to this request. At least
    /// one if there is one; never one of the next request's.
    pub(crate) fn wants(&mut self, held: &[u8], data: &[u8]) -> usize {
        let wanted = match self.stage {
            Stage::Bulk(len) => self.at + len + 2 - held.len(),
            _ if held.get(self.searched) == Some(&b'\r') => 1,
            _ => {
                let inline = self.stage == Stage::Start && held.first() != Some(&b'*');
                let (end, behind) = if inline { (b'\n', 1) } else { (b'\r', 2) };
                let longest = self.at + LINE_BYTES_MAX + 1 - held.len();
                let within = &data[..data.len().min(longest)];
                let found = within.iter().position(|byte| *byte == end);
                self.count_work(found.unwrap_or(within.len()));
                found.map_or(within.len(), |found| found + behind)
            }
        };
        wanted.min(data.len())
    }

    /// The length of the bulk that is being waited for, if one is.
    pub(crate) fn awaited_bulk(&self) -> Option<usize> {
        match self.stage {
            Stage::Bulk(len) => Some(len),
            _ => None,
        }
    }

    /// The number in the line at `at`, behind its first byte, and moves behind the line. `None` if
    /// the line is not whole. What is not a number counts as [`NOT_A_NUMBER`].
    #[inline]
    fn header(
        &mut self,
        bytes: &[u8],
        too_big: ProtocolError,
    ) -> Result<Option<i64>, ProtocolError> {
        if self.searched == self.at
            && let Some((number, next)) = short_number(bytes, self.at + 1)
        {
            self.count_work(next - self.at);
            self.at = next;
            self.searched = next;
            return Ok(Some(i64::from(number)));
        }
        self.header_slow(bytes, too_big)
    }

    #[cold]
    fn header_slow(
        &mut self,
        bytes: &[u8],
        too_big: ProtocolError,
    ) -> Result<Option<i64>, ProtocolError> {
        if !self.find(bytes, b'\r', too_big)? || self.searched + 2 > bytes.len() {
            return Ok(None);
        }
        // The line's first byte may itself be its end.
        let text = bytes.get(self.at + 1..self.searched).unwrap_or_default();
        let number = parse_integer(text).unwrap_or(NOT_A_NUMBER);
        self.at = self.searched + 2;
        self.searched = self.at;
        Ok(Some(number))
    }

    #[cold]
    fn inline(&mut self, bytes: &[u8]) -> Result<Step, ProtocolError> {
        if !self.find(bytes, b'\n', ProtocolError::TooBigInline)? {
            return Ok(Step::Incomplete);
        }
        self.at = self.searched + 1;
        self.searched = self.at;
        Ok(Step::Inline)
    }

    /// Moves `searched` to the next line end, and says whether there is one.
    fn find(
        &mut self,
        bytes: &[u8],
        end: u8,
        too_big: ProtocolError,
    ) -> Result<bool, ProtocolError> {
        let stop = bytes.len().min(self.at + LINE_BYTES_MAX + 1);
        let unseen = &bytes[self.searched..stop];
        let found = unseen.iter().position(|byte| *byte == end);
        self.count_work(found.unwrap_or(unseen.len()));
        self.searched += found.unwrap_or(unseen.len());
        if found.is_none() && self.searched - self.at > LINE_BYTES_MAX {
            return Err(too_big);
        }
        Ok(found.is_some())
    }

    #[inline]
    fn count_work(&mut self, bytes: usize) {
        #[cfg(test)]
        {
            self.work += bytes;
        }
        let _ = bytes;
    }
}

/// Out of every range that a header's number may be in.
const NOT_A_NUMBER: i64 = i64::MAX;

impl Rules<'_> {
    #[inline]
    fn args_count(self, count: i64) -> Result<u32, ProtocolError> {
        if count > i64::from(self.limits.args_max) {
            return Err(ProtocolError::InvalidArgsCount);
        }
        // A negative count is an empty request, as zero is.
        let count = count.max(0) as u32;
        if count > UNAUTHENTICATED_ARGS_MAX && !self.authenticated {
            return Err(ProtocolError::UnauthenticatedArgsCount);
        }
        Ok(count)
    }

    #[inline]
    fn bulk_length(self, at: usize, len: i64) -> Result<usize, ProtocolError> {
        if len < 0 || len > i64::from(self.limits.bulk_bytes_max) {
            return Err(ProtocolError::InvalidBulkLength);
        }
        if len > i64::from(UNAUTHENTICATED_BULK_BYTES_MAX) && !self.authenticated {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        let len = len as usize;
        if at + len + 2 > self.limits.request_bytes_max as usize {
            return Err(ProtocolError::TooBigRequest);
        }
        Ok(len)
    }
}

/// The number that starts at `at` and where its line ends, if it is of the usual kind: one to eight
/// digits in the one form allowed, with the line end behind them. Everything else takes the long
/// way.
#[inline]
fn short_number(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    const DIGITS_MAX: usize = 8;
    let rest = bytes.get(at..)?;
    let mut value = 0u32;
    for (digits, byte) in rest.iter().enumerate().take(DIGITS_MAX + 1) {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            if digits == DIGITS_MAX {
                return None;
            }
            value = value * 10 + u32::from(digit);
        } else {
            let one_form = digits == 1 || (digits > 1 && rest[0] != b'0');
            let whole = digits + 2 <= rest.len();
            return (*byte == b'\r' && one_form && whole).then_some((value, at + digits + 2));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_takes_only_what_the_long_way_takes() {
        for text in [
            "0",
            "1",
            "10",
            "99999999",
            "00",
            "01",
            "-1",
            "+1",
            "",
            "1x",
            "123456789",
        ] {
            let line = format!("*{text}\r\n");
            let short = short_number(line.as_bytes(), 1);
            let long = parse_integer(text.as_bytes());
            if let Some((value, next)) = short {
                assert_eq!(long, Some(i64::from(value)));
                assert_eq!(next, line.len());
            } else {
                let usual = long.is_some_and(|value| (0..100_000_000).contains(&value));
                assert!(!usual, "{text} takes the long way");
            }
            assert_eq!(short_number(&line.as_bytes()[..line.len() - 1], 1), None);
        }
    }
}
