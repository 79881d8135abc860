//! From the pairs of a map to the sorted values of a reduce.
//!
//! A map task gathers pairs in memory ([`buffer`]), sorts them by partition and key when the memory is full,
//! combines them and writes them as segments of a run file ([`run`]): one sorted segment for each partition
//! and spill. A reduce task merges its partition's segments of all maps ([`merge`]).
//!
//! The order of a key's values is that of the maps and, within a map, that of emission: equal keys are told
//! apart by the rank of their segment, so that every execution yields the same bytes.

pub(crate) mod buffer;
pub(crate) mod merge;
pub(crate) mod partition;
pub(crate) mod run;
pub(crate) mod sums;
