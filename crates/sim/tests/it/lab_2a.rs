//! Lab 2A: leader election.

use kvorum_sim::labs::raft_cluster::{ELECTION_TIMEOUT, Setup, run};
use kvorum_sim::on_seeds;
use kvorum_sim::world::ms;

use super::SEEDS;

#[test]
fn lab_2a_initial_election() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            cluster.check_one_leader().await;
            cluster.sleep(ms(50)).await;
            let term = cluster.check_terms();
            assert!(term.get() >= 1);
            cluster.sleep(ELECTION_TIMEOUT * 2).await;
            // The original only warns here. Nothing failed, so nothing may change.
            assert_eq!(cluster.check_terms(), term, "an election without a reason");
            cluster.check_one_leader().await;
        });
    });
}

#[test]
fn lab_2a_re_election() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            let first = cluster.check_one_leader().await;
            cluster.disconnect(first);
            cluster.check_one_leader().await;
            cluster.connect(first);
            let second = cluster.check_one_leader().await;
            cluster.disconnect(second);
            cluster.disconnect(cluster.after(second, 1));
            cluster.sleep(ELECTION_TIMEOUT * 2).await;
            cluster.check_no_leader();
            cluster.connect(cluster.after(second, 1));
            cluster.check_one_leader().await;
            cluster.connect(second);
            cluster.check_one_leader().await;
        });
    });
}

#[test]
fn lab_2a_many_elections() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(7), seed, async |cluster| {
            cluster.check_one_leader().await;
            for _ in 0..9 {
                let unlucky = [(); 3].map(|()| cluster.below(7) as usize);
                unlucky
                    .iter()
                    .for_each(|server| cluster.disconnect(*server));
                cluster.check_one_leader().await;
                unlucky.iter().for_each(|server| cluster.connect(*server));
            }
            cluster.check_one_leader().await;
        });
    });
}
