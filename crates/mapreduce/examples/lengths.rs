//! An app of one's own: how many lines there are of each length.
//!
//! `cargo run --release -p kvorum-mapreduce --example lengths -- \
//!  run --app lengths --input 'books/*.txt' --output out`

use std::process::ExitCode;

use kvorum_mapreduce::{App, Emit, Map, Record, Reduce, Result, Values};

struct Lengths;

impl Map for Lengths {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        let length = format!("{:06}", record.value.len());
        out.pair(length.as_bytes(), b"1")
    }
}

impl Reduce for Lengths {
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        let lines = values.sum()?;
        out.pair(key, lines.to_string().as_bytes())
    }
}

fn main() -> ExitCode {
    let app = App::new(
        "lengths",
        "lines by length",
        |_| Ok(Lengths),
        |_| Ok(Lengths),
    );
    kvorum_mapreduce::command::main(vec![app.combine(|_| Ok(Lengths)).in_order()])
}
