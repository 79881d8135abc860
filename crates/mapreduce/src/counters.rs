//! Counters: what a job counted, by name.
//!
//! A counter is a sum over the committed attempts, one for each task. What an attempt counted that was
//! lost, replaced or too late is in none, so the totals are the same whatever died on the way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Sums by name, in the order of their names. Adding saturates.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counters(BTreeMap<String, i64>);

impl Counters {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds to the counter of this name, which begins at zero.
    pub fn add(&mut self, name: &str, amount: i64) {
        if let Some(sum) = self.0.get_mut(name) {
            *sum = sum.saturating_add(amount);
        } else {
            self.0.insert(name.to_owned(), amount);
        }
    }

    /// The counter's sum; zero if nothing was ever added.
    #[must_use]
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds all of another's counters.
    pub fn merge(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            self.add(name, *amount);
        }
    }

    /// Names and sums, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, sum)| (name.as_str(), *sum))
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
