//! The shard manager's replicated state, as a pure value.
//!
//! Group 0 of a cluster is its shard manager. Its log holds [`Command`]s, its replicas apply them to a
//! [`State`], and everybody else holds a copy and watches. The state says which nodes there are, which groups
//! with which replicas, who should have each slot, who has it, and what is ordered to be done about the
//! difference. The cluster never needs it in order to serve: what happens to a slot or a replica is
//! decided by the log of the group that has it, and the manager records it, with evidence.
//!
//! ```text
//! operators ─ Join, Leave, Assign ─► numbered configs: the desired map
//!                                        │ differs
//!                     next_commands ─► OpenMove ─► an order to the source ─► both groups' logs
//!                                        ▲                                        │ proof
//!             the actual map ◄───────────┴──────────────── CloseMove ◄────────────┘
//!
//! nodes ─ RegisterNode, ReportDead ─► who may hold replicas
//!                                        │ lacks, surplus, uneven
//!                     next_commands ─► ChangeReplicas ─► orders, one at a time ─► nodes, groups
//!                                        ▲                                        │ evidence
//!            replicas of each group ◄────┴─────────────── CloseOrder ◄────────────┘
//! ```
//!
//! For whoever holds it:
//!
//! 1. Begin with [`State::initial`], the same plan on every node, or with a snapshot ([`State::decode`]).
//! 2. Apply entries by [`State::apply`], in order. It is deterministic and cannot fail; compare
//!    [`State::hash`] at checkpoints.
//! 3. As primary, propose what [`next_commands`] says whenever the state has changed, and now and then.
//!    What it was told by nodes beside the log it keeps as [`Hearsay`].
//! 4. As primary of any group, take [`State::orders_for`] it in the order of their numbers, write the
//!    highest into the group's log, refuse lower ones, and propose [`Command::CloseOrder`] with what the
//!    group committed. Moves have an order to begin them and are closed by [`Command::CloseMove`].
//! 5. As a node, carry out [`State::orders_for_node`]: nothing else ever makes or deletes a replica.
//! 6. Show clients [`State::owners`]; what was encoded for them stays right while [`State::epoch`] stays.
//!
//! Commands from people and programs are numbered by an issuer ([`Request::once`]), so that one that is
//! sent again happens once.
//!
//! ```
//! use kvorum_base::{ClusterId, GroupId, Index, NodeId, ReplicaId};
//! use kvorum_cluster::*;
//!
//! let address = |port| Address { host: "10.0.0.1".to_owned(), port };
//! let node = PlannedNode {
//!     directory: 0x5eed,
//!     addresses: Addresses {
//!         client: address(7001),
//!         replica: address(7051),
//!         peer: address(7101),
//!         http: address(7201),
//!         other_names: Vec::new(),
//!     },
//!     capacity: Capacity::default(),
//! };
//! let group = |replica, name: &str| PlannedGroup {
//!     name: name.to_owned(),
//!     replicas: [(ReplicaId(replica), NodeId(1))].into(),
//!     preferred: None,
//!     wanted: 1,
//! };
//! let mut state = State::initial(&Plan {
//!     cluster: ClusterId(7),
//!     slot_count: 16384,
//!     last_shard_may_leave: false,
//!     settings: Settings::default(),
//!     nodes: [(NodeId(1), node)].into(),
//!     manager: group(1, "manager"),
//!     shards: [(GroupId(1), group(2, "one"))].into(),
//! })?;
//!
//! // A second shard joins: half of the slots should be there now, and are not yet.
//! let two = NewShard { name: "two".to_owned(), nodes: vec![NodeId(1)], wanted: 1 };
//! let reply = state.apply(Index(1), &Command::Join { shards: vec![two] }.into());
//! assert_eq!(reply, Reply::Joined { config: ConfigNumber(2), groups: vec![GroupId(2)] });
//! assert_eq!(state.newest().slots_of(GroupId(2)).len(), 8192);
//! assert_eq!(state.slots_of(GroupId(2)).len(), 0);
//!
//! // Its replica is ordered to be made. Once it is, slots can move.
//! let (order, _) = state.orders_for_node(NodeId(1)).next().expect("one order");
//! let made = Command::CloseOrder { order, outcome: Outcome::Created };
//! assert_eq!(state.apply(Index(2), &made.into()), Reply::Done);
//! let plan = next_commands(&state, &Hearsay::default());
//! assert_eq!(state.apply(Index(3), &plan[0].clone().into()), Reply::MoveOpened(MoveId(3)));
//!
//! // The target's log has the slots: that, and nothing else, makes it their owner.
//! let evidence = Evidence::Received { by: GroupId(2), at: Index(40) };
//! state.apply(Index(4), &Command::CloseMove { id: MoveId(3), evidence }.into());
//! assert_eq!(state.slots_of(GroupId(2)).len(), 64);
//! # Ok::<(), Refusal>(())
//! ```
//!
//! # Where to read
//!
//! - [`config`], `rebalance.rs`: who should have which slot; [`maps`], `moving.rs`: who has it;
//! - [`nodes`], `registry.rs`; [`shards`], `replicas.rs`; [`orders`];
//! - `recovery.rs`: what is done when a majority is lost for good;
//! - [`command`], [`reply`], `state.rs`: the way in, the way out, and all that is kept;
//! - `plan.rs`, `placement.rs`, `primaries.rs`: what should be done next, from state and [`hearsay`];
//! - `check.rs`: the invariants; `codec.rs`, `layout.rs`: the bytes; [`limits`].
//!
//! # Not built
//!
//! Racks or zones in placement; weights of nodes or shards: all slots and replicas count alike. Users.
//! What a group does to carry an order out is the group's business, and not here.

mod check;
mod codec;
pub mod command;
pub mod config;
pub mod hearsay;
mod initial;
mod issuers;
mod layout;
pub mod limits;
pub mod maps;
mod moving;
pub mod nodes;
mod numbers;
pub mod orders;
mod placement;
mod plan;
mod primaries;
mod rebalance;
mod recovery;
mod registry;
mod replicas;
pub mod reply;
mod runs;
mod sharding;
pub mod shards;
mod state;

pub use codec::{VERSION, fuzz};
pub use command::{Command, NewShard, Request, Settings, ShardRef, Witness};
pub use config::{Config, Configs, Founding, NoConfig};
pub use hearsay::{Hearsay, Phase, Primary, Progress};
pub use initial::{Plan, PlannedGroup, PlannedNode};
pub use maps::{Evidence, Move, Owned};
pub use nodes::{Address, Addresses, Capacity, Health, Node, NodeState};
pub use numbers::{ConfigNumber, IssuerId, MoveId, OrderNumber};
pub use orders::{Addressee, Order, Outcome, Task};
pub use placement::place;
pub use plan::next_commands;
pub use primaries::preferred_primaries;
pub use rebalance::{rebalance, shares};
pub use recovery::Recovery;
pub use reply::{Refusal, Reply};
pub use runs::{SlotRuns, SlotTable};
pub use shards::{Change, MANAGER, Members, Replica, Role, Shard, Stage};
pub use state::State;
