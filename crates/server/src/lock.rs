//! One process for one data directory.
//!
//! Two processes with the same identity would both vote. The lock is the kernel's (on the file
//! `LOCK`), so it ends with its process, however that ends; the pid in the file only serves the
//! message.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::disk::make_dir;

/// Name of the lock file in the data directory.
pub const LOCK_FILE: &str = "LOCK";

/// Holds the directory until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Makes the directory if it is missing, and takes it.
    ///
    /// # Errors
    /// With a sentence for the operator: another process has it, or it cannot be made or written.
    pub fn take(dir: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| {
            format!("cannot use the data directory {}: {error}", dir.display())
        };
        make_dir(dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK_FILE))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(format!(
                    "the data directory {} is in use by another process (pid {}): stop that one \
                     first, or give this node its own --dir",
                    dir.display(),
                    pid.trim()
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_second_is_told_who_has_it() {
        let dir = TempDir::new("lock");
        let first = DirectoryLock::take(dir.path()).expect("free");
        let refused = DirectoryLock::take(dir.path()).expect_err("taken");
        assert!(
            refused.contains(&std::process::id().to_string()),
            "{refused}"
        );
        drop(first);
        DirectoryLock::take(dir.path()).expect("free again");
    }
}
