//! Whole nodes, on a few seeds; the program `kvorum-sim` runs as many as one likes.

use kvorum_base::Planted;
use kvorum_sim::nodes::coverage::Coverage;
use kvorum_sim::nodes::run::run;
use kvorum_sim::on_seeds;

#[test]
fn nodes_in_a_storm_keep_their_promises() {
    let coverage = std::cell::RefCell::new(Coverage::default());
    on_seeds(24, |seed| {
        let report = run(seed, Planted::default(), None);
        coverage.borrow_mut().add(&report.coverage, seed as usize);
    });
    if std::env::var_os("KVORUM_SEED").is_some() {
        return;
    }
    // A judge who saw nothing has said nothing.
    for (name, count) in coverage.borrow().all() {
        let may_be_missing = ["divergences", "malformed frames", "torn batches"].contains(&name);
        assert!(count > 0 || may_be_missing, "no {name} in any run");
    }
}

#[test]
fn a_seed_is_one_course_of_events() {
    let [first, second] = [5, 5].map(|seed| {
        let report = run(seed, Planted::default(), None);
        (report.events, report.virtual_time, report.coverage.all())
    });
    assert_eq!(first, second);
}
