//! Asking a node's HTTP interface, from the command line: one request, one answer, no keeping alive.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::admin::{PROOF_HEADER, prove};
use kvorum_secret::Secret;

/// How long connecting may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer may take: longer than a node waits for the shard manager, so that what it then says is
/// heard.
const ANSWER_PATIENCE: Duration = Duration::from_secs(40);
/// Longest answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Why there is no answer, or none that helps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// Whether the node has understood and said no: asked again it says the same.
    pub is_refusal: bool,
    text: String,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        let is_refusal = false;
        Self { is_refusal, text }
    }
}

impl From<Error> for String {
    fn from(error: Error) -> Self {
        error.text
    }
}

/// Asks for a page.
///
/// # Errors
/// If the node cannot be reached, or says no; then with what it said.
pub fn get<T: DeserializeOwned>(address: &str, path: &str) -> Result<T, Error> {
    read(address, &request(address, "GET", path, b"", None)?)
}

/// Gives an order, with a proof if there is a secret to make one with.
///
/// # Errors
/// As for [`get`].
pub fn post<T: DeserializeOwned>(
    address: &str,
    path: &str,
    body: &impl Serialize,
    secret: Option<&Secret>,
) -> Result<T, Error> {
    let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
    read(address, &request(address, "POST", path, &body, secret)?)
}

/// Asks one of these nodes after the other, until one has an answer.
///
/// # Errors
/// If none has, with what all of them said.
pub fn ask_any<T>(
    addresses: &[String],
    ask: impl Fn(&str) -> Result<T, Error>,
) -> Result<T, String> {
    let mut errors = Vec::new();
    for address in addresses {
        match ask(address) {
            Ok(answer) => return Ok(answer),
            Err(error) => errors.push(error.text),
        }
    }
    Err(errors.join("; "))
}

fn read<T: DeserializeOwned>(address: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body)
        .map_err(|error| format!("{address}: unexpected answer: {error}").into())
}

fn request(
    address: &str,
    method: &str,
    path: &str,
    body: &[u8],
    secret: Option<&Secret>,
) -> Result<Vec<u8>, Error> {
    let proof = match secret {
        Some(secret) => format!("{PROOF_HEADER}: {}\r\n", prove(secret, path, body)),
        None => String::new(),
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n{proof}\r\n",
        body.len()
    );
    let answer = exchange(address, head.as_bytes(), body)
        .map_err(|error| format!("cannot ask {address}: {error}"))?;
    let (status, body) =
        parse(&answer).ok_or_else(|| format!("{address} does not answer like a kvorum node"))?;
    if (200..300).contains(&status) {
        return Ok(body.to_vec());
    }
    let reason = String::from_utf8_lossy(body).trim().to_owned();
    let text = match reason.is_empty() {
        true => format!("{address} answers {status}"),
        false => format!("{address}: {reason}"),
    };
    let is_refusal = (400..500).contains(&status);
    Err(Error { is_refusal, text })
}

fn exchange(address: &str, head: &[u8], body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut last_error = std::io::Error::from(std::io::ErrorKind::NotFound);
    for target in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&target, PATIENCE) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.write_all(head)?;
                stream.write_all(body)?;
                let mut answer = Vec::new();
                stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
                return Ok(answer);
            }
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// Status and body. Our servers give every answer a length, and close.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        let answer = b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\nno";
        assert_eq!(parse(answer), Some((409, &b"no"[..])));
        assert_eq!(parse(b"SSH-2.0-x\r\n\r\n"), None);
        assert_eq!(parse(b"HTTP/1.1 2"), None);
    }
}
