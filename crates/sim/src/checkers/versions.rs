//! The version of a key never goes back, whether the key is there or not. Otherwise who remembers a
//! version and compares it later takes a changed key for an unchanged one.

use std::collections::BTreeMap;

/// The highest version that anybody was told of each key.
#[derive(Debug, Default)]
pub struct Versions {
    told: BTreeMap<Vec<u8>, i64>,
}

impl Versions {
    /// The lowest version that a read of the key may return if it begins now.
    #[must_use]
    pub fn floor(&self, key: &[u8]) -> i64 {
        self.told.get(key).copied().unwrap_or(0)
    }

    /// A read that began when the floor was `floor` returned `version`.
    ///
    /// # Panics
    /// If the version went back.
    pub fn returned(&mut self, key: &[u8], floor: i64, version: i64) {
        assert!(
            version >= floor,
            "versions: key {} had version {floor} and now {version}",
            String::from_utf8_lossy(key)
        );
        let told = self.told.entry(key.to_vec()).or_default();
        *told = (*told).max(version);
    }
}
