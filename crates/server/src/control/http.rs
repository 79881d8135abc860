//! The HTTP interface, and the signals that end a process.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{
    ConnectInfo, DefaultBodyLimit, FromRequest, FromRequestParts, Query, Request, State,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use super::admin::{PROOF_HEADER, authorise};
use super::announce::{self, Announcement};
use super::cluster::{ConfigPicture, ConfigQuery, Failure, Given, Picture};
use super::init::{Commit, Prepare};
use super::join::Join;
use super::recover::{self, RecoverManager};
use super::status::{Member, ProcessStatus};
use super::{Asked, Phase, Shared};
use crate::clients::accept::Bound;
use crate::identity::split_address;
use crate::logs::Logs;
use crate::metrics::Page;

/// Longest body of an order.
const BODY_BYTES_MAX: usize = 1 << 20;
/// A lane that has published nothing for so long is stuck.
const LANE_SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long handing over and flushing may take before the process ends anyway.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

type App = State<Arc<Shared>>;

/// Starts the control thread.
///
/// # Errors
/// If the thread or its runtime cannot be started.
pub fn start(shared: Arc<Shared>, bound: Bound, logs: Logs) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("kvorum-control".to_owned())
        .spawn(move || {
            let served = runtime.block_on(serve(shared, bound, &logs));
            // Without health and metrics nobody would know how the node does.
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
    let app = router(shared).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).await
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/cluster", get(cluster))
        .route("/api/v1/config", get(config))
        .route("/api/v1/admin/cluster", post(cluster_order))
        .route("/api/v1/admin/issuer", post(issuer))
        .route("/api/v1/admin/join", post(join))
        .route(recover::PATH, post(recover_manager))
        .route(announce::PATH, post(announce))
        .route("/api/v1/init", get(init_state))
        .route("/api/v1/admin/init/prepare", post(prepare))
        .route("/api/v1/admin/init/secret", post(secret))
        .route("/api/v1/admin/init/commit", post(commit))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// Whether the process does its work, whatever that is at present.
async fn healthz(State(shared): App) -> Response {
    match shared.published() {
        Some((when, _)) if when.elapsed() > LANE_SILENCE_MAX => {
            let silence = when.elapsed().as_secs();
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the lane has been silent for {silence} s\n"),
            )
        }
        _ => text(StatusCode::OK, "ok\n".to_owned()),
    }
}

/// Whether clients get answers here.
async fn readyz(State(shared): App) -> Response {
    shared.status_now().await;
    match readiness(&shared) {
        Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn readiness(shared: &Shared) -> Result<(), String> {
    match (shared.phase(), shared.published()) {
        (Phase::Uninitialised, _) => {
            Err("a new node: make a cluster of it with `kvorum ctl init`".to_owned())
        }
        (Phase::Prepared(_), _) => {
            Err("half initialised: run the same `kvorum ctl init` again".to_owned())
        }
        (Phase::Started(_), None) => Err("loading".to_owned()),
        (Phase::Started(_), Some((when, _))) if when.elapsed() > LANE_SILENCE_MAX => {
            Err("the lane is silent".to_owned())
        }
        (Phase::Started(_), Some((_, status))) => status.ready(),
    }
}

async fn metrics(State(shared): App) -> Response {
    shared.status_now().await;
    let mut page = Page::default();
    page.family("ready", "Whether clients get answers here.", "gauge");
    page.sample("ready", &[], u8::from(readiness(&shared).is_ok()));
    shared.metrics.write(&mut page);
    if let Some((_, status)) = shared.published() {
        status.write_metrics(&mut page);
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, page.finish()).into_response()
}

async fn status(State(shared): App) -> Response {
    let published = shared
        .status_now()
        .await
        .map(|(_, status)| (*status).clone());
    let (state, plan) = match shared.phase() {
        Phase::Uninitialised => ("uninitialised", None),
        Phase::Prepared(manifest) => ("prepared", Some(manifest.plan)),
        Phase::Started(manifest) if published.is_none() => ("starting", Some(manifest.plan)),
        Phase::Started(manifest) => ("started", Some(manifest.plan)),
    };
    let readiness = readiness(&shared);
    axum::Json(ProcessStatus {
        state: state.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        cluster: plan.as_ref().map(crate::identity::Plan::cluster_name),
        members: plan
            .map(|plan| plan.members)
            .unwrap_or_default()
            .into_iter()
            .map(|member| Member {
                node: member.node,
                addresses: member.addresses,
            })
            .collect(),
        addresses: shared.settings.advertised.clone(),
        ready: readiness.is_ok(),
        reason: readiness.err(),
        status: published,
    })
    .into_response()
}

/// The cluster as the shard manager knows it.
async fn cluster(State(shared): App) -> Response {
    shared.status_from_now().await;
    match shared.cluster() {
        Some(state) => axum::Json(Picture::from(&*state)).into_response(),
        None => nothing_heard(),
    }
}

/// A config by its number, the newest without one.
async fn config(State(shared): App, Query(wanted): Query<ConfigQuery>) -> Response {
    shared.status_from_now().await;
    let Some(state) = shared.cluster() else {
        return nothing_heard();
    };
    match ConfigPicture::of(&state, wanted.number) {
        Ok(config) => axum::Json(config).into_response(),
        Err(reason) => text(StatusCode::NOT_FOUND, format!("{reason}\n")),
    }
}

fn nothing_heard() -> Response {
    let reason = "this node has heard nothing of the shard manager yet\n";
    text(StatusCode::SERVICE_UNAVAILABLE, reason.to_owned())
}

async fn cluster_order(State(shared): App, Admitted { what, .. }: Admitted<Given>) -> Response {
    shared.status_now().await;
    answer(shared.carry_out(&what).await)
}

async fn issuer(State(shared): App, _: Admitted<Nothing>) -> Response {
    shared.status_now().await;
    answer(shared.open_issuer().await)
}

async fn join(State(shared): App, Admitted { from, what }: Admitted<Join>) -> Response {
    answer(shared.take_in(from, &what).await)
}

async fn recover_manager(
    State(shared): App,
    Admitted { what, .. }: Admitted<RecoverManager>,
) -> Response {
    answer(shared.recover_manager(&what).await)
}

async fn announce(State(shared): App, Admitted { what, .. }: Admitted<Announcement>) -> Response {
    answer(shared.note_announced(&what).await)
}

async fn init_state(State(shared): App) -> Response {
    axum::Json(shared.init_state()).into_response()
}

async fn prepare(State(shared): App, Admitted { what, .. }: Admitted<Prepare>) -> Response {
    answer(shared.prepare(what).map(|()| Done {}))
}

async fn commit(State(shared): App, Admitted { what, .. }: Admitted<Commit>) -> Response {
    answer(shared.commit(&what).map(|()| Done {}))
}

async fn secret(
    State(shared): App,
    _: ThisMachine,
    Admitted { what, .. }: Admitted<Commit>,
) -> Response {
    answer(shared.drawn_secret(&what))
}

/// The answer to an order that was carried out.
#[derive(Serialize)]
struct Done {}

/// An order that needs no more said.
#[derive(Deserialize)]
struct Nothing {}

fn answer<A: Serialize>(outcome: Result<A, impl Into<Failure>>) -> Response {
    match outcome.map_err(Into::into) {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(Failure::Refused(reason)) => text(StatusCode::CONFLICT, format!("{reason}\n")),
        Err(Failure::Unanswered(reason)) => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
        }
    }
}

/// An order that may be given: who gives it has shown that he may.
struct Admitted<T> {
    from: IpAddr,
    what: T,
}

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Admitted<T> {
    type Rejection = Response;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let ConnectInfo(from) = ConnectInfo::<SocketAddr>::from_request_parts(&mut parts, shared)
            .await
            .map_err(IntoResponse::into_response)?;
        let (uri, headers) = (parts.uri.clone(), parts.headers.clone());
        let body = Bytes::from_request(Request::from_parts(parts, body), shared)
            .await
            .map_err(IntoResponse::into_response)?;
        let what = admit(shared, from.ip(), &uri, &headers, &body)
            .map_err(|(status, reason)| text(status, reason))?;
        Ok(Self {
            from: from.ip(),
            what,
        })
    }
}

/// A request that comes from this machine.
struct ThisMachine;

impl FromRequestParts<Arc<Shared>> for ThisMachine {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Response> {
        let ConnectInfo(from) = ConnectInfo::<SocketAddr>::from_request_parts(parts, shared)
            .await
            .map_err(IntoResponse::into_response)?;
        if !from.ip().to_canonical().is_loopback() {
            return Err(text(
                StatusCode::FORBIDDEN,
                "the secret never leaves this machine\n".to_owned(),
            ));
        }
        Ok(Self)
    }
}

/// The order that a request is, if it may be given.
fn admit<T: DeserializeOwned>(
    shared: &Shared,
    from: IpAddr,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<T, (StatusCode, String)> {
    // A page in an operator's browser can make it send a form to this machine, but not this type.
    let json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    if !json {
        let reason = "send application/json\n".to_owned();
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    let secret = match shared.phase() {
        Phase::Uninitialised => shared.settings.secret.clone(),
        Phase::Prepared(manifest) | Phase::Started(manifest) => Some(manifest.secret()),
    };
    let proof = headers
        .get(PROOF_HEADER)
        .and_then(|value| value.to_str().ok());
    if proof.is_none() && !is_asked_by_number(uri, headers) {
        let reason = "without a proof by the secret, orders are taken by address only (127.0.0.1), and \
                      from no web page\n";
        return Err((StatusCode::FORBIDDEN, reason.to_owned()));
    }
    if let Err(reason) = authorise(from, secret.as_ref(), proof, uri.path(), body) {
        return Err((StatusCode::FORBIDDEN, format!("{reason}\n")));
    }
    serde_json::from_slice(body).map_err(|error| {
        let reason = format!("the request is not understood: {error}\n");
        (StatusCode::BAD_REQUEST, reason)
    })
}

/// Whether a request was sent to an address, not to a name, and by no web page. A page whose name leads to
/// this machine, for as long as its owner likes, would be allowed to send whatever it wants here.
fn is_asked_by_number(uri: &Uri, headers: &HeaderMap) -> bool {
    let named = headers.get(header::HOST).map(|host| host.to_str());
    let host = match (named, uri.host()) {
        (Some(Ok(host)), _) | (None, Some(host)) => host,
        _ => return false,
    };
    let name = split_address(host).map_or(host, |(name, _)| name);
    let is_number = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    (is_number || name == "localhost") && !headers.contains_key(header::ORIGIN)
}

fn text(status: StatusCode, body: String) -> Response {
    (status, body).into_response()
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
    let mut stdin_end = stdin_end(shared.settings.stop_with_stdin);
    loop {
        // The end of standard input comes beside a signal when the parent ends: it is no second one.
        let again_means_now = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => true,
            Some(()) = stdin_end.recv() => false,
        };
        match shared.ask_to_stop() {
            Asked::Passed => {
                tracing::info!("stopping: handing over");
                let logs = logs.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(STOP_PATIENCE).await;
                    tracing::error!("handing over took too long: ending now");
                    logs.flush();
                    std::process::exit(1);
                });
            }
            Asked::NothingRuns => {
                logs.flush();
                std::process::exit(0);
            }
            Asked::Again if again_means_now => {
                logs.flush();
                std::process::exit(1);
            }
            Asked::Again => {}
        }
    }
}

/// Says once that standard input has ended, if that is wanted.
pub(crate) fn stdin_end(wanted: bool) -> tokio::sync::mpsc::Receiver<()> {
    let (ended, end) = tokio::sync::mpsc::channel(1);
    if wanted {
        std::thread::spawn(move || {
            let mut sink = [0; 64];
            while std::io::stdin().read(&mut sink).is_ok_and(|len| len > 0) {}
            let _ = ended.blocking_send(());
        });
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_goes_by_a_name_of_its_own_gives_no_orders() {
        let asked = |host: &str, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().expect("a value"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().expect("a value"));
            }
            is_asked_by_number(&Uri::from_static("/api/v1/admin/join"), &headers)
        };
        for host in [
            "127.0.0.1:8001",
            "127.0.0.1",
            "[::1]:8001",
            "localhost:8001",
        ] {
            assert!(asked(host, None), "{host}");
            assert!(!asked(host, Some("http://127.0.0.1:8001")), "{host}");
        }
        for host in [
            "evil.example:8001",
            "evil.example",
            "127.0.0.1.evil.example:80",
            "",
        ] {
            assert!(!asked(host, None), "{host}");
        }
    }
}
