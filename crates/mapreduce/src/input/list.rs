//! From what the user names to files: paths, globs, directories.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The files behind these names, each once. A directory stands for all files below it; names that begin
/// with `_` or `.` are left out there, so that the output of one job can be the input of another. Names are
/// kept in the order in which they were given, what a glob or a directory yields in the order of names.
pub(crate) fn files(inputs: &[String]) -> Result<Vec<PathBuf>> {
    let mut seen = BTreeSet::new();
    let mut files = Vec::new();
    for input in inputs {
        let mut found = Vec::new();
        for path in named(input)? {
            walk(&path, &mut found)?;
        }
        if found.is_empty() {
            return Err(Error::new(format!("no input file is named by {input:?}")));
        }
        files.extend(found.into_iter().filter(|path| seen.insert(path.clone())));
    }
    Ok(files)
}

fn named(input: &str) -> Result<Vec<PathBuf>> {
    let path = PathBuf::from(input);
    // A file whose real name has a star in it is meant before the pattern.
    if path.exists() || !input.contains(['*', '?', '[']) {
        return Ok(vec![path]);
    }
    let paths =
        glob::glob(input).map_err(|error| Error::new(format!("the pattern {input:?}: {error}")))?;
    let mut found = Vec::new();
    for path in paths {
        found.push(path.map_err(|error| Error::new(error.to_string()))?);
    }
    found.sort();
    Ok(found)
}

fn walk(path: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let meta = fs::metadata(path).map_err(Error::io(format!("input {}", path.display())))?;
    if !meta.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    let entries = fs::read_dir(path).map_err(Error::io(format!("list {}", path.display())))?;
    let mut below = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(format!("list {}", path.display())))?;
        let hidden = entry.file_name().to_string_lossy().starts_with(['_', '.']);
        if !hidden {
            below.push(entry.path());
        }
    }
    below.sort();
    below.iter().try_for_each(|path| walk(path, found))
}
