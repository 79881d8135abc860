//! What a client can make a connection hold.

use kvorum_base::Prng;
use kvorum_resp::{Connection, InputLimits, OutputLimits, ProtocolError, Scratch, Version};
use kvorum_resp::{Input, Outcome};

#[test]
fn the_largest_request_allowed_is_taken_and_no_larger_one() {
    let limits = InputLimits {
        args_max: 3,
        bulk_bytes_max: 5,
        request_bytes_max: 36,
    };
    let cases: [(&[u8], Result<usize, ProtocolError>); 6] = [
        (b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n", Ok(3)),
        (b"*4\r\n", Err(ProtocolError::InvalidArgsCount)),
        (b"*1\r\n$5\r\n12345\r\n", Ok(1)),
        (b"*1\r\n$6\r\n", Err(ProtocolError::InvalidBulkLength)),
        (b"*3\r\n$5\r\n12345\r\n$5\r\n12345\r\n$4\r\n1234\r\n", Ok(3)),
        (
            b"*3\r\n$5\r\n12345\r\n$5\r\n12345\r\n$5\r\n12345\r\n",
            Err(ProtocolError::TooBigRequest),
        ),
    ];
    for (mut bytes, expected) in cases {
        let mut scratch = Scratch::new();
        let next = Input::new().next(&limits, true, &mut bytes, &mut scratch);
        assert_eq!(next.map(|args| args.expect("a request").len()), expected);
    }
}

#[test]
fn an_unfinished_request_costs_about_its_bytes() {
    let limits = InputLimits::default();
    let (mut input, mut scratch, mut fed) = (Input::new(), Scratch::new(), 0);
    // The worst a client can do: as many arguments as possible, each of no bytes.
    let mut data = &b"*1048576\r\n"[..];
    assert_eq!(input.next(&limits, true, &mut data, &mut scratch), Ok(None));
    assert!(input.held_bytes() < 1000, "a header alone reserves nothing");
    for _ in 0..100_000 {
        let mut data = &b"$0\r\n\r\n"[..];
        fed += data.len();
        assert_eq!(input.next(&limits, true, &mut data, &mut scratch), Ok(None));
    }
    assert!(
        input.held_bytes() < 6 * fed,
        "{} for {fed}",
        input.held_bytes()
    );
}

#[test]
fn before_authentication_a_header_reserves_next_to_nothing() {
    let limits = InputLimits::default();
    let (mut input, mut scratch) = (Input::new(), Scratch::new());
    let mut data = &b"*10\r\n$16384\r\n"[..];
    assert_eq!(
        input.next(&limits, false, &mut data, &mut scratch),
        Ok(None)
    );
    assert!(input.held_bytes() < 1000);
}

#[test]
fn output_over_the_hard_limit_is_over_at_once_and_over_the_soft_one_after_a_while() {
    let limits = OutputLimits {
        hard_bytes: 1000,
        soft_bytes: 100,
        soft_ticks: 10,
    };
    let mut connection = Connection::new();
    connection.set_authenticated(true);
    let mut scratch = Scratch::new();
    let mut data = &b"A\nB\nC\n"[..];
    let input_limits = InputLimits::default();
    while connection
        .next_request_or_reply(&input_limits, &mut data, &mut scratch)
        .is_some()
    {}
    assert_eq!(connection.outstanding(), 3);

    // Parked output counts too.
    let outcome = connection.reply(1, |replies| replies.bulk(&[b'b'; 200]));
    assert_eq!(outcome, Outcome::Value);
    assert!(!connection.is_over_limit(&limits, 5));
    assert!(!connection.is_over_limit(&limits, 15));
    assert!(connection.is_over_limit(&limits, 16));

    connection.reply(0, |replies| replies.ok());
    connection.check();
    let len = connection.output().len();
    connection.output().advance(len);
    assert!(
        !connection.is_over_limit(&limits, 17),
        "read: the soft limit starts anew"
    );
    connection.push(|replies| replies.bulk(&[b'p'; 150]));
    assert!(!connection.is_over_limit(&limits, 20));
    connection.reply(2, |replies| replies.bulk(&[b'c'; 1000]));
    assert!(connection.is_over_limit(&limits, 20));
}

#[test]
fn an_idle_connection_holds_nothing_after_anything() {
    let limits = InputLimits::default();
    let (mut connection, mut scratch) = (Connection::new(), Scratch::new());
    connection.set_authenticated(true);
    let mut prng = Prng::new(8);
    for round in 0..200u32 {
        let value = vec![b'v'; prng.below(200_000) as usize];
        let mut stream = format!("PING\r\n*2\r\n$3\r\nSET\r\n${}\r\n", value.len()).into_bytes();
        stream.extend_from_slice(&value);
        stream.extend_from_slice(b"\r\nPING\n");
        for mut piece in stream.chunks(prng.range(1000, 50_000) as usize) {
            while connection
                .next_request_or_reply(&limits, &mut piece, &mut scratch)
                .is_some()
            {}
        }
        let mut order = [0, 1, 2];
        prng.shuffle(&mut order);
        for place in order {
            let seq = round * 3 + place;
            connection.set_version(seq, Version::Resp3);
            connection.reply(seq, |replies| replies.bulk(&value));
        }
        let len = connection.output().len();
        assert!(len > 3 * value.len());
        connection.output().advance(len);
        connection.check();
        assert_eq!((connection.outstanding(), connection.input_bytes()), (0, 0));
        assert_eq!(connection.output_bytes(), 0);
    }
}

#[test]
fn a_closing_connection_lets_go_of_its_input() {
    let limits = InputLimits::default();
    let (mut connection, mut scratch) = (Connection::new(), Scratch::new());
    connection.set_authenticated(true);
    let mut data = &b"PING\n*2\r\n$3\r\nSET\r\n$1000000\r\nvv"[..];
    while connection
        .next_request_or_reply(&limits, &mut data, &mut scratch)
        .is_some()
    {}
    assert!(connection.begin_transaction());
    assert!(!connection.begin_transaction(), "transactions do not nest");
    assert!(connection.input_bytes() > 1_000_000);
    connection.close_when_answered();
    assert_eq!(connection.input_bytes(), 0);
    assert!(connection.take_transaction().is_none());
    connection.hold(&mut &b"more"[..]);
    assert_eq!(connection.input_bytes(), 0);
    assert!(connection.is_closing() && !connection.is_finished());
    connection.reply(0, |replies| replies.ok());
    assert!(connection.is_finished());
}
