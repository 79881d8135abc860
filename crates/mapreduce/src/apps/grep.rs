//! Lines that match a pattern.

use regex::bytes::Regex;

use crate::error::{Error, Result};
use crate::function::{Emit, Map, Record, Reduce, Setup, Values};

pub(super) struct Matches {
    pattern: Regex,
    place: String,
}

pub(super) fn matches(setup: &Setup) -> Result<Matches> {
    let pattern = Regex::new(setup.param("pattern")?)
        .map_err(|error| Error::new(format!("the pattern: {error}")))?;
    Ok(Matches {
        pattern,
        place: String::new(),
    })
}

impl Map for Matches {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        use std::fmt::Write as _;
        if self.pattern.is_match(record.value) {
            self.place.clear();
            // Offsets of one width, so that the order of keys is that of the file.
            let _ = write!(self.place, "{}:{:012}", record.source, record.offset);
            out.pair(self.place.as_bytes(), record.value)?;
        }
        Ok(())
    }
}

/// Passes all pairs on.
pub(super) struct All;

pub(super) fn all(_: &Setup) -> Result<All> {
    Ok(All)
}

impl Reduce for All {
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        while let Some(value) = values.next()? {
            out.pair(key, value)?;
        }
        Ok(())
    }
}
