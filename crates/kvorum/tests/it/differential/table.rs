//! The table of commands, as COMMAND tells it: what kvorum says of a command is what Redis says.
//!
//! Redis 7.2 says some things otherwise than 7.0 does: [`SINCE_7_2`]. Not compared: which commands there
//! are, what they are for in words, arguments and history in COMMAND DOCS, and kvorum's own commands.

use std::collections::{BTreeMap, BTreeSet};

use super::servers::{Link, Servers, Value};

/// What is not in a Redis 7.0, or said otherwise there.
const SINCE_7_2: &[&str] = &["client|no-touch", "client|setinfo", "cluster|myshardid"];

/// Commands that Redis calls deprecated only since 7.2.
const DEPRECATED_SINCE_7_2: &[&str] = &["setnx", "setex", "psetex", "quit"];

/// The parts of a command's description, with the names that are told.
const PARTS: [&str; 9] = [
    "name",
    "arity",
    "flags",
    "first key",
    "last key",
    "step",
    "categories",
    "tips",
    "key specifications",
];

pub(super) fn differences(servers: &Servers) -> Vec<String> {
    let mut links = servers.ports.map(Link::connect);
    let mut found = Vec::new();
    for version in ["2", "3"] {
        for link in &mut links {
            link.ask(&["HELLO", version]);
        }
        let [redis, kvorum] = links
            .each_mut()
            .map(|link| described(&link.ask(&["COMMAND"])));
        compare(&redis, &kvorum, &mut found);
        for name in kvorum.keys().filter(|name| !is_new(name)) {
            let [redis, kvorum] = links.each_mut().map(|link| documented(link, name));
            if redis != kvorum {
                found.push(format!("docs of {name}: redis {redis:?} kvorum {kvorum:?}"));
            }
        }
        lists(&mut links, &kvorum, &mut found);
    }
    let count = Value::of(&links[1].ask(&["COMMAND", "COUNT"])).text();
    let listed = Value::of(&links[1].ask(&["COMMAND", "LIST"]));
    if listed.elements().len().to_string() != count {
        found.push(format!(
            "COMMAND COUNT says {count}, COMMAND LIST {}",
            listed.elements().len()
        ));
    }
    found
}

fn is_new(name: &str) -> bool {
    name.starts_with("kvorum.") || SINCE_7_2.contains(&name)
}

/// All commands and subcommands of an answer to COMMAND, by name.
fn described(reply: &[u8]) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut rest = Value::of(reply).elements().to_vec();
    while let Some(command) = rest.pop() {
        rest.extend_from_slice(command.elements()[9].elements());
        all.insert(command.elements()[0].text(), command);
    }
    all
}

fn compare(
    redis: &BTreeMap<String, Value>,
    kvorum: &BTreeMap<String, Value>,
    found: &mut Vec<String>,
) {
    for (name, ours) in kvorum.iter().filter(|(name, _)| !is_new(name)) {
        let Some(theirs) = redis.get(name) else {
            found.push(format!("{name} is no command of Redis"));
            continue;
        };
        for (at, part) in PARTS.iter().enumerate() {
            let [theirs, ours] = [theirs, ours].map(|command| told(&command.elements()[at]));
            if theirs != ours {
                found.push(format!("{part} of {name}: redis {theirs} kvorum {ours}"));
            }
        }
    }
}

/// A reply on one line.
fn told(value: &Value) -> String {
    match value {
        Value::Line(kind, _) => format!("{}{}", *kind as char, value.text()),
        Value::Bulk(..) => value.text(),
        Value::List(kind, elements) => {
            let elements: Vec<String> = elements.iter().map(told).collect();
            format!("{}({})", *kind as char, elements.join(" "))
        }
    }
}

/// What COMMAND DOCS says of since when a command is there, of what group it is, and whether there is
/// something better.
fn documented(link: &mut Link, name: &str) -> Vec<(String, String)> {
    let reply = Value::of(&link.ask(&["COMMAND", "DOCS", name]));
    let Some(fields) = reply.elements().get(1) else {
        return Vec::new();
    };
    let own = if DEPRECATED_SINCE_7_2.contains(&name) {
        &["since", "group"][..]
    } else {
        &[
            "since",
            "group",
            "doc_flags",
            "deprecated_since",
            "replaced_by",
        ]
    };
    let pairs = fields.elements().chunks(2);
    pairs
        .map(|pair| (pair[0].text(), told(&pair[1])))
        .filter(|(field, _)| own.contains(&field.as_str()))
        .collect()
}

/// COMMAND LIST, of the commands that kvorum has.
fn lists(links: &mut [Link; 2], kvorum: &BTreeMap<String, Value>, found: &mut Vec<String>) {
    let categories = [
        "keyspace",
        "read",
        "write",
        "string",
        "admin",
        "fast",
        "slow",
        "dangerous",
        "connection",
        "transaction",
        "FAST",
    ];
    let patterns = ["*", "get*", "GET*", "c*|*", "*set", "[de]*", "client|*"];
    let filters = categories
        .map(|name| ["ACLCAT", name])
        .into_iter()
        .chain(patterns.map(|pattern| ["PATTERN", pattern]));
    for [kind, value] in filters {
        let names = links.each_mut().map(|link| {
            let reply = Value::of(&link.ask(&["COMMAND", "LIST", "FILTERBY", kind, value]));
            let names = reply.elements().iter().map(Value::text);
            names
                .filter(|name| kvorum.contains_key(name) && !is_new(name))
                .collect::<BTreeSet<String>>()
        });
        if names[0] != names[1] {
            let only: Vec<_> = names[0].symmetric_difference(&names[1]).collect();
            found.push(format!(
                "COMMAND LIST FILTERBY {kind} {value}: only one has {only:?}"
            ));
        }
    }
}
