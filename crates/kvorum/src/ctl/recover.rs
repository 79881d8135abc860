//! `kvorum ctl recover`: one replica goes on alone where a majority is lost for good.
//!
//! First all nodes are asked what they have, and it is shown. Only with a node named and the loss accepted is
//! anything done: the shard manager first, by its own node, since it cannot order anything without its
//! majority; then each shard, by the manager's order. Whether a majority is really silent is looked at again
//! by the node that goes on; nothing that is believed here can make a group with a majority lose it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use kvorum_secret::Secret;
use kvorum_server::control::client;
use kvorum_server::control::cluster::{Carried, Given, Order, Picture};
use kvorum_server::control::recover::{PATH, RecoverManager};
use kvorum_server::control::status::{GroupStatus, ProcessStatus};
use serde::Serialize;

use super::MANAGER;
use super::cluster::{Access, picture, print_json};
use super::status::ask_all;

/// How long a group without a primary may take to elect one before it counts as lost.
const ELECTION_PATIENCE: Duration = Duration::from_secs(5);
/// How long a recovery may take: the node first makes sure that it hears nobody.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks, and how many of them between two orders.
const LOOK: Duration = Duration::from_millis(250);
const LOOKS: u32 = 8;

#[derive(Args)]
pub(super) struct Options {
    /// What to recover: a shard's name or number, or `manager` [default: all that have no majority]
    #[arg(long, value_name = "SHARD")]
    shard: Option<String>,
    /// The node whose replica is to go on
    #[arg(long, value_name = "N")]
    from_node: Option<u64>,
    /// Do it: what only the lost replicas had is lost
    #[arg(long)]
    i_accept_loss: bool,
    /// Go on with a replica although another that is left has more
    #[arg(long)]
    even_if_behind: bool,
    #[command(flatten)]
    access: Access,
}

/// A replica that is left.
#[derive(Clone)]
struct Left {
    node: u64,
    http: String,
    replica: GroupStatus,
}

impl Left {
    /// How far it is: of two logs the one with the newer last entry has more, then the longer one.
    fn progress(&self) -> (u64, u64) {
        (self.replica.last_term, self.replica.last)
    }

    /// Whether it has a state to go on with.
    fn is_whole(&self) -> bool {
        self.replica.role != "waiting"
    }
}

/// A group, and what is left of it.
struct Group {
    number: u64,
    name: String,
    left: Vec<Left>,
}

impl Group {
    fn is_led(&self) -> bool {
        self.left.iter().any(|left| left.replica.role == "leader")
    }

    fn best(&self) -> Option<&Left> {
        let whole = self.left.iter().filter(|left| left.is_whole());
        whole.max_by_key(|left| left.progress())
    }

    fn on(&self, node: u64) -> Option<&Left> {
        self.left.iter().find(|left| left.node == node)
    }

    fn term(&self) -> u64 {
        let terms = self.left.iter().map(|left| left.replica.term);
        terms.max().unwrap_or(0)
    }

    /// As people call it.
    fn title(&self) -> String {
        match self.number {
            MANAGER => "the shard manager".to_owned(),
            number => format!("shard {number} ({})", self.name),
        }
    }

    /// As `--shard` takes it.
    fn argument(&self) -> String {
        match self.number {
            MANAGER => "manager".to_owned(),
            number => number.to_string(),
        }
    }
}

/// Which replica each group goes on with; and the groups that have none on that node.
struct Choice<'a> {
    chosen: Vec<(&'a Group, &'a Left)>,
    others: Vec<&'a Group>,
}

/// What was recovered.
#[derive(Serialize)]
struct Recovered {
    shard: u64,
    node: u64,
    /// The last entry that was kept.
    kept: u64,
    keys: u64,
    #[serde(skip)]
    slots: Vec<(u16, u16)>,
}

pub(super) fn run(nodes: &[String], options: &Options) -> Result<(), String> {
    let groups = look_until_sure(nodes, options.shard.as_deref())?;
    let (led, lost): (Vec<_>, Vec<_>) = groups.into_iter().partition(Group::is_led);
    if lost.is_empty() {
        return Err(match led.as_slice() {
            [only] => format!("{} has a majority: nothing to recover", only.title()),
            _ => "every shard has a majority, and the shard manager too: nothing to recover"
                .to_owned(),
        });
    }
    if !options.access.json {
        lost.iter().for_each(print);
    }
    let Choice { chosen, others } = choose(&lost, options)?;
    let recovered = carry_out(nodes, &chosen, options)?;
    if options.access.json {
        return print_json(&recovered);
    }
    println!(
        "\nKept is all that node {} had; what only the others had is lost, and nobody knows what that is. Now:\n\
         - start new nodes with --join: shards and the shard manager get their replicas back by themselves\n\
         - a lost node that comes back hears of this and deletes its old replicas\n\
         - `kvorum ctl nodes remove N` only those whose directories are destroyed: they would not hear of it",
        chosen[0].1.node
    );
    for warning in misplaced(nodes, &recovered) {
        println!("WARNING: {warning}");
    }
    for group in others {
        println!(
            "{} still has no majority, and no replica there",
            group.title()
        );
    }
    Ok(())
}

/// Asks all nodes what they have, until every group that is meant has a primary or had the time to elect one.
fn look_until_sure(nodes: &[String], only: Option<&str>) -> Result<Vec<Group>, String> {
    let begin = Instant::now();
    loop {
        let groups = look(nodes, only)?;
        if groups.iter().all(Group::is_led) || begin.elapsed() >= ELECTION_PATIENCE {
            return Ok(groups);
        }
        std::thread::sleep(LOOK);
    }
}

/// The groups that are meant, with the replicas that are left.
fn look(nodes: &[String], only: Option<&str>) -> Result<Vec<Group>, String> {
    let picture = picture(nodes)?;
    let mut groups: Vec<Group> = vec![Group {
        number: MANAGER,
        name: "manager".to_owned(),
        left: Vec::new(),
    }];
    let serving = picture.shards.iter();
    let serving = serving.filter(|shard| matches!(shard.state.as_str(), "serving" | "leaving"));
    groups.extend(serving.map(|shard| Group {
        number: shard.shard,
        name: shard.name.clone(),
        left: Vec::new(),
    }));
    if let Some(only) = only {
        groups.retain(|group| group.argument() == only || group.name == only);
        if groups.is_empty() {
            return Err(format!("there is no shard {only}"));
        }
    }
    let known = picture.nodes.iter().map(|node| node.http.clone());
    let asked: Vec<String> = nodes.iter().cloned().chain(known).collect();
    for status in ask_all(&asked)
        .into_iter()
        .filter_map(|answer| answer.status)
    {
        let http = status.addresses.http;
        let status = status.status.unwrap_or_default();
        if status.lost.is_some() {
            continue;
        }
        for replica in status.manager.iter().chain(&status.groups) {
            let mut meant = groups.iter_mut();
            if let Some(group) = meant.find(|group| group.number == replica.group) {
                group.left.push(Left {
                    node: status.node,
                    http: http.clone(),
                    replica: replica.clone(),
                });
            }
        }
    }
    Ok(groups)
}

fn print(group: &Group) {
    println!("{} has no majority. What is left of it:", group.title());
    let best = group.best().map(|best| best.node);
    for left in &group.left {
        let mut voters = left.replica.voters.clone();
        voters.sort_unstable();
        let voters: Vec<String> = voters.iter().map(u64::to_string).collect();
        let remark = match (left.is_whole(), best == Some(left.node)) {
            (false, _) => "  has no whole state",
            (true, true) => "  <- has most",
            (true, false) => "",
        };
        println!(
            "  node {}  last {} of term {}  commit {}  keys {}  hash {}  voters on nodes {}{remark}",
            left.node,
            left.replica.last,
            left.replica.last_term,
            left.replica.commit,
            left.replica.keys,
            left.replica.state_hash,
            voters.join(",")
        );
    }
    if group.left.is_empty() {
        println!("  nothing that answers");
    }
}

/// Decides what is done, or says why nothing is.
fn choose<'a>(lost: &'a [Group], options: &Options) -> Result<Choice<'a>, String> {
    let Some(node) = options.from_node else {
        let best = lost.iter().find_map(Group::best);
        let best = best.map_or_else(|| "N".to_owned(), |best| best.node.to_string());
        return Err(format!(
            "nothing was done. Choose the node to go on with: --from-node {best}"
        ));
    };
    let (here, others): (Vec<_>, Vec<_>) = lost.iter().partition(|group| group.on(node).is_some());
    if let Some(manager) = others.iter().find(|group| group.number == MANAGER) {
        return Err(format!(
            "nothing was done. Nobody orders the shards before {} is recovered, and node {node} has no \
             replica of it: use --shard manager with a node that has one",
            manager.title()
        ));
    }
    if here.is_empty() {
        return Err(format!(
            "nothing was done. Node {node} has no replica of it"
        ));
    }
    let mut chosen = Vec::new();
    for group in here {
        let left = group.on(node).expect("it is there");
        let title = group.title();
        if !left.is_whole() {
            return Err(format!(
                "nothing was done. Node {node} has no whole state of {title}"
            ));
        }
        let best = group.best().expect("this one at least");
        if left.progress() < best.progress() && !options.even_if_behind {
            return Err(format!(
                "nothing was done. Of {title} node {} has more: use it for --shard {}, or add \
                 --even-if-behind",
                best.node,
                group.argument()
            ));
        }
        chosen.push((group, left));
    }
    if !options.i_accept_loss {
        return Err(format!(
            "nothing was done. Node {node} would go on alone; what only the others had would be lost, and they \
             would never count again. If they will not come back: add --i-accept-loss"
        ));
    }
    Ok(Choice { chosen, others })
}

fn carry_out(
    nodes: &[String],
    chosen: &[(&Group, &Left)],
    options: &Options,
) -> Result<Vec<Recovered>, String> {
    let secret = options.access.secret()?;
    let mut recovered = Vec::new();
    // Group 0 stands first: it has the lowest number.
    for (group, left) in chosen {
        let now = recover(nodes, group, left, secret.as_ref())
            .map_err(|error| format!("{} is not recovered: {error}", group.title()))?;
        if !options.access.json {
            let keys = match group.number {
                MANAGER => String::new(),
                _ => format!(", {} keys", now.keys),
            };
            let (title, node, last) = (group.title(), left.node, left.replica.last);
            println!("{title} goes on with node {node}: kept all {last} entries{keys}");
        }
        recovered.push(Recovered {
            shard: group.number,
            node: left.node,
            kept: left.replica.last,
            keys: now.keys,
            slots: now.slots,
        });
    }
    Ok(recovered)
}

/// Gives the order until the replica leads: the first may come before its node is sure that nobody is heard.
fn recover(
    nodes: &[String],
    group: &Group,
    left: &Left,
    secret: Option<&Secret>,
) -> Result<GroupStatus, String> {
    let begin = Instant::now();
    let mut error = "its node does not go on".to_owned();
    while begin.elapsed() < PATIENCE {
        let ordered: Result<Carried, client::Error> = match group.number {
            MANAGER => {
                let (node, term) = (left.node, group.term());
                let order = RecoverManager { node, term };
                client::post(&left.http, PATH, &order, secret)
            }
            number => {
                let order = Order::Recover {
                    shard: number.to_string(),
                    node: left.node,
                    term: group.term(),
                };
                let issuer = None;
                let given = Given { issuer, order };
                client::post(&left.http, "/api/v1/admin/cluster", &given, secret)
            }
        };
        if let Err(refused) = ordered {
            error = refused.into();
        }
        for _ in 0..LOOKS {
            if let Some(now) = led_by(left).filter(|_| is_recorded(left)) {
                return Ok(now);
            }
            std::thread::sleep(LOOK);
        }
        // Its election may only have taken long.
        let now = look(nodes, Some(&group.argument()))?;
        let mut leaders = now.iter().flat_map(|group| &group.left);
        if leaders.any(|one| one.replica.role == "leader" && !one.replica.recovered) {
            return Err("it has a majority by now: nothing to recover".to_owned());
        }
    }
    Err(error)
}

/// Whether the shard manager knows it, and so everybody can be shown it.
fn is_recorded(left: &Left) -> bool {
    let picture = client::get::<Picture>(&left.http, "/api/v1/cluster");
    let recoveries = picture.map(|picture| picture.recoveries);
    let is_it = |(shard, node)| (shard, node) == (left.replica.group, left.node);
    recoveries.is_ok_and(|all| all.iter().any(|one| is_it((one.shard, one.node))))
}

/// Slots of which a recovered shard and the shard manager disagree whose they are: the entry by which they
/// came or went was among those that are lost. Slots in an open move may differ for a while.
fn misplaced(nodes: &[String], recovered: &[Recovered]) -> Vec<String> {
    let Ok(picture) = picture(nodes) else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    for shard in &picture.shards {
        let Some(now) = recovered.iter().find(|now| now.shard == shard.shard) else {
            continue;
        };
        let (serves, should) = (slots_of(&now.slots), slots_of(&shard.runs));
        let name = &shard.name;
        let count = serves.difference(&should).count();
        if count > 0 {
            warnings.push(format!(
                "{name} serves {count} slots that the shard manager has elsewhere: they had just moved away, and \
                 have two owners now. See docs/RECOVERY.md"
            ));
        }
        let count = should.difference(&serves).count();
        if count > 0 {
            warnings.push(format!(
                "{name} has not got {count} slots that the shard manager has there: they had just come, and \
                 nobody serves them. See docs/RECOVERY.md"
            ));
        }
    }
    warnings
}

fn slots_of(runs: &[(u16, u16)]) -> BTreeSet<u16> {
    let runs = runs.iter();
    runs.flat_map(|(first, last)| *first..=*last).collect()
}

/// The replica, if it leads.
fn led_by(left: &Left) -> Option<GroupStatus> {
    let status: ProcessStatus = client::get(&left.http, "/api/v1/status").ok()?;
    let status = status.status?;
    let mut replicas = status.manager.into_iter().chain(status.groups);
    replicas.find(|now| now.group == left.replica.group && now.role == "leader")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(node: u64, last_term: u64, last: u64) -> Left {
        let replica = GroupStatus {
            group: 2,
            role: "follower".to_owned(),
            last_term,
            last,
            ..GroupStatus::default()
        };
        let http = String::new();
        Left {
            node,
            http,
            replica,
        }
    }

    fn group(left: Vec<Left>) -> Group {
        let name = "two".to_owned();
        let number = 2;
        Group { number, name, left }
    }

    fn options(from_node: Option<u64>, even_if_behind: bool) -> Options {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let line: Line = clap::Parser::parse_from(["recover", "--i-accept-loss"]);
        Options {
            from_node,
            even_if_behind,
            ..line.options
        }
    }

    #[test]
    fn the_newest_last_entry_counts_before_the_length() {
        let lost = [group(vec![left(1, 3, 90), left(4, 5, 80), left(5, 5, 79)])];
        assert_eq!(lost[0].best().map(|best| best.node), Some(4));
        let refusal = |from, behind| choose(&lost, &options(from, behind)).err();
        assert!(
            refusal(None, false)
                .expect("refused")
                .contains("--from-node 4")
        );
        assert!(
            refusal(Some(5), false)
                .expect("refused")
                .contains("node 4 has more")
        );
        assert!(
            refusal(Some(2), false)
                .expect("refused")
                .contains("no replica")
        );
        assert_eq!(refusal(Some(4), false), None);
        assert_eq!(refusal(Some(1), true), None);
    }
}
