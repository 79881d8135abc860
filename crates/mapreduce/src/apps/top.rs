//! The keys with the largest numbers.
//!
//! Each map keeps its own best and hands them over at its end, under one key, so that one reduce sees all of
//! them. A key that occurs in several records stands with its largest number.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::function::{Emit, Map, Record, Reduce, Setup, Values, number, split_pair};

/// No more than this: the best are held in memory.
const K_MAX: usize = 1_000_000;

/// The best so far, in the order of the output: the largest number first, then the lesser key.
struct Best {
    k: usize,
    ranked: BTreeSet<(Reverse<i128>, Vec<u8>)>,
    numbers: BTreeMap<Vec<u8>, i128>,
}

impl Best {
    fn new(setup: &Setup) -> Result<Self> {
        let k = setup
            .params
            .get("k")
            .map_or(Ok(10), |text| text.parse::<usize>());
        match k {
            Ok(k @ 1..=K_MAX) => Ok(Self {
                k,
                ranked: BTreeSet::new(),
                numbers: BTreeMap::new(),
            }),
            _ => Err(Error::new(format!("k is a number from 1 to {K_MAX}"))),
        }
    }

    fn add(&mut self, key: &[u8], amount: i128) {
        if self.ranked.len() >= self.k
            && let Some((Reverse(least), last)) = self.ranked.last()
            && (Reverse(amount), key) > (Reverse(*least), last.as_slice())
        {
            return;
        }
        if let Some(before) = self.numbers.get(key) {
            if *before >= amount {
                return;
            }
            self.ranked.remove(&(Reverse(*before), key.to_vec()));
        }
        self.numbers.insert(key.to_vec(), amount);
        self.ranked.insert((Reverse(amount), key.to_vec()));
        if self.ranked.len() > self.k
            && let Some((_, key)) = self.ranked.pop_last()
        {
            self.numbers.remove(&key);
        }
    }
}

pub(super) struct Candidates(Best);

pub(super) fn candidates(setup: &Setup) -> Result<Candidates> {
    Best::new(setup).map(Candidates)
}

impl Map for Candidates {
    fn map(&mut self, record: &Record<'_>, _: &mut Emit<'_>) -> Result<()> {
        self.0.add(record.key, number(record.value)?);
        Ok(())
    }

    fn finish(&mut self, out: &mut Emit<'_>) -> Result<()> {
        for (Reverse(amount), key) in &self.0.ranked {
            let mut value = amount.to_string().into_bytes();
            value.push(b'\t');
            value.extend_from_slice(key);
            out.pair(&[], &value)?;
        }
        Ok(())
    }
}

pub(super) struct Top(Best);

pub(super) fn top(setup: &Setup) -> Result<Top> {
    Best::new(setup).map(Top)
}

impl Reduce for Top {
    fn reduce(&mut self, _: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        while let Some(value) = values.next()? {
            let (amount, key) = split_pair(value);
            self.0.add(key, number(amount)?);
        }
        for (Reverse(amount), key) in &self.0.ranked {
            out.pair(key, amount.to_string().as_bytes())?;
        }
        Ok(())
    }
}
