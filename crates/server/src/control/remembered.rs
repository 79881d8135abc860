//! What a node remembers of its cluster from one life to the next: the newest state of the shard manager, in
//! the file `CLUSTER`.
//!
//! A manifest knows the nodes that there were when the node came. Were that all, then:
//!
//! 1. Node 4 joins three nodes; nodes 1 and 2 are drained and removed.
//! 2. Nodes 3 and 4 end at once and are started again. 3 knows 1 and 2 alone, and 4 does not dial nodes
//!    with lower ids: they never meet.
//!
//! Nothing rests on the file. What it says was true once, as if somebody told it late, and whatever is newer
//! takes its place; one that cannot be read is as good as none.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use kvorum_base::ClusterId;
use kvorum_cluster::State;

use crate::disk::replace_file;

/// Name of the file.
pub const CLUSTER_FILE: &str = "CLUSTER";

/// The state that was remembered, if it is one of this cluster.
#[must_use]
pub fn recall(dir: &Path, cluster: ClusterId) -> Option<Arc<State>> {
    let path = dir.join(CLUSTER_FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("cannot read {}: {error}", path.display());
            return None;
        }
    };
    match State::decode(&bytes) {
        Ok(state) if state.cluster() == cluster => Some(Arc::new(state)),
        Ok(_) => {
            tracing::warn!("{} is another cluster's: it is ignored", path.display());
            None
        }
        Err(malformed) => {
            tracing::warn!("{}: {malformed}: it is ignored", path.display());
            None
        }
    }
}

/// Writes down what is to be remembered, on a thread of its own.
#[derive(Debug)]
pub(super) struct Memory {
    /// The epoch of the last state that was handed over.
    epoch: AtomicU64,
    states: Sender<Arc<State>>,
}

impl Memory {
    /// For this directory.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(super) fn start(dir: &Path) -> io::Result<Self> {
        let (states, next) = channel();
        let path = dir.join(CLUSTER_FILE);
        std::thread::Builder::new()
            .name("kvorum-memory".to_owned())
            .spawn(move || write_down(&path, &next))?;
        let epoch = AtomicU64::new(0);
        Ok(Self { epoch, states })
    }

    /// Remembers this state, if it shows something new.
    pub(super) fn keep(&self, state: &Arc<State>) {
        let epoch = state.epoch().get();
        if self.epoch.fetch_max(epoch, Ordering::Relaxed) < epoch {
            // The thread ends with the process.
            let _ = self.states.send(Arc::clone(state));
        }
    }
}

fn write_down(path: &Path, states: &Receiver<Arc<State>>) {
    while let Ok(mut state) = states.recv() {
        while let Ok(newer) = states.try_recv() {
            state = newer;
        }
        if let Err(error) = replace_file(path, &state.encode()) {
            tracing::warn!("cannot write {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Advertised;
    use crate::identity::{Plan, Shape};
    use crate::testing::TempDir;

    fn state() -> State {
        let at = |port| format!("127.0.0.1:{port}");
        let addresses = Advertised {
            client: at(1),
            replica: at(2),
            peer: at(3),
            http: at(4),
        };
        let (shards, replicas) = (1, 1);
        let plan = Plan::draw(vec![addresses], Shape { shards, replicas });
        State::initial(&plan.founding().expect("sound")).expect("sound")
    }

    #[test]
    fn what_was_kept_is_recalled_by_its_own_cluster() {
        let dir = TempDir::new("remembered");
        let state = Arc::new(state());
        assert_eq!(recall(dir.path(), state.cluster()), None);
        let (send, next) = channel();
        send.send(Arc::clone(&state)).expect("received");
        drop(send);
        write_down(&dir.path().join(CLUSTER_FILE), &next);
        assert_eq!(recall(dir.path(), state.cluster()), Some(state));
        assert_eq!(recall(dir.path(), ClusterId(1)), None, "another cluster");
        std::fs::write(dir.path().join(CLUSTER_FILE), b"torn").expect("written");
        assert_eq!(recall(dir.path(), ClusterId(1)), None);
    }
}
