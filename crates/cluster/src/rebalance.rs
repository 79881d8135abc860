//! Who should have which slot: as even as can be, with the fewest slots moved.
//!
//! With `n` slots and `k` shards an even plan gives `n % k` shards one slot more than `n / k`. A slot
//! has to move if its shard is gone, or has more than its share; what shard `i` keeps is at most
//! the smaller of what it has and its share. So fewest slots move if the larger shares go to
//! the shards that have the most, and that is all the freedom which counts for the number. Whatever
//! is chosen after that moves equally many slots.
//!
//! The rest of the freedom goes into long runs, since every client holds the map by its runs, and a
//! plan that cuts a little each time ends as sand. Best would be to search all plans; that is beyond
//! reach for many shards, so these rules stand in for it, each of which adds no run or as few as it can:
//!
//! 1. a shard gives away whole runs before it cuts one, first those that touch slots on the move;
//! 2. it cuts at most one run, at an end, there where the piece joins others on the move;
//! 3. a piece goes to the shard it touches, if that is to have more slots;
//! 4. else to one that needs exactly so many, else the pieces are laid out in order.
//!
//! The same slots and shards give the same plan on every machine: everything is decided by counts,
//! places and ids.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::GroupId;

/// Nobody: a slot on the move.
const FREE: usize = usize::MAX;

/// The plan for these slots, given who has them now and which shards there are. A slot whose shard is
/// not among them counts as nobody's; without shards all slots are nobody's.
#[must_use]
pub fn rebalance(slots: &[Option<GroupId>], shards: &BTreeSet<GroupId>) -> Vec<Option<GroupId>> {
    if shards.is_empty() {
        return vec![None; slots.len()];
    }
    let ids: Vec<GroupId> = shards.iter().copied().collect();
    let mut balance = Balance::new(slots, &ids);
    balance.give();
    balance.take();
    balance
        .owners
        .iter()
        .map(|owner| ids.get(*owner).copied())
        .collect()
}

/// How many slots each shard should have, given how many each has of so many: no two differ by more
/// than one, and as much as possible stays.
#[must_use]
pub fn shares(counts: &[u32], slot_count: u32) -> Vec<u32> {
    let Some(shards) = u32::try_from(counts.len())
        .ok()
        .filter(|shards| *shards > 0)
    else {
        return Vec::new();
    };
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|shard| (std::cmp::Reverse(counts[*shard]), *shard));
    let mut shares = vec![slot_count / shards; counts.len()];
    for shard in &order[..(slot_count % shards) as usize] {
        shares[*shard] += 1;
    }
    shares
}

/// A plan in the making.
struct Balance {
    /// The place of each slot's shard among the ids, or [`FREE`].
    owners: Vec<usize>,
    /// How many slots each shard has.
    counts: Vec<u32>,
    /// How many it should have.
    shares: Vec<u32>,
}

impl Balance {
    fn new(slots: &[Option<GroupId>], ids: &[GroupId]) -> Self {
        let mut owners = Vec::with_capacity(slots.len());
        let mut counts = vec![0; ids.len()];
        let mut last = (None, FREE);
        for slot in slots {
            if *slot != last.0 {
                let place = slot.and_then(|group| ids.binary_search(&group).ok());
                last = (*slot, place.unwrap_or(FREE));
            }
            owners.push(last.1);
            if let Some(count) = counts.get_mut(last.1) {
                *count += 1;
            }
        }
        let shares = shares(&counts, slots.len() as u32);
        Self {
            owners,
            counts,
            shares,
        }
    }

    fn surplus(&self, shard: usize) -> u32 {
        self.counts[shard].saturating_sub(self.shares[shard])
    }

    fn need(&self, shard: usize) -> u32 {
        self.shares[shard].saturating_sub(self.counts[shard])
    }

    /// The runs of each shard, in order.
    fn runs(&self) -> Vec<Vec<(usize, usize)>> {
        let mut runs = vec![Vec::new(); self.counts.len()];
        for (first, last, owner) in runs_of(&self.owners) {
            if owner != FREE {
                runs[owner].push((first, last));
            }
        }
        runs
    }

    /// Takes from every shard what it has above its share.
    fn give(&mut self) {
        for (shard, mut runs) in self.runs().into_iter().enumerate() {
            if self.surplus(shard) == 0 {
                continue;
            }
            runs.sort_by_key(|(first, last)| {
                let touches =
                    u32::from(self.pull_left(*first) == 2) + u32::from(self.pull_right(*last) == 2);
                (std::cmp::Reverse((touches, last - first)), *first)
            });
            runs.retain(|(first, last)| {
                let len = (last - first + 1) as u32;
                let whole = len <= self.surplus(shard);
                if whole {
                    self.free(shard, *first, *last);
                }
                !whole
            });
            self.cut(shard, &runs);
        }
    }

    /// Takes what is left of a surplus from the end of one of the runs, all of which are longer.
    fn cut(&mut self, shard: usize, runs: &[(usize, usize)]) {
        let surplus = self.surplus(shard) as usize;
        if surplus == 0 {
            return;
        }
        let ends = runs.iter().flat_map(|(first, last)| {
            let len = last - first + 1;
            let left = (self.pull_left(*first), len, 0, *first, first + surplus - 1);
            let right = (self.pull_right(*last), len, 1, last + 1 - surplus, *last);
            [left, right]
        });
        // Of equals the last is taken; those of earlier runs are preferred, so they come last.
        let (.., first, last) = ends
            .rev()
            .max_by_key(|end| (end.0, end.1, end.2))
            .expect("a shard with a surplus has a run that is longer than what is left of it");
        self.free(shard, first, last);
    }

    fn free(&mut self, shard: usize, first: usize, last: usize) {
        self.owners[first..=last].fill(FREE);
        self.counts[shard] -= (last - first + 1) as u32;
    }

    /// How good it is to free slots beside this one: 2 if they join slots on the move or those of a
    /// shard that needs some, 1 if such may be there later, else 0.
    fn pull(&self, neighbour: Option<&usize>) -> u32 {
        match neighbour {
            None => 0,
            Some(&FREE) => 2,
            Some(shard) if self.need(*shard) > 0 => 2,
            Some(shard) if self.surplus(*shard) > 0 => 1,
            Some(_) => 0,
        }
    }

    fn pull_left(&self, first: usize) -> u32 {
        self.pull(first.checked_sub(1).and_then(|left| self.owners.get(left)))
    }

    fn pull_right(&self, last: usize) -> u32 {
        self.pull(self.owners.get(last + 1))
    }

    /// Gives every slot on the move to a shard that needs some.
    fn take(&mut self) {
        for (first, last) in self.free_runs() {
            self.take_beside(first, last);
        }
        self.take_exact();
        let mut needy = (0..self.counts.len()).filter(|shard| self.shares[*shard] > 0);
        let mut shard = needy.next();
        for (mut first, last) in self.free_runs() {
            while first <= last {
                let taker = shard.expect("the shares add up to all slots");
                let len = (self.need(taker) as usize).min(last - first + 1);
                if len == 0 {
                    shard = (taker + 1..self.counts.len()).find(|next| self.need(*next) > 0);
                    continue;
                }
                self.grant(taker, first, len);
                first += len;
            }
        }
    }

    /// Lets the shards on both sides of a free run take of it what they need.
    fn take_beside(&mut self, mut first: usize, last: usize) {
        let left = first.checked_sub(1).map_or(FREE, |left| self.owners[left]);
        if left != FREE {
            let len = (self.need(left) as usize).min(last - first + 1);
            self.grant(left, first, len);
            first += len;
        }
        let right = self.owners.get(last + 1).copied().unwrap_or(FREE);
        if right != FREE && first <= last {
            let len = (self.need(right) as usize).min(last - first + 1);
            self.grant(right, last + 1 - len, len);
        }
    }

    /// Gives free runs to shards that need exactly so many slots.
    fn take_exact(&mut self) {
        let mut by_need: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for shard in 0..self.counts.len() {
            by_need
                .entry(self.need(shard) as usize)
                .or_default()
                .insert(shard);
        }
        for (first, last) in self.free_runs() {
            let len = last - first + 1;
            if let Some(shard) = by_need.get_mut(&len).and_then(BTreeSet::pop_first) {
                self.grant(shard, first, len);
            }
        }
    }

    fn grant(&mut self, shard: usize, first: usize, len: usize) {
        self.owners[first..first + len].fill(shard);
        self.counts[shard] += len as u32;
    }

    fn free_runs(&self) -> Vec<(usize, usize)> {
        runs_of(&self.owners)
            .filter(|(.., owner)| *owner == FREE)
            .map(|(first, last, _)| (first, last))
            .collect()
    }
}

fn runs_of(owners: &[usize]) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let owner = *owners.get(first)?;
        let len = owners[first..]
            .iter()
            .take_while(|next| **next == owner)
            .count();
        first += len;
        Some((first - len, first - 1, owner))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(slots: &str, shards: &str) -> String {
        let slots: Vec<Option<GroupId>> = slots
            .bytes()
            .map(|shard| (shard != b'.').then_some(GroupId(u64::from(shard))))
            .collect();
        let shards = shards
            .bytes()
            .map(|shard| GroupId(u64::from(shard)))
            .collect();
        rebalance(&slots, &shards)
            .iter()
            .map(|shard| shard.map_or('.', |shard| shard.get() as u8 as char))
            .collect()
    }

    #[test]
    fn long_runs() {
        assert_eq!(plan("..........", "abc"), "aaaabbbccc");
        assert_eq!(plan("aaaabbbccc", "abcd"), "aaadbbbccd");
        assert_eq!(plan("aaaaaaaabbbbbbbb", "abcd"), "aaaaccccddddbbbb");
        assert_eq!(plan("aaaabbbbcccc", "ac"), "aaaaaacccccc");
        assert_eq!(plan("aaaabbbbcccc", "ab"), "aaaabbbbbbaa");
        assert_eq!(plan("abababababab", "ac"), "acacacacacac");
        assert_eq!(plan("aabb", ""), "....");
    }

    #[test]
    fn shares_follow_the_counts() {
        assert_eq!(shares(&[0, 5, 5], 10), [3, 4, 3]);
        assert_eq!(shares(&[1, 0, 1, 0], 2), [1, 0, 1, 0]);
        assert_eq!(shares(&[], 10), [0_u32; 0]);
    }
}
