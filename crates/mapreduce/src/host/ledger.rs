//! Where the records of a job are kept: in a file of its output directory, or in the store.

use crate::coordinator::Record;
use crate::error::Result;
use crate::host::journal::Journal;
use crate::store::tenure::Tenure;

/// A job's records, open for writing.
pub(crate) enum Ledger {
    File(Journal),
    Store(Box<Tenure>),
}

impl Ledger {
    /// Keeps a record for the next sync.
    pub(crate) fn append(&mut self, record: Record) -> Result<()> {
        match self {
            Self::File(journal) => journal.append(record),
            Self::Store(tenure) => {
                tenure.append(record);
                Ok(())
            }
        }
    }

    /// Makes durable what was appended; false if another coordinator has taken over, and it is not.
    pub(crate) fn sync(&mut self) -> Result<bool> {
        match self {
            Self::File(journal) => journal.sync().map(|()| true),
            Self::Store(tenure) => tenure.sync(),
        }
    }

    /// The hold on a job of the store.
    pub(crate) fn tenure(&mut self) -> Option<&mut Tenure> {
        match self {
            Self::File(_) => None,
            Self::Store(tenure) => Some(tenure),
        }
    }
}
