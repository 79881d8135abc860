//! Who serves which slot, for a client that goes to owners itself.

use std::collections::BTreeMap;

use kvorum_base::slot::SLOT_COUNT;
use kvorum_router::parse_slots;

/// The map of a cluster, shared by all clients of a run. Servers are numbered.
pub(crate) struct Places {
    addresses: Vec<String>,
    owners: Vec<Option<u16>>,
    /// Servers in the order in which clients without a slot use them.
    seeds: usize,
}

impl Places {
    /// Knows only the servers that were named.
    pub(crate) fn new(seeds: &[String]) -> Self {
        Self {
            addresses: seeds.to_vec(),
            owners: vec![None; usize::from(SLOT_COUNT)],
            seeds: seeds.len(),
        }
    }

    pub(crate) fn address(&self, server: u16) -> &str {
        &self.addresses[usize::from(server)]
    }

    /// One of the named servers.
    pub(crate) fn seed(&self, number: usize) -> u16 {
        (number % self.seeds) as u16
    }

    pub(crate) fn owner(&self, slot: u16) -> Option<u16> {
        self.owners[usize::from(slot)]
    }

    /// Takes what CLUSTER SLOTS answered.
    pub(crate) fn learn(&mut self, reply: &[u8]) -> Result<(), String> {
        let ranges = parse_slots(reply).ok_or_else(|| {
            let text = String::from_utf8_lossy(reply);
            let line = text.lines().next().unwrap_or_default();
            format!("CLUSTER SLOTS answers {line}; is this a cluster? Without: no --cluster")
        })?;
        for range in ranges {
            let server = self.number(&range.primary);
            for slot in range.run.0..=range.run.1 {
                self.owners[usize::from(slot)] = Some(server);
            }
        }
        Ok(())
    }

    /// Takes a redirect, "MOVED 866 127.0.0.1:7001"; the server that it names.
    pub(crate) fn moved(&mut self, error: &str) -> Option<u16> {
        let mut words = error.split(' ');
        if words.next() != Some("MOVED") {
            return None;
        }
        let slot = words.next()?.parse::<u16>().ok()?;
        let address = words.next()?.trim_end().to_owned();
        let server = self.number(&address);
        *self.owners.get_mut(usize::from(slot))? = Some(server);
        Some(server)
    }

    /// Nobody is known to serve what this one served: the next answer will say.
    pub(crate) fn lost(&mut self, server: u16) {
        for owner in &mut self.owners {
            if *owner == Some(server) {
                *owner = None;
            }
        }
    }

    /// How many slots each server is known to serve.
    pub(crate) fn shares(&self) -> BTreeMap<&str, usize> {
        let mut shares = BTreeMap::new();
        for owner in self.owners.iter().flatten() {
            *shares.entry(self.address(*owner)).or_default() += 1;
        }
        shares
    }

    fn number(&mut self, address: &str) -> u16 {
        match self.addresses.iter().position(|known| known == address) {
            Some(number) => number as u16,
            None => {
                self.addresses.push(address.to_owned());
                (self.addresses.len() - 1) as u16
            }
        }
    }
}
