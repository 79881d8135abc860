//! Numbers by key: count, sum, min, max.

use crate::error::{Error, Result};
use crate::function::{Emit, Map, Record, Reduce, Setup, Values, number as whole_number};

pub(super) struct Count;

pub(super) fn count(_: &Setup) -> Result<Count> {
    Ok(Count)
}

impl Map for Count {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        out.sum(record.key, 1)
    }
}

/// Passes numbers on, once they were looked at.
pub(super) struct Numbers {
    whole: bool,
}

pub(super) fn whole(_: &Setup) -> Result<Numbers> {
    Ok(Numbers { whole: true })
}

pub(super) fn number(_: &Setup) -> Result<Numbers> {
    Ok(Numbers { whole: false })
}

impl Map for Numbers {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        if self.whole {
            let number = whole_number(record.value)?;
            return match u64::try_from(number) {
                // The table saturates; numbers that could get there go the long way.
                Ok(small) if small < 1 << 32 => out.sum(record.key, small),
                _ => out.pair(record.key, record.value),
            };
        }
        measure(record.value)?;
        out.pair(record.key, record.value)
    }
}

pub(super) struct Sum;

pub(super) fn sum(_: &Setup) -> Result<Sum> {
    Ok(Sum)
}

impl Reduce for Sum {
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        let sum = values.sum()?;
        match u64::try_from(sum) {
            Ok(sum) => out.pair(key, crate::function::decimal(sum, &mut [0; 20])),
            Err(_) => out.pair(key, sum.to_string().as_bytes()),
        }
    }
}

/// Keeps the smallest or largest of the values, as it was written.
pub(super) struct Extreme {
    largest: bool,
}

pub(super) fn min(_: &Setup) -> Result<Extreme> {
    Ok(Extreme { largest: false })
}

pub(super) fn max(_: &Setup) -> Result<Extreme> {
    Ok(Extreme { largest: true })
}

impl Reduce for Extreme {
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        let mut best: Option<(f64, Vec<u8>)> = None;
        while let Some(value) = values.next()? {
            let measure = measure(value)?;
            let better = best.as_ref().is_none_or(|(best, text)| {
                let order = measure.total_cmp(best);
                let order = if self.largest { order.reverse() } else { order };
                // Equal numbers, "1" and "1.0": the lesser text, whatever the order of arrival.
                order.then_with(|| value.cmp(text)).is_lt()
            });
            if better {
                best = Some((measure, value.to_vec()));
            }
        }
        best.map_or(Ok(()), |(_, text)| out.pair(key, &text))
    }
}

/// A decimal number, for comparing alone: what is kept is its text.
fn measure(text: &[u8]) -> Result<f64> {
    let parsed = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.trim().parse::<f64>().ok());
    parsed.filter(|number| !number.is_nan()).ok_or_else(|| {
        Error::bad_record(format!("not a number: {:?}", String::from_utf8_lossy(text)))
    })
}
