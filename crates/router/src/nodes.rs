//! The nodes and the life of the links to them: which is asked for a slot, and what comes over it.

use kvorum_base::Slot;
use kvorum_resp::Version;
use kvorum_resp::answer::Scanner;
use kvorum_resp::request::encode_words;

use crate::event::{Effect, LinkId};
use crate::limits::{LINK_DOUBT_TICKS, MAP_TICKS_MAX, MAP_TICKS_MIN, NODES_MAX, REPLY_BYTES_MAX};
use crate::links::{Link, State, Waiting};
use crate::map::{NodeAt, parse_slots};
use crate::router::Router;

/// A node as the router knows it: its address and its two links, of versions 2 and 3.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) links: [u32; 2],
    /// It is a port for replicas: only reads go there, and only links that are wanted are made.
    pub(crate) is_replica: bool,
}

impl Router {
    pub(crate) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links
            .get_mut(id.index as usize)
            .filter(|link| link.id == id && !matches!(link.state, State::Down { .. }))
    }

    /// The node at an address, which is noted if it is new. The first one if there are too many.
    pub(crate) fn node_at(&mut self, address: &str) -> NodeAt {
        let known = self.nodes.iter().position(|node| node.address == address);
        if let Some(at) = known {
            return NodeAt(at as u16);
        }
        if self.nodes.len() >= NODES_MAX {
            return NodeAt(0);
        }
        let node = NodeAt(self.nodes.len() as u16);
        let first = self.links.len() as u32;
        for (index, version) in [Version::Resp2, Version::Resp3].into_iter().enumerate() {
            self.links
                .push(Link::new(first + index as u32, node, version));
        }
        self.nodes.push(Node {
            address: address.to_owned(),
            links: [first, first + 1],
            is_replica: false,
        });
        node
    }

    pub(crate) fn link_of(&self, node: NodeAt, version: Version) -> u32 {
        self.nodes[usize::from(node.0)].links[usize::from(version == Version::Resp3)]
    }

    /// The link for a slot: that to its owner, or, where none is known, to anybody, who will know more.
    /// `Err`: why there is none now.
    pub(crate) fn link_for(&mut self, slot: Slot, version: Version) -> Result<u32, String> {
        let node = self.map.owner(slot).or_else(|| {
            let mut primaries = self.links.iter().filter(|link| !self.is_to_replica(link));
            let up = primaries.find(|link| link.is_up());
            up.map(|link| link.node)
        });
        let Some(node) = node else {
            self.map_wanted = true;
            let reason = self.links.first().map_or("", |link| &link.reason);
            return Err(format!(
                "CLUSTERDOWN no node of the cluster can be reached: {reason}"
            ));
        };
        let index = self.link_of(node, version);
        let now_tick = self.now_tick;
        let link = &mut self.links[index as usize];
        match link.state {
            State::Down { .. } if link.may_dial(now_tick) => {
                self.dial(index);
                Ok(index)
            }
            State::Down { .. } => {
                let (address, reason) = (&self.nodes[usize::from(node.0)].address, &link.reason);
                let text = format!("CLUSTERDOWN {address} cannot be reached: {reason}");
                self.map_wanted = true;
                Err(text)
            }
            State::Dialling | State::Greeting(_) | State::Up => Ok(index),
        }
    }

    pub(crate) fn dial(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        let address = self.nodes[usize::from(link.node.0)].address.clone();
        let link = link.dial();
        self.effects.push(Effect::Dial { link, address });
    }

    pub(crate) fn link_up(&mut self, id: LinkId) {
        let password = self.config.password.clone();
        let now_tick = self.now_tick;
        if let Some(link) = self.link(id).filter(|link| link.state == State::Dialling) {
            link.greet(password.as_deref(), now_tick);
            self.touch_link(id.index);
        }
    }

    pub(crate) fn link_down(&mut self, id: LinkId, reason: &str) {
        if self.link(id).is_none() {
            return;
        }
        let link = &mut self.links[id.index as usize];
        let was_up = link.is_up();
        let broken = link.broke(reason, self.now_tick);
        if was_up {
            let node = &self.nodes[usize::from(link.node.0)];
            let text = format!("the link to {} broke: {reason}", node.address);
            self.effects.push(Effect::Note(text));
            self.counters.links_broken += 1;
        }
        if self.map_asked_at == Some(id.index) {
            self.map_asked_at = None;
        }
        self.map_wanted = true;
        self.take_back(broken);
    }

    /// Ends a link from this side.
    pub(crate) fn hang_up(&mut self, index: u32, reason: &str) {
        let id = self.links[index as usize].id;
        self.effects.push(Effect::HangUp(id));
        self.link_down(id, reason);
    }

    pub(crate) fn link_bytes(&mut self, id: LinkId, data: &[u8]) {
        let Some(link) = self.link(id) else { return };
        let mut scanner = link.scanner;
        let mut kept = std::mem::take(&mut link.partial);
        let input = if kept.is_empty() {
            data
        } else {
            kept.extend_from_slice(data);
            &kept
        };
        let mut at = 0;
        let failure = loop {
            match scanner.advance(&input[at..]) {
                Ok(Some(len)) => {
                    self.link_replied(id, &input[at..at + len]);
                    at += len;
                    scanner = Scanner::default();
                    if self.link(id).is_none() {
                        return;
                    }
                }
                Ok(None) if input.len() - at > REPLY_BYTES_MAX => {
                    break Some("a reply is too long");
                }
                Ok(None) => break None,
                Err(_) => break Some("what came is no reply"),
            }
        };
        if let Some(reason) = failure {
            return self.hang_up(id.index, reason);
        }
        let rest = input[at..].to_vec();
        if let Some(link) = self.link(id) {
            link.scanner = scanner;
            link.partial = rest;
        }
        self.pump_link(id.index);
    }

    /// One whole reply has come over a link.
    pub(crate) fn link_replied(&mut self, id: LinkId, reply: &[u8]) {
        if reply.first() == Some(&b'>') {
            // Something that nobody asked for.
            return;
        }
        let now_tick = self.now_tick;
        let Some(link) = self.link(id) else { return };
        match link.replied(now_tick) {
            Some(Waiting::Piece(ticket)) => self.answered(ticket, reply),
            Some(Waiting::Map) => self.map_told(reply),
            Some(Waiting::Greeting) => self.greeting_replied(id.index, reply),
            None => {
                let text = String::from_utf8_lossy(reply).trim_end().to_owned();
                self.hang_up(id.index, &format!("it said unasked: {text}"));
            }
        }
    }

    pub(crate) fn greeting_replied(&mut self, index: u32, reply: &[u8]) {
        if reply.first() == Some(&b'-') {
            let text = String::from_utf8_lossy(&reply[1..]).trim_end().to_owned();
            let node = self.links[index as usize].node;
            let address = &self.nodes[usize::from(node.0)].address;
            let note = format!("{address} refuses a router's link: {text}");
            self.effects.push(Effect::Note(note));
            return self.hang_up(index, &text);
        }
        if self.links[index as usize].greeted() {
            self.map_wanted |= self.map.known() == 0;
            self.pump_link(index);
            self.retry_parked();
        }
    }

    pub(crate) fn touch_link(&mut self, index: u32) {
        let link = &mut self.links[index as usize];
        if !link.touched && !link.out.is_empty() {
            link.touched = true;
            self.touched_links.push(index);
        }
    }

    pub(crate) fn map_told(&mut self, reply: &[u8]) {
        self.map_asked_at = None;
        let Some(ranges) = parse_slots(reply) else {
            self.map_wanted = true;
            return;
        };
        let before = self.map.changes;
        let mut replicas = Vec::new();
        for range in ranges {
            let node = self.node_at(&range.primary);
            self.map.told(range.run, node, self.map_asked_tick);
            let addresses = range.replicas.iter();
            let nodes = addresses.map(|address| self.replica_at(address)).collect();
            replicas.push((range.run, nodes));
        }
        self.map.told_replicas(replicas);
        self.counters.maps += 1;
        if self.map.changes != before {
            self.take_back_reads();
            self.retry_parked();
        }
    }

    /// Asks some node for the map, if it is time.
    pub(crate) fn maybe_ask_map(&mut self) {
        let since = self.now_tick - self.map_asked_tick;
        let due = self.map_wanted && since >= MAP_TICKS_MIN || since >= MAP_TICKS_MAX;
        let now_tick = self.now_tick;
        let in_doubt = |link: &Link| link.is_silent(now_tick, LINK_DOUBT_TICKS);
        let is_asked = |at: &u32| !in_doubt(&self.links[*at as usize]);
        if !due || self.map_asked_at.filter(is_asked).is_some() {
            return;
        }
        let count = self.links.len();
        let order = (0..count).map(|offset| (self.map_turn + offset) % count);
        let asked = order
            .map(|at| &self.links[at])
            .filter(|link| link.version == Version::Resp2 && !self.is_to_replica(link))
            .find(|link| link.has_room() && !in_doubt(link));
        let Some(index) = asked.map(|link| link.id.index) else {
            return;
        };
        let request = encode_words(&[b"CLUSTER", b"SLOTS"]);
        self.links[index as usize].put(&request, Waiting::Map, self.now_tick);
        self.touch_link(index);
        self.map_turn = index as usize + 1;
        self.map_asked_at = Some(index);
        self.map_asked_tick = self.now_tick;
        self.map_wanted = false;
    }
}
