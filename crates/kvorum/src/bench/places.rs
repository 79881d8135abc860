//! Who serves which slot, for a client that goes to owners itself.

use std::collections::BTreeMap;

use super::replies::Reply;

/// The map of a cluster, shared by all clients of a run. Servers are numbered.
pub(crate) struct Places {
    addresses: Vec<String>,
    owners: Vec<Option<u16>>,
    /// Servers in the order in which clients without a slot use them.
    seeds: usize,
}

/// Slots of a cluster.
const SLOTS: usize = 16384;

impl Places {
    /// Knows only the servers that were named.
    pub(crate) fn new(seeds: &[String]) -> Self {
        Self {
            addresses: seeds.to_vec(),
            owners: vec![None; SLOTS],
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
    pub(crate) fn learn(&mut self, reply: &Reply) -> Result<(), String> {
        let Reply::Array(rows) = reply else {
            return Err(format!(
                "CLUSTER SLOTS answers {reply:?}; is this a cluster? Without: no --cluster"
            ));
        };
        for row in rows {
            let (first, last, address) =
                row_of(row).ok_or_else(|| format!("cannot read {row:?}"))?;
            let server = self.number(&address);
            for slot in first..=last {
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

fn row_of(row: &Reply) -> Option<(u16, u16, String)> {
    let Reply::Array(row) = row else { return None };
    let (Reply::Integer(first), Reply::Integer(last), Reply::Array(primary)) =
        (row.first()?, row.get(1)?, row.get(2)?)
    else {
        return None;
    };
    let (Reply::Bulk(host), Reply::Integer(port)) = (primary.first()?, primary.get(1)?) else {
        return None;
    };
    let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
    (first <= last && usize::from(last) < SLOTS).then(|| {
        (
            first,
            last,
            format!("{}:{port}", String::from_utf8_lossy(host)),
        )
    })
}
