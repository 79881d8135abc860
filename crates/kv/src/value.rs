//! What a key can hold.
//!
//! An enum from the first day, so that every command already says what it does with a value of
//! another type; strings are the only one so far.

use bytes::Bytes;

/// A value of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A byte string.
    String(Bytes),
}

/// A value where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueRef<'a> {
    /// A byte string.
    String(Text<'a>),
}

/// The bytes of a string: short ones lie beside their key, long ones are counted and can be handed
/// out without copying.
#[derive(Clone, Copy, Debug)]
pub enum Text<'a> {
    /// Beside the key.
    Inline(&'a [u8]),
    /// In a buffer of its own.
    Counted(&'a Bytes),
}

/// A value about to be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fresh<'a> {
    /// A string that is still to be copied.
    Text(&'a [u8]),
    /// A value to be shared.
    Value(&'a Value),
}

impl<'a> Text<'a> {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Text::Inline(bytes) => bytes,
            Text::Counted(bytes) => bytes,
        }
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text<'_> {}

impl ValueRef<'_> {
    /// The name of the type, as TYPE says it.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            ValueRef::String(_) => "string",
        }
    }

    /// A number for the type, for hashes; never changed.
    pub(crate) fn type_number(self) -> u64 {
        match self {
            ValueRef::String(_) => 1,
        }
    }
}
