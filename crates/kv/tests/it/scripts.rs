//! Runs the scripts: each command line is a request, its trace the reply.
//!
//! - `clock <ms>` advances the logged clock, `since <ms>` says how long ago it was logged;
//! - `remove <n>` removes what is expired, at most so many;
//! - `reload` replaces the keyspace by one loaded from a view of it;
//! - `encode <request>` shows the bytes that go through the log, and checks that keys are found in them;
//! - `keep <name> <request>` keeps the reply, and `$name` in a request is replaced by it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kvorum_base::UnixMillis;
use kvorum_base::script::{Command, Runner, run_folder};
use kvorum_kv::command::table;
use kvorum_kv::{Keyspace, Loader, Refusal, Run, find, keys_of, keys_of_encoded, resolve};
use kvorum_resp::ArgsBuf;

use crate::support::{SECRET, keyspace_at, request};

struct Script {
    keyspace: Keyspace,
    kept: BTreeMap<String, String>,
}

/// A moment of November 2023, so that times look like times.
const START: u64 = 1_700_000_000_000;

impl Runner for Script {
    fn run(&mut self, command: &Command) -> Result<String, String> {
        match command.name.as_str() {
            "clock" => {
                self.keyspace
                    .advance_clock(UnixMillis(START + command.number(0)?));
                Ok(String::new())
            }
            "since" => {
                self.keyspace.set_since_clock(command.number(0)?);
                Ok(String::new())
            }
            "remove" => {
                let removed = self.keyspace.remove_expired(command.number(0)? as usize);
                Ok(format!("removed {removed}"))
            }
            "reload" => {
                self.reload()?;
                Ok(String::new())
            }
            "encode" => encode(&words(&command.args[0], &command.args[1..])),
            "keep" => {
                let reply = self.request(&command.args[1], &command.args[2..]);
                self.kept
                    .insert(format!("${}", command.args[0]), reply.clone());
                Ok(reply)
            }
            name => Ok(self.request(name, &command.args)),
        }
    }
}

impl Script {
    fn request(&mut self, name: &str, args: &[String]) -> String {
        let args: Vec<String> = args
            .iter()
            .map(|word| self.kept.get(word).unwrap_or(word).clone())
            .collect();
        let reply = request(&mut self.keyspace, &words(name, &args));
        self.keyspace.check();
        show(&reply)
    }

    fn reload(&mut self) -> Result<(), String> {
        let mut loader = Loader::new(SECRET);
        let mut view = self.keyspace.view();
        while let Some(item) = view.next_item() {
            loader.load(item).map_err(|error| error.to_string())?;
        }
        let loaded = loader.finish().map_err(|error| error.to_string())?;
        loaded.check();
        if loaded.state_hash() != self.keyspace.state_hash() {
            return Err("another hash".to_owned());
        }
        self.keyspace = loaded;
        Ok(())
    }
}

/// A request. A character of a script stands for one byte.
fn words(name: &str, args: &[String]) -> ArgsBuf {
    std::iter::once(name)
        .chain(args.iter().map(String::as_str))
        .map(|word| word.chars().map(|c| c as u32 as u8).collect::<Vec<u8>>())
        .collect()
}

fn encode(request: &ArgsBuf) -> Result<String, String> {
    let text = |refusal: Refusal| String::from_utf8_lossy(refusal.text()).into_owned();
    let args = request.as_args();
    let spec = find(args).map_err(text)?;
    let mut encoded = Vec::new();
    resolve(spec, args, &mut encoded).map_err(text)?;
    let asked: Vec<_> = keys_of(spec, args).map(<[u8]>::to_vec).collect();
    let logged = keys_of_encoded(&encoded);
    assert_eq!(asked, logged, "keys of {request:?}");
    Ok(encoded.escape_ascii().to_string())
}

/// A stored reply as people read it: one line for an element, two spaces for each level.
fn show(reply: &[u8]) -> String {
    let mut out = String::new();
    let mut left: Vec<usize> = Vec::new();
    let mut rest = reply;
    while !rest.is_empty() {
        while left.last() == Some(&0) {
            left.pop();
        }
        let indent = "  ".repeat(left.len());
        if let Some(count) = left.last_mut() {
            *count -= 1;
        }
        let end = rest
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .expect("a line");
        let line = String::from_utf8_lossy(&rest[1..end]).into_owned();
        let kind = rest[0];
        rest = &rest[end + 2..];
        let text = match kind {
            b'$' => {
                let len: usize = line.parse().expect("a length");
                let text = rest[..len].escape_ascii().to_string();
                rest = &rest[len + 2..];
                if text.is_empty() || text.contains(' ') {
                    format!("\"{text}\"")
                } else {
                    text
                }
            }
            b'*' if line == "-1" => "(no list)".to_owned(),
            b'*' | b'~' | b'%' => {
                let len: usize = line.parse().expect("a count");
                left.push(len * if kind == b'%' { 2 } else { 1 });
                format!("({len})")
            }
            b':' => format!("(integer) {line}"),
            b'_' => "(nil)".to_owned(),
            b'-' => format!("(error) {line}"),
            _ => line,
        };
        out.push_str(&indent);
        out.push_str(&text);
        out.push('\n');
    }
    out.trim_end_matches('\n').to_owned()
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testscripts")
        .join(name)
}

fn run(name: &str) {
    run_folder(&folder(name), |_| Script {
        keyspace: keyspace_at(START),
        kept: BTreeMap::new(),
    });
}

#[test]
fn strings() {
    run("strings");
}

#[test]
fn keys() {
    run("keys");
}

#[test]
fn expiry() {
    run("expiry");
}

#[test]
fn versions() {
    run("versions");
}

#[test]
fn sessions() {
    run("sessions");
}

#[test]
fn transactions() {
    run("transactions");
}

#[test]
fn scan() {
    run("scan");
}

#[test]
fn command() {
    run("command");
}

#[test]
fn encoding() {
    run("encoding");
}

/// A command that nobody wrote a script for is one whose replies nobody looked at.
#[test]
fn every_command_has_a_script() {
    let mut scripts = String::new();
    for name in [
        "strings",
        "keys",
        "expiry",
        "versions",
        "sessions",
        "transactions",
        "scan",
        "command",
    ] {
        for entry in std::fs::read_dir(folder(name)).expect("a folder") {
            let path = entry.expect("an entry").path();
            scripts += &std::fs::read_to_string(path)
                .expect("a script")
                .to_lowercase();
        }
    }
    for spec in table::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands)) {
        let words = spec.name.replace('|', " ");
        let is_run = scripts
            .lines()
            .any(|line| line == words || line.starts_with(&format!("{words} ")))
            || scripts.contains(&format!("keep s {words}"));
        assert!(
            is_run || matches!(spec.run, Run::Node(_)),
            "no script runs '{words}'"
        );
    }
}
