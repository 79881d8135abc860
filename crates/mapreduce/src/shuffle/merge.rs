//! Merging sorted segments into one stream of keys with their values.
//!
//! A binary heap of segments, by (key, rank). The first eight bytes of each key stand beside its rank as a
//! number, so that most comparisons touch no block. Values are lent out of the block they were read with:
//! a key may have any number of them.

use std::cmp::Ordering;

use crate::coordinator::AttemptId;
use crate::error::{Error, Result};
use crate::function::ValueSource;
use crate::shuffle::run::SegmentReader;

/// The first eight bytes of a key as a number of the same order; equal numbers decide nothing.
pub(crate) fn prefix_of(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    if let Some(first) = key.first_chunk::<8>() {
        bytes = *first;
    } else {
        bytes[..key.len()].copy_from_slice(key);
    }
    u64::from_be_bytes(bytes)
}

/// One segment of a merge.
pub(crate) struct Source {
    pub(crate) reader: SegmentReader,
    /// Whose output it is, for the error; a task's own spill has none.
    pub(crate) owner: Option<AttemptId>,
}

impl Source {
    fn advance(&mut self) -> Result<bool> {
        self.reader.advance().map_err(|reason| match self.owner {
            Some(input) => Error::InputLost {
                input,
                reason,
                unreachable: false,
            },
            None => Error::new(format!("a spill file cannot be read: {reason}")),
        })
    }
}

/// Where a merge stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// The pair at the top of the heap was not looked at.
    Unseen,
    /// It is the first one of `key` and its value was not given out.
    KeyFound,
    /// Its value was given out.
    Given,
}

/// A merge at some pair.
///
/// Invariant: `heap` holds the place of every segment that has a pair, with that pair's prefix, and is a heap
/// by (key, place).
pub(crate) struct Merge {
    sources: Vec<Source>,
    heap: Vec<(u64, u32)>,
    key: Vec<u8>,
    at: At,
}

impl Merge {
    /// Starts at the first pair of each segment. Equal keys come in the order of the segments.
    pub(crate) fn new(sources: Vec<Source>) -> Result<Self> {
        let mut this = Self {
            sources,
            heap: Vec::new(),
            key: Vec::new(),
            at: At::Unseen,
        };
        for place in 0..this.sources.len() {
            if this.sources[place].advance()? {
                let prefix = prefix_of(this.sources[place].reader.key());
                this.heap.push((prefix, place as u32));
            }
        }
        for at in (0..this.heap.len() / 2).rev() {
            this.sift_down(at);
        }
        Ok(this)
    }

    /// Goes to the next key, over what is left of the present one's values.
    pub(crate) fn next_key(&mut self) -> Result<bool> {
        while self.at != At::Unseen {
            self.next_value()?;
        }
        let Some((_, place)) = self.heap.first() else {
            return Ok(false);
        };
        self.key.clear();
        self.key
            .extend_from_slice(self.sources[*place as usize].reader.key());
        self.at = At::KeyFound;
        Ok(true)
    }

    /// The key that [`Merge::next_key`] went to.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Takes the next pair out of the heap's top and puts its segment where it belongs now.
    fn advance_top(&mut self) -> Result<()> {
        let place = self.heap[0].1;
        let source = &mut self.sources[place as usize];
        if source.advance()? {
            self.heap[0].0 = prefix_of(source.reader.key());
        } else {
            self.heap.swap_remove(0);
        }
        self.sift_down(0);
        Ok(())
    }

    fn before(&self, a: (u64, u32), b: (u64, u32)) -> bool {
        let keys = || {
            let key = |place: u32| self.sources[place as usize].reader.key();
            key(a.1).cmp(key(b.1))
        };
        match a.0.cmp(&b.0).then_with(keys) {
            Ordering::Less => true,
            Ordering::Equal => a.1 < b.1,
            Ordering::Greater => false,
        }
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let mut child = 2 * at + 1;
            if child >= self.heap.len() {
                return;
            }
            let right = child + 1;
            if right < self.heap.len() && self.before(self.heap[right], self.heap[child]) {
                child = right;
            }
            if !self.before(self.heap[child], self.heap[at]) {
                return;
            }
            self.heap.swap(at, child);
            at = child;
        }
    }
}

impl ValueSource for Merge {
    fn next_value(&mut self) -> Result<Option<&[u8]>> {
        match self.at {
            At::Unseen => return Ok(None),
            At::KeyFound => {}
            At::Given => {
                self.advance_top()?;
                let same = self.heap.first().is_some_and(|(_, place)| {
                    self.sources[*place as usize].reader.key() == self.key
                });
                if !same {
                    self.at = At::Unseen;
                    return Ok(None);
                }
            }
        }
        self.at = At::Given;
        let place = self.heap[0].1 as usize;
        Ok(Some(self.sources[place].reader.value()))
    }
}
