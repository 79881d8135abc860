//! `kvorum ctl shards|nodes|moves|primary|config`: the shard manager, asked and ordered.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use kvorum_secret::Secret;
use kvorum_server::control::client;
use kvorum_server::control::cluster::{Carried, ConfigPicture, Given, Issuer, Order, Picture};
use kvorum_server::control::status::{MoveStatus, ProcessStatus};

use crate::up::REPLICAS_DEFAULT;

#[derive(Subcommand)]
pub(super) enum Shards {
    /// List the shards: how many slots they have and should have, and where their replicas are
    List,
    /// Add shards; slots move to them while clients go on
    Add {
        /// Names of the new shards [default: one shard with a name made up]
        names: Vec<String>,
        /// Replicas of each, each on another node
        #[arg(long, value_name = "N")]
        replicas: Option<u8>,
    },
    /// Take a shard away; it serves until all its slots have moved to others
    Remove {
        /// Its name or number
        shard: String,
    },
    /// Move slots to a shard; holds until shards are added, removed or rebalanced
    Move {
        /// The slots: numbers and ranges, as in 0-99,200
        slots: String,
        /// The shard's name or number
        shard: String,
    },
    /// Even the slots out over the shards
    Rebalance,
    /// Set how many replicas a shard should have
    Replicas {
        /// Its name or number
        shard: String,
        /// How many
        replicas: u8,
    },
}

#[derive(Subcommand)]
pub(super) enum Nodes {
    /// List the nodes
    List,
    /// Put a node's replicas elsewhere and give it no more
    Drain {
        /// The node
        node: u64,
    },
    /// Let a drained node have replicas again
    Undrain {
        /// The node
        node: u64,
    },
    /// Forget a node that is drained, dead or damaged and has no replica any more
    Remove {
        /// The node
        node: u64,
    },
}

#[derive(Subcommand)]
pub(super) enum Moves {
    /// List the open moves
    List,
    /// End a move without moving, if that can still be
    Cancel {
        /// Its number
        id: u64,
    },
    /// Set how many moves may be open at once, and how many shards may change their replicas
    Limit {
        /// Moves
        #[arg(long, value_name = "N")]
        moves: Option<u32>,
        /// Shards that change their replicas
        #[arg(long, value_name = "N")]
        changes: Option<u32>,
    },
}

#[derive(Subcommand)]
pub(super) enum Primary {
    /// Hand a shard's primary over to a node, and keep it there
    Transfer {
        /// The shard's name or number
        shard: String,
        /// The node
        node: u64,
    },
}

#[derive(Subcommand)]
pub(super) enum Config {
    /// Show a numbered config: which shard should have which slots
    Query {
        /// Its number [default: the newest]
        number: Option<u64>,
    },
}

/// What all of them take.
#[derive(Args)]
pub(super) struct Access {
    /// File with the cluster's secret (needed to give orders from another machine)
    #[arg(long, global = true, env = "KVORUM_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Access {
    pub(super) fn secret(&self) -> Result<Option<Secret>, String> {
        self.secret_file.as_deref().map(Secret::read).transpose()
    }
}

pub(super) fn shards(nodes: &[String], command: Shards, access: &Access) -> Result<(), String> {
    let order = match command {
        Shards::List => return show(nodes, access, print_shards),
        Shards::Add { names, replicas } => Order::AddShards {
            names: match names.is_empty() {
                true => vec![None],
                false => names.into_iter().map(Some).collect(),
            },
            replicas: match replicas {
                Some(replicas) => replicas,
                None => replicas_default(nodes)?,
            },
        },
        Shards::Remove { shard } => Order::RemoveShard { shard },
        Shards::Move { slots, shard } => Order::MoveSlots {
            slots: runs(&slots)?,
            shard,
        },
        Shards::Rebalance => Order::Rebalance,
        Shards::Replicas { shard, replicas } => Order::SetReplicas { shard, replicas },
    };
    give(nodes, &order, access)
}

pub(super) fn nodes(nodes: &[String], command: &Nodes, access: &Access) -> Result<(), String> {
    let order = match *command {
        Nodes::List => return show(nodes, access, print_nodes),
        Nodes::Drain { node } => Order::DrainNode {
            node,
            draining: true,
        },
        Nodes::Undrain { node } => Order::DrainNode {
            node,
            draining: false,
        },
        Nodes::Remove { node } => Order::RemoveNode { node },
    };
    give(nodes, &order, access)
}

pub(super) fn moves(nodes: &[String], command: &Moves, access: &Access) -> Result<(), String> {
    let order = match *command {
        Moves::List => return list_moves(nodes, access),
        Moves::Cancel { id } => Order::CancelMove { id },
        Moves::Limit { moves, changes } => Order::Configure { moves, changes },
    };
    give(nodes, &order, access)
}

pub(super) fn primary(nodes: &[String], command: Primary, access: &Access) -> Result<(), String> {
    let Primary::Transfer { shard, node } = command;
    give(nodes, &Order::TransferPrimary { shard, node }, access)
}

pub(super) fn config(nodes: &[String], command: &Config, access: &Access) -> Result<(), String> {
    let Config::Query { number } = command;
    let path = match number {
        Some(number) => format!("/api/v1/config?number={number}"),
        None => "/api/v1/config".to_owned(),
    };
    let config: ConfigPicture = client::ask_any(nodes, |node| client::get(node, &path))?;
    if access.json {
        return print_json(&config);
    }
    println!("config {}", config.number);
    for (name, runs) in &config.shards {
        println!("  {name}  {}", runs_text(runs));
    }
    Ok(())
}

/// As many as shards usually have here, or as there are nodes.
fn replicas_default(nodes: &[String]) -> Result<u8, String> {
    let picture = picture(nodes)?;
    let able = picture.nodes.iter().filter(|node| node.state == "in");
    Ok((able.count().min(usize::from(REPLICAS_DEFAULT)) as u8).max(1))
}

pub(super) fn picture(nodes: &[String]) -> Result<Picture, String> {
    client::ask_any(nodes, |node| client::get(node, "/api/v1/cluster"))
}

fn show(nodes: &[String], access: &Access, print: fn(&Picture)) -> Result<(), String> {
    let picture = picture(nodes)?;
    if access.json {
        return print_json(&picture);
    }
    print(&picture);
    Ok(())
}

/// How often an order is given of which nobody knows what became.
const GIVES_MAX: usize = 3;

/// Gives an order, through whichever node takes it. It has an issuer, so that it can be given again where
/// nobody knows what became of it, and happens once.
fn give(nodes: &[String], order: &Order, access: &Access) -> Result<(), String> {
    let secret = access.secret()?;
    // Whoever shows the picture can be reached.
    let reached = |node: &&String| client::get::<Picture>(node, "/api/v1/cluster").is_ok();
    let able: Vec<String> = nodes.iter().filter(reached).cloned().collect();
    if able.is_empty() {
        let all = nodes.join(", ");
        return Err(format!("none of {all} answers as a node of a cluster"));
    }
    let secret = secret.as_ref();
    let nothing = serde_json::json!({});
    let open = |node: &str| client::post(node, "/api/v1/admin/issuer", &nothing, secret);
    let Issuer { issuer } = client::ask_any(&able, open)?;
    let given = Given {
        issuer: Some(issuer),
        order: order.clone(),
    };
    let mut tries = able
        .iter()
        .cycle()
        .take(GIVES_MAX.max(able.len()))
        .peekable();
    let carried: Carried = loop {
        let node = tries.next().expect("at least one");
        match client::post(node, "/api/v1/admin/cluster", &given, secret) {
            Ok(carried) => break carried,
            Err(error) if error.is_refusal || tries.peek().is_none() => return Err(error.into()),
            Err(error) => eprintln!("{error}; asking again"),
        }
    };
    if access.json {
        return print_json(&carried);
    }
    println!("{}", carried.text);
    Ok(())
}

pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}

pub(super) fn print_shards(picture: &Picture) {
    for shard in &picture.shards {
        let nodes: Vec<_> = shard.nodes.iter().map(ToString::to_string).collect();
        let slots = match shard.slots == shard.slots_wanted {
            true => format!("{} slots", shard.slots),
            false => format!("{} of {} slots", shard.slots, shard.slots_wanted),
        };
        let missing = usize::from(shard.replicas_wanted).saturating_sub(shard.nodes.len());
        let missing = match missing {
            0 => String::new(),
            some => format!("  {some} replicas missing"),
        };
        println!(
            "  shard {} {}  {}  {slots}  on nodes {}{missing}  {}",
            shard.shard,
            shard.name,
            shard.state,
            nodes.join(","),
            runs_text(&shard.runs)
        );
    }
    for recovery in &picture.recoveries {
        let what = match recovery.shard {
            0 => "the shard manager".to_owned(),
            shard => format!("shard {shard}"),
        };
        println!(
            "  {what} lost its majority and went on with node {} from entry {} on: what only the others had \
             is lost",
            recovery.node, recovery.at
        );
    }
}

fn print_nodes(picture: &Picture) {
    for node in &picture.nodes {
        println!(
            "  node {}  {}  {} replicas  clients {}  http {}",
            node.node, node.state, node.replicas, node.client, node.http
        );
    }
}

/// The open moves, with how far they are as far as the nodes that send them answer.
fn list_moves(nodes: &[String], access: &Access) -> Result<(), String> {
    let picture = picture(nodes)?;
    let asked = picture.nodes.iter().filter_map(|node| {
        let status: ProcessStatus = client::get(&node.http, "/api/v1/status").ok()?;
        status.status
    });
    let progress: BTreeMap<u64, MoveStatus> = asked
        .flat_map(|status| status.moves)
        .map(|moving| (moving.id, moving))
        .collect();
    if access.json {
        return print_json(&serde_json::json!({ "open": picture.moves, "progress": progress }));
    }
    if picture.moves.is_empty() {
        println!("no moves");
    }
    for open in &picture.moves {
        let from = open
            .from
            .map_or_else(|| "-".to_owned(), |from| from.to_string());
        let cancelled = if open.cancelled {
            "  to be cancelled"
        } else {
            ""
        };
        let progress = progress
            .get(&open.id)
            .map_or_else(String::new, progress_text);
        println!(
            "  move {}  {} slots  shard {from} -> shard {}{progress}{cancelled}",
            open.id, open.slots, open.to
        );
    }
    Ok(())
}

fn progress_text(moving: &MoveStatus) -> String {
    let left = moving
        .left_s()
        .map_or_else(String::new, |left| format!("  {left} s left"));
    format!(
        "  {}  {} of {} bytes  {} bytes/s{left}",
        moving.phase,
        moving.sent_bytes,
        moving.bytes,
        moving.rate()
    )
}

/// Runs of slots in few words.
fn runs_text(runs: &[(u16, u16)]) -> String {
    const SHOWN: usize = 6;
    let run = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let shown: Vec<_> = runs.iter().take(SHOWN).map(run).collect();
    let more = match runs.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(","))
}

/// Slots as people write them.
fn runs(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let run = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u16>().ok().filter(|slot| *slot < 16384);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok((first, last)),
            _ => Err(format!(
                "{part} is no slot and no range: write slots as in 0-99,200"
            )),
        }
    };
    text.split(',').map(run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_as_people_write_them() {
        assert_eq!(runs("0-99,200"), Ok(vec![(0, 99), (200, 200)]));
        assert_eq!(runs("16383"), Ok(vec![(16383, 16383)]));
        for wrong in ["", "5-", "9-3", "16384", "a", "1,,2"] {
            assert!(runs(wrong).is_err(), "{wrong}");
        }
    }
}
