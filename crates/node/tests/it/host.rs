//! A few nodes on a bench: every message, sync and tick by hand, for scenario scripts.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::script::{Command, Runner, run_folder};
use kvorum_base::{
    ClusterId, ConnId, GroupId, Index, NodeId, Planted, ReplicaId, SlotSet, Term, UnixMillis,
};
use kvorum_node::format::chunk::{ChunkReader, Loaded};
use kvorum_node::format::entry::{self, EntryBuilder};
use kvorum_node::format::peer::{self, Ask, PeerHeader, PeerMessage};
use kvorum_node::log::{LogOptions, Recovery};
use kvorum_node::start::Snapshots;
use kvorum_node::{
    BatchSeq, Config, Control, Door, Effect, Event, GroupSpec, Link, Member, Node, SegmentId,
};
use kvorum_raft::{Body, Message};

const GROUP: GroupId = GroupId(1);
const SEGMENT_BYTES: u32 = 64 << 10;

/// The disk of one node: what was written, and up to where it was synced.
#[derive(Default)]
struct Disk {
    segments: BTreeMap<SegmentId, Vec<u8>>,
    /// Appends that are not synced.
    unsynced: VecDeque<(SegmentId, u32, BatchSeq, Bytes)>,
    snapshots: BTreeMap<(GroupId, u64), Vec<u8>>,
}

struct Host {
    node: Option<Node>,
    disk: Disk,
    lives: u64,
    /// The connection of each client name on this node.
    clients: BTreeMap<String, ConnId>,
    next_conn: u32,
}

/// The bench.
struct Bench {
    hosts: BTreeMap<NodeId, Host>,
    /// Frames on their way.
    network: VecDeque<(NodeId, NodeId, Link, Vec<Bytes>)>,
    cut: Vec<(NodeId, NodeId)>,
    /// Nodes whose disks do not answer.
    stalled: Vec<NodeId>,
    /// Nodes whose next segments are not made.
    unready: Vec<NodeId>,
    wall: u64,
    /// How far wall clocks are behind, in milliseconds.
    behind: BTreeMap<NodeId, u64>,
    snapshot_after: u64,
    cache: u64,
    trace: String,
}

fn member(node: u64) -> Member {
    let port = 7000 + node as u16;
    Member {
        host: "127.0.0.1".to_owned(),
        port,
        replica_host: "127.0.0.1".to_owned(),
        replica_port: port + 50,
        peer_port: port + 100,
        http_port: port + 200,
    }
}

pub(crate) fn config(node: NodeId, nodes: u64, snapshot_after: u64, cache: u64) -> Config {
    Config {
        node,
        cluster: ClusterId(7),
        incarnation: 1,
        hash_key: [7; 16],
        members: (1..=nodes)
            .map(|node| (NodeId(node), member(node)))
            .collect(),
        groups: vec![GroupSpec {
            group: GROUP,
            slots: Arc::new(SlotSet::all()),
            replicas: (1..=nodes)
                .map(|node| (ReplicaId(node), NodeId(node)))
                .collect(),
            preferred: None,
        }],
        announces_replicas: true,
        founding: None,
        known: None,
        node_dead_ticks: 1000,
        move_bytes_per_tick: None,
        password: None,
        tick_ms: 10,
        heartbeat_ticks: 10,
        election_ticks_min: 50,
        election_ticks_max: 100,
        deadline_ticks: 500,
        checkpoint_ticks: 100,
        memory_bytes_max: None,
        clock_skew_ms_max: 1000,
        log: LogOptions::small(SEGMENT_BYTES),
        snapshot_after_log_bytes: snapshot_after,
        append_bytes_max: kvorum_node::limits::ENTRY_BYTES_TARGET,
        chunk_bytes: kvorum_node::limits::CHUNK_BYTES,
        log_cache_bytes: cache,
        planted: Planted::default(),
    }
}

impl Disk {
    /// Carries out the oldest append that is not synced.
    fn sync_one(&mut self) -> Option<BatchSeq> {
        let (segment, offset, upto, frame) = self.unsynced.pop_front()?;
        let file = self
            .segments
            .entry(segment)
            .or_insert_with(|| vec![0; SEGMENT_BYTES as usize]);
        file[offset as usize..offset as usize + frame.len()].copy_from_slice(&frame);
        Some(upto)
    }
}

impl Bench {
    fn new() -> Self {
        Self {
            hosts: BTreeMap::new(),
            network: VecDeque::new(),
            cut: Vec::new(),
            stalled: Vec::new(),
            unready: Vec::new(),
            wall: 1_000_000,
            behind: BTreeMap::new(),
            snapshot_after: 1 << 20,
            cache: 1 << 20,
            trace: String::new(),
        }
    }

    fn make(&mut self, nodes: u64) {
        for id in 1..=nodes {
            let host = Host {
                node: None,
                disk: Disk::default(),
                lives: 0,
                clients: BTreeMap::new(),
                next_conn: 0,
            };
            self.hosts.insert(NodeId(id), host);
        }
        for id in 1..=nodes {
            self.start(NodeId(id));
        }
        self.settle();
    }

    /// Starts a node from what its disk holds.
    fn start(&mut self, id: NodeId) {
        let nodes = self.hosts.len() as u64;
        let config = config(id, nodes, self.snapshot_after, self.cache);
        let host = self.hosts.get_mut(&id).expect("a host");
        let mut effects = Vec::new();
        let started = host.lives > 0;
        host.lives += 1;
        let mut recovery = Recovery::new(&config.log, started);
        for (segment, bytes) in &host.disk.segments {
            recovery.feed(*segment, bytes);
        }
        let node = match recovery.finish() {
            Ok(recovered) => {
                let snapshots = read_snapshots(&host.disk, &config);
                Node::start(config, Some(recovered), snapshots, 1, &mut effects)
            }
            Err(damage) => Node::start_lost(config, &damage.to_string()),
        };
        host.node = Some(node);
        self.carry_out(id, effects);
        self.tell_time(id);
        self.turn(id);
    }

    fn tell_time(&mut self, id: NodeId) {
        let behind = self.behind.get(&id).copied().unwrap_or(0);
        self.event(id, Event::Wall(UnixMillis(self.wall - behind)));
    }

    fn event(&mut self, id: NodeId, event: Event<'_>) {
        let Some(node) = self.hosts.get_mut(&id).and_then(|host| host.node.as_mut()) else {
            return;
        };
        let mut effects = Vec::new();
        node.step(event, &mut effects);
        self.carry_out(id, effects);
    }

    fn turn(&mut self, id: NodeId) {
        self.event(id, Event::EndOfTurn);
        if let Some(node) = self.hosts.get(&id).and_then(|host| host.node.as_ref()) {
            node.check();
        }
    }

    fn carry_out(&mut self, id: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            let host = self.hosts.get_mut(&id).expect("a host");
            match effect {
                Effect::Append {
                    segment,
                    offset,
                    upto,
                    frame,
                } => {
                    host.disk.unsynced.push_back((segment, offset, upto, frame));
                }
                Effect::PrepareSegment { .. } if self.unready.contains(&id) => {}
                Effect::PrepareSegment { segment } => {
                    self.event(id, Event::SegmentReady { segment });
                    self.turn(id);
                }
                Effect::FreeSegment { segment } => {
                    host.disk.segments.remove(&segment);
                }
                Effect::Send { to, link, frame } => self.network.push_back((id, to, link, frame)),
                Effect::Output(conn) => self.print_output(id, conn),
                Effect::Close(conn) => {
                    let name = client_name(host, conn);
                    let _ = writeln!(self.trace, "{name}: closed");
                }
                Effect::StoreSnapshot {
                    group,
                    number,
                    mut writer,
                } => {
                    let mut bytes = Vec::new();
                    while let Some(piece) = writer.next_piece() {
                        bytes.extend(piece);
                    }
                    let result = Ok(bytes.len() as u64);
                    host.disk.snapshots.insert((group, number), bytes);
                    self.event(
                        id,
                        Event::SnapshotStored {
                            group,
                            number,
                            result,
                        },
                    );
                    self.turn(id);
                }
                Effect::DropSnapshot { group, number } => {
                    host.disk.snapshots.remove(&(group, number));
                }
                Effect::Managed { token, answer } => {
                    let _ = writeln!(self.trace, "node {id}: request {token}: {answer:?}");
                }
                Effect::Note(note) => {
                    let _ = writeln!(self.trace, "node {id}: {}", note.text);
                }
                Effect::Stop(reason) => {
                    let _ = writeln!(self.trace, "node {id} ends: {reason:?}");
                    host.node = None;
                }
                Effect::Again | Effect::Continue => self.turn(id),
                Effect::Pause(_) | Effect::Resume(_) | Effect::Peers(_) => {}
            }
        }
    }

    fn print_output(&mut self, id: NodeId, conn: ConnId) {
        let host = self.hosts.get_mut(&id).expect("a host");
        let name = client_name(host, conn);
        let Some(output) = host.node.as_mut().and_then(|node| node.output(conn)) else {
            return;
        };
        let bytes = output.to_vec();
        output.advance(bytes.len());
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", " ");
        let _ = writeln!(self.trace, "{name}: {}", text.trim_end());
    }

    /// Syncs and delivers until nothing moves.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let synced = self.sync_all();
            let delivered = self.deliver_one();
            if !synced && !delivered {
                return;
            }
        }
        panic!("the nodes do not come to rest");
    }

    fn sync_all(&mut self) -> bool {
        let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
        let mut any = false;
        for id in ids {
            any |= !self.stalled.contains(&id) && self.sync(id);
        }
        any
    }

    fn sync(&mut self, id: NodeId) -> bool {
        let host = self.hosts.get_mut(&id).expect("a host");
        if host.node.is_none() {
            return false;
        }
        let Some(upto) = host.disk.sync_one() else {
            return false;
        };
        self.event(id, Event::Synced { upto });
        self.turn(id);
        true
    }

    fn deliver_one(&mut self) -> bool {
        let Some((from, to, _, pieces)) = self.network.pop_front() else {
            return false;
        };
        let cut = self.cut.contains(&(from, to));
        if !cut && self.hosts[&to].node.is_some() {
            let frame: Vec<u8> = pieces.concat();
            self.event(
                to,
                Event::Peer {
                    from,
                    frame: Bytes::from(frame).slice(4..),
                },
            );
            self.turn(to);
        }
        true
    }

    fn tick(&mut self, count: u64) {
        for _ in 0..count {
            self.wall += 10;
            let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
            for id in ids {
                if self.wall.is_multiple_of(1000) {
                    self.tell_time(id);
                }
                self.event(id, Event::Tick);
                self.turn(id);
            }
            self.settle();
        }
    }

    fn send(&mut self, name: &str, id: NodeId, words: &[String]) {
        let host = self.hosts.get_mut(&id).expect("a host");
        let conn = match host.clients.get(name) {
            Some(conn) => *conn,
            None => {
                let conn = ConnId {
                    index: host.next_conn,
                    generation: 0,
                };
                host.next_conn += 1;
                host.clients.insert(name.to_owned(), conn);
                let door = match name.starts_with("replica-") {
                    true => Door::Replica,
                    false => Door::Primary,
                };
                self.event(
                    id,
                    Event::Opened {
                        conn,
                        address: "127.0.0.1:1",
                        door,
                    },
                );
                conn
            }
        };
        let mut bytes = Vec::new();
        for line in words {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        self.event(id, Event::Bytes { conn, data: &bytes });
        self.turn(id);
    }

    /// The process is gone; the disk keeps what was synced, or also the page cache.
    fn stop(&mut self, id: NodeId, keep_unsynced: bool) {
        let host = self.hosts.get_mut(&id).expect("a host");
        host.node = None;
        host.clients.clear();
        host.next_conn = 0;
        while keep_unsynced && host.disk.sync_one().is_some() {}
        host.disk.unsynced.clear();
        self.network
            .retain(|(from, to, ..)| *from != id && *to != id);
    }

    fn status(&mut self) {
        for (id, host) in &self.hosts {
            let Some(node) = &host.node else {
                let _ = writeln!(self.trace, "node {id}: down");
                continue;
            };
            let status = node.status();
            if let Some(lost) = &status.lost {
                let _ = writeln!(self.trace, "node {id}: lost: {lost}");
            }
            for group in &status.groups {
                let _ = writeln!(
                    self.trace,
                    "node {id}: {} in term {}, commit {}, applied {}, last {}, {} keys",
                    group.role, group.term, group.commit, group.applied, group.last, group.keys
                );
            }
        }
    }
}

fn client_name(host: &Host, conn: ConnId) -> String {
    let found = host.clients.iter().find(|(_, own)| **own == conn);
    found.map_or_else(|| conn.to_string(), |(name, _)| name.clone())
}

fn read_snapshots(disk: &Disk, config: &Config) -> Snapshots {
    let mut snapshots = Snapshots::new();
    for ((group, _), bytes) in &disk.snapshots {
        let read = || -> Result<Loaded, String> {
            let mut reader = ChunkReader::new(*group, config.hash_key);
            reader.feed(bytes).map_err(|error| error.to_string())?;
            reader.finish().map_err(|error| error.to_string())
        };
        snapshots.insert(*group, read());
    }
    snapshots
}

fn node_id(text: &str) -> Result<NodeId, String> {
    text.parse()
        .map(NodeId)
        .map_err(|_| format!("{text} is no node"))
}

impl Runner for Bench {
    fn run(&mut self, command: &Command) -> Result<String, String> {
        match command.name.as_str() {
            "nodes" => self.make(command.number(0)?),
            "snapshot-after" => self.snapshot_after = command.number(0)?,
            "cache" => self.cache = command.number(0)?,
            "tick" => self.tick(command.number(0)?),
            // NAME NODE LINE ...: inline requests, all in one read. A client called `replica-` and more
            // comes to the port for replicas.
            "send" => {
                let id = node_id(command.arg(1)?)?;
                self.send(command.arg(0)?, id, &command.args[2..]);
            }
            // NAME NODE BYTES: SET k to a value of this length.
            "big" => {
                let id = node_id(command.arg(1)?)?;
                let value = "x".repeat(command.number(2)? as usize);
                self.send(command.arg(0)?, id, &[format!("SET k {value}")]);
                self.settle();
            }
            "settle" => self.settle(),
            "deliver" => {
                self.deliver_one();
            }
            "sync" => {
                self.sync(node_id(command.arg(0)?)?);
            }
            "stall" => self.stalled.push(node_id(command.arg(0)?)?),
            "behind" => {
                let id = node_id(command.arg(0)?)?;
                self.behind.insert(id, command.number(1)?);
            }
            "no-segments" => self.unready.push(node_id(command.arg(0)?)?),
            "unstall" => {
                let id = node_id(command.arg(0)?)?;
                self.stalled.retain(|stalled| *stalled != id);
            }
            "cut" => {
                let (one, other) = (node_id(command.arg(0)?)?, node_id(command.arg(1)?)?);
                self.cut.extend([(one, other), (other, one)]);
            }
            "heal" => self.cut.clear(),
            "kill" => self.stop(node_id(command.arg(0)?)?, true),
            "power-cut" => self.stop(node_id(command.arg(0)?)?, false),
            "start" => self.start(node_id(command.arg(0)?)?),
            "flip" => {
                let id = node_id(command.arg(0)?)?;
                let host = self.hosts.get_mut(&id).expect("a host");
                let file = host.disk.segments.values_mut().next().ok_or("no segment")?;
                file[command.number(1)? as usize] ^= 1;
            }
            "flip-snapshot" => {
                let id = node_id(command.arg(0)?)?;
                let host = self.hosts.get_mut(&id).expect("a host");
                let file = host
                    .disk
                    .snapshots
                    .values_mut()
                    .next()
                    .ok_or("no snapshot")?;
                let middle = file.len() / 2;
                file[middle] ^= 1;
            }
            "snapshot" => {
                let id = node_id(command.arg(0)?)?;
                self.event(id, Event::Control(Control::Snapshot { group: GROUP }));
            }
            "transfer" => {
                let (id, to) = (node_id(command.arg(0)?)?, node_id(command.arg(1)?)?);
                let control = Control::Transfer {
                    group: GROUP,
                    to: Some(to),
                };
                self.event(id, Event::Control(control));
                self.turn(id);
                self.settle();
            }
            "shutdown" => {
                let id = node_id(command.arg(0)?)?;
                self.event(id, Event::Control(Control::Shutdown));
                self.turn(id);
            }
            "files" => {
                for (id, host) in &self.hosts {
                    let segments: Vec<_> = host.disk.segments.keys().collect();
                    let snapshots: Vec<_> = host.disk.snapshots.keys().map(|(_, n)| n).collect();
                    let _ = writeln!(
                        self.trace,
                        "node {id}: segments {segments:?}, snapshots {snapshots:?}"
                    );
                }
            }
            "status" => self.status(),
            other => return Err(format!("no such command: {other}")),
        }
        Ok(std::mem::take(&mut self.trace))
    }
}

#[test]
fn scripts() {
    run_folder(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts"),
        |_| Bench::new(),
    );
}

/// A follower counts its questions anew after a restart, and an answer may be long on its way.
#[test]
fn an_answer_to_an_earlier_life_of_a_follower_is_none() {
    let mut bench = Bench::new();
    bench.make(3);
    bench.tick(110);
    let primary = NodeId(2);
    bench.cut.push((NodeId(1), primary));
    bench.send("replica-c", NodeId(1), &["GET k".to_owned()]);
    bench.settle();
    for (incarnation, reply) in [(0, ""), (2, ""), (1, "replica-c: $-1\n")] {
        let ask = Ask {
            group: GROUP,
            replica: ReplicaId(1),
            incarnation,
            number: 1,
        };
        let message = PeerMessage::ReadIndex(ask, Index(1));
        let frame = peer::encode(&PeerHeader::default(), &[message]).concat();
        let event = Event::Peer {
            from: primary,
            frame: Bytes::from(frame).slice(peer::PREFIX_BYTES..),
        };
        bench.trace.clear();
        bench.event(NodeId(1), event);
        bench.turn(NodeId(1));
        assert_eq!(bench.trace, reply, "life {incarnation}");
    }
}

/// A node of the same cluster whose log has room for more.
#[test]
fn an_entry_that_the_log_has_no_place_for_is_ignored() {
    let mut bench = Bench::new();
    bench.make(3);
    let most = LogOptions::small(SEGMENT_BYTES).entry_bytes_max as usize;
    for (len, taken) in [(most + 1, 0), (most, 1)] {
        let mut builder = EntryBuilder::new();
        let empty = builder.bytes();
        let value = vec![7; len - empty - 3];
        let _: Result<(), ()> = builder.push_command(|out| {
            out.extend_from_slice(&value);
            Ok(())
        });
        let data = builder.seal(Term(1), Index(1), UnixMillis(1));
        assert_eq!(data.len(), len);
        let body = Body::Append {
            prev_index: Index::ZERO,
            prev_term: Term::ZERO,
            entries: vec![entry::decode(data).expect("an entry")],
            commit: Index::ZERO,
        };
        let message = PeerMessage::Raft {
            group: GROUP,
            from: ReplicaId(2),
            to: ReplicaId(1),
            message: Message {
                term: Term(1),
                body,
            },
        };
        let frame = peer::encode(&PeerHeader::default(), &[message]).concat();
        let event = Event::Peer {
            from: NodeId(2),
            frame: Bytes::from(frame).slice(peer::PREFIX_BYTES..),
        };
        bench.event(NodeId(1), event);
        bench.turn(NodeId(1));
        let node = bench.hosts[&NodeId(1)].node.as_ref().expect("it runs");
        assert_eq!(node.status().groups[0].last, taken, "{len} bytes");
        node.check();
    }
}
