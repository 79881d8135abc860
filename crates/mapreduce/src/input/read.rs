//! Reading the records of a split.
//!
//! A piece that starts in the middle of a file starts one byte earlier and drops everything up to the first
//! line end: then a line that begins exactly at the piece's start is kept, and each line belongs to exactly
//! one piece. The last line of a piece may reach into the next one.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use crate::error::{Error, Result};
use crate::function::Record;
use crate::input::format::{Cutter, Format};
use crate::input::split::{Packing, Piece, Split};

/// What is read at once.
const READ_BYTES_MAX: usize = 1 << 20;
const READ_BYTES_MIN: usize = 64 << 10;

/// What to do with each record, or with the error that stands in its place. An error that it returns ends
/// the reading.
pub(crate) type EachRecord<'a> = dyn FnMut(Result<Record<'_>>) -> Result<()> + 'a;

/// Calls `each` for every record of a split, in order. Returns how many bytes of content were read. Records
/// beyond half of `memory_bytes` are errors.
pub(crate) fn records(
    split: &Split,
    format: Format,
    cutter: &mut Cutter,
    memory_bytes: usize,
    each: &mut EachRecord<'_>,
) -> Result<u64> {
    let mut bytes = 0;
    for piece in &split.0 {
        bytes += match format {
            Format::Whole => whole_file(piece, memory_bytes / 2, cutter, each)?,
            _ => lines(piece, memory_bytes, cutter, each)?,
        };
    }
    Ok(bytes)
}

fn open(piece: &Piece) -> Result<Box<dyn Read>> {
    let what = || format!("read {}", piece.path.display());
    let mut file = File::open(&piece.path).map_err(Error::io(what()))?;
    Ok(match piece.packing {
        Packing::Plain => {
            if piece.start > 0 {
                file.seek(SeekFrom::Start(piece.start - 1))
                    .map_err(Error::io(what()))?;
            }
            Box::new(file)
        }
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(
            BufReader::with_capacity(1 << 16, file),
        )),
        Packing::Zstd => {
            Box::new(zstd::stream::read::Decoder::new(file).map_err(Error::io(what()))?)
        }
    })
}

fn whole_file(
    piece: &Piece,
    bytes_max: usize,
    cutter: &mut Cutter,
    each: &mut EachRecord<'_>,
) -> Result<u64> {
    let mut content = Vec::new();
    let source = piece.path.to_str().unwrap_or_default();
    let read = open(piece)?
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut content)
        .map_err(Error::io(format!("read {source}")))?;
    if read > bytes_max {
        each(Err(Error::bad_record(format!(
            "{source} does not fit into half of the memory limit, {bytes_max} bytes"
        ))))?;
        return Ok(read as u64);
    }
    let (key, value) = cutter.cut(&content)?;
    each(Ok(Record {
        source,
        offset: 0,
        key,
        value,
    }))?;
    Ok(read as u64)
}

/// Bytes of a file, from some offset on, in a window that moves forward.
struct Window {
    reader: Box<dyn Read>,
    bytes: Vec<u8>,
    /// What of the window is filled, and what of that was used.
    used: usize,
    filled: usize,
    /// The offset of `bytes[used]`.
    offset: u64,
    bytes_max: usize,
    over: bool,
}

impl Window {
    /// Moves the unused bytes to the front and reads more behind them.
    fn refill(&mut self) -> std::io::Result<()> {
        self.bytes.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        if self.filled == self.bytes.len() && self.bytes.len() < self.bytes_max {
            let larger = (self.bytes.len() * 2).min(self.bytes_max);
            self.bytes.resize(larger, 0);
        }
        while self.filled < self.bytes.len() {
            match self.reader.read(&mut self.bytes[self.filled..]) {
                Ok(0) => {
                    self.over = true;
                    break;
                }
                Ok(read) => {
                    self.filled += read;
                    break;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn consume(&mut self, bytes: usize) {
        self.used += bytes;
        self.offset += bytes as u64;
    }

    /// The length of the next line, without its end, and with it. `None` at the end of the file. A line that
    /// does not fit is cut: `Err` with what there is of it.
    fn line(&mut self) -> std::io::Result<Option<Result<(usize, usize), usize>>> {
        let mut searched = 0;
        loop {
            let have = &self.bytes[self.used..self.filled];
            if let Some(at) = memchr::memchr(b'\n', &have[searched..]) {
                let len = searched + at;
                return Ok(Some(Ok((len, len + 1))));
            }
            searched = have.len();
            if self.over {
                let rest = (searched > 0).then_some(Ok((searched, searched)));
                return Ok(rest);
            }
            if searched == self.bytes_max {
                return Ok(Some(Err(searched)));
            }
            self.refill()?;
        }
    }
}

fn lines(
    piece: &Piece,
    memory_bytes: usize,
    cutter: &mut Cutter,
    each: &mut EachRecord<'_>,
) -> Result<u64> {
    let source = piece.path.to_str().unwrap_or_default();
    let what = || format!("read {source}");
    let block = (memory_bytes / 16).clamp(READ_BYTES_MIN, READ_BYTES_MAX);
    let mut window = Window {
        reader: open(piece)?,
        bytes: vec![0; block],
        used: 0,
        filled: 0,
        offset: piece.start.saturating_sub(1),
        bytes_max: (memory_bytes / 4).max(block),
        over: false,
    };
    let end = if piece.packing == Packing::Plain {
        piece.end
    } else {
        u64::MAX
    };
    // What precedes the first line end belongs to the piece before; so does the rest of a line too long.
    let mut inside_foreign_line = piece.start > 0;
    // Where the piece's own lines begin.
    let mut from = if piece.start > 0 { u64::MAX } else { 0 };
    while inside_foreign_line || window.offset < end {
        let offset = window.offset;
        match window.line().map_err(|error| Error::io(what())(error))? {
            None => break,
            Some(Ok((_, with_end))) if inside_foreign_line => {
                inside_foreign_line = false;
                window.consume(with_end);
                from = from.min(window.offset);
            }
            Some(Ok((len, with_end))) => {
                let line = &window.bytes[window.used..window.used + len];
                let record = cutter.cut(line).map(|(key, value)| Record {
                    source,
                    offset,
                    key,
                    value,
                });
                each(record)?;
                window.consume(with_end);
            }
            Some(Err(part)) => {
                if !inside_foreign_line {
                    each(Err(Error::bad_record(format!(
                        "{source}: the line at byte {offset} is longer than {part} bytes, a quarter \
                         of the memory limit"
                    ))))?;
                }
                inside_foreign_line = true;
                window.consume(part);
            }
        }
    }
    Ok(window.offset.saturating_sub(from))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use kvorum_base::Prng;

    use super::*;
    use crate::input::split::{Plan, plan};

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("kvorum-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }

        fn file(&self, name: &str, content: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, content).expect("a file");
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn read_all(files: &[PathBuf], format: Format, split_bytes: u64) -> (usize, Vec<Vec<u8>>) {
        let cut = Plan {
            format,
            workers: 1,
            split_bytes: Some(split_bytes),
            per_file: false,
        };
        let splits = plan(files, cut).expect("a plan");
        let mut found = Vec::new();
        let mut cutter = Cutter::new(format, None, None);
        for split in &splits {
            records(split, format, &mut cutter, 4 << 20, &mut |record| {
                found.push(record?.value.to_vec());
                Ok(())
            })
            .expect("records");
        }
        (splits.len(), found)
    }

    #[test]
    fn wherever_a_file_is_cut_each_line_is_read_once() {
        let scratch = Scratch::new("cuts");
        let mut prng = Prng::new(11);
        for round in 0..60 {
            let mut content = Vec::new();
            for _ in 0..prng.below(60) {
                content.extend((0..prng.below(12)).map(|_| b'a' + prng.below(3) as u8));
                content.push(b'\n');
            }
            if prng.chance(1, 2) {
                content.extend_from_slice(b"no end");
            }
            let path = scratch.file(&format!("{round}"), &content);
            let text = content.strip_suffix(b"\n").unwrap_or(&content);
            let expected: Vec<Vec<u8>> = if content.is_empty() {
                Vec::new()
            } else {
                text.split(|byte| *byte == b'\n')
                    .map(<[u8]>::to_vec)
                    .collect()
            };
            for split_bytes in [1, 2, 3, 7, 50, 1000] {
                let (_, found) = read_all(std::slice::from_ref(&path), Format::Lines, split_bytes);
                assert_eq!(found, expected, "round {round}, splits of {split_bytes}");
            }
        }
    }

    #[test]
    fn packed_files_are_read_and_small_ones_share_a_split() {
        let scratch = Scratch::new("packed");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"one\ntwo\n").expect("packing");
        let mut two_members = gzip.finish().expect("packing");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"three").expect("packing");
        two_members.extend(gzip.finish().expect("packing"));
        let zstd = zstd::encode_all(&b"four\nfive\n"[..], 1).expect("packing");
        let files = [
            scratch.file("a", &two_members),
            scratch.file("b", &zstd),
            scratch.file("c", b"six"),
            scratch.file("d", b""),
        ];
        let (splits, found) = read_all(&files, Format::Lines, 1 << 20);
        assert_eq!(splits, 1);
        let expected = ["one", "two", "three", "four", "five", "six"];
        assert_eq!(found, expected.map(|line| line.as_bytes().to_vec()));
        let (splits, found) = read_all(&files, Format::Whole, 1);
        assert_eq!((splits, found.len()), (4, 4));
    }

    #[test]
    fn a_line_longer_than_its_share_is_a_bad_record_and_the_next_is_read() {
        let scratch = Scratch::new("long");
        let mut content = vec![b'x'; 3 << 20];
        content.extend_from_slice(b"\nshort\n");
        let path = scratch.file("long", &content);
        let mut cutter = Cutter::new(Format::Lines, None, None);
        let splits = Split(vec![Piece {
            path,
            packing: Packing::Plain,
            start: 0,
            end: content.len() as u64,
        }]);
        let (mut bad, mut good) = (0, Vec::new());
        records(
            &splits,
            Format::Lines,
            &mut cutter,
            4 << 20,
            &mut |record| {
                match record {
                    Ok(record) => good.push(record.value.to_vec()),
                    Err(Error::BadRecord(_)) => bad += 1,
                    Err(other) => return Err(other),
                }
                Ok(())
            },
        )
        .expect("records");
        assert_eq!((bad, good), (1, vec![b"short".to_vec()]));
    }
}
