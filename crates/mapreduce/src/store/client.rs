//! A client of the store: requests out, replies in, redirects followed, what is not answered asked again.
//!
//! Everything that is asked here may be asked twice: it reads, or it writes what is the same the second time.
//! So an unknown outcome (a broken connection, a time-out, `-UNKNOWN`) is no outcome of [`Store::ask`]: it
//! repeats the request until it knows, or its patience is over.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a connection may take, and a reply.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
const REPLY_PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(30);
/// Nothing that is kept here is longer: the store's own limit of a value, and room.
const REPLY_BYTES_MAX: usize = 64 << 20;
const REPLY_ITEMS_MAX: usize = 1 << 20;

/// A reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Vec<Reply>),
}

/// Where the store is, and how one gets in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    /// Nodes or routers, HOST:PORT; any of them will do.
    pub(crate) seeds: Vec<String>,
    pub(crate) password: Option<String>,
}

/// Connections to a store.
pub(crate) struct Store {
    address: Address,
    /// How long one request is repeated.
    patience: Duration,
    links: BTreeMap<String, BufReader<TcpStream>>,
    /// Who answered for the keys of a tag, as far as known.
    homes: BTreeMap<String, String>,
    next_seed: usize,
}

/// What one try came to.
enum Try {
    Reply(Reply),
    /// Not there: ask this one.
    Elsewhere(String),
    /// Ask again, somewhere.
    Again(String),
}

impl Store {
    pub(crate) fn new(address: Address, patience: Duration) -> Self {
        Self {
            address,
            patience,
            links: BTreeMap::new(),
            homes: BTreeMap::new(),
            next_seed: 0,
        }
    }

    /// Asks until there is an answer. `key` says where: it is a key of the request.
    ///
    /// # Errors
    /// If there is none within the patience, or if the store refuses.
    pub(crate) fn ask(&mut self, key: &str, words: &[&[u8]]) -> Result<Reply> {
        let began = Instant::now();
        let tag = tag_of(key).to_owned();
        let mut tries = 0;
        loop {
            tries += 1;
            let at = match self.homes.get(&tag) {
                Some(home) => home.clone(),
                None => self.address.seeds[self.next_seed % self.address.seeds.len()].clone(),
            };
            let reason = match self.try_once(&at, words) {
                Try::Reply(Reply::Error(text)) => return Err(Error::new(format!("{at}: {text}"))),
                Try::Reply(reply) => {
                    self.homes.insert(tag, at);
                    return Ok(reply);
                }
                Try::Elsewhere(to) => {
                    self.homes.insert(tag.clone(), to);
                    format!("{at} leads elsewhere")
                }
                Try::Again(reason) => {
                    self.homes.remove(&tag);
                    self.next_seed += 1;
                    reason
                }
            };
            if began.elapsed() > self.patience {
                return Err(Error::new(format!("the store does not answer: {reason}")));
            }
            // The first redirect is followed at once; two nodes that send each other the request are not.
            if tries > 1 || !self.homes.contains_key(&tag) {
                std::thread::sleep(PAUSE);
            }
        }
    }

    pub(crate) fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>> {
        match self.ask(key, &[b"GET", key.as_bytes()])? {
            Reply::Bulk(value) => Ok(value),
            other => Err(senseless("GET", &other)),
        }
    }

    /// The values of keys that have one tag.
    pub(crate) fn get_all(&mut self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let Some(first) = keys.first() else {
            return Ok(Vec::new());
        };
        let mut words: Vec<&[u8]> = vec![b"MGET"];
        words.extend(keys.iter().map(String::as_bytes));
        let values = match self.ask(first, &words)? {
            Reply::Array(items) if items.len() == keys.len() => items,
            other => return Err(senseless("MGET", &other)),
        };
        let value = |reply| match reply {
            Reply::Bulk(value) => Ok(value),
            other => Err(senseless("MGET", &other)),
        };
        values.into_iter().map(value).collect()
    }

    pub(crate) fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.ask(key, &[b"SET", key.as_bytes(), value]).map(drop)
    }

    /// Sets a key that ends by itself.
    pub(crate) fn set_for(&mut self, key: &str, value: &[u8], life: Duration) -> Result<()> {
        let life = life.as_millis().to_string();
        let words = [b"SET", key.as_bytes(), value, b"PX", life.as_bytes()];
        self.ask(key, &words).map(drop)
    }

    /// Sets a key that is not there. `None` if it is set now, else what stands there. Who has to know whether
    /// an earlier try of its own set it compares: `value` must be one that nobody else writes.
    pub(crate) fn set_once(&mut self, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>> {
        let words = [b"SET", key.as_bytes(), value, b"NX", b"GET"];
        match self.ask(key, &words)? {
            Reply::Bulk(there) => Ok(there.filter(|there| there != value)),
            other => Err(senseless("SET", &other)),
        }
    }

    /// Puts more behind a value; twice, if an outcome was unknown.
    pub(crate) fn append(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.ask(key, &[b"APPEND", key.as_bytes(), value]).map(drop)
    }

    fn try_once(&mut self, at: &str, words: &[&[u8]]) -> Try {
        match self.exchange(at, words) {
            Ok(Reply::Error(text)) => judge(text),
            Ok(reply) => Try::Reply(reply),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Try::Reply(Reply::Error(error.to_string()))
            }
            Err(error) => {
                // A reply that is still on its way would be taken for the next one's.
                self.links.remove(at);
                Try::Again(format!("{at}: {error}"))
            }
        }
    }

    fn exchange(&mut self, at: &str, words: &[&[u8]]) -> io::Result<Reply> {
        if !self.links.contains_key(at) {
            let link = connect(at, self.address.password.as_deref())?;
            self.links.insert(at.to_owned(), link);
        }
        let link = self.links.get_mut(at).ok_or(io::ErrorKind::NotConnected)?;
        link.get_mut().write_all(&request(words))?;
        read_reply(link, 0)
    }
}

/// The part of a key that says where it is.
fn tag_of(key: &str) -> &str {
    key.split_inclusive('}').next().unwrap_or(key)
}

/// What an error reply means for who may ask again.
fn judge(text: String) -> Try {
    let mut words = text.split(' ');
    match words.next() {
        Some("MOVED") => match words.nth(1) {
            Some(to) => Try::Elsewhere(to.to_owned()),
            None => Try::Again(text),
        },
        Some("TRYAGAIN" | "CLUSTERDOWN" | "LOADING" | "MASTERDOWN" | "UNKNOWN") => Try::Again(text),
        _ => Try::Reply(Reply::Error(text)),
    }
}

fn senseless(command: &str, reply: &Reply) -> Error {
    Error::new(format!("the store answers {command} with {reply:?}"))
}

fn connect(at: &str, password: Option<&str>) -> io::Result<BufReader<TcpStream>> {
    let stream = dial(at, CONNECT_PATIENCE)?;
    stream.set_read_timeout(Some(REPLY_PATIENCE))?;
    stream.set_write_timeout(Some(REPLY_PATIENCE))?;
    let mut link = BufReader::new(stream);
    if let Some(password) = password {
        link.get_mut()
            .write_all(&request(&[b"AUTH", password.as_bytes()]))?;
        if let Reply::Error(text) = read_reply(&mut link, 0)? {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    Ok(link)
}

/// A connection to the first of a name's addresses that answers.
pub(crate) fn dial(at: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in at.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn read_reply(from: &mut impl BufRead, depth: u32) -> io::Result<Reply> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "its reply is malformed");
    let mut line = Vec::new();
    from.by_ref().take(64 << 10).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.strip_suffix(b"\r\n").ok_or_else(malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| malformed())?;
    let (kind, rest) = line.split_at_checked(1).ok_or_else(malformed)?;
    let number = || rest.parse::<i64>().map_err(|_| malformed());
    let size = |max: usize| {
        let size = usize::try_from(number()?).map_err(|_| malformed())?;
        (size <= max).then_some(size).ok_or_else(malformed)
    };
    Ok(match kind {
        "+" => Reply::Simple(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Integer(number()?),
        "$" if rest == "-1" => Reply::Bulk(None),
        "$" => {
            let size = size(REPLY_BYTES_MAX)?;
            let mut bytes = Vec::new();
            from.by_ref()
                .take(size as u64 + 2)
                .read_to_end(&mut bytes)?;
            if bytes.len() < size + 2 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(size);
            Reply::Bulk(Some(bytes))
        }
        "*" if depth == 0 => {
            let items = size(REPLY_ITEMS_MAX)?;
            let item = |_| read_reply(from, depth + 1);
            Reply::Array((0..items).map(item).collect::<io::Result<_>>()?)
        }
        _ => return Err(malformed()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read() {
        let mut bytes =
            &b"+OK\r\n-ERR no\r\n:-5\r\n$-1\r\n$4\r\na\r\nb\r\n*2\r\n$1\r\nx\r\n$-1\r\n"[..];
        let mut next = || read_reply(&mut bytes, 0).expect("a reply");
        assert_eq!(next(), Reply::Simple("OK".to_owned()));
        assert_eq!(next(), Reply::Error("ERR no".to_owned()));
        assert_eq!(next(), Reply::Integer(-5));
        assert_eq!(next(), Reply::Bulk(None));
        assert_eq!(next(), Reply::Bulk(Some(b"a\r\nb".to_vec())));
        let items = vec![Reply::Bulk(Some(b"x".to_vec())), Reply::Bulk(None)];
        assert_eq!(next(), Reply::Array(items));
        for bad in [
            &b""[..],
            b"+OK",
            b"$3\r\nab",
            b"$99999999999\r\n",
            b"*1\r\n*1\r\n:1\r\n",
            b"?\r\n",
            b"\r\n",
        ] {
            assert!(read_reply(&mut &bad[..], 0).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn who_may_ask_again_and_where() {
        let moved = judge("MOVED 12 10.0.0.1:7001".to_owned());
        assert!(matches!(moved, Try::Elsewhere(to) if to == "10.0.0.1:7001"));
        assert!(matches!(judge("UNKNOWN".to_owned()), Try::Again(_)));
        assert!(matches!(judge("ERR no".to_owned()), Try::Reply(_)));
        assert_eq!(tag_of("{mr:a}:1"), tag_of("{mr:a}:lease:2"));
    }
}
