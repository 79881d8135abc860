//! What was done when, so that the same is not done again at once.

use std::collections::BTreeMap;

/// By what was done: not before which tick again.
#[derive(Debug)]
pub(crate) struct Pace<K>(BTreeMap<K, u64>);

impl<K> Default for Pace<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Pace<K> {
    /// Whether this may be done now; if so, not again for so many ticks.
    pub(crate) fn is_due(&mut self, what: K, now_tick: u64, pause_ticks: u64) -> bool {
        let next = self.0.entry(what).or_insert(0);
        let due = *next <= now_tick;
        if due {
            *next = now_tick + pause_ticks;
        }
        due
    }

    /// Forgets all but what may have to be done again.
    pub(crate) fn retain(&mut self, may: impl Fn(&K) -> bool) {
        self.0.retain(|what, _| may(what));
    }
}
