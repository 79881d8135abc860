//! Jobs whose record is kept in the store, so that no process and no machine is needed to end them.
//!
//! All keys of a job have one tag, so they lie in one slot:
//!
//! | key | what |
//! |---|---|
//! | `{mr:JOB}:0` | the description of the job |
//! | `{mr:JOB}:1`, `:2`, ... | its records: a batch in each place, each place written once |
//! | `{mr:JOB}:lease:EPOCH` | a coordinator of this epoch lives; ends by itself |
//! | `{mr:JOB}:standing` | how far the job is, and where its coordinator listens; for display |
//! | `{mr:JOB}:kill` | the job is to end |
//! | `{mr:JOB}:end` | how it ended; written once |
//! | `{mr}:jobs` | the names of all jobs, a line for each |
//!
//! **The places decide.** A coordinator writes each batch of records into the next place, on condition that
//! the place is empty, and goes on only when it is written. Another that takes over reads all places and
//! writes its epoch into the first empty one. So there is one row of records, whoever writes it; and who was
//! replaced learns it from the very write that it wanted to rest a decision on. No clock has a part in that.
//!
//! **Leases only save work.** A lease says that it is no use to take over. One that runs out too early, or is
//! believed too long, costs time and nothing else. Each epoch has a lease of its own, which only those write
//! who want to be of that epoch.

pub(crate) mod client;
pub(crate) mod jobs;
pub(crate) mod tenure;

use std::time::Duration;

use clap::Args;

use crate::error::{Error, Result};
use crate::store::client::{Address, Store};
use kvorum_secret::{random, to_hex};

/// How long the store may be away before whoever asks it gives up: longer than its shards take to find
/// another primary.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The same for people, who wait for the answer.
pub(crate) const BRIEFLY: Duration = Duration::from_secs(10);
/// The key with the names of all jobs.
pub(crate) const INDEX: &str = "{mr}:jobs";

/// Where the store is.
#[derive(Args, Clone, Debug)]
pub(crate) struct StoreOptions {
    /// Clients' addresses of nodes or routers of the cluster that keeps the jobs
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) cluster: Vec<String>,
    /// The cluster's password, if it has one
    #[arg(
        long,
        env = "KVORUM_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true
    )]
    pub(crate) password: Option<String>,
}

impl StoreOptions {
    /// Connections to it, none of which is made yet. A request is repeated for so long.
    pub(crate) fn open(&self, patience: Duration) -> Store {
        let address = Address {
            seeds: self.cluster.clone(),
            password: self
                .password
                .clone()
                .filter(|password| !password.is_empty()),
        };
        Store::new(address, patience)
    }

    /// The words that say the same to a process that is started, but for the password.
    pub(crate) fn words(&self) -> [String; 2] {
        ["--cluster".to_owned(), self.cluster.join(",")]
    }
}

/// The name of a job: of letters, digits and dashes, so that it can be part of a key and of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct JobId(String);

impl JobId {
    /// A new one that begins with what runs.
    pub(crate) fn draw(program: &str) -> Self {
        let program: String = program
            .chars()
            .filter(|letter| letter.is_ascii_alphanumeric())
            .take(20)
            .collect();
        let program = if program.is_empty() { "job" } else { &program };
        let bytes: [u8; 6] = random();
        Self(format!("{program}-{}", to_hex(&bytes)))
    }

    /// Reads one that somebody has written.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if text.is_empty() || text.len() > 64 || !text.bytes().all(good) {
            return Err(Error::new(format!("{text:?} is no name of a job")));
        }
        Ok(Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The key with this name among those of the job.
    pub(crate) fn key(&self, name: impl std::fmt::Display) -> String {
        format!("{{mr:{}}}:{name}", self.0)
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_jobs() {
        let drawn = JobId::draw("./map.py --x");
        assert!(drawn.as_str().starts_with("mappyx-"), "{drawn}");
        assert_eq!(JobId::parse(drawn.as_str()).expect("a name"), drawn);
        assert_eq!(drawn.key("lease:1"), format!("{{mr:{drawn}}}:lease:1"));
        for bad in ["", "a/b", "..", "a}b", "a b"] {
            assert!(JobId::parse(bad).is_err(), "{bad}");
        }
    }
}
