//! A node's side of making a cluster: two steps, each durable before it is answered.
//!
//! 1. *Prepare*: a new node agrees to be node *n* of a plan, writes that down, and does nothing else.
//! 2. *Commit*: it takes part. Whoever sends this knows that every node of the plan is prepared.
//!
//! Either step may be repeated, also after crashes: the same plan is answered with yes again. A node that
//! has agreed to one plan refuses every other; one that was started refuses everything but the plan it
//! was started with. So two operators at once make one cluster or none.
//!
//! What goes wrong without the first step: a cluster of which one node said no would be a cluster of the
//! others; the operator, who sees an error, tries again with other addresses, and there are two.

use serde::{Deserialize, Serialize};

use super::{Phase, Shared, lock};
use crate::config::Advertised;
use crate::identity::{Manifest, Plan, State};
use kvorum_secret::Secret;

/// What a node says about itself to whoever wants to make a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InitState {
    /// `uninitialised`, `prepared` or `started`.
    pub state: String,
    /// Where others reach it.
    pub addresses: Advertised,
    /// Whether the operator gave it the cluster's secret.
    pub has_secret: bool,
    /// Which node of the plan it is, if it has agreed to one.
    pub node: Option<u64>,
    /// The plan that it has agreed to. Of one that was carried out only what everybody may know: no key of
    /// the hash, and no numbers of directories.
    pub plan: Option<Plan>,
}

/// Asks a node to agree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prepare {
    /// Which of the plan's nodes it is to be.
    pub node: u64,
    /// The plan.
    pub plan: Plan,
    /// The secret, only for nodes that the operator gave none; only ever sent over loopback.
    pub secret: Option<String>,
}

/// The secret that the first, interrupted attempt to make this cluster drew.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrawnSecret {
    /// 64 hexadecimal digits.
    pub secret: String,
}

/// Tells a node that all have agreed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Commit {
    /// The plan's cluster.
    pub cluster: u64,
}

impl Shared {
    /// What the node says about itself.
    #[must_use]
    pub fn init_state(&self) -> InitState {
        let (state, manifest) = match self.phase() {
            Phase::Uninitialised => ("uninitialised", None),
            Phase::Prepared(manifest) => ("prepared", Some(manifest)),
            Phase::Started(mut manifest) => {
                manifest.plan.hash_key.clear();
                for member in &mut manifest.plan.members {
                    member.directory = 0;
                }
                ("started", Some(manifest))
            }
        };
        InitState {
            state: state.to_owned(),
            addresses: self.settings.advertised.clone(),
            has_secret: self.settings.secret.is_some(),
            node: manifest.as_ref().map(|manifest| manifest.node),
            plan: manifest.map(|manifest| manifest.plan),
        }
    }

    /// Agrees to a plan, durably.
    ///
    /// # Errors
    /// With the reason for the refusal; nothing has changed then.
    pub fn prepare(&self, request: Prepare) -> Result<(), String> {
        let mut phase = lock(&self.phase);
        if let Phase::Prepared(manifest) | Phase::Started(manifest) = &*phase {
            return if manifest.plan == request.plan && manifest.node == request.node {
                Ok(())
            } else {
                Err(format!(
                    "this node already belongs to cluster {}",
                    manifest.plan.cluster_name()
                ))
            };
        }
        request.plan.check()?;
        let member = request
            .plan
            .member(request.node)
            .ok_or("the plan lacks this node")?;
        if member.addresses != self.settings.advertised {
            return Err(format!(
                "the plan has this node at {}, it is at {}",
                member.addresses.client, self.settings.advertised.client
            ));
        }
        let given = request
            .secret
            .as_deref()
            .map(|text| Secret::from_hex(text).ok_or("a bad secret"));
        let secret = match (&self.settings.secret, given.transpose()?) {
            (Some(own), None) => own.clone(),
            (None, Some(given)) => given,
            (Some(_), Some(_)) => return Err("this node has a secret already".to_owned()),
            (None, None) => return Err("this node has no secret and was given none".to_owned()),
        };
        let manifest = Manifest::prepared(request.node, request.plan, &secret);
        manifest
            .store(&self.dir)
            .map_err(|error| format!("cannot write the manifest: {error}"))?;
        tracing::info!(
            cluster = manifest.plan.cluster_name(),
            node = manifest.node,
            "prepared"
        );
        *phase = Phase::Prepared(manifest);
        Ok(())
    }

    /// The secret of a half-made cluster, so that the rest of its nodes can be given the same.
    ///
    /// # Errors
    /// If this node is not half way into that cluster, or has its secret from the operator.
    pub fn drawn_secret(&self, request: &Commit) -> Result<DrawnSecret, String> {
        match self.phase() {
            Phase::Prepared(manifest)
                if manifest.plan.cluster == request.cluster && self.settings.secret.is_none() =>
            {
                Ok(DrawnSecret {
                    secret: manifest.secret,
                })
            }
            _ => Err("this node is not half way into that cluster".to_owned()),
        }
    }

    /// Takes part from now on, durably.
    ///
    /// # Errors
    /// With the reason for the refusal; nothing has changed then.
    pub fn commit(&self, request: &Commit) -> Result<(), String> {
        let mut phase = lock(&self.phase);
        match &*phase {
            Phase::Uninitialised => Err("this node is not prepared".to_owned()),
            Phase::Prepared(manifest) | Phase::Started(manifest)
                if manifest.plan.cluster != request.cluster =>
            {
                Err(format!(
                    "this node belongs to cluster {}",
                    manifest.plan.cluster_name()
                ))
            }
            Phase::Started(_) => Ok(()),
            Phase::Prepared(manifest) => {
                let manifest = Manifest {
                    state: State::Started,
                    ..manifest.clone()
                };
                manifest
                    .store(&self.dir)
                    .map_err(|error| format!("cannot write the manifest: {error}"))?;
                tracing::info!(
                    cluster = manifest.plan.cluster_name(),
                    node = manifest.node,
                    "started"
                );
                let _ = self.started.send(manifest.clone());
                *phase = Phase::Started(manifest);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeOptions;
    use crate::identity::Shape;
    use crate::testing::TempDir;
    use std::sync::Arc;
    use std::sync::mpsc::Receiver;

    fn fresh(dir: &TempDir) -> (Arc<Shared>, Receiver<Manifest>) {
        let options = NodeOptions {
            dir: Some(dir.path().to_owned()),
            ..NodeOptions::default()
        };
        let manifest = Manifest::load(dir.path()).expect("readable");
        Shared::new(options.settle().expect("settings"), manifest)
    }

    fn request(shared: &Shared) -> Prepare {
        Prepare {
            node: 1,
            plan: Plan::draw(
                vec![shared.settings.advertised.clone()],
                Shape {
                    shards: 1,
                    replicas: 1,
                },
            ),
            secret: Some("07".repeat(32)),
        }
    }

    #[test]
    fn prepare_then_commit_starts_it_once() {
        let dir = TempDir::new("init");
        let (shared, starts) = fresh(&dir);
        let request = request(&shared);
        let commit = Commit {
            cluster: request.plan.cluster,
        };
        assert!(shared.commit(&commit).is_err(), "not prepared");
        for _ in 0..2 {
            shared.prepare(request.clone()).expect("prepared");
        }
        assert!(starts.try_recv().is_err(), "prepared is not started");
        for _ in 0..2 {
            shared.commit(&commit).expect("started");
        }
        assert_eq!(starts.try_recv().expect("a start").plan, request.plan);
        assert!(starts.try_recv().is_err(), "started once");
    }

    #[test]
    fn a_crash_in_the_middle_is_gone_on_from() {
        let dir = TempDir::new("init");
        let request = {
            let (shared, _starts) = fresh(&dir);
            let request = request(&shared);
            shared.prepare(request.clone()).expect("prepared");
            request
        };
        let (shared, starts) = fresh(&dir);
        assert_eq!(shared.init_state().state, "prepared");
        assert!(starts.try_recv().is_err());
        shared.prepare(request.clone()).expect("again");
        shared
            .commit(&Commit {
                cluster: request.plan.cluster,
            })
            .expect("started");
        drop(shared);
        let (shared, starts) = fresh(&dir);
        assert_eq!(shared.init_state().state, "started");
        starts.try_recv().expect("it takes part at once");
    }

    #[test]
    fn another_plan_is_refused_from_the_first_agreement_on() {
        let dir = TempDir::new("init");
        let (shared, _starts) = fresh(&dir);
        let first = request(&shared);
        let second = request(&shared);
        shared.prepare(first.clone()).expect("prepared");
        assert!(
            shared
                .prepare(second.clone())
                .expect_err("refused")
                .contains("already")
        );
        assert!(
            shared
                .commit(&Commit {
                    cluster: second.plan.cluster
                })
                .is_err()
        );
        shared
            .commit(&Commit {
                cluster: first.plan.cluster,
            })
            .expect("started");
        assert!(shared.prepare(second).is_err());
    }

    #[test]
    fn a_plan_with_another_address_or_without_a_secret_is_refused() {
        let dir = TempDir::new("init");
        let (shared, _starts) = fresh(&dir);
        let mut wrong = request(&shared);
        wrong.plan.members[0].addresses.client = "127.0.0.1:9".to_owned();
        assert!(shared.prepare(wrong).is_err());
        let without = Prepare {
            secret: None,
            ..request(&shared)
        };
        assert!(shared.prepare(without).is_err());
        assert_eq!(shared.init_state().state, "uninitialised");
    }
}
