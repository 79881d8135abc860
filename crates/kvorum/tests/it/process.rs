//! Starting the program and waiting for what it does.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
///
/// All of them lie below the ports that systems give to outgoing connections: a node that is started
/// again must find its own still free. Other processes of these tests are kept away by a port beside
/// them, which this process holds to its end.
pub(crate) fn free_port(count: u16) -> u16 {
    static CLAIMS: Mutex<Vec<TcpListener>> = Mutex::new(Vec::new());
    assert!(count <= ROW - 2, "a row of ports has room for fewer nodes");
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).ok();
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = BLOCKS * (50 / ROW);
    let begin = std::process::id() as usize * 7;
    for row in (begin..begin + usize::from(rows)).map(|row| row as u16 % rows) {
        let port = 10_000 + row / (50 / ROW) * 250 + row % (50 / ROW) * ROW;
        let Some(claim) = free(port + ROW - 1) else {
            continue;
        };
        let mut all =
            (0..=count).flat_map(|node| [0, 50, 100, 200].map(|offset| port + node + offset));
        if all.all(|port| free(port).is_some()) {
            claims.push(claim);
            return port;
        }
    }
    panic!("no free ports");
}

/// Ports of one kind in a row, with the one that claims them.
const ROW: u16 = 10;
/// Blocks of 250 ports: five rows, and their company.
const BLOCKS: u16 = 88;

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
