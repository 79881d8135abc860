//! Shards and nodes come and go for two minutes, under clients of routers and clients of the cluster, while
//! the processes that matter most at the moment are killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvorum_base::Prng;
use kvorum_server::control::cluster::Picture;

use crate::load::{Load, Manner};
use crate::membership::join;
use crate::moves::{ctl, picture, wait_until_settled};
use crate::nodes::{Node, cluster_of};
use crate::process::{TempDir, kvorum, my_turn, wait_for};
use crate::resp::{Client, Reply, moved_to};
use crate::routers::Router;

/// How long it goes on.
const DURATION: Duration = Duration::from_secs(120);
/// Readers and writers.
const CLIENTS: usize = 32;
/// Between two operations of a client: many clients, and room for two processors to carry them out.
const PAUSE: Duration = Duration::from_millis(25);
/// Clients that append through sessions.
const SESSIONS: usize = 6;
/// Shards and nodes at the same time.
const SHARDS_MAX: usize = 5;
const NODES_MAX: usize = 5;
const LAST: u64 = 16383;

/// Clients that each append to a key of their own, through a session, and repeat what they are not sure of.
struct Sessions {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Sessions {
    fn start(ports: &[u16]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..SESSIONS).map(|number| {
            let (stop, ports) = (stop.clone(), ports.to_vec());
            std::thread::spawn(move || append_until(&stop, &ports, number))
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    /// Has them end, and looks whether each piece is there, once, and in order.
    fn judge(self, port: u16) {
        self.stop.store(true, Ordering::Relaxed);
        for (number, thread) in self.threads.into_iter().enumerate() {
            let count = thread.join().expect("a client that does not panic");
            let expected: String = (1..=count).map(|piece| format!("{piece} ")).collect();
            let found = persistently(&[port], 0, &["GET", &key_of(number)]);
            assert_eq!(found, Reply::Bulk(Some(expected)), "of session {number}");
            assert!(count > 0, "session {number} got nothing done");
        }
    }
}

fn key_of(session: usize) -> String {
    format!("session-{session}")
}

/// Appends until it is told to stop; how many pieces.
fn append_until(stop: &AtomicBool, ports: &[u16], number: usize) -> u64 {
    let Reply::Bulk(Some(token)) = persistently(ports, number, &["KVORUM.SESSION"]) else {
        panic!("no session");
    };
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let (seq, piece) = (count.to_string(), format!("{count} "));
        let key = key_of(number);
        let words = ["KVORUM.ONCE", &token, &seq, "APPEND", &key, &piece];
        let reply = persistently(ports, number + count as usize, &words);
        assert!(matches!(reply, Reply::Integer(_)), "{reply:?}");
        std::thread::sleep(PAUSE);
    }
    count
}

/// Asks until there is an answer that is no error, whatever that takes: of what may be repeated.
fn persistently(ports: &[u16], first: usize, words: &[&str]) -> Reply {
    let mut at = first;
    let mut named = None;
    wait_for("an answer of a session", || {
        let port = named.take().unwrap_or(ports[at % ports.len()]);
        at += 1;
        match Client::connect(port).and_then(|mut client| client.ask(words)) {
            Ok(Reply::Error(text)) => {
                assert!(!text.starts_with("SESSIONEXPIRED"), "{text}");
                assert!(!text.starts_with("ERR"), "{text}");
                named = moved_to(&text);
                None
            }
            Ok(reply) => Some(reply),
            Err(_) => None,
        }
    })
}

/// A cluster in which nothing stays as it is.
struct Churn {
    dir: TempDir,
    nodes: Vec<Node>,
    routers: Vec<Router>,
    prng: Prng,
    /// The node that is on its way out: its id.
    draining: Option<u64>,
    /// The shards of the last move that was ordered: where the first slot was, and where it goes.
    moving: Option<(u64, u64)>,
    joined: usize,
    /// What was done, by its name.
    done: BTreeMap<&'static str, u64>,
}

impl Churn {
    fn picture(&self) -> Picture {
        wait_for("a picture", || self.nodes.iter().find_map(picture))
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Gives an order, which may be refused: much has changed since the picture that it is based on.
    fn order(&mut self, what: &'static str, words: &[&str]) -> bool {
        let words = ctl(&self.nodes, words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = kvorum(&words).output().expect("it runs");
        if output.status.success() {
            self.count(what);
        } else {
            println!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        output.status.success()
    }

    fn change_something(&mut self) {
        let picture = self.picture();
        let serving: Vec<_> = picture
            .shards
            .iter()
            .filter(|shard| shard.state == "serving")
            .collect();
        let present = picture
            .nodes
            .iter()
            .filter(|node| node.state == "in")
            .count();
        match self.prng.below(7) {
            0 if serving.len() < SHARDS_MAX => {
                self.order("shards added", &["shards", "add"]);
            }
            1 if serving.len() > 2 => {
                let at = self.prng.index(serving.len());
                let name = serving[at].name.clone();
                self.order("shards removed", &["shards", "remove", &name]);
            }
            2 if self.nodes.len() < NODES_MAX => {
                self.joined += 1;
                let name = format!("joined-{}", self.joined);
                let node = join(&self.dir, &self.nodes, &name, &[]);
                self.nodes.push(node);
                self.count("nodes joined");
            }
            3 if present > 3 && self.draining.is_none() => self.drain_one(&picture),
            _ if serving.is_empty() => {}
            _ => {
                let first = self.prng.below(LAST);
                let last = (first + self.prng.below(LAST / 4)).min(LAST);
                let to = &serving[self.prng.index(serving.len())];
                let (slots, name) = (format!("{first}-{last}"), to.name.clone());
                let covers =
                    |run: &(u16, u16)| (u64::from(run.0)..=u64::from(run.1)).contains(&first);
                let from = picture
                    .shards
                    .iter()
                    .find(|shard| shard.runs.iter().any(covers));
                self.moving = from.map(|from| (from.shard, to.shard));
                self.order("moves ordered", &["shards", "move", &slots, &name]);
            }
        }
        self.end_drain();
    }

    fn drain_one(&mut self, picture: &Picture) {
        let present: Vec<u64> = picture
            .nodes
            .iter()
            .filter(|node| node.state == "in")
            .map(|node| node.node)
            .collect();
        let node = present[self.prng.index(present.len())];
        if self.order("nodes drained", &["nodes", "drain", &node.to_string()]) {
            self.draining = Some(node);
        }
    }

    /// A drained node that has nothing any more is removed, and its process ended in good order.
    fn end_drain(&mut self) {
        let picture = self.picture();
        let Some(node) = self.draining else { return };
        let Some(row) = picture
            .nodes
            .iter()
            .find(|row| row.node == node && row.replicas == 0)
        else {
            return;
        };
        let at = self
            .nodes
            .iter()
            .position(|node| node.http() == row.http)
            .expect("one of ours");
        let mut leaving = self.nodes.remove(at);
        if self.order("nodes removed", &["nodes", "remove", &node.to_string()]) {
            leaving.signal("-TERM");
            assert!(leaving.end().success());
            self.draining = None;
        } else {
            self.nodes.insert(at, leaving);
        }
    }

    /// Which node is the primary of this group.
    fn primary(&self, group: u64) -> Option<usize> {
        let leads = |node: &Node| {
            let status = node.status().and_then(|status| status.status);
            status.is_some_and(|status| {
                let mut groups = status.groups.iter().chain(&status.manager);
                groups.any(|found| found.group == group && found.role == "leader")
            })
        };
        self.nodes.iter().position(leads)
    }

    fn kill_something(&mut self, load: &Load) {
        let (what, group) = match (self.prng.below(4), self.moving) {
            (0, _) => {
                let at = self.prng.index(self.routers.len());
                self.routers[at].kill_and_restart(&self.nodes);
                return self.count("routers killed");
            }
            (1, Some((from, _))) => ("primaries of a source killed", from),
            (2, Some((_, to))) => ("primaries of a target killed", to),
            _ => ("primaries of the manager killed", 0),
        };
        let Some(at) = self.primary(group) else {
            return;
        };
        self.nodes[at].kill();
        load.wait_for_more(40);
        self.nodes[at].restart();
        self.count(what);
    }
}

/// What has to have happened, each at least once.
const DEEDS: [&str; 9] = [
    "shards added",
    "shards removed",
    "nodes joined",
    "nodes drained",
    "moves ordered",
    "routers killed",
    "primaries of a source killed",
    "primaries of a target killed",
    "primaries of the manager killed",
];

#[test]
fn nothing_is_lost_while_shards_and_nodes_come_and_go_and_processes_are_killed() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster_of(&dir, 3, 3, |_| Vec::new(), &[]);
    let routers = vec![
        Router::start(&dir, &nodes, &[]),
        Router::start(&dir, &nodes[1..], &[]),
    ];
    let mut ports: Vec<u16> = routers.iter().map(|router| router.port).collect();
    ports.extend(nodes.iter().map(|node| node.port));
    let mut churn = Churn {
        dir,
        nodes,
        routers,
        prng: Prng::new(2025),
        draining: None,
        moving: None,
        joined: 0,
        done: DEEDS.iter().map(|deed| (*deed, 0)).collect(),
    };
    let manner = Manner {
        clients: CLIENTS,
        pause: PAUSE,
        ..Manner::default()
    };
    let load = Load::start(&ports, &[manner]);
    let sessions = Sessions::start(&ports);
    let begin = Instant::now();
    while begin.elapsed() < DURATION || churn.done.values().any(|count| *count == 0) {
        assert!(
            begin.elapsed() < 5 * DURATION,
            "not all came to pass: {:?}",
            churn.done
        );
        churn.change_something();
        load.wait_for_more(60);
        if churn.prng.chance(1, 2) {
            churn.kill_something(&load);
        }
        load.wait_for_more(60);
    }
    println!("{:?}", churn.done);
    wait_until_settled(&churn.nodes);
    let told = load.finish();
    let alive: Vec<u16> = churn.routers.iter().map(|router| router.port).collect();
    assert!(
        told.unknown() > 0,
        "kills leave some outcomes open: {told:?}"
    );
    sessions.judge(alive[0]);
    told.judge(&alive);
}
