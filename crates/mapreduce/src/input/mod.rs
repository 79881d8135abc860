//! The input of a job: which files ([`list`]), cut how ([`split`]), read how ([`read`]), as what
//! ([`format`]).

pub(crate) mod format;
pub(crate) mod list;
pub(crate) mod read;
pub(crate) mod split;
