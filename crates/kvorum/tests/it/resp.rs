//! A client that knows as much of the protocol as these tests need.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// One reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<String>),
}

/// What a write without a value is answered with.
pub(crate) fn ok() -> Reply {
    Reply::Simple("OK".to_owned())
}

/// A value.
pub(crate) fn bulk(text: &str) -> Reply {
    Reply::Bulk(Some(text.to_owned()))
}

/// How long a reply may take, if not said otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        Self::connect_patient(port, PATIENCE)
    }

    /// Connects, with a limit to how long each reply may take.
    pub(crate) fn connect_patient(port: u16, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a command and reads its reply.
    pub(crate) fn ask(&mut self, words: &[&str]) -> io::Result<Reply> {
        self.send(words)?;
        self.reply()
    }

    /// Sends a command.
    pub(crate) fn send(&mut self, words: &[&str]) -> io::Result<()> {
        self.send_bytes(&request(words))
    }

    /// Sends anything.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads a reply.
    pub(crate) fn reply(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at(1);
        Ok(match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(rest.parse().expect("an integer")),
            "$" if rest == "-1" => Reply::Bulk(None),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().expect("a length") + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bulk(Some(String::from_utf8(bytes).expect("text")))
            }
            _ => panic!("an unexpected reply: {line}"),
        })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

/// A command as bytes.
pub(crate) fn request(words: &[&str]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    request.into_bytes()
}

/// The port that a redirect leads to.
pub(crate) fn moved_to(text: &str) -> Option<u16> {
    let (_, port) = text.strip_prefix("MOVED ")?.rsplit_once(':')?;
    Some(port.parse().expect("a port"))
}

/// Asks the node at this port, and the one that it redirects to.
pub(crate) fn ask(port: u16, words: &[&str]) -> io::Result<Reply> {
    let reply = Client::connect(port)?.ask(words)?;
    let moved = match &reply {
        Reply::Error(text) => moved_to(text),
        _ => None,
    };
    match moved {
        Some(port) => Client::connect(port)?.ask(words),
        None => Ok(reply),
    }
}
