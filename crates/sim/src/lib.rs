//! The judge: simulated network and disk, schedules, workloads, checkers, lab scenarios.
