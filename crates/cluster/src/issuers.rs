//! Issuers: what makes a repeated command happen once.
//!
//! An issuer opens by a command, gets an id that is never given out twice, and numbers its commands, one
//! at a time. The last number and its reply are remembered. The table is bounded: beyond the limit
//! the issuer that was silent longest is forgotten. That executes nothing twice, because an unknown id
//! is not a new one: its commands are refused, and the issuer learns that it was forgotten.

use std::collections::BTreeMap;

use kvorum_base::Index;

use crate::limits::ISSUERS_MAX;
use crate::numbers::IssuerId;
use crate::reply::{Refusal, Reply};

/// What is remembered of an issuer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Issuer {
    /// The number of its last command; 0 before the first.
    pub(crate) sequence: u64,
    /// The reply to it.
    pub(crate) reply: Reply,
    /// The entry that it was heard with last.
    pub(crate) heard: Index,
}

/// All issuers that are remembered.
///
/// Invariant: at most [`ISSUERS_MAX`].
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Issuers {
    pub(crate) known: BTreeMap<IssuerId, Issuer>,
}

impl Issuers {
    /// Opens one, with the index of the entry as its id.
    pub(crate) fn open(&mut self, index: Index) -> IssuerId {
        if self.known.len() >= ISSUERS_MAX {
            let silent = self.known.iter().min_by_key(|(_, issuer)| issuer.heard);
            let silent = *silent.expect("the table is full").0;
            self.known.remove(&silent);
        }
        let id = IssuerId(index.get());
        let issuer = Issuer {
            sequence: 0,
            reply: Reply::Done,
            heard: index,
        };
        self.known.insert(id, issuer);
        id
    }

    /// Whether a command has to be answered without being applied.
    pub(crate) fn answered(&mut self, id: IssuerId, sequence: u64, index: Index) -> Option<Reply> {
        let Some(issuer) = self.known.get_mut(&id) else {
            return Some(Reply::Refused(Refusal::NoSuchIssuer));
        };
        issuer.heard = index;
        match sequence {
            0 => Some(Reply::Refused(Refusal::Malformed)),
            _ if sequence == issuer.sequence => Some(issuer.reply.clone()),
            _ if sequence < issuer.sequence => Some(Reply::Refused(Refusal::Outdated)),
            _ => None,
        }
    }

    /// Remembers the reply to a new command. An issuer that the command itself pushed out stays
    /// forgotten.
    pub(crate) fn remember(&mut self, id: IssuerId, sequence: u64, reply: &Reply) {
        if let Some(issuer) = self.known.get_mut(&id) {
            issuer.sequence = sequence;
            issuer.reply = reply.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_forgotten_is_told_so_and_runs_nothing_twice() {
        let mut issuers = Issuers::default();
        let first = issuers.open(Index(1));
        assert_eq!(issuers.answered(first, 1, Index(2)), None);
        issuers.remember(first, 1, &Reply::Done);
        let second = issuers.open(Index(3));
        for index in 0..ISSUERS_MAX as u64 - 1 {
            if index == 500 {
                // The first one speaks now and then, the second never.
                let again = issuers.answered(first, 1, Index(9999));
                assert_eq!(again, Some(Reply::Done));
            }
            issuers.open(Index(10_000 + index));
        }
        let unknown = Some(Reply::Refused(Refusal::NoSuchIssuer));
        assert_eq!(issuers.answered(second, 1, Index(20_000)), unknown);
        assert_eq!(issuers.answered(first, 1, Index(20_001)), Some(Reply::Done));
        assert_eq!(issuers.known.len(), ISSUERS_MAX);
    }
}
