//! Which key is asked for next.

use std::io::Write;
use std::ops::RangeInclusive;

use clap::ValueEnum;
use kvorum_base::Prng;
use kvorum_base::slot::slot_of;
use serde::Serialize;

use super::RunOptions;

/// Exponent of the Zipf distribution, as in most benchmarks of stores.
const ZIPF_EXPONENT: f64 = 0.99;

/// How often each key is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// All alike
    Uniform,
    /// The n-th most frequent one n^0.99 times less often than the first
    Zipf,
}

/// All keys of a run, and how they are drawn.
pub(crate) struct Keys {
    count: u64,
    size: usize,
    slots: Option<RangeInclusive<u16>>,
    zipf: Option<Zipf>,
}

impl Keys {
    pub(crate) fn new(options: &RunOptions) -> Result<Self, String> {
        let keys = Self {
            count: options.keys,
            size: options.key_size as usize,
            slots: options.slots.clone(),
            zipf: (options.distribution == Distribution::Zipf).then(|| Zipf::new(options.keys)),
        };
        // A draw tries until it finds one.
        if keys.slots.is_some() && !(0..keys.count).any(|number| keys.has(number)) {
            return Err("none of the keys is in these slots: give more keys or more slots".into());
        }
        Ok(keys)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Whether this number's key is one of the run's.
    pub(crate) fn has(&self, number: u64) -> bool {
        match &self.slots {
            None => true,
            Some(slots) => slots.contains(&self.slot(number)),
        }
    }

    pub(crate) fn slot(&self, number: u64) -> u16 {
        let mut text = Vec::with_capacity(self.size);
        self.put(number, &mut text);
        slot_of(&text).get()
    }

    /// The number of the next key.
    pub(crate) fn draw(&self, prng: &mut Prng) -> u64 {
        loop {
            let number = match &self.zipf {
                None => prng.below(self.count),
                Some(zipf) => zipf.draw(prng),
            };
            if self.has(number) {
                return number;
            }
        }
    }

    /// Writes the key: "key:" and digits.
    pub(crate) fn put(&self, number: u64, out: &mut Vec<u8>) {
        let digits = self.size - 4;
        write!(out, "key:{number:0digits$}").expect("memory takes all");
    }
}

/// Zipf's distribution by inversion of an approximation (Gray et al., "Quickly generating billion-record
/// synthetic databases", SIGMOD 1994, section 3.3). Ranks are scattered over the numbers, so that frequent
/// keys do not lie side by side.
struct Zipf {
    count: u64,
    zeta: f64,
    eta: f64,
    alpha: f64,
}

impl Zipf {
    fn new(count: u64) -> Self {
        let zeta = |n: u64| {
            (1..=n)
                .map(|rank| (rank as f64).powf(-ZIPF_EXPONENT))
                .sum::<f64>()
        };
        let whole = zeta(count);
        let two = zeta(2.min(count));
        Self {
            count,
            zeta: whole,
            eta: (1.0 - (2.0 / count as f64).powf(1.0 - ZIPF_EXPONENT)) / (1.0 - two / whole),
            alpha: 1.0 / (1.0 - ZIPF_EXPONENT),
        }
    }

    fn draw(&self, prng: &mut Prng) -> u64 {
        let uniform = (prng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let scaled = uniform * self.zeta;
        let rank = if scaled < 1.0 {
            0
        } else if scaled < 1.0 + 0.5f64.powf(ZIPF_EXPONENT) {
            1
        } else {
            (self.count as f64 * (self.eta * uniform - self.eta + 1.0).powf(self.alpha)) as u64
        };
        // A multiplication by an odd number scatters; the remainder keeps it in range.
        (rank.min(self.count - 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1) % self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u64, distribution: Distribution, slots: Option<RangeInclusive<u16>>) -> Keys {
        Keys {
            count,
            size: 16,
            slots,
            zipf: (distribution == Distribution::Zipf).then(|| Zipf::new(count)),
        }
    }

    #[test]
    fn a_zipf_draw_has_the_frequencies_it_should() {
        let keys = keys(1000, Distribution::Zipf, None);
        let mut prng = Prng::new(7);
        let mut counts = vec![0u64; 1000];
        for _ in 0..200_000 {
            counts[keys.draw(&mut prng) as usize] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let expected: f64 = (1..=1000)
            .map(|rank| f64::from(rank).powf(-ZIPF_EXPONENT))
            .sum();
        let first = counts[0] as f64 / 200_000.0 * expected;
        assert!(
            (0.9..1.1).contains(&first),
            "the first has {first} of its share"
        );
        let tenth = counts[9] as f64 / counts[0] as f64 * 10f64.powf(ZIPF_EXPONENT);
        assert!(
            (0.7..1.4).contains(&tenth),
            "the tenth has {tenth} of its share"
        );
    }

    #[test]
    fn keys_have_their_length_and_their_slots() {
        let keys = keys(5000, Distribution::Uniform, Some(100..=300));
        let mut prng = Prng::new(3);
        for _ in 0..1000 {
            let mut text = Vec::new();
            keys.put(keys.draw(&mut prng), &mut text);
            assert_eq!(text.len(), 16);
            assert!((100..=300).contains(&slot_of(&text).get()));
        }
    }
}
