//! Log lines, written by a thread of their own.
//!
//! Standard error may be a full pipe or a slow disk. A lane that waits for it misses its
//! heartbeats, so lines go into a bounded queue; when that is full they are counted and dropped.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, LogLevel};

/// Lines that may wait.
const QUEUE_LINES: usize = 4096;

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// What one message to the writing thread is.
enum Line {
    Text(Vec<u8>),
    /// Everything before this is written: answer.
    Flush(SyncSender<()>),
}

/// Keeps the means to flush at the end of the process.
#[derive(Clone, Debug)]
pub struct Logs {
    queue: SyncSender<Line>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl Logs {
    /// Starts the thread and makes it the process's destination for `tracing`. To be called once;
    /// a second call leaves the first in place.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(level: LogLevel, format: LogFormat) -> std::io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        std::thread::Builder::new()
            .name("kvorum-logs".to_owned())
            .spawn(move || write_lines(&lines))?;
        let level = match level {
            LogLevel::Error => tracing::Level::ERROR,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Debug => tracing::Level::DEBUG,
        };
        let builder = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_target(false)
            .with_ansi(false)
            .with_writer(Writer {
                queue: queue.clone(),
            });
        let subscriber: Box<dyn tracing::Subscriber + Send + Sync> = match format {
            LogFormat::Text => Box::new(builder.finish()),
            LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
        };
        let _ = tracing::subscriber::set_global_default(subscriber);
        Ok(Self { queue })
    }

    /// Waits until every line so far is written, at most a second.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Line::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }
}

fn write_lines(lines: &Receiver<Line>) {
    let mut out = std::io::stderr();
    while let Ok(line) = lines.recv() {
        match line {
            Line::Text(text) => {
                let _ = out.write_all(&text);
            }
            Line::Flush(done) => {
                let _ = done.try_send(());
            }
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = writeln!(
                out,
                "{dropped} log lines were dropped: they came faster than they could be written"
            );
        }
    }
}

/// Makes one [`LineWriter`] for each line.
#[derive(Debug)]
struct Writer {
    queue: SyncSender<Line>,
}

/// Collects one line and queues it when dropped.
#[derive(Debug)]
struct LineWriter<'a> {
    queue: &'a SyncSender<Line>,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = LineWriter<'a>;
    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter {
            queue: &self.queue,
            text: Vec::new(),
        }
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.text);
        if !text.is_empty() && self.queue.try_send(Line::Text(text)).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}
