//! What the program refuses to do, and whether it says what to do instead.

use crate::nodes::Node;
use crate::process::{TempDir, free_port, my_turn, refused};

#[test]
fn beyond_loopback_a_password_and_a_secret_are_needed() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let dir = dir.path().to_str().expect("a name");
    let said = refused(&[
        "node",
        "--dir",
        dir,
        "--listen",
        "0.0.0.0:7001",
        "--advertise",
        "a.example",
    ]);
    assert!(said.contains("KVORUM_PASSWORD"), "{said}");
    let said = refused(&[
        "node",
        "--dir",
        dir,
        "--listen",
        "127.0.0.1:7001",
        "--http",
        "0.0.0.0:7201",
        "--advertise-http",
        "a.example",
    ]);
    assert!(said.contains("--secret-file"), "{said}");
}

#[test]
fn a_second_process_on_a_directory_is_told_about_the_first() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let node = Node::start(dir.path().join("node"), free_port(1));
    let said = refused(&[
        "node",
        "--dir",
        node.dir.to_str().expect("a name"),
        "--listen",
        "127.0.0.1:1",
    ]);
    assert!(said.contains("in use by another process"), "{said}");
}

#[test]
fn a_taken_port_is_named() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let node = Node::start(dir.path().join("node"), free_port(1));
    let other = dir.path().join("other");
    let listen = format!("127.0.0.1:{}", node.port);
    let said = refused(&[
        "node",
        "--dir",
        other.to_str().expect("a name"),
        "--listen",
        &listen,
    ]);
    let http = format!("{} (--http)", node.http());
    assert!(said.contains(&http), "{said}");
}

#[test]
fn a_directory_that_cannot_be_trusted_is_not_started_on() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let path = dir.path().join("MANIFEST");
    let name = dir.path().to_str().expect("a name");
    let listen = format!("127.0.0.1:{}", free_port(1));
    for (text, answer) in [
        ("kvorum manifest 99\ncrc32c 00000000\n{}\n", "newer"),
        (
            "kvorum manifest 1\ncrc32c 00000000\n{}\n",
            "before the first release",
        ),
        ("kvorum manifest 3\ncrc32c 00000000\n{}\n", "damaged"),
        ("", "damaged"),
    ] {
        std::fs::write(&path, text).expect("written");
        let said = refused(&["node", "--dir", name, "--listen", &listen]);
        assert!(said.contains(answer), "{said}");
    }
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir(dir.path().join("lane-0")).expect("made");
    let said = refused(&["node", "--dir", name, "--listen", &listen]);
    assert!(said.contains("no MANIFEST"), "{said}");
}

#[test]
fn up_says_what_it_cannot_do() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let dir = dir.path().to_str().expect("a name");
    assert!(refused(&["up", "--dir", dir, "--shards", "0"]).contains("0 shards"));
    assert!(
        refused(&["up", "--dir", dir, "--nodes", "2", "--replicas", "3"]).contains("3 replicas")
    );
    assert!(refused(&["up", "--dir", dir, "--port", "65500"]).contains("too large"));
}
