//! A key with its value, as it lies in memory.
//!
//! Short ones, which are nearly all, are one allocation:
//!
//! ```text
//! | version 6 | flags 1 | key length 1 | deadline 8, if flagged | key | value |
//! ```
//!
//! so that a key of 16 bytes with a value of 100 fits the allocator's class of 128. They are copied
//! with their bucket when a view holds it, which [`INLINE_BYTES_MAX`] bounds. Longer ones, and all
//! other types, are counted and only shared then.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kvorum_base::UnixMillis;

use crate::hash::{self, BLOCK_BYTES};
use crate::limits::{INLINE_BYTES_MAX, INLINE_KEY_BYTES_MAX, KEY_OVERHEAD_BYTES};
use crate::value::{Fresh, Text, Value, ValueRef};
use crate::view::KeyItem;

const VERSION_BYTES: usize = 6;
const FLAGS: usize = VERSION_BYTES;
const KEY_LENGTH: usize = FLAGS + 1;
const HEADER_BYTES: usize = KEY_LENGTH + 1;
const DEADLINE_BYTES: usize = 8;
const HAS_DEADLINE: u8 = 1;

/// What a processor fetches at once.
const CACHE_LINE_BYTES: usize = 64;

/// The largest version: six bytes. At a million changes a second to one slot, nine years away.
pub(crate) const VERSION_MAX: u64 = (1 << (8 * VERSION_BYTES)) - 1;

/// One key.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Inline(Box<[u8]>),
    Large(Arc<Large>),
}

/// A key whose value, or the key itself, is long.
#[derive(Clone, Debug)]
pub(crate) struct Large {
    key: Box<[u8]>,
    version: u64,
    deadline: Option<UnixMillis>,
    value: Value,
    /// Kept, since computing it reads the whole value.
    value_hash: u64,
}

/// What the sums over a slot need of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Weight {
    pub(crate) hash: u64,
    pub(crate) bytes: u64,
}

impl Weight {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            hash: self.hash.wrapping_add(other.hash),
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Entry {
    pub(crate) fn new(
        key: &[u8],
        fresh: Fresh<'_>,
        deadline: Option<UnixMillis>,
        version: u64,
    ) -> Self {
        assert!(version <= VERSION_MAX, "version {version} of a key");
        let text = match fresh {
            Fresh::Text(text) => text,
            Fresh::Value(Value::String(bytes)) => bytes,
        };
        if fits_inline(key, text) {
            return Self::Inline(inline(key, text, deadline, version));
        }
        let value = match fresh {
            Fresh::Text(text) => Value::String(Bytes::copy_from_slice(text)),
            Fresh::Value(value) => value.clone(),
        };
        Self::Large(Arc::new(Large {
            key: key.into(),
            version,
            deadline,
            value_hash: value_hash(&value),
            value,
        }))
    }

    /// The entry that an item of a view, or a change, is about.
    pub(crate) fn of_item(item: KeyItem<'_>) -> Self {
        let KeyItem {
            key,
            value: ValueRef::String(text),
            deadline,
            version,
        } = item;
        match text {
            Text::Inline(bytes) => Self::new(key, Fresh::Text(bytes), deadline, version),
            Text::Counted(bytes) => {
                let value = Value::String(bytes.clone());
                Self::new(key, Fresh::Value(&value), deadline, version)
            }
        }
    }

    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Inline(bytes) => &bytes[key_start(bytes)..][..usize::from(bytes[KEY_LENGTH])],
            Self::Large(large) => &large.key,
        }
    }

    /// Reads a little everywhere where a command will read or write, and makes nothing of it.
    pub(crate) fn look(&self) -> u64 {
        let Self::Inline(bytes) = self else { return 0 };
        let lines = bytes.iter().step_by(CACHE_LINE_BYTES);
        lines.chain(bytes.last()).copied().map(u64::from).sum()
    }

    /// How this entry's key compares with another.
    pub(crate) fn compare(&self, key: &[u8]) -> Ordering {
        self.key().cmp(key)
    }

    pub(crate) fn version(&self) -> u64 {
        match self {
            Self::Inline(bytes) => {
                let mut version = [0; 8];
                version[..VERSION_BYTES].copy_from_slice(&bytes[..VERSION_BYTES]);
                u64::from_le_bytes(version)
            }
            Self::Large(large) => large.version,
        }
    }

    pub(crate) fn deadline(&self) -> Option<UnixMillis> {
        match self {
            Self::Inline(bytes) if bytes[FLAGS] & HAS_DEADLINE != 0 => {
                let mut deadline = [0; DEADLINE_BYTES];
                deadline.copy_from_slice(&bytes[HEADER_BYTES..HEADER_BYTES + DEADLINE_BYTES]);
                Some(UnixMillis(u64::from_le_bytes(deadline)))
            }
            Self::Inline(_) => None,
            Self::Large(large) => large.deadline,
        }
    }

    pub(crate) fn value(&self) -> ValueRef<'_> {
        match self {
            Self::Inline(bytes) => ValueRef::String(Text::Inline(&bytes[value_start(bytes)..])),
            Self::Large(large) => match &large.value {
                Value::String(text) => ValueRef::String(Text::Counted(text)),
            },
        }
    }

    /// Everything that a snapshot must carry. A new field is named here or this does not compile.
    pub(crate) fn parts(&self) -> (&[u8], ValueRef<'_>, Option<UnixMillis>, u64) {
        match self {
            Self::Inline(_) => (self.key(), self.value(), self.deadline(), self.version()),
            Self::Large(large) => {
                let Large {
                    key,
                    version,
                    deadline,
                    value: Value::String(text),
                    value_hash: _,
                } = &**large;
                (
                    key,
                    ValueRef::String(Text::Counted(text)),
                    *deadline,
                    *version,
                )
            }
        }
    }

    /// Whether another entry of the same key is the same in everything that is replicated.
    pub(crate) fn is_same_state(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Inline(one), Self::Inline(other)) => one == other,
            (Self::Large(one), Self::Large(other)) if Arc::ptr_eq(one, other) => true,
            _ => self.parts() == other.parts(),
        }
    }

    pub(crate) fn weight(&self) -> Weight {
        let (value_hash, value_bytes) = match (self, self.value()) {
            (Self::Large(large), ValueRef::String(text)) => {
                (large.value_hash, text.as_bytes().len())
            }
            (Self::Inline(_), ValueRef::String(text)) => {
                (hash::value(text.as_bytes()), text.as_bytes().len())
            }
        };
        let key = self.key();
        Weight {
            hash: hash::numbers([
                hash::bytes(key),
                value_hash ^ self.value().type_number(),
                self.deadline()
                    .map_or(0, |deadline| deadline.get().wrapping_add(1)),
                self.version(),
            ]),
            bytes: KEY_OVERHEAD_BYTES + key.len() as u64 + value_bytes as u64,
        }
    }

    /// Another value in place of this one. A string of the same length is written over the old one.
    pub(crate) fn replace(&mut self, fresh: Fresh<'_>, deadline: Option<UnixMillis>, version: u64) {
        if let (Self::Inline(bytes), Fresh::Text(text)) = (&mut *self, fresh) {
            let start = value_start(bytes);
            let had_deadline = bytes[FLAGS] & HAS_DEADLINE != 0;
            if bytes.len() - start == text.len() && had_deadline == deadline.is_some() {
                bytes[start..].copy_from_slice(text);
                self.set_deadline(deadline);
                self.set_version(version);
                return;
            }
        }
        *self = Self::new(self.key(), fresh, deadline, version);
    }

    pub(crate) fn set_version(&mut self, version: u64) {
        assert!(version <= VERSION_MAX, "version {version} of a key");
        match self {
            Self::Inline(bytes) => {
                bytes[..VERSION_BYTES].copy_from_slice(&version.to_le_bytes()[..VERSION_BYTES]);
            }
            Self::Large(large) => Arc::make_mut(large).version = version,
        }
    }

    pub(crate) fn set_deadline(&mut self, deadline: Option<UnixMillis>) {
        let (had_deadline, version) = (self.deadline().is_some(), self.version());
        match self {
            Self::Large(large) => Arc::make_mut(large).deadline = deadline,
            Self::Inline(bytes) if had_deadline == deadline.is_some() => {
                if let Some(deadline) = deadline {
                    bytes[HEADER_BYTES..HEADER_BYTES + DEADLINE_BYTES]
                        .copy_from_slice(&deadline.get().to_le_bytes());
                }
            }
            Self::Inline(bytes) => {
                let (start, end) = (key_start(bytes), value_start(bytes));
                *bytes = inline(&bytes[start..end], &bytes[end..], deadline, version);
            }
        }
    }

    /// Changes a string; a long one in place, if nobody else holds its bytes. It does not get
    /// shorter, and what differs from before lies within the range, new bytes included.
    pub(crate) fn edit(&mut self, changed: Range<usize>, edit: impl FnOnce(&mut BytesMut)) {
        match self {
            Self::Inline(bytes) => {
                let mut text = BytesMut::from(&bytes[value_start(bytes)..]);
                edit(&mut text);
                let value = Value::String(text.freeze());
                let (deadline, version) = (self.deadline(), self.version());
                *self = Self::new(self.key(), Fresh::Value(&value), deadline, version);
            }
            Self::Large(large) => {
                let large = Arc::make_mut(large);
                let Value::String(text) = &mut large.value;
                let mut text = match std::mem::take(text).try_into_mut() {
                    Ok(text) => text,
                    Err(shared) => BytesMut::from(&shared[..]),
                };
                let touched = changed.start / BLOCK_BYTES..changed.end.div_ceil(BLOCK_BYTES);
                let before = hash::blocks(&text, touched.clone());
                edit(&mut text);
                let after = hash::blocks(&text, touched);
                large.value_hash = large.value_hash.wrapping_sub(before).wrapping_add(after);
                large.value = Value::String(text.freeze());
            }
        }
    }
}

fn fits_inline(key: &[u8], text: &[u8]) -> bool {
    key.len() <= INLINE_KEY_BYTES_MAX && key.len() + text.len() <= INLINE_BYTES_MAX
}

fn inline(key: &[u8], text: &[u8], deadline: Option<UnixMillis>, version: u64) -> Box<[u8]> {
    let deadline_len = deadline.map_or(0, |_| DEADLINE_BYTES);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + deadline_len + key.len() + text.len());
    bytes.extend_from_slice(&version.to_le_bytes()[..VERSION_BYTES]);
    bytes.push(deadline.map_or(0, |_| HAS_DEADLINE));
    bytes.push(key.len() as u8);
    if let Some(deadline) = deadline {
        bytes.extend_from_slice(&deadline.get().to_le_bytes());
    }
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(text);
    bytes.into_boxed_slice()
}

fn key_start(bytes: &[u8]) -> usize {
    HEADER_BYTES + usize::from(bytes[FLAGS] & HAS_DEADLINE) * DEADLINE_BYTES
}

fn value_start(bytes: &[u8]) -> usize {
    key_start(bytes) + usize::from(bytes[KEY_LENGTH])
}

fn value_hash(value: &Value) -> u64 {
    match value {
        Value::String(text) => hash::value(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out() {
        for (key_len, text_len) in [
            (0, 0),
            (16, 100),
            (255, 700),
            (256, 1),
            (1, 1023),
            (1, 5000),
        ] {
            for deadline in [None, Some(UnixMillis(0)), Some(UnixMillis(u64::MAX >> 1))] {
                let (key, text) = (vec![b'k'; key_len], vec![b'v'; text_len]);
                let mut entry = Entry::new(&key, Fresh::Text(&text), deadline, VERSION_MAX);
                let expect = |entry: &Entry, text: &[u8], deadline, version| {
                    assert_eq!(entry.key(), key);
                    assert_eq!(entry.value(), ValueRef::String(Text::Inline(text)));
                    assert_eq!((entry.deadline(), entry.version()), (deadline, version));
                    let twin = Entry::new(&key, Fresh::Text(text), deadline, version);
                    assert_eq!(entry.weight(), twin.weight());
                };
                expect(&entry, &text, deadline, VERSION_MAX);
                entry.set_version(7);
                entry.set_deadline(Some(UnixMillis(9)));
                expect(&entry, &text, Some(UnixMillis(9)), 7);
                entry.set_deadline(None);
                expect(&entry, &text, None, 7);
                entry.edit(text_len..text_len + 4, |text| {
                    text.extend_from_slice(b"more");
                });
                expect(&entry, &[&text[..], b"more"].concat(), None, 7);
                entry.replace(Fresh::Text(&text), deadline, 8);
                expect(&entry, &text, deadline, 8);
            }
        }
    }

    #[test]
    fn an_edit_keeps_the_hash_right() {
        let mut prng = kvorum_base::Prng::new(1);
        for start_len in [5000, 8192, 4096] {
            let mut text = vec![7; start_len];
            let mut entry = Entry::new(b"k", Fresh::Text(&text), None, 1);
            for _ in 0..200 {
                let start = prng.below(text.len() as u64 + 1) as usize;
                let piece = vec![prng.below(256) as u8; prng.below(5000) as usize + 1];
                let end = start + piece.len();
                text.resize(text.len().max(end), 0);
                text[start..end].copy_from_slice(&piece);
                entry.edit(start..end, |text| {
                    let len = text.len().max(end);
                    text.resize(len, 0);
                    text[start..end].copy_from_slice(&piece);
                });
                let twin = Entry::new(b"k", Fresh::Text(&text), None, 1);
                assert_eq!(entry.weight(), twin.weight());
            }
        }
    }

    #[test]
    fn every_field_is_in_the_hash() {
        let hash = |key: &[u8], text: &[u8], deadline: Option<u64>, version| {
            let deadline = deadline.map(UnixMillis);
            Entry::new(key, Fresh::Text(text), deadline, version)
                .weight()
                .hash
        };
        let base = hash(b"k", b"v", None, 1);
        assert_ne!(base, hash(b"l", b"v", None, 1));
        assert_ne!(base, hash(b"k", b"w", None, 1));
        assert_ne!(base, hash(b"k", b"v", Some(0), 1));
        assert_ne!(base, hash(b"k", b"v", None, 2));
    }

    #[test]
    fn an_entry_is_two_words() {
        assert_eq!(size_of::<Entry>(), 16);
    }
}
