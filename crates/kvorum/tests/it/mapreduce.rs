//! `kvorum mr`: a job of real processes by the program's own name. The engine has its tests in its crate.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::process::{TempDir, my_turn, refused, succeeds};

#[test]
fn words_are_counted_by_worker_processes() {
    let _turn = my_turn();
    let dir = TempDir::new();
    let input = dir.path().join("books");
    std::fs::create_dir(&input).expect("a directory");
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for book in 0..8u64 {
        let mut text = String::new();
        for number in 0..20_000u64 {
            let word = number * number % (97 + book * 31);
            let word: String = word
                .to_string()
                .bytes()
                .map(|digit| char::from(digit + 49))
                .collect();
            text.push_str(&word);
            text.push(if number % 9 == 0 { '\n' } else { ' ' });
            *expected.entry(word).or_insert(0) += 1;
        }
        std::fs::write(input.join(format!("{book}.txt")), text).expect("a book");
    }
    let (pattern, output) = (input.join("*.txt"), dir.path().join("out"));
    let name = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let (pattern, out) = (name(&pattern), name(&output));
    let words = [
        "mr", "run", "--app", "wc", "--input", &pattern, "--output", &out,
    ];
    let shape = ["--reducers", "10", "--workers", "3", "--split-size", "50K"];
    let said = succeeds(&[&words[..], &shape].concat());
    assert!(
        said.contains("10 files") && said.contains("reduce_input_keys"),
        "{said}"
    );
    let mut lines: Vec<String> = Vec::new();
    for reduce in 0..10 {
        let part = std::fs::read_to_string(output.join(format!("part-{reduce:05}")));
        lines.extend(part.expect("an output").lines().map(str::to_owned));
    }
    lines.sort();
    let mut wanted = String::new();
    for (word, count) in &expected {
        let _ = writeln!(wanted, "{word}\t{count}");
    }
    assert_eq!(lines.join("\n") + "\n", wanted);
    assert!(refused(&words).contains("a finished job"));
    let apps = succeeds(&["mr", "apps", "--json"]);
    let apps: serde_json::Value = serde_json::from_str(&apps).expect("JSON");
    assert_eq!(apps.as_array().map(Vec::len), Some(10));
    let help = succeeds(&["mr", "run", "--help"]);
    assert!(
        help.contains("Examples:") && help.contains("--resume"),
        "{help}"
    );
}
