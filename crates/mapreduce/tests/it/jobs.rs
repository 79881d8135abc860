//! Real jobs: inputs, processes, outputs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvorum_base::Prng;
use kvorum_mapreduce::{apps, sequential};

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// One job at a time: several on a small machine would only measure each other.
pub(crate) fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of its own, in which jobs run; removed when dropped, unless the test failed.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kvorum-mr-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, content).expect("a file");
        path
    }

    /// The program with these words, in this directory.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mr-lab"));
        command
            .args(words)
            .current_dir(&self.0)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn start(&self, words: &[&str]) -> Process {
        let child = self
            .command(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program");
        Process(child)
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the program")
    }

    /// Runs a job that must succeed, and returns its report.
    pub(crate) fn job(&self, words: &[&str]) -> serde_json::Value {
        let output = self.run(&[&["run", "--json"], words].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {error}");
        serde_json::from_slice(&output.stdout).expect("a report")
    }

    /// What a job must fail with.
    pub(crate) fn refusal(&self, words: &[&str]) -> String {
        let output = self.run(&[&["run", "--quiet"], words].concat());
        assert!(!output.status.success(), "{words:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The output files of a job, one after the other.
    pub(crate) fn output(&self, name: &str) -> Vec<u8> {
        parts(&self.path(name))
    }

    /// The same, in the order of lines: which file a key falls to does not matter then.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        sorted_lines(&self.output(name))
    }

    /// What a single process makes of it.
    pub(crate) fn sequential(&self, app: &str, inputs: &[&str]) -> Vec<u8> {
        self.sequential_with(app, inputs, &[])
    }

    pub(crate) fn sequential_with(
        &self,
        app: &str,
        inputs: &[&str],
        params: &[(&str, &str)],
    ) -> Vec<u8> {
        let apps = apps::built_in();
        let app = sequential::find(&apps, app).expect("an app");
        // Paths are relative to the place, as the job sees them, but for their names in the output.
        let inputs: Vec<String> = inputs
            .iter()
            .map(|input| self.path(input).to_str().expect("UTF-8").to_owned())
            .collect();
        let params: BTreeMap<String, String> = params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let bytes = sequential::run(app, &inputs, None, &params).expect("a sequential run");
        let prefix = format!("{}/", self.0.to_str().expect("UTF-8"));
        String::from_utf8(bytes)
            .expect("UTF-8")
            .replace(&prefix, "")
            .into_bytes()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A running process, which does not outlive its test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_some()
    }

    /// Waits for the end; whether it was a good one.
    pub(crate) fn wait(&mut self) -> bool {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status.success();
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn parts(output: &Path) -> Vec<u8> {
    let Ok(entries) = fs::read_dir(output) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes()[0] == b'p')
    });
    paths.sort();
    paths
        .iter()
        .flat_map(|path| fs::read(path).expect("an output"))
        .collect()
}

pub(crate) fn sorted_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

/// The processes that this one has started.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("processes");
    let mut children = Vec::new();
    for entry in entries.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // The name in the second field may hold anything, but no field after its closing bracket does.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let mut fields = after.split_whitespace();
        let state = fields.next();
        if fields.next() == Some(&parent.to_string()) && state != Some("Z") {
            children.push(pid);
        }
    }
    children
}

/// Names of the books, as in the course.
pub(crate) const BOOKS: [&str; 8] = [
    "pg-being_ernest.txt",
    "pg-dorian_gray.txt",
    "pg-frankenstein.txt",
    "pg-grimm.txt",
    "pg-huckleberry_finn.txt",
    "pg-metamorphosis.txt",
    "pg-sherlock_holmes.txt",
    "pg-tom_sawyer.txt",
];

/// The course's books, if they lie beside the checkout: `shared/mr-inputs` in a directory above it. Where
/// everything is required, they are too.
pub(crate) fn real_books() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = root
        .ancestors()
        .map(|above| above.join("shared/mr-inputs"))
        .find(|path| BOOKS.iter().all(|book| path.join(book).is_file()));
    let required = std::env::var_os("KVORUM_CI").is_some();
    assert!(
        found.is_some() || !required,
        "the eight books are not beside the checkout"
    );
    found
}

/// Eight books in the place: the real ones, or generated text under their names. Whether they are real.
pub(crate) fn books(place: &Place) -> bool {
    let real = real_books();
    for (number, book) in BOOKS.iter().enumerate() {
        let text = match &real {
            Some(path) => fs::read(path.join(book)).expect("a book"),
            None => zipf_text(number as u64, 200_000 + 40_000 * number),
        };
        place.file(book, &text);
    }
    real.is_some()
}

/// Text whose words have Zipf's frequencies: the word of rank *r* about 1/r as often as the first.
pub(crate) fn zipf_text(seed: u64, bytes: usize) -> Vec<u8> {
    let mut prng = Prng::new(seed);
    let mut text = Vec::with_capacity(bytes + 64);
    let mut column = 0;
    while text.len() < bytes {
        // The logarithm of the rank is even: 2^0..2^15, then within the octave.
        let octave = prng.below(15);
        let rank = (1 << octave) + prng.below(1 << octave);
        let mut letters = rank * 7919;
        while letters > 0 {
            text.push(b'a' + (letters % 26) as u8);
            letters /= 26;
        }
        column += 1;
        let end = column % 11 == 0 || prng.chance(1, 20);
        text.extend_from_slice(if end { b".\n" } else { b" " });
    }
    text.push(b'\n');
    text
}
