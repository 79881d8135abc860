//! Lab 2B: replicating the log.

use kvorum_sim::labs::raft_cluster::{Cluster, ELECTION_TIMEOUT, Setup, command, run};
use kvorum_sim::on_seeds;
use kvorum_sim::world::ms;

use super::SEEDS;

#[test]
fn lab_2b_basic_agree() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            for number in 1..=3 {
                assert_eq!(
                    cluster.committed(number).0,
                    0,
                    "committed before it was proposed"
                );
                let found = cluster.one(&command(number * 100), 3, false).await;
                assert_eq!(found, number);
            }
        });
    });
}

#[test]
fn lab_2b_rpc_bytes() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            cluster.one(&command(99), 3, false).await;
            let before = cluster.net().bytes();
            for number in 2..=11 {
                let letters = (0..5000).map(|_| b'a' + cluster.below(26) as u8);
                let big = letters.collect::<Vec<u8>>().into();
                assert_eq!(cluster.one(&big, 3, false).await, number);
            }
            let sent = cluster.net().bytes() - before;
            assert!(
                sent <= 3 * 50_000 + 50_000,
                "{sent} bytes for ten commands of 5000"
            );
        });
    });
}

#[test]
fn lab_2b_follower_failure() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            cluster.one(&command(101), 3, false).await;
            let leader = cluster.check_one_leader().await;
            cluster.disconnect(cluster.after(leader, 1));
            cluster.one(&command(102), 2, false).await;
            cluster.sleep(ELECTION_TIMEOUT).await;
            cluster.one(&command(103), 2, false).await;
            let leader = cluster.check_one_leader().await;
            cluster.disconnect(cluster.after(leader, 1));
            cluster.disconnect(cluster.after(leader, 2));
            let (number, _) = cluster.propose(leader, command(104)).expect("it leads");
            assert_eq!(number, 4);
            cluster.sleep(ELECTION_TIMEOUT * 2).await;
            assert_eq!(cluster.committed(4).0, 0, "committed without a majority");
        });
    });
}

#[test]
fn lab_2b_leader_failure() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            cluster.one(&command(101), 3, false).await;
            let leader = cluster.check_one_leader().await;
            cluster.disconnect(leader);
            cluster.one(&command(102), 2, false).await;
            cluster.sleep(ELECTION_TIMEOUT).await;
            cluster.one(&command(103), 2, false).await;
            let leader = cluster.check_one_leader().await;
            cluster.disconnect(leader);
            for server in 0..3 {
                let _ = cluster.propose(server, command(104));
            }
            cluster.sleep(ELECTION_TIMEOUT * 2).await;
            assert_eq!(cluster.committed(4).0, 0, "committed without a majority");
        });
    });
}

#[test]
fn lab_2b_fail_agree() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            cluster.one(&command(101), 3, false).await;
            let leader = cluster.check_one_leader().await;
            cluster.disconnect(cluster.after(leader, 1));
            cluster.one(&command(102), 2, false).await;
            cluster.one(&command(103), 2, false).await;
            cluster.sleep(ELECTION_TIMEOUT).await;
            cluster.one(&command(104), 2, false).await;
            cluster.one(&command(105), 2, false).await;
            cluster.connect(cluster.after(leader, 1));
            cluster.one(&command(106), 3, true).await;
            cluster.sleep(ELECTION_TIMEOUT).await;
            cluster.one(&command(107), 3, true).await;
        });
    });
}

#[test]
fn lab_2b_fail_no_agree() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(5), seed, async |cluster| {
            cluster.one(&command(10), 5, false).await;
            let leader = cluster.check_one_leader().await;
            let gone = [1, 2, 3].map(|places| cluster.after(leader, places));
            gone.iter().for_each(|server| cluster.disconnect(*server));
            let (number, _) = cluster.propose(leader, command(20)).expect("it leads");
            assert_eq!(number, 2);
            cluster.sleep(ELECTION_TIMEOUT * 2).await;
            assert_eq!(cluster.committed(2).0, 0, "committed without a majority");
            gone.iter().for_each(|server| cluster.connect(*server));
            let leader = cluster.check_one_leader().await;
            let (number, _) = cluster.propose(leader, command(30)).expect("it leads");
            assert!(
                (2..=3).contains(&number),
                "the second or third command is {number}"
            );
            cluster.one(&command(1000), 5, true).await;
        });
    });
}

/// One try of the concurrent proposals; `None` if an election came between.
async fn concurrent_starts(cluster: &Cluster) -> Option<()> {
    let leader = cluster.check_one_leader().await;
    let (_, term) = cluster.propose(leader, command(1))?;
    let proposals = (0..5).map(|number| cluster.propose(leader, command(100 + number)));
    let proposals: Vec<_> = proposals.collect();
    if (0..3).any(|server| cluster.state(server).is_some_and(|state| state.0 != term)) {
        return None;
    }
    let mut found = Vec::new();
    for (number, _) in proposals
        .into_iter()
        .flatten()
        .filter(|proposal| proposal.1 == term)
    {
        found.push(cluster.wait(number, 3, Some(term)).await?);
    }
    for number in 0..5 {
        assert!(
            found.contains(&command(100 + number)),
            "command {} is lost",
            100 + number
        );
    }
    Some(())
}

#[test]
fn lab_2b_concurrent_starts() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            for attempt in 0..5 {
                if attempt > 0 {
                    cluster.sleep(ms(3000)).await;
                }
                if concurrent_starts(cluster).await.is_some() {
                    return;
                }
            }
            panic!("the term changed too often");
        });
    });
}

#[test]
fn lab_2b_rejoin() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            cluster.one(&command(101), 3, true).await;
            let first = cluster.check_one_leader().await;
            cluster.disconnect(first);
            for number in 102..=104 {
                let _ = cluster.propose(first, command(number));
            }
            cluster.one(&command(103), 2, true).await;
            let second = cluster.check_one_leader().await;
            cluster.disconnect(second);
            cluster.connect(first);
            cluster.one(&command(104), 2, true).await;
            cluster.connect(second);
            cluster.one(&command(105), 3, true).await;
        });
    });
}

fn propose_fifty(cluster: &Cluster, server: usize) {
    for _ in 0..50 {
        let _ = cluster.propose(server, cluster.random_command());
    }
}

async fn agree_on_fifty(cluster: &Cluster) {
    for _ in 0..50 {
        cluster.one(&cluster.random_command(), 3, true).await;
    }
}

#[test]
fn lab_2b_backup() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(5), seed, async |cluster| {
            cluster.one(&cluster.random_command(), 5, true).await;
            let first = cluster.check_one_leader().await;
            let next = |places| cluster.after(first, places);
            [2, 3, 4]
                .iter()
                .for_each(|places| cluster.disconnect(next(*places)));
            propose_fifty(cluster, first);
            cluster.sleep(ELECTION_TIMEOUT / 2).await;
            [0, 1]
                .iter()
                .for_each(|places| cluster.disconnect(next(*places)));
            [2, 3, 4]
                .iter()
                .for_each(|places| cluster.connect(next(*places)));
            agree_on_fifty(cluster).await;
            let second = cluster.check_one_leader().await;
            let other = if next(2) == second {
                cluster.after(second, 1)
            } else {
                next(2)
            };
            cluster.disconnect(other);
            propose_fifty(cluster, second);
            cluster.sleep(ELECTION_TIMEOUT / 2).await;
            (0..5).for_each(|server| cluster.disconnect(server));
            [first, next(1), other]
                .iter()
                .for_each(|server| cluster.connect(*server));
            agree_on_fifty(cluster).await;
            cluster.connect_all();
            cluster.one(&cluster.random_command(), 5, true).await;
        });
    });
}

fn calls(cluster: &Cluster) -> u64 {
    use kvorum_sim::net::ServerId;
    (0..cluster.size())
        .map(|server| cluster.net().incoming(ServerId(server)))
        .sum()
}

/// One try of counting the calls for twelve commands; `None` if an election came between.
async fn count_agreement(cluster: &Cluster) -> Option<u64> {
    let leader = cluster.check_one_leader().await;
    let before = calls(cluster);
    let (first, term) = cluster.propose(leader, command(1))?;
    let mut commands = Vec::new();
    for at in 1..=11 {
        let command = cluster.random_command();
        let (number, now) = cluster.propose(leader, command.clone())?;
        if now != term {
            return None;
        }
        assert_eq!(number, first + at, "a proposal got the wrong number");
        commands.push(command);
    }
    for (at, expected) in (1..=10).zip(&commands) {
        let found = cluster.wait(first + at, 3, Some(term)).await?;
        assert_eq!(found, *expected);
    }
    if (0..3).any(|server| cluster.state(server).is_some_and(|state| state.0 != term)) {
        return None;
    }
    Some(calls(cluster) - before)
}

#[test]
fn lab_2b_count() {
    on_seeds(SEEDS, |seed| {
        run(Setup::of(3), seed, async |cluster| {
            cluster.check_one_leader().await;
            let election = calls(cluster);
            assert!(
                (1..=30).contains(&election),
                "{election} calls for the first election"
            );
            let mut agreement = None;
            for attempt in 0..5 {
                if attempt > 0 {
                    cluster.sleep(ms(3000)).await;
                }
                agreement = count_agreement(cluster).await;
                if agreement.is_some() {
                    break;
                }
            }
            let agreement = agreement.expect("the term changed too often");
            assert!(
                agreement <= (10 + 1 + 3) * 3,
                "{agreement} calls for twelve commands"
            );
            let before = calls(cluster);
            cluster.sleep(ELECTION_TIMEOUT).await;
            let idle = calls(cluster) - before;
            assert!(idle <= 3 * 20, "{idle} calls in an idle second");
        });
    });
}
