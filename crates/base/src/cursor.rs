//! Reading binary formats: every access is checked, nothing panics on bytes from outside.
//!
//! All integers of all formats are little-endian. Writing needs no counterpart here: formats write
//! with `bytes::BufMut` or [`put_varint`].

use std::fmt;

/// The bytes are not what the format says: too short, or a field out of its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// What was being read.
    pub what: &'static str,
    /// Where in the input, in bytes from its start.
    pub at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for Malformed {}

/// A position in a byte slice that only moves forward.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes were read.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// What is left, without moving.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// An error at the current position, for a field that has the right length and a wrong value.
    #[must_use]
    pub fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { what, at: self.at }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        if len > self.remaining() {
            return Err(self.malformed(what));
        }
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// At the end of the input.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes, little-endian.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Sixteen bytes, little-endian.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn u128(&mut self, what: &'static str) -> Result<u128, Malformed> {
        Ok(u128::from_le_bytes(self.array(what)?))
    }

    /// An LEB128 number as [`put_varint`] writes it; only the shortest form is taken, so that one
    /// value has one encoding.
    ///
    /// # Errors
    /// If it does not end, is longer than needed, or does not fit 64 bits.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let part = u64::from(byte & 0x7f);
            let overflows = shift == 63 && part > 1;
            let padded = shift > 0 && byte == 0;
            if overflows || padded {
                return Err(self.malformed(what));
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed(what))
    }

    /// A varint length and that many bytes.
    ///
    /// # Errors
    /// If the length is malformed or more than what is left.
    pub fn block(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let len = self.varint(what)?;
        let len = usize::try_from(len).map_err(|_| self.malformed(what))?;
        self.take(len, what)
    }

    /// Insists that nothing is left.
    ///
    /// # Errors
    /// If something is.
    pub fn end(&self, what: &'static str) -> Result<(), Malformed> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.malformed(what))
        }
    }
}

/// Appends an LEB128 number: seven bits a byte, the lowest first.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a varint length and the bytes; [`Reader::block`] reads them.
pub fn put_block(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back() {
        for value in [0, 1, 127, 128, 300, 1 << 32, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.varint("value"), Ok(value));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_value_has_one_encoding() {
        assert!(Reader::new(&[0x80, 0x00]).varint("padded").is_err());
        assert!(Reader::new(&[0xff; 9]).varint("endless").is_err());
        let mut too_big = vec![0xff; 9];
        too_big.push(2);
        assert!(Reader::new(&too_big).varint("65 bits").is_err());
    }

    #[test]
    fn a_block_longer_than_the_input_is_refused() {
        let mut out = Vec::new();
        put_block(&mut out, b"hello");
        assert_eq!(Reader::new(&out).block("b"), Ok(&b"hello"[..]));
        assert!(Reader::new(&out[..3]).block("b").is_err());
        let mut huge = Vec::new();
        put_varint(&mut huge, u64::MAX);
        assert!(Reader::new(&huge).block("b").is_err());
    }
}
