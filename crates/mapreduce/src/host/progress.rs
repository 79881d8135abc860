//! What the user sees while a job runs: bars in a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::coordinator::Status;

const LINE_PAUSE: Duration = Duration::from_secs(2);

/// Where progress goes.
pub(crate) enum Progress {
    Bars {
        maps: ProgressBar,
        reduces: ProgressBar,
        all: MultiProgress,
    },
    Lines {
        shown: Option<(Instant, u32, u32)>,
    },
    Silent,
}

impl Progress {
    pub(crate) fn new(silent: bool) -> Self {
        if silent {
            return Self::Silent;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { shown: None };
        }
        let all = MultiProgress::new();
        let bar = |name: &'static str| {
            let template = "{prefix:8} [{bar:40}] {pos}/{len} {msg}";
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            let bar = all.add(ProgressBar::new(0));
            bar.set_style(style);
            bar.set_prefix(name);
            bar
        };
        let (maps, reduces) = (bar("maps"), bar("reduces"));
        Self::Bars { maps, reduces, all }
    }

    pub(crate) fn show(&mut self, status: &Status) {
        match self {
            Self::Silent => {}
            Self::Bars { maps, reduces, .. } => {
                maps.set_length(u64::from(status.maps));
                maps.set_position(u64::from(status.maps_done));
                reduces.set_length(u64::from(status.reduces));
                reduces.set_position(u64::from(status.reduces_done));
                let failures = match status.failures {
                    0 => String::new(),
                    count => format!(", {count} failed"),
                };
                let running = status.running;
                reduces.set_message(format!("{running} running{failures}"));
            }
            Self::Lines { shown } => {
                let now = (status.maps_done, status.reduces_done);
                let due = shown.as_ref().is_none_or(|(at, maps, reduces)| {
                    at.elapsed() >= LINE_PAUSE && now != (*maps, *reduces)
                });
                if due {
                    *shown = Some((Instant::now(), now.0, now.1));
                    // A closed standard error is no reason to stop.
                    let _ = writeln!(
                        std::io::stderr(),
                        "maps {}/{}, reduces {}/{}, {} running, {} failed",
                        status.maps_done,
                        status.maps,
                        status.reduces_done,
                        status.reduces,
                        status.running,
                        status.failures
                    );
                }
            }
        }
    }

    pub(crate) fn end(&mut self) {
        if let Self::Bars { maps, reduces, all } = self {
            maps.finish();
            reduces.finish();
            let _ = all.clear();
        }
    }
}
