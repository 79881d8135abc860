//! No two replicas ever apply different entries at one index (Raft paper, figure 3: state-machine
//! safety), and what was once committed stays what it is.
//!
//! It also keeps, for the other checkers, what is committed and since when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kvorum_base::cursor::Reader;
use kvorum_base::{Index, Malformed, ReplicaId, Term};
use kvorum_cluster::Request;
use kvorum_kv::Command;
use kvorum_node::format::entry::{self, Commands, Content};
use kvorum_raft::{Entry, Membership, Payload, Raft};

use super::log_matching::print_of;

/// A committed entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Its term.
    pub term: Term,
    /// The term in which it was first seen to be committed.
    pub since: Term,
    content: u32,
}

/// All committed entries, and how far each replica has committed.
#[derive(Default, Debug)]
pub struct StateMachine {
    committed: BTreeMap<Index, Committed>,
    /// By replica: the commit index up to which it was looked at, in its present life.
    looked_at: BTreeMap<ReplicaId, Index>,
    /// The memberships that were committed since somebody asked.
    memberships: Vec<Arc<Membership>>,
    /// The requests to the shard manager that were committed since somebody asked.
    requests: Vec<(Index, Term, Request)>,
    /// By replica: the entries that were in its log and not committed, of those that must not be missed.
    open: BTreeMap<ReplicaId, Vec<Entry>>,
    /// The (session, number) of every session's command in the log.
    once: BTreeSet<Vec<u8>>,
    repeated: u64,
}

impl StateMachine {
    /// The replica begins another life.
    pub fn restarted(&mut self, replica: ReplicaId) {
        self.looked_at.remove(&replica);
        self.open.remove(&replica);
    }

    /// Keeps the entries that are not committed yet, all of them or new members only: who commits one may
    /// have no use for it any more at the end of the same turn, and drop it.
    pub fn keep_open_entries(&mut self, raft: &Raft, all: bool) {
        let open = raft.entries(raft.commit().next()..=raft.last_index());
        let is_kept = |entry: &&Entry| all || matches!(entry.payload, Payload::Membership(_));
        let open: Vec<Entry> = open.filter(is_kept).cloned().collect();
        if !open.is_empty() {
            self.open.insert(raft.id(), open);
        }
    }

    /// Looks at what a replica committed in its last turn.
    ///
    /// # Errors
    /// If another entry is committed at an index, or the commit index fell.
    pub fn observe(&mut self, raft: &Raft) -> Result<(), String> {
        let commit = raft.commit();
        let before = self.looked_at.insert(raft.id(), commit).unwrap_or_default();
        if commit < before {
            return Err(format!(
                "the commit index of replica {} fell from {before} to {commit}",
                raft.id()
            ));
        }
        let dropped = self.open.remove(&raft.id()).unwrap_or_default();
        let base = commit.min(raft.base_index());
        // Where another entry is committed its own one was replaced, and not dropped.
        let is_news = |entry: &&Entry| !self.committed.contains_key(&entry.index);
        let dropped = dropped.into_iter().filter(|entry| entry.index <= base);
        let dropped: Vec<Entry> = dropped.filter(|entry| is_news(&entry)).collect();
        let held = raft.entries(before.next()..=commit);
        for entry in dropped.iter().chain(held) {
            let print = Committed {
                term: entry.term,
                since: raft.term(),
                content: print_of(entry),
            };
            let Some(known) = self.committed.get(&entry.index) else {
                self.committed.insert(entry.index, print);
                self.note_content(entry);
                if let Payload::Membership(membership) = &entry.payload {
                    self.memberships.push(Arc::clone(membership));
                }
                continue;
            };
            if (known.term, known.content) != (print.term, print.content) {
                return Err(format!(
                    "replica {} commits an entry of term {} at {}, where one of term {} is committed",
                    raft.id(),
                    print.term,
                    entry.index,
                    known.term
                ));
            }
        }
        Ok(())
    }

    /// The memberships that were committed since this was last asked, in their order.
    pub fn take_memberships(&mut self) -> Vec<Arc<Membership>> {
        std::mem::take(&mut self.memberships)
    }

    /// The requests to the shard manager that were committed since this was last asked, in their order.
    pub fn take_requests(&mut self) -> Vec<(Index, Term, Request)> {
        std::mem::take(&mut self.requests)
    }

    /// What is committed, by index.
    #[must_use]
    pub fn committed(&self) -> &BTreeMap<Index, Committed> {
        &self.committed
    }

    /// The last entry that is committed, for all the judge has seen.
    #[must_use]
    pub fn last(&self) -> Index {
        self.committed
            .keys()
            .next_back()
            .copied()
            .unwrap_or_default()
    }

    /// How many commands of sessions are in the log more than once.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    fn note_content(&mut self, entry: &Entry) {
        match entry::content(entry) {
            Content::Commands(commands) => self.note_sessions(commands),
            Content::Request(request) => self.requests.push((entry.index, entry.term, *request)),
            _ => {}
        }
    }

    fn note_sessions(&mut self, commands: Commands<'_>) {
        for command in commands {
            if Command::decode(command).spec().name == "kvorum.once"
                && let Ok(name) = name_of_once(command)
                && !self.once.insert(name)
            {
                self.repeated += 1;
            }
        }
    }
}

/// Session, end and number: the first 24 bytes of the first argument.
fn name_of_once(command: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader::new(command);
    reader.u16("operation")?;
    reader.varint("arguments")?;
    let head = reader.block("head")?;
    Ok(head[..24.min(head.len())].to_vec())
}
