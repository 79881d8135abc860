//! What was acknowledged is there, and what was refused is not.
//!
//! Clients write keys that are written once and never again, so the end of the run tells without any
//! search: an acknowledged one must hold its value, a refused one must not exist, and of one whose
//! outcome is unknown nothing is known.

use std::collections::BTreeMap;
use std::rc::Rc;

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Acknowledged.
    Written,
    /// Refused.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// Every key that is written once.
#[derive(Default, Debug)]
pub struct Ledger {
    writes: BTreeMap<Vec<u8>, (Vec<u8>, Fate)>,
}

impl Ledger {
    /// A client wrote `value` under a key of its own, with this outcome.
    pub fn wrote(&mut self, key: &[u8], value: &[u8], fate: Fate) {
        let before = self.writes.insert(key.to_vec(), (value.to_vec(), fate));
        assert_eq!(before, None, "a key of the ledger is written once");
    }

    /// Every key, to be read at the end.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.writes.keys().cloned().collect()
    }

    /// The acknowledged keys that begin with this.
    pub fn written<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a Vec<u8>> {
        let from = self.writes.range(prefix.to_vec()..);
        from.take_while(move |(key, _)| key.starts_with(prefix))
            .filter(|(_, (_, fate))| *fate == Fate::Written)
            .map(|(key, _)| key)
    }

    /// Compares with what a read found.
    ///
    /// # Errors
    /// If it is not what was promised.
    pub fn check(&self, key: &[u8], found: Option<&Rc<[u8]>>) -> Result<(), String> {
        let name = String::from_utf8_lossy(key);
        let (value, fate) = &self.writes[key];
        match (fate, found) {
            (Fate::Written, None) => Err(format!("{name} was acknowledged and is gone")),
            (Fate::Refused, Some(_)) => Err(format!("{name} was refused and is there")),
            (_, Some(found)) if **found != **value => {
                Err(format!("{name} holds what nobody wrote: {found:?}"))
            }
            _ => Ok(()),
        }
    }
}
