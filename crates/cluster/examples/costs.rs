//! Measures what the shard manager's state costs: time of commands and plans, bytes of the whole. Run it
//! with `cargo run --release --example costs -p kvorum-cluster`. Each time is the least of several, since
//! a measuring machine is seldom alone; figures of different hours do not compare.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{ClusterId, GroupId, Index, NodeId, ReplicaId};
use kvorum_cluster::{
    Address, Addresses, Capacity, Command, Hearsay, NewShard, Plan, PlannedGroup, PlannedNode,
    Settings, ShardRef, SlotRuns, State, next_commands, place,
};

const ROUNDS: u32 = 20;

fn address(host: u64, port: u16) -> Address {
    Address {
        host: format!("10.1.{}.{}", host / 250, host % 250),
        port,
    }
}

fn plan(nodes: u64, shards: u64) -> Plan {
    let mut replica = 0;
    let mut group = |first: u64, name: String| {
        let replicas: BTreeMap<ReplicaId, NodeId> = (0..3)
            .map(|next| {
                replica += 1;
                (ReplicaId(replica), NodeId((first + next) % nodes + 1))
            })
            .collect();
        PlannedGroup {
            name,
            preferred: replicas.keys().next().copied(),
            wanted: 3,
            replicas,
        }
    };
    let node = |id| PlannedNode {
        directory: id,
        addresses: Addresses {
            client: address(id, 7001),
            replica: address(id, 7051),
            peer: address(id, 7101),
            http: address(id, 7201),
            other_names: Vec::new(),
        },
        capacity: Capacity::default(),
    };
    Plan {
        cluster: ClusterId(1),
        slot_count: SLOT_COUNT,
        last_shard_may_leave: false,
        settings: Settings::default(),
        nodes: (1..=nodes).map(|id| (NodeId(id), node(id))).collect(),
        manager: group(0, "manager".to_owned()),
        shards: (1..=shards)
            .map(|id| (GroupId(id), group(id, format!("shard-{id}"))))
            .collect(),
    }
}

fn least<T>(mut run: impl FnMut() -> T) -> Duration {
    let times = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        black_box(run());
        start.elapsed()
    });
    times.min().expect("rounds")
}

/// The least time of a command on a copy of the state.
fn apply(state: &State, command: &Command) -> Duration {
    let times = (0..ROUNDS).map(|_| {
        let mut state = state.clone();
        let index = state.applied().next();
        let request = command.clone().into();
        let start = Instant::now();
        black_box(state.apply(index, &request));
        start.elapsed()
    });
    times.min().expect("rounds")
}

fn join(state: &State) -> Command {
    let nodes = place(state, 1, 3).remove(0);
    Command::Join {
        shards: vec![NewShard {
            name: "one more".to_owned(),
            nodes,
            wanted: 3,
        }],
    }
}

fn report(what: &str, state: &State) {
    let runs = state.newest().slots.runs().count();
    let bytes = state.encode();
    println!("{what}: {runs} runs wanted, {} bytes encoded", bytes.len());
    println!("  join {:?}", apply(state, &join(state)));
    let leave = Command::Leave {
        shards: vec![ShardRef::Group(GroupId(2))],
    };
    println!("  leave {:?}", apply(state, &leave));
    let hearsay = Hearsay::default();
    println!("  plan {:?}", least(|| next_commands(state, &hearsay)));
    if let Some(open) = next_commands(state, &hearsay).pop() {
        println!("  open a move {:?}", apply(state, &open));
    }
    println!("  encode {:?}", least(|| state.encode()));
    println!("  decode and check {:?}", least(|| State::decode(&bytes)));
    println!("  hash {:?}", least(|| state.hash()));
    println!("  copy {:?}", least(|| state.clone()));
}

fn main() {
    for (nodes, shards) in [(3, 3), (10, 64), (100, 1000)] {
        let state = State::initial(&plan(nodes, shards)).expect("a plan");
        report(&format!("{nodes} nodes, {shards} shards"), &state);
    }
    // No two slots in a row belong together.
    let mut state = State::initial(&plan(100, 1000)).expect("a plan");
    for shard in 1..=1000 {
        let slots = (0..SLOT_COUNT).filter(|slot| u64::from(*slot) % 1000 == shard - 1);
        let command = Command::Assign {
            slots: SlotRuns::of_slots(slots.map(kvorum_base::Slot)),
            shard: ShardRef::Group(GroupId(shard)),
        };
        state.apply(Index(shard), &command.into());
    }
    report("the same as sand, after 1000 configs", &state);
}
