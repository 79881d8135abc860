//! What stock clients do about a write whose reply is lost: they repeat it, with the settings they come with,
//! and it happens twice. Through a session it happens once.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::clients::{converse, ignored, node_js, python};
use crate::nodes::{cluster, primary};
use crate::process::{TempDir, my_turn};
use crate::resp::{Reply, ask, bulk};

/// A connection ends instead of bringing a reply to the first request in which one of these occurs.
#[derive(Clone)]
struct Lossy {
    left: Arc<Mutex<Vec<&'static str>>>,
}

impl Lossy {
    /// A way to the server at this port; its own port. It lives as long as the process.
    fn to(port: u16, keys: &[&'static str]) -> (Self, u16) {
        let lossy = Self {
            left: Arc::new(Mutex::new(keys.to_vec())),
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let all = lossy.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let lossy = all.clone();
                thread::spawn(move || lossy.pass(near, port));
            }
        });
        (lossy, own)
    }

    /// Requests and replies by turns: these clients wait for each reply.
    fn pass(self, mut near: TcpStream, port: u16) -> Option<()> {
        let mut far = TcpStream::connect(("127.0.0.1", port)).ok()?;
        let (mut far_too, mut near_too) = (far.try_clone().ok()?, near.try_clone().ok()?);
        let lose = Arc::new(Mutex::new(false));
        let loses = lose.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = far_too.read(&mut bytes) {
                if *loses.lock().expect("no panic") || near_too.write_all(&bytes[..len]).is_err() {
                    break;
                }
            }
            let _ = near_too.shutdown(Shutdown::Both);
        });
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = near.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
            let mut left = self.left.lock().expect("no panic");
            if let Some(at) = left.iter().position(|key| text.contains(key)) {
                left.remove(at);
                *lose.lock().expect("no panic") = true;
            }
            drop(left);
            far.write_all(&bytes[..len]).ok()?;
        }
        far.shutdown(Shutdown::Both).ok()
    }
}

/// The keys of the scripts.
const KEYS: [&str; 3] = ["by-default", "as-advised", "by-session"];

fn counts(script: Result<Command, String>) {
    let _turn = my_turn();
    let mut script = match script {
        Ok(script) => script,
        Err(reason) => return ignored(&reason),
    };
    let dir = TempDir::new();
    let nodes = cluster(&dir, 3);
    let port = nodes[primary(&nodes)].port;
    let (lossy, way) = Lossy::to(port, &KEYS);
    converse(script.arg(way.to_string()), |_| None);
    assert!(
        lossy.left.lock().expect("no panic").is_empty(),
        "each lost a reply"
    );
    let value = |key: &str| ask(port, &["GET", key]).expect("a reply");
    assert_eq!(
        value("by-default"),
        bulk("2"),
        "what the table of settings in the README is about"
    );
    assert_eq!(value("as-advised"), bulk("1"));
    assert_eq!(value("by-session"), bulk("1"));
    assert!(matches!(ask(port, &["DBSIZE"]), Ok(Reply::Integer(3))));
}

#[test]
fn redis_py_repeats_a_write_and_a_session_does_not() {
    counts(python("once.py"));
}

#[test]
fn ioredis_repeats_a_write_and_a_session_does_not() {
    counts(node_js("once.js"));
}
