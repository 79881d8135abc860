//! Real clients, as they come: redis-py, ioredis, redis-cli, redis-benchmark.
//!
//! What a client needs of a server is in its source, not in the protocol's documents. The scripts in
//! `tests/clients` use them as programs do. The libraries are fetched once, into the build directory.
//! What cannot be fetched or is not installed is not tested, and the test says so, except where
//! everything has to be there (`KVORUM_CI` in the environment).

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::nodes::{Node, cluster, cluster_of, cluster_with, primary, wait_for_one_state};
use crate::process::{Running, TempDir, my_turn, wait_for};
use crate::resp::{Client, Reply, bulk};

/// The versions that are known to work, by their exact numbers: a test must not depend on the day.
const REDIS_PY: &str = "redis==8.1.0";
const IOREDIS: &str = "ioredis@6.0.0";

/// What a script says to have the primary killed, and what it is told then.
const KILL: &str = "kill the primary";
const KILLED: &str = "killed";

/// Says that something is not tested, or fails where everything has to be.
pub(crate) fn ignored(reason: &str) {
    assert!(std::env::var_os("KVORUM_CI").is_none(), "{reason}");
    println!("ignored: {reason}");
}

/// Runs a program to its end; what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name} cannot be run: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    Err(format!("{name}: {}\n{out}\n{err}", output.status))
}

/// A directory in the build directory, filled by `fetch` if an earlier run has not done it.
fn fetched(name: &str, fetch: impl FnOnce(&Path) -> Command) -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("clients")
        .join(name);
    if dir.exists() {
        return Ok(dir);
    }
    let partial = dir.with_extension(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&partial).map_err(|error| error.to_string())?;
    let result = run(&mut fetch(&partial));
    // Another process may have been faster; then its own is as good.
    if result.is_err() || fs::rename(&partial, &dir).is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    result.map(|_| dir)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

/// A Python with redis-py.
pub(crate) fn python(name: &str) -> Result<Command, String> {
    let library = fetched("redis-py-8.1.0", |dir| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--target"]);
        pip.arg(dir).arg(REDIS_PY);
        pip
    })?;
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", library);
    // Scripts have a module in common, and stand in the source tree.
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script(name));
    Ok(command)
}

/// A Node.js with ioredis.
pub(crate) fn node_js(name: &str) -> Result<Command, String> {
    let library = fetched("ioredis-6.0.0", |dir| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
        npm.arg(dir).arg(IOREDIS);
        npm
    })?;
    let mut command = Command::new("node");
    command.env("NODE_PATH", library.join("node_modules"));
    command.arg(script(name));
    Ok(command)
}

/// Runs a script to its end. Lines that it prints are answered, if there is an answer; what it said besides.
pub(crate) fn converse(
    command: &mut Command,
    mut answer: impl FnMut(&str) -> Option<&'static str>,
) -> String {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut script = Running { child };
    let mut errors = script.child.stderr.take().expect("a pipe");
    let errors = thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text);
        text
    });
    let mut last = String::new();
    for line in BufReader::new(script.child.stdout.take().expect("a pipe")).lines() {
        last = line.expect("a line");
        if let Some(answer) = answer(&last) {
            let input = script.child.stdin.as_mut().expect("a pipe");
            writeln!(input, "{answer}").expect("told");
        }
    }
    let status = wait_for("the script's end", || {
        script.child.try_wait().expect("a status")
    });
    let errors = errors.join().expect("its errors");
    assert!(status.success() && last == "done", "{status}: {errors}");
    errors
}

/// The same. When it asks for that, the primary is killed, and started again later.
pub(crate) fn converse_and_kill(command: &mut Command, nodes: &mut [Node]) {
    let mut killed = None;
    converse(command, |line| {
        if line != KILL {
            return None;
        }
        let old = primary(nodes);
        nodes[old].kill();
        killed = Some(old);
        Some(KILLED)
    });
    if let Some(old) = killed {
        nodes[old].restart();
        wait_for_one_state(nodes);
    }
}

/// One script against the primary of a cluster, one against all of its nodes.
fn sessions(alone: Result<Command, String>, clustered: Result<Command, String>) {
    let (mut alone, mut clustered) = match (alone, clustered) {
        (Ok(alone), Ok(clustered)) => (alone, clustered),
        (Err(reason), _) | (_, Err(reason)) => return ignored(&reason),
    };
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let port = nodes[primary(&nodes)].port;
    converse_and_kill(alone.arg(port.to_string()), &mut nodes);
    for node in &nodes {
        clustered.arg(node.port.to_string());
    }
    converse_and_kill(&mut clustered, &mut nodes);
}

#[test]
fn redis_py() {
    let _turn = my_turn();
    sessions(python("redis_py.py"), python("redis_py_cluster.py"));
}

#[test]
fn redis_py_with_shards() {
    let _turn = my_turn();
    let mut script = match python("redis_py_shards.py") {
        Ok(script) => script,
        Err(reason) => return ignored(&reason),
    };
    let dir = TempDir::new();
    let mut nodes = cluster_of(&dir, 3, 3, |_| Vec::new(), &[]);
    script.args(nodes.iter().map(|node| node.port.to_string()));
    converse_and_kill(&mut script, &mut nodes);
}

#[test]
fn ioredis() {
    let _turn = my_turn();
    sessions(node_js("ioredis.js"), node_js("ioredis_cluster.js"));
}

#[test]
fn clients_with_a_password() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let password = |_| vec!["--password".to_owned(), "a secret".to_owned()];
    let mut nodes = cluster_with(&dir, 1, password, &[]);
    let port = nodes[0].port;
    let mut stranger = Client::connect(port).expect("connected");
    let reply = stranger.ask(&["GET", "a"]).expect("a reply");
    assert_eq!(
        reply,
        Reply::Error("NOAUTH Authentication required.".to_owned())
    );
    for command in [python("password.py"), node_js("password.js")] {
        match command {
            Ok(mut command) => {
                converse_and_kill(command.args([&port.to_string(), "a secret"]), &mut nodes);
            }
            Err(reason) => ignored(&reason),
        }
    }
}

/// redis-cli with these arguments.
pub(crate) fn redis_cli(port: u16, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    run(command.args(arguments)).map(|text| text.trim().to_owned())
}

#[test]
fn redis_cli_and_redis_benchmark() {
    let _turn = my_turn();
    if let Err(reason) = run(Command::new("redis-cli").arg("--version")) {
        return ignored(&reason);
    }
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3);
    let leading = nodes[primary(&nodes)].port;
    let cli = |port: u16, arguments: &[&str]| redis_cli(port, arguments).expect("an answer");
    for node in &nodes {
        let key = format!("key-{}", node.port);
        assert_eq!(cli(node.port, &["-c", "SET", &key, "1", "EX", "100"]), "OK");
        assert_eq!(cli(node.port, &["-c", "-3", "INCR", &key]), "2");
        assert_eq!(cli(node.port, &["-c", "GET", "nobody"]), "");
        let moved = cli(node.port, &["GET", &key]);
        assert_eq!(moved == "2", node.port == leading, "{moved}");
        assert!(cli(node.port, &["CLUSTER", "INFO"]).contains("cluster_state:ok"));
        assert!(cli(node.port, &["INFO", "server"]).contains("redis_mode:cluster"));
        let check = cli(
            node.port,
            &["--cluster", "check", &format!("127.0.0.1:{}", node.port)],
        );
        assert!(check.contains("All 16384 slots covered"), "{check}");
    }
    let keys = cli(leading, &["--scan", "--pattern", "key-*"]);
    assert_eq!(keys.lines().count(), 3, "{keys}");
    let again = cli(leading, &["-r", "3", "INCR", "repeated"]);
    assert_eq!(again, "1\n2\n3");

    for more in [&["-P", "16"][..], &["-3", "-c", "5"][..]] {
        let mut benchmark = Command::new("redis-benchmark");
        benchmark.args(["-p", &leading.to_string(), "-q", "-n", "5000"]);
        benchmark
            .args(["-r", "100", "-t", "ping,set,get,incr"])
            .args(more);
        let said = run(&mut benchmark).expect("a result");
        for test in ["SET", "GET", "INCR"] {
            let done = said.lines().any(|line| {
                line.contains(&format!("{test}: ")) && line.contains("requests per second")
            });
            assert!(done, "{said}");
        }
    }
    let mut client = Client::connect(leading).expect("connected");
    let value = client.ask(&["GET", "repeated"]).expect("a reply");
    assert_eq!(value, bulk("3"));
}
