//! Slots that move: what differs between two moments, taken in elsewhere, is the same slots.

use kvorum_base::slot::slot_of;
use kvorum_base::{Prng, SessionId, Slot, SlotSet, UnixMillis};
use kvorum_kv::{Change, Delta, Frozen, Item, Keyspace, Run, find};
use kvorum_resp::ArgsBuf;

use crate::support::{Requests, SECRET, keyspace_at, request, view_and_load};

/// A keyspace that hides these slots and holds nothing.
fn target(slots: &SlotSet) -> Keyspace {
    let mut served = SlotSet::all();
    for slot in slots.iter() {
        served.remove(slot);
    }
    Keyspace::serving(SECRET, served, SessionId(1))
}

/// Takes a view of the slots, and stages what changed since the last one. Gives how many changes and
/// the view.
fn round(
    source: &Keyspace,
    slots: &SlotSet,
    old: Option<Frozen>,
    target: &mut Keyspace,
) -> (u64, Frozen) {
    disturbed_round(source, slots, old, target, |_, _| {})
}

/// The same with something done to the target after each change.
fn disturbed_round(
    source: &Keyspace,
    slots: &SlotSet,
    old: Option<Frozen>,
    target: &mut Keyspace,
    mut disturb: impl FnMut(u64, &mut Keyspace),
) -> (u64, Frozen) {
    let mut delta = Delta::new(old, source.freeze(slots));
    let mut changes = 0;
    while let Some(change) = delta.next_change() {
        assert!(target.stage(change.clone()), "{change:?}");
        changes += 1;
        disturb(changes, target);
    }
    (changes, delta.into_new())
}

fn same(source: &Keyspace, target: &Keyspace, slots: &SlotSet) -> bool {
    (source.slots_hash(slots), source.slots_bytes(slots))
        == (target.slots_hash(slots), target.slots_bytes(slots))
}

/// All items of these slots, as text.
fn items(keyspace: &Keyspace, slots: &SlotSet) -> Vec<String> {
    let mut view = keyspace.view();
    let (mut items, mut is_wanted) = (Vec::new(), false);
    while let Some(item) = view.next_item() {
        if let Item::Slot(item) = item {
            is_wanted = slots.contains(item.slot);
        }
        if !is_wanted {
            continue;
        }
        items.push(match item {
            // Texts of two kinds are equal, but do not look so.
            Item::Key(item) => {
                let kvorum_kv::ValueRef::String(text) = item.value;
                let value = text.as_bytes();
                format!("{:?}", (item.key, value, item.deadline, item.version))
            }
            other => format!("{other:?}"),
        });
    }
    items
}

/// Slots of which some have keys: those of the requests' keys, drawn, and runs around them.
fn draw_slots(prng: &mut Prng, requests: &Requests) -> SlotSet {
    let mut slots = SlotSet::none();
    slots.insert(slot_of(b"{tag}"));
    for _ in 0..prng.below(40) {
        let first = slot_of(requests.key(prng).as_bytes()).get();
        for slot in first..=(first + prng.below(300) as u16).min(16_383) {
            slots.insert(Slot(slot));
        }
    }
    if prng.chance(1, 10) {
        slots = SlotSet::all();
    }
    slots
}

/// Runs some requests; time goes on, and apply removes some of what is expired.
fn run(source: &mut Keyspace, requests: &mut Requests, prng: &mut Prng, clock: &mut u64) {
    for _ in 0..prng.below(300) {
        if prng.chance(1, 10) {
            *clock += prng.below(60);
            source.advance_clock(UnixMillis(*clock));
            source.remove_expired(2);
        }
        let reply = request(source, &requests.draw(prng));
        requests.learn(&[reply]);
    }
}

#[test]
fn rounds_of_differences_end_in_the_same_slots() {
    let (mut rows, mut keys, mut gone) = (0, 0, 0);
    for seed in 0..80 {
        let mut prng = Prng::new(seed);
        let mut requests = Requests::new([30, 400, 4000][prng.index(3)]);
        let mut source = keyspace_at(0);
        let mut clock = 0;
        for _ in 0..prng.below(40) {
            run(&mut source, &mut requests, &mut prng, &mut clock);
        }
        let slots = draw_slots(&mut prng, &requests);
        let mut target = target(&slots);
        let mut old = None;
        for number in 0..prng.range(1, 12) {
            run(&mut source, &mut requests, &mut prng, &mut clock);
            if prng.chance(1, 12) {
                // Another attempt: what was staged goes, and all comes again.
                for slot in slots.iter() {
                    target.drop_slot(slot);
                }
                assert_eq!(
                    (target.slots_hash(&slots), target.slots_bytes(&slots)),
                    (0, 0)
                );
                old = None;
            }
            // At some change the target is a replica that was loaded from a snapshot.
            let reload_at = prng.below(300);
            let disturb = |number, target: &mut Keyspace| {
                if number == reload_at {
                    *target = view_and_load(target);
                }
            };
            let (_, new) = disturbed_round(&source, &slots, old.take(), &mut target, disturb);
            assert!(
                same(&source, &target, &slots),
                "round {number} of seed {seed}"
            );
            target.check();
            old = Some(new);
            let mut since = Delta::new(old.clone(), source.freeze(&slots));
            assert_eq!(since.next_change(), None, "seed {seed}");
            assert_eq!(since.looked_at(), 0, "seed {seed}");
            // The target lives its own life besides: its clock removes nothing of the hidden slots.
            target.advance_clock(UnixMillis(clock * prng.below(3)));
            target.remove_expired(10);
            assert_eq!(target.len(), 0);
        }
        // Sealed: commands and time pass by these slots, and the last difference follows.
        run(&mut source, &mut requests, &mut prng, &mut clock);
        for slot in slots.iter() {
            source.set_served(slot, false);
        }
        let hash = source.slots_hash(&slots);
        source.advance_clock(UnixMillis(clock + 100));
        source.remove_expired(1000);
        assert_eq!(source.slots_hash(&slots), hash);
        let (_, last) = round(&source, &slots, old, &mut target);
        assert!(
            same(&source, &target, &slots),
            "the last round of seed {seed}"
        );
        assert_eq!(items(&source, &slots), items(&target, &slots));
        let mut all = Delta::new(None, last);
        while let Some(change) = all.next_change() {
            keys += u64::from(matches!(change, Change::Key(_)));
            rows += u64::from(matches!(change, Change::Session(_)));
        }

        // Both show the slots at one clock, and are the same slots to every command and to time.
        let clock = source.clock().max(target.clock());
        for keyspace in [&mut source, &mut target] {
            keyspace.advance_clock(clock);
            for slot in slots.iter() {
                keyspace.set_served(slot, true);
            }
            keyspace.check();
        }
        same_to_commands(&mut source, &mut target, &requests, &mut prng, &slots);
        let before = source.len();
        for keyspace in [&mut source, &mut target] {
            keyspace.advance_clock(clock + 150);
            while keyspace.remove_expired(100) > 0 {}
            keyspace.check();
        }
        gone += before - source.len();
        assert!(same(&source, &target, &slots), "seed {seed}");
    }
    assert!(
        keys > 1000 && rows > 100 && gone > 50,
        "{keys} keys, {rows} rows, {gone} gone"
    );
}

/// Reads and writes of keys in the slots, versions and repeated numbers included.
fn same_to_commands(
    source: &mut Keyspace,
    target: &mut Keyspace,
    requests: &Requests,
    prng: &mut Prng,
    slots: &SlotSet,
) {
    let mut requests = requests.clone();
    for _ in 0..400 {
        let key = requests.key(prng);
        if !slots.contains(slot_of(key.as_bytes())) {
            continue;
        }
        assert_eq!(
            source.version_of(key.as_bytes()),
            target.version_of(key.as_bytes())
        );
        let get: ArgsBuf = ["GET", &key].into_iter().collect();
        assert_eq!(request(source, &get), request(target, &get));
        let drawn = requests.draw(prng);
        let spec = find(drawn.as_args()).expect("a command");
        let within = |key: &&[u8]| slots.contains(slot_of(key));
        let keys = kvorum_kv::keys_of(spec, drawn.as_args());
        let is_keyed = matches!(spec.run, Run::Write { .. }) && keys.clone().next().is_some();
        if is_keyed && keys.clone().all(|key| within(&key)) {
            assert_eq!(
                request(source, &drawn),
                request(target, &drawn),
                "{drawn:?}"
            );
        }
    }
    assert!(same(source, target, slots));
}

#[test]
fn what_a_round_looks_at_is_what_was_written() {
    let mut source = keyspace_at(0);
    let set = |source: &mut Keyspace, number: u64, value: &str| {
        let key = format!("key:{number}");
        request(source, &["SET", &key, value].iter().collect());
    };
    for number in 0..200_000 {
        set(&mut source, number, "value");
    }
    let slots = SlotSet::of_runs([(100, 163), (5000, 5000)]);
    let mut target = target(&slots);
    let mut first = Delta::new(None, source.freeze(&slots));
    let mut changes = 0;
    while let Some(change) = first.next_change() {
        assert!(target.stage(change));
        changes += 1;
    }
    let held: u64 = slots.iter().map(|slot| source.slot_len(slot)).sum();
    assert_eq!(changes, held + u64::from(slots.len()));
    assert_eq!(first.looked_at(), held, "of 200,000");
    let mut old = Some(first.into_new());

    // Writes to other slots cost it nothing, and are not copied for it but where it borders on them.
    let before = source.bucket_copies();
    let mut prng = Prng::new(1);
    for _ in 0..5000 {
        set(&mut source, prng.below(200_000), "other");
    }
    let copied = source.bucket_copies() - before;
    assert!(copied * 10 < 5000, "{copied} buckets were copied");
    let mut delta = Delta::new(old.take(), source.freeze(&slots));
    let mut changes = 0;
    while let Some(change) = delta.next_change() {
        assert!(target.stage(change));
        changes += 1;
    }
    assert!(changes > 0 && changes < 100, "{changes} changes");
    assert!(
        delta.looked_at() <= copied * 256 * 2,
        "{} for {copied}",
        delta.looked_at()
    );
    assert!(same(&source, &target, &slots));
}

/// Whatever change is lost, the hash tells.
#[test]
fn one_change_that_is_lost_shows_in_the_hash() {
    let mut lost = [0; 5];
    for seed in 0..150 {
        let mut prng = Prng::new(seed);
        let mut requests = Requests::new(60);
        let (mut source, mut clock) = (keyspace_at(0), 0);
        for _ in 0..5 {
            run(&mut source, &mut requests, &mut prng, &mut clock);
        }
        let slots = SlotSet::all();
        let mut target = target(&slots);
        let (first, old) = round(&source, &slots, None, &mut target);
        for _ in 0..prng.below(4) {
            run(&mut source, &mut requests, &mut prng, &mut clock);
        }
        clock += prng.below(30_000);
        source.advance_clock(UnixMillis(clock));
        source.remove_expired(20);
        let new = source.freeze(&slots);
        let mut counting = Delta::new(Some(old.clone()), new.clone());
        let mut changes = 0;
        while counting.next_change().is_some() {
            changes += 1;
        }
        if changes == 0 || first == 0 {
            continue;
        }
        let left_out = prng.below(changes);
        let mut delta = Delta::new(Some(old), new);
        for number in 0..changes {
            let change = delta.next_change().expect("as many as before");
            if number != left_out {
                target.stage(change);
                continue;
            }
            lost[match change {
                Change::Slot(_) => 0,
                Change::Session(_) => 1,
                Change::SessionGone { .. } => 2,
                Change::Key(_) => 3,
                Change::KeyGone { .. } => 4,
            }] += 1;
        }
        target.check();
        let (there, here) = (source.slots_hash(&slots), target.slots_hash(&slots));
        assert_ne!(there, here, "change {left_out} of {changes}, seed {seed}");
    }
    assert!(lost.iter().all(|times| *times > 0), "{lost:?}");
}

#[test]
fn views_and_differences_can_go_to_another_thread() {
    fn can_be_sent<T: Send + 'static>(_: &T) {}
    let source = keyspace_at(0);
    let frozen = source.freeze(&SlotSet::all());
    can_be_sent(&frozen);
    can_be_sent(&Delta::new(None, frozen));
    let mut nothing = Delta::new(None, source.freeze(&SlotSet::none()));
    assert_eq!(nothing.next_change(), None);
}

#[test]
#[should_panic(expected = "the slots of both")]
fn only_the_same_slots_differ() {
    let source = keyspace_at(0);
    let old = source.freeze(&SlotSet::of_runs([(0, 5)]));
    let _ = Delta::new(Some(old), source.freeze(&SlotSet::of_runs([(0, 6)])));
}

#[test]
fn a_flush_is_a_tombstone_for_every_key() {
    let mut source = keyspace_at(0);
    for number in 0..5000 {
        let key = format!("{{tag}}{number}");
        request(&mut source, &["SET", &key, "value"].iter().collect());
    }
    let slots = SlotSet::of_runs([(0, 16_383)]);
    let mut target = target(&slots);
    let (changes, old) = round(&source, &slots, None, &mut target);
    assert_eq!(changes, 5001);
    request(&mut source, &["FLUSHALL"].iter().collect());
    request(&mut source, &["SET", "{tag}7", "value"].iter().collect());
    let (changes, _) = round(&source, &slots, Some(old), &mut target);
    assert_eq!(changes, 5001, "the slot, one key again, 4999 gone");
    assert_eq!(target.slot_len(slot_of(b"tag")), 1);
    assert!(same(&source, &target, &slots));
    target.check();
}

/// A clock that is behind must not bring a key back to life.
#[test]
fn what_has_expired_at_the_source_stays_expired() {
    let slots = SlotSet::all();
    let mut source = keyspace_at(1000);
    request(
        &mut source,
        &["SET", "lock", "a", "PX", "10"].iter().collect(),
    );
    request(
        &mut source,
        &["SET", "kept", "a", "PX", "900"].iter().collect(),
    );
    source.advance_clock(UnixMillis(1020));
    assert!(source.get(b"lock").is_none());
    for slot in slots.iter() {
        source.set_served(slot, false);
    }
    let mut target = target(&slots);
    target.advance_clock(UnixMillis(990));
    round(&source, &slots, None, &mut target);
    assert!(
        same(&source, &target, &slots),
        "held on both sides, and the hashes say so"
    );

    target.advance_clock(source.clock());
    for slot in slots.iter() {
        target.set_served(slot, true);
    }
    assert!(target.get(b"lock").is_none());
    assert_eq!(target.len(), 1);
    assert_ne!(
        target.version_of(b"lock"),
        1,
        "nor has it the version that it had"
    );
    assert_eq!(target.remove_expired(10), 1);
    assert_eq!(
        request(&mut target, &["GET", "kept"].iter().collect()),
        b"$1\r\na\r\n"
    );
    target.check();
}

#[test]
fn what_is_not_for_a_hidden_slot_changes_nothing() {
    let mut source = keyspace_at(0);
    request(&mut source, &["SET", "key", "value"].iter().collect());
    let slot = slot_of(b"key");
    let slots = SlotSet::of_runs([(slot.get(), slot.get())]);
    let mut changes: Vec<Change<'static>> = Vec::new();
    let mut delta = Delta::new(None, source.freeze(&slots));
    while let Some(change) = delta.next_change() {
        changes.push(match change {
            Change::Slot(item) => Change::Slot(item),
            _ => continue,
        });
    }
    let [Change::Slot(item)] = changes[..] else {
        panic!("{changes:?}");
    };
    let key = |version| {
        Change::Key(kvorum_kv::KeyItem {
            key: b"key",
            value: kvorum_kv::ValueRef::String(kvorum_kv::Text::Inline(b"v")),
            deadline: None,
            version,
        })
    };
    let row = |slot| {
        Change::Session(kvorum_kv::SessionChange {
            slot,
            session: SessionId(1),
            end: UnixMillis(5),
            last_sequence: 1,
            replies: vec![kvorum_kv::Recorded {
                sequence: 1,
                command_hash: 1,
                reply: bytes::Bytes::from_static(b"+OK\r\n"),
            }]
            .into(),
        })
    };
    let session = SessionId(1);
    let gone = Change::KeyGone { key: b"key" };
    let row_gone = |slot| Change::SessionGone { slot, session };

    // A slot that is served, and one that does not exist.
    let hash = source.state_hash();
    let none = Slot(16_384);
    for change in [
        Change::Slot(item),
        key(1),
        gone.clone(),
        row(slot),
        row_gone(slot),
        row(none),
        row_gone(none),
        Change::Slot(kvorum_kv::SlotItem { slot: none, ..item }),
    ] {
        assert!(!source.stage(change.clone()), "{change:?}");
        assert_eq!(source.state_hash(), hash);
    }

    // A hidden one, and what cannot be.
    let mut target = target(&slots);
    let slot_as = |version, last_removal| {
        Change::Slot(kvorum_kv::SlotItem {
            version,
            last_removal,
            ..item
        })
    };
    assert!(target.stage(slot_as(5, 2)));
    for taken in [key(5), key(4), row(slot), row(slot)] {
        assert!(target.stage(taken.clone()), "{taken:?}");
        target.check();
    }
    let hash = target.state_hash();
    let Change::Session(no_reply) = row(slot) else {
        panic!("made above");
    };
    let mut no_reply = no_reply;
    no_reply.replies.to_mut()[0].reply = bytes::Bytes::from_static(b"?");
    let mut no_number = no_reply.clone();
    no_number.last_sequence = 2;
    for refused in [
        key(6),
        key(1 << 50),
        slot_as(4, 2),
        slot_as(6, 7),
        slot_as(1 << 50, 0),
        Change::Session(no_reply),
        Change::Session(no_number),
    ] {
        assert!(!target.stage(refused.clone()), "{refused:?}");
        assert_eq!(target.state_hash(), hash, "{refused:?}");
    }
    target.check();
    for _ in 0..2 {
        assert!(target.stage(gone.clone()));
        assert!(target.stage(row_gone(slot)));
        target.check();
    }
    assert_eq!((target.slot_len(slot), target.session_rows()), (0, 0));
    assert_ne!(target.slots_hash(&slots), 0, "the counters are left");
}

#[test]
fn every_part_is_in_the_hash_of_slots() {
    let slots = SlotSet::all();
    let mut hashes = std::collections::BTreeSet::new();
    for commands in [
        &[&["SET", "k", "v"][..]][..],
        &[&["SET", "k", "w"]],
        &[&["SET", "k", "v", "PX", "5"]],
        &[&["SET", "l", "v"]],
        &[&["SET", "k", "v"], &["SET", "k", "v"]],
        &[&["SET", "k", "v"], &["DEL", "k"]],
        &[&["SET", "k", "v"], &["SET", "k", "v"], &["DEL", "k"]],
        &[&["KVORUM.ONCE", "1-5000", "1", "SET", "k", "v"]],
        &[&["KVORUM.ONCE", "1-6000", "1", "SET", "k", "v"]],
        &[&["KVORUM.ONCE", "1-5000", "2", "SET", "k", "v"]],
    ] {
        let mut keyspace = keyspace_at(0);
        for command in commands {
            request(&mut keyspace, &command.iter().collect());
        }
        assert!(hashes.insert(keyspace.slots_hash(&slots)), "{commands:?}");
        // Additive, and of nothing but the slots.
        let (left, right) = (
            SlotSet::of_runs([(0, 9999)]),
            SlotSet::of_runs([(10_000, 16_383)]),
        );
        let sum = keyspace
            .slots_hash(&left)
            .wrapping_add(keyspace.slots_hash(&right));
        assert_eq!(sum, keyspace.slots_hash(&slots));
        keyspace.advance_clock(UnixMillis(1));
        assert!(hashes.contains(&keyspace.slots_hash(&slots)));
    }
}
