//! `kvorum ctl`: the operator's side.

mod cluster;
pub(crate) mod init;
mod picture;
mod recover;
mod status;
mod wal;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kvorum_secret::Secret;
use kvorum_server::identity::Shape;

use crate::up::REPLICAS_DEFAULT;

/// The group of the shard manager.
const MANAGER: u64 = 0;

#[derive(Args)]
pub(crate) struct Options {
    /// HTTP addresses of some nodes of a running cluster: the others are found through them
    #[arg(
        long,
        global = true,
        env = "KVORUM_CLUSTER",
        value_name = "ADDR,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:7201"
    )]
    cluster: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make one cluster of fresh nodes; once
    ///
    /// All nodes must be running. Either all of them become one cluster, or nothing happens. After a
    /// crash in the middle the same command goes on where it was.
    Init(InitOptions),
    /// Say how the cluster and each of its nodes do
    Status(StatusOptions),
    /// List, add, remove and rebalance shards
    Shards {
        #[command(subcommand)]
        command: cluster::Shards,
        #[command(flatten)]
        access: cluster::Access,
    },
    /// List, drain and remove nodes
    Nodes {
        #[command(subcommand)]
        command: cluster::Nodes,
        #[command(flatten)]
        access: cluster::Access,
    },
    /// List, cancel and limit moves of slots
    Moves {
        #[command(subcommand)]
        command: cluster::Moves,
        #[command(flatten)]
        access: cluster::Access,
    },
    /// Hand primaries over
    Primary {
        #[command(subcommand)]
        command: cluster::Primary,
        #[command(flatten)]
        access: cluster::Access,
    },
    /// Show which shard should have which slots, now or in an earlier config
    Config {
        #[command(subcommand)]
        command: cluster::Config,
        #[command(flatten)]
        access: cluster::Access,
    },
    /// Go on with one replica where a majority is lost for good
    ///
    /// A shard, or the shard manager, serves only while a majority of its voters answers. If the others will
    /// never come back, one that is left can go on alone: it keeps all that it has, and what only the lost
    /// ones had is gone, acknowledged or not. Without --i-accept-loss nothing is done; it is shown which
    /// replicas are left and how far each of them is. Without --shard everything without a majority is
    /// recovered, the shard manager first. What is let go never counts again, even if it comes back.
    Recover(recover::Options),
    /// Look into a node's log
    #[command(subcommand)]
    Wal(WalCommand),
}

#[derive(Args)]
struct InitOptions {
    /// HTTP addresses of all nodes of the new cluster
    #[arg(long, value_name = "ADDR,...", value_delimiter = ',', required = true)]
    nodes: Vec<String>,
    /// Shards of the new cluster
    #[arg(long, value_name = "N", default_value_t = 1)]
    shards: u16,
    /// Replicas of each shard, each on another node [default: 3, or as many as there are nodes]
    #[arg(long, value_name = "N")]
    replicas: Option<u16>,
    /// File with the secret that all nodes were started with (needed beyond loopback)
    #[arg(long, env = "KVORUM_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct StatusOptions {
    /// Show each replica as its node sees it: terms, indexes, hashes
    #[arg(long)]
    replicas: bool,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum WalCommand {
    /// Print every record of a data directory's log; changes nothing
    Dump {
        /// The data directory of a node
        dir: PathBuf,
    },
}

pub(crate) fn run(options: Options) -> Result<(), String> {
    let Options {
        cluster: nodes,
        command,
    } = options;
    match command {
        Command::Init(options) => {
            let secret = options
                .secret_file
                .as_deref()
                .map(Secret::read)
                .transpose()?;
            let nodes = u16::try_from(options.nodes.len()).unwrap_or(u16::MAX);
            let shape = Shape {
                shards: options.shards,
                replicas: options.replicas.unwrap_or(nodes.min(REPLICAS_DEFAULT)),
            };
            let made = init::make_cluster(&options.nodes, shape, secret.as_ref())?;
            if options.json {
                println!(
                    "{}",
                    serde_json::json!({ "cluster": made.cluster, "made": made.made })
                );
            } else if made.made {
                println!(
                    "cluster {} is made of {} nodes",
                    made.cluster,
                    options.nodes.len()
                );
            } else {
                println!(
                    "these nodes already are cluster {}: nothing was done",
                    made.cluster
                );
            }
            Ok(())
        }
        Command::Status(options) => status::run(&nodes, options.replicas, options.json),
        Command::Shards { command, access } => cluster::shards(&nodes, command, &access),
        Command::Nodes { command, access } => cluster::nodes(&nodes, &command, &access),
        Command::Moves { command, access } => cluster::moves(&nodes, &command, &access),
        Command::Primary { command, access } => cluster::primary(&nodes, command, &access),
        Command::Config { command, access } => cluster::config(&nodes, &command, &access),
        Command::Recover(options) => recover::run(&nodes, &options),
        Command::Wal(WalCommand::Dump { dir }) => wal::dump(&dir),
    }
}
