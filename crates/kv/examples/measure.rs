//! Measures what the keyspace costs: bytes a key, time a command, time of views. Run it with
//! `cargo run --release --example measure -p kvorum-kv`; figures of different hours do not compare.
//! Times are processor time of this process, since a measuring machine is seldom alone.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kvorum_base::{Prng, SessionId, SlotSet, UnixMillis};
use kvorum_kv::{Command, Delta, Keyspace, Loader, WARM_KEYS_MAX, find, read, resolve};
use kvorum_resp::{ArgsBuf, OutBuf, Replies, Version};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
const SECRET: [u8; 16] = *b"0123456789abcdef";

fn key(number: u64) -> Vec<u8> {
    format!("key:{number:012}").into_bytes()
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number of pages");
    pages * 4096
}

/// Processor time used so far, in steps of 10 ms.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("proc is mounted");
    let after_name = stat.rsplit(')').next().expect("a line");
    let ticks: u64 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().expect("a number of ticks"))
        .sum();
    Duration::from_millis(ticks * 10)
}

/// Runs something so many times on random keys; prints nanoseconds for one.
fn time(what: &str, times: u64, mut run: impl FnMut(u64)) {
    let mut prng = Prng::new(7);
    let start = processor_time();
    for _ in 0..times {
        run(prng.below(KEYS));
    }
    let nanos = (processor_time() - start).as_nanos() as f64 / times as f64;
    println!("{what:<40} {nanos:8.0} ns");
}

fn request(words: &[&[u8]]) -> ArgsBuf {
    words.iter().collect()
}

fn encoded(words: &[&[u8]]) -> Vec<u8> {
    let args = request(words);
    let mut out = Vec::new();
    let spec = find(args.as_args()).expect("a command");
    resolve(spec, args.as_args(), &mut out).expect("a right one");
    out
}

fn apply(keyspace: &mut Keyspace, command: &[u8]) {
    Command::decode(command).apply(keyspace, &mut Replies::nobody());
}

fn main() {
    let value = [b'v'; 100];
    let mut keyspace = Keyspace::new(SECRET);
    keyspace.advance_clock(UnixMillis(1_700_000_000_000));
    let mut order: Vec<u32> = (0..KEYS as u32).collect();
    Prng::new(1).shuffle(&mut order);
    let before = resident_bytes();
    let start = processor_time();
    let mut command = Vec::new();
    for number in order {
        command.clear();
        command.extend(encoded(&[b"SET", &key(u64::from(number)), &value]));
        apply(&mut keyspace, &command);
    }
    let used = resident_bytes() - before;
    println!(
        "filled in {:.2} s; {} bytes a key of 16 + 100",
        (processor_time() - start).as_secs_f64(),
        used / KEYS
    );
    time("make a key's name (to subtract)", 1_000_000, |number| {
        black_box(key(number));
    });
    time("get", 2_000_000, |number| {
        black_box(keyspace.get(&key(number)).is_some());
    });
    let mut out = OutBuf::new();
    time("GET from request to reply", 2_000_000, |number| {
        let args = request(&[b"GET", &key(number)]);
        let spec = find(args.as_args()).expect("a command");
        let mut replies = Replies::client(&mut out, Version::Resp2);
        read(spec, args.as_args(), &keyspace, &mut replies);
        let len = out.len();
        out.advance(len);
    });
    time(
        "request and encode a SET (to subtract)",
        1_000_000,
        |number| {
            black_box(encoded(&[b"SET", &key(number), &value]));
        },
    );
    time("SET, value of the same length", 1_000_000, |number| {
        apply(&mut keyspace, &encoded(&[b"SET", &key(number), &value]));
    });
    time("SET, value of another length", 1_000_000, |number| {
        let len = 90 + number as usize % 10;
        apply(
            &mut keyspace,
            &encoded(&[b"SET", &key(number), &value[..len]]),
        );
    });
    for warm in [false, true] {
        groups(&mut keyspace, &value, warm);
    }
    views(&mut keyspace, &value);
    differences(&mut keyspace, &value);
}

/// Groups of commands as they lie in an entry, with and without fetching ahead.
fn groups(keyspace: &mut Keyspace, value: &[u8], warm: bool) {
    const GROUPS: u32 = 50_000;
    let mut prng = Prng::new(8);
    let mut taken = Duration::ZERO;
    for _ in 0..GROUPS {
        let group: Vec<_> = (0..WARM_KEYS_MAX)
            .map(|_| encoded(&[b"SET", &key(prng.below(KEYS)), value]))
            .collect();
        let group: Vec<_> = group.iter().map(|bytes| Command::decode(bytes)).collect();
        let start = Instant::now();
        if warm {
            keyspace.warm(group.iter().flat_map(Command::keys));
        }
        for command in &group {
            command.apply(keyspace, &mut Replies::nobody());
        }
        taken += start.elapsed();
    }
    let nanos = taken.as_nanos() / u128::from(GROUPS) / WARM_KEYS_MAX as u128;
    let what = format!("SET, apply alone, fetched ahead: {warm}");
    println!("{what:<40} {nanos:8} ns");
}

fn views(keyspace: &mut Keyspace, value: &[u8]) {
    let start = Instant::now();
    let mut view = keyspace.view();
    println!(
        "{:<40} {:8.1} us",
        "view",
        start.elapsed().as_nanos() as f64 / 1e3
    );
    let (mut worst, mut total, before) = (0, 0, keyspace.bucket_copies());
    let mut prng = Prng::new(9);
    let writes = 100_000;
    for _ in 0..writes {
        let command = encoded(&[b"SET", &key(prng.below(KEYS)), value]);
        let start = Instant::now();
        apply(keyspace, &command);
        let nanos = start.elapsed().as_nanos();
        worst = worst.max(nanos);
        total += nanos;
    }
    println!(
        "{:<40} {:8.0} ns, worst {} us, {} buckets copied",
        "SET under a view, mean",
        total as f64 / f64::from(writes),
        worst / 1000,
        keyspace.bucket_copies() - before,
    );
    let start = processor_time();
    let mut loader = Loader::new(SECRET);
    while let Some(item) = view.next_item() {
        loader.load(item).expect("an item of a view");
    }
    let loaded = loader.finish().expect("a whole view");
    println!(
        "{:<40} {:8.0} ns a key",
        "walk a view and load it",
        (processor_time() - start).as_nanos() as f64 / loaded.len() as f64
    );
    let start = Instant::now();
    black_box(keyspace.state_hash());
    println!(
        "{:<40} {:8.1} us",
        "state hash",
        start.elapsed().as_nanos() as f64 / 1e3
    );
}

/// What a slot move costs the one that sends and the one that takes, if it takes all slots along.
fn differences(keyspace: &mut Keyspace, value: &[u8]) {
    let slots = SlotSet::all();
    let keys = keyspace.len() as f64;
    let start = Instant::now();
    let frozen = keyspace.freeze(&slots);
    let micros = start.elapsed().as_nanos() as f64 / 1e3;
    println!("{:<40} {micros:8.1} us", "freeze all slots");
    let mut all = Delta::new(None, frozen.clone());
    let start = processor_time();
    while let Some(change) = all.next_change() {
        black_box(change);
    }
    let nanos = (processor_time() - start).as_nanos() as f64 / keys;
    println!(
        "{:<40} {nanos:8.0} ns a key",
        "first difference: everything"
    );

    let mut target = Keyspace::serving(SECRET, SlotSet::none(), SessionId(1));
    let mut all = Delta::new(None, frozen.clone());
    let start = processor_time();
    while let Some(change) = all.next_change() {
        assert!(target.stage(change));
    }
    let nanos = (processor_time() - start).as_nanos() as f64 / keys;
    println!("{:<40} {nanos:8.0} ns a key", "the same, and taken in");
    assert_eq!(target.slots_hash(&slots), keyspace.slots_hash(&slots));

    let mut old = frozen;
    for writes in [0, 1, 1000, 100_000] {
        let mut prng = Prng::new(10);
        for _ in 0..writes {
            let command = encoded(&[b"SET", &key(prng.below(KEYS)), value]);
            apply(keyspace, &command);
        }
        let new = keyspace.freeze(&slots);
        let start = Instant::now();
        let mut delta = Delta::new(Some(old), new);
        let mut changes = 0;
        while let Some(change) = delta.next_change() {
            black_box(change);
            changes += 1;
        }
        println!(
            "{:<40} {:8.0} us, {changes} changes, {} keys looked at",
            format!("difference after {writes} writes"),
            start.elapsed().as_nanos() as f64 / 1e3,
            delta.looked_at(),
        );
        old = delta.into_new();
    }
}
