//! Items from outside are not believed.

use bytes::Bytes;
use kvorum_base::slot::slot_of;
use kvorum_base::{SessionId, Slot, UnixMillis};
use kvorum_kv::{
    Item, KeyItem, Keyspace, LoadError, Loader, MetaItem, Recorded, SessionItem, SlotItem, Text,
    Token, ValueRef,
};

use crate::support::{SECRET, keyspace_at, request, view_and_load};

/// One key, one session, in one slot.
fn small() -> Keyspace {
    let mut keyspace = keyspace_at(1000);
    request(&mut keyspace, &["KVORUM.SESSION", "9"].iter().collect());
    let words = ["KVORUM.ONCE", "1-10000", "1", "SET", "k", "v", "PX", "5"];
    request(&mut keyspace, &words.iter().collect());
    keyspace
}

/// Loads the items of the small keyspace, each changed or left out first.
fn load(
    mut change: impl FnMut(&mut MetaItem, &mut SlotItem, &mut SessionItem<'_>, &mut KeyItem<'_>),
    order: &[usize],
) -> Result<Keyspace, LoadError> {
    let recorded = [Recorded {
        sequence: 1,
        command_hash: 0,
        reply: Bytes::from_static(b"+OK\r\n"),
    }];
    let keyspace = small();
    let mut view = keyspace.view();
    let mut meta = view.meta().clone();
    let (mut slot, mut command_hash) = (None, 0);
    while let Some(item) = view.next_item() {
        match item {
            Item::Slot(item) => slot = Some(item),
            Item::Session(item) => command_hash = item.replies[0].command_hash,
            Item::Meta(_) | Item::Key(_) => {}
        }
    }
    let recorded = recorded.map(|one| Recorded {
        command_hash,
        ..one
    });
    let mut slot = slot.expect("a slot");
    let mut session = SessionItem {
        session: SessionId(1),
        end: UnixMillis(10_000),
        last_sequence: 1,
        replies: &recorded,
    };
    let mut key = KeyItem {
        key: b"k",
        value: ValueRef::String(Text::Inline(b"v")),
        deadline: Some(UnixMillis(1005)),
        version: 1,
    };
    change(&mut meta, &mut slot, &mut session, &mut key);
    let items = [
        Item::Meta(&meta),
        Item::Slot(slot),
        Item::Session(session),
        Item::Key(key),
    ];
    let mut loader = Loader::new(SECRET);
    for &number in order {
        loader.load(items[number])?;
    }
    loader.finish()
}

const ALL: &[usize] = &[0, 1, 2, 3];

#[test]
fn the_items_as_they_are_load() {
    let loaded = load(|_, _, _, _| {}, ALL).expect("nothing was changed");
    loaded.check();
    assert_eq!(loaded.state_hash(), small().state_hash());
}

#[test]
fn every_field_counts() {
    type Change = fn(&mut MetaItem, &mut SlotItem, &mut SessionItem<'_>, &mut KeyItem<'_>);
    let changes: &[(&str, Change)] = &[
        ("slot", |_, slot, _, _| slot.slot = Slot(1)),
        ("no such slot", |_, slot, _, _| slot.slot = Slot(16384)),
        ("version", |_, slot, _, _| slot.version = 0),
        ("last removal", |_, slot, _, _| slot.last_removal = 9),
        ("huge version", |_, slot, _, _| slot.version = u64::MAX),
        ("sessions", |_, slot, _, _| slot.sessions = 2),
        ("keys", |_, slot, _, _| slot.keys = 0),
        ("hash", |_, slot, _, _| slot.hash ^= 1),
        ("session", |_, _, row, _| row.session = SessionId(2)),
        ("end", |_, _, row, _| row.end = UnixMillis(1)),
        ("last sequence", |_, _, row, _| row.last_sequence = 2),
        ("replies", |_, _, row, _| row.replies = &[]),
        ("key", |_, _, _, key| key.key = b"l"),
        ("value", |_, _, _, key| {
            key.value = ValueRef::String(Text::Inline(b"w"));
        }),
        ("deadline", |_, _, _, key| key.deadline = None),
        ("key version", |_, _, _, key| key.version = 0),
        ("a key newer than its slot", |_, _, _, key| key.version = 2),
        ("open sessions", |meta, _, _, _| {
            meta.open_sessions.push((UnixMillis(10_000), 1));
        }),
    ];
    for (what, change) in changes {
        assert!(load(change, ALL).is_err(), "a changed {what} was believed");
    }
}

#[test]
fn the_order_counts() {
    for order in [
        &[][..],
        &[1, 2, 3],
        &[0, 0, 1, 2, 3],
        &[0, 2, 3],
        &[0, 1, 2],
        &[0, 1, 3],
        &[0, 1, 2, 3, 3],
        &[0, 1, 2, 2, 3],
        &[0, 1, 2, 3, 1],
    ] {
        assert!(
            load(|_, _, _, _| {}, order).is_err(),
            "{order:?} was believed"
        );
    }
}

#[test]
fn large_and_strange_keys_come_back() {
    let mut keyspace = keyspace_at(7);
    let long_key = "k".repeat(60_000);
    let long_value = "v".repeat(100_000);
    for (key, value) in [
        ("", ""),
        ("\r\n", "\0"),
        (long_key.as_str(), "short"),
        ("short", long_value.as_str()),
    ] {
        request(
            &mut keyspace,
            &["SET", key, value, "PX", "99"].iter().collect(),
        );
    }
    keyspace.raise_level(3);
    let loaded = view_and_load(&keyspace);
    assert_eq!(loaded.state_hash(), keyspace.state_hash());
    assert_eq!(loaded.logical_bytes(), keyspace.logical_bytes());
    assert_eq!(loaded.level(), 3);
    assert_eq!(loaded.slot_len(slot_of(b"short")), 1);
    assert_eq!(
        loaded.get(long_key.as_bytes()).expect("it is there").value,
        ValueRef::String(Text::Inline(b"short"))
    );
}

#[test]
fn too_long_keys_and_values_are_refused() {
    let mut keyspace = keyspace_at(0);
    let long = "x".repeat(64 * 1024 + 1);
    let reply = request(&mut keyspace, &["GET", &long].iter().collect());
    assert_eq!(
        String::from_utf8_lossy(&reply),
        "-ERR a key is longer than the allowed 65536 bytes\r\n"
    );
    let longest = "x".repeat(64 * 1024);
    let reply = request(&mut keyspace, &["SET", &longest, "v"].iter().collect());
    assert_eq!(reply, b"+OK\r\n");
    let value = "v".repeat(32 * 1024 * 1024);
    let reply = request(&mut keyspace, &["SET", "k", &value].iter().collect());
    assert_eq!(reply, b"+OK\r\n");
    for request_words in [["APPEND", "k", "v"], ["SET", "k", &(value + "v")]] {
        let reply = request(&mut keyspace, &request_words.iter().collect());
        assert_eq!(
            String::from_utf8_lossy(&reply),
            "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n"
        );
    }
}

#[test]
fn sessions_are_limited_until_some_end() {
    let mut keyspace = keyspace_at(0);
    let open = ["KVORUM.SESSION", "10"].iter().collect();
    for _ in 0..100_000 {
        let reply = request(&mut keyspace, &open);
        assert_eq!(reply[0], b'$');
    }
    let reply = request(&mut keyspace, &open);
    assert!(reply.starts_with(b"-SESSIONLIMIT "), "{reply:?}");
    let loaded = view_and_load(&keyspace);
    assert_eq!(loaded.state_hash(), keyspace.state_hash());
    keyspace.advance_clock(UnixMillis(10_001));
    let reply = request(&mut keyspace, &open);
    let token = Token::parse(
        reply
            .split(|&byte| byte == b'\n')
            .nth(1)
            .map_or(b"", |line| line.strip_suffix(b"\r").unwrap_or(line)),
    );
    assert_eq!(token.map(|token| token.session), Some(SessionId(100_001)));
}
