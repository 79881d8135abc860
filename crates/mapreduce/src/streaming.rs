//! Functions that are executables, by the contract of Hadoop streaming, so that the same scripts run there.
//!
//! A command gets lines on its standard input and gives lines on its standard output; in both, key and value
//! are told apart by the first tab. A map gets the input's lines (key TAB value if the format has keys); a
//! reduce gets the pairs of its partition, sorted by key, one line for each value. What it writes is the
//! output. The environment tells the task (`mapreduce_task_partition` and so on) and the job's parameters.
//! On standard error, `reporter:counter:GROUP,COUNTER,AMOUNT` counts and `reporter:status:TEXT` is a
//! status; anything else is kept, and shown if the command fails.
//!
//! Three threads serve the three pipes. The task itself never blocks on a full pipe while the other one has
//! something for it: otherwise a command that writes much before it reads on would stop both.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::coordinator::{AttemptId, Phase};
use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::function::{Emit, Map, Record, Reduce, Values};
use crate::input::format::Format;
use crate::input::split::Split;
use crate::job::Job;
use crate::worker::pulse::Pulse;

const BLOCK_BYTES: usize = 64 << 10;
/// Blocks that wait in each direction.
const BLOCKS: usize = 4;
/// How often a command that has nothing to say is looked after: whether it is still wanted, whether it lives.
const LOOK: Duration = Duration::from_millis(20);
/// What is kept of the standard error.
const TAIL_BYTES: usize = 4 << 10;

/// Names and values for the environment of a command.
pub(crate) type Environment = Vec<(String, String)>;

/// What a command may know about its task, under the names that Hadoop gives it.
pub(crate) fn environment(job: &Job, attempt: AttemptId, split: Option<&Split>) -> Environment {
    let letter = if attempt.task.phase == Phase::Map {
        'm'
    } else {
        'r'
    };
    let task = format!("task_{letter}_{:06}", attempt.task.index);
    let mut environment = vec![
        (
            "mapreduce_task_attempt_id".to_owned(),
            format!("attempt_{attempt}"),
        ),
        ("mapreduce_task_id".to_owned(), task),
        (
            "mapreduce_task_partition".to_owned(),
            attempt.task.index.to_string(),
        ),
        (
            "mapreduce_task_ismap".to_owned(),
            (attempt.task.phase == Phase::Map).to_string(),
        ),
        (
            "mapreduce_job_maps".to_owned(),
            job.splits.len().to_string(),
        ),
        (
            "mapreduce_job_reduces".to_owned(),
            job.partitioner.count().to_string(),
        ),
    ];
    // A split of several files has no single answer; its first file is what Hadoop would have told first.
    if let Some(piece) = split.and_then(|split| split.0.first()) {
        let file = piece.path.display().to_string();
        let len = piece.end - piece.start;
        environment.push(("mapreduce_map_input_file".to_owned(), file));
        environment.push((
            "mapreduce_map_input_start".to_owned(),
            piece.start.to_string(),
        ));
        environment.push(("mapreduce_map_input_length".to_owned(), len.to_string()));
    }
    let clean = |name: &str| name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
    environment.extend(
        job.params
            .iter()
            .map(|(name, value)| (clean(name), value.clone())),
    );
    environment
}

/// A running command: a map or a reduce.
pub(crate) struct Child {
    command: String,
    process: std::process::Child,
    /// To the thread that writes; `None` once the input is closed.
    input: Option<SyncSender<Vec<u8>>>,
    block: Vec<u8>,
    output: Receiver<Vec<u8>>,
    errors: Arc<Mutex<Errors>>,
    threads: Vec<JoinHandle<()>>,
    /// Whether a map's records have keys.
    keyed: bool,
    /// Tells whether anybody still waits for it.
    pulse: Arc<Pulse>,
}

/// What came on the standard error.
#[derive(Default)]
struct Errors {
    counters: Counters,
    tail: Vec<u8>,
}

impl Child {
    pub(crate) fn start(
        command: &str,
        environment: Environment,
        format: Format,
        pulse: &Arc<Pulse>,
    ) -> Result<Self> {
        let mut process = Command::new("sh")
            .arg("-c")
            .arg(command)
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io(format!("start {command:?}")))?;
        let (input, blocks) = sync_channel::<Vec<u8>>(BLOCKS);
        let (lines, output) = sync_channel(BLOCKS);
        let errors = Arc::new(Mutex::new(Errors::default()));
        let mut threads = Vec::new();
        if let Some(mut stdin) = process.stdin.take() {
            // A command that stops reading has seen enough; whether that is an error, its status tells.
            threads.push(std::thread::spawn(move || {
                let _ = blocks.iter().try_for_each(|block| stdin.write_all(&block));
            }));
        }
        if let Some(stdout) = process.stdout.take() {
            threads.push(std::thread::spawn(move || forward_lines(stdout, &lines)));
        }
        if let Some(stderr) = process.stderr.take() {
            let errors = Arc::clone(&errors);
            threads.push(std::thread::spawn(move || listen(stderr, &errors)));
        }
        Ok(Self {
            command: command.to_owned(),
            process,
            input: Some(input),
            block: Vec::new(),
            output,
            errors,
            threads,
            keyed: matches!(format, Format::Kv | Format::Json),
            pulse: Arc::clone(pulse),
        })
    }

    fn line(&mut self, key: Option<&[u8]>, value: &[u8], out: &mut Emit<'_>) -> Result<()> {
        if let Some(key) = key {
            self.block.extend_from_slice(key);
            self.block.push(b'\t');
        }
        self.block.extend_from_slice(value);
        self.block.push(b'\n');
        if self.block.len() >= BLOCK_BYTES {
            self.hand_over(out)
        } else {
            Ok(())
        }
    }

    /// Gives the block to the writer, and takes what the command has written meanwhile.
    fn hand_over(&mut self, out: &mut Emit<'_>) -> Result<()> {
        let mut block = std::mem::take(&mut self.block);
        while let Ok(lines) = self.output.try_recv() {
            emit_lines(&lines, out)?;
        }
        while let Some(input) = &self.input {
            match input.try_send(block) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => self.input = None,
                Err(TrySendError::Full(back)) => {
                    block = back;
                    match self.output.recv_timeout(LOOK) {
                        Ok(lines) => emit_lines(&lines, out)?,
                        Err(RecvTimeoutError::Timeout) => self.pulse.beat()?,
                        // It has closed its output and may still read.
                        Err(RecvTimeoutError::Disconnected) => {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                    continue;
                }
            }
            break;
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Emit<'_>) -> Result<()> {
        self.hand_over(out)?;
        self.input = None;
        loop {
            match self.output.recv_timeout(LOOK) {
                Ok(lines) => emit_lines(&lines, out)?,
                Err(RecvTimeoutError::Timeout) => self.pulse.beat()?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.wait()?;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if !status.success() {
            let tail = String::from_utf8_lossy(&errors.tail);
            let command = &self.command;
            return Err(Error::new(format!(
                "{command:?}: {status}; it said:\n{}",
                tail.trim_end()
            )));
        }
        out.counters.merge(&errors.counters);
        Ok(())
    }
}

impl Child {
    /// Waits for the end of a command that has closed its output, as long as somebody wants it.
    fn wait(&mut self) -> Result<ExitStatus> {
        let mut pause = Duration::from_micros(100);
        loop {
            let status = self.process.try_wait();
            let what = || Error::io(format!("wait for {:?}", self.command));
            if let Some(status) = status.map_err(what())? {
                return Ok(status);
            }
            self.pulse.beat()?;
            std::thread::sleep(pause);
            pause = (pause * 2).min(LOOK);
        }
    }
}

impl Map for Child {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        let key = self.keyed.then_some(record.key);
        self.line(key, record.value, out)
    }

    fn finish(&mut self, out: &mut Emit<'_>) -> Result<()> {
        self.end(out)
    }
}

impl Reduce for Child {
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        while let Some(value) = values.next()? {
            self.line(Some(key), value, out)?;
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Emit<'_>) -> Result<()> {
        self.end(out)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // After `end` it is over and this says so; an abandoned attempt must not leave it behind.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A combiner: one process for each sorted part of a partition.
pub(crate) struct Combiner {
    command: String,
    environment: Environment,
    format: Format,
    pulse: Arc<Pulse>,
    child: Option<Child>,
}

impl Combiner {
    pub(crate) fn new(
        command: &str,
        environment: Environment,
        format: Format,
        pulse: &Arc<Pulse>,
    ) -> Self {
        Self {
            command: command.to_owned(),
            environment,
            format,
            pulse: Arc::clone(pulse),
            child: None,
        }
    }
}

impl Reduce for Combiner {
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        if self.child.is_none() {
            let environment = self.environment.clone();
            let child = Child::start(&self.command, environment, self.format, &self.pulse)?;
            self.child = Some(child);
        }
        self.child
            .as_mut()
            .map_or(Ok(()), |child| child.reduce(key, values, out))
    }

    fn finish(&mut self, out: &mut Emit<'_>) -> Result<()> {
        self.child.take().map_or(Ok(()), |mut child| child.end(out))
    }
}

fn emit_lines(lines: &[u8], out: &mut Emit<'_>) -> Result<()> {
    let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
    lines
        .split(|byte| *byte == b'\n')
        .try_for_each(|line| out.line(line))
}

/// Sends blocks of whole lines; the last one may lack its end.
fn forward_lines(mut from: impl Read, to: &SyncSender<Vec<u8>>) {
    let mut block = Vec::new();
    loop {
        let have = block.len();
        block.resize(have + BLOCK_BYTES, 0);
        let read = match from.read(&mut block[have..]) {
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => 0,
            Err(_) => 0,
        };
        block.truncate(have + read);
        if read == 0 {
            break;
        }
        if let Some(end) = memchr::memrchr(b'\n', &block) {
            let rest = block.split_off(end + 1);
            if to.send(std::mem::replace(&mut block, rest)).is_err() {
                return;
            }
        }
    }
    if !block.is_empty() {
        let _ = to.send(block);
    }
}

/// Reads the standard error: counters, statuses, and the last of everything else.
fn listen(from: impl Read, errors: &Mutex<Errors>) {
    for line in BufReader::new(from).split(b'\n') {
        let Ok(line) = line else {
            return;
        };
        let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, amount)) = counter(&line) {
            errors.counters.add(&name, amount);
        } else if !line.starts_with(b"reporter:status:") {
            errors.tail.extend_from_slice(&line);
            errors.tail.push(b'\n');
            let excess = errors.tail.len().saturating_sub(TAIL_BYTES);
            errors.tail.drain(..excess);
        }
    }
}

/// `reporter:counter:GROUP,COUNTER,AMOUNT`; the counter is then called GROUP.COUNTER.
fn counter(line: &[u8]) -> Option<(String, i64)> {
    let text = std::str::from_utf8(line)
        .ok()?
        .strip_prefix("reporter:counter:")?;
    let (names, amount) = text.trim_end().rsplit_once(',')?;
    let (group, name) = names.split_once(',')?;
    Some((format!("{group}.{name}"), amount.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::Sink;

    #[derive(Default)]
    struct Lines(Vec<Vec<u8>>);

    impl Sink for Lines {
        fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
            self.0.push([key, b"=", value].concat());
            Ok(())
        }
    }

    fn run(command: &str, records: usize) -> (Result<()>, Vec<Vec<u8>>, Counters) {
        run_with(command, records, &Arc::default())
    }

    fn run_with(
        command: &str,
        records: usize,
        pulse: &Arc<Pulse>,
    ) -> (Result<()>, Vec<Vec<u8>>, Counters) {
        let child = Child::start(command, Vec::new(), Format::Lines, pulse);
        let mut child = child.expect("a shell");
        let (mut lines, mut counters) = (Lines::default(), Counters::new());
        let mut out = Emit {
            sink: &mut lines,
            counters: &mut counters,
        };
        let value = vec![b'x'; 999];
        let result = (0..records)
            .try_for_each(|_| {
                child.map(
                    &Record {
                        source: "",
                        offset: 0,
                        key: b"",
                        value: &value,
                    },
                    &mut out,
                )
            })
            .and_then(|()| Map::finish(&mut child, &mut out));
        (result, lines.0, counters)
    }

    #[test]
    fn much_goes_through_in_both_directions() {
        // 8 MB each way: far more than pipes and channels hold.
        let (result, lines, _) = run("cat", 8000);
        result.expect("success");
        assert_eq!(lines.len(), 8000);
        assert!(lines.iter().all(|line| line.len() == 1000));
    }

    /// Whatever it is doing: it does not read, does not end, or only seems to have ended.
    #[test]
    fn a_command_that_nobody_waits_for_is_ended() {
        let pulse: Arc<Pulse> = Arc::default();
        pulse.abandon();
        for (command, records) in [
            ("exec sleep 1000", 8000),
            ("exec sleep 1000", 0),
            ("exec >&-; exec sleep 1000", 0),
        ] {
            let (result, ..) = run_with(command, records, &pulse);
            assert!(matches!(result, Err(Error::Abandoned)), "{command}");
        }
    }

    #[test]
    fn counters_statuses_and_failures() {
        let (result, _, counters) = run(
            "cat >/dev/null; echo reporter:counter:words,bad,3 >&2; echo reporter:status:x >&2; \
             echo reporter:counter:words,bad,4 >&2",
            2,
        );
        result.expect("success");
        assert_eq!(counters.get("words.bad"), 7);
        let (result, ..) = run("cat >/dev/null; echo it hurts >&2; exit 3", 2);
        let error = result.expect_err("a failure").to_string();
        assert!(
            error.contains("it hurts") && error.contains("exit status: 3"),
            "{error}"
        );
    }

    #[test]
    fn a_command_may_stop_reading() {
        let (result, lines, _) = run("head -n 1", 8000);
        result.expect("success");
        assert_eq!(lines.len(), 1);
    }
}
