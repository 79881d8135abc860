//! The way out when a majority is lost for good: one replica decides alone from here on.
//!
//! Consensus cannot do that by itself. A replica that hears nobody cannot tell a majority that is gone from
//! one that works behind a cut cable, and to go on alone is right in the first case only. So an operator
//! says which it is, and what was acknowledged by the lost ones alone is lost.
//!
//! The replica stands in a new term and puts one entry at the end of its log: a membership with itself as the
//! only voter. Everything before it stays, committed or not: some of it may have been acknowledged. The
//! entry is in force as soon as it is in the log, so the replica's own vote is a majority; it is durable
//! with that vote, or neither is. A crash before leaves everything as it was, one after it a lone voter.
//!
//! Two things keep those who come back from doing harm:
//!
//! - The term is far above any that a lost replica can have reached ([`TERMS_SKIPPED`]). So no entry of
//!   theirs has the term of one of ours, and two logs that agree in index and term agree in all before.
//! - The membership has a *floor*. Replica ids are given out in rising order and never twice, so every id
//!   below the floor that is no member was let go. What such a replica says is not heard, by anybody who
//!   has the membership, and whatever its term:
//!
//!   1. B and C, given up, come back. Of their own {A, B, C} they are a majority, and B leads in a term
//!      above A's, since A's answer told it that term.
//!   2. B's entries arrive at A. If A believed a newer term from anyone, it would take back what it
//!      has acknowledged since.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use kvorum_base::{Index, ReplicaId, Term};

use crate::raft::{Raft, Role};
use crate::types::{Entry, Membership, Payload};

/// How many terms a recovery leaves out. A term takes an election, and an election takes time: at one in
/// ten milliseconds those who were lost would need a year to get there.
pub const TERMS_SKIPPED: u64 = 1 << 32;

/// Why a replica does not decide alone. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecoveryRefused {
    /// A leader is heard, or this replica is one.
    HasLeader,
    /// Its state is not whole, or being replaced just now.
    NoState,
    /// It is no member, as far as it knows.
    NoMember,
    /// Its term is higher than was said: it is not the replica any more that was looked at.
    NewerTerm(Term),
}

impl fmt::Display for RecoveryRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HasLeader => write!(f, "a leader is heard"),
            Self::NoState => write!(f, "this replica has no whole state"),
            Self::NoMember => write!(f, "this replica is no member"),
            Self::NewerTerm(term) => write!(f, "this replica is in term {term} by now"),
        }
    }
}

impl std::error::Error for RecoveryRefused {}

impl Membership {
    /// Whether a replica was let go by a recovery: it may be anywhere and say anything, and counts for
    /// nothing.
    #[must_use]
    pub fn has_let_go(&self, replica: ReplicaId) -> bool {
        replica < self.floor && !self.nodes.contains_key(&replica)
    }
}

impl Raft {
    /// Makes this replica the only voter, because an operator says that no majority will ever come back.
    /// `term` is the highest that he has seen at any replica, and all ids below `floor` may have been given
    /// out. Returns where the new membership stands in the log.
    ///
    /// # Errors
    /// If it cannot be, or need not be; nothing has changed then.
    pub fn recover(&mut self, term: Term, floor: ReplicaId) -> Result<Index, RecoveryRefused> {
        let own = self.config.id;
        let newest = self.history.newest();
        let node = *newest.nodes.get(&own).ok_or(RecoveryRefused::NoMember)?;
        if self.hears_leader() {
            return Err(RecoveryRefused::HasLeader);
        }
        if self.state_lost || self.is_installing() {
            return Err(RecoveryRefused::NoState);
        }
        if self.hard_state.term > term {
            return Err(RecoveryRefused::NewerTerm(self.hard_state.term));
        }
        let above_all = newest.nodes.keys().last().map_or(0, |last| last.get() + 1);
        let floor = floor.max(ReplicaId(above_all)).max(newest.floor);
        // Pieces of a snapshot that the old leader sent are of no use any more.
        self.incoming = None;
        self.stand_in(Term(term.get() + TERMS_SKIPPED), false);
        let index = self.next_index();
        let membership = Membership {
            id: index,
            voters: BTreeSet::from([own]),
            nodes: [(own, node)].into(),
            floor,
            ..Membership::default()
        };
        let payload = Payload::Membership(Arc::new(membership));
        let term = self.hard_state.term;
        let data = (self.config.encode)(term, index, &payload);
        self.append(vec![Entry {
            index,
            term,
            payload,
            data,
        }]);
        debug_assert!(matches!(self.role, Role::Candidate(_)));
        self.finish();
        Ok(index)
    }
}
