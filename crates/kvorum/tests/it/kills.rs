//! Nodes that are killed, again and again, under load.

use crate::load::{Load, Manner};
use crate::nodes::{cluster, primary, wait_for_one_state};
use crate::process::{TempDir, my_turn};

/// How often.
const KILLS: usize = 20;

#[test]
fn nothing_acknowledged_is_lost_when_primaries_are_killed() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    let load = Load::start(&ports, &[Manner::default()]);
    for _ in 0..KILLS {
        load.wait_for_more(200);
        let old = primary(&nodes);
        nodes[old].kill();
        // Now and then the dead one is back before the others have chosen, now and then after.
        load.wait_for_more(50);
        nodes[old].restart();
    }
    load.wait_for_more(200);
    let told = load.finish();
    assert!(
        told.unknown() > 0,
        "kills leave some outcomes open: {told:?}"
    );
    told.judge(&ports);
    wait_for_one_state(&nodes);
}

/// Nobody is left who knows: what was acknowledged must be in their files.
#[test]
fn nothing_acknowledged_is_lost_when_all_are_killed_at_once() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let mut nodes = cluster(&dir, 3);
    let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
    let load = Load::start(&ports, &[Manner::default()]);
    for _ in 0..5 {
        load.wait_for_more(200);
        for node in &nodes {
            node.signal("-KILL");
        }
        for node in &mut nodes {
            node.restart();
        }
    }
    load.wait_for_more(200);
    load.finish().judge(&ports);
    wait_for_one_state(&nodes);
}
