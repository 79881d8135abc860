//! Connections to nodes: one or two to each, shared by all clients.
//!
//! A link speaks one version of the protocol, so that a node's replies can be passed on as they are. The
//! link of version 3 is made when the first client speaks it. Nothing that belongs to a connection is ever
//! sent over one: no MULTI, WATCH, SELECT or READONLY. The first words are a greeting; the last of them tells
//! the node that this is a router's link, on which it must not hold a request.
//!
//! What is in doubt when a link breaks is told by counting bytes: a request whose last byte the socket did
//! not take was not executed, since nobody executes a part of a request.

use std::collections::VecDeque;

use bytes::Bytes;
use kvorum_resp::answer::Scanner;
use kvorum_resp::request::encode_words;
use kvorum_resp::{OutBuf, Version};

use crate::event::LinkId;
use crate::limits::{DIAL_TICKS_MAX, LINK_BYTES_MAX, LINK_REQUESTS_MAX};
use crate::map::NodeAt;
use crate::pieces::Ticket;

/// How far a link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Not connected, and not to be dialled before this tick.
    Down { until_tick: u64 },
    /// The shell connects.
    Dialling,
    /// Connected; so many answers to the greeting are to come.
    Greeting(usize),
    /// Requests may be sent.
    Up,
}

/// Who waits for a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiting {
    Greeting,
    Map,
    Piece(Ticket),
}

/// A request on the link that has no reply yet.
#[derive(Clone, Copy, Debug)]
struct Sent {
    waiting: Waiting,
    /// How many bytes were put on the link up to its end.
    end: u64,
}

/// One connection to a node.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) node: NodeAt,
    pub(crate) version: Version,
    pub(crate) state: State,
    pub(crate) out: OutBuf,
    /// How many bytes were put on it since it was made.
    put_bytes: u64,
    sent: VecDeque<Sent>,
    /// What waits for the link to be up or to have room.
    pub(crate) backlog: VecDeque<Ticket>,
    /// An unfinished reply.
    pub(crate) partial: Vec<u8>,
    pub(crate) scanner: Scanner,
    /// When it last said something, or began to owe it.
    heard_tick: u64,
    /// How often in a row it could not be made.
    failures: u32,
    /// Why it is not up.
    pub(crate) reason: String,
    /// It is on the list of those that have output.
    pub(crate) touched: bool,
}

/// What becomes of a request when its link breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// Its last byte was not sent.
    Unsent(Ticket),
    /// It was handed to the socket.
    InDoubt(Ticket),
}

impl Link {
    pub(crate) fn new(index: u32, node: NodeAt, version: Version) -> Self {
        Self {
            id: LinkId {
                index,
                generation: 0,
            },
            node,
            version,
            state: State::Down { until_tick: 0 },
            out: OutBuf::new(),
            put_bytes: 0,
            sent: VecDeque::new(),
            backlog: VecDeque::new(),
            partial: Vec::new(),
            scanner: Scanner::default(),
            heard_tick: 0,
            failures: 0,
            reason: "it was not asked yet".to_owned(),
            touched: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether it may be dialled now.
    pub(crate) fn may_dial(&self, now_tick: u64) -> bool {
        matches!(self.state, State::Down { until_tick } if until_tick <= now_tick)
    }

    /// Whether a request can be put on it at once.
    pub(crate) fn has_room(&self) -> bool {
        self.is_up() && self.sent.len() < LINK_REQUESTS_MAX && self.out.len() < LINK_BYTES_MAX
    }

    /// Whether it owes replies and has said nothing for so many ticks.
    pub(crate) fn is_silent(&self, now_tick: u64, ticks: u64) -> bool {
        !self.sent.is_empty() && now_tick.saturating_sub(self.heard_tick) > ticks
    }

    /// How many requests on it have no reply.
    pub(crate) fn unanswered(&self) -> usize {
        self.sent.len()
    }

    /// The pieces on it that have no reply.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Ticket> {
        self.sent.iter().filter_map(|sent| match sent.waiting {
            Waiting::Piece(ticket) => Some(ticket),
            Waiting::Greeting | Waiting::Map => None,
        })
    }

    /// The shell is to connect: gives the number of the attempt.
    pub(crate) fn dial(&mut self) -> LinkId {
        self.id.generation += 1;
        self.state = State::Dialling;
        self.id
    }

    /// It is connected: says who is calling.
    pub(crate) fn greet(&mut self, password: Option<&str>, now_tick: u64) {
        let version: &[u8] = match self.version {
            Version::Resp2 => b"2",
            Version::Resp3 => b"3",
        };
        let hello = match password {
            None => encode_words(&[b"HELLO", version]),
            Some(password) => {
                encode_words(&[b"HELLO", version, b"AUTH", b"default", password.as_bytes()])
            }
        };
        let greeting = [
            hello,
            encode_words(&[b"CLIENT", b"SETNAME", b"kvorum-router"]),
            encode_words(&[b"KVORUM.LINK", b"ROUTER"]),
        ];
        self.state = State::Greeting(greeting.len());
        for request in greeting {
            self.put(&request, Waiting::Greeting, now_tick);
        }
    }

    /// Puts a request on the link.
    pub(crate) fn put(&mut self, request: &Bytes, waiting: Waiting, now_tick: u64) {
        if self.sent.is_empty() {
            self.heard_tick = now_tick;
        }
        self.out.put_shared(request);
        self.put_bytes += request.len() as u64;
        self.sent.push_back(Sent {
            waiting,
            end: self.put_bytes,
        });
    }

    /// A reply has come: who waited for it. `None`: nobody asked.
    pub(crate) fn replied(&mut self, now_tick: u64) -> Option<Waiting> {
        self.heard_tick = now_tick;
        Some(self.sent.pop_front()?.waiting)
    }

    /// One more word of the greeting is answered; says whether that was the last.
    pub(crate) fn greeted(&mut self) -> bool {
        if let State::Greeting(left) = &mut self.state {
            *left -= 1;
            if *left == 0 {
                self.state = State::Up;
                self.failures = 0;
                return true;
            }
        }
        false
    }

    /// It has ended: gives what becomes of everything that was on it or waited for it, in order.
    pub(crate) fn broke(&mut self, reason: &str, now_tick: u64) -> Vec<Broken> {
        let pause = 1u64 << self.failures.min(10);
        self.failures += 1;
        self.state = State::Down {
            until_tick: now_tick + pause.min(DIAL_TICKS_MAX),
        };
        reason.clone_into(&mut self.reason);
        let taken_bytes = self.put_bytes - self.out.len() as u64;
        let mut broken = Vec::new();
        for sent in std::mem::take(&mut self.sent) {
            if let Waiting::Piece(ticket) = sent.waiting {
                broken.push(if sent.end > taken_bytes {
                    Broken::Unsent(ticket)
                } else {
                    Broken::InDoubt(ticket)
                });
            }
        }
        broken.extend(
            std::mem::take(&mut self.backlog)
                .into_iter()
                .map(Broken::Unsent),
        );
        self.out = OutBuf::new();
        self.put_bytes = 0;
        self.partial = Vec::new();
        self.scanner = Scanner::default();
        broken
    }
}
