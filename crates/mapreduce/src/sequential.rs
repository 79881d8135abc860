//! A job in one process, in memory, with nothing clever: the twin that the engine's output is compared with.
//!
//! It reads the splits in order, maps every record, sorts what was emitted by key, keeping the order of
//! emission, and reduces key after key. No spill, no combiner, no partitions on disk.

use std::collections::BTreeMap;

use crate::app::App;
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::function::{Emit, Setup, Sink, ValueSource, Values};
use crate::input::format::{Cutter, Format};
use crate::input::list;
use crate::input::read::records;
use crate::input::split::{Plan, plan};

const MEMORY_BYTES: usize = 1 << 30;

/// Pairs in the order of their emission.
#[derive(Default)]
struct Pairs(Vec<(Vec<u8>, Vec<u8>)>);

impl Sink for Pairs {
    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.0.push((key.to_vec(), value.to_vec()));
        Ok(())
    }
}

/// Lines of the output.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Sink for Lines {
    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.line(&[key, b"\t", value].concat())
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        self.0.extend_from_slice(line);
        self.0.push(b'\n');
        Ok(())
    }
}

struct Listed<'a>(std::slice::Iter<'a, Vec<u8>>);

impl ValueSource for Listed<'_> {
    fn next_value(&mut self) -> Result<Option<&[u8]>> {
        Ok(self.0.next().map(Vec::as_slice))
    }
}

/// The whole output of an app over these inputs, as one file.
///
/// # Errors
/// As the engine's attempts; a bad record ends it.
pub fn run(
    app: &App,
    inputs: &[String],
    format: Option<Format>,
    params: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let format = format.unwrap_or(app.format);
    let files = list::files(inputs)?;
    let cut = Plan {
        format,
        workers: 1,
        split_bytes: None,
        per_file: true,
    };
    let setup = Setup {
        params: params.clone(),
        index: 0,
        reducers: 1,
        attempt: "sequential".to_owned(),
    };
    let (mut pairs, mut lines, mut counters) =
        (Pairs::default(), Lines::default(), Counters::new());
    for split in plan(&files, cut)? {
        let mut map = (app.map)(&setup)?;
        let mut out = Emit {
            sink: &mut pairs,
            counters: &mut counters,
        };
        let mut cutter = Cutter::new(format, params.get("key"), params.get("value"));
        records(&split, format, &mut cutter, MEMORY_BYTES, &mut |record| {
            map.map(&record?, &mut out)
        })?;
        map.finish(&mut out)?;
    }
    let mut keys: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for (key, value) in pairs.0 {
        keys.entry(key).or_default().push(value);
    }
    let mut reduce = (app.reduce)(&setup)?;
    let mut out = Emit {
        sink: &mut lines,
        counters: &mut counters,
    };
    for (key, values) in &keys {
        reduce.reduce(
            key,
            &mut Values {
                source: &mut Listed(values.iter()),
            },
            &mut out,
        )?;
    }
    reduce.finish(&mut out)?;
    Ok(lines.0)
}

/// An app by its name.
///
/// # Errors
/// If there is none.
pub fn find<'a>(apps: &'a [App], name: &str) -> Result<&'a App> {
    apps.iter().find(|app| app.name == name).ok_or_else(|| {
        let names: Vec<&str> = apps.iter().map(|app| app.name).collect();
        Error::new(format!("no app {name:?}; there are {}", names.join(", ")))
    })
}
