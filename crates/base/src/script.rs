//! Scenarios as text: commands, a divider, and the trace that must come out.
//!
//! ```text
//! # A lone voter elects itself, since its own vote is a majority.
//! tick 1 count=20
//! ---
//! replica 1: leader in term 1
//! ```
//!
//! A script is a sequence of blocks separated by empty lines. A block opens with at least one
//! comment line that says in a sentence what is expected and why: a trace can be blessed blindly, a
//! sentence cannot. Then come commands, one a line, then `---`, then the output of all of them.
//! Words are separated by spaces, a word with spaces stands in double quotes (with `\n`, `\r`,
//! `\t`, `\\`, `\"` and `\xNN`), and `name=value` is a named argument.
//!
//! With `KVORUM_BLESS=1` in the environment the expected output is rewritten; the difference is then
//! for the reviewer to explain.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// One command line of a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// The first word.
    pub name: String,
    /// The words without `=`, in order.
    pub args: Vec<String>,
    /// The words with `=`, in order.
    pub named: Vec<(String, String)>,
}

impl Command {
    /// The named argument's value, if given.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The named argument as a number, or `default` where it is absent.
    ///
    /// # Errors
    /// If it is not a number.
    pub fn number_or(&self, name: &str, default: u64) -> Result<u64, String> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| format!("{name}={text} is not a number")),
        }
    }

    /// The positional argument as a number.
    ///
    /// # Errors
    /// If it is absent or not a number.
    pub fn number(&self, position: usize) -> Result<u64, String> {
        let text = self.arg(position)?;
        text.parse().map_err(|_| format!("{text} is not a number"))
    }

    /// The positional argument.
    ///
    /// # Errors
    /// If it is absent.
    pub fn arg(&self, position: usize) -> Result<&str, String> {
        self.args
            .get(position)
            .map(String::as_str)
            .ok_or_else(|| format!("{} needs an argument {}", self.name, position + 1))
    }
}

/// What a script's commands run on.
pub trait Runner {
    /// Runs one command and returns its trace: any number of lines.
    ///
    /// # Errors
    /// A text, which becomes part of the trace as `error: ...`, so that refusals can be expected.
    fn run(&mut self, command: &Command) -> Result<String, String>;
}

/// Runs every script below `folder`, each on a runner of its own, and compares.
///
/// # Panics
/// With the differences, if a script's trace is not the expected one, if a block has no sentence,
/// or if the folder holds no script.
pub fn run_folder<R: Runner>(folder: &Path, mut make: impl FnMut(&Path) -> R) {
    let mut paths = Vec::new();
    collect(folder, &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {}", folder.display());
    let failures: Vec<String> = paths
        .iter()
        .filter_map(|path| run_file(path, &mut make(path)).err())
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            collect(&path, paths);
        } else {
            paths.push(path);
        }
    }
}

fn run_file(path: &Path, runner: &mut impl Runner) -> Result<(), String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let actual = replay(&text, runner).map_err(|error| format!("{}: {error}", path.display()))?;
    if actual == text {
        return Ok(());
    }
    if std::env::var_os("KVORUM_BLESS").is_some() {
        return std::fs::write(path, actual)
            .map_err(|error| format!("cannot write {}: {error}", path.display()));
    }
    Err(format!(
        "{} does not give its trace:\n{}",
        path.display(),
        difference(&text, &actual)
    ))
}

/// The script with its outputs replaced by what the runner says now.
fn replay(text: &str, runner: &mut impl Runner) -> Result<String, String> {
    let mut out = String::new();
    for block in text.split("\n\n").map(|block| block.trim_matches('\n')) {
        if block.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        let input: Vec<&str> = block.lines().take_while(|line| *line != "---").collect();
        if !input.first().is_some_and(|line| line.starts_with('#')) {
            return Err(format!(
                "a block must open with a sentence of expectation:\n{block}"
            ));
        }
        let mut trace = String::new();
        for line in &input {
            let _ = writeln!(out, "{line}");
            if line.starts_with('#') {
                continue;
            }
            let command = parse(line)?;
            match runner.run(&command) {
                Ok(lines) if lines.is_empty() => {}
                Ok(lines) => {
                    let _ = writeln!(trace, "{}", lines.trim_end_matches('\n'));
                }
                Err(error) => {
                    let _ = writeln!(trace, "error: {error}");
                }
            }
        }
        out.push_str("---\n");
        // An empty line would end the block, so one inside a trace is written as a dot.
        for line in trace.lines() {
            let _ = writeln!(out, "{}", if line.is_empty() { "." } else { line });
        }
    }
    Ok(out)
}

/// Splits a command line into its words.
fn parse(line: &str) -> Result<Command, String> {
    let mut words = split(line)?.into_iter();
    let Some((_, name)) = words.next() else {
        return Err("an empty command".to_owned());
    };
    let mut command = Command {
        name,
        args: Vec::new(),
        named: Vec::new(),
    };
    for (quoted, word) in words {
        match word.split_once('=') {
            Some((key, value)) if !quoted => command.named.push((key.to_owned(), value.to_owned())),
            _ => command.args.push(word),
        }
    }
    Ok(command)
}

/// The words of a line, and whether each opened with a quote.
fn split(line: &str) -> Result<Vec<(bool, String)>, String> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| *c == ' ').is_some() {}
        if chars.peek().is_none() {
            return Ok(words);
        }
        let opened_quoted = chars.peek() == Some(&'"');
        let mut word = String::new();
        let mut quoted = false;
        while let Some(c) = chars.next_if(|c| quoted || *c != ' ') {
            match c {
                '"' => quoted = !quoted,
                '\\' if quoted => word.push(escape(&mut chars)?),
                other => word.push(other),
            }
        }
        if quoted {
            return Err(format!("an open quote in: {line}"));
        }
        words.push((opened_quoted, word));
    }
}

fn escape(chars: &mut impl Iterator<Item = char>) -> Result<char, String> {
    match chars.next() {
        Some('n') => Ok('\n'),
        Some('r') => Ok('\r'),
        Some('t') => Ok('\t'),
        Some('x') => {
            let digits: String = chars.take(2).collect();
            let byte = u8::from_str_radix(&digits, 16).map_err(|_| "a bad \\x".to_owned())?;
            Ok(char::from(byte))
        }
        Some(other) => Ok(other),
        None => Err("a lone backslash".to_owned()),
    }
}

/// The first lines where the two differ, with some context.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<&str>, Vec<&str>) =
        (expected.lines().collect(), actual.lines().collect());
    let same = expected
        .iter()
        .zip(&actual)
        .take_while(|(left, right)| left == right)
        .count();
    let mut out = String::new();
    for line in &expected[same.saturating_sub(4)..same] {
        let _ = writeln!(out, "  {line}");
    }
    for line in expected.iter().skip(same).take(8) {
        let _ = writeln!(out, "- {line}");
    }
    for line in actual.iter().skip(same).take(8) {
        let _ = writeln!(out, "+ {line}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Runner for Echo {
        fn run(&mut self, command: &Command) -> Result<String, String> {
            match command.name.as_str() {
                "say" => Ok(format!("{:?} {:?}\n", command.args, command.named)),
                other => Err(format!("no such command: {other}")),
            }
        }
    }

    #[test]
    fn a_right_script_replays_to_itself() {
        let text = "# Words, quotes and names are told apart.\nsay a \"b c=d\" e=f\n---\n\
                    [\"a\", \"b c=d\"] [(\"e\", \"f\")]\n\n# Refusals are traces too.\nshout\n---\n\
                    error: no such command: shout\n";
        assert_eq!(replay(text, &mut Echo).as_deref(), Ok(text));
    }

    #[test]
    fn a_block_without_a_sentence_is_refused() {
        assert!(replay("say a\n---\n", &mut Echo).is_err());
    }

    #[test]
    fn escapes() {
        let command = parse(r#"say "a\x00\n\"""#).expect("a command");
        assert_eq!(command.args, ["a\0\n\""]);
    }

    #[test]
    fn the_difference_starts_where_they_part() {
        assert_eq!(
            difference("a\nb\nc", "a\nx\nc"),
            "  a\n- b\n- c\n+ x\n+ c\n"
        );
    }
}
