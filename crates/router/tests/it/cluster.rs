//! A cluster in memory that behaves as kvorum's nodes do towards a router, with as many shards as wanted.
//!
//! Commands are run by the real keyspace, one for each shard. What is a model is who owns which slot, who
//! leads which shard, and who knows how much of that.

use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{Prng, Slot, SlotSet};
use kvorum_kv::{
    Delta, Keyspace, Run, apply, find, keys_of, narrow_sweep, read, resolve, slot_of_keys,
    swept_slots,
};
use kvorum_resp::{Args, ArgsBuf, Connection, Replies, Version};

/// Who owns and leads what, as somebody sees it.
#[derive(Clone)]
pub(crate) struct View {
    /// The shard of each slot.
    pub(crate) owner: Vec<usize>,
    /// The node that leads each shard; `None` while nobody does.
    pub(crate) primary: Vec<Option<usize>>,
}

/// All nodes and shards.
pub(crate) struct Cluster {
    /// How it is.
    pub(crate) truth: View,
    /// How each node believes it is.
    pub(crate) views: Vec<View>,
    shards: Vec<Keyspace>,
    /// Slots on their way, with where they go: nobody serves them.
    pub(crate) moving: Vec<(SlotSet, usize)>,
    /// How many reads each node has answered at its port for replicas.
    pub(crate) replica_reads: Vec<u64>,
    /// Of a thousand requests, so many are refused for no reason, and so many writes end in -UNKNOWN.
    pub(crate) whims: u64,
}

pub(crate) fn address(node: usize) -> String {
    format!("node-{node}:7000")
}

fn request(words: &[&[u8]]) -> ArgsBuf {
    words.iter().collect()
}

/// What a data command is refused with.
const NO_PRIMARY: &str = "TRYAGAIN no primary of this shard is known here; nothing was done";
const SEALED: &str = "TRYAGAIN the slot is on its way; nothing was done";

impl Cluster {
    pub(crate) fn new(nodes: usize, shards: usize) -> Self {
        let width = usize::from(SLOT_COUNT).div_ceil(shards);
        let truth = View {
            owner: (0..usize::from(SLOT_COUNT))
                .map(|slot| slot / width)
                .collect(),
            primary: (0..shards).map(|shard| Some(shard % nodes)).collect(),
        };
        Self {
            views: vec![truth.clone(); nodes],
            truth,
            shards: (0..shards).map(|_| Keyspace::new([7; 16])).collect(),
            moving: Vec::new(),
            replica_reads: vec![0; nodes],
            whims: 0,
        }
    }

    pub(crate) fn nodes(&self) -> usize {
        self.views.len()
    }

    /// Everybody knows how it is.
    pub(crate) fn tell_all(&mut self) {
        for node in 0..self.nodes() {
            self.views[node] = self.truth.clone();
        }
    }

    fn is_moving(&self, slot: Slot) -> bool {
        self.moving.iter().any(|(slots, _)| slots.contains(slot))
    }

    /// Seals slots, to give them to another shard.
    pub(crate) fn begin_move(&mut self, slots: SlotSet, to: usize) {
        if slots.iter().all(|slot| !self.is_moving(slot)) {
            self.moving.push((slots, to));
        }
    }

    /// Ends the oldest move: the slots serve at their new shard, or at the old one as before.
    pub(crate) fn end_move(&mut self, happens: bool) {
        if self.moving.is_empty() {
            return;
        }
        let (slots, to) = self.moving.remove(0);
        for slot in slots.iter().filter(|_| happens) {
            let from = self.truth.owner[usize::from(slot.get())];
            if from == to {
                continue;
            }
            self.hand_over(slot, from, to);
            self.truth.owner[usize::from(slot.get())] = to;
            // Who gave it away knows to whom, and who has it knows that.
            for shard in [from, to] {
                if let Some(node) = self.truth.primary[shard] {
                    self.views[node].owner[usize::from(slot.get())] = to;
                    self.views[node].primary[to] = self.truth.primary[to];
                }
            }
        }
    }

    /// A slot with all that is in it, versions too, goes to another shard.
    fn hand_over(&mut self, slot: Slot, from: usize, to: usize) {
        let slots = SlotSet::of_runs([(slot.get(), slot.get())]);
        let mut all = Delta::new(None, self.shards[from].freeze(&slots));
        let target = &mut self.shards[to];
        target.set_served(slot, false);
        target.drop_slot(slot);
        while let Some(change) = all.next_change() {
            assert!(target.stage(change), "what another shard held");
        }
        target.set_served(slot, true);
        let source = &mut self.shards[from];
        source.set_served(slot, false);
        source.drop_slot(slot);
    }

    fn value(&self, shard: usize, key: &[u8]) -> Option<Vec<u8>> {
        let mut stored = Vec::new();
        let get = request(&[b"GET", key]);
        let spec = find(get.as_args()).expect("GET");
        let mut replies = Replies::stored(&mut stored);
        read(spec, get.as_args(), &self.shards[shard], &mut replies);
        let end = stored.windows(2).position(|pair| pair == b"\r\n")?;
        (stored[0] == b'$').then(|| stored[end + 2..stored.len() - 2].to_vec())
    }

    /// What a key holds in the end.
    pub(crate) fn final_value(&self, key: &str) -> Option<Vec<u8>> {
        let slot = kvorum_base::slot::slot_of(key.as_bytes());
        self.value(self.truth.owner[usize::from(slot.get())], key.as_bytes())
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> u64 {
        self.shards.iter().map(Keyspace::len).sum()
    }

    /// A node answers one request of a link.
    pub(crate) fn serve(
        &mut self,
        (node, is_replica): (usize, bool),
        connection: &mut Connection,
        seq: u32,
        args: Args<'_>,
        prng: &mut Prng,
    ) {
        let name = args.get(0).to_ascii_uppercase();
        match name.as_slice() {
            b"HELLO" => {
                let version = if args.get(1) == b"3" {
                    Version::Resp3
                } else {
                    Version::Resp2
                };
                connection.set_version(seq, version);
                connection.reply(seq, |replies| replies.map(0));
            }
            b"CLIENT" | b"KVORUM.LINK" => {
                connection.reply(seq, |replies| replies.ok());
            }
            b"CLUSTER" => {
                connection.reply(seq, |replies| self.map(node, replies));
            }
            _ => {
                connection.reply(seq, |replies| {
                    self.data((node, is_replica), args, replies, prng);
                });
            }
        }
    }

    /// CLUSTER SLOTS, as this node believes.
    fn map(&self, node: usize, replies: &mut Replies<'_>) {
        let view = &self.views[node];
        let mut ranges: Vec<(usize, usize, usize)> = Vec::new();
        for (slot, shard) in view.owner.iter().enumerate() {
            match ranges.last_mut() {
                Some((_, last, of)) if of == shard => *last = slot,
                _ => ranges.push((slot, slot, *shard)),
            }
        }
        replies.array(ranges.len());
        for (first, last, shard) in ranges {
            let primary = view.primary[shard].unwrap_or(node);
            let replicas = (0..self.nodes()).filter(|node| *node != primary);
            replies.array(3 + replicas.clone().count());
            replies.integer(first as i64);
            replies.integer(last as i64);
            let mut endpoint = |node: usize, port: i64| {
                replies.array(2);
                replies.bulk(format!("node-{node}").as_bytes());
                replies.integer(port);
            };
            endpoint(primary, 7000);
            replicas.for_each(|node| endpoint(node, 7050));
        }
    }

    fn data(
        &mut self,
        (node, is_replica): (usize, bool),
        args: Args<'_>,
        replies: &mut Replies<'_>,
        prng: &mut Prng,
    ) {
        let spec = find(args).expect("only what the table knows is sent to nodes");
        let swept = swept_slots(spec, args).map(|slots| slots.expect("right runs"));
        let slot = match &swept {
            Some(slots) => slots.next_from(0).expect("a slot"),
            None => slot_of_keys(keys_of(spec, args))
                .expect("keys of one slot")
                .unwrap_or_default(),
        };
        let at = usize::from(slot.get());
        let shard = self.truth.owner[at];
        // All others have replicas of all shards, which ask the primary.
        let primary = self.truth.primary[shard];
        let may_read = is_replica && primary.is_some() && !spec.is_write();
        if may_read {
            self.replica_reads[node] += 1;
        } else if primary != Some(node) || is_replica {
            let view = &self.views[node];
            let to = view.primary[view.owner[at]];
            return match to.filter(|to| *to != node || is_replica) {
                Some(to) => replies.error(&format!("MOVED {slot} {}", address(to))),
                None => replies.error(NO_PRIMARY),
            };
        }
        if self.is_moving(slot) {
            return replies.error(SEALED);
        }
        if prng.chance(self.whims, 1000) {
            return replies.error("CLUSTERDOWN for no reason");
        }
        let unknown = spec.is_write() && prng.chance(self.whims, 1000);
        if unknown && prng.chance(1, 2) {
            return replies.error("UNKNOWN and it did not happen");
        }
        let narrowed = swept.map(|_| {
            let mut owned = SlotSet::none();
            for slot in (0..SLOT_COUNT).map(Slot) {
                if self.truth.owner[usize::from(slot.get())] == shard && !self.is_moving(slot) {
                    owned.insert(slot);
                }
            }
            narrow_sweep(spec, args, &owned).expect("it owns the first slot")
        });
        let args = narrowed.as_ref().map_or(args, ArgsBuf::as_args);
        let stored = run(&mut self.shards[shard], args);
        if unknown {
            replies.error("UNKNOWN and it happened");
        } else {
            kvorum_resp::replay_stored(&stored, replies).expect("a stored reply");
        }
    }
}

/// Runs a command and gives its stored reply.
fn run(keyspace: &mut Keyspace, args: Args<'_>) -> Vec<u8> {
    let mut stored = Vec::new();
    let mut replies = Replies::stored(&mut stored);
    let spec = find(args).expect("a command");
    if matches!(spec.run, Run::Write { .. }) {
        let mut command = Vec::new();
        match resolve(spec, args, &mut command) {
            Ok(()) => apply(keyspace, &command, &mut replies),
            Err(refusal) => refusal.reply(&mut replies),
        }
    } else {
        read(spec, args, keyspace, &mut replies);
    }
    stored
}
