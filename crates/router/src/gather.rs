//! Requests whose keys lie in several slots: split into a part for each slot, and put together again.
//!
//! A split request is not one step: another client can see one part done and another not. Its reply is its
//! result if all parts were done. If a part was refused or is in doubt, a request that changes nothing is
//! refused; one that does is refused only if every part was, and is otherwise `-UNKNOWN` with the keys that
//! are not known to be done: a client that was told "refused" would believe that nothing had happened.

use kvorum_base::{ConnId, Slot};
use kvorum_kv::{Spec, keys_of};
use kvorum_resp::answer::{Element, Elements};
use kvorum_resp::{Args, ArgsBuf, Replies};

use crate::answers::Answer;
use crate::limits::NAMED_KEYS_BYTES_MAX;
use crate::router::Router;

/// How the parts' replies become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A list of values in the order of the keys.
    Values,
    /// OK.
    Ok,
    /// The sum of counts.
    Sum,
}

/// How a request can be split, if it can.
pub(crate) fn kind_of(spec: &Spec) -> Option<Kind> {
    match spec.name {
        "mget" => Some(Kind::Values),
        "mset" => Some(Kind::Ok),
        "del" | "unlink" | "exists" | "touch" => Some(Kind::Sum),
        _ => None,
    }
}

/// What is known of a part.
#[derive(Clone, Debug)]
enum Part {
    Awaited,
    Done(Vec<u8>),
    Refused(Vec<u8>),
    Unknown,
}

/// A request that is on its way in parts.
#[derive(Debug)]
pub(crate) struct Gather {
    conn: ConnId,
    seq: u32,
    spec: &'static Spec,
    kind: Kind,
    /// The request as the client sent it.
    request: ArgsBuf,
    /// For each key the number of its part.
    part_of_key: Vec<u32>,
    parts: Vec<Part>,
    awaited: usize,
}

/// The parts of a request: slot and arguments of each, and for each key the number of its part.
pub(crate) fn split(spec: &Spec, args: Args<'_>) -> (Vec<(Slot, ArgsBuf)>, Vec<u32>) {
    let kvorum_kv::Keys::Range { step, .. } = spec.keys else {
        unreachable!("{} has keys in a range", spec.name);
    };
    let step = step as usize;
    let mut parts: Vec<(Slot, ArgsBuf)> = Vec::new();
    let mut numbers = std::collections::BTreeMap::new();
    let mut part_of_key = Vec::new();
    for (at, key) in keys_of(spec, args).enumerate() {
        let slot = kvorum_base::slot::slot_of(key);
        let number = *numbers.entry(slot).or_insert_with(|| {
            let mut name = ArgsBuf::new();
            name.push(args.get(0));
            parts.push((slot, name));
            parts.len() - 1
        });
        // The key, and its value where it has one.
        for position in 1 + at * step..(1 + (at + 1) * step).min(args.len()) {
            parts[number].1.push(args.get(position));
        }
        part_of_key.push(number as u32);
    }
    (parts, part_of_key)
}

impl Gather {
    pub(crate) fn new(
        conn: ConnId,
        seq: u32,
        spec: &'static Spec,
        kind: Kind,
        args: Args<'_>,
        part_of_key: Vec<u32>,
        parts: usize,
    ) -> Self {
        Self {
            conn,
            seq,
            spec,
            kind,
            request: ArgsBuf::from(args),
            part_of_key,
            parts: vec![Part::Awaited; parts],
            awaited: parts,
        }
    }

    /// Notes the answer of a part; says whether it was the last.
    fn note(&mut self, part: usize, answer: &Answer<'_>) -> bool {
        self.parts[part] = match answer {
            Answer::Reply(reply) => match Elements::new(reply).element() {
                Some(Element::Error(text)) => Part::Refused(text.to_vec()),
                _ => Part::Done(reply.to_vec()),
            },
            Answer::Refused(text) => Part::Refused(text.to_vec()),
            Answer::Unknown(_) => Part::Unknown,
        };
        self.awaited -= 1;
        self.awaited == 0
    }

    /// Writes the reply to the whole request.
    fn reply(&self, replies: &mut Replies<'_>) {
        let all_done = self.parts.iter().all(|part| matches!(part, Part::Done(_)));
        if all_done {
            return self.result(replies);
        }
        let mut refusals = self.parts.iter().filter_map(|part| match part {
            Part::Refused(text) => Some(text),
            _ => None,
        });
        let first = refusals.next();
        let all_refused = 1 + refusals.count() == self.parts.len();
        match first {
            Some(text) if !self.spec.is_write() || all_refused => replies.error_bytes(text),
            _ => replies.error_bytes(&self.doubt()),
        }
    }

    fn result(&self, replies: &mut Replies<'_>) {
        match self.kind {
            Kind::Ok => replies.ok(),
            Kind::Sum => {
                let counts = self.parts.iter().map(|part| match part {
                    Part::Done(reply) => Elements::new(reply).integer().unwrap_or(0),
                    _ => 0,
                });
                replies.integer(counts.sum());
            }
            Kind::Values => self.values(replies),
        }
    }

    /// The values of all parts in the order of the keys.
    fn values(&self, replies: &mut Replies<'_>) {
        let mut parts: Vec<Elements<'_>> = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let Part::Done(reply) = part else {
                unreachable!("all parts are done")
            };
            let mut elements = Elements::new(reply);
            elements.array();
            parts.push(elements);
        }
        replies.array(self.part_of_key.len());
        for part in &self.part_of_key {
            match parts[*part as usize].raw() {
                Some(value) => replies.encoded(value),
                None => replies.null(),
            }
        }
    }

    /// How many parts ended how, and the keys that are not known to be done.
    fn doubt(&self) -> Vec<u8> {
        let count = |is: fn(&Part) -> bool| self.parts.iter().filter(|part| is(part)).count();
        let mut text = format!(
            "UNKNOWN {} of {} parts were done and {} refused; of the others it is not known. Not known to \
             be done, by key:",
            count(|part| matches!(part, Part::Done(_))),
            self.parts.len(),
            count(|part| matches!(part, Part::Refused(_))),
        )
        .into_bytes();
        let keys = keys_of(self.spec, self.request.as_args());
        let mut left = NAMED_KEYS_BYTES_MAX;
        for (key, part) in keys.zip(&self.part_of_key) {
            if matches!(self.parts[*part as usize], Part::Done(_)) {
                continue;
            }
            let Some(rest) = left.checked_sub(key.len() + 1) else {
                text.extend_from_slice(b" ...");
                break;
            };
            left = rest;
            text.push(b' ');
            text.extend_from_slice(key);
        }
        text
    }
}

impl Router {
    /// A part of a split request is answered.
    pub(crate) fn part_answered(&mut self, gather: u64, part: u32, answer: &Answer<'_>) {
        let Some(waiting) = self.gathers.get_mut(&gather) else {
            return;
        };
        if waiting.note(part as usize, answer)
            && let Some(done) = self.gathers.remove(&gather)
        {
            self.clients
                .reply(done.conn, done.seq, |replies| done.reply(replies));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_resp::{OutBuf, Version};

    fn request(words: &[&str]) -> ArgsBuf {
        words.iter().collect()
    }

    fn gather(words: &[&str], answers: &[Answer<'_>]) -> String {
        let request = request(words);
        let args = request.as_args();
        let spec = kvorum_kv::find(args).expect("a command");
        let (parts, part_of_key) = split(spec, args);
        assert_eq!(parts.len(), answers.len());
        let kind = kind_of(spec).expect("a command that can be split");
        let mut gather = Gather::new(
            ConnId::default(),
            0,
            spec,
            kind,
            args,
            part_of_key,
            parts.len(),
        );
        for (part, answer) in answers.iter().enumerate() {
            assert_eq!(gather.note(part, answer), part + 1 == answers.len());
        }
        let mut out = OutBuf::new();
        gather.reply(&mut Replies::client(&mut out, Version::Resp2));
        String::from_utf8(out.to_vec()).expect("text")
    }

    fn refused(text: &str) -> Answer<'_> {
        Answer::Refused(text.as_bytes().into())
    }

    fn unknown() -> Answer<'static> {
        Answer::Unknown(b"UNKNOWN".into())
    }

    #[test]
    fn a_request_is_split_by_slot_and_keeps_the_order_within() {
        let request = request(&["MSET", "a", "1", "b", "2", "{a}x", "3", "a", "4"]);
        let spec = kvorum_kv::find(request.as_args()).expect("MSET");
        let (parts, part_of_key) = split(spec, request.as_args());
        let words: Vec<String> = parts.iter().map(|(_, args)| format!("{args:?}")).collect();
        assert_eq!(
            words,
            [
                r#"["MSET", "a", "1", "{a}x", "3", "a", "4"]"#,
                r#"["MSET", "b", "2"]"#
            ]
        );
        assert_eq!(part_of_key, [0, 1, 0, 0]);
    }

    #[test]
    fn values_come_in_the_order_of_the_keys() {
        let answers = [
            Answer::Reply(b"*2\r\n$1\r\n1\r\n$-1\r\n"),
            Answer::Reply(b"*1\r\n$1\r\n2\r\n"),
        ];
        assert_eq!(
            gather(&["MGET", "a", "b", "{a}x"], &answers),
            "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n"
        );
    }

    #[test]
    fn counts_are_added() {
        let answers = [Answer::Reply(b":2\r\n"), Answer::Reply(b":1\r\n")];
        assert_eq!(gather(&["DEL", "a", "b", "{a}x"], &answers), ":3\r\n");
    }

    #[test]
    fn a_read_is_refused_and_a_write_only_as_a_whole() {
        let done = Answer::Reply(b":1\r\n");
        let no = || refused("TRYAGAIN no");
        assert_eq!(
            gather(&["EXISTS", "a", "b"], &[done.clone(), no()]),
            "-TRYAGAIN no\r\n"
        );
        assert_eq!(
            gather(&["DEL", "a", "b"], &[no(), no()]),
            "-TRYAGAIN no\r\n"
        );
        let reply = gather(&["DEL", "a", "b"], &[done.clone(), no()]);
        assert!(
            reply.starts_with("-UNKNOWN 1 of 2 parts were done and 1 refused"),
            "{reply}"
        );
        assert!(reply.ends_with("by key: b\r\n"), "{reply}");
        let reply = gather(&["DEL", "a", "b"], &[unknown(), no()]);
        assert!(reply.starts_with("-UNKNOWN 0 of 2"), "{reply}");
        assert!(reply.ends_with("by key: a b\r\n"), "{reply}");
        let oom = Answer::Reply(b"-OOM no\r\n");
        let reply = gather(&["MSET", "a", "1", "b", "2"], &[oom.clone(), oom]);
        assert_eq!(reply, "-OOM no\r\n");
    }

    #[test]
    fn a_reply_names_only_so_many_keys() {
        let long = "k".repeat(NAMED_KEYS_BYTES_MAX);
        let reply = gather(&["DEL", "a", &long], &[unknown(), unknown()]);
        assert!(reply.ends_with("by key: a ...\r\n"), "{}", reply.len());
    }
}
