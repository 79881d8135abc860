//! What a process asks of its disk, done as the real shell does it: a write, and a sync that comes back
//! later; segments made ahead; snapshots written in pieces, renamed and read back.

use std::rc::Rc;
use std::time::Duration;

use kvorum_base::{Bug, GroupId};
use kvorum_node::format::chunk::{ChunkReader, Loaded};
use kvorum_node::group::snapshot::SnapshotWriter;
use kvorum_node::log::Recovered;
use kvorum_node::start::Snapshots;
use kvorum_node::{BatchSeq, Config, SegmentId};

use super::{End, Host, Incoming, State, SyncedFrame};
use crate::cluster::coverage::Mark;
use crate::cluster::options::node_id;
use crate::disk::{Disk, FileName};
use crate::world::Time;

impl Host {
    /// Writes a frame of the log, as far as the page cache; its sync comes back later.
    pub(super) fn append(
        self: &Rc<Self>,
        state: &mut State,
        upto: BatchSeq,
        (segment, offset): (SegmentId, usize),
        frame: &[u8],
    ) {
        state.disk.write_segment(segment.0, offset, frame);
        let len = frame.len();
        let frame = SyncedFrame {
            segment,
            offset,
            len,
        };
        self.sync_later(state, upto, frame);
    }

    fn sync_later(self: &Rc<Self>, state: &mut State, upto: BatchSeq, frame: SyncedFrame) {
        let cluster = self.cluster();
        let now = cluster.world.now();
        let due = (now + state.disk.sync_time()).max(state.hangs_until);
        let (host, life) = (Rc::clone(self), state.lives);
        if let Some(end) = state.ambush.take() {
            self.strike_before(state, due, end);
        }
        cluster
            .world
            .after(due - now, move || host.sync(life, upto, frame));
    }

    /// Ends the process while a sync is under way, or just after it has come back.
    fn strike_before(self: &Rc<Self>, state: &mut State, due: Time, end: End) {
        let cluster = self.cluster();
        let around = (due - cluster.world.now()).as_micros() as u64 * 5 / 4;
        let moment = Duration::from_micros(state.prng.below(around + 1));
        let (host, life) = (Rc::clone(self), state.lives);
        cluster.world.after(moment, move || {
            if host.is_in_life(life) {
                let cluster = host.cluster();
                cluster.hit(Mark::Ambushes);
                host.end(end);
                cluster.rise_later(&host);
            }
        });
    }

    /// The sync that began earlier comes back, well or not.
    fn sync(self: &Rc<Self>, life: u64, upto: BatchSeq, frame: SyncedFrame) {
        let cluster = self.cluster();
        let now = cluster.world.now();
        let mut state = self.state.borrow_mut();
        let runs = state
            .process
            .as_ref()
            .is_some_and(|process| process.life == life);
        if !runs {
            return;
        }
        if state.hangs_until > now {
            let (host, again) = (Rc::clone(self), state.hangs_until - now);
            cluster
                .world
                .after(again, move || host.sync(life, upto, frame));
            return;
        }
        let result = state.disk.sync_segments();
        if result.is_err() {
            cluster.hit(Mark::FailedSyncs);
            cluster.trace(|| format!("node {}: a sync fails", node_id(self.index)));
            if !cluster.options.planted.has(Bug::SyncedAfterFailure) {
                drop(state);
                self.end(End::Killed);
                cluster.rise_later(self);
                return;
            }
        } else {
            state.synced.push_back(frame);
        }
        state.is_begun = true;
        drop(state);
        self.deliver(life, Incoming::Synced(upto));
    }

    pub(super) fn prepare_later(self: &Rc<Self>, state: &mut State, segment: SegmentId) {
        let cluster = self.cluster();
        let delay = Duration::from_micros(state.prng.range(100, 5_000));
        let (host, life) = (Rc::clone(self), state.lives);
        cluster.world.after(delay, move || {
            if !host.is_in_life(life) {
                return;
            }
            let made = {
                let mut state = host.state.borrow_mut();
                let is_there = state.disk.segments().any(|made| made == segment.0);
                is_there || state.disk.prepare_segment(segment.0).is_ok()
            };
            if made {
                host.deliver(life, Incoming::SegmentReady(segment));
            } else {
                host.cluster().hit(Mark::FullDisks);
                host.deliver(life, Incoming::SegmentRefused(segment));
            }
        });
    }

    /// Writes a snapshot file as the bulk thread does: pieces, sync, rename, sync of the directory,
    /// and a look whether it can be read.
    pub(super) fn store_snapshot(
        self: &Rc<Self>,
        state: &mut State,
        group: GroupId,
        number: u64,
        mut writer: Box<SnapshotWriter>,
    ) {
        let cluster = self.cluster();
        let world = cluster.world.clone();
        let (host, life) = (Rc::clone(self), state.lives);
        let mut prng = state.prng.fork();
        drop(cluster.world.spawn(async move {
            let mut bytes = Vec::new();
            while let Some(piece) = writer.next_piece() {
                bytes.extend_from_slice(&piece);
                world
                    .sleep(Duration::from_micros(prng.range(100, 3_000)))
                    .await;
                if !host.is_in_life(life) {
                    return;
                }
            }
            let names = (
                FileName::Unfinished {
                    group: group.get(),
                    number,
                },
                FileName::Snapshot {
                    group: group.get(),
                    number,
                },
            );
            for step in 0..4 {
                if host.snapshot_step(step, &names, &bytes).is_err() {
                    host.cluster().hit(Mark::FullDisks);
                    let full = Err("no room".to_owned());
                    host.deliver(life, Incoming::SnapshotStored(group, number, full));
                    return;
                }
                world
                    .sleep(Duration::from_micros(prng.range(50, 5_000)))
                    .await;
                if !host.is_in_life(life) {
                    return;
                }
            }
            let stored = Ok(bytes.len() as u64);
            host.deliver(life, Incoming::SnapshotStored(group, number, stored));
        }));
    }

    fn snapshot_step(
        &self,
        step: u32,
        (draft, name): &(FileName, FileName),
        bytes: &[u8],
    ) -> Result<(), ()> {
        let disk = &mut self.state.borrow_mut().disk;
        match step {
            0 => disk.write_file(draft.clone(), bytes).map_err(|_| ()),
            1 => disk.sync_file(draft).map_err(|_| ()),
            2 => {
                disk.rename(draft, name.clone());
                Ok(())
            }
            _ => {
                disk.sync_directory();
                assert_eq!(disk.read(name), Some(bytes), "a snapshot read back");
                Ok(())
            }
        }
    }
}

pub(super) fn read_snapshots(disk: &Disk, config: &Config, recovered: &Recovered) -> Snapshots {
    let mut snapshots = Snapshots::new();
    for (group, state) in &recovered.groups {
        let number = state.snapshot.number;
        if number == 0 {
            continue;
        }
        let name = FileName::Snapshot {
            group: group.get(),
            number,
        };
        let read = || -> Result<Loaded, String> {
            let bytes = disk.read(&name).ok_or("it is not there")?;
            let mut reader = ChunkReader::new(*group, config.hash_key);
            reader.feed(bytes).map_err(|error| error.to_string())?;
            reader.finish().map_err(|error| error.to_string())
        };
        snapshots.insert(*group, read());
    }
    snapshots
}
