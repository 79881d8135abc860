//! Which node serves which slot, as far as known.
//!
//! Soft: a wrong entry costs a redirect. It is learnt from CLUSTER SLOTS, which any node answers, and from
//! every redirect. A redirect that came after the question for the map knows more than its answer.

use kvorum_base::Slot;
use kvorum_base::slot::SLOT_COUNT;
use kvorum_resp::answer::Elements;

/// A node's place in the router's list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct NodeAt(pub(crate) u16);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    node: Option<NodeAt>,
    /// When a redirect said so, in ticks; 0: no redirect did.
    redirect_tick: u64,
}

/// The map.
#[derive(Debug)]
pub(crate) struct Map {
    slots: Vec<Known>,
    /// Runs of slots in order, and the ports for replicas of each, as the last map told.
    replicas: Vec<((u16, u16), Vec<NodeAt>)>,
    /// How often an entry has changed.
    pub(crate) changes: u64,
}

impl Map {
    pub(crate) fn new() -> Self {
        Self {
            slots: vec![Known::default(); usize::from(SLOT_COUNT)],
            replicas: Vec::new(),
            changes: 0,
        }
    }

    /// Who serves a slot.
    pub(crate) fn owner(&self, slot: Slot) -> Option<NodeAt> {
        self.slots[usize::from(slot.get())].node
    }

    /// A redirect says that a node serves a slot.
    pub(crate) fn redirected(&mut self, slot: Slot, node: NodeAt, now_tick: u64) {
        let known = &mut self.slots[usize::from(slot.get())];
        self.changes += u64::from(known.node != Some(node));
        *known = Known {
            node: Some(node),
            redirect_tick: now_tick,
        };
    }

    /// A map that was asked for at `asked_tick` says that a node serves these slots.
    pub(crate) fn told(&mut self, (first, last): (u16, u16), node: NodeAt, asked_tick: u64) {
        for known in &mut self.slots[usize::from(first)..=usize::from(last)] {
            if known.node != Some(node) && known.redirect_tick < asked_tick {
                known.node = Some(node);
                self.changes += 1;
            }
        }
    }

    /// A map tells of all replicas, in the order of their slots.
    pub(crate) fn told_replicas(&mut self, replicas: Vec<((u16, u16), Vec<NodeAt>)>) {
        self.replicas = replicas;
        self.replicas.sort_by_key(|(run, _)| *run);
    }

    /// The ports for replicas of a slot.
    pub(crate) fn replicas(&self, slot: Slot) -> &[NodeAt] {
        let behind = self
            .replicas
            .partition_point(|((first, _), _)| *first <= slot.get());
        let run = behind.checked_sub(1).map(|at| &self.replicas[at]);
        match run {
            Some(((_, last), nodes)) if slot.get() <= *last => nodes,
            _ => &[],
        }
    }

    /// How many slots have a known owner.
    pub(crate) fn known(&self) -> usize {
        self.slots
            .iter()
            .filter(|known| known.node.is_some())
            .count()
    }
}

/// A range of slots, and who is said to serve it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first slot and the last one.
    pub run: (u16, u16),
    /// Where its primary takes clients: `host:port`.
    pub primary: String,
    /// Where replicas of it take readers.
    pub replicas: Vec<String>,
}

/// The ranges of a reply to CLUSTER SLOTS; `None` if it is not one.
#[must_use]
pub fn parse_slots(reply: &[u8]) -> Option<Vec<Range>> {
    let mut elements = Elements::new(reply);
    let count = elements.array()?;
    let mut ranges = Vec::new();
    for _ in 0..count {
        let mut range = Elements::new(elements.raw()?);
        let len = range.array().filter(|len| *len >= 3)?;
        let slot = |number: i64| u16::try_from(number).ok().filter(|slot| *slot < SLOT_COUNT);
        let (first, last) = (slot(range.integer()?)?, slot(range.integer()?)?);
        let primary = endpoint(range.raw()?)?;
        let replicas = (3..len).map(|_| endpoint(range.raw()?));
        let replicas = replicas.collect::<Option<Vec<String>>>()?;
        if first > last {
            return None;
        }
        ranges.push(Range {
            run: (first, last),
            primary,
            replicas,
        });
    }
    Some(ranges)
}

/// The address of one who serves a range.
fn endpoint(element: &[u8]) -> Option<String> {
    let mut parts = Elements::new(element);
    parts.array().filter(|len| *len >= 2)?;
    let host = std::str::from_utf8(parts.text()?).ok()?;
    let port = u16::try_from(parts.integer()?).ok()?;
    Some(address(host, port))
}

/// `host:port`, of an IPv6 host in brackets.
fn address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_read_from_a_reply() {
        let reply = b"*2\r\n*4\r\n:0\r\n:99\r\n*4\r\n$1\r\na\r\n:1\r\n$1\r\nx\r\n*0\r\n\
            *4\r\n$1\r\nb\r\n:2\r\n$1\r\ny\r\n*0\r\n\
            *3\r\n:100\r\n:16383\r\n*4\r\n$3\r\n::1\r\n:3\r\n$1\r\nz\r\n*0\r\n";
        let range = |run, primary: &str, replicas: &[&str]| Range {
            run,
            primary: primary.to_owned(),
            replicas: replicas.iter().map(|text| (*text).to_owned()).collect(),
        };
        let ranges = vec![
            range((0, 99), "a:1", &["b:2"]),
            range((100, 16383), "[::1]:3", &[]),
        ];
        assert_eq!(parse_slots(reply), Some(ranges));
        let no_replica = b"*1\r\n*4\r\n:0\r\n:9\r\n*2\r\n+a\r\n:1\r\n+b\r\n";
        assert_eq!(parse_slots(no_replica), None);
        assert_eq!(parse_slots(b"-ERR no\r\n"), None);
        assert_eq!(
            parse_slots(b"*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n+a\r\n:1\r\n"),
            None
        );
    }

    #[test]
    fn replicas_are_those_of_the_last_map() {
        let mut map = Map::new();
        let runs = vec![
            ((20, 29), vec![NodeAt(1)]),
            ((0, 9), vec![NodeAt(2), NodeAt(3)]),
        ];
        map.told_replicas(runs);
        for (slot, nodes) in [
            (0, &[NodeAt(2), NodeAt(3)][..]),
            (9, &[NodeAt(2), NodeAt(3)]),
            (10, &[]),
            (20, &[NodeAt(1)]),
            (30, &[]),
        ] {
            assert_eq!(map.replicas(Slot(slot)), nodes, "{slot}");
        }
        map.told_replicas(Vec::new());
        assert!(map.replicas(Slot(0)).is_empty());
    }

    #[test]
    fn a_redirect_is_newer_than_a_map_that_was_asked_for_before_it() {
        let (a, b) = (NodeAt(0), NodeAt(1));
        let mut map = Map::new();
        map.told((0, 10), a, 5);
        map.redirected(Slot(3), b, 7);
        map.told((0, 16383), a, 7);
        assert_eq!(map.owner(Slot(3)), Some(b));
        assert_eq!(map.owner(Slot(4)), Some(a));
        map.told((0, 10), a, 8);
        assert_eq!(map.owner(Slot(3)), Some(a));
        assert_eq!(map.changes, 16383 + 1 + 1 + 1);
    }
}
