//! Where a worker has its files: all in the job's folder, or what maps write on its own disk.

use std::path::PathBuf;

use crate::coordinator::{AttemptId, Phase};
use crate::job::Layout;
use crate::store::JobId;
use kvorum_secret::Secret;

/// A worker's place in one job.
#[derive(Clone, Debug)]
pub(crate) struct Station {
    layout: Layout,
    own: Option<Own>,
}

/// What a worker has that keeps the outputs of its maps itself.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// The folder of this job on its own disk.
    pub(crate) folder: PathBuf,
    /// Where it serves what lies there.
    pub(crate) place: String,
    pub(crate) job: JobId,
    /// What it proves to other workers.
    pub(crate) secret: Secret,
}

impl Station {
    /// All files lie in the job's folder.
    pub(crate) fn local(layout: Layout) -> Self {
        Self { layout, own: None }
    }

    /// Only the outputs of reduces do.
    pub(crate) fn with(layout: Layout, own: Own) -> Self {
        let own = Some(own);
        Self { layout, own }
    }

    /// Where others find what maps write here; empty if in the job's folder.
    pub(crate) fn place(&self) -> &str {
        self.own.as_ref().map_or("", |own| &own.place)
    }

    pub(crate) fn own(&self) -> Option<&Own> {
        self.own.as_ref()
    }

    /// Whether what is served at this place has to be fetched.
    pub(crate) fn is_elsewhere(&self, place: &str) -> bool {
        !place.is_empty() && place != self.place()
    }

    /// The file of an attempt: the run file of a map, the output of a reduce.
    pub(crate) fn file(&self, attempt: AttemptId) -> PathBuf {
        match (&self.own, attempt.task.phase) {
            (Some(own), Phase::Map) => own.folder.join(attempt.to_string()),
            _ => self.layout.file(attempt),
        }
    }

    /// A file that an attempt needs for itself.
    pub(crate) fn scratch(&self, attempt: AttemptId, what: &str) -> PathBuf {
        let name = format!("{attempt}.{what}");
        match &self.own {
            Some(own) => own.folder.join(name),
            None => self.layout.files().join(name),
        }
    }
}
