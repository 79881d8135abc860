//! The secret that processes share, and what is proved with it.
//!
//! Every node of a cluster, and every worker of a job, holds the same 32 bytes. They never travel where
//! others could listen: whoever has to show that he knows them shows a MAC (HMAC-SHA256) over what is at
//! stake, and the other side computes the same. A label opens each MAC, so that a proof made for one purpose
//! is none for another.
//!
//! Beside it the only source of chance of all crates: the system's generator.

use std::fmt;
use std::io::Read;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a MAC.
pub const MAC_LEN: usize = 32;

/// A secret that processes share.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// These bytes as a secret.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A new one, from the system's generator.
    #[must_use]
    pub fn draw() -> Self {
        Self(random())
    }

    /// The bytes, to be stored in the process's own directory and nowhere else.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads a file of 64 hexadecimal digits.
    ///
    /// # Errors
    /// With a sentence for the operator.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the secret {}: {error}", path.display()))?;
        Self::from_hex(text.trim()).ok_or_else(|| {
            format!(
                "{} must hold 64 hexadecimal digits and nothing else (make one: openssl rand -hex 32)",
                path.display()
            )
        })
    }

    /// The secret with these 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        from_hex(text).map(Self)
    }

    /// Its 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        to_hex(&self.0)
    }

    /// The MAC of the parts under this label. Parts are length-prefixed: moving a byte from one to
    /// the next gives another MAC.
    #[must_use]
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        self.begin(label, parts).finalize().into_bytes().into()
    }

    /// Whether `mac` is the MAC of the parts, in time that does not depend on where they differ.
    #[must_use]
    pub fn verify(&self, label: &str, parts: &[&[u8]], mac: &[u8]) -> bool {
        self.begin(label, parts).verify_slice(mac).is_ok()
    }

    fn begin(&self, label: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in std::iter::once(&label.as_bytes()).chain(parts) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

/// Bytes from the system's generator.
///
/// # Panics
/// If the system has none: nothing secret could be made then.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .expect("the system's random generator, /dev/urandom, can be read");
    bytes
}

/// A random number other than zero.
#[must_use]
pub fn random_id() -> u64 {
    loop {
        // One bit less than 64: some clients read ids as signed numbers.
        let id = u64::from_le_bytes(random()) >> 1;
        if id != 0 {
            return id;
        }
    }
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `N` bytes from twice as many hexadecimal digits.
#[must_use]
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_for_one_purpose_one_content_one_cluster() {
        let secret = Secret::new([7; 32]);
        let mac = secret.mac("a", &[b"xy", b"z"]);
        assert!(secret.verify("a", &[b"xy", b"z"], &mac));
        assert!(!secret.verify("b", &[b"xy", b"z"], &mac));
        assert!(!secret.verify("a", &[b"x", b"yz"], &mac));
        assert!(!secret.verify("a", &[b"xy", b"z"], &mac[..31]));
        assert!(!Secret::new([8; 32]).verify("a", &[b"xy", b"z"], &mac));
    }

    #[test]
    fn hexadecimal_comes_back_and_nothing_else_is_taken() {
        let bytes: [u8; 4] = [0, 255, 16, 9];
        assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        for bad in ["", "00ff10", "00ff100g", "00ff10090", "+0ff1009"] {
            assert_eq!(from_hex::<4>(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_secret_is_64_hexadecimal_digits() {
        let secret = Secret::new([0xa5; 32]);
        let text = secret.to_hex();
        assert_eq!(text, "a5".repeat(32));
        assert_eq!(Secret::from_hex(&text), Some(secret));
        for bad in ["", "a5", &"g".repeat(64), &"a".repeat(65)] {
            assert_eq!(Secret::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn it_does_not_print_itself() {
        assert_eq!(format!("{:?}", Secret::new([7; 32])), "Secret(..)");
    }
}
