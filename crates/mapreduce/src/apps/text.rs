//! Words: counting them, and in which files they are.
//!
//! A word is a maximal run of letters: bytes of ASCII by a table, everything else as Unicode says
//! (`Alphabetic`). What is not UTF-8 separates words.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::function::{Emit, Map, Record, Reduce, Setup, Values};

/// What a byte is: 0 separates, 1 is a letter, 2 needs a look at what follows.
const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if (byte as u8).is_ascii_alphabetic() {
            classes[byte] = 1;
        } else if byte >= 0x80 {
            classes[byte] = 2;
        }
        byte += 1;
    }
    classes
}

/// The letter that starts at `at` and is not ASCII: its length, or 0 if there is no letter.
fn wide_letter(text: &[u8], at: usize) -> usize {
    let len = match text[at] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return 0,
    };
    let letter = text
        .get(at..at + len)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .and_then(|text| text.chars().next());
    if letter.is_some_and(char::is_alphabetic) {
        len
    } else {
        0
    }
}

/// Calls `each` with every word.
pub(crate) fn each_word(text: &[u8], mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut at = 0;
    while at < text.len() {
        let start = at;
        while at < text.len() {
            match CLASS[text[at] as usize] {
                1 => at += 1,
                0 => break,
                _ => match wide_letter(text, at) {
                    0 => break,
                    len => at += len,
                },
            }
        }
        if at > start {
            each(&text[start..at])?;
        }
        at += 1;
    }
    Ok(())
}

pub(super) struct Words;

pub(super) fn words(_: &Setup) -> Result<Words> {
    Ok(Words)
}

impl Map for Words {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        each_word(record.value, |word| out.sum(word, 1))
    }
}

/// Remembers which words of the present file were emitted, up to some size: more pairs than needed do no
/// harm, the reduce takes each file once.
pub(super) struct Index {
    file: String,
    seen: BTreeSet<Vec<u8>>,
    seen_bytes: usize,
}

const SEEN_BYTES_MAX: usize = 1 << 20;

pub(super) fn index(_: &Setup) -> Result<Index> {
    Ok(Index {
        file: String::new(),
        seen: BTreeSet::new(),
        seen_bytes: 0,
    })
}

impl Map for Index {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        if self.file != record.source || self.seen_bytes > SEEN_BYTES_MAX {
            record.source.clone_into(&mut self.file);
            self.seen.clear();
            self.seen_bytes = 0;
        }
        each_word(record.value, |word| {
            if self.seen.contains(word) {
                return Ok(());
            }
            self.seen_bytes += word.len() + 64;
            self.seen.insert(word.to_vec());
            out.pair(word, self.file.as_bytes())
        })
    }
}

pub(super) struct Files {
    /// As a combiner it emits each file as a pair of its own.
    as_pairs: bool,
}

pub(super) fn files(_: &Setup) -> Result<Files> {
    Ok(Files { as_pairs: false })
}

pub(super) fn distinct_files(_: &Setup) -> Result<Files> {
    Ok(Files { as_pairs: true })
}

impl Reduce for Files {
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        let mut files = BTreeSet::new();
        while let Some(file) = values.next()? {
            if !files.contains(file) {
                files.insert(file.to_vec());
            }
        }
        if self.as_pairs {
            return files.iter().try_for_each(|file| out.pair(key, file));
        }
        let mut line = format!("{} ", files.len()).into_bytes();
        for (at, file) in files.iter().enumerate() {
            if at > 0 {
                line.push(b',');
            }
            line.extend_from_slice(file);
        }
        out.pair(key, &line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters() {
        let mut words = Vec::new();
        let text = "It's 4 o'clock, na\u{ef}ve \u{4e16}\u{754c}!\u{2014}end".as_bytes();
        each_word(text, |word| {
            words.push(String::from_utf8_lossy(word).into_owned());
            Ok(())
        })
        .expect("words");
        assert_eq!(
            words,
            [
                "It",
                "s",
                "o",
                "clock",
                "na\u{ef}ve",
                "\u{4e16}\u{754c}",
                "end"
            ]
        );
        let mut broken = Vec::new();
        each_word(b"a\xffb\xc3", |word| {
            broken.push(word.to_vec());
            Ok(())
        })
        .expect("words");
        assert_eq!(broken, [b"a", b"b"]);
    }
}
