//! A keyspace that is driven as a replica drives one.

use kvorum_base::UnixMillis;
use kvorum_kv::{Keyspace, Run, apply, find, read, resolve};
use kvorum_resp::{ArgsBuf, Replies};

/// The secret of all tests.
pub(crate) const SECRET: [u8; 16] = *b"0123456789abcdef";

/// How many keys an entry removes at most.
pub(crate) const REMOVED_AT_ONCE: usize = 8;

/// One request to its stored reply: a read at once, a write by way of its encoded form.
pub(crate) fn request(keyspace: &mut Keyspace, args: &ArgsBuf) -> Vec<u8> {
    let mut stored = Vec::new();
    let mut replies = Replies::stored(&mut stored);
    let args = args.as_args();
    match find(args) {
        Err(refusal) => refusal.reply(&mut replies),
        Ok(spec) => match spec.run {
            Run::Write { .. } => {
                let mut command = Vec::new();
                match resolve(spec, args, &mut command) {
                    Err(refusal) => refusal.reply(&mut replies),
                    Ok(()) => {
                        keyspace.remove_expired(REMOVED_AT_ONCE);
                        apply(keyspace, &command, &mut replies);
                    }
                }
            }
            _ => read(spec, args, keyspace, &mut replies),
        },
    }
    assert!(replies.is_whole(), "a reply to {args:?} is not whole");
    stored
}

/// A new keyspace at a clock.
pub(crate) fn keyspace_at(clock: u64) -> Keyspace {
    let mut keyspace = Keyspace::new(SECRET);
    keyspace.advance_clock(UnixMillis(clock));
    keyspace
}
