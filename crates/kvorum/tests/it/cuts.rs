//! Networks that pass on only half of what is said.
//!
//! With links cut one way a node hears and is not heard, or speaks and hears nothing. Whoever is not
//! followed must not go on as a primary; whoever hears nothing must not disturb a primary that the
//! others follow.

use crate::load::{Load, Manner};
use crate::nodes::{primary, primary_among, wait_for_one_state};
use crate::process::{TempDir, my_turn, wait_for};
use crate::relay::{Relayed, id, others, relayed};

#[test]
fn one_way_cuts_between_two_nodes_change_nothing_for_clients() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let Relayed {
        nodes,
        ports,
        network,
    } = relayed(&dir);
    let load = Load::start(&ports, &[Manner::default()]);
    for round in 0..6 {
        load.wait_for_more(100);
        let leading = primary(&nodes);
        let [one, other] = others(leading);
        let (from, to) = [
            (leading, one),
            (one, leading),
            (one, other),
            (leading, other),
            (other, leading),
            (other, one),
        ][round];
        network.cut(id(from), id(to));
        // Long enough for elections, if there were a reason for one.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        load.wait_for_more(300);
        network.heal();
    }
    load.wait_for_more(100);
    load.finish().judge(&ports);
    wait_for_one_state(&nodes);
}

#[test]
fn a_primary_that_is_not_heard_or_hears_nobody_is_replaced() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let Relayed {
        nodes,
        ports,
        network,
    } = relayed(&dir);
    let load = Load::start(&ports, &[Manner::default()]);
    for hears in [true, false, true] {
        load.wait_for_more(100);
        let leading = primary(&nodes);
        for other in others(leading) {
            if hears {
                network.cut(id(leading), id(other));
            } else {
                network.cut(id(other), id(leading));
            }
        }
        primary_among(&nodes, |node| node != leading);
        wait_for("the old primary to see it", || {
            (!nodes[leading].leads()).then_some(())
        });
        load.wait_for_more(300);
        network.heal();
    }
    load.wait_for_more(100);
    load.finish().judge(&ports);
    wait_for_one_state(&nodes);
}
