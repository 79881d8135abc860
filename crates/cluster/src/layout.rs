//! The layout of every type, field by field: what stands here is the format (`codec.rs` has the bytes).
//!
//! A line names all fields in their order. The macros take the value apart and put it together
//! without a rest, so a field that is added to a type and not to its line does not compile. Each choice has
//! its number; numbers are never given to something else.

use std::collections::VecDeque;

use kvorum_base::{ClusterId, Epoch, GroupId, Index, Malformed, NodeId, Reader, ReplicaId, Term};

use crate::codec::Wire;
use crate::command::{Command, NewShard, Request, Settings, ShardRef, Witness};
use crate::config::{Config, ConfigChange, Configs, Founding};
use crate::hearsay::{Hearsay, Phase, Primary, Progress};
use crate::issuers::{Issuer, Issuers};
use crate::maps::{Evidence, Move, Owned};
use crate::nodes::{Address, Addresses, Capacity, Health, Node};
use crate::numbers::{ConfigNumber, IssuerId, MoveId, OrderNumber};
use crate::orders::{Addressee, Order, Outcome, Task};
use crate::recovery::Recovery;
use crate::reply::{Refusal, Reply};
use crate::shards::{Change, Members, Replica, Role, Shard, Stage};
use crate::state::{Counters, State};

macro_rules! ids {
    ($($name:ident),* $(,)?) => {$(
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                self.get().put(out);
            }

            fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
                u64::read(reader).map(Self)
            }
        }
    )*};
}

macro_rules! fields {
    ($($name:ident { $($field:ident),* $(,)? })*) => {$(
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($field.put(out);)*
            }

            fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
                Ok(Self { $($field: Wire::read(reader)?),* })
            }
        }
    )*};
}

macro_rules! choices {
    ($($name:ident {
        $($number:literal = $variant:ident $({ $($field:ident),* })? $(( $inner:ident ))?,)*
    })*) => {$(
        impl Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $({ $($field),* })? $(( $inner ))? => {
                        out.push($number);
                        $($($field.put(out);)*)?
                        $($inner.put(out);)?
                    })*
                }
            }

            fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
                match reader.u8("choice")? {
                    $($number => Ok(Self::$variant
                        $({ $($field: Wire::read(reader)?),* })?
                        $(( { let $inner = Wire::read(reader)?; $inner } ))?
                    ),)*
                    _ => Err(reader.malformed("choice")),
                }
            }
        }
    )*};
}

ids! {
    ClusterId, ConfigNumber, Epoch, GroupId, Index, IssuerId, MoveId, NodeId, OrderNumber, ReplicaId,
    Term,
}

fields! {
    Address { host, port }
    Addresses { client, replica, peer, http, other_names }
    Capacity { memory_bytes, disk_bytes }
    Change { add, remove, order }
    Config { number, shards, slots }
    Counters { node, group, replica, order, session }
    Founding { name, nodes }
    Issuer { sequence, reply, heard }
    Issuers { known }
    Members { id, voters, learners }
    Move { slots, from, to, order, cancel_requested }
    NewShard { name, nodes, wanted }
    Node { directory, addresses, capacity, health, draining }
    Order { to, group, task, withdrawn }
    Owned { owner, by, open }
    Recovery { group, replica, node, at }
    Replica { node, role }
    Request { once, command }
    Settings { moves_open_max, changes_open_max }
    Shard { founding, replicas, wanted, membership, stage, preferred, change, floor }
    State {
        cluster, applied, epoch, last_shard_may_leave, settings, next, nodes, shards, configs, slots,
        moves, orders, issuers, recoveries, generation,
    }
    Witness { group, node }

    Hearsay { primaries, moves, group_bytes, slot_bytes, full }
    Primary { term, node }
    Progress { attempt, phase, slots_done, bytes_done, bytes_total }
}

choices! {
    Addressee { 1 = Group(group), 2 = Node(node), }
    Health { 1 = Alive, 2 = Dead, 3 = Damaged, }
    Role { 1 = Voter, 2 = Joining, }
    Stage { 1 = Founding, 2 = Serving, 3 = Retired, }
    ShardRef { 1 = Group(group), 2 = Name(name), }
    Phase { 1 = Opened, 2 = Sending, 3 = Sealed, 4 = Decided, }
    Evidence {
        1 = Received { by, at },
        2 = Refused { by, at },
        3 = Cancelled { by, at },
    }
    Outcome {
        1 = Created,
        2 = Deleted,
        3 = Members(members),
        4 = Transferred,
        5 = Refused,
    }
    Task {
        1 = CreateReplica { replica, node, founders },
        2 = AddLearner { replica, node, expected },
        3 = Promote { replica, removing, expected },
        4 = Remove { replica, expected },
        5 = TransferPrimary { to },
        6 = StartMove { id },
        7 = DeleteReplica { replica, node },
        8 = Recover { replica, term, floor },
    }
    Command {
        1 = RegisterNode { cluster, directory, addresses, capacity },
        2 = UpdateNode { node, directory, addresses, capacity },
        3 = ReportDead { node, witnesses },
        4 = ReportAlive { node, directory },
        5 = ReportDamaged { node, directory },
        6 = DrainNode { node, draining },
        7 = RemoveNode { node },
        8 = Join { shards },
        9 = Leave { shards },
        10 = Assign { slots, shard },
        11 = Rebalance,
        12 = Retire { group },
        13 = OpenMove { from, to, slots },
        14 = CancelMove { id },
        15 = CloseMove { id, evidence },
        16 = ChangeReplicas { group, expected, add, remove },
        17 = AbandonChange { group },
        18 = SetReplicas { group, wanted },
        19 = Transfer { group, to },
        20 = CloseOrder { order, outcome },
        21 = ReportMembers { group, members },
        22 = RecordRecovery { group, members, floor },
        23 = Configure { settings },
        24 = IssueSessions { count },
        25 = OpenIssuer,
        26 = Recover { group, replica, term },
    }
    Reply {
        1 = Done,
        2 = Node(node),
        3 = Config(number),
        4 = Joined { config, groups },
        5 = MoveOpened(id),
        6 = Ordered(order),
        7 = Sessions { first, count },
        8 = Issuer(issuer),
        9 = Refused(refusal),
    }
    Refusal {
        1 = OtherCluster,
        2 = Malformed,
        3 = TooMany,
        4 = NoSuchNode(node),
        5 = NodeGone(node),
        6 = OtherDirectory(node),
        7 = NodeNotIn(node),
        8 = NodeIn(node),
        9 = HoldsReplicas(node),
        10 = Unproven { have, need },
        11 = NoSuchShard,
        12 = NameTaken,
        13 = BadReplicas,
        14 = LastShard,
        15 = NotServing(group),
        16 = StillNeeded(group),
        17 = BadSlots,
        18 = NotOwner(slot),
        19 = NotWanted(slot),
        20 = SlotMoving(slot),
        21 = Busy,
        22 = NoSuchMove(id),
        23 = WrongEvidence,
        24 = Changing(group),
        25 = NotChanging(group),
        26 = OtherMembers(id),
        27 = NoSuchReplica(replica),
        28 = NodeTaken(node),
        29 = BelowWanted,
        30 = OneNodeAtATime(node),
        31 = NoSuchOrder(order),
        32 = OrderOutstanding(order),
        33 = NoSuchIssuer,
        34 = Outdated,
        35 = HasMajority(group),
        36 = CannotRecover(group),
    }
}

/// The runs of a change: first slot, slots less one, the shard.
impl Wire for ConfigChange {
    fn put(&self, out: &mut Vec<u8>) {
        let Self {
            joined,
            left,
            slots,
        } = self;
        joined.put(out);
        left.put(out);
        (slots.len() as u64).put(out);
        for (first, last, shard) in slots {
            first.put(out);
            (last - first).put(out);
            shard.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let joined = Wire::read(reader)?;
        let left = Wire::read(reader)?;
        let runs: Vec<(u16, (u16, Option<GroupId>))> = Wire::read(reader)?;
        let mut slots = Vec::with_capacity(runs.len());
        let mut end = None;
        for (first, (len, shard)) in runs {
            let last = first.checked_add(len);
            let (Some(last), true) = (last, end.is_none_or(|end| first > end)) else {
                return Err(reader.malformed("run of a change"));
            };
            slots.push((first, last, shard));
            end = Some(last);
        }
        Ok(Self {
            joined,
            left,
            slots,
        })
    }
}

/// The oldest config that is kept, and what changed since. The newest is made of them.
impl Wire for Configs {
    fn put(&self, out: &mut Vec<u8>) {
        self.oldest.put(out);
        (self.changes.len() as u64).put(out);
        for change in &self.changes {
            change.put(out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut configs = Self::starting_with(Config::read(reader)?);
        let slot_count = configs.oldest.slots.slot_count();
        let changes = VecDeque::from(Vec::<ConfigChange>::read(reader)?);
        let count = changes.len();
        for change in changes {
            let last = change.slots.last().map(|(_, last, _)| *last);
            if last.is_some_and(|last| last >= slot_count) {
                return Err(reader.malformed("slots of a change"));
            }
            configs.push(change);
        }
        if configs.changes.len() != count || configs.oldest_number().get() >> 62 != 0 {
            return Err(reader.malformed("number of configs"));
        }
        Ok(configs)
    }
}
