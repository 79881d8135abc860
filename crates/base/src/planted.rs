//! Bugs on purpose, so that the judge can be judged.
//!
//! A checker that never spoke proves nothing. With the feature `planted` a replica can be given one
//! [`Bug`]; the simulator must then catch it. Without the feature [`Planted`] has no size, `has` is
//! the constant `false`, and the buggy branches are compiled away.

#[cfg(not(feature = "planted"))]
use std::marker::PhantomData;

macro_rules! bugs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One planted bug.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Bug {
            $($(#[$doc])* $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$variant,)*];

            /// The name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Bug::$variant => $name,)*
                }
            }
        }
    };
}

bugs! {
    /// A reply leaves before the entry is on a majority's disks.
    ReplyBeforeSync = "reply-before-sync",
    /// A vote leaves without having been written.
    VoteNotSaved = "vote-not-saved",
    /// An entry of an older term is counted as committed (Raft paper, figure 8).
    OldTermCommit = "old-term-commit",
    /// A read is answered without asking a quorum.
    ReadWithoutQuorum = "read-without-quorum",
    /// Two read rounds have the same number.
    ReadNumberReused = "read-number-reused",
    /// A new leader reads before an entry of its own term is committed.
    ReadBeforeOwnTerm = "read-before-own-term",
    /// Sessions are left out of snapshots.
    SessionsNotInSnapshot = "sessions-not-in-snapshot",
    /// A follower truncates what is committed.
    CommittedTruncated = "committed-truncated",
    /// A snapshot says it covers one entry more than it does.
    SnapshotMissesLast = "snapshot-misses-last",
    /// Whether a key is expired is asked of the local clock.
    ExpiryByLocalClock = "expiry-by-local-clock",
    /// After a restart the last entries of the snapshot are applied again.
    AppliedTwice = "applied-twice",
    /// Freeing a segment forgets the vote that was in it.
    VoteFreedWithSegment = "vote-freed-with-segment",
    /// Moving an idle group's old entries to the head truncates the newer ones.
    CarryTruncates = "carry-truncates",
    /// Installing a snapshot leaves the old tail in the log.
    ResetMissing = "reset-missing",
    /// A delayed duplicate append is written again, and truncates.
    DuplicateAppendWritten = "duplicate-append-written",
    /// A node that lost synced records goes on acknowledging.
    DamagedReplicaAcks = "damaged-replica-acks",
    /// An unsynced, torn batch is taken for damage: a power cut of all stops all.
    TornTakenForDamage = "torn-taken-for-damage",
    /// A damaged synced batch is taken for a torn one: acknowledged writes are cut off.
    DamageTakenForTorn = "damage-taken-for-torn",
    /// What a restart found in the page cache is believed to be on the disk.
    RecoveredTailNotSynced = "recovered-tail-not-synced",
    /// After a failed sync the next one's success is believed for both.
    SyncedAfterFailure = "synced-after-failure",
    /// A deposed primary redirects a client whose write is still in its log.
    DeposedRedirects = "deposed-redirects",
    /// A session's row is dropped to save room.
    SessionEvicted = "session-evicted",
    /// An absent key has version 0 instead of that of its slot's last removal.
    AbsentVersionZero = "absent-version-zero",
    /// The target of a move counts the changes of a slot by those of its keys that are left.
    VersionsNotMoved = "versions-not-moved",
    /// A read overtakes a write that the same connection sent before.
    ReadOvertakesWrite = "read-overtakes-write",
    /// A transfer goes on with the pieces of another snapshot.
    ForeignChunkResumed = "foreign-chunk-resumed",
    /// A snapshot carries the membership last appended instead of that of its index.
    SnapshotNewestMembership = "snapshot-newest-membership",
    /// A write that reaches its place in the log after its slot was sealed is applied.
    WriteAfterSealed = "write-after-sealed",
    /// The target of a move takes what is staged, whatever stream it is of and however much is there.
    ReceivedUnchecked = "received-unchecked",
    /// What is staged for a move is left out of snapshots.
    StagingNotInSnapshot = "staging-not-in-snapshot",
    /// The target of a move keeps its own clock, also when the source's is ahead.
    ClockStepsBack = "clock-steps-back",
    /// A move is cancelled although its slots are sealed, and the target may have them.
    SealedCancelled = "sealed-cancelled",
    /// A follower answers a read from its state as it is.
    FollowerReadsUnasked = "follower-reads-unasked",
    /// An order that was refused, or is below one that was taken, is carried out.
    StaleOrderExecuted = "stale-order-executed",
    /// A learner becomes a voter whatever it holds.
    PromotedTooEarly = "promoted-too-early",
    /// A replica that was deleted is made again when the old order is repeated.
    DeletedReplicaMadeAgain = "deleted-replica-made-again",
    /// A node whose directory was emptied starts under its old id.
    WipedNodeReturns = "wiped-node-returns",
    /// The shard manager carries out an order again that its issuer gives again.
    OrderRepeated = "order-repeated",
    /// The shard manager's state is left out of snapshots.
    ManagerNotInSnapshot = "manager-not-in-snapshot",
    /// The target of a move says that it has the slots while they are still staged.
    MoveClosedTooEarly = "move-closed-too-early",
}

/// Which bug one has, if any: a replica one of these, others one of their own kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planted<B = Bug> {
    #[cfg(feature = "planted")]
    bug: Option<B>,
    #[cfg(not(feature = "planted"))]
    bug: PhantomData<B>,
}

impl<B> Default for Planted<B> {
    fn default() -> Self {
        Self {
            bug: Default::default(),
        }
    }
}

impl<B: Copy + PartialEq> Planted<B> {
    /// One with this bug.
    #[cfg(feature = "planted")]
    #[must_use]
    pub const fn with(bug: B) -> Self {
        Self { bug: Some(bug) }
    }

    /// Whether it has this bug.
    #[cfg(feature = "planted")]
    #[must_use]
    pub fn has(self, bug: B) -> bool {
        self.bug == Some(bug)
    }

    /// Whether it has this bug: never, in this build.
    #[cfg(not(feature = "planted"))]
    #[must_use]
    pub const fn has(self, bug: B) -> bool {
        let _ = bug;
        false
    }
}
