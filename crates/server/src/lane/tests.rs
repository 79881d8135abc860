//! The shape of the loop, counted. The clients are on the same thread as the lane: they write while it
//! stands still, so that what is ready together does not depend on how threads are scheduled.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};

use kvorum_base::ClusterId;

use super::*;
use crate::clients::accept::bind;
use crate::config::SyncMode;
use crate::disk::DiskOptions;
use crate::disk::bulk::SNAPSHOT_DIR;
use crate::disk::faults::Faults;
use crate::disk::segments::SegmentFiles;
use crate::mail::Mailbox;
use crate::secret::Secret;
use crate::testing::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

struct Rig {
    runtime: LocalRuntime,
    lane: Rc<Lane>,
    address: SocketAddr,
    _dir: TempDir,
}

fn rig(max_clients: u32) -> Rig {
    let dir = TempDir::new("lane");
    let runtime = runtime().expect("a runtime");
    let wake = Arc::new(Notify::new());
    let (mailbox, mail) = Mailbox::new(wake.clone());
    let metrics = Arc::new(Metrics::default());
    let files = SegmentFiles::open(dir.path(), 0, 4096, Faults::default()).expect("files");
    let options = DiskOptions {
        sync: SyncMode::Auto,
        snapshot_bandwidth: 1 << 30,
        faults: Faults::default(),
    };
    let snapshots = dir.path().join(SNAPSHOT_DIR);
    let disk = Disk::start(files, &snapshots, options, metrics.clone(), &mailbox).expect("a disk");
    let any = || bind(SocketAddr::from(([127, 0, 0, 1], 0)), "listen").expect("a port");
    let clients = any();
    let address = clients.address;
    let parts = Parts {
        node: Node::default(),
        disk,
        mail,
        wake,
        metrics,
        clients,
        peers: any(),
        max_clients,
        identity: Identity {
            cluster: ClusterId(1),
            node: NodeId(1),
            secret: Secret::new([1; 32]),
        },
        members: Vec::new(),
        publish: Box::new(|_| {}),
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
        _dir: dir,
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
    let stale = ConnId {
        index: 0,
        generation: 1,
    };
    assert!(rig.lane.core().clients.get(stale).is_none());
    let fresh = ConnId {
        index: 0,
        generation: 2,
    };
    assert!(rig.lane.core().clients.get(fresh).is_some());
}

/// A client that does not read fills its socket; the rest is written by a task when it reads again.
#[test]
fn a_blocked_client_gets_everything_later() {
    const PINGS: usize = 2_000_000;
    let rig = rig(10);
    let mut client = rig.connect(1).remove(0);
    let writer = {
        let mut client = client.try_clone().expect("a clone");
        std::thread::spawn(move || client.write_all(&b"PING\r\n".repeat(PINGS)).expect("sent"))
    };
    let wanted = 6 * PINGS as u64;
    rig.run_until("all read", |metrics| {
        metrics.client_bytes_in.get() == wanted
    });
    writer.join().expect("written");
    let written = rig.lane.metrics.client_bytes_out.get();
    assert!(
        written < 7 * PINGS as u64,
        "the client's buffer took {written} bytes"
    );
    let reader = std::thread::spawn(move || {
        let mut replies = vec![0; 7 * PINGS];
        client.read_exact(&mut replies).expect("all replies");
        assert!(replies.chunks(7).all(|reply| reply == b"+PONG\r\n"));
    });
    rig.run_until("all written", |metrics| {
        metrics.client_bytes_out.get() == 7 * PINGS as u64
    });
    reader.join().expect("read");
}
