//! What the crate promises, tried from outside.

mod delta;
mod formats;
mod host;
mod recovery;
mod replicas;
mod snapshots;
mod wal;
