//! Each planted bug of this crate does what it says, so that the simulator has something to catch.

use kvorum_base::UnixMillis;
use kvorum_base::planted::{Bug, Planted};
use kvorum_kv::{Keyspace, Loader};

use crate::support::{SECRET, keyspace_at, request};

fn with(bug: Bug) -> Keyspace {
    let mut keyspace = keyspace_at(0);
    keyspace.set_planted(Planted::with(bug));
    keyspace
}

fn run(keyspace: &mut Keyspace, text: &str) -> String {
    let reply = request(keyspace, &text.split(' ').collect());
    String::from_utf8_lossy(&reply).into_owned()
}

#[test]
fn an_evicted_session_executes_again() {
    let mut keyspace = with(Bug::SessionEvicted);
    assert_eq!(run(&mut keyspace, "KVORUM.ONCE 1-5000 1 INCR n"), ":1\r\n");
    for session in 2..9 {
        run(
            &mut keyspace,
            &format!("KVORUM.ONCE {session}-9000 1 INCR other"),
        );
    }
    assert_eq!(run(&mut keyspace, "KVORUM.ONCE 1-5000 1 INCR n"), ":2\r\n");
}

#[test]
fn an_absent_key_has_no_version() {
    let mut keyspace = with(Bug::AbsentVersionZero);
    run(&mut keyspace, "SET k v");
    run(&mut keyspace, "DEL k");
    assert_eq!(run(&mut keyspace, "KVORUM.VERSIONS k"), "*1\r\n:0\r\n");
    let exec = "KVORUM.EXEC 1 k 0 1 2 GET k";
    assert_eq!(run(&mut keyspace, exec), "*1\r\n_\r\n");
}

#[test]
fn a_snapshot_forgets_sessions() {
    let mut keyspace = with(Bug::SessionsNotInSnapshot);
    assert_eq!(run(&mut keyspace, "KVORUM.ONCE 1-5000 1 INCR n"), ":1\r\n");
    let mut loader = Loader::new(SECRET);
    let mut view = keyspace.view();
    while let Some(item) = view.next_item() {
        loader.load(item).expect("the loader is fooled");
    }
    let mut loaded = loader.finish().expect("the loader is fooled");
    assert_eq!(run(&mut loaded, "KVORUM.ONCE 1-5000 1 INCR n"), ":2\r\n");
}

#[test]
fn the_local_clock_decides() {
    let mut keyspace = with(Bug::ExpiryByLocalClock);
    run(&mut keyspace, "SET k v PX 100");
    keyspace.set_local_clock(UnixMillis(101));
    assert_eq!(run(&mut keyspace, "GET k"), "_\r\n");
}
