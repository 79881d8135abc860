//! What the protocol costs per request, in nanoseconds: pipelined input, one read after the other,
//! each request answered at once. Run with `--release`.

use std::hint::black_box;
use std::time::Instant;

use kvorum_resp::{Connection, Input, InputLimits, Scratch};

const REQUESTS_PER_READ: usize = 500;
const READS: usize = 4000;
const ROUNDS: usize = 7;

fn main() {
    let value = "v".repeat(100);
    let set = format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:000000012345\r\n$100\r\n{value}\r\n");
    let get = "*2\r\n$3\r\nGET\r\n$16\r\nkey:000000012345\r\n".to_owned();
    println!(
        "{:>44} {:>8} {:>8} {:>8}",
        "ns per request", "parse", "+ OK", "+ bulk"
    );
    for (name, request) in [
        ("SET, 100 bytes", set),
        ("GET", get),
        ("PING, inline", "PING\r\n".into()),
    ] {
        for (cut, kind) in [(0, "whole reads"), (7, "reads end in a request")] {
            let mut read = request.repeat(REQUESTS_PER_READ).into_bytes();
            // Cut so that each read begins and ends in the middle of a request.
            read.rotate_left(cut.min(request.len() - 1));
            let start = &request.as_bytes()[..cut.min(request.len() - 1)];
            let [parse, ok, bulk] = measure(start, &read, value.as_bytes());
            let title = format!("{name}, {kind}");
            println!("{title:>44} {parse:>8.1} {ok:>8.1} {bulk:>8.1}");
        }
    }
}

/// The best of some rounds: only parsing; with the reply OK; with one bulk as the reply.
fn measure(start: &[u8], read: &[u8], value: &[u8]) -> [f64; 3] {
    let mut best = [f64::MAX; 3];
    for _ in 0..ROUNDS {
        let times = [
            parse(start, read),
            answer(start, read, None),
            answer(start, read, Some(value)),
        ];
        for (best, time) in best.iter_mut().zip(times) {
            *best = best.min(time);
        }
    }
    best
}

fn parse(mut start: &[u8], read: &[u8]) -> f64 {
    let (limits, mut scratch, mut input) = (InputLimits::default(), Scratch::new(), Input::new());
    let first = input.next(&limits, true, &mut start, &mut scratch);
    assert_eq!(first, Ok(None), "the start of a request");
    let began = Instant::now();
    let mut count = 0u64;
    for _ in 0..READS {
        let mut data = black_box(read);
        while let Ok(Some(args)) = input.next(&limits, true, &mut data, &mut scratch) {
            black_box(args.get(args.len() - 1));
            count += 1;
        }
    }
    nanoseconds_each(began, count)
}

fn answer(mut start: &[u8], read: &[u8], value: Option<&[u8]>) -> f64 {
    let (limits, mut scratch) = (InputLimits::default(), Scratch::new());
    let mut connection = Connection::new();
    connection.set_authenticated(true);
    let first = connection.next_request_or_reply(&limits, &mut start, &mut scratch);
    assert!(first.is_none(), "the start of a request");
    let began = Instant::now();
    let mut count = 0u64;
    for _ in 0..READS {
        let mut data = black_box(read);
        while let Some(request) = connection.next_request_or_reply(&limits, &mut data, &mut scratch)
        {
            black_box(request.args.get(request.args.len() - 1));
            count += 1;
            match value {
                Some(value) => connection.reply(request.seq, |replies| replies.bulk(value)),
                None => connection.reply(request.seq, |replies| replies.ok()),
            };
        }
        let output = connection.output();
        output.advance(black_box(output.len()));
    }
    nanoseconds_each(began, count)
}

fn nanoseconds_each(began: Instant, count: u64) -> f64 {
    let elapsed = began.elapsed();
    assert_eq!(count as usize, READS * REQUESTS_PER_READ);
    elapsed.as_nanos() as f64 / count as f64
}
