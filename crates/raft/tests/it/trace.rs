//! What happened, in words.

use kvorum_base::{Index, ReplicaId, Term};
use kvorum_raft::{
    AppendOutcome, Body, Chunk, Effect, Entry, Membership, Message, NO_PIECE, Payload, Persist,
};

use crate::cluster::{Envelope, Happened};

/// The short name of a message's kind, as scripts use it.
pub(crate) fn kind(body: &Body) -> &'static str {
    match body {
        Body::PreVote { .. } => "prevote",
        Body::PreVoteReply { .. } => "prevote-reply",
        Body::Vote { .. } => "vote",
        Body::VoteReply { .. } => "vote-reply",
        Body::Append { .. } => "append",
        Body::AppendReply { .. } => "append-reply",
        Body::Heartbeat { .. } => "heartbeat",
        Body::HeartbeatReply { .. } => "heartbeat-reply",
        Body::TimeoutNow => "timeout-now",
        Body::Chunk(_) => "chunk",
        Body::ChunkReply { .. } => "chunk-reply",
    }
}

pub(crate) fn envelope(envelope: &Envelope) -> String {
    let Envelope { from, to, message } = envelope;
    format!("{from} -> {to}: {}", said(message))
}

fn said(message: &Message) -> String {
    let Message { term, body } = message;
    let kind = kind(body);
    let rest = match body {
        Body::PreVote {
            last_index,
            last_term,
        } => format!("last {}", place(*last_index, *last_term)),
        Body::Vote {
            last_index,
            last_term,
            transfer,
        } => {
            let why = if *transfer { ", handed over" } else { "" };
            format!("last {}{why}", place(*last_index, *last_term))
        }
        Body::PreVoteReply { granted } | Body::VoteReply { granted } => {
            if *granted { "yes" } else { "no" }.to_owned()
        }
        Body::Append {
            prev_index,
            prev_term,
            entries,
            commit,
        } => format!(
            "after {} [{}] commit {commit}",
            place(*prev_index, *prev_term),
            listed(entries)
        ),
        Body::AppendReply {
            prev_index,
            outcome,
        } => match outcome {
            AppendOutcome::Matched(index) => format!("after {prev_index}: matched {index}"),
            AppendOutcome::Conflict { index, term } => {
                format!("after {prev_index}: conflict, try {}", place(*index, *term))
            }
        },
        Body::Heartbeat { commit, read } => format!("commit {commit} read {read}"),
        Body::HeartbeatReply { read } => format!("read {read}"),
        Body::TimeoutNow => "stand now".to_owned(),
        Body::Chunk(Chunk {
            snapshot,
            seq,
            last,
            ..
        }) => {
            let end = if *last { ", the last" } else { "" };
            let of = place(snapshot.index, snapshot.term);
            format!("{seq} of {of} by {}{end}", snapshot.sender)
        }
        Body::ChunkReply { snapshot, next } => {
            let of = place(snapshot.index, snapshot.term);
            let next = match *next {
                NO_PIECE => "no more".to_owned(),
                next => format!("next {next}"),
            };
            format!("of {of} by {}: {next}", snapshot.sender)
        }
    };
    format!("{kind} t{term} {rest}")
}

fn place(index: Index, term: Term) -> String {
    format!("{index}@{term}")
}

pub(crate) fn listed(entries: &[Entry]) -> String {
    let words: Vec<String> = entries.iter().map(entry).collect();
    words.join(" ")
}

pub(crate) fn entry(entry: &Entry) -> String {
    let what = match &entry.payload {
        Payload::Empty => "-".to_owned(),
        Payload::Command => String::from_utf8_lossy(&entry.data).into_owned(),
        Payload::Membership(membership) => members(membership),
    };
    format!("{}={what}", place(entry.index, entry.term))
}

fn ids<'a>(ids: impl IntoIterator<Item = &'a ReplicaId>) -> String {
    let words: Vec<String> = ids.into_iter().map(ToString::to_string).collect();
    words.join(",")
}

pub(crate) fn members(membership: &Membership) -> String {
    let mut text = format!("({}", ids(&membership.voters));
    if membership.is_joint() {
        text += &format!(" and {}", ids(&membership.outgoing));
    }
    if !membership.learners.is_empty() {
        text += &format!(" learn {}", ids(&membership.learners));
    }
    if membership.floor > ReplicaId::default() {
        text += &format!(" floor {}", membership.floor);
    }
    text + ")"
}

/// One line, or nothing for what scripts do not show. A quiet trace leaves out messages and writes.
pub(crate) fn line(happened: &Happened, quiet: bool) -> Option<String> {
    let (id, effect) = match happened {
        Happened::Commit(id, index) => return Some(format!("{id}: commit {index}")),
        Happened::Effect(id, effect) => (*id, effect),
    };
    let line = match effect {
        Effect::Persist { .. } | Effect::Send { .. } if quiet => return None,
        Effect::StageChunk { .. } | Effect::ChunkWanted { .. } if quiet => return None,
        Effect::Persist { seq, what } => match what {
            Persist::HardState(state) => {
                let vote = state
                    .vote
                    .map_or("none".to_owned(), |vote| vote.to_string());
                format!("{id} writes #{seq}: term {}, vote {vote}", state.term)
            }
            Persist::Append(entries) => format!("{id} writes #{seq}: {}", listed(entries)),
            Persist::Reset { index, term, .. } => {
                format!("{id} writes #{seq}: reset to {}", place(*index, *term))
            }
        },
        Effect::Send { to, message } => format!("{id} -> {to}: {}", said(message)),
        Effect::ReadConfirmed { number, index } => {
            format!("{id}: reads up to round {number} may run at {index}")
        }
        Effect::ReadsVoid => format!("{id}: reads are void"),
        Effect::RoleChanged {
            term,
            leader,
            leading,
        } => match leader {
            _ if *leading => format!("{id}: leads term {term}"),
            Some(leader) => format!("{id}: follows {leader} in term {term}"),
            None => format!("{id}: knows no leader in term {term}"),
        },
        Effect::TransferFailed { to } => format!("{id}: {to} did not take over"),
        Effect::SnapshotWanted { to } => format!("{id}: wants a snapshot for {to}"),
        Effect::ChunkWanted { to, seq, .. } => format!("{id}: wants piece {seq} for {to}"),
        Effect::SnapshotDone { to, .. } => format!("{id}: is done with the snapshot for {to}"),
        Effect::StageChunk { seq, snapshot, .. } => {
            format!(
                "{id}: stages piece {seq} of the snapshot by {}",
                snapshot.sender
            )
        }
    };
    Some(line)
}
