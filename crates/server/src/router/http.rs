//! The router's control thread: health, metrics, and the signals that end the process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kvorum_router::Status;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::figures::{self, Metrics};
use crate::clients::accept::Bound;
use crate::control::http::stdin_end;
use crate::logs::Logs;
use crate::metrics::Page;

/// A loop that has published nothing for so long is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What the control thread and the loop share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) metrics: Metrics,
    /// Told when the process is to end.
    pub(crate) stop: Notify,
    stop_with_stdin: bool,
    published: Mutex<Option<(Instant, Arc<Status>)>>,
}

impl Shared {
    pub(crate) fn new(stop_with_stdin: bool) -> Self {
        Self {
            metrics: Metrics::default(),
            stop: Notify::new(),
            stop_with_stdin,
            published: Mutex::new(None),
        }
    }

    /// Publishes what the router says of itself.
    pub(crate) fn publish(&self, status: Status) {
        let mut published = self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *published = Some((Instant::now(), Arc::new(status)));
    }

    fn published(&self) -> Option<(Instant, Arc<Status>)> {
        let published = self
            .published
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        published.clone()
    }

    /// Why clients get no answers here, if so.
    fn trouble(&self) -> Option<&'static str> {
        match self.published() {
            None => Some("starting"),
            Some((when, _)) if when.elapsed() > SILENCE_MAX => Some("the loop is silent"),
            Some((_, status)) if !status.connected => Some("no node of the cluster can be reached"),
            Some((_, status)) if status.slots_known == 0 => Some("the map is not known yet"),
            Some(_) => None,
        }
    }
}

/// What `/api/v1/status` of a router says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct RouterReport {
    /// The version of the program.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// Whether requests get to nodes.
    pub ready: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Clients connected.
    pub clients: u64,
    /// Slots whose owner is known.
    pub slots_known: usize,
    /// Requests without an answer yet.
    pub requests_waiting: usize,
    /// The nodes that it knows.
    pub nodes: Vec<NodeReport>,
}

/// A node as a router sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct NodeReport {
    /// `host:port`.
    pub address: String,
    /// Links to it that are up.
    pub links: usize,
    /// Requests on them without a reply.
    pub unanswered: usize,
}

/// Starts the control thread.
///
/// # Errors
/// If the thread or its runtime cannot be started.
pub(crate) fn start(shared: Arc<Shared>, bound: Bound, logs: Logs) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("kvorum-control".to_owned())
        .spawn(move || {
            let served = runtime.block_on(serve(shared, bound, &logs));
            // Without health and metrics nobody would know how the router does.
            if let Err(error) = served {
                tracing::error!("the HTTP interface failed: {error}");
                logs.flush();
                std::process::exit(1);
            }
        })
        .map(drop)
}

async fn serve(shared: Arc<Shared>, bound: Bound, logs: &Logs) -> std::io::Result<()> {
    let listener = bound.listen()?;
    tokio::spawn(watch_signals(shared.clone(), logs.clone()));
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .with_state(shared);
    axum::serve(listener, app).await
}

/// Whether the process does its work, also where the cluster does not.
async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    match shared.published() {
        Some((when, _)) if when.elapsed() > SILENCE_MAX => {
            (StatusCode::SERVICE_UNAVAILABLE, "the loop is silent\n").into_response()
        }
        _ => (StatusCode::OK, "ok\n").into_response(),
    }
}

/// Whether requests get to nodes.
async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    match shared.trouble() {
        None => (StatusCode::OK, "ready\n".to_owned()).into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    let trouble = shared.trouble();
    let status = shared.published().map(|(_, status)| status);
    let nodes = status.as_ref().map_or(&[][..], |status| &status.nodes);
    axum::Json(RouterReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        ready: trouble.is_none(),
        reason: trouble.map(str::to_owned),
        clients: status.as_ref().map_or(0, |status| status.clients),
        slots_known: status.as_ref().map_or(0, |status| status.slots_known),
        requests_waiting: status.as_ref().map_or(0, |status| status.pieces),
        nodes: nodes
            .iter()
            .map(|node| NodeReport {
                address: node.address.clone(),
                links: node.links_up,
                unanswered: node.unanswered,
            })
            .collect(),
    })
    .into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let mut page = Page::default();
    page.family("router_ready", "Whether requests get to nodes.", "gauge");
    page.sample("router_ready", &[], u8::from(shared.trouble().is_none()));
    if let Some((_, status)) = shared.published() {
        figures::write_status(&status, &mut page);
    }
    figures::write_shell(&shared.metrics, &mut page);
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, page.finish()).into_response()
}

/// Ends the process in good order at the first SIGTERM or SIGINT (or the end of standard input, where that
/// was asked for), at once at the second.
async fn watch_signals(shared: Arc<Shared>, logs: Logs) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return tracing::error!("cannot listen for signals: this process can only be killed");
    };
    let mut stdin_end = stdin_end(shared.stop_with_stdin);
    let mut asked = false;
    loop {
        // The end of standard input comes beside a signal when the parent ends: it is no second one.
        let again_means_now = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
            Some(()) = stdin_end.recv() => false,
        };
        if asked && again_means_now {
            logs.flush();
            std::process::exit(1);
        }
        asked = true;
        shared.stop.notify_one();
    }
}
