//! Bytes that nobody should send, on every port.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use kvorum_base::Prng;

use crate::nodes::{Node, cluster, primary};
use crate::process::{TempDir, my_turn};
use crate::resp::{ask, bulk, ok};

/// Connections with garbage on each port.
const ROUNDS: u64 = 150;

/// What looks like the protocol for a while.
const PIECES: [&[u8]; 20] = [
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*99999999999999999999\r\n",
    b"*1048577\r\n",
    b"*2147483647\r\n$1\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$4294967295\r\n",
    b"$5\r\nhello\r\n",
    b"PING\r\n",
    b"SET \"unbalanced\r\n",
    b"GET '\\x00\\xff\r\n",
    b"\r\n\r\n\r\n",
    b"\0\0\0\0",
    b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /api/v1/admin/init/prepare HTTP/1.1\r\ncontent-length: 4294967296\r\n\r\n{",
    b"*3\r\n$11\r\nKVORUM.ONCE\r\n$1\r\n1\r\n$1\r\n2\r\n",
    b"kvorum-p\x01\x00",
    b"kvorum-p\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff",
];

fn garbage(prng: &mut Prng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..prng.range(1, 12) {
        if prng.chance(2, 3) {
            bytes.extend_from_slice(prng.pick(&PIECES).expect("there are some"));
        } else {
            let len = prng.below(200);
            bytes.extend((0..len).map(|_| prng.next_u64() as u8));
        }
    }
    if prng.chance(1, 3) && !bytes.is_empty() {
        let at = prng.index(bytes.len());
        bytes[at] ^= 1 << prng.below(8);
    }
    bytes
}

/// Sends it, in one piece or in several, and reads to the end what comes back.
fn send(prng: &mut Prng, port: u16) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return;
    };
    stream
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("set");
    let bytes = garbage(prng);
    let middle = prng.index(bytes.len() + 1);
    for piece in [&bytes[..middle], &bytes[middle..]] {
        if stream.write_all(piece).is_err() {
            return;
        }
        std::thread::yield_now();
    }
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn garbage_ends_no_node() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let leading = primary(&nodes);
    let pids: Vec<u32> = nodes.iter().map(Node::pid).collect();
    for seed in 0..ROUNDS {
        let mut prng = Prng::new(seed);
        for offset in [0, 100, 200] {
            send(&mut prng, nodes[leading].port + offset);
        }
    }
    for node in &mut nodes {
        assert_eq!(node.ended(), None, "{}", node.said());
    }
    for (node, pid) in nodes.iter().zip(pids) {
        assert_eq!(node.status().expect("a status").pid, pid);
        assert_eq!(
            ask(node.port, &["SET", "{after}", "1"]).expect("a reply"),
            ok()
        );
        assert_eq!(
            ask(node.port, &["GET", "{after}"]).expect("a reply"),
            bulk("1")
        );
    }
}
