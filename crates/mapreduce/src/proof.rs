//! How two processes show each other that they hold the secret of a job, or of a group of workers.
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
//! What follows is not authenticated: between machines, the network must keep strangers out of established
//! connections.

use std::io::{self, Read, Write};

use kvorum_secret::{MAC_LEN, Secret, random};

const MAGIC: &[u8; 8] = b"kvorum-m";
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 32;
const ACCEPTED: u8 = 1;

/// Proves itself to the process at the other end, and has it prove itself.
///
/// # Errors
/// If the connection ends, or the other side does not hold the secret or is there for something else.
pub(crate) fn dial(
    secret: &Secret,
    stream: &mut (impl Read + Write),
    purpose: &str,
) -> io::Result<()> {
    let mine: [u8; NONCE_BYTES] = random();
    stream.write_all(&[&MAGIC[..], &[VERSION], &mine].concat())?;
    let mut answer = [0; NONCE_BYTES + MAC_LEN];
    stream.read_exact(&mut answer)?;
    let (theirs, proof) = answer.split_at(NONCE_BYTES);
    if !secret.verify("acceptor", &[purpose.as_bytes(), &mine, theirs], proof) {
        return Err(refused("it does not know the secret"));
    }
    let proof = secret.mac("dialer", &[purpose.as_bytes(), &mine, theirs]);
    stream.write_all(&proof)?;
    let mut verdict = [0];
    stream.read_exact(&mut verdict)?;
    if verdict != [ACCEPTED] {
        return Err(refused("it did not accept our proof of the secret"));
    }
    Ok(())
}

/// The other side of [`dial`].
///
/// # Errors
/// If the connection ends, or the other side does not hold the secret.
pub(crate) fn accept(
    secret: &Secret,
    stream: &mut (impl Read + Write),
    purpose: &str,
) -> io::Result<()> {
    let mut hello = [0; MAGIC.len() + 1 + NONCE_BYTES];
    stream.read_exact(&mut hello)?;
    let (opening, theirs) = hello.split_at(MAGIC.len() + 1);
    if opening[..MAGIC.len()] != *MAGIC || opening[MAGIC.len()] != VERSION {
        return Err(refused("it speaks something else"));
    }
    let mine: [u8; NONCE_BYTES] = random();
    let proof = secret.mac("acceptor", &[purpose.as_bytes(), theirs, &mine]);
    stream.write_all(&[&mine[..], &proof].concat())?;
    let mut proof = [0; MAC_LEN];
    stream.read_exact(&mut proof)?;
    if !secret.verify("dialer", &[purpose.as_bytes(), theirs, &mine], &proof) {
        return Err(refused("it does not know the secret"));
    }
    stream.write_all(&[ACCEPTED])
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
        let accepting = std::thread::spawn(move || accept(&acceptor.0, &mut far, acceptor.1));
        let dialed = dial(dialer, &mut near, purpose);
        drop(near);
        (dialed, accepting.join().expect("no panic"))
    }

    fn secret(byte: u8) -> Secret {
        Secret::new([byte; 32])
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
        let accepting = std::thread::spawn(move || accept(&secret(7), &mut far, "job"));
        let hello = [&MAGIC[..], &[VERSION], &[0; NONCE_BYTES]].concat();
        near.write_all(&hello).expect("sent");
        let mut answer = [0; NONCE_BYTES + MAC_LEN];
        near.read_exact(&mut answer).expect("answered");
        near.write_all(&answer[NONCE_BYTES..]).expect("sent");
        let accepted = accepting.join().expect("no panic");
        assert_eq!(
            accepted.expect_err("refused").kind(),
            io::ErrorKind::PermissionDenied
        );
    }
}
