//! A primary that is asked to stop, under load.

use crate::load::{CLOSED, Load, Manner};
use crate::nodes::{cluster, primary, wait_for_one_state};
use crate::process::{TempDir, my_turn};

/// Whoever stops a node in good order loses no more than redirects: no outcome is left open, and no
/// request refused for another reason.
#[test]
fn primaries_that_are_asked_to_stop_lose_nothing() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    let load = Load::start(&ports, &[Manner::default()]);
    for _ in 0..5 {
        load.wait_for_more(200);
        let old = primary(&nodes);
        nodes[old].signal("-TERM");
        assert!(nodes[old].end().success());
        let said = nodes[old].said();
        assert!(
            said.contains("handing over") && said.contains("stopped"),
            "{said}"
        );
        load.wait_for_more(50);
        nodes[old].restart();
        nodes[old].wait_until_ready();
    }
    let told = load.finish();
    let known = |kind: &&str| ["MOVED", CLOSED].contains(kind);
    assert!(told.complaints().iter().all(known), "{told:?}");
    // One that the machine does not run for as long as a node says farewell can still be too late.
    assert!(told.unknown() <= 2, "{told:?}");
    told.judge(&ports);
    wait_for_one_state(&nodes);
}
