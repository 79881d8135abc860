//! The version of a key never falls, and rises with every change, whether the key is there or not.

use std::collections::BTreeMap;

use crate::world::Time;

/// What is known of one key, up to now.
#[derive(Clone, Copy, Default, Debug)]
struct Key {
    /// The highest version that a finished read returned.
    highest: u64,
    /// A change was acknowledged after that read; a read that begins later must see more.
    is_changed: bool,
}

/// Versions by key, of keys that one client alone changes and reads.
#[derive(Default, Debug)]
pub struct Versions {
    keys: BTreeMap<Vec<u8>, Key>,
}

impl Versions {
    /// A change of the key was acknowledged.
    pub fn changed(&mut self, key: &[u8]) {
        self.keys.entry(key.to_vec()).or_default().is_changed = true;
    }

    /// A read of the version returned.
    ///
    /// # Errors
    /// If it is lower than before, or as before although the key has changed.
    pub fn read(&mut self, key: &[u8], version: u64, now: Time) -> Result<(), String> {
        let known = self.keys.entry(key.to_vec()).or_default();
        let before = *known;
        *known = Key {
            highest: version,
            is_changed: false,
        };
        if version < before.highest || (before.is_changed && version == before.highest) {
            return Err(format!(
                "at {now} the version of {} is {version} after {before:?}",
                String::from_utf8_lossy(key)
            ));
        }
        Ok(())
    }
}
