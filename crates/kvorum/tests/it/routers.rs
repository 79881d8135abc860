//! Routers in front of real nodes: clients that know of no cluster, while primaries are killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use kvorum_server::control::client::get;
use kvorum_server::router::http::RouterReport;

use crate::clients::{converse_and_kill, ignored, node_js, python, redis_cli, run};
use crate::crowd::everything_is_answered_after_the_end;
use crate::load::{Load, Manner};
use crate::nodes::{Node, cluster, cluster_with, primary, signal, wait_for_one_state};
use crate::process::{Running, TempDir, free_port, kvorum, my_turn, refused, wait_for};
use crate::resp::{Client, Reply, bulk, ok};

/// A router, and what it logged.
pub(crate) struct Router {
    pub(crate) port: u16,
    log: PathBuf,
    running: Running,
}

impl Router {
    /// Starts one in front of these nodes and waits until it reaches them.
    pub(crate) fn start(dir: &TempDir, nodes: &[Node], more: &[&str]) -> Self {
        let port = free_port(1);
        let log = dir.path().join(format!("router-{port}.log"));
        let running = Self::spawn(port, nodes, more, &log);
        let router = Self { port, log, running };
        router.wait_until_ready();
        router
    }

    fn spawn(port: u16, nodes: &[Node], more: &[&str], log: &Path) -> Running {
        let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
        let addresses: Vec<String> = addresses.collect();
        let log = fs::OpenOptions::new().create(true).append(true).open(log);
        let child = kvorum(&["router", "--listen", &format!("127.0.0.1:{port}")])
            .args(["--cluster", &addresses.join(",")])
            .args(more)
            .stdout(Stdio::null())
            .stderr(log.expect("a log file"))
            .spawn()
            .expect("started");
        Running { child }
    }

    fn wait_until_ready(&self) {
        wait_for("a router that is ready", || {
            self.report().filter(|report| report.ready)
        });
    }

    /// SIGKILL, and a new one in its place, which is told of these nodes.
    pub(crate) fn kill_and_restart(&mut self, nodes: &[Node]) {
        self.running.child.kill().expect("killed");
        self.running.child.wait().expect("its end");
        self.running = Self::spawn(self.port, nodes, &[], &self.log);
        self.wait_until_ready();
    }

    fn report(&self) -> Option<RouterReport> {
        get(&format!("127.0.0.1:{}", self.port + 1), "/api/v1/status").ok()
    }

    fn terminate(&self) {
        signal("-TERM", self.running.child.id());
    }

    fn end(&mut self) -> ExitStatus {
        wait_for("the router's end", || {
            self.running.child.try_wait().expect("a status")
        })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }
}

/// What the clients of routers may be told when primaries are killed: that a write is unknown. Refusals and
/// redirects are the routers' own business.
#[test]
fn nothing_acknowledged_is_lost_behind_routers_when_primaries_are_killed() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let routers = [
        Router::start(&dir, &nodes, &[]),
        Router::start(&dir, &nodes[..1], &[]),
    ];
    let ports: Vec<u16> = routers.iter().map(|router| router.port).collect();
    let load = Load::start(&ports, &[Manner::default()]);
    for _ in 0..8 {
        load.wait_for_more(200);
        let old = primary(&nodes);
        nodes[old].kill();
        load.wait_for_more(50);
        nodes[old].restart();
    }
    load.wait_for_more(200);
    let told = load.finish();
    assert!(
        told.complaints().iter().all(|kind| *kind == "UNKNOWN"),
        "{told:?}"
    );
    assert!(
        told.unknown() > 0,
        "kills leave some outcomes open: {told:?}"
    );
    told.judge(&ports);
    wait_for_one_state(&nodes);
    for router in &routers {
        let report = router.report().expect("a report");
        assert_eq!(report.nodes.len(), 3, "{report:?}");
    }
}

/// Reads of a client that has said READONLY come to the replicas, and see what was written before.
#[test]
fn reads_behind_a_router_are_spread_over_replicas() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3);
    let router = Router::start(&dir, &nodes, &[]);
    let mut client = Client::connect(router.port).expect("connected");
    let mut write_and_read = |number: u64| {
        let text = number.to_string();
        assert_eq!(client.ask(&["SET", "k", &text]).expect("a reply"), ok());
        assert_eq!(client.ask(&["READONLY"]).expect("a reply"), ok());
        assert_eq!(client.ask(&["GET", "k"]).expect("a reply"), bulk(&text));
    };
    let mut number = 0;
    wait_for("links to both replicas", || {
        number += 1;
        write_and_read(number);
        let report = router.report()?;
        // Three nodes, and the ports for replicas of two of them.
        let linked = report.nodes.iter().filter(|node| node.links > 0);
        (linked.count() == 5).then_some(())
    });
    (number + 1..number + 200).for_each(write_and_read);
}

/// A primary that is asked to stop loses nothing, and behind a router nobody even sees a redirect.
#[test]
fn behind_a_router_a_primary_that_stops_in_good_order_is_not_noticed() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let router = Router::start(&dir, &nodes, &[]);
    let load = Load::start(&[router.port], &[Manner::default()]);
    for _ in 0..3 {
        load.wait_for_more(200);
        let old = primary(&nodes);
        nodes[old].signal("-TERM");
        assert!(nodes[old].end().success());
        load.wait_for_more(50);
        nodes[old].restart();
        nodes[old].wait_until_ready();
    }
    let told = load.finish();
    // One that the machine does not run for as long as a node says farewell can still be too late.
    assert!(
        told.complaints().iter().all(|kind| *kind == "UNKNOWN"),
        "{told:?}"
    );
    assert!(told.unknown() <= 2, "{told:?}");
    told.judge(&[router.port]);
}

/// What a router has taken is answered, though nobody can answer it at the moment; then it ends.
#[test]
fn a_router_that_is_asked_to_stop_waits_for_what_it_took() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let mut router = Router::start(&dir, &nodes, &[]);
    let mut client = Client::connect(router.port).expect("connected");
    let mut idle = Client::connect(router.port).expect("connected");
    assert_eq!(client.ask(&["SET", "a", "1"]).expect("a reply"), ok());
    assert_eq!(idle.ask(&["GET", "a"]).expect("a reply"), bulk("1"));
    // Without a majority nobody takes the write.
    let old = primary(&nodes);
    let others: Vec<usize> = (0..3).filter(|at| *at != old).collect();
    nodes[old].kill();
    nodes[others[0]].kill();
    wait_for("the router to notice", || {
        let report = router.report()?;
        let up = report.nodes.iter().filter(|node| node.links > 0).count();
        (up == 1).then_some(())
    });
    client.send(&["SET", "a", "2"]).expect("sent");
    client.send(&["GET", "a"]).expect("sent");
    wait_for("the router to take them", || {
        (router.report()?.requests_waiting == 2).then_some(())
    });
    router.terminate();
    wait_for("the router to take no more clients", || {
        Client::connect(router.port).err()
    });
    assert!(idle.reply().is_err(), "idle clients are closed");
    nodes[others[0]].restart();
    assert_eq!(client.reply().expect("a reply"), ok());
    assert_eq!(client.reply().expect("a reply"), bulk("2"));
    assert!(client.reply().is_err(), "then it is closed");
    assert!(router.end().success());
    let said = router.said();
    assert!(
        said.contains("stopping") && said.contains("stopped"),
        "{said}"
    );
}

/// A primary that is stopped closes nothing and answers nothing. Routers find its successor all the same.
#[test]
fn behind_a_router_a_stopped_primary_is_replaced() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3);
    let router = Router::start(&dir, &nodes, &[]);
    let mut client = Client::connect(router.port).expect("connected");
    assert_eq!(client.ask(&["SET", "a", "1"]).expect("a reply"), ok());
    let old = primary(&nodes);
    nodes[old].signal("-STOP");
    // The first is at the stopped node, or at nobody's; a read may be sent again.
    assert_eq!(client.ask(&["GET", "a"]).expect("a reply"), bulk("1"));
    assert_eq!(client.ask(&["SET", "a", "2"]).expect("a reply"), ok());
    nodes[old].signal("-CONT");
    assert_eq!(client.ask(&["GET", "a"]).expect("a reply"), bulk("2"));
    wait_for_one_state(&nodes);
}

#[test]
fn without_a_majority_requests_are_refused_at_their_deadline() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let router = Router::start(&dir, &nodes, &["--deadline-ms", "300"]);
    let mut client = Client::connect(router.port).expect("connected");
    assert_eq!(client.ask(&["SET", "a", "1"]).expect("a reply"), ok());
    for node in &mut nodes {
        node.kill();
    }
    wait_for("a refusal", || match client.ask(&["SET", "a", "2"]) {
        Ok(Reply::Error(text)) if text.starts_with("UNKNOWN") => None,
        Ok(Reply::Error(text)) => {
            assert!(
                text.starts_with("CLUSTERDOWN") || text.starts_with("TRYAGAIN"),
                "{text}"
            );
            Some(())
        }
        other => panic!("{other:?}"),
    });
    for node in &mut nodes {
        node.restart();
    }
    wait_for("an answer", || match client.ask(&["GET", "a"]) {
        Ok(Reply::Error(_)) => None,
        Ok(Reply::Bulk(Some(_))) => Some(()),
        other => panic!("{other:?}"),
    });
}

/// A node holds requests of its own clients until there is a primary. On a router's link it refuses them at
/// once, with a text of its own, since everything behind them would wait too.
#[test]
fn a_node_holds_nothing_on_the_link_of_a_router() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let old = primary(&nodes);
    let left = (old + 1) % 3;
    let mut link = Client::connect(nodes[left].port).expect("connected");
    assert_eq!(link.ask(&["KVORUM.LINK", "ROUTER"]).expect("a reply"), ok());
    nodes[old].kill();
    nodes[(old + 2) % 3].kill();
    wait_for("the node to know of no primary", || {
        match link.ask(&["SET", "a", "1"]) {
            Ok(Reply::Error(text)) if text.starts_with("MOVED") => None,
            Ok(Reply::Error(text)) => {
                assert!(
                    text.starts_with("TRYAGAIN no primary of this shard"),
                    "{text}"
                );
                Some(())
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn redis_py_and_ioredis() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let router = Router::start(&dir, &nodes, &[]);
    for command in [python("redis_py_router.py"), node_js("ioredis_router.js")] {
        match command {
            Ok(mut command) => converse_and_kill(command.arg(router.port.to_string()), &mut nodes),
            Err(reason) => ignored(&reason),
        }
    }
}

#[test]
fn redis_cli_and_redis_benchmark_use_a_router_as_a_server() {
    let _turn = my_turn();
    if let Err(reason) = run(Command::new("redis-cli").arg("--version")) {
        return ignored(&reason);
    }
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3);
    let router = Router::start(&dir, &nodes, &[]);
    let cli = |arguments: &[&str]| redis_cli(router.port, arguments).expect("an answer");
    assert_eq!(
        cli(&["MSET", "key-1", "1", "key-2", "2", "key-3", "3"]),
        "OK"
    );
    assert_eq!(cli(&["-3", "MGET", "key-3", "key-1"]), "3\n1");
    assert_eq!(cli(&["DBSIZE"]), "3");
    assert_eq!(cli(&["--scan", "--pattern", "key-*"]).lines().count(), 3);
    assert!(cli(&["INFO", "server"]).contains("redis_mode:standalone"));
    assert_eq!(cli(&["-r", "3", "INCR", "repeated"]), "1\n2\n3");
    assert_eq!(cli(&["FLUSHALL"]), "OK");
    assert_eq!(cli(&["DBSIZE"]), "0");
    for more in [&["-P", "16"][..], &["-3", "-c", "5"][..]] {
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args(["-p", &router.port.to_string(), "-q", "-n", "5000"]);
        benchmark
            .args(["-r", "100", "-t", "ping,set,get,incr,mset"])
            .args(more);
        let said = run(&mut benchmark).expect("a result");
        assert!(!said.contains("Error"), "{said}");
        for test in ["SET", "GET", "INCR"] {
            assert!(said.contains(&format!("{test}: ")), "{said}");
        }
    }
}

#[test]
fn a_router_gives_the_password_and_asks_for_it() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let password = |_| vec!["--password".to_owned(), "a secret".to_owned()];
    let nodes = cluster_with(&dir, 1, password, &[]);
    let router = Router::start(&dir, &nodes, &["--password", "a secret"]);
    let mut client = Client::connect(router.port).expect("connected");
    let refused = Reply::Error("NOAUTH Authentication required.".to_owned());
    assert_eq!(client.ask(&["GET", "a"]).expect("a reply"), refused);
    assert_eq!(client.ask(&["AUTH", "a secret"]).expect("a reply"), ok());
    assert_eq!(client.ask(&["SET", "a", "1"]).expect("a reply"), ok());
    assert_eq!(client.ask(&["GET", "a"]).expect("a reply"), bulk("1"));
}

#[test]
fn up_starts_a_router_and_ends_it() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let port = free_port(4);
    let out = dir.path().join("up.out");
    let file = fs::File::create(&out).expect("a file");
    let child = kvorum(&["up", "--nodes", "1", "--port", &port.to_string()])
        .args(["--router-port", &(port + 3).to_string(), "--dir"])
        .arg(dir.path().join("data"))
        .stdout(file.try_clone().expect("a file"))
        .stderr(file)
        .spawn()
        .expect("started");
    let mut up = Running { child };
    let said = || fs::read_to_string(&out).expect("its output");
    wait_for("ready", || {
        assert!(
            up.child.try_wait().expect("a status").is_none(),
            "{}",
            said()
        );
        said().lines().any(|line| line == "ready").then_some(())
    });
    assert!(said().contains("router  pid "), "{}", said());
    let mut client = Client::connect(port + 3).expect("connected");
    assert_eq!(client.ask(&["SET", "a", "1"]).expect("a reply"), ok());
    assert_eq!(client.ask(&["GET", "a"]).expect("a reply"), bulk("1"));
    signal("-INT", up.child.id());
    let status = wait_for("the end", || up.child.try_wait().expect("a status"));
    assert!(status.success(), "{}", said());
    assert!(client.reply().is_err(), "its clients are closed");
    assert!(Client::connect(port + 3).is_err(), "it has ended");
}

#[test]
fn behind_a_router_a_client_that_sends_no_more_is_answered() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3);
    let router = Router::start(&dir, &nodes, &[]);
    everything_is_answered_after_the_end(router.port);
}

#[test]
fn a_router_says_what_it_cannot_do() {
    let _turn = my_turn();
    assert!(refused(&["router"]).contains("--cluster"));
    assert!(refused(&["router", "--cluster", "nowhere"]).contains("HOST:PORT"));
    let open = ["router", "--cluster", "a:1", "--listen", "0.0.0.0:7379"];
    assert!(refused(&open).contains("KVORUM_PASSWORD"));
}
