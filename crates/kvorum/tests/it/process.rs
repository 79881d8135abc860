//! Starting the program and waiting for what it does.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvorum_server::control::client::get;
use kvorum_server::control::init::InitState;

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One test at a time.
pub(crate) fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory below the system's temporary one, removed when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("kvorum-process-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A client port whose company (replica reads, peers, HTTP) is free too, for `count` nodes in a row.
pub(crate) fn free_port(count: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = 20_000 + (std::process::id() % 200) as u16 * 100;
    for _ in 0..100 {
        let port = begin + (NEXT.fetch_add(1, Ordering::Relaxed) as u16 % 90) * 300 % 20_000;
        let all = (0..count).flat_map(|node| [0, 50, 100, 200].map(|offset| port + node + offset));
        if all
            .into_iter()
            .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        {
            return port;
        }
    }
    panic!("no free ports");
}

/// The program with these arguments and nothing of ours in its environment.
pub(crate) fn kvorum(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvorum"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KVORUM_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the program to its end; it must fail, and what it says is returned.
pub(crate) fn refused(arguments: &[&str]) -> String {
    let output = finish(kvorum(arguments));
    assert!(!output.status.success(), "{arguments:?} was accepted");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the program to its end; it must succeed, and what it prints is returned.
pub(crate) fn succeeds(arguments: &[&str]) -> String {
    let output = finish(kvorum(arguments));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn finish(mut command: Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut running = Running { child };
    wait_for("the program to end", || {
        running.child.try_wait().expect("a status").map(drop)
    });
    let Output { status, .. } = Output {
        status: running.child.wait().expect("a status"),
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    let read = |pipe: Option<&mut dyn std::io::Read>| {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            pipe.read_to_end(&mut bytes).expect("read");
        }
        bytes
    };
    Output {
        status,
        stdout: read(running.child.stdout.as_mut().map(|pipe| pipe as _)),
        stderr: read(running.child.stderr.as_mut().map(|pipe| pipe as _)),
    }
}

/// Tries until there is a value.
pub(crate) fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that does not outlive its test.
pub(crate) struct Running {
    pub(crate) child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node, and how to start it again.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    running: Option<Running>,
}

impl Node {
    pub(crate) fn start(dir: PathBuf, port: u16) -> Self {
        let mut node = Self {
            dir,
            port,
            running: None,
        };
        node.restart();
        node
    }

    pub(crate) fn http(&self) -> String {
        format!("127.0.0.1:{}", self.port + 200)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Starts it and waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.running = None;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.with_extension("log"))
            .expect("a log file");
        let listen = format!("127.0.0.1:{}", self.port);
        let child = kvorum(&[
            "node",
            "--dir",
            self.dir.to_str().expect("a name"),
            "--listen",
            &listen,
        ])
        .stderr(log)
        .spawn()
        .expect("started");
        self.running = Some(Running { child });
        let address = self.http();
        wait_for("a node's answer", || {
            get::<InitState>(&address, "/api/v1/init").ok()
        });
    }

    pub(crate) fn init_state(&self) -> InitState {
        get(&self.http(), "/api/v1/init").expect("an answer")
    }
}
