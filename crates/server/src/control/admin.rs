//! Who may give orders over HTTP: whoever sits on this machine, or knows the cluster's secret.
//!
//! The secret itself never travels. A request from elsewhere carries a proof over its path, its body and
//! the time:
//!
//! ```text
//! x-kvorum-proof: <unix milliseconds>:<64 hexadecimal digits>    MAC("kvorum admin", path, time, body)
//! ```
//!
//! A proof is good for five minutes. Within them it could be sent again by someone who listens: so every
//! order is one that may be given twice, or has an issuer and is carried out once. What comes from this
//! machine without a proof has to be sent to an address and by no web page.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use kvorum_secret::{MAC_LEN, Secret, from_hex, to_hex};

/// Name of the header with the proof.
pub const PROOF_HEADER: &str = "x-kvorum-proof";
/// How far the clocks of the two sides may be apart.
const PROOF_AGE_MS: u64 = 300_000;

/// The proof for this request, made now.
#[must_use]
pub fn prove(secret: &Secret, path: &str, body: &[u8]) -> String {
    prove_at(secret, path, body, unix_ms())
}

fn prove_at(secret: &Secret, path: &str, body: &[u8], ms: u64) -> String {
    let mac = secret.mac("kvorum admin", &[path.as_bytes(), &ms.to_le_bytes(), body]);
    format!("{ms}:{}", to_hex(&mac))
}

/// Whether this request may give orders.
///
/// # Errors
/// With the reason why not.
pub fn authorise(
    from: IpAddr,
    secret: Option<&Secret>,
    proof: Option<&str>,
    path: &str,
    body: &[u8],
) -> Result<(), String> {
    authorise_at(from, secret, proof, path, body, unix_ms())
}

fn authorise_at(
    from: IpAddr,
    secret: Option<&Secret>,
    proof: Option<&str>,
    path: &str,
    body: &[u8],
    now_ms: u64,
) -> Result<(), String> {
    if from.to_canonical().is_loopback() {
        return Ok(());
    }
    let needed =
        "orders are taken from this machine only, or with the cluster's secret: give --secret-file";
    let (Some(secret), Some(proof)) = (secret, proof) else {
        return Err(needed.to_owned());
    };
    let (ms, mac) = proof.split_once(':').ok_or(needed)?;
    let ms: u64 = ms.parse().map_err(|_| needed)?;
    let mac = from_hex::<MAC_LEN>(mac).ok_or(needed)?;
    if !secret.verify(
        "kvorum admin",
        &[path.as_bytes(), &ms.to_le_bytes(), body],
        &mac,
    ) {
        return Err("the secret is not this cluster's".to_owned());
    }
    if now_ms.abs_diff(ms) > PROOF_AGE_MS {
        return Err("the clocks of the two machines are more than five minutes apart".to_owned());
    }
    Ok(())
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

    #[test]
    fn this_machine_needs_no_proof() {
        for near in [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ] {
            authorise_at(near, None, None, "/p", b"", 0).expect("allowed");
        }
        let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        authorise_at(mapped, None, None, "/p", b"", 0).expect("allowed");
    }

    #[test]
    fn others_prove_the_secret_for_this_very_request() {
        let secret = Secret::new([7; 32]);
        let proof = prove_at(&secret, "/p", b"body", 1_000_000);
        let ask = |secret: &Secret, path: &str, body: &[u8], now| {
            authorise_at(FAR, Some(secret), Some(&proof), path, body, now)
        };
        ask(&secret, "/p", b"body", 1_000_001).expect("allowed");
        ask(&secret, "/q", b"body", 1_000_001).expect_err("another path");
        ask(&secret, "/p", b"bodY", 1_000_001).expect_err("another body");
        ask(&secret, "/p", b"body", 1_000_000 + PROOF_AGE_MS + 1).expect_err("too old");
        ask(&Secret::new([8; 32]), "/p", b"body", 1_000_001).expect_err("another secret");
        authorise_at(FAR, Some(&secret), None, "/p", b"body", 0).expect_err("no proof");
        authorise_at(FAR, None, Some(&proof), "/p", b"body", 0).expect_err("no secret here");
        authorise_at(FAR, Some(&secret), Some("x:y"), "/p", b"body", 0).expect_err("nonsense");
    }
}
