//! What a router counts, as Prometheus reads it.

use kvorum_router::Status;
use kvorum_router::status::Counters;

use crate::metrics::{Counter, Page};

/// What the shell counts.
#[derive(Default, Debug)]
pub(crate) struct Metrics {
    /// Turns of the loop.
    pub(crate) turns: Counter,
    /// Clients refused since there were too many.
    pub(crate) clients_refused: Counter,
    /// Bytes to clients.
    pub(crate) client_bytes_out: Counter,
    /// Bytes to nodes.
    pub(crate) link_bytes_out: Counter,
}

/// A number: its name without `kvorum_router_`, and what it is.
type Figure<T> = (&'static str, &'static str, fn(&T) -> u64);

const COUNTED: &[Figure<Counters>] = &[
    ("commands", "Requests of clients.", |counters| {
        counters.commands
    }),
    ("client_bytes_in", "Bytes from clients.", |counters| {
        counters.input_bytes
    }),
    (
        "sent",
        "Requests and parts of them sent to nodes.",
        |counters| counters.sent,
    ),
    ("at_replicas", "Of those, sent to replicas.", |counters| {
        counters.at_replicas
    }),
    ("redirects", "Redirects followed.", |counters| {
        counters.redirects
    }),
    (
        "waits",
        "Times that a request had to wait to be sent again.",
        |counters| counters.parked,
    ),
    ("splits", "Requests over several slots.", |counters| {
        counters.splits
    }),
    ("sweeps", "Requests over the whole keyspace.", |counters| {
        counters.sweeps
    }),
    (
        "unknown",
        "Requests whose outcome is unknown.",
        |counters| counters.unknown,
    ),
    (
        "timeouts",
        "Requests refused at their deadline.",
        |counters| counters.timeouts,
    ),
    ("maps", "Maps of the cluster learnt.", |counters| {
        counters.maps
    }),
    ("links_broken", "Links to nodes that broke.", |counters| {
        counters.links_broken
    }),
];

const NOW: &[Figure<Status>] = &[
    ("clients", "Clients connected.", |status| status.clients),
    (
        "requests_waiting",
        "Requests without an answer yet.",
        |status| status.pieces as u64,
    ),
    ("request_bytes_waiting", "Their bytes.", |status| {
        status.piece_bytes as u64
    }),
    ("slots_known", "Slots whose owner is known.", |status| {
        status.slots_known as u64
    }),
    ("memory_bytes", "Resident memory.", |status| {
        status.process.memory_bytes
    }),
];

const SHELL: &[Figure<Metrics>] = &[
    ("turns", "Turns of the loop.", |metrics| metrics.turns.get()),
    (
        "clients_refused",
        "Connections refused: too many.",
        |metrics| metrics.clients_refused.get(),
    ),
    ("client_bytes_out", "Bytes to clients.", |metrics| {
        metrics.client_bytes_out.get()
    }),
    ("link_bytes_out", "Bytes to nodes.", |metrics| {
        metrics.link_bytes_out.get()
    }),
];

fn counter(page: &mut Page, name: &str, help: &str, value: u64) {
    let name = format!("router_{name}_total");
    page.family(&name, help, "counter");
    page.sample(&name, &[], value);
}

/// What the shell has counted.
pub(crate) fn write_shell(metrics: &Metrics, page: &mut Page) {
    for (name, help, value) in SHELL {
        counter(page, name, help, value(metrics));
    }
}

/// What the brain has counted, and how it is now.
pub(crate) fn write_status(status: &Status, page: &mut Page) {
    for (name, help, value) in COUNTED {
        counter(page, name, help, value(&status.counters));
    }
    counter(
        page,
        "clients_accepted",
        "Connections of clients.",
        status.clients_opened,
    );
    counter(
        page,
        "error_replies",
        "Error replies to clients.",
        status.errors,
    );
    for (name, help, value) in NOW {
        let name = format!("router_{name}");
        page.family(&name, help, "gauge");
        page.sample(&name, &[], value(status));
    }
    page.family("router_links", "Links to a node that are up.", "gauge");
    for node in &status.nodes {
        page.sample("router_links", &[("node", &node.address)], node.links_up);
    }
    page.family("router_unanswered", "Requests at a node.", "gauge");
    for node in &status.nodes {
        page.sample(
            "router_unanswered",
            &[("node", &node.address)],
            node.unanswered,
        );
    }
}
