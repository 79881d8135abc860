//! The properties that must hold, one file each, and the models that they are measured against.

pub mod linearizable;
pub mod strings;
