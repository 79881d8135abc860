//! The connection against the obvious one: a list of requests, answered when the list is through.

use kvorum_base::Prng;
use kvorum_resp::{Connection, InputLimits, ReplyMode, Scratch, Version};

/// What the client must see of one request.
#[derive(Clone)]
struct Expected {
    version: Version,
    muted: bool,
    answered: bool,
}

/// Requests are decided upon strictly in order, as by a server that does one thing at a time.
struct Obvious {
    version: Version,
    off: bool,
    skip_next: bool,
    requests: Vec<Expected>,
}

impl Obvious {
    fn request(&mut self, change: Change) {
        let mut muted = self.off || std::mem::take(&mut self.skip_next);
        match change {
            Change::None => {}
            Change::Hello(version) => self.version = version,
            Change::Replies(ReplyMode::On) => {
                self.off = false;
                muted = false;
            }
            Change::Replies(ReplyMode::Off) => {
                self.off = true;
                muted = true;
            }
            Change::Replies(ReplyMode::Skip) => {
                self.skip_next = !self.off;
                muted = true;
            }
        }
        self.requests.push(Expected {
            version: self.version,
            muted,
            answered: false,
        });
    }

    /// All replies in order, up to the first that is not made yet.
    fn output(&self) -> String {
        let mut out = String::new();
        for (seq, request) in self.requests.iter().enumerate() {
            if !request.answered {
                break;
            }
            if !request.muted {
                let map = if request.version == Version::Resp3 {
                    "%1"
                } else {
                    "*2"
                };
                out.push_str(&format!("{map}\r\n:{seq}\r\n:{seq}\r\n"));
            }
        }
        out
    }
}

#[derive(Clone, Copy)]
enum Change {
    None,
    Hello(Version),
    Replies(ReplyMode),
}

fn random_change(prng: &mut Prng) -> Change {
    match prng.below(20) {
        0 => Change::Hello(Version::Resp2),
        1 => Change::Hello(Version::Resp3),
        2 => Change::Replies(ReplyMode::On),
        3 => Change::Replies(ReplyMode::Off),
        4 | 5 => Change::Replies(ReplyMode::Skip),
        _ => Change::None,
    }
}

#[test]
fn replies_in_any_order_are_what_one_at_a_time_would_give() {
    for seed in 0..500 {
        let mut prng = Prng::new(seed);
        let (mut connection, mut scratch) = (Connection::new(), Scratch::new());
        let mut obvious = Obvious {
            version: Version::Resp2,
            off: false,
            skip_next: false,
            requests: Vec::new(),
        };
        let mut open: Vec<u32> = Vec::new();
        let mut seen = Vec::new();
        for _ in 0..200 {
            if open.is_empty() || prng.chance(1, 2) {
                let mut data = &b"*1\r\n$4\r\nPING\r\n"[..];
                let request = connection
                    .next_request_or_reply(&InputLimits::default(), &mut data, &mut scratch)
                    .expect("a request");
                let change = random_change(&mut prng);
                match change {
                    Change::None => {}
                    Change::Hello(version) => connection.set_version(request.seq, version),
                    Change::Replies(mode) => connection.set_reply_mode(request.seq, mode),
                }
                obvious.request(change);
                open.push(request.seq);
            } else {
                let seq = open.swap_remove(prng.index(open.len()));
                connection.reply(seq, |replies| {
                    replies.map(1);
                    replies.integer(seq.into());
                    replies.integer(seq.into());
                });
                obvious.requests[seq as usize].answered = true;
            }
            connection.check();
            let output = connection.output();
            seen.extend(output.to_vec());
            output.advance(output.len());
            assert_eq!(
                String::from_utf8_lossy(&seen),
                obvious.output(),
                "seed {seed}"
            );
        }
    }
}

#[test]
#[should_panic(expected = "a reply with 1 elements missing")]
fn a_reply_that_is_not_whole_does_not_pass() {
    let (mut connection, mut scratch) = (Connection::new(), Scratch::new());
    let mut data = &b"PING\n"[..];
    let limits = InputLimits::default();
    assert!(
        connection
            .next_request_or_reply(&limits, &mut data, &mut scratch)
            .is_some()
    );
    connection.reply(0, |replies| replies.array(1));
}

#[test]
#[should_panic(expected = "a second reply to request 1")]
fn a_second_reply_does_not_pass() {
    let (mut connection, mut scratch) = (Connection::new(), Scratch::new());
    let mut data = &b"PING\nPING\n"[..];
    let limits = InputLimits::default();
    while connection
        .next_request_or_reply(&limits, &mut data, &mut scratch)
        .is_some()
    {}
    connection.reply(1, |replies| replies.ok());
    connection.reply(1, |replies| replies.ok());
}

#[test]
#[should_panic(expected = "outstanding are 0")]
fn a_reply_to_nothing_does_not_pass() {
    Connection::new().reply(0, |replies| replies.ok());
}
