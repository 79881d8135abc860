//! The order of everything: buckets of at most 256 items behind one trie over positions.
//!
//! ```text
//! root (bits 0..8) ── bucket, depth 5: 8 of the root's 256 places
//!                  └─ node (bits 8..16) ── bucket, depth 13
//!                                       └─ node (bits 16..24) ── ...
//! ```
//!
//! A bucket that grows over its limit is split by the next bit of the position (extendible hashing,
//! Fagin et al. 1979), except that the directory is a trie of 256-way nodes and not one flat table:
//! a million keys under one hash tag share 14 bits, and a flat table would double for each of them.
//! So a bucket may cover many small slots, and a big slot has many buckets.
//!
//! Nodes and buckets are counted and copied on write. A consistent view of everything is one more
//! count on the root; the first write under it copies the nodes on its path and one bucket, never
//! more. That is why the unit is small: a map per slot would copy a million keys at once where they
//! share a tag.
//!
//! Items of a bucket are sorted by position, and by the caller's order where two hashes collide, so
//! that neither the history of splits nor a reload changes the order in which anything comes out. A
//! lookup guesses its place by interpolation (hashes are uniform) and steps from there.
//!
//! What it does not do: it knows nothing of keys, time or sessions; and it does not shrink eagerly.

mod difference;

use std::cmp::Ordering;
use std::sync::Arc;

pub(crate) use difference::{Compared, Difference, Side, Span};

use crate::limits::{BUCKET_ITEMS_JOIN, BUCKET_ITEMS_MAX};
use crate::position::Position;

/// How many bits of a position one node decides.
const NODE_BITS: u32 = 8;
const NODE_PLACES: usize = 1 << NODE_BITS;

/// How far a lookup steps from its guess before it turns to bisection.
const STEPS_MAX: usize = 16;

/// Something at a position.
#[derive(Clone, Debug)]
pub(crate) struct Item<T> {
    pub(crate) position: Position,
    pub(crate) value: T,
}

/// Where an item lies, if it is there.
#[derive(Debug)]
pub(crate) struct Guess<'a, T> {
    bucket: &'a Bucket<T>,
    depth: u8,
    at: Position,
}

/// At most [`BUCKET_ITEMS_MAX`] items (more only if they all share one position), sorted.
#[derive(Clone, Debug)]
pub(crate) struct Bucket<T> {
    items: Vec<Item<T>>,
}

/// Invariant: `depth` is how many leading bits all positions of the bucket's range share.
#[derive(Clone, Debug)]
enum Child<T> {
    Bucket { depth: u8, bucket: Arc<Bucket<T>> },
    Node(Arc<Node<T>>),
}

/// Invariants: `index` leads from the next eight bits of a position to a child; the places of one
/// child are one aligned run of a power of two; children stand in the order of their runs.
#[derive(Clone, Debug)]
struct Node<T> {
    index: [u8; NODE_PLACES],
    children: Vec<Child<T>>,
}

/// The trie.
#[derive(Debug)]
pub(crate) struct Directory<T> {
    root: Arc<Node<T>>,
    len: u64,
    /// How many buckets were copied because a view held them.
    copies: u64,
}

impl<T: Clone> Default for Directory<T> {
    fn default() -> Self {
        let bucket = Arc::new(Bucket { items: Vec::new() });
        Self {
            root: Arc::new(Node {
                index: [0; NODE_PLACES],
                children: vec![Child::Bucket { depth: 0, bucket }],
            }),
            len: 0,
            copies: 0,
        }
    }
}

impl<T: Clone> Directory<T> {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn copies(&self) -> u64 {
        self.copies
    }

    /// The item at a position that the order calls equal. `order` compares an item with the one
    /// looked for.
    pub(crate) fn find(&self, at: Position, order: impl Fn(&T) -> Ordering) -> Option<&T> {
        let (bucket, depth) = self.bucket(at);
        let place = bucket.search(depth, at, order).ok()?;
        Some(&bucket.items[place].value)
    }

    /// The same, to change it. Whoever may end up not changing it asks [`Self::find`] first: this
    /// copies what a view holds.
    pub(crate) fn find_mut(
        &mut self,
        at: Position,
        order: impl Fn(&T) -> Ordering,
    ) -> Option<&mut T> {
        let mut node = Arc::make_mut(&mut self.root);
        let mut shift = u64::BITS - NODE_BITS;
        loop {
            let child = node.child_at(at, shift);
            match &mut node.children[child] {
                Child::Node(next) => node = Arc::make_mut(next),
                Child::Bucket { depth, bucket } => {
                    let bucket = own(bucket, &mut self.copies);
                    let place = bucket.search(*depth, at, order).ok()?;
                    return Some(&mut bucket.items[place].value);
                }
            }
            shift -= NODE_BITS;
        }
    }

    /// Puts in an item; false, and nothing changed, if one that the order calls equal is there.
    pub(crate) fn insert(
        &mut self,
        at: Position,
        value: T,
        order: impl Fn(&T) -> Ordering,
    ) -> bool {
        let mut node = Arc::make_mut(&mut self.root);
        let mut shift = u64::BITS - NODE_BITS;
        loop {
            let child = node.child_at(at, shift);
            // A full bucket is split until the one that the item belongs to has room.
            let full = match &node.children[child] {
                Child::Node(_) => None,
                Child::Bucket { depth, bucket } => (bucket.items.len() >= BUCKET_ITEMS_MAX
                    && u32::from(*depth) < u64::BITS)
                    .then(|| u32::from(*depth) == u64::BITS - shift),
            };
            match full {
                Some(true) => node.deepen(child),
                Some(false) => node.split(child, &mut self.copies),
                None => {}
            }
            if full.is_some() {
                continue;
            }
            match &mut node.children[child] {
                Child::Node(next) => node = Arc::make_mut(next),
                Child::Bucket { depth, bucket } => {
                    let bucket = own(bucket, &mut self.copies);
                    let Err(place) = bucket.search(*depth, at, order) else {
                        return false;
                    };
                    bucket.make_room();
                    let position = at;
                    bucket.items.insert(place, Item { position, value });
                    self.len += 1;
                    return true;
                }
            }
            shift -= NODE_BITS;
        }
    }

    /// Takes an item out. Copies nothing if it is not there.
    pub(crate) fn remove(&mut self, at: Position, order: impl Fn(&T) -> Ordering) -> Option<T> {
        self.find(at, &order)?;
        let shift = u64::BITS - NODE_BITS;
        let removed = Arc::make_mut(&mut self.root).remove(at, shift, &order, &mut self.copies);
        self.len -= 1;
        Some(removed)
    }

    /// Everything from a position on, in order.
    pub(crate) fn range(&self, from: Position) -> Range<'_, T> {
        let mut stack = Vec::new();
        let mut node = &*self.root;
        let mut shift = u64::BITS - NODE_BITS;
        loop {
            let child = node.child_at(from, shift);
            stack.push((node, child + 1));
            match &node.children[child] {
                Child::Node(next) => node = next,
                Child::Bucket { depth, bucket } => {
                    let items = bucket.items[bucket.first_at_least(*depth, from)..].iter();
                    return Range { stack, items };
                }
            }
            shift -= NODE_BITS;
        }
    }

    /// A consistent view of everything as it is now.
    pub(crate) fn walk(&self) -> Walk<T> {
        Walk {
            root: Some(Arc::clone(&self.root)),
            stack: Vec::new(),
        }
    }

    /// Empties it; gives what was in it, to be freed elsewhere or later.
    pub(crate) fn take(&mut self) -> Walk<T> {
        let walk = self.walk();
        let copies = self.copies;
        *self = Self::default();
        self.copies = copies;
        walk
    }

    /// Takes out everything from one position to another; gives it, to be freed elsewhere or later.
    pub(crate) fn take_range(&mut self, first: Position, last: Position) -> Walk<T> {
        let mut taken = Vec::new();
        let shift = u64::BITS - NODE_BITS;
        let root = Arc::make_mut(&mut self.root);
        let removed = root.take_range(0, shift, (first.0, last.0), &mut taken, &mut self.copies);
        self.len -= removed;
        Walk {
            root: None,
            stack: vec![taken.into_iter()],
        }
    }

    /// Where the item at a position would lie, without looking at any item.
    pub(crate) fn guess(&self, at: Position) -> Guess<'_, T> {
        let (bucket, depth) = self.bucket(at);
        Guess { bucket, depth, at }
    }

    fn bucket(&self, at: Position) -> (&Bucket<T>, u8) {
        let mut node = &*self.root;
        let mut shift = u64::BITS - NODE_BITS;
        loop {
            match &node.children[node.child_at(at, shift)] {
                Child::Node(next) => node = next,
                Child::Bucket { depth, bucket } => return (bucket, *depth),
            }
            shift -= NODE_BITS;
        }
    }

    /// Verifies the invariants; O(n), for tests.
    pub(crate) fn check(&self) {
        let counted = self.root.check(0, u64::BITS - NODE_BITS);
        assert_eq!(counted, self.len, "items counted and kept count");
    }
}

/// The bucket to change: a copy of its own if a view holds it.
fn own<'a, T: Clone>(bucket: &'a mut Arc<Bucket<T>>, copies: &mut u64) -> &'a mut Bucket<T> {
    if Arc::strong_count(bucket) > 1 {
        *copies += 1;
    }
    Arc::make_mut(bucket)
}

impl<T> Guess<'_, T> {
    /// Its position.
    pub(crate) fn at(&self) -> Position {
        self.at
    }

    /// Looks at the position of some item near it.
    pub(crate) fn near(&self) -> Position {
        let items = &self.bucket.items;
        let place = self.bucket.interpolated(self.depth, self.at);
        items.get(place).map_or(self.at, |item| item.position)
    }

    /// The item there, or the one behind where it would be.
    pub(crate) fn item(&self) -> Option<&T> {
        let place = self.bucket.first_at_least(self.depth, self.at);
        Some(&self.bucket.items.get(place)?.value)
    }
}

impl<T> Bucket<T> {
    pub(crate) fn items(&self) -> &[Item<T>] {
        &self.items
    }

    /// Where the item is, or where it belongs.
    fn search(
        &self,
        depth: u8,
        at: Position,
        order: impl Fn(&T) -> Ordering,
    ) -> Result<usize, usize> {
        let mut place = self.first_at_least(depth, at);
        while let Some(item) = self.items.get(place)
            && item.position == at
        {
            match order(&item.value) {
                Ordering::Less => place += 1,
                Ordering::Equal => return Ok(place),
                Ordering::Greater => break,
            }
        }
        Err(place)
    }

    /// Where a position would stand if all were spread evenly.
    fn interpolated(&self, depth: u8, at: Position) -> usize {
        let fraction = at.0.checked_shl(u32::from(depth)).unwrap_or(0);
        ((u128::from(fraction) * self.items.len() as u128) >> u64::BITS) as usize
    }

    /// The first place whose position is not below this one. Positions within the bucket's range
    /// are about uniform, so the guess is off by half the root of the length.
    fn first_at_least(&self, depth: u8, at: Position) -> usize {
        let len = self.items.len();
        let mut place = self.interpolated(depth, at);
        if place < len && self.items[place].position < at {
            for _ in 0..STEPS_MAX {
                place += 1;
                if place == len || self.items[place].position >= at {
                    return place;
                }
            }
            return place + self.items[place..].partition_point(|item| item.position < at);
        }
        for _ in 0..STEPS_MAX {
            if place == 0 || self.items[place - 1].position < at {
                return place;
            }
            place -= 1;
        }
        self.items[..place].partition_point(|item| item.position < at)
    }

    /// Grows by an eighth and not twofold: half-empty tables are the largest overhead of a key.
    fn make_room(&mut self) {
        let len = self.items.len();
        if len == self.items.capacity() {
            self.items.reserve_exact((len / 8).max(4));
        }
    }
}

impl<T: Clone> Node<T> {
    fn child_at(&self, at: Position, shift: u32) -> usize {
        usize::from(self.index[(at.0 >> shift) as usize % NODE_PLACES])
    }

    /// Puts a node in the place of a bucket that has only one place left in this one.
    fn deepen(&mut self, child: usize) {
        let Child::Bucket { depth, bucket } = &self.children[child] else {
            unreachable!("only a bucket is deepened");
        };
        let below = Node {
            index: [0; NODE_PLACES],
            children: vec![Child::Bucket {
                depth: *depth,
                bucket: Arc::clone(bucket),
            }],
        };
        self.children[child] = Child::Node(Arc::new(below));
    }

    /// Splits a bucket by the next bit of the positions.
    fn split(&mut self, child: usize, copies: &mut u64) {
        let Child::Bucket { depth, bucket } = &mut self.children[child] else {
            unreachable!("only a bucket is split");
        };
        let bucket = own(bucket, copies);
        let bit = u64::BITS - 1 - u32::from(*depth);
        let cut = bucket
            .items
            .partition_point(|item| item.position.0 >> bit & 1 == 0);
        let right = bucket.items.split_off(cut);
        bucket.items.shrink_to_fit();
        *depth += 1;
        let right = Child::Bucket {
            depth: *depth,
            bucket: Arc::new(Bucket { items: right }),
        };
        self.children.insert(child + 1, right);
        let run = self.run(child);
        let middle = run.start + run.len() / 2;
        for (place, index) in self.index.iter_mut().enumerate() {
            let old = usize::from(*index);
            if old > child || (old == child && place >= middle) {
                *index += 1;
            }
        }
    }

    /// The places that lead to a child.
    fn run(&self, child: usize) -> std::ops::Range<usize> {
        let start = self.index.partition_point(|&at| usize::from(at) < child);
        let end = self.index.partition_point(|&at| usize::from(at) <= child);
        start..end
    }

    fn remove(
        &mut self,
        at: Position,
        shift: u32,
        order: &impl Fn(&T) -> Ordering,
        copies: &mut u64,
    ) -> T {
        let child = self.child_at(at, shift);
        let removed;
        match &mut self.children[child] {
            Child::Node(next) => {
                let next = Arc::make_mut(next);
                removed = next.remove(at, shift - NODE_BITS, order, copies);
                let alone = matches!(next.children[..], [Child::Bucket { .. }]);
                if alone && let Some(bucket) = next.children.pop() {
                    self.children[child] = bucket;
                }
            }
            Child::Bucket { depth, bucket } => {
                let bucket = own(bucket, copies);
                let Ok(place) = bucket.search(*depth, at, order) else {
                    unreachable!("the caller found it");
                };
                removed = bucket.items.remove(place).value;
                let len = bucket.items.len();
                if bucket.items.capacity() > len + len / 4 + 8 {
                    bucket.items.shrink_to(len + len / 8);
                }
            }
        }
        self.maybe_join(child);
        removed
    }

    /// Moves what lies between two positions, both included, to `taken`; says how many items that were.
    /// `low` is the first position below this node.
    fn take_range(
        &mut self,
        low: u64,
        shift: u32,
        (first, last): (u64, u64),
        taken: &mut Vec<Child<T>>,
        copies: &mut u64,
    ) -> u64 {
        let mut removed = 0;
        for child in 0..self.children.len() {
            let run = self.run(child);
            let low = low | (run.start as u64) << shift;
            let width = (run.len() as u64 - 1) << shift | ((1 << shift) - 1);
            if low | width < first || low > last {
                continue;
            }
            let is_whole = first <= low && low | width <= last;
            let place = &mut self.children[child];
            match place {
                Child::Node(next) if !is_whole => {
                    let next = Arc::make_mut(next);
                    removed +=
                        next.take_range(low, shift - NODE_BITS, (first, last), taken, copies);
                    if matches!(next.children[..], [Child::Bucket { .. }])
                        && let Some(bucket) = next.children.pop()
                    {
                        *place = bucket;
                    }
                }
                Child::Bucket { bucket, .. } if !is_whole => {
                    let bucket = own(bucket, copies);
                    let from = bucket.items.partition_point(|item| item.position.0 < first);
                    let to = bucket.items.partition_point(|item| item.position.0 <= last);
                    let items: Vec<_> = bucket.items.drain(from..to).collect();
                    removed += items.len() as u64;
                    let (depth, bucket) = (0, Arc::new(Bucket { items }));
                    taken.push(Child::Bucket { depth, bucket });
                }
                _ => {
                    removed += place.count();
                    let (depth, bucket) = (
                        width.leading_zeros() as u8,
                        Arc::new(Bucket { items: Vec::new() }),
                    );
                    taken.push(std::mem::replace(place, Child::Bucket { depth, bucket }));
                }
            }
        }
        // Joining changes the numbers of those behind, so from the last on.
        for child in (0..self.children.len()).rev() {
            if child < self.children.len() && matches!(self.children[child], Child::Bucket { .. }) {
                self.maybe_join(child);
            }
        }
        removed
    }

    /// Joins a bucket with the other half of its range, again and again, while both are small and
    /// no view holds them.
    fn maybe_join(&mut self, mut child: usize) {
        loop {
            let run = self.run(child);
            if run.len() == NODE_PLACES {
                return;
            }
            let other = usize::from(self.index[run.start ^ run.len()]);
            let (left, right) = (child.min(other), child.max(other));
            if !self.can_join(left, right) {
                return;
            }
            let Child::Bucket { bucket, .. } = self.children.remove(right) else {
                unreachable!("checked above");
            };
            let taken = match Arc::try_unwrap(bucket) {
                Ok(bucket) => bucket.items,
                Err(shared) => shared.items.clone(),
            };
            let Child::Bucket { depth, bucket } = &mut self.children[left] else {
                unreachable!("checked above");
            };
            *depth -= 1;
            let items = &mut Arc::make_mut(bucket).items;
            items.reserve_exact(taken.len());
            items.extend(taken);
            for index in &mut self.index {
                if usize::from(*index) > left {
                    *index -= 1;
                }
            }
            child = left;
        }
    }

    fn can_join(&self, left: usize, right: usize) -> bool {
        match (&self.children[left], &self.children[right]) {
            (
                Child::Bucket {
                    depth: left_depth,
                    bucket: left,
                },
                Child::Bucket {
                    depth: right_depth,
                    bucket: right,
                },
            ) => {
                left_depth == right_depth
                    && left.items.len() + right.items.len() <= BUCKET_ITEMS_JOIN
                    && Arc::strong_count(left) == 1
                    && Arc::strong_count(right) == 1
            }
            _ => false,
        }
    }

    fn check(&self, prefix: u64, shift: u32) -> u64 {
        let mut counted = 0;
        for (number, child) in self.children.iter().enumerate() {
            let run = self.run(number);
            assert!(run.len().is_power_of_two(), "a run of {}", run.len());
            assert_eq!(run.start % run.len(), 0, "a run must be aligned");
            let low = prefix | (run.start as u64) << shift;
            match child {
                Child::Node(node) => {
                    assert_eq!(run.len(), 1, "a node has one place");
                    counted += node.check(low, shift - NODE_BITS);
                }
                Child::Bucket { depth, bucket } => {
                    let width = (run.len() as u64 - 1) << shift | ((1 << shift) - 1);
                    assert_eq!(
                        u32::from(*depth),
                        width.leading_zeros(),
                        "the depth of a bucket"
                    );
                    let len = bucket.items.len();
                    assert!(len <= BUCKET_ITEMS_MAX || *depth == 64, "{len} items");
                    for pair in bucket.items.windows(2) {
                        assert!(pair[0].position <= pair[1].position, "items are sorted");
                    }
                    for item in &bucket.items {
                        assert!(item.position.0 ^ low <= width, "an item in a wrong bucket");
                    }
                    counted += len as u64;
                }
            }
        }
        counted
    }
}

impl<T> Child<T> {
    fn count(&self) -> u64 {
        match self {
            Self::Node(node) => node.children.iter().map(Self::count).sum(),
            Self::Bucket { bucket, .. } => bucket.items.len() as u64,
        }
    }
}

/// A borrowed walk in order.
#[derive(Debug)]
pub(crate) struct Range<'a, T> {
    stack: Vec<(&'a Node<T>, usize)>,
    items: std::slice::Iter<'a, Item<T>>,
}

impl<'a, T> Iterator for Range<'a, T> {
    type Item = &'a Item<T>;

    fn next(&mut self) -> Option<&'a Item<T>> {
        loop {
            if let Some(item) = self.items.next() {
                return Some(item);
            }
            let (node, child) = self.stack.last_mut()?;
            match node.children.get(*child) {
                None => {
                    self.stack.pop();
                }
                Some(next) => {
                    *child += 1;
                    match next {
                        Child::Node(node) => self.stack.push((node, 0)),
                        Child::Bucket { bucket, .. } => self.items = bucket.items.iter(),
                    }
                }
            }
        }
    }
}

/// An owned walk in order over what the directory was when it began. It lets go of every node and
/// bucket as it passes them: whoever drops the last count frees the memory, so a walk is best
/// finished or dropped away from the thread that writes.
#[derive(Debug)]
pub(crate) struct Walk<T> {
    root: Option<Arc<Node<T>>>,
    stack: Vec<std::vec::IntoIter<Child<T>>>,
}

impl<T: Clone> Walk<T> {
    /// The next bucket; it may be empty.
    pub(crate) fn next_bucket(&mut self) -> Option<Arc<Bucket<T>>> {
        if let Some(root) = self.root.take() {
            self.stack.push(children_of(root));
        }
        loop {
            match self.stack.last_mut()?.next() {
                None => {
                    self.stack.pop();
                }
                Some(Child::Node(node)) => self.stack.push(children_of(node)),
                Some(Child::Bucket { bucket, .. }) => return Some(bucket),
            }
        }
    }
}

fn children_of<T: Clone>(node: Arc<Node<T>>) -> std::vec::IntoIter<Child<T>> {
    match Arc::try_unwrap(node) {
        Ok(node) => node.children,
        Err(shared) => shared.children.clone(),
    }
    .into_iter()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kvorum_base::Prng;

    use super::*;

    fn put(directory: &mut Directory<u64>, position: u64, value: u64) {
        assert!(directory.insert(Position(position), value, |item| item.cmp(&value)));
    }

    /// Positions that are uniform, crowded under one prefix, or all the same.
    fn draw(prng: &mut Prng) -> u64 {
        match prng.below(3) {
            0 => prng.next_u64(),
            1 => 0x1234_5678_0000_0000 | prng.below(1 << 20),
            _ => 0x8000_0000_0000_0000 | prng.below(4) << 40,
        }
    }

    #[test]
    fn it_is_an_ordered_set() {
        for seed in 0..4 {
            let mut prng = Prng::new(seed);
            let mut directory = Directory::<u64>::default();
            let mut twin = BTreeSet::new();
            for step in 0..30_000u64 {
                let growing = step % 12_000 < 7000;
                if growing || twin.is_empty() {
                    let (position, value) = (draw(&mut prng), prng.below(300));
                    let found = directory.find(Position(position), |item| item.cmp(&value));
                    assert_eq!(found.is_none(), twin.insert((position, value)));
                    if found.is_none() {
                        put(&mut directory, position, value);
                    }
                } else {
                    let from = (draw(&mut prng), 0);
                    let (position, value) = *twin
                        .range(from..)
                        .next()
                        .unwrap_or(twin.first().expect("not empty"));
                    twin.remove(&(position, value));
                    let order = |item: &u64| item.cmp(&value);
                    assert_eq!(directory.remove(Position(position), order), Some(value));
                    assert_eq!(directory.remove(Position(position), order), None);
                }
                if step % 5000 == 0 {
                    directory.check();
                }
            }
            directory.check();
            let from = draw(&mut prng);
            let ranged: Vec<_> = directory
                .range(Position(from))
                .map(|item| (item.position.0, item.value))
                .collect();
            let expected: Vec<_> = twin.range((from, 0)..).copied().collect();
            assert_eq!(ranged, expected, "from {from}");
        }
    }

    #[test]
    fn a_view_stays_as_it_was_and_a_write_copies_one_bucket() {
        let mut prng = Prng::new(1);
        let mut directory = Directory::default();
        let positions: Vec<u64> = (0..20_000).map(|_| prng.next_u64()).collect();
        for &position in &positions {
            put(&mut directory, position, 1);
        }
        assert_eq!(directory.copies(), 0, "nobody looks");
        let mut walk = directory.walk();
        for &position in &positions[..10] {
            let before = directory.copies();
            for _ in 0..3 {
                *directory
                    .find_mut(Position(position), |_| Ordering::Equal)
                    .expect("it is there") = 2;
            }
            assert!(directory.copies() <= before + 1);
        }
        assert!(directory.copies() > 5);
        let mut seen = Vec::new();
        while let Some(bucket) = walk.next_bucket() {
            assert!(bucket.items().iter().all(|item| item.value == 1));
            seen.extend(bucket.items().iter().map(|item| item.position.0));
        }
        let mut sorted = positions;
        sorted.sort_unstable();
        assert_eq!(seen, sorted);
        let before = directory.copies();
        for &position in &sorted {
            directory.find_mut(Position(position), |_| Ordering::Equal);
        }
        assert_eq!(directory.copies(), before, "the view is gone");
    }

    #[test]
    fn emptied_it_is_one_bucket_again() {
        let mut directory = Directory::default();
        let mut prng = Prng::new(2);
        let positions: Vec<u64> = (0..50_000).map(|_| prng.next_u64()).collect();
        for &position in &positions {
            put(&mut directory, position, 0);
        }
        for &position in &positions {
            directory.remove(Position(position), |_| Ordering::Equal);
        }
        directory.check();
        assert_eq!(directory.root.children.len(), 1);
    }

    #[test]
    fn one_position_for_all_grows_one_bucket() {
        let mut directory = Directory::default();
        for value in 0..1000 {
            put(&mut directory, 42, value);
        }
        directory.check();
        assert!((0..1000).all(|value: u64| {
            directory.find(Position(42), |item| item.cmp(&value)) == Some(&value)
        }));
    }

    #[test]
    fn a_range_is_taken_out_and_the_rest_stays() {
        for seed in 0..40 {
            let mut prng = Prng::new(seed);
            let mut directory = Directory::<u64>::default();
            let mut twin = BTreeSet::new();
            for _ in 0..prng.range(1, 20_000) {
                let (position, value) = (draw(&mut prng), prng.below(300));
                if twin.insert((position, value)) {
                    put(&mut directory, position, value);
                }
            }
            let view = (seed % 2 == 0).then(|| directory.walk());
            for _ in 0..10 {
                let one = draw(&mut prng);
                let other = [one, one | 0xffff_ffff, draw(&mut prng)][prng.below(3) as usize];
                let (first, last) = (one.min(other), one.max(other));
                let within: Vec<_> = (twin.iter().copied())
                    .filter(|(position, _)| (first..=last).contains(position))
                    .collect();
                let items = |mut walk: Walk<u64>| {
                    let mut items = Vec::new();
                    while let Some(bucket) = walk.next_bucket() {
                        items.extend(
                            bucket
                                .items()
                                .iter()
                                .map(|item| (item.position.0, item.value)),
                        );
                    }
                    items
                };
                assert_eq!(
                    items(directory.take_range(Position(first), Position(last))),
                    within
                );
                twin.retain(|(position, _)| !(first..=last).contains(position));
                directory.check();
                let left = directory.range(Position(0));
                assert!(
                    left.map(|item| (item.position.0, item.value))
                        .eq(twin.iter().copied())
                );
            }
            drop(view);
        }
    }
}
