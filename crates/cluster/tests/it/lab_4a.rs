//! The 6.824 course's tests of the shard controller (lab 4A), with the checks that they mean.
//!
//! Three replicas of the state apply one log of encoded entries, as consensus would give it to them; one
//! that is shut down misses entries, and starts again from what it kept. Ten slots; the course's
//! group ids are names of shards, so a name may come back and the group behind it is another. Its
//! server names are hosts of nodes.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::{Index, Prng};
use kvorum_cluster::{
    Command, Config, ConfigNumber, IssuerId, NewShard, NoConfig, Reply, Request, ShardRef,
    SlotRuns, State,
};

use crate::support::{plan, register};

const SLOTS: u16 = 10;

/// A config as the course shows it: number, group of each shard, servers of each group. Group 0 is none.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Shown {
    number: u64,
    shards: Vec<u64>,
    groups: BTreeMap<u64, Vec<String>>,
}

/// One server: what it keeps over a restart is its snapshot.
struct Server {
    state: Option<State>,
    kept: Vec<u8>,
    applied: usize,
}

struct Controller {
    log: Vec<Vec<u8>>,
    servers: Vec<Server>,
    hosts: BTreeMap<String, u64>,
}

impl Controller {
    fn new() -> Self {
        let mut planned = plan(SLOTS, 3, 0, 3);
        planned.last_shard_may_leave = true;
        let state = State::initial(&planned).expect("a plan");
        let server = || Server {
            state: Some(state.clone()),
            kept: state.encode(),
            applied: 0,
        };
        Self {
            log: Vec::new(),
            servers: vec![server(), server(), server()],
            hosts: BTreeMap::new(),
        }
    }

    /// Puts an entry into the log; every server that is up applies it.
    fn submit(&mut self, request: &Request) -> Reply {
        self.log.push(request.encode());
        let mut replies = Vec::new();
        for server in 0..self.servers.len() {
            replies.extend(self.catch_up(server));
        }
        replies.dedup();
        assert_eq!(replies.len(), 1, "servers that are up answer alike");
        replies.remove(0)
    }

    fn catch_up(&mut self, server: usize) -> Option<Reply> {
        let server = &mut self.servers[server];
        let state = server.state.as_mut()?;
        let mut reply = None;
        for entry in &self.log[server.applied..] {
            server.applied += 1;
            let request = Request::decode(entry).expect("it was encoded");
            reply = Some(state.apply(Index(server.applied as u64), &request));
            assert_eq!(state.check(), Ok(()));
        }
        reply
    }

    fn shut_down(&mut self, server: usize) {
        let server = &mut self.servers[server];
        server.kept = server.state.take().expect("it was up").encode();
    }

    fn start(&mut self, server: usize) {
        let kept = &mut self.servers[server];
        kept.state = Some(State::decode(&kept.kept).expect("it was encoded"));
        self.catch_up(server);
    }

    fn run(&mut self, command: Command) -> Reply {
        let reply = self.submit(&command.into());
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        reply
    }

    fn open_issuer(&mut self) -> IssuerId {
        match self.run(Command::OpenIssuer) {
            Reply::Issuer(issuer) => issuer,
            other => panic!("{other:?}"),
        }
    }

    /// The command of the course's Join; the hosts it names become nodes first.
    fn joining(&mut self, groups: &[(u64, &[&str])]) -> Command {
        let mut shards = Vec::new();
        for (gid, hosts) in groups {
            let mut nodes = Vec::new();
            for host in *hosts {
                let fresh = self.hosts.len() as u64 + 1;
                let directory = *self.hosts.entry((*host).to_owned()).or_insert(fresh);
                match self.run(register(directory, host)) {
                    Reply::Node(node) => nodes.push(node),
                    other => panic!("{other:?}"),
                }
            }
            shards.push(NewShard {
                name: gid.to_string(),
                wanted: nodes.len() as u8,
                nodes,
            });
        }
        Command::Join { shards }
    }

    fn join(&mut self, groups: &[(u64, &[&str])]) {
        let command = self.joining(groups);
        self.run(command);
    }

    fn leave(&mut self, gids: &[u64]) {
        self.run(leaving(gids));
    }

    /// Query at one server; -1 and numbers that are not made yet give the newest.
    fn query_at(&self, server: usize, number: i64) -> Shown {
        let state = self.servers[server].state.as_ref().expect("it is up");
        let newest = state.newest();
        let config = match u64::try_from(number) {
            Ok(number) => match state.configs().query(ConfigNumber(number)) {
                Ok(config) => config,
                Err(NoConfig::Future(_)) => newest.clone(),
                Err(NoConfig::Forgotten(oldest)) => panic!("{number} is before {oldest}"),
            },
            Err(_) => newest.clone(),
        };
        shown(state, &config)
    }

    /// Query at all servers that are up, which say the same.
    fn query(&self, number: i64) -> Shown {
        let up = (0..3).filter(|server| self.servers[*server].state.is_some());
        let mut all: Vec<Shown> = up.map(|server| self.query_at(server, number)).collect();
        all.dedup();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// The course's check: exactly these groups, every shard in one of them, and evenly.
    fn check(&self, gids: &[u64]) -> Shown {
        let config = self.query(-1);
        let expected: BTreeSet<u64> = gids.iter().copied().collect();
        let present: BTreeSet<u64> = config.groups.keys().copied().collect();
        assert_eq!(present, expected);
        if gids.is_empty() {
            assert_eq!(config.shards, vec![0; usize::from(SLOTS)]);
            return config;
        }
        let count = |gid: &u64| config.shards.iter().filter(|shard| *shard == gid).count();
        assert!(
            config.shards.iter().all(|gid| present.contains(gid)),
            "{config:?}"
        );
        let counts: Vec<usize> = gids.iter().map(count).collect();
        let (least, most) = (counts.iter().min(), counts.iter().max());
        assert!(most <= least.map(|least| least + 1).as_ref(), "{config:?}");
        config
    }
}

fn leaving(gids: &[u64]) -> Command {
    Command::Leave {
        shards: gids
            .iter()
            .map(|gid| ShardRef::Name(gid.to_string()))
            .collect(),
    }
}

fn shown(state: &State, config: &Config) -> Shown {
    let gid = |name: &str| name.parse::<u64>().expect("a number");
    let host = |node| state.nodes()[node].addresses.client.host.clone();
    Shown {
        number: config.number.get(),
        shards: config
            .slots
            .cells()
            .iter()
            .map(|shard| shard.map_or(0, |shard| gid(&config.shards[&shard].name)))
            .collect(),
        groups: config
            .shards
            .values()
            .map(|shard| (gid(&shard.name), shard.nodes.iter().map(host).collect()))
            .collect(),
    }
}

/// Shards change their group only if the group is gone, or towards one of the new groups.
fn only_what_must(before: &Shown, after: &Shown) {
    for (shard, (from, to)) in before.shards.iter().zip(&after.shards).enumerate() {
        let left = !after.groups.contains_key(from);
        let joined = !before.groups.contains_key(to);
        assert!(
            from == to || left || joined,
            "shard {shard}: {before:?} {after:?}"
        );
    }
}

/// Clerks at the same time: each runs its commands in order, numbered, and repeats some of them, since
/// its replies are lost now and then; the log has all of them in some order.
fn concurrently(controller: &mut Controller, mut clerks: Vec<Vec<Command>>, prng: &mut Prng) {
    let issuers: Vec<IssuerId> = clerks.iter().map(|_| controller.open_issuer()).collect();
    let mut sent = vec![0; clerks.len()];
    let mut last: Vec<Option<(Request, Reply)>> = vec![None; clerks.len()];
    while clerks.iter().any(|clerk| !clerk.is_empty()) {
        let clerk = prng.index(clerks.len());
        if let Some((request, reply)) = &last[clerk]
            && prng.chance(1, 2)
        {
            assert_eq!(controller.submit(request), *reply, "the same answer again");
            continue;
        }
        if clerks[clerk].is_empty() {
            continue;
        }
        let command = clerks[clerk].remove(0);
        sent[clerk] += 1;
        let request = Request {
            once: Some((issuers[clerk], sent[clerk])),
            command,
        };
        let reply = controller.submit(&request);
        assert!(
            !matches!(reply, Reply::Refused(_)),
            "{request:?}: {reply:?}"
        );
        last[clerk] = Some((request, reply));
    }
}

#[test]
fn lab_4a_basic() {
    let mut controller = Controller::new();
    // Basic leave and join.
    let mut saved = vec![controller.check(&[])];
    assert_eq!(saved[0].number, 0);
    controller.join(&[(1, &["x", "y", "z"])]);
    saved.push(controller.check(&[1]));
    controller.join(&[(2, &["a", "b", "c"])]);
    let both = controller.check(&[1, 2]);
    assert_eq!(both.groups[&1], ["x", "y", "z"]);
    assert_eq!(both.groups[&2], ["a", "b", "c"]);
    saved.push(both);
    controller.leave(&[1]);
    saved.push(controller.check(&[2]));
    controller.leave(&[2]);
    saved.push(controller.check(&[]));

    // Historical queries, with each server shut down in turn and started again.
    for server in 0..3 {
        controller.shut_down(server);
        for config in &saved {
            assert_eq!(controller.query(config.number as i64), *config);
        }
        controller.run(Command::OpenIssuer);
        controller.start(server);
        for config in &saved {
            assert_eq!(controller.query_at(server, config.number as i64), *config);
        }
    }
    assert_eq!(controller.query(1_000_000), controller.query(-1));

    // Move.
    let hosts: [&[&str]; 2] = [&["3a", "3b", "3c"], &["4a", "4b", "4c"]];
    controller.join(&[(503, hosts[0])]);
    controller.join(&[(504, hosts[1])]);
    for shard in 0..SLOTS {
        let before = controller.query(-1);
        let to = if shard < SLOTS / 2 { 503 } else { 504 };
        controller.run(Command::Assign {
            slots: SlotRuns::run(shard, shard),
            shard: ShardRef::Name(to.to_string()),
        });
        let after = controller.query(-1);
        assert_eq!(after.shards[usize::from(shard)], to);
        let grew = after.number > before.number;
        assert_eq!(grew, before.shards[usize::from(shard)] != to);
    }
    let moved = controller.query(-1).shards;
    assert_eq!(moved, [503, 503, 503, 503, 503, 504, 504, 504, 504, 504]);
    controller.leave(&[503]);
    controller.leave(&[504]);
    controller.check(&[]);
}

#[test]
fn lab_4a_concurrent_leave_join_and_minimal_transfers() {
    for seed in 0..20 {
        let mut controller = Controller::new();
        let mut prng = Prng::new(seed);
        let gids: Vec<u64> = (0..10).map(|clerk| 100 + 10 * clerk).collect();
        let clerks = gids
            .iter()
            .map(|gid| {
                let (extra, own) = (format!("{gid}e"), format!("{gid}o"));
                vec![
                    controller.joining(&[(gid + 1000, &[&extra])]),
                    controller.joining(&[(*gid, &[&own])]),
                    leaving(&[gid + 1000]),
                ]
            })
            .collect();
        concurrently(&mut controller, clerks, &mut prng);
        let c1 = controller.check(&gids);
        assert!(
            gids.iter().all(|gid| c1.shards.contains(gid)),
            "one shard each"
        );

        // Minimal transfers after joins, then after leaves.
        let mut before = c1.clone();
        for gid in 11..=15 {
            let host = format!("{gid}a");
            controller.join(&[(gid, &[&host])]);
            let after = controller.query(-1);
            only_what_must(&before, &after);
            before = after;
        }
        let c2 = controller.query(-1);
        assert_eq!(
            c2.shards, c1.shards,
            "ten groups for ten shards: nothing has to move"
        );
        for gid in 11..=15 {
            controller.leave(&[gid]);
        }
        let c3 = controller.check(&gids);
        only_what_must(&c2, &c3);
    }
}

#[test]
fn lab_4a_multi_group_join_leave() {
    let mut controller = Controller::new();
    controller.join(&[(1, &["x", "y", "z"]), (2, &["a", "b", "c"])]);
    controller.check(&[1, 2]);
    controller.join(&[(3, &["j", "k", "l"])]);
    let three = controller.check(&[1, 2, 3]);
    assert_eq!(three.groups[&1], ["x", "y", "z"]);
    assert_eq!(three.groups[&2], ["a", "b", "c"]);
    assert_eq!(three.groups[&3], ["j", "k", "l"]);
    controller.leave(&[1, 3]);
    let two = controller.check(&[2]);
    assert_eq!(two.groups[&2], ["a", "b", "c"]);
    controller.leave(&[2]);
    controller.check(&[]);
}

#[test]
fn lab_4a_concurrent_multi_leave_join_and_minimal_transfers() {
    for seed in 0..20 {
        let mut controller = Controller::new();
        let mut prng = Prng::new(seed);
        let gids: Vec<u64> = (1000..1010).collect();
        let clerks = gids
            .iter()
            .map(|gid| {
                let host = |end: &str| format!("{gid}{end}");
                let (a, b, c, d, e) = (host("a"), host("b"), host("c"), host("d"), host("e"));
                let joining = controller.joining(&[
                    (*gid, &[&a, &b, &c]),
                    (gid + 1000, &[&d]),
                    (gid + 2000, &[&e]),
                ]);
                vec![joining, leaving(&[gid + 1000, gid + 2000])]
            })
            .collect();
        concurrently(&mut controller, clerks, &mut prng);
        let c1 = controller.check(&gids);

        let hosts: Vec<String> = (0..10).map(|host| format!("m{host}")).collect();
        let pairs: Vec<[&str; 2]> = hosts
            .chunks(2)
            .map(|pair| [pair[0].as_str(), pair[1].as_str()])
            .collect();
        let joined: Vec<(u64, &[&str])> = (11..=15)
            .zip(&pairs)
            .map(|(gid, pair)| (gid, pair.as_slice()))
            .collect();
        controller.join(&joined);
        let c2 = controller.query(-1);
        only_what_must(&c1, &c2);
        controller.leave(&[11, 12, 13, 14, 15]);
        let c3 = controller.check(&gids);
        only_what_must(&c2, &c3);

        // The same config on the servers that are left when one goes.
        for leader in 0..3 {
            let config = controller.query_at(leader, -1);
            controller.shut_down(leader);
            assert_eq!(controller.query(-1), config);
            controller.start(leader);
        }
    }
}

#[test]
fn lab_4a_minimal_again() {
    let mut controller = Controller::new();
    controller.join(&[(1, &["x", "y", "z"])]);
    controller.join(&[(2, &["a", "b", "c"])]);
    let c1 = controller.check(&[1, 2]);
    controller.join(&[(3, &["j", "k", "l"])]);
    let c2 = controller.check(&[1, 2, 3]);
    only_what_must(&c1, &c2);
    controller.leave(&[1]);
    let c3 = controller.check(&[2, 3]);
    only_what_must(&c2, &c3);
    for (before, after) in [(&c1, &c2), (&c2, &c3)] {
        let pairs = before.shards.iter().zip(&after.shards);
        assert!(pairs.filter(|(a, b)| a != b).count() <= 10 / 3 + 1);
    }
}

#[test]
fn lab_4a_a_group_id_comes_back_as_another_group() {
    let mut controller = Controller::new();
    controller.join(&[(1, &["x"])]);
    let first = controller.servers[0]
        .state
        .as_ref()
        .expect("up")
        .newest()
        .clone();
    controller.join(&[(2, &["y"])]);
    controller.leave(&[1]);
    controller.join(&[(1, &["z"])]);
    let again = controller.check(&[1, 2]);
    assert_eq!(again.groups[&1], ["z"]);
    let second = controller.servers[0]
        .state
        .as_ref()
        .expect("up")
        .newest()
        .clone();
    let group = |config: &Config| {
        let mut named = config.shards.iter().filter(|(_, shard)| shard.name == "1");
        *named.next().expect("it is there").0
    };
    assert_ne!(group(&first), group(&second));
}
