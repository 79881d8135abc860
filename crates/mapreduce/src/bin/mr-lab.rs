//! The apps of the course's first lab, for its scenarios: they watch who works at what, sleep and crash; and
//! one that panics. The built-in apps are there too.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvorum_base::Prng;
use kvorum_mapreduce::{App, Emit, Error, Format, Map, Record, Reduce, Result, Setup, Values};

fn main() -> ExitCode {
    let whole = |app: App| app.format(Format::Whole);
    kvorum_mapreduce::command::main(vec![
        whole(App::new(
            "mtiming",
            "how many maps run at once",
            timing,
            joined,
        )),
        whole(App::new(
            "rtiming",
            "how many reduces run at once",
            ten_keys,
            at_once,
        )),
        whole(App::new(
            "jobcount",
            "how often maps are handed out",
            slow_marker,
            markers,
        )),
        whole(App::new(
            "early_exit",
            "some reduces take long",
            names,
            slow_count,
        )),
        whole(App::new(
            "crash",
            "maps and reduces crash or sleep",
            crashing_facts,
            crashing_join,
        )),
        whole(App::new(
            "nocrash",
            "the same, without crashes",
            facts,
            joined,
        )),
        App::new("fragile", "panics at an empty line", fragile, joined),
    ])
}

/// Processes that are in the same phase now, this one included, told by files with their ids; this one
/// sleeps for a second meanwhile.
fn at_work_with(phase: &str) -> Result<usize> {
    let io = |source| Error::Io {
        what: "marker".to_owned(),
        source,
    };
    let mine = PathBuf::from(format!("mr-worker-{phase}-{}", std::process::id()));
    fs::write(&mine, b"x").map_err(io)?;
    let prefix = format!("mr-worker-{phase}-");
    let mut alive = 0;
    for entry in fs::read_dir(".").map_err(io)? {
        let name = entry
            .map_err(io)?
            .file_name()
            .to_string_lossy()
            .into_owned();
        if let Some(pid) = name.strip_prefix(&prefix)
            && fs::metadata(format!("/proc/{pid}")).is_ok()
        {
            alive += 1;
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    let _ = fs::remove_file(&mine);
    Ok(alive)
}

/// Chance that differs from process to process: these apps are meant to be unpredictable.
fn dice() -> Prng {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos() as u64;
    Prng::new(now ^ u64::from(std::process::id()) << 32)
}

struct Timing;

fn timing(_: &Setup) -> Result<Timing> {
    Ok(Timing)
}

impl Map for Timing {
    fn map(&mut self, _: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let alive = at_work_with("map")?;
        let pid = std::process::id();
        let started = format!("{:.1}", started.as_secs_f64());
        out.pair(format!("times-{pid}").as_bytes(), started.as_bytes())?;
        out.pair(
            format!("parallel-{pid}").as_bytes(),
            alive.to_string().as_bytes(),
        )
    }
}

struct Joined {
    crashes: bool,
}

fn joined(_: &Setup) -> Result<Joined> {
    Ok(Joined { crashes: false })
}

fn crashing_join(_: &Setup) -> Result<Joined> {
    Ok(Joined { crashes: true })
}

impl Reduce for Joined {
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        if self.crashes {
            crash_or_sleep();
        }
        let mut all = Vec::new();
        while let Some(value) = values.next()? {
            all.push(value.to_vec());
        }
        all.sort();
        out.pair(key, &all.join(&b' '))
    }
}

struct TenKeys;

fn ten_keys(_: &Setup) -> Result<TenKeys> {
    Ok(TenKeys)
}

impl Map for TenKeys {
    fn map(&mut self, _: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        (b'a'..=b'j').try_for_each(|letter| out.pair(&[letter], b"1"))
    }
}

struct AtOnce;

fn at_once(_: &Setup) -> Result<AtOnce> {
    Ok(AtOnce)
}

impl Reduce for AtOnce {
    fn reduce(&mut self, key: &[u8], _: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        let alive = at_work_with("reduce")?;
        out.pair(key, alive.to_string().as_bytes())
    }
}

struct SlowMarker;

fn slow_marker(_: &Setup) -> Result<SlowMarker> {
    Ok(SlowMarker)
}

impl Map for SlowMarker {
    fn map(&mut self, _: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        let mut dice = dice();
        let name = format!(
            "mr-worker-jobcount-{}-{}",
            std::process::id(),
            dice.next_u64()
        );
        fs::write(name, b"x").map_err(|source| Error::Io {
            what: "marker".to_owned(),
            source,
        })?;
        std::thread::sleep(Duration::from_millis(dice.range(2000, 4999)));
        out.pair(b"a", b"x")
    }
}

struct Markers;

fn markers(_: &Setup) -> Result<Markers> {
    Ok(Markers)
}

impl Reduce for Markers {
    fn reduce(&mut self, key: &[u8], _: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        let entries = fs::read_dir(".");
        let entries = entries.map_err(|source| Error::Io {
            what: "list".to_owned(),
            source,
        })?;
        let markers = entries
            .flatten()
            .filter(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with("mr-worker-jobcount")
            })
            .count();
        out.pair(key, markers.to_string().as_bytes())
    }
}

struct Names;

fn names(_: &Setup) -> Result<Names> {
    Ok(Names)
}

impl Map for Names {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        out.pair(record.source.as_bytes(), b"1")
    }
}

struct SlowCount;

fn slow_count(_: &Setup) -> Result<SlowCount> {
    Ok(SlowCount)
}

impl Reduce for SlowCount {
    fn reduce(&mut self, key: &[u8], values: &mut Values<'_>, out: &mut Emit<'_>) -> Result<()> {
        let name = String::from_utf8_lossy(key);
        if name.contains("sherlock") || name.contains("tom") {
            std::thread::sleep(Duration::from_secs(3));
        }
        let count = values.sum()?;
        out.pair(key, count.to_string().as_bytes())
    }
}

struct Facts {
    crashes: bool,
}

fn facts(_: &Setup) -> Result<Facts> {
    Ok(Facts { crashes: false })
}

fn crashing_facts(_: &Setup) -> Result<Facts> {
    Ok(Facts { crashes: true })
}

impl Map for Facts {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        if self.crashes {
            crash_or_sleep();
        }
        out.pair(b"a", record.source.as_bytes())?;
        out.pair(b"b", record.source.len().to_string().as_bytes())?;
        out.pair(b"c", record.value.len().to_string().as_bytes())?;
        out.pair(b"d", b"xyzzy")
    }
}

struct Fragile;

fn fragile(_: &Setup) -> Result<Fragile> {
    Ok(Fragile)
}

impl Map for Fragile {
    fn map(&mut self, record: &Record<'_>, out: &mut Emit<'_>) -> Result<()> {
        assert!(
            !record.value.is_empty(),
            "an empty line at byte {}",
            record.offset
        );
        out.pair(record.value, b"")
    }
}

/// A third of the calls ends the process, a third takes up to ten seconds.
fn crash_or_sleep() {
    let mut dice = dice();
    match dice.below(1000) {
        0..330 => std::process::exit(1),
        330..660 => std::thread::sleep(Duration::from_millis(dice.below(10_000))),
        _ => {}
    }
}
