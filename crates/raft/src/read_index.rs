//! Reads that need no clock and no log entry (Raft paper, section 8; thesis, section 6.4).
//!
//! A leader may have been replaced without knowing it. So a read waits until a quorum has answered a
//! heartbeat *that left after the read came*, which proves that nobody else was elected before. Each
//! round of reads has a number of its own that heartbeats carry and answers repeat. If a round
//! reused a number:
//!
//! 1. A leads, round 5 is answered by B; the answer is still on its way.
//! 2. A is cut off, C is elected and commits x.
//! 3. A client reads at A; A calls that round 5 again, and B's old answer arrives.
//! 4. {A, B} looks like a quorum: the read misses x.
//!
//! The other half: the index that the read waits for is the commit index, but a fresh leader's may be
//! behind what its predecessor told clients. It is right once an entry of the own term is committed,
//! and rounds that begin before take their index then.

use std::collections::VecDeque;

use kvorum_base::{Bug, Index};

use crate::effect::Effect;
use crate::quorum;
use crate::raft::{NotLeader, Raft, Role};

/// A round that is not confirmed yet.
#[derive(Debug)]
struct Round {
    number: u64,
    /// `None` until an entry of the leader's own term is committed.
    index: Option<Index>,
}

/// The rounds of one leader, in order.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    rounds: VecDeque<Round>,
}

impl Reads {
    pub(crate) fn is_empty(&self) -> bool {
        self.rounds.is_empty()
    }
}

impl Raft {
    /// Begins a round of reads and returns its number; heartbeats that carry it leave at once.
    /// Everything that the caller registers under it runs after [`Effect::ReadConfirmed`] of this
    /// number or a higher one, or is void by [`Effect::ReadsVoid`]. Numbers are fresh for each call
    /// and rise, so the caller should collect reads and ask once for many.
    ///
    /// # Errors
    /// On every replica but the leader.
    pub fn read(&mut self) -> Result<u64, NotLeader> {
        let own_term = self.commit_is_of_own_term();
        let Role::Leader(leader) = &mut self.role else {
            return Err(NotLeader);
        };
        let reused = self.config.planted.has(Bug::ReadNumberReused) && self.read_number > 0;
        if !reused {
            self.read_number += 1;
        }
        let index = (own_term || self.config.planted.has(Bug::ReadBeforeOwnTerm))
            .then(|| self.log.commit());
        leader.reads.rounds.push_back(Round {
            number: self.read_number,
            index,
        });
        let number = self.read_number;
        let voters: Vec<_> = leader
            .peers
            .keys()
            .copied()
            .filter(|id| self.history.newest().is_voter(*id))
            .collect();
        for to in voters {
            self.send_heartbeat(to);
        }
        self.maybe_confirm_reads();
        Ok(number)
    }

    /// Gives rounds that began too early their index, once it is known.
    pub(crate) fn own_term_committed(&mut self) {
        let commit = self.log.commit();
        if let Role::Leader(leader) = &mut self.role {
            for round in &mut leader.reads.rounds {
                round.index.get_or_insert(commit);
            }
        }
        self.maybe_confirm_reads();
    }

    /// Confirms the rounds that a quorum has answered.
    pub(crate) fn maybe_confirm_reads(&mut self) {
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.reads.is_empty() {
            return;
        }
        let answered = if self.config.planted.has(Bug::ReadWithoutQuorum) {
            self.read_number
        } else {
            quorum::acknowledged(self.history.newest(), |id| {
                if id == self.config.id {
                    self.read_number
                } else {
                    leader.peers.get(&id).map_or(0, |peer| peer.read)
                }
            })
        };
        let mut confirmed = None;
        while let Some(round) = leader.reads.rounds.front() {
            match round.index {
                Some(index) if round.number <= answered => confirmed = Some((round.number, index)),
                _ => break,
            }
            leader.reads.rounds.pop_front();
        }
        if let Some((number, index)) = confirmed {
            self.out.emit(Effect::ReadConfirmed { number, index });
        }
    }
}
