//! One machine: a disk that outlives processes, and the process that runs the node, if one does.
//!
//! This is the shell of the simulation, and as kind to the node as the real one is, no kinder. What is
//! ready is handed over in one turn; a sync is reported in some later turn, in the middle of other
//! events; reads are cut anywhere; after a pause the missed ticks are one, and come after the frames
//! that waited. It decides nothing that the node should decide.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_base::{Bug, ConnId, NodeId, Planted, Prng, UnixMillis};
use kvorum_node::format::chunk::{ChunkReader, Loaded};
use kvorum_node::log::{Recovered, Recovery};
use kvorum_node::start::Snapshots;
use kvorum_node::{BatchSeq, Config, Control, Effect, Event, Node, SegmentId};

use crate::disk::{Disk, FileName};

/// Something that waits for a node's next turn.
#[derive(Debug)]
pub enum Input {
    /// A client connected.
    Opened(ConnId),
    /// A client is gone.
    Closed(ConnId),
    /// What one read of a client's socket delivered.
    Bytes(ConnId, Vec<u8>),
    /// Blocked output was written.
    Drained(ConnId),
    /// A frame of a peer, without its length.
    Peer(NodeId, Bytes),
    /// A link was reset.
    PeerReset(NodeId),
    /// A batch is durable.
    Synced(BatchSeq),
    /// A segment can be written.
    SegmentReady(SegmentId),
    /// There is no room for a segment.
    SegmentRefused(SegmentId),
    /// A snapshot file was written, or not.
    SnapshotStored {
        /// Whose.
        group: kvorum_base::GroupId,
        /// Which.
        number: u64,
        /// Its size, or why not.
        result: Result<u64, String>,
    },
    /// The wall clock.
    Wall(UnixMillis),
    /// An operator's request.
    Control(Control),
}

/// A running node.
pub struct Process {
    /// The node.
    pub node: Node,
    /// What waits for the next turn, in order.
    inbox: Vec<Input>,
    tick_due: bool,
    /// Whether a turn is on its way.
    pub turn_due: bool,
    /// Connections that the node does not want to read, and what waits on them.
    held: BTreeMap<ConnId, Vec<u8>>,
    next_conn: u32,
}

/// Something that waits for a machine's next sync.
pub type Ambush = Box<dyn FnOnce(&super::cluster::Cluster)>;

/// A machine.
pub struct Machine {
    /// Its disk.
    pub disk: Disk,
    /// The process, while it lives.
    pub process: Option<Process>,
    /// How many processes there were.
    pub life: u64,
    /// A stopped process (SIGSTOP) gets no turns.
    pub paused: bool,
    /// How far its wall clock is off, in milliseconds.
    pub clock_error_ms: i64,
    /// Whether a bit of its disk was flipped, so that it may say that it lost promises.
    pub tampered: bool,
    /// What happens to the machine around its next sync.
    pub ambush: Option<Ambush>,
    /// Whether the directory knows that its log has begun.
    log_begun: bool,
    config: Config,
    prng: Prng,
}

/// How a start went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Started {
    /// The log was whole.
    Whole,
    /// A torn batch was cut off.
    Cut,
    /// The log lost what was synced: the node is out of service.
    Lost,
}

impl Machine {
    /// A machine with an empty disk.
    #[must_use]
    pub fn new(config: Config, mut prng: Prng) -> Self {
        let disk = Disk::new(prng.fork(), config.log.segment_bytes as usize);
        Self {
            disk,
            process: None,
            life: 0,
            paused: false,
            clock_error_ms: 0,
            tampered: false,
            ambush: None,
            log_begun: false,
            config,
            prng,
        }
    }

    fn planted(&self) -> Planted {
        self.config.planted
    }

    /// Starts a process from what is on the disk, and returns its first effects.
    ///
    /// # Panics
    /// If one is running.
    pub fn start(&mut self, effects: &mut Vec<Effect>) -> Started {
        assert!(self.process.is_none(), "a process is running");
        self.life += 1;
        self.paused = false;
        // What is listed must be what the next power cut leaves.
        self.disk.sync_directory();
        let (node, started) = match self.recover() {
            Ok(recovered) => {
                let cut = recovered
                    .as_ref()
                    .is_some_and(|recovered| recovered.cut.is_some());
                let snapshots = self.load_snapshots(recovered.as_ref());
                let incarnation = recovered
                    .as_ref()
                    .map_or(0, |recovered| recovered.incarnation);
                let config = Config {
                    incarnation: incarnation + 1,
                    ..self.config.clone()
                };
                let seed = self.prng.next_u64();
                let node = Node::start(config, recovered, snapshots, seed, effects);
                (node, if cut { Started::Cut } else { Started::Whole })
            }
            Err(reason) if self.planted().has(Bug::DamagedReplicaAcks) => {
                let _ = reason;
                self.forget_everything();
                let config = self.config.clone();
                let seed = self.prng.next_u64();
                let node = Node::start(config, None, Snapshots::new(), seed, effects);
                (node, Started::Lost)
            }
            Err(reason) => (
                Node::start_lost(self.config.clone(), &reason),
                Started::Lost,
            ),
        };
        self.process = Some(Process {
            node,
            inbox: Vec::new(),
            tick_due: false,
            turn_due: false,
            held: BTreeMap::new(),
            next_conn: 0,
        });
        started
    }

    /// Reads the log as the directory shows it, page cache and all.
    fn recover(&self) -> Result<Option<Recovered>, String> {
        let segments: Vec<u32> = self.disk.segments().collect();
        if segments.is_empty() && !self.log_begun {
            return Ok(None);
        }
        let mut recovery = Recovery::new(&self.config.log, self.log_begun);
        for segment in segments {
            let bytes = self
                .disk
                .read(&FileName::Segment(segment))
                .expect("it was listed");
            recovery.feed(SegmentId(segment), bytes);
        }
        recovery
            .finish()
            .map(Some)
            .map_err(|damage| damage.to_string())
    }

    /// Reads the snapshots that the log refers to, and removes the others.
    fn load_snapshots(&mut self, recovered: Option<&Recovered>) -> Snapshots {
        let groups = recovered
            .into_iter()
            .flat_map(|recovered| &recovered.groups);
        let wanted: BTreeMap<u64, u64> = groups
            .filter(|(_, group)| group.snapshot.number > 0)
            .map(|(id, group)| (id.get(), group.snapshot.number))
            .collect();
        let names: Vec<FileName> = self.disk.names().cloned().collect();
        for name in names {
            let is_stale = match &name {
                FileName::Snapshot { group, number } => wanted.get(group) != Some(number),
                FileName::Unfinished { .. } => true,
                _ => false,
            };
            if is_stale {
                self.disk.remove(&name);
            }
        }
        let load = |(group, number): (u64, u64)| {
            let id = kvorum_base::GroupId(group);
            let bytes = self.disk.read(&FileName::Snapshot { group, number });
            let bytes = bytes.ok_or_else(|| "no such file".to_owned());
            let loaded = bytes.and_then(|bytes| -> Result<Loaded, String> {
                let mut reader = ChunkReader::new(id, self.config.hash_key);
                reader.feed(bytes).map_err(|error| error.to_string())?;
                reader.finish().map_err(|error| error.to_string())
            });
            (id, loaded)
        };
        wanted.into_iter().map(load).collect()
    }

    /// The directory is emptied, and the identity kept: what must never be done.
    fn forget_everything(&mut self) {
        let names: Vec<FileName> = self.disk.names().cloned().collect();
        names.iter().for_each(|name| self.disk.remove(name));
        self.disk.sync_directory();
        self.log_begun = false;
    }

    /// The directory notes that there is a log, before its first sync is reported.
    pub fn note_log_begun(&mut self) {
        self.log_begun = true;
    }

    /// Whether the node is out of service for good.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| process.node.status().lost.is_some())
    }
}

impl Process {
    /// A place for a new client.
    pub fn new_conn(&mut self) -> ConnId {
        let index = self.next_conn;
        self.next_conn += 1;
        ConnId {
            index,
            generation: 0,
        }
    }

    /// Puts something into the next turn. A sync comes somewhere between the other events.
    pub fn push(&mut self, input: Input, prng: &mut Prng) {
        match input {
            Input::Bytes(conn, bytes) if self.held.contains_key(&conn) => {
                self.held.get_mut(&conn).expect("just seen").extend(bytes);
            }
            Input::Synced(_) => {
                let at = prng.index(self.inbox.len() + 1);
                self.inbox.insert(at, input);
            }
            input => self.inbox.push(input),
        }
    }

    /// A tick is due; missed ones are one.
    pub fn tick(&mut self) {
        self.tick_due = true;
    }

    /// Stops reading a connection.
    pub fn hold(&mut self, conn: ConnId) {
        self.held.entry(conn).or_default();
    }

    /// Reads a connection again.
    pub fn release(&mut self, conn: ConnId) {
        if let Some(bytes) = self.held.remove(&conn).filter(|bytes| !bytes.is_empty()) {
            self.inbox.push(Input::Bytes(conn, bytes));
        }
    }

    /// Whether something waits for a turn.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.tick_due || !self.inbox.is_empty()
    }

    /// Hands over everything that is ready, and the end of the turn.
    pub fn turn(&mut self, effects: &mut Vec<Effect>) {
        for input in std::mem::take(&mut self.inbox) {
            let node = &mut self.node;
            match input {
                Input::Opened(conn) => {
                    node.step(
                        Event::Opened {
                            conn,
                            address: "10.0.0.1:1",
                        },
                        effects,
                    );
                }
                Input::Closed(conn) => node.step(Event::Closed { conn }, effects),
                Input::Bytes(conn, data) => {
                    node.step(Event::Bytes { conn, data: &data }, effects);
                }
                Input::Drained(conn) => node.step(Event::Drained { conn }, effects),
                Input::Peer(from, frame) => node.step(Event::Peer { from, frame }, effects),
                Input::PeerReset(peer) => node.step(Event::PeerReset { node: peer }, effects),
                Input::Synced(upto) => node.step(Event::Synced { upto }, effects),
                Input::SegmentReady(segment) => {
                    node.step(Event::SegmentReady { segment }, effects);
                }
                Input::SegmentRefused(segment) => {
                    node.step(Event::SegmentRefused { segment }, effects);
                }
                Input::SnapshotStored {
                    group,
                    number,
                    result,
                } => {
                    node.step(
                        Event::SnapshotStored {
                            group,
                            number,
                            result,
                        },
                        effects,
                    );
                }
                Input::Wall(wall) => node.step(Event::Wall(wall), effects),
                Input::Control(control) => node.step(Event::Control(control), effects),
            }
        }
        if std::mem::take(&mut self.tick_due) {
            self.node.step(Event::Tick, effects);
        }
        self.node.step(Event::EndOfTurn, effects);
    }
}
