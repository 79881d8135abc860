//! What is known of a command: one [`Spec`], a constant beside the code that it names.
//!
//! COMMAND and its subcommands, routing, the split into reads and writes, and the checks of arity
//! are all derived from it. Whoever adds a command writes its spec and nothing else.

use kvorum_resp::{Args, Replies};

use crate::command::refusal::Refusal;
use crate::keyspace::Keyspace;

/// One command, or one subcommand of a container.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The name in lower case; of a subcommand `container|name`.
    pub name: &'static str,
    /// The number it has in encoded commands. On disks, so never changed or reused. 0: never encoded.
    pub operation: u16,
    /// How many arguments, the name included; negative: at least so many.
    pub arity: i32,
    /// What Redis says of it in COMMAND.
    pub flags: Flags,
    /// Categories of access control, besides those that flags imply.
    pub categories: Categories,
    /// Where its keys are.
    pub keys: Keys,
    /// What it does with the keys, in the words of key specifications.
    pub access: &'static [&'static str],
    /// What else there is to say of that.
    pub access_notes: &'static str,
    /// Advice to clients and proxies.
    pub tips: &'static [&'static str],
    /// Which page of the manual it is on.
    pub group: Group,
    /// The first version of Redis that had it; of our own, "kvorum".
    pub since: &'static str,
    /// If there is something better: since which version of Redis, and what.
    pub deprecated: Option<(&'static str, &'static str)>,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// How its cost grows.
    pub complexity: &'static str,
    /// How it runs.
    pub run: Run,
    /// Of a container: its subcommands.
    pub subcommands: &'static [Spec],
}

/// Answers from the keyspace.
pub type Read = fn(&Keyspace, Args<'_>, &mut Replies<'_>);
/// Checks a request and appends the arguments of its encoded form.
pub type Resolve = fn(Args<'_>, &mut super::encode::Encoder<'_>) -> Result<(), Refusal>;
/// Applies encoded arguments. Cannot fail; a refusal is a reply.
pub type Apply = fn(&mut Keyspace, Args<'_>, &mut Replies<'_>);
/// Answers from the request alone.
pub type Pure = fn(Args<'_>, &mut Replies<'_>);

/// How a command runs.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// From the keyspace, which it does not change.
    Read(Read),
    /// Through the log: resolved by the proposer, applied by every replica.
    Write {
        /// Request to encoded form.
        resolve: Resolve,
        /// Encoded form to change and reply.
        apply: Apply,
    },
    /// From the request alone.
    Pure(Pure),
    /// By the node's client layer.
    Node(NodeCommand),
    /// Not without a subcommand.
    Container,
}

/// What the client layer answers: everything about connections, the node and the cluster.
#[allow(missing_docs, reason = "the names are those of the commands")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NodeCommand {
    Ping,
    Hello,
    Auth,
    Select,
    Quit,
    Reset,
    ClientId,
    ClientGetname,
    ClientSetname,
    ClientSetinfo,
    ClientInfo,
    ClientList,
    ClientKill,
    ClientNoEvict,
    ClientNoTouch,
    ClientReply,
    Info,
    ConfigGet,
    ConfigSet,
    ConfigResetstat,
    Time,
    Role,
    Wait,
    Readonly,
    Readwrite,
    ClusterSlots,
    ClusterShards,
    ClusterNodes,
    ClusterInfo,
    ClusterMyid,
    ClusterMyshardid,
    ClusterKeyslot,
    ClusterCountkeysinslot,
    ClusterGetkeysinslot,
    ClusterReplicas,
    ClusterLinks,
    ClusterFailover,
    Link,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
}

impl NodeCommand {
    /// Whether it changes nothing, and answers by itself and at once: then it may be in a transaction.
    #[must_use]
    pub const fn may_be_queued(self) -> bool {
        match self {
            Self::Ping
            | Self::Select
            | Self::ClientId
            | Self::ClientGetname
            | Self::ClientInfo
            | Self::ClientList
            | Self::ClientNoEvict
            | Self::ClientNoTouch
            | Self::Info
            | Self::ConfigGet
            | Self::ConfigSet
            | Self::ConfigResetstat
            | Self::Time
            | Self::ClusterShards
            | Self::ClusterInfo
            | Self::ClusterMyid
            | Self::ClusterMyshardid
            | Self::ClusterKeyslot
            | Self::ClusterCountkeysinslot
            | Self::ClusterGetkeysinslot
            | Self::ClusterReplicas
            | Self::ClusterLinks
            | Self::Unwatch => true,
            Self::Hello
            | Self::Auth
            | Self::Quit
            | Self::Reset
            | Self::ClientSetname
            | Self::ClientSetinfo
            | Self::ClientKill
            | Self::ClientReply
            | Self::Role
            | Self::Wait
            | Self::Readonly
            | Self::Readwrite
            | Self::ClusterSlots
            | Self::ClusterNodes
            | Self::ClusterFailover
            | Self::Link
            | Self::Multi
            | Self::Exec
            | Self::Discard
            | Self::Watch => false,
        }
    }

    /// Whether it is about what a connection queues and watches.
    #[must_use]
    pub const fn is_of_transactions(self) -> bool {
        matches!(
            self,
            Self::Multi | Self::Exec | Self::Discard | Self::Watch | Self::Unwatch
        )
    }

    /// Whether it is run at once on a connection that queues what it is sent.
    #[must_use]
    pub const fn ends_queueing(self) -> bool {
        matches!(
            self,
            Self::Multi | Self::Exec | Self::Discard | Self::Watch | Self::Quit | Self::Reset
        )
    }
}

/// Where a command's keys are among its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keys {
    /// Nowhere.
    None,
    /// From one position to another, every so many; a negative last counts from the end.
    Range {
        /// The first key's position; the name has 0.
        first: i32,
        /// The last key's position.
        last: i32,
        /// The distance between two keys.
        step: i32,
    },
    /// Those of the command that it wraps, which begins at this position.
    Wrapped {
        /// The position of the wrapped command's name.
        at: usize,
    },
    /// Those that a transaction watches, and those of the commands in it.
    Transaction,
}

/// How a command without keys concerns several shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// Any one of them answers for all.
    One,
    /// All are asked, and their numbers are added.
    Sum,
    /// All are asked, and the least number counts.
    Least,
    /// All are asked, and all must have done it.
    All,
    /// It walks from one to the next, call by call.
    Walk,
}

/// Which page of the manual.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Any key.
    Generic,
    /// Strings.
    String,
    /// The connection.
    Connection,
    /// The server.
    Server,
    /// The cluster.
    Cluster,
    /// Several commands in one step.
    Transactions,
    /// What only kvorum has.
    Kvorum,
}

impl Group {
    /// Its name in COMMAND DOCS.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Group::Generic => "generic",
            Group::String => "string",
            Group::Connection => "connection",
            Group::Server => "server",
            Group::Cluster => "cluster",
            Group::Transactions => "transactions",
            Group::Kvorum => "kvorum",
        }
    }
}

macro_rules! bits {
    ($(#[$doc:meta])* $name:ident { $($(#[$one:meta])* $bit:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct $name(u32);

        bits!(@consts $name, 0u32; $($(#[$one])* $bit,)*);

        impl $name {
            /// The names of all, in the order in which Redis lists them.
            pub const NAMES: &'static [(Self, &'static str)] = &[$((Self::$bit, $text),)*];

            /// None of them.
            pub const NONE: Self = Self(0);

            /// Both together.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Whether all of the other are among these.
            #[must_use]
            pub const fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The names of these.
            pub fn names(self) -> impl Iterator<Item = &'static str> + Clone {
                Self::NAMES
                    .iter()
                    .filter(move |(bit, _)| self.has(*bit))
                    .map(|(_, name)| *name)
            }
        }
    };
    (@consts $name:ident, $number:expr; $(#[$one:meta])* $bit:ident, $($rest:tt)*) => {
        impl $name {
            $(#[$one])*
            pub const $bit: Self = Self(1 << ($number));
        }
        bits!(@consts $name, $number + 1; $($rest)*);
    };
    (@consts $name:ident, $number:expr;) => {};
}

bits! {
    /// What COMMAND says of a command.
    Flags {
        /// Changes the keyspace.
        WRITE = "write",
        /// Reads the keyspace.
        READONLY = "readonly",
        /// May need memory: refused at the memory limit.
        DENYOOM = "denyoom",
        /// For operators.
        ADMIN = "admin",
        /// Not from scripts.
        NOSCRIPT = "noscript",
        /// Allowed while data is loaded.
        LOADING = "loading",
        /// Allowed on a replica that lost its primary.
        STALE = "stale",
        /// Not in the list of slow commands.
        SKIP_SLOWLOG = "skip_slowlog",
        /// Not while a replica loads what its primary sends.
        NO_ASYNC_LOADING = "no_async_loading",
        /// Constant or logarithmic time.
        FAST = "fast",
        /// Allowed before authentication.
        NO_AUTH = "no_auth",
        /// Allowed while a script runs.
        ALLOW_BUSY = "allow_busy",
        /// Its keys are not at fixed positions.
        MOVABLEKEYS = "movablekeys",
    }
}

bits! {
    /// Categories of access control.
    Categories {
        /// Any key.
        KEYSPACE = "@keyspace",
        /// Reads.
        READ = "@read",
        /// Writes.
        WRITE = "@write",
        /// Strings.
        STRING = "@string",
        /// For operators.
        ADMIN = "@admin",
        /// Fast commands.
        FAST = "@fast",
        /// All others.
        SLOW = "@slow",
        /// Thought should be given.
        DANGEROUS = "@dangerous",
        /// The connection.
        CONNECTION = "@connection",
        /// Transactions.
        TRANSACTION = "@transaction",
    }
}

/// The key is argument 1.
pub(super) const ONE_KEY: Keys = Keys::Range {
    first: 1,
    last: 1,
    step: 1,
};
/// All arguments are keys.
pub(super) const ALL_KEYS: Keys = Keys::Range {
    first: 1,
    last: -1,
    step: 1,
};
/// Keys and values take turns.
pub(super) const KEYS_AND_VALUES: Keys = Keys::Range {
    first: 1,
    last: -1,
    step: 2,
};

impl Spec {
    /// How it concerns several shards if it has no keys: what its tips tell proxies.
    #[must_use]
    pub fn spread(&self) -> Spread {
        let says = |tip: &str| self.tips.contains(&tip);
        if says("request_policy:special") {
            Spread::Walk
        } else if !says("request_policy:all_shards") {
            Spread::One
        } else if says("response_policy:agg_sum") {
            Spread::Sum
        } else if says("response_policy:agg_min") {
            Spread::Least
        } else {
            Spread::All
        }
    }

    const fn new(name: &'static str, arity: i32, flags: Flags, run: Run) -> Self {
        Self {
            name,
            operation: 0,
            arity,
            flags,
            categories: Categories::NONE,
            keys: Keys::None,
            access: &[],
            access_notes: "",
            tips: &[],
            group: Group::Generic,
            since: "",
            deprecated: None,
            summary: "",
            complexity: "O(1)",
            run,
            subcommands: &[],
        }
    }

    /// A command that reads the keyspace.
    pub(super) const fn read(operation: u16, name: &'static str, arity: i32, read: Read) -> Self {
        let mut spec = Self::new(name, arity, Flags::READONLY, Run::Read(read));
        spec.operation = operation;
        spec
    }

    /// A command that goes through the log.
    pub(super) const fn write(
        operation: u16,
        name: &'static str,
        arity: i32,
        resolve: Resolve,
        apply: Apply,
    ) -> Self {
        let run = Run::Write { resolve, apply };
        let mut spec = Self::new(name, arity, Flags::WRITE, run);
        spec.operation = operation;
        spec
    }

    /// A command that needs its request only.
    pub(super) const fn pure(name: &'static str, arity: i32, pure: Pure) -> Self {
        Self::new(name, arity, Flags::NONE, Run::Pure(pure))
    }

    /// A command of the client layer.
    pub(super) const fn node(name: &'static str, arity: i32, command: NodeCommand) -> Self {
        Self::new(name, arity, Flags::NONE, Run::Node(command))
    }

    /// A command that has only subcommands.
    pub(super) const fn container(name: &'static str, subcommands: &'static [Spec]) -> Self {
        Self::new(name, -2, Flags::NONE, Run::Container).subcommands(subcommands)
    }

    pub(super) const fn flags(mut self, flags: Flags) -> Self {
        self.flags = self.flags.with(flags);
        self
    }

    pub(super) const fn categories(mut self, categories: Categories) -> Self {
        self.categories = self.categories.with(categories);
        self
    }

    pub(super) const fn keys(mut self, keys: Keys, access: &'static [&'static str]) -> Self {
        self.keys = keys;
        self.access = access;
        self
    }

    pub(super) const fn access_notes(mut self, notes: &'static str) -> Self {
        self.access_notes = notes;
        self
    }

    pub(super) const fn deprecated(
        mut self,
        since: &'static str,
        replaced_by: &'static str,
    ) -> Self {
        self.deprecated = Some((since, replaced_by));
        self
    }

    pub(super) const fn tips(mut self, tips: &'static [&'static str]) -> Self {
        self.tips = tips;
        self
    }

    pub(super) const fn subcommands(mut self, subcommands: &'static [Spec]) -> Self {
        self.subcommands = subcommands;
        self
    }

    pub(super) const fn docs(
        mut self,
        group: Group,
        since: &'static str,
        summary: &'static str,
    ) -> Self {
        self.group = group;
        self.since = since;
        self.summary = summary;
        self
    }

    pub(super) const fn complexity(mut self, complexity: &'static str) -> Self {
        self.complexity = complexity;
        self
    }

    /// Whether it goes through the log.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        matches!(self.run, Run::Write { .. })
    }

    /// Whether it reads the keyspace and does not change it.
    #[must_use]
    pub const fn is_read(&self) -> bool {
        matches!(self.run, Run::Read(_))
    }

    /// Whether it may be in a transaction: it names its keys, or is not about keys and changes nothing.
    #[must_use]
    pub const fn may_be_queued(&self) -> bool {
        match self.run {
            Run::Read(_) | Run::Write { .. } => matches!(self.keys, Keys::Range { .. }),
            Run::Pure(_) => true,
            Run::Node(command) => command.may_be_queued(),
            Run::Container => false,
        }
    }

    /// Whether so many arguments, the name included, are right.
    #[must_use]
    pub const fn takes(&self, len: usize) -> bool {
        if self.arity >= 0 {
            len == self.arity as usize
        } else {
            len >= self.arity.unsigned_abs() as usize
        }
    }

    /// All its categories, those that follow from flags included.
    #[must_use]
    pub const fn all_categories(&self) -> Categories {
        let mut all = self.categories;
        if self.flags.has(Flags::WRITE) {
            all = all.with(Categories::WRITE);
        }
        if self.flags.has(Flags::READONLY) {
            all = all.with(Categories::READ);
        }
        if self.flags.has(Flags::ADMIN) {
            all = all.with(Categories::ADMIN).with(Categories::DANGEROUS);
        }
        all.with(if self.flags.has(Flags::FAST) {
            Categories::FAST
        } else {
            Categories::SLOW
        })
    }
}
