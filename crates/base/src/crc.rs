//! CRC32C (Castagnoli), the checksum of every record, entry and chunk.

/// The CRC of these bytes.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// The CRC of these bytes after what `seed` already covers. A seed made of where the bytes stand
/// keeps a valid record from being believed in another place.
#[must_use]
pub fn crc32c_from(seed: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(seed, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_value_and_pieces() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_from(crc32c(b"12345"), b"6789"), crc32c(b"123456789"));
    }
}
