//! What the process uses, as Linux tells it in `/proc`: for people, nothing is decided by it.
//!
//! Where a file does not read as expected the figure is 0.

use std::fs;

/// Memory and processor time of this process.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Usage {
    /// Resident memory.
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_user_us: u64,
    pub(crate) cpu_system_us: u64,
}

/// What is used now.
pub(crate) fn now() -> Usage {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let (cpu_user_us, cpu_system_us) = processor_times(&stat).unwrap_or_default();
    Usage {
        memory_bytes: resident_bytes(&status).unwrap_or_default(),
        cpu_user_us,
        cpu_system_us,
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Fields 14 and 15. The second one, the program's name in parentheses, may hold spaces.
fn processor_times(stat: &str) -> Option<(u64, u64)> {
    /// Linux tells user space hundredths of a second, whatever it counts in itself.
    const MICROSECONDS_PER_TICK: u64 = 10_000;
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let mut time = || Some(fields.next()?.parse::<u64>().ok()? * MICROSECONDS_PER_TICK);
    Some((time()?, time()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found() {
        let status = "Name:\tkvorum\nVmRSS:\t    1234 kB\nThreads:\t3\n";
        assert_eq!(resident_bytes(status), Some(1234 * 1024));
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 250 31 0 0 20 0 1 0 5 6 7";
        assert_eq!(processor_times(stat), Some((2_500_000, 310_000)));
        assert_eq!(processor_times("7 (x) S 1"), None);
        assert!(now().memory_bytes > 0, "this very process uses memory");
    }
}
