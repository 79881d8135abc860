//! The same commands give the same state, whatever a replica did besides.

use kvorum_base::{Prng, UnixMillis};
use kvorum_kv::{Keyspace, Loader, View, apply, find, resolve};
use kvorum_resp::{ArgsBuf, Replies};

use crate::support::{Requests, SECRET, keyspace_at, request, view_and_load};

/// A replica: applies entries, and is otherwise left alone or disturbed.
struct Replica {
    keyspace: Keyspace,
    views: Vec<View>,
}

impl Replica {
    fn new() -> Self {
        Self {
            keyspace: keyspace_at(0),
            views: Vec::new(),
        }
    }

    /// Applies one entry; gives the stored replies.
    fn apply(&mut self, clock: u64, commands: &[Vec<u8>]) -> Vec<Vec<u8>> {
        self.keyspace.advance_clock(UnixMillis(clock));
        let replies = commands
            .iter()
            .map(|command| {
                let mut stored = Vec::new();
                apply(
                    &mut self.keyspace,
                    command,
                    &mut Replies::stored(&mut stored),
                );
                stored
            })
            .collect();
        self.keyspace.remove_expired(2);
        replies
    }

    /// What must change nothing: reads, views that come and go, freeing, another bookkeeping.
    fn disturb(&mut self, prng: &mut Prng, requests: &Requests) {
        match prng.below(6) {
            0 => self.views.push(self.keyspace.view()),
            1 if !self.views.is_empty() => {
                let number = prng.index(self.views.len());
                let view = &mut self.views[number];
                for _ in 0..prng.below(200) {
                    view.next_item();
                }
            }
            2 if !self.views.is_empty() => {
                self.views.swap_remove(prng.index(self.views.len()));
            }
            3 => drop(self.keyspace.take_garbage()),
            4 => self.keyspace.set_since_clock(prng.below(1000)),
            _ => {
                let read: ArgsBuf = ["GET".to_owned(), requests.key(prng)].iter().collect();
                request(&mut self.keyspace, &read);
            }
        }
    }
}

fn encoded(request: &ArgsBuf) -> Option<Vec<u8>> {
    let spec = find(request.as_args()).ok()?;
    let mut command = Vec::new();
    resolve(spec, request.as_args(), &mut command).ok()?;
    Some(command)
}

#[test]
fn replicas_agree_whatever_they_do_besides() {
    for seed in 0..6 {
        let mut prng = Prng::new(seed);
        let mut disturbance = prng.fork();
        let mut requests = Requests::new(if seed % 2 == 0 { 40 } else { 3000 });
        let mut quiet = Replica::new();
        let mut busy = Replica::new();
        let mut reloaded = Replica::new();
        let mut clock = 0;
        for entry in 0..2500 {
            clock += prng.below(30);
            let commands: Vec<Vec<u8>> = (0..prng.below(6))
                .filter_map(|_| encoded(&requests.draw_more(&mut prng)))
                .collect();
            let replies = quiet.apply(clock, &commands);
            for _ in 0..disturbance.below(4) {
                busy.disturb(&mut disturbance, &requests);
            }
            assert_eq!(
                busy.apply(clock, &commands),
                replies,
                "entry {entry} of seed {seed}"
            );
            if disturbance.chance(1, 50) {
                reloaded.keyspace = view_and_load(&reloaded.keyspace);
            }
            assert_eq!(
                reloaded.apply(clock, &commands),
                replies,
                "entry {entry} of seed {seed}"
            );
            let hash = quiet.keyspace.state_hash();
            assert_eq!(
                busy.keyspace.state_hash(),
                hash,
                "entry {entry} of seed {seed}"
            );
            assert_eq!(
                reloaded.keyspace.state_hash(),
                hash,
                "entry {entry} of seed {seed}"
            );
            requests.learn(&replies);
        }
        for replica in [&quiet, &busy, &reloaded] {
            replica.keyspace.check();
        }
        assert!(
            quiet.keyspace.len() > 10,
            "there was something to differ in"
        );
        assert!(quiet.keyspace.session_rows() > 0, "sessions were used");
    }
}

#[test]
fn whether_the_expired_was_removed_shows_in_no_reply() {
    for seed in 0..4 {
        let mut prng = Prng::new(50 + seed);
        let mut requests = Requests::new(if seed % 2 == 0 { 10 } else { 300 });
        let (mut prompt, mut never) = (keyspace_at(0), keyspace_at(0));
        let mut clock = 0;
        for step in 0..8000 {
            if prng.chance(1, 3) {
                clock += prng.below(100);
                prompt.advance_clock(UnixMillis(clock));
                never.advance_clock(UnixMillis(clock));
                while prompt.remove_expired(100) > 0 {}
            }
            let drawn = match prng.below(4) {
                0 => {
                    let verb = ["GET", "PTTL", "EXISTS", "STRLEN"][prng.index(4)];
                    [verb, &requests.key(&mut prng)].iter().collect()
                }
                _ => requests.draw(&mut prng),
            };
            let reply = request(&mut prompt, &drawn);
            let lazy = request(&mut never, &drawn);
            assert_eq!(reply, lazy, "step {step} of seed {seed}: {drawn:?}");
            assert_eq!(prompt.len(), never.len(), "step {step} of seed {seed}");
            requests.learn(&[reply]);
        }
        prompt.check();
        never.check();
    }
}

#[test]
fn one_differing_byte_shows_in_the_hash() {
    let mut hashes = std::collections::BTreeSet::new();
    for command in [
        &["SET", "k", "v"][..],
        &["SET", "k", "w"],
        &["SET", "k", "v", "PX", "5"],
        &["SET", "k", "v", "PX", "6"],
        &["SET", "l", "v"],
        &["MSET", "k", "v", "k", "v"],
        &["KVORUM.SESSION"],
        &["KVORUM.ONCE", "1-5000", "1", "SET", "k", "v"],
        &["KVORUM.ONCE", "1-5000", "2", "SET", "k", "v"],
        &["KVORUM.ONCE", "2-5000", "1", "SET", "k", "v"],
        &["KVORUM.ONCE", "1-6000", "1", "SET", "k", "v"],
        &["KVORUM.ONCE", "1-5000", "1", "SET", "k", "v", "GET"],
    ] {
        let mut keyspace = keyspace_at(0);
        request(&mut keyspace, &command.iter().collect());
        assert!(hashes.insert(keyspace.state_hash()), "{command:?}");
    }
    let mut keyspace = keyspace_at(0);
    request(&mut keyspace, &["SET", "k", "v"].iter().collect());
    request(&mut keyspace, &["DEL", "k"].iter().collect());
    assert!(
        hashes.insert(keyspace.state_hash()),
        "a removal leaves a trace"
    );
    keyspace.advance_clock(UnixMillis(1));
    assert!(
        hashes.insert(keyspace.state_hash()),
        "the clock is part of the state"
    );
    keyspace.raise_level(2);
    assert!(hashes.insert(keyspace.state_hash()), "so is the level");
}

#[test]
fn a_view_is_of_one_moment() {
    let mut prng = Prng::new(3);
    let mut requests = Requests::new(5000);
    let mut keyspace = keyspace_at(0);
    let mut run = |keyspace: &mut Keyspace, times: usize| {
        for _ in 0..times {
            let reply = request(keyspace, &requests.draw(&mut prng));
            requests.learn(&[reply]);
        }
    };
    run(&mut keyspace, 10_000);
    let hash = keyspace.state_hash();
    let mut view = keyspace.view();
    let mut loader = Loader::new(SECRET);
    while let Some(item) = view.next_item() {
        loader.load(item).expect("an item of a view");
        run(&mut keyspace, 1);
    }
    let loaded = loader.finish().expect("a whole view");
    loaded.check();
    assert_eq!(loaded.state_hash(), hash);
    assert_ne!(keyspace.state_hash(), hash);
    keyspace.check();
}

#[test]
fn views_and_garbage_can_go_to_another_thread() {
    fn can_be_sent<T: Send + 'static>(_: &T) {}
    let mut keyspace = keyspace_at(0);
    request(&mut keyspace, &["SET", "k", "v"].iter().collect());
    let mut view = keyspace.view();
    can_be_sent(&view);
    request(&mut keyspace, &["FLUSHALL"].iter().collect());
    let garbage = keyspace.take_garbage();
    assert_eq!(garbage.len(), 1);
    can_be_sent(&garbage);
    let items = std::iter::from_fn(|| view.next_item().map(|_| ())).count();
    assert_eq!(items, 3, "what a view holds is no garbage to it");
}

/// A pipeline of them is one entry, and costs a few bytes each.
#[test]
fn many_flushes_leave_little_garbage() {
    let mut keyspace = keyspace_at(0);
    for _ in 0..1000 {
        request(&mut keyspace, &["SET", "k", "v"].iter().collect());
        request(&mut keyspace, &["FLUSHALL"].iter().collect());
        request(&mut keyspace, &["FLUSHALL"].iter().collect());
    }
    assert!(keyspace.take_garbage().len() <= 1);
}

#[test]
fn garbage_goes_without_writes_too() {
    let mut keyspace = keyspace_at(0);
    for number in 0..20_000 {
        let key = format!("key:{number}");
        request(&mut keyspace, &["SET", &key, "value"].iter().collect());
    }
    request(&mut keyspace, &["FLUSHALL"].iter().collect());
    for _ in 0..20 {
        keyspace.free_garbage();
    }
    assert!(keyspace.take_garbage().is_empty());
}

#[test]
fn a_write_under_a_view_copies_one_bucket() {
    let mut keyspace = keyspace_at(0);
    for number in 0..20_000 {
        let key = format!("key:{number}");
        request(&mut keyspace, &["SET", &key, "value"].iter().collect());
    }
    assert_eq!(keyspace.bucket_copies(), 0, "nobody looked");
    let view = keyspace.view();
    for (number, command) in ["SET", "APPEND", "GETSET"].into_iter().enumerate() {
        let before = keyspace.bucket_copies();
        let key = format!("key:{}", number * 1000);
        request(&mut keyspace, &[command, &key, "other"].iter().collect());
        assert_eq!(keyspace.bucket_copies(), before + 1, "{command}");
        request(&mut keyspace, &[command, &key, "again"].iter().collect());
        assert_eq!(keyspace.bucket_copies(), before + 1, "{command}, again");
    }
    let before = keyspace.bucket_copies();
    request(&mut keyspace, &["GET", "key:7"].iter().collect());
    request(&mut keyspace, &["DEL", "absent"].iter().collect());
    request(&mut keyspace, &["SET", "key:7", "v", "NX"].iter().collect());
    assert_eq!(keyspace.bucket_copies(), before, "nothing was written");
    drop(view);
    let view = keyspace.view();
    request(&mut keyspace, &["DEL", "key:7"].iter().collect());
    assert_eq!(keyspace.bucket_copies(), before + 1);
    drop(view);
    let before = keyspace.bucket_copies();
    request(&mut keyspace, &["SET", "key:9", "v"].iter().collect());
    assert_eq!(keyspace.bucket_copies(), before, "nobody looks any more");
}
