//! Whole clusters on a few seeds; thousands are the command line's business.

use kvorum_base::Bug;
use kvorum_sim::cluster::options::{Danger, Options};
use kvorum_sim::cluster::scenario::run;
use kvorum_sim::world::ms;
use kvorum_sim::{on_seeds, planted};

fn passes(options: Options) {
    let seed = options.seed;
    let report = run(options, false);
    if let Some(failure) = report.failure {
        panic!("seed {seed}: {}: {}", failure.checker, failure.text);
    }
    assert!(
        report.coverage.operations >= 2_000,
        "clients hardly got to ask"
    );
}

#[test]
fn nothing_goes_wrong() {
    on_seeds(3, |seed| {
        let mut options = Options::draw(seed);
        options.nodes = 3;
        options.dangers.clear();
        options.make_changes();
        passes(options);
    });
}

#[test]
fn the_shard_manager_is_one_of_the_groups() {
    on_seeds(3, |seed| {
        let mut options = Options::draw(3_000 + seed);
        (options.nodes, options.shards, options.is_seated) = (3, 2, true);
        options.make_changes();
        passes(options);
    });
}

#[test]
fn many_things_go_wrong() {
    on_seeds(8, |seed| passes(Options::draw(1_000 + seed)));
}

#[test]
fn power_fails_everywhere_again_and_again() {
    on_seeds(2, |seed| {
        let mut options = Options::draw(2_000 + seed);
        options.dangers = vec![
            Danger::PowerCutOfAll,
            Danger::KillThenPowerCut,
            Danger::PowerCut,
        ];
        // Long enough for an election and a while of work.
        options.calm_max = ms(8_000);
        passes(options);
    });
}

#[test]
fn a_state_is_asked_for_again_when_its_sender_fell() {
    passes(planted::options(6, Bug::ForeignChunkResumed));
}

#[test]
fn the_same_seed_gives_the_same_course() {
    let course = || {
        let coverage = run(Options::draw(77), false).coverage;
        (coverage.events, coverage.operations, coverage.report())
    };
    assert_eq!(course(), course());
}
