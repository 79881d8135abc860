//! What nodes say to the shard manager's primary and it to them, as bytes.
//!
//! | kind (1 byte) | | |
//! |---|---|---|
//! | 1 | ask | number varint, block: a request as in the `cluster` crate |
//! | 2 | answer | number varint, how 1: 1 replied, then a block: the reply; 2 not done; 3 unknown |
//! | 3 | report | newness of the state that is held, count, per group led: group, term, logical bytes; |
//! | | | count, per node not heard: node, milliseconds; |
//! | | | count, per large slot that has to move: slot, bytes; |
//! | | | count, nodes that lost promises; 1 if the disk is full, or 0; all varints, each list rising |
//! | 4 | state | block: a state as in the `cluster` crate |

use bytes::Bytes;
use kvorum_base::cursor::{put_block, put_varint};
use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{GroupId, Index, Malformed, NodeId, Reader, Slot, Term};
use kvorum_cluster::{Reply, Request};

/// What became of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It was applied, and this was said.
    Replied(Reply),
    /// It was not applied and never will be.
    NotDone,
    /// It may have been applied, or will be.
    Unknown,
}

/// A group that the sender leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Led {
    /// The group.
    pub group: GroupId,
    /// In which term.
    pub term: Term,
    /// Its logical bytes.
    pub bytes: u64,
}

/// What a node tells the primary now and then. Hearsay, except for what the sender itself holds.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// How new the state is that it holds; 0 for none.
    pub held: Index,
    /// The groups that it leads, by id.
    pub led: Vec<Led>,
    /// Nodes of these groups that it has not heard, by id, and for how many milliseconds.
    pub silent: Vec<(NodeId, u64)>,
    /// The logical bytes of slots of these groups that have to move and are so large that few of them make a
    /// move.
    pub slots: Vec<(Slot, u64)>,
    /// Nodes that have told it that they lost promises, by id.
    pub lost: Vec<NodeId>,
    /// Whether its disk has no room.
    pub is_full: bool,
}

/// A message to or from the shard manager's primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManagerMessage {
    /// Please propose this.
    Ask {
        /// Names the answer; rises, over restarts too.
        number: u64,
        /// What.
        request: Request,
    },
    /// What became of it.
    Answer {
        /// The number it was asked under.
        number: u64,
        /// What became of it.
        answer: Answer,
    },
    /// What a node knows.
    Report(Report),
    /// The shard manager's state, encoded.
    State(Bytes),
}

/// How many bytes a message takes, about.
#[must_use]
pub fn message_bytes(message: &ManagerMessage) -> usize {
    const NUMBERS_BYTES: usize = 32;
    match message {
        ManagerMessage::State(bytes) => NUMBERS_BYTES + bytes.len(),
        ManagerMessage::Report(report) => {
            let pairs = report.silent.len() + report.slots.len();
            NUMBERS_BYTES + 30 * report.led.len() + 20 * pairs + 10 * report.lost.len()
        }
        // Rare enough to be encoded once more.
        ManagerMessage::Ask { request, .. } => NUMBERS_BYTES + request.encode().len(),
        ManagerMessage::Answer {
            answer: Answer::Replied(reply),
            ..
        } => NUMBERS_BYTES + reply.encode().len(),
        ManagerMessage::Answer { .. } => NUMBERS_BYTES,
    }
}

/// Appends a message.
pub fn put_message(out: &mut Vec<u8>, message: &ManagerMessage) {
    match message {
        ManagerMessage::Ask { number, request } => {
            out.push(1);
            put_varint(out, *number);
            put_block(out, &request.encode());
        }
        ManagerMessage::Answer { number, answer } => {
            out.push(2);
            put_varint(out, *number);
            match answer {
                Answer::Replied(reply) => {
                    out.push(1);
                    put_block(out, &reply.encode());
                }
                Answer::NotDone => out.push(2),
                Answer::Unknown => out.push(3),
            }
        }
        ManagerMessage::Report(Report {
            held,
            led,
            silent,
            slots,
            lost,
            is_full,
        }) => {
            out.push(3);
            put_varint(out, held.get());
            put_varint(out, led.len() as u64);
            for Led { group, term, bytes } in led {
                for number in [group.get(), term.get(), *bytes] {
                    put_varint(out, number);
                }
            }
            put_varint(out, silent.len() as u64);
            for (node, silent_ms) in silent {
                put_varint(out, node.get());
                put_varint(out, *silent_ms);
            }
            put_varint(out, slots.len() as u64);
            for (slot, bytes) in slots {
                put_varint(out, u64::from(slot.get()));
                put_varint(out, *bytes);
            }
            put_varint(out, lost.len() as u64);
            for node in lost {
                put_varint(out, node.get());
            }
            out.push(u8::from(*is_full));
        }
        ManagerMessage::State(bytes) => {
            out.push(4);
            put_block(out, bytes);
        }
    }
}

/// Reads a message.
///
/// # Errors
/// If the bytes are none.
pub fn read_message(reader: &mut Reader<'_>) -> Result<ManagerMessage, Malformed> {
    Ok(match reader.u8("kind of a manager's message")? {
        1 => ManagerMessage::Ask {
            number: reader.varint("number of a request")?,
            request: Request::decode(reader.block("request")?)?,
        },
        2 => ManagerMessage::Answer {
            number: reader.varint("number of an answer")?,
            answer: match reader.u8("kind of an answer")? {
                1 => Answer::Replied(Reply::decode(reader.block("reply")?)?),
                2 => Answer::NotDone,
                3 => Answer::Unknown,
                _ => return Err(reader.malformed("kind of an answer")),
            },
        },
        3 => ManagerMessage::Report(read_report(reader)?),
        4 => ManagerMessage::State(Bytes::copy_from_slice(reader.block("state")?)),
        _ => return Err(reader.malformed("kind of a manager's message")),
    })
}

fn read_report(reader: &mut Reader<'_>) -> Result<Report, Malformed> {
    let held = super::read_count(reader, "held entry").map(Index)?;
    let mut report = Report {
        held,
        ..Report::default()
    };
    for _ in 0..reader.varint("groups led")? {
        let led = Led {
            group: GroupId(reader.varint("group led")?),
            term: super::read_count(reader, "term led in").map(Term)?,
            bytes: reader.varint("bytes of a group")?,
        };
        if report
            .led
            .last()
            .is_some_and(|last| last.group >= led.group)
        {
            return Err(reader.malformed("order of groups"));
        }
        report.led.push(led);
    }
    for _ in 0..reader.varint("silent nodes")? {
        let node = NodeId(reader.varint("silent node")?);
        if report.silent.last().is_some_and(|(last, _)| *last >= node) {
            return Err(reader.malformed("order of nodes"));
        }
        report.silent.push((node, reader.varint("silence")?));
    }
    for _ in 0..reader.varint("large slots")? {
        let slot = u16::try_from(reader.varint("large slot")?);
        let slot = slot.ok().filter(|slot| *slot < SLOT_COUNT);
        let slot = Slot(slot.ok_or_else(|| reader.malformed("large slot"))?);
        if report.slots.last().is_some_and(|(last, _)| *last >= slot) {
            return Err(reader.malformed("order of slots"));
        }
        report.slots.push((slot, reader.varint("bytes of a slot")?));
    }
    for _ in 0..reader.varint("lost nodes")? {
        let node = NodeId(reader.varint("lost node")?);
        if report.lost.last().is_some_and(|last| *last >= node) {
            return Err(reader.malformed("order of nodes"));
        }
        report.lost.push(node);
    }
    report.is_full = super::read_flag(reader, "full disk")?;
    Ok(report)
}
