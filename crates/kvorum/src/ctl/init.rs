//! Making a cluster: ask all, have all agree, tell all.
//!
//! 1. *Ask.* Every node must answer, and none may know another cluster.
//! 2. *Prepare.* Every node writes down which node of which plan it is. One "no", and the third step never
//!    comes: no node has started anything.
//! 3. *Commit.* Every node starts.
//!
//! This process may die anywhere, and nothing is written down here. The nodes know: whoever runs the same
//! command again finds the plan at the nodes that have agreed, and goes on with it. If one node has
//! started, all had agreed; so a node that then knows nothing has lost its directory, and must not be made
//! the same node again: it would vote twice in terms that it has forgotten.

use std::net::ToSocketAddrs;

use kvorum_secret::Secret;
use kvorum_server::control::client::{Error, get, post};
use kvorum_server::control::init::{Commit, DrawnSecret, InitState, Prepare};
use kvorum_server::identity::{Plan, Shape};

/// What came of it.
#[derive(Debug)]
pub(crate) struct Made {
    /// The cluster's id.
    pub(crate) cluster: String,
    /// Whether anything had to be done.
    pub(crate) made: bool,
}

/// Makes one cluster of the nodes behind these HTTP addresses.
pub(crate) fn make_cluster(
    nodes: &[String],
    shape: Shape,
    secret: Option<&Secret>,
) -> Result<Made, String> {
    shape.check(nodes.len())?;
    let mut states = Vec::new();
    for node in nodes {
        let state: InitState = get(node, "/api/v1/init")
            .map_err(|error| format!("{error}. All nodes must be running"))?;
        states.push(state);
    }
    let plan = match decide(nodes, &states, shape)? {
        Decision::Done(plan) => {
            return Ok(Made {
                cluster: plan.cluster_name(),
                made: false,
            });
        }
        Decision::GoOn(plan) => plan,
    };
    let secret_to_give = secret_to_give(nodes, &states, &plan)?;
    for (address, state) in nodes.iter().zip(&states) {
        let request = Prepare {
            node: node_of(&plan, state)?,
            plan: plan.clone(),
            secret: secret_to_give.as_ref().map(|secret| secret.to_hex()),
        };
        if state.state == "uninitialised" {
            order(address, "/api/v1/admin/init/prepare", &request, secret)?;
        }
    }
    for address in nodes {
        let request = Commit {
            cluster: plan.cluster,
        };
        order(address, "/api/v1/admin/init/commit", &request, secret)
            .map_err(|error| format!("{error}. Run the same command again"))?;
    }
    Ok(Made {
        cluster: plan.cluster_name(),
        made: true,
    })
}

fn order(
    address: &str,
    path: &str,
    request: &impl serde::Serialize,
    secret: Option<&Secret>,
) -> Result<(), Error> {
    post::<serde_json::Value>(address, path, request, secret).map(drop)
}

/// What is to be done.
#[derive(Debug)]
enum Decision {
    /// All of them are this cluster already.
    Done(Plan),
    /// A new plan, or the one that an earlier attempt left unfinished.
    GoOn(Plan),
}

fn decide(nodes: &[String], states: &[InitState], shape: Shape) -> Result<Decision, String> {
    let mut known = nodes
        .iter()
        .zip(states)
        .filter_map(|(node, state)| state.plan.as_ref().map(|plan| (node, plan)));
    let Some((first, plan)) = known.next() else {
        let addresses: Vec<_> = states.iter().map(|state| state.addresses.clone()).collect();
        let plan = Plan::draw(addresses, shape);
        // Catches a node named twice, under two names of one machine for example.
        for state in states {
            node_of(&plan, state)?;
        }
        return Ok(Decision::GoOn(plan));
    };
    if let Some((other, _)) = known.find(|(_, other)| other.cluster != plan.cluster) {
        return Err(format!(
            "{first} and {other} belong to different clusters: nothing was changed"
        ));
    }
    for state in states {
        node_of(plan, state)?;
    }
    if plan.members.len() != nodes.len() {
        return Err(format!(
            "{first} belongs to cluster {} of {} nodes, not {}: nothing was changed. If that cluster was \
             never finished, name the same nodes again; or stop its nodes and remove their directories",
            plan.cluster_name(),
            plan.members.len(),
            nodes.len()
        ));
    }
    let lost = nodes
        .iter()
        .zip(states)
        .find(|(_, state)| state.plan.is_none());
    match lost {
        Some((lost, _)) if states.iter().any(|state| state.state == "started") => Err(format!(
            "cluster {} has started, and {lost} has lost its directory: it cannot become the same node \
             again. Restore the directory, or replace the node",
            plan.cluster_name()
        )),
        None if states.iter().all(|state| state.state == "started") => {
            Ok(Decision::Done(plan.clone()))
        }
        _ => Ok(Decision::GoOn(plan.clone())),
    }
}

/// Which node of the plan answers there: the one with its addresses, and only that one.
fn node_of(plan: &Plan, state: &InitState) -> Result<u64, String> {
    let mut places = plan
        .members
        .iter()
        .filter(|member| member.addresses == state.addresses);
    match (places.next(), places.next()) {
        (Some(member), None) if state.node.is_none_or(|node| node == member.node) => {
            Ok(member.node)
        }
        (Some(_), Some(_)) => Err(format!("{} is named twice", state.addresses.http)),
        _ => Err(format!(
            "{} is not a node of cluster {}: nothing was changed",
            state.addresses.http,
            plan.cluster_name()
        )),
    }
}

/// The secret for nodes that were started without one. It is sent only within this machine.
fn secret_to_give(
    nodes: &[String],
    states: &[InitState],
    plan: &Plan,
) -> Result<Option<Secret>, String> {
    let with = states.iter().filter(|state| state.has_secret).count();
    if with == states.len() {
        return Ok(None);
    }
    if with > 0 {
        return Err(
            "some nodes were started with --secret-file and some without: give it to all"
                .to_owned(),
        );
    }
    for node in nodes {
        let here = node
            .to_socket_addrs()
            .is_ok_and(|mut addresses| addresses.all(|address| address.ip().is_loopback()));
        if !here {
            return Err(format!(
                "{node} is not on this machine and was started without --secret-file: a secret is not \
                 sent over a network. Start all nodes with the same one (make it: openssl rand -hex 32)"
            ));
        }
    }
    match nodes
        .iter()
        .zip(states)
        .find(|(_, state)| state.state == "prepared")
    {
        None => Ok(Some(Secret::draw())),
        Some((node, _)) => {
            let request = Commit {
                cluster: plan.cluster,
            };
            let drawn: DrawnSecret = post(node, "/api/v1/admin/init/secret", &request, None)?;
            let secret = Secret::from_hex(&drawn.secret);
            secret
                .map(Some)
                .ok_or_else(|| format!("{node} has a bad secret"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_server::config::Advertised;

    const SHAPE: Shape = Shape {
        shards: 1,
        replicas: 1,
    };

    fn state(port: u16, state: &str, plan: Option<&Plan>) -> InitState {
        let at = |offset: u16| format!("127.0.0.1:{}", port + offset);
        let addresses = Advertised {
            client: at(0),
            replica: at(50),
            peer: at(100),
            http: at(200),
        };
        let node = plan.and_then(|plan| {
            plan.members
                .iter()
                .find(|member| member.addresses == addresses)
                .map(|member| member.node)
        });
        InitState {
            state: state.to_owned(),
            addresses,
            has_secret: false,
            node,
            plan: plan.cloned(),
        }
    }

    fn nodes(count: usize) -> Vec<String> {
        (0..count)
            .map(|number| format!("127.0.0.1:{}", 7201 + number))
            .collect()
    }

    fn plan(ports: &[u16]) -> Plan {
        Plan::draw(
            ports
                .iter()
                .map(|port| state(*port, "", None).addresses)
                .collect(),
            SHAPE,
        )
    }

    #[test]
    fn fresh_nodes_get_a_new_plan() {
        let states = [
            state(7001, "uninitialised", None),
            state(7002, "uninitialised", None),
        ];
        let Ok(Decision::GoOn(plan)) = decide(&nodes(2), &states, SHAPE) else {
            panic!("a plan")
        };
        assert_eq!(plan.members.len(), 2);
        let twice = [states[0].clone(), states[0].clone()];
        assert!(
            decide(&nodes(2), &twice, SHAPE)
                .expect_err("refused")
                .contains("twice")
        );
    }

    #[test]
    fn an_unfinished_attempt_is_gone_on_with() {
        let plan = plan(&[7001, 7002]);
        for half in [
            [
                state(7001, "prepared", Some(&plan)),
                state(7002, "uninitialised", None),
            ],
            [
                state(7001, "prepared", Some(&plan)),
                state(7002, "prepared", Some(&plan)),
            ],
            [
                state(7001, "started", Some(&plan)),
                state(7002, "prepared", Some(&plan)),
            ],
        ] {
            let Ok(Decision::GoOn(again)) = decide(&nodes(2), &half, SHAPE) else {
                panic!("{half:?}")
            };
            assert_eq!(again, plan);
        }
    }

    #[test]
    fn a_started_cluster_is_left_alone() {
        let plan = plan(&[7001, 7002]);
        let all = [
            state(7001, "started", Some(&plan)),
            state(7002, "started", Some(&plan)),
        ];
        assert!(matches!(
            decide(&nodes(2), &all, SHAPE),
            Ok(Decision::Done(_))
        ));
        let lost = [
            state(7001, "started", Some(&plan)),
            state(7002, "uninitialised", None),
        ];
        assert!(
            decide(&nodes(2), &lost, SHAPE)
                .expect_err("refused")
                .contains("lost its directory")
        );
    }

    #[test]
    fn members_of_other_clusters_are_refused() {
        let (one, other) = (plan(&[7001, 7002]), plan(&[7001, 7002]));
        let mixed = [
            state(7001, "prepared", Some(&one)),
            state(7002, "prepared", Some(&other)),
        ];
        assert!(
            decide(&nodes(2), &mixed, SHAPE)
                .expect_err("refused")
                .contains("different clusters")
        );
        let more = [
            state(7001, "started", Some(&one)),
            state(7002, "started", Some(&one)),
            state(7003, "uninitialised", None),
        ];
        assert!(
            decide(&nodes(3), &more, SHAPE)
                .expect_err("refused")
                .contains("not a node")
        );
        let fewer = [state(7001, "prepared", Some(&one))];
        assert!(
            decide(&nodes(1), &fewer, SHAPE)
                .expect_err("refused")
                .contains("of 2 nodes")
        );
    }
}
