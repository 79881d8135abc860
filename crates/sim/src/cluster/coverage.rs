//! How often what matters came to pass. A simulator that never tore a log tail proves nothing about
//! torn tails, and says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;

macro_rules! marks {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Something that must come to pass in enough seeds.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Mark {
            $($(#[$doc])* $variant,)*
        }

        impl Mark {
            /// All of them.
            pub const ALL: &[Mark] = &[$(Mark::$variant,)*];

            /// What it is called in the report.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Mark::$variant => $name,)*
                }
            }
        }
    };
}

marks! {
    /// A replica became the leader.
    Elections = "elections",
    /// Uncommitted entries were replaced by a newer leader's.
    Truncations = "conflicting truncations",
    /// A snapshot file was stored.
    SnapshotsStored = "snapshots stored",
    /// A leader's snapshot was installed.
    SnapshotInstalls = "snapshot installs",
    /// A piece of a leader's snapshot came that was not the first.
    SnapshotPieces = "further pieces of snapshots",
    /// A start cut a torn batch off.
    TornTails = "torn tails",
    /// A read came to a leader while another led in a newer term.
    DeposedReads = "reads at a deposed primary",
    /// Links were cut.
    Partitions = "partitions",
    /// Frames arrived twice.
    Duplicates = "duplicated frames",
    /// A process was killed.
    Kills = "kills",
    /// One node lost its power.
    PowerCuts = "power cuts of one",
    /// A process was ended around a sync.
    Ambushes = "ends around a sync",
    /// All nodes lost their power.
    PowerCutsOfAll = "power cuts of all",
    /// A leader was killed soon after its election.
    FallenLeaders = "leaders killed soon after their election",
    /// A bit of the log flipped and the node came up lost.
    LostNodes = "lost nodes",
    /// A bit of a snapshot flipped.
    FlippedSnapshots = "flipped snapshots",
    /// A replica without a state got it from the leader.
    Repairs = "states repaired",
    /// An operation ended without an answer.
    Unknown = "unknown outcomes",
    /// An operation was refused.
    Refused = "refused operations",
    /// A client followed a redirect.
    Redirects = "redirects followed",
    /// A logged command of a session came a second time, and was answered from the table.
    SessionRetries = "session retries answered from the table",
    /// A key was removed after its time.
    Expired = "expired keys",
    /// A process stood still.
    Pauses = "pauses",
    /// A disk was slow.
    SlowDisks = "slow disks",
    /// A sync hung.
    HangingDisks = "hanging disks",
    /// A disk was full when a segment or a snapshot was to be made.
    FullDisks = "full disks",
    /// A sync failed.
    FailedSyncs = "failed syncs",
    /// A wall clock jumped.
    ClockJumps = "clock jumps",
    /// A leader was told to hand over.
    Transfers = "transfers",
    /// A node ended in good order.
    Shutdowns = "shutdowns",
    /// A segment's file was used again.
    Recycled = "segments recycled",
    /// An idle group's entries were carried to the head of the log.
    Carries = "carries",
    /// A pipeline mixed reads and writes of one key.
    MixedPipelines = "mixed pipelines",
    /// A transaction was carried out.
    Transactions = "transactions carried out",
    /// A transaction found a watched key changed.
    WatchesBroken = "transactions behind a change",
    /// The target of a move has its slots.
    MovesReceived = "moves received",
    /// The target of a move refused it.
    MovesRefused = "moves refused",
    /// The source of a move ended it.
    MovesCancelled = "moves cancelled",
    /// Another primary of the source began the stream anew.
    StreamsBegunAnew = "streams begun anew",
    /// A command came to its place in the log when its slot was not served any more.
    RefusedAtApply = "commands refused when applied",
    /// A pipeline of reads was answered where any replica may answer.
    ReplicaReads = "pipelines read at replicas",
    /// A replica was made by order.
    ReplicasMade = "replicas made",
    /// A learner became a voter.
    Promoted = "learners promoted",
    /// A learner became a voter in the place of another.
    Replaced = "replicas replaced",
    /// A replica was deleted by order.
    ReplicasDeleted = "replicas deleted",
    /// A group's log refused an order.
    OrdersRefused = "orders refused",
    /// A new group had a majority.
    GroupsFounded = "groups founded",
    /// A group was deleted on all of its nodes.
    GroupsRetired = "groups retired",
    /// A replica of the shard manager's group became its leader.
    ManagerElections = "elections of the shard manager's primary",
    /// Another primary of the shard manager than the first one proposed what was to be done next.
    PlansOfSuccessors = "plans of later primaries of the shard manager",
    /// A move was closed under another primary of the shard manager than opened it.
    MovesOverPrimaries = "moves closed under another primary of the shard manager",
    /// The shard manager's group changed its own replicas.
    ManagersReplaced = "replicas of the shard manager replaced",
    /// An order was in the shard manager's log a second time, and happened once.
    OrdersRepeated = "orders repeated",
    /// A node was told an old state of the shard manager.
    OldStates = "old states told",
    /// A node's directory was emptied.
    WipedNodes = "wiped nodes",
    /// A router passed an answer on.
    ThroughRouters = "answers through routers",
    /// A router's process was killed.
    RoutersKilled = "routers killed",
    /// A router's process stood still.
    RoutersPaused = "routers paused",
    /// A router ended in good order.
    RoutersStopped = "routers stopped in good order",
    /// A whole scan through a router, while slots may have moved.
    ScansThroughRouters = "scans through routers",
    /// Connections were broken under clients.
    Disconnects = "disconnects",
}

/// Counts by mark, and what the run as a whole amounts to.
#[derive(Clone, Default, Debug)]
pub struct Coverage {
    counts: BTreeMap<Mark, u64>,
    /// Timers fired.
    pub events: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Virtual time, in microseconds.
    pub simulated_us: u64,
}

impl Coverage {
    /// It came to pass.
    pub fn hit(&mut self, mark: Mark) {
        self.add(mark, 1);
    }

    /// It came to pass this often.
    pub fn add(&mut self, mark: Mark, count: u64) {
        *self.counts.entry(mark).or_default() += count;
    }

    /// How often it came to pass.
    #[must_use]
    pub fn count(&self, mark: Mark) -> u64 {
        self.counts.get(&mark).copied().unwrap_or(0)
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mark, count) in &other.counts {
            self.add(*mark, *count);
        }
        self.events += other.events;
        self.operations += other.operations;
        self.simulated_us += other.simulated_us;
    }

    /// What never came to pass.
    #[must_use]
    pub fn missing(&self) -> Vec<Mark> {
        let is_missing = |mark: &Mark| self.count(*mark) == 0;
        Mark::ALL.iter().copied().filter(is_missing).collect()
    }

    /// One line for each mark.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        for mark in Mark::ALL {
            let _ = writeln!(text, "{:>12}  {}", self.count(*mark), mark.name());
        }
        text
    }
}
