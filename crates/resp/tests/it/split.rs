//! However a stream is cut into reads, the same requests and the same error come out of it.

use kvorum_base::Prng;
use kvorum_resp::{ArgsBuf, Input, InputLimits, ProtocolError, Scratch};

/// What a stream holds: its requests, and the error that ends it.
type Understood = (Vec<ArgsBuf>, Option<ProtocolError>);

fn understand(limits: &InputLimits, pieces: &[&[u8]]) -> Understood {
    let (mut input, mut scratch, mut requests) = (Input::new(), Scratch::new(), Vec::new());
    for piece in pieces {
        let mut data = *piece;
        loop {
            match input.next(limits, true, &mut data, &mut scratch) {
                Ok(Some(args)) => requests.push(ArgsBuf::from(args)),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
        assert!(data.is_empty(), "a read is used up");
    }
    (requests, None)
}

fn cut<'a>(prng: &mut Prng, stream: &'a [u8], pieces_max: u64) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = (0..prng.below(pieces_max))
        .map(|_| prng.index(stream.len() + 1))
        .collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| &stream[pair[0]..pair[1]])
        .collect()
}

fn random_argument(prng: &mut Prng) -> Vec<u8> {
    let len = match prng.below(20) {
        0 => prng.range(60_000, 70_000),
        1..=3 => prng.below(2000),
        _ => prng.below(20),
    };
    (0..len)
        .map(|_| *prng.pick(b"ab\r\n*$\"' 0").expect("a byte"))
        .collect()
}

fn put_bulks(out: &mut Vec<u8>, request: &ArgsBuf) {
    let args = request.as_args();
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for argument in args.iter() {
        out.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

#[test]
fn valid_streams_give_their_requests_however_cut() {
    let limits = InputLimits::default();
    for seed in 0..300 {
        let mut prng = Prng::new(seed);
        let (mut stream, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..prng.range(1, 12) {
            match prng.below(8) {
                0 => stream.extend_from_slice(
                    prng.pick(&["\r\n", "\n", " \r\n", "*0\r\n", "*-1\r\n"])
                        .expect("one")
                        .as_bytes(),
                ),
                1 => {
                    stream.extend_from_slice(b"get  'a b' \"\\x41\"\r\n");
                    expected.push(["get", "a b", "A"].iter().collect());
                }
                _ => {
                    let request: ArgsBuf = (0..prng.range(1, 6))
                        .map(|_| random_argument(&mut prng))
                        .collect();
                    put_bulks(&mut stream, &request);
                    expected.push(request);
                }
            }
        }
        assert_eq!(
            understand(&limits, &[&stream]),
            (expected.clone(), None),
            "seed {seed}"
        );
        for _ in 0..5 {
            let pieces = cut(&mut prng, &stream, 30);
            assert_eq!(
                understand(&limits, &pieces),
                (expected.clone(), None),
                "seed {seed}"
            );
        }
    }
}

/// Streams that are nearly right: valid ones with a few bytes changed.
fn nearly_valid(prng: &mut Prng) -> Vec<u8> {
    const PARTS: &[&[u8]] = &[
        b"*1\r\n$4\r\nPING\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$10\r\n0123456789\r\n",
        b"set 'k' \"v\\x00\" w\r\n",
        b"*0\r\n",
        b"\r\n",
        b"*10\r\n",
        b"$1\r\nx\r\n",
        b"*1\r\n$0\r\n\r\n",
        b"*123456789\r\n",
        b"$-1\r\n",
    ];
    let mut stream = Vec::new();
    for _ in 0..prng.range(1, 10) {
        stream.extend_from_slice(prng.pick(PARTS).expect("a part"));
    }
    for _ in 0..prng.below(4) {
        let at = prng.index(stream.len());
        match prng.below(3) {
            0 => stream[at] = *prng.pick(b"*$0123\r\n\"'\\ -\x00\xff").expect("a byte"),
            1 => stream.insert(at, *prng.pick(b"*$019\r\n\"'-").expect("a byte")),
            _ => {
                stream.remove(at);
            }
        }
        if stream.is_empty() {
            stream.push(b'\n');
        }
    }
    stream
}

#[test]
fn nearly_valid_streams_give_the_same_errors_however_cut() {
    let mut errors = std::collections::BTreeSet::new();
    for seed in 0..20_000 {
        let mut prng = Prng::new(seed);
        let stream = nearly_valid(&mut prng);
        let mut data = prng.next_u64().to_le_bytes()[..4].to_vec();
        data.extend_from_slice(&stream);
        kvorum_resp::input::fuzz(&data);
        let limits = InputLimits::default();
        let whole = understand(&limits, &[&stream]);
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(whole, understand(&limits, &bytes), "seed {seed}");
        errors.extend(whole.1.map(|error| error.text()));
    }
    assert!(
        errors.len() >= 5,
        "the streams reach few errors: {errors:?}"
    );
}

#[test]
fn anything_at_all_is_understood_alike() {
    for seed in 0..5_000 {
        let mut prng = Prng::new(seed);
        let data: Vec<u8> = (0..prng.below(200))
            .map(|_| prng.next_u64() as u8)
            .collect();
        kvorum_resp::input::fuzz(&data);
        kvorum_resp::stored::fuzz(&data);
    }
}

/// A line's first byte, its end, the error if it is too long, and the one if it is not.
type LineKind = (
    &'static [u8],
    &'static [u8],
    ProtocolError,
    Option<ProtocolError>,
);

#[test]
fn lines_are_too_long_at_the_same_byte_however_cut() {
    const MAX: usize = kvorum_resp::limits::LINE_BYTES_MAX;
    let limits = InputLimits::default();
    let mut prng = Prng::new(3);
    let kinds: [LineKind; 3] = [
        (b"", b"\n", ProtocolError::TooBigInline, None),
        (
            b"*",
            b"\r\n",
            ProtocolError::TooBigArgsCount,
            Some(ProtocolError::InvalidArgsCount),
        ),
        (
            b"$",
            b"\r\n",
            ProtocolError::TooBigBulkCount,
            Some(ProtocolError::InvalidBulkLength),
        ),
    ];
    for (kind, end, too_long, ended) in kinds {
        for len in [MAX - 1, MAX, MAX + 1, MAX + 2] {
            let mut line = kind.to_vec();
            line.resize(len, b'1');
            let before: &[u8] = if kind == b"$" { b"*1\r\n" } else { b"" };
            let open = [before, &line].concat();
            let closed = [before, &line, end].concat();
            let is_too_long = len > MAX;
            for _ in 0..4 {
                let pieces = cut(&mut prng, &open, 8);
                let (_, error) = understand(&limits, &pieces);
                assert_eq!(error, is_too_long.then_some(too_long), "{len} open");
                let pieces = cut(&mut prng, &closed, 8);
                let (requests, error) = understand(&limits, &pieces);
                let expected = if is_too_long { Some(too_long) } else { ended };
                assert_eq!(error, expected, "{len} closed");
                assert_eq!(requests.len(), usize::from(error.is_none()));
            }
        }
    }
}

#[test]
fn a_stream_out_of_step_ends_in_an_error_and_not_in_memory() {
    // What a client out of step may send: the start of something, and then text without end.
    let payload = [&[b'A'; 1024][..], b"\"\n\""].concat();
    for start in [&b"\0"[..], b"*\0", b"$\0"] {
        let limits = InputLimits::default();
        let (mut input, mut scratch) = (Input::new(), Scratch::new());
        let mut fed = 0;
        let error = loop {
            let piece = if fed == 0 { start } else { &payload };
            fed += piece.len();
            let mut data = piece;
            match input.next(&limits, true, &mut data, &mut scratch) {
                Ok(_) => assert!(fed < 100_000 && input.held_bytes() < 200_000),
                Err(error) => break error,
            }
        };
        assert!(error.text().starts_with(b"ERR Protocol error: "), "{error}");
    }
}
