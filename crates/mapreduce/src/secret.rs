//! The secret of a job or of a group of workers, and how two processes show each other that they hold it.
//!
//! Whoever reaches the port of a coordinator could otherwise hand in results, and whoever reaches that of a
//! worker could read what it keeps. So before the first frame both sides prove it, over fresh random numbers
//! of both and over what the connection is for:
//!
//! ```text
//! dialer   -> "kvorum-m" | version u8 | nonce 32
//! acceptor -> nonce 32 | MAC("acceptor", purpose, both nonces)
//! dialer   -> MAC("dialer", purpose, both nonces)
//! acceptor -> 1
//! ```
//!
//! The MAC is HMAC-SHA256 over its parts, each with its length before it. What follows is not authenticated:
//! between machines, the network must keep strangers out of established connections.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"kvorum-m";
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 32;
const MAC_BYTES: usize = 32;
const ACCEPTED: u8 = 1;

/// 256 bits that only those know who may take part.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A new one, from the system's generator.
    pub(crate) fn draw() -> Result<Self> {
        Ok(Self(random()?))
    }

    /// Reads a file of 64 hexadecimal digits.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let what = || Error::io(format!("read the secret {}", path.display()));
        let text = std::fs::read_to_string(path).map_err(what())?;
        Self::from_hex(text.trim()).ok_or_else(|| {
            Error::new(format!(
                "{} must hold 64 hexadecimal digits and nothing else (make one: openssl rand -hex 32)",
                path.display()
            ))
        })
    }

    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    pub(crate) fn to_hex(&self) -> String {
        to_hex(&self.0)
    }

    /// Proves itself to the process at the other end, and has it prove itself.
    ///
    /// # Errors
    /// If the connection ends, or the other side does not hold the secret or is there for something else.
    pub(crate) fn dial(&self, stream: &mut (impl Read + Write), purpose: &str) -> io::Result<()> {
        let mine: [u8; NONCE_BYTES] = random().map_err(io::Error::other)?;
        stream.write_all(&[&MAGIC[..], &[VERSION], &mine].concat())?;
        let mut answer = [0; NONCE_BYTES + MAC_BYTES];
        stream.read_exact(&mut answer)?;
        let (theirs, proof) = answer.split_at(NONCE_BYTES);
        if !self.verify(&["acceptor", purpose], &[&mine, theirs], proof) {
            return Err(refused("it does not know the secret"));
        }
        let proof = self.mac(&["dialer", purpose], &[&mine, theirs]);
        stream.write_all(&proof)?;
        let mut verdict = [0];
        stream.read_exact(&mut verdict)?;
        if verdict != [ACCEPTED] {
            return Err(refused("it did not accept our proof of the secret"));
        }
        Ok(())
    }

    /// The other side of [`Secret::dial`].
    ///
    /// # Errors
    /// If the connection ends, or the other side does not hold the secret.
    pub(crate) fn accept(&self, stream: &mut (impl Read + Write), purpose: &str) -> io::Result<()> {
        let mut hello = [0; MAGIC.len() + 1 + NONCE_BYTES];
        stream.read_exact(&mut hello)?;
        let (opening, theirs) = hello.split_at(MAGIC.len() + 1);
        if opening[..MAGIC.len()] != *MAGIC || opening[MAGIC.len()] != VERSION {
            return Err(refused("it speaks something else"));
        }
        let mine: [u8; NONCE_BYTES] = random().map_err(io::Error::other)?;
        let proof = self.mac(&["acceptor", purpose], &[theirs, &mine]);
        stream.write_all(&[&mine[..], &proof].concat())?;
        let mut proof = [0; MAC_BYTES];
        stream.read_exact(&mut proof)?;
        if !self.verify(&["dialer", purpose], &[theirs, &mine], &proof) {
            return Err(refused("it does not know the secret"));
        }
        stream.write_all(&[ACCEPTED])
    }

    fn mac(&self, labels: &[&str], parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        self.begin(labels, parts).finalize().into_bytes().into()
    }

    fn verify(&self, labels: &[&str], parts: &[&[u8]], mac: &[u8]) -> bool {
        self.begin(labels, parts).verify_slice(mac).is_ok()
    }

    fn begin(&self, labels: &[&str], parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        let labels = labels.iter().map(|label| label.as_bytes());
        for part in labels.chain(parts.iter().copied()) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }
}

/// Bytes from the system's generator.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(Error::io("read /dev/urandom"))?;
    Ok(bytes)
}

/// Lower-case hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// What the dialer and the acceptor come to.
    fn meet(
        dialer: &Secret,
        purpose: &str,
        acceptor: (Secret, &'static str),
    ) -> (io::Result<()>, io::Result<()>) {
        let (mut near, mut far) = UnixStream::pair().expect("a pair");
        let accepting = std::thread::spawn(move || acceptor.0.accept(&mut far, acceptor.1));
        let dialed = dialer.dial(&mut near, purpose);
        drop(near);
        (dialed, accepting.join().expect("no panic"))
    }

    fn secret(byte: u8) -> Secret {
        Secret([byte; 32])
    }

    #[test]
    fn only_who_holds_the_secret_and_comes_for_this_gets_in() {
        let (dialed, accepted) = meet(&secret(7), "job a", (secret(7), "job a"));
        assert!(dialed.is_ok() && accepted.is_ok());
        for (dialer, purpose) in [(secret(8), "job a"), (secret(7), "job b")] {
            let (dialed, accepted) = meet(&dialer, purpose, (secret(7), "job a"));
            let error = dialed.expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(accepted.is_err());
        }
    }

    /// The acceptor's proof says "acceptor": sent back it is no dialer's.
    #[test]
    fn a_reflected_proof_is_none() {
        let (mut near, mut far) = UnixStream::pair().expect("a pair");
        let accepting = std::thread::spawn(move || secret(7).accept(&mut far, "job"));
        let hello = [&MAGIC[..], &[VERSION], &[0; NONCE_BYTES]].concat();
        near.write_all(&hello).expect("sent");
        let mut answer = [0; NONCE_BYTES + MAC_BYTES];
        near.read_exact(&mut answer).expect("answered");
        near.write_all(&answer[NONCE_BYTES..]).expect("sent");
        let accepted = accepting.join().expect("no panic");
        assert_eq!(
            accepted.expect_err("refused").kind(),
            io::ErrorKind::PermissionDenied
        );
    }

    #[test]
    fn a_secret_in_a_file() {
        let text = secret(0xa5).to_hex();
        assert_eq!(text, "a5".repeat(32));
        assert_eq!(Secret::from_hex(&text), Some(secret(0xa5)));
        for bad in ["", "a5", &"g".repeat(64), &"a".repeat(65)] {
            assert_eq!(Secret::from_hex(bad), None, "{bad}");
        }
        assert_eq!(format!("{:?}", secret(1)), "Secret(..)");
    }
}
