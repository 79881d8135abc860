//! What differs between two states of one directory, without anybody having noted it.
//!
//! Buckets and nodes are copied on write, so what was not written since is the same memory in both
//! states. Two walks go through them side by side:
//!
//! ```text
//! old  [ a ][ b       ][ c ][ node            ]
//! new  [ a ][ b1 ][ b2 ][ c ][ node, copied    ] ── its children, one level down
//!       same  merged     same  only what differs inside it
//! ```
//!
//! 1. Both stand at the same position: what is the same memory is passed unseen, a node with all that
//!    is below it; what differs is opened on both sides, but a bucket waits for a node to come down to it.
//! 2. Otherwise whichever is behind opens its next bucket, and the items are merged one by one. However
//!    the cuts of the two differ (a split, a join), behind the wider bucket they are in step again.
//!
//! So the work is that of the buckets that were written, whatever the size of the rest. It relies on
//! both states being held: memory that is held is neither changed in place nor given to another.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Bucket, Child, Directory, Item, NODE_BITS, children_of};
use crate::position::Position;

/// Behind the last position.
const END: u128 = 1 << u64::BITS;

/// What lies from one position to another, both included, as it was at one moment; and little beside
/// it, so that writes elsewhere copy nothing for it.
#[derive(Clone, Debug)]
pub(crate) struct Span<T> {
    /// What the node that the range parts in has there, in order.
    pub(super) children: Vec<Child<T>>,
    /// The first position of the first child, and how many bits the node's children leave open.
    low: u64,
    shift: u32,
    first: Position,
    last: Position,
}

/// Where a difference was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// The last old item is gone.
    Old,
    /// The last new item is new, or is not as it was.
    New,
}

/// The differences between two spans of the same range, in order.
#[derive(Debug)]
pub(crate) struct Difference<T> {
    old: Passage<T>,
    new: Passage<T>,
    /// Items looked at so far.
    looked_at: u64,
}

/// One of the two walks.
///
/// Invariant: all before `low` is passed or in `bucket`; the first child of the last level that has
/// one begins at `low`.
#[derive(Debug)]
struct Passage<T> {
    levels: Vec<(u32, std::vec::IntoIter<Child<T>>)>,
    low: u128,
    first: Position,
    last: Position,
    bucket: Option<Arc<Bucket<T>>>,
    /// Of the bucket's items: the next one, and the one behind those of the range.
    next: usize,
    until: usize,
}

/// What a difference needs to know of the values.
pub(crate) trait Compared: Clone {
    /// The order of two values at one position; equal ones are two states of the same thing.
    fn order(&self, other: &Self) -> Ordering;
    /// Whether two states of the same thing differ in nothing.
    fn is_same(&self, other: &Self) -> bool;
}

impl<T: Clone> Directory<T> {
    /// What lies from one position to another, as it is now. O(1) in the number of items.
    pub(crate) fn span(&self, first: Position, last: Position) -> Span<T> {
        let mut node = &*self.root;
        let mut shift = u64::BITS - NODE_BITS;
        loop {
            let from = node.child_at(first, shift);
            // Where the ends part, everything between them is taken as it is.
            if let Child::Node(next) = &node.children[from]
                && first.0 >> shift == last.0 >> shift
            {
                node = next;
                shift -= NODE_BITS;
                continue;
            }
            let to = node.child_at(last, shift);
            let below = u64::MAX >> (u64::BITS - NODE_BITS - shift);
            return Span {
                children: node.children[from..=to].to_vec(),
                low: first.0 & !below | (node.run(from).start as u64) << shift,
                shift,
                first,
                last,
            };
        }
    }
}

impl<T: Compared> Difference<T> {
    /// What became of the old one; what is only in the new one is kept by whoever has it. Both are of
    /// the same range. Without an old one everything is new.
    pub(crate) fn between(old: Option<Span<T>>, new: &Span<T>) -> Self {
        if let Some(old) = &old {
            assert_eq!((old.first, old.last), (new.first, new.last), "the range");
        }
        let nothing = Span {
            children: Vec::new(),
            ..*new
        };
        Self {
            old: Passage::new(old.unwrap_or(nothing)),
            new: Passage::new(new.clone()),
            looked_at: 0,
        }
    }

    /// Goes on to the next difference.
    pub(crate) fn advance(&mut self) -> Option<Side> {
        loop {
            let order = match (self.old.head(), self.new.head()) {
                (Some(old), Some(new)) => {
                    (old.position.cmp(&new.position)).then_with(|| old.value.order(&new.value))
                }
                (Some(old), None) if u128::from(old.position.0) < self.new.low => Ordering::Less,
                (Some(_), None) => {
                    self.new.open();
                    continue;
                }
                (None, Some(new)) if u128::from(new.position.0) < self.old.low => Ordering::Greater,
                (None, Some(_)) => {
                    self.old.open();
                    continue;
                }
                (None, None) => {
                    if !self.go_on() {
                        return None;
                    }
                    continue;
                }
            };
            self.looked_at += 1;
            self.old.next += usize::from(order.is_le());
            self.new.next += usize::from(order.is_ge());
            match order {
                Ordering::Less => return Some(Side::Old),
                Ordering::Greater => return Some(Side::New),
                Ordering::Equal => {}
            }
            let (old, new) = (self.old.passed(), self.new.passed());
            if old
                .zip(new)
                .is_some_and(|(old, new)| !old.value.is_same(&new.value))
            {
                return Some(Side::New);
            }
        }
    }

    /// The item that the last difference is about.
    ///
    /// # Panics
    /// If there was none.
    pub(crate) fn item(&self, side: Side) -> &Item<T> {
        let passage = match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        };
        let Some(item) = passage.passed() else {
            panic!("no item was passed: {side:?}");
        };
        item
    }

    /// How many items were looked at so far.
    pub(crate) fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// Both are through with their buckets: passes what they share, or opens what they do not. False at
    /// the end.
    fn go_on(&mut self) -> bool {
        self.old.settle();
        self.new.settle();
        match self.old.low.cmp(&self.new.low) {
            Ordering::Less => self.old.open(),
            Ordering::Greater => self.new.open(),
            Ordering::Equal if self.new.low == END => return false,
            Ordering::Equal => self.open_in_step(),
        }
        true
    }

    fn open_in_step(&mut self) {
        let (Some((_, old)), Some((_, new))) = (self.old.first_child(), self.new.first_child())
        else {
            unreachable!("neither is at the end");
        };
        let (open_old, open_new) = match (old, new) {
            (Child::Node(old), Child::Node(new)) => {
                let is_shared = Arc::ptr_eq(old, new);
                (!is_shared, !is_shared)
            }
            (Child::Node(_), Child::Bucket { .. }) => (true, false),
            (Child::Bucket { .. }, Child::Node(_)) => (false, true),
            (
                Child::Bucket { depth, bucket: old },
                Child::Bucket {
                    depth: new_depth,
                    bucket: new,
                },
            ) => {
                let is_shared = depth == new_depth && Arc::ptr_eq(old, new);
                (!is_shared, !is_shared)
            }
        };
        if !open_old && !open_new {
            self.old.skip();
            self.new.skip();
        }
        if open_old {
            self.old.open();
        }
        if open_new {
            self.new.open();
        }
    }
}

impl<T: Clone> Passage<T> {
    fn new(span: Span<T>) -> Self {
        let Span {
            children,
            low,
            shift,
            first,
            last,
        } = span;
        let low = if children.is_empty() { END } else { low.into() };
        Self {
            levels: vec![(shift, children.into_iter())],
            low,
            first,
            last,
            bucket: None,
            next: 0,
            until: 0,
        }
    }

    fn head(&self) -> Option<&Item<T>> {
        let bucket = self.bucket.as_ref()?;
        bucket.items[..self.until].get(self.next)
    }

    fn passed(&self) -> Option<&Item<T>> {
        let place = self.next.checked_sub(1)?;
        self.bucket.as_ref()?.items.get(place)
    }

    /// The next child, and the shift of the node that it is in.
    fn first_child(&self) -> Option<(u32, &Child<T>)> {
        let (shift, children) = self.levels.last()?;
        Some((*shift, children.as_slice().first()?))
    }

    /// Lets go of levels that are done and of what lies before the range; behind it is the end.
    fn settle(&mut self) {
        loop {
            if self.low > u128::from(self.last.0) {
                self.levels.clear();
                self.low = END;
                return;
            }
            match self.first_child() {
                Some((shift, child))
                    if self.low + width(shift, child) <= u128::from(self.first.0) =>
                {
                    self.skip();
                }
                Some(_) => return,
                None => drop(self.levels.pop()),
            }
        }
    }

    fn skip(&mut self) {
        let Some((shift, children)) = self.levels.last_mut() else {
            return;
        };
        if let Some(child) = children.next() {
            self.low += width(*shift, &child);
        }
    }

    /// Opens the next child: a node to its children, a bucket to its items.
    fn open(&mut self) {
        self.settle();
        let Some((shift, children)) = self.levels.last_mut() else {
            return;
        };
        let shift = *shift;
        match children.next() {
            None => {}
            Some(Child::Node(node)) => {
                self.levels.push((shift - NODE_BITS, children_of(node)));
            }
            Some(Child::Bucket { depth, bucket }) => {
                self.low += bucket_width(depth);
                let items = bucket.items();
                self.next = items.partition_point(|item| item.position < self.first);
                self.until = items.partition_point(|item| item.position <= self.last);
                self.bucket = Some(bucket);
            }
        }
    }
}

fn bucket_width(depth: u8) -> u128 {
    END >> depth
}

/// How many positions a child of a node covers.
fn width<T>(shift: u32, child: &Child<T>) -> u128 {
    match child {
        Child::Node(_) => 1 << shift,
        Child::Bucket { depth, .. } => bucket_width(*depth),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kvorum_base::Prng;

    use super::*;
    use crate::limits::BUCKET_ITEMS_MAX;

    /// Something with a name and a state.
    type Named = (u64, u64);

    impl Compared for Named {
        fn order(&self, other: &Self) -> Ordering {
            self.0.cmp(&other.0)
        }

        fn is_same(&self, other: &Self) -> bool {
            self.1 == other.1
        }
    }

    /// By position and name: the state.
    type Twin = BTreeMap<(u64, u64), u64>;

    fn draw(prng: &mut Prng) -> u64 {
        match prng.below(3) {
            0 => prng.next_u64(),
            1 => 0x1234_5678_0000_0000 | prng.below(1 << 20),
            _ => 0x8000_0000_0000_0000 | prng.below(4) << 40,
        }
    }

    fn write(directory: &mut Directory<Named>, twin: &mut Twin, prng: &mut Prng, growing: bool) {
        let (position, name) = if twin.is_empty() || (growing && prng.chance(2, 3)) {
            (draw(prng), prng.below(300))
        } else {
            let from = (draw(prng), 0);
            let (found, _) = (twin.range(from..).next())
                .or(twin.first_key_value())
                .expect("not empty");
            *found
        };
        let order = |other: &Named| other.0.cmp(&name);
        let (at, state) = (Position(position), prng.next_u64());
        if !growing && prng.chance(2, 3) {
            let removed = directory.remove(at, order).map(|(_, state)| state);
            assert_eq!(removed, twin.remove(&(position, name)));
        } else if let Some(held) = directory.find_mut(at, order) {
            held.1 = state;
            twin.insert((position, name), state);
        } else {
            assert!(directory.insert(at, (name, state), order));
            twin.insert((position, name), state);
        }
    }

    /// What differs, as the twins say it: gone or not, position, name, state.
    fn expected(old: &Twin, new: &Twin, range: (u64, u64)) -> Vec<(Side, u64, Named)> {
        let mut all: Vec<_> = (old.keys().chain(new.keys()).copied())
            .filter(|(position, _)| (range.0..=range.1).contains(position))
            .collect();
        all.sort_unstable();
        all.dedup();
        (all.into_iter())
            .filter(|one| old.get(one) != new.get(one))
            .map(|one| match new.get(&one) {
                Some(state) => (Side::New, one.0, (one.1, *state)),
                None => (Side::Old, one.0, (one.1, old[&one])),
            })
            .collect()
    }

    fn found(mut difference: Difference<Named>) -> Vec<(Side, u64, Named)> {
        std::iter::from_fn(|| {
            let side = difference.advance()?;
            let item = difference.item(side);
            Some((side, item.position.0, item.value))
        })
        .collect()
    }

    #[test]
    fn it_finds_what_two_twins_differ_in() {
        for seed in 0..60 {
            let mut prng = Prng::new(seed);
            let (mut directory, mut twin) = (Directory::<Named>::default(), Twin::new());
            let ranges: Vec<(u64, u64)> = (0..4)
                .map(|number| {
                    let one = draw(&mut prng);
                    let other = [one, one | 0xffff_ffff, draw(&mut prng)][prng.below(3) as usize];
                    match number {
                        0 => (0, u64::MAX),
                        _ => (one.min(other), one.max(other)),
                    }
                })
                .collect();
            let mut olds: Vec<Option<(Span<Named>, Twin)>> = vec![None; ranges.len()];
            for round in 0..12 {
                let growing = prng.chance(3, 5);
                let writes = [0, 1, 10, 300, 6000][prng.index(5)];
                for _ in 0..writes {
                    write(&mut directory, &mut twin, &mut prng, growing);
                }
                if prng.chance(1, 20) {
                    drop(directory.take());
                    twin.clear();
                }
                for (range, old) in ranges.iter().zip(&mut olds) {
                    if prng.chance(1, 4) {
                        continue;
                    }
                    let span = directory.span(Position(range.0), Position(range.1));
                    let (before, twin_before) = old.take().unzip();
                    let wanted = expected(&twin_before.unwrap_or_default(), &twin, *range);
                    let difference = Difference::between(before, &span);
                    assert_eq!(found(difference), wanted, "round {round} of seed {seed}");
                    *old = prng.chance(9, 10).then(|| (span, twin.clone()));
                }
                directory.check();
            }
        }
    }

    /// Sets up many items everywhere.
    fn filled() -> (Directory<Named>, Twin) {
        let mut prng = Prng::new(1);
        let (mut directory, mut twin) = (Directory::<Named>::default(), Twin::new());
        for _ in 0..100_000 {
            write(&mut directory, &mut twin, &mut prng, true);
        }
        (directory, twin)
    }

    fn whole(directory: &Directory<Named>) -> Span<Named> {
        directory.span(Position(0), Position(u64::MAX))
    }

    #[test]
    fn what_is_shared_is_not_looked_at() {
        let mut prng = Prng::new(2);
        let (mut directory, twin) = filled();
        let mut old = whole(&directory);
        for writes in [0, 1, 20, 500] {
            let copied = directory.copies();
            for _ in 0..writes {
                let (position, name) = *twin.keys().nth(prng.index(twin.len())).expect("one");
                let order = |other: &Named| other.0.cmp(&name);
                let held = directory.find_mut(Position(position), order);
                held.expect("it is there").1 += 1;
            }
            let new = whole(&directory);
            let mut difference = Difference::between(Some(old), &new);
            let changes = std::iter::from_fn(|| difference.advance()).count() as u64;
            let copied = directory.copies() - copied;
            assert!(changes <= writes && changes * 2 >= writes);
            assert!(
                difference.looked_at() <= copied * BUCKET_ITEMS_MAX as u64,
                "{} items for {copied} buckets",
                difference.looked_at()
            );
            old = new;
        }
    }

    /// Splits, levels that are put in, and joins: behind them both are in step again.
    #[test]
    fn other_cuts_are_looked_at_where_they_are() {
        let (mut directory, _) = filled();
        let before = whole(&directory);
        let copied = directory.copies();
        let crowd: Vec<u64> = (0..5000)
            .map(|number| 0x4444_0000_0000_0000 | number)
            .collect();
        for &position in &crowd {
            assert!(directory.insert(Position(position), (1000, 0), |_| Ordering::Less));
        }
        let grown = whole(&directory);
        let most = |copied| crowd.len() as u64 + copied * 2 * BUCKET_ITEMS_MAX as u64;
        let mut difference = Difference::between(Some(before.clone()), &grown);
        let mut sides = std::iter::from_fn(|| difference.advance());
        assert!(
            sides
                .by_ref()
                .take(crowd.len())
                .all(|side| side == Side::New)
        );
        assert_eq!(sides.next(), None);
        let copied = directory.copies() - copied;
        assert!(copied < 10, "{copied} buckets were copied");
        assert!(difference.looked_at() <= most(copied));

        let copied = directory.copies();
        for &position in &crowd {
            let removed = directory.remove(Position(position), |other| other.0.cmp(&1000));
            assert!(removed.is_some());
        }
        let copied = directory.copies() - copied;
        let shrunk = whole(&directory);
        let mut difference = Difference::between(Some(grown), &shrunk);
        let gone = std::iter::from_fn(|| difference.advance());
        assert!(gone.eq(crowd.iter().map(|_| Side::Old)));
        assert!(difference.looked_at() <= most(copied));

        let mut difference = Difference::between(Some(before), &shrunk);
        assert_eq!(difference.advance(), None);
        assert!(
            difference.looked_at() <= most(10),
            "and not all is looked at"
        );
    }
}
