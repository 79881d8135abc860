//! `kvorum ctl status`: what all nodes say, as one picture, or side by side.

use kvorum_server::control::client::get;
use kvorum_server::control::cluster::Picture;
use kvorum_server::control::status::{GroupStatus, ProcessStatus};
use serde::Serialize;

use super::picture;

/// One node's answer, or why there is none.
#[derive(Serialize)]
pub(super) struct Answer {
    pub(super) http: String,
    #[serde(flatten)]
    pub(super) status: Option<ProcessStatus>,
    pub(super) error: Option<String>,
}

/// Asks these nodes, and all that they know of, and prints what they say.
pub(crate) fn run(cluster: &[String], replicas: bool, json: bool) -> Result<(), String> {
    let answers = ask_all(cluster);
    if json {
        let text = serde_json::to_string_pretty(&answers).map_err(|error| error.to_string())?;
        println!("{text}");
    } else if replicas {
        print(&answers);
    } else {
        picture::print(&answers, newest_picture(&answers).as_ref());
    }
    let reached = answers.iter().any(|answer| answer.status.is_some());
    if reached {
        Ok(())
    } else {
        Err("no node answers".to_owned())
    }
}

/// The newest state of the shard manager that any of them knows.
fn newest_picture(answers: &[Answer]) -> Option<Picture> {
    let reached = answers.iter().filter(|answer| answer.status.is_some());
    let pictures =
        reached.filter_map(|answer| get::<Picture>(&answer.http, "/api/v1/cluster").ok());
    // After a recovery the shard manager may have fewer entries than those know that were let go.
    pictures.max_by_key(|picture| (picture.recoveries.len(), picture.applied))
}

/// Asks these nodes, and all that they know of; each is in it once.
pub(super) fn ask_all(cluster: &[String]) -> Vec<Answer> {
    let mut to_ask: Vec<String> = cluster.to_vec();
    let mut answers: Vec<Answer> = Vec::new();
    while let Some(http) = to_ask.pop() {
        let same = |status: &ProcessStatus| status.addresses.http == http;
        if answers
            .iter()
            .any(|known| known.http == http || known.status.as_ref().is_some_and(same))
        {
            continue;
        }
        match get::<ProcessStatus>(&http, "/api/v1/status") {
            Ok(status) => {
                to_ask.extend(
                    status
                        .members
                        .iter()
                        .map(|member| member.addresses.http.clone()),
                );
                answers.push(Answer {
                    http,
                    status: Some(status),
                    error: None,
                });
            }
            Err(error) => answers.push(Answer {
                http,
                status: None,
                error: Some(error.into()),
            }),
        }
    }
    answers.sort_by_key(|answer| {
        let node = answer
            .status
            .as_ref()
            .and_then(|status| status.status.as_ref());
        (node.map_or(u64::MAX, |node| node.node), answer.http.clone())
    });
    answers
}

fn print(answers: &[Answer]) {
    let statuses = || answers.iter().filter_map(|answer| answer.status.as_ref());
    match statuses().find_map(|status| status.cluster.as_ref()) {
        Some(cluster) => println!("cluster {cluster}, {} nodes", answers.len()),
        None => println!("no cluster yet"),
    }
    for answer in answers {
        match &answer.status {
            None => println!(
                "  {}  down: {}",
                answer.http,
                answer.error.as_deref().unwrap_or("")
            ),
            Some(status) => print_node(status),
        }
    }
}

fn print_node(status: &ProcessStatus) {
    let health = match &status.reason {
        None => "ready".to_owned(),
        Some(reason) => format!("not ready: {reason}"),
    };
    let node = status.status.as_ref();
    println!(
        "  node {}  {}  pid {}  http {}  {}  {health}",
        node.map_or_else(|| "-".to_owned(), |node| node.node.to_string()),
        status.addresses.client,
        status.pid,
        status.addresses.http,
        status.state,
    );
    let Some(node) = node else { return };
    for group in &node.groups {
        print_group(group);
    }
}

fn print_group(group: &GroupStatus) {
    let primary = group
        .primary
        .map_or_else(|| "none".to_owned(), |node| node.to_string());
    let recovered = if group.recovered {
        "  recovered without its majority"
    } else {
        ""
    };
    println!(
        "    shard {}  {}  primary {primary}  term {}  applied {}  commit {}  last {}  keys {}  bytes {}  \
         hash {}{recovered}",
        group.group,
        group.role,
        group.term,
        group.applied,
        group.commit,
        group.last,
        group.keys,
        group.logical_bytes,
        group.state_hash,
    );
    for follower in &group.followers {
        let lag = group.last.saturating_sub(follower.matched);
        let silent = match follower.silent_ms {
            0..1000 => String::new(),
            ms => format!("  silent for {} s", ms / 1000),
        };
        println!(
            "      replica on node {}  {lag} entries behind{silent}",
            follower.node
        );
    }
}
