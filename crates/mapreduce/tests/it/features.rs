//! What a user sees: every app, formats, packed files, commands, refusals, limits.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::Command;

use crate::jobs::{Place, my_turn, sorted_lines, zipf_text};

/// App, input, parameters.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

#[test]
fn every_app_makes_what_a_single_process_makes() {
    let _turn = my_turn();
    let place = Place::new();
    place.file("in/a", &zipf_text(1, 300_000));
    place.file("in/b", &zipf_text(2, 300_000));
    let mut pairs = Vec::new();
    for (number, word) in zipf_text(3, 100_000)
        .split(|byte| *byte == b' ')
        .enumerate()
    {
        let word: Vec<u8> = word
            .iter()
            .copied()
            .filter(u8::is_ascii_alphabetic)
            .collect();
        pairs.extend_from_slice(&word);
        pairs.extend_from_slice(format!("\t{}\n", number as i64 * 37 % 1001 - 100).as_bytes());
    }
    place.file("pairs", &pairs);
    let cases: [Case<'_>; 10] = [
        ("wc", "in", &[]),
        ("indexer", "in", &[]),
        ("grep", "in", &[("pattern", "^a.*[xyz]\\.$")]),
        ("sort", "in", &[]),
        ("distinct", "in", &[]),
        ("count", "pairs", &[]),
        ("sum", "pairs", &[]),
        ("min", "pairs", &[]),
        ("max", "pairs", &[]),
        ("top-k", "pairs", &[("k", "25")]),
    ];
    for (app, input, params) in cases {
        let given: Vec<String> = params
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut words = vec!["--app", app, "--input", input, "--output", app];
        words.extend(["--split-size", "30K", "--reducers", "4", "--memory", "4M"]);
        words.extend(given.iter().flat_map(|param| ["--param", param.as_str()]));
        place.job(&words);
        let expected = place.sequential_with(app, &[input], params);
        assert!(
            expected.len() > 200,
            "{app}: an output of {} bytes",
            expected.len()
        );
        let (found, expected) = match app {
            // These are in order as they are.
            "sort" | "distinct" | "grep" | "top-k" => (place.output(app), expected),
            _ => {
                let lines = |bytes: &[u8]| sorted_lines(bytes).join("\n").into_bytes();
                (lines(&place.output(app)), lines(&expected))
            }
        };
        assert!(found == expected, "{app}: not what a single process makes");
    }
}

#[test]
fn packed_inputs_json_fields_and_own_counters() {
    let _turn = my_turn();
    let place = Place::new();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"{\"user\":\"ada\",\"n\":{\"bytes\":5}}\n")
        .expect("packing");
    place.file("in/a.gz", &gzip.finish().expect("packing"));
    let zstd = zstd::encode_all(&b"{\"user\":\"bob\",\"n\":{\"bytes\":7}}\n"[..], 1);
    place.file("in/b.zst", &zstd.expect("packing"));
    place.file(
        "in/c",
        b"{\"user\":\"ada\",\"n\":{\"bytes\":-1}}\nnot JSON\n{\"user\":\"x\"}\n",
    );
    let mut words = vec!["--app", "sum", "--input", "in", "--format", "json"];
    words.extend(["--param", "key=user", "--param", "value=n.bytes"]);
    let error = place.refusal(&[&words[..], &["--output", "strict"]].concat());
    assert!(
        error.contains("not a JSON document") && error.contains("in/"),
        "{error}"
    );
    words.extend(["--skip-bad", "2", "--output", "out"]);
    let report = place.job(&words);
    assert_eq!(place.lines("out"), ["ada\t4", "bob\t7"]);
    assert_eq!(report["counters"]["bad_records_skipped"], 2);
    assert_eq!(report["counters"]["map_input_records"], 5);
}

#[test]
fn commands_by_the_streaming_contract() {
    let _turn = my_turn();
    let place = Place::new();
    place.file("in/a", &zipf_text(4, 200_000));
    place.file("in/b", &zipf_text(5, 200_000));
    place.file(
        "map.sh",
        b"echo reporter:counter:tasks,maps,1 >&2\n\
          test \"$mapreduce_task_ismap\" = true || exit 9\n\
          test \"$shout\" = no || exit 8\n\
          tr -cs 'A-Za-z' '\\n' | awk 'length { print $0 \"\\t1\" }'\n",
    );
    place.file(
        "sum.sh",
        b"awk -F '\\t' '$1 != key { if (NR > 1) print key \"\\t\" sum; key = $1; sum = 0 } \
          { sum += $2 } END { if (NR) print key \"\\t\" sum }'\n",
    );
    let mut words = vec![
        "--map",
        "sh map.sh",
        "--reduce",
        "sh sum.sh",
        "--combine",
        "sh sum.sh",
    ];
    words.extend([
        "--input",
        "in",
        "--output",
        "out",
        "--reducers",
        "3",
        "--split-size",
        "60K",
    ]);
    words.extend(["--param", "shout=no"]);
    let report = place.job(&words);
    assert_eq!(
        place.lines("out"),
        sorted_lines(&place.sequential("wc", &["in"]))
    );
    assert_eq!(report["counters"]["tasks.maps"], report["maps"]);
    let combined = report["counters"]["map_output_pairs"]
        .as_i64()
        .expect("a number");
    assert!(combined > 50_000, "{combined} pairs before the combiner");

    let failing = "echo the disk is on fire >&2; exit 3";
    let mut words = vec!["--map", failing, "--reduce", "cat", "--attempts", "2"];
    words.extend(["--input", "in", "--output", "fails"]);
    let error = place.refusal(&words);
    assert!(error.contains("the disk is on fire"), "{error}");
    assert!(
        error.contains("failed 2 times") && error.contains("in/"),
        "{error}"
    );
}

#[test]
fn outputs_that_exist_and_inputs_that_do_not_are_refused() {
    let _turn = my_turn();
    let place = Place::new();
    place.file("in", b"word\n");
    place.file("there/precious", b"data");
    let refusal = |words: &[&str]| place.refusal(&[&["--input", "in"], words].concat());
    assert!(refusal(&["--app", "wc", "--output", "there"]).contains("there exists"));
    assert!(refusal(&["--app", "wcc", "--output", "out"]).contains("no app \"wcc\""));
    assert!(refusal(&["--app", "grep", "--output", "out"]).contains("--param pattern="));
    let broken = ["--app", "grep", "--param", "pattern=(", "--output", "out"];
    assert!(refusal(&broken).contains("the pattern"));
    assert!(refusal(&["--output", "out"]).contains("--app"));
    assert!(refusal(&["--app", "wc", "--memory", "1M", "--output", "out"]).contains("at least 4M"));
    let error = place.refusal(&["--app", "wc", "--input", "no-*", "--output", "out"]);
    assert!(
        error.contains("no input file is named by \"no-*\""),
        "{error}"
    );
    assert!(
        !place.path("out").exists(),
        "a refused job leaves nothing behind"
    );
    place.job(&["--app", "wc", "--input", "in", "--output", "out"]);
    assert!(refusal(&["--app", "wc", "--output", "out"]).contains("a finished job"));
    // Resuming what is finished shows its report again, and changes nothing.
    let report = place.job(&["--resume", "--output", "out"]);
    assert_eq!(report["counters"]["reduce_input_keys"], 1);
    let precious = std::fs::read(place.path("there/precious")).expect("still there");
    assert_eq!(precious, b"data");
}

#[test]
fn a_function_that_panics_fails_its_attempts_and_names_the_input() {
    let _turn = my_turn();
    let place = Place::new();
    place.file("in/good", b"one\n");
    place.file("in/bad", b"one\n\ntwo\n");
    let words = [
        "--app",
        "fragile",
        "--per-file",
        "--output",
        "out",
        "--attempts",
        "3",
    ];
    let error = place.refusal(&[&words[..], &["--input", "in"]].concat());
    assert!(error.contains("map 0 failed 3 times"), "{error}");
    assert!(
        error.contains("panicked: an empty line at byte 4, at in/bad"),
        "{error}"
    );
    // What was done is kept, and once the input is mended the job goes on.
    place.file("in/bad", b"one\nxxx\ntw\n");
    let report = place.job(&["--resume", "--output", "out"]);
    assert_eq!(report["epoch"], 2);
    assert_eq!(place.lines("out"), ["one\t ", "tw\t", "xxx\t"]);
}

#[test]
fn a_job_has_one_coordinator() {
    let _turn = my_turn();
    let place = Place::new();
    place.file("in", b"slow\n");
    let words = [
        "run", "--quiet", "--app", "jobcount", "--input", "in", "--output", "out",
    ];
    let mut first = place.start(&words);
    while !place.path("out/_job/coordinator").exists() {
        assert!(!first.is_over(), "it takes two seconds at least");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let error = place.refusal(&["--resume", "--output", "out"]);
    assert!(
        error.contains("another coordinator works for this job"),
        "{error}"
    );
    let error = place.refusal(&["--app", "wc", "--input", "in", "--output", "out"]);
    assert!(error.contains("unfinished job"), "{error}");
    assert!(first.wait(), "the first one is not disturbed");
    assert_eq!(place.lines("out"), ["a\t1"]);
}

#[test]
fn a_damaged_map_output_is_made_again() {
    let _turn = my_turn();
    let place = Place::new();
    place.file("in/a", &zipf_text(6, 300_000));
    // One reducer: what is damaged is what it reads. Of two, the other might have read its part before.
    let shape = ["--input", "in", "--reducers", "1", "--workers", "2"];
    place.job(&[&["--app", "wc", "--output", "good"], &shape[..]].concat());
    // A reduce command finds the outputs of the maps and damages them, the first time.
    place.file(
        "hurt.sh",
        b"if test ! -e hurt; then touch hurt; cat >/dev/null; \
          for file in out/_job/files/m-*; do printf ZZZZ | dd of=$file conv=notrunc bs=1 seek=20 \
          2>/dev/null; done; exit 1; fi\n\
          awk -F '\\t' '$1 != key { if (NR > 1) print key \"\\t\" sum; key = $1; sum = 0 } \
          { sum += $2 } END { if (NR) print key \"\\t\" sum }'\n",
    );
    let map = "tr -cs 'A-Za-z' '\\n' | awk 'length { print $0 \"\\t1\" }'";
    let words = ["--map", map, "--reduce", "sh hurt.sh", "--output", "out"];
    let report = place.job(&[&words[..], &shape[..], &["--workers", "1"][..0]].concat());
    assert_eq!(place.lines("out"), place.lines("good"));
    assert!(
        report["attempts"].as_u64() > Some(4),
        "nothing was made again: {report}"
    );
}

#[test]
fn an_input_twenty_times_the_memory_limit() {
    let _turn = my_turn();
    let place = Place::new();
    let path = place.path("large");
    let block = zipf_text(7, 4 << 20);
    let mut file = BufWriter::new(File::create(&path).expect("a file"));
    for number in 0..80u32 {
        // Each block differs, so that no combiner and no packing makes it small.
        writeln!(file, "block {number}").expect("a line");
        file.write_all(&block).expect("a block");
    }
    file.flush().expect("the file");
    drop(file);
    let mut words = vec!["--app", "sort", "--input", "large", "--output", "out"];
    words.extend(["--memory", "16M", "--reducers", "3", "--workers", "2"]);
    let report = place.job(&words);
    let peak = report["worker_memory_bytes"].as_u64().expect("a number");
    assert!(peak > 0 && peak < 40 << 20, "a worker took {peak} bytes");
    let size = std::fs::metadata(&path).expect("the input").len();
    assert!(size >= 320 << 20);
    let output = place.output("out");
    assert_eq!(output.len() as u64, size);
    let lines: Vec<&[u8]> = output.split(|byte| *byte == b'\n').collect();
    assert!(lines[..lines.len() - 1].is_sorted(), "out of order");
    let blocks = lines
        .iter()
        .filter(|line| line.starts_with(b"block "))
        .count();
    assert_eq!(blocks, 80);
}

#[test]
fn more_maps_than_files_may_be_open() {
    let _turn = my_turn();
    let place = Place::new();
    for number in 0..400 {
        place.file(&format!("in/{number}"), &zipf_text(number, 2000));
    }
    let mut command = Command::new("sh");
    let job = "--app indexer --input in --output out --per-file --reducers 2 --memory 4M --json";
    let output = command
        .args([
            "-c",
            &format!("ulimit -n 64; exec \"$0\" run {job}"),
            env!("CARGO_BIN_EXE_mr-lab"),
        ])
        .current_dir(place.path(""))
        .output()
        .expect("a shell");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(
        (&report["maps"], &report["failures"]),
        (&400.into(), &0.into())
    );
    assert_eq!(
        place.lines("out"),
        sorted_lines(&place.sequential("indexer", &["in"]))
    );
}

#[test]
fn one_key_with_more_values_than_memory() {
    let _turn = my_turn();
    let place = Place::new();
    let value = "x".repeat(500);
    let mut file = BufWriter::new(File::create(place.path("in")).expect("a file"));
    for number in 0..60_000 {
        writeln!(file, "hot\t{number:06}{value}").expect("a line");
    }
    file.flush().expect("the file");
    drop(file);
    let mut words = vec!["--map", "cat", "--reduce", "wc -l", "--format", "kv"];
    words.extend([
        "--input",
        "in",
        "--output",
        "out",
        "--memory",
        "4M",
        "--reducers",
        "1",
    ]);
    let report = place.job(&words);
    assert_eq!(place.lines("out"), ["60000"]);
    let peak = report["worker_memory_bytes"].as_u64().expect("a number");
    assert!(peak < 24 << 20, "a worker took {peak} bytes");
}
