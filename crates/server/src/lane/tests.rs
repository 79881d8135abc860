//! The shape of the loop, counted. The clients are on the same thread as the lane: they write while it
//! stands still, so that what is ready together does not depend on how threads are scheduled.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};

use kvorum_node::log::LogOptions;

use super::*;
use crate::clients::accept::bind;
use crate::config::{NodeOptions, SyncMode};
use crate::disk::bulk::SNAPSHOT_DIR;
use crate::disk::faults::Faults;
use crate::disk::segments::SegmentFiles;
use crate::disk::{DiskOptions, startup};
use crate::identity::{Manifest, Plan, Shape};
use crate::mail::Mailbox;
use crate::testing::TempDir;
use kvorum_secret::Secret;

const PATIENCE: Duration = Duration::from_secs(20);
/// The first connection of a lane.
const FIRST: ConnId = ConnId {
    index: 0,
    generation: 1,
};

struct Rig {
    runtime: LocalRuntime,
    lane: Rc<Lane>,
    address: SocketAddr,
    dir: TempDir,
}

/// The name of the file that says what goes wrong with the disk.
const FAULTS: &str = "faults";

fn rig(max_clients: u32) -> Rig {
    rig_in(TempDir::new("lane"), max_clients, 1 << 20)
}

fn rig_in(dir: TempDir, max_clients: u32, segment_bytes: u32) -> Rig {
    let runtime = runtime().expect("a runtime");
    let mail_wake = Arc::new(Notify::new());
    let (mailbox, mail) = Mailbox::new(mail_wake.clone());
    let metrics = Arc::new(Metrics::default());
    let options = NodeOptions {
        dir: Some(dir.path().to_owned()),
        ..NodeOptions::default()
    };
    let settings = options.settle().expect("settings");
    let shape = Shape {
        shards: 1,
        replicas: 1,
    };
    let plan = Plan::draw(vec![settings.advertised.clone()], shape);
    let manifest = Manifest::prepared(1, plan, &Secret::new([1; 32]));
    let log = LogOptions {
        salt: manifest.log_salt,
        ..LogOptions::small(segment_bytes)
    };
    let faults = Faults::with_file(dir.path().join(FAULTS));
    let bytes = u64::from(log.segment_bytes);
    let files = SegmentFiles::open(dir.path(), 0, bytes, faults.clone()).expect("files");
    let snapshots = dir.path().join(SNAPSHOT_DIR);
    let started = startup::start(&settings, &manifest, log, &files, &snapshots).expect("a core");
    let options = DiskOptions {
        sync: SyncMode::Auto,
        snapshot_bandwidth: 1 << 30,
        faults,
    };
    let disk = Disk::start(files, &snapshots, options, metrics.clone(), &mailbox).expect("a disk");
    let any = || bind(SocketAddr::from(([127, 0, 0, 1], 0)), "listen").expect("a port");
    let clients = any();
    let address = clients.address;
    let parts = Parts {
        started,
        disk,
        mail,
        mail_wake,
        metrics,
        clients,
        replicas: any(),
        peers: any(),
        max_clients,
        identity: Identity {
            cluster: manifest.cluster(),
            node: NodeId(1),
            secret: manifest.secret(),
        },
        members: manifest.peers(),
        publish: Box::new(|_| {}),
        managed: Box::new(|_, _| ()),
        first_sync: None,
    };
    let lane = runtime
        .block_on(async { Lane::start(parts) })
        .expect("a lane");
    let driver = lane.clone();
    runtime.spawn_local(async move { driver.drive().await });
    Rig {
        runtime,
        lane,
        address,
        dir,
    }
}

impl Rig {
    /// Lets the lane run until this holds.
    fn run_until(&self, what: &str, done: impl Fn(&Metrics) -> bool) {
        let begin = Instant::now();
        while !done(&self.lane.metrics) {
            assert!(begin.elapsed() < PATIENCE, "waited for: {what}");
            self.runtime.block_on(tokio::task::yield_now());
        }
    }

    fn connect(&self, count: usize) -> Vec<StdStream> {
        let clients: Vec<StdStream> = (0..count)
            .map(|_| StdStream::connect(self.address).expect("connected"))
            .collect();
        for client in &clients {
            client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        }
        self.run_until("all accepted", |metrics| {
            metrics.clients_open.get() == count as u64
        });
        clients
    }
}

#[test]
fn one_turn_carries_what_all_clients_sent() {
    const CLIENTS: usize = 500;
    const ROUNDS: u64 = 20;
    let rig = rig(10_000);
    let mut clients = rig.connect(CLIENTS);
    let metrics = rig.lane.metrics.clone();
    let (turns, reads) = (metrics.turns.get(), metrics.client_reads.get());
    for round in 1..=ROUNDS {
        for client in &mut clients {
            client.write_all(b"PING\r\n").expect("sent");
        }
        let wanted = 7 * CLIENTS as u64 * round;
        rig.run_until("all answered", |metrics| {
            metrics.client_bytes_out.get() == wanted
        });
        for client in &mut clients {
            let mut reply = [0; 7];
            client.read_exact(&mut reply).expect("a reply");
            assert_eq!(&reply, b"+PONG\r\n");
        }
    }
    let requests = CLIENTS as u64 * ROUNDS;
    let turns = metrics.turns.get() - turns;
    let reads = metrics.client_reads.get() - reads;
    assert_eq!(reads, requests, "one read delivers one small request");
    assert!(
        turns <= requests / 20,
        "{turns} turns for {requests} requests"
    );
}

#[test]
fn a_pipeline_is_one_read_and_one_write() {
    let rig = rig(10);
    let mut clients = rig.connect(1);
    let reads = rig.lane.metrics.client_reads.get();
    clients[0]
        .write_all(&b"PING\r\n".repeat(1000))
        .expect("sent");
    rig.run_until("answered", |metrics| metrics.client_bytes_out.get() == 7000);
    assert_eq!(rig.lane.metrics.client_reads.get() - reads, 1);
}

/// A process that was stopped for a while must not live through all the ticks that it missed: it would
/// stand for election before it had read what its peers sent meanwhile.
#[test]
fn missed_ticks_are_one_tick() {
    let rig = rig(10);
    let uptime = || rig.lane.core().node.status().uptime_ms;
    rig.run_until("a tick", |_| uptime() > 0);
    let before = uptime();
    let turns = rig.lane.metrics.turns.get();
    std::thread::sleep(20 * TICK);
    rig.run_until("a turn", |metrics| metrics.turns.get() > turns);
    assert!(
        uptime() - before <= 2 * TICK.as_millis() as u64,
        "{} ms",
        uptime() - before
    );
}

/// Much becomes committed by one sync and is applied over many turns. Between them the sockets are read and
/// ticks come: a primary that is silent for so long is voted out.
#[test]
fn a_long_apply_leaves_room_for_everything_else() {
    const SETS: usize = 14;
    const VALUE: usize = 1 << 20;
    let rig = rig_in(TempDir::new("lane"), 10, 32 << 20);
    let mut clients = rig.connect(1);
    let mut client = clients.remove(0);
    client.write_all(b"SET a 1\r\n").expect("sent");
    rig.run_until("the first", |metrics| metrics.client_bytes_out.get() == 5);
    std::fs::write(rig.dir.path().join(FAULTS), "sync-hang").expect("written");
    let writer = std::thread::spawn(move || {
        let value = "v".repeat(VALUE);
        let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE}\r\n{value}\r\n");
        client
            .write_all(&set.as_bytes().repeat(SETS))
            .expect("sent");
        client
    });
    rig.run_until("all read", |metrics| {
        metrics.client_bytes_in.get() > (SETS * VALUE) as u64
    });
    let _client = writer.join().expect("written");
    std::fs::write(rig.dir.path().join(FAULTS), "").expect("written");
    let mut pauses = 0;
    let out = 5 * (SETS as u64 + 1);
    while rig.lane.metrics.client_bytes_out.get() < out {
        rig.runtime.block_on(tokio::task::yield_now());
        let group = rig.lane.core().node.status().groups.remove(0);
        pauses += u32::from(group.applied < group.commit);
    }
    assert!(pauses >= 2, "the lane paused {pauses} times");
}

#[test]
fn a_stale_snapshot_goes_once_the_log_has_started() {
    let dir = TempDir::new("lane");
    let snapshots = dir.path().join(SNAPSHOT_DIR);
    std::fs::create_dir(&snapshots).expect("made");
    let stale = snapshots.join("group-1-snapshot-7");
    std::fs::write(&stale, b"state").expect("written");
    std::fs::write(dir.path().join(FAULTS), "sync-hang").expect("written");
    let rig = rig_in(dir, 10, 1 << 20);
    let turns = rig.lane.metrics.turns.get();
    rig.run_until("some ticks", |metrics| metrics.turns.get() > turns + 5);
    assert!(stale.exists(), "nothing is synced yet");
    std::fs::write(rig.dir.path().join(FAULTS), "").expect("written");
    rig.run_until("its end", |_| !stale.exists());
}

#[test]
fn a_client_too_many_is_told() {
    let rig = rig(2);
    let _clients = rig.connect(2);
    let mut third = StdStream::connect(rig.address).expect("connected");
    rig.run_until("refused", |metrics| metrics.clients_refused.get() == 1);
    let mut reply = String::new();
    third.read_to_string(&mut reply).expect("a reply");
    assert_eq!(reply, "-ERR max number of clients reached\r\n");
}

#[test]
fn a_place_is_used_again_under_another_generation() {
    let rig = rig(10);
    let clients = rig.connect(1);
    drop(clients);
    rig.run_until("closed", |metrics| metrics.clients_open.get() == 0);
    let _again = rig.connect(1);
    assert!(rig.lane.core().clients.get(FIRST).is_none());
    let fresh = ConnId {
        index: 0,
        generation: 2,
    };
    assert!(rig.lane.core().clients.get(fresh).is_some());
}

/// A client that does not read fills its socket, then its output; then it is not read any more. When it
/// reads again it gets everything.
#[test]
fn a_blocked_client_gets_everything_later() {
    const PINGS: usize = 2_000_000;
    let (asked, answered) = (6 * PINGS as u64, 7 * PINGS as u64);
    let rig = rig(10);
    let mut client = rig.connect(1).remove(0);
    let writer = {
        let mut client = client.try_clone().expect("a clone");
        std::thread::spawn(move || client.write_all(&b"PING\r\n".repeat(PINGS)).expect("sent"))
    };
    let full = |metrics: &Metrics| metrics.client_bytes_in.get() > 1 << 20;
    rig.run_until("the first megabyte", full);
    let paused = |core: &mut Core| core.clients.get(FIRST).is_some_and(|client| client.paused);
    rig.run_until("a pause", |_| paused(&mut rig.lane.core()));
    assert!(
        rig.lane.metrics.client_bytes_in.get() < asked,
        "not read while nothing can be written"
    );
    let reader = std::thread::spawn(move || {
        let mut replies = vec![0; 7 * PINGS];
        client.read_exact(&mut replies).expect("all replies");
        assert!(replies.chunks(7).all(|reply| reply == b"+PONG\r\n"));
    });
    rig.run_until("all written", |metrics| {
        metrics.client_bytes_out.get() == answered
    });
    writer.join().expect("written");
    reader.join().expect("read");
}

/// In one turn a client asks for more than may wait for it, so the core decides on a pause; then the socket
/// takes everything at once. The pause must end all the same.
#[test]
fn a_pause_ends_also_if_nothing_was_blocked() {
    const VALUE: usize = 60_000;
    const GETS: usize = 40;
    let rig = rig(10);
    let mut client = rig.connect(1).remove(0);
    let set = format!(
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${VALUE}\r\n{}\r\n",
        "v".repeat(VALUE)
    );
    client.write_all(set.as_bytes()).expect("sent");
    rig.run_until("stored", |metrics| metrics.client_bytes_out.get() == 5);
    client.read_exact(&mut [0; 5]).expect("an OK");
    let reply = (VALUE + "$60000\r\n\r\n".len()) as u64;
    for round in 1..=20 {
        client.write_all(&b"GET k\r\n".repeat(GETS)).expect("sent");
        let mut reader = client.try_clone().expect("a clone");
        let reading = std::thread::spawn(move || {
            let mut replies = vec![0; GETS * reply as usize];
            reader.read_exact(&mut replies).expect("all replies");
        });
        let wanted = 5 + round * GETS as u64 * reply;
        rig.run_until("all answered", |metrics| {
            metrics.client_bytes_out.get() >= wanted
        });
        reading.join().expect("read");
    }
}
