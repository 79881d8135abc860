//! The shard manager over HTTP: what it knows, and orders to it.
//!
//! Any node answers. What is shown is the newest state that this node holds, which may be a moment old; an
//! order goes to the shard manager's primary, wherever that is, and its answer comes back. Without an answer
//! in time nobody knows whether it was carried out; but one that has an issuer can be given again, and is
//! carried out once.

use std::sync::Arc;
use std::time::Duration;

use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{GroupId, MoveId, NodeId, ReplicaId, Slot, Term};
use kvorum_cluster as cluster;
use kvorum_cluster::{
    Command, IssuerId, MANAGER, NewShard, Reply, Request, ShardRef, SlotRuns, State,
};
use kvorum_node::Control;
use kvorum_node::format::manager::Answer;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Shared, lock};

/// How long an order may take. The core gives it up sooner.
const ORDER_PATIENCE: Duration = Duration::from_secs(30);

/// What an operator can order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Add shards; slots move to them by and by.
    AddShards {
        /// Their names; made up where there is none.
        names: Vec<Option<String>>,
        /// Replicas of each, on different nodes.
        replicas: u8,
    },
    /// Take a shard away; it serves until all its slots have moved.
    RemoveShard {
        /// Its name or number.
        shard: String,
    },
    /// Want slots in a shard, until the next change of the shards.
    MoveSlots {
        /// The first and the last of each run.
        slots: Vec<(u16, u16)>,
        /// Its name or number.
        shard: String,
    },
    /// Even the slots out.
    Rebalance,
    /// End a move without moving, if that can still be.
    CancelMove {
        /// Its number.
        id: u64,
    },
    /// Put a node's replicas elsewhere, or let it have some again.
    DrainNode {
        /// The node.
        node: u64,
        /// Whether it should be empty.
        draining: bool,
    },
    /// Forget a node that has no replicas any more.
    RemoveNode {
        /// The node.
        node: u64,
    },
    /// Set how many replicas a shard should have.
    SetReplicas {
        /// Its name or number.
        shard: String,
        /// How many.
        replicas: u8,
    },
    /// Hand a shard's primary over, and keep it there.
    TransferPrimary {
        /// Its name or number.
        shard: String,
        /// The node.
        node: u64,
    },
    /// Have a shard go on with one replica, since its majority is lost for good.
    Recover {
        /// Its name or number.
        shard: String,
        /// The node that has the replica.
        node: u64,
        /// The highest term that was seen at any replica.
        term: u64,
    },
    /// Set how much may go on at once.
    Configure {
        /// Moves.
        moves: Option<u32>,
        /// Groups that change their replicas.
        changes: Option<u32>,
    },
}

/// An order as it is sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Given {
    /// Whose it is: of one issuer one order is carried out, once, and whoever repeats it hears what was
    /// said to it. Without an issuer an order that is repeated is carried out again.
    pub issuer: Option<u64>,
    /// The order.
    #[serde(flatten)]
    pub order: Order,
}

/// Somebody who may give one order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Issuer {
    /// To be given with it.
    pub issuer: u64,
}

/// What was said to an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Carried {
    /// In words.
    pub text: String,
}

/// Why an order has not the answer that was wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It was refused, and would be again.
    Refused(String),
    /// It was not carried out, or nobody knows.
    Unanswered(String),
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Refused(reason)
    }
}

impl Order {
    /// The command that it is, decided on what this node knows.
    fn command(&self, state: &State) -> Result<Command, String> {
        Ok(match self {
            Self::AddShards { names, replicas } => Command::Join {
                shards: new_shards(state, names, *replicas)?,
            },
            Self::RemoveShard { shard } => Command::Leave {
                shards: vec![shard_ref(shard)],
            },
            Self::MoveSlots { slots, shard } => Command::Assign {
                slots: sound_slots(slots)?,
                shard: shard_ref(shard),
            },
            Self::Rebalance => Command::Rebalance,
            Self::CancelMove { id } => Command::CancelMove { id: MoveId(*id) },
            Self::DrainNode { node, draining } => Command::DrainNode {
                node: NodeId(*node),
                draining: *draining,
            },
            Self::RemoveNode { node } => Command::RemoveNode {
                node: NodeId(*node),
            },
            Self::SetReplicas { shard, replicas } => Command::SetReplicas {
                group: group_of(state, shard)?,
                wanted: *replicas,
            },
            Self::TransferPrimary { shard, node } => {
                let (group, to) = replica_of(state, shard, *node)?;
                Command::Transfer { group, to }
            }
            Self::Recover { shard, node, term } => {
                let (group, replica) = replica_of(state, shard, *node)?;
                Command::Recover {
                    group,
                    replica,
                    term: Term(*term),
                }
            }
            Self::Configure { moves, changes } => {
                let mut settings = state.settings();
                settings.moves_open_max = moves.unwrap_or(settings.moves_open_max);
                settings.changes_open_max = changes.unwrap_or(settings.changes_open_max);
                Command::Configure { settings }
            }
        })
    }
}

/// Slots that there are. Others would stand in the manager's log and could not be read back.
fn sound_slots(runs: &[(u16, u16)]) -> Result<SlotRuns, String> {
    let sound = |(first, last): &(u16, u16)| first <= last && *last < SLOT_COUNT;
    match runs.iter().all(sound) && !runs.is_empty() {
        true => Ok(SlotRuns::of_runs(runs.iter().copied())),
        false => Err(format!("slots are runs within 0 to {}", SLOT_COUNT - 1)),
    }
}

fn new_shards(
    state: &State,
    names: &[Option<String>],
    replicas: u8,
) -> Result<Vec<NewShard>, String> {
    let mut taken: Vec<String> = state
        .shards()
        .values()
        .map(|shard| shard.founding.name.clone())
        .chain(names.iter().flatten().cloned())
        .collect();
    let mut next = state
        .shards()
        .keys()
        .last()
        .map_or(1, |last| last.get() + 1);
    let mut name_of = |given: &Option<String>| {
        given.clone().unwrap_or_else(|| {
            while taken.contains(&format!("shard-{next}")) {
                next += 1;
            }
            let name = format!("shard-{next}");
            taken.push(name.clone());
            name
        })
    };
    let places = cluster::place(state, names.len(), usize::from(replicas));
    if let Some(few) = places
        .iter()
        .find(|nodes| nodes.len() < usize::from(replicas))
    {
        return Err(format!(
            "{replicas} replicas of a shard need as many nodes, and {} can take one: add nodes, or ask \
             for fewer with --replicas",
            few.len()
        ));
    }
    let shards = names.iter().zip(places).map(|(name, nodes)| NewShard {
        name: name_of(name),
        nodes,
        wanted: replicas,
    });
    Ok(shards.collect())
}

/// A shard as people name it: its name, or its number.
fn shard_ref(text: &str) -> ShardRef {
    match text.parse() {
        Ok(number) => ShardRef::Group(GroupId(number)),
        Err(_) => ShardRef::Name(text.to_owned()),
    }
}

fn group_of(state: &State, text: &str) -> Result<GroupId, String> {
    let named = |group: &GroupId, shard: &cluster::Shard| match shard_ref(text) {
        ShardRef::Group(number) => *group == number,
        ShardRef::Name(name) => *group != MANAGER && shard.founding.name == name,
    };
    let mut shards = state.shards().iter();
    let found = shards.find(|(group, shard)| named(group, shard));
    let found = found.map(|(group, _)| *group);
    found.ok_or_else(|| format!("there is no shard {text}"))
}

/// A shard, and its replica on a node.
fn replica_of(state: &State, shard: &str, node: u64) -> Result<(GroupId, ReplicaId), String> {
    let group = group_of(state, shard)?;
    let replica = state.shards()[&group].replica_on(NodeId(node));
    let replica = replica.ok_or_else(|| format!("node {node} has no replica of {shard}"))?;
    Ok((group, replica))
}

impl Shared {
    /// The newest state of the shard manager that this node holds.
    #[must_use]
    pub fn cluster(&self) -> Option<Arc<State>> {
        lock(&self.cluster).clone()
    }

    /// Gives an order and waits for the answer.
    ///
    /// # Errors
    /// If it was refused, not done, or nobody knows.
    pub async fn carry_out(&self, given: &Given) -> Result<Carried, Failure> {
        let state = self
            .cluster()
            .ok_or("this node has heard nothing of the shard manager yet: try again")
            .map_err(|text| Failure::Unanswered(text.to_owned()))?;
        let request = Request {
            once: given.issuer.map(|issuer| (IssuerId(issuer), 1)),
            command: given.order.command(&state)?,
        };
        match self.manage(request).await? {
            Reply::Refused(refusal) => Err(Failure::Refused(format!("refused: {refusal}"))),
            reply => Ok(Carried {
                text: text_of(&reply),
            }),
        }
    }

    /// Has the shard manager know somebody who may give one order.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub async fn open_issuer(&self) -> Result<Issuer, Failure> {
        match self.manage(Command::OpenIssuer).await? {
            Reply::Issuer(id) => Ok(Issuer { issuer: id.get() }),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the shard manager apply a request.
    pub(super) async fn manage(&self, request: impl Into<Request>) -> Result<Reply, Failure> {
        let request = Box::new(request.into());
        self.answer_to(|token| Control::Manage { token, request })
            .await
    }

    /// Asks the core for something that it answers.
    pub(super) async fn answer_to(
        &self,
        control: impl FnOnce(u64) -> Control,
    ) -> Result<Reply, Failure> {
        let (token, answered) = {
            let mut orders = lock(&self.orders);
            orders.next += 1;
            let token = orders.next;
            let (answer, answered) = oneshot::channel();
            orders.waiting.insert(token, answer);
            (token, answered)
        };
        if !self.ask(control(token)) {
            lock(&self.orders).waiting.remove(&token);
            let text = "this node is not ready: try another".to_owned();
            return Err(Failure::Unanswered(text));
        }
        let failed = |text: &str| Err(Failure::Unanswered(text.to_owned()));
        match tokio::time::timeout(ORDER_PATIENCE, answered).await {
            Ok(Ok(Answer::Replied(reply))) => Ok(reply),
            Ok(Ok(Answer::NotDone)) => failed(
                "not carried out: no majority of the shard manager's replicas answers this node",
            ),
            Ok(Ok(Answer::Unknown) | Err(_)) | Err(_) => failed(
                "no answer: it may have been carried out, now or later; look before giving it again",
            ),
        }
    }

    /// The core has an answer.
    pub fn managed(&self, token: u64, answer: Answer) {
        if let Some(waiting) = lock(&self.orders).waiting.remove(&token) {
            // Whoever asked may be gone.
            let _ = waiting.send(answer);
        }
    }
}

pub(super) fn unexpected(reply: &Reply) -> Failure {
    Failure::Unanswered(format!("an unexpected answer: {reply:?}"))
}

fn text_of(reply: &Reply) -> String {
    match reply {
        Reply::Config(number) => format!("config {number}"),
        Reply::Joined { config, groups } => {
            let groups: Vec<_> = groups.iter().map(ToString::to_string).collect();
            format!("config {config}: added shard {}", groups.join(", "))
        }
        Reply::Ordered(order) => format!("order {order}"),
        _ => "done".to_owned(),
    }
}

/// The cluster as the shard manager knows it.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Picture {
    /// The last entry in it.
    pub applied: u64,
    /// The version of what clients are shown.
    pub epoch: u64,
    /// The newest config.
    pub config: u64,
    /// Whether every slot is where it should be and every shard has its replicas.
    pub settled: bool,
    /// The nodes.
    pub nodes: Vec<NodePicture>,
    /// The shards.
    pub shards: Vec<ShardPicture>,
    /// Moves that are open.
    pub moves: Vec<MovePicture>,
    /// Orders that are outstanding, in words.
    pub orders: Vec<String>,
    /// Groups whose majority was lost for good and that went on with one replica, the newest last.
    pub recoveries: Vec<RecoveryPicture>,
}

/// A group that went on with one replica.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecoveryPicture {
    /// The shard; 0 for the shard manager.
    pub shard: u64,
    /// The node of the replica.
    pub node: u64,
    /// The entry of its log from which on it decided alone.
    pub at: u64,
}

/// A node.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodePicture {
    /// Its id.
    pub node: u64,
    /// `in`, `draining`, `dead` or `damaged`.
    pub state: String,
    /// Where clients reach it.
    pub client: String,
    /// Its HTTP interface.
    pub http: String,
    /// Replicas on it, those of the shard manager not counted.
    pub replicas: usize,
}

/// A shard.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardPicture {
    /// Its number.
    pub shard: u64,
    /// Its name.
    pub name: String,
    /// `founding`, `serving`, `leaving` or `retired`.
    pub state: String,
    /// How many slots it has.
    pub slots: u32,
    /// Their runs.
    pub runs: Vec<(u16, u16)>,
    /// How many it should have.
    pub slots_wanted: u32,
    /// How many replicas it should have.
    pub replicas_wanted: u8,
    /// The nodes of its replicas.
    pub nodes: Vec<u64>,
    /// Where its primary should be.
    pub preferred: Option<u64>,
}

/// Which config is wanted.
#[derive(Clone, Copy, Default, Debug, Deserialize)]
pub struct ConfigQuery {
    /// Its number; the newest without one.
    pub number: Option<u64>,
}

/// A numbered config: which shard should have which slots.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigPicture {
    /// Its number.
    pub number: u64,
    /// Its shards: name, and runs of slots.
    pub shards: Vec<(String, Vec<(u16, u16)>)>,
}

impl ConfigPicture {
    /// The config with this number, or the newest.
    ///
    /// # Errors
    /// If it is not kept, or not there yet.
    pub fn of(state: &State, number: Option<u64>) -> Result<Self, String> {
        let number = number.map_or(state.newest().number, cluster::ConfigNumber);
        let config = state.configs().query(number).map_err(|no| no.to_string())?;
        let runs = |group| config.slots_of(group).runs().to_vec();
        let shards = config.shards.iter();
        Ok(Self {
            number: config.number.get(),
            shards: shards
                .map(|(group, founding)| (founding.name.clone(), runs(*group)))
                .collect(),
        })
    }
}

/// An open move.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MovePicture {
    /// Its number.
    pub id: u64,
    /// From this shard.
    pub from: Option<u64>,
    /// To this one.
    pub to: u64,
    /// So many slots.
    pub slots: u32,
    /// Whether it was asked to end.
    pub cancelled: bool,
}

impl From<&State> for Picture {
    fn from(state: &State) -> Self {
        let newest = state.newest();
        let misplaced =
            |slot: u16| newest.slots.get(Slot(slot)).copied().flatten() != state.owner(Slot(slot));
        let placed = !(0..state.slots().slot_count()).any(misplaced);
        Self {
            applied: state.applied().get(),
            epoch: state.epoch().get(),
            config: newest.number.get(),
            settled: placed
                && state.orders().is_empty()
                && state.under_replicated().next().is_none(),
            nodes: state
                .nodes()
                .iter()
                .map(|(id, node)| node_picture(state, *id, node))
                .collect(),
            shards: state
                .shards()
                .iter()
                .filter(|(group, _)| **group != MANAGER)
                .map(|(group, shard)| shard_picture(state, *group, shard))
                .collect(),
            moves: state.moves().iter().map(move_picture).collect(),
            orders: state
                .orders()
                .iter()
                .map(|(number, order)| format!("{number}: shard {}: {}", order.group, order.task))
                .collect(),
            recoveries: state
                .recoveries()
                .iter()
                .map(|recovery| RecoveryPicture {
                    shard: recovery.group.get(),
                    node: recovery.node.get(),
                    at: recovery.at.get(),
                })
                .collect(),
        }
    }
}

fn node_picture(state: &State, id: NodeId, node: &cluster::Node) -> NodePicture {
    let shards = state
        .shards()
        .iter()
        .filter(|(group, _)| **group != MANAGER);
    NodePicture {
        node: id.get(),
        state: node.state().to_string(),
        client: node.addresses.client.to_string(),
        http: node.addresses.http.to_string(),
        replicas: shards
            .filter(|(_, shard)| shard.replica_on(id).is_some())
            .count(),
    }
}

fn shard_picture(state: &State, group: GroupId, shard: &cluster::Shard) -> ShardPicture {
    let slots = state.slots_of(group);
    let life = match shard.stage {
        cluster::Stage::Founding => "founding",
        cluster::Stage::Serving if state.is_member(group) => "serving",
        cluster::Stage::Serving => "leaving",
        cluster::Stage::Retired => "retired",
    };
    let preferred = shard
        .preferred
        .and_then(|replica| shard.replicas.get(&replica));
    ShardPicture {
        shard: group.get(),
        name: shard.founding.name.clone(),
        state: life.to_owned(),
        slots: slots.len(),
        runs: slots.runs().to_vec(),
        slots_wanted: state.newest().slots_of(group).len(),
        replicas_wanted: shard.wanted,
        nodes: shard
            .replicas
            .values()
            .map(|replica| replica.node.get())
            .collect(),
        preferred: preferred.map(|replica| replica.node.get()),
    }
}

fn move_picture((id, open): (&MoveId, &cluster::Move)) -> MovePicture {
    MovePicture {
        id: id.get(),
        from: open.from.map(GroupId::get),
        to: open.to.get(),
        slots: open.slots.len(),
        cancelled: open.cancel_requested,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_there_are_not_never_reach_the_manager() {
        for wrong in [
            &[][..],
            &[(0, SLOT_COUNT)],
            &[(0, 65535)],
            &[(5, 4)],
            &[(0, 1), (9, 8)],
        ] {
            assert!(sound_slots(wrong).is_err(), "{wrong:?}");
        }
        let runs = sound_slots(&[(0, 9), (SLOT_COUNT - 1, SLOT_COUNT - 1)]).expect("sound");
        assert_eq!(runs.len(), 11);
    }
}
