//! What the crate promises, tried from outside.

mod formats;
mod host;
mod snapshots;
mod wal;
