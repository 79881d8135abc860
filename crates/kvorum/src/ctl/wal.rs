//! `kvorum ctl wal dump`: a node's log for people. Changes nothing, and needs no lock: a running node's log
//! can be read too, up to where it was written when it was read.

use std::io::Write;
use std::path::Path;

use kvorum_node::SegmentId;
use kvorum_node::log::dump as dump_segment;
use kvorum_server::disk::segments::{list, path_of};
use kvorum_server::identity::Manifest;

/// Prints every record of this directory's log.
pub(crate) fn dump(dir: &Path) -> Result<(), String> {
    let manifest = Manifest::load(dir).map_err(|refusal| refusal.to_string())?;
    let manifest =
        manifest.ok_or_else(|| format!("{} is not a node's directory", dir.display()))?;
    let segments =
        list(dir, 0).map_err(|error| format!("cannot read {}: {error}", dir.display()))?;
    let out = std::io::stdout().lock();
    match print(out, dir, manifest.log_salt, &segments) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| format!("cannot read {}: {error}", dir.display())),
    }
}

fn print(
    mut out: impl Write,
    dir: &Path,
    salt: u64,
    segments: &[SegmentId],
) -> std::io::Result<()> {
    for segment in segments {
        let path = path_of(dir, 0, *segment);
        writeln!(out, "segment {segment}  {}", path.display())?;
        let bytes = std::fs::read(&path)?;
        for line in dump_segment(salt, *segment, &bytes) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}
