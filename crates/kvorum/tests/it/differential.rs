//! kvorum against the real thing: the same requests to a Redis and to a kvorum of one node, and every
//! reply compared byte by byte.
//!
//! The requests are random and of every family that kvorum has: right ones, and wrong ones of every
//! kind, since clients and tools live by the words of errors too. What may differ is listed, with
//! reasons, in [`permitted`] and beside the few requests that are compared as a whole (SCAN, counts of
//! keys, the table of commands).
//!
//! kvorum speaks as Redis 7.2 does; distributions carry 7.0 as well. Where the two differ, the request
//! is not sent at random: see [`table`].
//!
//! `KVORUM_SEED` repeats one seed, `KVORUM_DIFFERENTIAL_REQUESTS` says how many requests each gets.
//! Without a `redis-server` there is nothing to compare with: the tests say so and pass, except where
//! `KVORUM_CI` is set.

mod others;
mod permitted;
mod requests;
mod run;
mod servers;
mod table;
mod transactions;

use std::collections::BTreeMap;

use crate::process::{TempDir, my_turn};
use run::Run;
use servers::Servers;

const SEEDS: [u64; 3] = [1, 2, 3];
const REQUESTS_EACH: u64 = 25_000;

/// Both servers, or nothing where there is only one.
fn both(dir: &TempDir) -> Option<Servers> {
    let servers = Servers::start(dir);
    if servers.is_none() {
        assert!(
            std::env::var_os("KVORUM_CI").is_none(),
            "there is no redis-server on the PATH"
        );
        println!("ignored: there is no redis-server on the PATH to compare with");
    }
    servers
}

fn number_of(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn random_requests_are_answered_as_redis_answers_them() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let Some(servers) = both(&dir) else { return };
    let seeds = match number_of("KVORUM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let fresh = u64::from(std::process::id()) << 32 | u64::from(servers.ports[0]);
            [&SEEDS[..], &[fresh]].concat()
        }
    };
    let requests = number_of("KVORUM_DIFFERENTIAL_REQUESTS").unwrap_or(REQUESTS_EACH);
    let mut found = BTreeMap::new();
    for seed in seeds {
        println!("KVORUM_SEED={seed}, {requests} requests");
        let mut run = Run::new(&servers, seed);
        run.requests(requests);
        found.extend(run.into_differences());
    }
    report(&found.into_values().collect::<Vec<_>>());
}

#[test]
fn the_table_of_commands_is_that_of_redis() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let Some(servers) = both(&dir) else { return };
    report(&table::differences(&servers));
}

fn report(found: &[String]) {
    assert!(
        found.is_empty(),
        "{} kinds of differences:\n{}",
        found.len(),
        found.join("\n")
    );
}
