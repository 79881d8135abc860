//! A turn of a process: what waits is taken in, and what the node asks for is carried out.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvorum_base::{ConnId, GroupId, NodeId, UnixMillis};
use kvorum_node::format::peer::{self, PeerMessage};
use kvorum_node::{Effect, Event, SegmentId, StopReason};

use super::{End, Host, Incoming, Process, State, WALL_EVERY};
use crate::cluster::Cluster;
use crate::cluster::client::Connection;
use crate::cluster::coverage::Mark;
use crate::cluster::options::{Danger, WALL_START_MS, node_id};
use crate::disk::FileName;
use crate::world::{Time, ms};

impl Host {
    pub(super) fn schedule_turn(self: &Rc<Self>, state: &mut State) {
        let cluster = self.cluster();
        let State { process, prng, .. } = state;
        let Some(process) = process else { return };
        if process.is_paused || process.is_turn_due {
            return;
        }
        process.is_turn_due = true;
        let life = process.life;
        let delay = prng.below(cluster.options.turn_delay_max.as_micros() as u64 + 1);
        let host = Rc::clone(self);
        cluster
            .world
            .after(Duration::from_micros(delay), move || host.turn(life));
    }

    /// Takes in what waits, and carries out what the node asks for.
    fn turn(self: &Rc<Self>, life: u64) {
        let cluster = self.cluster();
        let mut state = self.state.borrow_mut();
        let wall = self.wall(&state, cluster.world.now());
        let State { process, disk, .. } = &mut *state;
        let Some(process) = process.as_mut().filter(|process| process.life == life) else {
            return;
        };
        process.is_turn_due = false;
        if process.is_paused {
            return;
        }
        let mut effects = Vec::new();
        for incoming in std::mem::take(&mut process.inbox) {
            process.take_in(incoming, wall, &mut effects);
        }
        process.node.step(Event::EndOfTurn, &mut effects);
        let reads_before = process.counted.reads;
        let counters = *process.node.counters();
        cluster.count(&process.counted, &counters);
        if counters.snapshots_unreadable + counters.moves_broken > 0 {
            // Frames arrive late, twice or not at all, but never changed.
            let text = format!("node {} was sent a mixture", node_id(self.index));
            cluster.fail("snapshot-transfer", text);
        }
        let has_installed = counters.snapshots_installed > process.counted.snapshots_installed;
        process.counted = counters;
        let mut judge = cluster.judge.borrow_mut();
        let seen = judge.observe(
            self.index,
            &process.node,
            counters.reads > reads_before,
            cluster.world.now(),
        );
        drop(judge);
        cluster.saw(seen);
        self.remember(process, &cluster);
        let node = &process.node;
        let has_state = |group| {
            let replica = node.inspect(GroupId(group));
            replica.is_none_or(|replica| replica.state.is_some())
        };
        let is_flipped_there = |flipped: &FileName| match flipped {
            FileName::Snapshot { group, .. } => !has_state(*group) || disk.read(flipped).is_some(),
            _ => false,
        };
        if self
            .awaits_repair
            .borrow_mut()
            .take_if(|flipped| !is_flipped_there(flipped))
            .is_some()
        {
            cluster.hit(Mark::Repairs);
        }
        if has_installed && cluster.options.has(Danger::Kill) && state.prng.chance(1, 3) {
            // Between the old log and the new one.
            state.ambush = Some(End::Killed);
        }
        let is_over = self.carry_out(&mut state, effects, &cluster);
        drop(state);
        if is_over {
            self.end(End::Killed);
            cluster.rise_later(self);
        }
    }

    /// Writes down what the node knows of its cluster, if that has changed; it is there a while later.
    fn remember(self: &Rc<Self>, process: &mut Process, cluster: &Cluster) {
        let known = process.node.cluster().filter(|_| cluster.options.seats());
        let Some(known) = known.filter(|known| known.epoch() > process.written) else {
            return;
        };
        process.written = known.epoch();
        let (host, life, known) = (Rc::clone(self), process.life, Arc::clone(known));
        let delay = ms(1 + cluster.world.below(100));
        cluster.world.after(delay, move || {
            if host.is_in_life(life) {
                host.state.borrow_mut().remembered = Some(known);
            }
        });
    }

    fn wall(&self, state: &State, now: Time) -> UnixMillis {
        let wall = WALL_START_MS + now.as_millis();
        UnixMillis(wall.saturating_add_signed(state.wall_offset_ms))
    }

    /// Ticks and looks at the wall clock for one life.
    pub(super) fn keep_time(self: &Rc<Self>, life: u64) {
        let cluster = self.cluster();
        let tick = ms(cluster.options.tick_ms);
        let world = cluster.world.clone();
        let host = Rc::clone(self);
        drop(cluster.world.spawn(async move {
            let mut next_wall = world.now() + WALL_EVERY;
            loop {
                world.sleep(tick).await;
                if !host.is_in_life(life) {
                    return;
                }
                if world.now() >= next_wall {
                    next_wall = next_wall + WALL_EVERY;
                    host.deliver(life, Incoming::Wall);
                }
                host.deliver(life, Incoming::Tick);
            }
        }));
    }

    pub(super) fn is_in_life(&self, life: u64) -> bool {
        let state = self.state.borrow();
        state
            .process
            .as_ref()
            .is_some_and(|process| process.life == life)
    }

    /// Carries out effects in order; true if the process ends by its own will.
    pub(super) fn carry_out(
        self: &Rc<Self>,
        state: &mut State,
        effects: Vec<Effect>,
        cluster: &Rc<Cluster>,
    ) -> bool {
        for effect in effects {
            match effect {
                Effect::Append {
                    segment,
                    offset,
                    upto,
                    frame,
                } => self.append(state, upto, (segment, offset as usize), &frame),
                Effect::PrepareSegment { segment } => self.prepare_later(state, segment),
                Effect::FreeSegment { segment } => {
                    cluster.hit(Mark::Recycled);
                    state.free_segment(segment);
                }
                Effect::Send { to, frame, .. } => self.send(state, to, &frame),
                Effect::Output(conn) => state.write_out(conn),
                Effect::Close(conn) => {
                    state.write_out(conn);
                    state.running().hang_up(conn);
                }
                Effect::Pause(conn) => state.running().unread.stop(conn),
                Effect::Resume(conn) => {
                    state.running().read_on(conn);
                    self.schedule_turn(state);
                }
                Effect::StoreSnapshot {
                    group,
                    number,
                    writer,
                } => self.store_snapshot(state, group, number, writer),
                Effect::DropSnapshot { group, number } => {
                    let group = group.get();
                    state.disk.remove(&FileName::Snapshot { group, number });
                }
                // Every machine can be reached by its number.
                Effect::Peers(_) => {}
                Effect::Again | Effect::Continue => self.schedule_turn(state),
                Effect::Managed { token, answer } => cluster.managed(token, *answer),
                Effect::Note(note) => {
                    cluster.trace(|| format!("node {}: {}", node_id(self.index), note.text));
                }
                Effect::Stop(reason) => {
                    self.note_stop(&reason);
                    return true;
                }
            }
        }
        false
    }

    fn note_stop(&self, reason: &StopReason) {
        let cluster = self.cluster();
        match reason {
            StopReason::Shutdown => cluster.hit(Mark::Shutdowns),
            StopReason::Broken(text) => cluster.fail(
                "no-broken-node",
                format!("node {} stops: {text}", node_id(self.index)),
            ),
        }
    }

    fn send(&self, state: &State, to: NodeId, pieces: &[Bytes]) {
        let cluster = self.cluster();
        let frame = Bytes::from(pieces.concat());
        let (_, messages) = peer::decode(&frame.slice(peer::PREFIX_BYTES..))
            .expect("a node's own frame can be read");
        cluster.judge.borrow_mut().said(&messages);
        if state.is_lost {
            self.check_silence(&messages);
        }
        cluster.send(self.index, to, &frame);
    }

    /// A node that lost its promises may say so, and nothing else.
    fn check_silence(&self, messages: &[PeerMessage]) {
        let is_harmless =
            |message: &PeerMessage| matches!(message, PeerMessage::Lost | PeerMessage::Gone { .. });
        if let Some(message) = messages.iter().find(|message| !is_harmless(message)) {
            self.cluster().fail(
                "silence",
                format!(
                    "node {} lost its promises and says {message:?}",
                    node_id(self.index)
                ),
            );
        }
    }
}

impl State {
    fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    fn free_segment(&mut self, segment: SegmentId) {
        self.disk.free_segment(segment.0);
        self.synced.retain(|frame| frame.segment != segment);
    }

    /// Takes what is to be written to a connection, sometimes not all at once.
    fn write_out(&mut self, conn: ConnId) {
        let Some(process) = &mut self.process else {
            return;
        };
        let Some(output) = process.node.output(conn) else {
            return;
        };
        let bytes = output.to_vec();
        output.advance(bytes.len());
        if let Some(connection) = process.connections.get(&conn) {
            connection.answered(bytes);
        }
        if self.prng.chance(1, 20) {
            process.inbox.push_back(Incoming::Drained(conn));
        }
    }
}

impl Process {
    fn take_in(&mut self, incoming: Incoming, wall: UnixMillis, effects: &mut Vec<Effect>) {
        let event = match incoming {
            Incoming::Opened(conn, door) => Event::Opened {
                conn,
                address: "127.0.0.1:1",
                door,
            },
            Incoming::Closed(conn) => {
                if self.close(conn).is_none() {
                    return;
                }
                Event::Closed { conn }
            }
            Incoming::Bytes(conn, data) => {
                if !self.connections.contains_key(&conn) {
                    return;
                }
                let Some(data) = self.unread.arrived(conn, data) else {
                    return;
                };
                return self.node.step(Event::Bytes { conn, data: &data }, effects);
            }
            Incoming::Drained(conn) => Event::Drained { conn },
            Incoming::Peer { from, frame } => Event::Peer { from, frame },
            Incoming::PeerReset(node) => Event::PeerReset { node },
            Incoming::Synced(upto) => Event::Synced { upto },
            Incoming::SegmentReady(segment) => Event::SegmentReady { segment },
            Incoming::SegmentRefused(segment) => Event::SegmentRefused { segment },
            Incoming::SnapshotStored(group, number, result) => Event::SnapshotStored {
                group,
                number,
                result,
            },
            Incoming::Tick => Event::Tick,
            Incoming::Wall => Event::Wall(wall),
            Incoming::Control(control) => Event::Control(control),
        };
        self.node.step(event, effects);
    }

    /// The node closes a connection.
    fn hang_up(&mut self, conn: ConnId) {
        if let Some(connection) = self.close(conn) {
            connection.broken_by_server();
        }
    }

    /// What came for this connection meanwhile is taken in.
    fn read_on(&mut self, conn: ConnId) {
        for bytes in self.unread.take(conn) {
            self.inbox.push_back(Incoming::Bytes(conn, bytes));
        }
    }

    /// Forgets a connection; its place is used again under the next generation.
    fn close(&mut self, conn: ConnId) -> Option<Rc<Connection>> {
        let connection = self.connections.remove(&conn)?;
        self.unread.take(conn);
        self.free.push(ConnId {
            generation: conn.generation + 1,
            ..conn
        });
        Some(connection)
    }
}
