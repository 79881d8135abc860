//! One coordinator's hold on a job: the place of its next batch, its lease, and how it learns that it is
//! over.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::coordinator::Record;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::store::client::Store;
use crate::store::jobs::{Finish, Standing};
use crate::store::{INDEX, JobId};
use kvorum_secret::{random, to_hex};

/// Places that are read at once.
const PLACES_AT_ONCE: u64 = 64;
/// Renewals of a lease within its time.
const RENEWALS_PER_LEASE: u32 = 4;

/// What stands in one place. `by` is a number that only one life of one coordinator has: it tells its own
/// writes from those of others.
#[derive(Serialize, Deserialize)]
struct Place {
    by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<Box<Job>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    records: Vec<Record>,
}

/// What a coordinator hears when it renews its lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum News {
    Nothing,
    /// Somebody wants the job to end.
    Kill,
    /// Another coordinator has written a record.
    Deposed,
}

/// A coordinator's hold on a job.
pub(crate) struct Tenure {
    store: Store,
    id: JobId,
    by: String,
    /// The place of the next batch: all before it are known.
    next: u64,
    pending: Vec<Record>,
    lease: Duration,
    renewed: Instant,
}

impl Tenure {
    /// A new job of this name. Whoever looks for work finds it when this returns.
    pub(crate) fn create(store: Store, id: JobId, job: &Job) -> Result<Self> {
        let mut this = Self::new(store, id, job.lease_ms)?;
        // Before there is anything that could be taken over.
        this.claim(1)?;
        let place = Place {
            by: this.by.clone(),
            job: Some(Box::new(job.clone())),
            records: Vec::new(),
        };
        if !this.put(&place)? {
            return Err(Error::new(format!("there is a job {} already", this.id)));
        }
        this.list()?;
        Ok(this)
    }

    /// The hold on a job that exists, the job, and its records so far.
    pub(crate) fn open(mut store: Store, id: JobId) -> Result<(Self, Job, Vec<Record>)> {
        let (job, records, next) = read(&mut store, &id)?;
        let mut this = Self::new(store, id, job.lease_ms)?;
        this.next = next;
        Ok((this, job, records))
    }

    fn new(store: Store, id: JobId, lease_ms: u64) -> Result<Self> {
        let by: [u8; 8] = random();
        Ok(Self {
            store,
            id,
            by: to_hex(&by),
            next: 0,
            pending: Vec::new(),
            lease: Duration::from_millis(lease_ms),
            renewed: Instant::now(),
        })
    }

    /// Has the job found by those who look for work; a second time is harmless.
    pub(crate) fn list(&mut self) -> Result<()> {
        self.store
            .append(INDEX, format!("{}\n", self.id).as_bytes())
    }

    /// Whether a coordinator of the last epoch of these records lives.
    pub(crate) fn is_held(&mut self, records: &[Record]) -> Result<bool> {
        let key = lease_key(&self.id, epoch_of(records).max(1));
        Ok(self.store.get(&key)?.is_some())
    }

    /// Writes the lease of this epoch. Before the epoch is recorded: in between nobody shall find an epoch
    /// without a lease, and take over from one that has only begun.
    pub(crate) fn claim(&mut self, epoch: u32) -> Result<()> {
        self.renewed = Instant::now();
        let key = lease_key(&self.id, epoch);
        self.store.set_for(&key, self.by.as_bytes(), self.lease)
    }

    /// Keeps a record for the next sync.
    pub(crate) fn append(&mut self, record: Record) {
        self.pending.push(record);
    }

    /// Writes what was appended into the next place; false if that is taken. Then this hold is over.
    pub(crate) fn sync(&mut self) -> Result<bool> {
        if self.pending.is_empty() {
            return Ok(true);
        }
        let place = Place {
            by: self.by.clone(),
            job: None,
            records: std::mem::take(&mut self.pending),
        };
        self.put(&place)
    }

    fn put(&mut self, place: &Place) -> Result<bool> {
        let text = serde_json::to_vec(place).map_err(|error| Error::new(error.to_string()))?;
        let key = self.id.key(self.next);
        let free = self.store.set_once(&key, &text)?.is_none();
        self.next += u64::from(free);
        Ok(free)
    }

    /// Whether it is time for [`Tenure::renew`].
    pub(crate) fn is_due(&self) -> bool {
        self.renewed.elapsed() >= self.lease / RENEWALS_PER_LEASE
    }

    /// Renews the lease, says how far the job is, and looks whether anybody has something to say.
    pub(crate) fn renew(&mut self, standing: &Standing) -> Result<News> {
        let keys = [self.id.key(self.next), self.id.key("kill")];
        let found = self.store.get_all(&keys)?;
        if found[0].is_some() {
            return Ok(News::Deposed);
        }
        self.claim(standing.epoch)?;
        let text = serde_json::to_vec(standing).map_err(|error| Error::new(error.to_string()))?;
        self.store.set(&self.id.key("standing"), &text)?;
        Ok(match found[1] {
            Some(_) => News::Kill,
            None => News::Nothing,
        })
    }

    /// Says how the job ended, unless somebody has.
    pub(crate) fn finish(&mut self, finish: &Finish) -> Result<()> {
        let text = serde_json::to_vec(finish).map_err(|error| Error::new(error.to_string()))?;
        self.store.set_once(&self.id.key("end"), &text).map(drop)
    }
}

/// The key of an epoch's lease.
pub(crate) fn lease_key(id: &JobId, epoch: u32) -> String {
    id.key(format_args!("lease:{epoch}"))
}

/// The last epoch that these records tell of.
pub(crate) fn epoch_of(records: &[Record]) -> u32 {
    let epoch = |record: &Record| match record {
        Record::Epoch(epoch) => Some(*epoch),
        _ => None,
    };
    records.iter().filter_map(epoch).max().unwrap_or(0)
}

/// The job, its records, and the first empty place.
fn read(store: &mut Store, id: &JobId) -> Result<(Job, Vec<Record>, u64)> {
    let mut job = None;
    let mut records = Vec::new();
    let mut next = 0;
    loop {
        let keys: Vec<String> = (next..next + PLACES_AT_ONCE).map(|at| id.key(at)).collect();
        for value in store.get_all(&keys)? {
            let Some(value) = value else {
                let job = job.ok_or_else(|| Error::new(format!("there is no job {id}")))?;
                return Ok((job, records, next));
            };
            let place: Place = serde_json::from_slice(&value)
                .map_err(|error| Error::new(format!("place {next} of job {id}: {error}")))?;
            if let Some(found) = place.job {
                job = Some(*found);
            }
            records.extend(place.records);
            next += 1;
        }
    }
}
