//! Consensus for one group: Raft as a pure state machine.
//!
//! A group of replicas keeps one log of entries in one order. An entry that a majority has on its
//! disks is *committed*: no crash of a minority, no power cut of all and no partition takes it back,
//! and every replica applies the same entries in the same order. This crate decides what is
//! committed and who may say so. It has no socket, file, thread, clock or chance of its own; what an
//! entry means is the caller's business.
//!
//! # The contract
//!
//! Everything comes in through the methods of [`Raft`]: messages by [`Raft::step`], time by
//! [`Raft::tick`], commands by [`Raft::propose`], the disk's word by [`Raft::persisted`]. Everything
//! goes out as [`Effect`]s, fetched by [`Raft::effects`] and carried out in order. The caller
//!
//! - writes what [`Effect::Persist`] names, in that order, and reports the highest number that is
//!   durable whenever it likes: the next turn, or a hundred calls later;
//! - sends what [`Effect::Send`] names, at once; messages may be lost, doubled, held up and reordered;
//! - applies entries up to [`Raft::commit`] and reports it by [`Raft::applied_to`];
//! - keeps a durable snapshot of its state before it lets entries go by [`Raft::compact`], and lets
//!   none count that is ahead of its log on the disk ([`Raft::may_count_snapshot`]).
//!
//! It cannot get the order of promise and disk wrong: a vote, an acknowledgement, the replica's own
//! share in a commit wait inside until what they promise is durable, and so does any message whose
//! term is not (`promises.rs`). A leader's entries do not wait for its own disk; they are no promise,
//! and two followers are a majority of three without it.
//!
//! # The protocol
//!
//! Time is cut into *terms*, each with at most one leader, since a replica votes once in a term and a
//! leader needs a majority. A follower that hears no leader for an election timeout, drawn anew each
//! time, first asks whether it would win (*pre-vote*), and only then moves to a new term and asks for
//! votes. A vote goes only to a log that is at least as complete as the voter's, so a leader always
//! has everything that is committed (`election.rs`).
//!
//! The leader appends commands to its log and sends them on. Each append names the entry before its
//! own; a follower that has not got that one refuses and says where the logs may agree, term by term
//! rather than entry by entry. Once they agree, appends stream without waiting, within a window
//! (`progress.rs`, `replication.rs`, `following.rs`). An entry is committed when a majority has it synced
//! *and* it is of the leader's own term, or comes before such a one; so a new leader begins with an
//! empty entry.
//!
//! Reads need neither entry nor clock: the leader gives a batch of them a fresh number, and runs them
//! when a majority has answered heartbeats with it (`read_index.rs`). A leader that hears no majority
//! steps down; one that should go hands over (`transfer.rs`).
//!
//! Members change while the group works: learners receive the log and count for nothing; voters
//! change through a joint phase in which every decision needs both majorities, and which the leader
//! ends by itself (`membership.rs`). A follower whose next entry is gone gets a snapshot, in pieces
//! that the caller cuts (`snapshot.rs`). Where a majority is lost for good, one replica goes on alone at an
//! operator's word (`recovery.rs`).
//!
//! # A write, step by step
//!
//! 1. The caller encodes an entry for [`Raft::next_index`] and [`Raft::term`] and proposes it.
//! 2. `Persist` and a `Send` per follower leave together; the bytes are shared, never copied.
//! 3. A follower checks that it fits, asks for its own `Persist`, and holds its answer back.
//! 4. Its caller says `persisted`: the answer leaves.
//! 5. The leader counts it; with a majority [`Raft::commit`] rises, and the caller applies.
//! 6. Followers learn the commit index from the next append, or from a heartbeat a tick later.
//!
//! # Caveats
//!
//! - A replica that lost anything it was told is durable must never come back under its id: it has
//!   forgotten promises. Nothing here can notice that.
//! - [`Restored`] must be durable before [`Raft::new`]: what was read back from a page cache is not.
//! - A replica whose state is damaged and whose log is whole votes and acknowledges, also while a
//!   snapshot comes over, and does not stand for election ([`Raft::state_lost`]). If its log is the only
//!   complete one, an operator has to give it a state first.
//! - A snapshot's membership is that of its index, not the newest ([`Raft::membership_at`]).
//! - Messages are taken from replicas of the group, proved to be such by the caller. Nonsense is
//!   ignored and never stops a replica, but lies are believed: this is not Byzantine consensus.
//!
//! # Not built
//!
//! Sections of Ongaro's thesis: leases that answer reads by the clock (6.4.1); reads at a follower by
//! itself (6.4; the caller can ask the leader for a confirmed index); single-server membership changes
//! (4.1; the joint phase of 4.3 does all); witnesses that vote and hold no state; changing a voter into a
//! learner. Batching of commands into entries is the caller's: one proposal is one entry here.
//!
//! # How it is judged
//!
//! [`Raft::check`] holds the invariants and runs after every step of every test. `testscripts/` are
//! scenarios to be read; `tests/it/paper.rs` walks the Raft paper; `tests/it/walk.rs` does anything in
//! any order and compares all replicas; with the feature `planted` it must find each planted bug.

mod check;
mod config;
mod effect;
mod election;
mod following;
mod log;
mod membership;
mod message;
mod progress;
mod promises;
mod propose;
mod quorum;
mod raft;
mod read_index;
mod recovery;
mod replication;
mod snapshot;
mod transfer;
mod types;

pub use check::{FlowName, PeerStatus, RoleName, Status};
pub use config::{Config, Restored};
pub use effect::{Effect, Persist, PersistSeq};
pub use membership::{MembershipRefused, Target};
pub use message::{AppendOutcome, Body, Chunk, Message, NO_PIECE, SnapshotId};
pub use raft::{NotLeader, ProposeRefused, Raft};
pub use recovery::{RecoveryRefused, TERMS_SKIPPED};
pub use transfer::TransferRefused;
pub use types::{Entry, HardState, Membership, Payload};
