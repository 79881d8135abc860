//! Functions: what a user writes, and what they are given.
//!
//! A job has a [`Map`] and a [`Reduce`]. The map sees one record after another and emits pairs; the reduce
//! sees each key once, with all its values, in the order of keys. A reduce that emits what it takes can
//! serve as the combiner too: it then also runs on parts of a key's values, where a map spills and where
//! spills are merged.
//!
//! Functions should be deterministic. An attempt may run more than once, and of two attempts of one task
//! either may win; only then is the output the same whatever dies. Values come in a fixed order: that of
//! the splits, and within a split that in which they were emitted.

use std::collections::BTreeMap;

use crate::counters::Counters;
use crate::error::{Error, Result};

/// One record of the input.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The file, as it was named.
    pub source: &'a str,
    /// Where the record starts in the file, in bytes of its unpacked content.
    pub offset: u64,
    /// The part before the first tab (`kv`), the key field (`json`), or nothing.
    pub key: &'a [u8],
    /// The line without its end, the part after the tab, the value field, or the whole file.
    pub value: &'a [u8],
}

/// Turns records into pairs.
pub trait Map {
    /// One record.
    ///
    /// # Errors
    /// [`Error::BadRecord`] for a record that may be skipped, if the user asks for that; any other error
    /// ends the attempt.
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()>;

    /// After the last record of the split.
    ///
    /// # Errors
    /// Any error ends the attempt.
    fn finish(&mut self, out: &mut Emit<'_>) -> Result<()> {
        let _ = out;
        Ok(())
    }
}

/// Turns all values of a key into the output.
pub trait Reduce {
    /// One key and its values. What is not read of them is skipped.
    ///
    /// # Errors
    /// Any error ends the attempt.
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()>;

    /// After the last key of the partition.
    ///
    /// # Errors
    /// Any error ends the attempt.
    fn finish(&mut self, out: &mut Emit<'_>) -> Result<()> {
        let _ = out;
        Ok(())
    }
}

/// Where pairs go.
pub(crate) trait Sink {
    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<()>;

    /// A number to be added up by key; a sink that cannot add up takes it as a pair.
    fn sum(&mut self, key: &[u8], amount: u64) -> Result<()> {
        self.pair(key, decimal(amount, &mut [0; 20]))
    }

    /// A line of text: a pair, told apart by its first tab, except in the output.
    fn line(&mut self, line: &[u8]) -> Result<()> {
        let (key, value) = split_pair(line);
        self.pair(key, value)
    }
}

/// Where a function puts what it makes.
pub struct Emit<'a> {
    pub(crate) sink: &'a mut dyn Sink,
    pub(crate) counters: &'a mut Counters,
}

impl Emit<'_> {
    /// A pair. In the output it is the line key TAB value.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.sink.pair(key, value)
    }

    /// Adds to the number of this key: the same as a pair with that decimal number and a combiner that
    /// sums, but in a table of the map task, so that a frequent key costs a look-up.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn sum(&mut self, key: &[u8], amount: u64) -> Result<()> {
        self.sink.sum(key, amount)
    }

    /// A line of the output as it is. From a map it is a pair, told apart by its first tab.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn line(&mut self, line: &[u8]) -> Result<()> {
        self.sink.line(line)
    }

    /// Adds to a counter of the job.
    pub fn count(&mut self, name: &str, amount: i64) {
        self.counters.add(name, amount);
    }
}

/// Where values come from.
pub(crate) trait ValueSource {
    fn next_value(&mut self) -> Result<Option<&[u8]>>;
}

/// The values of a key, one after another. They stream from the files of the maps: a key may have more of
/// them than fits into memory.
pub struct Values<'a> {
    pub(crate) source: &'a mut dyn ValueSource,
}

impl Values<'_> {
    /// The next value, or `None` after the last.
    ///
    /// # Errors
    /// If the values cannot be read.
    #[allow(
        clippy::should_implement_trait,
        reason = "an iterator cannot lend what it yields"
    )]
    pub fn next(&mut self) -> Result<Option<&[u8]>> {
        self.source.next_value()
    }

    /// The sum of the values, which are whole decimal numbers.
    ///
    /// # Errors
    /// If one is not, or the sum does not fit.
    pub fn sum(&mut self) -> Result<i128> {
        let mut sum = 0i128;
        while let Some(value) = self.next()? {
            let amount = number(value)?;
            sum = sum
                .checked_add(amount)
                .ok_or_else(|| Error::new("a sum is too large"))?;
        }
        Ok(sum)
    }
}

/// What a function may ask about its task when it is made.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The parameters of the job, `--param NAME=VALUE`.
    pub params: BTreeMap<String, String>,
    /// The index of the split or partition.
    pub index: u32,
    /// How many partitions there are.
    pub reducers: u32,
    /// The name of the attempt, unique within the job.
    pub attempt: String,
}

impl Setup {
    /// A parameter that must be there.
    ///
    /// # Errors
    /// If it is not.
    pub fn param(&self, name: &str) -> Result<&str> {
        self.params
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| Error::new(format!("missing parameter: --param {name}=...")))
    }
}

/// A line's key and value: before and after its first tab; without one the whole line is the key.
pub(crate) fn split_pair(line: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'\t', line) {
        Some(tab) => (&line[..tab], &line[tab + 1..]),
        None => (line, &[]),
    }
}

/// A whole decimal number.
pub(crate) fn number(text: &[u8]) -> Result<i128> {
    // The way of nearly all: up to 18 digits without a sign.
    if (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit) {
        let digits = text
            .iter()
            .fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        return Ok(i128::from(digits));
    }
    let parsed = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    parsed.ok_or_else(|| {
        Error::bad_record(format!(
            "not a whole number: {:?}",
            String::from_utf8_lossy(text)
        ))
    })
}

/// Writes a number in decimal digits.
pub(crate) fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_written() {
        for value in [0, 7, 10, 999, u64::MAX] {
            let mut digits = [0; 20];
            let text = decimal(value, &mut digits);
            assert_eq!(text, value.to_string().as_bytes());
            assert_eq!(number(text).expect("a number"), i128::from(value));
        }
        assert_eq!(number(b"-12").expect("a number"), -12);
        for bad in [&b""[..], b"x", b"1.5", b"\xff"] {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }
}
