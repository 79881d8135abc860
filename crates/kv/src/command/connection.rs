//! Commands about the connection, the node and the cluster: answered by the client layer, and in the
//! table for their arity, their flags and COMMAND.

use kvorum_resp::{Args, Replies};

use crate::command::introspect::help;
use crate::command::refusal::printed;
use crate::command::spec::{Categories, Flags, Group, NodeCommand, Spec};

const ANYTIME: Flags = Flags::NOSCRIPT.with(Flags::LOADING).with(Flags::STALE);
const BEFORE_AUTH: Flags = ANYTIME
    .with(Flags::FAST)
    .with(Flags::NO_AUTH)
    .with(Flags::ALLOW_BUSY);
const LOADING_STALE: Flags = Flags::LOADING.with(Flags::STALE);
const NONDETERMINISTIC: &[&str] = &["nondeterministic_output"];

/// The commands.
pub(super) const SPECS: &[Spec] = &[
    connection(Spec::node("ping", -1, NodeCommand::Ping))
        .flags(Flags::FAST)
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .docs(Group::Connection, "1.0.0", "Replies PONG, or the message."),
    connection(Spec::pure("echo", 2, echo))
        .flags(LOADING_STALE.with(Flags::FAST))
        .docs(Group::Connection, "1.0.0", "Replies the message."),
    connection(Spec::node("hello", -1, NodeCommand::Hello))
        .flags(BEFORE_AUTH)
        .docs(
            Group::Connection,
            "6.0.0",
            "Chooses the protocol, and tells of the server.",
        ),
    connection(Spec::node("auth", -2, NodeCommand::Auth))
        .flags(BEFORE_AUTH)
        .docs(Group::Connection, "1.0.0", "Proves who the client is."),
    connection(Spec::node("select", 2, NodeCommand::Select))
        .flags(LOADING_STALE.with(Flags::FAST))
        .docs(
            Group::Connection,
            "1.0.0",
            "Chooses a database: there is one, 0.",
        ),
    connection(Spec::node("quit", -1, NodeCommand::Quit))
        .flags(BEFORE_AUTH)
        .deprecated("7.2.0", "just closing the connection")
        .docs(Group::Connection, "1.0.0", "Closes the connection."),
    connection(Spec::node("reset", 1, NodeCommand::Reset))
        .flags(BEFORE_AUTH)
        .docs(Group::Connection, "6.2.0", "Makes the connection as new."),
    Spec::container("client", CLIENT).docs(
        Group::Connection,
        "2.4.0",
        "Commands about connections.",
    ),
    Spec::node("info", -1, NodeCommand::Info)
        .flags(LOADING_STALE)
        .categories(Categories::DANGEROUS)
        .tips(&[
            "nondeterministic_output",
            "request_policy:all_shards",
            "response_policy:special",
        ])
        .docs(Group::Server, "1.0.0", "Tells of the server, in sections."),
    Spec::container("config", CONFIG).docs(Group::Server, "2.0.0", "Commands about settings."),
    Spec::node("time", 1, NodeCommand::Time)
        .flags(LOADING_STALE.with(Flags::FAST))
        .tips(NONDETERMINISTIC)
        .docs(Group::Server, "2.6.0", "Tells the server's time."),
    Spec::node("role", 1, NodeCommand::Role)
        .flags(ANYTIME.with(Flags::FAST))
        .categories(Categories::ADMIN.with(Categories::DANGEROUS))
        .docs(
            Group::Server,
            "2.8.12",
            "Tells whether the node is a primary.",
        ),
    connection(Spec::node("wait", 3, NodeCommand::Wait))
        .flags(Flags::NOSCRIPT)
        .tips(&["request_policy:all_shards", "response_policy:agg_min"])
        .docs(
            Group::Generic,
            "3.0.0",
            "Counts the replicas that hold this connection's writes.",
        ),
    Spec::container("cluster", CLUSTER).docs(
        Group::Cluster,
        "3.0.0",
        "Commands about the cluster.",
    ),
    connection(Spec::node("kvorum.link", 2, NodeCommand::Link))
        .flags(ANYTIME.with(Flags::ADMIN))
        .docs(
            Group::Kvorum,
            "kvorum",
            "Says that the connection is a router's, which requests are not held on.",
        ),
    connection(Spec::node("readonly", 1, NodeCommand::Readonly))
        .flags(LOADING_STALE.with(Flags::FAST))
        .docs(
            Group::Cluster,
            "3.0.0",
            "Lets replicas answer this connection's reads.",
        ),
    connection(Spec::node("readwrite", 1, NodeCommand::Readwrite))
        .flags(LOADING_STALE.with(Flags::FAST))
        .docs(Group::Cluster, "3.0.0", "Takes READONLY back."),
];

const CLIENT: &[Spec] = &[
    client("client|getname", 2, NodeCommand::ClientGetname).docs(
        Group::Connection,
        "2.6.9",
        "Tells the connection's name.",
    ),
    connection(Spec::pure("client|help", 2, help))
        .flags(LOADING_STALE)
        .docs(Group::Connection, "5.0.0", "Lists the subcommands."),
    client("client|id", 2, NodeCommand::ClientId).docs(
        Group::Connection,
        "5.0.0",
        "Tells the connection's number.",
    ),
    client("client|info", 2, NodeCommand::ClientInfo)
        .tips(NONDETERMINISTIC)
        .docs(
            Group::Connection,
            "6.2.0",
            "Tells all about this connection.",
        ),
    client("client|kill", -3, NodeCommand::ClientKill)
        .flags(Flags::ADMIN)
        .docs(Group::Connection, "2.4.0", "Closes connections."),
    client("client|list", -2, NodeCommand::ClientList)
        .flags(Flags::ADMIN)
        .tips(NONDETERMINISTIC)
        .docs(
            Group::Connection,
            "2.4.0",
            "Tells all about all connections.",
        ),
    client("client|no-evict", 3, NodeCommand::ClientNoEvict)
        .flags(Flags::ADMIN)
        .docs(
            Group::Connection,
            "7.0.0",
            "Keeps the connection when memory is short.",
        ),
    client("client|no-touch", 3, NodeCommand::ClientNoTouch).docs(
        Group::Connection,
        "7.2.0",
        "Lets commands leave the access times of keys alone.",
    ),
    client("client|reply", 3, NodeCommand::ClientReply).docs(
        Group::Connection,
        "3.2.0",
        "Turns replies on or off.",
    ),
    client("client|setinfo", 4, NodeCommand::ClientSetinfo).docs(
        Group::Connection,
        "7.2.0",
        "Notes the client library's name or version.",
    ),
    client("client|setname", 3, NodeCommand::ClientSetname).docs(
        Group::Connection,
        "2.6.9",
        "Names the connection.",
    ),
];

const CONFIG: &[Spec] = &[
    config("config|get", -3, NodeCommand::ConfigGet).docs(
        Group::Server,
        "2.0.0",
        "Tells the settings that patterns match.",
    ),
    Spec::pure("config|help", 2, help)
        .flags(LOADING_STALE)
        .docs(Group::Server, "5.0.0", "Lists the subcommands."),
    config("config|resetstat", 2, NodeCommand::ConfigResetstat).docs(
        Group::Server,
        "2.0.0",
        "Sets counters back to zero.",
    ),
    config("config|set", -4, NodeCommand::ConfigSet)
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .docs(Group::Server, "2.0.0", "Changes settings."),
];

const CLUSTER: &[Spec] = &[
    not_by_clients("cluster|addslots", -3),
    not_by_clients("cluster|addslotsrange", -4).docs(Group::Cluster, "7.0.0", BY_CTL),
    not_by_clients("cluster|bumpepoch", 2).tips(NONDETERMINISTIC),
    cluster(
        "cluster|countkeysinslot",
        3,
        NodeCommand::ClusterCountkeysinslot,
    )
    .docs(Group::Cluster, "3.0.0", "Counts the keys of a slot."),
    not_by_clients("cluster|delslots", -3),
    not_by_clients("cluster|delslotsrange", -4).docs(Group::Cluster, "7.0.0", BY_CTL),
    cluster("cluster|failover", -2, NodeCommand::ClusterFailover)
        .flags(Flags::ADMIN.with(Flags::NO_ASYNC_LOADING))
        .docs(
            Group::Cluster,
            "3.0.0",
            "Has the replicas of this node become primaries.",
        ),
    not_by_clients("cluster|flushslots", 2),
    not_by_clients("cluster|forget", 3),
    cluster(
        "cluster|getkeysinslot",
        4,
        NodeCommand::ClusterGetkeysinslot,
    )
    .tips(NONDETERMINISTIC)
    .docs(Group::Cluster, "3.0.0", "Lists keys of a slot."),
    Spec::pure("cluster|help", 2, help)
        .flags(LOADING_STALE)
        .docs(Group::Cluster, "5.0.0", "Lists the subcommands."),
    cluster("cluster|info", 2, NodeCommand::ClusterInfo)
        .tips(NONDETERMINISTIC)
        .docs(Group::Cluster, "3.0.0", "Tells how the cluster is."),
    cluster("cluster|keyslot", 3, NodeCommand::ClusterKeyslot).docs(
        Group::Cluster,
        "3.0.0",
        "Tells the slot of a key.",
    ),
    cluster("cluster|links", 2, NodeCommand::ClusterLinks)
        .tips(NONDETERMINISTIC)
        .docs(Group::Cluster, "7.0.0", "Lists the links to other nodes."),
    not_by_clients("cluster|meet", -4),
    cluster("cluster|myid", 2, NodeCommand::ClusterMyid).docs(
        Group::Cluster,
        "3.0.0",
        "Tells the node's id.",
    ),
    cluster("cluster|myshardid", 2, NodeCommand::ClusterMyshardid).docs(
        Group::Cluster,
        "7.2.0",
        "Tells the id of the node's shard.",
    ),
    cluster("cluster|nodes", 2, NodeCommand::ClusterNodes)
        .tips(NONDETERMINISTIC)
        .docs(Group::Cluster, "3.0.0", "Lists the nodes, a line each."),
    cluster("cluster|replicas", 3, NodeCommand::ClusterReplicas)
        .flags(Flags::ADMIN)
        .tips(NONDETERMINISTIC)
        .docs(Group::Cluster, "5.0.0", "Lists the replicas of a primary."),
    not_by_clients("cluster|replicate", 3),
    by_hand("cluster|reset", -2).flags(Flags::NOSCRIPT),
    not_by_clients("cluster|set-config-epoch", 3),
    not_by_clients("cluster|setslot", -4),
    cluster("cluster|shards", 2, NodeCommand::ClusterShards)
        .tips(NONDETERMINISTIC)
        .docs(Group::Cluster, "7.0.0", "Lists the shards and their nodes."),
    cluster("cluster|slots", 2, NodeCommand::ClusterSlots)
        .tips(NONDETERMINISTIC)
        .deprecated("7.0.0", "`CLUSTER SHARDS`")
        .docs(Group::Cluster, "3.0.0", "Lists which slots are where."),
];

const fn connection(spec: Spec) -> Spec {
    spec.categories(Categories::CONNECTION)
}

const fn client(name: &'static str, arity: i32, command: NodeCommand) -> Spec {
    connection(Spec::node(name, arity, command)).flags(ANYTIME)
}

const fn config(name: &'static str, arity: i32, command: NodeCommand) -> Spec {
    Spec::node(name, arity, command).flags(ANYTIME.with(Flags::ADMIN))
}

const fn cluster(name: &'static str, arity: i32, command: NodeCommand) -> Spec {
    Spec::node(name, arity, command).flags(Flags::STALE)
}

const BY_CTL: &str = "Refused: nodes and slots are looked after with `kvorum ctl`.";

/// What Redis Cluster has for putting a cluster together by hand.
const fn not_by_clients(name: &'static str, arity: i32) -> Spec {
    by_hand(name, arity).flags(Flags::NO_ASYNC_LOADING)
}

const fn by_hand(name: &'static str, arity: i32) -> Spec {
    Spec::pure(name, arity, see_ctl)
        .flags(Flags::ADMIN.with(Flags::STALE))
        .docs(Group::Cluster, "3.0.0", BY_CTL)
}

fn see_ctl(args: Args<'_>, replies: &mut Replies<'_>) {
    let verb = printed(args.get(1)).to_ascii_uppercase();
    let text = b" does nothing here: nodes and slots are looked after with `kvorum ctl`";
    replies.error_bytes(&[b"ERR CLUSTER ", &verb[..], text].concat());
}

fn echo(args: Args<'_>, replies: &mut Replies<'_>) {
    replies.bulk(args.get(1));
}
