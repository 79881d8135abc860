//! The kvorum binary: one program for the nodes, the operator, and a whole cluster on one machine.

mod bench;
mod ctl;
mod mr;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kvorum_server::config::NodeOptions;
use kvorum_server::router::RouterOptions;

/// Every request and reply allocates and frees small pieces on one thread: this allocator does that in
/// half the time of the system's, at the same memory per key.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// Bugs on purpose are for the simulator. No release can be built with them.
const _: () = assert!(!kvorum_node::PLANTED || cfg!(debug_assertions));

/// A sharded, replicated, linearizable key-value store that speaks the Redis protocol.
///
/// `kvorum up` starts a whole cluster on this machine; `redis-cli -p 7379` talks to it.
#[derive(Parser)]
#[command(name = "kvorum", version, about, long_about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a whole cluster on this machine, every node its own process
    Up(up::Options),
    /// Run one node
    #[command(
        long_about = "Run one node.\n\nA node with an empty directory waits for `kvorum ctl init`. \
        Every setting can also be given in the environment, as shown, or in the configuration file, \
        under the name of the flag without its dashes."
    )]
    Node(Box<NodeOptions>),
    /// Run a router: to its clients one Redis, behind it the cluster
    #[command(
        long_about = "Run a router: to its clients one Redis, behind it the cluster.\n\nAny Redis client \
        can use it as it would use a single server. It finds out by itself which node serves what, splits \
        MGET, MSET, DEL, UNLINK, EXISTS and TOUCH over slots (not as one step), and waits through \
        failovers. It keeps no data and needs no directory: run as many as you like, beside the clients \
        or behind a load balancer."
    )]
    Router(RouterOptions),
    /// Make a cluster, ask how it does, look inside
    Ctl(ctl::Options),
    /// Measure a node, a router, a cluster or any Redis
    Bench(bench::Options),
    /// Run MapReduce jobs over files
    Mr(mr::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Node(options) => return kvorum_server::process::run_node(*options),
        Command::Router(options) => return kvorum_server::router::run_router(options),
        Command::Up(options) => up::run(options),
        Command::Ctl(options) => ctl::run(options),
        Command::Bench(options) => bench::run(options),
        Command::Mr(options) => match mr::run(options) {
            Ok(code) => return code,
            Err(error) => Err(error.to_string()),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvorum: {error}");
            ExitCode::FAILURE
        }
    }
}
