//! CONFIG: what tools look up on connect. Nothing is set here: a node's configuration is its file.

use kvorum_kv::glob::matches;
use kvorum_kv::printed;
use kvorum_resp::{Args, Replies};

use crate::config::Config;
use crate::limits;

/// The names that Redis tools ask for, with what is true here.
fn values(config: &Config) -> Vec<(&'static str, String)> {
    let port = config
        .members
        .get(&config.node)
        .map_or(0, |member| member.port);
    vec![
        ("appendfsync", "always".to_owned()),
        ("appendonly", "yes".to_owned()),
        ("cluster-enabled", "yes".to_owned()),
        (
            "cluster-node-timeout",
            (u64::from(config.election_ticks_max) * config.tick_ms).to_string(),
        ),
        ("databases", "1".to_owned()),
        (
            "maxmemory",
            config.memory_bytes_max.unwrap_or(0).to_string(),
        ),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", port.to_string()),
        ("proto-max-bulk-len", limits::VALUE_BYTES_MAX.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ]
}

/// CONFIG GET.
pub(crate) fn get(config: &Config, args: Args<'_>, replies: &mut Replies<'_>) {
    let patterns: Vec<Vec<u8>> = (2..args.len())
        .map(|at| args.get(at).to_ascii_lowercase())
        .collect();
    let found: Vec<(&str, String)> = values(config)
        .into_iter()
        .filter(|(name, _)| {
            patterns
                .iter()
                .any(|pattern| matches(pattern, name.as_bytes()))
        })
        .collect();
    replies.map(found.len());
    for (name, value) in found {
        replies.bulk(name.as_bytes());
        replies.bulk(value.as_bytes());
    }
}

/// CONFIG SET: what is known is not set here, anything else is not known.
pub(crate) fn set(config: &Config, args: Args<'_>, replies: &mut Replies<'_>) {
    if !args.len().is_multiple_of(2) {
        return replies.error("ERR syntax error");
    }
    let known = values(config);
    let mut names = args.iter().skip(2).step_by(2);
    let is_known = |name: &[u8]| {
        known
            .iter()
            .any(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
    };
    let text = match names.find(|name| !is_known(name)) {
        Some(name) => [
            &b"ERR Unknown option or number of arguments for CONFIG SET - '"[..],
            printed(name),
            b"'",
        ],
        None => [
            &b"ERR CONFIG SET failed - '"[..],
            printed(args.get(2)),
            b"' is set in the node's configuration file",
        ],
    };
    replies.error_bytes(&text.concat());
}
