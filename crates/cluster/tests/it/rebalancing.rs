//! Rebalancing against a twin that tries every plan, and at full size.

use std::collections::{BTreeMap, BTreeSet};

use kvorum_base::slot::SLOT_COUNT;
use kvorum_base::{GroupId, Prng};
use kvorum_cluster::rebalance;

type Slots = Vec<Option<GroupId>>;

fn moved(before: &[Option<GroupId>], after: &[Option<GroupId>]) -> usize {
    before.iter().zip(after).filter(|(a, b)| a != b).count()
}

fn runs(slots: &[Option<GroupId>]) -> usize {
    slots.chunk_by(|a, b| a == b).count()
}

/// The least and the most that a shard has.
fn spread(slots: &[Option<GroupId>], shards: &BTreeSet<GroupId>) -> (usize, usize) {
    let mut counts: BTreeMap<GroupId, usize> = shards.iter().map(|shard| (*shard, 0)).collect();
    for shard in slots {
        let shard = shard.expect("with shards, every slot has one");
        *counts.get_mut(&shard).expect("only shards that are there") += 1;
    }
    let least = counts.values().min().copied().unwrap_or(0);
    (least, counts.values().max().copied().unwrap_or(0))
}

/// The fewest moved slots of all even plans, and the fewest runs of those.
fn best(before: &[Option<GroupId>], shards: &BTreeSet<GroupId>) -> (usize, usize) {
    let ids: Vec<GroupId> = shards.iter().copied().collect();
    let mut best = (usize::MAX, usize::MAX);
    for number in 0..ids.len().pow(before.len() as u32) {
        let mut rest = number;
        let plan: Slots = (0..before.len())
            .map(|_| {
                let shard = ids[rest % ids.len()];
                rest /= ids.len();
                Some(shard)
            })
            .collect();
        let (least, most) = spread(&plan, shards);
        if most - least <= 1 {
            best = best.min((moved(before, &plan), runs(&plan)));
        }
    }
    best
}

#[test]
fn no_even_plan_moves_fewer_slots() {
    let mut prng = Prng::new(1);
    let (mut ours, mut optimal) = (0, 0);
    for _ in 0..400 {
        let slot_count = prng.range(1, 7);
        // Shards 1 to 4 may be there, 5 never is.
        let shards: BTreeSet<GroupId> =
            (1..=4).filter(|_| prng.chance(2, 3)).map(GroupId).collect();
        let before: Slots = (0..slot_count)
            .map(|_| prng.chance(7, 8).then(|| GroupId(prng.range(1, 5))))
            .collect();
        let after = rebalance(&before, &shards);
        assert_eq!(after, rebalance(&before, &shards));
        if shards.is_empty() {
            assert!(after.iter().all(Option::is_none));
            continue;
        }
        let (least, most) = spread(&after, &shards);
        assert!(most - least <= 1, "{before:?} {shards:?} {after:?}");
        let (fewest, shortest) = best(&before, &shards);
        assert_eq!(
            moved(&before, &after),
            fewest,
            "{before:?} {shards:?} {after:?}"
        );
        ours += runs(&after);
        optimal += shortest;
    }
    assert!(
        ours * 100 <= optimal * 110,
        "{ours} runs, where {optimal} would do"
    );
}

#[test]
fn it_stays_in_long_runs_at_full_size() {
    let mut shards = BTreeSet::from([GroupId(1)]);
    let mut slots = rebalance(&vec![None; usize::from(SLOT_COUNT)], &shards);
    for id in 2..=64 {
        shards.insert(GroupId(id));
        let next = rebalance(&slots, &shards);
        let least = usize::from(SLOT_COUNT) / shards.len();
        assert!(
            moved(&slots, &next) <= least + 1,
            "only the new shard gets slots"
        );
        slots = next;
    }
    // The last of them alone takes four slots from each of 63 others: 32 pieces at least.
    assert!(runs(&slots) < 64 * 32, "{} runs", runs(&slots));
    for id in 2..=64 {
        shards.remove(&GroupId(id));
        slots = rebalance(&slots, &shards);
    }
    assert_eq!(runs(&slots), 1);
}
