//! The properties of Raft (paper, figure 3) over all replicas at once, and of reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Index, ReplicaId, Term};
use kvorum_raft::{Membership, Payload};

use crate::host::Host;

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Judge {
    /// Who led in which term.
    leaders: BTreeMap<Term, ReplicaId>,
    /// What any replica held for committed, from index 1 on.
    pub(crate) committed: Vec<(Term, Bytes)>,
    /// The committed memberships, and the first one.
    pub(crate) memberships: BTreeMap<Index, Arc<Membership>>,
    /// Per replica and read round: what was committed anywhere when it began.
    reads: BTreeMap<(ReplicaId, u64), Index>,
    pub(crate) reads_confirmed: u64,
}

impl Judge {
    /// Looks at one replica after it did something.
    pub(crate) fn look(&mut self, host: &mut Host) {
        if !host.up {
            return;
        }
        host.raft.check();
        let committed = host.judged.next()..=host.raft.commit();
        for entry in host.raft.entries(committed) {
            if let Payload::Membership(membership) = &entry.payload {
                self.memberships.insert(entry.index, Arc::clone(membership));
            }
            let seen = (entry.term, entry.data.clone());
            match self.committed.get(entry.index.prev().get() as usize) {
                Some(known) => assert_eq!(
                    *known, seen,
                    "state machine safety: replica {} holds another entry {}",
                    host.id, entry.index
                ),
                None => {
                    assert_eq!(self.committed.len() as u64, entry.index.prev().get());
                    self.committed.push(seen);
                }
            }
        }
        host.judged = host.raft.commit();
        let applied = host.raft.applied().get() as usize;
        assert_eq!(
            host.state.last(),
            applied.checked_sub(1).map(|place| &self.committed[place]),
            "replica {} applied something else",
            host.id
        );
        if std::mem::take(&mut host.installed) {
            let (state, known) = (&host.state[..], &self.committed[..]);
            let place = (0..state.len()).find(|place| known.get(*place) != Some(&state[*place]));
            assert_eq!(place, None, "replica {} installed another state", host.id);
            let index = Index(state.len() as u64);
            let membership = host.raft.membership_at(index);
            let known = self.memberships.range(..=index).next_back();
            // One that was fed from the first entry on never learned the first membership.
            if !membership.voters.is_empty() {
                let known = known.map(|(_, known)| known);
                assert_eq!(known, Some(membership), "as of {index}");
            }
        }
        if host.raft.is_leader() {
            self.look_at_leader(host);
        }
    }

    fn look_at_leader(&mut self, host: &Host) {
        let term = host.raft.term();
        let known = *self.leaders.entry(term).or_insert(host.id);
        assert_eq!(
            known, host.id,
            "election safety: two leaders in term {term}"
        );
        if self.leaders.last_key_value().map(|(newest, _)| *newest) != Some(term) {
            return;
        }
        let base = host.raft.base_index().get() as usize;
        for (place, (of, _)) in self.committed.iter().enumerate().skip(base) {
            let index = Index(place as u64 + 1);
            assert_eq!(
                host.raft.term_at(index),
                Some(*of),
                "leader completeness: leader {} of term {term} lacks entry {index}",
                host.id
            );
        }
    }

    pub(crate) fn leaders(&self) -> usize {
        self.leaders.len()
    }

    /// Log matching, over all pairs: where the terms agree, so does everything before.
    pub(crate) fn compare_logs<'a>(&self, hosts: impl Iterator<Item = &'a Host>) {
        let hosts: Vec<&Host> = hosts.filter(|host| host.up).collect();
        for (place, left) in hosts.iter().enumerate() {
            for right in &hosts[place + 1..] {
                let last = left.raft.last_index().min(right.raft.last_index());
                let base = left.raft.base_index().max(right.raft.base_index());
                let mut agreed = false;
                for index in (base.get() + 1..=last.get()).rev().map(Index) {
                    let (one, other) = (left.raft.entry(index), right.raft.entry(index));
                    let same = one == other;
                    let same_term = one.map(|e| e.term) == other.map(|e| e.term);
                    assert!(
                        same || (!agreed && !same_term),
                        "log matching: {} and {} differ at {index}: {one:?} {other:?}",
                        left.id,
                        right.id
                    );
                    agreed |= same;
                }
            }
        }
    }

    pub(crate) fn read_began(&mut self, host: &Host, number: u64) {
        let committed = Index(self.committed.len() as u64);
        self.reads.insert((host.id, number), committed);
    }

    pub(crate) fn read_confirmed(&mut self, host: ReplicaId, number: u64, index: Index) {
        for ((_, round), committed) in self.reads.range((host, 0)..=(host, number)) {
            assert!(
                *committed <= index,
                "a stale read: round {round} of replica {host} at {index}, but {committed} was \
                 committed before it began"
            );
            self.reads_confirmed += 1;
        }
        self.reads_void(host, number);
    }

    pub(crate) fn reads_void(&mut self, host: ReplicaId, upto: u64) {
        self.reads
            .retain(|(id, round), _| *id != host || *round > upto);
    }
}
