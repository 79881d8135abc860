//! Cutting the input into the work of map tasks.
//!
//! A large plain file is cut at byte offsets; whoever reads a piece finds the record ends (`read`).
//! Compressed and whole files stay in one piece. Small files are packed into one split, in their order,
//! so that a thousand of them are not a thousand tasks.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::input::format::Format;

/// No split is smaller by itself: a task costs a few milliseconds.
const SPLIT_BYTES_MIN: u64 = 1 << 20;
/// No split is larger by itself: what is lost with a worker stays small.
const SPLIT_BYTES_MAX: u64 = 64 << 20;
/// So many splits for each worker, so that a slow one holds up little.
const SPLITS_PER_WORKER: u64 = 4;

/// How a file is packed, told by its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Packing {
    /// Not at all.
    Plain,
    /// gzip, of one or more members.
    Gzip,
    /// zstd, of one or more frames.
    Zstd,
}

/// A part of a file: the records that start in `start..end`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Piece {
    /// The file, as it was named.
    pub(crate) path: PathBuf,
    /// How it is packed. Then the piece is the whole file.
    pub(crate) packing: Packing,
    /// In bytes.
    pub(crate) start: u64,
    /// In bytes, not included.
    pub(crate) end: u64,
}

/// What one map task reads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Split(pub(crate) Vec<Piece>);

impl Split {
    /// For people: which files.
    pub(crate) fn describe(&self) -> String {
        let Some(first) = self.0.first() else {
            return "nothing".to_owned();
        };
        let name = first.path.display();
        match (self.0.len(), first.packing, first.start) {
            (1, Packing::Plain, start) => format!("{name}, bytes {start} to {}", first.end),
            (1, ..) => name.to_string(),
            (count, ..) => format!("{name} and {} more files", count - 1),
        }
    }
}

/// How the user wants it cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) format: Format,
    pub(crate) workers: u32,
    /// About so many bytes for each split; by itself it depends on the input and the workers.
    pub(crate) split_bytes: Option<u64>,
    /// Every file is a split of its own, whatever its size.
    pub(crate) per_file: bool,
}

/// Cuts these files.
pub(crate) fn plan(files: &[PathBuf], plan: Plan) -> Result<Vec<Split>> {
    let mut wholes = Vec::new();
    for path in files {
        wholes.push(inspect(path)?);
    }
    let total: u64 = wholes.iter().map(|piece| piece.end).sum();
    let share = total / (u64::from(plan.workers.max(1)) * SPLITS_PER_WORKER);
    let target = plan
        .split_bytes
        .unwrap_or(share.clamp(SPLIT_BYTES_MIN, SPLIT_BYTES_MAX));
    let target = target.max(1);
    let mut splits = Vec::new();
    let mut pack: Vec<Piece> = Vec::new();
    let mut packed = 0;
    for whole in wholes {
        if plan.per_file {
            splits.push(Split(vec![whole]));
            continue;
        }
        let divisible = whole.packing == Packing::Plain && plan.format != Format::Whole;
        if divisible && whole.end > target + target / 4 {
            close(&mut pack, &mut packed, &mut splits);
            splits.extend(cut(&whole, target));
            continue;
        }
        if packed > 0 && packed + whole.end > target {
            close(&mut pack, &mut packed, &mut splits);
        }
        packed += whole.end;
        pack.push(whole);
    }
    close(&mut pack, &mut packed, &mut splits);
    Ok(splits)
}

fn close(pack: &mut Vec<Piece>, packed: &mut u64, splits: &mut Vec<Split>) {
    if !pack.is_empty() {
        splits.push(Split(std::mem::take(pack)));
    }
    *packed = 0;
}

/// Equal parts of at most about `target` bytes.
fn cut(whole: &Piece, target: u64) -> impl Iterator<Item = Split> {
    let parts = whole.end.div_ceil(target);
    let size = whole.end;
    let at = move |part: u64| (u128::from(size) * u128::from(part) / u128::from(parts)) as u64;
    (0..parts).map(move |part| {
        let (start, end) = (at(part), at(part + 1));
        Split(vec![Piece {
            start,
            end,
            ..whole.clone()
        }])
    })
}

fn inspect(path: &Path) -> Result<Piece> {
    let what = || format!("input {}", path.display());
    let mut file = File::open(path).map_err(Error::io(what()))?;
    let meta = file.metadata().map_err(Error::io(what()))?;
    if !meta.is_file() {
        return Err(Error::new(format!("{} is not a file", path.display())));
    }
    if path.to_str().is_none() {
        return Err(Error::new(format!(
            "the name of {} is not UTF-8",
            path.display()
        )));
    }
    let mut magic = [0; 4];
    let mut have = 0;
    while have < magic.len() {
        match file.read(&mut magic[have..]).map_err(Error::io(what()))? {
            0 => break,
            read => have += read,
        }
    }
    let packing = match &magic[..have] {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] => Packing::Zstd,
        _ => Packing::Plain,
    };
    Ok(Piece {
        path: path.to_owned(),
        packing,
        start: 0,
        end: meta.len(),
    })
}
