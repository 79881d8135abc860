//! The router of `kvorum up`: one more process, in front of the nodes.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use kvorum_server::control::client::get;
use kvorum_server::router::http::RouterReport;

/// A router's process.
pub(super) struct RouterProcess {
    port: u16,
    /// The nodes, by their addresses for clients.
    cluster: String,
    /// `None` once it has ended.
    child: Option<Child>,
    /// When to start it again.
    pub(super) restart_at: Option<Instant>,
}

impl RouterProcess {
    /// A router that is not started yet.
    pub(super) fn new(port: u16, nodes: &[u16]) -> Self {
        let addresses: Vec<String> = nodes
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        Self {
            port,
            cluster: addresses.join(","),
            child: None,
            restart_at: None,
        }
    }

    /// Starts it and says so.
    pub(super) fn start(&mut self, program: &Path, dir: &Path) -> Result<(), String> {
        let log_path = dir.join("router.log");
        let log = OpenOptions::new().create(true).append(true).open(&log_path);
        let log = log.map_err(|error| format!("cannot write {}: {error}", log_path.display()))?;
        let log_too = log.try_clone().map_err(|error| error.to_string())?;
        let child = Command::new(program)
            .args(self.arguments())
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(|error| format!("cannot start the router: {error}"))?;
        println!(
            "router  pid {}  clients 127.0.0.1:{}  http :{}",
            child.id(),
            self.port,
            self.port + 1
        );
        self.child = Some(child);
        self.restart_at = None;
        Ok(())
    }

    /// The arguments with which anybody can start it.
    pub(super) fn arguments(&self) -> [String; 5] {
        [
            "router".to_owned(),
            "--listen".to_owned(),
            format!("127.0.0.1:{}", self.port),
            "--cluster".to_owned(),
            self.cluster.clone(),
        ]
    }

    /// Whether our own process gets requests to nodes; else why not.
    pub(super) fn ready(&self) -> Result<(), String> {
        let http = format!("127.0.0.1:{}", self.port + 1);
        let report: RouterReport = get(&http, "/api/v1/status")?;
        if self.child.as_ref().map(Child::id) != Some(report.pid) {
            return Err("another process answers on its port".to_owned());
        }
        report.reason.map_or(Ok(()), Err)
    }

    /// How it ended, once.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.ended();
        self.child.is_some()
    }

    /// Closes its standard input, which it takes as a SIGTERM.
    pub(super) fn ask_to_stop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.stdin.take());
        }
    }

    pub(super) fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
        }
    }
}
