//! The primary of the group that is to have the slots: pieces into its log, answers to the source.
//!
//! A piece is proposed only when it is the next one and the own writers leave room; whatever is not taken
//! comes again. The source is told what was *applied*, never what was proposed.

use bytes::Bytes;
use kvorum_base::{Bug, GroupId, Index, MoveId, NodeId, Reader};

use crate::format::moves::{MoveEntry, MoveNote, Progress, Whole, read_piece};
use crate::group::Group;
use crate::limits::MOVE_UNCOMMITTED_BYTES;
use crate::shared::Shared;

/// One stream that arrives here.
#[derive(Debug)]
pub(crate) struct Target {
    attempt: u32,
    /// The piece to propose next, as far as what was proposed is not applied yet.
    proposed: u64,
    /// The last entry about it.
    last: Index,
    /// Who streams.
    node: NodeId,
    source: GroupId,
    told: Option<Progress>,
}

impl Group {
    pub(super) fn piece_arrived(
        &mut self,
        node: NodeId,
        source: GroupId,
        (room, bytes): (u64, &Bytes),
        shared: &mut Shared,
    ) {
        let Ok(piece) = read_piece(&mut Reader::new(bytes)) else {
            shared.counters.frames_malformed += 1;
            return;
        };
        let (id, attempt, number) = (piece.id, piece.attempt, piece.number);
        let progress = self.progress_of(id);
        let applied = self
            .state
            .as_ref()
            .map_or(Index::ZERO, |state| state.applied);
        let staged = match progress {
            Progress::Staging { attempt: of, next } if of == attempt => next,
            Progress::Staging { attempt: of, .. } | Progress::Broken { attempt: of }
                if of < attempt =>
            {
                0
            }
            Progress::Unknown => 0,
            _ => return self.tell_progress(node, source, id, shared),
        };
        let expected = match self.driver.targets.get(&id) {
            Some(target) if target.attempt == attempt && target.last > applied => target.proposed,
            _ => staged,
        };
        if number != expected {
            return self.tell_progress(node, source, id, shared);
        }
        if self.raft.uncommitted_bytes() > MOVE_UNCOMMITTED_BYTES {
            return;
        }
        let has_room = number > 0 || self.has_room_for(room, shared);
        let entry = match has_room {
            true => MoveEntry::Stage(piece),
            false => MoveEntry::Refused { id },
        };
        if !self.propose_move(&entry, shared) {
            return;
        }
        let told = self.driver.targets.get(&id).and_then(|target| target.told);
        let target = Target {
            attempt,
            proposed: number + 1,
            last: self.raft.last_index(),
            node,
            source,
            told,
        };
        self.driver.targets.insert(id, target);
    }

    /// Whether every node of this group can hold so many bytes more.
    fn has_room_for(&self, bytes: u64, shared: &Shared) -> bool {
        let mut nodes = self.raft.membership().nodes.values();
        nodes.all(|node| shared.peers.has_room(*node, bytes))
    }

    pub(super) fn finish_arrived(
        &mut self,
        node: NodeId,
        source: GroupId,
        stream: Whole,
        shared: &mut Shared,
    ) {
        let whole = Progress::Staging {
            attempt: stream.attempt,
            next: stream.pieces,
        };
        let checks = !shared.config.planted.has(Bug::ReceivedUnchecked);
        if checks && self.progress_of(stream.id) != whole {
            return self.tell_progress(node, source, stream.id, shared);
        }
        let received = MoveEntry::Received(stream);
        if self.driver.is_due(stream.id, 9, shared.now_tick) && self.propose_move(&received, shared)
        {
            self.expect(stream.id, node, source);
        }
    }

    /// The source wants to know, and perhaps wants its slots back.
    pub(super) fn asked(
        &mut self,
        node: NodeId,
        source: GroupId,
        id: MoveId,
        refuse: bool,
        shared: &mut Shared,
    ) {
        let is_open = !matches!(self.progress_of(id), Progress::Received | Progress::Refused);
        if refuse && is_open && self.driver.is_due(id, 10, shared.now_tick) {
            self.propose_move(&MoveEntry::Refused { id }, shared);
            self.expect(id, node, source);
        }
        self.tell_progress(node, source, id, shared);
    }

    /// Tells this source as soon as something is applied.
    fn expect(&mut self, id: MoveId, node: NodeId, source: GroupId) {
        let last = self.raft.last_index();
        let target = self.driver.targets.entry(id).or_insert(Target {
            attempt: 0,
            proposed: 0,
            last,
            node,
            source,
            told: None,
        });
        (target.last, target.node, target.source) = (last, node, source);
    }

    fn tell_progress(&self, node: NodeId, to: GroupId, id: MoveId, shared: &mut Shared) {
        let progress = self.progress_of(id);
        self.tell(node, to, MoveNote::State { id, progress }, shared);
    }

    /// Tells sources what was applied since they were last told.
    pub(super) fn answer_sources(&mut self, shared: &mut Shared) {
        let ids: Vec<MoveId> = self.driver.targets.keys().copied().collect();
        for id in ids {
            let progress = self.progress_of(id);
            let Some(target) = self.driver.targets.get_mut(&id) else {
                continue;
            };
            if target.told != Some(progress) {
                target.told = Some(progress);
                let (node, source) = (target.node, target.source);
                self.tell(node, source, MoveNote::State { id, progress }, shared);
            }
            if matches!(progress, Progress::Received | Progress::Refused) {
                self.driver.targets.remove(&id);
            }
        }
    }
}
