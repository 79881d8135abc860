//! The rules of STYLE.md that a machine can see.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of the project's crates each crate may use (ARCHITECTURE.md, "The house").
const HOUSE: &[(&str, &[&str])] = &[
    ("kvorum-base", &[]),
    ("kvorum-resp", &["base"]),
    ("kvorum-raft", &["base"]),
    ("kvorum-kv", &["base", "resp"]),
    ("kvorum-cluster", &["base"]),
    ("kvorum-clients", &["base", "resp", "kv"]),
    (
        "kvorum-node",
        &["base", "resp", "raft", "kv", "clients", "cluster"],
    ),
    ("kvorum-router", &["base", "resp", "kv", "clients"]),
    ("kvorum-secret", &[]),
    (
        "kvorum-server",
        &[
            "base", "resp", "raft", "kv", "cluster", "node", "router", "secret",
        ],
    ),
    ("kvorum-mapreduce", &["base", "secret"]),
    (
        "kvorum-sim",
        &["base", "resp", "raft", "kv", "cluster", "node", "router"],
    ),
    (
        "kvorum",
        &[
            "base",
            "resp",
            "raft",
            "kv",
            "node",
            "router",
            "secret",
            "server",
            "mapreduce",
        ],
    ),
];

/// No socket, file, thread, clock or randomness of their own.
const PURE: &[&str] = &[
    "base", "resp", "raft", "kv", "clients", "cluster", "node", "router",
];

/// Rooms that are as pure, in crates that are not.
const PURE_ROOMS: &[&str] = &["crates/mapreduce/src/coordinator"];

/// What a pure crate may not say, and why.
const BANNED_IN_PURE: &[(&str, &str)] = &[
    ("std::time", "time arrives as ticks and logged clocks"),
    ("Instant::now", "time arrives as ticks"),
    ("SystemTime", "wall time arrives as an event"),
    ("std::thread", "the shell owns the threads"),
    ("std::net", "the shell owns the sockets"),
    ("std::fs", "the shell owns the files"),
    ("std::env", "configuration is handed in"),
    ("std::process", "the shell owns the process"),
    ("HashMap", "its iteration order differs from run to run"),
    ("HashSet", "its iteration order differs from run to run"),
    ("rand::", "chance comes from the seeded generator handed in"),
    ("tokio", "no runtime inside"),
];

/// Test support that reads scripts from files.
const MAY_READ_FILES: &[&str] = &["crates/base/src/script.rs"];

/// Production lines of a file beyond which it holds more than one thought.
const FILE_LINES_MAX: usize = 800;
/// Lines of a function beyond which it is hard to hold in the head.
const FUNCTION_LINES_MAX: usize = 70;
/// Files whose long functions are one flat `match`, table or codec.
const LONG_FUNCTIONS_ALLOWED: &[&str] = &[
    "crates/server/src/config.rs",
    "crates/server/src/metrics.rs",
];
/// rustfmt keeps code to 100; prose may run a little over.
const LINE_CHARS_MAX: usize = 110;
const FILE_BYTES_MAX: u64 = 1 << 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace")
}

/// Every file that git tracks, or would.
fn files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git ls-files");
    let text = String::from_utf8(output.stdout).expect("file names in UTF-8");
    let mut files: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    files.retain(|path| root().join(path).is_file());
    assert!(files.len() > 20, "git sees only {} files", files.len());
    files
}

fn rust_files() -> Vec<(PathBuf, String)> {
    files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(root().join(&path)).expect("a source file");
            (path, text)
        })
        .collect()
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    serde_json::from_slice(&output.stdout).expect("metadata in JSON")
}

/// The part of a source file before its inline tests.
fn production(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests")
        .map_or(text, |at| &text[..at])
}

fn is_test(path: &Path) -> bool {
    path.components()
        .any(|part| part.as_os_str() == "tests" || part.as_os_str() == "examples")
}

fn crate_of(path: &Path) -> Option<String> {
    let mut parts = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy());
    (parts.next()? == "crates")
        .then(|| parts.next().map(|name| name.into_owned()))
        .flatten()
}

fn report(rule: &str, failures: &[String]) {
    assert!(failures.is_empty(), "{rule}:\n{}", failures.join("\n"));
}

#[test]
fn crates_import_what_the_house_allows() {
    let metadata = metadata();
    let mut failures = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        seen.insert(name.to_owned());
        let Some((_, allowed)) = HOUSE.iter().find(|(member, _)| *member == name) else {
            failures.push(format!("{name} is not in the house: add it to the table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let used = dependency["name"].as_str().expect("a name");
            let Some(used) = used.strip_prefix("kvorum-") else {
                continue;
            };
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if !for_tests && !allowed.contains(&used) {
                failures.push(format!("{name} may not use {used}"));
            }
        }
    }
    for (name, _) in HOUSE {
        if !seen.contains(*name) {
            failures.push(format!("{name} is in the table and not in the workspace"));
        }
    }
    report("the crate graph", &failures);
}

#[test]
fn pure_crates_stay_pure() {
    let mut failures = Vec::new();
    for (path, text) in rust_files() {
        let pure = crate_of(&path).is_some_and(|name| PURE.contains(&name.as_str()))
            || PURE_ROOMS.iter().any(|room| path.starts_with(room));
        let excepted = MAY_READ_FILES
            .iter()
            .any(|allowed| Path::new(allowed) == path);
        if !pure || is_test(&path) || excepted {
            continue;
        }
        for (number, line) in production(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (banned, reason) in BANNED_IN_PURE {
                if code.contains(banned) {
                    let place = path.display();
                    failures.push(format!("{place}:{}: {banned}: {reason}", number + 1));
                }
            }
        }
    }
    report("purity", &failures);
}

#[test]
fn files_are_one_thought() {
    let mut failures = Vec::new();
    for (path, text) in rust_files() {
        let lines = production(&text).lines().count();
        if !is_test(&path) && lines > FILE_LINES_MAX {
            failures.push(format!("{}: {lines} lines", path.display()));
        }
    }
    report("file sizes", &failures);
}

#[test]
fn functions_fit_in_the_head() {
    let mut failures = Vec::new();
    for (path, text) in rust_files() {
        let allowed = LONG_FUNCTIONS_ALLOWED
            .iter()
            .any(|allowed| Path::new(allowed) == path);
        if is_test(&path) || allowed {
            continue;
        }
        for (start, lines, signature) in functions(production(&text)) {
            if lines > FUNCTION_LINES_MAX {
                let place = path.display();
                failures.push(format!("{place}:{start}: {lines} lines: {signature}"));
            }
        }
    }
    report("function sizes", &failures);
}

/// First line, length and signature of each function, told by the indentation that rustfmt gives.
fn functions(text: &str) -> Vec<(usize, usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_function = [
            "fn ",
            "pub fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "async fn ",
        ]
        .iter()
        .any(|opening| code.starts_with(opening))
            || code.starts_with("pub async fn ")
            || code.starts_with("pub(crate) async fn ");
        if !is_function {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - code.len()]);
        if let Some(len) = lines[start..].iter().position(|line| *line == close) {
            found.push((start + 1, len + 1, code.to_owned()));
        }
    }
    found
}

#[test]
fn every_file_opens_with_what_it_is() {
    let failures: Vec<String> = rust_files()
        .iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    report("files without a module comment", &failures);
}

#[test]
fn lines_are_short_and_nothing_is_left_undone() {
    let mut failures = Vec::new();
    // Spelled in two parts, so that this list does not find itself.
    let reminders: Vec<String> = ["TO", "FIX", "XX"]
        .iter()
        .zip(["DO", "ME", "X"])
        .map(|(a, b)| format!("{a}{b}"))
        .collect();
    for (path, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            let quoted = line.trim_start().starts_with(['"', 'b']) || line.contains("r#\"");
            if line.chars().count() > LINE_CHARS_MAX && !quoted {
                failures.push(format!("{place}: {} characters", line.chars().count()));
            }
            if reminders
                .iter()
                .any(|reminder| line.contains(reminder.as_str()))
            {
                failures.push(format!("{place}: a reminder"));
            }
        }
    }
    report("lines", &failures);
}

#[test]
fn every_limit_has_its_reason() {
    let path = root().join("crates/node/src/limits.rs");
    let text = fs::read_to_string(path).expect("the limits");
    let mut failures = Vec::new();
    let mut before = "";
    for line in text.lines() {
        if line.starts_with("pub const") && !before.starts_with("///") {
            failures.push(line.to_owned());
        }
        before = line;
    }
    report("limits without a reason", &failures);
}

#[test]
fn the_architecture_names_what_exists() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let failures: Vec<String> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.starts_with("crates/") || name.ends_with(".rs"))
        .filter(|name| !exists(name))
        .map(str::to_owned)
        .collect();
    report("ARCHITECTURE.md names files that are not there", &failures);
}

/// Whether a path exists as written, or as the end of some tracked path.
fn exists(name: &str) -> bool {
    root().join(name).exists() || files().iter().any(|path| path.ends_with(name))
}

#[test]
fn nothing_large_is_kept() {
    let failures: Vec<String> = files()
        .iter()
        .filter(|path| {
            let size = fs::metadata(root().join(path)).map(|file| file.len());
            size.is_ok_and(|size| size > FILE_BYTES_MAX)
        })
        .map(|path| path.display().to_string())
        .collect();
    report("files over 1 MiB", &failures);
}

#[test]
fn guests_are_on_the_list() {
    let style = fs::read_to_string(root().join("STYLE.md")).expect("STYLE.md");
    let mut failures = BTreeSet::new();
    for package in metadata()["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = dependency["name"].as_str().expect("a name");
            if !name.starts_with("kvorum-") && !style.contains(&format!("| `{name}` |")) {
                failures.insert(format!("{name}, of {}", package["name"]));
            }
        }
    }
    let failures: Vec<String> = failures.into_iter().collect();
    report("guests that STYLE.md gives no reason for", &failures);
}
