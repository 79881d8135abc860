//! The apps that come with kvorum.

mod aggregate;
mod grep;
mod sort;
mod text;
mod top;

use crate::app::App;
use crate::input::format::Format;

/// All of them.
#[must_use]
pub fn built_in() -> Vec<App> {
    let mut apps = of_text();
    apps.extend(of_numbers());
    apps
}

fn of_text() -> Vec<App> {
    let wc = "how often each word occurs; a word is a run of letters";
    let grep = "lines that match a pattern, after FILE:OFFSET";
    let pattern = "a regular expression, with the syntax of Rust's regex crate";
    let indexer = "words: how many files have them, and which";
    let sort = "all lines in the order of their bytes";
    let distinct = "each line once, in order";
    vec![
        App::new("wc", wc, text::words, aggregate::sum).combine(aggregate::sum),
        App::new("indexer", indexer, text::index, text::files).combine(text::distinct_files),
        App::new("grep", grep, grep::matches, grep::all)
            .param("pattern", pattern)
            .in_order(),
        App::new("sort", sort, sort::keys, sort::repeated).in_order(),
        App::new("distinct", distinct, sort::keys, sort::distinct)
            .combine(sort::distinct_pairs)
            .in_order(),
    ]
}

fn of_numbers() -> Vec<App> {
    let sum = "the sum of whole numbers by key";
    let (min, max) = ("the smallest number by key", "the largest number by key");
    let top = "the keys with the largest numbers, largest first";
    vec![
        App::new(
            "count",
            "how many records by key",
            aggregate::count,
            aggregate::sum,
        )
        .combine(aggregate::sum)
        .format(Format::Kv),
        App::new("sum", sum, aggregate::whole, aggregate::sum)
            .combine(aggregate::sum)
            .format(Format::Kv),
        App::new("min", min, aggregate::number, aggregate::min)
            .combine(aggregate::min)
            .format(Format::Kv),
        App::new("max", max, aggregate::number, aggregate::max)
            .combine(aggregate::max)
            .format(Format::Kv),
        App::new("top-k", top, top::candidates, top::top)
            .param("k", "how many (10)")
            .format(Format::Kv)
            .reducers(1),
    ]
}
