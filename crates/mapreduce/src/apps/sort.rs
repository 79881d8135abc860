//! Lines in order. The work is done by the shuffle: keys are spread by sampled ranges and merged.

use crate::error::Result;
use crate::function::{Emit, Map, Record, Reduce, Setup, Values};

/// Each line as a key.
pub(super) struct Keys;

pub(super) fn keys(_: &Setup) -> Result<Keys> {
    Ok(Keys)
}

impl Map for Keys {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        out.pair(record.value, &[])
    }
}

/// Each key as often as it has values.
pub(super) struct Repeated;

pub(super) fn repeated(_: &Setup) -> Result<Repeated> {
    Ok(Repeated)
}

impl Reduce for Repeated {
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        while values.next()?.is_some() {
            out.line(key)?;
        }
        Ok(())
    }
}

/// Each key once.
pub(super) struct Distinct {
    /// As a combiner it emits the key as it was given, tabs and all.
    as_pairs: bool,
}

pub(super) fn distinct(_: &Setup) -> Result<Distinct> {
    Ok(Distinct { as_pairs: false })
}

pub(super) fn distinct_pairs(_: &Setup) -> Result<Distinct> {
    Ok(Distinct { as_pairs: true })
}

impl Reduce for Distinct {
    fn reduce(&mut self, key: &[u8], _: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        if self.as_pairs {
            out.pair(key, &[])
        } else {
            out.line(key)
        }
    }
}
