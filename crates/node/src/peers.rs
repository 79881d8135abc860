//! The other nodes: what is to be sent to each in this turn, and what is known of them.
//!
//! Messages of all groups are gathered by peer and link and leave as one frame at the end of the turn.
//! Votes and heartbeats have a link of their own: behind a large entry on a slow network they would
//! come too late, and a healthy primary would be voted out.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_base::{GroupId, Index, NodeId, ReplicaId, Term, UnixMillis};
use kvorum_raft::{Body, Entry, Message};

use crate::config::Config;
use crate::effect::{Effect, Level, Link};
use crate::format::manager::ManagerMessage;
use crate::format::moves::MoveMessage;
use crate::format::peer::{self, Ask, PeerHeader, PeerMessage, Wish};
use crate::limits::FRAME_BYTES_TARGET;
use crate::node::Node;

/// The highest feature level that this version can apply.
pub(crate) const LEVEL_MAX: u16 = 1;

/// One peer.
#[derive(Debug, Default)]
struct Peer {
    urgent: Vec<PeerMessage>,
    bulk: Vec<PeerMessage>,
    /// Its memory limit, once heard; 0 for none.
    memory_limit: u64,
    memory_used: u64,
    /// Since when it is among the nodes.
    known_tick: u64,
    /// When it was last heard.
    heard_tick: Option<u64>,
    /// The highest level that it can apply, once heard.
    level: Option<u16>,
    lost: bool,
}

/// All other nodes.
#[derive(Debug)]
pub(crate) struct Peers {
    own: NodeId,
    peers: BTreeMap<NodeId, Peer>,
    header: PeerHeader,
    /// Who leads a group, by the highest term heard of. Never used for a decision.
    primaries: BTreeMap<GroupId, (Term, NodeId)>,
    pub(crate) frames_sent: u64,
}

impl Peers {
    pub(crate) fn new(config: &Config, incarnation: u64) -> Self {
        let others = config.members.keys().filter(|node| **node != config.node);
        Self {
            own: config.node,
            peers: others.map(|node| (*node, Peer::default())).collect(),
            header: PeerHeader {
                level: LEVEL_MAX,
                wall: UnixMillis::ZERO,
                memory_limit: config.memory_bytes_max.unwrap_or(0),
                memory_used: 0,
                incarnation,
            },
            primaries: BTreeMap::new(),
            frames_sent: 0,
        }
    }

    /// Sends a message of one replica to another at the end of the turn.
    pub(crate) fn send(
        &mut self,
        node: NodeId,
        group: GroupId,
        from: ReplicaId,
        to: ReplicaId,
        message: Message,
    ) {
        let link = link_of(&message.body);
        self.push(
            node,
            link,
            PeerMessage::Raft {
                group,
                from,
                to,
                message,
            },
        );
    }

    /// Tells the primary's node a hash.
    pub(crate) fn report_checkpoint(
        &mut self,
        node: NodeId,
        group: GroupId,
        replica: ReplicaId,
        index: Index,
        hash: u64,
    ) {
        self.push(
            node,
            Link::Bulk,
            PeerMessage::Hash {
                group,
                replica,
                index,
                hash,
            },
        );
    }

    /// Tells a replica that its state differs from the majority's.
    pub(crate) fn report_divergence(
        &mut self,
        node: NodeId,
        group: GroupId,
        replica: ReplicaId,
        index: Index,
        hash: u64,
    ) {
        let message = PeerMessage::Diverged {
            group,
            replica,
            index,
            hash,
        };
        self.push(node, Link::Bulk, message);
    }

    /// Asks the primary for a snapshot.
    pub(crate) fn want_state(&mut self, node: NodeId, group: GroupId, replica: ReplicaId) {
        self.push(
            node,
            Link::Bulk,
            PeerMessage::StateWanted { group, replica },
        );
    }

    /// Asks the primary of a group for something.
    pub(crate) fn ask(&mut self, node: NodeId, ask: Ask, wish: Wish) {
        self.push(node, Link::Urgent, PeerMessage::Asked(ask, wish));
    }

    /// Tells a replica from which index on it may read.
    pub(crate) fn tell_read_index(&mut self, node: NodeId, ask: Ask, index: Index) {
        self.push(node, Link::Urgent, PeerMessage::ReadIndex(ask, index));
    }

    fn push(&mut self, node: NodeId, link: Link, message: PeerMessage) {
        // A node that is not among the members has no link.
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        match link {
            Link::Urgent => peer.urgent.push(message),
            Link::Bulk => peer.bulk.push(message),
        }
    }

    /// These are all nodes, this one perhaps among them.
    pub(crate) fn set_nodes(&mut self, nodes: impl Iterator<Item = NodeId> + Clone, now_tick: u64) {
        let own = self.own;
        self.peers
            .retain(|node, _| nodes.clone().any(|known| known == *node));
        for node in nodes.filter(|node| *node != own) {
            self.peers.entry(node).or_insert_with(|| Peer {
                known_tick: now_tick,
                ..Peer::default()
            });
        }
    }

    /// The link to this node is gone: what was to be sent is lost anyway.
    pub(crate) fn reset(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.urgent.clear();
            peer.bulk.clear();
        }
    }

    /// One frame for each peer and link that has messages.
    pub(crate) fn flush(&mut self, wall: Option<UnixMillis>, effects: &mut Vec<Effect>) {
        self.header.wall = wall.unwrap_or_default();
        for (node, peer) in &mut self.peers {
            let links = [
                (Link::Urgent, &mut peer.urgent),
                (Link::Bulk, &mut peer.bulk),
            ];
            for (link, messages) in links {
                let mut rest = messages.as_slice();
                while !rest.is_empty() {
                    let (frame, behind) = rest.split_at(frame_count(rest));
                    let frame = peer::encode(&self.header, frame);
                    self.frames_sent += 1;
                    effects.push(Effect::Send {
                        to: *node,
                        link,
                        frame,
                    });
                    rest = behind;
                }
                messages.clear();
            }
        }
    }

    /// What a frame says about its sender.
    fn heard(&mut self, node: NodeId, header: &PeerHeader, now_tick: u64) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.heard_tick = Some(now_tick);
            peer.memory_limit = header.memory_limit;
            peer.memory_used = header.memory_used;
            peer.level = Some(header.level);
        }
    }

    /// Whether one of these other nodes was heard since a tick.
    pub(crate) fn hears_any(
        &self,
        nodes: impl IntoIterator<Item = NodeId>,
        since_tick: u64,
    ) -> bool {
        let heard = |node| self.peers.get(&node).and_then(|peer| peer.heard_tick);
        nodes
            .into_iter()
            .filter_map(heard)
            .any(|tick| tick >= since_tick)
    }

    /// How much the groups of this node hold, to be told to the others.
    pub(crate) fn set_memory_used(&mut self, bytes: u64) {
        self.header.memory_used = bytes;
    }

    /// Whether a node can hold so many bytes more, as far as was heard.
    pub(crate) fn has_room(&self, node: NodeId, bytes: u64) -> bool {
        let (limit, used) = match self.peers.get(&node) {
            Some(peer) => (peer.memory_limit, peer.memory_used),
            None => (self.header.memory_limit, self.header.memory_used),
        };
        limit == 0 || used.saturating_add(bytes) < limit
    }

    /// Sends something about a move to the node that leads the other group.
    pub(crate) fn send_move(&mut self, node: NodeId, message: MoveMessage) {
        self.push(node, Link::Bulk, PeerMessage::Move(message));
    }

    /// Sends something to the shard manager's primary, or from it.
    pub(crate) fn send_manager(&mut self, node: NodeId, message: ManagerMessage) {
        self.push(node, Link::Bulk, PeerMessage::Manager(message));
    }

    /// For how long another node was not heard; if never, since it is known.
    pub(crate) fn silent_ticks(&self, node: NodeId, now_tick: u64) -> u64 {
        let peer = self.peers.get(&node);
        peer.map_or(0, |peer| {
            now_tick - peer.heard_tick.unwrap_or(peer.known_tick)
        })
    }

    /// Whether a node has said that it lost promises.
    pub(crate) fn is_lost(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.lost)
    }

    /// The nodes that have said so, or of which others have heard it.
    pub(crate) fn lost(&self) -> impl Iterator<Item = NodeId> + '_ {
        let lost = self.peers.iter().filter(|(_, peer)| peer.lost);
        lost.map(|(node, _)| *node)
    }

    /// Tells all nodes but these that this one leads the group.
    pub(crate) fn announce(&mut self, group: GroupId, term: Term, members: &[NodeId]) {
        let others: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in others.into_iter().filter(|node| !members.contains(node)) {
            self.push(node, Link::Bulk, PeerMessage::Leads { group, term });
        }
    }

    /// The last node that said that it leads the group, and the term.
    pub(crate) fn primary_of(&self, group: GroupId) -> Option<(Term, NodeId)> {
        self.primaries.get(&group).copied()
    }

    /// The highest level that all of these nodes can apply; `None` while one was not heard.
    pub(crate) fn common_level(&self, nodes: impl Iterator<Item = NodeId>) -> Option<u16> {
        nodes
            .map(|node| match self.peers.get(&node) {
                Some(peer) => peer.level,
                None => (node == self.own).then_some(LEVEL_MAX),
            })
            .try_fold(LEVEL_MAX, |least, level| Some(least.min(level?)))
    }
}

/// How many of these messages go into the next frame: at least one.
fn frame_count(messages: &[PeerMessage]) -> usize {
    let mut bytes = 0;
    let fits = messages.iter().take_while(|message| {
        let before = bytes;
        bytes += peer::bytes(message);
        before < FRAME_BYTES_TARGET
    });
    fits.count()
}

fn message_entries(message: &Message) -> impl Iterator<Item = &Entry> {
    let entries = match &message.body {
        Body::Append { entries, .. } => entries.as_slice(),
        _ => &[],
    };
    entries.iter()
}

fn link_of(body: &Body) -> Link {
    match body {
        Body::PreVote { .. }
        | Body::PreVoteReply { .. }
        | Body::Vote { .. }
        | Body::VoteReply { .. }
        | Body::Heartbeat { .. }
        | Body::HeartbeatReply { .. }
        | Body::TimeoutNow => Link::Urgent,
        Body::Append { .. }
        | Body::AppendReply { .. }
        | Body::Chunk(_)
        | Body::ChunkReply { .. } => Link::Bulk,
    }
}

impl Node {
    /// Takes in one frame of a peer.
    pub(crate) fn peer_frame(&mut self, from: NodeId, frame: &Bytes) {
        self.shared.counters.frames_received += 1;
        let Ok((header, messages)) = peer::decode(frame) else {
            self.shared.counters.frames_malformed += 1;
            return;
        };
        let now_tick = self.shared.now_tick;
        self.shared.clocks.heard(from, header.wall, now_tick);
        self.shared.peers.heard(from, &header, now_tick);
        if self.lost.is_some() {
            // Nothing it ever said counts, so it says nothing but this; and not to who says nothing else, or
            // two that are lost would tell each other for ever.
            let says_more = |message: &PeerMessage| !matches!(message, PeerMessage::Lost);
            if messages.iter().any(says_more) {
                self.shared
                    .peers
                    .push(from, Link::Urgent, PeerMessage::Lost);
            }
            return;
        }
        if !self.shared.log.is_started() {
            return;
        }
        for message in messages {
            self.peer_message(from, message);
        }
    }

    fn peer_message(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Raft {
                group,
                from: replica,
                to,
                message,
            } => {
                self.raft_message(from, group, replica, to, message);
            }
            PeerMessage::Lost => self.peer_lost(from),
            // A leader goes on: the members are what its log says, and replicas come and go by order.
            PeerMessage::Gone { .. } => {}
            PeerMessage::Hash {
                group,
                replica,
                index,
                hash,
            } => {
                if let Some(at) = self.position_of_member(group, replica, from) {
                    let (groups, shared) = (&mut self.groups, &mut self.shared);
                    if groups[at].leading() {
                        groups[at].checkpoint_reported(index, replica, hash, shared);
                    }
                }
            }
            PeerMessage::StateWanted { group, replica } => {
                if let Some(at) = self.position_of_member(group, replica, from) {
                    self.groups[at].state_asked(replica);
                }
            }
            PeerMessage::Move(message) => self.move_message(from, &message),
            PeerMessage::Asked(ask, wish) => {
                // Whoever is no member has nothing that may be read.
                if let Some(at) = self.position_of_member(ask.group, ask.replica, from) {
                    self.groups[at].asked_by_follower(from, ask, wish, self.shared.now_tick);
                }
            }
            PeerMessage::ReadIndex(ask, index) => {
                let (groups, shared) = (&mut self.groups, &self.shared);
                if let Some(group) = groups.iter_mut().find(|group| group.id == ask.group) {
                    group.read_index_told(&ask, index, shared);
                }
            }
            PeerMessage::Manager(message) => self.manager_message(from, message),
            PeerMessage::Leads { group, term } => {
                let primaries = &mut self.shared.peers.primaries;
                let known = primaries.entry(group).or_insert((term, from));
                *known = (*known).max((term, from));
            }
            PeerMessage::Diverged {
                group,
                replica,
                index,
                hash,
            } => {
                let own = self
                    .groups
                    .iter()
                    .position(|own| own.id == group && own.replica == replica);
                if let Some(at) = own
                    && self.groups[at].primary() == Some(from)
                {
                    self.groups[at].diverged(index, hash, &mut self.shared);
                }
            }
        }
    }

    /// The group, if this replica is a member of it on that node.
    fn position_of_member(&self, id: GroupId, replica: ReplicaId, on: NodeId) -> Option<usize> {
        let at = self.groups.iter().position(|group| group.id == id)?;
        let nodes = &self.groups[at].raft.membership().nodes;
        (nodes.get(&replica) == Some(&on)).then_some(at)
    }

    fn raft_message(
        &mut self,
        from: NodeId,
        id: GroupId,
        replica: ReplicaId,
        to: ReplicaId,
        message: Message,
    ) {
        let Some(group) = self
            .groups
            .iter_mut()
            .find(|group| group.id == id && group.replica == to)
        else {
            // A message never makes a replica.
            let gone = PeerMessage::Gone {
                group: id,
                replica: to,
            };
            self.shared.peers.push(from, Link::Bulk, gone);
            return;
        };
        if !group.hears_from(replica, from) {
            return;
        }
        let entry_bytes_max = self.shared.config.log.entry_bytes_max as usize;
        if message_entries(&message).any(|entry| entry.data.len() > entry_bytes_max) {
            // A node with another layout made it; this one's log has no place for it.
            self.shared.counters.frames_malformed += 1;
            return;
        }
        if message_entries(&message).next().is_some() && !self.shared.log.writable() {
            // No room for entries: as if the message had been lost. What is left of the log is for
            // elections.
            return;
        }
        group.raft.step(replica, message);
    }

    pub(crate) fn move_message(&mut self, from: NodeId, message: &MoveMessage) {
        let (groups, shared) = (&mut self.groups, &mut self.shared);
        if let Some(group) = groups.iter_mut().find(|group| group.id == message.to) {
            group.move_message(from, message, shared);
        }
    }

    /// A node has lost promises, as it says or as another has heard it say.
    pub(crate) fn peer_lost(&mut self, from: NodeId) {
        let Some(peer) = self.shared.peers.peers.get_mut(&from) else {
            return;
        };
        if !peer.lost {
            peer.lost = true;
            let text = format!("node {from} lost what it had promised and must be replaced");
            self.shared.note(Level::Error, None, text);
        }
    }
}
