//! Key to slot: CRC16 of the key, or of its `{tag}`, modulo 16384 (Redis Cluster specification,
//! "Key distribution model" and "Hash tags").

use crate::ids::Slot;

/// How many slots the key space has.
pub const SLOT_COUNT: u16 = 16384;

/// The slot of a key. If the key has a `{`, and the first `}` after the first `{` leaves something
/// between them, only that part is hashed, so that related keys can be kept together.
#[must_use]
pub fn slot_of(key: &[u8]) -> Slot {
    Slot(crc16(hash_tag(key).unwrap_or(key)) % SLOT_COUNT)
}

fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|&byte| byte == b'{')?;
    let rest = &key[open + 1..];
    let len = rest.iter().position(|&byte| byte == b'}')?;
    (len > 0).then(|| &rest[..len])
}

/// CRC16-XMODEM: polynomial 0x1021, initial value 0.
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, &byte| {
        (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

const CRC16_TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 {
                (crc << 1) ^ 0x1021
            } else {
                crc << 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_slots() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), Slot(12182));
        assert_eq!(slot_of(b"bar"), Slot(5061));
        assert_eq!(slot_of(b""), Slot(0));
    }

    #[test]
    fn tags() {
        assert_eq!(
            slot_of(b"{user1000}.following"),
            slot_of(b"{user1000}.followers")
        );
        assert_eq!(slot_of(b"a{b}c"), slot_of(b"b"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_ne!(
            slot_of(b"foo{}{bar}"),
            slot_of(b"bar"),
            "an empty tag hashes the whole key"
        );
        assert_ne!(
            slot_of(b"foo{bar"),
            slot_of(b"bar"),
            "an open tag hashes the whole key"
        );
    }
}
