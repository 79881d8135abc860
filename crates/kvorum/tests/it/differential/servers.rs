//! The two servers, a connection to each, and replies as they come off the wire.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{PATIENCE, Running, TempDir, free_port, kvorum, wait_for};

/// Redis and a kvorum of one node, and where each serves.
pub(super) struct Servers {
    pub(super) ports: [u16; 2],
    _running: [Running; 2],
}

impl Servers {
    /// Starts both; `None` where there is no `redis-server`.
    pub(super) fn start(dir: &TempDir) -> Option<Self> {
        let port = free_port(3);
        let redis = start_redis(dir, port + 2)?;
        let kvorum = start_kvorum(dir, port);
        let servers = Self {
            ports: [port + 2, port + 1],
            _running: [redis, kvorum],
        };
        let mut assigning = Link::connect(servers.ports[0]);
        assigning.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        for port in servers.ports {
            wait_for("a cluster that is well", || {
                let reply = Link::connect(port).ask(&["CLUSTER", "INFO"]);
                let text = String::from_utf8_lossy(&reply).into_owned();
                text.contains("cluster_state:ok").then_some(())
            });
        }
        Some(servers)
    }
}

fn start_redis(dir: &TempDir, port: u16) -> Option<Running> {
    let data = dir.path().join("redis");
    std::fs::create_dir_all(&data).expect("a directory");
    let (port, bus_port) = (port.to_string(), (port + 50).to_string());
    let child = Command::new("redis-server")
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
        .args(["--cluster-enabled", "yes", "--cluster-port", &bus_port])
        // The longest value of kvorum, so that one limit says no in both.
        .args(["--proto-max-bulk-len", "33554432"])
        .current_dir(data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    match child {
        Ok(child) => Some(Running { child }),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("redis-server does not start: {error}"),
    }
}

fn start_kvorum(dir: &TempDir, port: u16) -> Running {
    let output = dir.path().join("up.out");
    let file = std::fs::File::create(&output).expect("a file");
    let data = dir.path().join("kvorum");
    let port = port.to_string();
    let child = kvorum(&["up", "--nodes", "1", "--shards", "1", "--port", &port])
        .args(["--router-port", "0", "--dir"])
        .arg(data)
        .stdout(file)
        .spawn()
        .expect("started");
    let running = Running { child };
    wait_for("ready", || {
        let said = std::fs::read_to_string(&output).expect("its output");
        said.lines().any(|line| line == "ready").then_some(())
    });
    running
}

/// What came next from a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Came {
    /// One whole reply.
    Reply(Vec<u8>),
    /// The end of the connection, and what came before that is no whole reply.
    End(Vec<u8>),
    /// Nothing for as long as was waited.
    Nothing,
}

/// One connection.
pub(super) struct Link {
    stream: TcpStream,
    input: Vec<u8>,
    at: usize,
}

impl Link {
    pub(super) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Self {
            stream,
            input: Vec::new(),
            at: 0,
        }
    }

    /// A server may have closed the connection meanwhile: then its end is what comes next.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends one request and waits for its reply.
    pub(super) fn ask<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Vec<u8> {
        self.send(&encoded(args));
        match self.next(PATIENCE) {
            Came::Reply(reply) => reply,
            other => panic!("no reply: {other:?}"),
        }
    }

    pub(super) fn next(&mut self, patience: Duration) -> Came {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(len) = reply_len(&self.input[self.at..]) {
                let reply = self.input[self.at..self.at + len].to_vec();
                self.at += len;
                return Came::Reply(reply);
            }
            self.input.drain(..self.at);
            self.at = 0;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Came::Nothing;
            }
            self.stream.set_read_timeout(Some(left)).expect("an option");
            let mut bytes = [0; 64 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Came::End(std::mem::take(&mut self.input)),
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Came::End(std::mem::take(&mut self.input));
                }
                Err(_) => return Came::Nothing,
            }
        }
    }
}

/// A request as a list of bulks.
pub(super) fn encoded<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn reply_len(bytes: &[u8]) -> Option<usize> {
    Value::read(bytes).map(|(_, len)| len)
}

/// A reply, taken apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Value {
    /// One line, with the letter of its type.
    Line(u8, Vec<u8>),
    /// Counted bytes.
    Bulk(u8, Vec<u8>),
    /// Elements; of a map keys and values in turn.
    List(u8, Vec<Value>),
}

impl Value {
    /// The first reply among these bytes and its length, if it is whole.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let (kind, text, next) = (bytes[0], &bytes[1..end], end + 2);
        let count = || -> Option<usize> { std::str::from_utf8(text).ok()?.parse().ok() };
        let elements = match kind {
            b'*' | b'~' | b'>' => count(),
            b'%' => count().map(|count| count * 2),
            b'$' | b'=' => {
                let Some(len) = count() else {
                    return Some((Self::Line(kind, text.to_vec()), next));
                };
                let content = bytes.get(next..next + len)?;
                bytes.get(next + len..next + len + 2)?;
                return Some((Self::Bulk(kind, content.to_vec()), next + len + 2));
            }
            _ => None,
        };
        let Some(elements) = elements else {
            return Some((Self::Line(kind, text.to_vec()), next));
        };
        let (mut list, mut at) = (Vec::new(), next);
        for _ in 0..elements {
            let (value, len) = Self::read(&bytes[at..])?;
            list.push(value);
            at += len;
        }
        Some((Self::List(kind, list), at))
    }

    /// A reply that is known to be whole.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::read(bytes).expect("a whole reply").0
    }

    /// Its text; of a list nothing.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Line(_, text) | Self::Bulk(_, text) => String::from_utf8_lossy(text).into_owned(),
            Self::List(..) => String::new(),
        }
    }

    /// Its elements; of anything but a list none.
    pub(super) fn elements(&self) -> &[Value] {
        match self {
            Self::List(_, elements) => elements,
            _ => &[],
        }
    }
}
