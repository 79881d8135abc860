//! `kvorum router`: the router's brain with its sockets.
//!
//! - [`options`]: what the process is given;
//! - [`hub`]: the loop on one thread, which hands events in and carries effects out;
//! - [`front`]: clients; [`back`]: links to nodes;
//! - [`http`]: health, metrics and signals, on a thread of their own; [`figures`]: the metrics.
//!
//! The loop is that of a lane ([`crate::lane`]), for the same reasons: all sockets that one wait found ready
//! are read, then the driver runs once, so that a turn carries what all clients sent meanwhile and each
//! socket is written once.

pub(crate) mod back;
pub(crate) mod figures;
pub(crate) mod front;
pub mod http;
pub(crate) mod hub;
pub mod options;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use kvorum_router::planted::Planted;
use kvorum_router::{Config, Router};

use crate::clients::accept::bind;
use crate::lane::TICK;
use crate::logs::Logs;
use crate::process::{die_of_panics, raise_descriptors, refuse};

pub use options::{RouterOptions, RouterSettings};

/// Runs a router to its end.
#[must_use]
pub fn run_router(options: RouterOptions) -> ExitCode {
    let settings = match options.settle() {
        Ok(settings) => settings,
        Err(error) => return refuse(&error),
    };
    die_of_panics();
    let logs = match Logs::start(settings.log_level, settings.log_format) {
        Ok(logs) => logs,
        Err(error) => return refuse(&format!("cannot start a thread: {error}")),
    };
    let end = start(&settings, &logs);
    if let Err(error) = end {
        logs.flush();
        return refuse(&error);
    }
    tracing::info!("stopped");
    logs.flush();
    ExitCode::SUCCESS
}

fn start(settings: &RouterSettings, logs: &Logs) -> Result<(), String> {
    let clients = bind(settings.listen, "listen")?;
    let http = bind(settings.http, "http")?;
    let max_clients = raise_descriptors(settings.max_clients);
    let router = Router::new(Config {
        seeds: settings.cluster.clone(),
        password: settings.password.clone(),
        deadline_ticks: (settings.deadline_ms / TICK.as_millis() as u64).max(1),
        port: clients.address.port(),
        run_id: run_id(),
        planted: Planted::default(),
    });
    let shared = Arc::new(http::Shared::new(settings.stop_with_stdin));
    http::start(shared.clone(), http, logs.clone())
        .map_err(|error| format!("cannot start the HTTP interface: {error}"))?;
    tracing::info!(
        "routing {} to {}",
        clients.address,
        settings.cluster.join(", ")
    );
    hub::run(router, clients, max_clients, shared)
        .map_err(|error| format!("the router cannot start: {error}"))
}

/// A name for INFO that no other process has had: the time of the start, and the process's number.
fn run_id() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:032x}{:08x}", since.as_nanos(), std::process::id())
}
